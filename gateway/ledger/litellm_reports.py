"""Reports in LiteLLM's shapes, under its names: what its users' scripts and dashboards read.

Money is US dollars as a number, times are UTC. A key is `api_key`, its digest. A call whose price is unknown counts as
0 here, because the shapes have no word for it; `/usage` says how many there are. What takes long with many rows or sums
is done in threads.
"""

import asyncio
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from gateway.ledger import report_query
from gateway.ledger.entry import LedgerEntry, decode_entry, timestamp
from gateway.ledger.report_query import NANO, Names
from gateway.ledger.reports import Report, Row, usage_rows
from gateway.store import ledger_pages
from gateway.store.ledger import MICROSECONDS
from gateway.store.ledger_pages import Filter, Page
from gateway.store.ledger_sums import DAY, HOUR
from translators.core.errors import InvalidField

MAX_ROWS = 10_000
"""Rows of `/spend/logs`, and how deep pages by number go: LiteLLM has the same limit."""

DATES = ("start_date", "end_date")

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
"""In any locale."""


def _period(report: Report) -> tuple[int, int]:
    """Returns the period of `start_date` and `end_date`, of which the second is a whole day, in Unix seconds."""
    query = dict(report.query)
    if report_query.is_date(query.get("end_date", "")):
        # LiteLLM's end is a day that counts as a whole, and that of a period is not in it.
        query["end_date"] = str(report_query.seconds_of(query["end_date"], "end_date", report.now) + DAY)
    return report_query.period_of(query, report.now, *DATES)


def _dollars(nanodollars: Any) -> float:
    # To nano-dollars, so that sums of floats show none of their errors.
    return round(int(nanodollars or 0) / NANO, 9)


def _date(start: int) -> str:
    return timestamp(start * MICROSECONDS)[:10]


def _key_where(report: Report, name: str = "api_key") -> dict[str, str]:
    key = report.query.get(name)
    key_id = report.names.key_id(key) if key else report.own_key_id
    # Refused rather than replaced: sums under another key's name would look like that key's.
    if report.own_key_id is not None and key_id != report.own_key_id:
        raise InvalidField(name, "This key sees its own usage only")
    return {"key_id": key_id} if key_id else {}


async def _sums(
    report: Report, by: Sequence[str], where: Mapping[str, str] | None = None
) -> Sequence[Mapping[str, Any]]:
    first, last = _period(report)
    return await usage_rows(report.reader, by, first, last, _key_where(report) if where is None else where)


# --- rows -----------------------------------------------------------------------------------------------------


async def spend_logs(report: Report) -> Any:
    """Serves `/spend/logs`: at most MAX_ROWS rows; or, with both dates and unless `summarize` is false, sums by day."""
    query = report.query
    if all(query.get(name) for name in DATES) and query.get("summarize", "true").lower() != "false":
        return await _summaries(report)
    wanted = await _wanted(report)
    page = await report.reader.read(lambda connection: ledger_pages.page(connection, wanted, None, MAX_ROWS))
    return await asyncio.to_thread(_log_rows, page.entries, report.names)


