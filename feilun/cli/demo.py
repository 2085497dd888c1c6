"""``feilun demo``: one whole turn, told as it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from feilun.cli.options import Json
from feilun.show import print_json, talk_on_stderr


def demo(
    folder: Annotated[Path, typer.Option(help="Where artefacts, ledger and summary go.")] = Path("build/demo"),
    stay: Annotated[bool, typer.Option("--stay", help="Leave the gateway up at the end, until Ctrl-C.")] = False,
    json: Json = False,
) -> None:
    """Turn the wheel once on real data, from rated sentences to invoices that can be traced back to them."""
    from feilun.demo.story import tell
    from feilun.templates import shipped

    if json:
        talk_on_stderr()
    summary = tell(shipped("examples") / "reviews", folder.resolve(), stay=stay)
    if json:
        print_json(summary)
