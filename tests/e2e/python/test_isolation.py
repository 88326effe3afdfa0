"""The two-tenant suite: every route × every credential × own, foreign and absent objects, made from `partywall routes --json`.

What answers must be follows from the route's `access` alone; what they must not hold is looked for by canaries.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product

import httpx
import pytest

from canary import Scan, canary, forms
from crawl import crawl_paths, is_in_table
from deployment import eventually
from route_fixtures import BY_ROUTE, FIXTURES, RPC, Fixture, gaps
from samples import user
from two_tenants import PROBE, ROLES, Credential, Reference, World, bearer, credentials, unlike
from wire import Answer, Ask

CASES_MIN = 3_000


@dataclass(frozen=True)
class Case:
    fixture: Fixture
    access: str
    listener: str
    shape: str
    credential: Credential
    references: dict[str, Reference]
    sent: dict[str, str]
    ask: Ask
    answer: Answer

    @property
    def name(self) -> str:
        refers = " ".join(f"{kind}={reference.label}" for kind, reference in self.references.items())
        return f"{self.fixture.method} {self.fixture.path} [{self.shape}] on {self.listener} as {self.credential.name} {refers}".strip()

    @property
    def status(self) -> int:
        return self.fixture.verdict(self.answer)

    @property
    def dialect(self) -> str:
        return "anthropic" if self.fixture.path.startswith("/v1/messages") else "openai"


@dataclass
class Run:
    """All that was asked and answered, and the world in which it was."""

    world: World
    routes: list[dict]
    cases: list[Case]
    state_before: dict
    state_after: dict
    upstream: list[dict]
    upstream_of_matrix: list[dict]
    others: list[tuple[str | None, str, Ask, Answer]]

    def exchanges(self):
        """Who looked, what it was, the request, the answer: of the matrix and of everything besides."""
        for case in self.cases:
            viewer = "operator" if case.credential.kind == "operator" else case.credential.viewer
            yield viewer, case.name, case.ask, case.answer
        yield from self.others


def expected(case: Case) -> int:
    """The status that the route's access demands."""
    kind, _, roles = case.access.partition(":")
    credential = case.credential
    if kind == "public":
        return 200
    if credential.kind in ("two", "url"):
        return 400
    if kind == "operator":
        if credential.kind != "operator":
            return 401
    elif credential.kind == "suspended" or (credential.kind == "frozen" and not case.fixture.only_reads):
        return 403
    elif credential.kind not in ("right", "frozen"):
        return 401
    elif credential.role not in roles.split(","):
        return 403
    references = case.references if case.fixture.looks else {}
    for kind, reference in references.items():
        if "hostile" in reference.variant:
            return case.fixture.of_no_name.get(kind, 404)
    return 404 if any(reference.kind != "own" for reference in references.values()) else case.fixture.success


def state(world: World) -> dict:
    """What no case of the matrix may change."""
    gw, found = world.gw, {}
    for side in world.sides.values():
        shown = gw.json("tenants", "show", side.id)
        found[side.id] = {
            "status": shown["status"],
            "tokens": sorted((token["name"], token["role"]) for token in gw.json("tenants", "token", "list", side.id)),
            "secrets": sorted(line["name"] for line in gw.json("secrets", "list", side.id)),
            "overlay": side.tenant.overlay.read_text(),
        }
    found["tenants"] = {line["id"]: line["status"] for line in gw.json("tenants", "list") if line["id"] not in world.spares}
    return found


def matrix(world: World, routes: list[dict]) -> list[Case]:
    strangers = canary()
    cases = []
    for route in {(route["method"], route["path"]): route for route in routes}.values():
        fixture = BY_ROUTE.get((route["method"], route["path"]))
        for credential in credentials(world) if fixture else []:
            mark = world.sides[credential.viewer].marks["matrix"] if credential.viewer else strangers
            families = [(kind, world.references(family, credential)) for kind, family in fixture.families.items()]
            for listener, shape, chosen in product(
                fixture.listeners, fixture.shapes, product(*(references for _, references in families))
            ):
                references = {kind: reference for (kind, _), reference in zip(families, chosen, strict=True)}
                sent = {kind: each.value() if callable(each.value) else each.value for kind, each in references.items()}
                ask = fixture.shapes[shape]({**sent, "prompt": f"{PROBE} {mark}", "call": world.call_in(sent.get("run", ""))})
                if credential.query:
                    ask = replace(ask, target=ask.target + ("&" if "?" in ask.target else "?") + credential.query)
                ask = replace(ask, headers=ask.headers + credential.headers)
                answer = world.ask(listener, ask)
                cases.append(Case(fixture, route["access"], listener, shape, credential, references, sent, ask, answer))
    return cases


