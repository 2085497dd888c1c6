"""What stands around the lines of an invoice or a credit note: titles, headings and notes, in English and Chinese."""

from __future__ import annotations

from feilun.bill.wording import Language

_WORDS = {
    "invoice": ("Invoice", "账单"),
    "credit_note": ("Credit note", "贷记单"),
    "draft": ("Draft", "草稿"),
    "grace": ("Provisional", "暂定"),
    "is_draft": (
        "This is a draft: it was not issued, and its amounts can still change.",
        "本单为草稿，尚未出具，金额仍可能变动。",
    ),
    "is_grace": (
        "The month is over, but late usage is still added: this was not issued, and its amounts can still change.",
        "账期已结束，但仍会计入迟到的用量：本单尚未出具，金额仍可能变动。",
    ),
    "number": ("Number", "编号"),
    "issued": ("Date of issue", "出账日期"),
    "as_of": ("As of", "截至"),
    "due_at": ("Payment due", "付款期限"),
    "period": ("Billing period", "账期"),
    "until": ("up to", "截至"),
    "corrects": ("Corrects invoice", "所冲销账单"),
    "reason": ("Reason", "原因"),
    "customer": ("Customer", "客户编号"),
    "seller": ("From", "销售方"),
    "buyer": ("Bill to", "购买方"),
    "tax_id": ("Tax id", "税号"),
    "line": ("Line", "行号"),
    "what": ("Description", "项目"),
    "units": ("Units", "数量"),
    "unit_price": ("Unit price", "单价"),
    "amount": ("Amount", "金额"),
    "plan": ("Plan", "套餐"),
    "usage": ("Usage", "用量"),
    "late": ("Usage of earlier months", "以前月份的用量"),
    "reductions": ("Trials, discounts and minimum", "试用、折扣与最低消费"),
    "other": ("Other", "其他"),
    "nothing": ("There is nothing to charge.", "无应收款项。"),
    "subtotal": ("Subtotal", "小计"),
    "total": ("Total", "合计"),
    "due": ("Amount due", "应付金额"),
    "credited": ("Credited", "贷记金额"),
    "to_return": ("To be paid back or set off", "应退还或抵扣金额"),
    "price_version": ("price version", "价格版本"),
    "release": ("release", "模型版本"),
    "query": ("Count it again (SQL)", "重新计数（SQL）"),
    "queries": ("How each line is counted", "各行如何计数"),
    "queries_of": (
        "Each query counts the units of its line again, from the tables of the ledger.",
        "每条查询均可由账本各表重新计算该行数量。",
    ),
    "rounding": (
        "Each line is rounded once, half to even, to the smallest coin.",
        "每行金额仅舍入一次，按“四舍六入五成双”取至最小货币单位。",
    ),
    "reverse": (
        "Reverse charge: the tax is to be accounted for by the customer.",
        "反向征收：税款由客户自行申报缴纳。",
    ),
    "missing": (
        "□ stands for a character that this form has no font for; the HTML and JSON forms have it.",
        "□ 表示本格式所用字体中没有的字符；HTML 与 JSON 格式中可见。",
    ),
}
_SENTENCES = {
    "pay": ("Please pay {due} by {date}, quoting {number}.", "请于{date}前支付 {due}，并注明 {number}。"),
    "rows": (
        "It covers rows {first:,} to {last:,} of the customer's usage.",
        "涵盖客户用量记录第 {first:,} 至 {last:,} 行。",
    ),
    "events": (
        "It covers events {first:,} to {last:,} that other services reported.",
        "涵盖其他服务上报的事件第 {first:,} 至 {last:,} 条。",
    ),
    "trace": (
        "To follow a line to the examples behind it: feilun trace {line}",
        "要追溯某行背后的训练样本：feilun trace {line}",
    ),
    "sealed": ("SHA-256 of the JSON form: {digest}", "JSON 格式的 SHA-256：{digest}"),
    "page": ("Page {page} of {pages}", "第 {page} 页，共 {pages} 页"),
    "per": ("{price} per {per:,}", "{price} 每 {per:,}"),
    "to_come": ("Still to come when the month ends: {what}", "账期结束时另计：{what}"),
    "minimum": ("minimum {amount}", "最低消费 {amount}"),
    "reversed": ("Reverses {number}", "冲销 {number}"),
}


def word(name: str, language: Language) -> str:
    """A title, a heading or a note.

    >>> word("due", "en"), word("due", "zh")
    ('Amount due', '应付金额')
    """
    return _WORDS[name][language == "zh"]


def sentence(name: str, language: Language, **values: str | int) -> str:
    """A sentence with values in it. The values are inserted as they are: whoever shows it escapes the whole.

    >>> sentence("page", "zh", page=1, pages=2)
    '第 1 页，共 2 页'
    """
    return _SENTENCES[name][language == "zh"].format(**values)
