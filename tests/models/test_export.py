"""Where an export goes, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from feilun.errors import ConflictError
from feilun.models import card
from feilun.models.export import export
from feilun.pipeline.kinds import Model
from tests.models import tiny


@pytest.fixture
def bench(tmp_path: Path) -> tiny.Bench:
    (tmp_path / "bench").mkdir()
    return tiny.Bench(tmp_path / "bench")


@pytest.fixture
def model(bench: tiny.Bench) -> Model:
    return bench.base()


@pytest.mark.parametrize("there", [True, False], ids=["to an empty folder", "to nothing"])
def test_a_symlink_is_refused_before_anything_is_copied(
    bench: tiny.Bench, model: Model, tmp_path: Path, there: bool
) -> None:
    if there:
        (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConflictError, match="already"):
        export(bench.store, model, card.of(bench.store, model), tmp_path / "link")
    assert sorted(tmp_path.iterdir()) == before


def test_a_neighbour_is_left_alone_whatever_it_is_called_and_nothing_stays_behind(
    bench: tiny.Bench, model: Model, tmp_path: Path
) -> None:
    (tmp_path / ".deep.partial").mkdir()
    (tmp_path / ".deep.partial" / "precious").write_text("x")
    files = export(bench.store, model, card.of(bench.store, model), tmp_path / "deep")
    assert "model.safetensors" in files and (tmp_path / "deep" / "README.md").is_file()
    assert (tmp_path / ".deep.partial" / "precious").read_text() == "x"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".deep.partial", "bench", "deep"]


def test_an_empty_folder_is_filled(
    bench: tiny.Bench, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "config.json" in export(bench.store, model, card.of(bench.store, model), Path("new"))