MENTIONS = ("x-tenant", "x-tenant-id", "x-partywall-tenant", "openai-organization", "openai-project", "x-forwarded-user", "x-user-id")


def mentions(world: World) -> list[tuple]:
    """Requests that name a tenant where none has to be named: in a header, a query, a body."""
    found = []
    for mine, theirs in ((world.a, world.b), (world.b, world.a)):
        token = bearer(mine.tokens["admin"])
        for number, fixture in enumerate(fixture for fixture in FIXTURES if fixture.listeners == ("public",)):
            plain = fixture.shapes[next(iter(fixture.shapes))](world.values(mine, fixture))
            plain = replace(plain, headers=plain.headers + token)
            for name in (theirs.id, unlike(theirs.id)):
                # One route serves all methods of JSON-RPC: there the headers take turns.
                headers = MENTIONS[number % len(MENTIONS) :][:1] if fixture.method == RPC else MENTIONS
                asks = {header: replace(plain, headers=(*plain.headers, (header, name))) for header in headers}
                asks["query"] = replace(plain, target=f"{plain.target}?tenant={name}")
                if plain.body:
                    asks["body"] = replace(plain, body=json.dumps({**json.loads(plain.body), "tenant": name}).encode())
                if fixture.method == RPC:
                    said = json.loads(plain.body)
                    asks["params"] = replace(plain, body=json.dumps({**said, "params": {**said["params"], "tenant": name}}).encode())
                found += [(mine, fixture, how, name, ask, world.ask("public", ask)) for how, ask in asks.items()]
    return found


def whole_record(world: World) -> list[tuple[str, str, Ask, Answer]]:
    """Everything that the two tenants can read of themselves, page by page."""
    found = []
    for side in world.sides.values():
        for role in ROLES:
            token = bearer(side.tokens[role])
            targets = ["/tenant/v1/usage?detail=true", "/tenant/v1/usage?format=csv", "/tenant/v1/config", "/v1/models"]
            for target in targets:
                ask = Ask("GET", target, token)
                found.append((side.id, f"{target} as {role}", ask, world.ask("public", ask)))
            place = 0
            while place is not None:
                ask = Ask("GET", f"/tenant/v1/audit?from={place}&limit=1000", token)
                answer = world.ask("public", ask)
                found.append((side.id, f"audit from {place} as {role}", ask, answer))
                place = json.loads(answer.body).get("next") if answer.status == 200 else None
        for cursor in (side.chat_model, "sim-fast", "no-such-model"):
            ask = Ask("GET", f"/v1/models?after_id={cursor}&limit=5", (*bearer(side.tokens["app"]), ("anthropic-version", "2023-06-01")))
            found.append((side.id, f"models after {cursor}", ask, world.ask("public", ask)))
    return found


@pytest.fixture(scope="module")
def run(sim):
    world = World(sim)
    try:
        world.build()
        routes = world.gw.json("routes")
        before, mark = state(world), sim.mark()
        cases = matrix(world, routes)
        world.settle()
        of_matrix = sim.since(mark)
        others = whole_record(world)
        yield Run(world, routes, cases, before, state(world), sim.since(0), of_matrix, others)
    finally:
        world.close()


# The table is whole.


def test_every_route_has_access_objects_and_a_fixture(run):
    assert gaps(run.routes) == []
    assert len(run.routes) >= 20


