"""A tokenizer without a vocabulary: text to tokens, tokens to integers, and exactly back.

Cohere's real tokenizers are files to download. This one shares their habits: a token often begins with a space,
punctuation stands alone, digits are single. It counts what is billed and cuts a stream into deltas.
"""

from __future__ import annotations

import re
from functools import lru_cache

from gateway.emulator.errors import invalid_request

# Letters with the space before them, single digits, punctuation, underscores, white space: every character is one.
WORDS = re.compile(r" ?[^\W\d_]+|\d| ?[^\w\s]+|_+|\s+")

# A token is at most six UTF-8 bytes, so that with a 1 in front it fits into the 53 bits of a JSON number.
MAX_BYTES = 6
PREFIX = b"\x01"


@lru_cache(maxsize=512)
def split(text: str) -> tuple[str, ...]:
    """Returns the tokens of a text as strings; joined, they are the text again."""
    pieces: list[str] = []
    for word in WORDS.findall(text):
        if len(word) <= MAX_BYTES and word.isascii():
            pieces.append(word)
        else:
            pieces.extend(_split_word(word))
    return tuple(pieces)


def count(text: str) -> int:
    """Returns the number of tokens of a text."""
    return len(split(text))


def token_id(piece: str) -> int:
    """Returns the integer of one token."""
    return int.from_bytes(PREFIX + piece.encode("utf-8", "surrogatepass"), "big")


def token_text(token: int) -> str:
    """Returns the text of a token. Raises a 400 for an integer that is none of ours."""
    data = token.to_bytes(8, "big").lstrip(b"\0") if 0 <= token < 1 << 63 else b""
    if data[:1] == PREFIX and 1 < len(data) <= MAX_BYTES + 1:
        try:
            return data[1:].decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            pass
    raise invalid_request(f"token {token} is not in the vocabulary of this model.")


def _split_word(word: str) -> list[str]:
    """Returns a long word in chunks of at most six bytes, never cut inside a character."""
    chunks: list[str] = []
    chunk, size = "", 0
    for character in word:
        width = 1 if character < "\x80" else len(character.encode("utf-8", "surrogatepass"))
        if size + width > MAX_BYTES:
            chunks.append(chunk)
            chunk, size = "", 0
        chunk += character
        size += width
    chunks.append(chunk)
    return chunks
