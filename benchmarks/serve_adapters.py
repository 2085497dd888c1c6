"""1,000 heads and 100 LoRA adapters of random numbers on one MiniLM behind one gateway: how fast beside a single model,
how much memory for each, and whose answer comes."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks import material
from benchmarks import shop as shops
from benchmarks.bench import Row, Run, row
from benchmarks.pressing import press
from feilun.compress import apart
from feilun.compress.settings import CompressSettings
from feilun.models import shared, tables
from feilun.pipeline.kinds import Model, Release
from feilun.pipeline.steps import Workspace
from feilun.serve import release
from feilun.serve.batching import Batcher
from feilun.store import releases
from feilun.store.artifacts import ArtifactStore
from feilun.store.migrations import open_database

HEADS, ADAPTERS, RANK, CONTEXT = 1000, 100, 8, 128
ZIPF = 1.1
CLIENTS = 64
PROBES = ("This is exactly what I hoped for.", "Why does it stop after a minute?")


@dataclass
class Crowd:
    """Models of one base, by name, in an order of chance: the first is asked most."""

    base: Model
    models: dict[str, Model]

    def names(self, count: int, seed: int = 0) -> list[str]:
        """So many names as they are asked for, one after the other."""
        known = list(self.models)
        weights = [1 / (place + 1) ** ZIPF for place in range(len(known))]
        return random.Random(seed).choices(known, weights, k=count)


def measure(run: Run) -> Iterator[Row]:
    """Throughput through the gateway: one model, and all of them by Zipf's law, in turn on the same gateway."""
    with run.database("sqlite") as url:
        shop = shops.build(url, run.folder / "shop")
        with open_database(url) as database:
            store = ArtifactStore(shop.artifacts, database)
            crowd = _crowd(run, store)
            _release(store, crowd, run.folder)
        texts = shop.texts[:4000]
        mixed = crowd.names(len(texts))
        told = {
            "one": [json.dumps({"model": "reviews", "input": text}).encode() for text in texts],
            "all": [json.dumps({"model": n, "input": t}).encode() for n, t in zip(mixed, texts, strict=True)],
        }
        found: dict[str, list[float]] = {"one": [], "all": []}
        tails: dict[str, list[float]] = {"one": [], "all": []}
        seconds = run.size(10, 2)
        with shops.gateway(shop) as address:
            port = int(address.rsplit(":", 1)[1])
            for number in range(run.size(6, 2)):
                for name in ("one", "all") if number % 2 else ("all", "one"):
                    asked = press(port, "/v1/classify", told[name], seconds=seconds, clients=CLIENTS, token=shop.token)
                    done = asyncio.run(asked)
                    if number:  # the first loads and warms up
                        found[name].append(done.rate)
                        tails[name].append(done.ms(0.99))
    shares = [a / b for a, b in zip(found["all"], found["one"], strict=True)]
    many = f"{len(crowd.models)} models"
    yield row("adapters-rate", f"answers a second, {many}", "1/s", found["all"], peer=("one model", found["one"]))
    yield row("adapters-share", f"{many} of one base, of a single model's throughput", "of 1", shares, target=0.8)
    yield row("adapters-p99", f"p99, {many}", "ms", tails["all"], peer=("one model", tails["one"]))


