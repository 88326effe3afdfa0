"""How each route is asked. A route of the table without a line here fails the suite by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

from deployment import ratecard
from samples import user
from wire import Answer, Ask

Values = dict[str, str]
"""A value for each object of a route, `prompt`: the text to say, with the canary of the one who asks, and `call`: one of the run's."""

JSON = (("content-type", "application/json"),)
PUBLIC, ADMIN = "public", "admin"
RPC = "RPC"
"""Stands in the table in place of an HTTP method, in the lines of the methods of JSON-RPC."""
ORIGIN = "https://console.two-tenants.example"
"""The one web page that the gateway of the suite lets in."""


@dataclass(frozen=True)
class Fixture:
    """One route: where it is served, what it refers to, and the requests that reach its handler."""

    method: str
    path: str
    listeners: tuple[str, ...]
    shapes: dict[str, Callable[[Values], Ask]]
    families: dict[str, str]
    success: int = 200
    # What a call says besides; these objects are not in the route table because the request cannot name a foreign one.
    own_objects: tuple[str, ...] = ()
    # The answer to a name outside the grammar of names, by the object, where it is not 404.
    of_no_name: dict[str, int] = field(default_factory=dict)
    # Whether a right call goes to the provider.
    upstream: bool = False
    # Whether a tenant that is frozen may ask.
    reads: bool | None = None
    # Whether what the request refers to is looked for at all.
    looks: bool = True

    @property
    def only_reads(self) -> bool:
        return self.method == "GET" if self.reads is None else self.reads

    @property
    def uses_up(self) -> bool:
        """Whether a right call may leave less behind than there was."""
        return not self.only_reads and bool({"secret", "session", "run", "file"} & set(self.families))

    def verdict(self, answer: Answer) -> int:
        """The status of an answer. A method of JSON-RPC says its own in the body: here it is the one that a route would have."""
        if self.method != RPC or answer.status != 200:
            return answer.status
        error = json.loads(answer.body).get("error")
        if error is None:
            return 200
        known = {"forbidden": 403, "tenant_frozen": 403, "tenant_suspended": 403, "invalid_api_key": 401, "not_found": 404}
        return known.get(error["data"]["code"], 500 if error["code"] == -32603 else 400)

    @property
    def key(self) -> tuple[str, str]:
        return self.method, self.path


def _call(path: str, headers=(), family: str = "chat model", **shapes: Callable[[Values], dict]) -> Fixture:
    def shape(body):
        return lambda values: Ask("POST", path, (*JSON, *headers), json.dumps({"model": values["model"], **body(values)}).encode())

    return Fixture("POST", path, (PUBLIC,), {name: shape(body) for name, body in shapes.items()}, {"model": family}, upstream=True)


def _get(path: str, *queries: str, listener: str = PUBLIC, **options) -> Fixture:
    def shape(query):
        return lambda values: Ask("GET", _filled(path, values) + _filled(query, values))

    families = options.pop("families", {})
    return Fixture("GET", path, (listener,), {query or "plain": shape(query) for query in queries or ("",)}, families, **options)


def _filled(template: str, values: Values) -> str:
    for name, value in values.items():
        template = template.replace(f"{{{name}}}", quote(value, safe=""))
    return template


def _operate(method: str, path: str, query: str = "", body=None, **options) -> Fixture:
    def shape(values: Values) -> Ask:
        content = None
        if body is not None:
            content = body if isinstance(body, str) else json.dumps(body(values))
        return Ask(method, _filled(path, values) + _filled(query, values), JSON if content else (), content and content.encode())

    families = options.pop("families", None) or {name: name for name in ("tenant", "token") if f"{{{name}}}" in path}
    return Fixture(method, path, (ADMIN,), {"plain": shape}, families, **options)


def message(method: str, params: dict | None = None, id: object = 1) -> dict:
    """A request of JSON-RPC."""
    return {"jsonrpc": "2.0", "id": id, "method": method} | ({} if params is None else {"params": params})


def _rpc(method: str, *params: Callable[[Values], dict], reads: bool = True, **options) -> Fixture:
    def shape(given):
        return lambda values: Ask("POST", "/rpc", JSON, json.dumps(message(method, given(values))).encode())

    shapes = {f"params {number}": shape(given) for number, given in enumerate(params or (lambda v: {},))}
    families = options.pop("families", {})
    return Fixture(RPC, f"/rpc#{method}", (PUBLIC,), shapes, families, reads=reads, **options)


def _session(method: str, **options) -> Fixture:
    """A method that takes a session and nothing else."""
    options.setdefault("families", {"session": "session"})
    return _rpc(method, lambda v: {"id": v["session"]}, **options)


NEW_FILE, FILE = {"file": "fresh file"}, {"file": "file"}
NEW_SESSION = {"session": "fresh session"}
RUN = {"run": "run"}
TOOL = {"type": "object", "properties": {"x": {"type": "string"}}}
TENANT = "/admin/v1/tenants/{tenant}"

