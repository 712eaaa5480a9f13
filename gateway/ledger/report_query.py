"""The questions that reports answer: filters, times and cursors out of a URL's query, or a command's options.

Everything that cannot be meant is an InvalidField (400) that names the parameter and says what would do.
"""

import base64
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime

from msgspec import Struct
from msgspec.structs import replace

from gateway.ledger.entry import clean
from gateway.store.ledger import MICROSECONDS, label_of
from gateway.store.ledger_pages import Filter, Position
from gateway.store.ledger_sums import DAY, HOUR
from gateway.virtual_keys import PREFIX, Team, VirtualKey, digest_of
from translators.core.errors import InvalidField

DEFAULT_LIMIT, MAX_LIMIT = 100, 500
DEFAULT_DAYS = 30

NANO = 1_000_000_000

MAX_BIGINT = 2**63 - 1
"""The largest number that a database compares with."""

ANY, NONE = "any", "none"
"""As `fault`, any: whatever failed. As `notes`: rows that have some, or none."""

_DURATION = re.compile(r"(\d{1,6})([smhd])\Z")
_SECONDS = {"s": 1, "m": 60, "h": HOUR, "d": DAY}
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}\Z")


def _no_key(name: str) -> str | None:
    return None


class Names(Struct, frozen=True):
    """The keys and teams that there are, by their ids: reports are asked by alias and answer with it.

    find_key_id: returns the id of the key with an id, digest or alias, None where there is none.
    """

    keys: Mapping[str, VirtualKey] = {}
    teams: Mapping[str, Team] = {}
    find_key_id: Callable[[str], str | None] = _no_key

    def key_id(self, text: str) -> str:
        """Returns the id of the key with this id, alias, digest or secret; some other text where there is none."""
        # LiteLLM's programs name a key by its secret, which goes no further than here.
        name = digest_of(text) if text.startswith(PREFIX) else text
        return self.find_key_id(name) or name

    def team_id(self, text: str) -> str:
        """Returns the id of the team with this id or alias; the text itself for what no team is called."""
        if text in self.teams:
            return text
        return next((team.team_id for team in self.teams.values() if team.team_alias == text), text)

    def key_alias(self, key_id: str) -> str | None:
        """Returns a key's alias, None if it has none."""
        key = self.keys.get(key_id)
        return key.key_alias if key is not None else None

    def digest(self, key_id: str) -> str:
        """Returns what LiteLLM calls a key: its current digest, or its id where it has none any more."""
        key = self.keys.get(key_id)
        return (key.digest if key is not None else "") or key_id

    def team_alias(self, team_id: str) -> str | None:
        """Returns a team's alias, None if it has none."""
        team = self.teams.get(team_id)
        return team.team_alias if team is not None else None


AUDIT_PARAMETERS = (
    *("kind", "key", "team", "user", "end_user", "tag", "metadata", "method", "model", "status", "fault"),
    *("request_id", "id", "min_cost", "slower_than", "notes", "text", "since", "until", "cursor", "limit", "format"),
)
NEWER_PARAMETERS = tuple(name for name in AUDIT_PARAMETERS if name not in ("limit", "format"))
EXPORT_PARAMETERS = tuple(name for name in AUDIT_PARAMETERS if name != "limit")
USAGE_PARAMETERS = (
    *("by", "key", "team", "user", "end_user", "model", "method", "fault"),
    *("since", "until", "latency", "format"),
)


def require_known(query: Mapping[str, str], parameters: Collection[str]) -> None:
    """Raises InvalidField for a parameter that a report does not have: it would be a filter that does nothing."""
    for name in query:
        if name not in parameters:
            raise InvalidField(
                name, f"Unknown parameter '{name}': there are {', '.join(parameters)}", "unknown_parameter"
            )


def filter_of(query: Mapping[str, str], names: Names, now: float) -> Filter:
    """Returns the filter of a page of rows. now: Unix seconds. Raises InvalidField."""
    key, team = query.get("key"), query.get("team")
    cost, slower, fault = query.get("min_cost"), query.get("slower_than"), query.get("fault")
    since, until = _microseconds(query, "since", now), _microseconds(query, "until", now)
    if since is not None and until is not None and until <= since:
        raise InvalidField("until", "'until' must be later than 'since'")
    return Filter(
        id=query.get("id"),
        request_id=query.get("request_id"),
        key_id=names.key_id(key) if key else None,
        team_id=names.team_id(team) if team else None,
        user_id=query.get("user"),
        end_user=name_of(query["end_user"]) if "end_user" in query else None,
        method=query.get("method"),
        model=name_of(query["model"]) if "model" in query else None,
        status=_status(query),
        fault=None if fault == ANY else fault,
        failed=fault == ANY,
        # Twelve digits of dollars are more nano-dollars than a database compares with.
        min_cost=min(round(_number(cost, "min_cost", "US dollars") * NANO), MAX_BIGINT) if cost else None,
        slower_than=_number(slower, "slower_than", "milliseconds") if slower else None,
        text=query.get("text", "")[:200],
        since=since,
        until=until,
        labels=_labels(query),
        notes=_has_notes(query),
    )


