"""A decoder behind the gateway, streamed, metered and durable, beside its own engine offline, OpenVINO GenAI's batching
on the same weights, and llama.cpp's server on the weights that it quantises as finely (Q8_0).

SmolLM2-135M, prompts of 128 tokens, answers of 128, greedy, 8 clients; tokens that were written in a second. What
llama.cpp's server does is measured where ``LLAMA_SERVER`` names its program.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import material, peers
from benchmarks.bench import Row, Run, row

CLIENTS, IN, OUT = 8, 128, 128
REFERENCE = "catalog:SmolLM2-135M-Instruct"


def decoder(run: Run) -> Iterator[Row]:
    """Tokens a second of each, and how long the first one takes."""
    folder, texts = _prepared(run)
    served: list[tuple[float, float]] = []
    offline: list[float] = []
    genai: list[float] = []
    llama: list[float] = []
    told = {"folder": str(folder), "texts": texts[:CLIENTS], "out": OUT}
    with _gateway(run, folder) as (port, token):
        for _ in range(run.size(3, 1)):
            offline.append(peers.run("offline_paged", peers.OWN, told)["rate"])
            genai.append(peers.run("offline_genai", peers.OWN, told)["rate"])
            served.append(asyncio.run(_press(port, texts, token)))
            if program := os.environ.get("LLAMA_SERVER"):
                with _llama(program, run) as other:
                    llama.append(asyncio.run(_press(other, texts, ""))[0])
    rates = [rate for rate, _ in served]
    best = [max(pair) for pair in zip(offline, genai, strict=True)]
    yield row(
        "decoder-8-rate", "tokens a second, 8 clients, streamed", "1/s", rates, peer=("our engine alone", offline)
    )
    yield row("decoder-8-genai", "tokens a second, GenAI alone", "1/s", genai)
    shares = [mine / other for mine, other in zip(rates, best, strict=True)]
    yield row("decoder-8-share", "of the better engine's own offline figure", "of 1", shares, target=0.95)
    if llama:
        times = [mine / other for mine, other in zip(rates, llama, strict=True)]
        yield row("decoder-8-llama", "times llama.cpp's server", "x", times, target=1.0, peer=("llama-server", llama))
    yield row("decoder-8-first", "until the first piece, median", "ms", [1000 * first for _, first in served])


def _prepared(run: Run) -> tuple[Path, list[str]]:
    """The compressed model, and prompts of its own tokens."""
    from feilun.compress import words
    from feilun.compress.settings import CompressSettings
    from feilun.models import causal

    folder = run.folder / "paged"
    network = causal.load(material.encoder(run.folder, REFERENCE))
    if not folder.exists():
        folder.mkdir()
        words.write(network, CompressSettings(), folder)
    train, _ = material.reviews(4000, 10)
    ids = network.encode([" ".join(text for text, _ in train)])[0]
    rows = [ids[at : at + IN] for at in range(0, IN * 32, IN)]
    return folder, [network.tokenizer.decode(one, skip_special_tokens=True) for one in rows]


@contextmanager
def _gateway(run: Run, folder: Path) -> Iterator[tuple[int, str]]:
    """A gateway with the model behind it."""
    from faults.house import gateway, open_house
    from feilun.pipeline.kinds import Model
    from feilun.pipeline.steps import Workspace
    from feilun.serve.settings import ServeSettings
    from feilun.serve.step import serve
    from feilun.store import releases

    place = run.folder / "house"
    place.mkdir(exist_ok=True)
    with run.database("sqlite") as url, open_house(url, place) as house:
        kept = place / "paged"
        shutil.copytree(folder, kept)
        facts = {"format": "paged", "task": "generate", "context": 8192, "labels": []}
        model = house.store.add(Model, kept, parents=[], facts=facts)
        sealed, scratch = place / "sealed", place / "scratch"
        sealed.mkdir()
        scratch.mkdir()
        made = serve(model, (), ServeSettings(name="writer"), Workspace(house.store, sealed, scratch))
        releases.register(house.database, made)
        releases.promote(house.database, "writer", made.digest, expected_version=0, reason="first")
        with gateway(house) as running:
            yield int(running.base.rsplit(":", 1)[1]), house.tokens["acme"]


@contextmanager
def _llama(program: str, run: Run) -> Iterator[int]:
    """llama.cpp's server on the same weights in its own 8 bits."""
    place = run.folder / "q8.gguf"
    if not place.exists():
        source = material.encoder(run.folder, REFERENCE) / "model.gguf"
        tool = Path(program).with_name("llama-quantize")
        subprocess.run(
            [str(tool), "--allow-requantize", str(source), str(place), "Q8_0"], check=True, stdout=sys.stderr
        )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    options = ["-m", str(place), "--port", str(port), "-np", str(CLIENTS), "-c", str(CLIENTS * 512), "-t", "2"]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


async def _press(port: int, texts: Sequence[str], token: str) -> tuple[float, float]:
    """Every prompt once, 8 at a time: (tokens a second, the median time until the first piece)."""
    waiting = list(enumerate(texts))
    tokens, firsts = 0, []

    async def client() -> None:
        nonlocal tokens
        while waiting:
            number, text = waiting.pop()
            told = {"model": "writer", "prompt": text, "max_tokens": OUT, "temperature": 0, "stream": True}
            told |= {"stream_options": {"include_usage": True}, "seed": number}
            began = time.perf_counter()
            first, usage = await _streamed(port, token, told)
            firsts.append(first - began)
            tokens += usage

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return tokens / (time.perf_counter() - begun), sorted(firsts)[len(firsts) // 2]


async def _streamed(port: int, token: str, told: dict[str, Any]) -> tuple[float, int]:
    """One answer: when its first piece came, and how many tokens it has."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(told).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    head += f"Authorization: Bearer {token}\r\n" if token else ""
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    first, usage = 0.0, 0
    async for line in reader:
        if not line.startswith(b"data: {"):
            continue
        first = first or time.perf_counter()
        if b'"usage":{' in line.replace(b'"usage": {', b'"usage":{'):
            usage = json.loads(line.removeprefix(b"data: "))["usage"]["completion_tokens"]
    writer.close()
    if not usage:
        raise RuntimeError("the stream told no usage")
    return first, usage
