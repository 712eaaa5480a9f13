"""Texts as opaque tokens that a caller carries and only this gateway can read, for that caller.

Nothing is stored. The key is derived from the Cohere key that serves the caller: every process with that key opens
what another one sealed, and callers of other keys stay out. Of several keys the first one seals and each one opens, so
that keys can be added, and replaced one by one. The owner is authenticated along with the text: among callers who
share a Cohere key, a token is worth nothing to the others.
"""

import base64
import binascii
import hmac
import os
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct

from gateway.auth.credentials import Credential, cohere_keys, store
from gateway.auth.principal import Principal
from gateway.errors import CallerError, failure
from gateway.memory_budget import UNLIMITED, Gathering

if TYPE_CHECKING:
    # Imported where the first text is sealed: seven megabytes that few deployments need.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class Kind(Struct, frozen=True):
    """A kind of sealed text.

    prefix: what its tokens begin with; the number in it changes when tokens are made in another way. label: goes into
    the key, so that a token of one kind cannot be opened as another.
    """

    prefix: str
    label: bytes


THOUGHT = Kind("cgw1.", b"cohere-gateway reasoning seal 1")
SUMMARY = Kind("cgws1.", b"cohere-gateway summary seal 1")
BODY = Kind("cgwb1.", b"cohere-gateway body seal 1")
PREFIX = THOUGHT.prefix

# What GCM is made for (NIST SP 800-38D). A random one each time, as processes share a key and count nothing together.
NONCE_BYTES = 12
MAX_TEXT_BYTES = 8 * 1024 * 1024
"""Of one text: no model writes so much."""


class TextBudget(Struct):
    """The bytes of text that the tokens of one request may still unpack to.

    A token of eleven kilobytes can unpack to MAX_TEXT_BYTES, and a request can carry thousands of them.
    gathering: counts the texts in the memory of the request. used: bytes so far.
    """

    max_bytes: int
    gathering: Gathering
    used: int = 0

    def decompress(self, compressed: bytes) -> bytes | None:
        """Returns the text; None for one of more than MAX_TEXT_BYTES, or cut short. Raises zlib.error.

        Raises CallerError (413, or 429 and 503 from the memory), before more is unpacked than remains.
        """
        decompressor = zlib.decompressobj()
        # One byte more than allowed: so it shows whether there is more, without unpacking it.
        text = decompressor.decompress(compressed, min(MAX_TEXT_BYTES, self.max_bytes - self.used) + 1)
        self.used += len(text)
        if self.used > self.max_bytes:
            message = f"The encrypted content in this request unpacks to more than {self.max_bytes} bytes"
            raise CallerError(failure("body_too_large", message))
        self.gathering.add(len(text))
        return text if decompressor.eof and len(text) <= MAX_TEXT_BYTES else None


class Seal:
    """Seals and opens tokens of one kind for one owner, with keys derived from the Cohere keys behind a credential.

    Making one costs nothing: keys are derived when they are first needed, and no key is an attribute of it.
    """

    def __init__(self, credential: Credential, owner: str = "", kind: Kind = THOUGHT) -> None:
        self._credential, self._owner, self._kind = credential, owner.encode(), kind

    def seal(self, text: str) -> str:
        """Returns the text as a token, sealed with the first key."""
        nonce = os.urandom(NONCE_BYTES)
        cipher = _ciphers(self._credential, self._kind.label)[0]
        # Compressed before it is encrypted, as nothing could be compressed after.
        ciphertext = cipher.encrypt(nonce, zlib.compress(text.encode()), self._owner)
        return self._kind.prefix + base64.urlsafe_b64encode(nonce + ciphertext).decode()

    def open(self, token: str, budget: TextBudget) -> str | None:
        """Returns the text of a token; None for one that was not made here, or not for this owner.

        Raises CallerError (413) when the budget is exhausted.
        """
        if not token.startswith(self._kind.prefix):
            return None
        # Which key sealed it is not in the token, so that tokens tell nothing of the keys.
        for cipher in _ciphers(self._credential, self._kind.label):
            if (text := self._decrypt(cipher, token, budget)) is not None:
                return text
        return None

    def _decrypt(self, cipher: "AESGCM", token: str, budget: TextBudget) -> str | None:
        from cryptography.exceptions import InvalidTag

        try:
            # Not `urlsafe_b64decode`, which leaves out what is no base64 and so takes many tokens for one.
            data = base64.b64decode(token[len(self._kind.prefix) :], b"-_", validate=True)
            compressed = cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], self._owner)
            text = budget.decompress(compressed)
            return text.decode() if text is not None else None
        # A text that is no UTF-8 raises UnicodeDecodeError, which is a ValueError.
        except (binascii.Error, ValueError, InvalidTag, zlib.error):
            return None


def seal_of(principal: Principal, kind: Kind = THOUGHT) -> Seal:
    """Returns the seal for this principal's thoughts, or summaries."""
    return _seal(principal.credential, principal.owner, kind)


@lru_cache(maxsize=256)
def _seal(credential: Credential, owner: str, kind: Kind) -> Seal:
    return Seal(credential, owner, kind)


class LedgerBodySeal:
    """Seals the bodies of calls with keys of the settings: implements `BodySeal` (`gateway/ledger/bodies.py`)."""

    def __init__(self, keys: Sequence[str]) -> None:
        """keys: the first one seals, each one opens."""
        self._credential = store(keys)

    def seal(self, id: str, text: str) -> bytes:
        """Returns the text of the row with this id, sealed."""
        return Seal(self._credential, id, BODY).seal(text).encode()

    def open(self, id: str, sealed: bytes) -> str | None:
        """Returns the text; None for what was sealed with another key, or for another row."""
        budget = TextBudget(MAX_TEXT_BYTES, Gathering(UNLIMITED))
        return Seal(self._credential, id, BODY).open(sealed.decode("ascii", "replace"), budget)


def authentication_key(principal: Principal, label: bytes) -> bytes:
    """Returns 32 bytes for authenticating data, which only gateways with this principal's first Cohere key derive."""
    return _derived_keys(principal.credential, label)[0]


@lru_cache(maxsize=256)
def _ciphers(credential: Credential, label: bytes) -> tuple["AESGCM", ...]:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return tuple(AESGCM(key) for key in _derived_keys(credential, label))


@lru_cache(maxsize=256)
def _derived_keys(credential: Credential, label: bytes) -> tuple[bytes, ...]:
    """Derives the keys by one HMAC-SHA256, which is enough: a Cohere key is random, not a password."""
    keys = [key.encode("utf-8", "surrogatepass") for key in cohere_keys(credential)]
    return tuple(hmac.digest(key, label, "sha256") for key in keys)
