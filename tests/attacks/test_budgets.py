"""Budgets under attack: whatever becomes of a request, it pays what it took, and what it held is free again."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from websockets.sync.client import connect

from bench.limits import NoDatabase
from gateway.auth.credentials import Credential
from gateway.auth.principal import Principal
from gateway.cohere_methods import named
from gateway.errors import CallerError
from gateway.ledger.prices import Prices
from gateway.limits.limiter import LimitedRequest, Limiter
from gateway.limits.process_counters import ProcessCounters
from gateway.limits.stored_budgets import StoredBudgets
from gateway.observability.alerts import Alerts
from gateway.observability.metrics import Metrics
from gateway.observability.record import RequestRecord
from gateway.settings.schema import CacheSettings, LimitSettings, ModelPrice, Models, Settings
from gateway.virtual_keys import VirtualKey
from support.app import CHAT, R7B, REASONING, A, answered, opened, piece, start, streamed
from support.keys import add, key_of, secret_of
from support.process import awaited
from support.scripted_upstream import Chunk, Cut, Head, Pause, Script, Signal, json_answer, transcript
from support.waiting import WAIT_SECONDS
from test_serve_key_changes import database
from test_serve_limits import EMBEDDED, PRICES, Caller, Limited, limited
from translators.core.contracts import UsageTotals, Workload

KEY = key_of("k", max_budget=1e6, max_parallel_requests=1, rpm_limit=10**6)
EVENTS = Head(200, (("content-type", "text/event-stream"),))
BEGUN = transcript(start(), opened(), piece("Hi"), piece(" there"), done=False)
FAILED = json_answer(500, {"message": "no"})


@pytest.fixture(scope="module")
def harness() -> Iterator[Limited]:
    prices = {**PRICES, "embed-v4.0": ModelPrice(input=1e6), REASONING: ModelPrice(input=1e6, output=1e6)}
    fallbacks = Models(fallbacks={REASONING: [R7B]}, cache_seconds=0)
    with limited(KEY, cache=CacheSettings("memory"), prices=prices, models=fallbacks) as running:
        yield running


def spent(limits: Limited) -> float:
    """Dollars, as the last request that paid has left them."""
    rows = limits[0].gateway.metrics().items()
    return sum(value for series, value in rows if series.startswith("gateway_budget_spent_usd{") and '"k"' in series)


Scenario = Callable[[Limited, Caller], object]


def ask(script: Sequence[Script], **fields: Any) -> Scenario:
    def scenario(limits: Limited, caller: Caller) -> object:
        limits[0].respond_with(*script)
        return caller.chat(**{"temperature": 0.7, **fields})

    return scenario


def native(script: Script, stream: bool) -> Scenario:
    def scenario(limits: Limited, caller: Caller) -> object:
        limits[0].respond_with(script)
        body = {"model": A, "messages": [{"role": "user", "content": "Hi"}], "stream": stream, "max_tokens": 5}
        return caller.ask("POST", "/cohere/v2/chat", body)

    return scenario


def leaves(script: Script, stream: bool, sees: bytes) -> Scenario:
    """The caller reads until this has come, and closes the connection."""

    id = f"leaver-{stream}"

    def scenario(limits: Limited, caller: Caller) -> None:
        limits[0].respond_with(script)
        body = json.dumps(
            {"model": A, "messages": [{"role": "user", "content": "Hi"}], "stream": stream, "max_tokens": 5}
        ).encode()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret_of('k')}\r\nx-request-id: {id}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(limits[0].gateway.address, WAIT_SECONDS) as connection:
            connection.sendall(head.encode() + body)
            received = b""
            while sees not in received:
                received += connection.recv(65536)
            awaited(lambda: bool(limits[0].upstream.requests))
        assert limits[0].gateway.log.line_of(id)["outcome"] == "client_closed"

    return scenario


def cached(limits: Limited, caller: Caller) -> None:
    limits[0].respond_with(answered())
    assert [caller.chat(temperature=0).headers["x-gateway-cache"] for _ in range(3)] == ["miss", "hit", "hit"]


def embeds(limits: Limited, caller: Caller) -> None:
    limits[0].respond_with(EMBEDDED)
    response = caller.ask(
        "POST", "/v1/embeddings", {"model": "embed-v4.0", "input": ["x"] * 200, "encoding_format": "float"}
    )
    assert len(limits[0].upstream.requests) == 3, response


def two_turns(limits: Limited, caller: Caller) -> None:
    limits[0].respond_with(streamed())
    address = caller.gateway.url.replace("http", "ws") + "/v1/responses"
    headers = {"authorization": f"Bearer {secret_of('k')}"}
    with connect(address, additional_headers=headers, compression=None, proxy=None) as connection:
        for _ in range(2):
            connection.send(json.dumps({"type": "response.create", "model": A, "input": "Hi"}))
            while json.loads(connection.recv(timeout=WAIT_SECONDS))["type"] != "response.completed":
                pass


NEVER = Signal()
SCENARIOS: tuple[tuple[str, Scenario, float, float], ...] = (
    ("whole", ask([answered()]), 6, 6),
    ("streamed", ask([streamed()], stream=True), 6, 6),
    ("three choices", ask([answered()], n=3), 18, 18),
    ("a failure of Cohere's", ask([FAILED]), 0, 0),
    ("a stream that Cohere cuts", ask([(EVENTS, Chunk(BEGUN), Pause(0.05), Cut())], stream=True), 2, 40),
    ("a caller who leaves a stream", leaves((EVENTS, Chunk(BEGUN), Pause(NEVER)), True, b"there"), 2, 40),
    ("a caller who leaves before the head", leaves((Pause(NEVER),), False, b""), 5, 40),
    ("out of the cache", cached, 6, 6),
    ("another model answers", ask([FAILED, answered()], model=REASONING), 0.6, 0.6),
    ("embeddings in parts", embeds, 9, 9),
    ("two turns on a WebSocket", two_turns, 12, 12),
    ("native", native(answered(), False), 6, 6),
    ("native, streamed", native(streamed(), True), 6, 6),
)


@pytest.mark.parametrize(("name", "scenario", "least", "most"), SCENARIOS, ids=[row[0] for row in SCENARIOS])
def test_each_scenario_pays_what_it_took(
    harness: Limited, name: str, scenario: Scenario, least: float, most: float
) -> None:
    caller = harness[1]("k")
    before = spent(harness)
    scenario(harness, caller)
    paid = spent(harness) - before
    assert least - 1e-6 <= paid <= most + 1e-6, f"{name}: {paid}"
    harness[0].respond_with(answered())
    assert caller.chat(temperature=0.9).status == 200, "only one may be under way, so nothing of it is left"


# --- windows and edits ----------------------------------------------------------------------------------------


class Calls:
    """A limiter whose clock is the test's."""

    def __init__(self, now: str) -> None:
        self.set_clock(now)
        counters = ProcessCounters(cast(StoredBudgets, NoDatabase()), print)
        metrics, alerts = Metrics(lambda model: True, ()), Alerts("", "", print)
        prices = Prices({A: ModelPrice(input=1e6, output=1e6)})
        self.limiter = Limiter(Settings(), counters, prices, lambda id: None, metrics, alerts, lambda: self.now)

    def set_clock(self, now: str) -> None:
        self.now = datetime.fromisoformat(now).replace(tzinfo=UTC).timestamp()

    def begin(self, key: VirtualKey) -> tuple[RequestRecord, LimitedRequest | None]:
        principal = Principal("x", "x", False, Credential(), key=key)
        record = RequestRecord("r", "POST", "/", 0.0, principal=principal, model=A)
        return record, asyncio.run(self.limiter.reserve(record, named("v2.chat"), Workload(A, 4, 5)))

    def end(self, call: tuple[RequestRecord, LimitedRequest | None], dollars: int) -> None:
        record, limited_request = call
        assert limited_request is not None
        record.add_usage(UsageTotals("stop", 1, dollars, {"output_tokens": dollars}), dollars * 10**9, "version")
        self.limiter.settle(limited_request, record, failed=False)

    def refused(self, key: VirtualKey) -> str:
        with pytest.raises(CallerError) as raised:
            self.begin(key)
        return raised.value.failure.message


