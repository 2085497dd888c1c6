"""Several workers behind one port, and callers who are slow on purpose (cases 13, 16, 26, 34)."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from faults import checks
from faults.counting import Count, Setup, case
from faults.crashes import CLIENTS, LEASE, crowd
from faults.house import HTTP, PEPPER, House, Running, ask, gateway, start
from faults.load import until
from feilun.accounts import keys

WORKERS = 4
KINDS = {"headers": 30, "body": 30, "reader": 5}  # slow callers of a round; a reader asks for megabytes
CUT_OFF_S = 15.0  # for all of them, on a busy machine
WITHIN_S = 1.0  # in which every worker must refuse a key that was revoked


@contextmanager
def crew(house: House, workers: int = WORKERS, **options: Any) -> Iterator[Running]:
    """``workers`` gateways behind one port, ended with their supervisor."""
    running = start(house, workers=workers, **LEASE, **options)
    try:
        until(lambda: len(processes(running)) == workers)
        yield running
    finally:
        children = processes(running)
        if running.process.poll() is None:
            running.kill()
        psutil.wait_procs(children, timeout=10)  # they end by themselves when their supervisor is gone


def processes(running: Running) -> list[psutil.Process]:
    """The workers that live now."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(running.process.pid).children()
    return []


@case(34, "a revoked key is refused by every one of four workers within a second")
def revocation(setup: Setup) -> Count:
    """Connections that are kept are spread over the workers; each asks until it is refused."""
    count = Count()
    with setup.house() as house, crew(house) as running:
        for number in range(setup.times(20, 3)):
            count.trial(revocation_round(house, running, f"leaving-{number}"))
    bug = "keys-remembered"
    with setup.house() as house, crew(house, planted=bug) as running:
        count.controls[bug] = bool(revocation_round(house, running, "leaving"))
    return count


def revocation_round(house: House, running: Running, name: str) -> list[str]:
    """A new tenant's key over many kept connections, revoked; each is asked again a second later."""
    token = house.tenant(name)
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(_connection(running)) for _ in range(4 * WORKERS)]
        before = {_status(one, token) for one in kept}
        revoked = time.monotonic()
        keys.revoke(house.database, token.split("_")[2])
        time.sleep(max(0.0, revoked + WITHIN_S - time.monotonic()))
        after = [_status(one, token) for one in kept]
    broken = [] if before == {200} else [f"answered with {before} before"]
    return broken + ([] if set(after) == {401} else [f"{after.count(200)} of {len(after)} were answered afterwards"])


@case(26, "slow headers, slow bodies and readers that do not read: each is cut off, nobody else waits")
def slow_callers(setup: Setup) -> Count:
    """Many slow ones of each kind, while a customer asks; the control has no patience's end."""
    count = Count()
    for _ in range(setup.times(5, 1)):
        count.trial(_slow_round(setup, count, 1.0), sum(KINDS.values()))
    count.controls["patience-without-end"] = bool(_slow_round(setup, count, 3600.0))
    return count


def _slow_round(setup: Setup, count: Count, patience: float) -> list[str]:
    options = dict.fromkeys(("header_s", "body_s", "write_s"), patience)
    with setup.house() as house, gateway(house, **options) as running, contextlib.ExitStack() as stack:
        token = house.tokens["acme"]
        slow = [stack.enter_context(slow_caller(running, token, kind)) for kind, n in KINDS.items() for _ in range(n)]
        begun = time.monotonic()
        slowest = 0.0
        statuses = set()
        while time.monotonic() - begun < 1.5:
            asked = time.monotonic()
            statuses.add(ask(running, token).status_code)
            slowest = max(slowest, time.monotonic() - asked)
        end = time.monotonic() + CUT_OFF_S
        left = [one for one in slow if not is_closed(running, one, end - time.monotonic())]
    count.notes.append(f"the slowest answer of a customer took {slowest * 1000:.0f} ms")
    broken = [] if statuses == {200} else [f"a customer was answered with {statuses}"]
    broken += [] if slowest < 3.0 else [f"a customer waited {slowest:.1f} s"]
    return broken + ([] if not left else [f"{len(left)} of {len(slow)} slow connections are still open"])


