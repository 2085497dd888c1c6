"""Sources made of the bytes of one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from feilun.pipeline.kinds import Source


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Source]:
    """``source("rows.csv", b"...", **facts)``; the format is the suffix unless the facts say another."""

    def make(name: str, body: bytes | str, **facts: object) -> Source:
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        (folder / name).write_bytes(body.encode() if isinstance(body, str) else body)
        return Source("0" * 64, (), {"format": name.rpartition(".")[2], "origin": name, **facts}, folder)

    return make
