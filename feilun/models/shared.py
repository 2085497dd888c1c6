"""Many models on one base: the base is in memory once, and rows of different models share its runs.

    bases = Bases(threads=2)
    film, shop = bases.open(one), bases.open(other)  # engines, as feilun.models.inference.Engine
    scores = film.group.outputs_each([film, shop], rows)  # each row by its own model

A model is a head, and perhaps LoRA's changes of the base. Heads are always in memory; changes are loaded when they are
asked for, and the least recently used are dropped where a budget is reached. What a row meets is decided by its own
model alone: its slot cannot be given to another before the run is over.
"""

from __future__ import annotations

import itertools
import queue
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from tokenizers import Tokenizer

from feilun.errors import ArtifactError
from feilun.models import apart, deltas, tokens
from feilun.models.apart import Changes, Floats, Kind
from feilun.models.openvino import compiled, read
from feilun.models.tables import Pool, Sizes, Table, Wanted
from feilun.pipeline.kinds import Model
from feilun.store.artifacts import Artifact, neighbour, sha256_file

FORMAT, BASE = "adapter", "openvino-base"  # facts["format"] of a model kept apart, and of what it is kept apart from
BUDGET = 512_000_000  # bytes
STATES, POOLED = 0, 1  # outputs of a base: (N, L, H), and their mean under the mask, (N, H)
_KEYS = itertools.count()
Int64s = NDArray[np.int64]


class Member:
    """One model of many on a base (see ``feilun.models.inference.Engine``)."""

    def __init__(self, group: Group, folder: Path) -> None:
        told = tokens.told(folder)
        self.group = group
        self.head = tokens.load_head(folder)
        self.labels = tokens.load_labels(folder)
        self.decided = tokens.load_decided(folder)
        self.tokenizer = group.tokenizer(told.get("context"), folder)
        self.context = tokens.context_of(self.tokenizer)
        self.answers = apart.read_head(folder, self.head, len(self.labels))
        self.wanted = group.want(folder) if (folder / apart.FOLDER).is_dir() else None
        if self.wanted is not None:
            weakref.finalize(self, group.pool.forget, self.wanted.key)

    @property
    def memory_bytes(self) -> int:
        """Bytes of its own that always are in memory; changes of the base have a budget of their own."""
        return self.answers.size

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text; what the run will need is loaded meanwhile.

        Raises:
            ArtifactError: the model's files cannot be read any more.
        """
        if self.wanted is not None:
            self.group.pool.fetch(self.wanted)
        return tokens.encode(self.tokenizer, texts)

    def run(self, rows: tokens.Rows) -> Floats:
        """Scores (N, C)."""
        return np.stack(self.outputs(rows)) if rows else np.zeros((0, len(self.labels)), np.float32)

    def outputs(self, rows: tokens.Rows) -> list[Floats]:
        """Each row's scores: (C,), or (its tokens, C)."""
        return self.group.outputs_each([self] * len(rows), rows)


