"""Connections that send or take too slowly, each in a thread of its own."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

from deployment import Gateway, Simulator, eventually, raw_connection
from h2wire import H2Client
from samples import user
from tls import Authority, TlsGateway, lacking

GIVE_UP_S = 70


class SlowClients:
    """Gateways of its own, slow clients, and how long each was borne."""

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
        self.lacking = lacking("openssl")
        self.secure = None if self.lacking else self._over_http2()
        for thread in self._threads:
            thread.start()

    def _over_http2(self) -> TlsGateway:
        self._directory = tempfile.TemporaryDirectory()
        gateway = TlsGateway(self.sim, Authority(Path(self._directory.name))).start()
        self.stalled = gateway.tenant("stalled")
        cases = {
            "silent http2": lambda: H2Client(gateway, greet=False),
            "idle http2": lambda: H2Client(gateway),
            "idle http2 after a call": lambda: self._asked(H2Client(gateway)),
        }
        self._threads += [threading.Thread(target=self._hold_http2, args=case, daemon=True) for case in cases.items()]
        for stream in (True, False):
            self._threads.append(threading.Thread(target=self._stall, args=(gateway, stream), daemon=True))
        return gateway

    def _asked(self, client: H2Client) -> H2Client:
        stream = client.post("/v1/chat/completions", self.stalled.token, {"model": "sim-fast", "messages": user("Hello")})
        eventually(lambda: stream in client.ended, 10, "the answer")
        client.opened_at = time.monotonic()
        return client

    def _hold_http2(self, name: str, connect):
        """Answers every ping, and asks for nothing more."""
        with connect() as client:
            while client.closed_at is None and time.monotonic() - client.opened_at < GIVE_UP_S:
                time.sleep(0.1)
            self.closed[name] = (client.closed_at or time.monotonic()) - client.opened_at

    def _stall(self, gateway: TlsGateway, stream: bool):
        """Grants no byte of an answer."""
        with H2Client(gateway, window=0) as client:
            body = {"model": "sim-fast", "stream": stream, "messages": user("[[sim:chunks=2000 gap=100ms]]" if stream else "Hello")}
            asked = client.post("/v1/chat/completions", self.stalled.token, body)
            begun = time.monotonic()
            while asked not in client.resets and time.monotonic() - begun < GIVE_UP_S:
                time.sleep(0.1)
            self.closed[f"stalled {'stream' if stream else 'answer'}"] = client.resets.get(asked, time.monotonic()) - begun

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
        if self.secure:
            self.secure.close()
            self._directory.cleanup()
        self.sim.stop()
