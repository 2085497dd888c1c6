"""Other people's software to compare with, each in an environment of its own, so that none sees the others' versions.

    from benchmarks import peers

    told = peers.run("trainer", "trainer", {"kind": "plain", "model": str(folder), "train": ..., "test": ...})
    told["seconds"], told["accuracy"], told["peak_mb"], told["versions"]

A script is ``benchmarks/peers/<script>.py``: it reads JSON from stdin and prints JSON as its last line. It runs in a
process of its own, with nothing of ours to import. The environment ``own`` is the one we run in: so our own side of a
comparison meets the same conditions. ``python -m benchmarks.peers [NAME...]`` builds the environments.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).with_suffix("")
FOLDER = Path(__file__).parents[1] / "build" / "peers"
TORCH = "torch==2.13.0"  # first and by itself: the rest must not choose another
ENVIRONMENTS = {
    "trainer": (
        "transformers==5.23.0",
        "trl==1.16.0",
        "accelerate==1.15.0",
        "datasets==5.2.0",
        "peft==0.21.2",
        "gguf==0.19.0",
    ),
    "setfit": (
        "setfit==1.2.0",
        "sentence-transformers==6.2.0",
        "transformers==5.23.0",
        "datasets==5.2.0",
        "scikit-learn==1.9.1",
    ),
    "serving": (
        "transformers==5.23.0",
        "openvino==2026.4.1",
        "tokenizers==0.23.3",
        "litserve==0.2.19",
        "fastapi==0.165.0",
        "uvicorn==0.54.0",
        "uvloop==0.23.0",
        "httptools==0.9.0",
    ),
}
OWN = "own"
_VERSIONS = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"


class PeerError(Exception):
    """A script or an installation ended badly; the message ends with what it said."""


def python(environment: str) -> Path:
    """The interpreter of an environment, which is built where it is not there or lists other packages.

    Raises:
        PeerError: pip could not install them.
    """
    if environment == OWN:
        return Path(sys.executable)
    folder = FOLDER / environment
    interpreter, packages = folder / "bin" / "python", [TORCH, *ENVIRONMENTS[environment]]
    mark = folder / "packages.txt"
    if not (mark.is_file() and mark.read_text("utf-8").split() == packages):
        _call([sys.executable, "-m", "venv", str(folder)])
        _call([str(interpreter), "-m", "pip", "install", "--quiet", TORCH])
        _call([str(interpreter), "-m", "pip", "install", "--quiet", *packages])
        mark.write_text("\n".join(packages) + "\n", "utf-8")
    return interpreter


@functools.cache
def versions(environment: str) -> dict[str, str]:
    """Every package of an environment."""
    found: dict[str, str] = json.loads(_call([str(python(environment)), "-c", _VERSIONS]))
    return found


def run(script: str, environment: str, told: Mapping[str, Any], *, timeout: float = 3600) -> dict[str, Any]:
    """What a script printed, with ``peak_mb`` (most memory the process held), ``wall`` (seconds from start to end of
    the process) and ``versions`` (of the environment).

    Raises:
        PeerError: it did not end well, or not in time.
    """
    interpreter, known = python(environment), versions(environment)
    arguments = [str(interpreter), str(SCRIPTS / f"{script}.py")]
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "true"}
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="feilun-peer-") as folder:
        given, out, err, inside = (Path(folder, name) for name in ("in", "out", "err", "work"))
        inside.mkdir()
        given.write_text(json.dumps(dict(told)), "utf-8")
        with given.open("rb") as stdin, out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                arguments, cwd=inside, env=os.environ | quiet, stdin=stdin, stdout=stdout, stderr=stderr
            )
            status, memory = _wait(process, timeout)
        wall = time.perf_counter() - begun
        lines = out.read_text("utf-8", "replace").strip().splitlines()
        if status != 0 or not lines:
            said = err.read_text("utf-8", "replace")[-3000:]
            raise PeerError(f"{script} in {environment} ended with {status}:\n{said}")
        answered: dict[str, Any] = json.loads(lines[-1])
    return {**answered, "peak_mb": memory, "wall": wall, "versions": known}


def _wait(process: subprocess.Popen[bytes], timeout: float) -> tuple[int, float]:
    """The exit status and the most memory in MB of this one child."""
    until = time.monotonic() + timeout
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_maxrss / 1024
        if time.monotonic() > until:
            process.kill()
            until = float("inf")
        time.sleep(0.05)


def _call(arguments: list[str]) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    for name in sys.argv[1:] or ENVIRONMENTS:
        print(name, python(name))
