"""Gateways that know virtual keys from their start: the records are in the database before it is opened."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gateway.store import keys
from gateway.store.keys import ChangedBy
from gateway.store.store import Store
from gateway.virtual_keys import EndUser, Team, VirtualKey, digest_of
from support import databases
from support.app import MASTER_KEY, SERVER_KEY, Harness, run_harness
from translators.operations.stored_responses import end_interrupted

BY = ChangedBy("tests")


def secret_of(name: str) -> str:
    """The secret of the key of this name."""
    return f"sk-{name}-{'0' * 24}"


def key_of(name: str, **fields: Any) -> VirtualKey:
    """A key whose id and alias are this name."""
    return VirtualKey(key_id=name, key_alias=name, digest=digest_of(secret_of(name)), last_four="0000", **fields)


def write(url: str, *works: Callable[[Any], object]) -> None:
    """Runs transactions on the database of a gateway, as another process would."""

    async def run() -> None:
        store = Store(url, end_interrupted, timeout=30.0)
        await store.start()
        try:
            for work in works:
                await store.write(work)
        finally:
            await store.stop()

    asyncio.run(run())


def insertion(records: Sequence[VirtualKey | Team | EndUser]) -> list[Callable[[Any], object]]:
    """The transactions that add records of all kinds."""
    kinds: dict[type, list[Any]] = {}
    for record in records:
        kinds.setdefault(type(record), []).append(record)

    def adding(some: list[Any]) -> Callable[[Any], object]:
        return lambda connection: keys.insert(connection, some, BY, 1.0)

    return [adding(some) for some in kinds.values()]


@contextmanager
def run_keyed_harness(*records: VirtualKey | Team | EndUser, **settings: Any) -> Iterator[tuple[Harness, str]]:
    """A gateway with these records over a scripted upstream, and the URL of its database."""
    with tempfile.TemporaryDirectory() as folder:
        url = databases.sqlite(folder)
        write(url, *insertion(records))
        values = {"cohere_api_key": [SERVER_KEY], "master_key": MASTER_KEY, **settings}
        with run_harness(key=MASTER_KEY, database_url=url, **values) as harness:
            yield harness, url
