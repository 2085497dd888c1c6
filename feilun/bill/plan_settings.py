"""The sections ``[bill.plans.<name>]``: what a plan costs, what it limits, and from when its prices change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from feilun.accounts.terms import WARN_PERCENT, Prorate, Schedule, Tariff, Terms, Tier
from feilun.bill.amounts import Coins, Moment, PerUnit, Price, UnitPrice, Units, microseconds
from feilun.errors import SettingError, did_you_mean
from feilun.pipeline.steps import Settings
from feilun.store.counts import OF_WAYS

TABLES = ("included", "overage", "tiers", "package", "quota")  # the settings that name meters
PRIORITIES = {"low": -1, "normal": 0, "high": 1}
Warn = Annotated[tuple[Annotated[int, Field(ge=1, le=100, strict=True)], ...], Field(max_length=10)]


class Problem(NamedTuple):
    """Something that does not agree with something else, and where it stands."""

    place: tuple[str | int, ...]
    what: str
    given: Any

    @property
    def details(self) -> InitErrorDetails:
        """As pydantic collects it."""
        kind = PydanticCustomError("value_error", "{what}", {"what": self.what})
        return InitErrorDetails(type=kind, loc=self.place, input=self.given)


def refuse(title: str, problems: Iterable[Problem]) -> None:
    """Raise all of them at once, each with its place; does nothing where there are none."""
    details = [problem.details for problem in problems]
    if details:
        raise ValidationError.from_exception_data(title, details)


class Step(Settings):
    """One tier: the price of its units, up to the month's unit ``up_to`` beyond what is included; the last has none."""

    up_to: Annotated[int, Field(ge=1, lt=2**53, strict=True)] | None = None
    price: PerUnit
    flat: Price | None = None  # charged once in a month, when the first unit of the tier is used


class Tiers(Settings):
    """graduated: each unit has its own tier's price. volume: all units have the price of the tier that was reached."""

    mode: Literal["graduated", "volume"] = "graduated"
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _ascend(self) -> Tiers:
        self.tariff()
        return self

    def tariff(self) -> Tariff:
        """As rating needs it."""
        steps = [Tier(s.up_to, s.price.nano, s.price.per, s.flat.nano if s.flat else 0) for s in self.steps]
        try:
            return Tariff(self.mode, tuple(steps))
        except SettingError as error:
            raise ValueError(f"{error.what}; {error.hint}" if error.hint else error.what) from error


class Pricing(Settings):
    """What a plan and a change of it have in common. A meter has one price: of overage, tiers or package."""

    monthly: Coins | None = None  # the fee of a calendar month (UTC)
    included: dict[str, Units] = Field(default_factory=dict)  # units of a month that the fee covers
    overage: dict[str, PerUnit] = Field(default_factory=dict)  # price of units beyond those: "0.01 USD per 1000"
    tiers: dict[str, Tiers] = Field(default_factory=dict)
    package: dict[str, PerUnit] = Field(default_factory=dict)  # price of each begun package: "5 USD per 1000"
    minimum: Coins | None = None  # what a month's usage and fee come to at least
    trial_days: int = Field(default=0, ge=0, le=3_660, strict=True)  # from when a tenant first is on the plan
    prorate: Prorate = "changes"
    quota: dict[str, Units] = Field(default_factory=dict)  # hard limit for units of a month
    requests_per_minute: Annotated[int, Field(ge=1, le=10_000, strict=True)] | None = None  # the most in any 60 seconds
    share: Annotated[int, Field(ge=1, le=1_000, strict=True)] = 1  # of the engine, against who asks at the same time
    priority: Literal["low", "normal", "high"] = "normal"  # a higher one goes first, and leaves lower ones a little
    cache: Annotated[int, Field(ge=0, le=86_400, strict=True)] = (
        0  # seconds: how old an answer may be that is given again
    )
    warn: Warn = WARN_PERCENT  # percentages of budget and quota at which the tenant is told
    prepaid: bool = Field(default=False, strict=True)  # refuse what prepaid credit does not cover
    batch_percent: Annotated[int, Field(ge=0, le=100, strict=True)] = (
        50  # what a batch's answers cost of the plain price
    )
    cached_percent: Annotated[int, Field(ge=0, le=100, strict=True)] = 100  # the same of answers that were kept

    @property
    def currencies(self) -> Iterator[str]:
        """The currency of every amount."""
        steps = [step for tiers in self.tiers.values() for step in tiers.steps]
        amounts = (self.monthly, self.minimum, *self.overage.values(), *self.package.values())
        flats = (step.flat for step in steps)
        yield from (money.currency for money in (*amounts, *(step.price for step in steps), *flats) if money)


class Change(Pricing):
    """Prices from ``begins`` on: what it names changes, meter by meter; everything else stays as it was."""

    begins: Moment


