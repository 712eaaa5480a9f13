"""Hides the server's key in what Cohere sends: errors have been seen to repeat it, also in answers with status 200."""

from __future__ import annotations

MASK = b"*"

SHORT_BYTES = 16 * 1024
"""Data up to this size is searched for the whole key at once, which takes a few microseconds."""

ATTEMPTS = 16
"""Places of the rare byte that are tried one by one, before a search for the whole key."""

# Answers are numbers above all, then text. A byte that neither has much of is found, or found missing, at the speed of
# memory; a search for a key with digits in it looks at each digit of a vector.
_COMMON = b'0123456789.,-e+E[] \n"etaoinsrhldcumfpgwybvk:{}'


SHORTEST_SECRET = 12
"""Characters from which on a key is a secret. Cohere's have 40; `test` is a placeholder, and a word of answers."""


def mask_of(secret: str) -> KeyMask | None:
    """Returns the mask of a key; None for a placeholder, whose letters belong to the answers that have them."""
    return KeyMask(secret) if len(secret) >= SHORTEST_SECRET else None


class KeyMask:
    """Masks one key."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self._masked = MASK * len(self._secret)
        self._offset = min(range(len(self._secret)), key=lambda position: _frequency(self._secret[position]))
        self._rare = self._secret[self._offset : self._offset + 1]

    def apply(self, data: bytes) -> bytes:
        """Returns data with stars in place of the key."""
        if len(data) <= SHORT_BYTES or self._occurs(data):
            return data.replace(self._secret, self._masked)
        return data

    def partial(self, data: bytes) -> int:
        """Returns how many bytes at the end of data are the beginning of the key, and may become the whole of it."""
        secret = self._secret
        # A whole key is masked by now, so that only the last bytes, one fewer than it has, may be its beginning.
        start = data.find(secret[:1], max(len(data) - len(secret) + 1, 0))
        while start >= 0:
            if secret.startswith(data[start:]):
                return len(data) - start
            start = data.find(secret[:1], start + 1)
        return 0

    def _occurs(self, data: bytes) -> bool:
        position = data.find(self._rare)
        # Where the byte is frequent in this answer, so many places cost more than the search for the whole key.
        for _ in range(ATTEMPTS):
            if position < 0:
                return False
            if data.startswith(self._secret, max(position - self._offset, 0)):
                return True
            position = data.find(self._rare, position + 1)
        return position >= 0 and data.find(self._secret, max(position - self._offset, 0)) >= 0


def _frequency(byte: int) -> int:
    """Returns how often a byte occurs in answers, as a rank: 0 is rare."""
    position = _COMMON.find(byte)
    return len(_COMMON) - position if position >= 0 else 0
