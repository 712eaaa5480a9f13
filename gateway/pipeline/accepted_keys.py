"""The keys of callers' own that Cohere has accepted lately: nothing is stored for any other.

In bring-your-own-key mode every made-up string is let in, and only Cohere can tell which ones are keys. A call that it
answers proves a key. Where something would be stored without such a call, or before it, Cohere is asked.
"""

import time
from collections import OrderedDict

from gateway.auth.principal import Principal
from gateway.upstream.client import UpstreamClient

ACCEPTED_SECONDS = 3600.0
"""How long a proof holds."""

MAX_KEYS = 10_000
"""Keys that are remembered; the one that was used least recently goes first."""

PROOF_PATH = "/v1/models?page_size=1"
"""Costs nothing, and Cohere answers it to every key that it accepts."""


class AcceptedKeys:
    """Owners of accepted keys, and until when."""

    def __init__(self, upstream: UpstreamClient) -> None:
        self._upstream = upstream
        self._accepted: OrderedDict[str, float] = OrderedDict()

    def add(self, principal: Principal) -> None:
        """Remembers that Cohere has answered a call with this principal's key."""
        if not principal.own_key:
            return
        self._accepted[principal.owner] = time.monotonic() + ACCEPTED_SECONDS
        self._accepted.move_to_end(principal.owner)
        if len(self._accepted) > MAX_KEYS:
            self._accepted.popitem(last=False)

    async def ensure(self, principal: Principal) -> None:
        """Makes sure that Cohere accepts this principal's key. Raises UpstreamError with Cohere's refusal."""
        if not principal.own_key or self._accepted.get(principal.owner, 0.0) > time.monotonic():
            return
        async with self._upstream.get(PROOF_PATH, principal) as response:
            await response.raise_for_status(own_key=True)
            await response.read_body()
        self.add(principal)
