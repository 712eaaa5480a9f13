"""Keeps of an answer that passes by what its counts can be read from: all of a short one, the end of a long one.

It looks at what has been sent already and changes none of it. What the bytes mean is not known here.
"""

import zlib
from collections import deque

TAIL_BYTES = 64 * 1024
"""Bytes that are kept, give or take a network read. Counts stand at the end of every answer of Cohere's."""

# A few bytes of gzip can be gigabytes of zeros, and unpacking them takes the time of all callers.
MAX_DECOMPRESSED_BYTES = 64 * 1024 * 1024
_DECOMPRESSED_AT_ONCE = 256 * 1024
# zlib's way to ask for a gzip header, and no other.
_GZIP = 16 + zlib.MAX_WBITS


class UsageTail:
    """The end of one answer. compressed: it comes as gzip, which is unpacked on the side."""

    def __init__(self, compressed: bool) -> None:
        self._blocks: deque[bytes] = deque()
        self._size = self._total = 0
        self._decompressed = 0
        self._decompressor = zlib.decompressobj(_GZIP) if compressed else None

    def feed(self, block: bytes) -> None:
        """Takes the bytes of a network read."""
        if self._decompressor is None:
            self._append(block)
        elif self._decompressed <= MAX_DECOMPRESSED_BYTES:
            self._decompress(self._decompressor, block)

    def tail(self) -> bytes:
        """Returns what there is; nothing of an answer that cannot be unpacked."""
        return b"" if self._decompressed > MAX_DECOMPRESSED_BYTES else b"".join(self._blocks)

    @property
    def share(self) -> float:
        """How much of the answer is kept."""
        return self._size / self._total if self._total else 1.0

    def _append(self, block: bytes) -> None:
        blocks = self._blocks
        blocks.append(block)
        self._size += len(block)
        self._total += len(block)
        # Whole blocks alone are dropped. To cut one would copy it.
        while self._size - len(blocks[0]) >= TAIL_BYTES:
            self._size -= len(blocks.popleft())

    def _decompress(self, decompressor: "zlib._Decompress", block: bytes) -> None:
        try:
            while block:
                # Bounded for each step, since `decompress` would otherwise return all that a block becomes at once.
                piece = decompressor.decompress(block, _DECOMPRESSED_AT_ONCE)
                self._decompressed += len(piece)
                if self._decompressed > MAX_DECOMPRESSED_BYTES:
                    return
                self._append(piece)
                block = decompressor.unconsumed_tail
        except zlib.error:
            # As if it were too large: nothing is believed of an answer that cannot be unpacked.
            self._decompressed = MAX_DECOMPRESSED_BYTES + 1
