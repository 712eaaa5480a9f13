"""A document with fields as the text that a reranker reads: YAML, as Cohere recommends for structured data.

What comes out is YAML that means the document, written for a reader: long texts keep their lines. Nothing here
reads YAML. Source: docs/cohere-api.md#rerank.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

RESERVED = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
"""Words that YAML takes for something else than text."""

_PLAIN = re.compile(r"[^\W\d_][^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z")
_UNCLEAR = re.compile(r": |:\Z| #|\s\Z")

_encode = msgspec.json.Encoder().encode


def text_of(document: Mapping[str, Any]) -> str:
    """The document as YAML, its fields in their order."""
    return "\n".join(_lines(document))


def _lines(value: Any) -> list[str]:
    if isinstance(value, Mapping) and value:
        return [line for key, item in value.items() for line in _entry(str(key), item)]
    if isinstance(value, list) and value:
        return [line for item in value for line in _element(item)]
    return _scalar(value)


def _entry(key: str, item: Any) -> list[str]:
    name = _written(key)
    first, *rest = _lines(item)
    if isinstance(item, Mapping | list) and item:
        return [f"{name}:", *map(_deeper, (first, *rest))]
    return [f"{name}: {first}", *map(_deeper, rest)]


def _element(item: Any) -> list[str]:
    first, *rest = _lines(item)
    return [f"- {first}", *map(_deeper, rest)]


def _deeper(line: str) -> str:
    return f"  {line}" if line else line


def _scalar(value: Any) -> list[str]:
    if not isinstance(value, str):
        return [_encode(value).decode()]
    return _block(value) or [_written(value)]


def _written(text: str) -> str:
    """One line: as it is where YAML cannot take it for anything else, else in quotes."""
    plain = _PLAIN.match(text) and not _UNCLEAR.search(text) and text.lower() not in RESERVED
    return text if plain else _encode(text).decode()


def _block(text: str) -> list[str] | None:
    """A text of several lines under a bar, as far as that can be read back."""
    body = text.removesuffix("\n")
    lines = body.split("\n")
    odd = not lines[0] or lines[0][0].isspace() or not lines[-1] or not all(map(_fits, lines))
    if odd or (len(lines) == 1 and body == text):
        return None
    # The empty line is none of the text's: it ends its last line, which nothing else does at the document's end.
    return ["|", *lines, ""] if body != text else ["|-", *lines]


def _fits(line: str) -> bool:
    return not line or (line.isprintable() and not line.isspace())
