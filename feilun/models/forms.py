"""JSON that fits a schema, token by token: which tokens may come next in an answer.

What is written is the plainest text of such a value: properties in the order of the schema, none that it does not
name, one space at most behind a comma or colon. What a pattern of bytes cannot promise is refused, not ignored.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any as Anything

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from feilun.errors import SettingError
from feilun.models import patterns
from feilun.models.patterns import Any, Later, One, Pattern, Row, Text, Times

DIGITS = 15  # of a whole number, and behind the point: what every reader reads exactly
SILENT = frozenset(  # say nothing about what is valid, or name parts that are referred to
    [
        "title",
        "description",
        "default",
        "examples",
        "$schema",
        "$id",
        "$comment",
        "$defs",
        "definitions",
        "format",
        "deprecated",
        "readOnly",
        "writeOnly",
    ]
)
_KNOWN = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
}
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


def _one(text: str) -> One:
    return One(frozenset(text.encode()))


def _span(low: int, high: int) -> One:
    return One(frozenset(range(low, high + 1)))


_DIGIT, _HEX, _MORE = _one("0123456789"), _one("0123456789abcdefABCDEF"), _span(0x80, 0xBF)
_CHARACTER = Any(
    (
        One(frozenset(range(0x20, 0x80)) - frozenset(b'"\\\x7f')),
        Row((_span(0xC2, 0xDF), _MORE)),
        Row((One(frozenset([0xE0])), _span(0xA0, 0xBF), _MORE)),
        Row((One(frozenset([*range(0xE1, 0xED), 0xEE, 0xEF])), _MORE, _MORE)),
        Row((One(frozenset([0xED])), _span(0x80, 0x9F), _MORE)),  # no halves of surrogate pairs
        Row((One(frozenset([0xF0])), _span(0x90, 0xBF), _MORE, _MORE)),
        Row((_span(0xF1, 0xF3), _MORE, _MORE, _MORE)),
        Row((One(frozenset([0xF4])), _span(0x80, 0x8F), _MORE, _MORE)),
        Row((Text(b"\\"), _one('"\\/bfnrt'))),
        Row((Text(b"\\u00"), _HEX, _HEX)),
    )
)
_QUOTE, _GAP = Text(b'"'), Times(Text(b" "), 0, 1)
_COMMA, _COLON = Row((Text(b","), _GAP)), Row((Text(b":"), _GAP))
_INTEGER = Row((Times(Text(b"-"), 0, 1), Any((Text(b"0"), Row((_one("123456789"), Times(_DIGIT, 0, DIGITS - 1)))))))
_NUMBER = Row(
    (
        _INTEGER,
        Times(Row((Text(b"."), Times(_DIGIT, 1, DIGITS))), 0, 1),
        Times(Row((_one("eE"), Times(_one("+-"), 0, 1), Times(_DIGIT, 1, 2))), 0, 1),
    )
)
_FLAG, _NULL = Any((Text(b"true"), Text(b"false"))), Text(b"null")
_EMPTY = Row(())


def _string(least: int = 0, most: int | None = None) -> Pattern:
    return Row((_QUOTE, Times(_CHARACTER, least, most), _QUOTE))


def _listed(one: Pattern, ends: tuple[bytes, bytes], least: int = 0, most: int | None = None) -> Pattern:
    """Things between brackets, with commas between them."""
    if most == 0:
        return Row((Text(ends[0]), Text(ends[1])))
    more = Times(Row((_COMMA, one)), max(0, least - 1), None if most is None else most - 1)
    return Row((Text(ends[0]), Row((one, more)) if least else Times(Row((one, more)), 0, 1), Text(ends[1])))


def _map(value: Pattern) -> Pattern:
    return _listed(Row((_string(), _COLON, value)), (b"{", b"}"))


@functools.cache
def _any() -> Pattern:
    return Any((_map(_ANY), _listed(_ANY, (b"[", b"]")), _string(), _NUMBER, _FLAG, _NULL))


_ANY = Later(_any)


class _Reader:
    """A schema as a pattern."""

    def __init__(self, schema: Anything) -> None:
        self._root = schema
        self._met: dict[str, Pattern] = {}

    def read(self, schema: Anything) -> Pattern:
        """Of one schema, inside the whole one.

        Raises:
            SettingError: it asks for something that is not promised here.
        """
        if schema is True or schema == {}:
            return _ANY
        if not isinstance(schema, dict):
            raise _refused("a schema that nothing fits")
        asked = schema.keys() - SILENT
        for name, build in self._ways().items():
            if name in asked:
                if asked - {name, "type"} or (name == "$ref" and "type" in asked):
                    raise _refused(f"'{name}' beside {', '.join(sorted(asked - {name}))}")
                return build(schema[name])
        types = schema.get("type", ["object"] if "properties" in schema else list(_TYPES))
        listed = types if isinstance(types, list) else [types]
        known = set[str]().union(*(_KNOWN.get(str(kind), set()) for kind in listed)) | {"type"}
        if asked - known:
            raise _refused(f"'{min(asked - known)}'")
        return _any_of([self._typed(str(kind), schema) for kind in listed])

    def _ways(self) -> Mapping[str, Callable[[Anything], Pattern]]:
        return {
            "$ref": self._reference,
            "const": lambda value: _any_of([Text(_written(value))]),
            "enum": lambda values: _any_of([Text(_written(value)) for value in values]),
            "anyOf": lambda schemas: _any_of([self.read(one) for one in schemas]),
        }

    def _typed(self, kind: str, schema: Mapping[str, Anything]) -> Pattern:
        if kind == "object":
            return self._object(schema)
        if kind == "array":
            least, most = _bounds(schema, "Items")
            return _listed(self.read(schema.get("items", True)), (b"[", b"]"), least, most)
        if kind == "string":
            return _string(*_bounds(schema, "Length"))
        plain: dict[str, Pattern] = {"number": _NUMBER, "integer": _INTEGER, "boolean": _FLAG, "null": _NULL}
        if kind not in plain:
            raise _refused(f"the type '{kind}'")
        return plain[kind]

    def _object(self, schema: Mapping[str, Anything]) -> Pattern:
        named: Mapping[str, Anything] = schema.get("properties", {})
        required = set(schema.get("required", []))
        if required - named.keys():
            raise _refused(f"a property '{min(required - named.keys())}' that is required and not described")
        if not named:
            more = schema.get("additionalProperties", True)
            return Text(b"{}") if more is False else _map(self.read(more))
        # what may come from each property on, with something before it and without: a comma belongs to what follows
        rest: dict[bool, Pattern] = {True: Text(b"}"), False: Text(b"}")}
        for name, value in reversed(list(named.items())):
            member = Row((Text(_written(name)), _COLON, self.read(value)))
            own: dict[bool, Pattern] = {}
            for first in (True, False):
                there = Row((_EMPTY if first else _COMMA, member, rest[False]))
                own[first] = there if name in required else Any((there, rest[first]))
            rest = own
        return Row((Text(b"{"), rest[True]))

    def _reference(self, name: Anything) -> Pattern:
        """Read when it is met: a schema may hold itself."""

        def find() -> Pattern:
            if name not in self._met:
                self._met[name] = self.read(self._found(str(name)))
            return self._met[name]

        self._found(str(name))
        return Later(find)

    def _found(self, name: str) -> Anything:
        found = self._root
        for part in name.removeprefix("#").split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or key not in found:
                raise _refused(f"the reference '{name}'")
            found = found[key]
        return found


def read(schema: str) -> Pattern:
    """A JSON schema as the pattern of the JSON that fits it.

    Raises:
        SettingError: it asks for something that is not promised here, or refers to itself and nothing else.
    """
    told = json.loads(schema)
    reader = _Reader(told)
    pattern = reader.read(told)
    try:
        states = patterns.begin(pattern)
        possible = bool(patterns.first(states))
        for name in _references(told):
            patterns.first(patterns.begin(reader.read({"$ref": name})))
    except RecursionError:
        possible = False
    if not possible:
        raise _refused("a schema that holds nothing but itself")
    return pattern


class Words:
    """The tokens of a vocabulary as bytes; None where one is special and stands for nothing that is written."""

    def __init__(self, tokenizer: Tokenizer, ends: frozenset[int], size: int) -> None:
        self.bytes = [None if i in ends else one for i, one in enumerate(spelled(tokenizer, size))]
        self.ends = ends
        self.first: NDArray[np.int16] = np.array([one[0] if one else -1 for one in self.bytes], np.int16)

    def form(self, pattern: Pattern) -> JsonForm:
        """For one answer."""
        return JsonForm(self, pattern)


class JsonForm:
    """What one answer has to fit (``feilun.models.choosing.Form``)."""

    def __init__(self, words: Words, pattern: Pattern) -> None:
        self._words = words
        self._states = patterns.begin(pattern)

    def possible(self) -> NDArray[np.bool_]:
        """(V,): tokens whose first byte may come next, and those that end an answer where it may end."""
        allowed = np.zeros(257, np.bool_)  # the last is of tokens without bytes: -1
        allowed[sorted(patterns.first(self._states))] = True
        found: NDArray[np.bool_] = allowed[self._words.first]
        if patterns.ended(self._states):
            found[sorted(self._words.ends)] = True
        return found

    @property
    def over(self) -> bool:
        """Whether it is written to its end, so that nothing can follow."""
        return patterns.ended(self._states) and not patterns.first(self._states)

    def fits(self, token: int) -> bool:
        """Whether the answer could go on with this token, or end with it."""
        if token in self._words.ends:
            return patterns.ended(self._states)
        return bool(self._after(token))

    def add(self, token: int) -> None:
        """The answer goes on with it."""
        if token not in self._words.ends:
            self._states = self._after(token)

    def _after(self, token: int) -> patterns.States:
        states = self._states
        for byte in self._words.bytes[token] or b"":
            states = patterns.after(states, byte)
            if not states:
                break
        return states if self._words.bytes[token] else frozenset()


def spelled(tokenizer: Tokenizer, size: int) -> list[bytes | None]:
    """What each token of a vocabulary stands for, whether its pieces are bytes (GPT-2's way) or words (Metaspace)."""
    told = json.loads(tokenizer.to_str())
    in_bytes = '"ByteLevel"' in json.dumps(told.get("decoder"))
    letters = _byte_letters()
    added = tokenizer.get_added_tokens_decoder()
    found: list[bytes | None] = []
    for number in range(size):
        piece = tokenizer.id_to_token(number)
        if piece is None or (number in added and added[number].special):
            found.append(None)
        elif number in added:
            found.append(piece.encode())
        elif in_bytes:
            found.append(bytes(letters[c] for c in piece) if all(c in letters for c in piece) else None)
        elif fallback := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):
            found.append(bytes([int(fallback[1], 16)]))
        else:
            found.append(piece.replace("\u2581", " ").encode())
    return found


@functools.cache
def _byte_letters() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes with: those that show, as they are, the others from 256 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def _any_of(of: Sequence[Pattern]) -> Pattern:
    if not of:
        raise _refused("a schema that nothing fits")
    return of[0] if len(of) == 1 else Any(tuple(of))


def _bounds(schema: Mapping[str, Anything], what: str) -> tuple[int, int | None]:
    least, most = int(schema.get(f"min{what}", 0)), schema.get(f"max{what}")
    if most is not None and least > int(most):
        raise _refused("a schema that nothing fits")
    return least, None if most is None else int(most)


def _written(value: Anything) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": ")).encode()


def _references(value: Anything) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(_references(one) for one in value.values()))
    return set[str]().union(*(_references(one) for one in value)) if isinstance(value, list) else set()


def _refused(what: str) -> SettingError:
    return SettingError(
        f"the engine of this model cannot promise {what}",
        where="response_format",
        hint="type, properties, required, items, enum, const, anyOf, $ref and lengths are promised",
        code="invalid-request",
    )