def test_a_route_without_fixture_reference_or_access_fails_by_its_name(run):
    def lacks(**route) -> list[str]:
        return gaps([*run.routes, {"method": "GET", "path": "/x", "access": "public", "objects": [], **route}])

    assert lacks(path="/v1/planted") == ["GET /v1/planted: has no fixture in route_fixtures.py"]
    assert any("access" in gap for gap in lacks(path="/v1/planted", access=""))
    without = [route for route in run.routes if route["path"] != "/tenant/v1/audit"]
    assert gaps(without) == ["GET /tenant/v1/audit: has a fixture and no route"]

    def changed(path: str, **members) -> list[str]:
        return gaps([{**route, **members} if route["path"] == path else route for route in run.routes])

    assert changed("/tenant/v1/config", objects=["session"]) == ["GET /tenant/v1/config: no references for session"]
    assert changed("/v1/models/{model}", objects=[]) == ["GET /v1/models/{model}: refers to model, which its objects do not list"]
    assert len(changed("/tenant/v1/config", access="tenant:everybody")) == 1
    assert len(changed("/tenant/v1/config", access="anybody")) == 1


def test_every_object_is_asked_for_as_own_foreign_and_absent(run):
    for fixture in FIXTURES:
        for kind in set(fixture.families) - set(fixture.own_objects):
            for who in ("right", "operator", "wrong"):
                if who == ("operator" if fixture.listeners == ("public",) else "right"):
                    continue
                asked = {case.references[kind].kind for case in run.cases if case.fixture is fixture and case.credential.kind == who}
                assert asked == {"own", "foreign", "absent"}, (fixture.key, kind, who, asked)


def test_what_is_served_stands_in_the_table(run):
    """A crawl over names that gateways have: whatever the table does not hold is 404 or 405, to everybody and in the same bytes."""
    world, wrong, seen = run.world, [], Counter()
    people = {"nobody": (), "a tenant": bearer(world.a.tokens["admin"]), "the operator": bearer(world.gw.operator_key)}
    served = [fixture for fixture in FIXTURES if fixture.method != RPC]
    table = {listener: [f.key for f in served if listener in f.listeners] for listener in ("public", "admin")}
    known = {"model": world.a.chat_model, "seq": str(min(world.a.kept)), "tenant": world.a.id, "token": world.a.token_name}
    for listener in table:
        for path, methods in crawl_paths(served, known):
            allowed = sorted({method for method, pattern in table[listener] if is_in_table(pattern, path)})
            for method in methods:
                if method in allowed:
                    continue
                answers = {name: world.ask(listener, Ask(method, path, token)) for name, token in people.items()}
                status = 405 if allowed else 404
                seen[status] += len(answers)
                for name, answer in answers.items():
                    fits = answer.status == status and answer.bare() == answers["nobody"].bare()
                    if status == 405:
                        fits = fits and sorted(answer.values("allow")[0].split(", ")) == allowed
                    if not fits:
                        wrong.append(f"{method} {path} on {listener} as {name}: {answer.status}, not {status}")
                    run.others.append((None, f"crawl {path}", Ask(method, path), answer))
    print(f"\ncrawl: {sum(seen.values())} requests, {dict(seen)}")
    assert not wrong, "\n".join(wrong[:40])
    assert seen[404] > 1_000 and seen[405] > 500


# The matrix.


def test_every_answer_has_the_status_that_the_access_of_its_route_demands(run):
    by_route = Counter((case.fixture.key, case.listener) for case in run.cases)
    statuses = Counter(case.status for case in run.cases)
    print(f"\nmatrix: {len(run.cases)} cases, {len(by_route)} routes, {len(credentials(run.world))} credentials, {dict(statuses)}")
    wrong = [f"{case.name}: {case.status}, not {expected(case)}: {case.answer.body[:160]!r}"
             for case in run.cases if case.status != expected(case)]  # fmt: skip
    assert wrong == [], f"{len(wrong)} wrong"
    assert len(run.cases) >= CASES_MIN
    assert set(by_route) == {(fixture.key, listener) for fixture in FIXTURES for listener in fixture.listeners}


