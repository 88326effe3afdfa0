"""`partywall demo`: what it prints must work as it stands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time

import httpx
import pytest

from deployment import PARTYWALL, eventually


class Demo:
    def __init__(self, directory, *arguments: str):
        self.data = directory / "demo"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PARTYWALL_")}
        self.process = subprocess.Popen(
            [PARTYWALL, "demo", "--data", self.data, "--listen", "127.0.0.1:0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=environment,
            text=True,
            cwd=directory,
        )
        self.text = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.text += line

    def ready(self, mark: str):
        eventually(lambda: mark in self.text or self.process.poll() is not None, 20, "the greeting")
        assert self.process.poll() is None, self.process.stderr.read()
        return self

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    running = Demo(tmp_path_factory.mktemp("demo"))
    try:
        yield running.ready("Ctrl-C")
    finally:
        running.stop()


def commands(text: str, program: str) -> list[str]:
    """The lines to paste, their continuations joined by the shell itself."""
    return re.findall(rf"^ *({program} (?:.*\\\n)*.*)$", text, re.MULTILINE)


def paste(command: str, **options) -> str:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, **options)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def tokens(text: str) -> dict[str, str]:
    return dict(re.findall(r"tenant (\w+) +(tk_\S+)", text))


def test_it_says_that_answers_are_simulated_and_prints_both_tokens(demo):
    assert "SIMULATED" in demo.text and "FICTITIOUS" in demo.text
    assert set(tokens(demo.text)) == {"acme", "globex"}
    assert re.search(r"pk_[0-9a-f]{32}\b", demo.text)


def test_the_curl_lines_stream_an_answer_when_they_are_pasted(demo):
    lines = commands(demo.text, "curl")
    assert len(lines) == 2
    openai, anthropic = (paste(line) for line in lines)
    pieces = [json.loads(line[6:]) for line in openai.splitlines() if line.startswith("data: {")]
    text = "".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces)
    assert "What is a party wall?" in text and "simulated" in text and openai.rstrip().endswith("data: [DONE]")
    assert "event: message_start" in anthropic and anthropic.rstrip().splitlines()[-2] == "event: message_stop"


def test_the_python_lines_work_when_they_are_pasted(demo):
    import sys

    blocks = re.findall(r"^ *(import (?:openai|anthropic);.*)\n *(print\(.*)$", demo.text, re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", "\n".join(block)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "simulated answer" in done.stdout, done.stderr


def test_the_commands_that_it_names_show_the_call_of_its_tenant_only(demo):
    url = re.search(r"API +(http://\S+)", demo.text)[1]
    for tenant, token in tokens(demo.text).items():
        body = {"model": "sim-fast", "messages": [{"role": "user", "content": f"I am {tenant}"}]}
        answer = httpx.post(f"{url}/chat/completions", json=body, headers={"x-api-key": token}, trust_env=False)
        assert answer.status_code == 200
    named = commands(demo.text, "partywall")
    assert len(named) == 3
    path = {**os.environ, "PATH": f"{PARTYWALL.parent}:{os.environ['PATH']}"}
    for line in named:
        shown = paste(line, env=path, cwd=demo.data.parent)
        assert shown
        if "--tenant acme" in line:
            assert "acme" in shown and "globex" not in shown
    rows = json.loads(paste(f"{PARTYWALL} billing report --detail --format json --data {demo.data}"))
    assert {row["tenant"] for row in rows} == {"acme", "globex"} and all(row["cost_usd"] for row in rows)
    seen = httpx.get(f"{url.removesuffix('/v1')}/tenant/v1/usage", headers={"x-api-key": tokens(demo.text)["globex"]}, trust_env=False)
    assert "globex" in seen.text and "acme" not in seen.text


def test_every_simulated_model_answers(demo):
    url = re.search(r"API +(http://\S+)", demo.text)[1]
    headers = {"x-api-key": tokens(demo.text)["acme"]}
    names = {model["id"] for model in httpx.get(f"{url}/models", headers=headers, trust_env=False).json()["data"]}
    assert len(names) >= 5 and {"sim-fast", "sim-large", "sim-reasoning", "sim-embed"} <= names
    for name in names:
        path, body = "chat/completions", {"model": name, "messages": [{"role": "user", "content": "Hi"}]}
        if "embed" in name:
            path, body = "embeddings", {"model": name, "input": "Hi"}
        answer = httpx.post(f"{url}/{path}", json=body, headers=headers, trust_env=False)
        assert answer.status_code == 200, (name, answer.text)


def test_a_second_demo_on_the_same_directory_is_refused(demo):
    second = Demo(demo.data.parent)
    assert second.process.wait(20) == 1
    assert len(second.process.stderr.read().splitlines()) == 1


def test_sigterm_lets_an_open_stream_end_and_a_restart_keeps_the_ledger(tmp_path):
    running = Demo(tmp_path, "--json").ready("}")
    facts = json.loads(running.text)
    url, token = f"http://{facts['listen']}", facts["tokens"]["acme"]
    order = "[[sim:chunks=20 gap=75ms]] drain"
    body = {"model": "sim-fast", "stream": True, "messages": [{"role": "user", "content": order}]}
    received = ""
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers={"x-api-key": token}, trust_env=False) as answer:
        for piece in answer.iter_text():
            if not received:
                running.process.send_signal(signal.SIGTERM)
                stopped = time.monotonic()
            received += piece
    assert received.rstrip().endswith("data: [DONE]"), "the open stream was cut"
    assert running.process.wait(10) == 0 and time.monotonic() - stopped < 10
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/healthz", timeout=2, trust_env=False)
    again = Demo(tmp_path, "--json").ready("}")
    try:
        fresh = json.loads(again.text)
        assert fresh["tokens"]["acme"] != token and fresh["operator_key"] is None
        rows = json.loads(paste(f"{PARTYWALL} billing report --detail --format json --tenant acme --data {again.data}"))
        assert len(rows) == 1 and rows[0]["outcome"] == "finished"
    finally:
        assert again.stop() == 0
