"""Reports at their bounds: pages that are just full, periods of just a day, and more sums than a report has.

The database is a list of answers, but for what a test inserts. What reports say of real rows is in
`test_serve_reports.py`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.ledger import exports, litellm_reports, report_query, reports
from gateway.ledger.entry import encode_entry
from gateway.ledger.report_query import Names
from gateway.ledger.reports import Report
from gateway.store import ledger
from gateway.store.database import Database
from gateway.store.keys import Change
from gateway.store.ledger import MICROSECONDS
from gateway.store.ledger_pages import NEWER_ROWS, Filter, Page, Position
from gateway.store.ledger_sums import DAY, SUMMED
from gateway.virtual_keys import Team
from support.databases import throwaway
from test_ledger_store import NOW, entry, insert
from translators.core.errors import InvalidField

MIDNIGHT = NOW // DAY * DAY


class Answers:
    """A database that gives these answers, one after the other."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    async def read(self, work: Any) -> Any:
        return self._answers.pop(0)


class Changes:
    """What was changed, and for what it was asked."""

    def __init__(self, *changes: Change) -> None:
        self.changes, self.wanted = changes, Filter()

    async def __call__(self, wanted: Filter, before: Position | None, limit: int) -> Sequence[Change]:
        self.wanted = wanted
        return self.changes


def report(
    query: Mapping[str, str],
    *answers: Any,
    changes: Changes | None = None,
    names: Names | None = None,
    reader: Database | None = None,
) -> Report:
    """reader: a real database, in the place of the answers."""
    return Report(reader or Answers(*answers), changes or Changes(), names or Names(), query, float(NOW))


def sums(**fields: Any) -> dict[str, Any]:
    """A sum of one call."""
    return {**dict.fromkeys(SUMMED, 0), "calls": 1, **fields}


def change(number: int, at: float) -> Change:
    return Change(number, at, "admin", "127.0.0.1", "created", "key", f"key_{number}", None, b'{"key_alias": "agent"}')


# --- LiteLLM's pages ------------------------------------------------------------------------------------------

ROWS = [encode_entry(entry(number)) for number in range(3)]


@pytest.mark.asyncio
async def test_the_last_page_of_spend_logs_counts_all_rows() -> None:
    query = {"page": "2", "page_size": "2"}
    page = await litellm_reports.spend_logs_page(report(query, Page(ROWS, None)))
    assert [row["request_id"] for row in page["data"]] == ["req-2"]
    assert (page["total"], page["page"], page["page_size"], page["total_pages"]) == (3, 2, 2, 2)


@pytest.mark.asyncio
async def test_a_page_of_one_request_says_that_there_are_more() -> None:
    """No sum counts the rows of a request id: one more than those that were read is known of."""
    following = Position(entry(2).at, entry(2).id)
    query = {"request_id": "r", "page": "1", "page_size": "3"}
    page = await litellm_reports.spend_logs_page(report(query, Page(ROWS, following)))
    assert (len(page["data"]), page["total"], page["total_pages"]) == (3, 4, 2)


