"""Budgets of months over two real servers whose clocks are a test's: leap days, month ends, clocks that are set back.

They share a database or a Redis, and their clocks differ: one turns to the next month before the other.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

from gateway.virtual_keys import BudgetWindow
from support.app import CHAT, MASTER_KEY, A, answered
from support.keys import add, key_of, secret_of
from support.process import process
from support.redis_server import redis_process
from support.scripted_upstream import ScriptedUpstream
from support.waiting import WAIT_SECONDS
from test_limits_processes import PRICE
from test_serve_key_changes import database

LAUNCHER = (str(Path(__file__).parent / "support" / "gateway_with_clock.py"),)


class Clock:
    """A clock in a file, which a server reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def set(self, text: str) -> None:
        """Sets it to a moment in UTC. Whoever reads it sees the old time or the new one, and nothing between."""
        new = self.path.with_suffix(".new")
        new.write_text(str(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()))
        os.replace(new, self.path)


def call(port: int, id: str) -> tuple[int, str]:
    """Returns the status of a call, three cents each, and what an error says.

    Nobody waits until the call before is settled, so it may still be under way: then the caller comes again.
    """
    body = json.dumps({"model": A, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5})
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("POST", CHAT, body, {"authorization": f"Bearer {secret_of(id)}"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        message = answer.get("error", {}).get("message", "")
        if "under way" not in message or time.monotonic() > deadline:
            return response.status, message


def test_months_end_on_each_clock_and_what_was_spent_in_one_stays_in_it(tmp_path: Path) -> None:
    first, second = Clock(tmp_path / "first"), Clock(tmp_path / "second")
    month = key_of("month", max_budget=0.06, budget_duration="1mo")
    day = key_of("day", budget_limits=[BudgetWindow(max_budget=0.06, budget_duration="1d")])
    with (
        ScriptedUpstream(lambda request: answered()).run_in_thread() as upstream,
        database("sqlite", tmp_path) as shared,
        redis_process() as redis,
    ):
        add(shared.url, month, day)
        environment = {
            "GATEWAY_DATABASE_URL": shared.url,
            "GATEWAY_REDIS_URL": redis.url,
            "GATEWAY_MASTER_KEY": MASTER_KEY,
            "COHERE_API_KEY": "server-key",
            "COHERE_BASE_URL": upstream.url,
            "GATEWAY_PRICES": PRICE,
            "GATEWAY_LIMITS_TIMEOUT": "30",
            "GATEWAY_LOG": "off",
        }
        for clock in (first, second):
            clock.set("2028-02-29 12:00:00")
        with (
            process(program=LAUNCHER, TEST_CLOCK=str(first.path), **environment) as one,
            process(program=LAUNCHER, TEST_CLOCK=str(second.path), **environment) as other,
        ):
            for id in ("month", "day"):
                assert [call(port, id)[0] for port in (one.port, other.port, one.port)] == [200, 200, 429]
                status, message = call(other.port, id)
                assert status == 429 and "$0.06 of $0.06. It begins anew at 2028-03-01 00:00 UTC." in message
            first.set("2028-03-01 00:00:01")
            assert call(one.port, "month")[0] == call(one.port, "day")[0] == 200, "a leap day ends, and its month"
            assert call(other.port, "month")[0] == call(other.port, "day")[0] == 429, "not yet, by its clock"
            first.set("2028-02-29 23:59:00")
            assert call(one.port, "month")[0] == 429, "set back: what was spent in February stays spent"
            for clock in (first, second):
                clock.set("2028-03-31 23:00:00")
            assert [call(port, "month")[0] for port in (other.port, one.port)] == [200, 429], "three cents were March's"
            second.set("2028-04-01 00:00:00")
            status, _ = call(other.port, "month")
            assert status == 200 and call(one.port, "month")[0] == 429
