"""An encoder behind the gateway, authenticated, metered and durable, beside FastAPI with the transformers pipeline,
LitServe with batching, and the bare engine that is fed with sorted batches: same weights, texts, clients and cores."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks import material, peers
from benchmarks import shop as shops
from benchmarks.bench import Row, Run, row
from benchmarks.pressing import Pressed, press
from feilun.models import openvino

MANY = 64
CLIENTS = (1, 4, 16, MANY)
THREADS = 2
BATCH = 32
GROUP = openvino.GROUP


@dataclass
class Served:
    """One server's figures, a number for each round."""

    name: str
    many: list[Pressed] = field(default_factory=list)
    one: list[Pressed] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Answers a second, many clients."""
        return [pressed.rate for pressed in self.many]


@dataclass(frozen=True)
class _Address:
    port: int
    path: str
    bodies: list[bytes]
    token: str = ""

    def press(self, seconds: float, clients: int) -> Pressed:
        """Ask for a while."""
        return asyncio.run(press(self.port, self.path, self.bodies, seconds=seconds, clients=clients, token=self.token))


def measure(run: Run) -> Iterator[Row]:
    """Throughput and latency at 64 clients and at one."""
    weights = str(material.encoder(run.folder))
    with run.database("sqlite") as url:
        shop = shops.build(url, run.folder / "shop")
        network = str(run.folder / "shop" / "model")
        found = {name: Served(name) for name in ("feilun", "litserve", "pipeline")}
        bare: list[dict[str, Any]] = []
        told = {"model": network, "threads": THREADS, "group": GROUP}
        seconds = run.size(8, 2)
        for number in range(run.size(3, 1)):
            asked = told | {"texts": shop.texts[:2000], "seconds": seconds, "batch": BATCH}
            bare.append(peers.run("offline", "serving", asked))
            for name in sorted(found, reverse=bool(number % 2)):
                with _server(name, shop, {**told, "weights": weights}) as address:
                    address.press(2.0, MANY)
                    found[name].many.append(address.press(seconds, MANY))
                    found[name].one.append(address.press(seconds / 2, 1))
                    if number == 0:
                        _curve(run, name, address, seconds / 4)
    yield from _rows(found, bare)


def _rows(found: Mapping[str, Served], bare: list[dict[str, Any]]) -> Iterator[Row]:
    ours = found["feilun"]
    offline = ("openvino alone, sorted batches", [one["sorted"] for one in bare])
    yield row("encoder-64-rate", "answers a second, 64 clients", "1/s", ours.rates, peer=offline)
    shares = [mine / one["sorted"] for mine, one in zip(ours.rates, bare, strict=True)]
    yield row("encoder-64-share", "of the bare engine fed with sorted batches", "of 1", shares, target=0.75)
    for name, target in (("pipeline", 10.0), ("litserve", 2.0)):
        theirs = found[name]
        times = [mine / other for mine, other in zip(ours.rates, theirs.rates, strict=True)]
        yield row(f"encoder-64-{name}", f"times the throughput of {name}", "x", times, target=target)
        yield row(f"encoder-64-{name}-rate", f"answers a second of {name}, 64 clients", "1/s", theirs.rates)
    tails = [pressed.ms(0.99) for pressed in ours.many]
    theirs_tails = [pressed.ms(0.99) for pressed in found["pipeline"].many]
    parts = [mine / other for mine, other in zip(tails, theirs_tails, strict=True)]
    yield row("encoder-64-p99", "p99 at 64 clients", "ms", tails, peer=("pipeline", theirs_tails))
    yield row("encoder-64-p99-part", "of the pipeline's p99", "of 1", parts, target=0.2, at_most=True)
    yield row("encoder-64-p50", "p50 at 64 clients", "ms", [pressed.median_ms for pressed in ours.many])
    alone = [one["alone_ms"] for one in bare]
    added = [pressed.median_ms - ms for pressed, ms in zip(ours.one, alone, strict=True)]
    yield row("encoder-1-p50", "p50, one client", "ms", [p.median_ms for p in ours.one], peer=("engine alone", alone))
    yield row("encoder-1-added", "added to the bare engine's median", "ms", added, target=2.0, at_most=True)


def _curve(run: Run, name: str, address: _Address, seconds: float) -> None:
    pressed = [(clients, address.press(seconds, clients)) for clients in CLIENTS]
    for share in (0.5, 0.99):
        line = f"{name} p{share * 100:.0f}"
        run.curve("ms by clients", line, [(clients, found.ms(share)) for clients, found in pressed])


@contextmanager
def _server(name: str, shop: shops.Shop, told: Mapping[str, Any]) -> Iterator[_Address]:
    """A running server and how it is asked."""
    if name == "feilun":
        bodies = [json.dumps({"model": "reviews", "input": text}).encode() for text in shop.texts]
        with shops.gateway(shop) as base:
            yield _Address(int(base.rsplit(":", 1)[1]), "/v1/classify", bodies, shop.token)
        return
    bodies = [json.dumps({"text": text}).encode() for text in shop.texts]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    given = {"port": port, "labels": len(shops.LABELS), "batch": BATCH, "wait": 0.005, "threads": told["threads"]}
    given |= {"group": told["group"], "model": told["model" if name == "litserve" else "weights"]}
    command = [str(peers.python("serving")), str(peers.SCRIPTS / f"serve_{name}.py"), json.dumps(given)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    address = _Address(port, "/predict" if name == "litserve" else "/classify", bodies)
    try:
        _wait(address)
        yield address
    finally:
        end(process)


def _wait(address: _Address) -> None:
    until = time.monotonic() + 180
    while time.monotonic() < until:
        try:
            address.press(0.01, 1)
        except (OSError, asyncio.IncompleteReadError, RuntimeError):
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"nobody answers at {address.port} after 180 s")


def end(process: subprocess.Popen[bytes]) -> None:
    """A server and whatever it started."""
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        one.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start(run: Run) -> Iterator[Row]:
    """From the command to readiness, and the memory then and after some thousand answers."""
    with run.database("sqlite") as url:
        shop = shops.build(url, run.folder / "start")
        project = _project(shop, run.folder / "project")
        seconds, at_start, after = [], [], []
        for _ in range(run.size(5, 1)):
            with _command(project, shop) as (process, port, ready):
                seconds.append(ready)
                at_start.append(psutil.Process(process.pid).memory_info().rss / 2**20)
                bodies = [json.dumps({"model": "reviews", "input": text}).encode() for text in shop.texts]
                _Address(port, "/v1/classify", bodies, shop.token).press(run.size(6, 1), MANY)
                after.append(psutil.Process(process.pid).memory_info().rss / 2**20)
    yield row("start-seconds", "feilun serve until it is ready, MiniLM in 8 bits", "s", seconds, target=3, at_most=True)
    yield row("start-memory", "of the gateway when it is ready", "MB", at_start)
    yield row("start-memory-busy", "of the gateway after 64 clients", "MB", after, target=400, at_most=True)


def _project(shop: shops.Shop, folder: Path) -> Path:
    """A project file with nothing but the plan that the shop's tenant has."""
    folder.mkdir()
    plan = '[bill.plans.metered]\noverage = { requests = "0.001 USD" }\n'
    (folder / "feilun.toml").write_text(f'[project]\nname = "shop"\n\n{plan}', "utf-8")
    return folder


@contextmanager
def _command(project: Path, shop: shops.Shop) -> Iterator[tuple[subprocess.Popen[bytes], int, float]]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    program = shutil.which("feilun", path=str(Path(sys.executable).parent)) or "feilun"
    told = {"FEILUN_DATABASE_URL": shop.url, "FEILUN_HOME": str(shop.artifacts.parent)}
    told["FEILUN_PEPPER"] = shops.PEPPER.decode()
    begun = time.perf_counter()
    process = subprocess.Popen(
        [program, "serve", "--port", str(port), "--project", str(project)],
        env=os.environ | told,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        shops._wait(f"http://127.0.0.1:{port}/readyz")
        yield process, port, time.perf_counter() - begun
    finally:
        end(process)
