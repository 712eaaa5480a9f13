"""JSON Web Tokens of somebody else's: checked by PyJWT, and what their claims say of the caller.

Refused are, beside a wrong signature: `none` and symmetric algorithms, a token without `exp` or `sub`, one of another
audience or issuer, one that brings its key along (`jwk`, `jku`, `x5u`), and one that is too long. All of them are the
same 401; what was wrong is the issuer's business, and an attacker's.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from gateway.auth import permissions
from gateway.auth.permissions import PermissionsError
from gateway.auth.signing_keys import SigningKeys
from gateway.settings.schema import JwtSettings
from gateway.virtual_keys import Role

LONGEST_TOKEN = 16 * 1024
# As of names in the database (`tables.MAX_NAME_LENGTH`).
LONGEST_NAME = 255
"""Characters of a subject, a team or a user."""

CHECKED_TOKENS = 4096
"""Tokens that are not checked again until they expire: a signature costs more than the rest of a request."""

BRINGS_A_KEY = frozenset(("jwk", "jku", "x5u"))


class TokenRefused(Exception):
    """The token counts for nothing."""


class Claims(Struct, frozen=True):
    """What a token says of the caller. expires: Unix seconds."""

    subject: str
    expires: float
    team: str | None = None
    user: str | None = None
    role: Role = ""
    permissions: str | dict[str, str] | None = None
    models: tuple[str, ...] | None = None


def looks_like_token(secret: str) -> bool:
    """Tells whether a credential is meant to be a token: three parts between dots. No key has a dot."""
    return secret.count(".") == 2


class TokenChecker:
    """Checks tokens by the settings `jwt`."""

    def __init__(self, settings: JwtSettings, keys: SigningKeys, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._keys, self._now = settings, keys, clock
        self._checked: OrderedDict[bytes, tuple[int, Claims]] = OrderedDict()

    async def check(self, token: str) -> Claims:
        """Returns what a token says. Raises TokenRefused."""
        if len(token) > LONGEST_TOKEN:
            raise TokenRefused
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        generation, claims = self._checked.get(digest, (-1, None))
        if claims is not None and generation == self._keys.generation:
            # A token that was checked once still ends.
            if claims.expires + self._settings.leeway <= self._now():
                raise TokenRefused
            return claims
        claims = await self._check(token)
        self._checked[digest] = self._keys.generation, claims
        if len(self._checked) > CHECKED_TOKENS:
            self._checked.popitem(last=False)
        return claims

    async def _check(self, token: str) -> Claims:
        import jwt  # with cryptography nine megabytes, which whoever has no tokens does not load

        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
            # Before any key is looked for: the header is the caller's word, and must not choose how it is judged.
            if header.get("alg") not in settings.accepted_algorithms or not BRINGS_A_KEY.isdisjoint(header):
                raise TokenRefused
            key = await self._keys.find(header.get("kid"))
            if key is None:
                raise TokenRefused
            payload = jwt.decode(
                token,
                key,
                algorithms=settings.accepted_algorithms,
                audience=settings.audience or None,
                issuer=settings.issuer or None,
                leeway=settings.leeway,
                options={
                    "require": [
                        "exp",
                        "sub",
                        *(["aud"] if settings.audience else []),
                        *(["iss"] if settings.issuer else []),
                    ],
                    # PyJWT refuses a token with an audience where none is expected.
                    "verify_aud": bool(settings.audience),
                },
            )
            return self._claims(payload)
        except TokenRefused:
            raise
        except Exception as error:  # PyJWT's own errors, and what odd tokens make of the libraries below it
            raise TokenRefused from error

    def _claims(self, payload: Mapping[str, Any]) -> Claims:
        paths = self._settings.claims
        granted = _at(payload, paths.permissions)
        if granted is not None:
            try:
                # What means nothing is refused: without it the caller would have the default, which may be more.
                permissions.check(granted)
            except PermissionsError as error:
                raise TokenRefused from error
        role = _at(payload, paths.role)
        return Claims(
            _name(payload["sub"]),
            float(payload["exp"]),
            _optional_name(_at(payload, paths.team)),
            _optional_name(_at(payload, paths.user)),
            # Providers have roles of their own, so one that is not known here is none.
            role if role in ("viewer", "admin") else "",
            granted,
            _models(_at(payload, paths.models)),
        )


def _at(payload: Mapping[str, Any], path: str) -> Any:
    """Returns the value at a dotted path; None where there is none. A claim's own name may have dots, as in URLs."""
    if not path:
        return None
    value: Any = payload
    while path:
        if not isinstance(value, Mapping):
            return None
        # The longest name first: `https://example.com/roles` is one claim.
        if path in value:
            return value[path]
        step, _, path = path.partition(".")
        value = value.get(step)
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME or not value.isprintable():
        raise TokenRefused
    return value


def _optional_name(value: Any) -> str | None:
    return None if value is None else _name(value)


def _models(value: Any) -> tuple[str, ...] | None:
    """Returns a list of models, also one that is written with spaces or commas as OAuth writes scopes."""
    if value is None:
        return None
    names = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(names, list) or len(names) > 1000:
        raise TokenRefused
    return tuple(_name(name) for name in names)
