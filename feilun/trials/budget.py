"""How much a search may take: minutes by the clock, and money by measured processor time."""

from __future__ import annotations

import time

import sqlalchemy as sa

from feilun.errors import SettingError
from feilun.pipeline.steps import Stopped
from feilun.store import tables
from feilun.store.database import Database
from feilun.store.money import Money

HOUR_NS = 3600 * 10**9


class Budget:
    """Looked at after every step of a training, so that what is spent beyond it is one step at the most.

    Args:
        prefix: how the names of the runs begin that count; those of earlier calls and failed ones are among them.
        minutes: of this call; None for any time.
        money: of all calls; None for any amount.
        core_hour: what an hour of one core costs.

    Raises:
        SettingError: the money is in another currency than the core-hour, or a core-hour costs nothing.
    """

    def __init__(
        self, database: Database, prefix: str, *, minutes: float | None, money: Money | None, core_hour: Money
    ) -> None:
        self._database, self._prefix = database, prefix
        self._until = None if minutes is None else time.monotonic() + 60 * minutes
        self._core_hour = core_hour
        self._limit_ns = None if money is None else _core_ns(money, core_hour)
        self.begin()

    def begin(self) -> None:
        """Take over what the last run is recorded with; to be called before each run."""
        columns = tables.runs.c
        query = sa.select(sa.func.sum(columns.core_ns)).where(columns.name.startswith(self._prefix, autoescape=True))
        with self._database.read() as connection:
            self._recorded_ns = int(connection.execute(query).scalar() or 0)
        self._since_ns = time.process_time_ns()

    @property
    def spent_ns(self) -> int:
        """Core-nanoseconds of all runs, the one that is running included."""
        return self._recorded_ns + time.process_time_ns() - self._since_ns

    @property
    def recorded(self) -> Money:
        """What the runs that have ended cost, rounded down to a nano-unit."""
        return Money(self._recorded_ns * self._core_hour.nano // HOUR_NS, self._core_hour.currency)

    @property
    def over(self) -> str | None:
        """What is used up, "minutes" or "money", if anything is."""
        if self._until is not None and time.monotonic() >= self._until:
            return "minutes"
        if self._limit_ns is not None and self.spent_ns >= self._limit_ns:
            return "money"
        return None

    def check(self) -> None:
        """Stop the run that is running where something is used up.

        Raises:
            Stopped: it is; the run can be resumed.
        """
        if (what := self.over) is not None:
            raise Stopped("interrupted", f"no {what} left")


def _core_ns(money: Money, core_hour: Money) -> int:
    if money.currency != core_hour.currency:
        raise SettingError(
            f"the budget is in {money.currency}, but core_hour is in {core_hour.currency}",
            where="--money",
            hint=f"give it in {core_hour.currency}",
        )
    if core_hour.nano <= 0:
        raise SettingError("an hour of a core costs nothing here", where="[bill] core_hour", hint="use --minutes")
    if money.nano <= 0:
        raise SettingError("a search for no money tries nothing", where="--money")
    return money.nano * HOUR_NS // core_hour.nano