async def spend_logs_page(report: Report) -> Row:
    """Serves `/spend/logs/v2`: a page of rows by its number."""
    query = report.query
    number, size = _number(query, "page", 1, MAX_ROWS), _number(query, "page_size", 50, 1000)
    # The rows of all pages before it are read as well.
    if number * size > MAX_ROWS:
        raise InvalidField("page", f"Pages end at {MAX_ROWS} rows; /audit has cursors, which do not")
    wanted = await _wanted(report)
    page = await report.reader.read(lambda connection: ledger_pages.page(connection, wanted, None, number * size))
    total = await _total(report, wanted, page)
    return {
        "data": await asyncio.to_thread(_log_rows, page.entries[(number - 1) * size :], report.names),
        "total": total,
        "page": number,
        "page_size": size,
        "total_pages": -(-total // size),
    }


async def _total(report: Report, wanted: Filter, page: Page) -> int:
    """Returns how many rows meet a filter; where no sum says it, how many are known of. page: with its first rows."""
    if page.next is None:
        return len(page.entries)
    names = ("key_id", "team_id", "user_id", "model", "end_user")
    where = {name: value for name in names if (value := getattr(wanted, name)) is not None}
    # Sums are not by request, and those of end users by nothing else. One more says that there are more.
    if wanted.request_id is not None or (wanted.end_user is not None and len(where) > 1):
        return len(page.entries) + 1
    # Of days before the oldest row there are sums still.
    oldest = (await report.reader.read(ledger_pages.oldest) or 0) // MICROSECONDS // HOUR * HOUR
    first = wanted.since // MICROSECONDS if wanted.since is not None else 0
    last = wanted.until // MICROSECONDS if wanted.until is not None else int(report.now // DAY + 1) * DAY
    sums = await usage_rows(report.reader, (), max(first, oldest), max(last, oldest), where)
    return int(sums[0]["calls"]) if sums else 0


async def _wanted(report: Report) -> Filter:
    query = report.query
    key_id = _key_where(report).get("key_id")
    since = until = None
    if any(query.get(name) for name in DATES):
        first, last = _period(report)
        since, until = first * MICROSECONDS, last * MICROSECONDS
    return Filter(
        request_id=query.get("request_id"),
        key_id=key_id,
        user_id=query.get("user_id"),
        team_id=report.names.team_id(query["team_id"]) if query.get("team_id") else None,
        end_user=report_query.name_of(query["end_user"]) if "end_user" in query else None,
        model=report_query.name_of(query["model"]) if "model" in query else None,
        since=since,
        until=until,
    )


def _number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name) or str(default)
    # So short that `int` reads it at once: it refuses thousands of digits with an error of its own.
    if not text.isdigit() or len(text) > 6 or not 1 <= int(text) <= most:
        raise InvalidField(name, f"'{name}' must be a whole number from 1 to {most}")
    return int(text)


def _log_rows(entries: Iterable[bytes], names: Names) -> list[Row]:
    return [log_row(decode_entry(entry), names) for entry in entries]


def log_row(entry: LedgerEntry, names: Names) -> Row:
    """Returns a row as LiteLLM's `LiteLLM_SpendLogs` has it. Bodies are empty: no row has them in it."""
    key_id, team_id = entry.key_id or "", entry.team_id or ""
    began = entry.at - round(entry.total_ms * 1000)
    # What was not streamed began and ended at once, as its caller saw it.
    first = began + round(entry.ttft_ms * 1000) if entry.ttft_ms is not None else entry.at
    digest = names.digest(key_id)
    prompt, completion = entry.tokens.input, entry.tokens.output
    return {
        "request_id": entry.request_id,
        "call_type": entry.method or entry.operation,
        "api_key": digest,
        "spend": _dollars(entry.cost_nanodollars),
        "total_tokens": prompt + completion,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "startTime": timestamp(began),
        "endTime": entry.time,
        "request_duration_ms": round(entry.total_ms),
        "completionStartTime": timestamp(first),
        "model": entry.model or "",
        "model_id": "",
        "model_group": entry.model_asked or "",
        "custom_llm_provider": "cohere",
        "api_base": "",
        "user": entry.user_id or "",
        "metadata": {
            "user_api_key": digest,
            "user_api_key_alias": entry.key_alias,
            "user_api_key_team_id": entry.team_id,
            "user_api_key_team_alias": names.team_alias(team_id),
            "user_api_key_org_id": None,
            "user_api_key_user_id": entry.user_id,
            "user_api_key_user_email": None,
            "requester_ip_address": entry.address,
            "user_agent": None,
            "litellm_call_id": entry.id,
            "status": "failure" if entry.failed else "success",
            "error_information": {"error_code": str(entry.status), "error_class": entry.error} if entry.failed else {},
            "usage_object": {"prompt_tokens": prompt, "completion_tokens": completion, **entry.units},
            "spend_logs_metadata": dict(entry.metadata) or None,
        },
        # LiteLLM's column is a text, empty where no cache was asked.
        "cache_hit": {None: "", "hit": "True"}.get(entry.cache, "False"),
        "cache_key": "",
        "request_tags": list(entry.tags),
        "team_id": team_id,
        "organization_id": None,
        "end_user": entry.end_user or "",
        "requester_ip_address": entry.address,
        "messages": {},
        "response": {},
        "session_id": None,
        "status": "failure" if entry.failed else "success",
        "agent_id": None,
        "litellm_call_id": entry.id,
        "proxy_server_request": {},
        "created_at": entry.time,
        "updated_at": entry.time,
    }


async def _summaries(report: Report) -> list[Row]:
    sums = await _sums(report, ("key", "user", "model", "day"))
    return await asyncio.to_thread(_summarized, sums, report.names)