class Group:
    """A base, for all that share it; made by ``Bases``. Safe to call from any thread."""

    def __init__(self, base: Model, pool: Pool, *, threads: int, streams: int) -> None:
        self.base = base
        self.pool = pool
        self._threads, self._streams = threads, streams
        self._lock = threading.Lock()
        self._tokenizers: dict[int, Tokenizer] = {}
        self._graphs: dict[tuple[str, ...], _Graph] = {}  # by the modules that are changed; compiled when one is needed
        self._positions = tokens.context_of(tokens.load_tokenizer(base.path))
        self.sizes: Sizes = deltas.sizes_of(read(base.path))

    def tokenizer(self, context: Any, folder: Path) -> Tokenizer:
        """The base's tokenizer, cut at so many tokens.

        Raises:
            ArtifactError: that is no number, or more than the base can read.
        """
        if not isinstance(context, int) or not 0 < context <= self._positions:
            what = f"the model's context, {context}, is none that its base has"
            raise ArtifactError(what, where=str(folder / "config.json"))
        with self._lock:
            if context not in self._tokenizers:
                self._tokenizers[context] = tokens.load_tokenizer(self.base.path, context)
            return self._tokenizers[context]

    def want(self, folder: Path) -> Wanted:
        """What a model has to have in memory for a run.

        Raises:
            ArtifactError: its adapter cannot be read, or is for another base.
        """
        place = folder / apart.FOLDER / apart.WEIGHTS
        kind, known = self._checked(folder), sha256_file(place)

        def read() -> Changes:
            if sha256_file(place) != known:
                raise ArtifactError("the adapter was changed since it was opened", where=str(place))
            return apart.read_changes(folder)

        size = sum(4 * kind.rank * sum(self.sizes[module]) for module in kind.modules)
        return Wanted(next(_KEYS), self.base.digest, kind, self.sizes, size, read)

    def outputs_each(self, members: Sequence[Member], rows: tokens.Rows) -> list[Floats]:
        """Each row's scores by its own model: (C,), or (its tokens, C). A row's scores depend on no other row.

        Raises:
            ArtifactError: a model's files cannot be read any more.
        """
        scores: list[Floats] = [np.empty(0, np.float32)] * len(rows)
        kinds: dict[Kind | None, list[int]] = {}
        for number, member in enumerate(members):
            kinds.setdefault(member.wanted.kind if member.wanted else None, []).append(number)
        for kind, numbers in kinds.items():
            for chosen, width in tokens.rectangles([len(rows[i]) for i in numbers], self._positions):
                left = [numbers[i] for i in chosen]
                while left:
                    found = self._score(kind, [members[i] for i in left], [rows[i] for i in left], width)
                    for number, one in zip(left, found, strict=False):
                        scores[number] = one
                    left = left[len(found) :]
        return scores

    def _score(self, kind: Kind | None, members: Sequence[Member], rows: tokens.Rows, width: int) -> list[Floats]:
        """Scores of one rectangle, or of as many of its first rows as there is room for their models' changes."""
        with self._slots(members) as slots, self._graph(kind).request() as request:
            inputs = tokens.pad(rows[: len(slots)], width)
            if kind is None:
                found = request.infer(inputs, None)
            else:
                found = request.infer((*inputs, slots), self.pool.table(self.base.digest, kind))
            return [
                member.answers.scores(
                    found[POOLED][place] if member.answers.shape.pooled else found[STATES][place, : len(row)]
                )
                for place, (member, row) in enumerate(zip(members[: len(slots)], rows, strict=False))
            ]

    @contextmanager
    def _slots(self, members: Sequence[Member]) -> Iterator[Int64s]:
        """The slot of each of the first members, for as many as there is room; they keep it inside."""
        wanted = {member.wanted.key: member.wanted for member in members if member.wanted}
        if not wanted:
            yield np.zeros(len(members), np.int64)
            return
        pinned = self.pool.pin(list(wanted.values()))
        slots = dict(zip(wanted, pinned, strict=False))  # of the first of them
        own = [slots.get(member.wanted.key, -1) for member in members if member.wanted]
        try:
            yield np.array(own[: own.index(-1)] if -1 in own else own, np.int64)
        finally:
            self.pool.unpin(list(wanted.values())[: len(pinned)])

    def _graph(self, kind: Kind | None) -> _Graph:
        modules = kind.modules if kind else ()
        with self._lock:
            if modules not in self._graphs:
                model = read(self.base.path)
                ready = compiled(deltas.with_room(model, modules) if kind else model, self._threads, self._streams)
                self._graphs[modules] = _Graph([_Request(ready.create_infer_request()) for _ in range(self._streams)])
            return self._graphs[modules]

    def _checked(self, folder: Path) -> Kind:
        """The kind of a model's changes; they fit this base."""
        changes = apart.read_changes(folder)
        for module in changes.kind.modules:
            sizes = len(changes.down[module]), changes.up[module].shape[1]
            if self.sizes.get(module) != sizes:
                place = folder / apart.FOLDER
                raise ArtifactError(f"the adapter is for another model: {module} is {sizes}", where=str(place))
        return changes.kind


class Bases:
    """The bases that are in memory, each as long as one of its models is, with one budget for all their changes."""

    def __init__(self, *, threads: int = 2, streams: int = 1, budget: int = BUDGET) -> None:
        self.pool = Pool(budget)
        self._threads, self._streams = threads, streams
        self._groups: weakref.WeakValueDictionary[str, Group] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def open(self, model: Model) -> Member:
        """A model of the format "adapter", in the store with its base; the base's files are verified here.

        Raises:
            ArtifactError: a file is missing or damaged, or the base is not one.
        """
        digest = str(model.facts.get("base"))
        if model.facts.get("format") != FORMAT or digest not in model.parents:
            raise ArtifactError(f"model {model.short} does not say which base it belongs to", where=str(model.path))
        with self._lock:
            group = self._groups.get(digest)
            return self._member(model.path, group or self._group(neighbour(model, digest)))

    def member(self, folder: Path, base: Model) -> Member:
        """A model's folder beside its base, which was verified.

        Raises:
            ArtifactError: a file is missing or damaged, or the base is not one.
        """
        with self._lock:
            return self._member(folder, self._groups.get(base.digest) or self._group(base))

    def _member(self, folder: Path, group: Group) -> Member:
        self._groups[group.base.digest] = group
        return Member(group, folder)

    def _group(self, base: Artifact) -> Group:
        if not isinstance(base, Model) or base.facts.get("format") != BASE:
            raise ArtifactError(f"{base.short} is no base that models share", where=str(base.path))
        return Group(base, self.pool, threads=self._threads, streams=self._streams)


class _Graph:
    """A compiled graph's requests, one for each stream; whoever wants one waits for it."""

    def __init__(self, requests: Sequence[_Request]) -> None:
        self._free: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        for request in requests:
            self._free.put(request)

    @contextmanager
    def request(self) -> Iterator[_Request]:
        """One of them, alone."""
        request = self._free.get()
        try:
            yield request
        finally:
            self._free.put(request)


class _Request:
    """An inference of the engine's that remembers which tables it reads."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._table: Table | None = None

    def infer(self, inputs: Sequence[Int64s], table: Table | None) -> Any:
        """Outputs by number; they are this request's own memory, and are read before it is given to another."""
        if table is not None and table is not self._table:
            for prefix, arrays in (("down", table.down), ("up", table.up)):
                for width, array in arrays.items():
                    tensor = openvino.Tensor(array, shared_memory=True)
                    self._request.set_tensor(f"{prefix}_{width}", tensor)
            self._table = table
        return self._request.infer(dict(enumerate(inputs)), share_inputs=True, share_outputs=True)
