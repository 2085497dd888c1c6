"""A TCP proxy between a gateway and its database, which can go silent: connections stay open and nothing passes."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

from faults.house import free_port


class Proxy:
    """Forwards ``port`` to ``target`` (a port of this machine) while ``passes`` is set."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.passes = threading.Event()
        self.passes.set()
        self._target = target
        self._open: list[socket.socket] = []
        self._closed = False
        self._listening = socket.create_server(("127.0.0.1", self.port), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Close every connection."""
        self._closed = True
        self.passes.set()
        for one in [self._listening, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                caller, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(caller,), daemon=True).start()

    def _join(self, caller: socket.socket) -> None:
        self._open.append(caller)
        self.passes.wait()
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            caller.close()
            return
        self._open.append(server)
        threading.Thread(target=self._pass, args=(caller, server), daemon=True).start()
        self._pass(server, caller)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.passes.wait()
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
