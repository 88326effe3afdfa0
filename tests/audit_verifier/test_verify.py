"""The verifier against published vectors, against right logs of many sizes, and against every way to spoil one."""

from __future__ import annotations

import base64
import json
import random
import shutil
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import verify
from made_log import (
    FIRST, ORIGIN, SECOND, THIRD, Log, Signer, b64, entries, entry, put, retention, root_of, rotation, signed,
)
from verify import Invalid

# ---- Published vectors ----

# The reference leaves of Certificate Transparency, and the roots of the trees of the first 0, 1, … 8 of them.
REFERENCE_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
REFERENCE_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(9))
def test_the_reference_trees_of_certificate_transparency(size):
    leaves = [verify.leaf_hash(leaf) for leaf in REFERENCE_LEAVES[:size]]
    assert verify.tree_hash(leaves).hex() == REFERENCE_ROOTS[size]
    # The generator below is no better than its own tree.
    assert root_of(leaves).hex() == REFERENCE_ROOTS[size]


# From the documentation of the Go package golang.org/x/mod/sumdb/note.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETERS_NOTE = """\
If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
""".encode()


def test_the_example_note_of_the_go_package():
    key = verify.parse_key(PETER, "key")
    assert (key.name, key.id.hex()) == ("PeterNeumann", "c74f20a3")
    note = verify.parse_note(PETERS_NOTE, "note")
    assert note.text == "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    assert note.signed_by(key)
    assert not note.signed_by(verify.parse_key(FIRST.vkey, "key"))


def test_each_flipped_bit_of_the_example_note_is_seen():
    key = verify.parse_key(PETER, "key")
    for position in range(len(PETERS_NOTE) * 8):
        try:
            assert not verify.parse_note(flipped(PETERS_NOTE, position), "note").signed_by(key), position
        except Invalid:
            pass


def test_a_note_keeps_empty_lines_of_its_text_and_ignores_unknown_signatures():
    key = verify.parse_key(FIRST.vkey, "key")
    assert verify.parse_note(signed("one\n\nthree\n", SECOND, FIRST), "note").signed_by(key)
    # The same name with another id, and the same id with another name, are other keys.
    other_name = Signer("first", name="other.example.com")
    assert not verify.parse_note(signed("one\n", SECOND, other_name), "note").signed_by(key)
    # Two signatures by one key: both must be right.
    spoiled = (signed("one\n", FIRST).decode() + FIRST.line("two\n")).encode()
    with pytest.raises(Invalid, match="does not fit"):
        verify.parse_note(spoiled, "note").signed_by(key)


def test_other_published_keys_have_the_ids_that_they_claim():
    for key in (
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop",
    ):
        assert verify.parse_key(key, "key").text == key


@pytest.mark.parametrize("bad", [
    "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",  # too long
    "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # another algorithm
    PETER.replace("c74f20a3", "C74F20A3"),
    PETER.replace("PeterNeumann", "PeterNeuman"),
    PETER.replace("PeterNeumann", "Peter Neumann"),
    PETER.replace("PeterNeumann", "Peter\u00a0Neumann"),
    PETER.replace("PeterNeumann", "\udcff"),
    PETER[:-1],
    PETER + "\n",
    " " + PETER,
    "PeterNeumann",
    "",
])
def test_malformed_keys(bad):
    with pytest.raises(Invalid):
        verify.parse_key(bad, "key")


# RFC 8785 appendix B.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}


# Where the point stands before, among and after the digits, and where the exponent begins: ECMAScript's Number::toString.
NUMBERS |= {
    "3fe0000000000000": "0.5",
    "bfb999999999999a": "-0.1",
    "3ff8000000000000": "1.5",
    "4059000000000000": "100",
    "4415af1d78b58c40": "100000000000000000000",
    "3e7ad7f29abcaf48": "1e-7",
}


@pytest.mark.parametrize("bits, text", NUMBERS.items())
def test_the_numbers_of_rfc_8785_appendix_b(bits, text):
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert verify.canonical(value) == text


@pytest.mark.parametrize("bits", ["7fffffffffffffff", "7ff0000000000000", "fff0000000000000"])
def test_what_is_no_number_in_rfc_8785_appendix_b(bits):
    with pytest.raises(ValueError):
        verify.canonical(struct.unpack(">d", bytes.fromhex(bits))[0])


def test_the_example_of_rfc_8785_section_3_2_2():
    source = r"""{
      "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }"""
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        r'"string":"€$\u000f\nA' "'" r'B\"\\\\\"/"}'
    )
    assert verify.canonical(json.loads(source)) == expected


def test_the_order_of_keys_of_rfc_8785_section_3_2_3():
    source = r"""{
      "\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh", "1": "One",
      "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O With Diaeresis"
    }"""
    assert list(json.loads(verify.canonical(json.loads(source))).values()) == [
        "Carriage Return", "One", "Control", "Latin Small Letter O With Diaeresis", "Euro Sign",
        "Emoji: Grinning Face", "Hebrew Letter Dalet With Dagesh",
    ]


