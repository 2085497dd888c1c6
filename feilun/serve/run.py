"""Running a gateway: uvicorn on loopback, until SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from feilun.accounts.terms import Schedule
from feilun.serve import logs, supervisor
from feilun.serve.app import create_app, make_gateway
from feilun.serve.gateway import Gateway
from feilun.serve.listening import BACKLOG, Tls, listen
from feilun.serve.office import OfficeFactory
from feilun.serve.prompts import PromptLog
from feilun.serve.protocol import with_patience
from feilun.serve.settings import GatewaySettings
from feilun.store.artifacts import ArtifactStore
from feilun.store.migrations import open_database

FAREWELL_S = 5.0  # beside the grace time: how long a process may take to close what it has open


class _Server(uvicorn.Server):
    """On SIGTERM readiness goes red, for a while before the socket closes; what is in flight is finished."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._leaves_at = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop. The signal is not raised again afterwards: a stop that was asked for is a success."""
        again = self._gateway.draining
        if not again:
            self._leaves_at = time.monotonic() + self._gateway.settings.leave_s
        self._gateway.draining = True
        self.force_exit = again and sig == signal.SIGINT
        self.should_exit = self.should_exit or again or not self._gateway.settings.leave_s

    async def on_tick(self, counter: int) -> bool:
        """Stop when the time to leave has come, or when the database is not to be trusted any more."""
        if self._gateway.draining and time.monotonic() >= self._leaves_at:
            self.should_exit = True
        return self._gateway.database.broken or await super().on_tick(counter)


def run_gateway(
    database_url: str,
    artifacts: Path,
    *,
    pepper: bytes,
    plans: Mapping[str, Schedule],
    host: str = "127.0.0.1",
    port: int = 8080,
    settings: GatewaySettings | None = None,
    office_factory: OfficeFactory | None = None,
) -> None:
    """Answer until told to stop. Several processes may share one database and one folder of artefacts.

    Args:
        office_factory: makes the billing side; without it the routes of billing are not found and nothing is delivered.

    Raises:
        SettingError: the pepper is too short, the address is taken, or the database's URL or the certificate cannot
            be used.
        UnavailableError: the database cannot be opened, or its disk lost what was written and the gateway stopped.
    """
    logs.write_to_stderr()
    supervisor.follow_supervisor()
    with open_database(database_url) as database:
        chosen = settings or GatewaySettings()
        chosen = replace(chosen, hosts=(*chosen.hosts, f"[{host}]" if ":" in host else host))
        store = ArtifactStore(artifacts, database)
        gateway = make_gateway(store, pepper, plans, chosen)
        gateway.office = office_factory(store) if office_factory else None
        gateway.prompts = PromptLog(chosen.prompts) if chosen.prompts else None
        try:
            serve(create_app(gateway), gateway, host, port)
        finally:
            gateway.shelf.spending.finish(database)
            if gateway.prompts is not None:
                gateway.prompts.close()
        database.trust()


def run_workers(
    command: Sequence[str],
    workers: int,
    *,
    host: str,
    port: int,
    settings: GatewaySettings | None = None,
) -> int:
    """Keep ``workers`` gateways alive that share one socket, until told to stop; returns the exit code.

    Args:
        command: runs one of them; it has to end up in ``run_gateway`` with the same host, port and settings.

    Raises:
        SettingError: the address is taken or is not ours, or the certificate cannot be used.
    """
    logs.write_to_stderr()
    chosen = settings or GatewaySettings()
    if chosen.tls is not None:
        chosen.tls.context()  # what is wrong with it is told here, and not by every worker
    with listen(host, port) as listener:
        grace_s = chosen.leave_s + chosen.grace_s + FAREWELL_S
        return supervisor.Supervisor(command, workers, listener, grace_s=grace_s, renews=chosen.tls is not None).run()


def serve(app: FastAPI, gateway: Gateway, host: str, port: int) -> None:
    """Run an application of ours on uvicorn.

    Raises:
        SettingError: the address is taken or is not ours, or the certificate cannot be used.
    """
    settings = gateway.settings
    context = settings.tls.context() if settings.tls else None
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=with_patience(settings.header_s, settings.write_s),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.grace_s),
        ssl_context_factory=None if context is None else lambda *_: context,
    )
    with listen(host, port) as listening, _renewing(settings.tls, context):
        _Server(config, gateway).run(sockets=[listening])


@contextlib.contextmanager
def _renewing(tls: Tls | None, context: ssl.SSLContext | None) -> Iterator[None]:
    """On SIGHUP read the certificate again; without one it ends this program, as it does others."""
    if tls is None or context is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def renew(number: int, frame: FrameType | None) -> None:
        tls.reload(context)

    before = signal.signal(signal.SIGHUP, renew)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
