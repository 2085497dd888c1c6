"""Every kind of truth comes out of users' files, or an error names the cell."""

from __future__ import annotations

import json

import pytest

from feilun import datasets
from feilun.errors import DataError, SettingError
from feilun.prepare import PrepareSettings

TRAIN = {"train": 1, "test": 0}
CITIES = ["Paris", "Lima", "Oslo", "Rome", "Bern", "Cairo"]


def texts(count: int = 30) -> list[str]:
    return [f"{CITIES[n % 6]} has the number {n * 104729} and the name {CITIES[n * 5 % 6]}" for n in range(count)]


def rows_of(dataset) -> list[dict]:
    return datasets.read(dataset).sort("text").to_dicts()


@pytest.mark.parametrize(
    ("cell", "settings"),
    [
        ("b; a;;a", {}),
        ('["a", "b"]', {}),
        (["b", "a"], {}),
        ("b|a", {"separator": "|"}),
    ],
)
def test_labels_in_one_cell_are_split_and_sorted(run, cell, settings):
    rows = [{"text": text, "kinds": cell} for text in texts()]
    dataset, _ = run(rows, labels="kinds", near_duplicate=1, **settings)
    assert all(row["labels"] == ["a", "b"] for row in rows_of(dataset))
    assert dataset.facts["labels"] == ["a", "b"]


def test_a_row_may_have_no_label_and_labels_have_names(file):
    body = "text,labels\nfirst text,a;b\nsecond text,\nthird text,b\n"
    dataset = file("rows.csv", body, names={"a": "angry", "b": "billing"}, split=TRAIN)
    assert {row["text"]: row["labels"] for row in rows_of(dataset)} == {
        "first text": ["angry", "billing"],
        "second text": [],
        "third text": ["billing"],
    }
    with pytest.raises(DataError, match="the label 'b' is not among") as caught:
        file("rows.csv", body, labels="labels", names={"a": "angry"})
    assert caught.value.where == "rows.csv, row 1, column 'labels'"


def test_a_column_can_be_a_label(file):
    body = "text,toxic,rude\nfirst text,1,0\nsecond text,0,false\nthird text,1,True\n"
    dataset = file("rows.csv", body, labels=["toxic", "rude"], split=TRAIN)
    assert [row["labels"] for row in rows_of(dataset)] == [["toxic"], [], ["rude", "toxic"]]
    with pytest.raises(DataError, match="'2' is neither 0 nor 1") as caught:
        file("rows.csv", body.replace("true", "2").replace("True", "2"), labels=["toxic", "rude"])
    assert caught.value.where == "rows.csv, row 3, column 'rude'"


def test_scores_are_numbers_and_of_equal_texts_the_mean(file):
    body = "text,rating\na text,1\nA  text,2\nother text,-0.5\nno rating,\n"
    dataset = file("rows.csv", body, score="rating", split=TRAIN)
    assert [row["score"] for row in rows_of(dataset)] in ([1.5, -0.5], [-0.5, 1.5])
    with pytest.raises(DataError, match="'many' is not a number") as caught:
        file("rows.csv", body + "more,many\n", score="rating")
    assert caught.value.where == "rows.csv, row 5, column 'rating'"
    with pytest.raises(DataError, match="every row has the score 3"):
        file("rows.csv", "text,score\na,3\nb,3\n")


def test_pairs_have_another_text_and_what_is_asked_twice_of_different_texts_stays(file):
    body = "question,document,label\nwho,the first,yes\nwho,the second,no\nwho,The  second,no\nwhat,,no\n"
    dataset = file("rows.csv", body, text="question", other="document", label="label", split=TRAIN, near_duplicate=1)
    assert [(row["text"], row["other"], row["label"]) for row in datasets.read(dataset).sort("other").to_dicts()] == [
        ("who", "the first", "yes"),
        ("who", "the second", "no"),
    ]
    dataset = file("rows.csv", body, text="question", other="document", split=TRAIN, near_duplicate=1)
    assert "label" not in datasets.read(dataset).columns


CONTEXT = "  The capital of Per&uacute; is Lima,\n and that of Norway is Oslo. Lima is large. "


@pytest.mark.parametrize(
    "cell",
    [
        {"text": ["Lima"], "answer_start": [CONTEXT.index("Lima")]},
        [{"text": "Lima", "start": CONTEXT.index("Lima")}],
        "Lima",
        json.dumps([{"text": "Lima"}]),
        ["Lima", "Lima"],
    ],
)
def test_answers_move_with_the_text_that_they_stand_in(run, cell):
    rows = [{"question": f"What is the capital of Peru, {n}?", "context": CONTEXT, "answers": cell} for n in range(3)]
    dataset, _ = run(rows, text="question", other="context", answers="answers", split=TRAIN)
    found = rows_of(dataset)
    assert len(found) == 3  # questions about one text are no repeats of each other
    for row in found:
        assert row["other"] == "The capital of Perú is Lima, and that of Norway is Oslo. Lima is large."
        assert row["answers"] == [{"start": 23, "text": "Lima"}]


