"""Patterns of bytes that are matched one byte at a time, and may hold themselves.

A state is what may still come, as a list of patterns in a row; a byte leads from a set of states to another (partial
derivatives: Antimirov 1996, doi 10.1016/0304-3975(95)00182-4). Patterns are the same only where they are one object, so
that states are compared quickly: lists that begin with different things share their ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, eq=False)
class One:
    """One byte of several."""

    of: frozenset[int]


@dataclass(frozen=True, eq=False)
class Text:
    """These bytes, from ``at`` on."""

    text: bytes
    at: int = 0


@dataclass(frozen=True, eq=False)
class Row:
    """One pattern after the other."""

    parts: tuple[Pattern, ...]


@dataclass(frozen=True, eq=False)
class Any:
    """One pattern of several."""

    of: tuple[Pattern, ...]


@dataclass(frozen=True, eq=False)
class Times:
    """A pattern that is not empty, ``least`` times at least and ``most`` times at most."""

    what: Pattern
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, eq=False)
class Later:
    """A pattern that is looked up when it is met: so it may hold itself."""

    find: Callable[[], Pattern]


Pattern: TypeAlias = One | Text | Row | Any | Times | Later
State: TypeAlias = "tuple[Pattern, State] | None"  # what comes next, and what then; None where nothing need come
States: TypeAlias = frozenset[State]


def begin(pattern: Pattern) -> States:
    """Nothing was met yet."""
    return frozenset([(pattern, None)])


def after(states: States, byte: int) -> States:
    """What may come after a byte; nothing where the byte may not."""
    return frozenset(found for state in states for found in _after(state, byte))


def first(states: States) -> frozenset[int]:
    """The bytes that may come next."""
    return frozenset[int]().union(*(_first(state) for state in states))


def ended(states: States) -> bool:
    """Whether nothing more need come."""
    return any(_ended(state) for state in states)


def _after(state: State, byte: int) -> Iterator[State]:
    if state is None:
        return
    top, rest = state
    match top:
        case One(of):
            if byte in of:
                yield rest
        case Text(text, at):
            if text[at] == byte:
                yield rest if at + 1 == len(text) else (Text(text, at + 1), rest)
        case Row(parts):
            yield from _after(_put(parts, rest), byte)
        case Any(of):
            for one in of:
                yield from _after((one, rest), byte)
        case Times(what, least, most):
            if most != 0:
                left = Times(what, max(0, least - 1), None if most is None else most - 1)
                yield from _after((what, (left, rest)), byte)
            if least == 0:
                yield from _after(rest, byte)
        case Later(find):
            yield from _after((find(), rest), byte)


def _first(state: State) -> frozenset[int]:
    if state is None:
        return frozenset()
    top, rest = state
    found: frozenset[int] = frozenset()
    match top:
        case One(of):
            found = of
        case Text(text, at):
            found = frozenset([text[at]])
        case Row(parts):
            found = _first(_put(parts, rest))
        case Any(of):
            found = found.union(*(_first((one, rest)) for one in of))
        case Times(what, least, most):
            found = _first((what, rest)) if most != 0 else found
            found |= _first(rest) if least == 0 else found
        case Later(find):
            found = _first((find(), rest))
    return found


def _ended(state: State) -> bool:
    while state is not None:
        top, rest = state
        match top:
            case Row(parts):
                state = _put(parts, rest)
            case Any(of):
                return any(_ended((one, rest)) for one in of)
            case Times(_, 0, _):
                state = rest
            case Later(find):
                state = (find(), rest)
            case _:
                return False
    return True


def _put(parts: tuple[Pattern, ...], rest: State) -> State:
    for part in reversed(parts):
        rest = (part, rest)
    return rest
