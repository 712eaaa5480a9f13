"""Avro container files, the format in which datasets are downloaded.

It only writes, and only the types of datasets: string, long, double, array, record, and a union with null.
Source: https://avro.apache.org/docs/1.11.1/specification/
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
    """Returns the schema of records with these fields."""
    return {"type": "record", "name": name, "fields": [{"name": key, "type": kind} for key, kind in fields.items()]}


def array(items: Schema) -> Schema:
    """Returns the schema of a list."""
    return {"type": "array", "items": items}


def encode_container(schema: Schema, rows: Sequence[Any]) -> bytes:
    """Returns a whole file. The same rows always give the same bytes, because the sync marker is their hash."""
    schema_json = ENCODER.encode(schema)
    block = b"".join(encode(schema, row) for row in rows)
    sync_marker = hashlib.blake2b(schema_json + block, digest_size=16).digest()
    # A map of two entries, which a count of zero ends.
    meta = _long(2) + _text("avro.schema") + _bytes(schema_json) + _text("avro.codec") + _bytes(b"null") + _long(0)
    blocks = _long(len(rows)) + _bytes(block) + sync_marker if rows else b""
    return MAGIC + meta + sync_marker + blocks


def encode(schema: Schema, value: Any) -> bytes:
    """Returns one value in Avro's binary encoding. Raises TypeError for a schema that datasets do not have."""
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
            # A union is the index of the type, and then the value.
            return _long(0) if value is None else _long(1) + encode(other, value)
        case {"type": "array", "items": items}:
            block = _long(len(value)) + b"".join(encode(items, item) for item in value) if value else b""
            # A list is blocks, of which an empty one is the last.
            return block + _long(0)
        case {"type": "record", "fields": fields}:
            return b"".join(encode(field["type"], value[field["name"]]) for field in fields)
    raise TypeError(f"unsupported Avro schema: {schema}")


def _long(value: int) -> bytes:
    """Returns a zigzag varint: seven bits to a byte, the lowest first."""
    remaining = (value << 1) ^ (value >> 63)
    encoded = bytearray()
    while remaining > 0x7F:
        encoded.append(remaining & 0x7F | 0x80)
        remaining >>= 7
    encoded.append(remaining)
    return bytes(encoded)


def _bytes(value: bytes) -> bytes:
    return _long(len(value)) + value


def _text(value: str) -> bytes:
    return _bytes(value.encode("utf-8", "replace"))
