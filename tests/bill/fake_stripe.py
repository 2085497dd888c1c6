"""A Stripe of our own that goes wrong on demand: state by idempotency key, and faults before or after accepting.

What answers is a backend: ``Memory``, written after Stripe's reference, or ``Forward``, which asks a localstripe.
The layer in front of either keeps answers by idempotency key, as Stripe does and localstripe does not.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

import httpx

KEY = "sk_test_the_secret_key_of_this_test"
SECRET = "whsec_the_secret_of_this_endpoint"
FAULTS = ("500-before", "500-after", "429", "409", "drop-before", "drop-after", "500-kept", "hang-after")
Answer = tuple[int, dict[str, Any]]


class RefusedError(Exception):
    """An error in Stripe's shape."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        kind = "idempotency_error" if code == "idempotency" else "invalid_request_error"
        self.answer = status, {"error": {"type": kind, "code": code, "param": param, "message": message}}


def tree(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """``a[b]=c`` as nested dictionaries."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        path = re.findall(r"[^\[\]]+", name)
        place = found
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    return found


class Memory:
    """The part of Stripe that we use, as its reference describes it."""

    _TAKES: ClassVar = {
        "customers": {"name", "email", "preferred_locales", "address", "metadata"},
        "invoices": {
            *("customer", "currency", "number", "auto_advance", "collection_method", "metadata"),
            *("pending_invoice_items_behavior", "due_date", "days_until_due"),
        },
        "invoiceitems": {"customer", "invoice", "currency", "amount", "description", "metadata"},
        "credit_notes": {
            *("invoice", "memo", "metadata", "amount", "out_of_band_amount", "refund_amount", "credit_amount"),
        },
        "meter_events": {"event_name", "identifier", "payload", "timestamp"},
        "finalize": {"auto_advance"},
    }

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.numbers = itertools.count(1)
        self.skew = 0  # what Stripe's totals are wrong by

    def of(self, kind: str) -> list[dict[str, Any]]:
        """All objects of a kind, oldest first."""
        return [o for o in self.objects.values() if o["object"] == kind]

    def __call__(self, method: str, path: str, told: dict[str, Any], body: bytes) -> Answer:
        try:
            return 200, self._answer(method, path.removeprefix("/v1/").split("/"), told)
        except RefusedError as refused:
            return refused.answer

    def _answer(self, method: str, path: list[str], told: dict[str, Any]) -> dict[str, Any]:
        what = path[1] if path[0] == "billing" else path[0]
        if method == "GET" and len(path) == 1:
            return self._listed(what, told)
        if method == "GET" and len(path) == 3:
            return {"object": "list", "data": self._get(path[1])["lines"]["data"], "has_more": False}
        if method == "GET":
            return self._get(path[1])
        if what == "invoices" and len(path) == 3:
            return self._finalise(self._get(path[1]), told)
        self._only(what, told)
        if what == "customers" and len(path) == 2:
            self._get(path[1]).update(told)
            return self._get(path[1])
        make: Callable[[dict[str, Any]], dict[str, Any]] = getattr(self, f"_{what}")
        return make(told)

    def _only(self, what: str, told: dict[str, Any]) -> None:
        if unknown := told.keys() - self._TAKES[what]:
            raise RefusedError(400, f"unknown: {unknown}", code="parameter_unknown", param=min(unknown))

    def _get(self, id: str) -> dict[str, Any]:
        if id not in self.objects:
            raise RefusedError(404, f"No such object: '{id}'", code="resource_missing", param="id")
        return self.objects[id]

    def _keep(self, prefix: str, kind: str, **values: Any) -> dict[str, Any]:
        made = {"id": f"{prefix}_{next(self.numbers)}", "object": kind, "created": int(time.time()), **values}
        self.objects[made["id"]] = made
        return made

    def _listed(self, what: str, told: dict[str, Any]) -> dict[str, Any]:
        kind = {"customers": "customer", "invoices": "invoice", "credit_notes": "credit_note"}[what]
        found = [o for o in self.of(kind) if o["created"] >= int(told.get("created", {}).get("gte", 0))]
        for name in ("customer", "invoice"):
            found = [o for o in found if name not in told or o[name] == told[name]]
        found.reverse()
        if "starting_after" in told:
            found = found[[o["id"] for o in found].index(told["starting_after"]) + 1 :]
        page = found[:2]  # short pages, so that they are turned
        return {"object": "list", "data": page, "has_more": len(found) > len(page), "url": f"/v1/{what}"}

    def _customers(self, told: dict[str, Any]) -> dict[str, Any]:
        return self._keep("cus", "customer", **{"metadata": {}} | told)

    def _invoices(self, told: dict[str, Any]) -> dict[str, Any]:
        self._get(told["customer"])
        if any(i["number"] == told["number"] for i in self.of("invoice")):
            raise RefusedError(400, "this number is used", param="number")
        if (told["collection_method"] == "send_invoice") != ("due_date" in told or "days_until_due" in told):
            raise RefusedError(400, "days_until_due goes with send_invoice", param="days_until_due")
        if int(told.get("due_date", 2**40)) < time.time():
            raise RefusedError(400, "due_date has to be in the future", param="due_date")
        lines = {"object": "list", "data": [], "has_more": False, "url": "/v1/invoices/lines"}
        fixed = {"status": "draft", "total": self.skew, "amount_due": 0, "amount_paid": 0, "lines": lines}
        return self._keep("in", "invoice", **told, **fixed)

    def _invoiceitems(self, told: dict[str, Any]) -> dict[str, Any]:
        invoice = self._get(told["invoice"])
        if invoice["status"] != "draft":
            raise RefusedError(400, "the invoice is no longer a draft", code="invoice_not_editable", param="invoice")
        if (invoice["currency"], invoice["customer"]) != (told["currency"], told["customer"]):
            raise RefusedError(400, "it is of another invoice", param="currency")
        item = self._keep("ii", "invoiceitem", **told)
        line = {"id": f"il_{item['id']}", "object": "line_item", "amount": int(told["amount"])}
        invoice["lines"]["data"].append(line | {"metadata": told["metadata"], "description": told["description"]})
        invoice["total"] += int(told["amount"])
        invoice["amount_due"] = max(invoice["total"], 0)
        return item

    def _finalise(self, invoice: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
        self._only("finalize", told)
        if invoice["status"] != "draft":
            raise RefusedError(400, "This invoice is already finalized", code="invoice_not_editable")
        invoice["status"] = "open"
        return invoice

    def _credit_notes(self, told: dict[str, Any]) -> dict[str, Any]:
        invoice = self._get(told["invoice"])
        backs = [int(told[n]) for n in ("out_of_band_amount", "refund_amount", "credit_amount") if n in told]
        if (invoice["status"] == "paid") != bool(backs) or (backs and sum(backs) != int(told["amount"])):
            raise RefusedError(400, "where a paid invoice's credit goes has to be said", param="amount")
        field = f"{'post' if backs else 'pre'}_payment_credit_notes_amount"
        invoice[field] = invoice.get(field, 0) + int(told["amount"])
        if invoice[field] > invoice["total"]:
            raise RefusedError(400, "that is more than is left", param="amount")
        return self._keep("cn", "credit_note", **told)

    def _meter_events(self, told: dict[str, Any]) -> dict[str, Any]:
        if any(e["identifier"] == told["identifier"] for e in self.of("billing.meter_event")):
            raise RefusedError(400, "an event with this identifier exists", code="duplicate_meter_event")
        self._get(told["payload"]["stripe_customer_id"])
        return self._keep("mev", "billing.meter_event", **told)


class Forward:
    """Hands everything on to a running localstripe."""

    def __init__(self, base: str) -> None:
        self.http = httpx.Client(base_url=base, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False)

    def __call__(self, method: str, path: str, told: dict[str, Any], body: bytes) -> Answer:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        if method == "GET":
            reply = self.http.get(path, params=dict(parse_qsl(body.decode())))
        else:
            reply = self.http.request(method, path, content=body, headers=form)
        return reply.status_code, reply.json()

    def close(self) -> None:
        """Let go of its connections."""
        self.http.close()


class FakeStripe:
    """The layer of keys and faults; ``plan`` holds the faults of the next requests that change something."""

    def __init__(self, backend: Callable[[str, str, dict[str, Any], bytes], Answer]) -> None:
        self.backend = backend
        self.kept: dict[str, tuple[str, Answer]] = {}
        self.plan: list[str | None] = []
        self.asked: list[tuple[str, str, str | None]] = []  # method, path, idempotency key
        self.headers: list[dict[str, str]] = []
        self.honours_keys = True
        self.retry_after = 7
        self.struck = 0  # how many faults there were
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.base = ""

    def faults(
        self, chance: random.Random, number: int, share: float = 0.2, kinds: Sequence[str] = FAULTS[:-1]
    ) -> None:
        """Plan a random mixture: by default one call in five fails, so that faults reach every call of a row."""
        self.plan = [chance.choice(kinds) if chance.random() < share else None for _ in range(number)]

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> tuple[Answer | None, bool]:
        """The answer, None for none at all; and whether the connection is left hanging."""
        with self.lock:
            self.asked.append((method, path, key))
            fault = self.plan.pop(0) if self.plan and method == "POST" else None
            self.struck += fault is not None
            if fault == "429":
                return (429, {"error": {"type": "rate_limit", "message": "too many"}}), False
            if fault == "409":
                return (409, {"error": {"type": "idempotency_error", "code": "idempotency_key_in_use"}}), False
            if fault == "500-before":
                return (500, {"error": {"type": "api_error", "message": "nothing was done"}}), False
            if fault == "drop-before":
                return None, False
            if fault == "500-kept" and key is not None:  # Stripe keeps its own failures too
                done = 500, {"error": {"type": "api_error", "message": "nothing was done, and that was kept"}}
                self.kept.setdefault(key, (self._digest(method, path, body), done))
                return done, False
            done = self._once(method, path, key, body)
            if fault == "500-after":
                return (500, {"error": {"type": "api_error", "message": "all was done"}}), False
            return (None, fault == "hang-after") if fault else (done, False)

    @staticmethod
    def _digest(method: str, path: str, body: bytes) -> str:
        return hashlib.sha256(f"{method} {path} ".encode() + body).hexdigest()

    def _once(self, method: str, path: str, key: str | None, body: bytes) -> Answer:
        digest = self._digest(method, path, body)
        if key is not None and self.honours_keys and key in self.kept:
            before, answer = self.kept[key]
            if before != digest:
                return RefusedError(400, "the key was used with other parameters", code="idempotency").answer
            return answer[0], answer[1] | {"replayed": True}
        answer = self.backend(method, path, tree(parse_qsl(body.decode())), body)
        answer = json.loads(json.dumps(answer))  # as it is now: it is what a repetition gets
        if key is not None:
            self.kept[key] = digest, answer
        return answer


@contextmanager
def fake_stripe(backend: Callable[[str, str, dict[str, Any], bytes], Answer]) -> Iterator[FakeStripe]:
    """A fake that listens on a free port of this machine; its ``base`` is the API's."""
    stripe = FakeStripe(backend)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            self._answer(urlsplit(self.path).query.encode())

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("content-length", 0))))

        def _answer(self, body: bytes) -> None:
            stripe.headers.append(dict(self.headers))
            path, key = urlsplit(self.path).path, self.headers.get("idempotency-key")
            answer, hangs = stripe.answer(self.command, path, key, body)
            if hangs:
                stripe.over.wait(30)
            if answer is None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)  # the other side knows at once
                return
            status, said = answer
            replayed = said.pop("replayed", False)
            text = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.send_header("Request-Id", "req_123")
            if replayed:
                self.send_header("Idempotent-Replayed", "true")
            if status == 429:
                self.send_header("Retry-After", str(stripe.retry_after))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # the client went away, as planned

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    stripe.base = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stripe
    finally:
        stripe.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def event(kind: str, invoice: dict[str, Any], *, id: str, created: int | None = None, **changes: Any) -> bytes:
    """An event as Stripe sends it."""
    said = {"id": id, "object": "event", "type": kind, "created": created or int(time.time())}
    return json.dumps(said | {"data": {"object": invoice | changes}}).encode()


def signature(body: bytes, *, secret: str = SECRET, at: int | None = None) -> str:
    """The header ``Stripe-Signature``, made without Stripe's own code."""
    stamp = int(time.time()) if at is None else at
    digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"