def right(run: Run) -> Iterator[Row]:
    """100,000 requests through the batcher with room for a quarter of the adapters: how many answers were another's."""
    with run.database("sqlite") as url, open_database(url) as database:
        store = ArtifactStore(run.folder / "right", database)
        crowd = _crowd(run, store)
        bases = shared.Bases(budget=ADAPTERS // 4 * _one(crowd).size)
        members = {name: bases.open(model) for name, model in crowd.models.items()}
        texts = shops.sentences(store, run.folder)[:8]
        first = next(iter(members.values()))
        rows = first.encode(texts)
        expected = {
            (name, n): scores for name, member in members.items() for n, scores in enumerate(member.outputs(rows))
        }
        asked = crowd.names(run.size(100_000, 2_000), seed=1)
        wrong = asyncio.run(_ask_all(members, rows, asked, expected))
    yield row("adapters-wrong", f"answers of another model in {len(asked)}", "", [float(wrong)], target=0, at_most=True)
    yield row("adapters-loads", "adapters loaded meanwhile", "", [float(bases.pool.loads)])


def memory(run: Run) -> Iterator[Row]:
    """What the process grows by for each adapter that is in memory, beside the adapter's own size."""
    with run.database("sqlite") as url, open_database(url) as database:
        store = ArtifactStore(run.folder / "memory", database)
        crowd = _crowd(run, store, heads=1)
        bases = shared.Bases()
        tuned = [m for m in (bases.open(model) for model in crowd.models.values()) if m.wanted]
        for member in tuned[:5]:
            member.run(member.encode(["warm"]))
        before = psutil.Process().memory_info().rss
        for member in tuned[5:]:
            member.run(member.encode(["warm"]))
        grown = psutil.Process().memory_info().rss - before
        sizes = sum(member.wanted.size for member in tuned[5:] if member.wanted)
    yield row("adapters-memory", "memory of an adapter, of its size", "of 1", [grown / sizes], target=1.2, at_most=True)


async def _ask_all(
    members: dict[str, shared.Member],
    rows: Sequence[Sequence[int]],
    asked: Sequence[str],
    expected: dict[tuple[str, int], np.ndarray],
) -> int:
    batcher = Batcher(2_048, streams=2)
    left = iter(enumerate(asked))
    wrong = 0

    async def client() -> None:
        nonlocal wrong
        for number, name in left:
            text = number % len(rows)
            scored = await batcher.run(members[name], [rows[text]])
            wrong += not np.array_equal(scored.outputs[0], expected[name, text])

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    batcher.close()
    return wrong


def _one(crowd: Crowd) -> tables.Wanted:
    bases = shared.Bases()
    opened = (bases.open(model) for name, model in crowd.models.items() if name.startswith("lora"))
    return next(member.wanted for member in opened if member.wanted)


def _crowd(run: Run, store: ArtifactStore, heads: int | None = None) -> Crowd:
    """The base from the catalogue in 8 bits, and models of random numbers: what they say costs the same."""
    from faults.adapters import build_adapter

    origin = material.encoder(run.folder)
    kept = shutil.copytree(origin, run.folder / f"origin-{store.folder.name}")
    model = store.add(Model, kept, parents=[], facts={"format": "safetensors"})
    work = run.folder / f"work-{store.folder.name}"
    (work / "scratch").mkdir(parents=True)
    space = Workspace(store, work / "folder", work / "scratch")
    base = apart.export_base(model, CONTEXT, CompressSettings(), space)
    sizes = shared.Base(base, tables.Pool(1), threads=1).sizes
    wanted = [("head", n, 0) for n in range(heads or run.size(HEADS, 20))]
    wanted += [("lora", n, RANK) for n in range(run.size(ADAPTERS, 10))]
    random.Random(7).shuffle(wanted)
    models = {}
    for kind, number, rank in wanted:
        name = f"{kind}-{number:04d}"
        build_adapter(work / name, number + 10_000 * rank, rank, sizes, width=384, context=CONTEXT)
        facts = {"format": shared.FORMAT, "base": base.digest, "task": "classify", "context": CONTEXT}
        models[name] = store.add(Model, work / name, parents=[base.digest], facts=facts)
    return Crowd(base, models)


def _release(store: ArtifactStore, crowd: Crowd, folder: Path) -> None:
    """A promoted release of each, with fingerprints of its own."""
    bases = shared.Bases()
    for name, model in crowd.models.items():
        engine = bases.open(model)
        place = folder / f"release-{name}"
        place.mkdir()
        release.write(place, name, model, engine.labels, release.probe(engine, PROBES))
        facts = {"name": name, "task": "classify", "labels": sorted(engine.labels)}
        made = store.add(Release, place, parents=[model.digest], facts=facts)
        releases.register(store.database, made)
        releases.promote(store.database, name, made.digest, expected_version=0, reason="to be measured")
