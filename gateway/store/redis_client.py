"""A connection pool to one Redis server.

Imported only if the settings ask for Redis: loading the client is slow.
"""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

MAX_CONNECTIONS = 64
"""Of a process. In a burst of more calls at once the rest wait for one of these."""


def connect(url: str, timeout: float) -> Redis:
    """Returns a client that connects when it is first used. Raises ValueError for a bad URL.

    timeout: seconds for a connection, for each answer, and for a place in the pool. Nothing is sent a second time: a
    script that was not answered may have run all the same. Values are bytes, whatever options the URL has for other
    users of this Redis.
    """
    # It waits where the client's usual pool refuses, so that in a burst Redis does not look lost.
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        # A PING before a command would be a round trip more.
        health_check_interval=0,
        retry=Retry(NoBackoff(), 0),
    )
    # Only now, because options in the URL win over arguments.
    pool.connection_kwargs["decode_responses"] = False
    return Redis.from_pool(pool)
