"""Settings tried one after the other, the next ones where the last ones were good (Optuna: Akiba et al. 2019).

A trial is the step ``finetune`` with changed settings: a recorded run with its cost, reused where it is known, resumed
where it was interrupted. Trials are compared on a part of the training rows that none of them learns from; the rows of
the split "test" are never looked at. A trial that is behind the others is given up (``pruner``).

The tree-structured Parzen estimator (Bergstra et al. 2011) begins anew for each trial with a seed of the trial's
number, so that a search that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from feilun.errors import ConflictError, StepError
from feilun.finetune.settings import FinetuneSettings
from feilun.pipeline.execute import Outcome
from feilun.pipeline.kinds import Dataset
from feilun.pipeline.steps import STEPS, Progress, Stopped
from feilun.store.artifacts import canonical
from feilun.store.money import Money
from feilun.trials import space as spaces
from feilun.trials.budget import Budget
from feilun.trials.settings import FoldSettings
from feilun.trials.subject import Subject, digests

if TYPE_CHECKING:
    import optuna

HELD_OUT = 0.2  # share of the training rows that trials are compared on, where the section holds out none
AT_RANDOM = 8  # trials before the estimator has something to go by
BEFORE_PRUNING = 4  # finished trials before one is given up
WRITES = ("generate", "prefer")  # tasks whose figure takes far longer than their loss
DO_NOT_TRAIN = ("not-finite", "out-of-memory")  # what is the settings' fault, so that others may do better
FOLDER = "trials"

State = Literal["finished", "pruned", "failed", "interrupted"]


@dataclass(frozen=True)
class Wanted:
    """What is asked of a search: trials and money of all calls together, minutes of this one."""

    trials: int = 20
    minutes: float | None = None
    money: Money | None = None
    space: tuple[str, ...] = ()
    by: spaces.By | None = None
    pruner: Literal["median", "hyperband", "none"] = "median"
    seed: int = 0


@dataclass(frozen=True)
class Trial:
    """One training: what was changed, and how good it was on the held-out rows. Times count all attempts."""

    number: int
    values: Mapping[str, spaces.Value]
    state: State
    figure: float | None
    looks: Mapping[int, float]  # the figure along the way, by look
    model: str | None
    core_ns: int
    reused: bool
    why: str | None


@dataclass(frozen=True)
class Found:
    """What a search has found so far."""

    section: str
    study: str  # its name in ``file``
    file: str
    space: Mapping[str, Any]
    figure: str
    higher_is_better: bool
    trials: tuple[Trial, ...]
    stopped: str  # what there was enough of: trials, minutes or money
    core_ns: int
    cost: Money

    @property
    def best(self) -> Trial | None:
        """The best finished trial; of equal ones the first."""
        done = [t for t in self.trials if t.state == "finished" and t.figure is not None]
        sign = -1 if self.higher_is_better else 1
        return min(done, key=lambda t: sign * (t.figure or 0.0), default=None)

    @property
    def toml(self) -> str | None:
        """The best settings as lines of the project file."""
        return spaces.toml(self.section, self.best.values) if self.best else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        best = self.best
        more = {"best": best.number if best else None, "settings": dict(best.values) if best else None}
        return asdict(self) | {"cost": str(self.cost)} | more | {"toml": self.toml}


def search(subject: Subject, wanted: Wanted, told: Callable[[Trial], None] | None = None) -> Found:
    """Try settings until there were enough trials, or the time or the money is used up; then say which were best.

    Args:
        told: is told of each trial as it ends.

    Raises:
        SettingError: a space or a budget that makes no sense.
        ConflictError: another process searches for the same section now.
        KeyboardInterrupt: passed on; the trial is recorded as interrupted, and the next call goes on with it.
    """
    by = wanted.by or ("loss" if subject.settings.task in WRITES else "figure")
    fixed = _fixed(subject.settings, by)
    space = spaces.parse(wanted.space, fixed, by)
    folder = subject.home / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / f"{subject.section}.lock", subject.section):
        one = _Search(subject, wanted, fixed, space, by=by, file=folder / f"{subject.section}.db")
        return one.go(told or (lambda trial: None))


def _fixed(settings: FinetuneSettings, by: spaces.By) -> FinetuneSettings:
    """The section's settings with what all trials have in common."""
    if settings.method == "few-shot":  # it has no figures along the way: measured at the end, on rows put aside
        return settings
    common: dict[str, Any] = {"held_out": settings.held_out or HELD_OUT, "watch": by}
    if settings.augment:
        common["augment_compare"] = False
    return spaces.changed(settings, common)