def test_no_answer_is_a_fault_of_ours(run):
    assert [name for _, name, _, answer in run.exchanges() if answer.status >= 500] == []
    events = {line["event"] for line in run.world.gw.log()}
    assert not [event for event in events if "panic" in event or "without a fitting handler" in event]
    assert "panicked" not in run.world.gw.output()


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("kind", ["wrong", "two", "url", "suspended", "frozen"])
def test_refusals_of_one_kind_are_the_same_bytes_everywhere(run, kind, dialect):
    """Over all routes, listeners, references and ways of being wrong."""
    status = {"wrong": 401, "suspended": 403, "frozen": 403}.get(kind, 400)
    shapes: dict[tuple, list[str]] = {}
    for case in run.cases:
        if case.dialect == dialect and case.credential.kind == kind and case.answer.status == status:
            shapes.setdefault(case.answer.bare(), []).append(case.name)
    assert len(shapes) == 1, [(shape, len(names), names[:3]) for shape, names in shapes.items()]
    assert sum(map(len, shapes.values())) > 30


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_whoever_has_no_business_on_a_listener_looks_like_a_stranger(run, dialect):
    """A tenant's token at the operator's routes, the operator key at a tenant's: the bytes of any wrong credential."""
    answers = {case.answer.bare() for case in run.cases if case.dialect == dialect and case.answer.status == 401}
    assert len(answers) == 1


def test_a_role_is_refused_before_it_learns_whether_an_object_exists(run):
    groups: dict[tuple, set] = {}
    for case in run.cases:
        if case.credential.kind == "right" and case.status == 403:
            groups.setdefault((case.fixture.key, case.shape, case.credential.name), set()).add(case.answer.bare())
    assert len(groups) > 20
    assert {key: shapes for key, shapes in groups.items() if len(shapes) != 1} == {}


def test_foreign_and_absent_answer_alike(run):
    """Byte for byte but for the name that the caller itself sent."""
    pairs: dict[tuple, dict[tuple, Case]] = {}
    for case in run.cases:
        references = case.references.values()
        if all(reference.kind == "own" for reference in references) or any("hostile" in each.variant for each in references):
            continue
        place = (case.fixture.key, case.listener, case.shape, case.credential.name, tuple(each.variant for each in references),
                 tuple(each.kind == "own" for each in references))  # fmt: skip
        pairs.setdefault(place, {})[tuple(each.kind for each in references)] = case
    assert len(pairs) > 1_000
    differing = []
    for cases in pairs.values():
        assert len(cases) >= 2, [case.name for case in cases.values()]
        if len({case.answer.bare(case.sent) for case in cases.values()}) != 1:
            differing.append([(case.name, case.answer.bare(case.sent)) for case in cases.values()])
    assert differing == []


def test_the_name_of_a_tenant_elsewhere_in_a_request_changes_nothing(run):
    answers: dict[tuple, list] = {}
    for mine, fixture, how, name, ask, answer in mentions(run.world):
        run.others.append((mine.id, f"mention in {how} at {fixture.path}", ask, answer))
        answers.setdefault((mine.id, fixture.key, how), []).append((name, answer))
    assert len(answers) > 100
    for place, ((foreign, one), (absent, other)) in answers.items():
        fixture = BY_ROUTE[place[1]]
        status = fixture.verdict(one)
        assert status == fixture.verdict(other) and status in (200, 400, 404), (place, one, other)
        if status != 200:
            assert one.bare({"name": foreign}) == other.bare({"name": absent}), place
        if place[2] not in ("query", "body", "params"):
            # What is asked for here is absent in any case.
            assert status == (404 if fixture.uses_up else fixture.success), place


def test_a_page_that_begins_at_a_foreign_model_is_that_of_an_absent_one(run):
    for mine, theirs in ((run.world.a, run.world.b), (run.world.b, run.world.a)):
        for side in ("after_id", "before_id"):
            pages = {}
            for name in (theirs.quiet_model, theirs.chat_model, unlike(theirs.chat_model), "sim-embed"):
                head = (*bearer(mine.tokens["app"]), ("anthropic-version", "2023-06-01"))
                pages[name] = run.world.ask("public", Ask("GET", f"/v1/models?{side}={name}", head)).bare()
            foreign, another, absent, own = pages.values()
            assert foreign == another == absent != own and own[0] == 200


