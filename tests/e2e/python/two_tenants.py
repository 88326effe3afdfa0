"""Two tenants with a canary in every store, everybody who may knock, and everything that a route can refer to."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from canary import Scan, canary
from conversations import KINDS, TALKERS, Talks
from deployment import OPERATOR_ANTHROPIC_KEY, OPERATOR_OPENAI_KEY, Gateway, Simulator, Tenant, default_config, eventually
from route_fixtures import ORIGIN, Fixture
from samples import user
from wire import Answer, Ask, Wire

ROLES = ("admin", "member", "app", "readonly", "auditor")
PROBE = "the matrix asks"
"""Stands in every prompt of the matrix, before the canary of the one who asks."""


@dataclass(frozen=True)
class Credential:
    """Somebody who knocks. `kind` decides what the answer must be; `viewer` is the tenant whose eyes read it, None for strangers."""

    name: str
    kind: str  # right, suspended, frozen, operator, wrong, two, url
    headers: tuple[tuple[str, str], ...] = ()
    viewer: str | None = None
    role: str | None = None
    query: str = ""


@dataclass(frozen=True)
class Reference:
    """One value for one object of a route. A callable makes a fresh object for each case that may use it up."""

    kind: str  # own, foreign, absent
    variant: str
    value: str | Callable[[], str]

    @property
    def label(self) -> str:
        return f"{self.kind}:{self.variant}"


@dataclass
class Side:
    """One of the two tenants, its canaries, and the names of its objects."""

    tenant: Tenant
    marks: dict[str, str]
    chat_model: str
    embedding_model: str
    task: str
    embedding_task: str
    # A model that nobody ever asks for: it is seen in this tenant's own list, or it has leaked.
    quiet_model: str
    token_name: str = ""
    tokens: dict[str, str] = field(default_factory=dict)
    request_ids: set[str] = field(default_factory=set)
    # Places in the log where the content of a call is kept; the last one that was there when the asking began.
    kept: set[int] = field(default_factory=set)
    length: int = 0
    # A secret that no other tenant has one of the name of.
    secret: str = ""
    talks: Talks | None = None

    @property
    def id(self) -> str:
        return self.tenant.id


MARKS = (
    "prompt", "system", "streamed", "argument", "tool result", "tool description", "embedded", "other dialect", "person",
    "refused", "asked model", "overlay", "task", "token name", "provider key", "matrix", "instructions", "conversation",
    "file",
)  # fmt: skip
# The operator manages names; what is said and what is sealed is not for the operator's eyes.
FOR_THE_OPERATOR = {"token name", "asked model"}


def unlike(text: str) -> str:
    """A name that nobody has, of the same length and shape."""
    return text[:-16] + secrets.token_hex(8)


class World:
    def __init__(self, sim: Simulator):
        self.sim = sim
        self.nicknames = {name: f"{name}-{secrets.token_hex(8)}" for name in ("alder", "birch", "cedar", "dodo", "elder")}
        self._models = {name: f"{kind}-{secrets.token_hex(8)}" for name, kind in _model_kinds()}
        self.gw = Gateway(sim, self._config())
        self.spares: set[str] = set()
        self._numbers = iter(range(1, 1_000_000))

    def _config(self) -> dict:
        config = default_config(self.sim)
        upstream = {"chat": ("sim-openai", "sim-fast"), "embedding": ("sim-openai", "sim-embed"), "quiet": ("sim-openai", "sim-fast")}
        for (side, kind), name in self._models.items():
            provider, model = upstream[kind]
            config["models"].append({"name": name, "routes": [{"provider": provider, "model": model, "weight": 1}]})
        for side in ("alder", "birch"):
            own = [name for (whose, _), name in self._models.items() if whose == side]
            shown = ["sim-fast", "sim-embed", "claude-fast", *own]
            # What is said in calls is kept, sealed: one more store that must stay apart.
            config["tiers"][side] = {"models": shown, "model": "sim-fast", "audit_level": "full"}
        config["origins"] = [ORIGIN]
        # Who is frozen sees what the first one sees, but for what would betray it.
        shown = [name for (whose, kind), name in self._models.items() if whose == "alder" and kind != "quiet"]
        shown = ["sim-fast", "sim-embed", "claude-fast", *shown]
        config["tiers"]["elder"] = {"models": shown, "model": "sim-fast", "audit_level": "full"}
        return config

    def build(self) -> World:
        self.gw.start()
        self.public, self.admin = Wire(self.gw.url), Wire(self.gw.admin_url)
        self.a, self.b = (self._side(name) for name in ("alder", "birch"))
        self.sides = {self.a.id: self.a, self.b.id: self.b}
        self.suspended = self.gw.tenant(self.nicknames["cedar"])
        self.deleted = self.gw.tenant(self.nicknames["dodo"])
        self.frozen = self.gw.tenant(self.nicknames["elder"], tier="elder")
        assert self.deleted.chat().status_code == 200
        self._credentials()
        # The logs are not in step: one has content where the other has none.
        self.gw.issue(self.b.tenant, "out-of-step", "readonly")
        for side in self.sides.values():
            self._plant(side)
        for side in self.sides.values():
            log = side.tenant.audit()
            side.kept, side.length = {entry["seq"] for entry in log if entry.get("content")}, len(log)
        self._keep_at(self.frozen, min(self.a.kept))
        for side in self.sides.values():
            tokens = {role: side.tokens[role] for role in TALKERS}
            side.talks = self._talks(tokens, *(side.marks[kind] for kind in ("instructions", "conversation", "file")))
        self.frozen_talks = self._talks({"admin": self.frozen.token}, canary(), canary(), canary())
        self.gw.json("tenants", "suspend", self.suspended.id)
        self.gw.json("tenants", "freeze", self.frozen.id)
        self.gw.json("tenants", "delete", self.deleted.id, "--confirm", self.deleted.id)
        self._scans()
        return self

    def _talks(self, tokens: dict[str, str], *marks: str) -> Talks:
        return Talks(self.gw, tokens, f"agent-{secrets.token_hex(8)}", f"file-{secrets.token_hex(8)}").plant(*marks)

    def _side(self, name: str) -> Side:
        side = Side(
            self.gw.tenant(self.nicknames[name], tier=name),
            {kind: canary() for kind in MARKS},
            self._models[name, "chat"],
            self._models[name, "embedding"],
            f"task-{secrets.token_hex(8)}",
            f"work-{secrets.token_hex(8)}",
            self._models[name, "quiet"],
        )
        side.token_name = f"ci-{side.marks['token name']}"
        side.tokens["first"] = side.tenant.token
        for role in ROLES:
            side.tokens[role] = self.gw.issue(side.tenant, side.token_name if role == "admin" else f"as-{role}", role)
        side.secret = f"only-{secrets.token_hex(8)}"
        for name in ("sim-openai", "matrix", side.secret):
            self.gw.json("secrets", "set", side.id, name, stdin=f"sk-{side.marks['provider key']}")
        tasks = {side.task: side.chat_model, side.embedding_task: side.embedding_model, f"task-{side.marks['task']}": "sim-fast"}
        overlay = {"system_prompt": f"You answer for {side.marks['overlay']}.", "tasks": tasks}
        side.tenant.write_overlay(json.dumps(overlay))
        ask = Ask("GET", "/tenant/v1/config", bearer(side.tokens["admin"]))
        eventually(lambda: side.marks["overlay"].encode() in self.ask("public", ask).body, 6, "the overlay")
        return side

    def _plant(self, side: Side) -> None:
        """Puts every canary where it belongs: through the front door."""
        marks, tenant, token = side.marks, side.tenant, bearer(side.tokens["admin"])

        def call(path: str, expected: int, **body) -> Answer:
            ask = Ask("POST", path, (*token, ("content-type", "application/json")), json.dumps(body).encode())
            answer = self.ask("public", ask)
            assert answer.status == expected, answer
            side.request_ids.add(answer.request_id)
            return answer

        system = {"role": "system", "content": f"Be {marks['system']}."}
        answer = call("/v1/chat/completions", 200, model="sim-fast", messages=[system, *user(f"Say {marks['prompt']}")])
        assert marks["prompt"].encode() in answer.body, "the simulated answer repeats the prompt"
        call("/v1/chat/completions", 200, model="sim-fast", stream=True, messages=user(f"Say {marks['streamed']}"))
        call("/v1/chat/completions", 200, model="sim-fast", user=marks["person"], messages=user("Who am I?"))
        function = {"name": "look", "arguments": json.dumps({"x": marks["argument"]})}
        turns = [
            *user("Use the tool."),
            {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": function}]},
            {"role": "tool", "tool_call_id": "call_1", "content": marks["tool result"]},
        ]
        described = {"name": "look", "description": f"Looks {marks['tool description']}", "parameters": {"type": "object"}}
        tools = [{"type": "function", "function": described}]
        call("/v1/chat/completions", 200, model="sim-fast", messages=turns, tools=tools)
        call("/v1/embeddings", 200, model="sim-embed", input=f"Embed {marks['embedded']}")
        call("/v1/messages", 200, model="claude-fast", max_tokens=60, messages=user(f"Say {marks['other dialect']}"))
        call("/v1/chat/completions", 400, model="sim-fast", messages=user(f"[[sim:fault=status:400]] {marks['refused']}"))
        call("/v1/chat/completions", 404, model=f"no-{marks['asked model']}", messages=user("Hello"))
        assert tenant.chat(model=f"task-{marks['task']}").status_code == 200

    def _keep_at(self, tenant: Tenant, place: int) -> None:
        """Gives a tenant a call whose entry stands there: each look at a log is an entry of it."""
        while len(tenant.audit()) + 1 < place:
            pass
        assert tenant.chat().status_code == 200
        assert tenant.audit()[place].get("content"), "the logs are in step"

    def _credentials(self) -> None:
        self.gone = {}
        for name in ("expired", "revoked", "rotated"):
            options = ["--expires", "1s"] if name == "expired" else []
            self.gone[name] = self.gw.issue(self.a.tenant, name, "admin", *options)
        expires = time.monotonic() + 1.2
        self.gw.json("tenants", "token", "revoke", self.a.id, "revoked")
        self.gw.cli("tenants", "token", "rotate", self.a.id, "--name", "rotated", check=True)
        self.suspended_app = self.gw.issue(self.suspended, "app", "app")
        self.suspended_revoked = self.gw.issue(self.suspended, "revoked", "admin")
        self.gw.json("tenants", "token", "revoke", self.suspended.id, "revoked")
        time.sleep(max(0.0, expires - time.monotonic()))

    def _scans(self) -> None:
        """What must not be seen, by who looks: a tenant's id, or None for strangers, or `operator`."""
        nobody = {"operator key": self.gw.operator_key, "openai key": OPERATOR_OPENAI_KEY, "anthropic key": OPERATOR_ANTHROPIC_KEY}
        private, managed = {}, {}
        for side in self.sides.values():
            nobody |= {f"token {name} of {side.id}": token.rpartition("_")[2] for name, token in side.tokens.items()}
            nobody[f"provider key of {side.id}"] = side.marks["provider key"]
            content = {kind: text for kind, text in side.marks.items() if kind not in FOR_THE_OPERATOR}
            private[side.id] = {f"{kind} of {side.id}": text for kind, text in content.items()}
            managed[side.id] = {f"{kind} of {side.id}": side.marks[kind] for kind in FOR_THE_OPERATOR}
            uid = self.gw.json("tenants", "show", side.id)["uid"]
            managed[side.id][f"uid of {side.id}"] = str(uid)
        nobody |= {f"token {name}": token.rpartition("_")[2] for name, token in self.gone.items()}
        self.forbidden_to_all = Scan(nobody)
        self.marks_of = {tenant: Scan(private[tenant] | managed[tenant]) for tenant in self.sides}
        self.content_of = {tenant: Scan(private[tenant]) for tenant in self.sides}

    # Asking.

    def ask(self, listener: str, ask: Ask) -> Answer:
        wire = self.public if listener == "public" else self.admin
        while b'"rate_limited"' in (answer := wire.ask(ask)).body:
            time.sleep(json.loads(answer.body)["error"]["data"]["retry_after_ms"] / 1_000)
        return answer

    def spare(self) -> str:
        """A tenant that a case may change or use up, with a token named `ci`."""
        name = f"spare-{next(self._numbers)}"
        for target, body in (
            ("/admin/v1/tenants", {"id": name, "tier": "standard"}),
            (f"/admin/v1/tenants/{name}/tokens", {"name": "ci", "role": "app"}),
        ):
            made = self.ask("admin", Ask("POST", target, bearer(self.gw.operator_key), json.dumps(body).encode()))
            assert made.status == 201, made
        self.spares.add(name)
        return name

    def fresh_id(self) -> str:
        name = f"fresh-{next(self._numbers)}"
        self.spares.add(name)
        return name

    # References.

    def references(self, family: str, credential: Credential) -> list[Reference]:
        mine = self.sides.get(credential.viewer, self.a)
        theirs = self.b if mine is self.a else self.a
        if family == "tenant":
            return self._tenants(credential, mine, theirs)
        if family == "token":
            return self._token_names(credential, mine, theirs)
        if family == "new tenant":
            # The id that a request brings: a fresh one for the operator, a taken one for everybody else.
            return [Reference("own", "id", self.fresh_id if credential.kind == "operator" else theirs.id)]
        if family == "kept entry":
            return self._entries(mine, theirs)
        if family == "secret":
            return self._secrets(credential, mine, theirs)
        if family.removeprefix("fresh ") in KINDS:
            return self._of_talks(family, credential, mine, theirs)
        pairs = {
            "chat model": [("model", mine.chat_model, theirs.chat_model), ("task", mine.task, theirs.task)],
            "embedding model": [
                ("model", mine.embedding_model, theirs.embedding_model),
                ("task", mine.embedding_task, theirs.embedding_task),
            ],
            "listed model": [("model", mine.chat_model, theirs.chat_model), ("task", None, theirs.task)],
        }
        if family == "chat model":
            pairs[family].append(("agent", None, f"agent/{theirs.talks.agent}"))
        found = []
        for variant, own, foreign in pairs[family]:
            found += [Reference("own", variant, own)] if own else []
            found += [Reference("foreign", variant, foreign), Reference("absent", variant, unlike(foreign))]
        hostile = ("..", "../models", mine.chat_model.upper(), f"{theirs.chat_model}/sim-fast", "' OR '1'='1", "x" * 256)
        return found + [Reference("absent", f"hostile {text[:12]}", text) for text in hostile]

    def _tenants(self, credential: Credential, mine: Side, theirs: Side) -> list[Reference]:
        if credential.kind != "operator":
            return [
                Reference("own", "id", mine.id),
                Reference("foreign", "id", theirs.id),
                Reference("absent", "id", unlike(theirs.id)),
            ]
        hostile = ("..", "../" + self.a.id, self.a.id.upper(), self.a.id + "/", "'--", "admin", "x" * 300)
        return [
            Reference("own", "id", self.spare),
            # To the operator nobody is foreign; who was deleted must be as if never made.
            Reference("foreign", "id", self.deleted.id),
            Reference("absent", "id", unlike(self.deleted.id)),
            *(Reference("absent", f"hostile {text[:12]}", text) for text in hostile),
        ]

    def _entries(self, mine: Side, theirs: Side) -> list[Reference]:
        # Where the other's content stands, this one's log has an entry without any.
        foreign = min(place for place in theirs.kept - mine.kept if place < mine.length)
        hostile = ("..", "-1", "+1", "0x1", "1e0", "01", "9" * 40, "' OR '1'='1")
        return [
            Reference("own", "entry", str(min(mine.kept))),
            Reference("foreign", "entry", str(foreign)),
            Reference("absent", "entry", str(10**15)),
            *(Reference("absent", f"hostile {text[:12]}", text) for text in hostile),
        ]

    def _secrets(self, credential: Credential, mine: Side, theirs: Side) -> list[Reference]:
        may = credential.kind == "right" and credential.role == "admin"
        hostile = ("..", "../x", mine.secret.upper(), "a/b", "", "x" * 65, "%", "' OR '1'='1")
        return [
            # Whoever may delete one gets one of its own; who may not must leave the one that is there.
            Reference("own", "name", (lambda: self._spare_secret(mine)) if may else mine.secret),
            Reference("foreign", "name", theirs.secret),
            Reference("absent", "name", unlike(theirs.secret)),
            *(Reference("absent", f"hostile {text[:12]}", text) for text in hostile),
        ]

    def _of_talks(self, family: str, credential: Credential, mine: Side, theirs: Side) -> list[Reference]:
        """`fresh`: who may use a session gets a new one each time."""
        kind, role = family.removeprefix("fresh "), credential.role
        talks = self.frozen_talks if credential.kind == "frozen" else mine.talks
        own, foreign = talks.value(kind, role), theirs.talks.value(kind, role)
        may = credential.kind == "right" and role in TALKERS
        found = [
            Reference("own", "id", (lambda: talks.fresh(kind, role)) if may and family != kind else own),
            Reference("foreign", "id", foreign),
            Reference("absent", "id", unlike(foreign)),
        ]
        # Somebody else of the same tenant; who has none has nothing else.
        colleague = talks.value(kind, "admin")
        others = [Reference("foreign", "colleague", colleague), Reference("absent", "colleague", unlike(colleague))]
        if credential.kind == "right" and not may and kind in ("session", "run"):
            return found[1:] + others
        if not may or credential.headers != bearer(mine.tokens[role]):
            return found
        if kind in ("session", "run") and role != "admin":
            found += others
        if kind == "file":
            hostile = ("..", f"../work/{own}", f"/etc/{foreign}", f"a//{own}", own + "/", "x" * 256)
            return found + [Reference("absent", f"hostile {text[:12]}", text) for text in hostile]
        hostile = ("..", own.upper(), own + "0", own[:-1], "ses_" + own[-32:] if kind == "run" else "run_" + own[-32:], "' OR '1'='1")
        return found + [Reference("absent", f"hostile {text[:12]}", text) for text in hostile]

    def call_in(self, run: str) -> str:
        """The call of a tool that a run has; where it has none, or is none, a call that nobody has."""
        talks = (*(side.talks for side in self.sides.values()), self.frozen_talks)
        known = {talk.run: talk.call for each in talks for talk in each.by_role.values()}
        return known.get(run, "call_" + "0" * 32)

    def values(self, mine: Side, fixture: Fixture) -> dict[str, str]:
        """Something for each object of a route: the tenant's own where the route only reads, and nothing that could be used up."""
        model = mine.embedding_model if "embeddings" in fixture.path else mine.chat_model
        talks = {kind: "absent" if fixture.uses_up else mine.talks.value(kind, "admin") for kind in KINDS}
        said = {"prompt": f"{PROBE} {mine.marks['matrix']}", "secret": "absent", "call": "absent"}
        return {"model": model, "seq": str(min(mine.kept)), **said, **talks}

    def settle(self) -> None:
        """Waits until no run of the two is under way."""
        for side in self.sides.values():
            side.talks.settle()

    def _spare_secret(self, side: Side) -> str:
        name = f"spare-{next(self._numbers)}"
        self.gw.json("secrets", "set", side.id, name, stdin="sk-spare")
        return name

    def _token_names(self, credential: Credential, mine: Side, theirs: Side) -> list[Reference]:
        own = "ci" if credential.kind == "operator" else mine.token_name
        found = [Reference("own", "name", own)]
        # A name that exists, in another tenant.
        found += [Reference("foreign", "name", theirs.token_name), Reference("absent", "name", unlike(theirs.token_name))]
        return found + [Reference("absent", "hostile", text) for text in ("..", "%")]

    def close(self) -> None:
        for wire in (getattr(self, "public", None), getattr(self, "admin", None)):
            if wire:
                wire.close()
        self.gw.close()


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def _model_kinds():
    for side in ("alder", "birch"):
        for kind in ("chat", "embedding", "quiet"):
            yield (side, kind), f"{kind}-of-one"


