"""JSON-RPC on a WebSocket: who opens one, what it is sent, and how it is cut."""

from __future__ import annotations

import contextlib
import json
import socket as sockets
import struct
import time
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from deployment import Gateway, default_config, eventually, raw_connection
from route_fixtures import BY_ROUTE, RPC, message
from rpc_client import PROTOCOL, ask, bearer, call, event, post, refused, result, socket

ORIGIN, OTHER = "https://console.example.com", "https://other.example.com"
TICKET = "partywall.ticket."


@pytest.fixture(scope="module")
def gw(sim):
    gateway = Gateway(sim, default_config(sim) | {"origins": [ORIGIN, OTHER]})
    try:
        yield gateway.start()
    finally:
        gateway.close()


@pytest.fixture
def tenant(gw):
    return gw.tenant()


def opening(gw, **headers: str) -> bytes:
    head = {
        "host": "localhost",
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in {**head, **headers}.items() if value]
    return "\r\n".join(["GET /rpc HTTP/1.1", *lines, "", ""]).encode()


def status(gw, **options) -> int:
    """What an opening is answered with when it is refused; 101 otherwise."""
    try:
        with socket(gw, options.pop("token", None), **options):
            return 101
    except InvalidStatus as refusal:
        return refusal.response.status_code


def cut(ws, seconds: float = 5) -> tuple[int, str]:
    """Code and reason of the end that comes within this time."""
    deadline = time.monotonic() + seconds
    try:
        while True:
            ws.recv(max(0.01, deadline - time.monotonic()))
    except ConnectionClosed as closed:
        assert closed.rcvd, f"cut without a word: {closed}"
        return closed.rcvd.code, closed.rcvd.reason


def places(gw, tenant) -> int:
    """Sockets that the token may open at the moment."""
    with ExitStack() as stack:
        for count in range(40):
            try:
                stack.enter_context(socket(gw, tenant.token))
            except InvalidStatus as refusal:
                assert refusal.response.status_code == 503 and b"tenant_busy" in refusal.response.body
                return count
    raise AssertionError("no limit")


# Opening.


def test_calls_and_batches_are_answered(gw, tenant):
    with socket(gw, tenant.token) as ws:
        assert ws.subprotocol == PROTOCOL
        assert ask(ws, "tenant.get")["result"]["id"] == tenant.id
        ws.send(json.dumps([message("health", id=1), {"jsonrpc": "2.0", "method": "health"}, message("nothing", id=2)]))
        told = json.loads(ws.recv(5))
        assert [one["id"] for one in told] == [1, 2]
        for wrong in ("{", "[]", '{"a":1,"a":2}', "[" * 500, ""):
            ws.send(wrong)
            assert json.loads(ws.recv(5))["id"] is None
        assert ask(ws, "health", id="still there")["result"]["status"] == "ok"


def test_every_header_of_a_credential_opens_one_and_two_do_not(gw, tenant):
    for header in ("x-api-key", "api-key", "x-goog-api-key"):
        assert status(gw, additional_headers={header: tenant.token}) == 101
    assert status(gw, additional_headers={**bearer(tenant.token), "x-api-key": tenant.token}) == 400
    assert status(gw) == status(gw, token="tk_nobody_" + "0" * 32) == 401
    assert status(gw, additional_headers={"cookie": f"token={tenant.token}"}) == 401
    assert status(gw, subprotocols=[tenant.token]) == status(gw, subprotocols=[PROTOCOL, f"bearer.{tenant.token}"]) == 401


def test_a_token_in_the_url_is_refused(gw, tenant):
    with raw_connection(gw) as connection:
        request = opening(gw, authorization=f"Bearer {tenant.token}").replace(b"GET /rpc", f"GET /rpc?token={tenant.token}".encode())
        connection.sendall(request)
        assert connection.recv(4_096).startswith(b"HTTP/1.1 400")


