"""Connections to Cohere that are used again, and only such as may be."""

from typing import Any

import aiohttp
from aiohttp.connector import Connection


class Connector(aiohttp.TCPConnector):
    """aiohttp looks at a connection when its answer is over. What comes after that, while it waits to be used again (a
    proxy's 408, a second answer behind the first), would be the answer to whoever uses it next.
    """

    async def _get(self, *given: Any) -> Connection | None:
        while (found := await super()._get(*given)) is not None:
            if found.protocol is None or not found.protocol.should_close:
                return found
            found.close()
        return None