FIXTURES = [
    _call(
        "/v1/chat/completions",
        plain=lambda v: {"messages": user(v["prompt"])},
        stream=lambda v: {"messages": user(v["prompt"]), "stream": True, "stream_options": {"include_usage": True}},
        tools=lambda v: {
            "messages": user(v["prompt"]),
            "tools": [{"type": "function", "function": {"name": "look", "parameters": TOOL}}],
            "tool_choice": "required",
        },
    ),
    _call(
        "/v1/messages",
        (("anthropic-version", "2023-06-01"),),
        plain=lambda v: {"max_tokens": 90, "messages": user(v["prompt"])},
        stream=lambda v: {"max_tokens": 90, "messages": user(v["prompt"]), "stream": True},
        tools=lambda v: {
            "max_tokens": 90,
            "messages": user(v["prompt"]),
            "tools": [{"name": "look", "input_schema": TOOL}],
            "tool_choice": {"type": "any"},
        },
    ),
    _call(
        "/v1/embeddings",
        family="embedding model",
        plain=lambda v: {"input": v["prompt"]},
        many=lambda v: {"input": [v["prompt"], "and more"], "encoding_format": "base64"},
    ),
    _get("/v1/models"),
    _get("/v1/models/{model}", families={"model": "listed model"}),
    _get("/tenant/v1/usage", "", "?detail=true", "?format=csv", "?detail=true&format=csv"),
    _get("/tenant/v1/quota"),
    _get("/tenant/v1/config"),
    _get("/tenant/v1/audit", "", "?limit=1000", "?from=3&limit=2"),
    _get("/tenant/v1/audit/{seq}/content", families={"seq": "kept entry"}),
    # Without the headers of an opening there is no WebSocket; what one says is asked by POST, and in test_rpc_socket.py.
    _get("/rpc", success=400),
    Fixture(
        "POST",
        "/rpc",
        (PUBLIC,),
        {"plain": lambda v: Ask("POST", "/rpc", JSON, json.dumps(message("health")).encode())},
        {},
        reads=True,
    ),
    _rpc("health"),
    _rpc("rpc.discover"),
    _rpc("tenant.get"),
    _rpc("tenant.usage", lambda v: {}, lambda v: {"from": "2026-01-01", "to": "2099-12-31"}),
    _rpc("tenant.quota"),
    # Whoever may rotate would be locked out of the rest of the suite: it gets as far as the params.
    _rpc("tenant.rotate", lambda v: {"grace": "soon"}, reads=False, success=400),
    _rpc("config.get"),
    _rpc("config.schema"),
    _rpc("secrets.set", lambda v: {"name": "matrix", "value": v["prompt"]}, reads=False),
    _rpc("secrets.list"),
    _rpc("secrets.delete", lambda v: {"name": v["secret"]}, families={"secret": "secret"}, of_no_name={"secret": 400}, reads=False),
    _rpc("policy.get"),
    # A document that is none: who is let in is told so, and nothing changes.
    _rpc("policy.set", lambda v: {"document": "rules: x"}, reads=False, success=400),
    _rpc("policy.test", lambda v: {"document": "policy: ''"}),
    _rpc("audit.query", lambda v: {}, lambda v: {"limit": 1000}, lambda v: {"from": 3, "limit": 2, "decision": "allow"}),
    _rpc("audit.checkpoint"),
    # They live on a socket.
    _rpc("audit.subscribe", lambda v: {"from": 0}, success=400),
    _rpc("audit.unsubscribe", lambda v: {"subscription": "audit-1"}, success=400),
    _rpc("agents.list"),
    _rpc("agents.get", lambda v: {"name": v["agent"]}, families={"agent": "agent"}),
    _rpc("agents.set", lambda v: {"name": "matrix", "instructions": v["prompt"]}, reads=False),
    _rpc("tools.list"),
    _rpc("sessions.create", lambda v: {"model": "sim-fast", "title": v["prompt"]}, reads=False),
    _rpc("sessions.list", lambda v: {}, lambda v: {"limit": 2, "before": "2099-01-01T00:00:00Z"}),
    _session("sessions.get"),
    _rpc("sessions.send", lambda v: {"id": v["session"], "message": v["prompt"]}, families=NEW_SESSION, reads=False, upstream=True),
    _session("sessions.abort", families=NEW_SESSION, reads=False),
    _session("sessions.reset", families=NEW_SESSION, reads=False),
    # In a new one there is nothing to sum up.
    _session("sessions.compact", families=NEW_SESSION, reads=False, success=400),
    _session("sessions.delete", families=NEW_SESSION, reads=False),
    # They live on a socket: test_runs.py asks for them there.
    _session("sessions.subscribe", success=400, looks=False),
    _rpc("sessions.unsubscribe", lambda v: {"subscription": "session-1"}, success=400),
    _rpc("chat.send", lambda v: {"id": v["session"], "message": v["prompt"]}, families=NEW_SESSION, reads=False, upstream=True),
    _session("chat.history"),
    _session("chat.abort", families=NEW_SESSION, reads=False),
    _rpc("runs.list", lambda v: {}, lambda v: {"limit": 200}),
    _rpc("runs.get", lambda v: {"id": v["run"]}, families=RUN),
    # It has ended, and its call waits for nobody.
    _rpc("runs.cancel", lambda v: {"id": v["run"]}, families=RUN, reads=False, success=400),
    _rpc("runs.approve", lambda v: {"id": v["run"], "call": v["call"]}, families=RUN, reads=False, success=400),
    _rpc("runs.deny", lambda v: {"id": v["run"], "call": v["call"]}, families=RUN, reads=False, success=400),
    _rpc("files.list", lambda v: {}, lambda v: {"depth": 3}, reads=False),
    # A path that leaves the workspace is wrong in itself.
    _rpc("files.read", lambda v: {"path": v["file"]}, families=FILE, of_no_name={"file": 400}, reads=False),
    _rpc("files.write", lambda v: {"path": "matrix.txt", "text": "x"}, reads=False),
    _rpc("files.delete", lambda v: {"path": v["file"]}, families=NEW_FILE, of_no_name={"file": 400}, reads=False),
    _rpc("ticket.issue", lambda v: {"origin": ORIGIN}),
    Fixture("GET", "/healthz", (PUBLIC, ADMIN), {"plain": lambda v: Ask("GET", "/healthz")}, {}),
    Fixture("GET", "/readyz", (PUBLIC, ADMIN), {"plain": lambda v: Ask("GET", "/readyz")}, {}),
    _operate("GET", "/admin/v1/tenants"),
    _operate(
        "POST",
        "/admin/v1/tenants",
        body=lambda v: {"id": v["new"], "tier": "standard"},
        families={"new": "new tenant"},
        own_objects=("new",),
        success=201,
    ),
    _operate("GET", TENANT),
    # The confirmation is read first, and is wrong in itself.
    _operate("DELETE", TENANT, query="?confirm={tenant}", of_no_name={"tenant": 400}),
    _operate("POST", TENANT + "/suspend"),
    _operate("POST", TENANT + "/freeze"),
    _operate("POST", TENANT + "/resume"),
    _operate("GET", TENANT + "/quota"),
    # The scope of a limit is read with the body, before anybody is looked for.
    _operate(
        "PATCH",
        TENANT + "/quota",
        body=lambda v: {"scope": f"token:{v['token']}", "requests_per_day": 100000},
        families={"tenant": "tenant", "token": "token"},
        of_no_name={"token": 400},
    ),
    _operate("GET", TENANT + "/tokens"),
    _operate("POST", TENANT + "/tokens", body=lambda v: {"name": "matrix", "role": "app"}, success=201),
    _operate("DELETE", TENANT + "/tokens/{token}"),
    _operate("POST", TENANT + "/tokens/{token}/rotate"),
    _get("/admin/v1/usage", "?tenant={tenant}", "?detail=true&tenant={tenant}", listener=ADMIN, families={"tenant": "tenant"}),
    _operate("GET", "/admin/v1/ratecards"),
    _operate("POST", "/admin/v1/ratecards", query="?name=e2e", body=ratecard()),
    _operate("GET", "/admin/v1/providers"),
]
BY_ROUTE = {fixture.key: fixture for fixture in FIXTURES}


