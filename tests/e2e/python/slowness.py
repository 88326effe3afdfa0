"""Connections that send too slowly, each in a thread of its own."""

from __future__ import annotations

import threading
import time

from deployment import Gateway, Simulator, raw_connection

GIVE_UP_S = 65


class SlowClients:
    """A gateway of its own, four slow clients, and how long each was borne."""

    def __init__(self):
        self.sim = Simulator()
        self.gateway = Gateway(self.sim).start()
        self.tenant = self.gateway.tenant("acme")
        self.closed: dict[str, float] = {}
        self.answered: dict[str, bytes] = {}
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self.gateway.host}\r\nAuthorization: Bearer {self.tenant.token}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
        ).encode()
        cases = {
            "silent head": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b""),
            "dripping head": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Drip: ", b"x"),
            "silent body": (head + b'{"model"', b""),
            "dripping body": (head + b'{"model":"', b"x"),
        }
        self._threads = [
            threading.Thread(target=self._hold, args=(name, *case), daemon=True) for name, case in cases.items()
        ]
        for thread in self._threads:
            thread.start()

    def _hold(self, name: str, first: bytes, drip: bytes):
        received = b""
        with raw_connection(self.gateway, timeout=1) as connection:
            started = time.monotonic()
            connection.sendall(first)
            while time.monotonic() - started < GIVE_UP_S:
                try:
                    piece = connection.recv(4096)
                    if not piece:
                        break
                    received += piece
                except TimeoutError:
                    pass
                except OSError:
                    break
                try:
                    connection.sendall(drip)
                except OSError:
                    break
            self.closed[name] = time.monotonic() - started
            self.answered[name] = received

    def wait(self) -> tuple[dict[str, float], dict[str, bytes]]:
        for thread in self._threads:
            thread.join(GIVE_UP_S + 10)
        return self.closed, self.answered

    def close(self):
        self.gateway.close()
        self.sim.stop()
