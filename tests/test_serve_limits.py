"""Limits and budgets as callers meet them: over a real server and a scripted Cohere.

Time is real here and nothing waits for it: what depends on a clock is in `test_limits_counters.py` and
`test_limits_windows.py`.
"""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from websockets.sync.client import connect

from gateway.cohere_methods import METHODS
from gateway.pipeline.operations import BATCHES, CALLS, COUNTS, LOOKUPS, SOCKETS, UPLOADS
from gateway.settings.schema import BudgetSettings, CacheSettings, GlobalLimits, ModelPrice, Models, Retries
from gateway.virtual_keys import BudgetWindow, EndUser, ModelBudget, Team, VirtualKey
from support.app import (
    CHAT,
    MASTER_KEY,
    R7B,
    SERVER_KEY,
    A,
    Gateway,
    Harness,
    Response,
    answered,
    run_harness,
    streamed,
    whole,
)
from support.keys import add, key_of, secret_of
from support.process import awaited
from support.scripted_upstream import Chunk, Cut, End, Head, Pause, Signal, json_answer
from support.waiting import WAIT_SECONDS

PRICES = {A: ModelPrice(input=1e6, output=1e6), R7B: ModelPrice(input=1e5, output=1e5)}
"""A dollar for a token of A, ten cents for one of R7B. An answer has 6 billed tokens."""

EMBEDDED = json_answer(
    200, {"id": "e", "embeddings": {"float": [[0.5]]}, "texts": ["x"], "meta": {"billed_units": {"input_tokens": 3}}}
)


