"""The list of models as it is served: kept for a while and per key, longer while Cohere is down, and filtered."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.auth.credentials import Credential
from gateway.auth.principal import Principal
from gateway.errors import UpstreamError, failure
from gateway.settings.schema import Models
from gateway.upstream import model_catalog
from gateway.upstream.calls import UpstreamCalls
from gateway.upstream.model_catalog import ModelCatalog
from support.app import CALLER_KEY, ONCE, SERVER_KEY, A, Gateway, Harness, Response, run_harness
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


def test_no_old_list_hides_that_the_servers_key_is_refused(clock: Clock) -> None:
    """Callers are told of a fault of the gateway's, as if Cohere were down; but it is up, and the key is no good."""
    with run_harness(models=Models(cache_seconds=FRESH), cohere_api_key=[SERVER_KEY], **ONCE) as harness:
        harness.respond_with(page("a"), json_answer(401, {"message": "invalid api token"}))
        assert ids(listed(harness)) == ["a"]
        clock.now += FRESH + 1
        assert (listed(harness).status, listed(harness).error["code"]) == (502, "upstream_auth")


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


def test_a_page_is_named_by_what_cohere_called_it(harness: Harness) -> None:
    harness.respond_with(page("a", next_page_token="x&default_only=1/+"), page("b"))
    assert ids(listed(harness)) == ["a", "b"]
    first, second = (request.path for request in harness.upstream.requests)
    assert second == f"{first}&page_token=x%26default_only%3D1/%2B" and "page_token" not in first


def test_a_list_without_an_end_is_read_so_far(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_catalog, "MAX_PAGES", 3)
    harness.respond_with(*(page(f"m{number}", next_page_token=f"t{number}") for number in range(5)))
    assert ids(listed(harness)) == ["m0", "m1", "m2"]
    assert len(harness.upstream.requests) == 3


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
    # A query has texts only, so the error is about the number in it.
    error = demo.ask("GET", "/v1/models?page_size=0").error
    assert (error["param"], error["code"]) == ("page_size", "invalid_value")
    assert error["message"] == "Invalid 'page_size': expected `int` >= 1"
    assert demo.ask("GET", "/v1/models?page_size=x").error["code"] == "invalid_type"
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


# --- who waits for a list --------------------------------------------------------------------------------------


class Lists:
    """Cohere, as the catalogue calls it. `answer`: whether the list comes now; `error`: what comes instead of it."""

    def __init__(self) -> None:
        self.answer, self.clean_up = asyncio.Event(), asyncio.Event()
        self.clean_up.set()
        self.error: Exception | None = None
        self.begun = self.ended = self.cut = 0

    @asynccontextmanager
    async def get(self, path: str, caller: Principal) -> AsyncIterator[Any]:
        self.begun += 1
        name = f"list-{self.begun}"
        try:
            await self.answer.wait()
            self.ended += 1
            if self.error is not None:
                raise self.error
            yield SimpleNamespace(raise_for_status=self._passes, read_body=lambda: self._body(name))
        except asyncio.CancelledError:
            self.cut += 1
            await self.clean_up.wait()
            raise

    async def _passes(self, own_key: bool) -> None:
        """Returns: the status is 200."""

    async def _body(self, name: str) -> bytes:
        return b'{"models": [{"name": "%s"}]}' % name.encode()

    async def further_models(self, caller: Principal, pages: Sequence[bytes]) -> tuple[list[bytes], str]:
        return [], ""

    def catalog(self, max_age: float = FRESH) -> ModelCatalog:
        return ModelCatalog(cast(UpstreamCalls, self), frozenset(), max_age)


def caller(owner: str, own_key: bool = True) -> Principal:
    return Principal(owner, owner, own_key, Credential())


async def turns() -> None:
    """Lets all tasks go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def leave(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.asyncio
async def test_who_leaves_does_not_end_the_list_of_those_who_stay() -> None:
    lists = Lists()
    catalog = lists.catalog()
    first, second, third = (asyncio.create_task(catalog.list_models(caller("a"))) for _ in range(3))
    await turns()
    await leave(first)
    await leave(third)
    lists.answer.set()
    assert b"list-1" in (await second).pages[0]
    assert (lists.begun, lists.ended, lists.cut) == (1, 1, 0)


@pytest.mark.asyncio
async def test_a_list_that_nobody_waits_for_is_cut_and_nobody_joins_it() -> None:
    lists = Lists()
    lists.clean_up.clear()
    catalog = lists.catalog()
    waiting = [asyncio.create_task(catalog.list_models(caller("a"))) for _ in range(2)]
    await turns()
    for task in waiting:
        await leave(task)
    await turns()
    assert (lists.begun, lists.cut) == (1, 1)
    late = asyncio.create_task(catalog.list_models(caller("a")))
    await turns()
    lists.clean_up.set()
    await turns()
    another = asyncio.create_task(catalog.list_models(caller("a")))
    await turns()
    lists.answer.set()
    assert all(b"list-2" in one.pages[0] for one in (await late, await another))
    assert (lists.begun, lists.ended, lists.cut) == (2, 1, 1)


@pytest.mark.asyncio
async def test_callers_with_keys_of_the_server_share_a_list_and_others_have_their_own() -> None:
    lists = Lists()
    lists.answer.set()
    catalog = lists.catalog()
    for owner, own_key, expected in (
        ("a", False, 1),
        ("b", False, 1),
        ("a", True, 2),
        ("b", True, 3),
        ("a", True, 3),
        ("c", False, 3),
    ):
        await catalog.list_models(caller(owner, own_key))
        assert lists.begun == expected


@pytest.mark.asyncio
async def test_a_failure_that_nobody_waits_for_is_no_error_of_the_loop(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_catalog, "REFRESH_TIMEOUT", 0.0)
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    lists = Lists()
    lists.answer.set()
    catalog = lists.catalog()
    await catalog.list_models(caller("a"))
    lists.answer.clear()
    clock.now += FRESH + 1
    assert "upstream_timeout" in (await catalog.list_models(caller("a"))).stale_note
    lists.error = UpstreamError(failure("unreachable", "away"))
    lists.answer.set()
    await turns()
    gc.collect()
    assert (lists.ended, reported) == (2, [])
