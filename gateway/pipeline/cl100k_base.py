"""OpenAI's tokens as bytes, for callers who send token ids where a text is meant.

The ids are those of `cl100k_base`, which all of OpenAI's embedding models count in. The table is OpenAI's own
https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken (published with tiktoken, MIT license,
SHA-256 223921b7...), kept in `cl100k_base.zlib`: one byte a token with its length, then all their bytes. Nothing
is encoded here, so the rules by which a text is cut into tokens are not needed.
"""

import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("cl100k_base.zlib")
ORDINARY = 100_256
"""Tokens of the table; the ids above are special ones."""

SPECIAL: dict[int, bytes] = {
    100_257: b"<|endoftext|>",
    100_258: b"<|fim_prefix|>",
    100_259: b"<|fim_middle|>",
    100_260: b"<|fim_suffix|>",
    100_276: b"<|endofprompt|>",
}
"""As tiktoken defines them; an id between them belongs to no token and is empty here."""


@cache
def vocabulary() -> Sequence[bytes]:
    """Returns the bytes of every token by its id. They are read when they are first needed, which takes some 20 ms."""
    data = zlib.decompress(FILE.read_bytes())
    tokens: list[bytes] = []
    start = ORDINARY
    for length in data[:ORDINARY]:
        tokens.append(data[start : start + length])
        start += length
    tokens += [SPECIAL.get(token, b"") for token in range(ORDINARY, max(SPECIAL) + 1)]
    return tokens