@dataclass
class Caller:
    """The holder of a key."""

    gateway: Gateway
    id: str

    def chat(self, model: str = A, headers: dict[str, str] | None = None, **fields: Any) -> Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6, **fields}
        return self.ask("POST", CHAT, body, headers)

    def ask(self, verb: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Response:
        usual = {"authorization": f"Bearer {secret_of(self.id)}", "content-type": "application/json"}
        return self.gateway.ask(verb, path, body, usual | (headers or {}))

    def statuses(self, count: int, **fields: Any) -> list[int]:
        return [self.chat(**fields).status for _ in range(count)]


Limited = tuple[Harness, Callable[[str], Caller]]


@contextmanager
def limited(*records: VirtualKey | Team | EndUser, **settings: Any) -> Iterator[Limited]:
    """A harness whose gateway has these keys, and a function that returns the holder of one."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/gateway.sqlite3"
        add(url, *records)
        values = {"cohere_api_key": [SERVER_KEY], "master_key": MASTER_KEY, "database_url": url, "prices": PRICES}
        with run_harness(key=MASTER_KEY, **{**values, **settings}) as scripted:
            scripted.respond_with(answered())
            yield scripted, lambda id: Caller(scripted.gateway, id)


KEYS = (
    key_of("two-requests", rpm_limit=2),
    key_of("tokens", tpm_limit=100),
    key_of("one-at-once", max_parallel_requests=1),
    key_of("ten-dollars", max_budget=10.0),
    key_of("worth-one", max_budget=6.0),
    key_of("patient", max_budget=6.0, budget_duration="1mo"),
    key_of("windows", budget_limits=(BudgetWindow("30s", 1000.0), BudgetWindow("1d", 6.0))),
    key_of("unpriced", max_budget=6.0),
    key_of("member-1", team_id="team"),
    key_of("member-2", team_id="team"),
    key_of("models", model_rpm_limit={R7B: 1}),
    key_of(
        "cheaper",
        max_budget=1000.0,
        model_max_budget={A: ModelBudget(6.0, "1d")},
        budget_fallbacks={A: ("command-r7b-12-2024",)},
    ),
    key_of("unlimited"),
    key_of("roomy", tpm_limit=10**9, permissions="all"),
    key_of("cut-0", max_budget=6.0),
    key_of("cut-1", max_budget=6.0),
    key_of("cached", rpm_limit=100, tpm_limit=1000, max_budget=100.0),
    key_of("tight", rpm_limit=50, tpm_limit=10_000, team_id="roomy"),
    Team(team_id="team", team_alias="search", rpm_limit=3),
    Team(team_id="roomy", rpm_limit=500, tpm_limit=100),
    EndUser(user_id="alice", rpm_limit=1),
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Limited]:
    with limited(*KEYS, cache=CacheSettings("memory")) as running:
        yield running


@pytest.fixture
def limits(shared: Limited) -> Limited:
    shared[0].respond_with(answered())
    return shared


def test_requests_past_the_limit_are_told_when_to_come_again(limits: Limited) -> None:
    scripted, caller = limits
    first, second, third = (caller("two-requests").chat() for _ in range(3))
    assert [first.status, second.status, third.status] == [200, 200, 429]
    assert [response.headers["x-ratelimit-remaining-requests"] for response in (first, second, third)] == [
        "1",
        "0",
        "0",
    ]
    assert third.headers["x-ratelimit-limit-requests"] == "2"
    assert 1 <= int(third.headers["retry-after"]) <= 60
    assert third.error["code"] == "rate_limit_exceeded" and third.error["type"] == "rate_limit_error"
    assert "key 'two-requests' is 2 requests a minute, and 2 were taken" in third.error["message"]
    assert "x-should-retry" not in third.headers
    assert len(scripted.upstream.requests) == 2, "a refusal costs no call"


@pytest.mark.parametrize("path", [CHAT, "/cohere/v2/chat"])
def test_a_call_that_was_cut_keeps_what_it_was_expected_to_cost(limits: Limited, path: str) -> None:
    """Cohere may have charged for it. A refusal costs nothing."""
    scripted, of = limits
    caller = of(f"cut-{int(path == CHAT)}")
    body = {"model": A, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6}
    statuses = []
    for script in (json_answer(500, {"message": "no"}), (Cut(),), answered()):
        scripted.respond_with(script)
        statuses.append(caller.ask("POST", path, body).status)
    assert statuses == [502 if path == CHAT else 500, 502, 429]


def test_tokens_count_when_cohere_has_counted_them(limits: Limited) -> None:
    # An answer has 73 tokens: the second request finds something left, whatever it is expected to take.
    caller = limits[1]("tokens")
    first = caller.chat(max_tokens=5000)
    assert (first.headers["x-ratelimit-limit-tokens"], first.headers["x-ratelimit-remaining-tokens"]) == ("100", "0")
    assert caller.chat(max_tokens=5000).status == 200
    refused = caller.chat()
    assert refused.status == 429 and "100 tokens a minute, and 146 were taken" in refused.error["message"]


def test_the_tightest_limits_are_in_the_headers(limits: Limited) -> None:
    headers = limits[1]("tight").chat(max_tokens=20).headers
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-limit-tokens"]) == ("50", "100")
    assert re.fullmatch(r"\d+s", headers["x-ratelimit-reset-requests"])
    assert not [name for name in limits[1]("unlimited").chat().headers if name.startswith("x-ratelimit")]


def test_one_request_at_a_time(limits: Limited) -> None:
    scripted, caller = limits
    go = Signal()
    body = json.dumps(whole()).encode()
    scripted.respond_with((Head(200, (("content-type", "application/json"),)), Pause(go), Chunk(body), End()))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(caller("one-at-once").chat)
        awaited(lambda: len(scripted.upstream.requests) == 1)
        refused = caller("one-at-once").chat()
        go.set()
        assert waiting.result(WAIT_SECONDS).status == 200
    assert refused.status == 429 and refused.headers["retry-after"] == "1"
    assert "1 requests at the same time, and 1 are taken by requests under way" in refused.error["message"]
    assert caller("one-at-once").chat().status == 200


def test_a_budget_is_spent_by_what_was_billed(limits: Limited) -> None:
    scripted, caller = limits
    # The first is expected to cost 6 dollars and more; a failure gives them back.
    scripted.respond_with(json_answer(400, {"message": "no"}))
    assert caller("ten-dollars").chat().status == 400
    scripted.respond_with(answered(), streamed(), answered())
    assert caller("ten-dollars").chat(max_tokens=3).status == 200
    assert caller("ten-dollars").chat(stream=True).status == 200
    refused = caller("ten-dollars").chat()
    assert refused.status == 429 and refused.headers["x-should-retry"] == "false"
    assert (refused.error["type"], refused.error["code"]) == ("insufficient_quota", "insufficient_quota")
    message = "The budget of key 'ten-dollars' is spent: $12.00 of $10.00. It does not begin anew."
    assert refused.error["message"] == message
    assert caller("ten-dollars").ask("GET", "/v1/models").status == 200, "it costs nothing"


def test_a_budget_says_when_it_begins_anew(limits: Limited) -> None:
    caller = limits[1]
    assert caller("patient").chat().status == 200
    assert re.search(
        r"\$6\.00 of \$6\.00\. It begins anew at 20\d\d-\d\d-01 00:00 UTC\.", caller("patient").chat().error["message"]
    )
    assert caller("windows").statuses(2) == [200, 429], "each of several windows holds"


def test_fifty_at_once_on_a_budget_worth_one(limits: Limited) -> None:
    scripted, caller = limits
    go = Signal()
    body = json.dumps(whole()).encode()
    scripted.respond_with((Head(200, (("content-type", "application/json"),)), Pause(go), Chunk(body), End()))
    with ThreadPoolExecutor(50) as threads:
        requests = [threads.submit(caller("worth-one").chat) for _ in range(50)]
        awaited(lambda: sum(request.done() for request in requests) == 49)
        go.set()
        responses = [request.result(WAIT_SECONDS) for request in requests]
    assert sorted(one.status for one in responses) == [200] + [429] * 49
    assert len(scripted.upstream.requests) == 1
    for refused in responses:
        if refused.status == 429:
            assert refused.headers["retry-after"] == "1" and refused.error["code"] == "rate_limit_exceeded"
            assert "reserved by requests under way" in refused.error["message"]
    assert caller("worth-one").chat().error["code"] == "insufficient_quota"


def test_an_unknown_price_under_a_budget(limits: Limited) -> None:
    scripted, caller = limits
    refused = caller("unpriced").chat(model="my-own-model")
    assert refused.status == 403 and refused.error["code"] == "price_unknown"
    assert "'my-own-model'" in refused.error["message"]
    # The price is known, and the caller's number is what nobody can add up.
    huge = {"model": A, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2 * 10**12}
    assert caller("unpriced").ask("POST", "/cohere/v2/chat", huge).status == 200
    assert caller("unlimited").chat(model="my-own-model").status == 200
    # Beside the first request for a model that no table has Cohere's list is read. The next test counts requests.
    awaited(lambda: any(one.path.startswith("/v1/models") for one in scripted.upstream.requests))
    with limited(key_of("unpriced", max_budget=6.0), budgets=BudgetSettings("allow")) as (_, other):
        assert other("unpriced").statuses(3, model="my-own-model") == [200] * 3


def test_a_team_shares_its_limit(limits: Limited) -> None:
    caller = limits[1]
    assert [caller(f"member-{1 + number % 2}").chat().status for number in range(5)] == [200] * 3 + [429] * 2
    assert "team 'search'" in caller("member-1").chat().error["message"]


def test_an_end_user_has_limits_whatever_key_calls_for_them(limits: Limited) -> None:
    caller = limits[1]
    assert caller("unlimited").chat(user="alice").status == 200
    refused = caller("models").chat(user="alice")
    assert refused.status == 429 and "end user 'alice'" in refused.error["message"]
    assert caller("unlimited").chat(user="bob").status == 200


def test_an_end_user_of_any_length_can_have_limits(limits: Limited) -> None:
    """What a request says beyond it is not read, so that nobody escapes by a longer name."""
    scripted, caller = limits
    master = {"authorization": f"Bearer {MASTER_KEY}", "content-type": "application/json"}
    blocked = {"user_id": "u" * 256, "blocked": True}
    assert scripted.gateway.ask("POST", "/customer/new", blocked, master).status == 200
    awaited(lambda: all(caller("unlimited").chat(user="u" * length).status == 403 for length in (256, 300)))


def test_a_limit_for_one_model_of_a_key(limits: Limited) -> None:
    caller = limits[1]
    assert caller("models").statuses(2, model=R7B) == [200, 429]
    assert caller("models").statuses(2) == [200, 200]


def test_a_spent_budget_leads_to_the_cheaper_model(limits: Limited) -> None:
    scripted, caller = limits
    assert caller("cheaper").chat().status == 200
    second = caller("cheaper").chat()
    assert second.status == 200
    assert "whose budget is spent" in second.headers["x-gateway-notes"]
    assert [json.loads(request.body)["model"] for request in scripted.upstream.requests] == [A, R7B]


def test_a_cache_hit_counts_as_a_request_and_costs_nothing(limits: Limited) -> None:
    caller = limits[1]
    first, second = (caller("cached").chat(temperature=0) for _ in range(2))
    assert (first.headers["x-gateway-cache"], second.headers["x-gateway-cache"]) == ("miss", "hit")
    third = caller("cached").chat(temperature=0.5)
    assert third.headers["x-ratelimit-remaining-requests"] == "97"
    # 73 tokens were counted once; the third is expected to take 6 and those of its prompt.
    assert 1000 - 73 - 100 < int(third.headers["x-ratelimit-remaining-tokens"]) < 1000 - 73


def test_parts_and_choices_count_as_one_request() -> None:
    with limited(key_of("k", rpm_limit=2)) as (scripted, caller):
        assert caller("k").chat(n=3).headers["x-ratelimit-remaining-requests"] == "1"
        scripted.respond_with(EMBEDDED)
        texts = {"model": "embed-v4.0", "input": ["x"] * 200}
        response = caller("k").ask("POST", "/v1/embeddings", texts)
        assert response.headers["x-ratelimit-remaining-requests"] == "0"
        assert len(scripted.upstream.requests) >= 2


def test_the_limits_of_the_gateway_hold_for_everybody() -> None:
    settings = {"global_limits": GlobalLimits(max_budget=6.0, budget_duration="1d")}
    with limited(key_of("a"), key_of("b"), **settings) as (scripted, caller):
        assert caller("a").chat().status == 200
        assert "The budget of this gateway is spent" in caller("b").chat().error["message"]
        assert scripted.gateway.chat().error["code"] == "insufficient_quota", "the master key has no way around it"
    with run_harness(global_limits=GlobalLimits(rpm_limit=1)) as scripted:
        scripted.respond_with(answered())
        assert [scripted.gateway.chat().status for _ in range(2)] == [200, 429], "nor has a caller's own Cohere key"


def test_budgets_survive_a_restart() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/gateway.sqlite3"
        with limited(key_of("k", max_budget=6.0), database_url=url) as (_, caller):
            add(url, key_of("k", max_budget=6.0))
            assert caller("k").statuses(2) == [200, 429]
        with limited(database_url=url) as (scripted, caller):
            assert caller("k").chat().error["code"] == "insufficient_quota"
            assert not scripted.upstream.requests


def test_a_spent_budget_leads_to_the_cheaper_model_on_native_routes_too() -> None:
    key = key_of("k", model_max_budget={A: ModelBudget(6.0, "1d")}, budget_fallbacks={A: (R7B,)})
    with limited(key) as (scripted, caller):
        body = {"model": A, "messages": [{"role": "user", "content": "Hi"}], "seed": 7, "of_tomorrow": [1.50, {}]}
        for prefix in ("/cohere", "/cohere", "/litellm/cohere"):
            response = caller("k").ask("POST", f"{prefix}/v2/chat", body)
            assert response.status == 200
        assert f"{R7B} in place of {A}, whose budget is spent" in response.headers["x-gateway-notes"]
        bodies = [json.loads(request.body) for request in scripted.upstream.requests]
        assert bodies == [body, {**body, "model": R7B}, {**body, "model": R7B}]


# --- further calls of a request ---------------------------------------------------------------------------------

FAILED = json_answer(503, {"message": "try later"})
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object", "required": ["city"]}}}
IN_A_FORM: dict[str, Any] = {"response_format": SCHEMA, "documents": ["Oslo is in Norway."]}


@pytest.fixture(scope="module")
def falling_back() -> Iterator[Limited]:
    records = (
        key_of("rate", model_rpm_limit={A: 1}),
        key_of("spent-model", model_max_budget={A: ModelBudget(0.0, "1d")}),
        key_of("dear", max_budget=10.0),
        key_of("once", max_budget=6.0),
        key_of("twice", max_budget=100.0, max_parallel_requests=1, rpm_limit=1),
        key_of("alone", max_budget=7.0),
    )
    with limited(*records, models=Models(fallbacks={R7B: [A]}), retries=Retries(count=0)) as running:
        yield running


def test_a_fallback_is_held_to_the_limits_of_its_model(falling_back: Limited) -> None:
    harness, caller = falling_back
    harness.respond_with(FAILED, answered(), FAILED)
    assert caller("rate").statuses(2, model=R7B) == [200, 503]
    harness.respond_with(FAILED, answered())
    assert caller("spent-model").chat(model=R7B).status == 503
    assert len(harness.upstream.requests) == 1


def test_a_fallback_that_is_dearer_needs_that_much_of_the_budget(falling_back: Limited) -> None:
    harness, caller = falling_back
    go = Signal()
    paused = (Head(200, (("content-type", "application/json"),)), Pause(go), Chunk(json.dumps(whole()).encode()), End())
    harness.respond_with(FAILED, paused, FAILED, answered())
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(caller("dear").chat, model=R7B)
        awaited(lambda: len(harness.upstream.requests) == 2)
        assert caller("dear").chat(model=R7B).status == 503, "the first may take all that is left"
        go.set()
        assert first.result(WAIT_SECONDS).status == 200
    assert [json.loads(request.body)["model"] for request in harness.upstream.requests] == [R7B, A, R7B]


def test_a_second_attempt_needs_as_much_budget_again(falling_back: Limited) -> None:
    harness, caller = falling_back
    for id, calls in (("once", 1), ("alone", 2), ("twice", 2)):
        harness.respond_with(answered("It is in Oslo."), answered('{"city": "Oslo"}'))
        seen = caller(id).chat(**IN_A_FORM)
        assert len(harness.upstream.requests) == calls, id
        assert seen.status == (200 if calls == 2 else 502), seen
    assert "$12.00 of $7.00" in caller("alone").chat().error["message"]
    assert caller("twice").chat().status == 429, "both were one request"


# --- native bodies ----------------------------------------------------------------------------------------------

TRANSCRIBE = "cohere-transcribe-03-2026"
OF_R7B: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "model": R7B}
NAMED_TWICE = b'{"model": "%b", "messages": [], "model": "%b"}' % (R7B.encode(), A.encode())


def test_no_spelling_of_a_native_body_leads_past_the_limits_of_its_model() -> None:
    records = (
        key_of("rate", model_rpm_limit={R7B: 0, TRANSCRIBE: 0}),
        key_of("budget", model_max_budget={R7B: ModelBudget(0.0, "1d")}),
        key_of("tokens", tpm_limit=0),
        key_of("free"),
    )
    with limited(*records) as (scripted, caller):
        for id in ("rate", "budget", "tokens"):
            assert caller(id).ask("POST", "/cohere/v2/chat", OF_R7B).status == 429
            assert caller(id).ask("POST", "/v1/chat/completions", OF_R7B).status == 429
            for body in (NAMED_TWICE, {"MODEL": R7B, "messages": []}, b"[]"):
                refused = caller(id).ask("POST", "/cohere/v2/chat", body)
                assert refused.status == 400 and "limits or budgets depend on it" in refused.body["message"], body
            packed = gzip.compress(json.dumps(OF_R7B).encode())
            for coding in ("gzip", "br", "identity"):
                assert caller(id).ask("POST", "/cohere/v2/chat", packed, {"content-encoding": coding}).status == 400
        form = {"content-type": "multipart/form-data; boundary=x"}
        assert caller("rate").ask("POST", "/cohere/v2/audio/transcriptions", FORM, form).status == 429
        assert not scripted.upstream.requests
        assert caller("free").ask("POST", "/cohere/v2/chat", packed, {"content-encoding": "gzip"}).status == 200


NATIVE_ESTIMATES: tuple[tuple[str, bytes, int], ...] = (
    ("/cohere/v2/chat", b'"max_tokens": 1, "MAX_TOKENS": 900', 900),
    ("/cohere/v2/chat", b'"max_tokens": 900, "max_tokens": 1', 900),
    ("/cohere/v1/generate", b'"prompt": "", "max_tokens": 300, "num_generations": 3', 900),
)


@pytest.mark.parametrize(("path", "fields", "tokens"), NATIVE_ESTIMATES)
def test_a_native_request_reserves_the_most_that_it_may_take(
    limits: Limited, path: str, fields: bytes, tokens: int
) -> None:
    response = limits[1]("roomy").ask("POST", path, b'{"model": "%b", %b}' % (R7B.encode(), fields))
    left = int(response.headers["x-ratelimit-remaining-tokens"])
    spent = 0 if response.status >= 400 else 73
    assert 0 < 10**9 - left - tokens < 200 + 3 * spent, response


# --- responses in the background ------------------------------------------------------------------------------

RESPONSES = "/v1/responses"


def test_a_response_in_the_background_holds_what_it_may_take_until_it_ends() -> None:
    with limited(key_of("k", max_parallel_requests=1, rpm_limit=3, max_budget=50.0)) as (scripted, caller):
        go = Signal()
        body = json.dumps(whole()).encode()
        scripted.respond_with(
            (Head(200, (("content-type", "application/json"),)), Pause(go), Chunk(body), End()), answered()
        )
        background = {"model": A, "input": "Hi", "background": True}
        begun = caller("k").ask("POST", RESPONSES, background)
        assert begun.status == 200 and begun.headers["x-ratelimit-remaining-requests"] == "2"
        refused = [caller("k").ask("POST", RESPONSES, background), caller("k").chat()]
        assert [http_response.status for http_response in refused] == [429, 429] and refused[0].headers[
            "retry-after"
        ] == "1"
        go.set()
        response = f"{RESPONSES}/{begun.body['id']}"
        awaited(lambda: caller("k").ask("GET", response).body["status"] == "completed")
        awaited(
            lambda: (last := caller("k").chat()).status == 200 and last.headers["x-ratelimit-remaining-requests"] == "1"
        )
        assert caller("k").statuses(2) == [200, 429], "each counted once"


def test_a_cancelled_response_gives_back_what_it_held() -> None:
    settings = {"max_background_responses": 1}
    with limited(key_of("k", max_parallel_requests=2), **settings) as (scripted, caller):
        never = Signal()
        scripted.respond_with((Pause(never), *answered()), answered())
        background = {"model": A, "input": "Hi", "background": True}
        first, queued = (caller("k").ask("POST", RESPONSES, background).body["id"] for _ in range(2))
        assert caller("k").chat().status == 429
        for id in (queued, first):
            assert caller("k").ask("POST", f"{RESPONSES}/{id}/cancel").body["status"] == "cancelled"
        awaited(lambda: caller("k").chat().status == 200)
        never.set()


def test_a_spent_budget_leads_a_response_in_the_background_to_the_cheaper_model() -> None:
    key = key_of("k", model_max_budget={A: ModelBudget(6.0, "1d")}, budget_fallbacks={A: (R7B,)})
    with limited(key) as (scripted, caller):
        assert caller("k").chat().status == 200
        begun = caller("k").ask("POST", RESPONSES, {"model": A, "input": "Hi", "background": True})
        assert begun.status == 200 and "whose budget is spent" in begun.headers["x-gateway-notes"]
        response = f"{RESPONSES}/{begun.body['id']}"
        awaited(lambda: caller("k").ask("GET", response).body["status"] == "completed")
        assert [json.loads(request.body)["model"] for request in scripted.upstream.requests] == [A, R7B]


# --- no path to Cohere without it ---------------------------------------------------------------------------

FORM = (
    b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\ncohere-transcribe-03-2026\r\n'
    b'--x\r\ncontent-disposition: form-data; name="language"\r\n\r\nen\r\n'
    b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nabc\r\n--x--\r\n'
)
BODIES: dict[str, Any] = {
    "chat": {"model": A, "messages": [{"role": "user", "content": "Hi"}]},
    "responses": {"model": A, "input": "Hi"},
    "compact": {"model": A, "input": [{"role": "user", "content": "Hi"}]},
    "rerank": {"model": "rerank-v3.5", "query": "q", "documents": ["d"]},
    "embeddings": {"model": "embed-v4.0", "input": "Hi"},
    "input_tokens": {"model": A, "input": "Hi"},
}


def openai_calls() -> Iterator[tuple[str, str, Any]]:
    rows: list[Any] = [*CALLS, *BATCHES, *COUNTS]
    yield from (("POST", row.path, BODIES[row.name]) for row in rows)
    yield "POST", CHAT, {**BODIES["chat"], "stream": True}
    yield from (("POST", row.path, FORM) for row in UPLOADS)
    yield from (("GET", row.path.replace("{name:path}", A), None) for row in LOOKUPS)


def native_calls() -> Iterator[tuple[str, str, Any]]:
    for method in METHODS:
        body = {"json": {"model": A}, "form": FORM, "": None}[method.takes]
        path = re.sub(r"\{\w+\}", "x1", method.path)
        yield method.verb, f"/cohere{path}", body
        yield method.verb, f"/litellm/cohere{path}", body
    yield "POST", "/cohere/v3/what-there-may-be", {"model": A}


def test_no_way_to_cohere_leads_past_the_limits() -> None:
    """Over the tables of operations and methods: where nothing may be taken, Cohere hears of nothing."""
    with run_harness(global_limits=GlobalLimits(rpm_limit=0), cohere_api_key=[SERVER_KEY]) as scripted:
        scripted.respond_with(answered())
        gateway = scripted.gateway
        for verb, path, body in (*openai_calls(), *native_calls()):
            kind = "multipart/form-data; boundary=x" if body is FORM else "application/json"
            response = gateway.ask(verb, path, body, {"content-type": kind} if body is not None else {})
            assert response.status == 429, (verb, path, response)
            assert b"requests a minute" in response.data and response.headers["retry-after"] == "60", (verb, path)
        refused = gateway.ask("POST", "/v1/responses", {**BODIES["responses"], "background": True})
        assert refused.status == 429 and refused.error["code"] == "rate_limit_exceeded", "at once, not when it runs"
        for row in SOCKETS:
            address = gateway.url.replace("http", "ws") + row.call.path
            with connect(address, compression=None, proxy=None) as socket:
                socket.send(json.dumps({"type": "response.create", **BODIES["responses"]}))
                assert json.loads(socket.recv(timeout=WAIT_SECONDS))["error"]["code"] == "rate_limit_exceeded"
        assert not scripted.upstream.requests
        refusals = gateway.metrics()['gateway_limit_refusals_total{subject="gateway",unit="requests"}']
        assert refusals == len([*openai_calls(), *native_calls()]) + 1 + len(SOCKETS)
