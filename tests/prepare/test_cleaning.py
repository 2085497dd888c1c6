"""Text is repaired once and for all; labels, ids and contributors are what the settings say."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feilun import datasets
from feilun.datasets.positions import key
from feilun.errors import DataError
from feilun.prepare import PrepareSettings
from feilun.prepare.repairing import repair

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=60)


@pytest.mark.parametrize(
    ("raw", "repaired"),
    [
        ("a &amp; b &#39;c&#39; &lt;d&gt;", "a & b 'c' <d>"),
        ("A.T.&amp;amp;T.", "A.T.&T."),
        ("cafe\u0301", "café"),
        ("  two\t\n words\r\n", "two words"),
        ("zero\u200bwidth\ufeff \u202eevil\u202c\x00\x07", "zerowidth evil"),
        ("👩\u200d👩\u200d👧 می\u200cخواهم", "👩\u200d👩\u200d👧 می\u200cخواهم"),
        ("全角　空格", "全角 空格"),
        (":) AT&T R&D", ":) AT&T R&D"),
    ],
)
def test_text_is_repaired(raw, repaired):
    assert repair(raw) == repaired


@given(TEXT)
def test_a_repaired_text_has_nothing_left_to_repair(raw):
    once = repair(raw)
    assert unicodedata.is_normalized("NFC", once)
    assert once == " ".join(once.split())
    if "&" not in once:
        assert repair(once) == once


@given(TEXT)
def test_a_key_does_not_change_when_it_is_taken_again_or_case_and_spaces_change(raw):
    assert key(f"  {raw} ") == key(raw)
    assert key(repair(raw)) == key(repair(repair(raw))) or "&" in raw


BANDS = [{"label": "negative", "to": -1}, {"label": "positive", "from": 1}, {"label": "neutral"}]


def rated(*ratings: object) -> list[dict[str, object]]:
    return [{"text": f"the text that has number {n}", "label": rating} for n, rating in enumerate(ratings)]


def test_numbers_become_labels_by_the_first_band_that_holds_them(run):
    ratings = [-4, -1, -0.99, 0, "0.999", 1, "4"] * 9
    dataset, _ = run(rated(*ratings), bands=BANDS, near_duplicate=1)
    found = dict(datasets.read(dataset).select("text", "label").rows())
    expected = ["negative"] * 2 + ["neutral"] * 3 + ["positive"] * 2
    assert found == {f"the text that has number {n}": expected[n % 7] for n in range(len(ratings))}


@pytest.mark.parametrize("bad", ["many", "nan", "inf", "1,5"])
def test_what_is_not_a_number_is_named_by_row_case_44(run, bad):
    with pytest.raises(DataError, match="is not a number") as caught:
        run(rated("1", "-2", bad), bands=BANDS)
    assert caught.value.where == "rows.jsonl, row 3, column 'label'"


def test_a_number_outside_every_band_is_named_with_a_hint(run):
    with pytest.raises(DataError, match="no band holds 0") as caught:
        run(rated(1, 0, -2), bands=BANDS[:2])
    assert caught.value.where == "rows.jsonl, row 2, column 'label'"
    assert "a last band without ends" in str(caught.value.hint)


def test_an_unknown_label_gets_a_hint_case_44(run):
    with pytest.raises(DataError, match="the label 'postive' is not among") as caught:
        run(rated("positive", "negative", "postive"), names={"positive": "+", "negative": "-"})
    assert caught.value.where == "rows.jsonl, row 3, column 'label'"
    assert caught.value.hint == "did you mean 'positive'?"


def test_labels_are_renamed_and_trimmed(run):
    rows = rated(*[" 0", "1 "] * 20)
    dataset, _ = run(rows, names={"0": "negative", "1": "positive"}, near_duplicate=1)
    assert dataset.facts["labels"] == ["negative", "positive"]


def test_a_row_keeps_its_id_whatever_stands_around_it(run):
    rows = [{"id": f"r{n}", "text": f"the text number {n}", "label": "ab"[n % 2]} for n in range(60)]
    first = datasets.read(run(rows, id="id", domain="shop", near_duplicate=1)[0])
    fewer = datasets.read(run(rows[20:][::-1], id="id", domain="shop", near_duplicate=1)[0])
    assert first.join(fewer, on=first.columns, how="semi").equals(fewer)
    other = datasets.read(run(rows, id="id", domain="mall", near_duplicate=1)[0])
    assert not set(first["id"]) & set(other["id"])
    louder = [{**row, "text": row["text"].upper()} for row in rows]
    ids = [set(datasets.read(run(made, near_duplicate=1)[0])["id"]) for made in (rows, louder)]
    assert ids[0] == ids[1]


def test_an_id_that_stands_twice_is_refused(run):
    rows = [{"id": "7", "text": "a text", "label": "a"}, {"id": "7", "text": "another", "label": "b"}]
    with pytest.raises(DataError, match="the id '7' stands in several rows") as caught:
        run(rows, id="id")
    assert caught.value.where == "rows.jsonl, row 1, column 'id'"


def test_contributors_are_unique_to_their_domain(run):
    rows = [{"id": f"{n // 4}_{n}", "text": f"the text number {n}", "label": "ab"[n % 2]} for n in range(40)]
    dataset, card = run(rows, id="id", contributor={"column": "id", "until": "_"}, domain="shop", near_duplicate=1)
    assert set(datasets.read(dataset)["contributor"]) == {f"shop:{n}" for n in range(10)}
    assert card["contributors"] == 10
    dataset, _ = run(rows, id="id", contributor="id", domain="shop", near_duplicate=1)
    assert "shop:0_3" in set(datasets.read(dataset)["contributor"])
    unsigned = [{**row, "who": "x" if row["id"] == "0_0" else None} for row in rows]
    dataset, _ = run(unsigned, contributor="who", near_duplicate=1)
    frame = datasets.read(dataset)
    assert frame["contributor"].n_unique() == frame.height


@pytest.mark.parametrize(
    "wrong",
    [
        {"split": {"train": 0.8, "test": 0.3}},
        {"bands": [{"label": "a", "from": 2, "to": 1}]},
        {"bands": [{"label": "a"}], "names": {"a": "b"}},
        {"min_characters": 5, "max_characters": 4},
        {"domain": "a/b"},
        {"near_duplicate": 0.2},
        {"colour": "red"},
        {"limit": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="PrepareSettings"):
        PrepareSettings.model_validate(wrong)


def test_settings_come_back_from_what_is_stored():
    settings = PrepareSettings.model_validate({"bands": BANDS, "contributor": {"column": "id", "until": "_"}})
    stored = settings.model_dump(mode="json")
    assert stored["bands"][0] == {"label": "negative", "from": None, "to": -1.0}
    assert PrepareSettings.model_validate(stored) == settings
