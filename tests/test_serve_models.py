"""The list of models as it is served: kept for a while and per key, longer while Cohere is down, and filtered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.settings.schema import Models
from gateway.upstream import model_catalog
from support.app import CALLER_KEY, A, Gateway, Harness, Response, run_harness
from support.scripted_upstream import Cut, Head, Pause, Script, Signal, json_answer

FRESH = 300.0


def page(*names: str, **more: Any) -> Script:
    return json_answer(200, {"models": [{"name": name, "endpoints": ["chat"]} for name in names], **more})


class Clock:
    """The catalogue's time, which passes when a test says so."""

    def __init__(self) -> None:
        self.now = 10_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(model_catalog, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def harness(clock: Clock) -> Iterator[Harness]:
    with run_harness(models=Models(cache_seconds=FRESH)) as harness:
        yield harness


def ids(response: Response) -> list[str]:
    assert response.status == 200, response
    return [model["id"].removeprefix("cohere/") for model in response.body["data"]]


def listed(harness: Harness, key: str = CALLER_KEY, query: str = "") -> Response:
    return harness.gateway.ask("GET", f"/v1/models{query}", headers={"authorization": f"Bearer {key}"})


def notes(response: Response) -> str:
    return response.headers.get("x-gateway-notes", "")


def test_the_list_is_requested_once_and_again_when_it_is_old(harness: Harness, clock: Clock) -> None:
    harness.respond_with(page("a"), page("b"))
    assert ids(listed(harness)) == ids(listed(harness)) == ["a"]
    assert harness.gateway.ask("GET", "/v1/models/cohere/a").status == 200
    clock.now += FRESH - 1
    assert ids(listed(harness)) == ["a"]
    clock.now += 2
    assert ids(listed(harness)) == ["b"]
    assert len(harness.upstream.requests) == 2


def test_each_key_has_its_own_list(harness: Harness) -> None:
    harness.respond_with(page("a"), page("b"), page("c"))
    assert (ids(listed(harness, "one")), ids(listed(harness, "two"))) == (["a"], ["b"])
    assert (ids(listed(harness, "one")), ids(listed(harness, "two"))) == (["a"], ["b"])
    requests = [request.headers.first("authorization") for request in harness.upstream.requests]
    assert requests == ["Bearer one", "Bearer two"]


def test_a_key_that_cohere_refuses_sees_no_list(harness: Harness, clock: Clock) -> None:
    harness.respond_with(page("a"), json_answer(401, {"message": "invalid api token"}))
    assert ids(listed(harness, "good")) == ["a"]
    assert listed(harness, "bad").status == 401
    clock.now += FRESH + 1
    assert listed(harness, "good").status == 401, "a key that was withdrawn has no list any longer"


DOWN = {
    "503": json_answer(503, {"message": "service unavailable"}),
    "429": json_answer(429, {"message": "Please wait and try again later"}),
    "html": json_answer(502, b"<html>"),
    "no list": json_answer(200, b"[]"),
    "cut": (Head(200, (("content-type", "application/json"),), "length", 100), Cut()),
}


@pytest.mark.parametrize("down", DOWN.values(), ids=DOWN)
def test_an_old_list_is_served_while_cohere_is_down(harness: Harness, clock: Clock, down: Script) -> None:
    harness.respond_with(page("a"), down, page("b"))
    assert notes(listed(harness)) == ""
    clock.now += FRESH + 60
    response = listed(harness)
    assert ids(response) == ["a"]
    assert notes(response).startswith(f"models as of {FRESH + 60:.0f} seconds ago (")
    assert "seconds ago" in notes(harness.gateway.ask("GET", "/v1/models/cohere/a"))
    assert len(harness.upstream.requests) == 2, "who has just failed is not asked again at once"
    clock.now += model_catalog.REFRESH_INTERVAL + 1
    response = listed(harness)
    assert (ids(response), notes(response)) == (["b"], "")


def test_without_an_old_list_the_failure_is_reported(harness: Harness) -> None:
    harness.respond_with(DOWN["503"], page("a"))
    assert listed(harness).error["code"] == "upstream_unavailable"
    assert ids(listed(harness)) == ["a"]


def test_nobody_waits_long_where_there_is_an_old_list(
    harness: Harness, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the new one, which comes after all, is there for the next."""
    monkeypatch.setattr(model_catalog, "REFRESH_TIMEOUT", 0.05)
    late = Signal()

    harness.respond_with(page("a"), (Pause(late), *page("b")))
    listed(harness)
    clock.now += FRESH + 1
    response = listed(harness)
    assert ids(response) == ["a"] and "upstream_timeout" in notes(response)
    late.set()
    for _ in range(200):
        clock.now += model_catalog.REFRESH_INTERVAL + 1
        if ids(response := listed(harness)) == ["b"]:
            break
    assert (ids(response), notes(response)) == (["b"], "")
    assert len(harness.upstream.requests) == 2


def test_many_who_ask_at_once_ask_cohere_once(harness: Harness) -> None:
    together = Signal()
    harness.respond_with((Pause(together), *page("a")))
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(listed, harness) for _ in range(8)]
        while not harness.upstream.requests:
            time.sleep(0.01)
        together.set()
        assert [ids(one.result()) for one in waiting] == [["a"]] * 8
    assert len(harness.upstream.requests) == 1


def test_all_pages_are_read_and_a_list_in_a_circle_ends(harness: Harness) -> None:
    harness.respond_with(page("a", next_page_token="2"), page("b", next_page_token="3"), page("c"))
    assert ids(listed(harness)) == ["a", "b", "c"]
    harness.respond_with(page("a", next_page_token="2"), page("b", next_page_token="2"))
    assert ids(listed(harness, "other")) == ["a", "b"]


def test_no_list_is_cached_where_that_is_switched_off() -> None:
    with run_harness(models=Models(cache_seconds=0)) as harness:
        harness.respond_with(page("a"), page("b"), DOWN["503"])
        assert (ids(listed(harness)), ids(listed(harness))) == (["a"], ["b"])
        assert listed(harness).status == 503


def test_the_lists_are_bounded(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_catalog, "MAX_LISTS", 2)
    harness.respond_with(page("a"))
    for key in ("one", "two", "three", "one"):
        listed(harness, key)
    assert len(harness.upstream.requests) == 4
    listed(harness, "three")
    assert len(harness.upstream.requests) == 4


# --- filters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("?endpoint=rerank&default_only=true", None),
        ("?endpoint=rerank&default_only=1&api-version=2024-10-21", None),
        ("", {"endpoint": "rerank", "default_only": True}),
        ("?endpoint=rerank", {"endpoint": "chat", "default_only": True}),
    ],
)
def test_filters_in_query_and_body(demo: Gateway, query: str, body: Any) -> None:
    response = demo.ask("GET", f"/v1/models{query}", body)
    assert ids(response) == ["rerank-v3.5"]
    assert "x-gateway-notes" not in response.headers


def test_filters_refused(demo: Gateway) -> None:
    response = demo.ask("GET", "/v1/models?default_only=true")
    assert (response.status, response.error["param"]) == (400, "default_only")
    response = demo.ask("GET", "/v1/models?endpoint=cats")
    assert (response.status, response.error["param"]) == (400, "endpoint")
    assert demo.ask("GET", "/v1/models", b"{").error["code"] == "invalid_json"
    assert demo.ask("GET", "/v1/models", b"endpoint", {"content-type": "text/plain"}).status == 415
    strict = {"x-gateway-strict": "true"}
    assert demo.ask("GET", "/v1/models?limit=3", None, strict).error["param"] == "limit"
    assert demo.ask("GET", "/v1/models?api-version=1", None, strict).status == 200


def test_a_name_with_a_slash_in_either_spelling(demo: Gateway) -> None:
    for path in (f"cohere/{A}", f"cohere%2F{A}", f"cohere%2f{A}/"):
        assert demo.ask("GET", f"/v1/models/{path}").body["id"] == f"cohere/{A}"
    assert demo.ask("GET", "/v1/models/cohere%2Fcommand-r").body["alias_of"] == "cohere/command-r-08-2024"


def test_what_is_deprecated_says_so(harness: Harness) -> None:
    harness.respond_with(json_answer(200, {"models": [{"name": "a", "is_deprecated": True}, {"name": "b"}]}))
    assert [model["deprecated"] for model in listed(harness).body["data"]] == [True, False]
