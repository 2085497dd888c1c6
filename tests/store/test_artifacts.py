"""Artefacts are what their digest says, complete or absent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from feilun.errors import ArtifactError
from feilun.pipeline.kinds import Dataset, Model
from feilun.store import lineage
from feilun.store.artifacts import ArtifactStore
from feilun.store.migrations import open_database


@pytest.fixture
def store(new_url: Callable[[str], str], tmp_path: Path) -> Iterator[ArtifactStore]:
    with open_database(new_url("sqlite")) as database:
        yield ArtifactStore(tmp_path / "store", database)


def files(tmp_path: Path, content: str = "x", name: str = "deep/file.txt") -> Path:
    folder = tmp_path / f"new-{len(list(tmp_path.iterdir()))}"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text(content)
    return folder


def test_the_same_content_and_parents_are_one_artefact(store: ArtifactStore, tmp_path: Path) -> None:
    parent = store.add(Dataset, files(tmp_path, "parent"), parents=[], facts={})
    made = [store.add(Model, files(tmp_path), parents=[parent.digest], facts={"labels": ("a", "b")}) for _ in range(2)]
    assert made[0] == made[1] == store.get(made[0].digest)
    assert made[0].facts == {"labels": ["a", "b"]}  # as JSON has it, at once and later
    others = [
        store.add(Model, files(tmp_path), parents=[], facts={"labels": ("a", "b")}),
        store.add(Model, files(tmp_path, "y"), parents=[parent.digest], facts={"labels": ("a", "b")}),
        store.add(Dataset, files(tmp_path), parents=[parent.digest], facts={"labels": ("a", "b")}),
    ]
    assert len({a.digest for a in (*made, *others)}) == 4


def test_a_file_that_was_changed_removed_or_added_is_found(store: ArtifactStore, tmp_path: Path) -> None:
    def change(place: Path) -> None:
        (place / "deep/file.txt").write_text("z")

    def remove(place: Path) -> None:
        (place / "deep/file.txt").unlink()

    def add(place: Path) -> None:
        (place / "more.txt").write_text("z")

    def link(place: Path) -> None:
        (place / "more.txt").symlink_to("/etc/passwd")

    def edit_manifest(place: Path) -> None:
        manifest = json.loads((place / "manifest.json").read_bytes())
        (place / "manifest.json").write_text(json.dumps(manifest))

    for n, spoil in enumerate((change, remove, add, link, edit_manifest)):
        made = store.add(Model, files(tmp_path, str(n)), parents=[], facts={})
        assert store.verify(made) == made
        spoil(made.path)
        with pytest.raises(ArtifactError):
            store.verify(made)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "a" * 63, "a" * 64, "/" + "a" * 63])
def test_a_name_that_is_no_digest_reaches_nothing_case_42(store: ArtifactStore, name: str) -> None:
    with pytest.raises(ArtifactError):
        store.get(name)


def test_what_cannot_be_an_artefact_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        store.add(Model, files(tmp_path, name="manifest.json"), parents=[], facts={})
    linked = files(tmp_path)
    (linked / "link").symlink_to("/etc/passwd")
    with pytest.raises(ArtifactError):
        store.add(Model, linked, parents=[], facts={})


def test_an_artefact_is_found_by_the_beginning_of_its_digest(store: ArtifactStore, tmp_path: Path) -> None:
    made = store.add(Model, files(tmp_path), parents=[], facts={})
    assert store.find(made.short) == made.digest
    for wrong in ("%", "_" * 12, "zz"):
        with pytest.raises(ArtifactError, match="no artefact"):
            store.find(wrong)
    store.add(Model, files(tmp_path, "y"), parents=[], facts={})
    with pytest.raises(ArtifactError, match="several"):
        store.find("")


def test_lineage_is_walked_both_ways_with_distances(store: ArtifactStore, tmp_path: Path) -> None:
    top = store.add(Dataset, files(tmp_path, "0"), parents=[], facts={})
    left, right = (store.add(Model, files(tmp_path, n), parents=[top.digest], facts={}) for n in "12")
    end = store.add(Model, files(tmp_path, "3"), parents=[left.digest, right.digest, top.digest], facts={})
    with store.database.read() as connection:
        up = {link.digest: link.distance for link in lineage.ancestors(connection, end.digest)}
        down = [link.digest for link in lineage.descendants(connection, top.digest)]
    assert up == {end.digest: 0, left.digest: 1, right.digest: 1, top.digest: 1}
    assert (down[0], set(down)) == (top.digest, {top.digest, left.digest, right.digest, end.digest})
