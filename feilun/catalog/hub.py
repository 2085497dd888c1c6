"""Files of a repository on the Hugging Face hub."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from feilun.errors import ProjectError, UnavailableError

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def parse(reference: str) -> tuple[str, str | None, str | None]:
    """``org/name[@revision][/file]`` as repository, revision and file.

    >>> parse("org/name@main/data/train.csv")
    ('org/name', 'main', 'data/train.csv')

    Raises:
        ProjectError: it is not of that form.
    """
    found = re.fullmatch(r"([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?", reference)
    file = found.group(3) if found else None
    if (
        not found
        or not _REPOSITORY.fullmatch(found.group(1))
        or (file and not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", file))
    ):
        raise ProjectError(
            f"not a hub repository: '{reference[:120]}'", hint="write hf:org/name or hf:org/name@revision"
        )
    if ".." in reference:
        raise ProjectError("a hub reference cannot hold '..'", where=f"hf:{reference[:120]}")
    return found.group(1), found.group(2), file


def is_commit(revision: str | None) -> bool:
    """Whether a revision can never mean something else."""
    return bool(revision and _COMMIT.fullmatch(revision))


def snapshot(repository: str, revision: str | None, patterns: list[str], *, dataset: bool) -> Path:
    """The folder of a repository's files that match ``patterns``, from the hub or its local cache.

    Raises:
        UnavailableError: the hub cannot be reached, or has no such repository or revision.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = snapshot_download(
            repository, repo_type="dataset" if dataset else "model", revision=revision, allow_patterns=patterns
        )
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "is this machine online, and is the name right? Private repositories need HF_TOKEN"
        raise UnavailableError(reason, where=f"hf:{repository}", hint=hint, code="unreachable") from error
    return Path(found)


def download(repository: str, path: str, destination: Path) -> None:
    """Copy one file of a model or dataset repository to ``destination``.

    Raises:
        UnavailableError: it cannot be had.
    """
    found = snapshot(repository, None, [path], dataset=False) / path
    if not found.is_file():
        raise UnavailableError(f"{repository} has no {path}", where=f"hf:{repository}", code="unreachable")
    shutil.copyfile(found, destination)