class _Search:
    """One search, from its file to what it found."""

    def __init__(
        self,
        subject: Subject,
        wanted: Wanted,
        fixed: FinetuneSettings,
        space: spaces.Space,
        *,
        by: spaces.By,
        file: Path,
    ) -> None:
        self.subject, self.wanted, self.fixed, self.space, self.by = subject, wanted, fixed, space, by
        self.key = _identity(subject, fixed, space, wanted.seed)
        self.file = file
        self.prefix = f"search {subject.section} {self.key}/"
        self.budget = Budget(
            subject.store.database,
            self.prefix,
            minutes=wanted.minutes,
            money=wanted.money,
            core_hour=subject.core_hour,
        )
        self.study = self._open()
        self.aside: Dataset | None = None
        if fixed.method == "few-shot":
            folds = FoldSettings(folds=round(1 / HELD_OUT), fold=0, seed=fixed.seed)
            self.aside = subject.divide(f"{self.prefix}held out", "fold", folds)

    @property
    def higher_is_better(self) -> bool:
        """As Optuna has it; every task's first figure is of that kind, and ``_signed`` turns one that were not."""
        return self.by == "figure"

    def go(self, told: Callable[[Trial], None]) -> Found:
        """Trials until there is enough of something."""
        import optuna

        while True:
            known = self.study.get_trials(deepcopy=False)
            self.budget.begin()
            if sum(t.state.is_finished() for t in known) >= self.wanted.trials:
                return self._found("trials")
            if (over := self.budget.over) is not None:
                return self._found(over)
            self.study.sampler = optuna.samplers.TPESampler(
                seed=self.wanted.seed * 100_003 + sum(t.state.is_finished() for t in known), n_startup_trials=AT_RANDOM
            )
            begun = next((t for t in known if t.state == optuna.trial.TrialState.RUNNING), None)
            trial = optuna.trial.Trial(self.study, begun._trial_id) if begun else self.study.ask()
            self._try(trial)
            done = self._told(self.study.get_trials(deepcopy=False)[trial.number])
            told(done)
            if done.state == "interrupted":
                return self._found(self.budget.over or "minutes")

    def _try(self, trial: optuna.Trial) -> None:
        """Train with the values that the trial was given, and tell the study what came of it."""
        from optuna.trial import TrialState

        values = spaces.suggest(self.space, trial, self.fixed)
        name = f"{self.prefix}{trial.number}"
        try:
            settings = spaces.changed(self.fixed, values)
            self.budget.begin()
            outcome = self.subject.train(name, settings, examples=self.aside, watch=self._watch(trial, settings))
            figure = self._figure(name, outcome, trial)
        except Stopped as stop:
            trial.set_user_attr("why", stop.why)
            if stop.outcome == "pruned":
                self.study.tell(trial, state=TrialState.PRUNED)
        except StepError as error:
            if error.name not in DO_NOT_TRAIN:
                raise
            trial.set_user_attr("why", error.what)
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            trial.set_user_attr("why", None)
            trial.set_user_attr("model", outcome.artifact.digest)
            trial.set_user_attr("reused", outcome.reused)
            if math.isfinite(figure):
                self.study.tell(trial, figure)
            else:
                trial.set_user_attr("why", "the held-out figure is not a number")
                self.study.tell(trial, state=TrialState.FAIL)

    def _watch(self, trial: optuna.Trial, settings: FinetuneSettings) -> Callable[[Progress, Mapping[str, Any]], None]:
        """Report the figures along the way, and stop a training that is behind or no longer paid for."""
        seen = set(self.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

        def watch(progress: Progress, metrics: Mapping[str, Any]) -> None:
            if progress.what == "held out":
                every = settings.watch_steps or max(1, round(progress.total / settings.epochs))
                look = math.ceil(progress.done / every)
                figure = self._signed(progress.numbers["held_out"], metrics)
                if look not in seen and math.isfinite(figure):
                    seen.add(look)
                    trial.set_user_attr("watched", metrics["watched"])
                    trial.report(figure, look)
                    if progress.done < progress.total and trial.should_prune():
                        raise Stopped("pruned", f"behind the others at look {look}")
            self.budget.check()

        return watch

    def _figure(self, name: str, outcome: Outcome, trial: optuna.Trial) -> float:
        """How good the model is: the best that was seen, for those weights were kept."""
        if self.aside is not None:
            self.budget.begin()
            report = self.subject.judge(f"{name} evaluate", outcome.artifact, self.aside)
            first = report["metrics"][0]
            trial.set_user_attr("watched", first["name"])
            return self._signed(report["all"][first["name"]]["value"], first)
        if "best_held_out" in outcome.metrics:
            trial.set_user_attr("watched", outcome.metrics["watched"])
            return self._signed(outcome.metrics["best_held_out"], outcome.metrics)
        looks = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values.values()
        best = max if self.higher_is_better else min  # an attempt that was resumed after its last look
        return best(looks, default=math.nan)

    def _signed(self, figure: float, metrics: Mapping[str, Any]) -> float:
        return figure if metrics["higher_is_better"] == self.higher_is_better else -figure

    def _open(self) -> optuna.Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruners: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
            "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=BEFORE_PRUNING),
            "hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=1, max_resource=self._looks()),
            "none": optuna.pruners.NopPruner,
        }
        study = optuna.create_study(
            storage=f"sqlite:///{self.file}",
            study_name=self.key,
            direction="maximize" if self.higher_is_better else "minimize",
            pruner=pruners[self.wanted.pruner](),
            load_if_exists=True,
        )
        values = spaces.own(self.space, self.fixed)
        if values is not None and not study.get_trials(deepcopy=False):
            study.enqueue_trial(values)  # what the section says now is the first to be beaten
        return study

    def _looks(self) -> int:
        """How often the longest trial is looked at: once an epoch."""
        epochs = self.space.get("epochs")
        return max(2, int(max(map(float, epochs.ends))) if epochs else self.fixed.epochs)

    def _found(self, stopped: str) -> Found:
        trials = tuple(self._told(t) for t in self.study.get_trials(deepcopy=False) if t.params)
        watched = [t.user_attrs["watched"] for t in self.study.get_trials(deepcopy=False) if "watched" in t.user_attrs]
        self.budget.begin()
        cost = self.budget.recorded
        return Found(
            self.subject.section,
            self.key,
            str(self.file),
            spaces.as_dict(self.space),
            watched[0] if watched else self.by,
            self.higher_is_better,
            trials,
            stopped,
            sum(t.core_ns for t in trials),
            cost,
        )

    def _told(self, trial: optuna.trial.FrozenTrial) -> Trial:
        states: dict[str, State] = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
        name = f"{self.prefix}{trial.number}"
        said = trial.user_attrs
        return Trial(
            trial.number,
            dict(trial.params),
            states.get(trial.state.name, "interrupted"),
            trial.value if trial.state.name == "COMPLETE" else None,
            dict(sorted(trial.intermediate_values.items())),
            said.get("model"),
            _spent(self.subject, name),
            bool(said.get("reused", False)),
            said.get("why"),
        )


def _spent(subject: Subject, name: str) -> int:
    """Core-nanoseconds of all attempts of one trial, its measuring included."""
    import sqlalchemy as sa

    from feilun.store import tables

    columns = tables.runs.c
    query = sa.select(sa.func.sum(columns.core_ns)).where(columns.name.in_([name, f"{name} evaluate"]))
    with subject.store.database.read() as connection:
        return int(connection.execute(query).scalar() or 0)


def _identity(subject: Subject, fixed: FinetuneSettings, space: spaces.Space, seed: int) -> str:
    """Which search this is: other data, settings or a step of another version make it another one."""
    settings = fixed.model_dump(mode="json")
    for name in space:
        settings.pop(name, None)
    versions = {verb: STEPS[verb].version for verb in ("finetune", "evaluate", "fold")}
    body = canonical([versions, settings, spaces.as_dict(space), digests(subject.inputs), seed])
    return hashlib.sha256(body).hexdigest()[:12]


@contextmanager
def _alone(place: Path, section: str) -> Iterator[None]:
    """One search of a section at a time; the kernel lets go when the process dies."""
    with place.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            hint = "wait for it, then search again"
            raise ConflictError(f"another process searches for {section} now", where=str(place), hint=hint) from error
        yield
