"""Calendar months in UTC, as ``2026-11``, and times in microseconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from feilun.errors import SettingError

LAST_YEAR = 9999
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def period_of(at: int) -> str:
    """The calendar month, UTC, of a time in microseconds.

    >>> period_of(0)
    '1970-01'
    """
    moment = EPOCH + timedelta(microseconds=at)
    return f"{moment.year:04d}-{moment.month:02d}"


def bounds(period: str) -> tuple[int, int]:
    """First microsecond of the month, and the first of the next.

    Raises:
        SettingError: after the year 9998, whose end no calendar of Python's has.

    >>> bounds("2026-11")[0]
    1793491200000000
    """
    year, month = int(period[:4]), int(period[5:7])
    if year >= LAST_YEAR:
        raise SettingError(f"'{period}' is too far away", hint="write it as 2026-11")
    following = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return _us(datetime(year, month, 1, tzinfo=UTC)), _us(following)


def _us(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)
