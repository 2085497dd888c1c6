"""What metering costs: the same gateway with it and without, alternating, on the same cores, in one run."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import shop as shops


@dataclass(frozen=True)
class Cost:
    """Requests a second with metering and without, by rounds; ``lost`` is the share of throughput that it takes."""

    inputs: int
    metered: tuple[float, ...]
    free: tuple[float, ...]

    @property
    def lost(self) -> tuple[float, ...]:
        """By rounds: 1 - metered / free, each taken against its own neighbour in time."""
        return tuple(1 - m / f for m, f in zip(self.metered, self.free, strict=True))

    @property
    def median(self) -> float:
        """Of ``lost``."""
        return statistics.median(self.lost)


def metering(url: str, *, rounds: int = 6, seconds: float = 6.0, clients: int = 64, inputs: int = 1) -> Cost:
    """Measure on the database ``url``, which must be empty.

    Args:
        rounds: pairs of runs; which of the two comes first alternates.
        seconds: how long each run lasts, after a second of warming up.
        inputs: sentences in each request.
    """
    with tempfile.TemporaryDirectory(prefix="feilun-bench-") as folder:
        shop = shops.build(url, Path(folder))
        with shops.gateway(shop) as metered, shops.gateway(shop, metering=False) as free:
            rates: dict[str, list[float]] = {metered: [], free: []}
            for i in range(rounds):
                for address in (metered, free) if i % 2 == 0 else (free, metered):
                    asyncio.run(shops.load(address, shop, seconds=1.0, clients=clients, inputs=inputs))
                    done = asyncio.run(shops.load(address, shop, seconds=seconds, clients=clients, inputs=inputs))
                    rates[address].append(len(done) / seconds)
    return Cost(inputs, tuple(rates[metered]), tuple(rates[free]))


if __name__ == "__main__":
    import sys

    with tempfile.TemporaryDirectory() as place:
        target = sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{place}/ledger.db"
        found = metering(target, rounds=3, seconds=4.0, inputs=int(sys.argv[2]) if len(sys.argv) > 2 else 1)
        print(found, found.median)