def test_a_question_may_have_no_answer_and_questions_about_a_text_stay_together(run):
    rows = [
        {
            "text": f"question {n} about it?",
            "other": f"{texts(20)[n // 10]}.",
            "answers": {"text": [], "answer_start": []},
        }
        for n in range(200)
    ]
    dataset, _ = run(rows, near_duplicate=1)
    frame = datasets.read(dataset)
    assert frame["answers"].list.len().max() == 0
    assert frame.group_by("other").n_unique()["split"].max() == 1
    assert set(frame["split"]) == {"train", "test"}


def test_a_nearly_repeated_text_with_questions_is_not_on_both_sides(run):
    base = "this long text about a small town and of the people who have left it is number "
    rows = [{"text": f"what is question {n}", "other": f"{base}{n}", "answers": "town"} for n in range(60)]
    rows += [{"text": "and what is this about", "other": f"{t}.", "answers": t.split()[0]} for t in texts(60)]
    dataset, card = run(rows, near_duplicate=0.7, text="text", other="other", answers="answers")
    near = datasets.read(dataset)
    near = near.filter(near["other"].str.starts_with(base))
    assert set(near["split"]) == {"test"}
    assert near.height > 1
    assert card["removed"]["leaked_into_train"] > 0


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        ("Bern", "the answer 'Bern' does not stand in the text"),
        ('[{"text": "Lima", "start": 0}]', "the answer 'Lima' does not stand in the text at character 0"),
        ('[{"answer": "Lima"}]', "the cell holds no answers"),
        ('[{"text": "Lima", "start": 3.2}]', "the cell holds no answers"),
        ('[{"text": "Lima", "start": Infinity}]', "the cell holds no answers"),
    ],
)
def test_an_answer_that_is_not_there_is_named_case_44(run, cell, what):
    rows = [{"text": "q", "other": "Lima", "answers": c} for c in ("", cell)]
    rows[1]["other"] = "in Lima"
    with pytest.raises(DataError, match=what) as caught:
        run(rows)
    assert caught.value.where == "rows.jsonl, row 2, column 'answers'"


def test_conversations_end_with_the_answer(run):
    code = "def f():\n\treturn 1 &lt; 2"
    rows = [
        {"messages": [{"role": "user", "content": f"{t}?\r\n"}, {"role": "assistant", "content": code}]}
        for t in texts(5)
    ]
    dataset, _ = run(rows, split=TRAIN, near_duplicate=1)
    for row, text in zip(rows_of(dataset), sorted(texts(5)), strict=True):
        assert row["text"] == f"{text}?"
        assert row["messages"] == [{"role": "user", "content": f"{text}?"}, {"role": "assistant", "content": code}]


def test_other_names_of_roles_are_understood(run):
    said = [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"},
    ]
    dataset, _ = run([{"conversations": said}], messages="conversations", split=TRAIN)
    assert [m["role"] for m in rows_of(dataset)[0]["messages"]] == ["system", "user", "assistant"]


def test_questions_and_answers_become_conversations_and_a_prompt_stays_on_one_side(file):
    lines = "".join(f'"{text}","{answer}",Be kind.\n' for text in texts(40) for answer in ("one", "two", ""))
    dataset = file(
        "rows.csv", "prompt,reply,rules\n" + lines, text="prompt", answer="reply", system="rules", near_duplicate=1
    )
    frame = datasets.read(dataset)
    assert frame.height == 80
    assert frame.group_by("text").n_unique()["split"].max() == 1
    assert [m["role"] for m in frame["messages"][0]] == ["system", "user", "assistant"]


def dialogue(number: int) -> list[dict[str, str]]:
    """A greeting that all have, and four questions with answers."""
    said = [{"role": "system", "content": f"Rule {number}."}, {"role": "assistant", "content": "How can I help?"}]
    for turn in range(4):
        said += [
            {"role": "user", "content": f"question {turn} of {texts(60)[number]}"},
            {"role": "assistant", "content": f"answer {turn * 7919} to {number * 104729}"},
        ]
    return said


@pytest.mark.parametrize("form", ["messages", "chosen"])
def test_a_dialogue_told_turn_by_turn_is_on_one_side_case_43(run, form):
    told = [dialogue(n)[: 4 + 2 * turn] for n in range(60) for turn in range(4)]
    rows = [{"messages": said} for said in told]
    if form == "chosen":
        worse = {"role": "assistant", "content": "no"}
        rows = [{"chosen": said, "rejected": [*said[:-1], worse]} for said in told]
    dataset, card = run(rows, near_duplicate=1)
    frame = datasets.read(dataset)
    assert frame.height == 240 == card["rows"]  # a longer one is a row of its own
    assert set(frame["split"]) == {"train", "test"}
    firsts = frame.with_columns(first=frame["messages"].list.get(2).struct.field("content"))
    assert firsts.group_by("first").n_unique()["split"].max() == 1


