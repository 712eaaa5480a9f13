"""Server-sent events: bytes to data and back. Pure.

Reading follows the WHATWG text (HTML, "9.2.6 Interpreting an event stream"): lines end with LF, CR or CRLF;
`data` lines join with LF; an empty line ends an event; comments and other fields carry nothing for us, as
Cohere repeats the event's name in its JSON (docs/cohere-api.md#streaming). Two tolerances: a line that begins with `{`
is an event by itself (newline-delimited JSON, which Cohere's v1 and some proxies send), and so is data
after which the stream ends without the empty line.
"""

import re
from collections.abc import Sequence

LARGEST_EVENT = 16 * 1024 * 1024
"""Bytes of one event: a hostile upstream must not fill the memory."""

_BOM = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """One event has more than LARGEST_EVENT bytes."""


class Decoder:
    """Feed it network reads; it returns the data of every event that is complete."""

    def __init__(self) -> None:
        # The pieces of the line that is not complete: joined once, at its end. To add each piece to a text would copy
        # a long line as often as pieces of it come.
        self._line: list[bytes] = []
        self._line_size = 0
        self._data: list[bytes] = []
        self._size = 0
        self._first = True
        self._after_cr = False

    def feed(self, block: bytes) -> list[bytes]:
        """Returns the data of the events that are complete now, in order. Raises EventTooLarge."""
        if self._after_cr and block:
            # A CR ended the last line; the LF of a CRLF that was cut in two belongs to it.
            if block[:1] == b"\n":
                block = block[1:]
            self._after_cr = False
        if self._first and block:
            block = self._take_line() + block
            # The mark itself may be cut in two by the first reads.
            if _BOM.startswith(block[:3]) and len(block) < 3:
                self._hold(block)
                return []
            block, self._first = block.removeprefix(_BOM), False
        if b"\r" in block:
            if block.endswith(b"\r"):
                self._after_cr = True
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not self._data and b"\n\n" in block:
            return self._plain_events(self._take_line() + block if self._line else block)
        lines = block.split(b"\n")
        if len(lines) > 1 and self._line:
            lines[0] = self._take_line() + lines[0]
        self._hold(lines.pop())
        return self._events(lines)

    def _plain_events(self, block: bytes) -> list[bytes]:
        """Returns the data of a block's events, where the last one before it was complete.

        Nearly all have a line with their name and one with their data: a third of the work of reading lines.
        """
        events: list[bytes] = []
        *pieces, rest = block.split(b"\n\n")
        for piece in pieces:
            line_ends, data = piece.count(b"\n"), b""
            if line_ends == 1 and piece[:7] == b"event: ":
                data = piece.partition(b"\ndata: ")[2]
            elif not line_ends and piece[:6] == b"data: ":
                data = piece[6:]
            # The long way for anything else, and for an event that is too large, which is refused there.
            if data and len(data) < LARGEST_EVENT:
                events.append(data)
            else:
                events += self._events([*piece.split(b"\n"), b""])
        *lines, last = rest.split(b"\n")
        self._hold(last)
        return events + self._events(lines) if lines else events

    def end(self) -> list[bytes]:
        """Returns what was complete but for its last line end."""
        return self._events([self._take_line(), b""])

    def _hold(self, piece: bytes) -> None:
        if piece:
            self._line.append(piece)
            self._line_size += len(piece)
            if self._line_size + self._size > LARGEST_EVENT:
                raise EventTooLarge

    def _take_line(self) -> bytes:
        line = b"".join(self._line)
        self._line.clear()
        self._line_size = 0
        return line

    def _events(self, lines: list[bytes]) -> list[bytes]:
        events: list[bytes] = []
        data = self._data
        for line in lines:
            if line[:6] == b"data: ":
                data.append(line[6:])
            elif not line:
                if data:
                    joined = data[0] if len(data) == 1 else b"\n".join(data)
                    if joined:
                        events.append(joined)
                    data.clear()
                    self._size = 0
                continue
            # As the standard allows it, and hardly anybody writes it: no space after the colon, or no colon.
            elif line[:5] == b"data:" or line == b"data":
                data.append(line[5:])
            # Not inside an event that has begun: there the standard takes it for a field that it does not know.
            elif line[:1] == b"{" and not data:
                if len(line) > LARGEST_EVENT:
                    raise EventTooLarge
                events.append(line)
                continue
            else:
                continue
            self._size += len(line)
            if self._size > LARGEST_EVENT:
                raise EventTooLarge
        return events


def encode(documents: Sequence[bytes]) -> bytes:
    """Events without a name, one a document. A document is JSON in one line."""
    return b"data: " + b"\n\ndata: ".join(documents) + b"\n\n" if documents else b""


def encode_named(documents: Sequence[bytes]) -> bytes:
    """Events named by the `type` in their JSON."""
    return b"".join([b"event: " + _type(document) + b"\ndata: " + document + b"\n\n" for document in documents])


_FIRST = b'{"type":"'
_TYPE = re.compile(rb'"type":"((?:response\.[a-z_.]+)|error)"')


def _type(document: bytes) -> bytes:
    """Returns the event's own type, which stands first in most and begins with `response.`, unlike items inside."""
    if document.startswith(_FIRST):
        return document[len(_FIRST) : document.index(b'"', len(_FIRST))]
    match = _TYPE.search(document)
    return match[1] if match else b"message"


DONE = encode([b"[DONE]"])

COMMENT = b": keep-alive\n\n"
"""What readers skip."""
