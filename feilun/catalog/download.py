"""Files by http(s), from public addresses only, checked where the connection is made (RELIABILITY 54).

The host is resolved here, every address it has must be public, and the connection goes to the address that was checked:
neither a redirect, a decimal address nor a name that resolves differently the second time reaches the local network.
Proxies from the environment are not used, for then the proxy would choose the address.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from feilun.errors import ProjectError, UnavailableError

if TYPE_CHECKING:
    import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LIMIT = 8 << 30  # bytes of one file
TIMEOUT_S = 30.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_INSIDE = tuple(  # not the public internet either, though the standard library takes them for it
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # a cloud's own service, as seen from its machines
        "192.0.0.192/32",  # another one's
        "64:ff9b:1::/48",  # local NAT64 (RFC 8215)
        "::/96",  # IPv4-compatible (deprecated)
        "::ffff:0:0:0/96",  # IPv4-translated (RFC 2765)
        "fec0::/10",  # site-local (deprecated)
    )
)


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, also where IPv6 carries an IPv4 address.

    >>> [is_public(ipaddress.ip_address(a)) for a in ("1.1.1.1", "127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1")]
    [True, False, False, False]
    >>> [is_public(ipaddress.ip_address(a)) for a in ("168.63.129.16", "::7f00:1", "64:ff9b:1::a9fe:a9fe", "fec0::1")]
    [False, False, False, False]
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None:
            return False
    inside = any(address in network for network in _INSIDE if network.version == address.version)
    return address.is_global and not address.is_multicast and not inside


def download(url: str, destination: Path, *, limit: int = LIMIT, permit: Callable[[Address], bool] = is_public) -> None:
    """Write what ``url`` answers to ``destination``.

    Args:
        url: http or https; redirects are followed, each under the same rule.
        destination: the file to write.
        limit: the most bytes to take.
        permit: which addresses may be connected to.

    Raises:
        ProjectError: the address is not public, or the answer is too large.
        UnavailableError: no connection, or an answer other than 200.
    """
    import httpx

    transport = checked_transport(permit, "copy the file into the project and name its path")
    try:
        with (
            httpx.Client(transport=transport, follow_redirects=True, timeout=TIMEOUT_S, trust_env=False) as client,
            client.stream("GET", url) as answer,
            destination.open("wb") as writing,
        ):
            answer.raise_for_status()
            size = 0
            for chunk in answer.iter_bytes():
                size += len(chunk)
                if size > limit:
                    raise ProjectError(f"the file is larger than {limit:,} bytes", where=url)
                writing.write(chunk)
    except httpx.InvalidURL as error:
        raise ProjectError(f"not an address: {error}", where=url) from error
    except httpx.HTTPError as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnavailableError(what, where=url, hint="is this machine online?", code="unreachable") from error


def checked_transport(permit: Callable[[Address], bool], hint: str) -> httpx.BaseTransport:
    """A transport for httpx that connects only to the address it has checked, each time anew.

    Args:
        permit: which addresses may be connected to.
        hint: what to try where one may not; a request to it raises ProjectError, ``private-address``.
    """
    import httpx

    class Checked(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            host = request.url.host
            port = request.url.port or (443 if request.url.scheme == "https" else 80)
            address = _resolve(host, port, permit, hint)
            request.url = request.url.copy_with(host=address)  # the Host header was set from the name already
            request.extensions = {**request.extensions, "sni_hostname": host}
            response = super().handle_request(request)
            request.url = request.url.copy_with(host=host)  # relative redirects belong to the name
            return response

    # keep-alive would reuse one address's connection for another name
    return Checked(verify=ssl.create_default_context(), limits=httpx.Limits(max_keepalive_connections=0))


def _resolve(host: str, port: int, permit: Callable[[Address], bool], hint: str | None = None) -> str:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnavailableError(f"{host} has no address", hint="is this machine online?", code="unreachable") from error
    addresses = [ipaddress.ip_address(str(item[4][0]).partition("%")[0]) for item in found]
    refused = [address for address in addresses if not permit(address)]
    if refused:
        raise ProjectError(
            f"{host} is not on the public internet",
            where=str(refused[0]),
            hint=hint,
            code="private-address",
        )
    return str(addresses[0])
