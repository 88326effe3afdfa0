"""The edges of HTTP: what is too large, too slow, ambiguous or foreign."""

from __future__ import annotations

import json
import socket
import threading

import httpx
import pytest

from deployment import OPERATOR_ANTHROPIC_KEY, OPERATOR_OPENAI_KEY, Gateway, default_config, exchange
from samples import user

# Every header that an answer may carry.
ANSWER_HEADERS = {
    "content-type", "content-length", "transfer-encoding", "cache-control", "date", "x-request-id", "retry-after",
    "x-should-retry", "allow", "www-authenticate", "connection", "vary", "x-accel-buffering", "x-content-type-options",
    "request-id",
}  # fmt: skip
# Every header that a provider sees.
UPSTREAM_HEADERS = {
    "host", "content-type", "accept", "accept-encoding", "user-agent", "content-length", "authorization", "x-api-key",
    "anthropic-version", "anthropic-beta",
}  # fmt: skip


def status_of(raw: bytes) -> int:
    assert raw.startswith(b"HTTP/1.1 "), raw[:200]
    return int(raw[9:12])


def head(gw, acme, *lines: str, path: str = "/v1/chat/completions") -> bytes:
    fixed = [f"POST {path} HTTP/1.1", f"Host: {gw.host}:{gw.port}", f"Authorization: Bearer {acme.token}"]
    return "\r\n".join([*fixed, "Content-Type: application/json", *lines, "", ""]).encode()


BODY = json.dumps({"model": "sim-fast", "messages": user("Hi")}).encode()


# Size and shape.


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(gw, acme):
    limit = 32 * 1024 * 1024
    raw = exchange(gw, head(gw, acme, f"Content-Length: {limit + 1}"), timeout=3)
    assert status_of(raw) == 413 and str(limit).encode() in raw
    assert status_of(exchange(gw, head(gw, acme, "Content-Length: 99999999999999999999999"), timeout=3)) in (400, 413)


def test_a_chunked_body_without_end_is_cut_at_the_limit(sim):
    gateway = Gateway(sim, {**default_config(sim), "body_limit": "64KiB"})
    try:
        tenant = gateway.start().tenant("acme")
        assert tenant.chat("x" * 60_000).status_code == 200
        answer = tenant.chat("x" * 70_000)
        assert answer.status_code == 413 and "65536" in answer.text

        def endless():
            yield b'{"model":"sim-fast","messages":[{"role":"user","content":"'
            while True:
                yield b"x" * 16_384

        sent = 0
        try:
            answer = gateway.http.post("/v1/chat/completions", content=endless(), headers=tenant.bearer)
            sent = answer.status_code
        except httpx.TransportError:
            sent = 413
        assert sent == 413
        assert tenant.chat().status_code == 200
    finally:
        gateway.close()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_nesting_is_bounded(acme, path):
    def body(depth: int) -> str:
        deep = "[" * depth + "]" * depth
        return f'{{"model":"sim-fast","max_tokens":5,"messages":[{{"role":"user","content":"Hi"}}],"x":{deep}}}'

    if path == "/v1/chat/completions":
        assert acme.post(path, body(126)).status_code == 200
    for depth in (129, 100_000):
        answer = acme.post(path, body(depth))
        assert answer.status_code == 400 and "128" in answer.text, answer.text[:300]


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"sim-fast","model":"sim-large","messages":[]}',
        '{"model":"sim-fast","messages":[{"role":"user","role":"system","content":"Hi"}]}',
        '{"model":"sim-fast","mod\\u0065l":"sim-large","messages":[{"role":"user","content":"Hi"}]}',
        "[]",
        '"text"',
        "null",
        "",
        "{",
        '{"model":"sim-fast","messages":[{"role":"user","content":"Hi"}]} {}',
        '{"model":"sim-fast","messages":[{"role":"user","content":"Hi"}],}',
        '{"model":"sim-fast","messages":[{"role":"user","content":"Hi"}],"temperature":NaN}',
        b'{"model":"sim-fast","messages":[{"role":"user","content":"\xff\xfe"}]}',
        '{"model":["sim-fast"],"messages":[{"role":"user","content":"Hi"}]}',
    ],
    ids=range(13),
)
def test_what_two_parsers_could_read_differently_is_400_in_the_dialect(acme, sim, body):
    mark = sim.mark()
    for path in ("/v1/chat/completions", "/v1/messages"):
        answer = acme.post(path, body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert (answer.json().get("type") == "error") is (path == "/v1/messages")
    assert sim.since(mark) == []


def test_a_compressed_or_foreign_body_is_415(acme):
    for headers in ({"content-encoding": "gzip"}, {"content-type": "text/plain"}, {"content-type": "multipart/form-data"}):
        answer = acme.post("/v1/chat/completions", BODY, headers=headers)
        assert answer.status_code == 415, headers


# Framing.


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5, 6"],
        ["Content-Length: +5"],
        ["Content-Length: -1"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding : chunked"],
        ["X-Folded: a", " b", "Content-Length: 0"],
    ],
    ids=" + ".join,
)
def test_ambiguous_framing_is_refused_and_the_connection_closed(gw, acme, sim, lines):
    mark = sim.mark()
    smuggled = head(gw, acme, f"Content-Length: {len(BODY)}") + BODY
    raw = exchange(gw, head(gw, acme, *lines) + b"0\r\n\r\n" + smuggled, timeout=4)
    # Refused or closed, and in no case is the second request answered.
    assert raw == b"" or status_of(raw) in (400, 411, 413, 415, 501), raw[:300]
    assert raw.count(b"HTTP/1.1 ") <= 1
    assert sim.since(mark) == []


