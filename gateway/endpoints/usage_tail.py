"""Keeps of an answer that passes by what its counts can be read from: all of a short one, the end of a long one.

It looks at what has been sent already and changes none of it. What the bytes mean is not known here.
"""

import zlib
from collections import deque

KEPT = 64 * 1024
"""Bytes that are kept, give or take a network read. Counts stand at the end of every answer of Cohere's."""

LARGEST_UNPACKED = 64 * 1024 * 1024
_UNPACKED_AT_ONCE = 256 * 1024
_GZIP = 16 + zlib.MAX_WBITS


class UsageTail:
    """The end of one answer. compressed: it comes as gzip, which is unpacked on the side."""

    def __init__(self, compressed: bool) -> None:
        self._blocks: deque[bytes] = deque()
        self._size = self._all = 0
        self._unpacked = 0
        self._unpacking = zlib.decompressobj(_GZIP) if compressed else None

    def take(self, block: bytes) -> None:
        """A network read."""
        if self._unpacking is None:
            self._keep(block)
        elif self._unpacked <= LARGEST_UNPACKED:
            self._unpack(self._unpacking, block)

    def kept(self) -> bytes:
        """What there is; nothing of an answer that cannot be unpacked."""
        return b"" if self._unpacked > LARGEST_UNPACKED else b"".join(self._blocks)

    @property
    def share(self) -> float:
        """How much of the answer is kept."""
        return self._size / self._all if self._all else 1.0

    def _keep(self, block: bytes) -> None:
        blocks = self._blocks
        blocks.append(block)
        self._size += len(block)
        self._all += len(block)
        while self._size - len(blocks[0]) >= KEPT:
            self._size -= len(blocks.popleft())

    def _unpack(self, unpacking: "zlib._Decompress", block: bytes) -> None:
        try:
            while block:
                piece = unpacking.decompress(block, _UNPACKED_AT_ONCE)
                self._unpacked += len(piece)
                if self._unpacked > LARGEST_UNPACKED:
                    return
                self._keep(piece)
                block = unpacking.unconsumed_tail
        except zlib.error:
            self._unpacked = LARGEST_UNPACKED + 1
