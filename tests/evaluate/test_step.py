from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

import feilun.evaluate.step
import feilun.finetune.step  # noqa: F401 - registers the step
from feilun.errors import DataError, SettingError
from feilun.evaluate.settings import EvaluateSettings
from feilun.pipeline.kinds import Model, Report
from tests.models import tiny

HOSTILE = "<script>alert(1)</script>'\"&"


class Tags(HTMLParser):
    """Every element and attribute name of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen |= {tag} | {f"@{name}" for name, _ in attributes}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path_factory.mktemp("evaluate"))
    yield made
    made.store.database.close()


@pytest.fixture(scope="module")
def model(bench: tiny.Bench) -> Model:
    return bench.run("finetune", Model, tiny.QUICK, base=bench.base(), examples=bench.examples())


def report(made: Report) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made.path / "report.json").read_bytes())
    return found


def test_each_domain_has_its_figures_and_only_held_out_rows_are_asked(bench: tiny.Bench, model: Model) -> None:
    rows = tiny.frame()
    found = report(bench.run("evaluate", Report, model=model, examples=(bench.examples(rows),)))
    held_out = rows.filter(pl.col("split") == "test")
    assert found["all"]["n"] == held_out.height
    assert {k: v["n"] for k, v in found["domains"].items()} == dict(held_out["domain"].value_counts().rows())
    for figures in [found["all"], *found["domains"].values()]:
        for metric in ("macro_f1", "accuracy"):
            assert 0 <= figures[metric]["low"] <= figures[metric]["value"] <= figures[metric]["high"] <= 1
        assert sum(map(sum, figures["confusion"])) == figures["n"]
    assert found["all"]["accuracy"]["value"] > 0.8  # it learned


@pytest.mark.parametrize(
    ("require", "passed"),
    [
        ({}, True),
        ({"accuracy": 0.5}, True),
        ({"accuracy": 0.5, "macro_f1": 1.0}, False),
        ({"films.accuracy": 0.3, "books.macro_f1": 0.2}, True),
        ({"films.accuracy": 1.0}, False),
    ],
)
def test_the_gate_passes_when_every_requirement_is_met(
    bench: tiny.Bench, model: Model, require: dict[str, float], passed: bool
) -> None:
    spoiled = tiny.frame().with_columns(label=pl.col("label").replace({"fair": "good"}))  # so that nothing is perfect
    made = bench.run("evaluate", Report, {"require": require}, model=model, examples=(bench.examples(spoiled),))
    found = report(made)
    assert made.facts["passed"] is found["passed"] is passed
    assert [c["name"] for c in found["checks"]] == list(require)
    assert all(c["passed"] == (c["value"] >= c["required"]) for c in found["checks"])


def test_a_requirement_of_a_domain_that_is_not_there_gets_a_hint(bench: tiny.Bench, model: Model) -> None:
    with pytest.raises(DataError, match="did you mean 'films'"):
        settings = {"require": {"film.accuracy": 0.5}}
        bench.run("evaluate", Report, settings, model=model, examples=(bench.examples(),))


@pytest.mark.parametrize("require", [{"accuracy": 75}, {"recall:bad": -1}, {"log_loss": float("nan")}])
def test_a_requirement_that_is_no_share_is_refused_when_it_is_read(require: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        EvaluateSettings(require=require)


@pytest.mark.parametrize(
    ("require", "hint"), [("f1", "macro_f1"), ("films.acuracy", "did you mean 'accuracy'"), ("f1:bda", "f1:bad")]
)
def test_a_requirement_that_is_no_metric_of_the_task_gets_a_hint(
    bench: tiny.Bench, model: Model, require: str, hint: str
) -> None:
    with pytest.raises(SettingError, match=hint):
        bench.run("evaluate", Report, {"require": {require: 0.5}}, model=model, examples=(bench.examples(),))


def test_a_figure_that_is_better_when_it_is_lower_must_be_at_most_what_is_required(
    bench: tiny.Bench, model: Model
) -> None:
    require = {"log_loss": 50, "films.brier": 0.0, "recall:bad": 0.0, "films.f1:good": 0.1}
    found = report(bench.run("evaluate", Report, {"require": require}, model=model, examples=(bench.examples(),)))
    assert [c["passed"] for c in found["checks"]] == [True, False, True, True]
    assert [c.get("at_most", False) for c in found["checks"]] == [True, True, False, False]


def test_a_label_that_the_model_does_not_know_is_refused(bench: tiny.Bench, model: Model) -> None:
    """RELIABILITY 44: an unseen label."""
    rows = tiny.frame().with_columns(label=pl.lit("ugly"))
    strange = bench.examples(rows)
    with pytest.raises(DataError, match="'ugly'") as caught:
        bench.run("evaluate", Report, model=model, examples=(bench.examples(), strange))
    assert caught.value.where == f"dataset {strange.short}, split test, row row-0003, column label"


def test_without_held_out_rows_there_is_nothing_to_say(bench: tiny.Bench, model: Model) -> None:
    rows = tiny.frame().with_columns(split=pl.lit("train"))
    with pytest.raises(DataError, match="'test'"):
        bench.run("evaluate", Report, model=model, examples=(bench.examples(rows),))


def test_a_row_that_two_datasets_share_is_counted_once(bench: tiny.Bench, model: Model) -> None:
    rows = tiny.frame()
    both = (bench.examples(rows), bench.examples(rows.head(100)))
    assert report(bench.run("evaluate", Report, model=model, examples=both))["all"]["n"] == 60


def test_nothing_from_outside_becomes_markup_in_the_page(bench: tiny.Bench) -> None:
    """RELIABILITY 51: a hostile domain and a hostile label add no element and no attribute to the page."""

    def page(domain: str, label: str) -> str:
        rows = tiny.frame(80).with_columns(
            domain=pl.lit(domain),
            label=pl.col("label").replace({"bad": label}),
            text=pl.col("text") + pl.lit(f" {domain}"),
        )
        examples = bench.examples(rows)
        model = bench.run("finetune", Model, {**tiny.QUICK, "epochs": 1}, base=bench.base(), examples=examples)
        settings = {"require": {f"{domain}.accuracy": 0.5}}
        made = bench.run("evaluate", Report, settings, model=model, examples=(examples,))
        return (made.path / "report.html").read_text("utf-8")

    plain, hostile = Tags(), Tags()
    plain.feed(page("films", "bad"))
    text = page(HOSTILE, HOSTILE + "b")
    hostile.feed(text)
    assert hostile.seen == plain.seen and "script" not in hostile.seen
    assert "&lt;script&gt;" in text and "default-src 'none'" in text


def test_the_same_report_is_made_again_byte_for_byte(bench: tiny.Bench, model: Model, tmp_path_factory: Any) -> None:
    other = tiny.Bench(tmp_path_factory.mktemp("again"))
    made = bench.run("evaluate", Report, model=model, examples=(bench.examples(),))
    model_again = other.run("finetune", Model, tiny.QUICK, base=other.base(), examples=other.examples())
    again = other.run("evaluate", Report, model=model_again, examples=(other.examples(),))
    other.store.database.close()
    assert (model_again.digest, again.digest) == (model.digest, made.digest)


@pytest.fixture(scope="module")
def everything(bench: tiny.Bench, model: Model) -> Report:
    """A report with all that can be asked for."""
    other, second = (
        bench.run("finetune", Model, {**tiny.QUICK, **change}, base=bench.base(), examples=bench.examples())
        for change in ({"epochs": 1}, {"seed": 3})
    )
    words = [" ".join(reversed(text.split()[:3])) + " banana quark" for text in tiny.frame(80)["text"]]
    foreign = tiny.frame(80).with_columns(text=pl.Series(words))
    return bench.run(
        "evaluate",
        Report,
        {"robustness": True, "efficiency": True},
        model=model,
        examples=(bench.examples(),),
        against=other,
        seeds=(second,),
        outside=bench.examples(foreign),
    )


def test_another_model_is_compared_on_the_same_rows_by_paired_tests(everything: Report) -> None:
    told = report(everything)["against"]
    ours = report(everything)["all"]
    for name, m in told["metrics"].items():
        assert m["value"] == pytest.approx(ours[name]["value"] - m["other"])
        assert m["low"] <= m["value"] <= m["high"]
    assert told["metrics"]["accuracy"]["value"] > 0 and told["metrics"]["accuracy"]["p"] < 0.05
    only = told["mcnemar"]
    assert only["only_this"] - only["only_other"] == round(told["metrics"]["accuracy"]["value"] * ours["n"])
    assert only["p"] < 0.05 and 0 < told["agreement"] < 1


def test_models_of_other_seeds_say_how_stable_the_figures_are(everything: Report) -> None:
    told = report(everything)["seeds"]
    accuracy = told["metrics"]["accuracy"]
    assert len(told["models"]) == len(accuracy["values"]) == 2
    assert accuracy["least"] <= accuracy["mean"] <= accuracy["greatest"]
    assert 0.7 < told["agreement"] <= 1


def test_worse_written_texts_are_asked_and_an_unknown_word_costs_something(everything: Report) -> None:
    told = {r["change"]: r for r in report(everything)["robustness"]}
    assert {"typos", "upper case", "the first half only"} <= told.keys()
    assert "lower case" not in told  # these texts are in lower case: nothing would change
    upper = told["upper case"]  # a vocabulary of lower case only
    assert upper["difference"]["high"] < 0 and upper["changed_answers"] > 0.3 and upper["changed_texts"] == 1


def test_texts_of_another_kind_are_told_from_the_held_out_rows(everything: Report) -> None:
    ways = report(everything)["outside"]["ways"]
    assert set(ways) == {"best probability", "entropy", "energy", "Mahalanobis distance"}
    assert max(way["auroc"]["value"] for way in ways.values()) > 0.8
    assert all(0 <= way["fpr95"] <= 1 for way in ways.values())


def test_what_an_answer_costs_is_measured_only_when_asked(everything: Report, bench: tiny.Bench, model: Model) -> None:
    told = report(everything)["efficiency"]
    assert 0 < told["latency_ms"]["p50"] <= told["latency_ms"]["p99"] and told["rows_s"] > 0
    assert told["model_bytes"] > 1000 and told["process_bytes"] > 10**7
    plain = report(bench.run("evaluate", Report, model=model, examples=(bench.examples(),)))
    assert not {"efficiency", "robustness", "against", "seeds", "outside"} & plain.keys()


def test_every_part_of_the_report_is_on_the_page(everything: Report) -> None:
    text = (everything.path / "report.html").read_text("utf-8")
    for part in ("Against another model", "Other seeds", "Calibration", "Worse written", "Texts of another kind"):
        assert f"<h2>{part}</h2>" in text
    assert text.count("<svg") == 4 and "nan" not in text.lower().replace("banana", "")


def test_what_a_report_was_made_from_is_in_its_lineage(everything: Report, model: Model) -> None:
    assert len(everything.parents) == 5 and model.digest in everything.parents
    assert everything.facts["macro_f1"] == report(everything)["all"]["macro_f1"]["value"]
