"""Many models on one base: whose answer is it? (case 38, with adapters)."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from faults.counting import Count, Setup, case
from faults.house import CONTEXT, LABELS, WORDS, House, Running, start
from feilun.models import apart, shared
from feilun.pipeline.kinds import Model, Release
from feilun.pipeline.steps import Workspace
from feilun.serve.release import scores_of
from feilun.serve.settings import ServeSettings
from feilun.serve.step import serve
from feilun.store import releases
from feilun.store.artifacts import ArtifactStore

WIDTH, INNER = 16, 24
SIZES = {"mix.first": (WIDTH, INNER), "mix.second": (INNER, WIDTH)}
PROBES = ("good fine film", "bad dull plot", "we like it", "slow ending .")
CLOSE = 1e-4  # two models of ours differ by more than a hundred times as much


def build_base(folder: Path, seed: int = 0) -> None:
    """Words to vectors, two linear modules that adapters can change, and the mean of what comes out."""
    import openvino
    from openvino import opset13 as ops
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True)
    chance = np.random.default_rng(seed)
    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    mask = ops.parameter([-1, -1], np.int64, name="attention_mask")
    table = chance.normal(0, 1, (len(WORDS) + 2, WIDTH)).astype(np.float32)
    states = ops.gather(ops.constant(table), ids, ops.constant(0))
    for name, (inside, outside) in SIZES.items():
        weight = chance.normal(0, inside**-0.5, (outside, inside)).astype(np.float32)
        product = ops.matmul(states, ops.constant(weight), False, True)
        product.set_friendly_name(f"linear:{name}")
        bias = ops.constant(chance.normal(0, 0.1, (1, 1, outside)).astype(np.float32))
        states = ops.gelu(ops.add(product, bias), "erf")
    counted = ops.unsqueeze(ops.convert(mask, "f32"), ops.constant([2]))
    one = ops.constant([1])
    pooled = ops.divide(ops.reduce_sum(ops.multiply(states, counted), one), ops.reduce_sum(counted, one))
    model = openvino.Model([states, pooled], [ids, mask], "base")
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["[PAD]", "[UNK]", *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(CONTEXT)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text("{}")


def build_adapter(
    folder: Path,
    seed: int,
    rank: int = 0,
    sizes: Mapping[str, tuple[int, int]] = SIZES,
    *,
    width: int = WIDTH,
    context: int = CONTEXT,
) -> None:
    """A head of random numbers, and LoRA of random numbers where there is a rank, as compress keeps them apart."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(seed)
    told = {"task": "classify", "head": "label", "context": context}
    config = {"id2label": {str(i): label for i, label in enumerate(LABELS)}, "feilun": told}
    (folder / "config.json").write_text(json.dumps(config))
    weight = chance.normal(0, 2, (len(LABELS), width)).astype(np.float32)
    save_file({"weight": weight, "bias": chance.normal(0, 1, len(LABELS)).astype(np.float32)}, folder / apart.HEAD)
    if rank:
        (folder / apart.FOLDER).mkdir()
        told = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank}
        (folder / apart.FOLDER / apart.CONFIG).write_text(json.dumps(told))
        tensors = {}
        for module, (inside, outside) in sizes.items():
            down = chance.normal(0, inside**-0.5, (rank, inside)).astype(np.float32)
            tensors[f"{apart.PREFIX}{module}.lora_A.weight"] = down
            up = chance.normal(0, rank**-0.5, (outside, rank)).astype(np.float32)
            tensors[f"{apart.PREFIX}{module}.lora_B.weight"] = up
        save_file(tensors, folder / apart.FOLDER / apart.WEIGHTS)


def add_base(store: ArtifactStore, work: Path) -> Model:
    """The base as an artefact."""
    build_base(work / "base")
    return store.add(Model, work / "base", parents=[], facts={"format": shared.BASE})


def add_adapter(store: ArtifactStore, work: Path, base: Model, seed: int, rank: int = 0) -> Model:
    """A model of the base as an artefact."""
    build_adapter(work / f"adapter-{seed}", seed, rank)
    facts = {"format": shared.FORMAT, "base": base.digest, "task": "classify", "labels": list(LABELS)}
    return store.add(Model, work / f"adapter-{seed}", parents=[base.digest], facts=facts | {"context": CONTEXT})


def add_release(store: ArtifactStore, work: Path, model: Model, name: str) -> Release:
    """Its release, registered but not promoted."""
    folder, scratch = work / f"release-{model.short}", work / f"scratch-{model.short}"
    folder.mkdir()
    scratch.mkdir()
    release = serve(
        model, (), ServeSettings.model_validate({"name": name, "probes": PROBES}), Workspace(store, folder, scratch)
    )
    releases.register(store.database, release)
    return release


