"""``feilun serve``: the gateway."""

from __future__ import annotations

from typing import Annotated

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, say, short, talk_on_stderr


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on; only this machine by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8765,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name that the Host header may have, beside --host (may be repeated).")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads for the model; all cores by default.")] = None,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Answer over HTTP, metering every answer before it leaves. Ctrl-C or SIGTERM drains and stops."""
    from feilun.store import releases

    with open_wheel(project) as wheel:
        if json:
            print_json({"url": f"http://{host}:{port}", "document": f"http://{host}:{port}/openapi.json"})
        else:
            served = ", ".join(f"{p.name}@{short(p.release)}" for p in releases.pointers(wheel.database))
            talk_on_stderr()
            say(f"http://{host}:{port} answers for {served or 'no release yet: make one with feilun run'}")
        wheel.serve(host=host, port=port, hosts=allow_host or (), threads=threads)
