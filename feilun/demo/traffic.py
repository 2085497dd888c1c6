"""Three customers: each sends real sentences with its own key, and keeps a log of every answer that it read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

RETRIES = 50  # a refused or lost request is sent again with the same Idempotency-Key: it can't be charged twice


@dataclass(frozen=True)
class Sentence:
    """One input, its true label (the human rating) and whose words it is."""

    text: str
    label: str
    contributor: str


@dataclass(frozen=True)
class Answer:
    """What the customer read: one HTTP answer to one or several sentences."""

    tenant: str
    key: str  # the Idempotency-Key that it was sent with
    id: str
    release: str
    sentences: tuple[Sentence, ...]
    labels: tuple[str, ...]
    scores: tuple[float, ...]  # of the labels answered
    amount_nano: int
    seconds: float
    replayed: bool


@dataclass
class Customer:
    """A tenant of the demo with its key, its plan and the sentences that it will send."""

    tenant: str
    plan: str
    domain: str
    corrects: bool
    key: str = ""
    sentences: list[Sentence] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    sent: int = 0
    failed: int = 0  # given up after all retries
    retried: int = 0

    def take(self, count: int) -> list[Sentence]:
        """The next sentences, each of which is sent once."""
        taken, self.sentences = self.sentences[:count], self.sentences[count:]
        return taken


async def send(
    url: str, customer: Customer, sentences: Sequence[Sentence], *, clients: int, batch: int = 1, pause: float = 0.0
) -> None:
    """Send sentences through ``clients`` connections at once, ``batch`` sentences a request."""
    work: asyncio.Queue[tuple[Sentence, ...]] = asyncio.Queue()
    for start in range(0, len(sentences), batch):
        work.put_nowait(tuple(sentences[start : start + batch]))

    async def client() -> None:
        headers = {"Authorization": f"Bearer {customer.key}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http:
            while not work.empty():
                await ask(http, customer, work.get_nowait())
                if pause:
                    await asyncio.sleep(pause)

    await asyncio.gather(*(client() for _ in range(clients)))


async def ask(http: httpx.AsyncClient, customer: Customer, group: tuple[Sentence, ...], key: str | None = None) -> None:
    """One request, retried with its own key until it is answered; the answer goes into the customer's log."""
    if key is None:
        customer.sent += 1
        key = f"{customer.tenant}-{customer.sent:06d}"
    body: dict[str, Any] = {"model": "reviews", "input": [sentence.text for sentence in group]}
    for _ in range(RETRIES):
        begun = time.perf_counter()
        try:
            reply = await http.post("/v1/classify", json=body, headers={"Idempotency-Key": key})
        except httpx.TransportError:
            customer.retried += 1
            await asyncio.sleep(0.2)
            continue
        if reply.status_code in (409, 429, 503):
            customer.retried += 1
            await asyncio.sleep(float(reply.headers.get("Retry-After", "1")))
            continue
        reply.raise_for_status()
        told = reply.json()
        customer.answers.append(
            Answer(
                tenant=customer.tenant,
                key=key,
                id=told["id"],
                release=told["release"],
                sentences=group,
                labels=tuple(result["label"] for result in told["results"]),
                scores=tuple(result["score"] for result in told["results"]),
                amount_nano=told["usage"]["amount_nano"],
                seconds=time.perf_counter() - begun,
                replayed=reply.headers.get("Idempotent-Replay") == "true",
            )
        )
        return
    customer.failed += 1


async def replay(url: str, customer: Customer, count: int) -> None:
    """Send the first ``count`` requests again, as a client does that lost the answer: same key, same body."""
    headers = {"Authorization": f"Bearer {customer.key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http:
        for answer in customer.answers[:count]:
            await ask(http, customer, answer.sentences, key=answer.key)


async def correct(url: str, customer: Customer, answers: Sequence[Answer], batch: int = 50) -> int:
    """Send the human rating of each sentence as a correction, with its author's consent to learn from it."""
    rows = [
        {
            "request": answer.id,
            "input": index,
            "text": sentence.text,
            "label": sentence.label,
            "contributor": sentence.contributor,
            "consent": ["learn"],
        }
        for answer in answers
        for index, sentence in enumerate(answer.sentences)
    ]
    headers = {"Authorization": f"Bearer {customer.key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http:
        for start in range(0, len(rows), batch):
            reply = await http.post("/v1/feedback", json=rows[start : start + batch])
            reply.raise_for_status()
    return len(rows)


async def keep_sending(url: str, customers: Sequence[Customer], stop: Callable[[], bool], pause: float) -> None:
    """Light traffic of all customers until ``stop`` says so, or the sentences run out."""

    async def one(customer: Customer) -> None:
        headers = {"Authorization": f"Bearer {customer.key}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http:
            while not stop() and customer.sentences:
                await ask(http, customer, tuple(customer.take(1)))
                await asyncio.sleep(pause)

    await asyncio.gather(*(one(customer) for customer in customers))
