"""The reports: `/audit`, which is rows and sentences, and `/usage`, which is sums.

Both answer JSON or CSV. Who asks without a role sees what their own key did, and nothing else. Reports in LiteLLM's
shapes are in `litellm_reports.py`, the questions in `report_query.py`.
"""

import asyncio
import csv
import io
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from gateway.ledger import report_query
from gateway.ledger.entry import decode_entry, timestamp
from gateway.ledger.latencies import latencies
from gateway.ledger.report_query import Names
from gateway.store import ledger_pages, ledger_sums
from gateway.store.database import Work
from gateway.store.keys import Change
from gateway.store.ledger import MICROSECONDS
from gateway.store.ledger_pages import Filter, Page, Position
from gateway.store.ledger_sums import COUNTED_UNITS, DAY, Scope
from gateway.store.reports import position_of
from translators.core.errors import InvalidField

Result = TypeVar("Result")
Row = dict[str, Any]

BY: Mapping[str, str] = {
    "key": "key_id",
    "team": "team_id",
    "user": "user_id",
    "end_user": "end_user",
    "model": "model",
    "method": "method",
    "fault": "fault",
    "hour": "hour",
    "day": "day",
}
"""What usage may be asked by -> the name of the sums."""

TOTAL = "total"
"""As what usage is asked by: one sum of all."""

CALLS_ONLY = (
    *("key", "team", "user", "end_user", "tag", "metadata", "method", "model", "status", "fault", "request_id", "id"),
    *("min_cost", "slower_than", "notes"),
)
"""Filters that no change can meet."""

MAX_GROUPS = 20_000
"""Sums that one report has."""


class LedgerReader(Protocol):
    """Reads the ledger's database."""

    async def read(self, work: Work[Result]) -> Result: ...


class Report(Struct, frozen=True):
    """What a report is made of. changes: a page of what was changed. now: Unix seconds.

    own_key_id: of a caller who sees nothing but that key's; None for those who may see everything.
    """

    reader: LedgerReader
    changes: Callable[[Filter, Position | None, int], Awaitable[Sequence[Change]]]
    names: Names
    query: Mapping[str, str]
    now: float
    own_key_id: str | None = None


async def audit(report: Report) -> Row:
    """Returns a page of rows, newest first: `{"data": [...], "next_cursor": ..., "newest_cursor": ...}`.

    `audit_newer` counts from `newest_cursor`. Raises InvalidField, StoreUnavailable.
    """
    query = report.query
    report_query.require_known(query, report_query.AUDIT_PARAMETERS)
    wanted, with_calls, with_changes = _wanted(report)
    limit, before = report_query.limit_of(query), report_query.cursor_of(query)
    page = Page([], None)
    if with_calls:
        page = await report.reader.read(lambda connection: ledger_pages.page(connection, wanted, before, limit))
    # One more than fits, which tells whether there are more.
    changes = await report.changes(wanted, before, limit + 1) if with_changes else []
    # For an empty page: what comes from now on is newer.
    first = Position(int(report.now * MICROSECONDS), "")
    return await asyncio.to_thread(_merged, page, changes, wanted.text.lower(), limit, first)


async def audit_newer(report: Report) -> Row:
    """Returns how many rows there are that are newer than a cursor: `{"count": 12, "more": false}`.

    So that a page can stay as it is while somebody reads it. `more` says that not all were counted.
    Raises InvalidField, StoreUnavailable.
    """
    query = report.query
    report_query.require_known(query, report_query.NEWER_PARAMETERS)
    wanted, with_calls, with_changes = _wanted(report)
    after = report_query.cursor_of(query)
    if after is None:
        raise InvalidField("cursor", "'cursor' must be the 'newest_cursor' of a page of /audit")
    count = 0
    if with_calls:
        count = await report.reader.read(lambda connection: ledger_pages.newer(connection, wanted, after))
    if with_changes and count < ledger_pages.NEWER_ROWS:
        since = max(after.at + 1, wanted.since or 0)
        changes = await report.changes(replace(wanted, since=since), None, ledger_pages.NEWER_ROWS)
        text = wanted.text.lower()
        count += sum(not text or text in change_row(one)["sentence"].lower() for one in changes)
    return {"count": min(count, ledger_pages.NEWER_ROWS), "more": count >= ledger_pages.NEWER_ROWS}


def _wanted(report: Report) -> tuple[Filter, bool, bool]:
    """Returns the filter, whether calls can meet it, and whether changes can. Raises InvalidField."""
    query = report.query
    kind = query.get("kind", "")
    if kind not in ("", "call", "change"):
        raise InvalidField("kind", "'kind' must be 'call' or 'change'")
    wanted = report_query.filter_of(query, report.names, report.now)
    if report.own_key_id is not None:
        wanted = report_query.narrowed(wanted, report.own_key_id)
    with_changes = kind != "call" and report.own_key_id is None and not any(query.get(name) for name in CALLS_ONLY)
    return wanted, kind != "change", with_changes


