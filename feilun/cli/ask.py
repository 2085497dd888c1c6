"""``feilun ask``: what a model says, whatever its task."""

from __future__ import annotations

import json as jsons
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.errors import DataError
from feilun.show import print_json, progress, say

FIRST = 4  # numbers of a vector that are shown


def ask(
    name: Annotated[
        str, typer.Argument(help="A section (finetune.reviews), a served name, or a model's first digits.")
    ],
    texts: Annotated[list[str] | None, typer.Argument(help="What to ask.", show_default=False)] = None,
    other: Annotated[
        str | None, typer.Option("--other", help="The second text: of a pair, or what a question is asked of.")
    ] = None,
    candidates: Annotated[
        list[str] | None,
        typer.Option(
            "--candidate", help="A text to put in order, by a model that ranks or one of vectors; again for each."
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="JSON lines with a column for each (text, other, messages); - reads stdin."),
    ] = None,
    served: Annotated[
        bool, typer.Option("--served", help="Of a served name: the compressed model, not the one that was trained.")
    ] = False,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Ask a model on this machine; nothing is metered. Trained as it is, or as it is served."""
    from rich.markup import escape

    rows: list[dict[str, Any]] = [{"text": text} for text in texts or ()]
    if file is not None:
        rows += _read(file)
    shared = ({"other": other} if other is not None else {}) | ({"candidates": candidates} if candidates else {})
    rows = [row | shared for row in rows]
    with open_wheel(project) as wheel, progress() as observe:
        answers = wheel.ask(name, rows, served=served, observe=observe)
    if json:
        print_json([{**row, "answer": said} for row, said in zip(rows, answers, strict=True)])
        return
    for row, said in zip(rows, answers, strict=True):
        say(escape(_short(row.get("text", row))[:100]))
        for key, value in said.items():
            say(escape(f"    {key:<8} {_short(value)}"))


def _read(file: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        lines = (sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the file cannot be read", where=str(file), hint=str(error)) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = jsons.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"the line is not JSON: {error}", where=f"{file}, line {number}") from error
        if not isinstance(row, dict):
            raise DataError("the line is not a JSON object", where=f"{file}, line {number}", hint='{"text": "..."}')
        rows.append(row)
    return rows


def _short(value: Any) -> str:
    """A value in a line or two: numbers with four places, of a vector the first ones, a ranking in lines.

    >>> _short([0.25, -0.5, 0.125, 0.0, 1.0, 0.75])
    '0.2500, -0.5000, 0.1250, 0.0000, … (6 numbers)'
    """
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list) and value and all(isinstance(one, float) for one in value):
        more = f", … ({len(value)} numbers)" if len(value) > FIRST else ""
        return ", ".join(f"{one:.4f}" for one in value[:FIRST]) + more
    if (
        isinstance(value, list)
        and value
        and all(isinstance(one, dict) and one.keys() == {"text", "score"} for one in value)
    ):
        return "".join(f"\n      {one['score']:.4f}  {_short(one['text'])}" for one in value)
    if isinstance(value, dict) and all(isinstance(one, float) for one in value.values()):
        best = sorted(value.items(), key=lambda item: -item[1])
        more = f", and {len(best) - 5} more" if len(best) > 5 else ""
        return ", ".join(f"{label} {score:.4f}" for label, score in best[:5]) + more
    text = value if isinstance(value, str) else jsons.dumps(value, ensure_ascii=False)
    return text if len(text) <= 500 else text[:499] + "…"
