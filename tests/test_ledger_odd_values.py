"""What nobody expects in a row or in a question: absurd numbers, names of every kind, filters that are no filters.

Each through the real server, on both databases.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy.exc import DBAPIError

from gateway.ledger.entry import MAX_COUNT
from gateway.settings.schema import LedgerSettings
from gateway.store import ledger_pages
from gateway.store.database import Database
from gateway.store.errors import StoreError
from support import databases
from support.app import CHAT, MASTER_KEY, SERVER_KEY, A, Harness, Response, answered, run_harness, whole
from support.scripted_upstream import json_answer
from support.waiting import WAIT_SECONDS
from test_ledger_store import entry, insert

HELLO = [{"role": "user", "content": "Hello"}]


@dataclass
class Operator:
    """Who runs a gateway with a ledger, and looks into it."""

    harness: Harness

    def ask(self, verb: str, path: str, body: Any = None, **headers: str) -> Response:
        usual = {"authorization": f"Bearer {MASTER_KEY}", "content-type": "application/json"}
        return self.harness.gateway.ask(verb, path, body, usual | headers)

    def get(self, path: str, **query: str) -> Response:
        return self.ask("GET", f"{path}?{urlencode(query)}")

    def row_of(self, response: Response) -> dict[str, Any]:
        """The row of a call, which is written a moment after its answer."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (rows := self.get("/audit", request_id=response.headers["x-request-id"]).body["data"]):
            assert time.monotonic() < deadline, self.harness.gateway.log.lines[-3:]
            time.sleep(0.01)
        return dict(rows[0])


@pytest.fixture(scope="module", params=databases.KINDS)
def operator(request: pytest.FixtureRequest) -> Iterator[Operator]:
    with tempfile.TemporaryDirectory() as folder, databases.throwaway_url(request.param, Path(folder)) as url:
        settings = LedgerSettings(flush_seconds=0.01)
        values: Mapping[str, Any] = {"cohere_api_key": [SERVER_KEY], "master_key": MASTER_KEY, "database_url": url}
        with run_harness(key=MASTER_KEY, ledger=settings, **values) as harness:
            yield Operator(harness)


# amount of Cohere's, units and tokens of the row
AMOUNTS: dict[str, tuple[int | float, int | float, int]] = {
    "past JSON's numbers": (2**53 + 1, MAX_COUNT, MAX_COUNT),
    "past a database's": (2**63, MAX_COUNT, MAX_COUNT),
    "past all": (10**30, MAX_COUNT, MAX_COUNT),
    "a float past all": (1e300, MAX_COUNT, MAX_COUNT),
    "a part": (1.5, 1.5, 1),
    "below nothing": (-5, 0, 0),
}


@pytest.mark.parametrize("path", [CHAT, "/cohere/v2/chat"])
@pytest.mark.parametrize(("amount", "units", "tokens"), AMOUNTS.values(), ids=list(AMOUNTS))
def test_a_row_has_numbers_that_sums_can_hold(
    amount: float, units: float, tokens: int, path: str, operator: Operator
) -> None:
    names = ("input_tokens", "search_units", "a_unit_of_tomorrow")
    counted = {"input_tokens": amount, "output_tokens": amount}
    usage = {"billed_units": dict.fromkeys(names, amount), "tokens": counted, "cached_tokens": amount}
    operator.harness.respond_with(json_answer(200, json.dumps(whole(usage=usage)).encode()))
    row = operator.row_of(operator.ask("POST", path, {"model": A, "messages": HELLO}))
    assert row["units"] == dict.fromkeys(names, units)
    assert [row["tokens"][name] for name in ("input", "output", "cached")] == [tokens] * 3
    (group,) = operator.get("/usage", by="model", model=A, since="1h").body["data"]
    assert type(group["tokens"]["input"]) is type(group["units"].get("input_tokens", 0)) is int
    assert operator.get("/user/daily/activity").status == operator.get("/spend/logs").status == 200
    rows = {series for series in operator.harness.gateway.metrics() if series.startswith("gateway_ledger_rows_total")}
    assert rows == {'gateway_ledger_rows_total{result="written"}'}


