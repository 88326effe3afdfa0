#!/usr/bin/env python3
"""Verifies an exported audit log offline, from public specifications alone.

    python verify.py DIR --vkey VKEY [--checkpoint OLD_CHECKPOINT_FILE] [--json]

Needs Python 3.11 and the package `cryptography` (for Ed25519), no network and no other part of the project. VKEY is the
verification key that you got from somewhere else than DIR; OLD_CHECKPOINT_FILE is a checkpoint that you kept yourself.
Exit 0 and one line `verified: N entries, root R`, or exit 1 and one line that names the first thing that is wrong.

What is proved: the log of N entries in DIR is the one that the holder of the key signed, each entry stands in its place,
and (with --checkpoint) nothing that stood in the log at your old checkpoint was changed or taken away. What is not: that
the log never had another form before the first checkpoint that you kept, and, if you give a key that was replaced since,
that nobody got hold of that key after its time: give the newest one that you have.

Specifications: [tiles] c2sp.org/tlog-tiles, [checkpoint] c2sp.org/tlog-checkpoint, [note] c2sp.org/signed-note,
[RFC 6962] section 2.1 (Merkle tree), [RFC 8032] (Ed25519), [RFC 8785] (canonical JSON). What the product adds to them
(`seq`, `tenant`, retention, key rotation) is described where it is checked.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TILE = 256  # hashes in a full tile, entries in a full bundle
HASH = 32  # bytes of SHA-256
MAX_TEXT = 1 << 20  # bytes of a checkpoint or key file: far above what sixteen signatures need
MAX_BUNDLE = TILE * (2 + 0xFFFF)


class Invalid(Exception):
    """The first thing that is wrong: in which file, at which entry (counted from 0) where there is one, and what."""

    def __init__(self, where: str, problem: str, index: int | None = None):
        place = where if index is None else f"{where}: entry {index}"
        text = f"{place}: {problem}"
        # Names and texts of the export reach a terminal here; they must not steer it.
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text))


# ---- Keys and signed notes ----


@dataclass(frozen=True)
class Key:
    """An Ed25519 verification key: [note] "Signatures", and its text form `name+hex8+base64(0x01 || key)`."""

    text: str
    name: str
    id: bytes
    public: bytes

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """[RFC 8032] section 5.1.7."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


def decode_base64(text: str) -> bytes | None:
    """RFC 4648 section 4, and only the one encoding that section 3.5 calls canonical; else None."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return decoded if base64.b64encode(decoded).decode() == text else None


def parse_key(text: str, where: str, index: int | None = None) -> Key:
    """A key from its text; its id must be SHA-256(name || 0x0A || 0x01 || key)[:4], [note] "Ed25519 signatures"."""
    match = re.fullmatch(r"([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)", text)
    decoded = decode_base64(match[3]) if match else None
    if decoded is None or len(decoded) != 33 or decoded[0] != 1:
        raise Invalid(where, "not an Ed25519 verification key of the form name+hex8+base64", index)
    key_id = hashlib.sha256(match[1].encode(errors="surrogateescape") + b"\n" + decoded).digest()[:4]
    if key_id.hex() != match[2]:
        raise Invalid(where, f"the key's id is {key_id.hex()}, not {match[2]}", index)
    return Key(text, match[1], key_id, decoded[1:])


def decode_text(data: bytes, where: str) -> str:
    """[note] "Format": UTF-8, ends in a newline, no other ASCII control character."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Invalid(where, f"not UTF-8 at byte {error.start}") from None
    if any(c < " " and c != "\n" for c in text):
        raise Invalid(where, "has a control character")
    if not text.endswith("\n"):
        raise Invalid(where, "does not end in a newline")
    return text


@dataclass(frozen=True)
class Note:
    """A signed note: the text that is signed, and (key name, key id, signature) of each signature line."""

    where: str
    text: str
    signatures: list[tuple[str, bytes, bytes]]

    def signed_by(self, key: Key) -> bool:
        """Whether `key` signed; a wrong signature of a known key spoils the note. [note] "Signatures"."""
        mine = [s for name, key_id, s in self.signatures if (name, key_id) == (key.name, key.id)]
        if not all(key.verifies(signature, self.text.encode()) for signature in mine):
            raise Invalid(self.where, f"the signature of {key.name}+{key.id.hex()} does not fit the text")
        return bool(mine)


