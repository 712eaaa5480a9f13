"""Avro container files: the form in which datasets are downloaded.

Only writing, only the types that datasets have: string, long, double, array, record, and a union with null.
Source: Apache Avro 1.11 specification, "Binary Encoding" and "Object Container Files".
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

MEDIA_TYPE = b"application/octet-stream"
MAGIC = b"Obj\x01"

Schema = Any  # a type's name, a list of alternatives, or an object
ENCODER = msgspec.json.Encoder()


def record(name: str, fields: dict[str, Schema]) -> Schema:
    """The schema of records with these fields."""
    return {"type": "record", "name": name, "fields": [{"name": key, "type": kind} for key, kind in fields.items()]}


def array(items: Schema) -> Schema:
    """The schema of a list."""
    return {"type": "array", "items": items}


def container(schema: Schema, rows: Sequence[Any]) -> bytes:
    """A whole file: the same rows always give the same bytes."""
    written = ENCODER.encode(schema)
    block = b"".join(encode(schema, row) for row in rows)
    mark = hashlib.blake2b(written + block, digest_size=16).digest()
    meta = _long(2) + _text("avro.schema") + _bytes(written) + _text("avro.codec") + _bytes(b"null") + _long(0)
    blocks = _long(len(rows)) + _bytes(block) + mark if rows else b""
    return MAGIC + meta + mark + blocks


def encode(schema: Schema, value: Any) -> bytes:
    """One value in Avro's binary form."""
    match schema:
        case "null":
            return b""
        case "string":
            return _text(value)
        case "long":
            return _long(value)
        case "double":
            return struct.pack("<d", value)
        case ["null", other]:
            return _long(0) if value is None else _long(1) + encode(other, value)
        case {"type": "array", "items": items}:
            filled = _long(len(value)) + b"".join(encode(items, item) for item in value) if value else b""
            return filled + _long(0)
        case {"type": "record", "fields": fields}:
            return b"".join(encode(field["type"], value[field["name"]]) for field in fields)
    raise TypeError(f"no Avro type of ours: {schema}")


def _long(value: int) -> bytes:
    """Zigzag, then seven bits to a byte, the lowest first."""
    left = (value << 1) ^ (value >> 63)
    written = bytearray()
    while left > 0x7F:
        written.append(left & 0x7F | 0x80)
        left >>= 7
    written.append(left)
    return bytes(written)


def _bytes(value: bytes) -> bytes:
    return _long(len(value)) + value


def _text(value: str) -> bytes:
    return _bytes(value.encode("utf-8", "replace"))