def test_an_answer_behind_nothing_but_instructions_is_named_case_44(run):
    said = [{"role": "system", "content": "Be kind."}, {"role": "assistant", "content": "Hello"}]
    with pytest.raises(DataError, match="nobody asks anything") as caught:
        run([{"chosen": said, "rejected": [said[0], {"role": "assistant", "content": "What?"}]}])
    assert caught.value.where == "rows.jsonl, row 1, column 'chosen'"


def test_the_name_that_reports_give_to_all_rows_is_no_domain():
    with pytest.raises(ValueError, match="give the domain another name"):
        PrepareSettings(domain="all")


SPOKEN = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        (SPOKEN[:1], "the conversation ends with 'user'"),
        (SPOKEN[1:], "nobody asks anything"),
        ([], "the conversation is empty"),
        ([{"role": "king", "content": "Hi"}], "message 1 has the role 'king'"),
        ([SPOKEN[0], {"role": "assistant", "content": " "}], "message 2 is empty"),
        ("Hi", "is not a conversation"),
    ],
)
def test_a_conversation_that_cannot_be_learned_is_named_case_44(run, cell, what):
    with pytest.raises(DataError, match=what) as caught:
        run([{"messages": json.dumps(SPOKEN)}, {"messages": json.dumps(cell) if cell != "Hi" else cell}])
    assert caught.value.where == "rows.jsonl, row 2, column 'messages'"


@pytest.mark.parametrize("form", ["text", "messages", "whole"])
def test_preferences_have_a_question_a_better_and_a_worse_answer(run, form):
    def told(answer: str) -> object:
        return [SPOKEN[0], {"role": "assistant", "content": answer}] if form == "whole" else answer

    asked = {"text": {"prompt": "Hi"}, "messages": {"messages": SPOKEN[:1]}, "whole": {}}[form]
    rows = [{**asked, "chosen": told("Hello!"), "rejected": told("What?")}]
    rows += [{**asked, "chosen": told("Same"), "rejected": told("Same")}]
    given = {"text": "prompt", "chosen": "chosen", "rejected": "rejected"} if form == "text" else {}
    dataset, card = run(rows, split=TRAIN, **given)
    (row,) = rows_of(dataset)
    assert (row["text"], row["chosen"], row["rejected"]) == ("Hi", "Hello!", "What?")
    assert row["messages"] == [{"role": "user", "content": "Hi"}]
    assert card["removed"]["same_answers"] == 1


def test_a_right_text_may_have_a_wrong_one_beside_it(file):
    body = "text,other,rejected\nwho,the first ,a&amp;b\nwhat,same,same\n"
    dataset = file("rows.csv", body, split=TRAIN)
    assert datasets.read(dataset).select("text", "other", "rejected").rows() == [("who", "the first", "a&b")]


def test_a_preference_without_a_question_says_what_is_missing(run):
    with pytest.raises(DataError, match="there is no question before the answers"):
        run([{"chosen": "a", "rejected": "b"}])
    with pytest.raises(ValueError, match="chosen and rejected"):
        PrepareSettings(chosen="a")


def test_a_column_says_what_is_held_out(run):
    names = ["train", "Test", "validation"]
    rows = [{"text": t, "label": "ab"[n % 2], "part": names[n % 3]} for n, t in enumerate(texts(30))]
    rows += [{"text": texts(3)[1], "label": "b", "part": "train"}]  # held out above
    _, card = run(rows, split="part", near_duplicate=1)
    assert card["splits"] == {"train": 10, "test": 10}
    assert (card["removed"]["for_development"], card["removed"]["leaked_into_train"]) == (10, 1)
    assert card["rows_read"] == 31 == card["rows"] + sum(card["removed"].values())
    with pytest.raises(DataError, match="'some' is not a split") as caught:
        run([*rows, {"text": "x", "label": "a", "part": "some"}], split="part")
    assert caught.value.where == "rows.jsonl, row 32, column 'part'"


def test_another_source_is_held_out_whole(run):
    rows = [{"text": t, "label": "ab"[n % 2]} for n, t in enumerate(texts(30))]
    near = [{"text": t + "!", "label": "ab"[n % 2]} for n, t in enumerate(texts(2))]
    dataset, card = run(rows[5:], held_out=[*rows[:5], *near])
    assert card["splits"]["test"] == 7
    assert card["rows_read"] == 32
    assert len(dataset.parents) == 2
    with pytest.raises(SettingError, match="held_out is the test split"):
        run(rows[5:], held_out=rows[:5], split=TRAIN)


def test_a_label_column_is_the_truth_unless_another_is_named(run):
    rows = [{"text": t, "label": "ab"[n % 2], "score": str(n), "tags": "x"} for n, t in enumerate(texts(30))]
    assert "score" not in datasets.read(run(rows, near_duplicate=1)[0]).columns
    dataset, _ = run(rows, near_duplicate=1, score="score")
    assert "label" not in datasets.read(dataset).columns


def test_labels_that_are_a_table_get_a_hint_about_names():
    with pytest.raises(ValueError, match="names = "):
        PrepareSettings.model_validate({"labels": {"0": "bad"}})