NOT_CANONICAL = {
    "space": b'{"a": 1}',
    "space before": b' {"a":1}',
    "newline after": b'{"a":1}\n',
    "order": b'{"b":1,"a":2}',
    "order by code point": '{"\ufb33":1,"\U0001f600":2}'.encode(),
    "key twice": b'{"a":1,"a":1}',
    "key twice by an escape": b'{"a":1,"\\u0061":1}',
    "needless escape": b'{"a":"\\u0041"}',
    "escaped solidus": b'{"a":"\\/"}',
    "long form of a short escape": b'{"a":"\\u000a"}',
    "capital escape": b'{"a":"\\u001F"}',
    "raw control character": b'{"a":"\x01"}',
    "lone surrogate": b'{"a":"\\ud800"}',
    "fraction of an integer": b'{"a":1.0}',
    "exponent of an integer": b'{"a":1e2}',
    "plain form of a large number": b'{"a":1000000000000000000000}',
    "minus zero": b'{"a":-0}',
    "integer that no double has": b'{"a":9007199254740993}',
    "beyond double": b'{"a":1e999}',
    "integer beyond double": b'{"a":1' + b"0" * 400 + b"}",
    "endless integer": b'{"a":1' + b"0" * 9000 + b"}",
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "byte order mark": b'\xef\xbb\xbf{"a":1}',
    "UTF-16": '{"a":1}'.encode("utf-16-le"),
    "not UTF-8": b'{"a":"\xff"}',
    "overlong UTF-8": b'{"a":"\xc0\x80"}',
    "nothing": b"",
    "half": b'{"a":1',
    "two": b'{"a":1}{"a":1}',
    "deep": b"[" * 60_000,
    "a list": b"[]",
    "a string": b'"a"',
}


@pytest.mark.parametrize("data", NOT_CANONICAL.values(), ids=NOT_CANONICAL.keys())
def test_what_is_no_canonical_object(data):
    with pytest.raises(Invalid, match="not canonical JSON|not a JSON object"):
        verify.parse_object(data, "file", 0)


@pytest.mark.parametrize("n, width, path", [
    (0, 256, "tile/0/000"),
    (5, 256, "tile/0/005"),
    (999, 7, "tile/0/999.p/7"),
    (1000, 256, "tile/0/x001/000"),
    (1234067, 256, "tile/0/x001/x234/067"),
    (1234067, 255, "tile/0/x001/x234/067.p/255"),
])
def test_tile_paths(n, width, path):
    assert verify.tile_path(0, n, width) == path


@pytest.mark.parametrize("size, expected", [
    (0, []),
    (1, [(0, 0, 1)]),
    (256, [(0, 0, 256), (1, 0, 1)]),
    (257, [(0, 0, 256), (0, 1, 1), (1, 0, 1)]),
    (65536, [*((0, n, 256) for n in range(256)), (1, 0, 256), (2, 0, 1)]),
    # The example of tlog-tiles.
    (70000, [*((0, n, 256) for n in range(273)), (0, 273, 112), (1, 0, 256), (1, 1, 17), (2, 0, 1)]),
])
def test_which_tiles_a_tree_has(size, expected):
    assert list(verify.hash_tiles(size)) == expected


# ---- Right logs ----

SIZES = [1, 2, 255, 256, 257, 65537, 70000]


@pytest.fixture(scope="session")
def right(tmp_path_factory):
    """Right logs by size, with their exports: made once, never changed."""
    made: dict[int, tuple[Log, Path]] = {}

    def of(size: int) -> tuple[Log, Path]:
        if size not in made:
            log = Log(entries(size))
            made[size] = log, log.write(tmp_path_factory.mktemp(f"log{size}"))
        return made[size]

    return of


@pytest.fixture
def export(tmp_path):
    """Where a test writes its own export."""
    return tmp_path / "export"


def check(directory: Path, vkey: str = FIRST.vkey, old: bytes | None = None) -> dict:
    if old is None:
        return verify.verify(directory, vkey)
    path = directory.parent / f"{directory.name}.old"
    path.write_bytes(old)
    return verify.verify(directory, vkey, path)


def refused(directory: Path, vkey: str = FIRST.vkey, old: bytes | None = None) -> str:
    with pytest.raises(Invalid) as caught:
        check(directory, vkey, old)
    message = str(caught.value)
    assert message.isprintable()
    return message


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position // 8] ^= 1 << position % 8
    return bytes(changed)


@pytest.mark.parametrize("size", SIZES)
def test_a_right_log(right, size):
    log, directory = right(size)
    assert check(directory) == {
        "verified": True, "origin": ORIGIN, "tenant": "acme", "entries": size, "root": b64(log.root()),
        "entries_gone": 0, "entries_lost": 0, "key": FIRST.vkey, "extends": None,
    }


def test_the_generator_writes_the_layout_that_tlog_tiles_gives_for_70000(right):
    _, directory = right(70000)
    files = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    top = Counter("/".join(file.split("/")[:2]) for file in files)
    assert top == {
        "checkpoint": 1, "vkey": 1, "manifest.json": 1, "README": 1,
        "tile/0": 274, "tile/1": 2, "tile/2": 1, "tile/entries": 274,
    }
    for file in ("tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1", "tile/entries/273.p/112"):
        assert file in files


@pytest.mark.parametrize("size, old_sizes", [
    (1, [0, 1]),
    (2, [0, 1, 2]),
    (257, [0, 1, 2, 3, 127, 128, 200, 255, 256, 257]),
    (70000, [255, 65536, 69999]),
])
def test_a_log_extends_each_of_its_own_checkpoints(right, size, old_sizes, tmp_path):
    log, directory = right(size)
    old = tmp_path / "old"
    for old_size in old_sizes:
        old.write_bytes(log.checkpoint(old_size))
        assert verify.verify(directory, FIRST.vkey, old)["extends"] == old_size


