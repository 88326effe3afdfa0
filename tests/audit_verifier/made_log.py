"""Makes audit logs for the tests: right ones, and wrong ones that are rightly hashed and signed.

Shares no code with the verifier, so that an error in one of them shows: the tree is built upwards in pairs here, and
cut from the top there.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ORIGIN = "audit.example.com/acme"


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def root_of(leaves: list[bytes]) -> bytes:
    """Pairs are joined layer by layer; one that is left over goes up as it is."""
    layer = leaves or [sha256(b"")]
    while len(layer) > 1:
        pairs = [sha256(b"\x01" + a + b) for a, b in zip(layer[::2], layer[1::2])]
        layer = pairs + layer[len(pairs) * 2 :]
    return layer[0]


class Signer:
    """A signing key under a name, always the same for the same seed."""

    def __init__(self, seed: str, name: str = ORIGIN):
        self.private = Ed25519PrivateKey.from_private_bytes(sha256(seed.encode()))
        self.name = name
        typed = b"\x01" + self.private.public_key().public_bytes_raw()
        self.id = sha256(name.encode() + b"\n" + typed)[:4]
        self.vkey = f"{name}+{self.id.hex()}+{b64(typed)}"

    def line(self, text: str) -> str:
        """The signature line of a note with this text."""
        return f"— {self.name} {b64(self.id + self.private.sign(text.encode()))}\n"


FIRST = Signer("first")
SECOND = Signer("second")
THIRD = Signer("third")


def entry(seq: int, **fields: object) -> bytes:
    """One entry. The fields have ASCII names and no fractions, so that Python's own sorted form is the canonical one."""
    whole = {"seq": seq, "tenant": "acme", "time": f"2026-01-01T00:00:{seq % 60:02}Z", "action": "call_allowed"}
    whole |= {"detail": {"model": "größe-1", "policy": seq % 7}} | fields
    return json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def entries(count: int) -> list[bytes]:
    return [entry(seq) for seq in range(count)]


def retention(seq: int, before: object) -> bytes:
    return entry(seq, action="audit.retention", detail={"entries_before": before, "kept_days": "366"})


def rotation(seq: int, old: Signer, new: Signer, **changed: str) -> bytes:
    """A change of keys; `changed` replaces fields of the detail or, as `origin` and `said_seq`, what is signed."""
    origin, said_seq = changed.pop("origin", ORIGIN), changed.pop("said_seq", str(seq))
    text = f"partywall audit key rotation v1\n{origin}\n{old.vkey}\n{new.vkey}\n{said_seq}\n".encode()
    detail = {"old_key": old.vkey, "new_key": new.vkey}
    detail |= {"signature_old": b64(old.private.sign(text)), "signature_new": b64(new.private.sign(text))}
    return entry(seq, action="audit.rotate_key", detail=detail | changed)


@dataclass
class Log:
    """Entries and keys, newest key last; `write` makes the export of them."""

    entries: list[bytes]
    keys: list[Signer] = field(default_factory=lambda: [FIRST])

    def __post_init__(self):
        self.leaves = [sha256(b"\x00" + one) for one in self.entries]

    def root(self, size: int | None = None) -> bytes:
        return root_of(self.leaves[:size])

    def checkpoint(self, size: int | None = None, signer: Signer | None = None, origin: str = ORIGIN) -> bytes:
        """The signed checkpoint at `size`, by default of all entries and by the newest key."""
        size = len(self.entries) if size is None else size
        return signed(f"{origin}\n{size}\n{b64(self.root(size))}\n", signer or self.keys[-1])

    def write(self, to: Path) -> Path:
        put(to / "checkpoint", self.checkpoint())
        put(to / "vkey", "".join(f"{key.vkey}\n" for key in reversed(self.keys)).encode())
        for name in ("manifest.json", "README"):
            put(to / name, b"informational\n")
        bundled = [len(one).to_bytes(2, "big") + one for one in self.entries]
        write_tiles(to / "tile/entries", bundled)
        level, hashes = 0, self.leaves
        while hashes:
            write_tiles(to / "tile" / str(level), hashes)
            full = len(hashes) // 256
            level, hashes = level + 1, [root_of(hashes[n * 256 : n * 256 + 256]) for n in range(full)]
        return to


def signed(text: str, *signers: Signer) -> bytes:
    return (text + "\n" + "".join(signer.line(text) for signer in signers)).encode()


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_tiles(folder: Path, items: list[bytes]) -> None:
    for start in range(0, len(items), 256):
        part = items[start : start + 256]
        thousands, rest = divmod(start // 256, 1000)
        name = f"x{thousands:03}/{rest:03}" if thousands else f"{rest:03}"
        put(folder / (name if len(part) == 256 else f"{name}.p/{len(part)}"), b"".join(part))