def test_a_token_is_refused_in_every_part_of_a_url_and_is_not_repeated(run):
    token = run.world.a.tokens["app"]
    for target in (f"/v1/models/{token}", f"/v1/models?after_id={token}", f"/v1/models?x={token[:12]}", f"/tenant/v1/usage?from={token}"):
        for headers in ((), bearer(token)):
            answer = run.world.ask("public", Ask("GET", target, headers))
            assert answer.status == 400 and b"token_in_url" in answer.body and token.encode() not in answer.whole, target
    assert run.world.forbidden_to_all.hits(run.world.gw.log_text().encode()) == set()


@pytest.mark.parametrize("form", ["x=%74k_{}", "%6bey=junk-{}", "x=Bearer%20tk_{}", "x=a,tk_{}"])
def test_a_token_in_a_url_is_refused_however_it_is_written(run, form):
    token = run.world.a.tokens["admin"]
    ask = BY_ROUTE["POST", "/v1/chat/completions"].shapes["plain"]({"model": "sim-fast", "prompt": "Hello"})
    target = f"{ask.target}?{form.format(token.removeprefix('tk_'))}"
    answer = run.world.ask("public", replace(ask, target=target, headers=ask.headers + bearer(token)))
    assert (answer.status, b"token_in_url" in answer.body) == (400, True)


def test_a_path_of_both_dialects_refuses_in_the_shape_of_the_one_who_asks(run):
    version = ("anthropic-version", "2023-06-01")
    as_anthropic = run.world.ask("public", Ask("GET", "/v1/models", (version,))).bare()
    as_openai = run.world.ask("public", Ask("GET", "/v1/models")).bare()
    assert as_anthropic == run.world.ask("public", Ask("POST", "/v1/messages", (version,), b"{}")).bare()
    assert as_openai == run.world.ask("public", Ask("POST", "/v1/chat/completions", (version,), b"{}")).bare() != as_anthropic


def test_public_routes_tell_everybody_the_same(run):
    for fixture in FIXTURES:
        answers = {case.answer.bare() for case in run.cases if case.access == "public" and case.fixture is fixture}
        assert len(answers) <= 1, fixture.key


def test_nothing_was_changed_by_those_who_may_not(run):
    assert run.state_after == run.state_before


def test_each_response_has_a_request_id_of_its_own(run):
    ids = [answer.request_id for _, _, _, answer in run.exchanges()]
    assert len(ids) == len(set(ids)) >= len(run.cases)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{16,64}", text) for text in ids)


# Canaries.


def plain(answer: Answer) -> bytes:
    """All of an answer but its date and its own id, so that equal answers are looked at once."""
    status, headers, body = answer.bare()
    return b"\n".join([str(status).encode(), *(f"{name}: {value}".encode() for name, value in headers), body])


def test_the_scan_finds_what_it_looks_for():
    text = canary()
    scan = Scan({"mark": text})
    assert scan.hits(b"nothing of it " * 100) == set()
    for form, needle in forms(text).items():
        assert scan.names(b"before" + needle + b"after") == {"mark"}, form
    for shift in range(4):
        for encode in (base64.b64encode, base64.urlsafe_b64encode, lambda raw: raw.hex().encode()):
            assert scan.names(encode(b"x" * shift + text.encode() + b"tail")) == {"mark"}, shift
    assert scan.names(json.dumps({"x": text}).encode()) == scan.names(text[:20].encode()) == {"mark"}
    assert scan.names(text[-17:].encode()) == {"mark"} and scan.names(text[:15].encode()) == set()


