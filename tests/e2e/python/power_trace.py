"""What `strace` saw a process do to its files and sockets, as one list of events in one order.

A write counts from its call on: from then on the disk may have it. A sync counts at its return, and covers what was called before it
began. What is said to a socket counts from its call on, and what came from one at its return. So the order errs, where two threads
overlap, on the side that promises less.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

# Everything that changes a file or a directory, everything that syncs, and what goes over sockets. Calls that would get around the
# model are traced so that they are noticed.
CHANGES = "openat,openat2,open,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate"
NAMES = "rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat"
SYNCS = "fsync,fdatasync,msync,sync,syncfs,sync_file_range"
SOCKETS = "sendto,sendmsg,recvfrom,recvmsg,read"
AROUND = "mmap,copy_file_range,sendfile,splice,io_uring_setup,io_submit"
STRACE = ["strace", "-D", "-f", "-yy", "-s", "4000000", "-e", f"trace={CHANGES},{NAMES},{SYNCS},{SOCKETS},{AROUND}"]


@dataclass(slots=True)
class Event:
    """One thing that happened. Paths are relative to the data directory."""

    kind: str  # write, size, create, mkdir, rename, unlink, rmdir, sync, said, got, given, mark
    path: str = ""
    data: bytes = b""
    offset: int | None = 0  # of a write; None appends
    size: int = 0  # of a size event
    cuts: bool = False  # whether it may make the file shorter
    to: str = ""  # the new name
    begun: int = 0  # of a sync: the number of the event before which everything is covered,
    flying: tuple[int, ...] = ()  # but for these, which had not returned yet


def is_ended(trace: Path, pid: int) -> bool:
    """Whether strace, which watches from the side and ends a little later, has written down the end of the process."""
    with trace.open("rb") as file:
        file.seek(max(0, trace.stat().st_size - 64 * 1024))
        return re.search(rf"^{pid} +\+\+\+ ".encode(), file.read(), re.MULTILINE) is not None


class Unmodelled(AssertionError):
    """A call that the model of the disk does not know: its verdicts would mean nothing."""


CALL = re.compile(r"^(?P<thread>\d+) +(?P<rest>.*)$", re.DOTALL)
RESUMED = re.compile(r"^<\.\.\. \w+ resumed>(?P<rest>.*)$", re.DOTALL)
UNFINISHED = " <unfinished ...>"
RESULT = re.compile(r"\) += (?P<result>-?\d+|0x[0-9a-f]+|\?)(?P<rest>[^\"]*)$")
HANDLE = re.compile(r"(?:\d+|AT_FDCWD)<(?P<name>(?:(?:TCP|UNIX|UDP|NETLINK)[\w-]*:\[.*?\])|[^>]*)>(?P<gone>\(deleted\))?")
SOCKET = re.compile(r"^(TCP|UNIX)")
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
ABBREVIATED = '"...'


def bytes_of(text: str) -> bytes:
    """The bytes that strace shows as an escaped string."""
    if not text.replace("\\0", ""):
        return bytes(len(text) // 2)
    return ast.literal_eval('b"' + text + '"')


class Reader:
    """Reads the traces of processes that ran one after another over one data directory."""

    def __init__(self, root: Path):
        self.root = str(root.resolve())
        self.events: list[Event] = []
        self.process = 0
        # Calls that have not returned: the text so far, the event, its number, and the writes under way when it began.
        self._open: dict[str, tuple[str, Event | None, int, tuple[int, ...]]] = {}

    def read(self, trace: Path) -> Reader:
        """Takes in the trace of one process after its end."""
        self.process += 1
        self._open.clear()
        with trace.open(encoding="latin-1", newline="\n") as lines:
            for line in lines:
                if match := CALL.match(line.rstrip("\n")):
                    self._line(match["thread"], match["rest"])
        return self

    def add(self, event: Event) -> Event:
        self.events.append(event)
        return event

    def finished(self) -> list[Event]:
        """The events; those whose call failed are left out."""
        kept: list[Event] = []
        new_number = []
        for event in self.events:
            new_number.append(len(kept))
            if event.kind != "failed":
                kept.append(event)
        for event in kept:
            if event.kind == "sync":
                event.begun = new_number[event.begun]
                event.flying = tuple(new_number[number] for number in event.flying)
        return kept

    def _line(self, thread: str, rest: str) -> None:
        if resumed := RESUMED.match(rest):
            if thread in self._open:
                text, *begun = self._open.pop(thread)
                self._ended(text + resumed["rest"], *begun)
        elif "(" in rest and not rest.startswith(("+++", "---")):
            text = rest.removesuffix(UNFINISHED)
            number = len(self.events)
            flying = tuple(begun for _, event, begun, _ in self._open.values() if event and event.kind in ("write", "size"))
            event = self._begun(text)
            if text != rest:
                self._open[thread] = (text, event, number, flying)
            else:
                self._ended(text, event, number, flying)

    # At the call. What is known only at the return is filled in there.
    def _begun(self, text: str) -> Event | None:
        name, _, arguments = text.partition("(")
        read = getattr(self, f"_at_{name}", None)
        event = read(arguments) if read else None
        return self.add(event) if event else None

    def _ended(self, text: str, event: Event | None, begun: int, flying: tuple[int, ...]) -> None:
        name, _, arguments = text.partition("(")
        # The text before the result may hold anything; the result stands after the last parenthesis.
        match = RESULT.search(text[-400:])
        if not match or match["result"] == "?":
            # Killed inside the call. Whether it was carried out is open, which is what a write without a sync is anyway.
            return
        failed = match["result"].startswith("-")
        if failed and event:
            event.kind = "failed"
        if failed:
            return
        if event and event.kind in ("write", "said"):
            event.data = event.data[: int(match["result"])]
        if name in ("fsync", "fdatasync"):
            path = self._handle(arguments)
            if path is not None:
                self.add(Event("sync", path, begun=begun, flying=flying))
        elif name in ("recvfrom", "recvmsg", "read"):
            self._received(arguments)
        elif name in ("copy_file_range", "sendfile", "splice", "io_uring_setup", "io_submit", "sync", "syncfs", "msync"):
            if name.startswith(("io_", "sync")) or self.root in text:
                raise Unmodelled(text[:300])
        elif name == "mmap":
            self._mapped(text)

    def _received(self, arguments: str) -> None:
        if not SOCKET.match(arguments.partition("<")[2]):
            return
        socket, rest = self._socket(arguments)
        if socket and '"' in rest:
            self.add(Event("got", socket, self._data(rest)))

    def _mapped(self, text: str) -> None:
        if "MAP_SHARED" in text and "PROT_WRITE" in text and self.root in text and "-shm>" not in text:
            raise Unmodelled(text[:300])

    # Arguments.

    def _inside(self, path: str) -> str | None:
        """Relative to the data directory; None for what lies elsewhere or in SQLite's shared memory, which it makes anew."""
        if path == self.root:
            return ""
        if not path.startswith(self.root + "/") or path.endswith(("-shm", "/control.sock")):
            return None
        return path[len(self.root) + 1 :]

    def _handle(self, arguments: str) -> str | None:
        match = HANDLE.match(arguments)
        if not match or match["gone"]:
            return None
        return self._inside(match["name"])

    def _socket(self, arguments: str) -> tuple[str | None, str]:
        match = HANDLE.match(arguments)
        if not match or not SOCKET.match(match["name"]):
            return None, ""
        return f"{self.process}:{match['name']}", arguments[match.end() :]

    def _named(self, arguments: str) -> tuple[str | None, str]:
        """A path by a directory's handle and a name, or by the name alone; and what follows it."""
        match = HANDLE.match(arguments)
        base = match["name"] if match else "/"
        text = TEXT.search(arguments, match.end() if match else 0)
        if not text:
            return None, ""
        path = bytes_of(text[1]).decode()
        full = path if path.startswith("/") else f"{base}/{path}"
        return self._inside(full.removesuffix("/.")), arguments[text.end() :]

    @staticmethod
    def _data(arguments: str) -> bytes:
        if ABBREVIATED in arguments:
            raise Unmodelled(f"strace cut a write short: {arguments[:200]}")
        first, last = arguments.find('"'), arguments.rfind('"')
        return bytes_of(arguments[first + 1 : last]) if 0 <= first < last else b""

    @staticmethod
    def _vector(arguments: str) -> bytes:
        return b"".join(bytes_of(piece) for piece in re.findall(r'iov_base="((?:[^"\\]|\\.)*)"', arguments))

    # Files.

    def _at_openat(self, arguments: str) -> Event | None:
        path, flags = self._named(arguments)
        if path is None:
            return None
        if "O_CREAT" in flags:
            return Event("create", path, cuts="O_TRUNC" in flags)
        return Event("size", path, size=0, cuts=True) if "O_TRUNC" in flags else None

    _at_open = _at_openat2 = _at_openat

    def _at_pwrite64(self, arguments: str) -> Event | None:
        path = self._handle(arguments)
        if path is None:
            return None
        rest = arguments[HANDLE.match(arguments).end() :]
        numbers = re.search(r'", (\d+), (\d+)', rest[rest.rfind('"') :])
        return Event("write", path, self._data(rest), offset=int(numbers[2]))

    def _at_write(self, arguments: str) -> Event | None:
        socket, rest = self._socket(arguments)
        if socket:
            return Event("said", socket, self._data(rest))
        path = self._handle(arguments)
        return None if path is None else Event("write", path, self._data(arguments[HANDLE.match(arguments).end() :]), offset=None)

    _at_sendto = _at_write

    def _at_writev(self, arguments: str) -> Event | None:
        socket, rest = self._socket(arguments)
        if socket:
            return Event("said", socket, self._vector(rest))
        path = self._handle(arguments)
        return None if path is None else Event("write", path, self._vector(arguments), offset=None)

    _at_sendmsg = _at_writev

    def _unknown(self, arguments: str) -> Event | None:
        if self.root in arguments:
            raise Unmodelled(arguments[:300])
        return None

    _at_pwritev = _at_pwritev2 = _at_creat = _at_link = _at_linkat = _at_symlink = _at_symlinkat = _at_truncate = _unknown

    def _at_ftruncate(self, arguments: str) -> Event | None:
        path = self._handle(arguments)
        size = re.match(r", (\d+)", arguments[HANDLE.match(arguments).end() :])
        return None if path is None else Event("size", path, size=int(size[1]), cuts=True)

    def _at_fallocate(self, arguments: str) -> Event | None:
        path = self._handle(arguments)
        if path is None:
            return None
        numbers = re.match(r", 0, (\d+), (\d+)", arguments[HANDLE.match(arguments).end() :])
        if not numbers:
            raise Unmodelled(arguments[:300])
        return Event("size", path, size=int(numbers[1]) + int(numbers[2]))

    # Names.

    def _at_mkdirat(self, arguments: str) -> Event | None:
        path, _ = self._named(arguments)
        return Event("mkdir", path) if path else None

    _at_mkdir = _at_mkdirat

    def _at_unlinkat(self, arguments: str) -> Event | None:
        path, flags = self._named(arguments)
        return Event("rmdir" if "AT_REMOVEDIR" in flags else "unlink", path) if path else None

    _at_unlink = _at_unlinkat

    def _at_rmdir(self, arguments: str) -> Event | None:
        path, _ = self._named(arguments)
        return Event("rmdir", path) if path else None

    def _at_renameat(self, arguments: str) -> Event | None:
        path, rest = self._named(arguments)
        to, _ = self._named(rest.removeprefix(", "))
        if path is None and to is None:
            return None
        if not path or not to:
            raise Unmodelled(f"a rename across the data directory: {arguments[:300]}")
        return Event("rename", path, to=to)

    _at_rename = _at_renameat2 = _at_renameat
