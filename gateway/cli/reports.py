"""`cohere-gateway usage` and `cohere-gateway audit`: the reports of the ledger, in a terminal.

They are read from the database of the settings, or with `--url` from a gateway.
"""

import time
from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from gateway.cli.command import Command, CommandFailed, read_settings, wants_json
from gateway.cli.management import query_options, run_transaction, send_request, where_options
from gateway.cli.tables import print_json, print_rows

BAR_WIDTH = 30
"""Characters of the longest bar."""

FOLLOW_SECONDS = 1.0
"""Between two looks for new rows, with `--follow`."""

# The most that a page may have.
PAGE = "500"
"""Rows that are asked for at a time while following."""

OVERLAP_SECONDS = 30
"""How far each look goes back: other processes write their rows a little later than their calls ended."""

PERIOD = {
    "since": "From this time on: 2026-11-01, 2026-11-01T12:00:00Z, or an age such as 7d or 24h.",
    "until": "Before this time.",
}

USAGE_OPTIONS = {
    "by": "key, team, user, end_user, model, method, fault, day, hour or total; several with commas (default: model).",
    **PERIOD,
    "key": "Of this key: an alias, an id or a digest.",
    "team": "Of this team: an alias or an id.",
    "user": "Of keys with this label.",
    "end_user": "On behalf of this end user.",
    "model": "Of this model.",
    "method": "Of this method of Cohere's, such as v2.chat.",
    "fault": "With this fault, such as provider_timeout.",
    "latency": "true: also how long half of the calls, and nineteen of twenty, took at most.",
}

AUDIT_OPTIONS = {
    **PERIOD,
    "kind": "call or change; both if it is left out.",
    "tag": "With this tag.",
    "metadata": "With this metadata, such as project=apollo.",
    "request_id": "Of this request: the header x-request-id of its answer.",
    "key": "Of this key: an alias, an id or a digest.",
    "team": "Of this team: an alias or an id.",
    "user": "Of keys with this label.",
    "end_user": "On behalf of this end user.",
    "method": "Of this method of Cohere's, such as v2.chat.",
    "model": "With this model.",
    "status": "With this HTTP status, or of a class such as 4xx.",
    "fault": "With this fault, such as provider_timeout; any for all failures.",
    "min_cost": "That cost this many US dollars or more.",
    "slower_than": "That took longer than so many milliseconds.",
    "notes": "any: with notes on what was ignored, adjusted or emulated; none: without.",
    "text": "With this text in the sentence.",
    "limit": "Rows at most (default: 100).",
}


@click.command(
    "usage",
    cls=Command,
    example="cohere-gateway usage --by key --since 7d",
    help="Shows calls, tokens and cost, added up: by default of the last 30 days, by model.",
)
@query_options(USAGE_OPTIONS)
@where_options
def usage(url: str | None, config: str | None, **options: str | None) -> None:
    answer = _report("usage", url, config, options)
    if wants_json():
        print_json(answer)
        return
    # As the report has it: `total` is no column, but one sum of all.
    by = [name for name in (options["by"] or "model").split(",") if name != "total"]
    most = max((row["cost_nanodollars"] for row in answer["data"]), default=0)
    rows = [_usage_row(row, by, most) for row in answer["data"]]
    headings = {name: name.replace("_", " ").capitalize() for name in by}
    columns = {"calls": "Calls", "failures": "Failed", "input": "Tokens in", "output": "out"}
    # Only where they were asked for.
    latencies = {"p50": "p50", "p95": "p95"} if any("latency" in row for row in answer["data"]) else {}
    print_rows(rows, headings | columns | latencies | {"cost": "Cost", "bar": ""}, "there were no calls")
    unpriced = sum(row["unpriced_calls"] for row in answer["data"])
    if unpriced:
        print(f"the cost of {unpriced:,} {'call' if unpriced == 1 else 'calls'} is unknown, and not in the sum")


def _usage_row(row: Mapping[str, Any], by: Sequence[str], most: int) -> dict[str, Any]:
    cost, latency = row["cost_nanodollars"], row.get("latency") or {}
    return {
        **{name: row.get(f"{name}_alias") or row[name] or "-" for name in by},
        "calls": f"{row['calls']:,}",
        "failures": f"{row['failures']:,}" if row["failures"] else "",
        "input": f"{row['tokens']['input']:,}",
        "output": f"{row['tokens']['output']:,}",
        **{name: _milliseconds(latency.get(f"{name}_ms")) for name in ("p50", "p95")},
        "cost": _cost(cost, row["unpriced_calls"]),
        "bar": bar(cost / most if most else 0.0),
    }


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f} ms"


