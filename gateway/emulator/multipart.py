"""A streaming reader of multipart/form-data: the name and size of each part, and the beginning of its content.

It is strict, and no library is behind it, because it checks what the gateway forwards. An upload may have any size;
of each part only the first MAX_PART_BYTES stay in memory. Source: RFC 7578 and section 5.1.1 of RFC 2046.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator

import msgspec

from gateway.emulator.errors import APIError, bad_request

MEDIA_TYPE = "multipart/form-data"
MAX_PART_BYTES = 1024 * 1024  # that are stored
MAX_HEADER_BYTES = 16 * 1024
MAX_PARTS = 32

BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
NAME = re.compile(r'[;\s]name="((?:[^"\\]|\\.)*)"')
FILENAME = re.compile(r'[;\s]filename="((?:[^"\\]|\\.)*)"')


class Part(msgspec.Struct, kw_only=True):
    """One part, with the beginning of its content in `data`."""

    name: str
    filename: str | None = None
    content_type: str = ""
    data: bytes = b""
    size: int = 0
    lines: int = 0  # line feeds in the whole content

    @property
    def complete(self) -> bool:
        """Whether `data` is the whole content."""
        return self.size == len(self.data)


class Form(msgspec.Struct, frozen=True):
    """The parts in their order, and a hash of them that does not depend on the boundary."""

    parts: tuple[Part, ...]
    fingerprint: bytes

    def find(self, name: str) -> Part | None:
        """Returns the first part of that name."""
        return next((part for part in self.parts if part.name == name), None)


async def read_form(chunks: AsyncIterator[bytes], content_type: str) -> Form:
    """Returns the form of a body. Raises a 400 that gives the reason when it is no form."""
    match = BOUNDARY.search(content_type)
    if match is None:
        raise _malformed("no boundary")
    reader = _FormReader((match[1] or match[2]).encode("latin-1", "replace"))
    async for chunk in chunks:
        reader.feed(chunk)
    return reader.end()


class _FormReader:
    """A push parser. Its states are the text before the first boundary, a part's headers, and a part's content."""

    def __init__(self, boundary: bytes) -> None:
        self.delimiter = b"\r\n--" + boundary
        self.buffer = bytearray(b"\r\n")  # so that a boundary on the first line looks like all others
        self.read = self._read_preamble
        self.finished = False
        self.parts: list[Part] = []
        self.content = bytearray()  # of the current part
        self.hash = hashlib.blake2b(digest_size=16)

    def feed(self, chunk: bytes) -> None:
        """Parses the next bytes of the body."""
        self.buffer += chunk
        while not self.finished and self.read():
            pass
        if self.finished:
            self.buffer.clear()  # the epilogue is ignored

    def end(self) -> Form:
        """Returns the form. Raises a 400 if its last boundary is missing."""
        if not self.finished:
            raise _malformed("it ends before its last boundary")
        return Form(tuple(self.parts), self.hash.digest())

    # A state returns whether it has got what it was waiting for.

    def _read_preamble(self) -> bool:
        return self._read_until_delimiter(None)

    def _read_until_delimiter(self, part: Part | None) -> bool:
        position = self.buffer.find(self.delimiter)
        # What might be the beginning of a boundary stays in the buffer.
        size = position if position >= 0 else max(0, len(self.buffer) - len(self.delimiter) + 1)
        if part is not None:
            self._add_content(part, bytes(self.buffer[:size]))
        del self.buffer[:size]
        if position < 0:
            return False
        del self.buffer[: len(self.delimiter)]
        if part is not None:
            part.data = bytes(self.content)
            self.content.clear()
        self.read = self._read_after_delimiter
        return True

    def _add_content(self, part: Part, data: bytes) -> None:
        part.size += len(data)
        part.lines += data.count(b"\n")
        self.hash.update(data)
        self.content += data[: max(0, MAX_PART_BYTES - len(self.content))]

    def _read_after_delimiter(self) -> bool:
        if len(self.buffer) < 2:
            return False
        if self.buffer.startswith(b"--"):
            self.finished = True
            return False
        if not self.buffer.startswith(b"\r\n"):
            raise _malformed("a boundary is followed by neither a line end nor two dashes")
        self.read = self._read_headers
        return True

    def _read_headers(self) -> bool:
        # The line end behind the boundary counts, so that a part without headers is seen to have none.
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self.buffer) > MAX_HEADER_BYTES:
                raise _malformed("the headers of a part are too long")
            return False
        lines = bytes(self.buffer[2:end]).decode("utf-8", "replace").split("\r\n")
        del self.buffer[: end + 4]
        if len(self.parts) == MAX_PARTS:
            raise _malformed("too many parts")
        part = _part(lines)
        self.parts.append(part)
        self.hash.update(f"\0{part.name}\0{part.filename}\0".encode("utf-8", "replace"))
        self.read = lambda: self._read_until_delimiter(part)
        return True


def _part(lines: list[str]) -> Part:
    """Returns an empty part with these header lines."""
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    disposition = headers.get("content-disposition", "")
    name = NAME.search(disposition)
    if not disposition.lower().startswith("form-data") or name is None:
        raise _malformed("a part does not say its name")
    filename = FILENAME.search(disposition)
    return Part(
        name=name[1],
        filename=filename[1] if filename else None,
        content_type=headers.get("content-type", ""),
    )


def _malformed(reason: str) -> APIError:
    return bad_request(f"invalid multipart form: {reason}")
