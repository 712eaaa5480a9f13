"""Cohere's list of models, all pages of it, and what is known of the models beyond the table."""

import asyncio
import time
from collections.abc import Container, Mapping
from urllib.parse import quote

from msgspec import Struct

from gateway.auth.principal import Principal
from gateway.errors import UpstreamError
from gateway.upstream.client import UpstreamClient
from translators.core.errors import TranslationError
from translators.operations import models

PATH = "/v1/models?page_size=1000"

LOOK_AGAIN = 600.0
"""Seconds between two looks at the list for the sake of unknown models."""

MOST_PAGES = 100
"""A list that never ends is not followed for ever."""


MOST_LISTS = 100
"""Cohere keys whose lists are kept: where callers bring their own, each key has its own models."""

PATIENCE = 5.0
"""Seconds that a caller waits for a new list where there is an old one."""

TRY_AGAIN = 10.0
"""Seconds after a failure before Cohere is asked for the list once more, where there is an old one."""


class Listing(Struct):
    """A list of models.

    pages: Cohere's answers. read, tried: when it was fetched, and when a newer one was last asked for in vain, in
    monotonic seconds. stale: the note for callers who get it although it is old; empty if it is not.
    """

    pages: list[bytes]
    read: float
    tried: float
    stale: str = ""


class ModelCatalog:
    """Fetches the list and keeps it; remembers what the models can do, for the requests that follow.

    known: the models that need no looking up. fresh: seconds for which a list is good; 0 keeps none.
    """

    def __init__(self, upstream: UpstreamClient, known: Container[str], fresh: float = 0.0) -> None:
        self._upstream, self._known, self._fresh = upstream, known, fresh
        self._asked = -LOOK_AGAIN
        self._looking: asyncio.Task[None] | None = None
        self._listings: dict[str, Listing] = {}
        self._fetching: dict[str, _Fetch] = {}
        self.features: Mapping[str, frozenset[str]] = {}
        self.lessons: dict[str, dict[str, bool]] = {}

    def __contains__(self, model: str) -> bool:
        """A model of the table, or of Cohere's list as it was last read."""
        return model in self._known or model in self.features

    def learn(self, model: str, lesson: tuple[str, bool] | None) -> bool:
        """Remembers what a refusal taught; False if nothing new. Bounded by the models that Cohere knows."""
        if lesson is None or model not in self:
            return False
        name, value = lesson
        learnt = self.lessons.setdefault(model, {})
        if learnt.get(name) is value:
            return False
        learnt[name] = value
        return True

    def notice(self, model: str, caller: Principal) -> None:
        """A model that no table knows makes us read the list, beside the request and at most once in a while."""
        if model in self or time.monotonic() - self._asked < LOOK_AGAIN:
            return
        self._asked = time.monotonic()
        self._looking = asyncio.get_running_loop().create_task(self._look(caller))

    async def _look(self, caller: Principal) -> None:
        try:
            await self._fetched(_list_owner(caller), caller)
        except (UpstreamError, TranslationError, RuntimeError):
            return  # the request itself will tell what is wrong; RuntimeError: the session was closed meanwhile

    async def listing(self, caller: Principal) -> Listing:
        """The list: kept while it is fresh, and longer while Cohere has none to give. Raises UpstreamError."""
        owner = _list_owner(caller)
        kept = self._listings.get(owner)
        if kept is None:
            return await self._fetched(owner, caller)
        now = time.monotonic()
        if now - kept.read < self._fresh:
            return kept
        if now - kept.tried >= TRY_AGAIN:
            fetch = self._begun(owner, caller)
            fetch.waiting += 1  # for ever: it goes on when nobody waits any longer, for those who come later
            await asyncio.wait({fetch.task}, timeout=PATIENCE)
            try:
                return fetch.task.result()
            except asyncio.InvalidStateError:
                why = "upstream_timeout"
            except (UpstreamError, TranslationError) as error:
                told = error.failure
                if told.alert_operator or not (told.status >= 500 or told.status == 429):
                    raise  # Cohere is up, and has said what it thinks of the key
                why = str(told.code)
            kept.tried = time.monotonic()
            kept.stale = f"models as of {now - kept.read:.0f} seconds ago ({why})"
        return kept

    async def _fetched(self, owner: str, caller: Principal) -> Listing:
        """A new list, fetched once for all who wait for it, and no longer than somebody does."""
        fetch = self._begun(owner, caller)
        fetch.waiting += 1
        try:
            return await asyncio.shield(fetch.task)
        finally:
            fetch.waiting -= 1
            if not fetch.waiting:
                fetch.task.cancel()

    def _begun(self, owner: str, caller: Principal) -> "_Fetch":
        """The fetch of this owner's list that is under way, or a new one."""
        fetch = self._fetching.get(owner)
        if fetch is not None and not fetch.task.cancelling():
            return fetch
        fetch = _Fetch(asyncio.get_running_loop().create_task(self._fetch(owner, caller)))
        self._fetching[owner] = fetch

        def over(task: asyncio.Task[Listing]) -> None:
            if self._fetching.get(owner) is fetch:
                del self._fetching[owner]
            if not task.cancelled():
                task.exception()  # seen, also where nobody waits any longer

        fetch.task.add_done_callback(over)
        return fetch

    async def _fetch(self, owner: str, caller: Principal) -> Listing:
        pages = await self._pages(caller)
        now = time.monotonic()
        listing = Listing(pages, now, now)
        if self._fresh:
            self._listings.pop(owner, None)
            self._listings[owner] = listing
            if len(self._listings) > MOST_LISTS:
                del self._listings[next(iter(self._listings))]
        return listing

    async def _pages(self, caller: Principal) -> list[bytes]:
        """The bodies of all pages. Raises UpstreamError."""
        pages: list[bytes] = []
        token = ""
        seen = {token}
        while len(pages) < MOST_PAGES:
            path = PATH + (f"&page_token={quote(token, safe='')}" if token else "")
            async with self._upstream.get(path, caller) as reply:
                await reply.raise_for_status(caller.own_key)
                body = await reply.whole()
            pages.append(body)
            token = models.next_page(body)
            if token in seen:
                break
            seen.add(token)
        self.features = models.features(pages)
        return pages


def _list_owner(caller: Principal) -> str:
    """Returns whose list of models a caller gets: all whom the server's keys serve share one."""
    return caller.owner if caller.own_key else ""


class _Fetch(Struct):
    """A list on its way, and how many wait for it."""

    task: "asyncio.Task[Listing]"
    waiting: int = 0