def test_the_canaries_stand_where_they_could_be_seen(run):
    """Each tenant sees its own: otherwise that the other does not would prove nothing."""
    for side in run.world.sides.values():
        scan = run.world.marks_of[side.id]
        seen = set()
        for viewer, _, _, answer in run.exchanges():
            if viewer == side.id:
                seen |= {name.removesuffix(f" of {side.id}") for name in scan.names(answer.whole)}
        assert {"matrix", "overlay", "task", "token name", "asked model", "instructions", "conversation", "file"} <= seen, seen
        upstream = {name.removesuffix(f" of {side.id}") for record in run.upstream for name in scan.names(json.dumps(record).encode())}
        said = {"prompt", "system", "streamed", "argument", "tool result", "tool description", "embedded", "other dialect", "refused",
                "instructions", "conversation"}  # fmt: skip
        assert said <= upstream, said - upstream


def test_no_answer_shows_a_canary_of_another_tenant(run):
    world, hits, scanned = run.world, [], 0
    seen: dict[tuple, set] = {}
    for viewer, name, ask, answer in run.exchanges():
        scanned += len(answer.whole)
        content = plain(answer)
        if (viewer, content) in seen:
            continue
        found = world.forbidden_to_all.hits(content)
        for tenant in world.sides:
            if viewer == "operator":
                found |= world.content_of[tenant].hits(content)
            elif viewer != tenant:
                found |= world.marks_of[tenant].hits(content)
        seen[viewer, content] = found
        hits += [(name, mark) for mark in found]
    print(f"\nscanned: {scanned} bytes of answers, {len(seen)} different")
    assert hits == []


def test_no_answer_names_another_tenant_its_models_or_its_calls(run):
    """Unless the caller itself has just said the name; the operator knows all names."""
    world, wrong = run.world, []
    everybody = {*world.sides, world.suspended.id, world.deleted.id}
    words = {None: set(everybody)}
    for viewer in world.sides:
        words[viewer] = everybody - {viewer}
    for side in world.sides.values():
        for viewer in words.keys() - {side.id}:
            words[viewer] |= {side.quiet_model, *side.request_ids, *side.talks.ids}
    seen = set()
    for viewer, name, ask, answer in run.exchanges():
        content = plain(answer)
        if viewer == "operator" or (viewer, content) in seen:
            continue
        wrong += [(name, word) for word in words[viewer] if word.encode() in content and word.encode() not in ask.text]
        seen.add((viewer, content))
    assert wrong == []
    listed = [answer for viewer, name, _, answer in run.exchanges() if viewer == world.a.id and name.startswith("/v1/models as")]
    assert len(listed) == len(ROLES) and all(world.a.quiet_model.encode() in answer.body for answer in listed)


def test_the_operator_sees_of_one_tenant_what_belongs_to_it(run):
    """A route about one tenant shows nothing of the other."""
    asks = ("", "/tokens", "/quota")
    for side, other in ((run.world.a, run.world.b), (run.world.b, run.world.a)):
        targets = [f"/admin/v1/tenants/{side.id}{rest}" for rest in asks]
        targets += [f"/admin/v1/usage?tenant={side.id}", f"/admin/v1/usage?detail=true&tenant={side.id}"]
        for target in targets:
            answer = run.world.ask("admin", Ask("GET", target, bearer(run.world.gw.operator_key)))
            assert answer.status == 200 and (side.id.encode() in answer.body or side.token_name.encode() in answer.body), answer
            assert run.world.marks_of[other.id].hits(answer.whole) == set() and other.id.encode() not in answer.whole


def test_the_provider_sees_one_tenant_in_each_call_and_never_its_name(run):
    world, calls = run.world, Counter()
    names = [*world.sides, world.suspended.id, world.deleted.id]
    for record in run.upstream:
        text = json.dumps(record).encode()
        owners = {tenant for tenant in world.sides if world.marks_of[tenant].hits(text)}
        assert len(owners) <= 1, record
        assert not [name for name in names if name.encode() in text], record
        if record["path"].endswith("embeddings") or "model" in record["body"]:
            calls.update(owners)
    for side in world.sides.values():
        assert calls[side.id] > 20


def test_only_calls_that_were_answered_went_to_the_provider(run):
    """One record for each call that succeeded, under the tenant's own canary; none for a call that was refused."""
    succeeded = Counter(case.credential.viewer for case in run.cases if case.fixture.upstream and case.status == 200)
    sent: Counter = Counter()
    for record in run.upstream_of_matrix:
        text = json.dumps(record)
        assert PROBE in text
        sent.update([tenant for tenant, side in run.world.sides.items() if side.marks["matrix"] in text] or ["a stranger"])
    assert sent == succeeded and sum(sent.values()) > 60