@dataclass
class Street:
    """Models of one base, a release each: ``names`` are promoted, and each has a second release to change to."""

    names: list[str] = field(default_factory=list)
    pairs: dict[str, tuple[Release, Release]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    engines: dict[str, shared.Member] = field(default_factory=dict)  # by digest of the release: what it should say

    def swap(self, house: House, name: str) -> None:
        """Let the other release of a name answer."""
        version = self.versions[name]
        release = self.pairs[name][version % 2]
        releases.promote(house.database, name, release.digest, expected_version=version, reason="swap")
        self.versions[name] = version + 1

    def is_wrong(self, answer: Mapping[str, object], texts: Sequence[str], name: str) -> bool:
        """Whether an answer is not what the release that it names says to the same texts, or is of another name."""
        engine = self.engines.get(str(answer["release"]))
        if engine is None or answer["release"] not in {release.digest for release in self.pairs[name]}:
            return True
        said = answer["results"]
        assert isinstance(said, list)
        for result, row in zip(said, engine.outputs(engine.encode(texts)), strict=True):
            expected = scores_of(engine.labels, list(row))
            if max(abs(result["scores"][label] - expected[label]) for label in expected) > CLOSE:
                return True
        return False


def build_street(house: House, count: int) -> Street:
    """``count`` names with two releases each: every third has a head alone, the others LoRA of two ranks."""
    street, bases = Street(), shared.Bases(threads=1)
    base = add_base(house.store, house.folder)
    for number in range(count):
        name = f"model-{number}"
        rank = (0, 2, 3)[number % 3]
        pair = []
        for which in (0, 1):
            model = add_adapter(house.store, house.folder, base, 1000 * which + number, rank)
            pair.append(add_release(house.store, house.folder, model, name))
            street.engines[pair[-1].digest] = bases.open(model)
        street.pairs[name], street.versions[name] = (pair[0], pair[1]), 0
        street.names.append(name)
        street.swap(house, name)
    return street


def room_for(street: Street, models: int) -> int:
    """Bytes of the changes of so many of the largest models."""
    return models * max(engine.wanted.size for engine in street.engines.values() if engine.wanted)


@dataclass
class Askers:
    """Threads that ask for models by chance, and keep every answer."""

    base: str
    token: str
    names: Sequence[str]
    answers: list[tuple[str, list[str], dict[str, object]]] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def work(self, seed: int) -> None:
        """Ask until told to stop."""
        chance = random.Random(seed)
        connection = http.client.HTTPConnection(self.base.removeprefix("http://"), timeout=20)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        while not self.stop.is_set():
            name = chance.choice(self.names)
            texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 20))) for _ in range(chance.randint(1, 3))]
            connection.request("POST", "/v1/classify", json.dumps({"model": name, "input": texts}), headers)
            reply = connection.getresponse()
            body = reply.read()
            if reply.status == 200:
                self.answers.append((name, texts, json.loads(body)))
            else:
                self.refused.append(reply.status)
        connection.close()


def wrong_answers(house: House, running: Running, street: Street, least: int, seed: int) -> tuple[list[str], int]:
    """Ask for all models, changing releases all the time; what was answered wrong, and how many answers there were."""
    askers = Askers(running.base, house.tokens["acme"], street.names)
    threads = [threading.Thread(target=askers.work, args=(seed + n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    chance, end = random.Random(seed), time.monotonic() + 60 + least / 20
    while len(askers.answers) < least and time.monotonic() < end:
        time.sleep(0.1)
        street.swap(house, chance.choice(street.names))
    askers.stop.set()
    for thread in threads:
        thread.join()
    wrong = [f"{name}: wrong answer" for name, texts, said in askers.answers if street.is_wrong(said, texts, name)]
    return wrong + [f"refused with {status}" for status in askers.refused], len(askers.answers)


@case(38, "many models on one base, releases changed and weights evicted under load: no answer of another's")
def many_models(setup: Setup) -> Count:
    """Each answer is a trial; the control lets rows read their neighbours' slots."""
    count = Count()
    for planted in (None, "adapters-mixed-up"):
        with setup.house() as house:
            street = build_street(house, 12)
            options: dict[str, Any] = {"adapter_bytes": room_for(street, 4)}
            options |= {} if planted is None else {"planted": planted}
            running = start(house, **options)
            try:
                least = setup.times(20_000, 300) if planted is None else 300
                wrong, answers = wrong_answers(house, running, street, least, setup.seed)
            finally:
                running.kill()
        if planted is None:
            count.trial(wrong, max(answers, 1))
        else:
            count.controls[planted] = any("wrong answer" in words for words in wrong)
    return count
