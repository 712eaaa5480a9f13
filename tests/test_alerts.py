"""Alerts as a receiver of webhooks meets them: signed, the first at once, the rest together, tried again."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.observability import alerts as module
from gateway.observability.alerts import Alerts
from gateway.observability.conditions import Condition, Conditions
from gateway.settings.schema import AlertSettings, BreakerSettings, GlobalLimits, LimitSettings, SettingError
from support.app import MASTER_KEY, R7B, A, answered, gateway_over
from support.keys import add, key_of
from support.process import Process, awaited
from support.scripted_upstream import Request, Script, ScriptedUpstream, json_answer
from support.waiting import WAIT_SECONDS
from test_ledger_durability import PostgresLedger
from test_serve_key_changes import database
from test_serve_limits import limited

SECRET = "a secret of both"


class Receiver:
    """A webhook's receiver. statuses: of its answers, in order; then 204."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.server = ScriptedUpstream(self._answer)

    def _answer(self, request: Request) -> Script:
        return json_answer(self.statuses.pop(0) if self.statuses else 200, {})

    @property
    def bodies(self) -> list[Any]:
        """What came so far. AssertionError unless all of it is signed."""
        for request in self.server.requests:
            signature = hmac.new(SECRET.encode(), request.body, hashlib.sha256).hexdigest()
            assert request.headers.first("x-gateway-signature") == f"sha256={signature}"
        return [json.loads(request.body) for request in self.server.requests]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    with receiver.server.run_in_thread():
        yield receiver


def test_the_first_at_once_and_the_rest_together(receiver: Receiver) -> None:
    async def main() -> None:
        alerts = Alerts(receiver.server.url, SECRET, print, digest=0.5)
        alerts.raise_alert("breaker_open", "one", "one is open", code=1)
        for number in range(5):
            alerts.raise_alert("breaker_open", "two" if number else "three", f"open {number}")
        alerts.raise_alert("key_disabled", "key 1", "another event does not wait")
        while len(receiver.bodies) < 3:
            await asyncio.sleep(0.02)
        alerts.raise_once(("a",), "breaker_open", "one", "once")
        alerts.raise_once(("a",), "breaker_open", "one", "twice")
        while len(receiver.bodies) < 4:
            await asyncio.sleep(0.02)
        await alerts.stop()

    asyncio.run(main())
    first, digest = [body for body in receiver.bodies if body["event"] == "breaker_open"][:2]
    assert set(first) == {"event", "time", "message", "object", "details"}
    assert (first["message"], first["object"], first["details"]) == ("one is open", "one", {"code": 1})
    assert digest["message"] == "5 more since the last alert of this kind"
    assert [(one["object"], one["count"]) for one in digest["details"]["alerts"]] == [("three", 1), ("two", 4)]
    assert [body["message"] for body in receiver.bodies if body["message"] in ("once", "twice")] == ["once"]


def test_a_delivery_that_fails_is_tried_again(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.01, 0.01))
    receiver.statuses = [500, 302, 200, 500, 500, 500]
    messages: list[str] = []

    async def main() -> None:
        alerts = Alerts(receiver.server.url, SECRET, messages.append)
        alerts.raise_alert("breaker_open", "x", "arrives")
        while len(receiver.bodies) < 3:
            await asyncio.sleep(0.02)
        alerts.raise_alert("budget", "x", "is lost")
        while not messages:
            await asyncio.sleep(0.02)
        await alerts.stop()

    asyncio.run(main())
    assert [body["message"] for body in receiver.bodies] == ["arrives"] * 3 + ["is lost"] * 3
    assert messages == ["alerts: the webhook could not be reached: status 500; dropped: is lost"]


def test_a_receiver_that_is_away_and_a_bound_for_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.01,))
    monkeypatch.setattr(module, "MAX_DELIVERIES", 1 - len(module.EVENTS))
    monkeypatch.setattr(module, "MAX_ONCE", 1)
    messages: list[str] = []

    async def main() -> None:
        alerts = Alerts("http://127.0.0.1:9", SECRET, messages.append)
        alerts.raise_once(("a",), "budget", "x", "once")
        alerts.raise_once(("b",), "breaker_open", "x", "once")
        alerts.raise_once(("a",), "key_disabled", "x", "once")
        async with asyncio.timeout(WAIT_SECONDS):
            while len(messages) < 3:
                await asyncio.sleep(0.02)
        await alerts.stop()

    asyncio.run(main())
    assert sorted(messages) == [
        "alerts: the webhook could not be reached: ClientConnectorError; dropped: once",
        *["alerts: too many are waiting to be sent; dropped: once"] * 2,
    ], "of what is sent once so much is remembered, and no more"


