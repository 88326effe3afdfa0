"""HTTP/2 as frames: a client that reads everything, grants what it is told to, and keeps what it got."""

from __future__ import annotations

import json
import select
import socket
import ssl
import struct
import threading
import time

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE = 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _text(value: str) -> bytes:
    """A string of HPACK, as it is."""
    raw = value.encode()
    assert len(raw) < 127 + 128
    length = bytes([len(raw)]) if len(raw) < 127 else bytes([127, len(raw) - 127])
    return length + raw


class H2Client:
    """One connection. It answers pings as long as it lives; `window` is what each stream may send without being asked for more.
    Without a greeting it says nothing at all."""

    def __init__(self, gateway, window: int = 65_535, greet: bool = True):
        context = gateway.authority.trusting()
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection((gateway.host, gateway.port), timeout=10)
        self._socket = context.wrap_socket(plain, server_hostname="localhost")
        assert self._socket.selected_alpn_protocol() == "h2"
        self.data: dict[int, bytes] = {}
        self.resets: dict[int, float] = {}
        self.ended: dict[int, float] = {}
        self.goaway_at: float | None = None
        self.closed_at: float | None = None
        self.opened_at = time.monotonic()
        self._next, self._silent = 1, not greet
        self._left = False
        # Reading and writing take turns: a TLS connection does not bear both at once.
        self._turn = threading.Lock()
        if greet:
            settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, window)
            self._send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def post(self, path: str, token: str, body: dict) -> int:
        """Sends a request; its stream."""
        stream, self._next = self._next, self._next + 2
        payload = json.dumps(body).encode()
        headers = {
            ":method": "POST",
            ":scheme": "https",
            ":authority": "localhost",
            ":path": path,
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
            "content-length": str(len(payload)),
        }
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
        self.data[stream] = b""
        self._send(frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, payload))
        return stream

    def grant(self, stream: int, size: int) -> None:
        self._send(frame(WINDOW, 0, stream, struct.pack(">I", size)))

    def _send(self, raw: bytes) -> None:
        with self._turn:
            self._socket.settimeout(10)
            self._socket.sendall(raw)

    def _read(self) -> None:
        waiting = b""
        try:
            while not self._left:
                readable = self._socket.pending() or select.select([self._socket], [], [], 0.1)[0]
                if not readable:
                    continue
                with self._turn:
                    self._socket.settimeout(0)
                    try:
                        piece = self._socket.recv(65_536)
                    except ssl.SSLWantReadError:
                        continue
                if not piece:
                    break
                waiting += piece
                while len(waiting) >= 9 and len(waiting) >= (size := 9 + int.from_bytes(waiting[:3], "big")):
                    kind, flags, stream = struct.unpack(">BBI", waiting[3:9])
                    payload, waiting = waiting[9:size], waiting[size:]
                    self._took(kind, flags, stream, payload)
        except OSError:
            pass
        self.closed_at = time.monotonic()
        self._socket.close()

    def _took(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self.data[stream] += payload
            if payload:
                # The connection's own window never is what a stream waits for.
                self.grant(0, len(payload))
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            self.ended[stream] = time.monotonic()
        elif kind == RESET:
            self.resets[stream] = time.monotonic()
        elif kind == GOAWAY:
            self.goaway_at = self.goaway_at or time.monotonic()
        elif kind in (SETTINGS, PING) and not flags & ACK and not self._silent:
            self._send(frame(kind, ACK, 0, payload if kind == PING else b""))

    def close(self) -> None:
        self._left = True
        self._reader.join(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