def parse_note(data: bytes, where: str) -> Note:
    """[note] "Format": the last empty line parts the text from the signatures; unknown signatures are kept."""
    text, parted, tail = decode_text(data, where).rpartition("\n\n")
    if not parted or not tail:
        raise Invalid(where, "has no signature below an empty line")
    signatures = []
    for line in tail[:-1].split("\n"):
        match = re.fullmatch(r"— ([^\s+]+) ([A-Za-z0-9+/=]+)", line)
        signature = decode_base64(match[2]) if match else None
        if signature is None or len(signature) <= 4:
            raise Invalid(where, f"malformed signature line {line!a}")
        signatures.append((match[1], signature[:4], signature[4:]))
    return Note(where, text + "\n", signatures)


@dataclass(frozen=True)
class Checkpoint:
    """What a log's holder signs: its name, its size and its root hash."""

    note: Note
    origin: str
    size: int
    root: bytes


def parse_checkpoint(data: bytes, where: str, origin: str) -> Checkpoint:
    """[checkpoint] "Note text". The origin must be the key's name: this product names keys after their log."""
    note = parse_note(data, where)
    lines = note.text[:-1].split("\n")
    if len(lines) < 3 or "" in lines:
        raise Invalid(where, "must have the lines origin, size and root, and no empty one")
    if lines[0] != origin:
        raise Invalid(where, f"the origin is {lines[0]!a}, not {origin!a}")
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", lines[1]):
        raise Invalid(where, f"the size {lines[1]!a} is not a decimal number without leading zeros")
    root = decode_base64(lines[2])
    if root is None or len(root) != HASH:
        raise Invalid(where, f"the root {lines[2]!a} is not the canonical base64 of {HASH} bytes")
    return Checkpoint(note, lines[0], int(lines[1]), root)


# ---- The Merkle tree ----


def leaf_hash(entry: bytes) -> bytes:
    """[RFC 6962] section 2.1: SHA-256(0x00 || entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def tree_hash(hashes: list[bytes]) -> bytes:
    """[RFC 6962] section 2.1: MTH over leaf hashes, split at the largest power of two below their number."""
    if len(hashes) <= 1:
        return hashes[0] if hashes else hashlib.sha256().digest()
    k = 1 << ((len(hashes) - 1).bit_length() - 1)
    return hashlib.sha256(b"\x01" + tree_hash(hashes[:k]) + tree_hash(hashes[k:])).digest()


# ---- Files of the export ----


def tile_path(level: int | str, n: int, width: int) -> str:
    """[tiles] "Merkle Tree": tile/<L>/<N>[.p/<W>], N in groups of three digits, all but the last with an x."""
    name = f"{n % 1000:03}"
    while n := n // 1000:
        name = f"x{n % 1000:03}/{name}"
    return f"tile/{level}/{name}" + ("" if width == TILE else f".p/{width}")


def tiles_over(count: int) -> Iterator[tuple[int, int]]:
    """(n, width) of the tiles that hold `count` hashes or entries; only the last one may be partial."""
    for n in range(-(-count // TILE)):
        yield n, min(TILE, count - n * TILE)


def hash_tiles(size: int) -> Iterator[tuple[int, int, int]]:
    """(level, n, width) of all hash tiles of a tree: level l has floor(size / 256**l) hashes. [tiles] "Partial Tiles"."""
    level, count = 0, size
    while count:
        for n, width in tiles_over(count):
            yield level, n, width
        level, count = level + 1, count // TILE


def read_file(directory: Path, path: str, limit: int) -> bytes:
    """The whole file, which may have `limit` bytes at most."""
    try:
        if not (directory / path).is_file():  # anything else could block or never end
            raise Invalid(path, "missing")
        with open(directory / path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Invalid(path, f"cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise Invalid(path, f"longer than {limit} bytes")
    return data


def read_tile(directory: Path, level: int, n: int, width: int) -> list[bytes]:
    """The hashes of one tile: exactly `width` of them."""
    path = tile_path(level, n, width)
    data = read_file(directory, path, TILE * HASH)
    if len(data) != width * HASH:
        raise Invalid(path, f"has {len(data)} bytes, not {width * HASH} ({width} hashes)")
    return [data[i : i + HASH] for i in range(0, len(data), HASH)]


def read_bundle(directory: Path, n: int, width: int) -> Iterator[bytes]:
    """[tiles] "Log entries": exactly `width` entries, each after its length as a big-endian uint16."""
    path = tile_path("entries", n, width)
    data = read_file(directory, path, MAX_BUNDLE)
    at = 0
    for i in range(width):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise Invalid(path, "the file ends before the entry does", n * TILE + i)
        yield data[at + 2 : end]
        at = end
    if at != len(data):
        raise Invalid(path, f"has {len(data) - at} bytes more than its {width} entries")


def check_files(directory: Path, size: int) -> int:
    """That tile/ holds what a tree of `size` needs and nothing else; answers how many of the oldest entries are gone."""
    present = set()
    for folder, _, names in os.walk(directory / "tile"):
        present.update((Path(folder) / name).relative_to(directory).as_posix() for name in names)
    expected = set()
    for tile in hash_tiles(size):
        expected.add(tile_path(*tile))
        if tile_path(*tile) not in present:
            raise Invalid(tile_path(*tile), "missing")
    bundles = [tile_path("entries", n, width) for n, width in tiles_over(size)]
    for path in sorted(present - expected - set(bundles)):
        raise Invalid(path, f"not part of a log of {size} entries")
    found = [n for n, path in enumerate(bundles) if path in present]
    if size and not found:
        raise Invalid("tile/entries", "has no bundle at all")
    first = found[0] if found else 0
    for path in bundles[first:]:
        if path not in present:
            raise Invalid(path, "missing")
    return TILE * first


# ---- Entries ----


# For strings, true, false and null Python's own form is the one of [RFC 8785] section 3.2.2.
PLAIN = json.JSONEncoder(ensure_ascii=False).encode


def number_text(value: float) -> str:
    """[RFC 8785] section 3.2.2.3: a number as ECMAScript's Number::toString writes it."""
    if not math.isfinite(value):
        raise ValueError("no JSON number")
    if value == 0:
        return "0"
    sign, shortest, exponent = Decimal(repr(value)).as_tuple()
    point = len(shortest) + exponent  # where the decimal point stands, counted from the first digit
    digits = "".join(map(str, shortest)).rstrip("0")
    if len(digits) <= point <= 21:
        text = digits.ljust(point, "0")
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        text = f"{digits[0]}{'.' * (len(digits) > 1)}{digits[1:]}e{point - 1:+}"
    return "-" * sign + text


