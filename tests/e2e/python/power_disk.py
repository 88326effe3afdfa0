"""A disk that loses power: what of a recorded run may be on it, at any moment.

Per file, what was written since the last completed sync of that file is volatile, sector by sector, and so is a change of its size.
A directory's entries are volatile until a completed sync of that directory. A cut keeps of each volatile sector any one of its states
since the last sync: a state that once was in the page cache, but not necessarily the last, and none has to do with another sector's.
Sectors themselves are whole: 512 bytes are old or new.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from power_trace import Event, Unmodelled

SECTOR = 512
PAGE = 4096
ZERO = bytes(SECTOR)
LONG_AGO = -1

# Content of one sector and the number of the event that made it.
State = tuple[int, bytes]


class File:
    """One file: what is surely on the disk, what may be, and what a running process sees."""

    def __init__(self) -> None:
        self.durable: dict[int, State] = {}
        self.volatile: dict[int, list[State]] = {}
        self.now: dict[int, bytes] = {}
        self.durable_size = 0
        self.size = 0
        # Sizes since the last sync: the event, the size, and whether what lay beyond it was cut off.
        self.sizes: list[tuple[int, int, bool]] = []

    def write(self, number: int, offset: int | None, data: bytes) -> None:
        at = self.size if offset is None else offset
        end = at + len(data)
        if not data:
            return
        for sector in range(at // SECTOR, (end - 1) // SECTOR + 1):
            start = sector * SECTOR
            first, last = max(at, start), min(end, start + SECTOR)
            before = self.now.get(sector, ZERO)
            state = before[: first - start] + data[first - at : last - at] + before[last - start :]
            if state == ZERO and sector not in self.now and sector not in self.durable and sector not in self.volatile:
                continue
            self.now[sector] = state
            self.volatile.setdefault(sector, []).append((number, state))
        if end > self.size:
            self.size = end
            self.sizes.append((number, end, False))

    def resize(self, number: int, size: int, cuts: bool) -> None:
        if size < self.size and cuts:
            for sector in [sector for sector in self.now if sector * SECTOR >= size]:
                del self.now[sector]
            if size % SECTOR and size // SECTOR in self.now:
                whole = self.now[size // SECTOR]
                left = whole[: size % SECTOR] + bytes(SECTOR - size % SECTOR)
                self.now[size // SECTOR] = left
                self.volatile.setdefault(size // SECTOR, []).append((number, left))
            self.size = size
            self.sizes.append((number, size, True))
        elif size > self.size:
            self.size = size
            self.sizes.append((number, size, False))

    def sync(self, begun: int, flying: tuple[int, ...] = ()) -> None:
        """Everything that happened before the event `begun` is on the disk, but for what had not returned by then."""

        def covered(changes: list) -> int:
            return max((n + 1 for n, change in enumerate(changes) if change[0] < begun and change[0] not in flying), default=0)

        done = covered(self.sizes)
        for number, size, cut in self.sizes[:done]:
            if cut:
                self._cut_durable(number, size)
            self.durable_size = size
        self.sizes = self.sizes[done:]
        for sector, states in list(self.volatile.items()):
            done = covered(states)
            if done:
                self.durable[sector] = states[done - 1]
            if done == len(states):
                del self.volatile[sector]
            else:
                self.volatile[sector] = states[done:]

    def _cut_durable(self, number: int, size: int) -> None:
        for sector in [sector for sector in self.durable if sector * SECTOR >= size]:
            del self.durable[sector]
        for sector in [sector for sector in self.volatile if sector * SECTOR >= size]:
            later = [state for state in self.volatile[sector] if state[0] > number]
            if later:
                self.volatile[sector] = later
            else:
                del self.volatile[sector]

    def after_power_cut(self, draw: Draw) -> tuple[int, dict[int, State]]:
        """A size and the sectors below it that are not zero."""
        chosen = draw.of_sizes(self.sizes)
        size = self.durable_size if chosen < 0 else self.sizes[chosen][1]
        # A cut that is on the disk took the old blocks with it; after one that is not, new blocks belong to no file.
        since, until, floor = LONG_AGO, None, None
        for index, (number, length, cut) in enumerate(self.sizes):
            if cut and index <= chosen:
                since, floor = number, length if floor is None else min(floor, length)
            elif cut:
                until = number if until is None else until
        sectors: dict[int, State] = {}
        for sector in self.durable.keys() | self.volatile.keys():
            if sector * SECTOR >= size:
                continue
            cut_off = floor is not None and sector * SECTOR >= floor
            base = None if cut_off else self.durable.get(sector)
            states = [
                state
                for state in self.volatile.get(sector, ())
                if (not cut_off or state[0] > since) and (until is None or state[0] < until)
            ]
            kept = draw.of_states(sector, states) if states else -1
            state = base if kept < 0 else states[kept]
            if state is not None and state[1] != ZERO:
                sectors[sector] = state
        return size, sectors


class Directory:
    """One directory: its entries as they are surely on the disk, and as a running process sees them."""

    def __init__(self) -> None:
        self.durable: dict[str, Node] = {}
        self.now: dict[str, Node] = {}


Node = File | Directory


@dataclass(slots=True)
class Change:
    """One operation on names: all of it is on the disk, or none."""

    number: int
    edits: list[tuple[Directory, str, Node | None]]


@dataclass
class Draw:
    """What one power cut keeps. Each file may fare differently, because each lies elsewhere on the disk."""

    random: random.Random
    now: int
    fate: str = "all"
    names: str = "any"  # "any" subset of unsynced operations on names, or a prefix of them "in order"
    unit: int = SECTOR
    _pages: dict[int, float] = field(default_factory=dict)
    _since: int = 0
    _share: float = 0.5

    FATES = ("none", "all", "some", "early", "late", "torn", "mixed")

    @staticmethod
    def drawn(source: random.Random, now: int) -> Draw:
        fate = source.choices(Draw.FATES, weights=(3, 2, 5, 2, 3, 3, 4))[0]
        return Draw(source, now, fate, source.choice(("any", "in order")), source.choice((SECTOR, PAGE)))

    def of_file(self, file: File) -> tuple[int, dict[int, State]]:
        """What is left of one file."""
        fate = self.fate
        if fate == "mixed":
            self.fate = self.random.choice(self.FATES[:-1])
        self._pages.clear()
        numbers = [number for states in file.volatile.values() for number, _ in states]
        self._since = self.random.choice(numbers) if numbers else 0
        self._last = max(numbers, default=0)
        self._share = self.random.choice((0.1, 0.5, 0.9))
        try:
            return file.after_power_cut(self)
        finally:
            self.fate = fate

    def of_sizes(self, sizes: list) -> int:
        if not sizes or self.fate == "none":
            return -1
        return len(sizes) - 1 if self.fate in ("all", "torn") else self.random.randrange(-1, len(sizes))

    def of_states(self, sector: int, states: list[State]) -> int:
        """Which of a sector's states is on the disk; -1 for the one before all of them."""
        last = len(states) - 1
        if self.fate == "none":
            return -1
        if self.fate == "all":
            return last
        if self.fate == "early":
            return max((index for index, state in enumerate(states) if state[0] <= self._since), default=-1)
        luck = self._luck(sector)
        if self.fate == "late":
            # What was written last got there, what came before it did not.
            return last if states[last][0] >= self._since else -1
        if self.fate == "torn":
            # Everything but the last write, and of that a part.
            return last if states[last][0] != self._last or luck < 0.5 else last - 1
        return int(luck / self._share * len(states)) if luck < self._share else -1

    def _luck(self, sector: int) -> float:
        page = sector * SECTOR // self.unit
        if page not in self._pages:
            self._pages[page] = self.random.random()
        return self._pages[page]

    def of_names(self, changes: list[Change], floor: int) -> list[Change]:
        if self.fate in ("none", "all") or not changes:
            return changes if self.fate == "all" else [change for change in changes if self.names != "any" and change.number < floor]
        if self.names == "any":
            return [change for change in changes if self.random.random() < 0.5]
        least = sum(change.number < floor for change in changes)
        return changes[: self.random.randint(least, len(changes))]


