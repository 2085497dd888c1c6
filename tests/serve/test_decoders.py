"""Releases of models that write: loaded, proved, swapped; and one that another server answers for."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from faults.house import House, Running, build_writer, gateway, make_writer, open_house
from feilun.errors import ArtifactError, FeilunError, SettingError, UnavailableError
from feilun.models import causal, graph, paged, remote
from feilun.models.decoder import Manner, Piece, written
from feilun.pipeline.kinds import Model, Release
from feilun.serve import fingerprints, release
from feilun.store import releases, tables


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("writers")
    with open_house(f"sqlite:///{folder}/feilun.db", folder) as house:
        make_writer(house.store, folder, 1, "plain", engine="reference")
        made = make_writer(house.store, folder, 1)
        releases.promote(house.database, "writer", made.digest, expected_version=0, reason="first")
        yield house


@pytest.fixture(scope="module")
def answering(writers: House) -> Iterator[Running]:
    with gateway(writers, threads=1) as running:
        yield running


def model_of(house: House, name: str) -> tuple[Model, dict[str, Any]]:
    with house.database.read() as connection:
        query = select(tables.releases.c.digest).where(tables.releases.c.name == name)
        digest = connection.execute(query).scalar_one()
    found = house.store.get(digest)
    assert isinstance(found, Release)
    said = release.read(found.path)
    model = house.store.get(said["model"])
    assert isinstance(model, Model)
    return model, said


def test_a_release_of_either_engine_proves_itself_and_one_with_other_weights_does_not(
    writers: House, tmp_path: Path
) -> None:
    for name in ("writer", "plain"):
        model, said = model_of(writers, name)
        assert [len(p["tokens"]) for p in said["probes"]] == [fingerprints.TOKENS] * 2
        engine = release.open_engine(model, threads=1)
        release.check(engine, said, 0.02)
        engine.close()
    build_writer(tmp_path / "plain", seed=2)
    (tmp_path / "paged").mkdir()
    network = causal.load(tmp_path / "plain")
    graph.save(graph.build(network), network, tmp_path / "paged")
    other = paged.load(tmp_path / "paged", threads=1)
    with pytest.raises(ArtifactError, match="answers its probes otherwise"):
        release.check(other, said, 0.02)
    other.close()


def test_both_engines_have_the_same_fingerprint(writers: House) -> None:
    (_, one), (_, other) = (model_of(writers, name) for name in ("writer", "plain"))
    for first, second in zip(one["probes"], other["probes"], strict=True):
        assert fingerprints.distance(first, second, 0.02) < 0.01


@pytest.fixture(scope="module")
def far(writers: House, answering: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[remote.Remote]:
    """Our own gateway as another server."""
    folder = tmp_path_factory.mktemp("far")
    model, _ = model_of(writers, "plain")
    upstream = remote.Upstream(
        f"{answering.base}/v1", "writer", 512, key="FEILUN_TEST_UPSTREAM", prompts="text",
        abilities=("penalties", "logprobs"),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FEILUN_TEST_UPSTREAM", writers.tokens["acme"])
        remote.write(folder, model.path, upstream)
        decoder = remote.load(folder)
    yield decoder
    decoder.close()


def local(writers: House) -> paged.Paged:
    return paged.load(model_of(writers, "writer")[0].path, threads=1)


def test_what_another_server_writes_is_what_it_would_be_here(writers: House, far: remote.Remote) -> None:
    here = local(writers)
    prompts = [here.encode(text) for text in ("good film", "a plot that is not bad")]
    for manner in (Manner(most=16, logprobs=0), Manner(most=16, temperature=0.9, seed=4)):
        for ours, theirs in zip(written(here, prompts, manner), written(far, prompts, manner), strict=True):
            assert "".join(p.text for p in theirs) == "".join(p.text for p in ours)
            assert sum(p.tokens for p in theirs) == sum(p.tokens for p in ours) == 16
            assert [p.finish for p in theirs if p.finish] == ["length"]
            first, second = ([c.logprob for p in answer for c in p.chances] for answer in (ours, theirs))
            if manner.logprobs is not None:
                np.testing.assert_allclose(second, first, atol=0.02)
    here.close()


def test_another_server_is_told_of_stop_strings_and_not_of_what_it_does_not_know(far: remote.Remote) -> None:
    prompt = far.encode("good film")
    with pytest.raises(SettingError) as refused:
        written(far, [prompt], Manner(most=40, schema='{"type": "null"}'))
    assert refused.value.where == "response_format"
    [whole] = written(far, [prompt], Manner(most=16))
    said = "".join(p.text for p in whole)
    [pieces] = written(far, [prompt], Manner(most=16, stop=(said[6:9],)))
    assert "".join(p.text for p in pieces) == said[: said.index(said[6:9])] and pieces[-1].finish == "stop"


def test_what_another_server_refuses_or_does_not_know_is_told_as_ours_or_theirs(far: remote.Remote) -> None:
    with pytest.raises(SettingError):  # it can't, and is not asked
        written(far, [[5]], Manner(most=1, logprobs=3))
    far._upstream = replace(far._upstream, model="nobody")
    with pytest.raises(UnavailableError, match="cannot go on"):
        written(far, [[5]], Manner(most=1))
    far._upstream = replace(far._upstream, model="writer")
    away = remote.Remote(replace(far._upstream, url="http://127.0.0.1:9/v1"), far._speech)
    with pytest.raises(UnavailableError):
        written(away, [[5]], Manner(most=1))
    away.close()


def test_an_answer_of_another_server_can_be_stopped(far: remote.Remote) -> None:
    told: queue.SimpleQueue[Piece | BaseException] = queue.SimpleQueue()
    stop = far.write(far.encode("good film"), Manner(most=400), told.put)
    assert isinstance(told.get(timeout=20), Piece)
    stop()
    while not told.empty():
        assert not isinstance(told.get(), FeilunError)
    stop()
