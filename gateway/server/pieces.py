"""How many small pieces a caller may send: reads, HTTP chunks, frames of HTTP/2 and of WebSockets.

Each takes 10 to 40 µs of the processor, however few bytes it has.
"""

import time

MAX_PIECES = 5_000.0
"""Of one request, at once."""

PIECES_PER_SECOND = 100.0
"""Further ones, for who sends while something happens, as in a recording."""

FULL_PIECE = 256
"""Bytes on average from which on there may be any number of pieces: with them comes a body's own limit."""


class PieceAllowance:
    """What one request may still send of small pieces.

    left: how many of no bytes. The next request begins with MAX_PIECES.
    """

    __slots__ = ("_at", "left")

    def __init__(self) -> None:
        self.left, self._at = MAX_PIECES, time.monotonic()

    def take(self, size: int) -> bool:
        """Takes a piece of so many bytes. Returns whether it is allowed."""
        # A full piece costs nothing, and a larger one brings back what smaller ones have cost.
        left = self.left - 1.0 + size / FULL_PIECE
        # The clock is looked at only where the allowance is used up: ordinary requests never come so far.
        if left >= 0.0:
            self.left = left if left < MAX_PIECES else MAX_PIECES  # `min` would be a call for each read
            return True
        self.left = left
        now = time.monotonic()
        self.left, self._at = min(self.left + (now - self._at) * PIECES_PER_SECOND, MAX_PIECES), now
        return self.left >= 0.0