def test_what_is_no_whole_opening_is_refused(gw, tenant):
    for name, value in {"upgrade": "h2c", "sec_websocket_version": "12", "sec_websocket_key": "x", "connection": "close"}.items():
        for wrong in (value, ""):
            if name == "connection" and not wrong:
                continue
            with raw_connection(gw) as connection:
                connection.sendall(opening(gw, authorization=f"Bearer {tenant.token}", **{name.replace("_", "-"): wrong}))
                assert connection.recv(4_096).startswith(b"HTTP/1.1 400"), (name, wrong)


def test_a_page_of_another_origin_opens_nothing(gw, tenant):
    """CVE-2026-25253: no check of the origin."""
    for origin in ("https://evil.example", "null", "https://console.example.com.evil.example", f"{ORIGIN}:444", ORIGIN.upper(),
                   f"http://{gw.host}:{gw.port}", "http://localhost", f"{ORIGIN}/"):  # fmt: skip
        assert status(gw, token=tenant.token, origin=origin) == 403, origin
    assert status(gw, token=tenant.token, origin=ORIGIN) == status(gw, token=tenant.token) == 101


# Tickets.


def ticket(gw, token: str, origin: str = ORIGIN) -> str:
    return result(gw, token, "ticket.issue", {"origin": origin})["protocol"]


def test_a_ticket_opens_one_socket_of_its_own_page(gw, tenant):
    one = ticket(gw, tenant.token)
    with socket(gw, None, origin=ORIGIN, subprotocols=[PROTOCOL, one]) as ws:
        # The ticket is not repeated in the answer.
        assert ws.subprotocol == PROTOCOL
        assert ask(ws, "tenant.get")["result"]["id"] == tenant.id
        assert status(gw, origin=ORIGIN, subprotocols=[PROTOCOL, one]) == 401, "a replay"
    assert one not in gw.log_text()


def test_a_ticket_that_was_shown_elsewhere_is_used_up(gw, tenant):
    for wrong in ({"origin": OTHER}, {}):
        one = ticket(gw, tenant.token)
        assert status(gw, subprotocols=[PROTOCOL, one], **wrong) == 401
        assert status(gw, origin=ORIGIN, subprotocols=[PROTOCOL, one]) == 401
    foreign = ticket(gw, tenant.token)
    assert status(gw, origin="https://evil.example", subprotocols=[PROTOCOL, foreign]) == 403
    for text in ("", "0" * 64, "x" * 5_000, tenant.token):
        assert status(gw, origin=ORIGIN, subprotocols=[PROTOCOL, TICKET + text]) == 401


def test_a_ticket_is_no_second_credential(gw, tenant):
    pair = [PROTOCOL, ticket(gw, tenant.token)]
    assert status(gw, token=tenant.token, origin=ORIGIN, subprotocols=pair) == 400
    two = [ticket(gw, tenant.token), ticket(gw, tenant.token)]
    assert status(gw, origin=ORIGIN, subprotocols=[PROTOCOL, *two]) == 400
    bare = pair[1].removeprefix(TICKET)
    assert status(gw, token=bare) == 401 and post(gw, bare, message("health")).status_code == 401


def test_a_ticket_is_worth_what_its_token_is_worth_by_then(gw, tenant):
    other = gw.tenant()
    theirs = ticket(gw, other.token)
    app = gw.issue(tenant, "short-lived", "app")
    ended = ticket(gw, app)
    kept = ticket(gw, gw.issue(tenant, "kept", "app"))
    gw.json("tenants", "token", "revoke", tenant.id, "short-lived")
    assert status(gw, origin=ORIGIN, subprotocols=[PROTOCOL, ended]) == 401
    with socket(gw, None, origin=ORIGIN, subprotocols=[PROTOCOL, kept]) as ws:
        assert ask(ws, "tenant.get")["result"]["caller"]["role"] == "app"
        assert refused(ask(ws, "secrets.list")) == (-32003, "forbidden")
    with socket(gw, None, origin=ORIGIN, subprotocols=[PROTOCOL, theirs]) as ws:
        assert ask(ws, "tenant.get")["result"]["id"] == other.id


