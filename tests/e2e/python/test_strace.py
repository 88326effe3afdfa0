"""The order of the system calls: the journal is on the disk before the bytes that carry an answer's end leave."""

from __future__ import annotations

import re
import shutil

import pytest

from deployment import Gateway, eventually
from samples import user

CALLS = "fdatasync,fsync,write,writev,sendto,sendmsg,pwrite64,pwritev,openat,close"


@pytest.fixture
def traced(sim, missing):
    if shutil.which("strace") is None:
        missing("strace is not installed")
    gateway = Gateway(sim)
    trace = gateway.directory / "trace"
    try:
        # -D: the gateway is the child and strace watches from the side, so that signals reach the gateway.
        gateway.start(wrap=["strace", "-D", "-f", "-ttt", "-yy", "-s", "100000", "-e", f"trace={CALLS}", "-o", str(trace)])
        yield gateway, trace
    except AssertionError as error:
        if "ptrace" in gateway.output() or "PTRACE" in gateway.output():
            missing(f"strace may not trace here: {gateway.output()[-200:]}")
        raise error
    finally:
        gateway.close()


def stopped(gateway: Gateway, trace) -> str:
    """The whole trace, after the gateway has ended."""
    pid = gateway.pid
    gateway.stop()
    ended = f"{pid} "
    eventually(
        lambda: any(line.startswith(ended) and "+++ exited" in line for line in trace.read_text(errors="replace").splitlines()),
        5,
        "the end of the trace",
    )
    return trace.read_text(errors="replace")


LINE = re.compile(r"^(?P<thread>\d+) +(?P<time>[\d.]+) (?P<rest>.*)$")


def events(text: str) -> list[tuple[str, str]]:
    """What was done in order: `synced` when a sync of the journal has returned, `sent` with the bytes when a write began."""
    found, syncing = [], {}
    for line in text.splitlines():
        match = LINE.match(line)
        if not match:
            continue
        thread, rest = match["thread"], match["rest"]
        if re.match(r"f(data)?sync\(", rest):
            if "/journal/" not in rest:
                continue
            if "<unfinished" in rest:
                syncing[thread] = True
            elif rest.rstrip().endswith("= 0"):
                found.append(("synced", rest))
        elif re.match(r"<\.\.\. f(data)?sync resumed", rest):
            if syncing.pop(thread, False) and rest.rstrip().endswith("= 0"):
                found.append(("synced", rest))
        elif re.match(r"(write|writev|sendto|sendmsg)\(", rest) and "TCP:" in rest:
            found.append(("sent", rest))
    return found


@pytest.mark.parametrize(
    ("path", "end"),
    [("/v1/chat/completions", '\\"finish_reason\\":\\"stop\\"'), ("/v1/messages", '\\"stop_reason\\":\\"end_turn\\"')],
)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_the_sync_returns_before_the_end_of_the_answer_is_written(traced, path, end, stream):
    gateway, trace = traced
    tenant = gateway.tenant("acme")
    # Nothing of an earlier call may be synced late and be taken for this one's.
    assert tenant.chat("First.").status_code == 200
    start = len(trace.read_text(errors="replace"))
    canary = "strace-canary"
    body = {
        "model": "sim-fast" if path == "/v1/chat/completions" else "claude-fast",
        "max_tokens": 200,
        "stream": stream,
        "messages": user(f"{canary} [[sim:chunks=4 gap=20ms]]"),
    }
    answer = tenant.post(path, body)
    assert answer.status_code == 200
    seen = events(stopped(gateway, trace)[start:])
    port = f":{gateway.port}->"
    from_here = [(kind, text) for kind, text in seen if kind == "synced" or port in text]
    ends = [index for index, (kind, text) in enumerate(from_here) if kind == "sent" and end in text]
    assert ends, "the end of the answer was not seen among the writes to the client"
    begun = [index for index, (kind, text) in enumerate(from_here) if kind == "sent" and "HTTP/1.1 200" in text]
    synced = [index for index, (kind, _) in enumerate(from_here) if kind == "synced"]
    if stream:
        # The stream flows before it: the sync lies between the head and the end.
        assert any(begun[0] < index < ends[0] for index in synced), from_here
        early = from_here[begun[0] : min(index for index in synced if index > begun[0])]
        assert any('\\"chat.completion.chunk\\"' in text or "content_block_delta" in text for _, text in early)
    else:
        assert any(index < begun[0] for index in synced), from_here


def test_the_attempt_is_written_to_the_journal_before_the_provider_sees_it(traced, sim):
    gateway, trace = traced
    tenant = gateway.tenant("acme")
    assert tenant.chat("First.").status_code == 200
    start = len(trace.read_text(errors="replace"))
    assert tenant.chat("The second.").status_code == 200
    lines = stopped(gateway, trace)[start:].splitlines()
    upstream = next(n for n, line in enumerate(lines) if f"->127.0.0.1:{sim.port}]" in line and "POST /v1/" in line)
    written = [n for n, line in enumerate(lines) if "/journal/" in line and re.search(r"\bp?write(64|v)?\(", line)]
    assert written and written[0] < upstream, "the record `sent` came after the first upstream byte"
    assert not any("sync" in line and "/journal/" in line for line in lines[:upstream]), "a sync on the way upstream"