@dataclass
class Image:
    """What is left after a power cut: a tree to be laid down somewhere."""

    directories: list[str] = field(default_factory=list)
    files: dict[str, tuple[int, dict[int, State]]] = field(default_factory=dict)

    def lay(self, root: Path) -> None:
        """Writes it below a directory that must not exist."""
        root.mkdir(mode=0o700)
        for name in self.directories:
            (root / name).mkdir(mode=0o700)
        for name, (size, sectors) in self.files.items():
            handle = os.open(root / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.ftruncate(handle, size)
                for start, data in runs(sectors):
                    os.pwrite(handle, data[: size - start], start)
            finally:
                os.close(handle)

    def oldest(self, name: str) -> int:
        """The number of the event that made the oldest sector of a file."""
        _, sectors = self.files.get(name, (0, {}))
        return min((number for number, _ in sectors.values()), default=1 << 62)


def runs(sectors: dict[int, State]):
    """Sectors that lie together, in one piece each."""
    start, pieces = -1, []
    for sector in sorted(sectors):
        if pieces and sector != start + len(pieces):
            yield start * SECTOR, b"".join(pieces)
            pieces = []
        if not pieces:
            start = sector
        pieces.append(sectors[sector][1])
    if pieces:
        yield start * SECTOR, b"".join(pieces)


class Disk:
    """The data directory's disk. Takes the events of a run in their order; at each point it says what a power cut may leave."""

    def __init__(self, deaf: Callable[[str], bool] = lambda _: False):
        """`deaf` names the files whose syncs are taken for done and are not."""
        self.root = Directory()
        self.changes: list[Change] = []
        self.next = 0
        self.deaf = deaf
        # In a file system that keeps the order of names everything before this event is on the disk.
        self.floor = 0

    @staticmethod
    def after(image: Image) -> Disk:
        """The disk that a gateway meets which is started on what a power cut left."""
        disk = Disk()
        for path in image.directories:
            directory, name = disk._place(path)
            directory.now[name] = directory.durable[name] = Directory()
        for path, (size, sectors) in image.files.items():
            directory, name = disk._place(path)
            file = File()
            file.size = file.durable_size = size
            file.now = {sector: state for sector, (_, state) in sectors.items()}
            file.durable = {sector: (LONG_AGO, state) for sector, (_, state) in sectors.items()}
            directory.now[name] = directory.durable[name] = file
        return disk

    def take(self, event: Event) -> None:
        number, self.next = self.next, self.next + 1
        act = getattr(self, f"_{event.kind}", None)
        if act:
            act(number, event)

    def power_cut(self, draw: Draw) -> Image:
        kept: dict[Directory, dict[str, Node]] = {}
        for change in draw.of_names(self.changes, self.floor):
            for directory, name, node in change.edits:
                entries = kept.setdefault(directory, dict(directory.durable))
                if node is None:
                    entries.pop(name, None)
                else:
                    entries[name] = node
        image = Image()
        laid: dict[File, tuple[int, dict[int, State]]] = {}

        def walk(directory: Directory, at: str) -> None:
            for name, node in sorted(kept.get(directory, directory.durable).items()):
                if isinstance(node, Directory):
                    image.directories.append(at + name)
                    walk(node, f"{at}{name}/")
                else:
                    if node not in laid:
                        laid[node] = draw.of_file(node)
                    image.files[at + name] = laid[node]

        walk(self.root, "")
        return image

    # Finding things.

    def _directory(self, path: str) -> Directory:
        here = self.root
        for name in filter(None, path.split("/")):
            here = here.now.get(name)
            if not isinstance(here, Directory):
                raise Unmodelled(f"{path} is not a directory that was seen to be made")
        return here

    def _place(self, path: str) -> tuple[Directory, str]:
        parent, _, name = path.rpartition("/")
        return self._directory(parent), name

    def _file(self, path: str) -> File:
        directory, name = self._place(path)
        node = directory.now.get(name)
        if not isinstance(node, File):
            raise Unmodelled(f"{path} is not a file that was seen to be made")
        return node

    def _edit(self, number: int, *edits: tuple[Directory, str, Node | None]) -> None:
        for directory, name, node in edits:
            if node is None:
                directory.now.pop(name, None)
            else:
                directory.now[name] = node
        self.changes.append(Change(number, list(edits)))

    # What happens.

    def _create(self, number: int, event: Event) -> None:
        directory, name = self._place(event.path)
        node = directory.now.get(name)
        if node is None:
            self._edit(number, (directory, name, File()))
        elif event.cuts:
            node.resize(number, 0, cuts=True)

    def _given(self, number: int, event: Event) -> None:
        """A file that somebody else laid down and synced."""
        parent = self.root
        *above, name = event.path.split("/")
        for part in above:
            parent = parent.now.setdefault(part, Directory())
        directory = self.root
        for part in above:
            directory.durable.setdefault(part, directory.now[part])
            directory = directory.now[part]
        file = File()
        file.write(number, 0, event.data)
        file.sync(number + 1)
        directory.now[name] = directory.durable[name] = file

    def _mkdir(self, number: int, event: Event) -> None:
        directory, name = self._place(event.path)
        self._edit(number, (directory, name, Directory()))

    def _unlink(self, number: int, event: Event) -> None:
        directory, name = self._place(event.path)
        if name in directory.now:
            self._edit(number, (directory, name, None))

    _rmdir = _unlink

    def _rename(self, number: int, event: Event) -> None:
        (source, old), (target, new) = self._place(event.path), self._place(event.to)
        self._edit(number, (source, old, None), (target, new, source.now[old]))

    def _write(self, number: int, event: Event) -> None:
        self._file(event.path).write(number, event.offset, event.data)

    def _size(self, number: int, event: Event) -> None:
        self._file(event.path).resize(number, event.size, event.cuts)

    def _sync(self, number: int, event: Event) -> None:
        if self.deaf(event.path):
            return
        directory, name = self._place(event.path) if event.path else (self.root, "")
        node = directory.now.get(name) if name else self.root
        if isinstance(node, File):
            node.sync(event.begun, event.flying)
        elif isinstance(node, Directory):
            self._sync_directory(node, event.begun)

    def _sync_directory(self, directory: Directory, begun: int) -> None:
        left = []
        for change in self.changes:
            if change.number < begun and any(edited is directory for edited, _, _ in change.edits):
                for edited, name, node in change.edits:
                    if node is None:
                        edited.durable.pop(name, None)
                    else:
                        edited.durable[name] = node
            else:
                left.append(change)
        self.changes = left
        self.floor = max(self.floor, begun)
