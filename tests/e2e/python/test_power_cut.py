"""A power cut at any moment, on a disk that drops, keeps and reorders what was not synced: what clients were told still holds.

One run of the real gateway is recorded with its system calls. Each replay cuts the power before one of them, draws what the disk kept
of everything that was not synced, and starts the gateway on that. `CRASH_COUNT` sets how many replays there are, `CRASH_SEED` repeats
their draws; a run with violations keeps its recording, and `CRASH_RECORDING` and `CRASH_ONLY` repeat single replays on it.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest

from power_claims import NEVER, Claims
from power_disk import Disk, Draw
from power_replay import Replays, Violation, cuts, second_cuts
from power_scenario import Recording, recorded

COUNT = int(os.environ.get("CRASH_COUNT", "110"))
SEED = int(os.environ.get("CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
ONLY = [int(number) for number in os.environ.get("CRASH_ONLY", "").split(",") if number]
KEPT = os.environ.get("CRASH_RECORDING", "")
# The first test that asks for the recorded run waits for it.
pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def recording(sim, missing) -> Recording:
    if KEPT:
        return Recording.kept(Path(KEPT))
    if shutil.which("strace") is None:
        missing("strace is not installed")
    try:
        return recorded(sim, SEED)
    except AssertionError as error:
        if "ptrace" in str(error).lower():
            missing(f"strace may not trace here: {str(error)[-200:]}")
        raise


@pytest.fixture(scope="module")
def claims(recording) -> Claims:
    return Claims(recording.events)


def kept(recording: Recording, violations: list[Violation]) -> str:
    """Keeps the recording and says how to see one violation again."""
    path = Path(KEPT) if KEPT else Path(tempfile.gettempdir()) / f"partywall-power-cut-{SEED}.recording"
    if not KEPT:
        recording.keep(path)
    lines = "\n".join(str(violation) for violation in violations)
    again = f"CRASH_RECORDING={path} CRASH_SEED={SEED} CRASH_COUNT={COUNT} CRASH_ONLY={violations[0].number}"
    return f"{lines}\n{len(violations)} violations with seed {SEED}; again: {again} python -m pytest {Path(__file__).name}"


def test_the_recorded_run_has_everything_in_it(recording, claims):
    done = {operation.name for operation in claims.operations if operation.ended < NEVER}
    changed = {"tenants.create", "tenants.delete", "tenants.quota.set", "tenants.freeze", "tenants.resume", "tenants.suspend"}
    changed |= {f"tenants.token.{what}" for what in ("issue", "rotate", "revoke")}
    changed |= {"secrets.set", "secrets.delete", "secrets.rotate", "audit.checkpoint", "audit.rotate_key", "billing.report"}
    assert changed <= done
    ended = [call for call in claims.calls if call.ended < NEVER]
    assert len(ended) > 400 and sum(call.refused < NEVER for call in claims.calls) > 10
    assert all(claims.calls[0].begun < call.upstream < call.ended for call in ended)
    assert any(call.upstream < NEVER and call.ended == NEVER for call in claims.calls), "no attempt was under way at the kill"
    renamed = [event.to for event in recording.events if event.kind == "rename"]
    assert "journal/0003" in renamed, "the journal did not go on into a second segment"


@pytest.mark.timeout(max(280, COUNT * 3))
def test_what_clients_were_told_survives_a_power_cut(recording, claims):
    drawn = {number: cut for number, cut in cuts(recording, claims, COUNT, SEED).items() if not ONLY or number in ONLY}
    print(f"seed {SEED}, {len(drawn)} replays of {len(recording.events)} events (CRASH_SEED, CRASH_COUNT)", flush=True)
    violations = Replays(recording, SEED).run(drawn)
    assert not violations, kept(recording, violations)
    print(f"{len(drawn)} power cuts, no violation", flush=True)


@pytest.mark.timeout(max(280, COUNT))
def test_a_second_power_cut_during_the_repair_takes_nothing_more(recording, claims):
    firsts = list(cuts(recording, claims, max(2, COUNT // 50), SEED + 1).values())
    print(f"seed {SEED}, second cuts after {len(firsts)} first ones", flush=True)
    found = [text for first in firsts for text in second_cuts(recording, claims, first, SEED, 5)]
    assert not found, "\n".join([*found, f"with seed {SEED}"])


def everything_lost(source: random.Random, now: int) -> Draw:
    return Draw(source, now, "none", "in order")


# What lies about its syncs, and the moments at which that shows: just after a client was told something that rests on them.
LIES = {
    "the journal": (
        lambda path: path.startswith("journal/0"),
        lambda claims: [call.ended for call in claims.calls if call.ended < NEVER][300:302],
    ),
    "the registry": (
        lambda path: path.startswith("registry.db"),
        lambda claims: [o.ended for o in claims.operations if o.name in ("tenants.token.rotate", "tenants.quota.set")][:2],
    ),
    "tenants' databases": (
        lambda path: path.endswith(("tenant.db", "tenant.db-wal")),
        lambda claims: [o.ended for o in claims.operations if o.name in ("secrets.set", "audit.rotate_key")][:2],
    ),
    "the names in directories": (
        lambda path: path in ("", "journal", "tenants") or path.count("/") == 1 and path.startswith("tenants/"),
        lambda claims: [o.ended for o in claims.operations if o.name == "tenants.create"][:2],
    ),
}


@pytest.mark.parametrize("what", LIES)
def test_a_disk_that_lies_about_its_syncs_is_found_out(recording, claims, what, capsys):
    deaf, moments = LIES[what]
    cut = {number: moment + 1 for number, moment in enumerate(moments(claims))}
    assert cut
    violations = Replays(recording, SEED, deaf).run(cut, everything_lost)
    capsys.readouterr()
    assert {violation.number for violation in violations} == cut.keys(), "a promise held that nothing kept"


def test_keys_that_were_destroyed_do_not_come_back(recording, claims):
    assert {operation.name for operation, _ in claims.destroyed} == {"tenants.delete", "secrets.rotate"}
    disk = Disk()
    for operation, freed in sorted(claims.destroyed, key=lambda pair: pair[0].ended):
        while disk.next <= operation.ended:
            disk.take(recording.events[disk.next])
        for number in range(100):
            image = disk.power_cut(Draw.drawn(random.Random(f"destroyed {SEED} {number}"), disk.next))
            assert image.oldest("registry.db-wal") > freed, f"{operation.name}: draw {number} of seed {SEED} brings its keys back"
