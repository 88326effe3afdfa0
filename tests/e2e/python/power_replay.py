"""Replays of one recorded run: a power cut at a drawn moment, what it leaves drawn as well, and a gateway started on that."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore

from deployment import eventually
from power_check import Survivor, examine
from power_claims import NEVER, Claims
from power_disk import Disk, Draw
from power_scenario import Recording
from power_trace import STRACE, Reader, is_ended

# Memory takes no power cuts, and a replay's own syncs cost nothing there.
SHELF = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
WORKERS = max(1, min(4, os.cpu_count() or 1))
# Every fifth survivor is ended and started again: what the first start repaired must stay so.
TWICE_EVERY = 5
# What is shown of one violation: a tenant in quarantine breaks hundreds of promises.
SHOWN = 8


@dataclass
class Violation:
    """A promise that a power cut broke."""

    number: int
    cut: int
    fate: str
    found: list[str]

    def __str__(self) -> str:
        shown = [text[:600] for text in self.found[:SHOWN]] + [f"and {len(self.found) - SHOWN} more"] * (len(self.found) > SHOWN)
        lines = "\n".join(f"    {text}" for text in shown)
        return f"replay {self.number}, cut before event {self.cut}, {self.fate}:\n{lines}"


def cuts(recording: Recording, claims: Claims, count: int, seed: int) -> dict[int, int]:
    """For each replay the number of events that happened before its cut."""
    events = recording.events
    # Zeros for a spare segment are most of the writes, and one is as another.
    plain = [n for n in range(recording.begin, len(events)) if not (events[n].kind == "write" and events[n].path == "journal/spare.new")]
    syncs = [n for n in plain if events[n].kind == "sync" and events[n].path != "journal/spare.new"]
    told = [call.ended for call in claims.calls] + [call.refused for call in claims.calls]
    told += [operation.ended for operation in claims.operations]
    told = [number for number in told if recording.begin <= number < NEVER]
    drawn = {}
    for number in range(count):
        source = random.Random(f"cut {seed} {number}")
        kind = source.random()
        if kind < 0.3:
            cut = source.choice(plain)
        elif kind < 0.65:
            cut = source.choice(syncs) + source.randint(-3, 3)
        else:
            # The moment after a client was told something.
            cut = source.choice(told) + source.randint(1, 3)
        drawn[number] = max(recording.begin, min(cut, len(events)))
    return drawn


class Replays:
    """Many replays of one recording, a few at a time."""

    def __init__(self, recording: Recording, seed: int, deaf: Callable[[str], bool] = lambda _: False):
        self.recording, self.seed, self.deaf = recording, seed, deaf
        self.claims = Claims(recording.events)
        self.violations: list[Violation] = []
        self.done = 0
        self._began = time.monotonic()
        self._room = BoundedSemaphore(WORKERS * 2)

    def run(
        self, drawn: dict[int, int], draw: Callable[[random.Random, int], Draw] = Draw.drawn, most: int = 10, every: int = 100
    ) -> list[Violation]:
        """Carries the replays out, in the order of their cuts; ends early after so many violations."""
        shelf = Path(tempfile.mkdtemp(prefix="partywall-cut-", dir=SHELF))
        disk = Disk(self.deaf)
        try:
            with ThreadPoolExecutor(WORKERS) as pool:
                for number, cut in sorted(drawn.items(), key=lambda pair: (pair[1], pair[0])):
                    while disk.next < cut:
                        disk.take(self.recording.events[disk.next])
                    if len(self.violations) >= most:
                        break
                    self._room.acquire()
                    fate = draw(random.Random(f"fate {self.seed} {number}"), cut)
                    try:
                        image = disk.power_cut(fate)
                        image.lay(shelf / str(number))
                    except BaseException:
                        self._room.release()
                        raise
                    old = [
                        f"{operation.tenant}: keys that {operation.name} destroyed are in the registry's log"
                        for operation, freed in self.claims.destroyed
                        if operation.ended < cut and image.oldest("registry.db-wal") < freed
                    ]
                    pool.submit(self._one, shelf / str(number), number, cut, fate, old, every).add_done_callback(self._ended)
        finally:
            shutil.rmtree(shelf, ignore_errors=True)
        return self.violations

    def _one(self, data: Path, number: int, cut: int, fate: Draw, found: list[str], every: int) -> None:
        found = found + examine(data, self.recording.environment, self.claims, cut, number % TWICE_EVERY == 0)
        shutil.rmtree(data, ignore_errors=True)
        if found:
            told = f"{fate.fate}, names {fate.names}, units of {fate.unit}"
            self.violations.append(Violation(number, cut, told, found))
            print(self.violations[-1], flush=True)
        self.done += 1
        if self.done % every == 0:
            spent = time.monotonic() - self._began
            print(f"{self.done} replays in {spent:.0f} s, {len(self.violations)} violations", flush=True)

    def _ended(self, future) -> None:
        self._room.release()
        future.result()


def second_cuts(recording: Recording, claims: Claims, first: int, seed: int, count: int) -> list[str]:
    """Cuts the power once, records the gateway that is started on what is left, and cuts the power again while it repairs that."""
    source = random.Random(f"second {seed} {first}")
    disk = Disk()
    while disk.next < first:
        disk.take(recording.events[disk.next])
    image = disk.power_cut(Draw.drawn(source, first))
    shelf = Path(tempfile.mkdtemp(prefix="partywall-cut-", dir=SHELF))
    try:
        image.lay(shelf / "first")
        trace = shelf / "trace"
        survivor = Survivor(shelf / "first", recording.environment, [*STRACE, "-o", str(trace)])
        try:
            if survivor.address is None:
                return [f"the gateway does not start: {survivor.said()}"]
            # A report opens every tenant.
            survivor.ask("billing.report", tenant=None, **{"from": None, "to": None}, detail=True)
        finally:
            survivor.close()
        eventually(lambda: is_ended(trace, survivor.process.pid), 60, "the end of the trace")
        events = Reader(shelf / "first").read(trace).finished()
        plain = [n for n, event in enumerate(events) if event.path not in ("journal/spare.new", "gateway.log")]
        disk, found = Disk.after(image), []
        for number, cut in enumerate(sorted(source.choices(plain, k=count))):
            while disk.next < cut:
                disk.take(events[disk.next])
            disk.power_cut(Draw.drawn(source, cut)).lay(shelf / str(number))
            wrong = examine(shelf / str(number), recording.environment, claims, first, twice=False)
            shutil.rmtree(shelf / str(number), ignore_errors=True)
            found += [f"first cut before {first}, second before {cut} of {len(events)}: {text[:600]}" for text in wrong[:SHOWN]]
        return found
    finally:
        shutil.rmtree(shelf, ignore_errors=True)
