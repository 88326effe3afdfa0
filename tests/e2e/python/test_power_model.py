"""The model of a disk that loses power, and the reading of traces, on runs that are written down by hand."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from power_disk import SECTOR, ZERO, Disk, Draw, Image
from power_trace import Event, Reader, Unmodelled, is_ended

A, B = b"a" * SECTOR, b"b" * SECTOR


def read(tmp_path: Path, text: str) -> list[Event]:
    trace = tmp_path / "trace"
    trace.write_text(text.replace("ROOT", str(tmp_path / "data")), encoding="latin-1")
    return Reader(tmp_path / "data").read(trace).finished()


def disk_of(*events: Event) -> Disk:
    disk = Disk()
    for event in events:
        disk.take(event)
    return disk


def images(disk: Disk, count: int = 400) -> list[Image]:
    return [disk.power_cut(Draw.drawn(random.Random(number), disk.next)) for number in range(count)]


def content(image: Image, name: str) -> bytes | None:
    if name not in image.files:
        return None
    size, sectors = image.files[name]
    last = -(-size // SECTOR)
    return b"".join(sectors.get(n, (0, ZERO))[1] for n in range(last))[:size]


def contents(disk: Disk, name: str) -> set[bytes | None]:
    return {content(image, name) for image in images(disk)}


def file(name: str = "f", data: bytes = b"") -> Event:
    """A file that was there, synced, before the run."""
    return Event("given", name, data)


def write(data: bytes, offset: int | None = 0, name: str = "f") -> Event:
    return Event("write", name, data, offset=offset)


def sync(begun: int, name: str = "f", flying: tuple[int, ...] = ()) -> Event:
    return Event("sync", name, begun=begun, flying=flying)


# The disk.


def test_what_is_synced_is_kept_and_what_is_not_may_be_lost():
    disk = disk_of(file(), write(A), sync(2), write(B, SECTOR))
    assert contents(disk, "f") == {A, A + B, A + ZERO}
    disk.take(sync(4))
    assert contents(disk, "f") == {A + B}


def test_a_sector_has_any_of_its_states_and_none_that_it_never_had():
    half = SECTOR // 2
    disk = disk_of(file(data=A), write(b"1" * half), write(b"2" * half, half))
    states = {A, b"1" * half + A[half:], b"1" * half + b"2" * half}
    assert contents(disk, "f") == states


def test_sectors_of_one_write_fare_differently():
    disk = disk_of(file(data=A + A + A), write(B + B + B))
    seen = contents(disk, "f")
    assert {A + A + A, B + B + B, A + B + A, B + A + B, A + A + B} <= seen
    assert all(set(kept) <= set(b"ab") for kept in seen)


def test_a_sync_covers_nothing_that_came_after_it_began_or_had_not_returned():
    during = disk_of(file(), write(A), write(B, SECTOR), sync(2))
    assert A in contents(during, "f") and A + B in contents(during, "f")
    flying = disk_of(file(), write(A), write(B, SECTOR), sync(3, flying=(1,)))
    assert ZERO + B in contents(flying, "f")


def test_what_was_cut_off_comes_back_only_until_the_cut_is_synced():
    cut = Event("size", "f", size=0, cuts=True)
    disk = disk_of(file(data=A + A), cut, write(B))
    seen = contents(disk, "f")
    assert {A + A, b"", B} <= seen
    # Old blocks behind new ones: the cut was on the disk before they could be.
    assert B + A not in seen and A not in seen
    disk.take(sync(3))
    assert contents(disk, "f") == {B}


def test_room_that_was_reserved_reads_as_zeros():
    disk = disk_of(file(), Event("size", "f", size=2 * SECTOR), write(A), sync(3))
    assert contents(disk, "f") == {A + ZERO}


def test_a_write_without_a_place_goes_to_the_end():
    assert contents(disk_of(file(data=b"12"), write(b"34", None), sync(2)), "f") == {b"1234"}


def test_a_name_is_there_for_sure_once_its_directory_is_synced():
    made = [Event("mkdir", "d"), Event("create", "d/f"), write(A, name="d/f"), sync(3, "d/f")]
    disk = disk_of(*made)
    assert contents(disk, "d/f") == {None, A}
    disk.take(sync(4, "d"))
    assert contents(disk, "d/f") == {None, A}, "the directory's own name is not synced"
    disk.take(sync(5, ""))
    assert contents(disk, "d/f") == {A}


def test_operations_on_names_reach_the_disk_in_any_order_or_in_theirs():
    disk = disk_of(file("old", A), Event("create", "one"), Event("create", "two"), Event("unlink", "old"))
    seen = {tuple(sorted(image.files)) for image in images(disk)}
    assert ("old", "two") in seen and ("one",) in seen and () in seen
    ordered = {
        tuple(sorted(disk.power_cut(Draw(random.Random(number), disk.next, "some", "in order")).files)) for number in range(200)
    }
    assert ordered == {("old",), ("old", "one"), ("old", "one", "two"), ("one", "two")}


def test_a_rename_is_whole():
    disk = disk_of(file("a", A), file("b", B), Event("rename", "a", to="b"))
    seen = {(content(image, "a"), content(image, "b")) for image in images(disk)}
    assert seen == {(A, B), (None, A)}


def test_a_deaf_disk_syncs_nothing():
    disk = Disk(lambda path: path == "f")
    for event in (file(), write(A), sync(2)):
        disk.take(event)
    assert b"" in contents(disk, "f")


def test_a_second_disk_begins_with_what_the_first_left():
    first = disk_of(Event("mkdir", "d"), Event("create", "d/f"), write(A, name="d/f"))
    image = first.power_cut(Draw(random.Random(1), first.next, "all"))
    second = Disk.after(image)
    assert contents(second, "d/f") == {A}
    second.take(write(B, name="d/f"))
    assert contents(second, "d/f") == {A, B}


def test_an_image_is_laid_down_as_it_is(tmp_path):
    disk = disk_of(Event("mkdir", "d"), Event("create", "d/f"), write(A + B, SECTOR, "d/f"), sync(3, "d/f"), sync(4, "d"), sync(5, ""))
    image = images(disk, 1)[0]
    image.lay(tmp_path / "image")
    assert (tmp_path / "image/d/f").read_bytes() == ZERO + A + B
    assert (tmp_path / "image/d/f").stat().st_mode & 0o777 == 0o600
    assert image.oldest("d/f") == 2 and image.oldest("nothing") > 1 << 60


# The reading of traces.


def test_a_trace_becomes_events_in_one_order(tmp_path):
    text = r"""
