"""Every write, sync, rename, opening and removal that fails, or kills: what clients saw stays true, and only who must suffers.

`CRASH_COUNT` cases are drawn from all with `CRASH_SEED`; without it, as many as fit into a minute, and `CRASH_COUNT=all` takes
every one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from deployment import Gateway, eventually, price_of
from faults import INTERNALS, PASSING, SYNCS, Case, Player, Prepared, Story, cases, ended, play, sites, strace, strace_works, tracer_ended
from samples import user

COUNT = os.environ.get("CRASH_COUNT", "0")
SEED = int(os.environ.get("CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
# Names of cases as a failure prints them, with spaces between, to see one again.
CASES = os.environ.get("CRASH_CASES", "").split()
SAMPLE_SECONDS = 45


@pytest.fixture(scope="module", autouse=True)
def tracer(missing):
    why = strace_works()
    if why is not None:
        missing(why)


@pytest.fixture(scope="module")
def prepared(sim):
    made = Prepared(sim)
    yield made
    made.close()


def every_case(prepared: Prepared) -> list[Case]:
    """Counts how often each site is reached when nothing fails, and makes the cases of that."""
    every = []
    for scenario in ("standard", "rotating"):
        gateway, story = play(prepared, None, scenario)
        try:
            check(gateway, story)
            assert story.started and story.exit == 0 and story.ready_at_end, story
            assert set(story.served_at_end.values()) == {200}, story
            tracer_ended(gateway)
            counts = sites((gateway.directory / "trace").read_text(errors="replace"), gateway.data)
        finally:
            gateway.close()
        if scenario == "rotating":
            assert counts["journal", "renameat"] >= 1, "the journal did not go on in a second segment"
            counts = {site: count for site, count in counts.items() if site[0] == "journal"}
        for (group, call), count in sorted(counts.items()):
            print(f"{scenario}: {group} {call} {count}")
        every += cases(scenario, counts)
    return every


@pytest.mark.parametrize(
    "case",
    [
        # A lack of room, of a quota's or of the disk's, is no damage.
        Case("standard", "tenant", "pwrite64", 1, "EDQUOT", True),
        Case("standard", "tenant", "pwrite64", 8, "EDQUOT", True),
        Case("standard", "tenant", "pwrite64", 1, "ENOSPC", True),
        Case("standard", "tenant", "pwrite64", 8, "ENOSPC", True),
        # Nor is a lack of descriptors.
        *(Case("standard", "tenant", "openat", nth, "EMFILE") for nth in (1, 2, 3)),
        Case("standard", "folders", "openat", 2, "EMFILE"),
        Case("standard", "folders", "openat", 5, "EMFILE", True),
        # A disk that fails is: one tenant's, or everybody's.
        Case("standard", "tenant", "fsync", 2, "EIO", True),
        Case("standard", "journal", "fdatasync", 5, "EIO"),
        Case("standard", "journal", "pwrite64", 5, "EIO"),
    ],
    ids=str,
)
def test_one_fault(prepared, case):
    one(prepared, case)


def test_a_lack_of_descriptors_does_not_stop_the_journal_when_it_goes_on_in_the_next_segment(prepared):
    gateway, tenants = prepared.gateway()
    command = ["strace", "-f", "-p", "PID", "-o", "/dev/null", "-e", "trace=openat", "-e", "inject=openat:error=EMFILE:when=1+"]
    try:
        gateway.start()
        journal = gateway.data / "journal"
        eventually((journal / "spare").exists, 20, "the spare segment")
        command[command.index("PID")] = str(gateway.pid)
        attached = subprocess.Popen([*command, "-P", str(journal)], stderr=subprocess.PIPE, text=True)
        try:
            assert "attached" in attached.stderr.readline(), "strace did not attach"
            player = Player(gateway, None)
            player.story.tenants = tenants
            player.rotating()
            assert not (journal / "spare").exists(), "the journal did not go on in the spare segment"
            assert player.story.refused == [] and player.ready()
        finally:
            attached.send_signal(signal.SIGINT)
            attached.wait(10)
    finally:
        gateway.close()


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_failed_sync_of_the_journal_ends_streams_without_an_end_and_refuses_everybody(prepared, sim, dialect):
    gateway, tenants = prepared.gateway()
    try:
        failing = Case("standard", "journal", "fdatasync", 12, "EIO")
        gateway.start(wrap=strace(gateway.data, gateway.directory / "trace", failing))
        read: dict[str, str] = {}

        def stream():
            path, model = ("/v1/chat/completions", "sim-fast") if dialect == "openai" else ("/v1/messages", "claude-fast")
            body = {"model": model, "stream": True, "max_tokens": 99, "messages": user("[[sim:chunks=60 gap=50ms]]")}
            headers = {**tenants["acme"].bearer, "anthropic-version": "2023-06-01"}
            with httpx.stream("POST", gateway.url + path, json=body, headers=headers, timeout=30, trust_env=False) as answer:
                read.update(id=answer.headers["x-request-id"], text="")
                try:
                    for piece in answer.iter_text():
                        read["text"] += piece
                except httpx.TransportError:
                    read["aborted"] = "yes"

        reader = threading.Thread(target=stream)
        reader.start()
        eventually(lambda: read.get("text"), 10, "the stream")
        seen = {}
        for _ in range(40):
            answer = tenants["globex"].chat("[[sim:fixed_usage=3:4]]")
            if answer.status_code != 200:
                break
            seen[answer.headers["x-request-id"]] = answer
        assert answer.status_code == 503, "no sync of the journal failed"
        reader.join(30)
        assert not ended(read["text"], dialect, stream=True), f"an end that was not recorded: {read['text'][-300:]}"
        assert "aborted" in read or '"error"' in read["text"], f"the stream just stops: {read['text'][-300:]}"
        assert httpx.get(f"{gateway.url}/readyz", trust_env=False).status_code == 503
        before = sim.stats()["requests"]
        for tenant in tenants.values():
            for path in ("/v1/chat/completions", "/v1/messages"):
                refused = tenant.post(path, {"model": "sim-fast", "max_tokens": 9, "messages": user("Hello")})
                assert refused.status_code == 503 and refused.headers["retry-after"] == "30", refused.text
                assert (refused.json().get("type") == "error") == (path == "/v1/messages"), refused.text
        assert sim.stats()["requests"] == before, "a refused call reached the provider"
        gateway.stop(30)
        gateway.start()
        repair(gateway)
        rows = {row["request_id"]: row for row in gateway.rows()}
        assert set(seen) <= set(rows)
        assert rows[read["id"]]["outcome"] in ("unknown", "finished"), rows[read["id"]]
        for name in tenants:
            assert gateway.cli("audit", "verify", "--tenant", name).returncode == 0
    finally:
        gateway.close()


@pytest.mark.timeout(100_000)
def test_whatever_fails_what_was_seen_is_recorded_once_and_only_who_must_suffers(prepared):
    every = every_case(prepared)
    # By digest: a site that is reached once more or less than in another run moves no other case.
    every.sort(key=lambda case: sha256(f"{SEED} {case}".encode()).digest())
    chosen = [case for case in every if str(case) in CASES] if CASES else every if COUNT == "all" or int(COUNT) == 0 else every[: int(COUNT)]
    print(f"seed {SEED}, {len(chosen)} of {len(every)} cases (CRASH_SEED, CRASH_COUNT)", flush=True)
    started, failures, run = time.monotonic(), [], 0
    for case in chosen:
        if COUNT == "0" and not CASES and time.monotonic() - started > SAMPLE_SECONDS:
            break
        run += 1
        try:
            one(prepared, case)
        except AssertionError as error:
            failures.append(f"{case}\n{error}")
            print(f"FAILED {case}: {error}", flush=True)
        if run % 20 == 0:
            print(f"{run} cases, {len(failures)} failed, {time.monotonic() - started:.0f} s", flush=True)
    print(f"{run} cases in {time.monotonic() - started:.0f} s")
    assert not failures, f"seed {SEED}: {len(failures)} of {run} cases\n" + "\n\n".join(failures[:10])


def one(prepared: Prepared, case: Case) -> None:
    gateway, story = play(prepared, case, case.scenario)
    try:
        while_it_ran(gateway, story)
        check(gateway, story)
    except BaseException:
        print(f"{case}: {story}\n{gateway.output()[-1500:]}")
        if os.environ.get("CRASH_KEEP"):
            print(f"kept: {gateway.directory}")
            gateway.directory = Path("/nonexistent")
        raise
    finally:
        gateway.close()


def while_it_ran(gateway: Gateway, story: Story) -> None:
    """What clients and the operator may see of a fault while the process runs."""
    case = story.case
    errors = (gateway.directory / "stderr").read_text(errors="replace")
    assert "panicked" not in errors and "stack backtrace" not in errors, errors[-2000:]
    for status, dialect, text in story.refused:
        assert not INTERNALS.search(text), f"{status} for an outsider: {text}"
        said = json.loads(text)
        assert said["error"]["message"] and said["error"]["type"], text
        assert (said.get("type") == "error") == (dialect == "anthropic"), f"not in the caller's dialect: {text}"
        assert status in (404, 500, 503), text
    if case.error == "kill":
        assert story.exit in (0, 1, -9), story.exit
        return
    # Nobody is killed: it ends when it is told to, or says in one line why it cannot start.
    assert story.exit in (0, 1), story.exit
    if not story.started:
        return
    recording = story.ready_at_end
    assert recording is not None, "it does not answer any more"
    for who, status in story.served_at_end.items():
        if not story.ready_before_end:
            assert status == 503, f"the journal is down and {who} got {status}"
        elif not recording:
            assert status in (200, 503), f"the journal went down and {who} got {status}"
        elif who.startswith("globex") and case.group != "folders" and "globex" not in story.quarantined:
            assert status == 200, f"{who} got {status} for a fault of {case}"
        elif case.error in PASSING and not case.lasting and not story.quarantined:
            assert status == 200, f"{who} got {status} after {case} had passed"
    if not recording:
        assert case.group == "journal", f"a fault of {case} stopped the journal"
        assert case.call in ("pwrite64", *SYNCS), f"{case} stopped the journal"
    only = {"tenant": {"acme"}, "new": {"doomed"}, "folders": {"acme", "globex", "doomed"}}.get(case.group, set())
    if case.group == "journal" and case.call == "pread64":
        # A record that cannot be read back is its tenant's.
        only = {"acme", "globex"}
    assert set(story.quarantined) <= only, f"{case} put {story.quarantined} out of service"
    # The engine calls an exhausted quota a failing disk; that it was the quota shows only while it is exhausted.
    told = case.error != "EDQUOT" or case.lasting
    if case.error in PASSING and case.call not in (*SYNCS, "ftruncate") and told:
        assert not story.quarantined, f"{case}: a lack of room or descriptors says nothing about the data: {story.quarantined}"


def check(gateway: Gateway, story: Story) -> None:
    """After a start without the fault: everything opens, nothing that was seen is missing, nothing is there twice."""
    gateway.start()
    try:
        repair(gateway)
        day = datetime.now(UTC).date()
        rows = gateway.rows()
        by_attempt = Counter((row["request_id"], row["attempt"]) for row in rows)
        assert not by_attempt or max(by_attempt.values()) == 1, "an attempt has two rows"
        living = {shown["id"] for shown in gateway.json("tenants", "list")}
        entries = {name: tenant_in_order(gateway, name, [row for row in rows if row["tenant"] == name], day) for name in living}
        indexed = {row["request_id"]: row for row in rows}
        for request, (owner, tokens_in, tokens_out) in story.seen.items():
            if owner not in living and owner == "doomed":
                continue
            row = indexed.get(request)
            assert row is not None, f"{request} of {owner} was seen to its end and has no row"
            assert (row["tenant"], row["outcome"], row["tokens_in"], row["tokens_out"]) == (owner, "finished", tokens_in, tokens_out)
            assert Decimal(row["cost_usd"]) == price_of("sim-fast", tokens_in, tokens_out)
            assert entries[owner][request] == 1, f"{request}: {entries[owner][request]} audit entries"
        created = {name for name in story.tenants if name != "doomed"}
        assert created <= living, f"created and gone: {created - living}"
        assert not (story.deleted and "doomed" in living), "deleted and back again"
        for name in sorted(created):
            answer = story.tenants[name].chat("Once more.")
            assert answer.status_code == 200, f"{name} after the restart: {answer.status_code} {answer.text}"
    finally:
        gateway.kill()
    errors = (gateway.directory / "stderr").read_text(errors="replace")
    assert "panicked" not in errors, errors[-2000:]


def repair(gateway: Gateway) -> None:
    """A tenant whose store failed stays out of service; what lies on the disk is whole all the same."""
    gateway.cli("billing", "report")
    for shown in gateway.json("tenants", "list"):
        if shown["quarantined"]:
            said = gateway.json("tenants", "repair", shown["id"], "--yes")
            assert said["whole"] and said["in_place"], f"{shown['id']} was not whole: {said}"


def tenant_in_order(gateway: Gateway, name: str, rows: list[dict], day) -> Counter:
    """Its log verifies and has no gap, its quotas are its ledger. Returns how many entries each allowed request has."""
    shown = gateway.json("tenants", "show", name)
    assert shown["database"]["state"] == "ok", f"{name} after the restart: {shown['database']}"
    verified = gateway.cli("audit", "verify", "--tenant", name)
    assert verified.returncode == 0, f"{name}: {verified.stdout}{verified.stderr}"
    log = gateway.json("audit", "tail", "--tenant", name, "--limit", "100000")
    seqs = [entry["seq"] for entry in log]
    assert seqs == list(range(len(seqs))), f"{name}: entries {seqs}"
    entries = Counter(entry["request_id"] for entry in log if entry["decision"] == "allow" and entry.get("attempt"))
    assert set(entries) == {row["request_id"] for row in rows}, f"{name}: rows and entries differ"
    used = {line["name"]: line["used"] for line in gateway.json("tenants", "quota", "show", name)["quotas"]}
    charged = sum((Decimal(row["charged_usd"]) for row in rows), Decimal(0))
    if datetime.now(UTC).date() == day:
        assert Decimal(used["cost_per_day_usd"]) == charged, f"{name}: {used['cost_per_day_usd']} used, {charged} in the ledger"
    return entries