def _summarized(sums: Iterable[Mapping[str, Any]], names: Names) -> list[Row]:
    days: dict[int, Row] = {}
    for row in sums:
        day = days.setdefault(row["start"], {"startTime": _date(row["start"]), "spend": 0.0, "users": {}, "models": {}})
        spend = _dollars(row["cost"])
        day["spend"] = round(day["spend"] + spend, 9)
        for group, name in ((day["users"], row["user_id"]), (day["models"], row["model"])):
            group[name] = round(group.get(name, 0.0) + spend, 9)
        digest = names.digest(row["key_id"])
        # LiteLLM has the keys' digests beside the other names, and not in an object of their own.
        day[digest] = round(day.get(digest, 0.0) + spend, 9)
    return [days[start] for start in sorted(days)]


# --- sums -----------------------------------------------------------------------------------------------------


async def global_spend(report: Report) -> Row:
    """Serves `/global/spend`: all that was ever spent, as far as daily sums go."""
    # To the end of today: whole days are read from daily sums, which are never deleted.
    rows = await usage_rows(report.reader, (), 0, int(report.now // DAY + 1) * DAY, {})
    return {"spend": _dollars(rows[0]["cost"]) if rows else 0.0, "max_budget": 0.0}


async def global_spend_logs(report: Report) -> list[Row]:
    """Serves `/global/spend/logs`: by day."""
    return [{"date": _date(row["start"]), "spend": _dollars(row["cost"])} for row in await _sums(report, ("day",))]


async def global_spend_keys(report: Report) -> list[Row]:
    """Serves `/global/spend/keys`: the keys that spent most."""
    names, limit = report.names, _number(report.query, "limit", 10, 10_000)
    rows = [row for row in await _sums(report, ("key",)) if row["key_id"]]
    return [
        {
            "api_key": names.digest(row["key_id"]),
            "key_alias": names.key_alias(row["key_id"]) or row["key_id"],
            "key_name": names.keys[row["key_id"]].key_name if row["key_id"] in names.keys else None,
            "total_spend": _dollars(row["cost"]),
        }
        for row in rows[:limit]
    ]


async def global_spend_models(report: Report) -> list[Row]:
    """Serves `/global/spend/models`: the models that cost most."""
    limit = _number(report.query, "limit", 10, 10_000)
    rows = [row for row in await _sums(report, ("model",)) if row["model"]]
    return [{"model": row["model"], "total_spend": _dollars(row["cost"])} for row in rows[:limit]]


async def global_spend_teams(report: Report) -> Row:
    """Serves `/global/spend/teams`: by day and team."""
    days: dict[int, Row] = {}
    totals: dict[str, float] = {}
    for row in await _sums(report, ("team", "day")):
        if not row["team_id"]:
            continue
        name, spend = report.names.team_alias(row["team_id"]) or row["team_id"], _dollars(row["cost"])
        day = days.setdefault(row["start"], {"date": _date(row["start"])})
        day[name] = round(day.get(name, 0.0) + spend, 9)
        totals[name] = round(totals.get(name, 0.0) + spend, 9)
    return {
        "daily_spend": [days[start] for start in sorted(days)],
        "teams": sorted(totals),
        "total_spend_per_team": [{"team_id": name, "total_spend": spend} for name, spend in totals.items()],
    }


async def global_spend_report(report: Report) -> list[Row]:
    """Serves `/global/spend/report`: by day, then by team, customer or key, then by key and model."""
    group = report.query.get("group_by", "team")
    if group not in ("team", "customer", "api_key"):
        raise InvalidField("group_by", "'group_by' must be 'team', 'customer' or 'api_key'")
    if group == "customer":
        return await _by_customer(report)
    sums = await _sums(report, ("team", "key", "model", "day"))
    return await asyncio.to_thread(_spent_by_day, sums, report.names, group)


def _spent_by_day(sums: Iterable[Mapping[str, Any]], names: Names, group: str) -> list[Row]:
    """Returns what each team, or each key, spent. group: `team` or `api_key`."""
    days: dict[int, dict[str, Row]] = {}
    for row in sums:
        one = names.team_alias(row["team_id"]) or row["team_id"] if group == "team" else names.digest(row["key_id"])
        label = "team_name" if group == "team" else "api_key"
        entry = days.setdefault(row["start"], {}).setdefault(one, {label: one, "spend": 0.0, "keys": {}})
        entry["spend"] = round(entry["spend"] + _dollars(row["cost"]), 9)
        digest = names.digest(row["key_id"])
        models = entry["keys"].setdefault(digest, {"key": digest, "usage": {}})["usage"]
        # A key may have changed its team on this day, and two teams may have the same name.
        usage = models.setdefault(row["model"], {"cost": 0.0, "input_tokens": 0, "output_tokens": 0, "requests": 0})
        usage["cost"] = round(usage["cost"] + _dollars(row["cost"]), 9)
        usage["input_tokens"] += int(row["input"])
        usage["output_tokens"] += int(row["output"])
        usage["requests"] += int(row["calls"])
    plural = "teams" if group == "team" else "api_keys"
    return [
        {
            "group-by-day": _date(start),
            plural: [{**entry, "keys": list(entry["keys"].values())} for entry in days[start].values()],
        }
        for start in sorted(days)
    ]


async def _by_customer(report: Report) -> list[Row]:
    days: dict[int, list[Row]] = {}
    first, last = _period(report)
    for row in await usage_rows(report.reader, ("end_user", "day"), first, last, _key_where(report)):
        if row["end_user"]:
            customer = {"customer": row["end_user"], "spend": _dollars(row["cost"])}
            days.setdefault(row["start"], []).append(customer)
    return [{"group-by-day": _date(start), "customers": days[start]} for start in sorted(days)]


# --- calls and tokens by day ----------------------------------------------------------------------------------


async def global_activity(report: Report) -> Row:
    """Serves `/global/activity`: calls and tokens by day."""
    return _daily_calls(await _sums(report, ("day",)))


async def global_activity_models(report: Report) -> list[Row]:
    """Serves `/global/activity/model`: the same by model, the one with most calls first."""
    by_model: dict[str, list[Mapping[str, Any]]] = {}
    for row in await _sums(report, ("model", "day")):
        if row["model"]:
            by_model.setdefault(row["model"], []).append(row)
    rows = [{"model": model, **_daily_calls(sums)} for model, sums in by_model.items()]
    return sorted(rows, key=operator.itemgetter("sum_api_requests"), reverse=True)


def _daily_calls(sums: Iterable[Mapping[str, Any]]) -> Row:
    days = [
        {
            "date": f"{MONTHS[int(_date(row['start'])[5:7]) - 1]} {_date(row['start'])[8:]}",
            "api_requests": int(row["calls"]),
            "total_tokens": int(row["input"]) + int(row["output"]),
        }
        for row in sorted(sums, key=operator.itemgetter("start"))
    ]
    return {
        "daily_data": days,
        "sum_api_requests": sum(day["api_requests"] for day in days),
        "sum_total_tokens": sum(day["total_tokens"] for day in days),
    }


# --- /user/daily/activity -------------------------------------------------------------------------------------


class _Metrics(Struct, gc=False):
    """LiteLLM's SpendMetrics. A Struct, because a report has thousands of them."""

    spend: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    total_tokens: int = 0
    successful_requests: int = 0
    failed_requests: int = 0
    api_requests: int = 0
    total_response_time_ms: float = 0.0
    timed_requests: int = 0


_GROUPS = ("models", "providers", "endpoints", "api_keys")
_EMPTY = ("models", "model_groups", "providers", "endpoints", "api_keys", "entities", "mcp_servers", "guardrails")


async def daily_activity(report: Report) -> Row:
    """Serves `/user/daily/activity`: days with their sums, and these by model, key and endpoint."""
    query = report.query
    number, size = _number(query, "page", 1, 1000), _number(query, "page_size", 50, 1000)
    where = _key_where(report)
    if query.get("model"):
        where["model"] = report_query.name_of(query["model"])
    sums = await _sums(report, ("key", "team", "user", "model", "method", "day"), where)
    return await asyncio.to_thread(_activity, sums, report.names, number, size)


def _activity(sums: Iterable[Mapping[str, Any]], names: Names, number: int, size: int) -> Row:
    """Returns a page of so many days, by its number."""
    days: dict[int, _Day] = {}
    about: dict[str, Row] = {}
    total = _zero()
    for row in sums:
        digest = names.digest(row["key_id"])
        if digest not in about:
            about[digest] = _about(row, names)
        day = days.get(row["start"])
        if day is None:
            day = days[row["start"]] = _Day(_zero(), {group: {} for group in _GROUPS})
        day.add(row, digest)
        _add(total, _values(row))
    starts = sorted(days, reverse=True)
    total_sums = _named_sums(total)
    pages = max(-(-len(starts) // size), 1)
    return {
        "results": [
            {
                "date": _date(start),
                "metrics": _named_sums(days[start].metrics),
                "breakdown": _breakdown(days[start], about),
            }
            for start in starts[(number - 1) * size : number * size]
        ],
        "metadata": {
            "total_spend": total_sums.spend,
            "total_prompt_tokens": total_sums.prompt_tokens,
            "total_completion_tokens": total_sums.completion_tokens,
            "total_tokens": total_sums.total_tokens,
            "total_api_requests": total_sums.api_requests,
            "total_successful_requests": total_sums.successful_requests,
            "total_failed_requests": total_sums.failed_requests,
            "total_cache_read_input_tokens": total_sums.cache_read_input_tokens,
            # Cohere says what it has read from its cache, and not what it has put there.
            "total_cache_creation_input_tokens": 0,
            "page": number,
            "total_pages": pages,
            "has_more": number < pages,
        },
    }


def _named_sums(metrics: Sequence[Any]) -> _Metrics:
    """Returns sums by their names. Money was added up in nano-dollars."""
    named = _Metrics(*metrics)
    named.spend, named.total_response_time_ms = _dollars(metrics[0]), round(named.total_response_time_ms, 2)
    return named


def _values(row: Mapping[str, Any]) -> list[float]:
    """Returns what a sum adds, in the order of the fields of _Metrics."""
    calls, failures = int(row["calls"]), int(row["failures"])
    prompt, completion = int(row["input"]), int(row["output"])
    tokens = [prompt, completion, int(row["cached"]), 0, prompt + completion]
    # All calls have a time, so as many are timed as there are.
    return [int(row["cost"]), *tokens, calls - failures, failures, calls, row["total_ms"], calls]


class _Group(Struct):
    """Sums of one thing, and by key below it."""

    metrics: list[float]
    keys: dict[str, list[float]] = {}


class _Day(Struct):
    """Sums of a day."""

    metrics: list[float]
    groups: dict[str, dict[str, _Group]]

    def add(self, row: Mapping[str, Any], digest: str) -> None:
        """Adds a sum to the day and to each of its groups."""
        values = _values(row)
        _add(self.metrics, values)
        for group, name in (
            ("models", row["model"]),
            ("providers", "cohere"),
            ("endpoints", row["method"]),
            ("api_keys", digest),
        ):
            if not name:
                continue
            one = self.groups[group].setdefault(name, _Group(_zero()))
            _add(one.metrics, values)
            # Keys have no keys below them.
            if group != "api_keys":
                _add(one.keys.setdefault(digest, _zero()), values)


def _zero() -> list[float]:
    return [0] * len(_Metrics.__struct_fields__)


def _add(metrics: list[float], values: Sequence[float]) -> None:
    # In place, since groups hold these lists.
    metrics[:] = map(operator.add, metrics, values)


def _breakdown(day: _Day, about: Mapping[str, Row]) -> Row:
    """Returns the groups of a day. about: the keys by their digests."""
    # LiteLLM's shape has all of these groups, with or without anything in them.
    breakdown: Row = {name: {} for name in _EMPTY}
    for group, members in day.groups.items():
        if group == "api_keys":
            breakdown[group] = {
                digest: {"metrics": _named_sums(one.metrics), "metadata": about[digest]}
                for digest, one in members.items()
            }
            continue
        breakdown[group] = {
            name: {
                "metrics": _named_sums(one.metrics),
                "metadata": {},
                "api_key_breakdown": {
                    digest: {"metrics": _named_sums(metrics), "metadata": about[digest]}
                    for digest, metrics in one.keys.items()
                },
            }
            for name, one in members.items()
        }
    # LiteLLM's groups are the names that callers asked for. The sums have Cohere's names alone.
    breakdown["model_groups"] = breakdown["models"]
    return breakdown


def _about(row: Mapping[str, Any], names: Names) -> Row:
    key_id = row["key_id"]
    return {
        "key_alias": names.key_alias(key_id) or key_id,
        "team_id": row["team_id"] or None,
        "user_id": row["user_id"] or None,
        "user_email": None,
        "key_exists": key_id in names.keys,
    }
