"""Cohere's list of models, all pages of it, and what is known of the models beyond the table."""

import asyncio
import time
from collections.abc import Container, Mapping
from urllib.parse import quote

from gateway import operations
from gateway.access.caller import Caller
from gateway.errors import UpstreamError
from gateway.upstream.resilient import ResilientUpstream
from translators.errors import Failure, TranslationError
from translators.refusals import refusal

LOOK_AGAIN = 600.0
"""Seconds between two looks at the list for the sake of unknown models."""

MOST_PAGES = 100
"""A list that never ends is not followed for ever."""


class Catalogue:
    """Fetches the list; remembers what the models can do, for the requests that follow.

    known: the models that need no looking up.
    """

    def __init__(self, upstream: ResilientUpstream, known: Container[str]) -> None:
        self._upstream, self._known = upstream, known
        self._asked = -LOOK_AGAIN
        self._looking: asyncio.Task[None] | None = None
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

    def notice(self, model: str, caller: Caller) -> None:
        """A model that no table knows makes us read the list, beside the request and at most once in a while."""
        if model in self or time.monotonic() - self._asked < LOOK_AGAIN:
            return
        self._asked = time.monotonic()
        self._looking = asyncio.get_running_loop().create_task(self._look(caller))

    async def _look(self, caller: Caller) -> None:
        try:
            await self.pages(caller)
        except (UpstreamError, TranslationError, RuntimeError):
            return  # the request itself will tell what is wrong; RuntimeError: the session was closed meanwhile

    async def pages(self, caller: Caller) -> list[bytes]:
        """The bodies of all pages. Raises UpstreamError."""
        pages: list[bytes] = []
        token = ""
        while len(pages) < MOST_PAGES:
            path = operations.CATALOGUE_PATH + (f"&page_token={quote(token, safe='')}" if token else "")
            async with self._upstream.get(path, caller) as reply:
                body = await reply.whole()
                if reply.status != 200:
                    told: Failure = refusal(reply.status, body, caller.own_key)
                    raise UpstreamError(told, reply.header("retry-after") or None)
            pages.append(body)
            token = operations.next_page(body)
            if not token:
                break
        self.features = operations.features(pages)
        return pages
