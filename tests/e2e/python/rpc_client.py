"""JSON-RPC by POST and on a WebSocket, as clients of ours would speak it."""

from __future__ import annotations

import json
from contextlib import contextmanager

import httpx
from websockets.sync.client import ClientConnection, connect

from deployment import Gateway
from route_fixtures import message

PROTOCOL = "partywall.rpc.v1"


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def post(gw: Gateway, token: str, body, headers: dict[str, str] | None = None) -> httpx.Response:
    """Any body, as bytes, text or JSON."""
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    head = {"content-type": "application/json", **bearer(token), **(headers or {})}
    return gw.http.post("/rpc", content=content, headers=head)


def call(gw: Gateway, token: str, method: str, params: dict | None = None, **headers: str) -> dict:
    """The answer to one call, whole."""
    answer = post(gw, token, message(method, params), headers)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["jsonrpc"] == "2.0" and told["id"] == 1 and len(told) == 3, told
    return told


def result(gw: Gateway, token: str, method: str, params: dict | None = None) -> dict:
    told = call(gw, token, method, params)
    assert "result" in told, told
    return told["result"]


def refused(told: dict) -> tuple[int, str]:
    """Number and name of an error."""
    return told["error"]["code"], told["error"]["data"]["code"]


@contextmanager
def socket(gw: Gateway, token: str | None, **options):
    headers = options.pop("additional_headers", None) or (bearer(token) if token else {})
    options.setdefault("subprotocols", [PROTOCOL])
    options.setdefault("compression", None)
    url = f"ws://{gw.host}:{gw.port}/rpc"
    with connect(url, additional_headers=headers, proxy=None, max_size=None, close_timeout=2, **options) as ws:
        yield ws


def ask(ws: ClientConnection, method: str, params: dict | None = None, id: object = 1, timeout: float = 10) -> dict:
    """One call and its answer; what subscriptions send meanwhile is passed over."""
    ws.send(json.dumps(message(method, params, id)))
    while True:
        told = json.loads(ws.recv(timeout))
        if "id" in told:
            assert told["id"] == id, told
            return told


def event(ws: ClientConnection, timeout: float = 5) -> dict:
    """The next entry that a subscription sends."""
    told = json.loads(ws.recv(timeout))
    assert told["method"] == "audit.entry" and "id" not in told, told
    return told["params"]