def _merged(page: Page, changes: Sequence[Change], text: str, limit: int, first: Position) -> Row:
    """Puts calls and changes into one order. Changes behind the end of the page of calls come with the next page.

    first: the newest position, where there is no row.
    """
    entries = [decode_entry(entry) for entry in page.entries]
    rows: list[tuple[Position, Row]] = [(Position(entry.at, entry.id), entry.row()) for entry in entries]
    for change in changes:
        row = change_row(change)
        if not text or text in row["sentence"].lower():
            rows.append((position_of(change), row))
    rows.sort(key=lambda pair: (pair[0].at, pair[0].id), reverse=True)
    ends = [page.next] if page.next is not None else []
    if len(changes) > limit:
        ends.append(position_of(changes[limit - 1]))
    # The newer of the two ends: behind it one of the two has not been read.
    following = max(ends, key=lambda end: (end.at, end.id)) if ends else None
    if following is not None:  # what is older may have more between it, which the next page has
        rows = [pair for pair in rows if (pair[0].at, pair[0].id) >= (following.at, following.id)]
    if len(rows) > limit:
        following = rows[limit - 1][0]
    return {
        "data": [row for _, row in rows[:limit]],
        "next_cursor": report_query.cursor_text(following),
        "newest_cursor": report_query.cursor_text(rows[0][0] if rows else first),
    }


def change_row(change: Change) -> Row:
    """Returns a change as a row."""
    position = position_of(change)
    before, after = _record(change.before), _record(change.after)
    return {
        "id": position.id,
        "time": timestamp(position.at),
        "kind": "change",
        "sentence": _change_sentence(change, before, after),
        "key_alias": change.author,
        "address": change.address or None,
        "door": "management",
        "action": change.action,
        "object": {"kind": change.kind, "id": change.object_id},
        # As it was stored.
        "before": Raw(change.before) if change.before is not None else None,
        "after": Raw(change.after) if change.after is not None else None,
    }


def _record(body: bytes | None) -> Mapping[str, Any]:
    return msgspec.json.decode(body, type=dict[str, Any]) if body is not None else {}


_UNINTERESTING = frozenset(
    "updated_at updated_by created_at created_by revision deleted_at digest previous replaced last_rotation_at"
    " rotation_count last_four key_id team_id user_id".split()
)
MAX_FIELDS = 5