def test_an_empty_log(export):
    log = Log([])
    assert check(log.write(export), old=log.checkpoint(0))["entries"] == 0


def test_unknown_signatures_and_lines_below_the_root_are_allowed(export):
    log = Log(entries(3))
    log.write(export)
    witness = Signer("witness", name="witness.example.com")
    put(export / "checkpoint", signed(f"{ORIGIN}\n3\n{b64(log.root())}\nan extension\n", witness, FIRST))
    assert check(export)["entries"] == 3


# ---- Spoiled exports ----


def test_each_flipped_bit_of_a_small_log_is_seen_and_its_file_named(export):
    Log(entries(2)).write(export)
    files = ["checkpoint", "vkey", "tile/0/000.p/2", "tile/entries/000.p/2"]
    assert {path.relative_to(export).as_posix() for path in export.rglob("*") if path.is_file()} == {*files, "manifest.json", "README"}
    for file in files:
        good = (export / file).read_bytes()
        for position in range(len(good) * 8):
            (export / file).write_bytes(flipped(good, position))
            assert file in refused(export), position
        (export / file).write_bytes(good)
    check(export)


@pytest.mark.parametrize("size, files, flips", [
    (257, ["tile/0/000", "tile/0/001.p/1", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/1"], 40),
    (70000, ["tile/0/000", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1", "tile/entries/040"], 1),
])
def test_flipped_bits_here_and_there_of_larger_logs(right, export, size, files, flips):
    _, directory = right(size)
    shutil.copytree(directory, export)
    chance = random.Random(size)
    for file in files:
        good = (export / file).read_bytes()
        for position in [chance.randrange(len(good) * 8) for _ in range(flips)]:
            (export / file).write_bytes(flipped(good, position))
            assert file in refused(export), position
        (export / file).write_bytes(good)


def framed(items: list[bytes]) -> bytes:
    return b"".join(len(one).to_bytes(2, "big") + one for one in items)


BUNDLES = {
    "without its last entry": (lambda e: e[:-1], "entry 299: the file ends before the entry does"),
    "without its first entry": (lambda e: e[1:], "entry 256: its hash is not the one in tile/0/001.p/44"),
    "with two entries swapped": (lambda e: [e[1], e[0], *e[2:]], "entry 256: its hash"),
    "with an entry twice in place of the next": (lambda e: [e[0], e[0], *e[2:]], "entry 257: its hash"),
    "with an entry more": (lambda e: [*e, entry(300)], "bytes more than its 44 entries"),
    "with an entry twice at the end": (lambda e: [*e, e[-1]], "bytes more than its 44 entries"),
    "with another tenant's entry": (lambda e: [entry(256, tenant="globex"), *e[1:]], "entry 256: its hash"),
}


@pytest.mark.parametrize("change, expected", BUNDLES.values(), ids=BUNDLES.keys())
def test_a_bundle(export, change, expected):
    log = Log(entries(300))
    log.write(export)
    put(export / "tile/entries/001.p/44", framed(change(log.entries[256:])))
    message = refused(export)
    assert message.startswith("tile/entries/001.p/44: ") and expected in message


@pytest.mark.parametrize("tail, expected", [
    (b"\n", "has 1 bytes more"), (b"\0\0", "has 2 bytes more"), (-1, "ends before the entry"), (-500, "ends before the entry"),
])
def test_bytes_after_a_bundle_or_missing_from_it(export, tail, expected):
    Log(entries(3)).write(export)
    bundle = export / "tile/entries/000.p/3"
    good = bundle.read_bytes()
    bundle.write_bytes(good + tail if isinstance(tail, bytes) else good[:tail])
    assert expected in refused(export)


@pytest.mark.parametrize("file", ["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"])
@pytest.mark.parametrize("change", [lambda d: d[:-32], lambda d: d[:-1], lambda d: d + d[:1], lambda d: d + d[:32], lambda d: b""])
def test_a_tile_of_the_wrong_size(export, file, change):
    Log(entries(300)).write(export)
    put(export / file, change((export / file).read_bytes()))
    message = refused(export)
    assert message.startswith(f"{file}: ") and ("bytes, not" in message or "longer than" in message)


def test_each_missing_file_is_named(export):
    Log(entries(300)).write(export)
    informational = [export / "manifest.json", export / "README"]
    for path in [path for path in export.rglob("*") if path.is_file() and path not in informational]:
        path.rename(export / "away")  # what stands beside tile/ does not matter
        assert refused(export).startswith(f"{path.relative_to(export).as_posix()}: missing")
        (export / "away").rename(path)
    for path in informational:
        path.unlink()
    check(export)


@pytest.mark.parametrize("file", [
    "tile/0/002", "tile/entries/002", "tile/entries/001.p/43", "tile/entries/001", "tile/0/001", "tile/1/000", "tile/2/000.p/1",
    "tile/entries/002.p/1", "tile/00/000", "tile/3/000", "tile/note", "tile/\x1b[2J\udcff",
])
def test_a_file_that_the_log_does_not_have(export, file):
    Log(entries(300)).write(export)
    put(export / file, b"")
    assert "not part of a log of 300 entries" in refused(export)


def test_what_is_no_file(export):
    Log(entries(3)).write(export)
    (export / "vkey").unlink()
    (export / "vkey").mkdir()
    assert refused(export) == "vkey: missing"
    assert refused(export / "nowhere") == "checkpoint: missing"


def test_a_tail_cut_from_all_files_but_the_checkpoint(export, tmp_path):
    log = Log(entries(300))
    shorter = Log(log.entries[:299]).write(tmp_path / "shorter")
    put(shorter / "checkpoint", log.checkpoint())
    assert refused(shorter) == "tile/0/001.p/44: missing"


def test_an_entry_and_its_leaf_changed_together(export):
    log = Log(entries(300))
    log.write(export)
    log.entries[5] = entry(5, note="changed")
    changed = Log(log.entries).write(export.parent / "changed")
    for file in ("tile/0/000", "tile/entries/000"):
        shutil.copy(changed / file, export / file)
    assert refused(export) == "tile/1/000.p/1: hash 0 is not the one of tile/0/000"
    shutil.copy(changed / "tile/1/000.p/1", export / "tile/1/000.p/1")
    assert refused(export) == "checkpoint: its root is not the one of the entries and tiles"


CHECKPOINTS = {
    "another origin": (lambda o, n, r: signed(f"audit.example.com/globex\n{n}\n{r}\n", FIRST), "the origin is"),
    "no origin": (lambda o, n, r: signed(f"\n{n}\n{r}\n", FIRST), "no empty one"),
    "zero before the size": (lambda o, n, r: signed(f"{o}\n0{n}\n{r}\n", FIRST), "leading zeros"),
    "sign before the size": (lambda o, n, r: signed(f"{o}\n+{n}\n{r}\n", FIRST), "leading zeros"),
    "space after the size": (lambda o, n, r: signed(f"{o}\n{n} \n{r}\n", FIRST), "leading zeros"),
    "other digits": (lambda o, n, r: signed(f"{o}\n٣٠٠\n{r}\n", FIRST), "leading zeros"),
    "no size": (lambda o, n, r: signed(f"{o}\n{r}\n", FIRST), "must have the lines"),
    "size beyond all files": (lambda o, n, r: signed(f"{o}\n{10**18}\n{r}\n", FIRST), "tile/0/001: missing"),
    "size too small": (lambda o, n, r: signed(f"{o}\n{n - 1}\n{r}\n", FIRST), "tile/0/001.p/43: missing"),
    "size nothing": (lambda o, n, r: signed(f"{o}\n0\n{r}\n", FIRST), "not part of a log of 0"),
    # 32 bytes leave two bits of the last character unused.
    "not canonical base64": (lambda o, n, r: signed(f"{o}\n{n}\n{uncanonical(r)}\n", FIRST), "not the canonical base64"),
    "base64 without its padding": (lambda o, n, r: signed(f"{o}\n{n}\n{r[:-1]}\n", FIRST), "not the canonical base64"),
    "base64 for addresses": (lambda o, n, r: signed(f"{o}\n{n}\n{'_' * 43}=\n", FIRST), "not the canonical base64"),
    "short root": (lambda o, n, r: signed(f"{o}\n{n}\n{b64(b'short')}\n", FIRST), "not the canonical base64"),
    "another root": (lambda o, n, r: signed(f"{o}\n{n}\n{b64(b'0' * 32)}\n", FIRST), "its root is not the one"),
    "empty line at the end": (lambda o, n, r: signed(f"{o}\n{n}\n{r}\n\n", FIRST), "no empty one"),
    "carriage returns": (lambda o, n, r: signed(f"{o}\r\n{n}\r\n{r}\r\n", FIRST), "control character"),
    "another key": (lambda o, n, r: signed(f"{o}\n{n}\n{r}\n", SECOND), "not signed by"),
    "another key's name": (lambda o, n, r: signed(f"{o}\n{n}\n{r}\n", Signer("first", "other")), "not signed by"),
    "no signature": (lambda o, n, r: f"{o}\n{n}\n{r}\n".encode(), "has no signature"),
    "no signature below the line": (lambda o, n, r: f"{o}\n{n}\n{r}\n\n".encode(), "has no signature"),
    "signature over another text": (lambda o, n, r: f"{o}\n{n}\n{r}\n\n{FIRST.line('x')}".encode(), "does not fit the text"),
    "signature of no bytes": (lambda o, n, r: f"{o}\n{n}\n{r}\n\n— {o} {b64(FIRST.id)}\n".encode(), "malformed"),
    "size changed below its signature": (lambda o, n, r: signed(f"{o}\n{n}\n{r}\n", FIRST).replace(b"00\n", b"01\n"), "does not fit"),
    "hyphen for the dash": (lambda o, n, r: signed(f"{o}\n{n}\n{r}\n", FIRST).replace("—".encode(), b"-"), "malformed"),
    "text after the signature": (lambda o, n, r: signed(f"{o}\n{n}\n{r}\n", FIRST) + b"more\n", "malformed"),
    "no newline at the end": (lambda o, n, r: signed(f"{o}\n{n}\n{r}\n", FIRST)[:-1], "does not end in a newline"),
    "not UTF-8": (lambda o, n, r: b"\xff" + signed(f"{o}\n{n}\n{r}\n", FIRST), "not UTF-8"),
    "nothing": (lambda o, n, r: b"", "does not end in a newline"),
    "too long": (lambda o, n, r: b"a" * (1 << 21), "longer than"),
}


def uncanonical(root: str) -> str:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    changed = root[:42] + alphabet[alphabet.index(root[42]) + 1] + "="
    assert base64.b64decode(changed) == base64.b64decode(root)
    return changed


@pytest.mark.parametrize("make, expected", CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
def test_a_checkpoint_that_is_wrong_although_signed(right, export, make, expected):
    log = Log(entries(300))
    log.write(export)
    put(export / "checkpoint", make(ORIGIN, 300, b64(log.root())))
    assert expected in refused(export)


@pytest.mark.parametrize("change", [
    lambda v: b"", lambda v: v[:-1], lambda v: v + b"\n", lambda v: v + v, lambda v: v + SECOND.vkey.encode() + b"\n",
    lambda v: SECOND.vkey.encode() + b"\n", lambda v: SECOND.vkey.encode() + b"\n" + v, lambda v: b" " + v,
])
def test_a_key_file_that_is_wrong(export, change):
    Log(entries(3)).write(export)
    put(export / "vkey", change((export / "vkey").read_bytes()))
    assert refused(export).startswith("vkey: ")


def test_another_key_than_the_one_from_out_of_band(export):
    Log(entries(3)).write(export)
    assert f"not signed by {ORIGIN}+{SECOND.id.hex()}, in force there by --vkey" in refused(export, SECOND.vkey)
    assert refused(export, Signer("first", "audit.example.com/globex").vkey).startswith("checkpoint: the origin is")
    assert refused(export, "no key").startswith("--vkey: not an Ed25519 verification key")


# ---- Logs that their holder made wrong: hashed and signed as if they were right ----


HOLDER = {
    "an entry missing": (lambda e: e[:4] + e[5:], "entry 4: its seq is 5, not 4"),
    "two entries swapped": (lambda e: e[:4] + [e[5], e[4]] + e[6:], "entry 4: its seq is 5, not 4"),
    "an entry twice": (lambda e: e[:5] + e[4:], "entry 5: its seq is 4, not 5"),
    "an entry in between": (lambda e: e[:4] + [entry(99)] + e[4:], "its seq is 99, not 4"),
    "numbered from 1": (lambda e: [entry(i) for i in range(1, 10)], "entry 0: its seq is 1, not 0"),
    "seq as text": (lambda e: e[:4] + [entry(4).replace(b'"seq":4', b'"seq":"4"')] + e[5:], "entry 4: its seq is '4', not 4"),
    "seq as a truth": (lambda e: [entry(False)] + e[1:], "its seq is False, not 0"),
    "no seq": (lambda e: [b'{"tenant":"acme","time":"now"}'] + e[1:], "its seq is None, not 0"),
    "another tenant": (lambda e: e[:4] + [entry(4, tenant="globex")] + e[5:], "its tenant is 'globex', not 'acme'"),
    "no tenant": (lambda e: [b'{"seq":0,"time":"now"}'] + e[1:], "its tenant is None, not 'a name'"),
    "an empty tenant": (lambda e: [entry(0, tenant="")] + e[1:], "its tenant is ''"),
    "no time": (lambda e: [b'{"seq":0,"tenant":"acme"}'] + e[1:], "has no time"),
    "terminal control in the tenant": (lambda e: [e[0], entry(1, tenant="\x1b[2J")], "its tenant is '\\x1b[2J'"),
}


@pytest.mark.parametrize("change, expected", HOLDER.values(), ids=HOLDER.keys())
def test_entries_that_break_the_rules_of_the_log(export, change, expected):
    message = refused(Log(change(entries(9))).write(export))
    assert message.startswith("tile/entries/000.p/") and expected in message


@pytest.mark.parametrize("data", NOT_CANONICAL.values(), ids=NOT_CANONICAL.keys())
def test_a_signed_entry_that_is_no_canonical_object(export, data):
    message = refused(Log(entries(4) + [data] + entries(9)[5:]).write(export))
    assert message.startswith("tile/entries/000.p/9: entry 4: not ")


def test_other_widths_of_files_cannot_hide_a_right_entry_again(export):
    """A log of 257 entries whose second bundle repeats the first entry."""
    message = refused(Log(entries(256) + [entry(0)]).write(export))
    assert message == "tile/entries/001.p/1: entry 256: its seq is 0, not 256"


@pytest.mark.parametrize("level, file", [(1, "tile/1/001.p/17"), (2, "tile/2/000.p/1")])
def test_a_signed_log_with_a_wrong_upper_tile(right, export, level, file):
    """The root does not show it: it is made of the leaves."""
    _, directory = right(70000)
    shutil.copytree(directory, export)
    put(export / file, flipped((export / file).read_bytes(), 7))
    assert refused(export).startswith(f"{file}: hash 0 is not the one of tile/{level - 1}/")


# ---- Older checkpoints ----


def test_a_tail_cut_and_signed_anew_is_seen_by_an_older_checkpoint(export):
    log = Log(entries(300))
    Log(log.entries[:290]).write(export)
    assert check(export)["entries"] == 290
    assert check(export, old=log.checkpoint(290))["extends"] == 290
    assert refused(export, old=log.checkpoint(300)).endswith("has 300 entries, the log only 290: its tail was cut")


@pytest.mark.parametrize("old_size, fork", [(200, 5), (200, 199), (256, 255), (300, 0), (1, 0)])
def test_a_fork_is_seen_by_an_older_checkpoint(export, old_size, fork):
    log = Log(entries(300))
    log.entries[fork] = entry(fork, note="another history")
    Log(log.entries).write(export)
    check(export)
    assert refused(export, old=log.checkpoint(old_size)).endswith(
        f"its root is not the one of the log's first {old_size} entries: a fork"
    )
    # What was changed only later is no fork.
    if fork:
        assert check(export, old=log.checkpoint(fork))["extends"] == fork


def test_an_older_checkpoint_that_proves_nothing(export):
    log = Log(entries(300))
    log.write(export)
    root = b64(log.root(9))
    assert "the origin is" in refused(export, old=log.checkpoint(9, origin="audit.example.com/globex"))
    assert "not signed by" in refused(export, old=log.checkpoint(9, signer=SECOND))
    assert "does not fit" in refused(export, old=f"{ORIGIN}\n9\n{root}\n\n{FIRST.line('x')}".encode())
    assert "leading zeros" in refused(export, old=signed(f"{ORIGIN}\n09\n{root}\n", FIRST))
    with pytest.raises(Invalid, match="nowhere: missing"):
        verify.verify(export, FIRST.vkey, export / "nowhere")


# ---- Retention ----


def with_changes(*changes: bytes, count: int, keys: list[Signer] | None = None) -> Log:
    """A log of `count` entries in which each of `changes` stands at its own seq."""
    whole = entries(count)
    for one in changes:
        whole[json.loads(one)["seq"]] = one
    return Log(whole, keys or [FIRST])


def kept(export: Path, before: object = "512", gone: tuple[int, ...] = (0, 1)) -> Path:
    """700 entries, one of them on retention, and without the bundles `gone`."""
    with_changes(retention(600, before), count=700).write(export)
    for n in gone:
        (export / f"tile/entries/{n:03}").unlink()
    return export


@pytest.mark.parametrize("before, gone", [
    ("512", ()), ("512", (0,)), ("512", (0, 1)), ("600", (0, 1)), ("256", (0,)), ("300", (0,)), ("0", ()),
])
def test_old_bundles_may_be_gone_as_far_as_an_entry_says(export, before, gone):
    assert check(kept(export, before, gone))["entries_gone"] == 256 * len(gone)


@pytest.mark.parametrize("before, gone, expected", [
    ("511", (0, 1), "tile/entries/001: missing; by the log's own entries only those before 511 may be gone"),
    ("256", (0, 1), "tile/entries/001: missing; by the log's own entries only those before 256 may be gone"),
    ("255", (0,), "tile/entries/000: missing; by the log's own entries only those before 255 may be gone"),
    ("512", (1,), "tile/entries/001: missing"),
    ("601", (0, 1), "entry 600: entries_before is '601', not a number up to 600"),
    ("0512", (0, 1), "entries_before is '0512'"),
    ("-1", (0, 1), "entries_before is '-1'"),
    ("9" * 5000, (0, 1), "entries_before is"),
    (512, (0, 1), "detail.entries_before is not a string"),
    (None, (0, 1), "detail.entries_before is not a string"),
])
def test_old_bundles_gone_without_leave(export, before, gone, expected):
    assert expected in refused(kept(export, before, gone))


def test_the_highest_word_of_the_log_on_retention_counts(export):
    with_changes(retention(600, "512"), retention(650, "256"), count=700).write(export)
    for n in (0, 1):
        (export / f"tile/entries/{n:03}").unlink()
    assert check(export)["entries_gone"] == 512


def test_old_bundles_gone_without_any_entry_on_retention(export):
    Log(entries(700)).write(export)
    (export / "tile/entries/000").unlink()
    assert refused(export).startswith("tile/entries/000: missing; by the log's own entries only those before 0 may be gone")


def emptied(export: Path, lost: object, empty: tuple[int, ...]) -> Path:
    """700 entries, one of them on a repair, and the entries `empty` without their texts."""
    repair = entry(650, action="tenant.repair", detail={"lost_entries": lost, "reason": "damaged"})
    log = with_changes(repair, count=700)
    log.entries = [b"" if seq in empty else one for seq, one in enumerate(log.entries)]
    return log.write(export)


@pytest.mark.parametrize("lost, empty", [
    ("5-7 300", (5, 6, 7, 300)), ("5-7 300", (5,)), ("0", (0,)), ("0-649", tuple(range(256))), ("649", (649,)),
])
def test_entries_may_be_lost_as_far_as_an_entry_on_a_repair_says(export, lost, empty):
    report = check(emptied(export, lost, empty))
    assert (report["entries"], report["entries_lost"]) == (700, len(empty))


@pytest.mark.parametrize("lost, empty, expected", [
    ("5-7 300", (8,), "entry 8: is empty, and no entry on a repair says that it was lost"),
    ("5-7 300", (650,), "entry 650: is empty, and no entry on a repair says that it was lost"),
    ("5-7 300", (699,), "entry 699: is empty"),
    ("650", (), "entry 650: lost_entries has '650', not a range before 650"),
    ("7-5", (), "lost_entries has '7-5'"),
    ("", (), "lost_entries has ''"),
    ("5,7", (), "lost_entries has '5,7'"),
    (5, (), "detail.lost_entries is not a string"),
])
def test_entries_lost_without_leave(export, lost, empty, expected):
    assert expected in refused(emptied(export, lost, empty))


def test_the_hash_of_a_lost_entry_is_bound_all_the_same(export):
    emptied(export, "5-7", (5,))
    path = export / "tile/0/000"
    path.write_bytes(flipped(path.read_bytes(), 5 * 256 + 3))
    refused(export)


def test_a_bundle_gone_as_a_repair_says(export):
    emptied(export, "0-255", ())
    (export / "tile/entries/000").unlink()
    assert check(export)["entries_gone"] == 256
    (export / "tile/entries/001").unlink()
    refused(export)


def test_all_bundles_gone(export):
    kept(export)
    shutil.rmtree(export / "tile/entries")
    assert refused(export) == "tile/entries: has no bundle at all"


def test_the_tiles_of_entries_that_are_gone_are_still_checked(export):
    log = with_changes(retention(600, "512"), count=700)
    kept(export)
    for size in (1, 100, 256, 300, 512, 700):
        assert check(export, old=log.checkpoint(size))["extends"] == size
    other = Log([entry(0, note="another"), *log.entries[1:]])
    assert "a fork" in refused(export, old=other.checkpoint(100))
    good = (export / "tile/0/001").read_bytes()
    put(export / "tile/0/001", flipped(good, 99))
    assert refused(export) == "tile/1/000.p/2: hash 1 is not the one of tile/0/001"
    put(export / "tile/0/001", good)
    (export / "tile/0/001").unlink()
    assert refused(export) == "tile/0/001: missing"


# ---- Rotation of keys ----


def rotated(*changes: bytes, keys: list[Signer] | None = None, count: int = 20) -> Log:
    return with_changes(*changes, count=count, keys=keys or [FIRST, SECOND])


TWICE = [rotation(5, FIRST, SECOND), rotation(12, SECOND, THIRD)]


def test_the_chain_of_keys_leads_from_each_key_to_the_one_in_force(export):
    log = rotated(*TWICE, keys=[FIRST, SECOND, THIRD])
    log.write(export)
    for given in (FIRST, SECOND, THIRD):
        assert check(export, given.vkey)["key"] == THIRD.vkey
        # Each checkpoint by the key of its time alone: the first one that contains a rotation's entry is by the new key.
        for size, in_force in enumerate([FIRST] * 6 + [SECOND] * 7 + [THIRD] * 8):
            assert check(export, given.vkey, log.checkpoint(size, in_force))["extends"] == size
            for other in {FIRST, SECOND, THIRD} - {in_force}:
                message = refused(export, given.vkey, log.checkpoint(size, other))
                assert f"not signed by {ORIGIN}+{in_force.id.hex()}, in force there" in message
    assert refused(export, Signer("stranger").vkey).startswith("--vkey: no rotation in the log")


def test_a_retired_key_signs_no_more(export):
    log = rotated(*TWICE, keys=[FIRST, SECOND, THIRD])
    log.write(export)
    for signer in (FIRST, SECOND):
        put(export / "checkpoint", log.checkpoint(signer=signer))
        for given in (FIRST, SECOND, THIRD):
            assert f"not signed by {ORIGIN}+{THIRD.id.hex()}" in refused(export, given.vkey)


@pytest.mark.parametrize("size", [1, 5])
def test_a_log_that_ends_in_its_rotation(export, size):
    log = rotated(rotation(size - 1, FIRST, SECOND), count=size)
    log.write(export)
    for given in (FIRST, SECOND):
        assert check(export, given.vkey, log.checkpoint(size - 1, FIRST))["key"] == SECOND.vkey
    put(export / "checkpoint", log.checkpoint(signer=FIRST))
    for given in (FIRST, SECOND):
        assert f"not signed by {ORIGIN}+{SECOND.id.hex()}" in refused(export, given.vkey)


ALIEN = Signer("second", name="audit.example.com/globex")
ROTATIONS = {
    "old signature by another key": (rotation(5, FIRST, SECOND, signature_old=b64(THIRD.private.sign(b""))), "signature_old does not fit"),
    "new signature by another key": (rotation(5, FIRST, SECOND, signature_new=b64(THIRD.private.sign(b""))), "signature_new does not fit"),
    "signature of the wrong length": (rotation(5, FIRST, SECOND, signature_old=b64(b"a" * 63)), "signature_old does not fit"),
    "signature that is no base64": (rotation(5, FIRST, SECOND, signature_old="*"), "signature_old does not fit"),
    "another seq": (rotation(5, FIRST, SECOND, said_seq="6"), "signature_old does not fit"),
    "another origin": (rotation(5, FIRST, SECOND, origin="globex"), "signature_old does not fit"),
    "another old key": (rotation(5, FIRST, SECOND, old_key=THIRD.vkey), "signature_old does not fit"),
    "another new key": (rotation(5, FIRST, SECOND, new_key=THIRD.vkey), "signature_old does not fit"),
    "a key of another log": (rotation(5, FIRST, ALIEN), "a key is not named"),
    "no key": (rotation(5, FIRST, SECOND, new_key="key"), "not an Ed25519 verification key"),
    "a number as key": (rotation(5, FIRST, SECOND, new_key=5), "detail.new_key is not a string"),
    "no detail": (entry(5, action="audit.rotate_key", detail=None), "detail.old_key is not a string"),
}


@pytest.mark.parametrize("change, expected", ROTATIONS.values(), ids=ROTATIONS.keys())
def test_a_rotation_that_does_not_hold(export, change, expected):
    message = refused(rotated(change).write(export))
    assert message.startswith("tile/entries/000.p/20: entry 5: ") and expected in message


def test_a_chain_of_keys_with_a_gap(export):
    message = refused(rotated(TWICE[0], rotation(12, FIRST, THIRD), keys=[FIRST, THIRD]).write(export))
    assert message.endswith("entry 12: old_key is not the key of the rotation before")


def test_a_key_file_that_does_not_fit_the_rotations(export):
    rotated(*TWICE, keys=[FIRST, SECOND, THIRD]).write(export)
    for keys, expected in (
        ((THIRD, FIRST), "each earlier key"),
        ((THIRD,), "each earlier key"),
        ((THIRD, FIRST, SECOND), "the latest first"),
        ((SECOND, THIRD, FIRST), "is in force"),
        ((THIRD, SECOND, FIRST, FIRST), "each earlier key"),
        ((THIRD, SECOND, FIRST, Signer("stranger")), "never had"),
    ):
        put(export / "vkey", "".join(f"{key.vkey}\n" for key in keys).encode())
        assert expected in refused(export)


def test_a_key_that_comes_back_is_listed_once(export):
    log = rotated(rotation(5, FIRST, SECOND), rotation(12, SECOND, FIRST), keys=[SECOND, FIRST])
    log.write(export)
    for size, signer in ((5, FIRST), (6, SECOND), (12, SECOND), (13, FIRST)):
        assert check(export, FIRST.vkey, log.checkpoint(size, signer))["key"] == FIRST.vkey
    put(export / "vkey", f"{FIRST.vkey}\n{SECOND.vkey}\n{FIRST.vkey}\n".encode())
    assert "each earlier key" in refused(export)


def test_a_rotation_among_the_entries_that_are_gone(export):
    """What cannot be seen is not trusted: the earlier key leads nowhere, the later one holds."""
    rotated(rotation(5, FIRST, SECOND), retention(600, "512"), count=700).write(export)
    assert check(export, FIRST.vkey)["entries_gone"] == 0
    (export / "tile/entries/000").unlink()
    assert check(export, SECOND.vkey)["entries_gone"] == 256
    assert f"not signed by {ORIGIN}+{FIRST.id.hex()}, in force there by --vkey" in refused(export, FIRST.vkey)


def test_the_key_file_may_list_keys_from_before_the_entries_that_are_left(export):
    changes = rotation(5, FIRST, SECOND), retention(600, "512"), rotation(650, SECOND, THIRD)
    rotated(*changes, keys=[FIRST, SECOND, THIRD], count=700).write(export)
    (export / "tile/entries/000").unlink()
    assert check(export, SECOND.vkey)["key"] == THIRD.vkey
    for keys in ((THIRD, FIRST, SECOND), (THIRD, FIRST), (THIRD,), (THIRD, SECOND, FIRST, FIRST)):
        put(export / "vkey", "".join(f"{key.vkey}\n" for key in keys).encode())
        assert "each earlier key" in refused(export, SECOND.vkey)


# ---- The program ----


def run(*arguments: object) -> tuple[int, list[str], str]:
    program = [sys.executable, verify.__file__, *map(str, arguments)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, env={"PATH": "", "PYTHONIOENCODING": "ascii"})
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_one_line_and_the_exit_code(export, tmp_path):
    log = Log(entries(300))
    log.write(export)
    root = b64(log.root())
    assert run(export, "--vkey", FIRST.vkey) == (0, [f"verified: 300 entries, root {root}"], "")
    put(tmp_path / "old", log.checkpoint(290))
    extends = [f"verified: 300 entries, root {root} (extends the checkpoint of 290)"]
    assert run(export, "--vkey", FIRST.vkey, "--checkpoint", tmp_path / "old") == (0, extends, "")
    put(export / "tile/0/000", flipped((export / "tile/0/000").read_bytes(), 256 * 17))
    expected = "tile/entries/000: entry 17: its hash is not the one in tile/0/000"
    assert run(export, "--vkey", FIRST.vkey) == (1, [f"not verified: {expected}"], "")
    code, lines, _ = run(export, "--vkey", FIRST.vkey, "--json")
    assert (code, json.loads(lines[0])) == (1, {"verified": False, "error": expected})


def test_the_line_says_what_retention_took_away(export):
    kept(export)
    code, (line,), _ = run(export, "--vkey", FIRST.vkey)
    assert code == 0 and line.endswith(" (the first 512 gone by retention)")
    code, (line,), _ = run(export, "--vkey", FIRST.vkey, "--json")
    report = json.loads(line)
    assert (report["verified"], report["entries"], report["entries_gone"], report["tenant"]) == (True, 700, 512, "acme")


def test_names_from_the_export_do_not_reach_the_terminal_raw(export):
    Log(entries(3)).write(export)
    put(export / "tile/\x1b[2J\udcff—", b"")
    code, lines, errors = run(export, "--vkey", FIRST.vkey)
    assert (code, len(lines), errors) == (1, 1, "")
    assert "\\x1b[2J" in lines[0] and lines[0].isprintable()
