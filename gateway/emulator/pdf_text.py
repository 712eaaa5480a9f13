"""The text of a simple PDF file: what its content streams show, in their order.

It reads uncompressed and Flate streams and the text operators of section 9.4 of ISO 32000-1 with single-byte fonts.
Encrypted files, embedded encodings and scans have no text here.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

MAX_PAGES = 50
MAX_STREAM_BYTES = 512 * 1024  # decompressed
MAX_TOTAL_BYTES = 2 * 1024 * 1024
MAX_PAGE_CHARACTERS = 20_000

# No search goes back over what it has passed, and none looks further than it has to: the files come from callers.
STREAM = re.compile(rb">>\s{0,10}stream\r?\n")
MAX_DICTIONARY_BYTES = 2_000  # before a stream
STREAM_END = b"endstream"
TEXT_BEGIN, TEXT_END = re.compile(rb"\bBT\b"), re.compile(rb"\bET\b")
LITERAL = rb"\((?:\\.|[^\\()]++|\((?:\\.|[^\\()]++)*+\))*+\)"
# A string with the operator that shows it, an array of strings, or an operator that begins a new line
OPERATION = re.compile(
    rb"(?P<string>" + LITERAL + rb"|<[0-9A-Fa-f\s]*>)\s*(?:Tj|'|\")"
    rb"|\[(?P<array>(?:" + LITERAL + rb"|[^\[\]()]++)*+)\]\s*TJ|(?P<line>\bT[dD*m](?![A-Za-z])|T\*)",
    re.DOTALL,
)
ARRAY_ITEM = re.compile(LITERAL + rb"|<[0-9A-Fa-f\s]*>|-?[\d.]+", re.DOTALL)
ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|(\r\n|.))", re.DOTALL)
ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f", b"\n": b"", b"\r": b"", b"\r\n": b""}
WORD_GAP = -150  # thousandths of an em, below which a number in an array stands for a space


def is_pdf(data: bytes) -> bool:
    """Returns whether the data begins like a PDF file."""
    return data[:1024].lstrip().startswith(b"%PDF-")


def extract_pages(data: bytes) -> list[str]:
    """Returns the texts of the content streams that show any, of which a simple file has one a page."""
    pages: list[str] = []
    for stream in _streams(data):
        text = "\n".join(filter(None, map(_text, _text_objects(stream)))).strip()
        if text:
            pages.append(text[:MAX_PAGE_CHARACTERS])
        if len(pages) == MAX_PAGES:
            break
    return pages


def _streams(data: bytes) -> Iterator[bytes]:
    """Yields the contents of the streams that are not images, decompressed as far as the limits allow."""
    total = position = 0
    while total < MAX_TOTAL_BYTES:
        match = STREAM.search(data, position)
        end = data.find(STREAM_END, match.end()) if match else -1
        if match is None or end < 0:
            return
        position = end + len(STREAM_END)
        dictionary = data[max(0, match.start() - MAX_DICTIONARY_BYTES) : match.start()].rpartition(b" obj")[2]
        content = data[match.end() : end]
        if b"/Image" in dictionary or b"/FontFile" in dictionary:
            continue
        if b"/FlateDecode" in dictionary:
            content = _inflate(content)
        elif b"/Filter" in dictionary:
            continue
        total += len(content)
        yield content[:MAX_STREAM_BYTES]


def _text_objects(stream: bytes) -> Iterator[bytes]:
    """Yields what stands between BT and ET."""
    position = 0
    while (begin := TEXT_BEGIN.search(stream, position)) and (end := TEXT_END.search(stream, begin.end())):
        yield stream[begin.end() : end.start()]
        position = end.end()


def _inflate(content: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(content, MAX_STREAM_BYTES)
    except zlib.error:
        return b""


def _text(operations: bytes) -> str:
    """Returns what the operators of one text object show."""
    text = ""
    for match in OPERATION.finditer(operations):
        if match["line"]:
            text += "\n" if text and not text.endswith("\n") else ""
        elif match["string"] is not None:
            text += _decode(match["string"])
        else:
            for item in ARRAY_ITEM.findall(match["array"]):
                if item[:1] in b"(<":
                    text += _decode(item)
                elif _is_gap(item) and not text.endswith((" ", "\n")):
                    text += " "
    return text.strip()


def _is_gap(number: bytes) -> bool:
    try:
        return float(number) < WORD_GAP
    except ValueError:
        return False


def _decode(string: bytes) -> str:
    """Returns a literal or hexadecimal string as text."""
    if string.startswith(b"<"):
        digits = re.sub(rb"\s", b"", string[1:-1])
        data = bytes.fromhex((digits + b"0" * (len(digits) % 2)).decode())
    else:
        data = ESCAPE.sub(_unescape, string[1:-1])
    if data.startswith(b"\xfe\xff"):
        return data[2:].decode("utf-16-be", "replace")
    return "".join(character for character in data.decode("cp1252", "replace") if character.isprintable())


def _unescape(match: re.Match[bytes]) -> bytes:
    octal, character = match.groups()
    if octal is not None:
        return bytes([int(octal, 8) & 0xFF])
    return ESCAPES.get(character, character)
