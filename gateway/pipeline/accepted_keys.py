"""The keys of callers' own that Cohere has accepted lately: nothing is stored for any other.

In bring-your-own-key mode every made-up string is let in, and only Cohere can tell which ones are keys. A call that it
answers proves a key. Where something would be stored without such a call, or before it, Cohere is asked.
"""

import time
from collections import OrderedDict

from gateway.auth.principal import Principal
from gateway.upstream.calls import UpstreamCalls

ACCEPTED_SECONDS = 3600.0
"""How long a proof holds."""

MAX_KEYS = 10_000
"""Keys that are remembered; the one that was used least recently goes first."""

UNPROVEN = "unproven"

PROOF_PATH = "/v1/models?page_size=1"
"""Costs nothing, and Cohere answers it to every key that it accepts."""


class AcceptedOwners:
    """Owners of accepted keys, and until when. No key can be reached from here."""

    def __init__(self) -> None:
        self._accepted: OrderedDict[str, float] = OrderedDict()

    def add(self, owner: str) -> None:
        """Remembers that Cohere has just answered a call with this owner's key."""
        self._accepted[owner] = time.monotonic() + ACCEPTED_SECONDS
        # A key that is there keeps its place when its value is set, and would be the next to go.
        self._accepted.move_to_end(owner)
        if len(self._accepted) > MAX_KEYS:
            self._accepted.popitem(last=False)

    def accepts(self, principal: Principal) -> bool:
        """Tells whether this principal's key is the server's, or was accepted lately."""
        return not principal.own_key or self._accepted.get(principal.owner, 0.0) > time.monotonic()

    def share_of(self, principal: Principal) -> str:
        """Returns whose share of something a caller has: the owner's, or that of all unproven keys together.

        A caller can make up as many keys as they like, and would have as many shares.
        """
        return principal.owner if self.accepts(principal) else UNPROVEN


class AcceptedKeys:
    """Asks Cohere about keys where nothing has proven them. owners: of those that are."""

    def __init__(self, upstream: UpstreamCalls) -> None:
        self._upstream, self.owners = upstream, AcceptedOwners()

    def add(self, principal: Principal) -> None:
        """Remembers that Cohere has answered a call with this principal's key."""
        if principal.own_key:
            self.owners.add(principal.owner)

    async def ensure(self, principal: Principal) -> None:
        """Makes sure that Cohere accepts this principal's key. Raises UpstreamError with Cohere's refusal."""
        if self.owners.accepts(principal):
            return
        async with self._upstream.get(PROOF_PATH, principal) as response:
            await response.raise_for_status(own_key=True)
        self.add(principal)
