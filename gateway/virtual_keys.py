"""THE RECORDS of keys, teams and end users: immutable versions, without any secret.

    VirtualKey   a key that was issued here: whose it is, what it may do, its limits
    Team         what the keys of a team share; a key may do no more than its team
    EndUser      somebody on whose behalf a key calls, as named in a request

The fields have LiteLLM's names, for its users bring them along. A change never alters a record: it makes another one
with a higher `revision`, which takes the place of the old one everywhere. `None` in an optional field means "not set":
a key then has what its team has. How they are stored is in `gateway/store/keys.py`, how they are looked up on the
request path in `gateway/auth/directory.py`.

Of a secret there are its SHA-256 digest, by which it is looked up (`digest_of`), and its last four characters.
"""

import hashlib
import secrets
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

# By it a secret is told from the other names of a key, and cut out of paths that are logged.
PREFIX = "sk-"
"""Of every secret of a key."""

Role: TypeAlias = Literal["", "viewer", "admin"]
Permissions: TypeAlias = str | dict[str, str]
"""The name of a preset, or a level by the name of a group or a method."""


class BudgetWindow(Struct, frozen=True, omit_defaults=True):
    """One of several budgets at once. budget_duration: such as `1d`. max_budget: USD."""

    budget_duration: str
    max_budget: float


class ModelBudget(Struct, frozen=True, omit_defaults=True):
    """A budget for one model. budget_limit: USD. time_period: such as `1d`."""

    budget_limit: float
    time_period: str


