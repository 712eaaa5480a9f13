"""Authentication: who is calling, decided before any route from the request's headers.

The modes are in `modes.py`.
"""

import hmac
from collections.abc import Iterable
from functools import lru_cache

from gateway.auth import credentials
from gateway.auth.directory import KeyDirectory
from gateway.auth.modes import Mode, mode_of
from gateway.auth.permissions import NO_CALLS, UNLIMITED, access_of
from gateway.auth.principal import Principal, owner_of, owner_of_virtual_key
from gateway.auth.virtual_keys import VirtualKey, digest_of
from gateway.errors import CallerError, failure
from gateway.settings.schema import Settings

DEMO_KEY = "demo"
"""The Cohere key in demo mode: the emulator accepts any."""

_CREDENTIAL_HEADERS = (b"authorization", b"x-api-key", b"api-key")
_SCHEMES = ("bearer", "token")

CACHED_PRINCIPALS = 1024
"""Callers who are recognised without making their principal again."""


WRONG_KEY = failure("wrong_key", "The API key is not valid for this gateway")
"""Said of unknown, malformed, deleted and expired keys alike: the difference is nobody's business."""


def server_keys(settings: Settings) -> list[str]:
    """Returns the server's own Cohere keys. Raises SettingError as `mode_of`."""
    mode_of(settings)
    return [DEMO_KEY] if settings.demo else settings.cohere_api_key


class Authenticator:
    """Authenticates requests in the mode of the settings.

    keys: the server's Cohere keys, empty if callers bring their own. demo: the embedded emulator answers.
    """

    def __init__(self, settings: Settings, directory: KeyDirectory) -> None:
        """Raises SettingError as `mode_of`."""
        self.mode = mode_of(settings)
        self._settings, self._directory = settings, directory
        self.demo = settings.demo
        self.keys = server_keys(settings)
        self._server = credentials.store(self.keys)
        self._demo = Principal("demo", "demo", False, self._server)
        self._open = Principal("anonymous", "open", False, self._server)
        access = UNLIMITED if settings.master_may_call else NO_CALLS
        self._master = Principal("master", "master", False, self._server, role="master", access=access)
        self._policy, self._default = settings.policy, "none" if settings.deny_by_default else "inference"
        self._principals: dict[str, Principal] = {}  # by key_id

    async def authenticate(self, headers: Iterable[tuple[bytes, bytes]], address: str = "") -> Principal:
        """Returns the principal behind these headers. address: the caller's.

        Raises CallerError: 400 for two different keys, 401 for none or a wrong one, 403 for one that is blocked.
        """
        if self.mode is Mode.DEMO:
            return self._demo
        secret = credential_in(headers)
        if self.mode is Mode.OPEN:
            return self._open
        if not secret:
            raise CallerError(failure("missing_key", "The API key is missing: send it as 'Authorization: Bearer KEY'"))
        if self.mode is Mode.OWN_KEY:
            return _own_key_principal(secret)
        if constant_time_equals(secret, self._settings.master_key):
            return self._master
        digest = digest_of(secret)
        key = self._directory.find(digest) or await self._directory.look_up(digest)
        if key is None:
            raise CallerError(WRONG_KEY)
        return self._principal(key)

    def renew(self, principal: Principal) -> Principal:
        """Returns the principal again as it is now, for a connection that outlives requests.

        Raises CallerError (401, 403) if the key was revoked meanwhile.
        """
        if principal.key is None:
            return principal
        key = self._directory.current(principal.key.key_id)
        if key is None:
            raise CallerError(WRONG_KEY)
        return self._principal(key)

    def _principal(self, key: VirtualKey) -> Principal:
        """Returns the principal of a key that may be used. Raises CallerError (403)."""
        team = self._directory.teams.get(key.team_id) if key.team_id is not None else None
        if key.blocked:
            raise CallerError(KEY_BLOCKED)
        if key.team_id is not None and (team is None or team.blocked):
            raise CallerError(TEAM_BLOCKED)
        principal = self._principals.get(key.key_id)
        # Records never change: the same objects mean the same rights.
        if principal is None or principal.key is not key or principal.team is not team:
            name = key.key_alias or key.key_id
            # A viewer calls nothing unless that is said.
            default = "none" if key.role == "viewer" else self._default
            access = access_of(key, team, default, self._policy)
            owner = owner_of_virtual_key(key)
            principal = Principal(name, owner, False, self._server, key, team, key.role, access)
            if len(self._principals) >= CACHED_PRINCIPALS:
                self._principals.clear()
            self._principals[key.key_id] = principal
        return principal


KEY_BLOCKED = failure("key_blocked", "This API key is blocked: whoever runs the gateway can unblock it")
TEAM_BLOCKED = failure("team_blocked", "The team of this API key is blocked, or was deleted")


@lru_cache(maxsize=CACHED_PRINCIPALS)
def _own_key_principal(key: str) -> Principal:
    return Principal("own key", owner_of(key), True, credentials.store((key,)))


def credential_in(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Returns the one API key in a request's headers, or an empty string.

    Raises CallerError (400) on two different ones.
    """
    keys: set[str] = set()
    for name, value in headers:
        if name in _CREDENTIAL_HEADERS:
            text = value.decode("latin-1").strip()
            if name == b"authorization":
                scheme, _, rest = text.partition(" ")
                if scheme.lower() in _SCHEMES:
                    text = rest.strip()
                elif rest:
                    text = ""  # of another scheme, say Basic: it is meant for a proxy on the way, not for us
            if text:
                keys.add(text)
    if len(keys) > 1:
        raise CallerError(failure("two_credentials", "The request has two different API keys"))
    return keys.pop() if keys else ""


def remove_credentials(headers: list[tuple[bytes, bytes]], by_name: dict[bytes, bytes]) -> None:
    """Removes the headers that carry keys, in place: nobody needs them once the caller is authenticated."""
    headers[:] = [header for header in headers if header[0] not in _CREDENTIAL_HEADERS]
    for name in _CREDENTIAL_HEADERS:
        by_name.pop(name, None)


def constant_time_equals(presented: str, expected: str) -> bool:
    """Compares secrets in a time that does not depend on where they differ. An empty `expected` equals nothing."""
    return bool(expected) and hmac.compare_digest(presented.encode("utf-8", "replace"), expected.encode())
