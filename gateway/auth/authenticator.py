"""Who is calling and which Cohere key serves them: decided here, before any route.

Four modes (product.md, "Who may call"), chosen once at start:
    demo                 anybody; the embedded emulator answers
    virtual keys         a key issued here, or the master key; the server's Cohere key goes upstream
    open                 anybody who reaches the address; the server's Cohere key goes upstream
    bring your own key   the caller's bearer token IS the Cohere key
"""

import hmac
from collections.abc import Iterable
from enum import Enum

from gateway.auth.principal import Caller, owner_of
from gateway.errors import CallerError, failure
from gateway.settings.schema import SettingError, Settings


class Mode(Enum):
    DEMO = "demo"
    VIRTUAL_KEYS = "virtual keys"
    OPEN = "open"
    OWN_KEY = "bring your own key"


DEMO_KEY = "demo"
"""What the emulator is shown: it takes any key."""

_CREDENTIAL_HEADERS = (b"authorization", b"x-api-key", b"api-key")
_SCHEMES = ("bearer", "token")


def mode_of(settings: Settings) -> Mode:
    """The mode these settings ask for. Raises SettingError where they contradict each other."""
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
    """Tells callers apart. keys: the server's Cohere keys."""

    def __init__(self, settings: Settings) -> None:
        self.mode = mode_of(settings)
        self._settings = settings
        keys = self.keys = [DEMO_KEY] if self.mode is Mode.DEMO else settings.cohere_api_key
        self._demo = Caller("demo", False, "", "demo", (DEMO_KEY,))
        self._open = Caller("anonymous", False, "", "open", tuple(keys))
        self._master = Caller("master", False, "", "master", tuple(keys))

    def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """The caller behind these headers. Raises CallerError: 400 for two keys, 401 for none or a wrong one."""
        if self.mode is Mode.DEMO:
            return self._demo
        key = credential(headers)
        if self.mode is Mode.OPEN:
            return self._open
        if not key:
            raise CallerError(failure("missing_key", "No API key was given: send it as 'Authorization: Bearer KEY'"))
        if self.mode is Mode.OWN_KEY:
            return Caller("own key", True, key, owner_of(key), (key,))
        if self._settings.master_may_call and same(key, self._settings.master_key):
            return self._master
        raise CallerError(failure("wrong_key", "This API key is not known here"))


def credential(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The one key in a request's headers, or an empty string. Raises CallerError on two different ones."""
    found: set[str] = set()
    for name, value in headers:
        if name in _CREDENTIAL_HEADERS:
            text = value.decode("latin-1").strip()
            if name == b"authorization":
                scheme, _, rest = text.partition(" ")
                if scheme.lower() in _SCHEMES:
                    text = rest.strip()
                elif rest:
                    text = ""  # of another scheme, say Basic: meant for a proxy on the way, and no key of ours
            if text:
                found.add(text)
    if len(found) > 1:
        raise CallerError(failure("two_credentials", "The request carries two different API keys"))
    return found.pop() if found else ""


def same(given: str, kept: str) -> bool:
    """Compared in a time that says nothing of where they differ."""
    return bool(kept) and hmac.compare_digest(given.encode("utf-8", "replace"), kept.encode())
