"""Many models on one base: the base is in memory once, and rows of different models share its runs.

    bases = Bases(threads=2)
    film, shop = bases.open(one), bases.open(other)  # engines, as feilun.models.inference.Engine
    scores = film.group.outputs_each([film, shop], rows)  # each row by its own model, where both are of one group

A model is a head, and perhaps LoRA's changes of the base. Heads are always in memory; changes are loaded when they are
asked for, and the least recently used are dropped where a budget is reached. What a row meets is decided by its own
model alone: its slot cannot be given to another before the run is over.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
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

    def __init__(self, base: Base, folder: Path) -> None:
        told = tokens.told(folder)
        self.head = tokens.load_head(folder)
        self.labels = tokens.load_labels(folder)
        self.decided = tokens.load_decided(folder)
        self.tokenizer = base.tokenizer(told.get("context"), folder)
        self.context = tokens.context_of(self.tokenizer)
        self.answers = apart.read_head(folder, self.head, len(self.labels))
        self.wanted = base.want(folder) if (folder / apart.FOLDER).is_dir() else None
        self.group = base.group(self.wanted.kind if self.wanted else None)
        if self.wanted is not None:
            weakref.finalize(self, base.pool.forget, self.wanted.key)

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
            self.group.base.pool.fetch(self.wanted)
        return tokens.encode(self.tokenizer, texts)

    def run(self, rows: tokens.Rows) -> Floats:
        """Scores (N, C)."""
        return np.stack(self.outputs(rows)) if rows else np.zeros((0, len(self.labels)), np.float32)

    def outputs(self, rows: tokens.Rows) -> list[Floats]:
        """Each row's scores: (C,), or (its tokens, C)."""
        return self.group.outputs_each([self] * len(rows), rows)


class Base:
    """A base in memory, for all that share it; made by ``Bases``. Safe to use from any thread."""

    def __init__(self, model: Model, pool: Pool, *, threads: int) -> None:
        self.digest = model.digest
        self.folder = model.path
        self.pool = pool
        self.threads = threads
        self._lock = threading.Lock()
        self._tokenizers: dict[int, Tokenizer] = {}
        self._graphs: dict[tuple[str, ...], Graph] = {}  # by the modules that are changed; compiled when one is needed
        self._groups: weakref.WeakValueDictionary[Kind | None, Group] = weakref.WeakValueDictionary()
        self.positions = tokens.context_of(tokens.load_tokenizer(self.folder))
        self.sizes: Sizes = deltas.sizes_of(read(self.folder))

    def tokenizer(self, context: Any, folder: Path) -> Tokenizer:
        """The base's tokenizer, cut at so many tokens.

        Raises:
            ArtifactError: that is no number, or more than the base can read.
        """
        if not isinstance(context, int) or not 0 < context <= self.positions:
            what = f"the model's context, {context}, is none that its base has"
            raise ArtifactError(what, where=str(folder / "config.json"))
        with self._lock:
            if context not in self._tokenizers:
                self._tokenizers[context] = tokens.load_tokenizer(self.folder, context)
            return self._tokenizers[context]

    def group(self, kind: Kind | None) -> Group:
        """What models with changes of this kind run in."""
        with self._lock:
            found = self._groups.get(kind)
            if found is None:
                found = self._groups[kind] = Group(self, kind, self._graph(kind))
            return found

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
        return Wanted(next(_KEYS), self.digest, kind, self.sizes, size, read)

    def _graph(self, kind: Kind | None) -> Graph:
        modules = kind.modules if kind else ()
        if modules not in self._graphs:
            model = read(self.folder)
            ready = compiled(deltas.with_room(model, modules) if kind else model, self.threads, self.threads)
            self._graphs[modules] = Graph([_Request(ready.create_infer_request()) for _ in range(self.threads)])
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


