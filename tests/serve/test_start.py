"""A gateway is ready at once and small: with a network of MiniLM's size in 8 bits, started by its command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from faults.house import HTTP, LABELS, PEPPER, free_port
from feilun.accounts import keys, tenants
from feilun.compress import quantise
from feilun.models import network
from feilun.pipeline.kinds import Model
from feilun.pipeline.steps import Workspace
from feilun.serve.settings import ServeSettings
from feilun.serve.step import serve
from feilun.store import releases
from feilun.store.artifacts import ArtifactStore
from feilun.store.migrations import open_database

WORDS = 30_522
PROJECT = """[project]
name = "start"

[bill.plans.metered]
overage = { requests = "0.001 USD" }
"""


@dataclass
class Place:
    """A project with a release, and a key to ask it with."""

    folder: Path
    token: str

    @property
    def environment(self) -> dict[str, str]:
        told = {"FEILUN_HOME": str(self.folder), "FEILUN_PEPPER": PEPPER.decode()}
        return {**os.environ, **told, "FEILUN_DATABASE_URL": f"sqlite:///{self.folder}/feilun.db"}


def write_network(folder: Path) -> None:
    """Six layers of 384, as MiniLM; random weights take as much time and memory as others."""
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    config = transformers.BertConfig(vocab_size=WORDS, **sizes)
    with torch.random.fork_rng(), network.quiet():
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("start")
    for name in ("base", "model", "release", "scratch"):
        (folder / name).mkdir()
    write_network(folder / "base")
    tuned = network.load(folder / "base", 128)
    tuned.relabel(LABELS, seed=1)
    quantise.save(quantise.to_int8(quantise.export(tuned)), folder / "model")
    tuned.tokenizer.save(str(folder / "model" / "tokenizer.json"))
    (folder / "model" / "config.json").write_text(json.dumps({"id2label": dict(enumerate(LABELS))}))
    (folder / "feilun.toml").write_text(PROJECT)
    with open_database(f"sqlite:///{folder}/feilun.db") as database:
        store = ArtifactStore(folder / "artifacts", database)
        facts = {"format": "openvino", "task": "classify", "labels": list(LABELS), "context": 128}
        model = store.add(Model, folder / "model", parents=[], facts=facts)
        space = Workspace(store, folder / "release", folder / "scratch")
        release = serve(model, (), ServeSettings.model_validate({"name": "reviews"}), space)
        releases.register(database, release)
        releases.promote(database, "reviews", release.digest, expected_version=0, reason="first")
        tenants.create(database, "acme", plan="metered")
        return Place(folder, keys.create(database, PEPPER, "acme").token)


@contextmanager
def started(place: Place) -> Iterator[tuple[psutil.Process, str, float]]:
    """``feilun serve``, its address, and the seconds until it was ready."""
    port = free_port()
    command = [sys.executable, "-m", "feilun", "serve", "--port", str(port), "--project", str(place.folder)]
    begun = time.monotonic()
    with (place.folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=place.environment, stdout=log, stderr=log)
    try:
        while not is_ready(port):
            assert process.poll() is None, (place.folder / "log").read_text()
            assert time.monotonic() < begun + 60
            time.sleep(0.01)
        yield psutil.Process(process.pid), f"http://127.0.0.1:{port}", time.monotonic() - begun
    finally:
        process.terminate()
        process.wait(30)


def is_ready(port: int) -> bool:
    try:
        return HTTP.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def test_a_gateway_is_ready_after_less_than_three_seconds_of_work(place: Place) -> None:
    """Of processor time, which neighbours do not stretch: alone on its machine it is ready sooner than that."""
    with started(place) as (process, _, _):
        used = process.cpu_times()
        assert used.user + used.system < 3


def test_a_gateway_at_work_has_less_than_400_mb_and_no_torch(place: Place) -> None:
    headers = {"Authorization": f"Bearer {place.token}"}
    with started(place) as (process, base, _):
        for size in (1, 20, 60, 120):
            texts = [" ".join(f"w{n * 7 + i}" for i in range(size)) for n in range(20)]
            body = {"model": "reviews", "input": texts}
            assert HTTP.post(f"{base}/v1/classify", json=body, headers=headers).status_code == 200
        assert process.memory_info().rss < 400 * 2**20
        assert not [m.path for m in process.memory_maps() if "libtorch" in m.path]
