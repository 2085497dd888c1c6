"""The report as one page that needs nothing else; whatever came from outside is text, never markup (RELIABILITY 51)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from feilun.evaluate import plots

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #1b1f24 }
h2 { margin: 1.8em 0 .3em; border-bottom: 1px solid #d8dee4 } p { margin: .4em 0 }
.wide { overflow-x: auto } summary { cursor: pointer; margin: .5em 0; color: #0969da }
table { border-collapse: collapse; margin: .5em 0 1.5em } td, th { padding: .2em .8em; text-align: right }
td { font-variant-numeric: tabular-nums; white-space: nowrap } thead { border-bottom: 1px solid #999 }
th:first-child, td:first-child { text-align: left; white-space: normal } svg { display: block }
.passed { color: #116329 } .missed { color: #a40e26 } .small { color: #59636e; font-size: 13px }
"""
FEW = 8  # labels up to which each has its column
NAMES = {
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "macro_precision": "precision, mean of the labels",
    "macro_recall": "recall, mean of the labels",
    "mcc": "Matthews' correlation",
    "roc_auc": "area under the ROC curve",
    "pr_auc": "area under the precision-recall curve",
    "log_loss": "log loss",
    "brier": "Brier score",
    "ece": "expected calibration error",
}
Pair = tuple[str, Sequence[Mapping[str, Any]]]


def render(report: Mapping[str, Any]) -> str:
    """HTML of a report as ``evaluate`` writes it to report.json."""
    verdict = ("passed" if report["passed"] else "missed") if report["checks"] else ""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>feilun report</title><style>{STYLE}</style></head><body>",
        f"<h1>Report <span class='{verdict}'>{verdict}</span></h1>",
        f"<p class='small'>model {escape(report['model'][:12])}, task {escape(str(report['task']))}, split "
        f"{escape(report['split'])}, n {report['all']['n']}, intervals: {escape(report['intervals'])}</p>",
    ]
    if report["checks"]:
        parts += ["<h2>Gate</h2>", _gate(report["checks"])]
    parts += ["<h2>Figures</h2>", _overview(report)]
    for key, title, show in _SECTIONS:
        if report.get(key):
            parts += [f"<h2>{title}</h2>", show(report)]
    if "classes" in report["all"]:
        for name, figures in _groups(report):
            parts += [f"<h2>{escape(name)}</h2>", _classes(figures, report["labels"])]
    return "\n".join([*parts, "</body></html>\n"])


