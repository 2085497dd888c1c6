"""``feilun backup`` and ``feilun restore``: the whole store at one moment, and the way back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, say

if TYPE_CHECKING:
    from feilun.store.backup import Backup

Copies = Annotated[bool, typer.Option("--copy", help="Copy artefacts even where a hard link would do.")]


def backup(
    folder: Annotated[Path, typer.Argument(help="A new folder, made by this command.")],
    copy: Copies = False,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Copy database and artefacts while gateways answer; everything copied is hashed again."""
    from feilun.store import backup as backups

    with open_wheel(project) as wheel:
        made = backups.backup(wheel.store, folder.absolute(), link=not copy)
    _show(made, folder, json=json, did="backed up")
    if not json:
        say("[dim]secrets are not in it: keep secrets.env of the project's home apart[/dim]")
    if made.missing:
        raise typer.Exit(4)


def restore(
    folder: Annotated[Path, typer.Argument(help="A folder that 'feilun backup' made.")],
    copy: Copies = False,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Make database and artefacts of the project from a backup; a database that is there is never overwritten.

    Nothing is left where the books of the backup do not agree.
    """
    from feilun.bill.verify import verify
    from feilun.flywheel import find_root
    from feilun.store import backup as backups
    from feilun.store import deployment

    told = deployment.from_environment(find_root(project))
    made = backups.restore(
        folder.absolute(), told.database_url, told.artifacts, link=not copy, check=lambda d: verify(d).problems
    )
    _show(made, folder, json=json, did="restored")
    if not json:
        say(
            f"  secrets are not in a backup: copy secrets.env of the old place to {told.home / deployment.SECRETS}; "
            "without it no key that was given out is valid"
        )


def _show(made: Backup, folder: Path, *, json: bool, did: str) -> None:
    if json:
        print_json({"folder": str(folder), **asdict(made)})
        return
    rows = made.rows
    kept = len(made.artifacts) - len(made.missing)
    say(f"{did}: {kept} artefacts, {sum(rows.values())} rows, {rows['usage']} of usage")
    for digest in made.missing:
        say(f"  [red]artefact {digest[:12]} is gone or damaged, and is not in it[/red]: feilun run makes it again")