class Group:
    """Models of one base whose rows share runs: heads alone (``kind`` None), or changes of one kind.

    Safe to call from any thread; each thread of the engine is a stream of its own (``feilun.models.openvino``).
    """

    def __init__(self, base: Base, kind: Kind | None, graph: Graph) -> None:
        self.base = base
        self._kind = kind
        self._graph = graph

    def outputs_each(self, members: Sequence[Member], rows: tokens.Rows) -> list[Floats]:
        """Each row's scores by its own model: (C,), or (its tokens, C). A row's scores depend on no other row.

        Raises:
            ArtifactError: a model's files cannot be read any more.
        """
        scores: list[Floats] = [np.empty(0, np.float32)] * len(rows)
        left = deque(tokens.rectangles([len(row) for row in rows], self.base.positions))
        running: deque[_Running] = deque()
        try:
            while left or running:
                while left and (begun := self._begin(left[0], members, rows, wait=not running)) is not None:
                    chosen, width = left.popleft()
                    if len(begun.rows) < len(chosen):
                        left.appendleft((chosen[len(begun.rows) :], width))
                    running.append(begun)
                self._finish(running[0], members, rows, scores)
                running.popleft()
        finally:
            for begun in running:  # something has failed
                self._let_go(begun)
        return scores

    def _begin(
        self, rectangle: tuple[list[int], int], members: Sequence[Member], rows: tokens.Rows, *, wait: bool
    ) -> _Running | None:
        """Start a rectangle, or as many of its first rows as there is room for their models' changes.

        None where there is no stream or no room; with ``wait`` there will be. Who has something running never waits, so
        nobody waits for one who waits.
        """
        request = self._graph.take(wait=wait)
        if request is None:
            return None
        pinned: list[Wanted] = []
        try:
            chosen, width = rectangle
            table = None
            if self._kind is not None:
                pinned, chosen, slots = self._pin(chosen, members, wait=wait)
                if not pinned:
                    self._graph.give_back(request)
                    return None
                table = self.base.pool.table(self.base.digest, self._kind)
            inputs = [*tokens.pad([rows[i] for i in chosen], width), *([] if table is None else [slots])]
            request.start(inputs, table)
        except BaseException:
            self.base.pool.unpin(pinned)
            self._graph.give_back(request)
            raise
        return _Running(request, pinned, chosen, inputs)

    def _pin(
        self, chosen: list[int], members: Sequence[Member], *, wait: bool
    ) -> tuple[list[Wanted], list[int], Int64s]:
        """The changes that are kept in their places, the first rows for which that is all of them, and their slots."""
        wanted = {w.key: w for w in (members[i].wanted for i in chosen) if w is not None}
        slots = self.base.pool.pin(list(wanted.values()), wait=wait)
        known = dict(zip(wanted, slots, strict=False))
        own = [known.get(w.key, -1) for w in (members[i].wanted for i in chosen) if w is not None]
        ready = own.index(-1) if -1 in own else len(own)
        return list(wanted.values())[: len(slots)], chosen[:ready], np.array(own[:ready], np.int64)

    def _finish(self, begun: _Running, members: Sequence[Member], rows: tokens.Rows, scores: list[Floats]) -> None:
        states, pooled = begun.request.outputs()
        for place, number in enumerate(begun.rows):
            answers = members[number].answers
            scores[number] = answers.scores(
                pooled[place] if answers.shape.pooled else states[place, : len(rows[number])]
            )
        self._let_go(begun)

    def _let_go(self, begun: _Running) -> None:
        begun.request.settle()
        self.base.pool.unpin(begun.pinned)
        self._graph.give_back(begun.request)


class Bases:
    """The bases that are in memory, each as long as one of its models is, with one budget for all their changes."""

    def __init__(self, *, threads: int = 2, budget: int = BUDGET) -> None:
        self.pool = Pool(budget)
        self._threads = threads
        self._bases: weakref.WeakValueDictionary[str, Base] = weakref.WeakValueDictionary()
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
            return Member(self._bases.get(digest) or self._base(neighbour(model, digest)), model.path)

    def member(self, folder: Path, base: Model) -> Member:
        """A model's folder beside its base, which was verified.

        Raises:
            ArtifactError: a file is missing or damaged, or the base is not one.
        """
        with self._lock:
            return Member(self._bases.get(base.digest) or self._base(base), folder)

    def _base(self, model: Artifact) -> Base:
        if not isinstance(model, Model) or model.facts.get("format") != BASE:
            raise ArtifactError(f"{model.short} is no base that models share", where=str(model.path))
        made = self._bases[model.digest] = Base(model, self.pool, threads=self._threads)
        return made


class Graph:
    """A compiled graph's requests, one for each stream."""

    def __init__(self, requests: Sequence[_Request]) -> None:
        self._free: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        for request in requests:
            self._free.put(request)

    def take(self, *, wait: bool) -> _Request | None:
        """One that is free; None where there is none and nobody wants to wait."""
        try:
            return self._free.get(block=wait)
        except queue.Empty:
            return None

    def give_back(self, request: _Request) -> None:
        """It is free again."""
        self._free.put(request)


class _Request:
    """An inference of the engine's that remembers which tables it reads."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._table: Table | None = None

    def start(self, inputs: Sequence[Int64s], table: Table | None) -> None:
        """Begin; inputs and table must be there until ``settle``."""
        if table is not None and table is not self._table:
            for prefix, arrays in (("down", table.down), ("up", table.up)):
                for width, array in arrays.items():
                    tensor = openvino.Tensor(array, shared_memory=True)
                    self._request.set_tensor(f"{prefix}_{width}", tensor)
            self._table = table
        self._request.start_async(dict(enumerate(inputs)), share_inputs=True)

    def outputs(self) -> tuple[Floats, Floats]:
        """States and their means when they are done; this request's own memory, until it is given back."""
        self._request.wait()
        return self._request.get_output_tensor(STATES).data, self._request.get_output_tensor(POOLED).data

    def settle(self) -> None:
        """Wait until nothing is read any more, however it ended."""
        with contextlib.suppress(RuntimeError):
            self._request.wait()


@dataclass
class _Running:
    """A rectangle on its way, and what it reads until it is done."""

    request: _Request
    pinned: list[Wanted]
    rows: list[int]
    inputs: list[Int64s]
