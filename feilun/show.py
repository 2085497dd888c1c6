"""How results look: tables and sentences for people, JSON for programs. Progress goes to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from feilun.errors import FeilunError

if TYPE_CHECKING:
    from rich.console import Console

    from feilun.pipeline.steps import Progress

WIDE = 132  # columns of a table that goes into a file or a pipe
_stderr = False


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def print_error(error: FeilunError, *, as_json: bool) -> None:
    """What, where and hint on standard error; with ``--json`` as a document on standard output."""
    if as_json:
        print_json({"error": error.as_dict()})
    else:
        sys.stderr.write(f"{error}\n")


def talk_on_stderr() -> None:
    """From now on what is for people goes to standard error, so that standard output is one JSON document."""
    global _stderr  # noqa: PLW0603 - as standard output itself, there is one a process
    _stderr = True


def say(text: str) -> None:
    """A line for people, with Rich's markup."""
    _console().print(text, soft_wrap=True)


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False, stderr=_stderr)
    if not console.is_terminal:
        console.width = WIDE
    return console


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table; columns whose every cell is a number are set to the right."""
    from rich.markup import escape
    from rich.table import Table

    say(f"[bold]{escape(title)}[/bold]")
    table = Table(header_style="dim")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[index]) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else escape(_cell(cell)) for cell in row))
    _console().print(table)


@contextmanager
def progress() -> Iterator[Callable[[str, Progress], None]]:
    """A bar for each step while it runs, on standard error; nothing where that is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    tasks: dict[tuple[str, str], Any] = {}
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:

        def observe(step: str, update: Any) -> None:
            key = (step, update.what)
            if key not in tasks:
                tasks[key] = bars.add_task(f"{step}: {update.what}", total=update.total or None, numbers="")
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in update.numbers.items())
            bars.update(tasks[key], completed=update.done, total=update.total or None, numbers=numbers)

        yield observe


def when(microseconds: int) -> str:
    """A time of the database, in UTC, to the second."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")


def short(digest: str | None) -> str:
    """Twelve digits of a digest."""
    return digest[:12] if digest else "-"


def interval(figure: Mapping[str, Any]) -> str:
    """A figure with its 95 % interval where there is one: ``0.781 [0.762, 0.800]``."""
    ends = f" [{figure['low']:.3f}, {figure['high']:.3f}]" if figure["low"] is not None else ""
    return f"{figure['value']:.3f}{ends}"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
