"""``feilun init``: a project to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from feilun.cli.options import Json
from feilun.show import print_json, say


def init(
    folder: Annotated[Path, typer.Argument(help="Where the project goes; made if it is not there.")],
    template: Annotated[
        str, typer.Option(help="'own' (a CSV of yours), 'reviews', or a task: tag, pair, embed, generate …")
    ] = "own",
    json: Json = False,
) -> None:
    """Begin a project from a template, and make the secret that its keys rest on."""
    from feilun.templates import init_project

    made = init_project(folder, template)
    if json:
        print_json({"project": str(folder), "files": [str(f) for f in made]})
        return
    say(f"[bold]{folder}[/bold] is ready: {', '.join(str(f.relative_to(folder)) for f in made)}")
    say(f"next: cd {folder} && feilun run --dry-run")