def test_the_log_keeps_each_tenant_to_its_own_lines(run):
    world = run.world
    last = run.cases[-1].answer.request_id
    lines = eventually(lambda: [line for line in world.gw.log() if last in json.dumps(line)] and world.gw.log(), 3, "the log")
    pages: dict[str | None, list[str]] = {}
    for line in lines:
        pages.setdefault(line["tenant"], []).append(json.dumps({k: v for k, v in line.items() if k not in ("time", "request_id")}))
    for owner, page in pages.items():
        text = "\n".join(sorted(set(page))).encode()
        assert world.forbidden_to_all.hits(text) == set(), owner
        for tenant in world.sides:
            if owner != tenant:
                assert world.marks_of[tenant].hits(text) == set() and tenant.encode() not in text, owner
    assert all(len(pages[tenant]) > 10 for tenant in (*world.sides, None))


def test_no_file_holds_a_canary_but_the_tenants_own_overlay_and_workspace(run):
    world, found, read = run.world, set(), 0
    for path in world.gw.data.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            # The journal's next segment is prepared under another name, all zeros.
            assert path.name in ("spare.new", "spare"), path
            continue
        # Room kept for later is empty, and long.
        content, read = re.sub(rb"\0{64,}", b"\0", raw), read + 1
        where = str(path.relative_to(world.gw.data))
        for tenant, scan in world.marks_of.items():
            found |= {(where, name) for name in scan.names(content)}
        found |= {(where, name) for name in world.forbidden_to_all.names(content) if path.name != "anthropic.key"}
    own = {(f"tenants/{tenant}/config.yaml", f"{kind} of {tenant}") for tenant in world.sides for kind in ("overlay", "task")}
    own |= {(f"tenants/{tenant}/sandbox/work/{side.talks.file}", f"file of {tenant}") for tenant, side in world.sides.items()}
    names_in_the_log = {("gateway.log", f"{kind} of {tenant}") for tenant in world.sides for kind in ("token name", "asked model")}
    assert own <= found and found - own - names_in_the_log == set()
    assert read > 10


# Many at once.


def test_answers_never_cross_when_many_call_and_hang_up(run):
    """Each answer holds the word of its own question and of no other, while half of the callers leave in the middle."""
    world, words, answers, lock = run.world, [], [], threading.Lock()

    def call(side, rounds: int):
        with httpx.Client(base_url=world.gw.url, timeout=30, trust_env=False) as http:
            for number in range(rounds):
                word, stream = secrets.token_hex(16), number % 3 != 0
                orders = "[[sim:gap=2ms]]" if stream else ""
                body = {"model": side.chat_model, "stream": stream, "messages": user(f"{orders} {word}")}
                with http.stream("POST", "/v1/chat/completions", json=body, headers=dict(bearer(side.tokens["app"]))) as answer:
                    received, leaves = b"", stream and number % 2 == 0
                    for piece in answer.iter_raw():
                        received += piece
                        if leaves and received.count(b"data: ") > 4:
                            break
                with lock:
                    words.append(word)
                    answers.append((word, leaves, answer.status_code, text_of(received)))

    threads = [threading.Thread(target=call, args=(side, 12)) for side in (world.a, world.b) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 120 and {status for _, _, status, _ in answers} == {200}
    for word, left, _, text in answers:
        assert left or word in text, text
        assert [other for other in words if other != word and other in text] == []


def text_of(received: bytes) -> str:
    """The words of an answer, whole or streamed: a canary may be cut by pieces, and is found again in their sum."""
    lines = received.decode().splitlines()
    pieces = [json.loads(line[6:]) for line in lines if line.startswith("data: {")] or ([json.loads(received)] if lines else [])
    choices = [choice for piece in pieces for choice in piece.get("choices", [])]
    return "".join((choice.get("delta") or choice.get("message") or {}).get("content") or "" for choice in choices)
