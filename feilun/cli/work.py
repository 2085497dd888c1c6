"""``feilun work``: the fine-tuning jobs that tenants ask for."""

from __future__ import annotations

import os
import signal
import threading
from typing import Annotated

import typer

from feilun.cli.options import HERE, Json, Root, Set, open_wheel
from feilun.show import print_json, progress, say


def work(
    once: Annotated[bool, typer.Option("--once", help="Do the jobs that are there now, then end.")] = False,
    beside: Annotated[bool, typer.Option("--beside", hidden=True, help="End with whoever started this.")] = False,
    project: Root = HERE,
    set_: Set = [],  # noqa: B006 - Typer copies it
    json: Json = False,
) -> None:
    """Do tenants' fine-tuning jobs, one after the other. Several workers may share one database. SIGTERM puts the job
    that is being done back: it goes on where it stopped."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if beside:
        threading.Thread(target=_follow, args=(os.getppid(), stop), daemon=True).start()
    with open_wheel(project, set_) as wheel, progress() as observe:
        for job in wheel.work(stop=stop, once=once, observe=observe):
            if json:
                print_json({"job": job.id, "tenant": job.tenant, "model": job.model})
            else:
                say(f"{job.id} of {job.tenant}: see GET /v1/fine_tuning/jobs/{job.id}")


def _follow(parent: int, stop: threading.Event) -> None:
    while not stop.wait(1.0):
        if os.getppid() != parent:
            stop.set()
