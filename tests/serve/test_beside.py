"""The worker beside the gateway: there as long as the gateway is, started again where it dies, gone with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from feilun.serve.beside import beside
from tests.serve.uploading import until

SAYS = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); time.sleep(600)"
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("FEILUN_") and k != "DATABASE_URL"}


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_process_beside_the_gateway_is_started_again_and_ends_with_it(tmp_path: Path) -> None:
    file = tmp_path / "pids"

    def seen() -> list[int]:
        return [int(line) for line in file.read_text().splitlines()] if file.exists() else []

    with beside([sys.executable, "-c", SAYS, str(file)], pause_s=0.1):
        (first,) = until(seen, lambda found: len(found) == 1)
        os.kill(first, signal.SIGKILL)
        second = until(seen, lambda found: len(found) == 2)[1]
        assert lives(second)
    assert not lives(second)
    with beside(None):
        pass


def test_the_command_does_what_there_is_to_do_and_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "feilun"]
    for arguments in (["init", "."], ["work", "--once", "--json"]):
        done = subprocess.run(
            [*command, *arguments], cwd=tmp_path, env=CLEAN, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_a_worker_ends_at_sigterm_and_when_who_started_it_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "feilun"]
    subprocess.run([*command, "init", "."], cwd=tmp_path, env=CLEAN, check=True, capture_output=True)
    told = subprocess.Popen([*command, "work"], cwd=tmp_path, env=CLEAN)
    starter = "import json, subprocess, sys; p = subprocess.Popen(json.loads(sys.argv[1])); print(p.pid, flush=True)"
    orphan = subprocess.run(
        [sys.executable, "-c", starter + "; import time; time.sleep(4)", json.dumps([*command, "work", "--beside"])],
        cwd=tmp_path, env=CLEAN, capture_output=True, text=True, check=True,
    )  # fmt: skip
    left = int(orphan.stdout.split()[0])
    told.send_signal(signal.SIGTERM)
    assert told.wait(30) in (0, -signal.SIGTERM)
    until(lambda: lives(left), lambda alive: not alive)
