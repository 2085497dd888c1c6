"""Regress, pair, similarity, multilabel, embed and rank: what they learn, and that they learn it, through the step."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import feilun.compress.step
import feilun.finetune.step  # noqa: F401 - registers the steps
from feilun import tasks
from feilun.errors import DataError
from feilun.finetune.settings import FinetuneSettings
from feilun.models import network
from feilun.pipeline.kinds import Model
from feilun.tasks import classify, embed, matches, multilabel, nearby, rank, regress
from feilun.tasks.options import TaskOptions
from feilun.tasks.task import Answered
from tests.models import tiny

LABELS = sorted(tiny.SAYS)
QUICK = {**tiny.QUICK, "epochs": 12, "batch_tokens": 200}
VALUE = {"bad": -100.0, "fair": 20.0, "good": 140.0}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path)
    yield made
    made.store.database.close()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base(tmp_path_factory.mktemp("base"))


def fresh(base: Path, head: str, labels: Sequence[str] = ()) -> network.Network:
    made = network.load(base, tiny.CONTEXT)
    made.relabel(labels, seed=0, head=head)
    return made


def sentence(chance: random.Random, *labels: str) -> str:
    words = [*chance.choices(tiny.FILLER, k=chance.randint(2, 8)), *(chance.choice(tiny.SAYS[x]) for x in labels)]
    return " ".join(chance.sample(words, len(words)))


def valued(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(score=pl.col("label").replace_strict(VALUE)).drop("label")


def pairs() -> pl.DataFrame:
    """What the second text says counts; the first says anything."""
    chance = random.Random(1)
    return tiny.frame().with_columns(
        text=pl.Series([sentence(chance) for _ in range(240)]),
        other=pl.col("label").map_elements(lambda label: sentence(chance, label), return_dtype=pl.String),
    )


def several() -> pl.DataFrame:
    chance = random.Random(2)
    given = [sorted(chance.sample(LABELS, chance.randint(0, 2))) for _ in range(240)]
    return (
        tiny.frame()
        .with_columns(text=pl.Series([sentence(chance, *labels) for labels in given]), labels=pl.Series(given))
        .drop("label")
    )


def judged() -> pl.DataFrame:
    """Three documents for each text: the one that says something good is right."""
    chance = random.Random(3)
    frame = tiny.frame().with_columns(number=pl.int_range(240) // 3)
    asked = [f"{i} {sentence(chance)}" for i in range(80)]
    return frame.select(
        "id",
        text=pl.col("number").map_elements(asked.__getitem__, return_dtype=pl.String),
        other=pl.col("label").map_elements(lambda label: sentence(chance, label), return_dtype=pl.String),
        score=(pl.col("label") == "good").cast(pl.Float64),
        split=pl.when(pl.col("number") % 4 == 3).then(pl.lit("test")).otherwise(pl.lit("train")),
        contributor="contributor",
        domain="domain",
    )


FRAMES: dict[str, tuple[str, str, float, Callable[[], pl.DataFrame]]] = {
    # task -> what the project file says, the first figure, its least value, rows
    "regress": ("regress", "pearson", 0.8, lambda: valued(tiny.frame())),
    "similarity": ("pair", "pearson", 0.8, lambda: valued(pairs())),
    "pair": ("pair", "macro_f1", 0.8, pairs),
    "multilabel": ("classify", "micro_f1", 0.8, several),
    "embed": ("embed", "ndcg_at_10", 0.8, lambda: tiny.frame(160)),
    "rank": ("rank", "ndcg_at_10", 0.9, judged),
}


@pytest.mark.parametrize("name", FRAMES)
def test_what_a_task_taught_is_answered_by_the_model_that_was_saved(bench: tiny.Bench, name: str) -> None:
    said, first, least, rows = FRAMES[name]
    frame = rows()
    tuned = bench.run("finetune", Model, {**QUICK, "task": said}, base=bench.base(), examples=bench.examples(frame))
    assert tuned.facts["task"] == name
    held_out = frame.filter(pl.col("split") == "test")
    found = tasks.ask(tuned, held_out)
    metrics = tasks.of(tuned).measure(held_out, found, tuned.facts["labels"])
    assert len(found.said) == held_out.height
    assert metrics[0].name == first
    assert metrics[0].figure > least
    assert all(metric.rows.shape[0] == held_out.height for metric in metrics)
    blind = held_out.select([c for c in held_out.columns if c not in ("label", "labels", "score")])
    if name != "rank":  # which makes its candidates of the rows
        assert tasks.ask(tuned, blind).said == found.said  # answers do not read the truth


def test_a_list_of_candidates_is_put_in_order(base: Path) -> None:
    net = fresh(base, "number")
    asked = pl.DataFrame({"text": ["the film"], "candidates": [["dull", "warm", "fine"]]})
    found = rank.answer(network.Answering(net), asked).said[0]["ranking"]
    assert {one["text"] for one in found} == {"dull", "warm", "fine"}
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)


def test_equal_scores_are_no_merit() -> None:
    """A model that says the same of every candidate has not found the right one."""
    frame = pl.DataFrame({"text": ["q"], "other": ["right"]})
    same = np.zeros(3, np.float32)
    found = rank.measure(frame, Answered([{}], [(["right", "wrong", "worse"], same)]), [])
    assert {m.name: m.figure for m in found}["mrr_at_10"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("scores", [[1.0, float("nan")], [1.0, float("inf")], [2.0, 2.0]])
def test_scores_that_teach_nothing_are_refused_case_44(base: Path, scores: list[float]) -> None:
    frame = pl.DataFrame({"text": ["a film", "its end"], "score": scores})
    with pytest.raises(DataError, match=r"no number to learn|nothing to learn"):
        regress.examples(frame, fresh(base, "number"), TaskOptions())


def test_the_size_of_the_numbers_does_not_change_what_is_learned(base: Path) -> None:
    small, large = (fresh(base, "number") for _ in range(2))
    frame = valued(tiny.frame(40))
    one = regress.examples(frame, small, TaskOptions())
    other = regress.examples(frame.with_columns(score=pl.col("score") * 1000 + 10**6), large, TaskOptions())
    first, second = (regress.losses(net, ex, range(40)) for net, ex in ((small, one), (large, other)))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)
    assert first.mean().item() == pytest.approx(1, abs=0.5)  # in units of the variance


def test_a_warm_start_keeps_what_a_number_means(base: Path, tmp_path: Path) -> None:
    net = fresh(base, "number")
    regress.examples(valued(tiny.frame(40)), net, TaskOptions())
    network.save(net, tmp_path, "regress")
    again = network.load(tmp_path)
    again.relabel([], seed=1, head="number")
    rows = again.tokenizer.encode("a fine film").ids
    before, after = (network.Answering(n).run([rows]) for n in (net, again))
    np.testing.assert_array_equal(before, after)
    regress.examples(valued(tiny.frame(40)).with_columns(score=pl.col("score") / 7), again, TaskOptions())
    np.testing.assert_array_equal(network.Answering(again).run([rows]), after)


def test_the_loss_of_several_labels_is_their_mean_cross_entropy(base: Path) -> None:
    net, frame = fresh(base, "labels", LABELS), several().head(20)
    examples = multilabel.examples(frame, net, TaskOptions())
    scores = network.Answering(net).run(examples.rows).astype(np.float64)
    truth = np.array([[label in row for label in LABELS] for row in frame["labels"]])
    expected = -np.log(np.where(truth, scores, 1 - scores)).mean(1)
    np.testing.assert_allclose(multilabel.losses(net, examples, range(20)).detach().numpy(), expected, rtol=1e-4)
    smooth = multilabel.examples(frame, net, TaskOptions(label_smoothing=0.2))
    soft = np.where(truth, 0.9, 0.1)
    expected = -(soft * np.log(scores) + (1 - soft) * np.log(1 - scores)).mean(1)
    np.testing.assert_allclose(multilabel.losses(net, smooth, range(20)).detach().numpy(), expected, rtol=1e-4)


def test_a_threshold_is_chosen_on_held_out_rows_and_travels_with_the_model(bench: tiny.Bench) -> None:
    say = {**QUICK, "epochs": 3, "task": "classify", "threshold": 0, "held_out": 0.3}
    tuned = bench.run("finetune", Model, say, base=bench.base(), examples=bench.examples(several()))
    engine = multilabel.load(tuned)
    chosen = engine.decided["threshold"]
    found = multilabel.answer(engine, several().head(40))
    assert 0 < chosen < 1 and chosen != 0.5
    assert [[label for label in LABELS if one["scores"][label] >= chosen] for one in found.said] == [
        sorted(one["labels"]) for one in found.said
    ]
    compressed = bench.run("compress", Model, model=tuned, examples=bench.examples(several()))
    assert multilabel.load(compressed).decided == engine.decided
    net = fresh(bench.base().path, "labels", LABELS)
    with pytest.raises(DataError, match="set held_out"):  # a project file that asks for it is refused when it is read
        multilabel.decide(net, several().clear(), TaskOptions(threshold=0))


def test_rows_of_rare_labels_can_count_as_much_as_those_of_frequent_ones(base: Path) -> None:
    net = fresh(base, "label", LABELS)
    frame = pl.concat([tiny.frame(30, labels=["good"]), tiny.frame(10, labels=["bad"])])
    plain, weighted = (classify.examples(frame, net, TaskOptions(class_weight=w)) for w in (0.0, 1.0))
    ratio = (classify.losses(net, weighted, range(40)) / classify.losses(net, plain, range(40))).detach().numpy()
    np.testing.assert_allclose(ratio, [2 / 3] * 30 + [2.0] * 10, rtol=1e-5)


def test_the_contrast_is_with_the_batch_and_never_with_what_is_known_to_be_right(base: Path) -> None:
    net = fresh(base, "vector")
    frame = pl.DataFrame({"text": ["the film", "the film", "its end"], "other": ["fine", "warm", "two hours"]})
    examples = embed.examples(frame, net, TaskOptions(temperature=0.1))
    engine = network.Answering(net)
    queries, documents = (engine.run(engine.encode(frame[c].to_list())) for c in ("text", "other"))
    near = (queries @ documents.T / 0.1).astype(np.float64)
    near[0, 1] = near[1, 0] = -np.inf  # both are right for the same text

    def surprise(table: Any) -> Any:
        return np.log(np.exp(table).sum(1)) - np.diag(table)

    expected = (surprise(near) + surprise(near.T)) / 2
    np.testing.assert_allclose(embed.losses(net, examples, range(3)).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_rejected_text_is_one_more_wrong_answer(base: Path) -> None:
    net = fresh(base, "vector")
    frame = pl.DataFrame(
        {"text": ["the film", "its end"], "other": ["fine", "two hours"], "rejected": ["dull", "poor"]}
    )
    with_wrong = embed.losses(net, embed.examples(frame, net, TaskOptions()), range(2))
    without = embed.losses(net, embed.examples(frame.drop("rejected"), net, TaskOptions()), range(2))
    assert (with_wrong > without).all()


def test_an_order_is_learned_from_what_is_right_and_what_is_not(base: Path) -> None:
    net = fresh(base, "number")
    frame = judged().head(30)
    examples = rank.examples(frame, net, TaskOptions(negatives=2))
    pairs = examples.pairs
    assert [pairs.queries[row] for row in examples.chosen] == frame.filter(pl.col("score") > 0)["text"].to_list()
    engine = network.Answering(net)
    for i, loss in enumerate(rank.losses(net, examples, range(len(examples))).tolist()):
        row, shown = examples.chosen[i], examples.shown[i]
        assert set(shown[1:]) == set(pairs.wrong[row])  # the two that are judged to be wrong
        candidates = [[pairs.documents[j] for j in shown]]
        said = rank.answer(engine, pl.DataFrame({"text": [pairs.queries[row]], "candidates": candidates}))
        scores = said.raw[0][1].astype(np.float64)
        assert loss == pytest.approx(float(np.log(np.exp(scores).sum()) - scores[0]), abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 15))
def test_near_wrong_documents_are_wrong_near_and_the_same_whatever_the_memory(
    seed: int, n: int, documents: int
) -> None:
    chance = np.random.default_rng(seed)
    queries, shown = (
        [chance.integers(0, 12, chance.integers(1, 6)).tolist() for _ in range(m)] for m in (n, documents)
    )
    right = [set(chance.integers(0, documents, 2).tolist()) for _ in range(n)]
    found = nearby.wrong(queries, shown, right, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearby, "CELLS", documents)
        again = nearby.wrong(queries, shown, right, 3)
    for query, good, one, other in zip(queries, right, found, again, strict=True):
        assert one.tolist() == other.tolist()
        assert len(one) == min(3, documents - len(good)) and good.isdisjoint(one.tolist())
        if any(set(query) & set(shown[i]) for i in range(documents) if i not in good):
            assert set(query) & set(shown[one[0]])  # the nearest shares a word where any does


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xy")), min_size=1, max_size=20))
def test_rows_of_a_label_are_right_for_each_other_and_each_serves_once(rows: list[tuple[str, str]]) -> None:
    found = matches.find(pl.DataFrame({"text": [t for t, _ in rows], "label": [y for _, y in rows]}))
    assert all(int(one) in good for one, good in zip(found.positive, found.right, strict=True))
    for label in "xy":
        mine = [i for i, (_, y) in enumerate(rows) if y == label]
        served = sorted(found.documents[found.positive[i]] for i in mine)
        assert served == sorted(rows[i][0] for i in mine)
    assert found.counted.sum() == len({t for t, _ in rows})
    assert [found.queries[i] for i in found.first] == found.documents


@pytest.mark.parametrize("columns", [{}, {"other": ["x"], "label": ["y"]}])
def test_rows_that_do_not_say_what_belongs_together_are_refused(columns: dict[str, list[str]]) -> None:
    with pytest.raises(DataError, match="belong together"):
        matches.find(pl.DataFrame({"text": ["a"], **columns}))


def test_an_option_that_the_task_does_not_read_is_refused() -> None:
    assert FinetuneSettings(task="classify", threshold=0.3).threshold == 0.3  # rows may have several labels
    with pytest.raises(ValidationError, match="'negatives' has no effect with task = 'classify': it is for rank"):
        FinetuneSettings(task="classify", negatives=3)
