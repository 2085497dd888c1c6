"""A model's card comes from lineage, and what is exported is loaded by transformers and by ourselves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import polars as pl
import pytest
import torch
import transformers

import feilun.compress.step
import feilun.evaluate.step
import feilun.finetune.step  # noqa: F401 - each registers its step
from feilun import catalog, tasks
from feilun.errors import ConflictError
from feilun.models import card, network
from feilun.models.export import export
from feilun.pipeline.kinds import Model, Report
from tests.models import tiny

HOSTILE = "a|b`c\n# [x](javascript:1)<script>"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path_factory.mktemp("card"))
    yield made
    made.store.database.close()


@pytest.fixture(scope="module")
def model(bench: tiny.Bench) -> Model:
    facts = {"licence": "Apache-2.0", "origin": "catalog:all-MiniLM-L6-v2", "language": "en", "title": "A tiny: base"}
    base = bench.model(tiny.write_base(bench.folder / "base"), format="safetensors", **facts)
    return bench.run("finetune", Model, {**tiny.QUICK, "epochs": 4}, base=base, examples=bench.examples())


@pytest.fixture(scope="module")
def exported(bench: tiny.Bench, model: Model) -> Path:
    bench.run("evaluate", Report, {"require": {"accuracy": 0.1}}, model=model, examples=(bench.examples(),))
    to = bench.folder / "hub" / "exported"
    export(bench.store, model, card.of(bench.store, model), to)
    return to


def test_every_tuned_model_has_a_card_that_the_hub_reads(model: Model) -> None:
    read = huggingface_hub.ModelCard.load(model.path / card.FILE)
    said = read.data.to_dict()
    assert said["license"] == "apache-2.0" and said["language"] == "en"
    assert said["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert said["pipeline_tag"] == "text-classification" and said["library_name"] == "transformers"
    assert "180 train, 60 test" not in read.text  # this dataset came without counts: none are made up
    assert "`learning_rate` | `0.005`" in read.text and "`bad`, `fair`, `good`" in read.text
    assert all(digest in read.text for digest in model.parents)


def test_a_compressed_model_has_one_too(bench: tiny.Bench, model: Model) -> None:
    settings = {"quantise": "none", "parity_rows": 20}
    small = bench.run("compress", Model, settings, model=model, examples=bench.examples())
    read = huggingface_hub.ModelCard.load(small.path / card.FILE)
    assert read.data.to_dict()["library_name"] == "openvino"
    assert model.digest in read.text and "openvino.Core()" in read.text
    made = bench.run("evaluate", Report, model=small, examples=(bench.examples(),))
    of_trained = card.Told(model.facts, (), {}, model.digest, (made,))
    text = card.render(bench.store, of_trained)  # what was measured on another form is told as that, and only there
    assert f"on {small.short}, made from this model" in text and "model-index" not in text


def test_an_exported_card_tells_what_was_measured(bench: tiny.Bench, model: Model, exported: Path) -> None:
    read = huggingface_hub.ModelCard.load(exported / card.FILE)
    results = {(r.dataset_name, r.metric_type): r.metric_value for r in read.data.eval_results or []}
    report = card.of(bench.store, model).reports[0]  # its own come first
    figures = json.loads((report.path / "report.json").read_bytes())
    assert results["all rows", "accuracy"] == pytest.approx(figures["all"]["accuracy"]["value"], abs=1e-6)
    assert results["films", "macro_f1"] == pytest.approx(figures["domains"]["films"]["macro_f1"]["value"], abs=1e-6)
    assert "; passed." in read.text and model.digest in read.text and report.digest in read.text


def test_transformers_loads_what_is_exported_and_its_states_and_our_head_give_our_answers(
    bench: tiny.Bench, model: Model, exported: Path
) -> None:
    texts = tiny.frame(20)["text"].to_list()
    with network.quiet():
        encoder, found = transformers.AutoModel.from_pretrained(exported, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    assert all(name.startswith("pooler.") for name in found["missing_keys"]) and not found["unexpected_keys"]
    assert tokenizer.model_max_length == tiny.CONTEXT
    head = network.load(exported).head
    ours = tasks.ask(model, tiny.frame(20)).raw
    encoder.eval()
    for text, row in zip(texts, ours, strict=True):
        given = tokenizer(text, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            states = encoder(**given).last_hidden_state.mean(1)
            scores = (states @ head.weight.T + head.bias).softmax(-1)
        np.testing.assert_allclose(scores[0].numpy(), row, atol=2e-5)


def test_an_exported_folder_comes_back_with_its_head_labels_licence_and_task(
    bench: tiny.Bench, model: Model, exported: Path
) -> None:
    fetched = catalog.fetch(str(exported), Model, root=bench.folder)
    assert {k: fetched.facts[k] for k in ("format", "licence", "task", "labels")} == {
        "format": "safetensors",
        "licence": "apache-2.0",
        "task": "classify",
        "labels": ["bad", "fair", "good"],
    }
    back = bench.store.add(Model, fetched.files, parents=[], facts=fetched.facts)
    np.testing.assert_array_equal(tasks.ask(back, tiny.frame(20)).raw, tasks.ask(model, tiny.frame(20)).raw)
    quick = {**tiny.QUICK, "epochs": 1, "learning_rate": 1e-6}
    again = bench.run("finetune", Model, quick, base=back, examples=bench.examples())  # a warm start keeps the head
    np.testing.assert_allclose(tasks.ask(again, tiny.frame(20)).raw, tasks.ask(model, tiny.frame(20)).raw, atol=0.05)


def test_an_export_never_overwrites(bench: tiny.Bench, model: Model, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConflictError, match="already"):
        export(bench.store, model, card.of(bench.store, model), tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_from_outside_becomes_markup_in_the_card(bench: tiny.Bench) -> None:
    """RELIABILITY 51: labels, titles and licences are told, not obeyed."""
    folder = tiny.write_base(bench.folder / "hostile")
    base = bench.model(folder, format="safetensors", licence=HOSTILE, title=HOSTILE, origin=HOSTILE)
    facts = {"task": "classify", "labels": [HOSTILE, "b"], "format": "safetensors"}
    text = card.render(bench.store, card.Told(facts, (base,), {"note": HOSTILE}))
    read = huggingface_hub.ModelCard(text)
    assert "license" not in read.data.to_dict() and "\n# [x]" not in text
    body = text.split("---\n", 2)[2]
    assert "<script>" not in body.replace("`aˋ", "").replace(f"`{card._code(HOSTILE)[1:-1]}`", "")
    assert "](javascript" not in body.replace(card._code(HOSTILE), "")


def test_a_model_of_vectors_is_exported_in_the_layout_of_sentence_transformers(bench: tiny.Bench) -> None:
    tuned = network.load(tiny.write_base(bench.folder / "vectors-base"), tiny.CONTEXT)
    tuned.relabel((), 0, "vector")
    made = bench.folder / "vectors"
    made.mkdir()
    network.save(tuned, made, "embed")
    model = bench.model(made, format="safetensors", task="embed", context=tiny.CONTEXT)
    to = bench.folder / "hub" / "vectors"
    files = export(bench.store, model, card.of(bench.store, model), to)
    assert {"modules.json", "1_Pooling/config.json", "sentence_bert_config.json"} <= set(files)
    assert json.loads((to / "1_Pooling" / "config.json").read_text())["word_embedding_dimension"] == 32
    assert huggingface_hub.ModelCard.load(to / card.FILE).data.to_dict()["pipeline_tag"] == "sentence-similarity"


def test_labels_in_names_of_figures_stay_text_in_one_cell_of_the_card(bench: tiny.Bench) -> None:
    """RELIABILITY 51."""
    label = "x|</td><script>alert(1)</script> **b** [c](javascript:x)"
    places = pl.List(pl.Struct({"start": pl.Int64, "end": pl.Int64, "label": pl.String}))
    spans = pl.Series("spans", [[{"start": 0, "end": 2, "label": label}]] * 80, dtype=places)
    examples = bench.examples(tiny.frame(80).drop("label").with_columns(spans))
    settings = {**tiny.QUICK, "epochs": 1, "task": "tag"}
    model = bench.run("finetune", Model, settings, base=bench.base(), examples=examples)
    made = bench.run("evaluate", Report, {"resamples": 100}, model=model, examples=(examples,))
    assert label in str(json.loads((made.path / "report.json").read_bytes())["metrics"])
    text = card.render(bench.store, card.of(bench.store, model))
    (head,) = (line for line in text.split("\n") if line.startswith("| rows |"))
    rows = text.split(head)[1].split("\n\n")[0].strip().split("\n")
    assert "<script>" not in head.replace("\\<script\\>", "") and "](" not in head and " **b**" not in head
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in (head, *rows)} == {len(rows[0].split("|")) - 1}


def test_a_domain_called_all_stands_beside_the_totals_in_card_and_page(bench: tiny.Bench) -> None:
    names = pl.when(pl.arange(0, pl.len()) % 12 == 3).then(pl.lit("all")).otherwise(pl.lit("books"))
    examples = bench.examples(tiny.frame(120).with_columns(domain=names))
    model = bench.run("finetune", Model, {**tiny.QUICK, "epochs": 1}, base=bench.base(), examples=examples)
    settings = {"resamples": 100, "require": {"all.accuracy": 0.0, "accuracy": 0.0}}
    made = bench.run("evaluate", Report, settings, model=model, examples=(examples,))
    said = json.loads((made.path / "report.json").read_bytes())
    counts = {"all rows": 30, "all": 10, "books": 20}
    assert {"all rows": said["all"]["n"]} | {k: v["n"] for k, v in said["domains"].items()} == counts
    page = (made.path / "report.html").read_text("utf-8")
    assert {k: int(n) for k, n in re.findall(r"<h2>(all rows|all|books)</h2>\n<p>n (\d+)", page)} == counts
    assert all(f"<th>{name}</th>" in page for name in counts)
    text = card.render(bench.store, card.of(bench.store, model))
    assert {k: int(n) for k, n in re.findall(r"^\| (all rows|all|books) \| (\d+)", text, re.M)} == counts
    results = huggingface_hub.ModelCard(text).data.eval_results or []
    told = {r.dataset_name: r.metric_value for r in results if r.metric_type == "accuracy"}
    groups = {"all rows": said["all"], **said["domains"]}
    assert told == {k: pytest.approx(figures["accuracy"]["value"], abs=1e-6) for k, figures in groups.items()}
