"""Texts as opaque tokens: a caller keeps them, and only this gateway reads them again, for that caller.

Nothing is stored. The key is derived from the Cohere key that serves the caller, so that every process with the
same Cohere key opens what another one sealed, and so that a caller's own key keeps other gateways' callers out. Of
several keys the first one seals and each opens, so that keys can be added, and replaced one by one. The owner is
authenticated with it: among callers who share a Cohere key a token is worth nothing to the others.
"""

import base64
import binascii
import hmac
import os
import zlib
from collections.abc import Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from gateway.auth.principal import Caller


class Kind(Struct, frozen=True):
    """What is sealed.

    prefix: what its tokens begin with; the number in it changes when tokens are made in another way. label: goes into
    the key, so that a token of one kind cannot be opened as another.
    """

    prefix: str
    label: bytes


THOUGHT = Kind("cgw1.", b"cohere-gateway reasoning seal 1")
SUMMARY = Kind("cgws1.", b"cohere-gateway summary seal 1")
PREFIX = THOUGHT.prefix

NONCE_BYTES = 12
MOST_BYTES = 8 * 1024 * 1024
"""Of a text: no model writes so much, and no token makes us unpack more."""


class Seal:
    """Seals and opens for one owner. Making one costs nothing; the key is derived when it is first needed."""

    def __init__(self, key: bytes, owner: str = "", others: Sequence[bytes] = (), kind: Kind = THOUGHT) -> None:
        """others: keys that open as well."""
        self._key, self._owner, self._others, self._kind = key, owner.encode(), others, kind

    def seal(self, text: str) -> str:
        """The text as a token."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = _cipher(self._key, self._kind.label).encrypt(nonce, zlib.compress(text.encode()), self._owner)
        return self._kind.prefix + base64.urlsafe_b64encode(nonce + sealed).decode()

    def open(self, token: str) -> str | None:
        """The text of a token; None for one that was not made here, or not for this owner."""
        if not token.startswith(self._kind.prefix):
            return None
        for key in (self._key, *self._others):
            if (text := self._opened(key, token)) is not None:
                return text
        return None

    def _opened(self, key: bytes, token: str) -> str | None:
        try:
            data = base64.b64decode(token[len(self._kind.prefix) :], b"-_", validate=True)
            packed = _cipher(key, self._kind.label).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], self._owner)
            unpacking = zlib.decompressobj()
            text = unpacking.decompress(packed, MOST_BYTES)
            return text.decode() if unpacking.eof else None
        except (binascii.Error, ValueError, InvalidTag, zlib.error):
            return None


@lru_cache(maxsize=256)
def seal_of(caller: Caller, kind: Kind = THOUGHT) -> Seal:
    """The seal for this caller's thoughts, or summaries."""
    first, *others = [key.encode("utf-8", "surrogatepass") for key in caller.sealing_keys]
    return Seal(first, caller.owner, others, kind)


@lru_cache(maxsize=256)
def _cipher(key: bytes, label: bytes) -> AESGCM:
    """One HMAC-SHA256 is enough of a derivation: a Cohere key is random, no password."""
    return AESGCM(hmac.digest(key, label, "sha256"))
