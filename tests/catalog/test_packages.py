"""Files out of Python packages: by the user's pip, verified, and with nothing in them run."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from feilun import catalog
from feilun.catalog import cache, packages
from feilun.errors import ArtifactError, UnavailableError
from feilun.pipeline.kinds import Source


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """A local folder that is all the package index there is."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def source_archive(folder: Path, sentinel: Path) -> None:
    files = {
        "PKG-INFO": b"Metadata-Version: 2.1\nName: Harmful\nVersion: 1.0\n",
        "setup.py": f"open({str(sentinel)!r}, 'w')\nimport setuptools\nsetuptools.setup()\n".encode(),
        "data/rows.txt": b"a row\n",
    }
    with tarfile.open(folder / "Harmful-1.0.tar.gz", "w:gz") as archive:
        for name, body in files.items():
            info = tarfile.TarInfo(f"Harmful-1.0/{name}")
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))


def test_fetching_from_a_source_archive_runs_nothing_in_it_case_41(shelf, tmp_path):
    source_archive(shelf, tmp_path / "sentinel")
    packages.download("Harmful==1.0", "sdist", {"data/rows.txt": tmp_path / "got"})
    assert (tmp_path / "got").read_bytes() == b"a row\n"
    assert not (tmp_path / "sentinel").exists()


def test_without_the_package_the_error_says_what_to_check(shelf, tmp_path):
    with pytest.raises(UnavailableError) as caught:
        packages.download("Harmful==1.0", "sdist", {"data/rows.txt": tmp_path / "got"})
    assert "Harmful==1.0" in caught.value.what
    assert "pip config list" in str(caught.value.hint)


@pytest.mark.parametrize("package", ["--index-url=x", "a", "a==1 b", "a==1;b", "../a==1", "git+https://x==1"])
def test_only_name_and_version_reach_pip(package, tmp_path):
    with pytest.raises(ValueError, match="not name==version"):
        packages.download(package, "wheel", {"x": tmp_path / "got"})


def test_an_installed_package_is_used_before_the_index_is_asked(shelf):
    fetched = catalog.fetch("catalog:digits", Source, root=shelf)
    assert len((fetched.files / "rows.csv").read_text().splitlines()) == 1_797


def test_the_vader_reviews_come_once_and_then_need_no_network(tmp_path, monkeypatch):
    fetched = catalog.fetch("catalog:vader-reviews/movies", Source, root=tmp_path)
    (file,) = fetched.files.iterdir()
    assert len(file.read_bytes().splitlines()) == 10_605
    assert fetched.facts["origin"] == "catalog:vader-reviews/films"
    assert fetched.facts["licence"] == "MIT"
    assert fetched.pinned
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    for part in ("films", "products", "tweets", "editorials"):
        assert catalog.fetch(f"catalog:vader-reviews/{part}", Source, root=tmp_path).pinned


def test_offline_the_error_names_the_sources_and_what_to_check(shelf, tmp_path):
    with pytest.raises(UnavailableError) as caught:
        catalog.fetch("catalog:vader-reviews/films", Source, root=tmp_path)
    assert "vaderSentiment==3.3.2" in str(caught.value.where)
    assert "pip config list" in str(caught.value.hint)


def test_what_a_killed_process_left_goes_after_two_days(cache_folder):
    left = cache.new_folder()
    (left / "file").touch()
    assert cache.new_folder() and left.exists()
    os.utime(left, (0, 0))
    assert cache.new_folder() and not left.exists()


def test_a_kept_file_that_was_changed_is_never_used(tmp_path, cache_folder):
    (tmp_path / "file").write_bytes(b"right")
    pin = "0" * 64
    with pytest.raises(ArtifactError, match="not what was pinned"):
        cache.keep(tmp_path / "file", pin, "the file")
    right = cache._copy(tmp_path / "file", tmp_path / "copy")
    cache.keep(tmp_path / "file", right, "the file")
    assert cache.take(right, tmp_path / "got")
    (cache_folder / "files" / right[:2] / right).write_bytes(b"wrong")
    assert not cache.take(right, tmp_path / "got")
    assert not (tmp_path / "got").exists()
    cache.keep(tmp_path / "file", right, "the file")
    assert cache.take(right, tmp_path / "got")