10 openat2(3<ROOT>, "f", {flags=O_WRONLY|O_CREAT|O_EXCL, mode=0600}, 24) = 5<ROOT/f>
10 pwrite64(5<ROOT/f>, "a\0\12\"\\\3771", 7, 512) = 7
11 fdatasync(5<ROOT/f> <unfinished ...>
10 pwrite64(5<ROOT/f>, "xy", 2, 0 <unfinished ...>
11 <... fdatasync resumed>)                = 0
10 <... pwrite64 resumed>)               = 2
10 writev(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, [{iov_base="HTTP/1.1", iov_len=8}, {iov_base=" 200", iov_len=4}], 2) = 12
10 recvfrom(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, "GET / \"", 8192, 0, NULL, NULL) = 7
10 sendto(8<UNIX-STREAM:[5->6,"ROOT/control.sock"]>, "{\"a\":1}\n", 8, MSG_NOSIGNAL, NULL, 0) = 8
10 renameat(3<ROOT>, "f", 3<ROOT>, "g") = 0
10 unlinkat(3<ROOT/d>, "g", 0) = -1 ENOENT (No such file or directory)
10 unlinkat(3<ROOT/d>, "e", AT_REMOVEDIR) = 0
10 fallocate(5<ROOT/g>, 0, 0, 4096) = 0
10 write(1</dev/null>, "x", 1) = 1
10 +++ exited with 0 +++
"""
    events = read(tmp_path, text)
    shown = [(e.kind, e.path.split(":", 1)[-1] if e.kind in ("said", "got") else e.path, e.data) for e in events]
    tcp = "TCP:[127.0.0.1:1->127.0.0.1:2]"
    assert shown == [
        ("create", "f", b""),
        ("write", "f", b'a\0\n"\\\xff1'),
        ("write", "f", b"xy"),
        ("sync", "f", b""),
        ("said", tcp, b"HTTP/1.1 200"),
        ("got", tcp, b'GET / "'),
        ("said", f'UNIX-STREAM:[5->6,"{tmp_path}/data/control.sock"]', b'{"a":1}\n'),
        ("rename", "f", b""),
        ("rmdir", "d/e", b""),
        ("size", "g", b""),
    ]
    assert events[1].offset == 512 and events[3].begun == 2 and events[7].to == "g" and events[9].size == 4096


def test_the_end_of_a_trace_is_recognised(tmp_path):
    trace = tmp_path / "trace"
    trace.write_text("789   read(3</f>, 1, 2) = 1\n79    +++ exited with 0 +++\n")
    assert not is_ended(trace, 789)
    with trace.open("a") as file:
        file.write("789   +++ killed by SIGKILL +++\n")
    assert is_ended(trace, 789) and is_ended(trace, 79) and not is_ended(trace, 9)


def test_a_write_that_had_not_returned_when_a_sync_began_is_not_covered(tmp_path):
    text = """
10 pwrite64(5<ROOT/f>, "xy", 2, 0 <unfinished ...>
11 fdatasync(5<ROOT/f>)                = 0
10 <... pwrite64 resumed>)               = 2
"""
    _, synced = read(tmp_path, text)
    assert synced.flying == (0,)


@pytest.mark.parametrize(
    "line",
    [
        '10 pwrite64(5<ROOT/f>, "xy"..., 200, 0) = 200',
        "10 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 5<ROOT/f>, 0) = 0x7f0000000000",
        "10 copy_file_range(5<ROOT/f>, NULL, 6<ROOT/g>, NULL, 10, 0) = 10",
        '10 linkat(3<ROOT>, "f", 3<ROOT>, "g", 0) = 0',
        '10 renameat(3</elsewhere>, "f", 3<ROOT>, "g") = 0',
        "10 io_uring_setup(8, {flags=0}) = 7",
    ],
)
def test_what_the_model_does_not_know_is_noticed(tmp_path, line):
    with pytest.raises(Unmodelled):
        read(tmp_path, line + "\n")


def test_a_file_that_was_not_seen_to_be_made_is_noticed():
    with pytest.raises(Unmodelled):
        disk_of(write(A, name="unknown"))
