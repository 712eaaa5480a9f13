"""multipart/form-data, read as it arrives: what a part is called, how long it is, and the beginning of it.

Strict on purpose, and nobody's library on purpose: what a gateway forwards is judged here by a reader of its
own. An upload may have any size; of each part only the first `KEPT` bytes stay in memory.
Source: RFC 7578 and RFC 2046 §5.1.1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator

import msgspec

from gateway.emulator.refusals import bare

MEDIA_TYPE = "multipart/form-data"
KEPT = 1024 * 1024
LONGEST_HEAD = 16 * 1024
MOST_PARTS = 32

BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
NAME = re.compile(r'[;\s]name="((?:[^"\\]|\\.)*)"')
FILENAME = re.compile(r'[;\s]filename="((?:[^"\\]|\\.)*)"')


class Part(msgspec.Struct, kw_only=True):
    """One part. `data` is the beginning of it, all of it when `size` says so."""

    name: str
    filename: str | None = None
    content_type: str = ""
    data: bytes = b""
    size: int = 0
    lines: int = 0  # line ends in all of it

    @property
    def whole(self) -> bool:
        """Whether nothing was left out of `data`."""
        return self.size == len(self.data)


class Form(msgspec.Struct, frozen=True):
    """The parts in their order; the fingerprint does not depend on the boundary."""

    parts: tuple[Part, ...]
    fingerprint: bytes

    def find(self, name: str) -> Part | None:
        """The first part of that name."""
        return next((part for part in self.parts if part.name == name), None)


async def read(chunks: AsyncIterator[bytes], content_type: str) -> Form:
    """The form in a body, or the 400 with the reason."""
    found = BOUNDARY.search(content_type)
    if found is None:
        raise _broken("no boundary")
    reader = _Reader((found[1] or found[2]).encode("latin-1", "replace"))
    async for chunk in chunks:
        reader.feed(chunk)
    return reader.end()


class _Reader:
    """Takes the bytes as they come: before the first boundary, in a head, in a body, after the last boundary."""

    def __init__(self, boundary: bytes) -> None:
        self.delimiter = b"\r\n--" + boundary
        self.waiting = bytearray(b"\r\n")  # so that a boundary on the first line looks like all others
        self.step = self._preamble
        self.over = False
        self.parts: list[Part] = []
        self.kept = bytearray()
        self.hash = hashlib.blake2b(digest_size=16)

    def feed(self, chunk: bytes) -> None:
        self.waiting += chunk
        while not self.over and self.step():
            pass
        if self.over:
            self.waiting.clear()  # an epilogue says nothing

    def end(self) -> Form:
        if not self.over:
            raise _broken("it ends before its last boundary")
        return Form(tuple(self.parts), self.hash.digest())

    def _preamble(self) -> bool:
        return self._until_delimiter(None)

    def _until_delimiter(self, part: Part | None) -> bool:
        """Whether the next boundary is there; what lies before it belongs to the part."""
        place = self.waiting.find(self.delimiter)
        # What might be the beginning of a boundary waits for the rest of it.
        size = place if place >= 0 else max(0, len(self.waiting) - len(self.delimiter) + 1)
        if part is not None:
            self._keep(part, bytes(self.waiting[:size]))
        del self.waiting[:size]
        if place < 0:
            return False
        del self.waiting[: len(self.delimiter)]
        if part is not None:
            part.data = bytes(self.kept)
            self.kept.clear()
        self.step = self._after_delimiter
        return True

    def _keep(self, part: Part, data: bytes) -> None:
        part.size += len(data)
        part.lines += data.count(b"\n")
        self.hash.update(data)
        self.kept += data[: max(0, KEPT - len(self.kept))]

    def _after_delimiter(self) -> bool:
        if len(self.waiting) < 2:
            return False
        if self.waiting.startswith(b"--"):
            self.over = True
            return False
        if not self.waiting.startswith(b"\r\n"):
            raise _broken("a boundary is followed by neither a line end nor two dashes")
        self.step = self._head
        return True

    def _head(self) -> bool:
        end = self.waiting.find(b"\r\n\r\n")
        if end < 0:
            if len(self.waiting) > LONGEST_HEAD:
                raise _broken("the headers of a part are too long")
            return False
        lines = bytes(self.waiting[2:end]).decode("utf-8", "replace").split("\r\n")
        del self.waiting[: end + 4]
        if len(self.parts) == MOST_PARTS:
            raise _broken("too many parts")
        part = _part(lines)
        self.parts.append(part)
        self.hash.update(f"\0{part.name}\0{part.filename}\0".encode("utf-8", "replace"))
        self.step = lambda: self._until_delimiter(part)
        return True


def _part(lines: list[str]) -> Part:
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    disposition = headers.get("content-disposition", "")
    name = NAME.search(disposition)
    if not disposition.lower().startswith("form-data") or name is None:
        raise _broken("a part does not say its name")
    filename = FILENAME.search(disposition)
    return Part(
        name=name[1],
        filename=filename[1] if filename else None,
        content_type=headers.get("content-type", ""),
    )


def _broken(reason: str) -> Exception:
    return bare(f"invalid multipart form: {reason}")
