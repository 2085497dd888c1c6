"""Our own webhooks, in the form of Standard Webhooks 1.0 (https://www.standardwebhooks.com).

The body is ``{"type": ..., "timestamp": ..., "data": ...}``. The header ``webhook-id`` is the same for each attempt, so
that whoever receives it can tell a repetition; ``webhook-signature`` is HMAC-SHA-256 over id, timestamp and body. The
address is checked where the connection is made (RELIABILITY 54), and redirects are not followed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import os
from collections.abc import Mapping
from datetime import UTC, datetime

import httpx

from feilun.bill.delivery import NotDelivered
from feilun.bill.outgoing_settings import WebhookSettings
from feilun.bill.telling import WEBHOOK
from feilun.catalog.download import Address, checked_transport, is_public
from feilun.errors import ProjectError, SettingError, UnavailableError
from feilun.store.artifacts import canonical
from feilun.store.database import Database
from feilun.store.outbox import Parcel

TIMEOUT_S = 10.0
PREFIX = "whsec_"
_METADATA = ipaddress.ip_network("fd00:ec2::/32")  # where a cloud's machines find their own credentials, beside 169.254


class Webhooks:
    """Sends rows of the kind ``webhook`` to the address of ``[bill.webhook]``."""

    kinds = (WEBHOOK,)

    def __init__(self, settings: WebhookSettings, environment: Mapping[str, str] = os.environ) -> None:
        self._settings = settings
        self._environment = environment

    def send(self, database: Database, parcel: Parcel) -> str:
        """See ``delivery.Sender``; the receipt is the status of the answer."""
        body = body_of(parcel)
        stamp = parcel.at // 10**6
        identity = message_id(parcel.id)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "feilun",
            "webhook-id": identity,
            "webhook-timestamp": str(stamp),
            "webhook-signature": sign(self._secret(), identity, stamp, body),
        }
        status, retry_after = self._post(body, headers)
        if 200 <= status < 300:
            return str(status)
        if status == 410:
            raise NotDelivered("it answered 410: it wants no more of this", final=True)
        raise NotDelivered(f"it answered {status}", retry_after=retry_after)

    def _post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, int]:
        """The status of the answer, and the seconds to wait that it asks for; its body is not read."""
        private = self._settings.allow_private
        hint = "webhooks to a private network need allow_private = true in [bill.webhook]"
        transport = checked_transport(permit_private if private else is_public, hint)
        client = httpx.Client(transport=transport, timeout=TIMEOUT_S, trust_env=False, follow_redirects=False)
        try:
            with client, client.stream("POST", self._settings.url, content=body, headers=dict(headers)) as answer:
                return answer.status_code, seconds(answer.headers.get("retry-after"))
        except ProjectError as error:
            raise NotDelivered(f"{error.name}: {error.where}", hint=hint) from error
        except UnavailableError as error:
            raise NotDelivered("its name has no address") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NotDelivered(f"no answer: {type(error).__name__}") from error

    def _secret(self) -> bytes:
        name = self._settings.secret_env
        given = self._environment.get(name)
        if not given:
            raise NotDelivered(f"the environment variable {name} is not set")
        try:
            return key_of(given)
        except SettingError as error:
            raise NotDelivered(f"{name}: {error.what}") from error


def body_of(parcel: Parcel) -> bytes:
    """What is sent of a row: the same bytes at each attempt."""
    happened = datetime.fromtimestamp(parcel.created_at // 10**6, UTC)
    timestamp = f"{happened:%Y-%m-%dT%H:%M:%S}.{parcel.created_at % 10**6:06d}Z"
    return canonical({**parcel.payload, "timestamp": timestamp})


def message_id(row: str) -> str:
    """The ``webhook-id`` of a row: without a full stop, which separates what is signed."""
    return f"msg_{hashlib.sha256(row.encode()).hexdigest()[:32]}"


def key_of(secret: str) -> bytes:
    """The bytes of a secret: base64 behind ``whsec_``, or its own characters.

    Raises:
        SettingError: it is not base64, or has fewer than 24 bytes.
    """
    try:
        key = base64.b64decode(secret[len(PREFIX) :], validate=True) if secret.startswith(PREFIX) else secret.encode()
    except ValueError as error:
        raise SettingError("what follows whsec_ is not base64") from error
    if len(key) < 24:
        raise SettingError("the secret has fewer than 24 bytes", hint="make one: openssl rand -base64 32")
    return key


def sign(key: bytes, identity: str, stamp: int, body: bytes) -> str:
    """The header ``webhook-signature``.

    >>> key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    >>> sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    signed = b".".join((identity.encode(), str(stamp).encode(), body))
    return f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}"


def permit_private(address: Address) -> bool:
    """Public addresses, loopback and private networks; but not where a cloud keeps a machine's credentials.

    >>> [permit_private(ipaddress.ip_address(a)) for a in ("127.0.0.1", "10.1.2.3", "::1", "169.254.1.2", "0.0.0.0")]
    [True, True, True, False, False]
    """
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return permit_private(address.ipv4_mapped)
    if address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA:
        return False
    return is_public(address) or address.is_loopback or address.is_private


def seconds(header: str | None) -> int:
    """``Retry-After`` where it is a number of seconds; a date counts as nothing.

    >>> [seconds(h) for h in ("120", "-1", "Fri, 31 Dec 2027 23:59:59 GMT", None)]
    [120, 0, 0, 0]
    """
    return int(header) if header and header.isascii() and header.isdigit() and len(header) < 10 else 0