def canonical(value: object) -> str:
    """[RFC 8785] section 3.2: no space, keys in the order of their UTF-16 code units, strings barely escaped."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number_text(float(value))
    return PLAIN(value)


def parse_object(entry: bytes, where: str, index: int) -> dict:
    """The entry's fields. Only the canonical form comes back as the same bytes: not a key twice, not 1.0, not \\u0041."""
    try:
        fields = json.loads(entry.decode("utf-8"))
        same = canonical(fields).encode("utf-8") == entry
    except (ValueError, OverflowError, RecursionError):
        same = False
    if not same:
        raise Invalid(where, "not canonical JSON (RFC 8785)", index)
    if not isinstance(fields, dict):
        raise Invalid(where, "not a JSON object", index)
    return fields


@dataclass(frozen=True)
class Rotation:
    """A log that contains the entry `index` is signed by `new`, a shorter one by `old`."""

    index: int
    old: Key
    new: Key


@dataclass
class Trail:
    """What the entries say, gathered while they are read in order."""

    origin: str
    tenant: str | None = None
    rotations: list[Rotation] = field(default_factory=list)
    entries_before: int = 0  # entries with a smaller index may be gone, by the entries on retention
    empty: list[tuple[str, int]] = field(default_factory=list)  # file and index of entries of which only the hash is there
    lost: list[range] = field(default_factory=list)  # what the entries on repairs say was lost

    def add(self, entry: bytes, where: str, index: int) -> None:
        """The product's own rules: `seq` is the index, one `tenant` in all entries, a `time`."""
        fields = parse_object(entry, where, index)
        seq, tenant = fields.get("seq"), fields.get("tenant")
        if type(seq) is not int or seq != index:
            raise Invalid(where, f"its seq is {seq!a}, not {index}", index)
        if not isinstance(tenant, str) or not tenant or tenant != (self.tenant or tenant):
            raise Invalid(where, f"its tenant is {tenant!a}, not {self.tenant or 'a name'!a}", index)
        if "time" not in fields:
            raise Invalid(where, "has no time", index)
        self.tenant = tenant
        if fields.get("action") == "audit.retention":
            self.add_retention(fields, where, index)
        elif fields.get("action") == "tenant.repair":
            self.add_repair(fields, where, index)
        elif fields.get("action") == "audit.rotate_key":
            self.add_rotation(fields, where, index)

    def add_retention(self, fields: dict, where: str, index: int) -> None:
        """`detail.entries_before`, a decimal string: entries with a smaller index may be gone. It cannot mean itself."""
        before = detail(fields, "entries_before", where, index)
        if not re.fullmatch(r"0|[1-9][0-9]{0,18}", before) or int(before) > index:
            raise Invalid(where, f"entries_before is {before!a}, not a number up to {index}", index)
        self.entries_before = max(self.entries_before, int(before))

    def add_repair(self, fields: dict, where: str, index: int) -> None:
        """`detail.lost_entries`, where it is there: ranges such as `5-7 300` of entries before it of which only hashes are left."""
        inner = fields.get("detail")
        if not isinstance(inner, dict) or "lost_entries" not in inner:
            return
        for text in detail(fields, "lost_entries", where, index).split(" "):
            match = re.fullmatch(r"([0-9]{1,19})(?:-([0-9]{1,19}))?", text)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if not first <= last < index:
                raise Invalid(where, f"lost_entries has {text!a}, not a range before {index}", index)
            self.lost.append(range(first, last + 1))

    def is_lost(self, index: int) -> bool:
        return any(index in lost for lost in self.lost)

    def add_rotation(self, fields: dict, where: str, index: int) -> None:
        """A change of keys is signed by both keys, over the log's origin, both keys and the entry's seq."""
        old, new = (parse_key(detail(fields, name, where, index), where, index) for name in ("old_key", "new_key"))
        if old.name != self.origin or new.name != self.origin:
            raise Invalid(where, f"a key is not named {self.origin!a}", index)
        if self.rotations and self.rotations[-1].new != old:
            raise Invalid(where, "old_key is not the key of the rotation before", index)
        lines = ["partywall audit key rotation v1", self.origin, old.text, new.text, str(index)]
        message = "".join(f"{line}\n" for line in lines).encode()
        for key, name in ((old, "signature_old"), (new, "signature_new")):
            signature = decode_base64(detail(fields, name, where, index))
            if signature is None or not key.verifies(signature, message):
                raise Invalid(where, f"{name} does not fit", index)
        self.rotations.append(Rotation(index, old, new))


