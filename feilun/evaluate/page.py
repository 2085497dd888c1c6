"""The report as one page that needs nothing else; whatever came from outside is text, never markup (RELIABILITY 51)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #1b1f24 }
table { border-collapse: collapse; margin: .5em 0 1.5em } td, th { padding: .2em .8em; text-align: right }
th:first-child, td:first-child { text-align: left } thead { border-bottom: 1px solid #999 } svg { display: block }
.passed { color: #116329 } .missed { color: #a40e26 } .small { color: #59636e; font-size: 13px }
"""
LEFT, PLOT, ROW = 170, 560, 26  # pixels: labels, plot, height of a row of the plot


def render(report: Mapping[str, Any]) -> str:
    """HTML of a report as ``evaluate`` writes it to report.json."""
    domains: Mapping[str, Any] = report["domains"]
    verdict = ("passed" if report["passed"] else "missed") if report["checks"] else ""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>feilun report</title><style>{STYLE}</style></head><body>",
        f"<h1>Report <span class='{verdict}'>{verdict}</span></h1>",
        f"<p class='small'>model {escape(report['model'][:12])}, split {escape(report['split'])}, "
        f"intervals: {escape(report['intervals'])}</p>",
    ]
    if report["checks"]:
        parts += ["<h2>Gate</h2>", _gate(report["checks"])]
    parts += ["<h2>Macro-F1 and accuracy</h2>", _plot({"all": report["all"], **domains})]
    for name, figures in domains.items():
        parts += [f"<h2>{escape(name)}</h2>", _classes(figures, report["labels"])]
    return "\n".join([*parts, "</body></html>\n"])


def _gate(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = [[c["name"], f"{c['required']:.3f}", _interval(c), "passed" if c["passed"] else "missed"] for c in checks]
    return _table(["figure", "at least", "measured", ""], rows)


def _classes(figures: Mapping[str, Any], labels: Sequence[str]) -> str:
    head = ["true label", "n", "precision", "recall", "F1", *(f"answered {label}" for label in labels)]
    rows = [
        [label, c["n"], *(f"{c[k]:.3f}" for k in ("precision", "recall", "f1")), *figures["confusion"][i]]
        for i, (label, c) in enumerate((label, figures["classes"][label]) for label in labels)
    ]
    says = (
        f"<p>n {figures['n']}, macro-F1 {_interval(figures['macro_f1'])}, accuracy {_interval(figures['accuracy'])}, "
        f"calibration error {figures['calibration_error']:.3f}</p>"
    )
    return says + _table(head, rows)


def _plot(groups: Mapping[str, Any]) -> str:
    """A dot and its interval for each group: macro-F1 filled, accuracy hollow, from 0 to 1."""
    height = ROW * (len(groups) + 1)
    marks = [
        f"<line x1='{_x(t)}' y1='0' x2='{_x(t)}' y2='{height - ROW}' stroke='#ddd'/>"
        f"<text x='{_x(t)}' y='{height - 8}' text-anchor='middle'>{t:.1f}</text>"
        for t in (0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    for row, (name, figures) in enumerate(groups.items()):
        middle = ROW * row + ROW // 2
        short = name if len(name) <= 22 else name[:21] + "…"
        marks.append(f"<text x='{LEFT - 12}' y='{middle + 4}' text-anchor='end'>{escape(short)}</text>")
        for metric, shift, fill in (("macro_f1", -4, "#0969da"), ("accuracy", 4, "#fff")):
            figure, y = figures[metric], middle + shift
            marks.append(
                f"<line x1='{_x(figure['low'])}' y1='{y}' x2='{_x(figure['high'])}' y2='{y}' stroke='#0969da'/>"
                f"<circle cx='{_x(figure['value'])}' cy='{y}' r='3.5' fill='{fill}' stroke='#0969da'/>"
            )
    size = f"width='{LEFT + PLOT + 30}' height='{height}'"
    key = "<p class='small'>filled: macro-F1; hollow: accuracy; lines: 95 % intervals</p>"
    return f"<svg {size} font-size='13' role='img'>{''.join(marks)}</svg>{key}"


def _x(share: float) -> str:
    return f"{LEFT + PLOT * share:.1f}"


def _interval(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
