from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from feilun.errors import SettingError
from feilun.models import tokens
from feilun.tasks import windows
from tests.models import tiny


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokens.load_tokenizer(tiny.write_base(tmp_path_factory.mktemp("base")), 20)


@given(st.integers(0, 300), st.integers(1, 40))
def test_windows_share_out_every_piece_once_and_hold_what_they_own(length: int, width: int) -> None:
    found = list(windows.spread(length, width))
    assert [piece for _, _, own in found for piece in own] == list(range(length))
    for first, last, own in found:
        assert 0 <= first <= last <= length and last - first <= width
        assert first <= own.start and own.stop <= last
    assert all(last - first == min(length, width) for first, last, _ in found)


@given(st.integers(50, 300), st.integers(8, 40))
def test_a_piece_is_asked_of_the_window_where_it_lies_deepest(length: int, width: int) -> None:
    found = list(windows.spread(length, width))

    def depth(piece: int, first: int, last: int) -> int:
        left = piece - first if first else length  # the text's own edge is no cut
        right = last - 1 - piece if last < length else length
        return min(left, right)

    for first, last, own in found:
        for piece in own:
            best = max(depth(piece, a, b) for a, b, _ in found if a <= piece < b)
            assert depth(piece, first, last) >= best - 1


@given(st.lists(st.sampled_from(["film", " film", "  was ", "a", "！", "hours "]), max_size=60))
def test_pieces_are_all_of_the_text_with_their_places(tokenizer: Tokenizer, parts: list[str]) -> None:
    text = " ".join(parts)
    (pieces,), cut = windows.cut(tokenizer, [text])
    said = [text[a:b] for a, b in zip(pieces.starts, pieces.ends, strict=True)]
    assert said == text.split()
    for window in cut:
        assert len(window.ids) <= 20
        assert window.ids[window.at : window.at + window.size] == pieces.ids[window.first : window.first + window.size]
        assert (window.ids[0], window.ids[-1]) == (2, 3)  # [CLS] and [SEP] in every one of them


def test_a_short_text_is_encoded_as_it_is_for_any_other_task(tokenizer: Tokenizer) -> None:
    _, cut = windows.cut(tokenizer, ["the film was fine"])
    assert [w.ids for w in cut] == tokens.encode(tokenizer, ["the film was fine"])


def test_a_lead_stands_in_every_window_and_is_cut_at_half_the_context(tokenizer: Tokenizer) -> None:
    text, lead = "a story of two hours and its end " * 5, "was the film " * 30
    (pieces,), cut = windows.cut(tokenizer, [text], [lead])
    head = cut[0].ids[: cut[0].at]
    assert len(head) == 10 and len(cut) > 2
    assert all(w.ids[: w.at] == head and len(w.ids) <= 20 for w in cut)
    assert [i for w in cut for i in w.own] == list(range(len(pieces.ids)))


def test_a_context_that_is_all_edges_is_refused(tmp_path: Path) -> None:
    short = tokens.load_tokenizer(tiny.write_base(tmp_path), 8)
    with pytest.raises(SettingError, match="context of 8 tokens is too short"):
        windows.cut(short, ["the film"])
