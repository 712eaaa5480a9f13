"""Who is calling."""

import hashlib

from msgspec import Struct

from gateway.auth.credentials import Credential


class Principal(Struct, frozen=True):
    """The caller of a request, without any secret of theirs or ours.

    name: for the log. owner: whose stored responses and conversations are served; no key can be read out of it.
    own_key: the Cohere key is the caller's own, so errors of Cohere's about the key are theirs to see.
    credential: the handle of that key, or of all the server's keys (`credentials.py`).
    """

    name: str
    owner: str
    own_key: bool
    credential: Credential


NOBODY = Principal("", "", False, Credential())
"""Before anybody was authenticated, and on paths that ask nobody who they are."""


def owner_of(key: str) -> str:
    """Returns the owner that a key of a caller's own stands for: its whole hash, as two keys could share a part."""
    return "key:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