def test_a_page_gets_tickets_for_itself_only(gw, tenant):
    told = call(gw, tenant.token, "ticket.issue", {"origin": OTHER}, origin=ORIGIN)
    assert refused(told) == (-32000, "origin_not_allowed")


def test_a_page_turns_its_ticket_into_nothing_that_lives_longer(gw, tenant):
    with socket(gw, None, origin=ORIGIN, subprotocols=[PROTOCOL, ticket(gw, tenant.token)]) as ws:
        for method, params in [("tenant.rotate", {}), ("tenant.rotate", {"all": True}), ("ticket.issue", {"origin": ORIGIN})]:
            assert ask(ws, method, params)["error"]["data"]["code"] == "forbidden", method
        assert ask(ws, "tenant.get")["result"]["id"] == tenant.id


def test_of_too_many_tickets_the_oldest_give_way(gw, tenant):
    made = [ticket(gw, tenant.token) for _ in range(20)]
    assert [status(gw, origin=ORIGIN, subprotocols=[PROTOCOL, one]) for one in (made[0], made[3])] == [401, 401]
    assert [status(gw, origin=ORIGIN, subprotocols=[PROTOCOL, one]) for one in (made[4], made[19])] == [101, 101]


# The end of a credential.


@pytest.mark.parametrize("how", ["revoke", "rotate", "suspend", "delete"])
def test_the_end_of_a_credential_cuts_its_sockets_within_a_second(gw, how):
    tenant = gw.tenant()
    token = gw.issue(tenant, "ci", "auditor")
    with socket(gw, token) as ws, socket(gw, token) as listening:
        assert "result" in ask(ws, "health") and "result" in ask(listening, "audit.subscribe")
        commands = {
            "revoke": ("tenants", "token", "revoke", tenant.id, "ci"),
            "rotate": ("tenants", "token", "rotate", tenant.id, "--name", "ci"),
            "suspend": ("tenants", "suspend", tenant.id),
            "delete": ("tenants", "delete", tenant.id, "--confirm", tenant.id),
        }
        gw.cli(*commands[how], check=True)
        begun = time.monotonic()
        assert cut(ws) == cut(listening) == (4401, "credential_ended")
        assert time.monotonic() - begun < 1


def test_a_rotation_on_a_socket_is_answered_before_the_socket_ends(gw, tenant):
    for _ in range(5):
        with socket(gw, tenant.token) as ws, socket(gw, tenant.token) as other:
            tenant.token = ask(ws, "tenant.rotate")["result"]["tokens"][0]["token"]
            assert cut(ws, 1) == cut(other, 1) == (4401, "credential_ended")
    assert "result" in call(gw, tenant.token, "health")


def test_a_freeze_leaves_a_socket_reading(gw, tenant):
    with socket(gw, tenant.token) as ws:
        gw.json("tenants", "freeze", tenant.id)
        assert ask(ws, "tenant.get")["result"]["status"] == "frozen"
        assert refused(ask(ws, "secrets.set", {"name": "a", "value": "b"})) == (-32000, "tenant_frozen")
        gw.json("tenants", "resume", tenant.id)
        assert ask(ws, "secrets.set", {"name": "a", "value": "b"})["result"] == {"done": True}


def test_a_stopping_gateway_says_so(sim):
    gateway = Gateway(sim)
    try:
        tenant = gateway.start().tenant()
        with socket(gateway, tenant.token) as ws:
            assert "result" in ask(ws, "health")
            begun = time.monotonic()
            assert gateway.stop() == 0 and time.monotonic() - begun < 5
            assert cut(ws) == (1012, "shutting_down")
    finally:
        gateway.close()


# Subscriptions.


