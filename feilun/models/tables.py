"""Room for the changes of many models, in memory that the engine reads where it is: loaded when asked for, and the
least recently used go first when there is too little.

    pool = Pool(budget)
    slots = pool.pin(wanted)  # the engine may read these until
    pool.unpin(wanted[: len(slots)])
"""

from __future__ import annotations

import mmap
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from feilun.models.apart import Changes, Floats, Kind

Sizes = Mapping[str, tuple[int, int]]  # of a base's linear modules: inputs, outputs


class Table:
    """Slots for changes of one kind of one base.

    ``down``: by number of inputs, (slots * modules with so many, inputs, rank); ``up``: by number of outputs, (slots *
    modules, rank, outputs). A slot's part of an array is one piece. Pages that nobody wrote to take no memory.
    """

    def __init__(self, kind: Kind, sizes: Sizes, slots: int) -> None:
        self.down: dict[int, Floats] = {}
        self.up: dict[int, Floats] = {}
        self.free = list(range(slots - 1, -1, -1))
        self._slots = slots
        self._places = places(kind, sizes)
        self._maps: list[tuple[mmap.mmap, int]] = []  # with the bytes of a slot in it
        for width, modules in self._places[0].items():
            self.down[width] = self._reserve(slots, (len(modules), width, kind.rank))
        for width, modules in self._places[1].items():
            self.up[width] = self._reserve(slots, (len(modules), kind.rank, width))

    @property
    def is_empty(self) -> bool:
        """Whether nobody is in it."""
        return len(self.free) == self._slots

    def fill(self, slot: int, changes: Changes) -> None:
        """Write a model's changes into a slot."""
        for arrays, widths, parts in (
            (self.down, self._places[0], changes.down),
            (self.up, self._places[1], changes.up),
        ):
            for width, modules in widths.items():
                first = slot * len(modules)
                for number, module in enumerate(modules):
                    arrays[width][first + number] = parts[module]

    def clear(self, slot: int) -> None:
        """Give a slot's memory back, its whole pages."""
        for memory, size in self._maps:
            first = -(-slot * size // mmap.PAGESIZE) * mmap.PAGESIZE
            length = (slot + 1) * size // mmap.PAGESIZE * mmap.PAGESIZE - first
            if length > 0:
                memory.madvise(mmap.MADV_DONTNEED, first, length)

    def _reserve(self, slots: int, shape: tuple[int, int, int]) -> Floats:
        size = 4 * int(np.prod(shape))
        memory = mmap.mmap(-1, slots * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._maps.append((memory, size))
        return np.frombuffer(memory, np.float32).reshape(slots * shape[0], *shape[1:])


def places(kind: Kind, sizes: Sizes) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """The modules of each number of inputs, and of each number of outputs, in the order of their places in a slot."""
    found: tuple[dict[int, list[str]], dict[int, list[str]]] = ({}, {})
    for module in kind.modules:
        for widths, width in zip(found, sizes[module], strict=True):
            widths.setdefault(width, []).append(module)
    return found


@dataclass(frozen=True, eq=False)
class Wanted:
    """One model's changes: ``key`` is its own for ever, ``group`` its base's, ``read`` reads them from its files."""

    key: int
    group: Hashable
    kind: Kind
    sizes: Sizes
    size: int
    read: Callable[[], Changes]


@dataclass
class _Held:
    wanted: Wanted
    table: Table
    slot: int


class Pool:
    """What is in memory of all models' changes, ``budget`` bytes at the most; safe to use from any thread.

    A single model that is larger than the budget is let in when it is alone.
    """

    def __init__(self, budget: int) -> None:
        self.used = 0
        self.loads = 0
        self._budget = budget
        self._tables: dict[tuple[Hashable, Kind], Table] = {}
        self._held: OrderedDict[int, _Held] = OrderedDict()  # least recently used first
        self._pins: Counter[int] = Counter()
        self._gone: deque[int] = deque()  # keys of models that nobody has any more
        self._changed = threading.Condition()

    def table(self, group: Hashable, kind: Kind) -> Table:
        """Where the changes of this kind are; some of them are pinned."""
        return self._tables[group, kind]

    def fetch(self, wanted: Wanted) -> None:
        """Load it now where there is room; nothing is promised about how long it stays.

        Raises:
            ArtifactError: its files cannot be read.
        """
        with self._changed:
            self._drop_gone()
            self._place(wanted)

    def pin(self, wanted: Sequence[Wanted], *, wait: bool = True) -> list[int]:
        """Slots for the longest beginning of ``wanted`` that there is room for; they stay until ``unpin``.

        With ``wait`` there is at least one: it waits while others use all the room. Who has pinned something must not.

        Raises:
            ArtifactError: files cannot be read; nothing is pinned.
        """
        slots: list[int] = []
        with self._changed:
            try:
                while not slots and wanted:
                    self._drop_gone()
                    for one in wanted:
                        held = self._place(one)
                        if held is None:
                            break
                        self._pins[one.key] += 1
                        slots.append(held.slot)
                    if slots or not wait:
                        break
                    self._changed.wait()
            except BaseException:
                self._unpin(wanted[: len(slots)])
                raise
        return slots

    def unpin(self, wanted: Iterable[Wanted]) -> None:
        """The engine has read them."""
        with self._changed:
            self._unpin(wanted)

    def forget(self, key: int) -> None:
        """Nobody will want this one again. Called while anything is going on, so it only takes a note."""
        self._gone.append(key)

    def _unpin(self, wanted: Iterable[Wanted]) -> None:
        for one in wanted:
            self._pins[one.key] -= 1
            if not self._pins[one.key]:
                del self._pins[one.key]
        self._changed.notify_all()

    def _drop_gone(self) -> None:
        for _ in range(len(self._gone)):
            key = self._gone.popleft()
            if key in self._pins:
                self._gone.append(key)  # it is being read; later
            elif key in self._held:
                self._evict(key)

    def _place(self, wanted: Wanted) -> _Held | None:
        """Where it is, loaded if it was not; None where all the room is pinned."""
        held = self._held.get(wanted.key)
        if held is not None:
            self._held.move_to_end(wanted.key)
            return held
        while self.used and self.used + wanted.size > self._budget:
            if not self._evict_oldest():
                return None
        place = wanted.group, wanted.kind
        if place not in self._tables:
            self._tables[place] = Table(wanted.kind, wanted.sizes, max(1, self._budget // wanted.size))
        table = self._tables[place]
        changes = wanted.read()
        slot = table.free.pop()  # as many as fit into the budget
        table.fill(slot, changes)
        self.used += wanted.size
        self.loads += 1
        held = self._held[wanted.key] = _Held(wanted, table, slot)
        return held

    def _evict_oldest(self) -> bool:
        key = next((key for key in self._held if key not in self._pins), None)
        if key is None:
            return False
        self._evict(key)
        return True

    def _evict(self, key: int) -> None:
        held = self._held.pop(key)
        held.table.clear(held.slot)
        held.table.free.append(held.slot)
        if held.table.is_empty:
            del self._tables[held.wanted.group, held.wanted.kind]
        self.used -= held.wanted.size
