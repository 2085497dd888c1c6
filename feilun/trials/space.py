"""Which settings a search tries, and between what."""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from feilun.errors import SettingError, did_you_mean
from feilun.finetune.settings import FinetuneSettings
from feilun.models.adapting import options
from feilun.tasks.options import USED_BY

if TYPE_CHECKING:
    import optuna

Value = float | int | str | bool
WIDE = 10  # from this ratio of the ends on, a range of numbers is searched on a logarithmic scale
RATES: dict[str, tuple[float, float]] = {  # learning rates that are worth trying
    "full": (2e-5, 2e-3),
    "few-shot": (2e-5, 2e-3),
    "lora": (1e-4, 1e-2),
    "adapter": (1e-4, 1e-2),
    "bitfit": (1e-4, 1e-2),
    "head": (1e-3, 1e-1),
    "prefix": (1e-3, 1e-1),
    "prompt": (1e-3, 1e-1),
}
By = Literal["figure", "loss"]
OF_THE_LOSS = ("label_smoothing", "class_weight", "temperature", "preference", "beta")  # another loss is no better one
OURS = ("held_out", "watch", "seed", "device", "task")  # settings that a search decides for all trials alike


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included."""

    low: float
    high: float
    whole: bool = False
    log: bool = False

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values that settings must accept for the range to make sense."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """A value for this trial; asked again, the same one."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether a search could come to this value."""
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Value, ...]

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values that settings must accept for the choice to make sense."""
        return self.values

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """A value for this trial; asked again, the same one."""
        return typing.cast("Value", trial.suggest_categorical(name, list(self.values)))

    def holds(self, value: Any) -> bool:
        """Whether a search could come to this value."""
        return value in self.values


Space = Mapping[str, Range | Choice]


def usual(settings: FinetuneSettings, by: By = "figure") -> dict[str, Range | Choice]:
    """What is searched where nobody says what: around the section's own settings, as its task and method have them.

    >>> sorted(usual(FinetuneSettings()))
    ['batch_tokens', 'epochs', 'label_smoothing', 'learning_rate']
    """
    low, high = RATES[settings.method]
    if "learning_rate" in settings.model_fields_set:
        low, high = settings.learning_rate / 8, min(settings.learning_rate * 8, 0.5)
    found: dict[str, Range | Choice] = {
        "learning_rate": Range(low, high, log=True),
        "epochs": Range(1, max(3, 2 * settings.epochs), whole=True),
    }
    batch = "batch_rows" if settings.batch_rows else "batch_tokens"
    size = getattr(settings, batch)
    found[batch] = Choice(tuple(sorted({max(1, size // 2), size, size * 2})))
    if settings.task in USED_BY["label_smoothing"] and settings.method != "few-shot" and by != "loss":
        found["label_smoothing"] = Range(0.0, 0.2)
    if settings.method == "lora":
        found["rank"] = Choice((4, 8, 16, 32))
    if settings.method == "adapter":
        found["bottleneck"] = Choice((16, 32, 64))
    if settings.method in ("prefix", "prompt"):
        found["virtual_tokens"] = Choice((8, 16, 32))
    return found


def parse(texts: Sequence[str], settings: FinetuneSettings, by: By = "figure") -> dict[str, Range | Choice]:
    """What ``--space`` says: ``learning_rate=1e-5..1e-3`` or ``method=full,lora``; nothing said is ``usual``.

    Raises:
        SettingError: not of that form, no such setting, or one of the ends is refused by it.
    """
    space: dict[str, Range | Choice] = {}
    for text in texts:
        name, equals, values = (part.strip() for part in text.partition("="))
        if not equals or not values:
            raise SettingError(
                f"'{text}' is not setting=values", where="--space", hint="learning_rate=1e-5..1e-3 or method=full,lora"
            )
        if name not in FinetuneSettings.model_fields:
            hint = did_you_mean(name, FinetuneSettings.model_fields)
            raise SettingError(f"finetune has no setting '{name}'", where="--space", hint=hint)
        if name in OURS:
            hint = "it is the same in all trials: give it with --set" if name != "seed" else "a seed is not a setting"
            raise SettingError(f"'{name}' cannot be searched", where="--space", hint=hint)
        if by == "loss" and name in OF_THE_LOSS:
            hint = "compare by the task's figure: --by figure"
            raise SettingError(f"'{name}' changes the loss itself, so losses say nothing", where="--space", hint=hint)
        space[name] = _one(name, values)
    space = space or usual(settings, by)
    _check(space, settings)
    return space


def changed(settings: FinetuneSettings, values: Mapping[str, Any]) -> FinetuneSettings:
    """The settings with some values in the place of theirs; what a method does not read falls away with the method.

    Raises:
        SettingError: they do not fit together.
    """
    given = settings.model_dump(exclude_unset=True) | dict(values)
    method = given.get("method", settings.method)
    for name, methods in options.USED_BY.items():
        if method not in methods and "method" in values:
            given.pop(name, None)
    try:
        return FinetuneSettings.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        what = problem["msg"].removeprefix("Value error, ")
        raise SettingError(f"{name}: {what}" if name else what, where=f"the settings {dict(values)}") from error


def suggest(space: Space, trial: optuna.Trial, settings: FinetuneSettings) -> dict[str, Value]:
    """Values for a trial; a setting that the trial's method does not read is not asked for."""
    found: dict[str, Value] = {}
    for name in sorted(space, key=lambda name: (name != "method", name)):
        method = str(found.get("method", settings.method))
        if name not in options.USED_BY or method in options.USED_BY[name]:
            found[name] = space[name].suggest(trial, name)
    return found