def test_new_entries_come_and_a_broken_subscription_goes_on_where_it_was(gw, tenant):
    with socket(gw, tenant.token) as ws:
        begun = ask(ws, "audit.subscribe")["result"]
        assert begun["next"] == result(gw, tenant.token, "audit.query")["length"]
        for number in range(3):
            result(gw, tenant.token, "secrets.set", {"name": f"s{number}", "value": "x"})
        seen = [event(ws) for _ in range(3)]
        assert [one["seq"] for one in seen] == [begun["next"] + number for number in range(3)]
        assert [one["entry"]["detail"]["name"] for one in seen] == ["s0", "s1", "s2"]
        assert all(one["subscription"] == begun["subscription"] and one["entry"]["seq"] == one["seq"] for one in seen)
    result(gw, tenant.token, "secrets.set", {"name": "between", "value": "x"})
    with socket(gw, tenant.token) as ws:
        assert ask(ws, "audit.subscribe", {"from": seen[-1]["seq"] + 1})["result"]["next"] == seen[-1]["seq"] + 1
        assert event(ws)["entry"]["detail"]["name"] == "between"
        result(gw, tenant.token, "secrets.set", {"name": "after", "value": "x"})
        assert event(ws)["entry"]["detail"]["name"] == "after"
    log = tenant.audit()
    with socket(gw, tenant.token) as ws:
        ask(ws, "audit.subscribe", {"from": 0})
        assert [event(ws)["entry"] for _ in log] == log


def test_subscriptions_are_of_their_socket_and_bounded(gw, tenant):
    with socket(gw, tenant.token) as ws, socket(gw, tenant.token) as other:
        names = [ask(ws, "audit.subscribe")["result"]["subscription"] for _ in range(4)]
        assert len(set(names)) == 4
        assert refused(ask(ws, "audit.subscribe")) == (-32000, "too_many_subscriptions")
        assert refused(ask(other, "audit.unsubscribe", {"subscription": names[0]})) == (-32004, "not_found")
        for name in names[1:]:
            assert ask(ws, "audit.unsubscribe", {"subscription": name})["result"] == {"done": True}
        assert refused(ask(ws, "audit.unsubscribe", {"subscription": names[1]})) == (-32004, "not_found")
        result(gw, tenant.token, "secrets.set", {"name": "a", "value": "x"})
        told = []
        with contextlib.suppress(TimeoutError):
            while True:
                told.append(event(ws, 1))
        assert [one["subscription"] for one in told if one["entry"]["action"] == "secret.set"] == [names[0]]


def test_a_subscriber_sees_its_own_tenant_only(gw, tenant):
    other = gw.tenant()
    with socket(gw, tenant.token) as ws, socket(gw, other.token) as theirs:
        ask(ws, "audit.subscribe", {"from": 0}), ask(theirs, "audit.subscribe", {"from": 0})
        for number in range(3):
            result(gw, tenant.token, "secrets.set", {"name": f"mine-{number}", "value": "x"})
            result(gw, other.token, "secrets.set", {"name": f"theirs-{number}", "value": "x"})
        for socket_of, owner, word, foreign in ((ws, tenant, "mine-2", "theirs"), (theirs, other, "theirs-2", "mine")):
            text = ""
            while word not in text:
                one = event(socket_of)
                text += json.dumps(one)
                assert one["entry"]["tenant"] == owner.id
            assert foreign not in text


def test_who_may_not_read_the_log_gets_no_events(gw, tenant):
    for role in ("member", "app", "readonly"):
        with socket(gw, gw.issue(tenant, f"a-{role}", role)) as ws:
            assert refused(ask(ws, "audit.subscribe")) == (-32003, "forbidden")


