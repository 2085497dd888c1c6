"""Accents, vowel signs and selectors belong to the character before them, also where a tokenizer leaves them out."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from feilun.tasks import tag, windows

TAGS = ("B-good", "I-good", "O")


@functools.cache
def _without_accents() -> Tokenizer:
    """As BERT's uncased tokenizers: accents and joiners are gone before there are pieces."""
    letters = [c for c in map(chr, range(0x21, 0x3100)) if not c.isspace()] + list("北京上海❤👩👧")
    numbers = {w: i for i, w in enumerate(["[UNK]", *letters, *(f"##{c}" for c in letters)])}
    made = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.enable_truncation(64)
    return made


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("दिल्ली गुरु आया", "गुरु"),
        ("Jose\u0301 came", "Jose\u0301"),
        ("we saw Jose\u0301", "Jose\u0301"),
        ("a ❤\ufe0f x", "❤\ufe0f"),
        ("a 1\ufe0f\u20e3 x", "1\ufe0f\u20e3"),
        ("a 👩\u200d👧 x", "👩\u200d👧"),
        ("พี่ ดี", "พี่"),
        ("José came", "José"),
        ("北京\u0301上海", "北京\u0301"),
    ],
)
def test_a_span_ends_behind_the_marks_of_its_last_character_though_the_tokenizer_drops_them(
    text: str, name: str
) -> None:
    made = windows.cut(_without_accents(), [text])[0][0]
    start = text.index(name)
    truth = {"start": start, "end": start + len(name), "label": "good"}
    targets = tag.encode(made, [truth], {t: i for i, t in enumerate(TAGS)})
    (found,) = tag.decode(text, made, np.eye(3, dtype=np.float32)[targets], TAGS)
    assert {k: found[k] for k in truth} == truth and found["text"] == name


@given(st.text(st.sampled_from("aé \u0301\u0941\ufe0f\u200d京❤"), max_size=12))
def test_pieces_stay_in_order_and_without_overlap_whatever_marks_there_are(text: str) -> None:
    made = windows.cut(_without_accents(), [text])[0][0]
    told = [place for place in zip(made.starts, made.ends, strict=True) if place[0] < place[1]]
    assert all(one[1] <= other[0] or one[0] == other[0] for one, other in itertools.pairwise(told))
    assert all(end <= len(text) for _, end in told)
