"""Authentication: who is calling, decided before any route from the request's headers.

Four modes, chosen once at start (the README explains them under "Who may call"):
    demo                 anybody; the embedded emulator answers
    virtual keys         a key issued here, or the master key; the server's Cohere key goes upstream
    open                 anybody who reaches the address; the server's Cohere key goes upstream
    bring your own key   the caller's bearer token IS the Cohere key
"""

import hmac
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache

from gateway.auth import credentials
from gateway.auth.principal import Principal, owner_of
from gateway.errors import CallerError, failure
from gateway.settings.schema import SettingError, Settings


class Mode(Enum):
    DEMO = "demo"
    VIRTUAL_KEYS = "virtual keys"
    OPEN = "open"
    OWN_KEY = "bring your own key"


DEMO_KEY = "demo"
"""The Cohere key in demo mode: the emulator accepts any."""

_CREDENTIAL_HEADERS = (b"authorization", b"x-api-key", b"api-key")
_SCHEMES = ("bearer", "token")

CACHED_PRINCIPALS = 1024
"""Callers with a key of their own who are recognised without hashing it again."""


def mode_of(settings: Settings) -> Mode:
    """Returns the mode that these settings ask for. Raises SettingError where they contradict each other."""
    if settings.demo:
        return Mode.DEMO
    if settings.master_key:
        if not settings.cohere_api_key:
            raise SettingError("master_key: virtual keys need the server's own COHERE_API_KEY as well")
        return Mode.VIRTUAL_KEYS
    if not settings.cohere_api_key:
        return Mode.OWN_KEY
    if not settings.loopback and not settings.allow_open:
        raise SettingError(
            f"host: {settings.host} would let anybody who reaches it spend your Cohere key; set GATEWAY_MASTER_KEY, "
            "or pass --allow-open if that is meant"
        )
    if "*" in settings.cors_origins:
        raise SettingError("cors_origins: '*' would let every web page spend your Cohere key in open mode")
    return Mode.OPEN


class Authenticator:
    """Authenticates requests in the mode of the settings.

    keys: the server's Cohere keys, empty if callers bring their own.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises SettingError as `mode_of`."""
        self.mode = mode_of(settings)
        self._settings = settings
        keys = self.keys = [DEMO_KEY] if self.mode is Mode.DEMO else settings.cohere_api_key
        server = credentials.store(keys)
        self._demo = Principal("demo", "demo", False, server)
        self._open = Principal("anonymous", "open", False, server)
        self._master = Principal("master", "master", False, server)

    def authenticate(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
        """Returns the principal behind these headers.

        Raises CallerError: 400 for two different keys, 401 for none or a wrong one.
        """
        if self.mode is Mode.DEMO:
            return self._demo
        key = credential_in(headers)
        if self.mode is Mode.OPEN:
            return self._open
        if not key:
            raise CallerError(failure("missing_key", "The API key is missing: send it as 'Authorization: Bearer KEY'"))
        if self.mode is Mode.OWN_KEY:
            return _own_key_principal(key)
        if self._settings.master_may_call and constant_time_equals(key, self._settings.master_key):
            return self._master
        raise CallerError(failure("wrong_key", "The API key is not valid for this gateway"))


@lru_cache(maxsize=CACHED_PRINCIPALS)
def _own_key_principal(key: str) -> Principal:
    return Principal("own key", owner_of(key), True, credentials.store((key,)))


def credential_in(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Returns the one API key in a request's headers, or an empty string.

    Raises CallerError (400) on two different ones.
    """
    keys: set[str] = set()
    for name, value in headers:
        if name in _CREDENTIAL_HEADERS:
            text = value.decode("latin-1").strip()
            if name == b"authorization":
                scheme, _, rest = text.partition(" ")
                if scheme.lower() in _SCHEMES:
                    text = rest.strip()
                elif rest:
                    text = ""  # of another scheme, say Basic: it is meant for a proxy on the way, not for us
            if text:
                keys.add(text)
    if len(keys) > 1:
        raise CallerError(failure("two_credentials", "The request has two different API keys"))
    return keys.pop() if keys else ""


def remove_credentials(headers: list[tuple[bytes, bytes]], by_name: dict[bytes, bytes]) -> None:
    """Removes the headers that carry keys, in place: nobody needs them once the caller is authenticated."""
    headers[:] = [header for header in headers if header[0] not in _CREDENTIAL_HEADERS]
    for name in _CREDENTIAL_HEADERS:
        by_name.pop(name, None)


def constant_time_equals(presented: str, expected: str) -> bool:
    """Compares secrets in a time that does not depend on where they differ. An empty `expected` equals nothing."""
    return bool(expected) and hmac.compare_digest(presented.encode("utf-8", "replace"), expected.encode())