def credentials(world: World) -> list[Credential]:
    """Everybody who knocks at every route."""
    a, b, operator = world.a, world.b, world.gw.operator_key
    right = a.tokens["admin"]
    zeros = "0" * 32
    found = [Credential(f"{side.id[:5]} {role}", "right", bearer(side.tokens[role]), side.id, role)
             for side in (a, b) for role in ROLES]  # fmt: skip
    for header in ("x-api-key", "api-key", "x-goog-api-key"):
        found.append(Credential(f"admin in {header}", "right", ((header, right),), a.id, "admin"))
        found.append(Credential(f"operator in {header}", "operator", ((header, operator),)))
    found.append(Credential("operator", "operator", bearer(operator)))
    found.append(Credential("scheme in capitals", "right", (("authorization", f"BEARER {right}"),), a.id, "admin"))
    cedar = world.suspended
    found.append(Credential("suspended admin", "suspended", bearer(cedar.token)))
    found.append(Credential("suspended app", "suspended", (("x-api-key", world.suspended_app),)))
    found.append(Credential("frozen admin", "frozen", bearer(world.frozen.token), role="admin"))

    wrong = {
        "unknown tenant": f"tk_nobody_{zeros}",
        "absent tenant": f"tk_{unlike(a.id)}_{zeros}",
        "wrong secret": f"tk_{a.id}_{zeros}",
        "last digit": right[:-1] + ("0" if right[-1] != "0" else "1"),
        "secret of another": f"tk_{a.id}_{b.tokens['admin'].rpartition('_')[2]}",
        "tenant of another": f"tk_{b.id}_{right.rpartition('_')[2]}",
        "expired": world.gone["expired"],
        "revoked": world.gone["revoked"],
        "rotated away": world.gone["rotated"],
        "deleted tenant": world.deleted.token,
        "suspended, wrong secret": f"tk_{cedar.id}_{zeros}",
        "suspended, revoked": world.suspended_revoked,
        "malformed": "sk-something-else",
        "capitals": right.upper(),
        "cut short": right[:-1],
        "too long": right + "0",
        "much too long": f"tk_{a.id}_" + "0" * 4_000,
        "first twenty characters": right[:20],
        "hostile id": f"tk_../{a.id}_{zeros}",
        "statement": "' OR '1'='1",
        "not ASCII": "tk_\xe4\xf6_" + zeros,
        "bearer twice": f"Bearer {right}",
        "another operator key": f"pk_{zeros}",
        "operator key, cut": operator[:-1],
        "tenant token as operator key": "pk_" + right.rpartition("_")[2],
        "empty": "",
    }
    found += [Credential(name, "wrong", bearer(token)) for name, token in wrong.items()]
    elsewhere = {
        "none": (),
        "no scheme": (("authorization", right),),
        "basic": (("authorization", f"Basic {right}"),),
        "cookie": (("cookie", f"token={right}; authorization=Bearer {right}; x-api-key={right}"),),
        "operator cookie": (("cookie", f"token={operator}"),),
        "proxy header": (("proxy-authorization", f"Bearer {right}"),),
        "forwarded header": (("x-forwarded-authorization", f"Bearer {right}"), ("x-forwarded-user", a.id)),
        "tenant header alone": (("x-tenant-id", a.id), ("x-role", "admin")),
        "subprotocol": (("sec-websocket-protocol", right),),
        "wrong in x-api-key": (("x-api-key", f"tk_{a.id}_{zeros}"),),
        "wrong in api-key": (("api-key", f"tk_nobody_{zeros}"),),
    }
    found += [Credential(name, "wrong", headers) for name, headers in elsewhere.items()]
    return found + _ambiguous(right, b.tokens["admin"], operator) + _in_url(right, operator)


