"""What says the same twice is found, and found again by counting every piece."""

from __future__ import annotations

import random

import pytest

from feilun import datasets
from feilun.datasets.positions import key, position
from feilun.prepare import minhash


def pieces(text: str) -> set[str]:
    padded = text.ljust(minhash.PIECE, "\0")
    return {padded[n : n + minhash.PIECE] for n in range(len(padded) - minhash.PIECE + 1)}


def jaccard(one: str, other: str) -> float:
    a, b = pieces(one), pieces(other)
    return len(a & b) / len(a | b)


def by_counting(texts: list[str], threshold: float) -> list[int]:
    kept: list[str] = []
    removed = []
    for place, text in enumerate(texts):
        if any(jaccard(text, other) >= threshold for other in kept):
            removed.append(place)
        else:
            kept.append(text)
    return removed


def sentences(chance: random.Random, count: int) -> list[str]:
    """Sentences of made-up words; every third is an earlier one with a few letters changed."""
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 8))) for _ in range(300)]
    made: list[str] = []
    for n in range(count):
        if n % 3 == 2:
            text = list(chance.choice(made))
            for _ in range(chance.randint(0, 4)):
                text[chance.randrange(len(text))] = chance.choice("xyz")
            made.append("".join(text))
        else:
            made.append(" ".join(chance.choices(words, k=chance.randint(1, 20))))
    return made


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.8, 0.9])
def test_near_duplicates_are_those_that_counting_finds(seed, threshold):
    texts = sentences(random.Random(seed), 150)
    found = minhash.repeats(texts, threshold)
    expected = by_counting(texts, threshold)
    assert len(set(expected) ^ {repeat.removed for repeat in found}) <= 1  # at most 1 pair in 200 may be missed
    for repeat in found:
        assert repeat.kept < repeat.removed
        assert repeat.jaccard == round(jaccard(texts[repeat.kept], texts[repeat.removed]), 4) >= threshold


@pytest.mark.parametrize(
    "texts", [[], [""], ["a"], ["", ""], ["ab", "ab", "abcdef"], ["😀" * 9, "😀" * 9], ["\ud800" * 6] * 2]
)
def test_few_and_short_texts_do_no_harm(texts):
    assert [repeat.removed for repeat in minhash.repeats(texts, 0.8)] == by_counting(texts, 0.8)


def test_many_texts_from_one_template_are_bounded_work():
    texts = [f"your order {n} has been shipped and will arrive on monday" for n in range(3_000)]
    found = minhash.repeats(texts, 0.7)
    assert len(found) > 2_500


def test_ten_thousand_sentences_take_less_than_four_seconds():
    import time

    texts = sentences(random.Random(1), 10_600)
    start = time.perf_counter()
    minhash.repeats(texts, 0.8)
    assert time.perf_counter() - start < 4


def rows(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    made = sentences(random.Random(3), 90)
    more = [(text, "ab"[n % 2]) for n, text in enumerate(made) if n % 3 != 2]  # without the repeats
    return [{"text": text, "label": label} for text, label in [*pairs, *more]]


def test_of_equal_texts_one_is_kept_with_the_label_most_rows_give_it(run):
    pairs = [("A good film", "a"), ("a  GOOD film", "b"), ("a good film ", "b"), ("a good&#32;film", "b")]
    dataset, card = run(rows(*pairs), near_duplicate=1)
    found = datasets.read(dataset)
    same = found.filter(found["text"].str.to_lowercase() == "a good film")
    assert same["label"].to_list() == ["b"]
    assert card["removed"]["outvoted_labels"] == 1
    assert card["removed"]["exact_duplicates"] == 2
    assert card["conflicting_texts"] == 1


def test_of_equal_texts_with_as_many_rows_for_each_label_none_is_kept(run):
    dataset, card = run(rows(("a good film", "a"), ("A good film", "b")), near_duplicate=1)
    assert "a good film" not in {key(text) for text in datasets.read(dataset)["text"]}
    assert card["removed"]["tied_labels"] == 2


def test_a_train_row_that_nearly_repeats_a_test_row_is_leakage_case_44(run):
    base = "this film is a long and careful study of a small town and of the people who have left it "
    texts = [f"{base}{n}" for n in range(40)]
    sides = ["test" if position(key(text)) < 0.2 else "train" for text in texts]
    assert 0 < sides.count("test") < 40
    dataset, card = run(rows(*[(text, "a") for text in texts]), near_duplicate=0.8)
    left = [text for text in datasets.read(dataset)["text"] if text.startswith(base)]
    assert len(left) == 1
    assert sides[texts.index(left[0])] == "test"
    assert card["removed"]["leaked_into_train"] == sides.count("train")
    assert card["removed"]["near_duplicates"] == sides.count("test") - 1
    assert len(card["near_duplicates"]) == 3
    assert all(0.8 <= example["jaccard"] <= 1 for example in card["near_duplicates"])


def test_no_train_row_nearly_repeats_a_test_row_afterwards(run):
    made = sentences(random.Random(7), 400)
    dataset, _ = run([{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(made)], near_duplicate=0.7)
    frame = datasets.read(dataset)
    train, test = ([key(t) for t in frame.filter(split=split)["text"]] for split in ("train", "test"))
    assert [(a, b) for a in train for b in test if jaccard(a, b) >= 0.7] == []
