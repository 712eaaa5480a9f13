"""The nodes of a Redis Cluster: which of them has a key, and a connection pool to each.

The client library has a cluster client, which sends a command again whose connection failed. A script that counts may
have run by then and would count twice, so here nothing is sent again but what a node has refused as not its own.
"""

import asyncio
import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, RedisError

from gateway.store.redis_client import connect

MAX_REDIRECTIONS = 5

Address = tuple[str, int]


class RedisCluster:
    """A cluster of which one node is known at first. Methods raise RedisError and OSError."""

    def __init__(self, url: str, timeout: float) -> None:
        """Connects to nothing yet. Raises ValueError for a bad URL, or one with the number of a database."""
        parts = urlsplit(url)
        if parts.path.strip("/") not in ("", "0"):
            raise ValueError("a Redis Cluster has no numbered databases")
        self._url, self._timeout = url, timeout
        self._first: Any = connect(url, timeout)
        # The other nodes take the same name and password: CLUSTER SLOTS tells addresses alone.
        self._user = parts.netloc.rpartition("@")[0]
        self._nodes: dict[Address, Any] = {}
        # The first slot of each range, in order, and the node that has it.
        self._starts: list[int] = []
        self._masters: list[Address] = []
        self._loading = asyncio.Lock()
        self._stale = True
        self._learning: asyncio.Task[None] | None = None
        # The commands that each node has not answered yet, the oldest first, with the time of the monotonic clock.
        self._waiting: dict[Address, dict[object, float]] = {}

    async def execute(self, key: str | bytes, *command: Any) -> Any:
        """Returns the answer to a command from the node that has this key."""
        await self._know_nodes()
        slot, asking = key_slot(key.encode() if isinstance(key, str) else key), False
        address = self._address(slot)
        for _ in range(MAX_REDIRECTIONS):
            try:
                return await self._send(address, command, asking)
            # To the library it is an AskError, too.
            except MovedError as error:
                # What else has moved is learned beside the next command.
                self._stale = True
                address, asking = (error.host or address[0], error.port), False
            except AskError as error:
                address, asking = (error.host or address[0], error.port), True
            except (RedisError, OSError, TimeoutError):
                self._stale = True
                raise
        raise RedisError(f"slot {slot} moves from node to node")

    async def execute_all(self, keys: Sequence[bytes], commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Returns the answers to commands with a key each: one round trip to each node, all at once."""
        await self._know_nodes()
        positions: dict[Address, list[int]] = {}
        for position, key in enumerate(keys):
            positions.setdefault(self._address(key_slot(key)), []).append(position)
        answers: list[Any] = [None] * len(keys)

        async def ask(address: Address, own: Sequence[int]) -> None:
            async with self._node(address).pipeline(transaction=False) as pipeline:
                for position in own:
                    pipeline.execute_command(*commands[position])
                for position, answer in zip(own, await pipeline.execute(), strict=True):
                    answers[position] = answer

        try:
            await asyncio.gather(*(ask(address, own) for address, own in positions.items()))
        # One key that has moved fails all. Only a cache asks in this way, for which that is a miss.
        except (RedisError, OSError, TimeoutError):
            self._stale = True
            raise
        return answers

    def is_silent(self, key: str, seconds: float) -> bool:
        """Tells whether the node that has this key has owed an answer for so long, or is not known."""
        if (address := self.address_of(key)) is None:
            return True
        began = next(iter(self._waiting.get(address, {}).values()), None)
        return began is not None and time.monotonic() - began >= seconds

    async def reconnect(self, key: str) -> None:
        """Closes the connections to the node that has this key, and learns the nodes anew."""
        self._stale = True
        if (address := self.address_of(key)) is None:
            await self._first.connection_pool.disconnect()
        else:
            await self._node(address).connection_pool.disconnect()

    async def stop(self) -> None:
        """Frees connections."""
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.gather(self._learning, return_exceptions=True)
        for redis in (self._first, *self._nodes.values()):
            await redis.aclose()

    async def _know_nodes(self) -> None:
        """Learns the nodes if none is known. What may have changed since is learned while the known ones are used: a
        node that is asked for it may be slow, and most commands are for others.
        """
        if not self._masters:
            await self._load()
        elif self._stale and (self._learning is None or self._learning.done()):
            self._learning = asyncio.get_running_loop().create_task(self._load())
            self._learning.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    async def _load(self) -> None:
        """Learns which node has which slots, from the first one that answers."""
        async with self._loading:
            if not self._stale:
                return
            error: Exception = RedisError("no node of the cluster answers")
            # The node that the URL names comes last: it may have left the cluster long ago.
            for redis in (*map(self._node, dict.fromkeys(self._masters)), self._first):
                try:
                    rows = await redis.execute_command("CLUSTER SLOTS")
                    self._take(rows, redis.connection_pool.connection_kwargs.get("host", "127.0.0.1"))
                except (RedisError, OSError, TimeoutError, LookupError, TypeError) as failed:
                    error = failed
                else:
                    self._stale = False
                    return
            raise error

    def _take(self, rows: Sequence[Any], host: str) -> None:
        """Takes over rows of first slot, last slot, master and replicas. host: for nodes that do not know their own."""
        ranges = sorted((int(first), (_text(master[0]) or host, int(master[1]))) for first, _, master, *_ in rows)
        self._starts = [start for start, _ in ranges]
        self._masters = [address for _, address in ranges]

    def address_of(self, key: str) -> Address | None:
        """Returns the address of the node that has this key, None while that is not known."""
        position = bisect_right(self._starts, key_slot(key.encode())) - 1
        return self._masters[position] if position >= 0 else None

    def _address(self, slot: int) -> Address:
        position = bisect_right(self._starts, slot) - 1
        if position < 0:
            raise RedisError(f"no node of the cluster has slot {slot}")
        return self._masters[position]

    def _node(self, address: Address) -> Any:
        node = self._nodes.get(address)
        if node is None:
            host = f"[{address[0]}]" if ":" in address[0] else address[0]
            netloc = f"{self._user}@{host}:{address[1]}" if self._user else f"{host}:{address[1]}"
            url = urlunsplit(urlsplit(self._url)._replace(netloc=netloc))
            node = self._nodes[address] = connect(url, self._timeout)
        return node

    async def _send(self, address: Address, command: Sequence[Any], asking: bool) -> Any:
        node, waiting, this = self._node(address), self._waiting.setdefault(address, {}), object()
        waiting[this] = time.monotonic()
        try:
            if not asking:
                return await node.execute_command(*command)
            async with node.client() as connection:  # both on one connection
                await connection.execute_command("ASKING")
                return await connection.execute_command(*command)
        finally:
            del waiting[this]


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
