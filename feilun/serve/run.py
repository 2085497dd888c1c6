"""Running a gateway: uvicorn on loopback, until SIGTERM."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from feilun.accounts.terms import Schedule
from feilun.errors import SettingError
from feilun.serve import logs
from feilun.serve.app import create_app, make_gateway
from feilun.serve.gateway import Gateway
from feilun.serve.office import OfficeFactory
from feilun.serve.settings import GatewaySettings
from feilun.store.artifacts import ArtifactStore
from feilun.store.migrations import open_database

BACKLOG = 1024  # connections that wait to be accepted


class _Server(uvicorn.Server):
    """On SIGTERM readiness goes red before the socket closes; what is in flight is finished."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop. The signal is not raised again afterwards: a stop that was asked for is a success."""
        self._gateway.draining = True
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Stop when the database is not to be trusted any more."""
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
        SettingError: the pepper is too short, the address is taken, or the database's URL cannot be used.
        UnavailableError: the database cannot be opened, or its disk lost what was written and the gateway stopped.
    """
    logs.write_to_stderr()
    with open_database(database_url) as database:
        chosen = settings or GatewaySettings()
        chosen = replace(chosen, hosts=(*chosen.hosts, f"[{host}]" if ":" in host else host))
        store = ArtifactStore(artifacts, database)
        gateway = make_gateway(store, pepper, plans, chosen)
        gateway.office = office_factory(store) if office_factory else None
        try:
            serve(create_app(gateway), gateway, host, port)
        finally:
            gateway.shelf.spending.finish(database)
        database.trust()


def serve(app: FastAPI, gateway: Gateway, host: str, port: int) -> None:
    """Run an application of ours on uvicorn.

    Raises:
        SettingError: the address is taken or is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingError(
            f"the gateway cannot listen there: {error.strerror}", where=f"{host}:{port}", hint="choose another --port"
        ) from error
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(gateway.settings.grace_s),
    )
    with listening:
        _Server(config, gateway).run(sockets=[listening])
