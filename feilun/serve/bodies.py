"""Reading a body: bounded, in time, and as strictly as JSON's own standard asks (RFC 8259)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError
from starlette.requests import Request

from feilun.serve.problems import RequestError
from feilun.serve.settings import GatewaySettings

T = TypeVar("T")
MOST_INPUTS = 256
MOST_CHARACTERS = 20_000
MOST_LONG = 400_000  # characters of a text that is written on, and may fill a long context
MOST_NAME = 64  # characters of a caller's field name that a refusal repeats


def _clean(text: str) -> str:
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("the text has a NUL or half of a surrogate pair")
    return text


Text = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS), AfterValidator(_clean)]
Long = Annotated[str, Field(max_length=MOST_LONG), AfterValidator(_clean)]
Word = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_clean)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_INPUTS)]
_TEXT: TypeAdapter[str] = TypeAdapter(Text)


def listed(given: Any) -> Any:
    """One text as a list of one: what is wrong is said of what was sent, not of each form it might have had."""
    if isinstance(given, str):
        return [_TEXT.validate_python(given)]
    if not isinstance(given, list):
        raise PydanticCustomError("text_or_texts", "Input should be a string or a list of strings")
    return given


Inputs = Annotated[Texts, BeforeValidator(listed, json_schema_input_type=Text | Texts)]


def _learns(purposes: list[str]) -> list[str]:
    if "learn" not in purposes or len(set(purposes)) != len(purposes):
        raise ValueError("a correction is there to be learned from")
    return purposes


Consent = Annotated[list[Literal["learn", "share"]], Field(min_length=1, max_length=2), AfterValidator(_learns)]


class Body(BaseModel):
    """What a caller sends: unknown fields and other types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Correction(Body):
    """``POST /v1/feedback``: the right label of one input of an answered request."""

    request: Word = Field(description="the id of the answer")
    input: Annotated[int, Field(ge=0, lt=MOST_INPUTS)] = Field(0, description="which of its inputs, from 0")
    text: Text = Field(description="the input again, as it was sent: it was not kept")
    label: Word
    contributor: Word = Field(description="whose words these are; a pseudonym will do")
    consent: Consent = Field(description="what they allow: to learn from them, and perhaps to share (sell) them")


Corrections = Annotated[list[Correction], Field(min_length=1, max_length=MOST_INPUTS)]
CORRECTION: TypeAdapter[Correction] = TypeAdapter(Correction)
CORRECTIONS: TypeAdapter[list[Correction]] = TypeAdapter(Corrections)


def size(request: Request, settings: GatewaySettings, kinds: Collection[str] = ("application/json",)) -> int:
    """How long the body may turn out to be: what was declared, or the most that is read of one without a length.

    Args:
        kinds: media types that are read; a body without one is taken for the first.

    Raises:
        RequestError: 413 it is declared to be too long, 415 not JSON or compressed.
    """
    headers = request.headers
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError("the body is encoded", status=415, code="content-encoding", hint="send it as it is")
    if kind(request, kinds) not in kinds:
        raise RequestError(
            "the body is not JSON", status=415, code="content-type", hint=f"Content-Type: {' or '.join(kinds)}"
        )
    declared = headers.get("content-length")
    if declared is None:
        return settings.body_bytes
    if not (declared.isascii() and declared.isdigit()) or int(declared[:20]) > settings.body_bytes:
        raise _too_long(settings)
    return int(declared)


def kind(request: Request, kinds: Collection[str] = ("application/json",)) -> str:
    """The media type of the body, without parameters; the first of ``kinds`` where none is given."""
    return request.headers.get("content-type", next(iter(kinds))).split(";")[0].strip().lower()


async def read(request: Request, settings: GatewaySettings) -> bytes:
    """The whole body.

    Raises:
        RequestError: 413 too long (found before it is read whole), 408 too slow.
    """
    parts: list[bytes] = []
    length = 0
    try:
        async with asyncio.timeout(settings.body_s):
            async for part in request.stream():
                length += len(part)
                if length > settings.body_bytes:
                    raise _too_long(settings)
                parts.append(part)
    except TimeoutError as error:
        raise RequestError("the body took too long to arrive", status=408, code="slow-body") from error
    return b"".join(parts)


def parse(raw: bytes, shape: TypeAdapter[T]) -> T:
    """JSON bytes as ``shape``.

    Raises:
        RequestError: 400 not UTF-8, not JSON, a name twice, NaN, too deep; 422 not of the shape.
    """
    return validate(load(raw), shape)


def load(raw: bytes) -> Any:
    """JSON bytes as Python values.

    Raises:
        RequestError: as ``parse``, 400.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError("the body is not UTF-8", status=400, code="invalid-utf8") from error
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError as error:
        raise RequestError("the body is nested too deep", status=400, code="invalid-json") from error
    except ValueError as error:  # not JSON, or a number with thousands of digits
        raise RequestError("the body is not valid JSON", status=400, code="invalid-json") from error


def validate(value: Any, shape: TypeAdapter[T]) -> T:
    """Python values as ``shape``.

    Raises:
        RequestError: 422.
    """
    try:
        return shape.validate_python(value)
    except ValidationError as error:
        first, *others = error.errors(include_url=False, include_context=False, include_input=False)
        where = ".".join(_short(str(part)) for part in first["loc"])[:200].encode("ascii", "backslashreplace").decode()
        what = f"{first['msg']} (and {len(others)} more)" if others else first["msg"]
        hint = None
        if first["type"] == "extra_forbidden":
            hint = "unknown fields are refused"
        elif "consent" in first["loc"]:
            hint = 'consent is ["learn"] or ["learn", "share"]'
        raise RequestError(what, status=422, code="invalid-request", where=where or None, hint=hint) from None


def _short(name: str) -> str:
    return name if len(name) <= MOST_NAME else f"{name[:MOST_NAME]}..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise RequestError("an object has the same name twice", status=400, code="invalid-json")
    return made


def _constant(name: str) -> Any:
    raise RequestError(f"JSON has no {name}", status=400, code="invalid-json")


def _too_long(settings: GatewaySettings) -> RequestError:
    return RequestError(
        f"the body is longer than {settings.body_bytes} bytes", status=413, code="too-long", hint="send fewer inputs"
    )
