"""A gateway to measure: MiniLM in 8 bits with a head of random numbers (speed does not depend on what it says), real
review sentences, a tenant, a key; started as a process of its own, with metering or, for comparison, without.

    python -m benchmarks.shop '{"url": ..., "artifacts": ..., "port": ..., "metering": true}'
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulid import ULID

from feilun.accounts import keys, tenants
from feilun.accounts.terms import Schedule, Terms
from feilun.pipeline.kinds import Model, Release, Source
from feilun.pipeline.steps import Workspace
from feilun.store import ledger, releases
from feilun.store.artifacts import ArtifactStore
from feilun.store.migrations import open_database

PEPPER = b"a pepper of more than thirty-two bytes"
PLAN = Terms("USD", unit_nano={"requests": 1_000_000, "tokens": 10})
LABELS = ("negative", "neutral", "positive")
ENCODER, SENTENCES = "catalog:all-MiniLM-L6-v2", "catalog:vader-reviews/films"


@dataclass
class Shop:
    """What a gateway needs, and the key to ask it with."""

    url: str
    artifacts: Path
    token: str
    texts: list[str]


def build(url: str, folder: Path) -> Shop:
    """Weights and sentences from the catalogue, a release of them, tenant acme with a budget that is never reached."""
    from feilun import catalog
    from feilun.compress import quantise
    from feilun.models import network

    base = catalog.fetch(ENCODER, Model, root=folder)
    tuned = network.load(base.files, 128)
    tuned.relabel(LABELS, seed=1)
    model = folder / "model"
    model.mkdir(parents=True)
    quantise.save(quantise.to_int8(quantise.export(tuned)), model)
    tuned.tokenizer.save(str(model / "tokenizer.json"))
    (model / "config.json").write_text(json.dumps({"id2label": dict(enumerate(LABELS))}))
    with open_database(url) as database:
        store = ArtifactStore(folder / "artifacts", database)
        facts = {"format": "openvino", "task": "classify", "labels": list(LABELS), "context": 128}
        made = store.add(Model, model, parents=[], facts=facts)
        made_of = release(store, made, folder / "release")
        releases.promote(database, "reviews", made_of.digest, expected_version=0, reason="to be measured")
        tenants.create(database, "acme", plan="metered", budget_nano=10**18)
        token = keys.create(database, PEPPER, "acme").token
        return Shop(url, folder / "artifacts", token, sentences(store, folder))


def release(store: ArtifactStore, model: Model, folder: Path) -> Release:
    """A release of a model as ``reviews``, registered and not promoted; ``folder`` must not be there."""
    from feilun.serve.settings import ServeSettings
    from feilun.serve.step import serve

    scratch = folder.with_name(f"{folder.name}-scratch")
    for place in (folder, scratch):
        place.mkdir()
    made = serve(model, (), ServeSettings(name="reviews"), Workspace(store, folder, scratch))
    releases.register(store.database, made)
    return made


def sentences(store: ArtifactStore, folder: Path) -> list[str]:
    """Sentences of film reviews, as they come."""
    from feilun import catalog, datasets

    found = catalog.fetch(SENTENCES, Source, root=folder)
    texts: list[str] = datasets.read_source(store.add(Source, found.files, parents=[], facts=found.facts))[
        "text"
    ].to_list()
    return texts


@contextmanager
def gateway(shop: Shop, *, metering: bool = True) -> Iterator[str]:
    """A running gateway's address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    told = {"url": shop.url, "artifacts": str(shop.artifacts), "port": port, "metering": metering}
    command = [sys.executable, "-m", "benchmarks.shop", json.dumps(told)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        _wait(f"http://127.0.0.1:{port}/readyz")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _wait(address: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:  # refused, or not answered yet
            time.sleep(0.05)
    raise TimeoutError(f"{address} is not there after 60 s")


def _without_metering() -> None:
    """The same gateway, its admission, tokens, batches and answers, but nothing is held, charged or stored."""
    from feilun.serve import answering

    async def free(self: answering.Answering, asked: Any, work: Any, turn: Any) -> answering.Answered:
        computed = await work.compute()
        turn.end(computed.units.tokens)
        charge = ledger.Charge(str(ULID()), 0, "USD", 0, 0)
        done = ledger.Done(asked.caller.key, work.loaded.digest, asked.route, computed.units, computed.compute_ns)
        return answering.Answered(charge.request, computed.render(charge), done)

    answering.Answering._worked = free


def main() -> None:
    """Run one gateway until SIGTERM."""
    from feilun.serve.run import run_gateway
    from feilun.serve.settings import GatewaySettings

    told = json.loads(sys.argv[1])
    if not told["metering"]:
        _without_metering()
    plans = {"metered": Schedule.always(PLAN)}
    artifacts = Path(told["artifacts"])
    run_gateway(
        told["url"], artifacts, pepper=PEPPER, plans=plans, port=told["port"], settings=GatewaySettings(threads=2)
    )


async def load(address: str, shop: Shop, *, seconds: float, clients: int, inputs: int) -> list[float]:
    """Closed-loop clients over kept connections, written at the level of bytes so that they take little of the cores.

    Returns:
        The time of each answer in seconds; every one had status 200.
    """
    port = int(address.rsplit(":", 1)[1])
    end = time.perf_counter() + seconds
    times: list[float] = []

    async def client(n: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        at = n * 97
        while time.perf_counter() < end:
            chosen = [shop.texts[(at + i) % len(shop.texts)] for i in range(inputs)]
            at += inputs
            body = json.dumps({"model": "reviews", "input": chosen}).encode()
            head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {shop.token}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            began = time.perf_counter()
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(answer.split(b"\r\n", 1)[0].decode())
            length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            times.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client(n) for n in range(clients)))
    return times


if __name__ == "__main__":
    main()