# Not followed by the garbage collector: there may be a hundred thousand of them, and none can be in a circle.
class Record(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What all records have. Times are Unix seconds.

    revision    of the whole directory when this version was written; higher is newer
    deleted_at  the record is kept so that reports still know its name; nobody is let in by it
    created_by  the principal's name, as in the audit; so is updated_by
    """

    created_at: float = 0.0
    updated_at: float = 0.0
    created_by: str = ""
    updated_by: str = ""
    deleted_at: float | None = None
    revision: int = 0
    blocked: bool = False
    metadata: dict[str, Any] | None = None


class Limits(Record, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What may be limited. Rates are per minute, budgets in USD; durations are texts such as `30s`, `1h`, `1mo`."""

    rpm_limit: int | None = None
    tpm_limit: int | None = None
    max_parallel_requests: int | None = None
    model_rpm_limit: dict[str, int] | None = None
    model_tpm_limit: dict[str, int] | None = None
    max_budget: float | None = None
    soft_budget: float | None = None
    budget_duration: str | None = None
    budget_limits: tuple[BudgetWindow, ...] | None = None
    model_max_budget: dict[str, ModelBudget] | None = None
    budget_fallbacks: dict[str, tuple[str, ...]] | None = None


class Rights(Limits, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What may be permitted, to a key or to all keys of a team.

    models       names or globs; an empty list allows all
    aliases      names of models that mean others, for this key or team alone
    permissions  an empty map grants the default and nothing else
    safety_mode  the weakest that a request may ask for
    allowed_ips  addresses and networks (CIDR) that may call
    ledger_bodies  whether the ledger has the bodies of calls: of none, of those that fail, of all
    """

    models: tuple[str, ...] | None = None
    aliases: dict[str, str] | None = None
    permissions: Permissions | None = None
    # Cohere's weaker modes would bind nothing.
    safety_mode: Literal["CONTEXTUAL", "STRICT"] | None = None
    allowed_ips: tuple[str, ...] | None = None
    ledger_bodies: Literal["off", "errors", "all"] | None = None
    tags: tuple[str, ...] | None = None


class PreviousDigest(Struct, frozen=True, gc=False):
    """The digest of a secret that was rotated out and is accepted until then, in Unix seconds."""

    digest: str
    valid_until: float


class VirtualKey(Rights, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A key. key_id: stays the same when the secret is rotated; spend, limits and stored responses belong to it.

    digest           of the current secret, as 64 hex digits; empty once the key is deleted
    last_four        characters of the secret, for `sk-...abcd`
    previous         digests of earlier secrets that are still accepted (`grace_period`)
    replaced         digest of the secret that was rotated out last: whose calls are refused that still come with it
    expires          Unix seconds; None is never
    user_id          a label: whose key it is
    shared           "team": stored responses and conversations belong to the team, not to this key alone
    """

    key_id: str
    digest: str
    last_four: str = ""
    key_alias: str | None = None
    role: Role = ""
    team_id: str | None = None
    user_id: str | None = None
    expires: float | None = None
    shared: Literal["", "team"] = ""
    previous: tuple[PreviousDigest, ...] = ()
    replaced: str = ""
    rotation_count: int = 0
    last_rotation_at: float | None = None

    @property
    def key_name(self) -> str:
        """What may be shown of the secret."""
        return f"{PREFIX}...{self.last_four}"


class _KeyIndex(Struct, frozen=True, gc=False):
    """What must be read of a key before it is used. Decoding it skips the rest."""

    key_id: str
    digest: str
    previous: tuple[PreviousDigest, ...] = ()
    replaced: str = ""
    deleted_at: float | None = None


_decode_key = msgspec.json.Decoder(VirtualKey).decode
_decode_index = msgspec.json.Decoder(_KeyIndex).decode


class PackedKey(Struct, frozen=True, gc=False):
    """A key as it is stored, and what it is found by: a third of the memory. body: JSON. is_deleted: nobody is let in.

    digests: of all secrets that may be presented for it, as hex digits. replaced: of one that is not accepted.
    """

    key_id: str
    digests: tuple[str, ...]
    replaced: str
    is_deleted: bool
    body: bytes

    @staticmethod
    def of(body: bytes) -> "PackedKey":
        """Returns a key by its JSON."""
        index = _decode_index(body)
        # The present one, and those whose grace period may not be over yet.
        digests = (index.digest, *(one.digest for one in index.previous))
        return PackedKey(index.key_id, digests, index.replaced, index.deleted_at is not None, body)

    def unpacked(self) -> VirtualKey:
        """Returns the key itself."""
        return unpacked(self.body)


def unpacked(body: bytes) -> VirtualKey:
    """Returns a key of its JSON."""
    return _decode_key(body)


class Team(Rights, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A team. Its keys are refused while it is blocked, and once it is deleted."""

    team_id: str
    team_alias: str | None = None


class EndUser(Limits, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An end user with limits of their own. user_id: as the requests name them."""

    user_id: str
    alias: str | None = None


def new_secret() -> str:
    """Returns the secret of a new key."""
    # 32 bytes: nobody guesses one, so a digest without salt is safe to look it up by.
    return PREFIX + secrets.token_urlsafe(32)


def new_key_id() -> str:
    """Returns an id that no other key has."""
    # No alias may begin so (`management/values.py`), or it could be taken for an id.
    return f"key_{secrets.token_hex(8)}"


def new_team_id() -> str:
    """Returns an id that no other team has."""
    return f"team_{secrets.token_hex(8)}"


def digest_of(secret: str) -> str:
    """Returns the SHA-256 digest of a secret as hex digits, as LiteLLM stores it."""
    # Any text has a digest, also one with half a surrogate pair in it, which JSON may bring.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


AnyRecord: TypeAlias = VirtualKey | Team | EndUser


class Records(Struct, frozen=True):
    """Records that were read together. revision: of the directory at that time; theirs may be higher.

    ended_sessions: ids of sessions that were signed out, each with the time, in Unix seconds, at which it is forgotten.
    """

    revision: int = 0
    keys: tuple[PackedKey, ...] = ()
    teams: tuple[Team, ...] = ()
    end_users: tuple[EndUser, ...] = ()
    ended_sessions: tuple[tuple[str, float], ...] = ()
