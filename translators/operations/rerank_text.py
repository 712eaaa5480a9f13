"""Writes a document with fields as YAML, which Cohere recommends for structured data in rerank requests.

The YAML is valid and means the document, and it is easy to read: a text of several lines keeps them. Nothing here reads
YAML. Source: docs/cohere-api.md#rerank.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

RESERVED = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
"""Words that YAML reads as booleans or null unless they are quoted."""

# A letter first: digits could be a number, and signs are YAML's own. No control characters or line separators.
_PLAIN = re.compile(r"[^\W\d_][^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z")
# A colon or a space before `#` ends a plain text, and YAML drops trailing blanks.
_AMBIGUOUS = re.compile(r": |:\Z| #|\s\Z")

_encode = msgspec.json.Encoder().encode


def text_of(document: Mapping[str, Any]) -> str:
    """Returns the document as YAML, its fields in their order."""
    return "\n".join(_lines(document))


def _lines(value: Any) -> list[str]:
    if isinstance(value, Mapping) and value:
        return [line for key, item in value.items() for line in _entry(str(key), item)]
    if isinstance(value, list) and value:
        return [line for item in value for line in _element(item)]
    return _scalar(value)


def _entry(key: str, item: Any) -> list[str]:
    name = _quoted_if_needed(key)
    first, *rest = _lines(item)
    if isinstance(item, Mapping | list) and item:
        return [f"{name}:", *map(_indented, (first, *rest))]
    return [f"{name}: {first}", *map(_indented, rest)]


def _element(item: Any) -> list[str]:
    first, *rest = _lines(item)
    return [f"- {first}", *map(_indented, rest)]


def _indented(line: str) -> str:
    return f"  {line}" if line else line


def _scalar(value: Any) -> list[str]:
    if not isinstance(value, str):
        return [_encode(value).decode()]
    return _block(value) or [_quoted_if_needed(value)]


def _quoted_if_needed(text: str) -> str:
    """Returns a text on one line, in quotes where YAML could read it as something else."""
    # JSON's quoted strings are valid YAML, escapes included.
    plain = _PLAIN.match(text) and not _AMBIGUOUS.search(text) and text.lower() not in RESERVED
    return text if plain else _encode(text).decode()


def _block(text: str) -> list[str] | None:
    """Returns a text of several lines as a block scalar, None where a block would not preserve it exactly."""
    body = text.removesuffix("\n")
    lines = body.split("\n")
    # YAML takes the indentation from the first line, and drops empty lines at the end.
    unsuitable = not lines[0] or lines[0][0].isspace() or not lines[-1] or not all(map(_is_printable, lines))
    if unsuitable or (len(lines) == 1 and body == text):
        return None
    # The empty line is none of the text's: it ends its last line, which nothing else does at the document's end.
    return ["|", *lines, ""] if body != text else ["|-", *lines]


def _is_printable(line: str) -> bool:
    return not line or (line.isprintable() and not line.isspace())
