"""Reads the text of a PDF back out of its bytes, as a reader that searches or copies does."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Callable

_OBJECT = re.compile(rb"(\d+) 0 obj\s(.*?)endobj", re.S)
_FONT = re.compile(rb"/Name /(F\d+(?:\+\d+)?)")
_SHOWN = re.compile(rb"/(F\d+(?:\+\d+)?) [\d.]+ Tf|\(((?:\\.|[^\\()])*)\) Tj", re.S)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|.)", re.S)
_NAMED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}
Codec = Callable[[bytes], str]


def pages(pdf: bytes) -> list[str]:
    """The text of each page, strings in the order in which they are drawn, one a line."""
    objects = {int(number): body for number, body in _OBJECT.findall(pdf)}
    codecs = {name: _codec(body, objects) for body in objects.values() for name in _FONT.findall(body)}
    kids = next(body for body in objects.values() if b"/Type /Pages" in body)
    order = [int(n) for n in re.findall(rb"(\d+) 0 R", kids[kids.index(b"/Kids") :].split(b"]")[0])]
    return [_text(_stream(objects[_referred(b"Contents", objects[page])]), codecs) for page in order]


def _codec(font: bytes, objects: dict[int, bytes]) -> Codec:
    """How the bytes of a string in this font are letters."""
    if b"/ToUnicode" in font:
        told = re.findall(rb"<(\w\w)> <(\w{4})>", _stream(objects[_referred(b"ToUnicode", font)]))
        letters = {int(code, 16): chr(int(letter, 16)) for code, letter in told}
        return lambda text: "".join(letters[byte] for byte in text)
    codec = "utf-16-be" if b"/UniGB-UCS2-H" in font or b"/UniKS-UCS2-H" in font else "cp1252"
    return lambda text: text.decode(codec)


def _referred(name: bytes, body: bytes) -> int:
    return int(re.findall(rb"/" + name + rb" (\d+) 0 R", body)[0])


def _stream(body: bytes) -> bytes:
    packed = body[body.index(b"stream") + 6 : body.rindex(b"endstream")].strip(b"\r\n")
    return zlib.decompress(base64.a85decode(b"<~" + packed, adobe=True) if packed.endswith(b"~>") else packed)


def _text(content: bytes, codecs: dict[bytes, Codec]) -> str:
    found, codec = [], codecs[b"F1"]
    for match in _SHOWN.finditer(content):
        if match[1]:
            codec = codecs[match[1]]
        else:
            found.append(codec(_ESCAPE.sub(_unescaped, match[2])))
    return "\n".join(found)


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes([int(code, 8)]) if code.isdigit() else _NAMED.get(code, code)