def test_a_slow_consumer_is_cut_with_a_reason_and_costs_little(gw, tenant):
    """It asks for much and takes nothing: what waits for it is bounded, and it goes."""
    for number in range(60):
        # Ten refusals of a second are entries; a long name makes them large.
        tenant.chat(model=f"absent-{number}-" + "x" * 240)
        if number % 10 == 9:
            time.sleep(1)
    before = memory(gw)
    request = masked(json.dumps(message("audit.query", {"limit": 1000})).encode())
    with slow_connection(gw, tenant) as connection:
        # As many as are read before the answers stand in the way: each is far larger than its question.
        for _ in range(300):
            connection.sendall(request)
            time.sleep(0.02)
            if reasons(gw, tenant):
                break
        eventually(lambda: reasons(gw, tenant) == ["slow_consumer"], 15, "the cut")
        assert memory(gw) - before < 48 << 20
        # What the system still held for it ends with the reason.
        connection.settimeout(5)
        received = b""
        try:
            while piece := connection.recv(1 << 16):
                received = (received + piece)[-4_096:]
        except (TimeoutError, ConnectionResetError):
            pass
    assert "result" in call(gw, tenant.token, "health")
    print("the reason reached the client:", b"slow_consumer" in received)


def slow_connection(gw, tenant):
    connection = sockets.socket()
    connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
    connection.connect((gw.host, gw.port))
    connection.sendall(opening(gw, authorization=f"Bearer {tenant.token}"))
    assert connection.recv(4_096).startswith(b"HTTP/1.1 101")
    return connection


def masked(payload: bytes, opcode: int = Opcode.TEXT) -> bytes:
    return Frame(opcode, payload).serialize(mask=True)


def reasons(gw, tenant) -> list[str]:
    return [line["reason"] for line in gw.log() if line["event"] == "rpc socket cut" and line["tenant"] == tenant.id]


def memory(gw) -> int:
    with open(f"/proc/{gw.pid}/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmRSS"))


# Hostile clients.


def test_a_flood_of_calls_is_refused_and_a_flood_of_frames_is_cut(gw, tenant):
    with socket(gw, tenant.token) as ws:
        for number in range(200):
            ws.send(json.dumps(message("health", id=number)))
        told = [json.loads(ws.recv(10)) for _ in range(200)]
        limited = [one for one in told if "error" in one]
        assert 0 < len(limited) <= 100 and {refused(one) for one in limited} == {(-32029, "rate_limited")}


@pytest.mark.parametrize("kind", ["pings", "notifications", "pongs"])
def test_who_floods_is_cut(gw, tenant, kind):
    frames = {
        "pings": masked(b"x" * 100, Opcode.PING),
        "pongs": masked(b"", Opcode.PONG),
        "notifications": masked(b'{"jsonrpc":"2.0","method":"health"}'),
    }
    with raw_connection(gw) as connection:
        connection.sendall(opening(gw, authorization=f"Bearer {tenant.token}"))
        assert connection.recv(4_096).startswith(b"HTTP/1.1 101")
        flood(connection, frames[kind] * 100, 200)
        # While it is open: a client that resets takes back what was not read of it.
        assert eventually(lambda: reasons(gw, tenant), 5, "the cut") == ["too_many_frames"]
    assert "result" in call(gw, tenant.token, "health")


def flood(connection, piece: bytes, times: int) -> None:
    connection.settimeout(5)
    try:
        for _ in range(times):
            connection.sendall(piece)
    except (BrokenPipeError, ConnectionResetError, TimeoutError):
        pass


def test_a_frame_of_100_megabytes_is_not_read(gw, tenant):
    before = memory(gw)
    with raw_connection(gw) as connection:
        connection.sendall(opening(gw, authorization=f"Bearer {tenant.token}"))
        assert connection.recv(4_096).startswith(b"HTTP/1.1 101")
        connection.sendall(struct.pack("!BBQ", 0x81, 0xFF, 100 << 20) + b"\0\0\0\0")
        flood(connection, b"x" * (1 << 20), 100)
        assert eventually(lambda: reasons(gw, tenant), 5, "the cut") == ["message_too_large"]
    assert memory(gw) - before < 16 << 20
    with socket(gw, tenant.token) as ws:
        ws.send("x" * (512 * 1024 + 1))
        assert cut(ws) == (1009, "message_too_large")
    with socket(gw, tenant.token) as ws:
        # In pieces, which together are too large.
        with pytest.raises(ConnectionClosed):
            ws.send("x" * 65_536 for _ in range(12))
            ws.recv(5)


