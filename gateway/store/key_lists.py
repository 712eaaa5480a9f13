"""Which keys, teams and end users a list has: filters as conditions for `keys.list_records`; and what they spent."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import sqlalchemy
from msgspec import Struct
from sqlalchemy import ColumnElement, func, or_, select

from gateway.store.ledger_sums import DAY, HOUR, Scope
from gateway.store.tables import END_USERS, KEY_DIGESTS, KEYS, LEDGER_SUMS, TEAMS

Connection: TypeAlias = sqlalchemy.Connection
"""For those who write functions of one connection, and know nothing of SQL."""

Conditions: TypeAlias = list[ColumnElement[bool]]

SORTS = {
    "created_at": KEYS.c.created_at,
    "key_alias": KEYS.c.alias,
    "team_id": KEYS.c.team_id,
    "user_id": KEYS.c.user_id,
    "expires": KEYS.c.expires,
}
"""By name: what a list of keys may be sorted by."""

TEAM_SORTS = {"created_at": TEAMS.c.created_at, "team_alias": TEAMS.c.alias, "team_id": TEAMS.c.id}


class KeyFilter(Struct, frozen=True):
    """Empty fields do not filter. status: active, expired, revoked or deleted; without one, all but deleted keys.

    contains: whether `alias` may be a part. search: a part of the alias, or an id.
    """

    status: str = ""
    user_id: str = ""
    team_id: str = ""
    alias: str = ""
    contains: bool = False
    search: str = ""
    digest: str = ""


def key_conditions(wanted: KeyFilter, now: float) -> Conditions:
    """Returns the conditions of a filter. now: Unix seconds."""
    deleted, expires = KEYS.c.deleted_at, KEYS.c.expires
    conditions: Conditions = [deleted.is_not(None) if wanted.status == "deleted" else deleted.is_(None)]
    if wanted.status == "revoked":
        conditions.append(KEYS.c.blocked)
    if wanted.status in ("active", "expired"):
        # With `is_not(None)`, although NULL is not less than anything: the negation of NULL is NULL, and keys that
        # never expire would not be active.
        ended = expires.is_not(None) & (expires <= now)
        conditions += [KEYS.c.blocked.is_(False), ended if wanted.status == "expired" else ~ended]
    if wanted.user_id:
        conditions.append(KEYS.c.user_id == wanted.user_id)
    if wanted.team_id:
        conditions.append(KEYS.c.team_id == wanted.team_id)
    if wanted.alias:
        # With `autoescape`, `%` and `_` mean themselves.
        part = KEYS.c.alias.icontains(wanted.alias, autoescape=True)
        conditions.append(part if wanted.contains else KEYS.c.alias == wanted.alias)
    if wanted.search:
        part = KEYS.c.alias.icontains(wanted.search, autoescape=True)
        conditions.append(or_(part, KEYS.c.id == wanted.search))
    if wanted.digest:
        of_digest = select(KEY_DIGESTS.c.key_id).where(KEY_DIGESTS.c.digest == wanted.digest)
        conditions.append(KEYS.c.id.in_(of_digest))
    return conditions


def ordered(column: ColumnElement[Any], descending: bool) -> ColumnElement[object]:
    """Returns the order by a column of SORTS or TEAM_SORTS."""
    return column.desc() if descending else column.asc()


def keys_of_team(team_id: str) -> Conditions:
    """Returns the conditions of a team's keys."""
    # The time matters for a status alone.
    return key_conditions(KeyFilter(team_id=team_id), 0.0)


def team_conditions(team_id: str, alias: str) -> Conditions:
    """Returns the conditions of teams; empty texts do not filter."""
    conditions: Conditions = [TEAMS.c.deleted_at.is_(None)]
    if team_id:
        conditions.append(TEAMS.c.id == team_id)
    if alias:
        conditions.append(TEAMS.c.alias == alias)
    return conditions


def end_user_conditions() -> Conditions:
    """Returns the condition of end users that are not deleted."""
    return [END_USERS.c.deleted_at.is_(None)]


_PART = 1000
"""Values of one statement."""


def present(connection: Connection, name: Literal["digest", "alias"], values: Sequence[str]) -> set[str]:
    """Returns those of these digests, or aliases, that a key has already."""
    column = KEY_DIGESTS.c.digest if name == "digest" else KEYS.c.alias
    parts = (values[start : start + _PART] for start in range(0, len(values), _PART))
    return {value for part in parts for value in connection.scalars(select(column).where(column.in_(part)))}


Spender: TypeAlias = Literal["key_id", "team_id", "end_user"]


def spent(connection: Connection, by: Spender, ids: Sequence[str], since: int = 0) -> Mapping[str, Mapping[str, int]]:
    """Returns what was spent since then, or in all that the ledger's sums go back to: nano-dollars by model, by id.

    Nothing for ids without sums. connection: of the ledger's database. since: Unix seconds, to the hour.
    """
    column, scope = LEDGER_SUMS.c[by], Scope.END_USERS if by == "end_user" else Scope.CALLS
    # Sums of days are fewer, and kept for ever.
    seconds = DAY if since % DAY == 0 else HOUR
    of_sums = LEDGER_SUMS.c.seconds == seconds, LEDGER_SUMS.c.start >= since // seconds * seconds
    of_ids = LEDGER_SUMS.c.scope == int(scope), *of_sums, column.in_(ids)
    grouped = column, LEDGER_SUMS.c.model
    amounts: dict[str, dict[str, int]] = {}
    for id, model, cost in connection.execute(
        select(*grouped, func.sum(LEDGER_SUMS.c.cost)).where(*of_ids).group_by(*grouped)
    ):
        amounts.setdefault(id, {})[model] = int(cost)
    return amounts
