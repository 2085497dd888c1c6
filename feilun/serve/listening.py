"""The socket that a gateway listens on: its own, its supervisor's or systemd's; and what makes it speak TLS."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from feilun.errors import FeilunError, SettingError
from feilun.serve import logs

BACKLOG = 1024  # connections that wait to be accepted
FD = "FEILUN_LISTEN_FD"  # an open socket that was handed over, by its number
_SYSTEMD_FIRST = 3  # the first socket that systemd hands over (sd_listen_fds)
UNREAD_S = 60  # how long what was sent may stay unacknowledged


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections: one that was handed over, else a new one.

    Handed over means by ``FEILUN_LISTEN_FD``, or by systemd's socket activation (``LISTEN_FDS``).

    Raises:
        SettingError: the address is taken or is not ours, or nothing that listens was handed over.
    """
    handed = _handed_over()
    if handed is not None:
        return handed
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        made = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingError(
            f"the gateway cannot listen there: {error.strerror}", where=f"{host}:{port}", hint="choose another --port"
        ) from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections that are accepted have it too: a reader that takes nothing
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_S * 1000)  # keeps no connection for ever
    return made


def _handed_over() -> socket.socket | None:
    number = os.environ.pop(FD, None)  # processes that this one starts have nothing to do with it
    if number is None and os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        number = str(_SYSTEMD_FIRST)
    if number is None:
        return None
    with contextlib.suppress(OSError, ValueError):
        handed = socket.socket(fileno=int(number))
        if handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return handed
    raise SettingError("the socket that was handed over does not listen", where=FD, hint="leave it unset")


@dataclass(frozen=True)
class Tls:
    """A certificate (its chain, PEM) and its key, read again by ``reload`` when they were renewed."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 and later, with what is in the files now.

        Raises:
            SettingError: a file is missing, is not PEM, or the key is not that of the certificate.
        """
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.options |= ssl.OP_NO_RENEGOTIATION
        self._read_into(made)
        return made

    def reload(self, context: ssl.SSLContext) -> bool:
        """Let new connections have what is in the files now; what cannot be used leaves everything as it was."""
        try:
            self.context()  # a trial: a certificate without its key must not get into the one that is used
            self._read_into(context)
        except FeilunError as error:
            logs.note(logging.ERROR, "certificate-not-reloaded", code=error.name, reason=error.what)
            return False
        logs.note(logging.INFO, "certificate-reloaded")
        return True

    def _read_into(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            why = getattr(error, "reason", None) or getattr(error, "strerror", None) or "they cannot be read"
            raise SettingError(
                f"the certificate and its key cannot be used: {why}",
                where=f"{self.certificate}, {self.key}",
                hint="both are PEM, the chain begins with the server's own certificate, the key has no password",
                code="tls",
            ) from error


def _no_password() -> str:
    raise ValueError("the key has a password")  # else OpenSSL asks at the terminal
