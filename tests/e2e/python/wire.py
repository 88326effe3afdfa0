"""HTTP as bytes: any target, any header twice, and an answer with its headers in order, fit to be compared."""

from __future__ import annotations

import http.client
from dataclasses import dataclass


@dataclass(frozen=True)
class Ask:
    """A request, complete."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None

    @property
    def text(self) -> bytes:
        """All that the caller itself has said."""
        lines = [f"{self.method} {self.target}", *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + (self.body or b"")


@dataclass(frozen=True)
class Answer:
    """A response, complete, its headers as they came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    @property
    def request_id(self) -> str:
        values = self.values("x-request-id")
        assert len(values) == 1, f"x-request-id: {values} in {self}"
        return values[0]

    @property
    def whole(self) -> bytes:
        """Status, headers and body, for a scan."""
        lines = [str(self.status), *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + self.body

    def bare(self, sent: dict[str, str] | None = None) -> tuple:
        """The answer without what differs between any two (date, request id) and without the names that the caller itself sent."""
        body, request_id = self.body, self.request_id
        for name, text in (sent or {}).items():
            body = body.replace(text.encode(), f"<{name}>".encode())
        headers = tuple((name, "*" if name == "date" else value.replace(request_id, "*")) for name, value in self.headers)
        return self.status, headers, body.replace(request_id.encode(), b"*")


class Wire:
    """One connection to a listener, opened anew when the other side closes it."""

    def __init__(self, url: str):
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=30)

    def ask(self, ask: Ask) -> Answer:
        try:
            return self._exchange(ask)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            # An idle connection may end at any time; nothing of an answer was read.
            self._connection.close()
            return self._exchange(ask)

    def _exchange(self, ask: Ask) -> Answer:
        connection = self._connection
        connection.putrequest(ask.method, ask.target, skip_accept_encoding=True)
        for name, value in ask.headers:
            connection.putheader(name, value)
        if ask.body is not None:
            connection.putheader("content-length", str(len(ask.body)))
        connection.endheaders(ask.body)
        response = connection.getresponse()
        body = response.read()
        headers = tuple((name.lower(), value) for name, value in response.getheaders())
        if response.will_close:
            connection.close()
        return Answer(response.status, headers, body)

    def close(self) -> None:
        self._connection.close()
