"""Near duplicates by MinHash and banding, each candidate confirmed by its true Jaccard similarity.

Texts are sets of their five-character pieces. 64 minima estimate how much two sets share (Broder 1997); texts that
agree in all minima of a band are candidates (Indyk and Motwani 1998). Only confirmed pairs count, so nothing is called
a repeat by chance; at the threshold at most 1 pair in 200 is missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PIECE = 5  # characters
MINIMA = 64
MISSED = 0.005  # the largest chance to miss a pair at the threshold
CHUNK = 1 << 20  # pieces hashed at once
HEADS = 8  # members of a band's bucket that the others are compared with: bounds the work on templates

Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Repeat:
    """Text ``removed`` nearly repeats the earlier text ``kept``; both are places in the sequence."""

    kept: int
    removed: int
    jaccard: float


def repeats(texts: Sequence[str], threshold: float) -> list[Repeat]:
    """Texts that nearly repeat an earlier one that is itself no repeat, in order of place.

    Args:
        texts: N texts; those earlier in the sequence are kept.
        threshold: the least Jaccard similarity, 0.5 to 1.

    Returns:
        At most N - 1 repeats; no two texts that are left are known to be similar.
    """
    pieces, starts = _pieces(texts)
    if len(texts) < 2:
        return []
    minima = _minima(pieces, starts)
    ends = np.append(starts[1:], len(pieces))
    sets: dict[int, frozenset[int]] = {}
    found: dict[int, Repeat] = {}
    for later, earlier in _candidates(minima, threshold):
        if later in found or earlier in found:
            continue
        for place in (later, earlier):
            if place not in sets:
                sets[place] = frozenset(pieces[starts[place] : ends[place]].tolist())
        shared = len(sets[later] & sets[earlier])
        jaccard = shared / (len(sets[later]) + len(sets[earlier]) - shared)
        if jaccard >= threshold:
            found[later] = Repeat(earlier, later, round(jaccard, 4))
    return [found[place] for place in sorted(found)]


def bands(threshold: float) -> tuple[int, int]:
    """How many bands of how many minima: the longest bands that still find a pair at the threshold.

    >>> bands(0.8)
    (16, 4)
    """
    for rows in (32, 16, 8, 4, 2):
        if (1 - threshold**rows) ** (MINIMA // rows) <= MISSED:
            return MINIMA // rows, rows
    return MINIMA, 1


def _pieces(texts: Sequence[str]) -> tuple[Words, Places]:
    """Hashes of every text's pieces, one text after the other, and where each begins. A short text is one piece."""
    padded = [text if len(text) >= PIECE else text.ljust(PIECE, "\0") for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in padded], np.int64)
    hashed = np.zeros(max(len(codes) - PIECE + 1, 0), np.uint64)
    for offset in range(PIECE):
        hashed = hashed * np.uint64(0x100000001B3) + codes[offset : len(codes) - PIECE + 1 + offset]
    hashed = _mix(hashed)
    ends = np.cumsum(lengths)
    inside = np.ones(len(codes), bool)  # pieces that would reach into the next text are left out
    for back in range(1, PIECE):
        inside[ends - back] = False
    counts = lengths - PIECE + 1
    return hashed[inside[: len(hashed)]], np.cumsum(counts) - counts


def _minima(pieces: Words, starts: Places) -> npt.NDArray[np.uint32]:
    """For each text the least of its pieces' hashes under each of 64 hash functions: (texts, 64)."""
    random = np.random.default_rng(20_140_601)  # fixed: the same rows must give the same dataset
    factors = random.integers(0, 2**64, MINIMA, np.uint64) | np.uint64(1)
    offsets = random.integers(0, 2**64, MINIMA, np.uint64)
    minima = np.empty((len(starts), MINIMA), np.uint32)
    first = 0
    while first < len(starts):
        last = max(int(np.searchsorted(starts, starts[first] + CHUNK)), first + 1)
        end = starts[last] if last < len(starts) else len(pieces)
        part = pieces[starts[first] : end]
        begins = starts[first:last] - starts[first]
        for number, (factor, offset) in enumerate(zip(factors, offsets, strict=True)):
            hashed = ((part * factor + offset) >> np.uint64(32)).astype(np.uint32)
            minima[first:last, number] = np.minimum.reduceat(hashed, begins)
        first = last
    return minima


def _candidates(minima: npt.NDArray[np.uint32], threshold: float) -> list[tuple[int, int]]:
    """Pairs (later, earlier) that agree in a band and roughly overall, sorted."""
    count, rows = bands(threshold)
    total = len(minima)
    pairs = [_in_band(minima[:, band * rows : (band + 1) * rows]) for band in range(count)]
    codes = np.unique(np.concatenate([p[:, 0] * total + p[:, 1] for p in pairs]))
    later, earlier = codes // total, codes % total
    alike = np.empty(len(codes), np.float32)
    for start in range(0, len(codes), CHUNK // 8):
        part = slice(start, start + CHUNK // 8)
        alike[part] = (minima[later[part]] == minima[earlier[part]]).mean(axis=1)
    likely = alike >= threshold - 0.25  # four standard errors of 64 minima
    return list(zip(later[likely].tolist(), earlier[likely].tolist(), strict=True))


def _in_band(band: npt.NDArray[np.uint32]) -> Places:
    """Pairs (later, earlier) of texts with equal minima in one band: each text with the first members of its bucket."""
    hashed = np.zeros(len(band), np.uint64)
    for column in band.T:
        hashed = _mix(hashed ^ column.astype(np.uint64))
    order = np.argsort(hashed, kind="stable")  # stable: within a bucket the texts stay in their order
    ordered = hashed[order]
    new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    begin = np.flatnonzero(new)[np.cumsum(new) - 1]
    place = np.arange(len(order))
    pairs = []
    for head in range(HEADS):
        here = place[begin + head < place]
        if not len(here):
            break
        pairs.append(np.stack([order[here], order[begin[here] + head]], axis=1))
    return np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64)


def _mix(words: Words) -> Words:
    """Spread each word over 64 bits (the finaliser of SplitMix64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