def test_what_is_no_text_ends_the_socket(gw, tenant):
    with socket(gw, tenant.token) as ws:
        ws.send(b'{"jsonrpc":"2.0","id":1,"method":"health"}')
        assert cut(ws) == (1003, "text_only")
    for raw, code in ((masked(b"\xff\xfe"), 1007), (masked(b"{}")[:1] + b"\x02{}", 1002), (b"\xf1\x80\0\0\0\0", 1002), (b"\x83\x80\0\0\0\0", 1002)):
        with raw_connection(gw) as connection:
            connection.sendall(opening(gw, authorization=f"Bearer {tenant.token}"))
            assert connection.recv(4_096).startswith(b"HTTP/1.1 101")
            connection.sendall(raw)
            connection.settimeout(5)
            answer = connection.recv(4_096)
            assert answer[0] == 0x88 and struct.unpack("!H", answer[2:4])[0] == code, (raw, answer)


def test_openings_that_are_left_give_their_places_back(gw, tenant):
    limit = places(gw, tenant)
    assert limit == 16
    for number in range(60):
        with raw_connection(gw) as connection:
            connection.sendall(opening(gw, authorization=f"Bearer {tenant.token}"))
            if number % 2:
                connection.recv(4_096)
            if number % 3 == 0:
                connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(0.02)
    time.sleep(1)
    assert places(gw, tenant) == limit


def test_a_socket_that_says_nothing_is_kept_while_it_answers_pings(gw, tenant):
    with socket(gw, tenant.token, ping_interval=None) as ws:
        time.sleep(2)
        assert "result" in ask(ws, "health")


# The registry.


def test_every_method_answers_alike_by_post_and_on_a_socket(gw):
    """Each line of the table, with the params of its fixture, as each role: the same outcome, two tenants."""
    sides = [gw.tenant(), gw.tenant()]
    values = dict.fromkeys(("secret", "agent", "session", "run", "call", "file"), "absent") | {"prompt": "x"}
    rows = [route for route in gw.json("routes") if route["method"] == RPC]
    assert len(rows) >= 16
    for tenant in sides:
        for role in ("admin", "member", "app", "readonly", "auditor"):
            token = gw.issue(tenant, f"as-{role}", role)
            with socket(gw, token) as ws:
                for row in rows:
                    fixture = BY_ROUTE[RPC, row["path"]]
                    said = json.loads(next(iter(fixture.shapes.values()))(values).body)
                    if said["method"] == "ticket.issue":
                        said["params"]["origin"] = ORIGIN
                    outcomes = {
                        "post": outcome(call(gw, token, said["method"], said["params"])),
                        "socket": outcome(ask(ws, said["method"], said["params"])),
                    }
                    allowed = role in row["access"].removeprefix("tenant:").split(",")
                    assert (outcomes["socket"] == "forbidden") == (not allowed), (row, role, outcomes)
                    if not said["method"].endswith("subscribe"):
                        assert outcomes["post"] == outcomes["socket"], (row, role)
            time.sleep(0.3)
    other = [side.id for side in sides]
    for tenant, foreign in zip(sides, reversed(other), strict=True):
        assert foreign not in json.dumps(result(gw, tenant.token, "audit.query", {"limit": 1000}))


def outcome(told: dict) -> str:
    return told["error"]["data"]["code"] if "error" in told else "result"


def test_nothing_of_all_this_was_a_fault_of_ours(gw):
    assert not [line for line in gw.log() if "panic" in line["event"] or line.get("code") == "internal_error"]
