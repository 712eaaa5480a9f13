"""Secrets behind opaque handles: a request carries the handle, and only two packages can open it.

`gateway/upstream/` reads the Cohere key that it sends, `gateway/state/encrypted_content.py` derives keys for sealing;
ONLY_FROM in the house test holds everybody else off. A log line, a traceback with its variables or a dump of a request
therefore shows no key.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary


class Credential:
    """A handle to a principal's Cohere keys. It has no attributes; its keys are forgotten when it is."""

    __slots__ = ("__weakref__",)


# Outside of the handle, so that nothing that holds one shows a key; weak, so that a caller's key goes with it.
_cohere_keys: WeakKeyDictionary[Credential, tuple[str, ...]] = WeakKeyDictionary()


def store(cohere_keys: Sequence[str]) -> Credential:
    """Keeps these keys, one or more, behind a new handle."""
    credential = Credential()
    _cohere_keys[credential] = tuple(cohere_keys)
    return credential


def cohere_keys(credential: Credential) -> tuple[str, ...]:
    """Returns the keys behind a handle: the caller's own one, or all of the server's in the order of the setting."""
    return _cohere_keys[credential]
