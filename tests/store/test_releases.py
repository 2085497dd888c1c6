"""Pointers: compared, then set; history never changes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from feilun.errors import AccessError, ConflictError, SettingError
from feilun.pipeline.kinds import Release
from feilun.store import releases
from feilun.store.artifacts import ArtifactStore
from feilun.store.database import Database


@pytest.fixture
def made(database: Database, tmp_path: Path) -> list[Release]:
    """Three registered releases of ``reviews``."""
    store = ArtifactStore(tmp_path / "store", database)
    made = []
    for n in range(3):
        folder = tmp_path / f"r{n}"
        folder.mkdir()
        (folder / "release.json").write_text(str(n))
        made.append(store.add(Release, folder, parents=[], facts={"name": "reviews"}))
        assert releases.register(database, made[-1]) == "reviews"
    return made


def promote(database: Database, release: Release, version: int) -> releases.Pointer:
    return releases.promote(database, "reviews", release.digest, expected_version=version, reason="test")


def test_a_pointer_moves_only_from_the_version_that_was_seen(database: Database, made: list[Release]) -> None:
    assert releases.find_pointer(database, "reviews") is None
    assert promote(database, made[0], 0).version == 1
    for wrong in (0, 2):
        with pytest.raises(ConflictError):
            promote(database, made[1], wrong)
    assert promote(database, made[1], 1) == releases.pointer(database, "reviews")
    assert [(p.digest, p.replaced, p.version) for p in releases.history(database, "reviews")] == [
        (made[0].digest, None, 1),
        (made[1].digest, made[0].digest, 2),
    ]


@pytest.mark.parametrize("version", [0, 1])
def test_of_many_at_once_one_moves_the_pointer(database: Database, made: list[Release], version: int) -> None:
    if version:
        promote(database, made[0], 0)

    def attempt(n: int) -> bool:
        with Database(database.url) as own:
            try:
                promote(own, made[n % 3], version)
            except ConflictError:
                return False
            return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, range(6))) == 1
    assert len(releases.history(database, "reviews")) == version + 1


def test_going_back_twice_goes_back_two_releases(database: Database, made: list[Release]) -> None:
    for n, release in enumerate(made):
        promote(database, release, n)
    assert releases.rollback(database, "reviews").release == made[1].digest
    assert releases.rollback(database, "reviews").release == made[0].digest
    with pytest.raises(ConflictError, match="no earlier"):
        releases.rollback(database, "reviews")
    promote(database, made[2], 5)
    assert releases.rollback(database, "reviews").release == made[0].digest


def test_only_a_registered_release_of_that_name_can_be_promoted(database: Database, made: list[Release]) -> None:
    for name, digest in (("films", made[0].digest), ("reviews", "0" * 64)):
        with pytest.raises(AccessError):
            releases.promote(database, name, digest, expected_version=0, reason="x")
    with pytest.raises(ConflictError, match="registered as 'reviews'"):
        releases.register(database, made[0], "films")
    assert releases.registered(database, "reviews") == [m.digest for m in made]
    assert releases.registered(database) == releases.registered(database, "reviews")


def test_a_release_without_a_name_is_refused(database: Database, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    nameless = ArtifactStore(tmp_path / "s", database).add(Release, tmp_path / "r", parents=[], facts={})
    with pytest.raises(SettingError, match="no name"):
        releases.register(database, nameless)