NAMES = {
    "joined letters": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "a family": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "letters of both cases": "\u00c9quipe \u0130 \u00df",
    "wildcards": "100%_of\\it",
    "a formula": "=1+1",
    "lines": "one\ntwo\r\tthree",
    "very long": "n" * 300,
    "quotes": "'\"; DROP TABLE ledger; --",
    "backwards": "\u202egpj.exe",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
def test_what_callers_wrote_is_found_by_it(name: str, operator: Operator) -> None:
    operator.harness.respond_with(answered())
    metadata = {"tags": [name], "note": name}
    response = operator.ask("POST", CHAT, {"model": A, "messages": HELLO, "user": name, "metadata": metadata})
    row = operator.row_of(response)
    assert "".join(row["end_user"]).isprintable()
    for query in ({"end_user": name}, {"tag": row["tags"][0]}, {"metadata": f"note={name}"}):
        rows = operator.get("/audit", **query).body["data"]
        assert [one["id"] for one in rows] == [row["id"]], query
    assert operator.get("/usage", by="end_user", end_user=name).body["data"][0]["calls"] == 1
    assert [one["end_user"] for one in operator.get("/spend/logs", end_user=name).body] == [row["end_user"]]
    table = operator.get("/usage", by="end_user", format="csv").data.decode()
    assert "\n=1+1" not in table


def test_a_text_is_found_in_a_sentence_as_it_is_written(operator: Operator) -> None:
    operator.harness.respond_with(answered())
    model = "\u00c9quipe_100%"
    row = operator.row_of(operator.ask("POST", "/cohere/v2/chat", {"model": model, "messages": HELLO}))
    assert model in row["sentence"]
    for text in (model, "QUIPE_100%", "_100%", "with \u00c9"):
        assert [one["id"] for one in operator.get("/audit", text=text).body["data"]] == [row["id"]], text
    for text in ("quipe%100", "quipe-100"):
        assert not operator.get("/audit", text=text).body["data"]


ODD = (
    *("", "\0", "a\0b", "x" * 7_000, "\u65e5\u672c", "%", "\\", "'", "\n", "null", "-1", "inf", "1e5"),
    *("9" * 12, "9" * 30, "2026-13-45", "0001-01-01", "9999-12-31", "\u0663", "999999d", "2026-11-30T10:00:00+24:00"),
)
AUDIT = "key tag metadata status request_id id min_cost slower_than text since cursor limit".split()
QUESTIONS = (
    *(("/audit", name) for name in AUDIT),
    *(("/usage", name) for name in ("by", "key", "end_user", "until")),
    *(("/spend/logs/v2", name) for name in ("start_date", "page", "end_user")),
    *(("/audit/newer", "cursor"), ("/audit/export", "min_cost"), ("/global/spend/keys", "limit")),
)


@pytest.mark.parametrize(("path", "name"), QUESTIONS)
def test_a_question_is_answered_or_refused(path: str, name: str, operator: Operator) -> None:
    for odd in ODD:
        response = operator.get(path, **{name: odd})
        assert response.status in (200, 400), (odd[:20], response)


@pytest.mark.parametrize("path", ["/audit", "/usage", "/audit/export"])
def test_a_time_that_ends_before_it_begins_is_refused(path: str, operator: Operator) -> None:
    response = operator.get(path, since="2026-11-30", until="2026-11-01")
    assert (response.status, response.error["param"]) == (400, "until")


def test_so_many_things_to_sum_by(operator: Operator) -> None:
    operator.harness.respond_with(answered())
    operator.row_of(operator.ask("POST", CHAT, {"model": A, "messages": HELLO}))
    (row,) = operator.get("/usage", by=",".join(["key"] * 900), since="1h").body["data"]
    assert row["key"] == "master"


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", databases.KINDS)
async def test_a_row_that_a_database_refuses_is_no_failure_of_the_database(kind: str, tmp_path: Path) -> None:
    """Or it would go to the spool file, and all that come after it, and be tried again for ever."""
    async with databases.throwaway(kind, tmp_path) as url:
        database = Database(url, 30, 1)
        for bad in (entry(1, cost_nanodollars=2**63), entry(2, units={"input_tokens": 2**63})):
            with pytest.raises((OverflowError, DBAPIError, ValueError)) as raised:
                await insert(database, [bad])
            assert not isinstance(raised.value, StoreError)
        assert await insert(database, [entry(3)]) == 1
        page = await database.read(lambda connection: ledger_pages.page(connection, ledger_pages.Filter(), None, 10))
        assert len(page.entries) == 1
        await database.close()
