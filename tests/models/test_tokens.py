from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from feilun.errors import ArtifactError
from feilun.models import tokens
from tests.models import tiny

lengths = st.lists(st.integers(0, 200), max_size=60)


@given(lengths)
def test_every_row_is_in_exactly_one_rectangle_that_is_wide_enough(many: list[int]) -> None:
    seen = []
    for rows, width in tokens.rectangles(many, 200):
        seen += rows
        assert all(many[r] <= width for r in rows)
        assert len(rows) * width <= max(tokens.TOKENS, width)
    assert sorted(seen) == list(range(len(many)))


@given(lengths, st.integers(0, 200))
def test_a_rows_width_depends_on_that_row_alone(many: list[int], mine: int) -> None:
    def width(of: int, among: list[int]) -> int:
        return next(w for rows, w in tokens.rectangles(among, 200) if of in rows)

    assert width(0, [mine]) == width(len(many), [*many, mine])


@given(lengths)
def test_scores_come_back_in_the_order_that_they_were_asked(many: list[int]) -> None:
    rows = [[7] * n for n in many]
    count = tokens.run_in_rectangles(rows, 200, lambda ids, mask: mask.sum(1, keepdims=True).astype(np.float32))
    assert [int(one[0]) for one in count] == many


def test_scores_of_tokens_are_as_many_as_the_row_has() -> None:
    rows = [[7] * 3, [7] * 20, [7]]
    found = tokens.run_in_rectangles(rows, 200, lambda ids, mask: np.stack([ids, mask], -1).astype(np.float32))
    assert [one.shape for one in found] == [(3, 2), (20, 2), (1, 2)]
    assert all((one[:, 1] == 1).all() for one in found)


def test_a_text_is_cut_at_the_context_and_never_padded(tmp_path: Path) -> None:
    tokenizer = tokens.load_tokenizer(tiny.write_base(tmp_path), context=8)
    rows = tokens.encode(tokenizer, ["film", "the film " * 50, ""])
    assert [len(r) for r in rows] == [3, 8, 2]
    assert tokens.context_of(tokenizer) == 8


def test_a_tokenizer_without_a_context_is_refused_unless_one_is_given(tmp_path: Path) -> None:
    tiny.write_base(tmp_path)
    with pytest.raises(ArtifactError, match="how long"):
        tokens.load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80\x04K\x01.", b'{"version": 3}', b"\xff\xfe"])
def test_a_tokenizer_that_is_not_one_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot be read"):
        tokens.load_tokenizer(tmp_path, 8)


@pytest.mark.parametrize("content", ["", "[]", "null", '{"id2label": {"1": "good"}}', '{"id2label": 3}'])
def test_labels_that_cannot_be_read_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ArtifactError):
        tokens.load_labels(tmp_path)


def test_pairs_are_cut_as_the_library_cuts_them_and_long_ones_take_no_minutes_case_24(tmp_path: Path) -> None:
    letters = {letter: number for number, letter in enumerate(["[PAD]", "?", "[CLS]", "[SEP]", *"abcdefgh"])}
    made = Tokenizer(models.WordLevel(letters, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_truncation(24)
    pairs = [("a" * one, "b" * other) for one in range(0, 60, 3) for other in range(0, 60, 2)]
    rows = tokens.encode_pairs(made, *map(list, zip(*pairs, strict=True)))
    assert rows == [made.encode(*pair).ids for pair in pairs]
    began = time.process_time()
    tokens.encode_pairs(made, ["a" * 20_000] * 20, ["b" * 20_000] * 20)
    assert time.process_time() - began < 2
