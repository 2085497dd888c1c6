"""A customer who uploads: OpenAI's own client against a real gateway."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import httpx
import openai

from faults.house import HTTP, PEPPER, House, Running
from feilun.accounts import keys, tenants

T = TypeVar("T")


class Customer:
    """A tenant with a key for files and for answers."""

    def __init__(
        self,
        house: House,
        running: Running,
        name: str,
        *,
        plan: str = "metered",
        scopes: Sequence[str] = ("classify", "files"),
    ) -> None:
        self.name, self.house = name, house
        tenants.create(house.database, name, plan=plan)
        made = keys.create(house.database, PEPPER, name, scopes=scopes)
        self.key, self.token = made.public_id, made.token
        self.move(running)

    def move(self, running: Running) -> None:
        """Ask another gateway from now on."""
        self.base = running.base
        self.api: Any = openai.OpenAI(base_url=f"{running.base}/v1", api_key=self.token, max_retries=0)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return HTTP.request(more.pop("method", "GET"), self.base + path, headers=self.headers, **more)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def upload(self, rows: Iterable[Any] | bytes, purpose: str = "batch", name: str = "rows.jsonl") -> str:
        body = rows if isinstance(rows, bytes) else b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        made = self.api.files.create(file=(name, body), purpose=purpose)
        return str(made.id)

    def batch(self, texts: Iterable[str], model: str = "reviews", **more: Any) -> Any:
        """A batch that classifies, a text in each line."""
        rows = [
            {"custom_id": f"c-{n}", "method": "POST", "url": "/v1/classify", "body": {"model": model, "input": text}}
            for n, text in enumerate(texts)
        ]
        made = {"input_file_id": self.upload(rows), "endpoint": "/v1/classify", "completion_window": "24h"}
        return self.api.batches.create(**made | more)

    def read(self, file: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.api.files.content(file).text.splitlines()]


def until(look: Callable[[], T], holds: Callable[[T], bool], timeout_s: float = 40) -> T:
    """Look again and again until it holds."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if holds(found := look()):
            return found
        time.sleep(0.03)
    raise AssertionError(f"it did not come to that: {look()}")


def ended(customer: Customer, batch: str) -> Any:
    """A batch that has ended."""
    over = ("completed", "failed", "expired", "cancelled")
    return until(lambda: customer.api.batches.retrieve(batch), lambda found: found.status in over)
