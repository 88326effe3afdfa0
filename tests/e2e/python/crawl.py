"""Paths that a gateway might serve: those of the surface, those that others serve by habit, and spellings that a router may confuse."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "get", "CANARY")
FEW = ("GET", "POST", "DELETE")

SURFACE = """
/v1/responses /v1/responses/resp_1 /v1/completions /v1/files /v1/files/file-1 /v1/files/file-1/content /v1/batches /v1/batches/b
/v1/fine_tuning/jobs /v1/fine_tuning/jobs/j/events /v1/images/generations /v1/images/edits /v1/images/variations /v1/audio/speech
/v1/audio/transcriptions /v1/audio/translations /v1/moderations /v1/realtime /v1/realtime/sessions /v1/assistants /v1/threads
/v1/threads/t/messages /v1/vector_stores /v1/uploads /v1/containers /v1/conversations /v1/evals /v1/videos /v1/organization/usage
/v1/messages/count_tokens /v1/messages/batches /v1/messages/batches/b /v1/complete /v1/skills /v1/proxy/chat/completions
/v1beta/models /v1beta/models/gemini:generateContent /v1/engines /openai/deployments/gpt/chat/completions /v2/chat/completions
/rpc /mcp /mcp/sse /sse /ws /channels/slack/acme/main /channels/webhook/acme/x /widget/app.js /widget/ /terminal /console
/console/ /console/index.html /console/assets/app.js /tenant/v1 /tenant/v1/metrics /tenant/v1/sessions /tenant/v1/memory
/tenant/v1/files /tenant/v1/secrets /tenant/v1/tokens /tenant/v1/quota /tenant/v1/backup /tenant/v1/policy /tenant/v1/cron
/tenant/v1/usage/detail /tenant/v1/audit/0 /tenant/v1/audit/export /tenant/v1/config/schema /tenant/v2/usage
/admin /admin/ /admin/v1 /admin/v1/ /admin/v1/audit /admin/v1/config /admin/v1/secrets /admin/v1/models /admin/v1/tiers
/admin/v1/tokens /admin/v1/keys /admin/v1/operator /admin/v1/backup /admin/v1/restore /admin/v1/doctor /admin/v1/log
/admin/v1/routes /admin/v1/status /admin/v1/shutdown /admin/v1/reload /admin/v1/usage/detail /admin/v1/ratecards/default
/admin/v1/providers/sim-openai /admin/v1/providers/sim-openai/test /admin/v2/tenants /admin/v0/tenants /admin/tenants
""".split()

HABITS = """
/ /index.html /favicon.ico /robots.txt /metrics /openapi.json /openapi.yaml /swagger /swagger.json /docs /redoc /graphql /debug
/debug/pprof /debug/pprof/heap /debug/vars /debug/requests /trace /status /stats /server-status /info /version /env /config
/config.json /partywall.yaml /gateway.log /master.key /data/ /.env /.git/config /.well-known/security.txt
/.well-known/openid-configuration /.well-known/oauth-protected-resource /actuator /actuator/env /actuator/heapdump /health
/healthz/ready /health/live /health/readiness /livez /ping /login /logout /oauth/token /auth/login /sso/callback /user/info
/key/generate /key/info /key/list /team/list /spend/logs /global/spend /model/info /model/new /api /api/v1/tenants
/api/v1/models /api/tags /api/chat /api/generate /api/show /v1 /v1/ /v1/model /v1/chat /v1/chat/ /v1/embedding /v1/message
/internal /internal/tenants /_internal /_health /_cat/indices /private /test /prompts/test /mcp/test /jobs /cron /shutdown
/quit /reload /control /control.sock /sim/requests /sim/stats /sim/reset /wp-login.php /cgi-bin/sh /static/../partywall.yaml
/..%2fpartywall.yaml /%2e%2e/partywall.yaml /....//partywall.yaml /%00 /%ff /~root /;/admin /admin;/v1/tenants
""".split()


def spellings(path: str) -> Iterator[str]:
    """Other ways to write a path, which a proxy in front or a lax router would take for it."""
    first = path[1]
    yield from (f"{path}/", f"{path}//", f"/{path}", f"/.{path}", f"/x/..{path}", f"{path}/.", f"{path}/..", f"{path}/x/..")
    yield from (path.upper(), path.title(), path[:-1] + path[-1].upper(), f"/%{ord(first):02x}{path[2:]}", "/" + path[1:].replace("/", "%2f"))
    yield from (f"{path};x=1", f"{path}%00", f"{path}%20", f"{path}.", f"{path}.json", f"{path}%3fx=1", f"{path}%23", f"{path}*")
    yield from (path.replace("/", "//", 2), path.replace("/", "/./", 2), "/" + path[1:].replace("/", "\\"))
    yield from (path + "%2f", path + "%0d%0a")
    yield from (f"/api{path}", f"/admin{path}", f"/public{path}", f"/v1{path}", f"/proxy{path}", f"{path}x", path[:-1])


def is_in_table(pattern: str, path: str) -> bool:
    """Whether a line of the table stands for a path; only names of models may hold slashes. Read apart from the product's own router."""
    if pattern == path:
        # A path that spells the braces out names no object.
        return "{" not in pattern
    expression = "".join(
        (".+" if part == "{model}" else "[^/]+") if part.startswith("{") else re.escape(part)
        for part in re.split(r"(\{[a-z]+\})", pattern)
    )
    broken = re.search(r"%(?![0-9a-fA-F]{2})|%[01][0-9a-fA-F]|%7f|%[89a-fA-F][0-9a-fA-F]", path)
    return re.fullmatch(expression, path) is not None and not broken


def crawl_paths(fixtures: Iterable, known: dict[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each path once, with the methods to ask it by: all of them for the lines of the table and the surface."""
    seen: set[str] = set()

    def fresh(paths: Iterable[str], methods: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
        for path in paths:
            if path not in seen:
                seen.add(path)
                yield path, methods

    real = []
    for fixture in fixtures:
        path = fixture.path
        for name, value in known.items():
            path = path.replace(f"{{{name}}}", value)
        real.append(path)
    yield from fresh(real, METHODS)
    yield from fresh((fixture.path for fixture in fixtures), FEW)
    yield from fresh([*SURFACE, *HABITS], FEW)
    for path in real:
        yield from fresh(spellings(path), ("GET", "POST"))
