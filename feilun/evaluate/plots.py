"""Plots as inline SVG; whatever came from outside is text, never markup (RELIABILITY 51)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

LEFT, PLOT, ROW = 225, 520, 26  # pixels: names, plot, height of a row
INK, BLUE, ORANGE, GRID = "#1b1f24", "#0969da", "#bc4c00", "#d8dee4"
SIDE = 300  # of a square plot
NAMED = 30  # classes whose names fit beside a confusion matrix
MOST_CELL, LEAST_CELL, MATRIX = 40, 7, 620


def intervals(rows: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], least: float, most: float) -> str:
    """A line for each row: a dot (the second one hollow) and its interval for each figure, from ``least`` to ``most``.

    >>> "<circle" in intervals([("films", [{"value": 0.5, "low": 0.4, "high": 0.6}])], 0, 1)
    True
    """
    height = ROW * (len(rows) + 1)

    def x(value: float) -> str:
        return f"{LEFT + PLOT * (min(max(value, least), most) - least) / (most - least or 1):.1f}"

    marks = []
    for step in range(6):
        tick = least + (most - least) * step / 5
        marks.append(
            f"<line x1='{x(tick)}' y1='0' x2='{x(tick)}' y2='{height - ROW}' stroke='{GRID}'/>"
            f"<text x='{x(tick)}' y='{height - 8}' text-anchor='middle'>{_tick(tick)}</text>"
        )
    for i, (name, figures) in enumerate(rows):
        middle = ROW * i + ROW // 2
        marks.append(f"<text x='{LEFT - 12}' y='{middle + 4}' text-anchor='end'>{escape(short(name, 26))}</text>")
        shifts = (0,) if len(figures) == 1 else (-4, 4)
        for figure, shift, fill in zip(figures, shifts, (BLUE, "#fff"), strict=False):
            y = middle + shift
            if figure["low"] is not None:
                ends = f"x1='{x(figure['low'])}' y1='{y}' x2='{x(figure['high'])}' y2='{y}'"
                marks.append(f"<line {ends} stroke='{BLUE}'/>")
            marks.append(f"<circle cx='{x(figure['value'])}' cy='{y}' r='3.5' fill='{fill}' stroke='{BLUE}'/>")
    return _svg(LEFT + PLOT + 30, height, "".join(marks))


def reliability(bins: Sequence[Mapping[str, float]]) -> str:
    """Share of right answers over the score that they were given; a dot's size is how many rows it stands for."""
    left, top = 46, 10

    def at(score: float, right: float) -> tuple[str, str]:
        return f"{left + SIDE * score:.1f}", f"{top + SIDE * (1 - right):.1f}"

    marks = []
    for t in (0, 0.25, 0.5, 0.75, 1):
        (x, y), (low, high) = at(t, t), (left, left + SIDE)
        marks.append(
            f"<line x1='{low}' y1='{y}' x2='{high}' y2='{y}' stroke='{GRID}'/>"
            f"<line x1='{x}' y1='{top}' x2='{x}' y2='{top + SIDE}' stroke='{GRID}'/>"
            f"<text x='{low - 6}' y='{float(y) + 4:.1f}' text-anchor='end'>{t:g}</text>"
            f"<text x='{x}' y='{top + SIDE + 18}' text-anchor='middle'>{t:g}</text>"
        )
    (x1, y1), (x2, y2) = at(0, 0), at(1, 1)
    marks.append(f"<line x1='{x1}' y1='{y1}' x2='{x2}' y2='{y2}' stroke='{INK}' stroke-dasharray='4 4'/>")
    most = max(b["n"] for b in bins)
    places = [at(b["score"], b["right"]) for b in bins]
    line = " ".join(f"{x},{y}" for x, y in places)
    marks.append(f"<polyline points='{line}' fill='none' stroke='{BLUE}'/>")
    for b, (x, y) in zip(bins, places, strict=True):
        radius = 2.5 + 7 * (b["n"] / most) ** 0.5
        marks.append(f"<circle cx='{x}' cy='{y}' r='{radius:.1f}' fill='{BLUE}' fill-opacity='.55'/>")
    marks.append(f"<text x='{left + SIDE / 2}' y='{top + SIDE + 38}' text-anchor='middle'>score of the answer</text>")
    return _svg(left + SIDE + 20, top + SIDE + 46, "".join(marks))


def confusion(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """A square for each pair of true (row) and answered label (column), darker the more of its row; 0 is empty."""
    n = len(labels)
    named = n <= NAMED
    cell = max(LEAST_CELL, min(MOST_CELL, MATRIX // n))
    left, top = (LEFT, 110) if named else (24, 24)
    marks = [
        f"<text x='{left}' y='14'>answered</text>",
        f"<rect x='{left}' y='{top}' width='{cell * n}' height='{cell * n}' fill='none' stroke='{GRID}'/>",
    ]
    for i, row in enumerate(matrix):
        y, total = top + cell * i, max(1, sum(row))
        if named:
            name = escape(short(labels[i], 26))
            marks.append(f"<text x='{left - 8}' y='{y + cell / 2 + 4:.0f}' text-anchor='end'>{name}</text>")
            x = left + cell * i + cell / 2 + 4
            turned = f"transform='rotate(-50 {x:.0f} {top - 8})'"
            marks.append(f"<text x='{x:.0f}' y='{top - 8}' {turned}>{escape(short(labels[i], 14))}</text>")
        for j, count in enumerate(row):
            if count:
                colour = BLUE if i == j else ORANGE
                told = f"<title>{escape(labels[i])} answered {escape(labels[j])}: {count}</title>"
                x, share = left + cell * j, 0.12 + 0.88 * count / total
                marks.append(
                    f"<rect x='{x}' y='{y}' width='{cell}' height='{cell}' fill='{colour}' "
                    f"fill-opacity='{share:.2f}'>{told}</rect>"
                )
                if cell >= 22:
                    ink = "#fff" if share > 0.55 else INK
                    place = f"x='{x + cell / 2:.0f}' y='{y + cell / 2 + 4:.0f}'"
                    marks.append(f"<text {place} text-anchor='middle' fill='{ink}' font-size='11'>{count}</text>")
    return _svg(left + cell * n + 60, top + cell * n + 10, "".join(marks))


def short(name: str, most: int) -> str:
    """A name that fits."""
    return name if len(name) <= most else name[: most - 1] + "…"


def span(rows: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> tuple[float, float]:
    """From where to where a plot of these figures should go: shares from 0 to 1, others as far as they reach."""
    every = [f[end] for _, figures in rows for f in figures for end in ("low", "value", "high")]
    ends = [end for end in every if end is not None]
    if not ends or (min(ends) >= 0 and max(ends) <= 1):
        return 0.0, 1.0
    room = (max(ends) - min(ends)) * 0.05 or 1.0
    return min(ends) - room, max(ends) + room


def _tick(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e-9 or abs(value) >= 0.01 else f"{value:.1g}"


def _svg(width: Any, height: Any, marks: str) -> str:
    return f"<svg width='{width}' height='{height}' font-size='13' role='img'>{marks}</svg>"
