"""Who may manage what: decided by role, before anything is read or written.

    master    everything
    admin     keys, teams and end users; no roles, no key that has one (its own is such a key), not its own team
    viewer    reads
    others    read their own key

So no key raises its own rights: it cannot change itself, the team that bounds it, or anybody's role.
"""

from collections.abc import Mapping
from typing import Any

from gateway.errors import CallerError, failure
from gateway.management.request import Actor
from gateway.virtual_keys import VirtualKey

READERS, WRITERS = ("viewer", "admin", "master"), ("admin", "master")


def require_reader(actor: Actor) -> None:
    """Raises CallerError (403)."""
    if actor.role not in READERS:
        raise _refused("Only the master key and keys with the role 'admin' or 'viewer' may read this")


def require_writer(actor: Actor) -> None:
    """Raises CallerError (403)."""
    if actor.role not in WRITERS:
        raise _refused("Only the master key and keys with the role 'admin' may change keys, teams and end users")


def require_role_giver(actor: Actor, fields: Mapping[str, Any]) -> None:
    """Raises CallerError (403) for a role that is given by somebody else than the master key."""
    if "role" in fields and fields["role"] and actor.role != "master":
        raise _refused("Only the master key gives a role", "role")


def require_key_change(actor: Actor, key: VirtualKey, fields: Mapping[str, Any]) -> None:
    """Raises CallerError (403) for a key that this actor may not change, or not so."""
    # Nothing bounds the master key, and no request can take its rights away.
    if actor.role == "master":
        return
    # Not even to lower its own limits: an update that lowers one value could clear another one.
    if key.key_id == actor.key_id:
        raise _refused("A key cannot change itself")
    if key.role:
        raise _refused("Only the master key changes a key that has a role")
    require_role_giver(actor, fields)


def require_team_change(actor: Actor, team_id: str) -> None:
    """Raises CallerError (403) for the team that bounds the actor."""
    if actor.role != "master" and team_id == actor.team_id:
        raise _refused("A key cannot change its own team")


def _refused(sentence: str, param: str | None = None) -> CallerError:
    reported = failure("role_missing", sentence)
    return CallerError(reported.at(param) if param else reported)
