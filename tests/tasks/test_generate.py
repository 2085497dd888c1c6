from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import transformers

import feilun.finetune.step  # noqa: F401 - registers the step
from feilun import tasks
from feilun.errors import DataError, StepError
from feilun.models import causal, decoding, network
from feilun.pipeline.kinds import Model
from feilun.tasks import generate
from feilun.tasks.options import TaskOptions
from tests.models import tiny, tiny_causal
from tests.models.tiny_causal import ask

OPTIONS = TaskOptions(answer_tokens=6)
QUICK = {
    "task": "generate", "epochs": 30, "learning_rate": 5e-3, "batch_tokens": 128, "context": 64,
    "answer_tokens": 6, "freeze_embeddings": False, "precision": "fp32",
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> causal.Causal:
    return tiny_causal.load(tmp_path / "model")


def learned(model: causal.Causal, made: generate.Examples) -> list[str]:
    """The text of each row that counts."""
    kept = [[i for i, c in zip(r, w, strict=True) if c] for r, w in zip(made.rows, made.counts, strict=True)]
    return [str(text) for text in model.tokenizer.decode_batch(kept, skip_special_tokens=False)]


def test_only_the_assistants_words_and_the_end_of_its_answers_count(model: causal.Causal) -> None:
    rows = tiny_causal.frame([ask("a", "xy"), ask("b", "yz", "zz")])
    assert learned(model, generate.examples(rows, model, OPTIONS)) == ["xy</s>", "yz</s>zz</s>"]
    last = OPTIONS.model_copy(update={"learn_from": "last"})
    assert learned(model, generate.examples(rows, model, last)) == ["xy</s>", "zz</s>"]


def test_what_is_trained_begins_with_what_is_served(model: causal.Causal) -> None:
    made = generate.examples(tiny_causal.frame(), model, OPTIONS)
    served = decoding.Writing(model).encode(generate.asked(tiny_causal.frame()))
    for row, counts, prompt in zip(made.rows, made.counts, served, strict=True):
        assert row[: len(prompt)] == prompt
        assert counts == [False] * len(prompt) + [True] * (len(row) - len(prompt))


def test_plain_conversations_are_the_question_and_then_the_answer(model: causal.Causal) -> None:
    plain = OPTIONS.model_copy(update={"template": "plain"})
    made = generate.examples(tiny_causal.frame([ask("q", "u")]), model, plain)
    # "qu" is one piece of the tokenizer, but not of what is served: a question ends before its answer is known
    assert [model.tokenizer.id_to_token(i) for i in made.rows[0]] == ["q", "u", "</s>"]
    assert made.counts == [[False, True, True]]


REWRITES = {
    "drops what was said before": "{% for m in messages %}{% if loop.last or m['role'] == 'user' %}"
    "<s>{{ m['role'] }} {{ m['content'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant {% endif %}",
    "asks otherwise than it answers": "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}",
}


@pytest.mark.parametrize("template", REWRITES.values(), ids=REWRITES.keys())
def test_a_template_that_would_train_other_ids_than_are_served_stops_the_run(tmp_path: Path, template: str) -> None:
    model = tiny_causal.load(tmp_path, template)
    with pytest.raises(StepError, match="what would be trained is not what would be served"):
        generate.examples(tiny_causal.frame([ask("a", "xy", "yz")]), model, OPTIONS)


def test_saved_files_that_encode_otherwise_stop_the_run(model: causal.Causal, tmp_path: Path) -> None:
    generate.examples(tiny_causal.frame(), model, OPTIONS)
    (tmp_path / "saved").mkdir()
    causal.save(model, tmp_path / "saved")
    place = tmp_path / "saved" / "chat_template.jinja"
    place.write_text(place.read_text("utf-8").replace("assistant ", "assistant: "), "utf-8")
    with pytest.raises(StepError, match=r"token 20 is .* in training"):
        causal.check(model, tmp_path / "saved")


def test_too_long_conversations_are_refused_or_left_out_but_never_cut(model: causal.Causal) -> None:
    rows = tiny_causal.frame([ask("a", "xy"), ask("a" * 80, "xy")])
    with pytest.raises(
        DataError, match=r"1 conversations are longer than the context of 64 tokens; the longest has 1\d\d"
    ):
        generate.examples(rows, model, OPTIONS)
    skip = OPTIONS.model_copy(update={"too_long": "skip"})
    assert len(generate.examples(rows, model, skip)) == 1


def test_the_mean_over_rows_is_the_mean_over_answer_tokens(model: causal.Causal) -> None:
    made = generate.examples(tiny_causal.frame([ask("a", "x"), ask("b", "yzyzyzyz")]), model, OPTIONS)
    with torch.no_grad():
        rows = generate.losses(model, made, [0, 1])
        tokens, _ = model.surprise(made.rows, made.counts)
    assert rows.mean().item() == pytest.approx(tokens.mean().item(), rel=1e-5)


def test_sampling_depends_on_the_seed_alone_and_greedy_on_nothing(model: causal.Causal) -> None:
    told = generate.asked(tiny_causal.frame())
    model.decided = {"answer_tokens": 8, "sampling": 1.5, "top_p": 0.9}
    assert decoding.Writing(model, 1).answers(told) == decoding.Writing(model, 1).answers(told)
    assert decoding.Writing(model, 1).answers(told) != decoding.Writing(model, 2).answers(told)
    model.decided = {"answer_tokens": 8}
    assert decoding.Writing(model, 1).answers(told) == decoding.Writing(model, 2).answers(told[:4]) * 4


@pytest.mark.parametrize("method", [{}, {"method": "lora", "rank": 16, "alpha": 32}], ids=["full", "lora"])
def test_a_tuned_model_answers_as_it_was_taught_and_so_does_what_transformers_loads(
    tmp_path: Path, method: dict[str, Any]
) -> None:
    bench = tiny.Bench(tmp_path)
    base = bench.model(tiny_causal.write_base(tmp_path / "base"), format="safetensors")
    rows = tiny_causal.frame(held_out=4)
    tuned = bench.run("finetune", Model, QUICK | method, base=base, examples=bench.examples(rows))
    assert (tuned.facts["task"], tuned.facts["rows"]) == ("generate", 12)
    held_out = rows.filter(pl.col("split") == "test")
    answered = tasks.ask(tuned, held_out)
    assert [said["answer"] for said in answered.said] == list(tiny_causal.CAPITALS.values())
    figures = {m.name: float(m.value(m.rows.sum(0))) for m in generate.measure(held_out, answered, ())}
    assert figures.keys() == {"chrf", "bleu", "rouge_l", "token_f1", "exact_match", "perplexity"}
    assert figures["exact_match"] == figures["rouge_l"] == 1 and 1 <= figures["perplexity"] < 1.5
    with network.quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(tuned.path)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tuned.path)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "b"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = theirs.generate(**ids, max_new_tokens=6, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(said, skip_special_tokens=True) == tiny_causal.CAPITALS["b"]
    bench.store.database.close()


def test_without_conversations_the_text_is_what_a_user_says(model: causal.Causal) -> None:
    rows = tiny_causal.frame()
    assert generate.asked(rows.drop("messages")) == generate.asked(rows)


def test_perplexity_is_that_of_the_right_answers_tokens(model: causal.Causal) -> None:
    told = [ask("a", "xy"), ask("bc", "z")]
    sums, numbers = generate.surprises(model, told)
    made = generate.examples(tiny_causal.frame(told), model, OPTIONS)
    with torch.no_grad():
        wanted, _ = model.surprise(made.rows, made.counts)
    assert numbers == [3, 2] and math.isclose(sum(sums), wanted.sum().item(), rel_tol=1e-5)