def test_a_stream_over_the_end_of_a_month_is_paid_from_the_month_in_which_it_began() -> None:
    key = key_of("k", max_budget=20.0, budget_duration="1mo")
    calls = Calls("2028-02-29 23:59:50")
    stream = calls.begin(key)
    calls.set_clock("2028-03-01 00:00:05")
    first = calls.begin(key)
    calls.end(first, 15)
    calls.end(stream, 19)
    last = calls.begin(key)
    calls.end(last, 5)
    assert "$20.00 of $20.00. It begins anew at 2028-04-01" in calls.refused(key), "15 and 5; the 19 are February's"


def test_a_clock_that_jumps_back_over_the_end_of_a_month_gives_no_second_budget() -> None:
    key = key_of("k", max_budget=10.0, budget_duration="1mo")
    calls = Calls("2026-12-01 00:00:10")
    calls.end(calls.begin(key), 10)
    calls.set_clock("2026-11-30 23:30:00")
    calls.refused(key)
    calls.set_clock("2026-12-01 00:30:00")
    calls.refused(key)


def test_a_budget_that_is_edited_while_it_is_used() -> None:
    calls = Calls("2026-11-30 12:00:00")
    small, large, closed = (key_of("k", max_budget=dollars, budget_duration="1d") for dollars in (10.0, 30.0, 5.0))
    under_way = calls.begin(small)
    calls.end(calls.begin(large), 12)
    calls.end(under_way, 12)
    calls.end(calls.begin(large), 6)
    assert "$30.00 of $30.00" in calls.refused(large), "what was begun under the old limit counts under the new one"
    assert "of $5.00" in calls.refused(closed)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_enormous_limit_is_none(kind: str, tmp_path: Path) -> None:
    """Not more than a database can count: it would be taken for one that is away."""
    keys = [key_of("k", max_budget=1e250, rpm_limit=2**62, tpm_limit=2**62)]
    with database(kind, tmp_path) as shared:
        add(shared.url, *keys)
        with limited(database_url=shared.url, workers=2, limits=LimitSettings(timeout=20.0)) as (scripted, caller):
            assert caller("k").statuses(3, max_tokens=4000) == [200] * 3
            assert scripted.gateway.metrics()["gateway_limits_degraded"] == 0
