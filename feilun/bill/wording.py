"""What an invoice says, in English ("en") and Chinese ("zh"): made from a line's kind, numbers and ``words``.

``Line.words`` is part of the stored invoice, so either language can be made from it at any later time. Each word is
a str or an int; times are microseconds since 1970 in UTC, amounts nano-units of the invoice's currency, percents
decimal strings ("20", "7.5"). Words in [brackets] may be left out where they do not apply; a line of an older invoice,
without any words, is still told from its kind and numbers.

    kind      words
    fee       plan, [begins, ends: the part of the month; part, whole: microseconds paid for, and of the whole month]
    unused    plan (the old one), [begins, ends, part, whole: as for fee]; its amount is negative
    included  as for usage, event or gauge: whatever the units are of
    usage     [rate, per, tier, above, up_to, late: see below]; units are of ``meter``, answered by ``release``
    event     [unit: what one is called in the project file, "page"; aggregate: "sum" or "count"; rate, ...]
    gauge     [unit; aggregate: "max" or "latest"; rate, ...]; stored_examples needs none: they are the month's last
    trial     plan, [begins, ends: of the trial; for a fee part, whole: as for fee; for usage base_nano: what would have
              been charged]; its amount is negative
    discount  coupon, [percent or off_nano; base_nano: what it is taken off; month, months: which of how many, from 1]
    minimum   plan, minimum_nano, reached_nano: what the lines before came to; [part, whole: as for fee]
    tax       name ("VAT"), country ("DE"), percent, base_nano; [reverse: 1 where the customer accounts for it; its
              tax_id], with an amount of 0
    credit    [reason, grant: its id, expires_at, had_nano: what was left of it before]; its amount is negative, and
              above 0 on a credit note, that gives it back: grant and expires_at are those of the new grant

    rate      "unit" (or left out), "package" (each begun ``per`` units cost ``unit_nano``), "volume" (all units at the
              price of the tier that the month ends in) or "flat" (``unit_nano`` once, when the tier is entered)
    per       units that ``unit_nano`` buys; 1 where left out
    tier      its number from 1; above: units below it; up_to: its last unit, left out where it has no end
    earlier_units, earlier_nano   for volume prices: what of the month was charged by lines before this one
    late      1 where the units are of an earlier month that its invoice did not cover
    trial     1 where the units were used while the plan was on trial
    corrects  on any line of a credit note: the id of the line that it takes back
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from math import gcd
from typing import TYPE_CHECKING, Literal

from feilun.store.money import format_money, round_to_minor

if TYPE_CHECKING:
    from feilun.bill.rating import Line

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_METERS = {  # one, several, and in Chinese its name and its name after a number
    "requests": ("request", "requests", "请求", "次请求"),
    "inputs": ("input", "inputs", "输入", "条输入"),
    "tokens": ("token", "tokens", "词元", "个词元"),
    "tokens_out": ("generated token", "generated tokens", "生成词元", "个生成词元"),
    "compute_ms": ("core-millisecond", "core-milliseconds", "计算时间（核毫秒）", "核毫秒"),
    "batch_requests": ("request in a batch", "requests in batches", "批量请求", "次批量请求"),
    "batch_inputs": ("input in a batch", "inputs in batches", "批量输入", "条批量输入"),
    "batch_tokens": ("token in a batch", "tokens in batches", "批量词元", "个批量词元"),
    "batch_tokens_out": ("generated token in a batch", "generated tokens in batches", "批量生成词元", "个批量生成词元"),
    "cached_requests": (
        "request answered from the cache",
        "requests answered from the cache",
        "缓存请求",
        "次缓存请求",
    ),
    "cached_inputs": ("input answered from the cache", "inputs answered from the cache", "缓存输入", "条缓存输入"),
    "cached_tokens": ("token answered from the cache", "tokens answered from the cache", "缓存词元", "个缓存词元"),
    "cached_tokens_out": (
        "generated token from the cache",
        "generated tokens from the cache",
        "缓存生成词元",
        "个缓存生成词元",
    ),
    "stored_examples": ("stored example", "stored examples", "已存样本", "条已存样本"),
}
_SPANS = ((86_400 * 10**6, "day", "天"), (3_600 * 10**6, "hour", "小时"), (60 * 10**6, "minute", "分钟"))


def worded(line: Line, currency: str) -> Line:
    """The line with its description and arithmetic in English, as they are stored."""
    return replace(line, description=describe(line, "en"), arithmetic=arithmetic(line, currency, "en"))


def describe(line: Line, language: Language) -> str:
    """What the line is for, in one sentence without a full stop. Plain text: whoever shows it escapes it."""
    told = _DESCRIBED.get(line.kind, _other)(line, language)
    corrects = line.words.get("corrects")
    if corrects is None:
        return told
    if line.kind == "credit":
        return _credit(line, language)
    return f"Reversal of {corrects}: {told}" if language == "en" else f"冲销 {corrects}：{told}"


def arithmetic(line: Line, currency: str, language: Language) -> str:
    """How the line's amount comes about, from the numbers that it is made of."""
    corrects = line.words.get("corrects")
    if corrects is not None:
        back = format_money(abs(line.amount_nano) if line.kind == "credit" else -line.amount_nano, currency)
        if line.kind == "credit":
            return (
                f"{back} of {corrects} given back as credit" if language == "en" else f"{corrects} 的 {back} 退为余额"
            )
        return f"{back} of {corrects} taken back" if language == "en" else f"退回 {corrects} 的 {back}"
    return _ARITHMETIC.get(line.kind, _amount)(line, currency, language)


