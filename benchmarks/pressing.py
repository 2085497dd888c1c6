"""Clients that press a server: written at the level of bytes, so that they take little of the cores that they share."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pressed:
    """The time of each answer, in seconds, and how long all of it took."""

    times: list[float]
    seconds: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.times) / self.seconds

    def ms(self, share: float) -> float:
        """The time within which that share of the answers came, in milliseconds."""
        ordered = sorted(self.times)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def median_ms(self) -> float:
        """Half of the answers came sooner."""
        return 1000 * statistics.median(self.times)


async def press(
    port: int, path: str, bodies: Sequence[bytes], *, seconds: float, clients: int, token: str = ""
) -> Pressed:
    """Closed-loop clients over kept connections, each with bodies of its own out of ``bodies``.

    Raises:
        RuntimeError: an answer had another status than 200.
    """
    begun = time.perf_counter()
    end = begun + seconds
    times: list[float] = []
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {token}\r\n" if token else ""

    async def client(n: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        at = n * 97
        while time.perf_counter() < end:
            body = bodies[at % len(bodies)]
            at += 1
            began = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(answer.split(b"\r\n", 1)[0].decode())
            await reader.readexactly(int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            times.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client(n) for n in range(clients)))
    return Pressed(times, time.perf_counter() - begun)
