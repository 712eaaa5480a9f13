"""A tokenizer without a vocabulary file: text to pieces, pieces to integers, and exactly back.

Real Cohere tokenizers are downloaded files; this one only has their manners (pieces often begin with a
space, punctuation stands alone, digits are single). Counting and billing use it; so do the stream's deltas.
"""

from __future__ import annotations

import re
from functools import lru_cache

from gateway.emulator.refusals import invalid

# Letters with the space before them, single digits, runs of signs, runs of blanks. Every character is one
# of these.
WORDS = re.compile(r" ?[^\W\d_]+|\d| ?[^\w\s]+|_+|\s+")

# A piece is at most six UTF-8 bytes, so that a 1 in front of it still fits the 53 bits of a JSON number.
LONGEST = 6
MARK = 1


@lru_cache(maxsize=512)
def pieces(text: str) -> tuple[str, ...]:
    """The text cut into token-sized pieces; joined they are the text again."""
    found: list[str] = []
    for word in WORDS.findall(text):
        if len(word) <= LONGEST and word.isascii():
            found.append(word)
        else:
            found.extend(_split(word))
    return tuple(found)


def count(text: str) -> int:
    """How many tokens the text has."""
    return len(pieces(text))


def number(piece: str) -> int:
    """The stable integer of one piece."""
    data = piece.encode("utf-8", "surrogatepass")
    return int.from_bytes(bytes([MARK]) + data, "big")


def piece(token: int) -> str:
    """The piece behind an integer; refused when it never was a token of ours."""
    data = token.to_bytes(8, "big").lstrip(b"\0") if 0 <= token < 1 << 63 else b""
    if data[:1] == bytes([MARK]) and 1 < len(data) <= LONGEST + 1:
        try:
            return data[1:].decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            pass
    raise invalid(f"token {token} is not in the vocabulary of this model.")


def _split(word: str) -> list[str]:
    """One long word in chunks of at most six bytes, never inside a character."""
    chunks: list[str] = []
    chunk, size = "", 0
    for character in word:
        width = 1 if character < "\x80" else len(character.encode("utf-8", "surrogatepass"))
        if size + width > LONGEST:
            chunks.append(chunk)
            chunk, size = "", 0
        chunk += character
        size += width
    chunks.append(chunk)
    return chunks
