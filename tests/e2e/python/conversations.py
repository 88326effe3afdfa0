"""Conversations of tenants in the two-tenant suite: for each role one with a run, and what refers to them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from agent_client import Person, script, tool
from deployment import Gateway, eventually

TALKERS = ("admin", "member", "app")
KINDS = ("agent", "session", "run", "file")


@dataclass(frozen=True)
class Talk:
    """A session with one run of one call; nothing of it is under way."""

    session: str
    run: str
    call: str


@dataclass
class Talks:
    """The agent of a tenant, a file of its workspace, and a conversation for each role that may have one."""

    gw: Gateway
    tokens: dict[str, str]
    agent: str
    file: str
    by_role: dict[str, Talk] = field(default_factory=dict)

    def plant(self, instructions: str, said: str, written: str) -> Talks:
        admin = Person(self.gw, self.tokens["admin"])
        admin.ok("files.write", path=self.file, text=written)
        admin.agent(self.agent, "file_list", instructions=f"You work for {instructions}.")
        for role, token in self.tokens.items():
            person = Person(self.gw, token)
            session = person.session(self.agent)
            run = person.ask(session, f"Look around for {said} {script(tool('file_list'))}")
            assert said in str(person.said(session)) and run["steps"] == 2
            self.by_role[role] = Talk(session, run["id"], run["calls"][0]["id"])
        return self

    def fresh(self, kind: str, role: str) -> str:
        """A session in which nothing was said, or a file that nobody needs."""
        person = Person(self.gw, self.tokens[role])
        if kind == "session":
            return person.session(self.agent)
        path = f"spare-{secrets.token_hex(8)}"
        person.ok("files.write", path=path, text="")
        return path

    def value(self, kind: str, role: str | None) -> str:
        """What a role has of that kind; who has none is refused before it matters."""
        talk = self.by_role.get(role or "admin", self.by_role["admin"])
        return {"agent": self.agent, "session": talk.session, "run": talk.run, "file": self.file}[kind]

    @property
    def ids(self) -> set[str]:
        """Names that nobody but the tenant may know. Whoever asked for an agent finds its name in the own log, as that of a model."""
        return {id for talk in self.by_role.values() for id in (talk.session, talk.run, talk.call)}

    def settle(self) -> None:
        """Waits until nothing is under way."""
        admin = Person(self.gw, self.tokens["admin"])

        def done() -> bool:
            return all(run["ended_at"] for run in admin.ok("runs.list", limit=200)["runs"])

        eventually(done, 30, "the end of all runs")
