"""Names in texts keep their places through repair, whatever form they came in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feilun import datasets
from feilun.errors import DataError
from feilun.prepare.repairing import Moved, repair
from feilun.prepare.spans import joined

ANY = st.text(st.characters(blacklist_categories=["Cs"]), max_size=40)
MESSY = st.lists(
    st.sampled_from(
        ["a", "é", "e\u0301", "\u200b", " ", "\n", "&amp;", "&amp;lt;", "&", "ᄒ", "ᅡ", "ᆫ", "क", "\u093c", "好"]
    ),
    max_size=20,
).map("".join)


@given(st.one_of(ANY, MESSY))
def test_tracing_a_repair_gives_the_repaired_text(raw):
    from feilun.prepare.repairing import _traced

    text, came_from = _traced(raw)
    assert text == repair(raw)
    assert len(came_from) == len(text)
    assert came_from == sorted(came_from)
    assert all(0 <= place < len(raw) for place in came_from)


@given(MESSY, MESSY, MESSY)
def test_a_name_between_spaces_is_the_repaired_name_afterwards(before, name, after):
    raw = f"{before} {name} {after}"
    start = len(before) + 1
    place = Moved(raw).place(start, start + len(name))
    expected = repair(name)
    if "&" in name or before.endswith("&") or not expected:  # an entity may reach over the end of a name
        return
    assert place is not None
    assert Moved(raw).text[slice(*place)] == expected


def spans(dataset) -> dict[str, list[tuple[str, str]]]:
    frame = datasets.read(dataset)
    return {
        row["text"]: [(row["text"][span["start"] : span["end"]], span["label"]) for span in row["spans"]]
        for row in frame.to_dicts()
    }


def numbered(count: int = 40) -> list[dict[str, object]]:
    made = []
    for n in range(count):
        raw = f"  Mr&#46; Ng{n * 7919} &amp; Jose\u0301 live\u200b in Lima  "
        places = [(text, raw.index(text)) for text in (f"Ng{n * 7919}", "Jose\u0301", "Lima")]
        marks = [
            {"start": at, "end": at + len(text), "label": "place" if text == "Lima" else "person"}
            for text, at in places
        ]
        made.append({"text": raw, "spans": marks})
    return made


@pytest.mark.parametrize("form", ["records", "lists", "json", "said"])
def test_spans_move_with_the_text(run, form):
    rows = numbered()
    for row in rows:
        if form == "lists":
            row["spans"] = [[m["start"], m["end"], m["label"]] for m in row["spans"]]
        elif form == "json":
            row["spans"] = json.dumps(row["spans"])
        elif form == "said":
            row["spans"] = [{**m, "text": row["text"][m["start"] : m["end"]]} for m in row["spans"]]
    dataset, card = run(rows, near_duplicate=1)
    found = spans(dataset)
    assert len(found) == 40
    for n in range(40):
        expected = [(f"Ng{n * 7919}", "person"), ("José", "person"), ("Lima", "place")]
        assert found[f"Mr. Ng{n * 7919} & José live in Lima"] == expected
    assert dataset.facts["labels"] == ["person", "place"]
    assert sum(by["person"] for by in card["labels"].values()) == 80
    assert card["texts_repaired"] == 40


WRONG = {
    "beyond": ({"start": 0, "end": 99, "label": "x"}, "the span 0 to 99 is not within the text of 13 characters"),
    "backwards": ({"start": 5, "end": 5, "label": "x"}, "the span 5 to 5 is not within"),
    "unnamed": ({"start": 0, "end": 5, "label": ""}, "the span 0 to 5 has no label"),
    "elsewhere": ({"start": 0, "end": 5, "label": "x", "text": "world"}, "is 'hello' in the text, and not 'world'"),
    "blank": ({"start": 5, "end": 6, "label": "x"}, "holds nothing but white space"),
    "no span": ({"from": 3}, "is not a span"),
    "endless": ([0, float("inf"), "x"], "is not a span"),
    "nowhere": ({"start": float("nan"), "end": 5, "label": "x"}, "is not a span"),
    "within a character": ({"start": 0.9, "end": 3.7, "label": "x"}, "is not a span"),
    "true": ({"start": False, "end": True, "label": "x"}, "is not a span"),
    "text alone": ("05x", "is not a span"),
    "named by a record": ({"start": 0, "end": 5, "label": {"a": 1}}, "is not a span"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_span_that_cannot_be_is_named_by_row_and_column_case_44(run, case):
    mark, what = WRONG[case]
    rows = [{"text": "a text", "marks": "[]"}, {"text": "hello, world!".replace(",", ""), "marks": json.dumps([mark])}]
    rows[1]["text"] = "hello  world!"
    with pytest.raises(DataError, match=what) as caught:
        run(rows, spans="marks")
    assert caught.value.where == "rows.jsonl, row 2, column 'marks'"


@pytest.mark.parametrize(("first", "second"), [((0, 5, "x"), (4, 8, "x")), ((0, 12, "x"), (7, 12, "y"))])
def test_spans_that_overlap_are_named_by_row_and_column_case_44(run, first, second):
    rows = [{"text": "hello  world", "marks": [[0, 5, "x"], [0, 5, "x"], [5, 12, "y"]]}]
    rows += [{"text": "hello, world", "marks": [list(second), list(first)]}]
    with pytest.raises(DataError, match=f"the spans 0 to {first[1]} and {second[0]} to {second[1]} overlap") as caught:
        run(rows, spans="marks")
    assert caught.value.where == "rows.jsonl, row 2, column 'marks'"


@pytest.mark.parametrize("place", [3, 3.0, "3", "3.0"])
def test_a_place_may_be_written_as_any_whole_number(run, place):
    dataset, _ = run([{"text": "in Lima", "spans": json.dumps([[place, 7, "x"]])}], split={"train": 1, "test": 0})
    assert spans(dataset) == {"in Lima": [("Lima", "x")]}


def test_a_cell_that_is_not_json_is_named_case_44(run):
    with pytest.raises(DataError, match="the cell is not JSON") as caught:
        run([{"text": "a", "spans": "[]"}, {"text": "b", "spans": "[{"}])
    assert caught.value.where == "rows.jsonl, row 2, column 'spans'"


CONLL = """-DOCSTART- -X- O O

