"""Authentication: who is calling, decided before any route from the request's headers.

The modes are in `modes.py`.
"""

import hmac
import time
from collections.abc import Callable, Collection
from functools import lru_cache
from urllib.parse import unquote

from msgspec import Struct
from msgspec.structs import replace

from gateway.auth import credentials
from gateway.auth.addresses import is_within
from gateway.auth.credential_headers import TWO_CREDENTIALS, Credentials, credentials_in
from gateway.auth.directory import KeyDirectory
from gateway.auth.json_web_tokens import Claims, TokenChecker, TokenRefused, looks_like_token
from gateway.auth.modes import Mode, mode_of
from gateway.auth.permissions import NO_CALLS, UNLIMITED, access_of
from gateway.auth.principal import KeyRefused, Principal, RefusedKey, owner_of, owner_of_virtual_key
from gateway.auth.sessions import Sessions
from gateway.auth.signing_keys import SigningKeys
from gateway.errors import CallerError, failure
from gateway.settings.schema import Settings
from gateway.virtual_keys import Rights, Team, VirtualKey, digest_of

DEMO_KEY = "demo"
"""The Cohere key in demo mode: the emulator accepts any."""

CACHED_PRINCIPALS = 16_384
"""Callers with keys of the gateway's, or tokens, who are recognised without making their principal again."""

CACHED_OWN_KEYS = 1024
"""Callers with Cohere keys of their own: what is cached has the key, and they can make up as many as they like."""


WRONG_KEY = failure("wrong_key", "The API key is not valid for this gateway")
"""Said of unknown, malformed, deleted and expired keys alike: the difference is nobody's business."""


def server_keys(settings: Settings) -> list[str]:
    """Returns the server's own Cohere keys. Raises SettingError as `mode_of`."""
    mode_of(settings)
    return [DEMO_KEY] if settings.demo else settings.cohere_api_key


KEY_BLOCKED = failure("key_blocked", "This API key is blocked: whoever runs the gateway can unblock it")
TEAM_BLOCKED = failure("team_blocked", "The team of this API key is blocked, or was deleted")
FOREIGN_ADDRESS = failure("foreign_address", "This API key may not be used from this address")
MISSING_KEY = failure("missing_key", "The API key is missing: send it as 'Authorization: Bearer KEY'")

SECRET_IN_URL = failure(
    "secret_in_url", "The master key must not be in a URL, where proxies and logs keep it: send a header, and change it"
)

FOREIGN_KEY = "a key for another gateway ignored (no virtual keys are issued here)"
DROPPED = "authorization ignored (another header has a key of this gateway)"


class Authentication(Struct, frozen=True):
    """Who is calling. note: for the caller, on what was not taken as it was sent; empty for none."""

    principal: Principal
    note: str = ""