@pytest.mark.parametrize("line", ["GET /v1/models HTTP/9.9", "GET  /v1/models HTTP/1.1", "\x00 / HTTP/1.1", "PRI * HTTP/2.0"])
def test_a_broken_request_line_is_refused(gw, line):
    raw = exchange(gw, f"{line}\r\nHost: x\r\n\r\n".encode(), timeout=3)
    assert raw == b"" or status_of(raw) in (400, 505)


def test_too_many_or_too_large_headers_are_refused(gw, acme):
    many = exchange(gw, head(gw, acme, *[f"X-H{n}: 1" for n in range(300)], "Content-Length: 0"), timeout=3)
    large = exchange(gw, head(gw, acme, "X-Large: " + "x" * 200_000, "Content-Length: 0"), timeout=3)
    for raw in (many, large):
        assert raw == b"" or status_of(raw) in (400, 431)
    assert acme.chat().status_code == 200


def test_one_address_may_hold_1100_connections(gw, acme):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    held: list[socket.socket] = []
    try:
        for _ in range(1_100):
            held.append(socket.create_connection((gw.host, gw.port), timeout=10))
        request = f"GET /healthz HTTP/1.1\r\nHost: {gw.host}\r\n\r\n".encode()
        for connection in held[::100] + held[-3:]:
            connection.sendall(request)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200"), "a held connection is not served"
    finally:
        for connection in held:
            connection.close()


# Answers.


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/v1/no-such-thing", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("POST", "/v1/../v1/models", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/messages", 405),
        ("POST", "/v1/messages/no-such-thing", 404),
        ("TRACE", "/v1/models", 405),
    ],
)
def test_unknown_paths_and_methods_are_refused_in_the_dialect_of_the_path(gw, acme, method, path, status):
    raw = f"{method} {path} HTTP/1.1\r\nHost: {gw.host}\r\nAuthorization: Bearer {acme.token}\r\n"
    raw = exchange(gw, (raw + "Content-Length: 0\r\nConnection: close\r\n\r\n").encode())
    assert status_of(raw) == status, raw
    headers, _, body = raw.partition(b"\r\n\r\n")
    error = json.loads(body)
    assert (error.get("type") == "error") is path.startswith("/v1/messages")
    assert error["error"]["type"] in ("invalid_request_error", "not_found_error") and error["error"]["message"]
    assert b"x-request-id: req_" in headers
    assert (b"allow: " in headers.lower()) is (status == 405)


def test_health_tells_nothing(gw):
    for path in ("/healthz", "/readyz"):
        for answer in (gw.http.get(path), httpx.get(gw.admin_url + path, trust_env=False)):
            assert answer.status_code == 200 and len(answer.content) < 100
            assert "partywall" not in answer.headers.get("server", "").lower()


@pytest.mark.parametrize("model", ["sim-fast", "claude-fast"])
def test_answers_carry_no_header_but_those_of_the_list(acme, model):
    orders = ["Hi", "[[sim:fault=status:429]]", "[[sim:fault=status:400]]", "[[sim:fault=status:500]]", "[[sim:fault=echo_key]]"]
    for path in ("/v1/chat/completions", "/v1/messages"):
        for order in orders:
            for stream in (False, True):
                body = {"model": model, "max_tokens": 50, "stream": stream, "messages": user(order)}
                answer = acme.post(path, body)
                foreign = {name for name in answer.headers if name.lower() not in ANSWER_HEADERS}
                assert foreign == set(), (path, order, foreign)
                assert answer.headers["x-request-id"].startswith("req_") and "sim" not in answer.headers["x-request-id"]
                assert answer.headers.get("cache-control", "").find("no-") >= 0