EU NNP I-ORG
rejects VBZ O
German JJ B-MISC

Peter NNP B-PER
Blackburn NNP I-PER
Anna NNP B-PER
"""


def test_lines_of_words_and_tags_become_texts_and_spans(file):
    dataset = file("rows.conll", CONLL, split={"train": 1, "test": 0})
    assert spans(dataset) == {
        "EU rejects German": [("EU", "ORG"), ("German", "MISC")],
        "Peter Blackburn Anna": [("Peter Blackburn", "PER"), ("Anna", "PER")],
    }


@pytest.mark.parametrize(
    ("tags", "names"),
    [
        ("B-a I-a O", [("x y", "a")]),
        ("I-a I-b B-b", [("x", "a"), ("y", "b"), ("z", "b")]),
        ("B-a E-a S-a", [("x y", "a"), ("z", "a")]),
        ("B-a L-a U-a", [("x y", "a"), ("z", "a")]),
        ("O I-a I-a", [("y z", "a")]),
        ("S-a I-a O", [("x", "a"), ("y", "a")]),
    ],
)
def test_schemes_of_tags_are_read_as_they_are_meant(run, tags, names):
    rows = [{"tokens": ["x", "y", "z"], "tags": tags.split()}]
    assert spans(run(rows, split={"train": 1, "test": 0})[0]) == {"x y z": names}


def test_words_with_tags_become_names_of_the_tags_that_have_one(file):
    body = "中共中央/nt 总书记/n 江/nr 泽民/nr 李/nr 鹏/nr 在/p 北京/ns\n"
    body += "欧阳/nr 修/nr 叶利钦/nr\n王/nr 军霞/nr 张/nr 三/nr 李/nr\n"
    names = {"nr": "person", "ns": "place", "nt": "body"}
    train = {"train": 1, "test": 0}
    dataset = file("rows.txt", body, format="tagged", names=names, split=train, facts={"pairs": "nr"})
    assert spans(dataset) == {
        "中共中央总书记江泽民李鹏在北京": [
            ("中共中央", "body"),
            ("江泽民", "person"),
            ("李鹏", "person"),
            ("北京", "place"),
        ],
        "欧阳修叶利钦": [("欧阳", "person"), ("修叶利钦", "person")],  # three in a row: one character takes the next
        "王军霞张三李": [("王军霞", "person"), ("张三", "person"), ("李", "person")],
    }
    dataset = file("rows.txt", body, format="tagged", split=train)
    assert ("总书记", "n") in spans(dataset)["中共中央总书记江泽民李鹏在北京"]


@pytest.mark.parametrize(
    ("name", "body", "what", "where"),
    [
        ("rows.conll", "EU B-ORG\nrejects\n", "has no word and tag", "rows.conll, line 2"),
        ("rows.conll", "EU B-ORG\nrejects VBZ\n", "'VBZ' is not a tag", "rows.conll, line 2"),
        ("rows.txt", "a/n b/v\nc/n d\n", "'d' has no tag", "rows.txt, line 2"),
    ],
)
def test_lines_without_a_tag_are_named_case_44(file, name, body, what, where):
    with pytest.raises(DataError, match=what) as caught:
        file(name, body, format="tagged" if name.endswith("txt") else "conll")
    assert caught.value.where == where


def test_words_and_tags_that_do_not_match_are_named_case_44(run):
    rows = [{"tokens": ["a"], "tags": ["O"]}, {"tokens": ["a", "b"], "tags": ["O"]}]
    with pytest.raises(DataError, match="2 words have 1 tags") as caught:
        run(rows)
    assert caught.value.where == "rows.jsonl, row 2, column 'tags'"
    rows[1] = {"tokens": ["a", "b"], "tags": ["O", "place"]}
    with pytest.raises(DataError, match="'place' of word 2 is not a tag"):
        run(rows)


@pytest.mark.parametrize("tag", [{"tag": "O"}, ["O"], None, 3])
def test_a_tag_that_is_no_text_is_named_case_44(run, tag):
    rows = [{"tokens": json.dumps(["a", "b"]), "tags": json.dumps(tags)} for tags in (["O", "B-x"], ["O", tag])]
    with pytest.raises(DataError, match="of word 2 is not a tag") as caught:
        run(rows)
    assert caught.value.where == "rows.jsonl, row 2, column 'tags'"


def test_a_word_that_is_no_text_is_named_case_44(run):
    rows = [{"tokens": json.dumps(words), "tags": json.dumps(["O", "B-x"])} for words in (["a", 7], ["a", {"b": 1}])]
    with pytest.raises(DataError, match="a word is text") as caught:
        run(rows)
    assert caught.value.where == "rows.jsonl, row 2, column 'tokens'"


def test_a_label_of_a_span_that_has_no_name_is_refused_case_44(run):
    rows = numbered(4)
    with pytest.raises(DataError, match="the label 'place' is not among 'names'") as caught:
        run(rows, spans="spans", names={"person": "who"})
    assert caught.value.where == "rows.jsonl, row 1, column 'spans'"


@given(st.lists(st.text("ab好１，", min_size=1, max_size=3), min_size=1, max_size=6))
def test_words_stand_where_the_joined_text_has_them(words):
    text, starts = joined(words, None)
    assert [text[start : start + len(word)] for start, word in zip(starts, words, strict=True)] == words
    assert text.replace(" ", "") == "".join(words)
