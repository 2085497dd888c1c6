"""``feilun export``: a model as a folder for the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, progress, say


def export(
    name: Annotated[
        str, typer.Argument(help="A section (finetune.reviews), a served name, or a model's first digits.")
    ],
    to: Annotated[Path, typer.Option("--to", help="A folder that is not there yet.")],
    served: Annotated[
        bool, typer.Option("--served", help="Of a served name: the compressed files, not those that were trained.")
    ] = False,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Write a model with its card in the layout of the hub; AutoModel.from_pretrained and feilun itself load it."""
    with open_wheel(project) as wheel, progress() as observe:
        model, files = wheel.export(name, to, served=served, observe=observe)
    if json:
        print_json({"model": model.digest, "folder": str(to), "files": files})
        return
    say(f"model {model.short} -> {to}: {', '.join(files)}")