@pytest.mark.parametrize(("model", "key"), [("sim-fast", OPERATOR_OPENAI_KEY), ("claude-fast", OPERATOR_ANTHROPIC_KEY)])
def test_a_key_that_the_provider_echoes_never_comes_back(acme, gw, model, key):
    for order in ("fault=echo_key", "fault=status:400 fault=echo_key", "fault=status:401 fault=echo_key",
                  "fault=status:500 fault=echo_key"):  # fmt: skip
        for stream in (False, True):
            answer = acme.chat(f"[[sim:{order}]]", model=model, stream=stream, max_tokens=50)
            assert key not in answer.text and key not in str(answer.headers)
    assert key not in gw.log_text() and key not in gw.output()


@pytest.mark.parametrize("model", ["sim-fast", "claude-fast"])
def test_nothing_of_the_client_goes_upstream_but_its_body(acme, sim, model):
    mark = sim.mark()
    headers = {
        "cookie": "session=private",
        "x-forwarded-for": "203.0.113.7",
        "user-agent": "secret-agent/7",
        "x-private": "private-value",
        "openai-organization": "org-private",
        "openai-project": "proj-private",
        "x-stainless-lang": "python",
        "referer": "https://private.example",
        "idempotency-key": "private-key",
        "anthropic-dangerous-direct-browser-access": "true",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    body = {"model": model, "max_tokens": 20, "messages": user("Hi")}
    assert acme.post("/v1/chat/completions", body, headers=headers).status_code == 200
    seen = sim.one_since(mark)["headers"]
    assert set(seen) <= UPSTREAM_HEADERS, set(seen) - UPSTREAM_HEADERS
    assert not any("private" in value or "secret-agent" in value or "python" in value for value in seen.values())
    assert acme.token not in json.dumps(seen) and "acme" not in json.dumps(seen)


@pytest.mark.parametrize("model", ["sim-fast", "claude-fast"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_redirect_is_not_followed_and_becomes_502(acme, sim, model, stream):
    mark = sim.mark()
    answer = acme.chat("[[sim:fault=redirect]]", model=model, stream=stream, max_tokens=20)
    assert answer.status_code == 502 and "location" not in answer.headers and "169.254" not in answer.text
    assert len(sim.since(mark)) == 1


@pytest.mark.parametrize("model", ["sim-fast", "claude-fast"])
@pytest.mark.parametrize("status", [401, 403, 402])
def test_a_refusal_of_our_own_key_is_502_and_not_the_clients_fault(acme, model, status):
    answer = acme.chat(f"[[sim:fault=status:{status}]]", model=model, max_tokens=20)
    assert answer.status_code == 502 and "key" not in answer.json()["error"]["message"].lower()


def test_an_answer_in_another_encoding_than_asked_for_is_502(acme):
    for stream in (False, True):
        assert acme.chat("[[sim:fault=gzip]]", stream=stream).status_code == 502


def test_the_providers_content_type_never_becomes_ours(acme):
    answer = acme.chat("[[sim:fault=content_type:text/html]]")
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.status_code == 502 or answer.json()["object"] == "chat.completion"


def test_a_line_without_end_of_the_provider_is_cut(acme):
    order = "[[sim:fault=long_line:8000000]]"
    body = {"model": "sim-fast", "stream": True, "messages": user(order)}
    received = b""
    try:
        with acme.gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=acme.bearer) as answer:
            for piece in answer.iter_raw():
                received += piece
    except httpx.TransportError:
        pass
    assert b"[DONE]" not in received and len(received) < 4_000_000


# Connections upstream.


def test_upstream_connections_are_reused(acme, sim):
    assert acme.chat().status_code == 200
    before = sim.stats()
    for n in range(200):
        body = {"model": "sim-fast", "messages": user("Hi"), "stream": n % 2 == 0}
        assert acme.post("/v1/chat/completions", body).status_code == 200
    after = sim.stats()
    assert after["requests"] - before["requests"] == 200
    # One of them is the connection over which this question was asked.
    assert after["connections"] - before["connections"] <= 5, (before, after)


def test_concurrent_calls_keep_their_answers_apart(gw, acme, globex, sim):
    failures: list[str] = []

    def ask(tenant, n: int):
        mine = f"nonce-{tenant.id}-{n}"
        stream = n % 2 == 0
        answer = tenant.chat(f"{mine} [[sim:chunks=20 gap=1ms]]" if n % 3 else mine, stream=stream)
        text = answer.text
        if stream:
            pieces = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
            text = "".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces)
        if answer.status_code != 200 or (n % 3 == 0 and mine not in text) or text.count("nonce-") > 1:
            failures.append(f"{mine}: {answer.status_code} {text[:200]}")

    threads = [threading.Thread(target=ask, args=(tenant, n)) for n in range(60) for tenant in (acme, globex)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
