"""``feilun doctor``: what is installed, what this machine can do, and the command that mends what is missing."""

from __future__ import annotations

import typer

from feilun.cli.options import HERE, Json, Root
from feilun.show import print_json, print_table, say


def doctor(project: Root = HERE, json: Json = False) -> None:
    """Check versions, processor, disk, database and secret. Ends with 1 if something must be mended."""
    from feilun.doctor import examine

    checks = examine(project)
    bad = [check for check in checks if not check.good]
    if json:
        print_json({"good": not bad, "checks": [check._asdict() for check in checks]})
    else:
        rows = [["ok" if c.good else "MEND", c.what, c.found, c.mend or ""] for c in checks]
        print_table("doctor", ["", "what", "found", "to mend it"], rows)
        say("everything that the project needs is here" if not bad else f"{len(bad)} to mend")
    if bad:
        raise typer.Exit(1)
