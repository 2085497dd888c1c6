"""CloudEvents 1.0 in JSON (the specification and its JSON format 1.0.2) as our events, and back.

``subject`` is the tenant, ``type`` the meter, ``data`` the units: a whole number, or ``{"units": n}``. Attributes that
the specification does not know are allowed, as it demands, and not kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from feilun.errors import DataError
from feilun.store.events import LONGEST, Event, Recorded
from feilun.store.periods import EPOCH

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
_REQUIRED = ("specversion", "id", "source", "type", "subject")
_KNOWN = frozenset((*_REQUIRED, "time", "data", "datacontenttype", "dataschema"))
_NAME = re.compile(r"[a-z0-9]+")
_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]+")  # what a String may have
_REFERENCE = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")  # the letters of RFC 3986
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt]([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(?:\.(\d+))?([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_JSON = re.compile(r"[^/;\s]+/(?:json|[^/;\s]+\+json)\s*(?:;.*)?", re.IGNORECASE)
_MICROSECOND = timedelta(microseconds=1)


def read(value: Any, place: int = 0) -> Event:
    """An event from its JSON object.

    Args:
        place: its position among those that came with it, from 0, for refusals.

    Raises:
        DataError: it breaks the specification, or has no subject or units; ``where`` says which attribute.
    """
    if not isinstance(value, dict):
        raise _bad(place, None, "it is not a JSON object")
    get: Callable[[str], Any] = value.get
    identity, source, meter, tenant = get("id"), get("source"), get("type"), get("subject")
    is_plain = _is_text(identity) and _is_text(tenant) and _is_text(meter) and _is_text(source)
    if get("specversion") != "1.0" or not is_plain or not _is_reference(source):
        raise _unfit(value, place)
    kind = get("datacontenttype")
    if kind is not None and not _is_json(kind):
        raise _bad(place, "datacontenttype", "the data has to be JSON", "application/json, or leave it out")
    if not value.keys() <= _KNOWN or "dataschema" in value:
        _check_others(value, place)
    time = get("time")
    at = None if time is None else _microseconds(time, place)
    return Event(tenant, meter, source, identity, _units(get("data"), place), at)


def write(event: Recorded) -> dict[str, Any]:
    """A recorded event as a JSON object; its place in the tenant's ledger is the extension ``sequence``."""
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.meter,
        "subject": event.tenant,
        "time": _written(event.at),
        "datacontenttype": "application/json",
        "data": {"units": event.units},
        "sequence": f"{event.sequence:020d}",  # text whose order is that of the numbers
    }


def _unfit(value: Mapping[str, Any], place: int) -> DataError:
    """What is wrong with the first required attribute that is."""
    for name in _REQUIRED:
        if not _is_text(value.get(name)):
            return _bad(
                place, name, f"it is not 1 to {LONGEST} characters of text" if name in value else "it is missing"
            )
    if value["specversion"] != "1.0":
        return _bad(place, "specversion", "only 1.0 is understood")
    return _bad(place, "source", "it is not a URI reference")


def _is_text(value: Any) -> bool:
    return type(value) is str and len(value) <= LONGEST and _TEXT.fullmatch(value) is not None


@lru_cache(maxsize=1_024)  # there are few sources and many events
def _is_reference(text: str) -> bool:
    return _REFERENCE.fullmatch(text) is not None


def _is_json(kind: Any) -> bool:
    return kind == "application/json" or (type(kind) is str and _JSON.fullmatch(kind) is not None)


def _units(data: Any, place: int) -> int:
    if type(data) is dict:
        if data.keys() != {"units"}:
            raise _bad(
                place, "data", 'it is not {"units": n}', "what else there is to say can be an extension attribute"
            )
        data = data["units"]
    if type(data) is not int:
        raise _bad(place, "data", "the units are not a whole number", 'a number without a fraction, or {"units": n}')
    return data


def _check_others(value: Mapping[str, Any], place: int) -> None:
    """Names and types of what we do not use: the specification has rules for these too."""
    for name, other in value.items():
        if name == "data_base64":
            raise _bad(place, name, "the data has to be JSON", '"data": {"units": n}')
        if not _NAME.fullmatch(name):
            raise _bad(place, None, "an attribute's name has other letters than a-z and 0-9")
        if name == "data" or other is None or type(other) is bool:
            continue
        if type(other) is int and -(2**31) <= other < 2**31:
            continue
        if type(other) is not str or not _TEXT.fullmatch(other or "-"):
            raise _bad(place, name[:40], "it is neither text nor true, false or an integer of 32 bits")
    schema = value.get("dataschema")
    if schema is not None and not (type(schema) is str and ":" in schema and _is_reference(schema)):
        raise _bad(place, "dataschema", "it is not a URI")


def _microseconds(time: Any, place: int) -> int:
    """RFC 3339 to microseconds since 1970; what is finer is cut off. A leap second is the last one of its minute."""
    match = _TIME.fullmatch(time) if type(time) is str else None
    if match is not None:
        day, hour, minute, second, fraction, zone = match.groups()
        midnight, late = _midnight(day), int(second) == 60
        seconds = (int(hour) * 60 + int(minute)) * 60 + int(second) - late
        if midnight is not None:
            parts = 999_999 if late else int(fraction[:6].ljust(6, "0")) if fraction else 0
            return midnight + (seconds - _offset(zone)) * 1_000_000 + parts
    raise _bad(place, "time", "it is not a time of RFC 3339", "as 2026-11-02T15:04:05.123Z")


@lru_cache(maxsize=512)
def _midnight(day: str) -> int | None:
    """Microseconds from 1970 to the beginning of a day, UTC; None where there is no such day."""
    try:
        return (datetime.fromisoformat(day).replace(tzinfo=UTC) - EPOCH) // _MICROSECOND
    except ValueError:
        return None


@lru_cache(maxsize=128)
def _offset(zone: str) -> int:
    """Seconds that a zone is ahead of UTC."""
    if zone in "Zz":
        return 0
    seconds = (int(zone[1:3]) * 60 + int(zone[4:])) * 60
    return -seconds if zone[0] == "-" else seconds


def _written(at: int) -> str:
    return (
        (EPOCH + timedelta(microseconds=at)).astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    )


def _bad(place: int, name: str | None, what: str, hint: str | None = None) -> DataError:
    where = f"[{place}]" if name is None else f"[{place}].{name}"
    told = f"{hint or 'see the specification of CloudEvents 1.0'}; nothing of this call was recorded"
    return DataError(f"event {place}{f', {name}' if name else ''}: {what}", where=where, hint=told, code="bad-event")
