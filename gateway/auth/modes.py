"""Who may call at all: the mode that the settings ask for. The first process imports this, and no database.

Four modes, chosen once at start (the README explains them under "Who may call"):
    demo                 anybody; the embedded emulator answers
    virtual keys         a key issued here, the master key, or a token of an identity provider; the server's Cohere key
                         goes upstream, or the embedded emulator answers if `demo` is set as well
    open                 anybody who reaches the address; the server's Cohere key goes upstream
    bring your own key   the caller's bearer token IS the Cohere key
"""

from enum import Enum

from gateway.settings.schema import SettingError, Settings


class Mode(Enum):
    DEMO = "demo"
    VIRTUAL_KEYS = "virtual keys"
    OPEN = "open"
    OWN_KEY = "bring your own key"


def mode_of(settings: Settings) -> Mode:
    """Returns the mode that these settings ask for. Raises SettingError where they contradict each other."""
    # In a demo as well: keys can be tried without Cohere.
    if settings.master_key or settings.jwt.enabled:
        if not settings.cohere_api_key and not settings.demo:
            name = "master_key: virtual keys" if settings.master_key else "jwt: tokens"
            raise SettingError(f"{name} need the server's own COHERE_API_KEY as well")
        return Mode.VIRTUAL_KEYS
    if settings.demo:
        return Mode.DEMO
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


def is_for_one_caller(settings: Settings) -> bool:
    """Returns whether nobody has a key of the gateway's, and whoever calls is at this machine, or tries the demo."""
    mode = mode_of(settings)
    return mode is Mode.DEMO or (mode is Mode.OPEN and settings.loopback)