def own(space: Space, settings: FinetuneSettings) -> dict[str, Value] | None:
    """What the section itself says, where a search could come to it."""
    values = {name: getattr(settings, name) for name in space}
    return values if all(space[name].holds(value) for name, value in values.items()) else None


def toml(section: str, values: Mapping[str, Value]) -> str:
    """Values as lines of the project file.

    >>> print(toml("finetune.reviews", {"learning_rate": 0.0002, "method": "lora", "dora": True}))
    [finetune.reviews]
    learning_rate = 0.0002
    method = "lora"
    dora = true
    """
    lines = [f"{name} = {_toml(value)}" for name, value in values.items()]
    return "\n".join([f"[{section}]", *lines])


def as_dict(space: Space) -> dict[str, Any]:
    """Plain values, for JSON and for the identity of a search."""
    return {name: asdict(space[name]) for name in sorted(space)}


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _one(name: str, values: str) -> Range | Choice:
    low, dots, high = values.partition("..")
    if not dots:
        return Choice(tuple(_value(part) for part in values.split(",") if part.strip()))
    try:
        ends = float(low), float(high)
    except ValueError as error:
        raise SettingError(f"'{values}' is not a range of numbers", where=f"--space {name}") from error
    if not ends[0] < ends[1]:
        raise SettingError(f"'{values}' does not go upwards", where=f"--space {name}")
    whole = FinetuneSettings.model_fields[name].annotation is int
    if whole and any(end != int(end) for end in ends):
        raise SettingError(f"'{values}' is not a range of whole numbers", where=f"--space {name}")
    return Range(*ends, whole=whole, log=ends[0] > 0 and ends[1] / ends[0] >= WIDE)


def _value(text: str) -> Value:
    try:
        found = tomllib.loads(f"x = {text.strip()}")["x"]
    except tomllib.TOMLDecodeError:
        found = text.strip()  # a bare word is meant as a string
    if not isinstance(found, typing.get_args(Value)):
        raise SettingError(f"'{text.strip()}' is not a number, a word, true or false", where="--space")
    return typing.cast("Value", found)


def _check(space: Space, settings: FinetuneSettings) -> None:
    """Refuse a space with values that no trial could have.

    Raises:
        SettingError: the message says which setting refuses what.
    """
    methods = [str(m) for m in space["method"].ends] if "method" in space else [settings.method]
    for name, dimension in space.items():
        readers = options.USED_BY.get(name, methods)
        method = next((m for m in methods if m in readers), None)
        if method is None:
            hint = f"it is for {', '.join(readers)}"
            raise SettingError(f"'{name}' has no effect with the methods tried", where="--space", hint=hint)
        for value in dimension.ends:
            changed(settings, {"method": method, name: value} if "method" in space else {name: value})