def _cost(nanodollars: int, unpriced: int) -> str:
    """Returns the cost of a group: what is unknown of it is never 0."""
    # Imported here, as all of the ledger is, so that the help of a command does not load it.
    from gateway.ledger.sentences import dollars

    if not unpriced:
        return dollars(nanodollars)
    return f"{dollars(nanodollars)} and more" if nanodollars else "unknown"


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """Returns a bar of blocks whose length is this share of the width, to an eighth of a character."""
    eighths = round(share * width * 8)
    partial = ("", "\u258f", "\u258e", "\u258d", "\u258c", "\u258b", "\u258a", "\u2589")[eighths % 8]
    return "\u2588" * (eighths // 8) + partial


@click.command(
    "audit",
    cls=Command,
    example="cohere-gateway audit --key search --since 24h",
    help="Shows calls and changes, one sentence each, the oldest first.",
)
@click.option("--follow", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@query_options(AUDIT_OPTIONS)
@where_options
def audit(follow: bool, url: str | None, config: str | None, **options: str | None) -> None:
    answer = _report("audit", url, config, options)
    if not follow:
        if wants_json():
            print_json(answer)
            return
        _print_sentences(answer["data"])
        if answer["next_cursor"]:
            print("there are older ones: --limit shows more, --until goes back")
        return
    if options["until"]:
        raise CommandFailed("--follow goes on for ever: leave --until out")
    printed = {row["id"]: 0.0 for row in answer["data"]}
    # What the first page left out is older than all that it has, and not what happens from now on.
    begin = datetime.fromisoformat(answer["data"][-1]["time"]).timestamp() if answer["next_cursor"] else 0.0
    _print_sentences(answer["data"])
    while True:
        time.sleep(FOLLOW_SECONDS)
        now = time.time()
        recent = {**options, "since": f"{max(now - OVERLAP_SECONDS, begin):.6f}", "limit": PAGE}
        rows = _rows_since(printed, url, config, recent)
        _print_sentences(rows)
        printed |= {row["id"]: now for row in rows}
        # Rows that no look goes back to need not be remembered.
        for id in [id for id, seen in printed.items() if seen and now - seen > 4 * OVERLAP_SECONDS]:
            del printed[id]


def _rows_since(
    printed: Container[str], url: str | None, config: str | None, query: Mapping[str, str | None]
) -> list[Mapping[str, Any]]:
    """Returns the rows that were not printed, the newest first: as many pages as there are new ones on."""
    rows: list[Mapping[str, Any]] = []
    cursor = None
    while True:
        answer = _report("audit", url, config, {**query, "cursor": cursor})
        new = [row for row in answer["data"] if row["id"] not in printed]
        rows += new
        cursor = answer["next_cursor"]
        if not new or cursor is None:
            return rows


def _print_sentences(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows, the oldest first: JSON lines for programs. Sentences have no control characters."""
    import msgspec

    for row in reversed(rows):
        if wants_json():
            # At once, also into a pipe: somebody follows it.
            click.echo(msgspec.json.encode(row))
        else:
            print(f"{row['time'][:19]}Z  {row['sentence']}", flush=True)


def _report(name: str, url: str | None, config: str | None, options: Mapping[str, str | None]) -> Any:
    query = {option: value for option, value in options.items() if value is not None}
    if url:
        return send_request(url, "GET", f"/{name}", None, query)
    return _report_here(name, config, query)


def _report_here(name: str, config: str | None, query: Mapping[str, str]) -> Any:
    """Makes a report of the database. Raises CommandFailed."""
    import msgspec

    from gateway.ledger import reports
    from gateway.ledger.report_query import Names
    from gateway.ledger.writer import address_of
    from gateway.store import keys
    from gateway.store.database import Work
    from gateway.store.keys import Change
    from gateway.store.ledger_pages import Filter, Position
    from gateway.store.reports import changes

    settings = read_settings(config)
    url, _ = address_of(settings.database_url, settings.ledger.spool)

    class Reader:
        async def read(self, work: Work[Any]) -> Any:
            return await _read(url, work)

    async def page_of_changes(wanted: Filter, before: Position | None, limit: int) -> Sequence[Change]:
        page: Sequence[Change] = await _read(settings.database_url, lambda c: changes(c, wanted, before, limit))
        return page

    records = run_transaction(settings.database_url, lambda: keys.load_all, writes=False)
    keys_by_id = {key.key_id: key.unpacked() for key in records.keys}
    ids = {name: key.key_id for key in keys_by_id.values() for name in (key.key_alias, key.digest, key.key_id) if name}
    names = Names(keys_by_id, {team.team_id: team for team in records.teams}, ids.get)
    respond = reports.audit if name == "audit" else reports.usage
    report = reports.Report(Reader(), page_of_changes, names, query, time.time())
    # Through JSON, so that both ways give the same: a report over HTTP has no Structs in it.
    return msgspec.json.decode(msgspec.json.encode(_run(respond(report))))


async def _read(url: str, work: Any) -> Any:
    from gateway.cli.management import DATABASE_SECONDS
    from gateway.store.database import Database

    database = Database(url, DATABASE_SECONDS, 1)
    try:
        return await database.read(work)
    finally:
        await database.close()


def _run(work: Any) -> Any:
    """Runs a coroutine. Raises CommandFailed for whatever is wrong with the question or the database."""
    import asyncio

    from gateway.store.errors import StoreUnavailable
    from translators.core.errors import TranslationError

    try:
        return asyncio.run(work)
    except StoreUnavailable as error:
        raise CommandFailed(str(error), 1) from error
    except TranslationError as error:
        # Wrong use: the question itself could not be understood.
        raise CommandFailed(error.failure.message) from error