@case(13, "four workers behind one port under 32 clients, one killed now and then: nothing lost or doubled")
def killed_workers(setup: Setup) -> Count:
    """kill -9 of a worker; the supervisor puts another in its place."""
    count = Count()
    chance = random.Random(setup.seed)
    kills = setup.times(40, 3)
    with setup.house() as house, crew(house) as running:
        with crowd(house, [running.base], setup.seed) as crowds:
            for _ in range(kills):
                time.sleep(chance.uniform(0.2, 0.8))
                with contextlib.suppress(psutil.NoSuchProcess):
                    chance.choice(processes(running)).send_signal(signal.SIGKILL)
                until(lambda: len(processes(running)) == WORKERS, timeout=20)
        broken = checks.everything(house, *crowds)
        broken += [f"the supervisor ended with {running.process.poll()}"] if running.process.poll() is not None else []
        count.trial(broken, kills)
        count.notes.append(f"{CLIENTS} clients, {sum(len(c.answers) for c in crowds)} answers")
    return count


@contextmanager
def slow_caller(running: Running, token: str, kind: str) -> Iterator[socket.socket]:
    """A caller who sends half of it, or takes nothing of what is sent."""
    opened = _socket(running)
    head = f"Host: localhost\r\nAuthorization: Bearer {token}\r\n"
    if kind == "headers":
        opened.sendall(f"POST /v1/classify HTTP/1.1\r\n{head}".encode())
    elif kind == "body":
        opened.sendall(f"POST /v1/classify HTTP/1.1\r\n{head}Content-Length: 100\r\n\r\n{{".encode())
    else:
        opened.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # as many questions as it takes; of the answers none is read
            for _ in range(2_000):
                opened.sendall(f"GET /openapi.json HTTP/1.1\r\n{head}\r\n".encode())
        opened.setblocking(True)
    with opened:
        yield opened


def _socket(running: Running) -> socket.socket:
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    opened.connect(("127.0.0.1", int(running.base.rsplit(":", 1)[1])))
    return opened


def is_closed(running: Running, one: socket.socket, timeout: float = 10.0) -> bool:
    """Whether the gateway lets go of a connection; its own end would see that only behind all that was sent to it."""
    process, port, end = psutil.Process(running.process.pid), one.getsockname()[1], time.monotonic() + timeout
    while any(c.raddr and c.raddr.port == port for c in process.net_connections()):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def _connection(running: Running) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", int(running.base.rsplit(":", 1)[1]))) as opened:
        yield opened


def _status(opened: socket.socket, token: str) -> int:
    """One question over a connection that is kept."""
    body = json.dumps({"model": "reviews", "input": "good film"}).encode()
    head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
    opened.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    read = b""
    while b"\r\n\r\n" not in read:
        read += opened.recv(65_536)
    said, _, rest = read.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in said.split(b"\r\n") if line.startswith(b"content-length"))
    while len(rest) < length:
        rest += opened.recv(65_536)
    return int(said.split(b" ", 2)[1])


def answered_by(running: Running, house: House) -> dict[str, float]:
    """How many requests each worker answered, by what one of them says of all."""
    if "figures" not in house.tokens:
        house.tokens["figures"] = keys.create(house.database, PEPPER, "acme", scopes=["metrics"]).token
    said = HTTP.get(running.base + "/metrics", headers={"Authorization": f"Bearer {house.tokens['figures']}"}).text
    found: dict[str, float] = {}
    for line in said.splitlines():
        if line.startswith("feilun_requests_total{") and 'route="/v1/classify"' in line and 'status="200"' in line:
            number = line.split('worker="')[1].split('"')[0]
            found[number] = found.get(number, 0.0) + float(line.rsplit(" ", 1)[1])
    return found
