"""Requests that several suites send, in both dialects."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\xff\0\0")) + chunk(b"IEND", b"")


PNG = b64encode(_png()).decode()
WEATHER_QUESTION = "What is the weather in Paris and in Rome?"
WEATHER_SCHEMA = {
    "type": "object",
    "properties": {"location": {"type": "string", "description": "The city"}},
    "required": ["location"],
    "additionalProperties": False,
}
OPENAI_WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather of a city", "parameters": WEATHER_SCHEMA},
}
ANTHROPIC_WEATHER = {"name": "get_weather", "description": "The weather of a city", "input_schema": WEATHER_SCHEMA}


def user(content) -> list[dict]:
    return [{"role": "user", "content": content}]
