"""The principal behind a key, as the authenticator makes it, for tests that need no server."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from gateway.auth.authenticator import Authenticator
from gateway.auth.directory import KeyDirectory
from gateway.auth.principal import Principal
from gateway.settings.schema import Settings
from gateway.store.errors import StoreUnavailable


async def _no_store() -> NoReturn:
    raise StoreUnavailable("there is no database here")


def principal_of(settings: Settings, key: str) -> Principal:
    """The principal of whoever sends this key as a bearer token. No virtual key is known."""
    authenticator = Authenticator(settings, KeyDirectory(_no_store, lambda text: None))
    headers = [(b"authorization", b"Bearer " + key.encode())]
    return asyncio.run(authenticator.authenticate(headers)).principal
