"""Figures of all workers in one answer: whoever is asked has its own, and finds what the others wrote a moment ago."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

EVERY_S = 1.0
_ENDING = ".prom"


@dataclass(frozen=True)
class Crew:
    """The workers of one supervisor: the folder that they share, and which of them this process is."""

    folder: Path
    number: str

    @classmethod
    def from_environment(cls, folder: str, number: str) -> Crew | None:
        """As the supervisor told it by the variables of these names; None where there is none."""
        told = (os.environ.get(folder), os.environ.get(number))
        return cls(Path(told[0]), told[1]) if told[0] and told[1] else None

    def publish(self, text: bytes) -> None:
        """Let the others have this worker's figures; a worker that is replaced begins anew, as counters may."""
        file = self.folder / f"{self.number}{_ENDING}"
        fresh = file.with_suffix(".new")
        with contextlib.suppress(OSError):  # the folder is gone: the supervisor is, and this worker will be
            fresh.write_bytes(text)
            fresh.replace(file)

    def gathered(self, own: bytes) -> bytes:
        """Everybody's figures, each with the label ``worker``."""
        texts = {self.number: own.decode()}
        for file in self.folder.glob(f"*{_ENDING}"):
            with contextlib.suppress(OSError):  # the folder is being cleared
                texts.setdefault(file.stem, file.read_text("utf-8"))
        return generate_latest(_Gathered(texts))


class _Gathered(Collector):
    """Families of several texts, put together."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def collect(self) -> Iterable[Metric]:
        """Each family once."""
        families: dict[str, Metric] = {}
        for number in sorted(self._texts):
            for family in _families(self._texts[number]):
                known = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    known.add_sample(sample.name, {**sample.labels, "worker": number}, sample.value)
        return families.values()


def _families(text: str) -> Iterator[Metric]:
    yield from text_string_to_metric_families(text)