def detail(fields: dict, name: str, where: str, index: int) -> str:
    """The string `detail.<name>` of an entry."""
    inner = fields.get("detail")
    value = inner.get(name) if isinstance(inner, dict) else None
    if not isinstance(value, str):
        raise Invalid(where, f"detail.{name} is not a string", index)
    return value


# ---- The log ----


def read_leaves(directory: Path, size: int, gone: int, trail: Trail) -> list[bytes]:
    """All leaf hashes: of the entries, which level 0 must repeat; of level 0 itself for the entries that are gone."""
    leaves: list[bytes] = []
    for n, width in tiles_over(size):
        tile = read_tile(directory, 0, n, width)
        leaves += tile
        if n * TILE < gone:
            continue
        where = tile_path("entries", n, width)
        for index, (entry, leaf) in enumerate(zip(read_bundle(directory, n, width), tile, strict=True), n * TILE):
            if not entry and leaf_hash(entry) != leaf:
                # Whether an entry on a repair says that it was lost is known at the end of the log.
                trail.empty.append((where, index))
                continue
            if leaf_hash(entry) != leaf:
                raise Invalid(where, f"its hash is not the one in {tile_path(0, n, width)}", index)
            trail.add(entry, where, index)
    return leaves


def check_upper_tiles(directory: Path, leaves: list[bytes]) -> None:
    """[tiles] "Merkle Tree": each hash above level 0 is the tree hash of a full tile one level below."""
    level, below = 1, leaves
    while len(below) >= TILE:
        hashes = [tree_hash(below[n * TILE : (n + 1) * TILE]) for n in range(len(below) // TILE)]
        for n, width in tiles_over(len(hashes)):
            for i, found in enumerate(read_tile(directory, level, n, width), n * TILE):
                if found != hashes[i]:
                    problem = f"hash {i - n * TILE} is not the one of {tile_path(level - 1, i, TILE)}"
                    raise Invalid(tile_path(level, n, width), problem)
        level, below = level + 1, hashes


def key_chain(trail: Trail, given: Key) -> list[Key]:
    """The keys of the log in order, as far as its entries are here; --vkey must be one of them."""
    chain = [trail.rotations[0].old] if trail.rotations else [given]
    chain += [rotation.new for rotation in trail.rotations]
    if given not in chain:
        raise Invalid("--vkey", "no rotation in the log (as far as its entries are here) leads from or to this key")
    return chain


def check_signed(checkpoint: Checkpoint, trail: Trail, chain: list[Key]) -> None:
    """A signature by the key in force at that size: each rotation among its entries has put the next one in force."""
    key = chain[sum(rotation.index < checkpoint.size for rotation in trail.rotations)]
    if not checkpoint.note.signed_by(key):
        wanted = f"{key.name}+{key.id.hex()}"
        raise Invalid(checkpoint.note.where, f"not signed by {wanted}, in force there by --vkey and the log's rotations")


def check_key_file(directory: Path, chain: list[Key], gone: int) -> None:
    """That DIR/vkey lists each key of the log once, the latest first. What it lists is compared only, never trusted."""
    lines = decode_text(read_file(directory, "vkey", MAX_TEXT), "vkey")[:-1].split("\n")
    listed = [parse_key(line, "vkey") for line in lines]
    known = list(dict.fromkeys(reversed(chain)))
    if listed[0] != known[0]:
        raise Invalid("vkey", f"its first key is {listed[0].text}, but {known[0].text} is in force")
    if listed[: len(known)] != known or len(set(listed)) != len(listed):
        raise Invalid("vkey", "does not list each earlier key of the log once, the latest first")
    if len(listed) > len(known) and not gone:  # the rotations of still earlier keys may stand in entries that are gone
        raise Invalid("vkey", "lists a key that the log never had")


def check_prefix(old: Checkpoint, size: int, leaves: list[bytes]) -> None:
    """[checkpoint] "Signatures": the tree at the old size must have the old root, else one of the two is a lie."""
    if old.size > size:
        raise Invalid(old.note.where, f"has {old.size} entries, the log only {size}: its tail was cut")
    if tree_hash(leaves[: old.size]) != old.root:
        raise Invalid(old.note.where, f"its root is not the one of the log's first {old.size} entries: a fork")


def verify(directory: Path, vkey: str, old_file: Path | None = None) -> dict:
    """Checks all; raises Invalid at the first thing that is wrong."""
    given = parse_key(vkey, "--vkey")
    checkpoint = parse_checkpoint(read_file(directory, "checkpoint", MAX_TEXT), "checkpoint", given.name)
    checkpoint.note.signed_by(given)  # where that key signed, a wrong signature ends the work here
    old = None
    if old_file:
        old = parse_checkpoint(read_file(Path(), str(old_file), MAX_TEXT), str(old_file), given.name)
    gone = check_files(directory, checkpoint.size)
    trail = Trail(checkpoint.origin)
    leaves = read_leaves(directory, checkpoint.size, gone, trail)
    check_upper_tiles(directory, leaves)
    if tree_hash(leaves) != checkpoint.root:
        raise Invalid("checkpoint", "its root is not the one of the entries and tiles")
    for where, index in trail.empty:
        if not trail.is_lost(index):
            raise Invalid(where, "is empty, and no entry on a repair says that it was lost", index)
    if not all(map(trail.is_lost, range(trail.entries_before, gone))):
        path = tile_path("entries", trail.entries_before // TILE, TILE)
        raise Invalid(path, f"missing; by the log's own entries only those before {trail.entries_before} may be gone")
    chain = key_chain(trail, given)
    check_signed(checkpoint, trail, chain)
    check_key_file(directory, chain, gone)
    if old:
        check_prefix(old, checkpoint.size, leaves)
        check_signed(old, trail, chain)
    return {
        "verified": True,
        "origin": checkpoint.origin,
        "tenant": trail.tenant,
        "entries": checkpoint.size,
        "root": base64.b64encode(checkpoint.root).decode(),
        "entries_gone": gone,
        "entries_lost": len(trail.empty),
        "key": chain[-1].text,
        "extends": old.size if old else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Verifies an exported audit log offline.")
    parser.add_argument("dir", type=Path, metavar="DIR", help="the export")
    parser.add_argument("--vkey", required=True, help="the verification key, from elsewhere than DIR")
    parser.add_argument("--checkpoint", type=Path, help="an older checkpoint that this log must extend")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of the line")
    arguments = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        report = verify(arguments.dir, arguments.vkey, arguments.checkpoint)
    except Invalid as error:
        print(json.dumps({"verified": False, "error": str(error)}) if arguments.json else f"not verified: {error}")
        return 1
    line = f"verified: {report['entries']} entries, root {report['root']}"
    line += f" (the first {report['entries_gone']} gone by retention)" if report["entries_gone"] else ""
    line += f" ({report['entries_lost']} lost, as entries on repairs say)" if report["entries_lost"] else ""
    line += f" (extends the checkpoint of {report['extends']})" if arguments.checkpoint else ""
    print(json.dumps(report) if arguments.json else line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