def _change_sentence(change: Change, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    record = after or before
    # A key's and a team's alias have the kind in front, an end user's has not.
    name = record.get(f"{change.kind}_alias") or record.get("alias") or change.object_id
    sentence = f"{change.author or 'Somebody'} {change.action} {change.kind.replace('_', ' ')} {name}"
    # What every change touches would hide what somebody has changed.
    names = [one for one in {**before, **after} if one not in _UNINTERESTING and before.get(one) != after.get(one)]
    if change.action == "updated" and names:
        changes = [f"{one} {_short(before.get(one))} -> {_short(after.get(one))}" for one in names[:MAX_FIELDS]]
        more = f", and {len(names) - MAX_FIELDS} more" if len(names) > MAX_FIELDS else ""
        return f"{sentence}: {', '.join(changes)}{more}."
    return f"{sentence}."


def _short(value: Any) -> str:
    text = "nothing" if value is None else msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else text[:37] + "..."


# --- usage ----------------------------------------------------------------------------------------------------


async def usage(report: Report) -> Row:
    """Returns sums by one thing or several: `{"data": [...], "more": false}`. Raises InvalidField, StoreUnavailable.

    `more` says that there are further groups, which cost less than these.
    """
    query = report.query
    report_query.require_known(query, report_query.USAGE_PARAMETERS)
    # A name that comes twice would be a column that comes twice.
    by = [*dict.fromkeys(name for name in query.get("by", "model").split(",") if name not in ("", TOTAL))]
    if unknown := [name for name in by if name not in BY]:
        raise InvalidField("by", f"'by' cannot be '{unknown[0][:50]}': there are {', '.join((*BY, TOTAL))}")
    since, until = report_query.period_of(query, report.now)
    where, latency = _where(report), report_query.with_latency(query)
    sums = await usage_rows(report.reader, by, since, until, where, latency)

    def rows() -> list[Row]:
        answer = [_usage_row(row, by, report.names) for row in sums[:MAX_GROUPS]]
        # There may be one sum more than rows.
        for row, counts in zip(answer, sums, strict=False):
            if latency:
                row["latency"] = latencies(counts)
        return answer

    return {
        "data": await asyncio.to_thread(rows),
        "more": len(sums) > MAX_GROUPS,
    }


def _where(report: Report) -> dict[str, str]:
    query, names = report.query, report.names
    where = {BY[name]: query[name] for name in ("user", "method", "fault") if query.get(name)}
    where |= {name: report_query.name_of(query[name]) for name in ("end_user", "model") if query.get(name)}
    if query.get("key"):
        where["key_id"] = names.key_id(query["key"])
    if query.get("team"):
        where["team_id"] = names.team_id(query["team"])
    if report.own_key_id is not None:
        # Refused rather than replaced: sums under another key's name would look like that key's.
        if where.get("key_id", report.own_key_id) != report.own_key_id:
            raise InvalidField("key", "This key sees its own usage only")
        where["key_id"] = report.own_key_id
    return where


async def usage_rows(
    reader: LedgerReader,
    by: Sequence[str],
    since: int,
    until: int,
    where: Mapping[str, str],
    latency: bool = False,
) -> list[Mapping[str, Any]]:
    """Returns sums as the database has them: those over a time whole, of others the MAX_GROUPS + 1 that cost most.

    latency: with how long calls took.

    Raises InvalidField where there are none of this kind, and for more over a time.
    """
    columns = [BY[name] for name in by]
    scope = ledger_sums.scope_of(columns, where)
    if latency and scope is not Scope.MODELS:
        _require_days(scope, by, since, until)
    if scope is Scope.END_USERS:
        allowed = ("end_user", "hour", "day")
        if other := [name for name in (*columns, *where) if name not in allowed]:
            message = (
                f"End users are counted by day and hour, not by {other[0].removesuffix('_id')}; see /audit?end_user="
            )
            raise InvalidField("by", message)
    # One more than is shown tells whether there are more.
    sums = await reader.read(
        lambda connection: ledger_sums.usage(connection, columns, since, until, where, MAX_GROUPS + 1, latency)
    )
    # The dearest of many hours would be a curve with holes, which nobody could tell from hours without calls.
    if len(sums) > MAX_GROUPS and not {"hour", "day"}.isdisjoint(by):
        raise InvalidField("since", f"This is more than {MAX_GROUPS} sums: ask for less time, or by fewer things")
    return sums


def _require_days(scope: Scope, by: Sequence[str], since: int, until: int) -> None:
    """Raises InvalidField for latencies that are not counted: of end users, and of keys in less than a day."""
    if scope is Scope.END_USERS:
        raise InvalidField("latency", "How long calls took is not counted by end users")
    if "hour" in by or since % DAY or until % DAY:
        message = "How long calls of a key, a team or a user took is counted by days: ask from a date on, not by hours"
        raise InvalidField("latency", message)


def _usage_row(row: Mapping[str, Any], by: Sequence[str], names: Names) -> Row:
    result: Row = {}
    for name in by:
        if name in ("hour", "day"):
            # As much of an RFC 3339 time as the name says.
            result[name] = timestamp(row["start"] * MICROSECONDS)[: 10 if name == "day" else 13]
            if name == "hour":
                result[name] += ":00:00Z"
            continue
        # Empty in the sums where a call had none.
        value = row[BY[name]] or None
        result[name] = value
        if name == "key" and value is not None:
            result["key_alias"] = names.key_alias(value)
        if name == "team" and value is not None:
            result["team_alias"] = names.team_alias(value)
    return result | {
        "calls": int(row["calls"]),
        "failures": int(row["failures"]),
        "tokens": {name: int(row[name]) for name in ("input", "output", "cached", "thinking")},
        "units": {unit: _amount(row[unit]) for unit in COUNTED_UNITS if row[unit]},
        "cost_nanodollars": int(row["cost"]),
        "unpriced_calls": int(row["unpriced_calls"]),
        "total_ms": round(row["total_ms"], 2),
    }


def _amount(value: Any) -> int | float:
    return int(value) if value == int(value) else float(value)


# --- CSV ------------------------------------------------------------------------------------------------------


def as_csv(rows: Iterable[Row], columns: Sequence[str] = (), heading: bool = True) -> bytes:
    """Returns rows as CSV: a value of an object is a column `units.input_tokens`, a list is JSON.

    columns: those of the table; without any, those that the rows have. heading: their names stand in the first line.
    """
    flat = [_flat(row) for row in rows]
    # In the order in which rows have them, those of the first row first.
    columns = columns or list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    if heading:
        writer.writeheader()
    writer.writerows(flat)
    return text.getvalue().encode()


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes for a formula begins so."""


def _flat(row: Row) -> Row:
    values: Row = {}
    for name, value in row.items():
        if isinstance(value, Struct):
            value = msgspec.structs.asdict(value)
        if isinstance(value, Mapping):
            values.update({f"{name}.{inner}": _cell(one) for inner, one in value.items()})
        else:
            values[name] = _cell(value)
    return values


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, Raw | list | tuple | dict):
        value = msgspec.json.encode(value).decode() if value else ""
    # Names of end users and models are anybody's words.
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
