"""The operator's sentences on standard error, one line each: of JSON, or for people at a terminal.

The supervisor imports this and not `access_log.py`, so it imports next to nothing.
"""

import os
import sys
from typing import BinaryIO

import msgspec

from gateway.observability import clock


class OperatorLog:
    """Lines of JSON on standard error, or `out`."""

    def __init__(self, out: BinaryIO | None = None, console: bool = False) -> None:
        """console: lines for people; in colors, if it is a terminal that wants some (https://no-color.org)."""
        self._out = out or sys.stderr.buffer
        self.console = console
        self.colored = console and not os.environ.get("NO_COLOR") and self._out.isatty()
        self._encode = msgspec.json.Encoder().encode
        self._lines: list[bytes] = []

    def message(self, text: str) -> None:
        """Logs a sentence for the operator at once, whatever the log setting says."""
        time, text = clock.timestamp(), printable(text)
        if self.console:
            self._lines.append(f"{time[11:23]}  {colored(text, 'yellow') if self.colored else text}".encode())
        else:
            self._lines.append(self._encode({"time": time, "message": text}))
        self.flush()

    def flush(self) -> None:
        """Writes the lines that wait. Called at the end, too."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            self._out.write(b"\n".join(lines) + b"\n")
            self._out.flush()
        except (OSError, ValueError):
            # A closed pipe at the log's other end must not fail a request.
            return


_COLORS = {"green": 32, "red": 31, "yellow": 33}


def colored(text: str, color: str) -> str:
    """Returns a text that a terminal shows in a color."""
    return f"\x1b[{_COLORS[color]}m{text}\x1b[0m"


def printable(text: str) -> str:
    """Returns a text in which control characters, and those that turn the direction of a line, are escaped.

    JSON escapes some of them, but a terminal that shows the log obeys the others. Line ends stay.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else f"\\u{ord(one):04x}" for one in text)
