"""A body of Cohere's that is passed on piece by piece without the server's key, however it was compressed or cut.

A compressed body is unpacked, since nothing can be replaced in it as it is, and sent so.
"""

import zlib
from typing import Protocol

from gateway.errors import UpstreamError, failure
from gateway.upstream.key_mask import KeyMask

UNPACKED_AT_ONCE = 256 * 1024
"""Bytes that are unpacked for one piece."""

MAX_UNPACKED_BYTES = 256 * 1024 * 1024
"""Of one body."""

UNPACKED_CODINGS = (b"gzip", b"x-gzip")
PLAIN_CODINGS = (b"", b"identity")


class Chunks(Protocol):
    """A body whose chunks are masked one by one. at_eof: its last chunk has been read."""

    @property
    def at_eof(self) -> bool: ...

    async def read_chunk(self) -> bytes: ...


class MaskedBody:
    """A body without the key. coding: its `content-encoding`, in lower case.

    Raises UpstreamError for a coding that was not asked for, since nobody could see what is in it.
    """

    def __init__(self, chunks: Chunks, mask: KeyMask, coding: bytes) -> None:
        if coding not in UNPACKED_CODINGS and coding not in PLAIN_CODINGS:
            name = coding[:40].decode("latin-1")
            raise UpstreamError(
                failure("cut", f"Cohere's answer is compressed in a way that was not asked for: {name}")
            )
        self._chunks, self._mask = chunks, mask
        self._unpacker = _Unpacker() if coding in UNPACKED_CODINGS else None
        self._held = b""  # the end of what has come, if it may be the beginning of the key
        self._over = False

    @property
    def at_eof(self) -> bool:
        """Whether the last chunk has been read."""
        return self._over

    async def read_chunk(self) -> bytes:
        """Returns the next chunk; empty at the end. Raises UpstreamError when the body breaks."""
        if self._unpacker is None and not self._held and not self._over:
            # The usual way: the response has masked what stands in one chunk.
            chunk = await self._chunks.read_chunk()
            self._over = not chunk or self._chunks.at_eof
            if self._over or not (held := self._mask.partial(chunk)):
                return chunk
            chunk, self._held = chunk[:-held], chunk[-held:]
            if chunk:
                return chunk
        while not self._over:
            piece = await self._next_piece()
            self._over = not piece or (self._chunks.at_eof and not (self._unpacker and self._unpacker.waiting))
            if self._over and self._unpacker is not None:
                self._unpacker.end()
            data = self._mask.apply(self._held + piece)
            # At the end nothing can follow that would complete the key.
            held = 0 if self._over else self._mask.partial(data)
            data, self._held = data[: len(data) - held], data[len(data) - held :]
            if data:
                return data
        return b""

    async def _next_piece(self) -> bytes:
        unpacker = self._unpacker
        if unpacker is None:
            return await self._chunks.read_chunk()
        while True:
            if not unpacker.waiting:
                chunk = await self._chunks.read_chunk()
                if not chunk:
                    return b""
                unpacker.waiting = chunk
            if piece := unpacker.next_piece():
                return piece
            if self._chunks.at_eof and not unpacker.waiting:
                return b""


class _Unpacker:
    """Unpacks gzip, of one member or several. waiting: what has come and is still packed."""

    def __init__(self) -> None:
        self._decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._left = MAX_UNPACKED_BYTES
        self._begun = False
        self.waiting = b""

    def next_piece(self) -> bytes:
        """Returns the next piece; empty where more has to come first. Raises UpstreamError."""
        # Another member may follow the one that has ended (RFC 1952 §2.2).
        if self._decompressor.eof:
            self._decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._begun = True
        try:
            piece = self._decompressor.decompress(self.waiting, UNPACKED_AT_ONCE)
        except zlib.error as error:
            raise UpstreamError(failure("cut", "Cohere's answer is not compressed as its headers say")) from error
        self.waiting = self._decompressor.unused_data or self._decompressor.unconsumed_tail
        self._left -= len(piece)
        if self._left < 0:
            raise UpstreamError(failure("cut", "Cohere's answer is too large"))
        return piece

    def end(self) -> None:
        """Makes sure that the body is complete. Raises UpstreamError."""
        if self._begun and not self._decompressor.eof:
            raise UpstreamError(failure("cut", "Cohere's answer ended in the middle"))
