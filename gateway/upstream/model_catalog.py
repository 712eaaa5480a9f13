"""Cohere's list of models, all pages of it, and what is learned about models beyond the table of capabilities."""

import asyncio
import time
from collections.abc import Container, Mapping, Sequence
from urllib.parse import quote

from msgspec import Struct

from gateway.auth.principal import Principal
from gateway.errors import UpstreamError
from gateway.upstream.calls import UpstreamCalls
from translators.core.errors import TranslationError
from translators.operations import models

LOOK_UP_INTERVAL = 600.0
"""Seconds between two readings of the list for the sake of unknown models."""

MAX_PAGES = 100
"""Pages of a list that are read: Cohere might never end it."""

MAX_LISTS = 100
"""Cohere keys whose lists are cached: where callers bring their own, each key has its own models."""

REFRESH_TIMEOUT = 5.0
"""Seconds that a caller waits for a new list where there is an old one."""

REFRESH_INTERVAL = 10.0
"""Seconds after a failure before Cohere is asked for the list once more, where there is an old one."""


class ModelList(Struct):
    """A list of models.

    pages: Cohere's JSON. further: those of the pages that are the named upstreams'. fetched_at, failed_at: monotonic
    seconds of the list, and of the last vain attempt to get a newer one. stale_note: for callers who get it although it
    is old; empty if it is not.
    """

    pages: list[bytes]
    fetched_at: float
    failed_at: float
    stale_note: str = ""
    further: Sequence[bytes] = ()


