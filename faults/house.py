"""A small house to serve from: a real OpenVINO model of a few hundred weights, releases, tenants and keys."""

from __future__ import annotations

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

import httpx
import numpy as np

from faults.nursery import ROOT, Child, Nursery
from feilun.accounts import keys, tenants
from feilun.accounts.terms import Terms
from feilun.bill.settings import BillSettings
from feilun.pipeline.kinds import Model, Release
from feilun.pipeline.steps import Workspace
from feilun.serve.settings import ServeSettings
from feilun.serve.step import serve
from feilun.store import releases
from feilun.store.artifacts import ArtifactStore
from feilun.store.database import Database
from feilun.store.migrations import open_database

PEPPER = b"a pepper of more than thirty-two bytes"
TEXT = "good bad fine film plot ending dull bright slow sharp we like it not at all . ! this is"
WORDS = TEXT.split()
LABELS = ("negative", "neutral", "positive")
CONTEXT = 32
PLANS = {
    "metered": Terms("USD", unit_nano={"requests": 1_000_000, "tokens": 10}),
    "starter": Terms("USD", 19 * 10**9, {"requests": 5}, {"requests": 800_000}),
    "tens": Terms("USD", unit_nano={"requests": 10**9}),
    "rows": Terms("USD", unit_nano={"rows": 2_000_000, "downloads": 10**9}),
    "minute": Terms("USD", requests_per_minute=10),
    "spoken": Terms("USD", unit_nano={"tokens": 10, "tokens_out": 40}),
    "kept": Terms("USD", unit_nano={"requests": 1_000_000}, cached_percent=10, cache_s=600),
}
BILL = BillSettings.model_validate(
    {
        "core_hour": "0.05 USD",
        "plans": {
            "metered": {"overage": {"requests": "0.001 USD", "tokens": "0.00000001 USD"}},
            "starter": {"monthly": "19 USD", "included": {"requests": 5}, "overage": {"requests": "0.0008 USD"}},
            "tens": {"overage": {"requests": "1 USD"}},
            "minute": {"requests_per_minute": 10},
            "kept": {"overage": {"requests": "0.001 USD"}, "cached_percent": 10, "cache": 600},
        },
    }
)


def build_model(folder: Path, seed: int, *, fragile: bool = False) -> None:
    """Bag of words: embed, mean over the mask, softmax. Another seed answers otherwise.

    Args:
        fragile: an engine that fails at the word "this", which no probe has.
    """
    import openvino
    from openvino import opset13 as ops
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    table = random.normal(0, 3, (len(WORDS) + 2, len(LABELS))).astype(np.float32)
    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    mask = ops.parameter([-1, -1], np.int64, name="attention_mask")
    weight = ops.unsqueeze(ops.convert(mask, "f32"), ops.constant([2]))
    looked = ids
    if fragile:  # parts that are longer than the whole
        met = ops.convert(ops.equal(ids, ops.constant(np.int64(WORDS.index("this") + 2))), "i64")
        longer = ops.reshape(ops.reduce_max(met, ops.constant([0, 1])), ops.constant([1]), False)
        columns = ops.gather(ops.shape_of(ids), ops.constant([1]), ops.constant(0))
        looked = ops.variadic_split(ids, ops.constant(1), ops.concat([columns, longer], 0)).output(0)
    rows = ops.multiply(ops.gather(ops.constant(table), looked, ops.constant(0)), weight)
    one = ops.constant([1])
    mean = ops.divide(ops.reduce_sum(rows, one), ops.reduce_sum(weight, one))
    scores = ops.softmax(mean, 1)
    openvino.save_model(openvino.Model([scores], [ids, mask], "words"), folder / "model.xml", compress_to_fp16=False)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["[PAD]", "[UNK]", *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(CONTEXT)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"id2label": {str(i): label for i, label in enumerate(LABELS)}}
    (folder / "config.json").write_text(json.dumps(config))


def make_release(
    store: ArtifactStore,
    work: Path,
    seed: int,
    name: str = "reviews",
    *,
    tenant: str | None = None,
    fallback: tuple[str, ...] = (),
    fragile: bool = False,
) -> Release:
    """A model and the release that the step makes of it, registered but not promoted."""
    build_model(work / f"model-{seed}", seed, fragile=fragile)
    facts = {"format": "openvino", "task": "classify", "labels": list(LABELS), "context": CONTEXT}
    model = store.add(Model, work / f"model-{seed}", parents=[], facts=facts)
    folder, scratch = work / f"release-{seed}", work / f"scratch-{seed}"
    folder.mkdir()
    scratch.mkdir()
    probes = tuple(" ".join(WORDS[i : i + 4]) for i in range(0, 16, 2))
    settings = ServeSettings(name=name, probes=probes, fallback=fallback)
    release = serve(model, (), settings, Workspace(store, folder, scratch))
    releases.register(store.database, release, tenant=tenant)
    return release


