"""Members come out under our names only, whole, bounded, and only if they are files."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from feilun.catalog import archives
from feilun.errors import ArtifactError


def zipped(place: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return place


def tarred(place: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(place, "w:gz", format=form) as archive:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return place


@pytest.mark.parametrize("make", [zipped, tarred])
def test_the_named_members_are_taken_and_nothing_else(tmp_path, make):
    archive = make(tmp_path / "a", {"in/a.txt": b"A", "in/b.txt": b"B", "../evil.txt": b"E", "/abs.txt": b"E"})
    (tmp_path / "out").mkdir()
    archives.extract(archive, {"in/b.txt": tmp_path / "out" / "one", "in/a.txt": tmp_path / "out" / "two"})
    assert (tmp_path / "out" / "one").read_bytes() == b"B"
    assert (tmp_path / "out" / "two").read_bytes() == b"A"
    assert sorted(p.name for p in tmp_path.rglob("*.txt")) == []


@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_member_that_slips_out_lands_where_we_say_case_43(tmp_path, make):
    archive = make(tmp_path / "a", {"../../evil.txt": b"E"})
    archives.extract(archive, {"../../evil.txt": tmp_path / "ours"})
    assert (tmp_path / "ours").read_bytes() == b"E"
    assert not (tmp_path.parent.parent / "evil.txt").exists()


def test_an_archive_in_an_archive_in_a_source_archive_is_reached(tmp_path):
    inner = zipped(tmp_path / "inner.zip", {"rows.txt": b"rows"}).read_bytes()
    middle = tarred(tmp_path / "middle.tgz", {"d/inner.zip": inner}).read_bytes()
    outer = tarred(tmp_path / "outer.tgz", {"package-1.0/data/middle.tgz": middle})
    archives.extract(outer, {"data/middle.tgz!d/inner.zip!rows.txt": tmp_path / "got"}, strip=True)
    assert (tmp_path / "got").read_bytes() == b"rows"


def test_a_gzip_file_is_an_archive_of_one(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a,b\n"))
    archives.extract(tmp_path / "a.csv.gz", {"a.csv": tmp_path / "got"})
    assert (tmp_path / "got").read_bytes() == b"a,b\n"


@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_bomb_stops_at_the_limit_case_43(tmp_path, make):
    archive = make(tmp_path / "a", {"bomb": bytes(50_000_000)})
    assert archive.stat().st_size < 100_000
    with pytest.raises(ArtifactError, match="more than 1,000,000 bytes"):
        archives.extract(archive, {"bomb": tmp_path / "got"}, limit=1_000_000)
    assert (tmp_path / "got").stat().st_size <= 1_000_000


def test_a_bomb_in_front_of_the_member_is_bounded_too_case_43(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "STREAM_LIMIT", 5_000_000)
    archive = tarred(tmp_path / "a", {"bomb": bytes(20_000_000), "wanted": b"x"})
    with pytest.raises(ArtifactError, match="more than 5,000,000 bytes"):
        archives.extract(archive, {"wanted": tmp_path / "got"})


def test_links_and_folders_are_refused_case_42(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    for name in ("link", "folder"):
        with pytest.raises(ArtifactError, match="not a regular file"):
            archives.extract(tmp_path / "a.tar", {name: tmp_path / "got"})
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ArtifactError, match="not a regular file"):
        archives.extract(tmp_path / "a.zip", {"link": tmp_path / "got"})


@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_missing_member_and_a_cut_archive_are_named(tmp_path, make):
    archive = make(tmp_path / "a", {"a.txt": bytes(range(256)) * 1_000})
    with pytest.raises(ArtifactError, match=r"has no b\.txt"):
        archives.extract(archive, {"b.txt": tmp_path / "got"})
    archive.write_bytes(archive.read_bytes()[:-300])
    with pytest.raises(ArtifactError, match="is broken"):
        archives.extract(archive, {"a.txt": tmp_path / "got"})


def test_the_oldest_kind_of_tar_is_known_by_its_checksum(tmp_path):
    archive = tarred(tmp_path / "a", {"a.txt": b"A"}, tarfile.USTAR_FORMAT)
    header = bytearray(gzip.decompress(archive.read_bytes()))
    header[257:265] = bytes(8)  # before 1988 there was no "ustar"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
    archive.write_bytes(gzip.compress(bytes(header)))
    archives.extract(archive, {"a.txt": tmp_path / "got"})
    assert (tmp_path / "got").read_bytes() == b"A"
