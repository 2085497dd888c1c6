"""Words with a tag each: CoNLL's lines of words, and the People's Daily's ``word/tag``; both come out as BIO."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import polars as pl

from feilun.errors import DataError

BIO = re.compile(r"(?:([BIESLUM])[-_](.+)|O)", re.DOTALL)
DOCUMENT = "-DOCSTART-"  # how CoNLL 2003 marks where a document begins


def read_conll(data: bytes, where: str) -> pl.DataFrame:
    """Sentences from lines of a word, further columns that are left out, and a tag; a blank line ends a sentence.

    Cells are parted by tabs, or by white space in a file without any.

    Returns:
        N rows with tokens and tags, lists of text of one length each.

    Raises:
        DataError: a line has no tag, or one that is neither O nor B-, I-, E-, S-, L- or U- and a name.
    """
    lines = data.decode("utf-8").split("\n")
    separator = "\t" if any("\t" in line for line in lines) else None
    words: list[list[str]] = [[]]
    tags: list[list[str]] = [[]]
    for number, line in enumerate(lines, 1):
        cells = line.rstrip("\r").split(separator)
        if not line.strip() or cells[0] == DOCUMENT:
            if words[-1]:
                words.append([])
                tags.append([])
            continue
        tag = cells[-1].strip()
        if len(cells) < 2 or not cells[0].strip():
            hint = "each line is a word, white space and its tag; a blank line ends a sentence"
            raise DataError("the line has no word and tag", where=f"{where}, line {number}", hint=hint)
        if not BIO.fullmatch(tag):
            hint = "tags are O, B-place, I-place and so on, in the last column"
            raise DataError(f"'{tag[:80]}' is not a tag", where=f"{where}, line {number}", hint=hint)
        words[-1].append(cells[0].strip())
        tags[-1].append(tag)
    return _frame(words, tags)


def read_tagged(data: bytes, where: str, pairs: str | None = None) -> pl.DataFrame:
    """Sentences from lines of words, each with a slash and its tag behind it.

    Args:
        data: UTF-8.
        where: what errors call the file.
        pairs: a tag whose words come in twos, as surname and given name do in the People's Daily: in a row of them a
            word of one character and the next are one name, and so are two that stand alone.

    Returns:
        As ``read_conll``; every word begins a name of its tag, but for the second word of a pair.

    Raises:
        DataError: a word has no tag.
    """
    words: list[list[str]] = []
    tags: list[list[str]] = []
    for number, line in enumerate(data.decode("utf-8").split("\n"), 1):
        parts = [word.rpartition("/") for word in line.split()]
        here, marks = [part[0] for part in parts], [part[2] for part in parts]
        if not all(here) or not all(marks):
            bad = next(word for word in line.split() if not word.rpartition("/")[0] or word.endswith("/"))
            hint = "write word/tag word/tag"
            raise DataError(f"'{bad[:80]}' has no tag", where=f"{where}, line {number}", hint=hint)
        words.append(here)
        tags.append([f"B-{mark}" for mark in marks])
        if pairs in marks:
            for place in _second_words(here, marks, pairs):
                tags[-1][place] = f"I-{pairs}"
    return _frame(words, tags)


def _second_words(words: Sequence[str], tags: Sequence[str], pairs: str) -> list[int]:
    """Places of words that go on with the name of the word before."""
    found = []
    for tag, run in itertools.groupby(range(len(words)), key=tags.__getitem__):
        places = list(run) if tag == pairs else []
        second = False
        for before, place in itertools.pairwise(places):
            second = not second and (len(words[before]) == 1 or len(places) == 2)
            found += [place] if second else []
    return found


def _frame(words: list[list[str]], tags: list[list[str]]) -> pl.DataFrame:
    kept = [place for place, row in enumerate(words) if row]
    texts = pl.List(pl.String)
    return pl.DataFrame(
        {"tokens": [words[i] for i in kept], "tags": [tags[i] for i in kept]}, schema={"tokens": texts, "tags": texts}
    )
