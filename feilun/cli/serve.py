"""``feilun serve``: the gateway."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, say, short, talk_on_stderr

if TYPE_CHECKING:
    from feilun.serve.listening import Tls


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on; only this machine by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8765,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name that the Host header may have, beside --host (may be repeated).")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Processor threads for the model; all cores by default, shared by the workers.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that answer on the one port.")] = 1,
    tls_cert: Annotated[
        Path | None, typer.Option(help="A certificate chain (PEM): answer by HTTPS. SIGHUP reads it again.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM), if it is not in the same file.")] = None,
    latency_ms: Annotated[
        float, typer.Option(min=1, help="How long the model should take for a request: larger runs are faster in all.")
    ] = 100.0,
    leave_s: Annotated[
        float, typer.Option(min=0, help="After SIGTERM, seconds in which readyz is red and requests are still taken.")
    ] = 0.0,
    work: Annotated[
        bool, typer.Option("--work", help="Do tenants' fine-tuning jobs too, as feilun work does.")
    ] = False,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Answer over HTTP, metering every answer before it leaves. Ctrl-C or SIGTERM drains and stops."""
    from feilun.serve.beside import beside
    from feilun.serve.supervisor import NUMBER
    from feilun.store import releases

    tls = _tls(tls_cert, tls_key)
    is_worker = NUMBER in os.environ
    with open_wheel(project) as wheel:
        if not is_worker:
            served = {pointer.name: pointer.release for pointer in releases.pointers(wheel.database)}
            _announce(f"{'https' if tls else 'http'}://{host}:{port}", served, as_json=json)
        worker = [sys.executable, "-m", "feilun", "work", "--beside", "--project", str(wheel.root)] if work else None
        if workers == 1 or is_worker:
            each = threads or max(1, (os.cpu_count() or 1) // workers)
            with beside(None if is_worker else worker):
                more = {"leave_s": leave_s, "latency_ms": latency_ms}
                wheel.serve(host=host, port=port, hosts=allow_host or (), threads=each, tls=tls, **more)
            return
        wheel.required_pepper()  # what is missing is told once, and not by every worker
    from feilun.serve.run import run_workers
    from feilun.serve.settings import GatewaySettings

    command = [sys.executable, "-m", "feilun", *sys.argv[1:]]
    with beside(worker):
        code = run_workers(command, workers, host=host, port=port, settings=GatewaySettings(leave_s=leave_s, tls=tls))
    raise typer.Exit(code)


def _announce(url: str, served: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print_json({"url": url, "document": f"{url}/openapi.json"})
        return
    names = ", ".join(f"{name}@{short(digest)}" for name, digest in served.items())
    talk_on_stderr()
    say(f"{url} answers for {names or 'no release yet: make one with feilun run'}")


def _tls(certificate: Path | None, key: Path | None) -> Tls | None:
    from feilun.errors import SettingError
    from feilun.serve.listening import Tls

    if certificate is None:
        if key is not None:
            raise SettingError("a key without its certificate", where="--tls-key", hint="add --tls-cert")
        return None
    return Tls(certificate.absolute(), (key or certificate).absolute())
