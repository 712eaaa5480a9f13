"""Alerts as a receiver of webhooks meets them: signed, the first at once, the rest together, tried again."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.observability import alerts as module
from gateway.observability.alerts import Alerts
from gateway.settings.schema import AlertSettings, BreakerSettings, SettingError
from support.app import A, answered
from support.keys import key_of
from support.process import awaited
from support.scripted_upstream import Request, Script, ScriptedUpstream, json_answer
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
    made = Receiver()
    with made.server.run_in_thread():
        yield made


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
    said: list[str] = []

    async def main() -> None:
        alerts = Alerts(receiver.server.url, SECRET, said.append)
        alerts.raise_alert("breaker_open", "x", "arrives")
        while len(receiver.bodies) < 3:
            await asyncio.sleep(0.02)
        alerts.raise_alert("budget", "x", "is lost")
        while not said:
            await asyncio.sleep(0.02)
        await alerts.stop()

    asyncio.run(main())
    assert [body["message"] for body in receiver.bodies] == ["arrives"] * 3 + ["is lost"] * 3
    assert said == ["alerts: the webhook could not be reached: status 500; dropped: is lost"]


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
        scripted.plays(json_answer(500, {"message": "no"}))
        for _ in range(2):
            assert scripted.gateway.chat().status >= 500
        awaited(lambda: len(receiver.bodies) == 3)
        assert (receiver.bodies[2]["event"], receiver.bodies[2]["object"]) == ("breaker_open", A)
        scripted.plays(answered())


@pytest.mark.parametrize(
    ("url", "secret", "setting"),
    [("https://hooks.example/x", "", r"alerts\.secret"), ("hooks.example", "s", r"alerts\.url")],
)
def test_alerts_are_signed_or_refused(url: str, secret: str, setting: str) -> None:
    with pytest.raises(SettingError, match=setting):
        Alerts(url, secret, print)
