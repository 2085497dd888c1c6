"""As much of ONNX's protobuf as shows that a file is a model, and that all of its weights are in it.

A tensor may name another file for its numbers. Nothing here reads one, so whatever loads the model could be led to any
file of the machine: such models are refused (onnx.proto3: TensorProto.external_data and data_location).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

LIMIT = 500_000_000  # bytes
_DEPTH = 32  # graphs within graphs
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_GRAPH, _DATA_LOCATION, _EXTERNAL = 7, 14, 1
_WITHIN: Mapping[str, Mapping[int, str]] = {
    # message -> field number -> the message that stands there; all others hold no tensors
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}


def problem(file: Path) -> str | None:
    """What is wrong with an ONNX file, as the rest of a sentence; None where nothing is."""
    if file.stat().st_size > LIMIT:
        return f"is larger than {LIMIT:,} bytes"
    whole = file.read_bytes()
    body = memoryview(whole)
    try:
        if _GRAPH not in {number for number, _, _ in _fields(body)}:
            return "is not an ONNX model"
        if b"location" in whole and _reaches_out(body, "model", 0):  # a tensor that lies elsewhere says so
            return "has weights in other files; save it as one file"
    except ValueError:
        return "is not an ONNX model"
    return None


def _reaches_out(body: memoryview, kind: str, depth: int) -> bool:
    if depth > _DEPTH:
        raise ValueError("too deep")
    for number, value, part in _fields(body):
        if kind == "tensor" and number == _DATA_LOCATION and value == _EXTERNAL:
            return True
        inner = _WITHIN[kind].get(number)
        if inner is not None and part is not None and _reaches_out(part, inner, depth + 1):
            return True
    return False


def _fields(body: memoryview) -> Iterator[tuple[int, int, memoryview | None]]:
    """(number, value, content) of each field of a message: its value where it is a varint, else what it holds."""
    at = 0
    while at < len(body):
        key, at = _varint(body, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(body, at)
            yield number, value, None
            continue
        if wire == _LENGTH:
            size, at = _varint(body, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError("no such wire type")
        if number == 0 or at + size > len(body):
            raise ValueError("a field goes beyond its message")
        yield number, 0, body[at : at + size] if wire == _LENGTH else None
        at += size


def _varint(body: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(body):
            raise ValueError("a number ends too soon")
        value |= (body[at] & 0x7F) << shift
        at += 1
        if not body[at - 1] & 0x80:
            return value, at
    raise ValueError("a number is too long")