class PlanSettings(Pricing):
    """What a tenant pays in a calendar month (UTC), with the changes that are known already, oldest first."""

    budget: Price | None = None  # hard limit for the price of usage in a month: given to each new tenant
    changes: tuple[Change, ...] = ()

    @model_validator(mode="after")
    def _agree(self) -> PlanSettings:
        refuse("plan", [*self._order(), *self._currencies(), *self._prices()])
        return self

    @property
    def currency(self) -> str | None:
        """The one currency of the plan; None where it states no amount."""
        return next(self._all_currencies(), None)

    def schedule(self, currency: str) -> Schedule:
        """What the plan costs from when on; ``currency`` is for a plan that states no amount."""
        begins = [0, *(microseconds(change.begins) for change in self.changes)]
        versions = [*self.versions()]
        return Schedule(
            tuple((us, _terms(plan, self.currency or currency)) for us, plan in zip(begins, versions, strict=True))
        )

    def versions(self) -> Iterator[Pricing]:
        """The plan at first, and after each of its changes."""
        current = Pricing(**{name: getattr(self, name) for name in Pricing.model_fields})
        yield current
        for change in self.changes:
            current = _changed(current, change)
            yield current

    def _order(self) -> Iterator[Problem]:
        for i in range(1, len(self.changes)):
            if self.changes[i].begins <= self.changes[i - 1].begins:
                yield Problem(
                    ("changes", i, "begins"), "changes stand in the order of their dates", str(self.changes[i].begins)
                )

    def _all_currencies(self) -> Iterator[str]:
        yield from self.currencies
        if self.budget:
            yield self.budget.currency
        for change in self.changes:
            yield from change.currencies

    def _currencies(self) -> Iterator[Problem]:
        several = " and ".join(dict.fromkeys(self._all_currencies()))
        if " " in several:
            yield Problem((), f"a plan has one currency, this one has {several}; make a plan for each", several)

    def _prices(self) -> Iterator[Problem]:
        for i, settings in enumerate((self, *self.changes)):
            place: tuple[str | int, ...] = ("changes", i - 1) if i else ()
            ways = [*settings.overage, *settings.tiers, *settings.package]
            for meter in sorted({meter for meter in ways if ways.count(meter) > 1}):
                yield Problem(place, f"'{meter}' has two prices; keep one of overage, tiers and package", meter)
        for i, version in enumerate(self.versions()):
            place = ("changes", i - 1, "included") if i else ("included",)
            priced = {*version.overage, *version.tiers, *version.package}
            percent = {"batch": version.batch_percent, "cached": version.cached_percent}
            priced |= {name for name, (way, meter) in OF_WAYS.items() if meter in priced and percent[way] != 100}
            for meter, units in version.included.items():
                if units and meter not in priced:
                    yield Problem(
                        (*place, meter),
                        f"included names '{meter}', which has no price; add overage = {{ {meter} = \"0.001 USD\" }}",
                        units,
                    )


def _changed(current: Pricing, change: Change) -> Pricing:
    """``current`` with what ``change`` names: a table meter by meter, everything else as a whole."""
    values: dict[str, Any] = {name: getattr(current, name) for name in Pricing.model_fields}
    repriced = {*change.overage, *change.tiers, *change.package}
    for name in ("overage", "tiers", "package"):
        values[name] = {meter: price for meter, price in values[name].items() if meter not in repriced}
    for name in change.model_fields_set - {"begins"}:
        given = getattr(change, name)
        values[name] = values[name] | given if isinstance(given, dict) else given
    return Pricing.model_construct(**values)


def _terms(plan: Pricing, currency: str) -> Terms:
    exact = {meter: price.nano // price.per for meter, price in plan.overage.items() if _is_exact(price)}
    tariffs = {
        meter: Tariff("graduated", (Tier(None, price.nano, price.per),))
        for meter, price in plan.overage.items()
        if not _is_exact(price)
    }
    for meter in ("rows", "downloads"):  # "0 USD" gives products away, which no price at all does not
        if meter in exact and not exact[meter]:
            tariffs[meter] = Tariff("graduated", (Tier(None, 0, 1),))
    tariffs |= {meter: tiers.tariff() for meter, tiers in plan.tiers.items()}
    tariffs |= {meter: Tariff("package", (Tier(None, p.nano, p.per),)) for meter, p in plan.package.items()}
    return Terms(
        currency=currency,
        monthly_nano=plan.monthly.nano if plan.monthly else 0,
        included=plan.included,
        unit_nano=exact,
        tariffs=tariffs,
        minimum_nano=plan.minimum.nano if plan.minimum else 0,
        trial_days=plan.trial_days,
        prorate=plan.prorate,
        quota=plan.quota,
        warn_percent=tuple(sorted(set(plan.warn))),
        prepaid=plan.prepaid,
        requests_per_minute=plan.requests_per_minute,
        share=plan.share,
        priority=PRIORITIES[plan.priority],
        cache_s=plan.cache,
        batch_percent=plan.batch_percent,
        cached_percent=plan.cached_percent,
    )


def _is_exact(price: UnitPrice) -> bool:
    """Whether a unit's own price is a whole number of nano-units: then it is a plain price, as it always was."""
    return price.nano % price.per == 0


def unknown_meters(plans: Any, known: Sequence[str], answers: Sequence[str]) -> Iterator[Problem]:
    """Every meter that nobody counts, in plans as they were written: told whatever else is wrong with them.

    A quota is for meters of answers alone: no request can be refused for what other services report.
    """
    for plan, written in plans.items() if isinstance(plans, Mapping) else ():
        if not isinstance(written, Mapping):
            continue
        changes = written.get("changes", ())
        numbered = enumerate(changes if isinstance(changes, Sequence) else ())
        parts: list[tuple[tuple[str | int, ...], Any]] = [((plan,), written)]
        parts += [((plan, "changes", i), change) for i, change in numbered]
        for place, part in parts:
            for setting in TABLES:
                table = part.get(setting) if isinstance(part, Mapping) else None
                for meter, value in table.items() if isinstance(table, Mapping) else ():
                    if setting == "quota" and meter in known and meter not in answers:
                        what = f"'{meter}' is not counted with answers, so no request can be refused for it"
                        yield Problem((*place, setting, str(meter)), what, value)
                    elif meter not in known:
                        hint = did_you_mean(str(meter), known) or f"meters are {', '.join(known)}, and [bill.meters]"
                        yield Problem((*place, setting, str(meter)), f"'{meter}' is not metered; {hint}", value)