def gaps(routes: list[dict]) -> list[str]:
    """What the table and the fixtures lack of each other, each by the name of its route."""
    found = []
    served: dict[tuple[str, str], list[dict]] = {}
    for route in routes:
        name = f"{route.get('method')} {route.get('path')}"
        if not all(isinstance(route.get(member), str) and route[member] for member in ("method", "path", "access")):
            found.append(f"{name}: method, path and access are text")
        if not isinstance(route.get("objects"), list):
            found.append(f"{name}: objects is not listed")
        served.setdefault((route.get("method"), route.get("path")), []).append(route)
    for (method, path), lines in served.items():
        name, fixture = f"{method} {path}", BY_ROUTE.get((method, path))
        if fixture is None:
            found.append(f"{name}: has no fixture in route_fixtures.py")
            continue
        if len(lines) != len(fixture.listeners):
            found.append(f"{name}: {len(lines)} lines in the table for {len(fixture.listeners)} listeners")
        for line in lines:
            found += [f"{name}: {problem}" for problem in _access_gaps(line.get("access") or "", fixture)]
            listed = set(line.get("objects") or [])
            found += [f"{name}: no references for {kind}" for kind in sorted(listed - set(fixture.families))]
            unlisted = set(fixture.families) - listed - set(fixture.own_objects)
            found += [f"{name}: refers to {kind}, which its objects do not list" for kind in sorted(unlisted)]
    found += [f"{method} {path}: has a fixture and no route" for method, path in BY_ROUTE if (method, path) not in served]
    return found


def _access_gaps(access: str, fixture: Fixture) -> list[str]:
    kind, _, roles = access.partition(":")
    known = {"admin", "member", "app", "readonly", "auditor"}
    if kind == "tenant":
        wrong = set(roles.split(",")) - known
        return [f"access {access!r} names {sorted(wrong)}"] * bool(wrong) + ["is not on the public listener"] * (
            fixture.listeners != (PUBLIC,)
        )
    if access == "operator":
        return ["is not on the admin listener"] * (fixture.listeners != (ADMIN,))
    return [] if access == "public" else [f"access {access!r} is not known"]