@pytest.mark.asyncio
async def test_pages_of_spend_logs_end_at_their_bound() -> None:
    most = litellm_reports.MAX_ROWS
    for size in (100, 1000):
        last = {"page": str(most // size), "page_size": str(size)}
        assert (await litellm_reports.spend_logs_page(report(last, Page([], None))))["data"] == []
        with pytest.raises(InvalidField) as refused:
            await litellm_reports.spend_logs_page(report({**last, "page": str(most // size + 1)}))
        assert refused.value.failure.param == "page"


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_the_total_counts_the_rows_that_there_are(kind: str, tmp_path: Path) -> None:
    """Without dates all of them, however old; and no calls whose rows have been deleted, of which sums are left."""
    query = {"page": "1", "page_size": "4"}
    dates = {"start_date": "2020-01-01", "end_date": str(NOW)}
    async with throwaway(kind, tmp_path) as url:
        database = Database(url, 30, 2)
        assert (await litellm_reports.spend_logs_page(report(query, reader=database)))["total"] == 0
        for days, count in ((90, 7), (60, 5), (0, 3)):
            await insert(database, [entry(number, NOW - days * DAY) for number in range(count)])
        for deleted_days, total in ((100, 15), (75, 8)):
            while await database.write(lambda c, days=deleted_days: ledger.delete_old(c, NOW - days * DAY)):  # type: ignore[misc]
                pass
            for one in (query, query | dates):
                assert (await litellm_reports.spend_logs_page(report(one, reader=database)))["total"] == total
        await database.close()


# --- LiteLLM's sums -------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(("group", "plural"), [("api_key", "api_keys"), ("team", "teams")])
async def test_the_usage_of_a_key_is_that_of_all_its_teams(group: str, plural: str) -> None:
    """Two teams may have one name, and a key may change its team."""
    teams = {id: Team(team_id=id, team_alias="search") for id in ("team_1", "team_2")}
    rows = [
        sums(start=MIDNIGHT, team_id=id, key_id="key_1", model="m", cost=cost, calls=2, input=3, output=cost)
        for id, cost in (("team_1", 1_000), ("team_2", 500))
    ]
    (day,) = await litellm_reports.global_spend_report(report({"group_by": group}, rows, names=Names(teams=teams)))
    (one,) = day[plural]
    (used,) = one["keys"]
    assert used["usage"] == {"m": {"cost": 0.0000015, "input_tokens": 6, "output_tokens": 1_500, "requests": 4}}
    assert one["spend"] == 0.0000015


@pytest.mark.asyncio
async def test_calls_without_a_key_take_no_place_among_keys() -> None:
    for serve, name in ((litellm_reports.global_spend_keys, "key_id"), (litellm_reports.global_spend_models, "model")):
        rows = [sums(**{name: value}, cost=cost) for value, cost in (("a", 3), ("", 2), ("b", 1), ("c", 0))]
        answer = await serve(report({"limit": "2"}, rows))
        assert [row.get("api_key", row.get("model")) for row in answer] == ["a", "b"]


@pytest.mark.parametrize(("cache", "expected"), [(None, ""), ("hit", "True"), ("miss", "False"), ("off", "False")])
def test_what_litellm_says_of_the_cache(cache: str | None, expected: str) -> None:
    assert litellm_reports.log_row(replace(entry(1), cache=cache), Names())["cache_hit"] == expected


# --- /audit and /usage ----------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_changes_are_newer_than_a_cursor_by_a_microsecond() -> None:
    after = Position(NOW * MICROSECONDS, "id")
    query = {"cursor": report_query.cursor_text(after) or ""}
    changes = Changes(change(1, NOW + 1))
    assert await reports.audit_newer(report(query, 2, changes=changes)) == {"count": 3, "more": False}
    assert changes.wanted.since == after.at + 1
    assert await reports.audit_newer(report({**query, "text": "AGENT"}, 2, changes=changes)) == {
        "count": 3,
        "more": False,
    }
    assert await reports.audit_newer(report({**query, "text": "nowhere"}, 2, changes=changes)) == {
        "count": 2,
        "more": False,
    }
    full = await reports.audit_newer(report(query, NEWER_ROWS - 1, changes=changes))
    assert full == {"count": NEWER_ROWS, "more": True}


@pytest.mark.asyncio
async def test_a_page_of_changes_that_is_just_full_has_no_page_after_it() -> None:
    changes = [change(number, NOW - number) for number in range(3)]
    page = await reports.audit(report({"kind": "change", "limit": "3"}, changes=Changes(*changes)))
    assert [row["object"]["id"] for row in page["data"]] == ["key_0", "key_1", "key_2"] and page["next_cursor"] is None
    page = await reports.audit(report({"kind": "change", "limit": "2"}, changes=Changes(*changes)))
    assert [row["object"]["id"] for row in page["data"]] == ["key_0", "key_1"] and page["next_cursor"]


@pytest.mark.asyncio
async def test_as_many_sums_as_a_report_has_are_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_GROUPS", 2)
    several = [sums(model=f"m{number}") for number in range(3)]
    for count, more in ((2, False), (3, True)):
        usage = await reports.usage(report({"by": "model"}, several[:count]))
        assert (len(usage["data"]), usage["more"]) == (2, more)
    by_day = [sums(start=MIDNIGHT - number * DAY) for number in range(3)]
    assert len((await reports.usage(report({"by": "day"}, by_day[:2])))["data"]) == 2
    with pytest.raises(InvalidField, match="more than 2 sums"):
        await reports.usage(report({"by": "day"}, by_day))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("by", "since", "until", "counted"),
    [
        ("key", MIDNIGHT - DAY, MIDNIGHT, True),
        ("key", MIDNIGHT - DAY + 3600, MIDNIGHT, False),
        ("key", MIDNIGHT - DAY, MIDNIGHT - 3600, False),
        ("key,hour", MIDNIGHT - DAY, MIDNIGHT, False),
        ("end_user", MIDNIGHT - DAY, MIDNIGHT, False),
        ("model", MIDNIGHT - DAY + 3600, MIDNIGHT - 3600, True),
        ("model,hour", MIDNIGHT - DAY, MIDNIGHT, True),
    ],
)
async def test_latencies_of_keys_are_counted_by_whole_days(by: str, since: int, until: int, counted: bool) -> None:
    query = {"by": by, "since": str(since), "until": str(until), "latency": "true"}
    if counted:
        assert (await reports.usage(report(query, [])))["data"] == []
        return
    with pytest.raises(InvalidField) as refused:
        await reports.usage(report(query))
    assert refused.value.failure.param == "latency"


@pytest.mark.asyncio
async def test_an_empty_page_begins_now() -> None:
    page = await reports.audit(report({}, Page([], None)))
    cursor = report_query.cursor_of({"cursor": page["newest_cursor"]})
    assert cursor == Position(NOW * MICROSECONDS, "") and page["next_cursor"] is None


@pytest.mark.asyncio
async def test_a_file_has_metadata_as_json_and_nothing_where_there_is_none() -> None:
    rows = [encode_entry(entry(1, metadata={"project": "apollo"}, units={"pages": 2, "moons": 3})), ROWS[0]]
    (part,) = [part async for part in exports.export(report({"kind": "call"}, Page(rows, None)))]
    first, second = csv.DictReader(io.StringIO(part.decode()))
    assert (first["metadata"], first["units.pages"], first["units.other"]) == (
        '{"project":"apollo"}',
        "2",
        '{"moons":3}',
    )
    assert (second["metadata"], second["units.pages"], second["units.other"]) == ("", "", "")