def period_name(period: str, language: Language) -> str:
    """A month for people.

    >>> period_name("2026-11", "en"), period_name("2026-11", "zh")
    ('November 2026', '2026年11月')
    """
    year, month = int(period[:4]), int(period[5:7])
    return f"{MONTHS[month - 1]} {year}" if language == "en" else f"{year}年{month}月"


def date(at: int, language: Language) -> str:
    """The day in UTC of a time in microseconds since 1970.

    >>> date(1_793_491_200_000_000, "en"), date(1_793_491_200_000_000, "zh")
    ('1 November 2026', '2026年11月1日')
    """
    day = datetime.fromtimestamp(at // 10**6, UTC)
    if language == "en":
        return f"{day.day} {MONTHS[day.month - 1]} {day.year}"
    return f"{day.year}年{day.month}月{day.day}日"


def moment(at: int, language: Language) -> str:
    """The minute in UTC of a time in microseconds since 1970; the day alone where it is midnight.

    >>> moment(1_793_491_200_000_000 + 90 * 60 * 10**6, "en")
    '1 November 2026, 01:30 UTC'
    """
    clock = datetime.fromtimestamp(at // 10**6, UTC).strftime("%H:%M")
    if clock == "00:00":
        return date(at, language)
    return f"{date(at, language)}, {clock} UTC" if language == "en" else f"{date(at, language)} {clock} UTC"


def meter_name(line: Line, language: Language) -> str:
    """What the line's units are: ours by their names, others as the project file calls them."""
    if line.meter in _METERS:
        return _METERS[line.meter][1 if language == "en" else 2]
    unit = line.words.get("unit")
    if unit is None:
        return (line.meter or "").replace("_", " ")
    return _plural(str(unit)) if language == "en" else str(unit)


def counted(line: Line, units: int, language: Language) -> str:
    """A number of the line's units: ``1 request``, ``1,200 pages``, ``1,200 次请求``."""
    if line.meter is None:
        return f"{units:,}"
    if language == "zh":
        return f"{units:,} {_METERS[line.meter][3] if line.meter in _METERS else meter_name(line, 'zh')}"
    if units == 1:
        unit = line.words.get("unit", line.meter.replace("_", " "))
        return f"1 {_METERS[line.meter][0] if line.meter in _METERS else unit}"
    return f"{units:,} {meter_name(line, 'en')}"


def _plural(unit: str) -> str:
    """English, for the words that need nothing but an ending; symbols and abbreviations stay.

    >>> [_plural(unit) for unit in ("page", "query", "GB", "seats")]
    ['pages', 'queries', 'GB', 'seats']
    """
    if not (unit.isascii() and unit.isalpha() and unit.islower()) or unit.endswith("s"):
        return unit
    if unit.endswith("y") and unit[-2:-1] not in tuple("aeiou"):
        return f"{unit[:-1]}ies"
    return f"{unit}s"


# --- what a line is for --------------------------------------------------------------------------------------------


def _fee(line: Line, language: Language) -> str:
    if not line.words and line.description and language == "en":
        return line.description
    plan, month, span = line.words.get("plan"), period_name(line.period, language), _span(line.words, language)
    if language == "en":
        return f"{f'Plan {plan}, monthly' if plan else 'Monthly'} fee for {month}{span}"
    return f"{f'套餐 {plan}，' if plan else ''}{month}月费{span}"


def _unused(line: Line, language: Language) -> str:
    plan, month, span = line.words.get("plan"), period_name(line.period, language), _span(line.words, language)
    if language == "en":
        return f"{f'Plan {plan}, unused' if plan else 'Unused'} part of the monthly fee for {month}{span}"
    return f"{f'套餐 {plan}，' if plan else ''}{month}月费未使用部分{span}"


def _span(words: Mapping[str, str | int], language: Language) -> str:
    begins, ends = words.get("begins"), words.get("ends")
    if begins is None or ends is None:
        return ""
    told = [moment(int(at), language) for at in (begins, ends)]
    return f", from {told[0]} until {told[1]}" if language == "en" else f"，自{told[0]}起至{told[1]}止"


def _usage(line: Line, language: Language) -> str:
    name, month = meter_name(line, language), period_name(line.period, language)
    included = line.kind == "included"
    release = line.release[:12] if line.release else None
    when = _when(line, month, language)
    if language == "en":
        parts = [name[:1].upper() + name[1:] + (" included in the plan" if included else "")]
        parts += [f"answered by release {release} {when}" if release else when]
        parts += [*_rate_words(line, language), *(["during the trial"] if line.words.get("trial") else [])]
        return ", ".join(parts) + (" (not invoiced before)" if line.words.get("late") else "")
    parts = [name + ("（套餐内）" if included else "")]
    parts += [f"{when}由版本 {release} 应答" if release else when]
    parts += [*_rate_words(line, language), *(["试用期内"] if line.words.get("trial") else [])]
    return "，".join(parts) + ("（此前未计费）" if line.words.get("late") else "")


def _when(line: Line, month: str, language: Language) -> str:
    how = "end" if line.meter == "stored_examples" else line.words.get("aggregate", "")
    english = {"max": f"the most in {month}", "latest": f"as last reported in {month}", "end": f"at the end of {month}"}
    chinese = {"max": f"{month}最高值", "latest": f"{month}最近一次上报值", "end": f"{month}月末"}
    return english.get(str(how), f"in {month}") if language == "en" else chinese.get(str(how), month)


def _rate_words(line: Line, language: Language) -> list[str]:
    words, told = line.words, []
    if "tier" in words:
        above, last = int(words.get("above", 0)) + 1, words.get("up_to")
        if language == "en":
            told.append(
                f"tier {words['tier']} ({f'{above:,} to {int(last):,}' if last is not None else f'from {above:,}'})"
            )
        else:
            to = f"{above:,} 至 {int(last):,}" if last is not None else f"{above:,} 起"
            told.append(f"第 {words['tier']} 档（{to}）")
    rate, per = words.get("rate"), int(words.get("per", 1))
    english = {"package": f"in packages of {per:,}", "volume": "all units at its price", "flat": "flat fee of the tier"}
    chinese = {"package": f"按每 {per:,} 一包计", "volume": "全部用量按本档单价计", "flat": "本档固定费"}
    extra = (english if language == "en" else chinese).get(str(rate))
    return [*told, extra] if extra else told


def _trial(line: Line, language: Language) -> str:
    plan, month, span = line.words.get("plan"), period_name(line.period, language), _span(line.words, language)
    of_fee = "part" in line.words
    if language == "en":
        what = f"monthly fee for {month}" if of_fee else f"usage in {month}"
        return f"{f'Plan {plan}, free' if plan else 'Free'} trial: {what}{span}"
    return f"{f'套餐 {plan}，' if plan else ''}免费试用：{month}{'月费' if of_fee else '用量'}{span}"


def _discount(line: Line, language: Language) -> str:
    coupon, month, months = (line.words.get(word) for word in ("coupon", "month", "months"))
    if language == "en":
        which = f", month {month}{f' of {months}' if months is not None else ''}" if month is not None else ""
        return f"Discount for {period_name(line.period, 'en')}{f', coupon {coupon}' if coupon else ''}{which}"
    which = f"，第 {month} 个月{f'（共 {months} 个月）' if months is not None else ''}" if month is not None else ""
    return f"{period_name(line.period, 'zh')}折扣{f'，优惠码 {coupon}' if coupon else ''}{which}"


def _minimum(line: Line, language: Language) -> str:
    plan, month = line.words.get("plan"), period_name(line.period, language)
    if language == "en":
        return f"{f'Plan {plan}, topped' if plan else 'Topped'} up to the minimum for {month}"
    return f"{f'套餐 {plan}，' if plan else ''}补足{month}最低消费"


def _tax(line: Line, language: Language) -> str:
    words = line.words
    name, country, percent = words.get("name", "Tax"), words.get("country"), words.get("percent")
    if language == "en":
        if words.get("reverse"):
            customer = f"; customer's tax id {words['tax_id']}" if words.get("tax_id") else ""
            return f"{name}: reverse charge, to be accounted for by the customer{customer}"
        return f"{name}{f' {percent}%' if percent is not None else ''}{f' ({country})' if country else ''}"
    name = "税" if name == "Tax" else name
    if words.get("reverse"):
        customer = f"；客户税号 {words['tax_id']}" if words.get("tax_id") else ""
        return f"{name}：反向征收，由客户自行申报缴纳{customer}"
    return f"{name}{f' {percent}%' if percent is not None else ''}{f'（{country}）' if country else ''}"


def _credit(line: Line, language: Language) -> str:
    reason, grant, expires = (line.words.get(word) for word in ("reason", "grant", "expires_at"))
    parts = [str(part) for part in (reason, grant) if part]
    if language == "en":
        parts += [f"expires {moment(int(expires), 'en')}"] if expires is not None else []
        return ", ".join(["Prepaid credit given back" if "corrects" in line.words else "Prepaid credit used", *parts])
    parts += [f"{moment(int(expires), 'zh')}到期"] if expires is not None else []
    return "，".join(["退还预付余额" if "corrects" in line.words else "使用预付余额", *parts])


def _other(line: Line, language: Language) -> str:
    return line.description or line.kind


# --- how its amount comes about ------------------------------------------------------------------------------------


def _equals(line: Line, currency: str, language: Language) -> str:
    """The end of every sum: the exact amount, and what it is rounded to where that is something else."""
    told = f" = {format_money(line.exact_nano, currency)}"
    if line.amount_nano == line.exact_nano:
        return told
    rounded = format_money(line.amount_nano, currency)
    return told + (f", rounded {rounded}" if language == "en" else f"，舍入为 {rounded}")


def _fee_sum(line: Line, currency: str, language: Language) -> str:
    """Parts of a fee are cut at whole coins so that they sum to it: then one is only nearly its share."""
    price, amount = format_money(line.unit_nano, currency), _equals(line, currency, language)
    share = _share(line.words, language)
    if share:
        part, whole = int(line.words.get("part", 0)), int(line.words["whole"])
        exact = abs(line.exact_nano) * whole == abs(line.unit_nano) * part
        sign = "-" if line.exact_nano < 0 <= line.unit_nano else ""
        return f"{sign}{price} × {share}{amount if exact else amount.replace(' = ', ' ≈ ', 1)}"
    plain = line.exact_nano == line.amount_nano == line.units * line.unit_nano
    return f"{line.units:,} × {price}{'' if plain else amount}"


def _share(words: Mapping[str, str | int], language: Language) -> str:
    """The part of the month that is paid for, exact, in the largest unit of time that divides it: ``20/30 days``."""
    part, whole = int(words.get("part", 0)), int(words.get("whole", 0))
    if not whole or part == whole:
        return ""
    for size, english, chinese in _SPANS:
        if part % size == whole % size == 0:
            return f"{part // size:,}/{whole // size:,} {f'{english}s' if language == 'en' else chinese}"
    shared = gcd(part, whole)
    return f"{part // shared}/{whole // shared} {'of the month' if language == 'en' else '月'}"


def _usage_sum(line: Line, currency: str, language: Language) -> str:
    price, per, rate = format_money(line.unit_nano, currency), int(line.words.get("per", 1)), line.words.get("rate")
    amount = _equals(line, currency, language)
    units = counted(line, line.units, language)
    if rate in ("flat", "package") and line.unit_nano and line.exact_nano % line.unit_nano == 0:
        begun = line.exact_nano // line.unit_nano
        if rate == "flat":
            return f"{begun:,} × {price}{amount}"
        if language == "en":
            packages = f"{begun:,} {'package' if abs(begun) == 1 else 'packages'} of {per:,} begun"
        else:
            packages = f"新开 {begun:,} 包（每包 {per:,}）"
        return (
            f"{units}: {packages} × {price}{amount}" if language == "en" else f"{units}：{packages} × {price}{amount}"
        )
    each = price if per == 1 else f"{price} {f'per {per:,}' if language == 'en' else f'每 {per:,}'}"
    if "earlier_units" in line.words:
        return _difference(line, each, currency, language)
    exact = line.units * line.unit_nano == line.exact_nano * per
    return f"{units} × {each}{amount if exact else amount.replace(' = ', ' ≈ ', 1)}"


def _difference(line: Line, each: str, currency: str, language: Language) -> str:
    """A volume price can change what the month's earlier units cost: the new total less what was charged already."""
    month = counted(line, int(line.words["earlier_units"]) + line.units, language)
    earlier = format_money(int(line.words.get("earlier_nano", 0)), currency)
    before = f" - {earlier} charged before" if language == "en" else f" - 此前已计 {earlier}"
    return f"{month} × {each}{before}{_equals(line, currency, language)}"


def _part_of_base(line: Line, currency: str, language: Language) -> str:
    words = line.words
    base = format_money(int(words.get("base_nano", 0)), currency)
    if line.kind == "tax" and words.get("reverse"):
        return f"{base} × 0%{_equals(line, currency, language)}"
    if "percent" in words and "base_nano" in words:
        sign = "-" if line.kind == "discount" else ""
        return f"{base} × {sign}{words['percent']}%{_equals(line, currency, language)}"
    if "off_nano" in words:
        off, most = format_money(int(words["off_nano"]), currency), words.get("base_nano")
        if most is None or int(words["off_nano"]) <= int(most):
            return f"{off} off" if language == "en" else f"减免 {off}"
        return f"{off} off, but no more than {base}" if language == "en" else f"减免 {off}，但不超过 {base}"
    return _amount(line, currency, language)


def _trial_sum(line: Line, currency: str, language: Language) -> str:
    if "part" in line.words:
        return _fee_sum(line, currency, language)
    if "base_nano" not in line.words:
        return _amount(line, currency, language)
    base = format_money(int(line.words["base_nano"]), currency)
    return f"{base} × -100%{_equals(line, currency, language)}"


def _minimum_sum(line: Line, currency: str, language: Language) -> str:
    if "minimum_nano" not in line.words:
        return _amount(line, currency, language)
    least, reached = (format_money(int(line.words.get(w, 0)), currency) for w in ("minimum_nano", "reached_nano"))
    share = _share(line.words, language)
    return f"{least}{f' × {share}' if share else ''} - {reached}{_equals(line, currency, language)}"


def _credit_sum(line: Line, currency: str, language: Language) -> str:
    if "had_nano" not in line.words:
        return _amount(line, currency, language)
    had = int(line.words["had_nano"])
    told = [format_money(nano, currency) for nano in (had, -line.amount_nano, had + line.amount_nano)]
    if language == "en":
        return f"{told[1]} of {told[0]} used, {told[2]} left"
    return f"余额 {told[0]} 中使用 {told[1]}，剩余 {told[2]}"


def _amount(line: Line, currency: str, language: Language) -> str:
    exact, amount = format_money(line.exact_nano, currency), format_money(line.amount_nano, currency)
    if line.exact_nano == line.amount_nano or round_to_minor(line.exact_nano, currency) != line.amount_nano:
        return amount
    return f"{exact}, rounded {amount}" if language == "en" else f"{exact}，舍入为 {amount}"


_DESCRIBED = {
    "fee": _fee,
    "unused": _unused,
    "included": _usage,
    "usage": _usage,
    "event": _usage,
    "gauge": _usage,
    "trial": _trial,
    "discount": _discount,
    "minimum": _minimum,
    "tax": _tax,
    "credit": _credit,
}
_ARITHMETIC = {
    "fee": _fee_sum,
    "unused": _fee_sum,
    "included": _usage_sum,
    "usage": _usage_sum,
    "event": _usage_sum,
    "gauge": _usage_sum,
    "trial": _trial_sum,
    "discount": _part_of_base,
    "minimum": _minimum_sum,
    "tax": _part_of_base,
    "credit": _credit_sum,
}