def _has_notes(query: Mapping[str, str]) -> bool | None:
    """Returns whether rows are to have notes, None for any. Raises InvalidField."""
    text = query.get("notes")
    if text not in (None, "", ANY, NONE):
        raise InvalidField("notes", "'notes' must be 'any' or 'none'")
    return text == ANY if text else None


def _status(query: Mapping[str, str]) -> int:
    """Returns a status, or for a class such as `4xx` its first digit. Raises InvalidField."""
    text = query.get("status", "")
    if re.fullmatch(r"[1-5]xx", text):
        return int(text[0])
    return _whole(query, "status", 100, 999, 0) if text != "0" else 0


def _labels(query: Mapping[str, str]) -> list[str]:
    """Returns the labels of `tag`, and of `metadata`, which is `name=value`. Raises InvalidField."""
    labels = [label_of("", _label(query["tag"]))] if query.get("tag") else []
    if query.get("metadata"):
        name, separator, value = query["metadata"].partition("=")
        if not name or not separator:
            raise InvalidField("metadata", "'metadata' must be a name and a value, such as project=apollo")
        labels.append(label_of(_label(name), _label(value)))
    return labels


def name_of(text: str) -> str:
    """Returns a name that callers chose as rows have it."""
    return clean(text)


def _label(text: str) -> str:
    """Returns a part of a label as rows have it."""
    return clean(text, len(text))


def narrowed(wanted: Filter, key_id: str) -> Filter:
    """Returns the filter for a caller who sees the rows of one key alone. Raises InvalidField for another key's."""
    if wanted.key_id not in (None, key_id):
        raise InvalidField("key", "This key sees its own rows only")
    return replace(wanted, key_id=key_id)


def limit_of(query: Mapping[str, str]) -> int:
    """Returns how many rows a page has. Raises InvalidField."""
    return _whole(query, "limit", 1, MAX_LIMIT, DEFAULT_LIMIT)


def period_of(query: Mapping[str, str], now: float, since: str = "since", until: str = "until") -> tuple[int, int]:
    """Returns the first hour and the one after the last, in Unix seconds. Without times it is today and the 30 days
    before, whole days in UTC, which are read from daily sums.
    """
    today = now // DAY * DAY
    first = seconds_of(query[since], since, now) if query.get(since) else today - DEFAULT_DAYS * DAY
    last = seconds_of(query[until], until, now) if query.get(until) else today + DAY
    if last <= first:
        raise InvalidField(until, f"'{until}' must be later than '{since}'")
    # Sums are by the hour: one that is cut counts as a whole.
    return int(first // HOUR * HOUR), int(-(-last // HOUR) * HOUR)


def seconds_of(text: str, name: str, now: float) -> float:
    """Returns a time in Unix seconds: RFC 3339, a date, Unix seconds, or as long ago as `24h`. Raises InvalidField."""
    if duration := _DURATION.match(text):
        return now - int(duration[1]) * _SECONDS[duration[2]]
    try:
        # Eleven digits reach the year 5138, which all that computes with times can hold.
        if re.fullmatch(r"\d{1,11}(\.\d{1,6})?", text):
            return float(text)
        parsed = datetime.fromisoformat(text)
        return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        message = f"'{name}' must be a time such as 2026-11-29T12:00:00Z, a date, Unix seconds, or an age such as 24h"
        raise InvalidField(name, message) from None


def cursor_of(query: Mapping[str, str]) -> Position | None:
    """Returns the position that a cursor names. Raises InvalidField for one that was not given out here."""
    text = query.get("cursor")
    if not text:
        return None
    try:
        # A cursor goes without the padding, which would have to be escaped in a URL.
        at, _, id = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii").partition(".")
        # Eighteen digits fit into the 64 bits of a database's number.
        if not (at.isdigit() and len(at) <= 18 and id.isprintable() and len(id) <= 64):
            raise ValueError
        return Position(int(at), id)
    except ValueError:
        raise InvalidField("cursor", "'cursor' must be the 'next_cursor' of another page") from None


def cursor_text(position: Position | None) -> str | None:
    """Returns the cursor of a position."""
    if position is None:
        return None
    return base64.urlsafe_b64encode(f"{position.at}.{position.id}".encode()).decode().rstrip("=")


def is_date(text: str) -> bool:
    """Returns whether a text is a day, which an end includes as a whole."""
    return _DATE.match(text) is not None


def with_latency(query: Mapping[str, str]) -> bool:
    """Returns whether sums are to say how long calls took. Raises InvalidField."""
    text = query.get("latency") or "false"
    if text not in ("true", "false"):
        raise InvalidField("latency", "'latency' must be 'true' or 'false'")
    return text == "true"


def _microseconds(query: Mapping[str, str], name: str, now: float) -> int | None:
    text = query.get(name)
    return round(seconds_of(text, name, now) * MICROSECONDS) if text else None


def _number(text: str, name: str, unit: str) -> float:
    if re.fullmatch(r"\d{1,12}(\.\d{1,12})?", text):
        return float(text)
    raise InvalidField(name, f"'{name}' must be a number of {unit}")


def _whole(query: Mapping[str, str], name: str, least: int, most: int, default: int) -> int:
    text = query.get(name)
    if not text:
        return default
    if not re.fullmatch(r"\d{1,9}", text) or not least <= int(text) <= most:
        raise InvalidField(name, f"'{name}' must be a whole number from {least} to {most}")
    return int(text)
