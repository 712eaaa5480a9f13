"""Sessions of people in a browser: a credential, sealed in a cookie that only this gateway can open.

A session has no rights of its own. Its cookie is opened to the key that was signed in with, and that key goes the way
of every other: `authenticator.py` decides anew for each request, so a key that is blocked, rotated or deleted ends its
sessions. The cookie is encrypted with a key that is derived from the gateway's own secret, so every worker and every
replica opens it, and another secret ends them all. Nothing is stored but the ids of sessions that were signed out,
which every process hears of as it hears of keys (`directory.py`).

A request that changes something must repeat the session's CSRF token in a header, which no other site can read.
"""

import base64
import binascii
import hashlib
import hmac
import os
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from gateway.errors import CallerError, failure

if TYPE_CHECKING:
    # Imported where the first session is sealed: seven megabytes that few deployments need.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

COOKIE, SECURE_COOKIE = "gateway-session", "__Host-gateway-session"
"""Names of the cookie over http and https. A browser takes the second one from no other host, and over https only."""

# Sent by the console's scripts.
CSRF_HEADER = b"x-gateway-csrf"

LONGEST_SECONDS = 12 * 3600.0
"""After which a session ends, however busy it is."""

LONGEST_COOKIE = 3_800
"""Bytes: browsers drop cookies of more than 4,096 with their name and attributes."""

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

# Another number in a label makes another key, and so ends all sessions.
_LABEL, _CSRF_LABEL = b"cohere-gateway session 1", b"cohere-gateway csrf 1"
_NONCE_BYTES = 12
_MAX_ENDED = 100_000

SESSION_OVER = failure("session_over", "The session is over: sign in again")
CSRF_MISSING = failure("csrf", "A request of a session that changes something needs its token in 'x-gateway-csrf'")
FOREIGN_PAGE = failure("foreign_origin", "Only the console's own pages may use its session")


class Session(Struct, frozen=True, array_like=True):
    """secret: the credential that was signed in with. began, renewed: Unix seconds."""

    id: str
    secret: str
    began: float
    renewed: float


class EndedSessions:
    """The ids of sessions that were signed out, until they would have ended by themselves."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def add(self, id: str, ends_at: float) -> None:
        """Ends a session, in this process. ends_at: when it would have ended by itself, in Unix seconds."""
        # Those that would have ended by themselves need no entry any more.
        if len(self._until) >= _MAX_ENDED:
            now = time.time()
            self._until = {id: until for id, until in self._until.items() if until > now}
        self._until[id] = ends_at

    def __contains__(self, session: Session) -> bool:
        return session.id in self._until


ENDED = EndedSessions()
"""Of the process: a reload of the settings must not forget them."""


class Sessions:
    """Seals and opens sessions. root: the gateway's secret; without one there are no sessions."""

    def __init__(self, root: str, idle_seconds: float) -> None:
        self.enabled, self.idle_seconds = bool(root), idle_seconds
        self._root = root.encode()
        self._lazy_cipher: AESGCM | None = None

    def begin(self, secret: str, now: float) -> Session:
        """Returns a new session. Its id is never one that the browser brought along, so none can be planted there."""
        return Session(base64.urlsafe_b64encode(os.urandom(18)).decode(), secret, now, now)

    def seal(self, session: Session) -> str:
        """Returns a session as the value of its cookie. Raises CallerError (400) for a credential that is too long."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, msgspec.json.encode(session), None)
        value = base64.urlsafe_b64encode(sealed).decode().rstrip("=")
        # Here and not in the browser, which would drop it without a word.
        if len(value) > LONGEST_COOKIE:
            raise CallerError(failure("bad_request", "This credential is too long for a cookie: use a shorter token"))
        return value

    def open(self, value: str, now: float) -> Session | None:
        """Returns the session of a cookie; None for one that is over, or was not made here."""
        from cryptography.exceptions import InvalidTag

        # Before anything is decoded: the cookie is the caller's, and may be of any length.
        if not self.enabled or len(value) > LONGEST_COOKIE:
            return None
        try:
            sealed = base64.b64decode(value + "=" * (-len(value) % 4), b"-_", validate=True)
            body = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
            session = msgspec.json.decode(body, type=Session)
        except (binascii.Error, ValueError, InvalidTag, msgspec.DecodeError):
            return None
        if now - session.renewed > self.idle_seconds or now - session.began > LONGEST_SECONDS or session in ENDED:
            return None
        return session

    def csrf_token(self, session: Session) -> str:
        """Returns the token that requests of this session repeat. It says nothing about the cookie."""
        return hmac.new(self._derived(_CSRF_LABEL), session.id.encode(), hashlib.sha256).hexdigest()

    def session_in(self, headers: Iterable[tuple[bytes, bytes]], method: str) -> Session | None:
        """Returns the session of a request; None where it has no cookie of ours.

        Raises CallerError: 401 for a session that is over, 403 for a page of another site and without a CSRF token.
        """
        if not self.enabled:
            return None
        by_name: dict[bytes, bytes] = {}
        cookies: list[bytes] = []
        for name, value in headers:
            if name == b"cookie":
                cookies.append(value)
            else:
                by_name[name] = value
        value_of_cookie = _cookie_in(b"; ".join(cookies), is_secure(by_name)) if cookies else ""
        if not value_of_cookie:
            return None
        # Browsers write this header themselves, and no page can change it:
        # https://developer.mozilla.org/docs/Web/HTTP/Headers/Sec-Fetch-Site
        if by_name.get(b"sec-fetch-site", b"same-origin") not in (b"same-origin", b"none"):
            raise CallerError(FOREIGN_PAGE)
        session = self.open(value_of_cookie, time.time())
        if session is None:
            raise CallerError(SESSION_OVER)
        if method not in SAFE_METHODS:
            token = by_name.get(CSRF_HEADER, b"")
            if not hmac.compare_digest(token, self.csrf_token(session).encode()):
                raise CallerError(CSRF_MISSING)
        return session

    @property
    def _cipher(self) -> "AESGCM":
        if self._lazy_cipher is None:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            self._lazy_cipher = AESGCM(self._derived(_LABEL))
        return self._lazy_cipher

    def _derived(self, label: bytes) -> bytes:
        return hmac.new(self._root, label, hashlib.sha256).digest()


def is_secure(headers: Mapping[bytes, bytes], scheme: str = "http") -> bool:
    """Tells whether the browser speaks https. A proxy's word is taken: who lies only gets a stricter cookie."""
    if scheme == "https" or headers.get(b"x-forwarded-proto", b"").strip().lower().startswith(b"https"):
        return True
    return headers.get(b"origin", b"").lower().startswith(b"https://")


def set_cookie(value: str, secure: bool) -> bytes:
    """Returns the header that keeps a session in the browser until it is closed; an empty value removes it."""
    name = SECURE_COOKIE if secure else COOKIE
    attributes = "Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "") + ("" if value else "; Max-Age=0")
    return f"{name}={value}; {attributes}".encode()


def _cookie_in(header: bytes, secure: bool) -> str:
    """Returns our cookie's value. Over https only the one that no other host can have set counts."""
    cookies: dict[str, str] = {}
    for part in header.decode("latin-1").split(";"):
        name, _, value = part.partition("=")
        cookies.setdefault(name.strip(), value.strip())
    return cookies.get(SECURE_COOKIE, "") or ("" if secure else cookies.get(COOKIE, ""))