TALK = (
    "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def build_writer(folder: Path, seed: int, positions: int = 512) -> None:
    """A Llama of two layers and random weights that reads and writes bytes; no answer of its begins with its end.

    The base as finetune would save it: what the reference engine answers with. Greedy answers of one seed differ from
    those of another from the first token on.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from feilun.models import chat, network

    folder.mkdir(parents=True)
    specials = ["<pad>", "<s>", "</s>"]
    letters = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({w: i for i, w in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = transformers.LlamaConfig(
        vocab_size=len(letters),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        initializer_range=0.3,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    told = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / chat.CONFIGURATION).write_text(json.dumps(told), "utf-8")
    (folder / chat.TEMPLATE).write_text(TALK, "utf-8")
    with torch.random.fork_rng(), network.quiet():
        torch.manual_seed(seed)
        made = transformers.LlamaForCausalLM(config)
        shown = [i for i, w in enumerate(letters) if w == "Ġ" or (len(w) == 1 and w.isascii())]
        with torch.no_grad():  # it writes letters, hardly ever half a character or its end
            head = torch.zeros_like(made.lm_head.weight)
            head[shown] = 2 * made.lm_head.weight[shown]
            made.lm_head.weight.copy_(head)
        made.save_pretrained(folder)


def make_writer(
    store: ArtifactStore, work: Path, seed: int, name: str = "writer", *, engine: str = "paged", positions: int = 512
) -> Release:
    """A causal model that answers by an engine, "paged" or "reference", and its release, not promoted."""
    from feilun.models import causal, graph

    plain, folder = work / f"{name}-plain-{seed}", work / f"{name}-{engine}-{seed}"
    build_writer(plain, seed, positions)
    facts: dict[str, Any] = {"task": "generate", "context": positions}
    if engine == "reference":
        model = store.add(Model, plain, parents=[], facts=facts | {"format": "safetensors"})
    else:
        folder.mkdir()
        network = causal.load(plain)
        graph.save(graph.build(network), network, folder)
        model = store.add(Model, folder, parents=[], facts=facts | {"format": "paged"})
    sealed, scratch = work / f"{name}-release-{seed}", work / f"{name}-scratch-{seed}"
    sealed.mkdir()
    scratch.mkdir()
    release = serve(model, (), ServeSettings(name=name, probes=("good", "bad film")), Workspace(store, sealed, scratch))
    releases.register(store.database, release)
    return release


@dataclass
class House:
    """Everything that a gateway needs, and the keys to ask it with."""

    url: str
    folder: Path
    database: Database
    store: ArtifactStore
    release: Release
    tokens: dict[str, str] = field(default_factory=dict)
    nursery: Nursery | None = None  # where there is one, gateways are forked from it

    def tenant(self, name: str, *, plan: str = "metered", budget_nano: int | None = None) -> str:
        """A tenant with a key; returns the token."""
        tenants.create(self.database, name, plan=plan, budget_nano=budget_nano)
        self.tokens[name] = keys.create(self.database, PEPPER, name).token
        return self.tokens[name]


@contextmanager
def open_house(url: str, folder: Path, nursery: Nursery | None = None) -> Iterator[House]:
    """A database and a store with one promoted release, seed 1, of ``reviews``; tenant acme has a key."""
    with open_database(url) as database:
        store = ArtifactStore(folder / "artifacts", database)
        release = make_release(store, folder, 1)
        releases.promote(database, "reviews", release.digest, expected_version=0, reason="first")
        house = House(url, folder, database, store, release, nursery=nursery)
        house.tenant("acme")
        yield house


@dataclass
class Running:
    """A gateway process."""

    process: subprocess.Popen[bytes] | Child
    base: str
    log: Path

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and wait."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def start(
    house: House,
    *,
    port: int | None = None,
    environment: Mapping[str, str] | None = None,
    wait: bool = True,
    **options: Any,
) -> Running:
    """A real uvicorn in a process of its own; ``options`` are fields of GatewaySettings, or planted="..."."""
    port = port or free_port()
    log = house.folder / f"gateway-{port}.log"
    told = {"url": house.url, "artifacts": str(house.folder / "artifacts"), "port": port, "options": options}
    process: subprocess.Popen[bytes] | Child
    if house.nursery is not None:
        process = house.nursery.fork(told, log, environment)
    else:
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "faults.gateway", json.dumps(told)],
                env={**os.environ, **(environment or {})},
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
    running = Running(process, f"{'https' if options.get('tls') else 'http'}://127.0.0.1:{port}", log)
    if wait:
        wait_until_ready(running)
    return running


def readiness(running: Running, timeout: float) -> int | None:
    """What readyz says; None where nobody answers in time."""
    try:
        return HTTP.get(running.base + "/readyz", timeout=timeout).status_code
    except httpx.TransportError:
        return None


def wait_until_ready(running: Running, timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and running.process.poll() is None:
        if readiness(running, 2.0) == 200:
            return
        time.sleep(0.02)
    raise AssertionError(f"the gateway did not become ready:\n{running.log.read_text()[-3000:]}")


@contextmanager
def gateway(house: House, **options: Any) -> Iterator[Running]:
    """A running gateway, killed at the end."""
    running = start(house, **options)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()


HTTP = httpx.Client(
    verify=False, timeout=30
)  # one for all: a new one loads certificates, which takes longer than asking


def ask(running: Running, token: str, text: str | list[str] = "good film", **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}", **more.pop("headers", {})}
    return HTTP.post(running.base + "/v1/classify", json={"model": "reviews", "input": text} | more, headers=headers)


def damage(path: Path) -> None:
    """Flip one byte in the middle of a file."""
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(body))


def copy_of(house: House, folder: Path) -> Path:
    return Path(shutil.copytree(house.folder / "artifacts", folder))