class ModelCatalog:
    """Fetches and caches the list, and remembers what the models can do.

    table_models: the models that need no looking up. max_age: seconds for which a list is good; 0 caches none.

    features: by model, what the list says. deprecated: the models of which it says so. corrections: by model, what
    Cohere's errors revealed about the table.
    """

    def __init__(self, upstream: UpstreamCalls, table_models: Container[str], max_age: float = 0.0) -> None:
        self._upstream, self.table_models, self._max_age = upstream, table_models, max_age
        self._looked_up_at = -LOOK_UP_INTERVAL
        self._look_up_task: asyncio.Task[None] | None = None
        self._lists: dict[str, ModelList] = {}
        self._fetches: dict[str, _Fetch] = {}
        self.features: Mapping[str, frozenset[str]] = {}
        self.deprecated: frozenset[str] = frozenset()
        self._read_at: float | None = None
        self.corrections: dict[str, dict[str, bool]] = {}

    def __contains__(self, model: str) -> bool:
        """Returns whether it is a model of the table, or of Cohere's list as it was last read."""
        return model in self.table_models or model in self.features

    def learn(self, model: str, capability: tuple[str, bool] | None) -> bool:
        """Remembers what an error revealed: a capability and its true value. Returns whether it is news.

        Only models that Cohere has are remembered, so the memory is bounded.
        """
        if capability is None or model not in self:
            return False
        name, value = capability
        corrections = self.corrections.setdefault(model, {})
        if corrections.get(name) is value:
            return False
        corrections[name] = value
        return True

    def look_up(self, model: str, caller: Principal) -> None:
        """Reads the list for a model that no table has: beside the request, and at most once in a while."""
        if model in self or time.monotonic() - self._looked_up_at < LOOK_UP_INTERVAL:
            return
        self.read_soon(caller)

    @property
    def is_read(self) -> bool:
        """Whether Cohere's list has been read, so that `features` and `deprecated` are its."""
        return self._read_at is not None

    def refresh(self, caller: Principal, seconds: float) -> None:
        """Reads the list beside a request if that was not done for so long; where it fails, again after a while."""
        now = time.monotonic()
        is_old = self._read_at is None or now - self._read_at >= seconds
        if is_old and now - self._looked_up_at >= LOOK_UP_INTERVAL:
            self.read_soon(caller)

    def read_soon(self, caller: Principal) -> None:
        """Reads the list beside a request, with its caller's key."""
        self._looked_up_at = time.monotonic()
        # Kept, since the loop itself holds a task only weakly.
        self._look_up_task = asyncio.get_running_loop().create_task(self._look_up(caller))

    async def _look_up(self, caller: Principal) -> None:
        try:
            await self._fetch(_list_owner(caller), caller)
        except (UpstreamError, TranslationError, RuntimeError):
            return  # the request itself will meet what is wrong; RuntimeError: the session was closed meanwhile

    async def list_models(self, caller: Principal) -> ModelList:
        """Returns the list: the cached one while it is fresh, and longer while Cohere has none to give.

        Raises UpstreamError, TranslationError.
        """
        owner = _list_owner(caller)
        cached = self._lists.get(owner)
        if cached is None:
            return await self._fetch(owner, caller)
        now = time.monotonic()
        if now - cached.fetched_at < self._max_age:
            return cached
        if now - cached.failed_at >= REFRESH_INTERVAL:
            fetch = self._shared_fetch(owner, caller)
            fetch.waiters += 1  # never taken back: it goes on when nobody waits any longer, for those who come later
            await asyncio.wait({fetch.task}, timeout=REFRESH_TIMEOUT)
            try:
                return fetch.task.result()
            except asyncio.InvalidStateError:
                why = "upstream_timeout"
            except (UpstreamError, TranslationError) as error:
                failure = error.failure
                if failure.alert_operator or not (failure.status >= 500 or failure.status == 429):
                    raise  # Cohere is up, and has said what it thinks of the key
                why = str(failure.code)
            cached.failed_at = time.monotonic()
            cached.stale_note = f"models as of {now - cached.fetched_at:.0f} seconds ago ({why})"
        return cached

    async def _fetch(self, owner: str, caller: Principal) -> ModelList:
        """Returns a new list, fetched once for all who wait for it, and no longer than somebody does."""
        fetch = self._shared_fetch(owner, caller)
        fetch.waiters += 1
        try:
            # Somebody else may wait for the same list: one caller who leaves must not end it.
            return await asyncio.shield(fetch.task)
        finally:
            fetch.waiters -= 1
            if not fetch.waiters:
                fetch.task.cancel()

    def _shared_fetch(self, owner: str, caller: Principal) -> "_Fetch":
        """Returns the fetch of this owner's list that is under way, or a new one."""
        fetch = self._fetches.get(owner)
        # A cancelled fetch is still there until it has cleaned up. To join it would mean to be cancelled with it.
        if fetch is not None and not fetch.task.cancelling():
            return fetch
        fetch = _Fetch(asyncio.get_running_loop().create_task(self._fetch_once(owner, caller)))
        self._fetches[owner] = fetch

        def on_done(task: asyncio.Task[ModelList]) -> None:
            if self._fetches.get(owner) is fetch:
                del self._fetches[owner]
            if not task.cancelled():
                task.exception()  # retrieved, also where nobody waits any longer

        fetch.task.add_done_callback(on_done)
        return fetch

    async def _fetch_once(self, owner: str, caller: Principal) -> ModelList:
        pages = await self._fetch_pages(caller)
        further, note = await self._upstream.further_models(caller, pages)
        pages += further
        self.features, self.deprecated = models.features(pages), models.deprecated(pages)
        now = self._read_at = time.monotonic()
        result = ModelList(pages, now, now, note, further)
        if self._max_age:
            # Taken out first, so that it goes to the end: the list that is dropped is the one that was fetched
            # longest ago.
            self._lists.pop(owner, None)
            self._lists[owner] = result
            if len(self._lists) > MAX_LISTS:
                del self._lists[next(iter(self._lists))]
        return result

    async def _fetch_pages(self, caller: Principal) -> list[bytes]:
        """Returns the bodies of all pages. Raises UpstreamError, TranslationError."""
        pages: list[bytes] = []
        token = ""
        tokens = {token}
        while len(pages) < MAX_PAGES:
            path = models.PATH + (f"&page_token={quote(token, safe='')}" if token else "")
            async with self._upstream.get(path, caller) as response:
                await response.raise_for_status(caller.own_key)
                body = await response.read_body()
            pages.append(body)
            # Cohere could repeat a token; the set and MAX_PAGES keep a broken page from being asked for again and
            # again.
            token = models.next_page(body)
            if token in tokens:
                break
            tokens.add(token)
        return pages


def _list_owner(caller: Principal) -> str:
    """Returns whose list of models a caller gets: all whom the server's keys serve share one."""
    return caller.owner if caller.own_key else ""


class _Fetch(Struct):
    """A list on its way, and how many wait for it."""

    task: "asyncio.Task[ModelList]"
    waiters: int = 0
