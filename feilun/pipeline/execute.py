"""Running one step, or reusing what it gave before.

A fingerprint is the step's name and version, its resolved settings and the digests of its inputs. A known fingerprint
is never run again. An attempt that was interrupted leaves its scratch folder, and the next attempt resumes from it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from feilun.errors import ArtifactError, ConflictError, FeilunError, StepError
from feilun.pipeline.steps import Progress, Settings, Step, Stopped, Watch, Workspace
from feilun.store import runs
from feilun.store.artifacts import Artifact, ArtifactStore, canonical

Inputs = Mapping[str, Artifact | tuple[Artifact, ...] | None]
Observer = Callable[[str, Progress], None]


@dataclass(frozen=True)
class Outcome:
    """What a step gave, and the time of the attempt that made it; ``reused`` says that it was not this one."""

    name: str
    artifact: Artifact
    reused: bool
    seconds: float  # by the clock
    core_ns: int  # processor time of all attempts and threads, nanoseconds
    metrics: Mapping[str, Any]


def fingerprint(step: str, version: int, settings: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """The identity of a piece of work: equal fingerprints give equal artefacts."""
    return hashlib.sha256(canonical([step, version, settings, inputs])).hexdigest()


def step_fingerprint(step: Step, settings: Settings, digests: Mapping[str, Any]) -> str:
    """As ``fingerprint``, from a registered step; absent optional inputs don't count."""
    present = {k: v for k, v in digests.items() if v not in (None, ())}
    return fingerprint(step.name, step.version, settings.model_dump(mode="json"), present)


def known(store: ArtifactStore, print_: str) -> Outcome | None:
    """What this fingerprint gave, if that is still whole in the store."""
    made = runs.made(store.database, print_) or _adopt(store, print_)
    if made is None:
        return None
    try:
        artifact = store.get(made.output)
    except ArtifactError:  # removed by hand: make it again
        return None
    return Outcome("", artifact, True, made.wall_ns / 1e9, made.core_ns, made.metrics)


def leave_record(store: ArtifactStore, run: runs.Run) -> None:
    """Note a finished run beside the artefacts, so that another database over the same folder reuses it too."""
    folder = store.folder / "runs"
    folder.mkdir(exist_ok=True)
    partial = folder / f"{run.fingerprint}.{secrets.token_hex(4)}"
    partial.write_bytes(canonical(asdict(run)))
    partial.rename(folder / f"{run.fingerprint}.json")


def _adopt(store: ArtifactStore, print_: str) -> runs.Made | None:
    """A run that was recorded with another database: take it over, its cost included."""
    try:
        run = runs.Run(**json.loads((store.folder / "runs" / f"{print_}.json").read_bytes()))
        store.adopt(str(run.output))
    except (FileNotFoundError, ArtifactError):
        return None
    runs.record(store.database, run)
    return runs.made(store.database, print_)


def run_step(
    store: ArtifactStore,
    step: Step,
    settings: Settings,
    inputs: Inputs,
    *,
    name: str,
    observe: Observer | None = None,
    watch: Watch | None = None,
) -> Outcome:
    """Do the step's work unless its fingerprint is known, and record the attempt whatever comes of it.

    Args:
        watch: sees all that the step records, each step of a training too, and may raise ``Stopped``.

    Raises:
        Stopped: ``watch`` did; the attempt is recorded with that outcome.
        ConflictError: another process is doing the same work now.
        FeilunError: whatever the step raised; the attempt is recorded as failed.
    """
    digests = {key: _digests(value) for key, value in inputs.items()}
    print_ = step_fingerprint(step, settings, digests)
    if (found := known(store, print_)) is not None and _sound(store, found.artifact):
        return replace(found, name=name)
    scratch = store.folder / "scratch" / print_
    scratch.mkdir(parents=True, exist_ok=True)
    if follows():
        return replace(_follow(store, step, settings, inputs, scratch), name=name)
    with _alone(scratch, name), _fresh_folder(store) as folder:
        for artifact in _each(inputs):
            store.verify(artifact)
        work = Workspace(store, folder, scratch, (lambda p: observe(name, p)) if observe else None, watch=watch)
        wall, core = time.perf_counter_ns(), time.process_time_ns()
        output: Artifact | None = None
        outcome, problem = "failed", None
        try:
            output = step.run(**inputs, settings=settings, work=work)
            outcome = runs.FINISHED
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        except Stopped as stop:
            outcome, problem = stop.outcome, stop.why
            if stop.outcome == "pruned":
                shutil.rmtree(scratch, ignore_errors=True)
            raise
        except FeilunError as error:
            problem = str(error)
            raise
        finally:
            wall, core = time.perf_counter_ns() - wall, time.process_time_ns() - core
            run = runs.Run(
                fingerprint=print_,
                step=step.name,
                version=step.version,
                name=name,
                settings=settings.model_dump(mode="json"),
                inputs=digests,
                metrics=work.metrics,
                core_ns=core,
                wall_ns=wall,
                outcome=outcome,
                error=problem,
                output=output.digest if output else None,
            )
            runs.record(store.database, run)
    leave_record(store, run)
    shutil.rmtree(scratch, ignore_errors=True)
    made = runs.made(store.database, print_)
    return Outcome(name, output, False, wall / 1e9, made.core_ns if made else core, work.metrics)


def follows() -> bool:
    """Whether torchrun started this process beside another one, which is the one that records what is done."""
    return int(os.environ.get("RANK", "0")) > 0


def _follow(store: ArtifactStore, step: Step, settings: Settings, inputs: Inputs, scratch: Path) -> Outcome:
    """Take part where the step is done together, then wait for what the first process records.

    If that one fails, it records nothing; torchrun then ends this process.

    Raises:
        StepError: torchrun is gone.
    """
    launcher = os.getppid()
    if step.together:
        with _fresh_folder(store) as folder:
            step.run(**inputs, settings=settings, work=Workspace(store, folder, scratch))
    while (found := known(store, scratch.name)) is None:
        if os.getppid() != launcher:  # nobody is left who would end this process
            raise StepError("the process that started this one has ended", where=step.name, hint="run it again")
        time.sleep(0.1)
    return found


def _sound(store: ArtifactStore, artifact: Artifact) -> bool:
    """Whether a known result can be used as it lies there; a damaged one is made again and takes its place."""
    try:
        store.verify(artifact)
    except ArtifactError:
        return False
    return True


def _digests(value: Artifact | tuple[Artifact, ...] | None) -> str | list[str] | None:
    if isinstance(value, tuple):
        return [artifact.digest for artifact in value]
    return value.digest if value is not None else None


def _each(inputs: Inputs) -> Iterator[Artifact]:
    for value in inputs.values():
        if isinstance(value, tuple):
            yield from value
        elif value is not None:
            yield value


@contextmanager
def _alone(scratch: Path, name: str) -> Iterator[None]:
    """One process at a time on one piece of work; the kernel lets go when the process dies."""
    with (scratch / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(f"another process is running {name} now", hint="wait for it, then run again") from error
        yield


@contextmanager
def _fresh_folder(store: ArtifactStore) -> Iterator[Path]:
    folder = store.folder / "partial" / secrets.token_hex(8)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
