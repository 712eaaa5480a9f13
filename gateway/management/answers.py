"""Records as LiteLLM shows them: its names, dates as ISO 8601 in UTC, and fields that are always there.

    key_info        /key/info, lists, block and unblock; never a digest unless `token` is asked for
    generated_key   /key/generate and /key/regenerate: the only answers with a secret
    updated_key     /key/update: the fields that were sent, as they are now
    team_info, end_user_info

`spend` and `model_spend` are filled in by `spending.py`, since the ledger may be a database of its own.
A field that is not set is `null`, or empty where LiteLLM's programs expect a list or an object and empty means that.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.budget_windows import window_at
from gateway.virtual_keys import EndUser, Team, VirtualKey

_LIMITS = (
    *("rpm_limit", "tpm_limit", "max_parallel_requests", "model_rpm_limit", "model_tpm_limit"),
    *("max_budget", "soft_budget", "budget_duration", "budget_limits", "model_max_budget", "budget_fallbacks"),
)
_OBJECTS = ("model_max_budget", "budget_fallbacks")


def iso(seconds: float | None) -> str | None:
    """Returns Unix seconds as a date; None for none."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def key_info(key: VirtualKey, now: float, token: bool = False) -> dict[str, Any]:
    """Returns a key without its secret. token: its digest as well, by which LiteLLM's programs name it."""
    return {
        **({"token": key.digest} if token else {}),
        "key_id": key.key_id,
        "key_name": key.key_name,
        "key_alias": key.key_alias,
        "status": status(key, now),
        "expires": iso(key.expires),
        "role": key.role,
        "user_id": key.user_id,
        "team_id": key.team_id,
        "shared": key.shared,
        # Zeros until `spending.fill_in`, which finds the records of an answer by this name.
        "spend": 0.0,
        "total_spend": 0.0,
        "model_spend": {},
        **_rights(key),
        **_limits(key, now),
        "rotation_count": key.rotation_count,
        "last_rotation_at": iso(key.last_rotation_at),
        "previous_until": iso(max((one.valid_until for one in key.previous), default=None)),
        **_written(key),
        "settings_updated_at": iso(key.updated_at),
        **_WITHOUT_MEANING,
    }


_WITHOUT_MEANING: Mapping[str, Any] = {
    **dict.fromkeys(("budget_id", "org_id", "project_id", "agent_id", "key_type", "tpd_limit", "router_settings")),
    **dict.fromkeys(("rotation_interval", "key_rotation_at", "object_permission", "last_active")),
    "auto_rotate": False,
    "soft_budget_cooldown": False,
    "config": {},
    "allowed_routes": [],
    "allowed_cache_controls": [],
}
"""Fields of LiteLLM's keys that say nothing here, and that its programs expect."""


def status(key: VirtualKey, now: float) -> str:
    """Returns LiteLLM's word for what has become of a key."""
    if key.deleted_at is not None:
        return "deleted"
    if key.blocked:
        return "revoked"
    return "expired" if key.expires is not None and key.expires <= now else "active"


def generated_key(key: VirtualKey, secret: str, now: float) -> dict[str, Any]:
    """Returns a key that was just made, or given another secret, with this secret."""
    return {
        "key": secret,
        **key_info(key, now, True),
        "token_id": key.digest,
        "organization_id": None,
        "litellm_budget_table": None,
    }


def updated_key(reference: str, key: VirtualKey, names: Iterable[str], now: float) -> dict[str, Any]:
    """Returns the fields of these names. reference: the key, as the request names it."""
    info = key_info(key, now)
    changed = {name: info[name] for name in names if name in info}
    return {"key": reference, "key_id": key.key_id, **changed, "updated_at": info["updated_at"]}


def team_info(team: Team, now: float) -> dict[str, Any]:
    """Returns a team."""
    rights = _rights(team)
    return {
        "team_id": team.team_id,
        "team_alias": team.team_alias,
        "spend": 0.0,
        "total_spend": 0.0,
        "model_spend": {},
        **rights,
        # LiteLLM's name for the aliases of a team.
        "model_aliases": rights["aliases"],
        **_limits(team, now),
        **_written(team),
        "organization_id": None,
        "members_with_roles": [],
        "members": [],
        "admins": [],
        "model_id": None,
    }


def end_user_info(user: EndUser, now: float) -> dict[str, Any]:
    """Returns an end user."""
    limits = _limits(user, now)
    return {
        "user_id": user.user_id,
        "alias": user.alias,
        "spend": 0.0,
        "total_spend": 0.0,
        **limits,
        **_written(user),
        "allowed_model_region": None,
        "default_model": None,
        "litellm_budget_table": {"budget_id": None, **{name: limits[name] for name in _BUDGET_TABLE}},
    }


_BUDGET_TABLE = (
    *("max_budget", "soft_budget", "budget_duration", "budget_reset_at"),
    *("max_parallel_requests", "tpm_limit", "rpm_limit", "model_max_budget"),
)
"""Fields that LiteLLM's programs look for in a table of their own."""


def _rights(record: VirtualKey | Team) -> dict[str, Any]:
    return {
        "models": list(record.models or ()),
        "aliases": record.aliases or {},
        "permissions": record.permissions,
        "safety_mode": record.safety_mode,
        "allowed_ips": record.allowed_ips,
        "ledger_bodies": record.ledger_bodies,
        "tags": list(record.tags or ()),
    }


def _limits(record: VirtualKey | Team | EndUser, now: float) -> dict[str, Any]:
    limits: dict[str, Any] = {name: getattr(record, name) for name in _LIMITS}
    # Empty where they are not set: LiteLLM's programs expect objects here.
    objects = {name: limits[name] or {} for name in _OBJECTS}
    windows = record.budget_limits
    dated_windows = windows and [
        {**msgspec.to_builtins(one), "reset_at": _reset_at(one.budget_duration, now)} for one in windows
    ]
    return {
        **limits,
        **objects,
        "budget_limits": dated_windows,
        "budget_reset_at": _reset_at(record.budget_duration, now),
    }


def _reset_at(duration: str | None, now: float) -> str | None:
    """Returns when a budget of this duration begins anew; None for one that never does."""
    return iso(float(window_at(duration, now).end)) if duration else None


def _written(record: VirtualKey | Team | EndUser) -> dict[str, Any]:
    return {
        "blocked": record.blocked,
        "metadata": record.metadata or {},
        "created_at": iso(record.created_at),
        "created_by": record.created_by,
        "updated_at": iso(record.updated_at),
        "updated_by": record.updated_by,
    }


def encode(answer: Mapping[str, Any]) -> bytes:
    """Returns an answer as JSON."""
    return msgspec.json.encode(answer)
