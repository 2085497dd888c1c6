"""Where things are kept on this machine: from the environment, never from the project file."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from feilun.errors import SettingError

HOME = ".feilun"
SECRETS = "secrets.env"


@dataclass(frozen=True)
class Deployment:
    """One installation of one project. Embedded by default; PostgreSQL and another folder by environment alone."""

    home: Path
    database_url: str
    pepper: str | None  # the key of all keyed digests; None where nobody has set one

    @property
    def artifacts(self) -> Path:
        """The folder of the artefacts."""
        return self.home / "artifacts"

    def required_pepper(self) -> bytes:
        """The pepper.

        Raises:
            SettingError: none is set, or it is shorter than 32 bytes: nothing may rest on a guessable secret.
        """
        if not self.pepper or len(self.pepper.encode()) < 32:
            raise SettingError(
                "no secret of at least 32 bytes is set" if not self.pepper else "the secret is shorter than 32 bytes",
                where="FEILUN_PEPPER",
                hint=f"'feilun init' writes one to {HOME}/{SECRETS}; or: export FEILUN_PEPPER=$(openssl rand -hex 32)",
            )
        return self.pepper.encode()


def from_environment(root: Path, home: Path | None = None) -> Deployment:
    """Read FEILUN_HOME, FEILUN_DATABASE_URL (or DATABASE_URL) and FEILUN_PEPPER; then the home's ``secrets.env``."""
    home = (home or Path(os.environ.get("FEILUN_HOME") or root / HOME)).resolve()
    stored = read_secrets(home)
    url = os.environ.get("FEILUN_DATABASE_URL") or os.environ.get("DATABASE_URL") or stored.get("FEILUN_DATABASE_URL")
    pepper = os.environ.get("FEILUN_PEPPER") or stored.get("FEILUN_PEPPER")
    return Deployment(home, url or f"sqlite:///{home / 'feilun.db'}", pepper)


def read_secrets(home: Path) -> dict[str, str]:
    """``NAME=value`` lines of the home's secrets file; empty where there is none."""
    try:
        lines = (home / SECRETS).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def write_secrets(home: Path) -> Path:
    """Make a random pepper, readable by its owner alone; an existing file is left as it is."""
    home.mkdir(parents=True, exist_ok=True)
    file = home / SECRETS
    if not file.exists():
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as opened:
            opened.write(
                f"# keep this: without it no key that was given out is valid\nFEILUN_PEPPER={secrets.token_hex(32)}\n"
            )
    return file
