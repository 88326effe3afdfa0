"""Agents as a client uses them: orders to the simulated model, messages, and what comes of them."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from pathlib import Path

from deployment import Gateway, Tenant, eventually
from rpc_client import call as rpc_call

TOOLS = ("exec", "file_list", "file_read", "file_search", "file_write", "python")
ENDED = ("finished", "failed", "cancelled")


def tool(name: str, arguments: str | None = None, **named) -> dict:
    """One call of a tool, as the model is to write it; `arguments` stand there as they are, JSON or not."""
    return {"name": name, "arguments": named if arguments is None else arguments}


def script(*rounds: list[dict] | dict) -> str:
    """The order to call these tools, round by round, and then to answer."""
    listed = [one if isinstance(one, list) else [one] for one in rounds]
    return f"[[sim:script={base64.urlsafe_b64encode(json.dumps(listed).encode()).rstrip(b'=').decode()}]]"


def shell(command: str, **named) -> str:
    """The order to run one command."""
    return script(tool("exec", command=command, **named))


@dataclass
class Person:
    """Somebody with a credential who talks to agents."""

    gw: Gateway
    token: str

    def call(self, method: str, **params) -> dict:
        """The whole answer; a call that came too early is made again."""
        while True:
            told = rpc_call(self.gw, self.token, method, params)
            if told.get("error", {}).get("data", {}).get("code") != "rate_limited":
                return told
            time.sleep(told["error"]["data"]["retry_after_ms"] / 1_000)

    def ok(self, method: str, **params) -> dict:
        told = self.call(method, **params)
        assert "result" in told, told
        return told["result"]

    def no(self, method: str, **params) -> str:
        """The name of the refusal."""
        told = self.call(method, **params)
        assert "error" in told, told
        return told["error"]["data"]["code"]

    def wrong(self, method: str, **params) -> str:
        """The member that is refused."""
        data = self.call(method, **params)["error"]["data"]
        assert data["code"] == "invalid_params", data
        return data["field"]

    def nothing(self, method: str, **params) -> dict:
        """A refusal without what differs between any two of the same."""
        error = self.call(method, **params)["error"]
        assert error["data"].pop("request_id")
        return error

    def agent(self, name: str, *tools: str, **settings) -> dict:
        return self.ok("agents.set", name=name, tools=list(tools), **{"model": "sim-fast", **settings})

    def session(self, agent: str | None = None, **options) -> str:
        named = {"agent": agent} if agent else {"model": "sim-fast"}
        return self.ok("sessions.create", **named, **options)["id"]

    def send(self, session: str, message: str, **options) -> str:
        return self.ok("sessions.send", id=session, message=message, **options)["run"]

    def run(self, id: str) -> dict:
        return self.ok("runs.get", id=id)

    def comes_to(self, run: str, *states: str, seconds: float = 20) -> dict:
        """The run once it stands there; one that ended otherwise is a failure at once."""

        def probe():
            found = self.run(run)
            assert found["state"] in states or found["state"] not in ENDED, found
            return found if found["state"] in states else None

        return eventually(probe, seconds, f"{run} {states}")

    def ends(self, run: str, seconds: float = 20) -> dict:
        return self.comes_to(run, *ENDED, seconds=seconds)

    def ask(self, session: str, message: str, **options) -> dict:
        """Sends and waits for the run to finish."""
        return self.comes_to(self.send(session, message, **options), "finished")

    def history(self, session: str) -> list[dict]:
        """All messages with their places, page by page."""
        found, after = [], 0
        while page := self.ok("chat.history", id=session, after=after, limit=200)["messages"]:
            found += page
            after = page[-1]["seq"]
        return found

    def said(self, session: str, role: str | None = None, run: str | None = None) -> list:
        """What was said, as text; calls of tools stand there as None."""
        return [
            one["message"]["content"]
            for one in self.history(session)
            if role in (None, one["message"]["role"]) and run in (None, one["run"])
        ]

    def results(self, session: str, run: str | None = None) -> list[str]:
        """What the tools returned to the model, in order."""
        return self.said(session, "tool", run)


def person(gw: Gateway, tenant: Tenant, name: str, role: str, *options: str) -> Person:
    return Person(gw, gw.issue(tenant, name, role, *options))


def workspace(tenant: Tenant) -> Path:
    """Where the programs and file tools of a tenant work."""
    return tenant.directory / "sandbox" / "work"
