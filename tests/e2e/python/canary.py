"""Canaries: 128 random bits planted where a tenant's data lies, and a scan that knows them in every usual encoding."""

from __future__ import annotations

import base64
import math
import secrets


def canary() -> str:
    """128 random bits in hex: they pass every grammar (names, headers, JSON, YAML) unchanged."""
    return secrets.token_hex(16)


def _inside(encode, raw: bytes, shift: int) -> bytes:
    """The characters of a base64 text that belong to `raw` alone when `shift` bytes stand before it and any after it."""
    encoded = encode(b"\0" * shift + raw)
    return encoded[math.ceil(shift * 8 / 6) : (shift + len(raw)) * 8 // 6]


def forms(text: str) -> dict[str, bytes]:
    """How a text could stand in bytes: raw and encoded. Base64 has three forms, by the place of the first byte."""
    raw = text.encode()
    shapes = {
        "raw": raw,
        "upper case": text.upper().encode(),
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "percent": "".join(f"%{byte:02x}" for byte in raw).encode(),
        "PERCENT": "".join(f"%{byte:02X}" for byte in raw).encode(),
        "JSON escapes": "".join(f"\\u{ord(letter):04x}" for letter in text).encode(),
        "JSON ESCAPES": "".join(f"\\u{ord(letter):04X}" for letter in text).encode(),
        "UTF-16": text.encode("utf-16-le"),
        "decimal list": ",".join(str(byte) for byte in raw).encode(),
        "reversed": raw[::-1],
    }
    for shift in range(3):
        shapes[f"base64+{shift}"] = _inside(base64.b64encode, raw, shift)
        shapes[f"base64url+{shift}"] = _inside(base64.urlsafe_b64encode, raw, shift)
    return shapes


class Scan:
    """Looks for marks. Half of a canary is enough for a hit: what was cut short has leaked all the same."""

    def __init__(self, marks: dict[str, str]):
        self._needles: dict[bytes, tuple[str, str]] = {}
        for name, text in marks.items():
            half = len(text) // 2
            assert half >= 8, f"{name} is too short to be told from chance"
            for part in (text[:half], text[half:]):
                for form, needle in forms(part).items():
                    self._needles.setdefault(needle, (name, form))

    def hits(self, content: bytes) -> set[tuple[str, str]]:
        """Names and forms of the marks that stand in `content`."""
        return {found for needle, found in self._needles.items() if needle in content}

    def names(self, content: bytes) -> set[str]:
        return {name for name, _ in self.hits(content)}
