"""The keys by which JSON Web Tokens are checked: one of the settings, or a set from a file or an address (JWKS).

A set is loaded at the start, and again when a token names a key that it lacks, at most once a minute: keys can be
changed without a restart, and a flood of invented names costs nothing. A set in use is loaded anew each hour, so that
what the issuer has withdrawn is not trusted for ever. While a load fails the set before it goes on counting.
"""

import asyncio
import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.settings.schema import JwtSettings, SettingError

if TYPE_CHECKING:
    import jwt

RELOAD_SECONDS = 60.0
"""Between two loads, whoever asks."""

MAX_AGE_SECONDS = 3600.0
"""After which a set is loaded again."""

TIMEOUT_SECONDS = 5.0
"""Of the connection, and of each piece of the answer."""

TOTAL_SECONDS = 10.0
"""Of a load: callers with a key that is not known yet wait for it."""

LARGEST_SET = 1024 * 1024
PIECE = 64 * 1024


class SigningKeys:
    """The keys that are trusted at present."""

    def __init__(self, settings: JwtSettings, message: Callable[[str], None]) -> None:
        """message: writes to the log. Raises SettingError for a file that cannot be used."""
        self._jwks, self._message = settings.jwks, message
        self._tls = _tls(settings.ca_file) if settings.jwks.startswith("https://") else None
        self._fixed = _public_key(settings.public_key) if settings.public_key else None
        self._by_id: Mapping[str, jwt.PyJWK] = {}
        self._loading: asyncio.Task[None] | None = None
        # So long ago that the first load need not wait.
        self._began, self._loaded = -RELOAD_SECONDS, 0.0
        self.generation = 0
        """Changes with the set: what was checked against an earlier one is checked again."""

    async def start(self) -> None:
        """Loads the set. A failure is logged, and the next unknown key tries again."""
        if self._jwks:
            await self._load()

    async def find(self, id: str | None) -> Any:
        """Returns the key of this id, in PyJWT's form; None if there is none. A token without an id means the only key.

        May wait for a load of the set.
        """
        if self._fixed is not None:
            return self._fixed
        key = self._find(id)
        if key is None or time.monotonic() - self._loaded > MAX_AGE_SECONDS:
            await self._load()
            key = self._find(id)
        return key

    def _find(self, id: str | None) -> "jwt.PyJWK | None":
        if id is None:
            return next(iter(self._by_id.values())) if len(self._by_id) == 1 else None
        return self._by_id.get(id)

    async def _load(self) -> None:
        if self._loading is None:
            if time.monotonic() - self._began < RELOAD_SECONDS:
                return
            self._began = time.monotonic()
            self._loading = asyncio.get_running_loop().create_task(self._load_once())
        await asyncio.shield(self._loading)

    async def _load_once(self) -> None:
        try:
            reading = asyncio.to_thread(_read, self._jwks, self._tls)
            # The thread watches its time between two pieces; what it cannot watch are names that do not resolve.
            content = await asyncio.wait_for(reading, TOTAL_SECONDS + TIMEOUT_SECONDS)
            self._by_id = _keys_in(content)
            self._loaded, self.generation = time.monotonic(), self.generation + 1
        except Exception as error:  # whatever answers there: a set that cannot be read is none
            self._message(f"jwt.jwks: the signing keys could not be loaded: {type(error).__name__}: {error}"[:300])
        finally:
            self._loading = None


def _keys_in(content: bytes) -> Mapping[str, "jwt.PyJWK"]:
    """Returns the asymmetric keys of a set by their ids; one without an id is the empty one. Raises ValueError."""
    import jwt  # whoever has no tokens does not load it

    document = msgspec.json.decode(content)
    keys: dict[str, jwt.PyJWK] = {}
    for described in document["keys"]:
        # A symmetric key in the set would let whoever can read it sign tokens.
        if described.get("kty") in ("RSA", "EC", "OKP") and described.get("use", "sig") == "sig":
            try:
                keys[described.get("kid", "")] = jwt.PyJWK(described)
            except jwt.PyJWTError:  # of a kind that is not known here; others in the set are
                continue
    return keys


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    # A redirect could lead from https to http, or to an address of an inner network.
    def redirect_request(self, *arguments: Any) -> None:
        return None


def _tls(ca_file: str) -> ssl.SSLContext:
    """Returns what checks the certificate of an address. Raises SettingError."""
    context = ssl.create_default_context()
    try:
        if ca_file:
            context.load_verify_locations(ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise SettingError(f"jwt.ca_file: {ca_file}: {error.strerror or 'it cannot be read'}") from error
    return context


def _read(source: str, tls: ssl.SSLContext | None) -> bytes:
    """Returns the content of a file or an address. Raises OSError, ValueError, TimeoutError."""
    if not source.startswith(("http://", "https://")):
        return Path(source).read_bytes()
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=tls))
    try:
        with opener.open(source, timeout=TIMEOUT_SECONDS) as response:
            return _body(response)
    except urllib.error.HTTPError as error:
        error.close()
        raise ValueError(f"the address answers with the status {error.code}") from None


def _body(response: http.client.HTTPResponse) -> bytes:
    end = time.monotonic() + TOTAL_SECONDS
    content = bytearray()
    while piece := response.read1(PIECE):
        content += piece
        if len(content) > LARGEST_SET:
            raise ValueError("the set is too large")
        if time.monotonic() > end:
            raise TimeoutError("the answer takes too long")
    # What is left of the declared length: a set that is cut would lack keys.
    if response.length:
        raise http.client.IncompleteRead(bytes(content), response.length)
    return bytes(content)


def _public_key(text: str) -> Any:
    """Returns a public key in PEM, or that of a file. Raises SettingError."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        pem = text.encode() if text.lstrip().startswith("-----BEGIN") else Path(text).read_bytes()
        return load_pem_public_key(pem)
    except (OSError, ValueError) as error:
        raise SettingError(f"jwt.public_key: it is no public key in PEM, and no file of one: {error}") from error
