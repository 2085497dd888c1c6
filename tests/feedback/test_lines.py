"""Corrections as JSON lines: which consents are taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from feilun.errors import DataError
from feilun.feedback.lines import read_lines

LINE = {"request": "r", "input": 0, "text": "fine", "label": "good", "contributor": "ann"}


@pytest.mark.parametrize(
    ("given", "taken"), [(True, ["learn"]), (["learn"], ["learn"]), (["learn", "share"], ["learn", "share"])]
)
def test_a_consent_that_was_given_is_kept_as_it_was(tmp_path: Path, given: object, taken: list[str]) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(json.dumps(LINE | {"consent": given}))
    assert read_lines(file) == [LINE | {"consent": taken}]


@pytest.mark.parametrize("given", [False, None, [], ["share"], ["learn", "sell"], "learn", 1.5])
def test_a_line_without_consent_to_learn_is_refused(tmp_path: Path, given: object) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(json.dumps(LINE | {"consent": given}))
    with pytest.raises(DataError, match="does not consent to learning"):
        read_lines(file)