def test_what_a_gateway_sends(receiver: Receiver) -> None:
    key = key_of("k", max_budget=12.0, soft_budget=5.0, budget_duration="1d")
    settings = {"alerts": AlertSettings(receiver.server.url, SECRET), "breaker": BreakerSettings(failures=2)}
    with limited(key, **settings) as (scripted, caller):
        assert caller("k").statuses(2) == [200, 200]
        awaited(lambda: len(receiver.bodies) == 2)
        assert {body["event"]: body["object"] for body in receiver.bodies} == {
            "soft_budget": "key k",
            "budget": "key k",
        }
        soft, hard = sorted(receiver.bodies, key=lambda body: -len(body["event"]))
        assert soft["message"] == "The soft budget of key 'k' is spent: $6.00 of $5.00"
        assert hard["message"] == "The budget of key 'k' is spent: $12.00 of $12.00"
        scripted.respond_with(json_answer(500, {"message": "no"}))
        for _ in range(2):
            assert scripted.gateway.chat().status >= 500
        awaited(lambda: len(receiver.bodies) == 3)
        assert (receiver.bodies[2]["event"], receiver.bodies[2]["object"]) == ("breaker_open", A)
        scripted.respond_with(answered())


def test_a_budgets_alert_is_sent_once_for_all_processes_of_a_database(receiver: Receiver, tmp_path: Path) -> None:
    key = key_of("k", max_budget=18.0, soft_budget=5.0)
    url = f"sqlite:///{tmp_path}/gateway.sqlite3"
    settings = {"alerts": AlertSettings(receiver.server.url, SECRET), "database_url": url}
    with limited(**settings) as (_, caller):
        add(url, key)
        assert caller("k").statuses(1) == [200]
        awaited(lambda: len(receiver.bodies) == 1)
    with limited(**settings) as (_, caller):
        assert caller("k").statuses(2) == [200, 200]
        awaited(lambda: receiver.bodies[-1]["event"] == "budget")
    assert [body["event"] for body in receiver.bodies] == ["soft_budget", "budget"]


def test_an_alert_for_whatever_else_an_operator_should_hear_of(receiver: Receiver, tmp_path: Path) -> None:
    """Once for each episode, however many calls meet it, at a receiver that fails the first time."""

    def cohere(request: Request) -> Script:
        if request.path.startswith("/v1/models"):
            return json_answer(200, {"models": [{"name": R7B, "is_deprecated": True, "endpoints": ["chat"]}]})
        if request.headers.first("authorization") == "Bearer bad-key":
            return json_answer(401, {"message": "invalid api token"})
        return answered()

    with database("postgresql", tmp_path) as shared, ScriptedUpstream(cohere).run_in_thread() as upstream:
        settings: dict[str, Any] = {
            "cohere_api_key": ["bad-key", "good-key"],
            "master_key": MASTER_KEY,
            "database_url": shared.url,
            "global_limits": GlobalLimits(rpm_limit=10**6),
            "limits": LimitSettings(timeout=20.0),
            "alerts": AlertSettings(receiver.server.url, SECRET),
        }

        def objects_of(event: str) -> list[str]:
            return [body["object"] for body in receiver.bodies if body["event"] == event]

        with gateway_over(upstream.url, key=MASTER_KEY, **settings) as gateway:
            receiver.statuses = [503]
            for model in (A, A, R7B, "command-r-plus"):
                assert gateway.chat(model=model).status == 200
            awaited(lambda: len(objects_of("key_disabled")) == 2)
            assert len({json.dumps(body) for body in receiver.bodies if body["event"] == "key_disabled"}) == 1, "again"

            def both_models() -> bool:
                # The list is read beside the first request.
                assert gateway.chat(model=R7B).status == 200
                return objects_of("deprecated_model") != []

            awaited(both_models)
            with PostgresLedger(shared.url, tmp_path).away(cast(Process, None)):
                for _ in range(6):
                    assert gateway.chat().status == 200
                awaited(lambda: all(map(objects_of, ("store_away", "ledger_behind", "limits_degraded"))), 60)
        objects = {event: objects_of(event) for event in ("store_away", "ledger_behind", "limits_degraded")}
        assert objects == {"store_away": ["keys"], "ledger_behind": ["ledger"], "limits_degraded": ["limits"]}
        assert objects_of("deprecated_model")[0] in (f"model {R7B}", "model command-r-plus"), "the others come together"


def test_a_condition_is_an_episode(receiver: Receiver) -> None:
    reasons = [""]

    async def main() -> None:
        alerts = Alerts(receiver.server.url, SECRET, print, digest=0.05)
        conditions = Conditions(alerts, [Condition("store_away", "keys", lambda: reasons[0])])
        for reason in ("", "gone", "gone", "gone still", "", "gone again"):
            reasons[0] = reason
            conditions.look()
            await asyncio.sleep(0.2)
        while len(receiver.bodies) < 2:
            await asyncio.sleep(0.02)
        await alerts.stop()

    asyncio.run(main())
    assert [body["message"] for body in receiver.bodies] == ["gone", "gone again"]


@pytest.mark.parametrize(
    ("url", "secret", "setting"),
    [("https://hooks.example/x", "", r"alerts\.secret"), ("hooks.example", "s", r"alerts\.url")],
)
def test_alerts_are_signed_or_refused(url: str, secret: str, setting: str) -> None:
    with pytest.raises(SettingError, match=setting):
        Alerts(url, secret, print)