class Authenticator:
    """Authenticates requests in the mode of the settings.

    keys: the server's Cohere keys, empty if callers bring their own. demo: the embedded emulator answers.
    """

    def __init__(
        self, settings: Settings, directory: KeyDirectory, message: Callable[[str], None] = lambda text: None
    ) -> None:
        """message: writes to the log. Raises SettingError as `mode_of`."""
        self.mode, self.demo = mode_of(settings), settings.demo
        self._settings, self._directory = settings, directory
        self.keys = server_keys(settings)
        self._server = credentials.store(self.keys)
        self._demo = Principal("demo", "demo", False, self._server)
        self._open = Principal("anonymous", "open", False, self._server)
        access = UNLIMITED if settings.master_may_call else NO_CALLS
        self._master = Principal("master", "master", False, self._server, role="master", access=access)
        self._policy, self._default = settings.policy, "none" if settings.deny_by_default else "inference"
        self._principals: dict[str, Principal] = {}
        # With tokens alone there is no master key. Other Cohere keys then end all sessions.
        root = settings.master_key or "\n".join(settings.cohere_api_key)
        enabled = self.mode is Mode.VIRTUAL_KEYS and settings.console.enabled
        self.sessions = Sessions(root if enabled else "", settings.console.idle_seconds)
        self._tokens: TokenChecker | None = None
        if settings.jwt.enabled:
            self._signing_keys = SigningKeys(settings.jwt, message)
            self._tokens = TokenChecker(settings.jwt, self._signing_keys)

    async def start(self) -> None:
        """Loads the keys by which tokens are checked, if the settings have any."""
        if self._tokens is not None:
            await self._signing_keys.start()

    async def authenticate(
        self, headers: Collection[tuple[bytes, bytes]], address: str = "", method: str = ""
    ) -> Authentication:
        """Returns who sent these headers. address: the caller's.

        method: of the request, by which a session of the console is judged; without one no session counts. A session
        stands for the key that was signed in with, where the request has no key.

        Raises CallerError: 400 for two different keys, 401 for none or a wrong one, 403 for one that is blocked.
        """
        # Before any header is read: in the demo no key can be wrong.
        if self.mode is Mode.DEMO:
            return Authentication(self._demo)
        presented = credentials_in(headers)
        if self.mode is not Mode.VIRTUAL_KEYS:
            return self._without_virtual_keys(presented)
        # One that stands in both kinds of headers is one key.
        if presented.of_gateways and presented.usual - presented.of_gateways:
            return await self._of_gateway(presented, address)
        secret = presented.only()
        # Only without a key: a program that sends one means it, whatever cookies its browser adds.
        if not secret and method and (session := self.sessions.session_in(headers, method)) is not None:
            secret = session.secret
        if not secret:
            raise CallerError(MISSING_KEY)
        return Authentication(await self._principal_of(secret, address))

    def _without_virtual_keys(self, presented: Credentials) -> Authentication:
        """Returns who is calling where no keys are issued. What is left of another gateway's key counts for nothing."""
        foreign = bool(presented.usual and presented.of_gateways - presented.usual)
        secret = (replace(presented, of_gateways=frozenset()) if foreign else presented).only()
        note = FOREIGN_KEY if foreign else ""
        if self.mode is Mode.OPEN:
            return Authentication(self._open, note)
        if not secret:
            raise CallerError(MISSING_KEY)
        return Authentication(_own_key_principal(secret), note)

    async def _of_gateway(self, presented: Credentials, address: str) -> Authentication:
        """Returns who sent a key in another gateway's header and a different one beside it, which is then dropped.

        Cloudflare's users send both: their key for the gateway, and the provider's. Raises CallerError.
        """
        # Whether it is one of ours decides. Otherwise the caller has two keys, of which we cannot know which one is
        # meant.
        if len(presented.of_gateways) == 1:
            (secret,) = presented.of_gateways
            if self._is_master(secret) or await self._key_of(secret) is not None:
                return Authentication(await self._principal_of(secret, address), DROPPED)
        raise CallerError(TWO_CREDENTIALS)

    async def _principal_of(self, secret: str, address: str) -> Principal:
        # First, and by a comparison in constant time: the master key has no digest that anybody could look up.
        if self._is_master(secret):
            return self._master
        if self._tokens is not None and looks_like_token(secret):
            try:
                claims = await self._tokens.check(secret)
            except TokenRefused as error:
                raise CallerError(WRONG_KEY) from error
            return self._principal_by_claims(claims, address)
        key = await self._key_of(secret)
        if key is None:
            raise self._wrong_key(secret)
        return self._principal_by_key(key, address)

    def _wrong_key(self, secret: str) -> CallerError:
        """Returns the refusal of a secret, with the key that it was of if there is one: for the ledger alone."""
        key = self._directory.refused(digest_of(secret))
        if key is None:
            return CallerError(WRONG_KEY)
        why = "the key has expired" if self._directory.has_expired(key) else "the key has another secret now"
        return KeyRefused(WRONG_KEY, RefusedKey(key, self._team_of(key), why))

    def _team_of(self, key: VirtualKey) -> Team | None:
        return self._directory.teams.get(key.team_id) if key.team_id is not None else None

    def is_secret_in_url(self, path: str, query: bytes) -> bool:
        """Tells whether a URL has the master key in it. path: decoded."""
        master = self._settings.master_key
        # Of the query once decoded, because a URL may be written with any character encoded.
        return bool(master) and (master in path or bool(query) and master in unquote(query.decode("latin-1")))

    def _is_master(self, secret: str) -> bool:
        return constant_time_equals(secret, self._settings.master_key)

    async def _key_of(self, secret: str) -> VirtualKey | None:
        digest = digest_of(secret)
        # The database is asked for unknown digests alone: the key may have been made a moment ago.
        return self._directory.find(digest) or await self._directory.look_up(digest)

    def renew(self, principal: Principal, address: str = "") -> Principal:
        """Returns the principal again as it is now, for a connection that outlives requests.

        Raises CallerError (401, 403) if the key was revoked meanwhile, or the token has expired.
        """
        if principal.claims is not None:
            # A token cannot be withdrawn, but it ends.
            if principal.claims.expires + self._settings.jwt.leeway <= time.time():
                raise CallerError(WRONG_KEY)
            return self._principal_by_claims(principal.claims, address)
        # The master key and the modes without keys have no record that could have changed.
        if principal.key is None:
            return principal
        key = self._directory.current(principal.key.key_id)
        if key is None:
            raise CallerError(WRONG_KEY)
        return self._principal_by_key(key, address)

    def _principal_by_key(self, key: VirtualKey, address: str) -> Principal:
        """Returns the principal of a key that may be used. Raises CallerError (403)."""
        team = self._team_of(key)
        # A 403 and not a 401: the key is known, and its holder may be told whom to ask.
        if key.blocked:
            raise KeyRefused(KEY_BLOCKED, RefusedKey(key, team))
        if key.team_id is not None and (team is None or team.blocked):
            raise KeyRefused(TEAM_BLOCKED, RefusedKey(key, team))
        if not _is_address_allowed(address, key, team):
            raise KeyRefused(FOREIGN_ADDRESS, RefusedKey(key, team))
        principal = self._principals.get(key.key_id)
        # Records never change: the same objects mean the same rights.
        if principal is None or principal.key is not key or principal.team is not team:
            name, owner = key.key_alias or key.key_id, owner_of_virtual_key(key)
            # A viewer calls nothing unless that is said.
            default = "none" if key.role == "viewer" else self._default
            access = access_of(key, team, default, self._policy)
            principal = Principal(
                name, owner, False, self._server, key, team, key.role, access, user_id=key.user_id or ""
            )
            self._keep(key.key_id, principal)
        return principal

    def _principal_by_claims(self, claims: Claims, address: str) -> Principal:
        """Returns the principal of a token. Raises CallerError: 401 for an unknown team, 403 for a blocked one."""
        team = self._directory.teams.get(claims.team) if claims.team is not None else None
        # A 401 as for a wrong key: the token was made for a team that is not here.
        if claims.team is not None and team is None:
            raise CallerError(WRONG_KEY)
        if team is not None and team.blocked:
            raise CallerError(TEAM_BLOCKED)
        if not _is_address_allowed(address, team):
            raise CallerError(FOREIGN_ADDRESS)
        # As an owner no key's, since those begin otherwise (`principal.py`).
        name = f"jwt:{claims.subject}"
        principal = self._principals.get(name)
        # The checker keeps the claims of a token, so the same token gives the same object.
        if principal is None or principal.claims is not claims or principal.team is not team:
            rights = Rights(permissions=claims.permissions, models=claims.models)
            default = "none" if claims.role == "viewer" else self._default
            access = replace(access_of(rights, team, default, self._policy), subject="this token")
            principal = Principal(
                name, name, False, self._server, None, team, claims.role, access, claims.user or "", claims
            )
            self._keep(name, principal)
        return principal

    def _keep(self, name: str, principal: Principal) -> None:
        if len(self._principals) >= CACHED_PRINCIPALS:
            self._principals.clear()
        self._principals[name] = principal


def _is_address_allowed(address: str, *records: Rights | None) -> bool:
    """Returns whether each record that names addresses has this one."""
    return all(record is None or not record.allowed_ips or is_within(address, record.allowed_ips) for record in records)


@lru_cache(maxsize=CACHED_OWN_KEYS)
def _own_key_principal(key: str) -> Principal:
    return Principal("own key", owner_of(key), True, credentials.store((key,)))


def constant_time_equals(presented: str, expected: str) -> bool:
    """Compares secrets in a time that does not depend on where they differ. An empty `expected` equals nothing."""
    # As bytes, since `compare_digest` takes no text beyond ASCII.
    return bool(expected) and hmac.compare_digest(presented.encode("utf-8", "replace"), expected.encode())
