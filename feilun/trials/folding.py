"""Which training rows are held out in which fold, and which rows are the first of a smaller training set."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import polars as pl

from feilun import datasets
from feilun.datasets import TIME
from feilun.datasets.positions import together
from feilun.errors import DataError, SettingError
from feilun.trials.settings import By


def assign(frame: pl.DataFrame, folds: int, by: By, seed: int) -> list[int]:
    """The number of each row's part, (N,); rows that belong together (see ``groups``) are in one part.

    Parts are as equal as the groups allow. By text, each part has its share of each label.

    Raises:
        SettingError: there are fewer groups than parts.
        DataError: a contributor for each row, so that to group by them means nothing.
    """
    groups = groups_of(frame, by)
    sizes = Counter(groups)
    if len(sizes) < folds:
        hint = f"use --folds {len(sizes)} or fewer" if len(sizes) > 1 else "use --by text"
        raise SettingError(
            f"{folds} folds by {by} need as many {_plural(by)}, and the training rows have {len(sizes)}",
            where="--folds",
            hint=hint,
        )
    if by == "contributor" and len(sizes) == len(groups):
        raise DataError(
            "every training row has a contributor of its own, so folds by contributor would be folds by row",
            where="column contributor",
            hint="name the source's column in prepare: contributor = ...; or use --by text",
        )
    if by == "text":
        return _dealt(frame, groups, folds, seed)
    load, part = [0] * folds, {}
    for group, size in sorted(sizes.items(), key=lambda item: (-item[1], _drawn(seed, item[0]))):
        lightest = min(range(folds), key=load.__getitem__)
        part[group] = lightest
        load[lightest] += size
    return [part[group] for group in groups]


def groups_of(frame: pl.DataFrame, by: By) -> list[str]:
    """What each row shares with those that must not be on the other side, (N,).

    By text: see ``together``, for prepare and finetune hold out by the same.
    """
    if by == "text":
        return together(frame)
    groups: list[str] = frame[by].to_list()
    return groups


def blocks(frame: pl.DataFrame, folds: int) -> list[int]:
    """The number of each row's block, (N,), of ``folds`` + 1 of equal size, the oldest being 0; a moment is in one.

    Raises:
        DataError: the dataset has no times, or too few different ones.
    """
    if TIME not in frame.columns:
        raise DataError(
            "the dataset does not say when its rows were written",
            where=f"column {TIME}",
            hint='name the source\'s column in prepare: time = "..."; or use --by text, contributor or domain',
        )
    times = frame[TIME].to_list()
    moments = sorted(times)
    edges = [moments[len(moments) * i // (folds + 1)] for i in range(1, folds + 1)]
    found = [sum(time >= edge for edge in edges) for time in times]
    if len(set(found)) < folds + 1:
        raise DataError(
            f"the rows' times do not fall into {folds + 1} blocks",
            where=f"column {TIME}",
            hint="use fewer --folds",
        )
    return found


def smaller(frame: pl.DataFrame, rows: int, seed: int) -> pl.DataFrame:
    """So many of the training rows, drawn at random; those of a smaller number are among those of a larger one.

    Each label keeps its share, and has at least one row.

    Raises:
        SettingError: there are more labels than rows.
    """
    labels = _labels(frame)
    drawn = sorted(range(frame.height), key=lambda i: _drawn(seed, frame["id"][i]))
    total, seen = Counter(labels), Counter[str]()
    places: list[tuple[float, int]] = []
    for order, i in enumerate(drawn):
        seen[labels[i]] += 1
        # the first row of each label comes before all others; then every label is spread evenly over the order
        place = 0.0 if seen[labels[i]] == 1 else (seen[labels[i]] - 0.5) / total[labels[i]]
        places.append((place, order))
    if rows < len(total):
        hint = "begin with a larger share: --smallest"
        raise SettingError(f"{rows} rows cannot have {len(total)} labels", where="learning-curve", hint=hint)
    first = sorted(range(frame.height), key=places.__getitem__)[:rows]
    return frame[sorted(drawn[i] for i in first)]


def known(train: pl.DataFrame, test: pl.DataFrame) -> pl.DataFrame:
    """The rows of ``test`` whose labels occur in ``train``: of others no model could be right."""
    labels = set(datasets.labels(train))
    return test.filter(pl.Series([set(row) <= labels for row in _every_label(test)], dtype=pl.Boolean))


def _dealt(frame: pl.DataFrame, groups: Sequence[str], folds: int, seed: int) -> list[int]:
    """Groups dealt in turn, label by label, in a random order."""
    members: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    labels = _labels(frame)
    order = sorted(members, key=lambda group: (labels[members[group][0]], _drawn(seed, group)))
    part = {group: place % folds for place, group in enumerate(order)}
    return [part[group] for group in groups]


def _labels(frame: pl.DataFrame) -> list[str]:
    """What each row is to be spread evenly by: its label or labels; nothing where it has none."""
    if "label" in frame.columns:
        return frame["label"].to_list()
    return [json.dumps(sorted(set(row))) for row in _every_label(frame)]


def _every_label(frame: pl.DataFrame) -> Iterable[list[str]]:
    found: list[list[str]] = [[] for _ in range(frame.height)]
    for name in ("label", "labels", "spans"):
        if name in frame.columns:
            for row, cell in zip(found, frame[name].to_list(), strict=True):
                row.extend([cell] if name == "label" else cell if name == "labels" else [s["label"] for s in cell])
    return found


def _drawn(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def _plural(by: By) -> str:
    return f"{by}s"
