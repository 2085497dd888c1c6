"""What a file really is, whatever it is called: pickles are refused, weights and JSON are checked before any load.

RELIABILITY 40 and 41. Nothing is unpickled: ``pickletools`` reads opcodes without running them.
"""

from __future__ import annotations

import io
import json
import math
import pickletools
import zipfile
from pathlib import Path
from typing import Any

from feilun.catalog import onnx
from feilun.errors import ArtifactError

HEADER_LIMIT = 25_000_000  # bytes of a safetensors header; a 100,000-tensor model needs about 10 MB
JSON_LIMIT = 200_000_000
PICKLE_HEAD = 1 << 16  # enough to meet the first call in any pickle made to do harm

_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
}
_BITS |= {"I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4}
_CALLS = {"REDUCE", "INST", "OBJ", "BUILD", "NEWOBJ", "NEWOBJ_EX"}
_ROWS = (".csv", ".tsv", ".jsonl", ".ndjson", ".txt", ".conll", ".bio")  # read as text and by nothing else


def check(file: Path, name: str | None = None) -> None:
    """Refuse a file that holds a pickle or is not what its suffix says.

    Args:
        file: the bytes.
        name: what it will be called, when that is not ``file``'s own name.

    Raises:
        ArtifactError: code "unsafe-file"; the message says what is wrong.
    """
    name = name or file.name
    if is_pickle(file):
        raise _unsafe(name, "holds a pickle, which can run any code when it is loaded")
    suffix = Path(name).suffix
    if suffix == ".safetensors":
        _check_safetensors(file, name)
    elif suffix == ".json":
        _check_json(file, name)
    elif suffix == ".gguf" and _head(file, 4) != b"GGUF":
        raise _unsafe(name, "is not a GGUF file")
    elif suffix == ".xml" and not _head(file, 64).lstrip(b"\xef\xbb\xbf \r\n").startswith((b"<?xml", b"<net")):
        raise _unsafe(name, "is not an OpenVINO graph")
    elif suffix == ".onnx" and (wrong := onnx.problem(file)) is not None:
        raise _unsafe(name, wrong)
    elif suffix == ".parquet" and _head(file, 4) != b"PAR1":
        raise _unsafe(name, "is not a Parquet file")


def is_pickle(file: Path) -> bool:
    """Whether the content is a pickle or a torch archive of one; opcodes are read, never run."""
    head = _head(file, PICKLE_HEAD)
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(file) as archive:
                return any(name.endswith((".pkl", ".pickle")) for name in archive.namelist())
        except (zipfile.BadZipFile, OSError, NotImplementedError):
            return False
    if len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return True
    return file.suffix not in _ROWS and _calls_something(head)


def _calls_something(head: bytes) -> bool:
    """Whether bytes without a pickle's mark (protocols 0 and 1) would import and call when unpickled.

    A stack is kept as the unpickler would, so that text or weights that happen to look like opcodes fail at once.
    """
    stack: list[object] = []
    imported = False
    try:
        for code, _, _ in pickletools.genops(io.BytesIO(head)):
            imported = imported or code.name in ("GLOBAL", "INST")
            before = [item for item in code.stack_before if item is not pickletools.stackslice]
            if pickletools.markobject in before:
                while stack.pop() is not pickletools.markobject:
                    pass
                before = before[: before.index(pickletools.markobject)]
            for _ in before:
                stack.pop()
            if imported and code.name in _CALLS:
                return True
            stack.extend(code.stack_after)
    except (ValueError, IndexError, OverflowError):
        return False
    return False


def _check_safetensors(file: Path, name: str) -> None:
    size = file.stat().st_size
    length = int.from_bytes(_head(file, 8), "little")
    if size < 8 or length > min(size - 8, HEADER_LIMIT):
        raise _unsafe(name, f"is not safetensors: a header of {length:,} bytes in a file of {size:,}")
    with file.open("rb") as opened:
        opened.seek(8)
        header = _parse(opened.read(length), name)
    header.pop("__metadata__", None)
    try:
        spans = sorted(_span(tensor) for tensor in header.values())
    except (KeyError, TypeError, ValueError) as error:
        raise _unsafe(name, f"has a tensor that cannot be: {error}") from error
    end = 0
    for start, stop in spans:
        if start != end:
            raise _unsafe(name, f"has tensors that overlap or leave a hole at byte {start:,}")
        end = stop
    if end != size - 8 - length:
        raise _unsafe(name, f"has {size - 8 - length:,} bytes of weights where its header says {end:,}")


def _span(tensor: dict[str, Any]) -> tuple[int, int]:
    start, stop = tensor["data_offsets"]
    shape = tensor["shape"]
    if not all(isinstance(number, int) and number >= 0 for number in (start, stop, *shape)):
        raise ValueError("a shape or an offset is not a whole number")
    if tensor["dtype"] not in _BITS:
        raise ValueError(f"unknown dtype {str(tensor['dtype'])[:20]}")
    if (stop - start) * 8 != math.prod(shape) * _BITS[tensor["dtype"]]:
        raise ValueError("its shape does not fill its bytes")
    return start, stop


def _check_json(file: Path, name: str) -> None:
    if file.stat().st_size > JSON_LIMIT:
        raise _unsafe(name, f"is larger than {JSON_LIMIT:,} bytes")
    _parse(file.read_bytes(), name)


def _parse(body: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _unsafe(name, "does not hold JSON where it should") from error
    return value if isinstance(value, dict) else {}


def _head(file: Path, size: int) -> bytes:
    with file.open("rb") as opened:
        return opened.read(size)


def _unsafe(name: str, why: str) -> ArtifactError:
    hint = "use safetensors for weights, JSON for settings; nothing was loaded"
    return ArtifactError(f"{name} {why}", hint=hint, code="unsafe-file")
