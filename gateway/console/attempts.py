"""Attempts to sign in, and sign-outs: so many from an address and in all, then a pause. The clock is given."""

import ipaddress
from collections import deque

from gateway.errors import CallerError, failure

WINDOW_SECONDS = 300.0
PER_ADDRESS, IN_ALL = 10, 300
"""Failures in each window, in each worker."""

SIGN_OUTS_PER_ADDRESS, SIGN_OUTS_IN_ALL = 100, 3_000
"""Sign-outs in each window, in each worker: each leaves a row in the database for half a day."""

MOST_ADDRESSES = 10_000


class SignInAttempts:
    """Counts failures. An attempt counts from its beginning, so that many at once gain nothing."""

    def __init__(self, per_address: int = PER_ADDRESS, in_all: int = IN_ALL, what: str = "attempts to sign in") -> None:
        """what: is counted, for the sentence that refuses one too many."""
        self._per_address, self._in_all, self._what = per_address, in_all, what
        self._by_address: dict[str, deque[float]] = {}
        self._all: deque[float] = deque()

    def begin(self, address: str, now: float) -> None:
        """Counts an attempt. Raises CallerError (429) for one too many. now: monotonic seconds."""
        own = self._by_address.setdefault(_network(address), deque())
        for attempts, most in ((own, self._per_address), (self._all, self._in_all)):
            _forget(attempts, now)
            if len(attempts) >= most:
                seconds = int(attempts[0] + WINDOW_SECONDS - now) + 1
                refused = failure("too_many_sign_ins", f"Too many {self._what}: try again in {seconds} s")
                raise CallerError(refused, str(seconds))
        own.append(now)
        self._all.append(now)
        # The address that came first goes. Whoever has that many is held by the number in all.
        if len(self._by_address) > MOST_ADDRESSES:
            self._by_address.pop(next(iter(self._by_address)))

    def succeed(self, address: str) -> None:
        """Takes back the attempt that was begun last: it was none."""
        for attempts in (self._by_address.get(_network(address)), self._all):
            if attempts:
                attempts.pop()


def _forget(attempts: deque[float], now: float) -> None:
    while attempts and attempts[0] <= now - WINDOW_SECONDS:
        attempts.popleft()


def _network(address: str) -> str:
    """Returns whom an address stands for: of IPv6 its network, since a host has 2^64 of them."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
