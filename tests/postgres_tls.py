"""TLS in front of a PostgreSQL whose build has none: speaks PostgreSQL's own opening, then passes bytes on."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from types import TracebackType
from typing import Self

_SSL_REQUEST = struct.pack("!II", 8, 80877103)


class TlsFront:
    """`with TlsFront(context, port) as front:` takes connections by TLS alone, for the server on that port."""

    def __init__(self, context: ssl.SSLContext, behind: int) -> None:
        self._context = context
        self._behind = behind
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.encrypted = 0
        """Connections that went through."""
        self._taking = threading.Thread(target=self._take, daemon=True)

    def __enter__(self) -> Self:
        self._taking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._taking.join()

    def _take(self) -> None:
        while True:
            try:
                caller, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        with caller:
            if caller.recv(8, socket.MSG_WAITALL) != _SSL_REQUEST:
                return
            caller.sendall(b"S")
            try:
                inside = self._context.wrap_socket(caller, server_side=True)
            except OSError:  # the caller does not trust the certificate
                return
            self.encrypted += 1
            with inside, socket.create_connection(("127.0.0.1", self._behind)) as server:
                back = threading.Thread(target=_pass_on, args=(server, inside), daemon=True)
                back.start()
                _pass_on(inside, server)
                back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while some := source.recv(65536):
            target.sendall(some)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one of the two has gone
