"""Who is calling."""

import hashlib

from msgspec import Struct


class Caller(Struct, frozen=True):
    """own_key: the Cohere key is the caller's own, so they are told the truth about it.

    upstream_key: that key; empty where one of the server's is used, whichever the pool chooses.
    owner: whose what is stored is; nothing can be read out of it.
    sealing_keys: what the caller's tokens are sealed with (the first) and opened with (any): `encrypted_content.py`.
    """

    name: str
    own_key: bool
    upstream_key: str
    owner: str
    sealing_keys: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Caller({self.name!r})"


def owner_of(key: str) -> str:
    """The whole hash of a key: a part of it could be shared by two."""
    return "key:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