def _ambiguous(right: str, other: str, operator: str) -> list[Credential]:
    pairs = {
        "the same twice": (*bearer(right), ("x-api-key", right)),
        "one of each tenant": (*bearer(right), ("x-api-key", other)),
        "the other way round": (*bearer(other), ("x-goog-api-key", right)),
        "right and junk": (*bearer(right), ("api-key", "junk")),
        "junk and right": (*bearer("junk"), ("api-key", right)),
        "junk twice": (("x-api-key", "junk"), ("api-key", "junk")),
        "one header twice": (*bearer(right), *bearer(other)),
        "basic and right": (("authorization", "Basic eA=="), ("x-api-key", right)),
        "operator and tenant": (*bearer(operator), ("x-api-key", right)),
        "empty and right": (("x-api-key", ""), *bearer(right)),
    }
    return [Credential(name, "two", headers) for name, headers in pairs.items()]


def _in_url(right: str, operator: str) -> list[Credential]:
    found = []
    for name, query in {
        "key": f"key={right}",
        "any name": f"x={right}",
        "operator key": f"z=1&q={operator}",
        "not a token": "access_token=junk",
        "capitals": f"API_KEY={right}",
    }.items():
        found.append(Credential(f"url, {name}", "url", (), query=query))
        found.append(Credential(f"url, {name}, and header", "url", bearer(right), query=query))
    found.append(Credential("url, and operator", "url", bearer(operator), query=f"key={operator}"))
    return found
