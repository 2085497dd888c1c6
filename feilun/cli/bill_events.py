"""``feilun bill events``: usage that other services report, from and to files of CloudEvents."""

from __future__ import annotations

import itertools
import json as jsonlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.errors import ConflictError, DataError
from feilun.show import print_json, say

if TYPE_CHECKING:
    from feilun.flywheel import Flywheel
    from feilun.store.events import Event

app = typer.Typer(help="Usage that other services report: import and export CloudEvents.", no_args_is_help=True)
KEY = "import"  # stands for the key in what was recorded by hand


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(help="JSON lines, a CloudEvent each; - for standard input.")],
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Record CloudEvents that are not known yet; importing a file again records nothing twice."""
    from feilun.store.events import MOST

    read = recorded = 0
    with open_wheel(project) as wheel, _opened(file) as lines:
        numbered = enumerate(lines, start=1)
        while some := list(itertools.islice(numbered, MOST)):
            told = [(number, line) for number, line in some if line.strip()]
            read, recorded = read + len(told), recorded + _record(wheel, file, told, recorded)
    if json:
        print_json({"received": read, "recorded": recorded, "duplicates": read - recorded})
    else:
        say(f"read {read:,} events: {recorded:,} are new, {read - recorded:,} were known")


@app.command("export")
def export(
    tenant: Annotated[str, typer.Argument(help="Whose events.")],
    file: Annotated[str, typer.Argument(help="Where the JSON lines go; - for standard output.")] = "-",
    after: Annotated[int, typer.Option(min=0, help="Only those behind this sequence.")] = 0,
    project: Root = HERE,
) -> None:
    """Write a customer's events as JSON lines, a CloudEvent each, in the form that import reads."""
    with open_wheel(project) as wheel:
        events = _exported(wheel, tenant, after)
        if file == "-":
            for event in events:
                typer.echo(jsonlib.dumps(event, ensure_ascii=False))
            return
        with Path(file).open("w", encoding="utf-8") as out:
            written = sum(1 for event in events if out.write(jsonlib.dumps(event, ensure_ascii=False) + "\n"))
    say(f"wrote {written:,} events to {file}")


def _opened(file: str) -> BinaryIO:
    try:
        return sys.stdin.buffer if file == "-" else Path(file).open("rb")
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=file) from error


def _record(wheel: Flywheel, file: str, lines: list[tuple[int, bytes]], earlier: int) -> int:
    """Record some lines in one transaction; how many were new.

    Raises:
        DataError: a line is no event of this project: then none of these is recorded.
        ConflictError: its source and id are those of another event.
    """
    from feilun.store import events

    meters = wheel.bill_settings.meters_reported_by("events")
    try:
        given = [_event(line, place) for place, (_, line) in enumerate(lines)]
        receipt = wheel.database.write(lambda c: events.record(c, KEY, given, meters))
    except (DataError, ConflictError) as error:
        place = int((error.where or "[0]").removeprefix("[").split("]")[0])
        error.where = f"{file}:{lines[place][0]}"
        error.hint = f"{error.hint} ({earlier:,} of earlier lines were; import the file again once it is mended)"
        raise
    return receipt.recorded


def _event(line: bytes, place: int) -> Event:
    from feilun.serve import bodies
    from feilun.serve.problems import RequestError
    from feilun.store import cloudevents

    try:
        return cloudevents.read(bodies.load(line), place)
    except RequestError as error:
        raise DataError(
            error.what, where=f"[{place}]", hint="one JSON object on each line", code="bad-event"
        ) from error


def _exported(wheel: Flywheel, tenant: str, after: int) -> Iterator[dict[str, Any]]:
    from feilun.store import cloudevents, events

    while True:
        with wheel.database.read() as connection:
            some = events.export(connection, tenant, after=after)
        yield from map(cloudevents.write, some)
        if not some:
            return
        after = some[-1].sequence