def _groups(report: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """All rows and each domain, which may be called as it likes; of one domain alone, only that."""
    domains: Mapping[str, Any] = report["domains"]
    return [*domains.items()] if len(domains) == 1 else [("all rows", report["all"]), *domains.items()]


def _gate(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for c in checks:
        limit = f"{'at most' if c.get('at_most') else 'at least'} {c['required']:g}"
        rows.append([c["name"], limit, _interval(c), "passed" if c["passed"] else "missed"])
    return _table(["figure", "required", "measured", ""], rows)


def _overview(report: Mapping[str, Any]) -> str:
    groups, metrics = _groups(report), [m["name"] for m in report["metrics"]]
    shown = [metrics[0], *(m for m in metrics[1:] if m == "accuracy")]
    rows: list[Pair] = [(name, [g[m] for m in shown if m in g]) for name, g in groups]
    told = f"filled: {_name(shown[0])}" + (f"; hollow: {_name(shown[1])}" if len(shown) > 1 else "")
    plot = plots.intervals(rows, *plots.span(rows)) + f"<p class='small'>{told}; lines: 95 % intervals</p>"
    up = {m["name"]: "" if m["higher_is_better"] else " (less is better)" for m in report["metrics"]}
    few = groups[:4]
    table = [[_name(m) + up[m], *(_interval(g[m]) if m in g else "-" for _, g in few)] for m in metrics]
    return plot + _table(["", *(name for name, _ in few)], table)


def _lengths(report: Mapping[str, Any]) -> str:
    name = report["metrics"][0]["name"]
    rows: list[Pair] = [(f"{r['from']} to {r['to']} (n {r['n']})", [r[name]]) for r in report["lengths"]]
    plot = plots.intervals(rows, *plots.span(rows))
    return plot + f"<p class='small'>{escape(_name(name))}, by how many characters a text has</p>"


def _calibration(report: Mapping[str, Any]) -> str:
    said = report["temperature"]
    rows = [[_name(k), f"{said['before'][k]:.4f}", f"{said['after'][k]:.4f}"] for k in said["before"]]
    words = (
        f"<p>Dividing the logits by {said['temperature']:.2f} suits these rows best. Each half of them was scaled by "
        "the number that suits the other half:</p>"
    )
    told = (
        "<p class='small'>share of right answers by score; a dot's size is its number of rows; dashed: calibrated</p>"
    )
    return plots.reliability(report["all"]["reliability"]) + told + words + _table(["", "as it is", "scaled"], rows)


def _against(report: Mapping[str, Any]) -> str:
    other = report["against"]
    rows = [
        [_name(name), f"{m['other']:.4f}", _interval(m, "+.4f"), _p(m["p"])] for name, m in other["metrics"].items()
    ]
    words = [f"model {other['model'][:12]} on the same rows"]
    if "agreement" in other:
        words.append(f"both say the same of {other['agreement']:.1%}")
    if "mcnemar" in other:
        m = other["mcnemar"]
        words.append(
            f"right alone: this {m['only_this']}, the other {m['only_other']}; McNemar's exact test {_p(m['p'])}"
        )
    head = ["", "the other", "this less the other", "paired bootstrap"]
    return f"<p>{escape('; '.join(words))}</p>" + _table(head, rows)


def _seeds(report: Mapping[str, Any]) -> str:
    seeds = report["seeds"]
    rows = [
        [_name(name), *(f"{m[k]:.4f}" for k in ("mean", "deviation", "least", "greatest"))]
        for name, m in seeds["metrics"].items()
    ]
    agree = f"; two of them say the same of {seeds['agreement']:.1%} of the rows" if "agreement" in seeds else ""
    words = f"<p>{len(seeds['models'])} models, this one among them{agree}</p>"
    return words + _table(["", "mean", "standard deviation", "least", "greatest"], rows)


def _robustness(report: Mapping[str, Any]) -> str:
    name = report["metrics"][0]["name"]
    before: Pair = ("as they are", [report["all"][name]])
    rows = [before, *((r["change"], [r[name]]) for r in report["robustness"])]
    table = [
        [
            r["change"],
            f"{r['changed_texts']:.0%}",
            _interval(r["difference"], "+.3f"),
            f"{r['changed_answers']:.1%}" if "changed_answers" in r else "-",
        ]
        for r in report["robustness"]
    ]
    head = ["the texts with", "texts changed", f"{_name(name)}, difference", "answers changed"]
    return plots.intervals(rows, *plots.span(rows)) + _table(head, table)


def _outside(report: Mapping[str, Any]) -> str:
    rows = [[name, _interval(way["auroc"]), f"{way['fpr95']:.1%}"] for name, way in report["outside"]["ways"].items()]
    words = f"<p>{report['outside']['n']} rows of another dataset; 0.5 is guessing</p>"
    return words + _table(["seen by", "area under the ROC curve", "pass for usual at 95 %"], rows)


def _efficiency(report: Mapping[str, Any]) -> str:
    e = report["efficiency"]
    joules = e["joules_per_1000_rows"]
    rows = [
        ["one row at a time", f"{e['latency_ms']['p50']:.2f} ms (half), {e['latency_ms']['p99']:.2f} ms (99 %)"],
        ["rows together", f"{e['rows_s']:,.0f} in a second"],
        ["the model's files", f"{e['model_bytes'] / 1e6:,.1f} MB"],
        ["this process", f"{e['process_bytes'] / 1e6:,.0f} MB"],
        ["energy", f"{joules:,.1f} J for 1,000 rows" if joules is not None else "no counter can be read here"],
    ]
    return _table([f"{e['format']}, {e['cores']} cores", ""], rows)


def _classes(figures: Mapping[str, Any], labels: Sequence[str]) -> str:
    matrix, few = figures["confusion"], len(labels) <= FEW
    columns = [f"answered {label}" for label in labels] if few else ["most often taken for"]
    rows = []
    for i, label in enumerate(labels):
        c = figures["classes"][label]
        each = [
            f"{c[k]:.3f} [{c['intervals'][k][0]:.2f}, {c['intervals'][k][1]:.2f}]"
            for k in ("precision", "recall", "f1")
        ]
        rows.append((c["f1"], [label, c["n"], *each, *(matrix[i] if few else [_mistake(matrix[i], i, labels)])]))
    ordered = [row for _, row in (rows if few else sorted(rows, key=lambda r: r[0]))]
    says = f"<p>n {figures['n']}, calibration error {figures['calibration_error']:.3f}</p>"
    table = _table(["true label", "n", "precision", "recall", "F1", *columns], ordered)
    if few:
        return says + table
    plot = f"<div class='wide'>{plots.confusion(matrix, labels)}</div>"
    told = "<p class='small'>rows: true label; blue: right, orange: wrong; point at a square for its labels</p>"
    return f"{says}{plot}{told}<details><summary>{len(labels)} labels, the worst first</summary>{table}</details>"


def _mistake(row: Sequence[int], true: int, labels: Sequence[str]) -> str:
    count, j = max((n, -j) for j, n in enumerate(row) if j != true)
    return f"{labels[-j]} ({count})" if count else "-"


def _name(metric: str) -> str:
    return NAMES.get(metric, metric.replace("_", " "))


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"p {value:.3f}" if value >= 0.001 else "p < 0.001"


def _interval(figure: Mapping[str, Any], form: str = ".3f") -> str:
    low, high = figure["low"], figure["high"]
    return f"{figure['value']:{form}}" + (f" [{low:{form}}, {high:{form}}]" if low is not None else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


_SECTIONS = (
    ("against", "Against another model", _against),
    ("seeds", "Other seeds", _seeds),
    ("temperature", "Calibration", _calibration),
    ("lengths", "Short and long texts", _lengths),
    ("robustness", "Worse written", _robustness),
    ("outside", "Texts of another kind", _outside),
    ("efficiency", "What an answer costs here", _efficiency),
)
