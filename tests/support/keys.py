"""Virtual keys for tests: put into a database as the command line would, before or while a gateway serves from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from gateway.store import keys
from gateway.store.keys import ChangedBy
from gateway.store.store import Store
from gateway.virtual_keys import EndUser, Team, VirtualKey, digest_of
from translators.operations.stored_responses import end_interrupted


def secret_of(id: str) -> str:
    """The secret of the key that `key_of` makes."""
    return f"sk-a-key-of-the-tests-{id}"


def key_of(id: str, **fields: Any) -> VirtualKey:
    """A key with this id and alias."""
    return VirtualKey(key_id=id, key_alias=id, digest=digest_of(secret_of(id)), **fields)


def add(database_url: str, *records: VirtualKey | Team | EndUser) -> None:
    """Writes records, each kind in a transaction of its own."""

    async def write() -> None:
        store = Store(database_url, end_interrupted, timeout=30.0)
        await store.start()
        try:
            for kind in (Team, EndUser, VirtualKey):
                chosen: Sequence[Any] = [record for record in records if isinstance(record, kind)]
                insert = partial(keys.insert, records=chosen, by=ChangedBy("tests"), now=time.time())
                await store.write(insert)
        finally:
            await store.stop()

    asyncio.run(write())
