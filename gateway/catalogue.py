"""Cohere's list of models, all pages of it."""

from collections.abc import Mapping
from urllib.parse import quote

from gateway import operations
from gateway.access.caller import Caller
from gateway.errors import UpstreamError
from gateway.upstream.client import Upstream
from translators.errors import Failure
from translators.refusals import refusal

MOST_PAGES = 100
"""A list that never ends is not followed for ever."""


class Catalogue:
    """Fetches the list; remembers what the models can do, for the requests that follow."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self.features: Mapping[str, frozenset[str]] = {}

    async def pages(self, caller: Caller) -> list[bytes]:
        """The bodies of all pages. Raises UpstreamError."""
        pages: list[bytes] = []
        token = ""
        while len(pages) < MOST_PAGES:
            path = operations.CATALOGUE_PATH + (f"&page_token={quote(token, safe='')}" if token else "")
            async with self._upstream.get(path, caller.upstream_key) as reply:
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
