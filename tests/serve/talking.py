"""A house with models that write, turn texts into vectors and flag them, and a gateway that serves them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openai

from faults.house import LABELS, WORDS, House, Running, build_model, build_writer, gateway, make_writer, open_house
from faults.nursery import Nursery
from feilun.pipeline.kinds import Model
from feilun.pipeline.steps import Workspace
from feilun.serve.settings import ServeSettings
from feilun.serve.step import serve
from feilun.store import releases

MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How was the film?"}]
SIZE = 6  # of vectors
HASTY: dict[str, Any] = {"lease_s": 1.0}  # what a dead gateway was writing is found soon


@dataclass
class Talking:
    """The house, its gateway, and who asks."""

    house: House
    running: Running
    token: str
    client: openai.OpenAI

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


def build_vectors(folder: Path) -> None:
    """The mean of random vectors of words, of length 1."""
    import openvino
    from openvino import opset13 as ops

    build_model(folder, 5)
    table = np.random.default_rng(5).normal(0, 1, (len(WORDS) + 2, SIZE)).astype(np.float32)
    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    mask = ops.parameter([-1, -1], np.int64, name="attention_mask")
    weight = ops.unsqueeze(ops.convert(mask, "f32"), ops.constant([2]))
    rows = ops.multiply(ops.gather(ops.constant(table), ids, ops.constant(0)), weight)
    sums = ops.reduce_sum(rows, ops.constant([1]))
    unit = ops.normalize_l2(sums, ops.constant([1]), 1e-12, "max")
    openvino.save_model(openvino.Model([unit], [ids, mask], "vectors"), folder / "model.xml", compress_to_fp16=False)
    (folder / "config.json").write_text(json.dumps({"feilun": {"head": "vector"}}))


def build_mute(folder: Path) -> None:
    """A writer for which every token is an end."""
    from feilun.models import causal, graph

    plain = folder.with_name("mute-plain")
    build_writer(plain, 2)
    for name in ("config.json", "generation_config.json"):
        told = json.loads((plain / name).read_text("utf-8"))
        (plain / name).write_text(
            json.dumps(told | {"eos_token_id": list(range(told.get("vocab_size", 259)))}), "utf-8"
        )
    folder.mkdir()
    network = causal.load(plain)
    graph.save(graph.build(network), network, folder)


def make(house: House, name: str, folder: Path, facts: dict[str, Any], **settings: Any) -> None:
    """A release of a model's folder, promoted."""
    model = house.store.add(Model, folder, parents=[], facts=facts)
    sealed, scratch = folder.with_name(f"{name}-release"), folder.with_name(f"{name}-scratch")
    sealed.mkdir()
    scratch.mkdir()
    chosen = ServeSettings(name=name, probes=("good", "bad film"), **settings)
    release = serve(model, (), chosen, Workspace(house.store, sealed, scratch))
    releases.register(house.database, release)
    releases.promote(house.database, name, release.digest, expected_version=0, reason="first")


@contextmanager
def open_talking(url: str, folder: Path, **options: Any) -> Iterator[Talking]:
    """All of it; ``talk`` writes, ``mute`` ends before it begins, ``vectors`` embeds, the others classify."""
    with Nursery() as nursery, open_house(url, folder, nursery) as house:
        release = make_writer(house.store, folder, 1, "talk")
        releases.promote(house.database, "talk", release.digest, expected_version=0, reason="first")
        build_mute(folder / "mute")
        make(house, "mute", folder / "mute", {"format": "paged", "task": "generate", "context": 512})
        build_vectors(folder / "vectors")
        make(house, "vectors", folder / "vectors", {"format": "openvino", "task": "embed", "context": 32})
        build_model(folder / "flags", 9)
        facts = {"format": "openvino", "task": "classify", "labels": list(LABELS), "context": 32}
        make(house, "flags", folder / "flags", facts, harmless=("neutral", "positive"))
        token = house.tenant("speaker", plan="spoken")
        with (
            gateway(house, **options) as running,
            openai.OpenAI(api_key=token, base_url=f"{running.base}/v1", max_retries=0) as client,
        ):
            yield Talking(house, running, token, client)
