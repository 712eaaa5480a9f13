"""Calls that fail and are made again: retries, the pool of keys, fallbacks, breakers, places, each over a real server.

What is decided by rule is in `test_upstream_rules.py`; here the whole way is walked. Pauses are a millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.auth import credentials
from gateway.auth.principal import Principal
from gateway.errors import UpstreamError, failure
from gateway.observability.access_log import Log
from gateway.observability.alerts import Alerts
from gateway.observability.metrics import Metrics
from gateway.observability.upstream_events import UpstreamEvents
from gateway.pipeline import streaming
from gateway.settings.schema import (
    BreakerSettings,
    ConcurrencySettings,
    Models,
    PoolSettings,
    Retries,
    Settings,
    Timeouts,
)
from gateway.upstream import key_pool, response
from gateway.upstream.attempts import Attempts
from gateway.upstream.client import UpstreamClient
from support.app import (
    SERVER_KEY,
    A,
    Gateway,
    Response,
    answered,
    end,
    gateway_over,
    opened,
    piece,
    start,
    streamed,
    whole,
)
from support.process import awaited, request_bytes
from support.scripted_upstream import (
    Chunk,
    Cut,
    End,
    Head,
    Pause,
    Request,
    Reset,
    Script,
    ScriptedUpstream,
    Signal,
    Write,
    event_stream,
    json_answer,
    transcript,
)
from support.waiting import WAIT_SECONDS

QUICK = Retries(initial_backoff=0.001, max_backoff=0.001)
NEVER = Signal()
EVENTS = (("content-type", "text/event-stream"),)

TRIAL = "You are using a Trial key, which is limited to 20 API calls / minute."
MONTH = "You are past the per-month request limit for this model, please wait and try again later."


def refused(status: int, message: str = "no", **more: Any) -> Script:
    headers = more.pop("headers", {})
    return json_answer(status, {"message": message, **more}, headers)


@dataclass
class RuleHarness:
    """A gateway over an upstream that answers by rule, and what was asked of it."""

    gateway: Gateway
    upstream: ScriptedUpstream

    @property
    def keys(self) -> list[str]:
        """The key of each request to Cohere; of a pool's keys the last letter."""
        return [_key(request) for request in self.upstream.requests]

    @property
    def models(self) -> list[str]:
        return [request.json()["model"] for request in self.upstream.requests]


@contextmanager
def run_rule_harness(answers: Callable[[Request], Script] | Sequence[Script], **settings: Any) -> Iterator[RuleHarness]:
    """Scripts in order, the last one for all that follow, or a rule; one key of the server's unless settings differ."""
    if callable(answers):
        rule = answers
    else:
        scripts = list(answers)

        def rule(request: Request) -> Script:
            return scripts.pop(0) if len(scripts) > 1 else scripts[0]

    values = {"cohere_api_key": [SERVER_KEY], "retries": QUICK, **settings}
    with ScriptedUpstream(rule).run_in_thread() as upstream, gateway_over(upstream.url, **values) as gateway:
        yield RuleHarness(gateway, upstream)


OWN: dict[str, Any] = {"cohere_api_key": []}


def retry_note(response: Response) -> str:
    """What the notes say of it."""
    notes = response.headers.get("x-gateway-notes", "").split("; ")
    return next((note for note in notes if note.startswith("asked Cohere again")), "")


# --- retries ------------------------------------------------------------------------------------------------

BEGUN = transcript(start(), opened(), piece("Hi"), done=False)

MENDED: tuple[tuple[str, Script, str], ...] = (
    ("408", refused(408), "408"),
    ("500", refused(500), "500"),
    ("502, a page", json_answer(502, b"<html>Bad Gateway</html>", {"content-type": "text/html"}), "502"),
    ("503", refused(503), "503"),
    ("504", refused(504), "504"),
    ("429", refused(429, TRIAL, headers={"retry-after": "0"}), "429"),
    ("closed before the head", (Cut(),), "upstream_cut"),
    ("reset before the head", (Reset(),), "upstream_cut"),
    ("cut inside the head", (Write(b"HTTP/1.1 200 OK\r\ncontent-"), Cut()), "upstream_cut"),
    ("not HTTP", (Write(b"what?\r\n\r\n"), Cut()), "upstream_cut"),
    ("closed after the head", (Head(200, EVENTS), Cut()), "upstream_cut"),
    ("ended after the head", (Head(200, EVENTS), End()), "upstream_cut"),
)


MENDED_CELLS = [
    pytest.param(
        script, why, stream, own, id=f"{name}-{'streamed' if stream else 'whole'}-{'own' if own else 'server'}"
    )
    for name, script, why in MENDED
    for stream in (False, True)
    if stream or name != "ended after the head"  # an empty whole body is an answer that cannot be read
    for own in (False, True)
    if not own or why != "429"  # theirs to retry
]


@pytest.mark.parametrize(("script", "why", "stream", "own"), MENDED_CELLS)
def test_a_failure_is_mended(script: Script, why: str, stream: bool, own: bool) -> None:
    with run_rule_harness([script, streamed() if stream else answered()], **(OWN if own else {})) as harness:
        response = harness.gateway.chat(stream=stream)
        assert (response.status, response.text) == (200, "Hi there.")
        assert retry_note(response) == f"asked Cohere again: {why}"
        assert len(harness.upstream.requests) == 2
        assert harness.upstream.requests[0].body == harness.upstream.requests[1].body
        assert harness.gateway.log.line_of(response.headers["x-request-id"])["retries"] == 1
        assert harness.gateway.metrics()[f'gateway_upstream_retries_total{{reason="{why}"}}'] == 1


@pytest.mark.parametrize("ask", ["chat", "stream", "embeddings", "passthrough"])
def test_a_429_of_a_callers_own_key_is_not_retried(ask: str) -> None:
    """Their SDK does that. Other failures are retried, whosever the key is."""
    limited = refused(429, TRIAL, headers={"retry-after": "7"})
    with run_rule_harness([limited, answered()], **OWN) as harness:
        if ask == "embeddings":
            response = harness.gateway.ask("POST", "/v1/embeddings", {"model": "embed-v4.0", "input": "a"})
        elif ask == "passthrough":
            response = harness.gateway.ask("POST", "/cohere/v2/chat", {"model": A, "messages": []})
        else:
            response = harness.gateway.chat(stream=ask == "stream")
        assert (response.status, response.headers["retry-after"]) == (429, "7")
        assert "x-should-retry" not in response.headers and "x-gateway-notes" not in response.headers
        assert len(harness.upstream.requests) == 1


def test_a_whole_answer_that_breaks_off_is_retried() -> None:
    body = json.dumps(whole()).encode()
    broken = (Head(200, (("content-type", "application/json"),), "length", len(body)), Write(body[:40]), Cut())
    with run_rule_harness([broken, broken, answered()]) as harness:
        response = harness.gateway.chat()
        assert (response.status, response.text) == (200, "Hi there.")
        assert retry_note(response) == "asked Cohere again: upstream_cut, upstream_cut"


FIRST_EVENTS: tuple[tuple[str, Script], ...] = (
    ("a failing first event", event_stream(transcript(end("ERROR", {})))),
    ("half an event", (Head(200, EVENTS), Chunk(b'event: message-start\ndata: {"id'), Cut())),
    ("nothing but a comment", (Head(200, EVENTS), Chunk(b": hello\n\n"), End())),
)


@pytest.mark.parametrize("script", [row[1] for row in FIRST_EVENTS], ids=[row[0] for row in FIRST_EVENTS])
def test_a_stream_that_fails_before_its_first_event_is_retried(script: Script) -> None:
    with run_rule_harness([script, script, streamed()]) as harness:
        response = harness.gateway.chat(stream=True)
        assert (response.status, response.text) == (200, "Hi there.")
        assert retry_note(response).startswith("asked Cohere again: upstream_")
        assert len(harness.upstream.requests) == 3


def test_a_whole_answer_that_says_error_is_retried() -> None:
    with run_rule_harness([answered("", finish="ERROR"), answered()]) as harness:
        response = harness.gateway.chat()
        assert (response.status, response.text) == (200, "Hi there.")
        assert retry_note(response) == "asked Cohere again: upstream_error"


def test_after_the_first_event_nothing_is_retried() -> None:
    with run_rule_harness([(Head(200, EVENTS), Chunk(BEGUN), Cut()), streamed()]) as harness:
        response = harness.gateway.chat(stream=True)
        assert response.status == 200 and "error" in response.chunks[-1] and "[DONE]" not in response.frames
        assert len(harness.upstream.requests) == 1


FINAL: tuple[tuple[str, Script, int], ...] = (
    ("400", refused(400), 400),
    ("403", refused(403), 403),
    ("404", refused(404), 404),
    ("422", refused(422, error_type="INVALID_TOOL_GENERATION"), 422),
    ("498", refused(498), 400),
    ("501", refused(501), 502),
    ("401", refused(401), 401),
    ("402", refused(402), 402),
    ("429 of a month", refused(429, MONTH), 429),
)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("script", "status"), [row[1:] for row in FINAL], ids=[row[0] for row in FINAL])
def test_what_is_final_is_requested_once(script: Script, status: int, stream: bool) -> None:
    with run_rule_harness([script, answered()], **OWN) as harness:
        assert harness.gateway.chat(stream=stream).status == status
        assert len(harness.upstream.requests) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_retries_come_to_an_end(stream: bool) -> None:
    with run_rule_harness([refused(503)]) as harness:
        response = harness.gateway.chat(stream=stream)
        assert (response.status, response.error["code"]) == (503, "upstream_unavailable")
        assert len(harness.upstream.requests) == 3


def test_no_call_is_made_when_all_time_would_be_up() -> None:
    pauses = Retries(initial_backoff=60.0, max_backoff=60.0, budget=100.0)
    with run_rule_harness([refused(503)], timeouts=Timeouts(total=20), retries=pauses) as harness:
        response = harness.gateway.chat()  # waits 10 s at most
        assert (response.status, response.error["code"]) == (503, "upstream_unavailable")


def test_a_silent_model_is_not_retried() -> None:
    with run_rule_harness([(Pause(NEVER),)], timeouts=Timeouts(first_event=0.2)) as harness:
        assert harness.gateway.chat().status == 504
        assert len(harness.upstream.requests) == 1


def test_a_retry_after_beyond_the_budget_is_passed_on() -> None:
    with run_rule_harness([refused(503, headers={"retry-after": "120"})]) as harness:
        response = harness.gateway.chat()
        assert (response.status, response.headers["retry-after"]) == (503, "120")
        assert len(harness.upstream.requests) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("allowed", [False, True])
def test_a_failed_generation_is_retried_once_if_the_setting_says_so(allowed: bool, stream: bool) -> None:
    failed = refused(422, error_type="NO_VALID_RESPONSE_GENERATED")
    with run_rule_harness([failed], retries=Retries(invalid_generation=allowed)) as harness:
        assert harness.gateway.chat(stream=stream).status == 422
        assert len(harness.upstream.requests) == 1 + allowed


def test_nobody_there() -> None:
    with ScriptedUpstream(answered()).run_in_thread() as gone:
        url = gone.url
    with gateway_over(url, cohere_api_key=[SERVER_KEY], retries=QUICK) as gateway:
        response = gateway.chat()
        assert (response.status, response.error["code"]) == (502, "upstream_unreachable")
        assert gateway.metrics()['gateway_upstream_retries_total{reason="upstream_unreachable"}'] == 2


def test_other_routes_ask_again_as_well() -> None:
    models = json_answer(200, {"models": [{"name": A, "endpoints": ["chat"]}]})
    with run_rule_harness([refused(503), models]) as harness:
        assert harness.gateway.ask("GET", "/v1/models").status == 200
    tokens = json_answer(200, {"tokens": [1, 2], "token_strings": ["a", "b"]})
    with run_rule_harness([refused(503), tokens]) as harness:
        response = harness.gateway.ask("POST", "/v1/responses/input_tokens", {"model": A, "input": "Hello"})
        assert response.status == 200


def test_a_part_of_an_embeddings_request_is_retried() -> None:
    vectors = {"id": "x", "embeddings": {"float": [[0.5, 0.5]]}, "texts": ["a"], "response_type": "embeddings_by_type"}
    with run_rule_harness([refused(503), json_answer(200, vectors)]) as harness:
        response = harness.gateway.ask("POST", "/v1/embeddings", {"model": "embed-v4.0", "input": "a"})
        assert response.status == 200
        assert retry_note(response) == "asked Cohere again: 503"


def test_a_response_that_fails_first_is_reported_as_one() -> None:
    with run_rule_harness([refused(500), streamed()]) as harness:
        response = harness.gateway.ask("POST", "/v1/responses", {"model": A, "input": "Hello", "stream": True})
        assert response.status == 200 and b"response.completed" in response.data
        assert retry_note(response) == "asked Cohere again: 500"


@pytest.mark.parametrize("repeatable", [True, False])
def test_a_request_that_cannot_be_sent_twice_is_not(repeatable: bool) -> None:
    """Say, with a body that the caller is still sending."""
    request: list[str] = []

    async def send(key: str, last_deadline: float, headers: Any, attempt: Any) -> response.UpstreamResponse:
        request.append(key)
        raise UpstreamError(failure("cut", "x"), cause="cut")

    async def main() -> None:
        observer = UpstreamEvents(Metrics(lambda model: False, ()), Log(False), Alerts("", "", print))
        upstream = UpstreamClient(Settings(retries=QUICK), ["a", "b"], observer)
        caller = Principal("x", "x", False, credentials.store(()))
        with pytest.raises(UpstreamError):
            async with Attempts(upstream.resources, send, caller, "/v1/datasets", repeatable=repeatable):
                pass

    asyncio.run(main())
    assert len(request) == (3 if repeatable else 1)


# --- the pool -----------------------------------------------------------------------------------------------


def by_key(**scripts: Script) -> Callable[[Request], Script]:
    """Each key has its own answer; those that are not named get a proper one."""

    def respond(request: Request) -> Script:
        usual = streamed() if request.json().get("stream") else answered()
        return scripts.get(_key(request), usual)

    return respond


def _key(request: Request) -> str:
    return str(request.headers.first("authorization")).removeprefix("Bearer ").removeprefix("key-of-the-pool-")


POOL = {"cohere_api_key": ["key-of-the-pool-a", "key-of-the-pool-b", "key-of-the-pool-c"]}


def test_the_keys_share_the_calls() -> None:
    with run_rule_harness(by_key(), **POOL) as harness:
        for _ in range(9):
            assert harness.gateway.chat().status == 200
        assert sorted(harness.keys) == [*"aaabbbccc"]


def test_a_callers_own_key_is_no_pools() -> None:
    with run_rule_harness(by_key(), **OWN) as harness:
        assert harness.gateway.chat().status == 200
        assert harness.keys == [harness.gateway.key]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_key_that_is_limited_gives_way_to_another(stream: bool) -> None:
    with run_rule_harness(by_key(a=refused(429, TRIAL)), **POOL, retries=Retries(count=0)) as harness:
        for _ in range(4):
            assert harness.gateway.chat(stream=stream).status == 200
        assert harness.keys.count("a") == 1


PARKING = (("401", 401, "invalid api token"), ("402", 402, "Please add your payment method"), ("month", 429, MONTH))


@pytest.mark.parametrize(("status", "message"), [row[1:] for row in PARKING], ids=[row[0] for row in PARKING])
def test_a_refused_key_is_disabled_and_logged(status: int, message: str) -> None:
    with run_rule_harness(by_key(a=refused(status, message)), **POOL, retries=Retries(count=0)) as harness:
        answers = [harness.gateway.chat() for _ in range(6)]
        assert [response.status for response in answers] == [200] * 6
        assert harness.keys.count("a") == 1
        line = harness.gateway.log.wait(lambda line: "is disabled" in line.get("message", ""))
        assert line["message"].startswith("Cohere key 1 of 3 (sha256 6fba72b6) is disabled: ")
        assert harness.gateway.metrics()["gateway_upstream_keys_disabled"] == 1
        assert sum(bool(retry_note(response)) for response in answers) == 1


def test_all_keys_refused_is_the_operators_trouble() -> None:
    with run_rule_harness([refused(401, "invalid api token")], **POOL) as harness:
        response = harness.gateway.chat()
        assert (response.status, response.error["code"]) == (502, "upstream_auth")
        assert sorted(harness.keys) == ["a", "b", "c"]
        assert harness.gateway.metrics()["gateway_upstream_keys_disabled"] == 3


def test_the_last_key_is_never_given_up() -> None:
    """Parked or not, it is all there is, and the bill may have been paid."""
    with run_rule_harness([refused(402, "Please add your payment method"), answered()]) as harness:
        assert harness.gateway.chat().status == 429
        assert harness.gateway.metrics()["gateway_upstream_keys_disabled"] == 1
        assert harness.gateway.chat().status == 200
        assert harness.gateway.metrics()["gateway_upstream_keys_disabled"] == 0
        harness.gateway.log.wait(lambda line: "serves again" in line.get("message", ""))


def test_when_every_key_is_limited_the_error_has_a_retry_after() -> None:
    limited = refused(429, TRIAL, headers={"retry-after": "50"})
    with run_rule_harness([limited], **POOL) as harness:
        began = time.monotonic()
        response = harness.gateway.chat()
        assert (response.status, response.error["code"]) == (429, "rate_limit_exceeded")
        assert len(harness.keys) == 3
        response = harness.gateway.chat()
        assert (response.status, response.error["code"]) == (429, "rate_limit_exceeded")
        assert 49 - (time.monotonic() - began) <= int(response.headers["retry-after"]) <= 50
        assert len(harness.keys) == 3, "Cohere was asked although every key rests"


def test_a_call_waits_for_the_next_free_key() -> None:
    with run_rule_harness(
        [refused(429, TRIAL, headers={"retry-after": "0.3"}), answered()], retries=Retries(count=0)
    ) as harness:
        assert harness.gateway.chat().status == 429
        assert harness.gateway.chat().status == 200


def test_a_call_does_not_wait_if_the_setting_says_so() -> None:
    with run_rule_harness(
        [refused(429, TRIAL, headers={"retry-after": "50"}), answered()],
        retries=Retries(count=0),
        pool=PoolSettings(queue_timeout=0),
    ) as harness:
        assert [harness.gateway.chat().status for _ in range(2)] == [429, 429]
        assert len(harness.keys) == 1


def test_a_429_that_names_no_time_refuses_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cohere's names none. How long the only key rests is a guess then, and Cohere is asked before it is over."""
    monkeypatch.setattr(key_pool, "PROBE_INTERVAL", 0.0)
    limited = refused(429, TRIAL)
    with run_rule_harness(
        [limited, limited, answered()], retries=Retries(count=0), pool=PoolSettings(queue_timeout=0)
    ) as harness:
        assert [harness.gateway.chat().status for _ in range(4)] == [429, 429, 200, 200]
        assert len(harness.keys) == 4


def test_to_wait_for_the_only_key_is_no_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six callers are refused together. Those who wait while others try lose nothing by it."""
    monkeypatch.setattr(key_pool, "PROBE_INTERVAL", 0.05)
    received, all_are_here = itertools.count(1), Signal()

    def respond(request: Request) -> Script:
        number = next(received)
        if number == 6:
            all_are_here.set()
        return answered() if number > 8 else (Pause(all_are_here), *refused(429, TRIAL))

    with run_rule_harness(respond, retries=Retries(count=2, initial_backoff=0.05, max_backoff=0.1)) as harness:
        rush = Rush(harness.gateway)
        for _ in range(6):
            rush.asks()
        # Of the two tries that fail both may be one caller's, who then has had all three.
        assert rush.ends().count(200) >= 5


def test_trial_headers_are_learnt() -> None:
    spent = json_answer(200, whole(), {"x-trial-endpoint-call-limit": "20", "x-trial-endpoint-call-remaining": "0"})
    with run_rule_harness(by_key(a=spent), cohere_api_key=POOL["cohere_api_key"][:2]) as harness:
        for _ in range(6):
            assert harness.gateway.chat().status == 200
        assert harness.keys.count("a") == 1


EMBED: dict[str, Any] = {"model": "embed-v4.0", "input_type": "search_query"}


@pytest.mark.parametrize(
    ("path", "field", "several"),
    [
        ("/v1/embeddings", "input", (1_900, 99)),
        ("/cohere/v2/embed", "texts", (96,) * 20 + (79,)),
        ("/cohere/v1/embed", "texts", (96,) * 20 + (79,)),
    ],
)
def test_vectors_are_counted_by_the_input(path: str, field: str, several: tuple[int, ...]) -> None:
    """Cohere's budget is 2,000 inputs a minute, in however many calls."""
    settings: dict[str, Any] = {
        "cohere_api_key": [SERVER_KEY],
        "pool": PoolSettings(kind="production", queue_timeout=0),
    }

    def embeddings(request: Request) -> Script:
        body = request.json()
        return json_answer(200, {"id": "1", "embeddings": {"float": [[0.5]] * len(body["texts"])}, "texts": []})

    with ScriptedUpstream(embeddings).run_in_thread() as upstream, gateway_over(upstream.url, **settings) as gateway:

        def ask(inputs: int) -> int:
            body = {**EMBED, field: ["a"] * inputs}
            return gateway.ask("POST", path, body).status

        assert [ask(inputs) for inputs in several] == [200] * len(several)
        assert (ask(2), ask(1), ask(1)) == (429, 200, 429)


# --- fallbacks ----------------------------------------------------------------------------------------------


FIRST, SECOND, THIRD = A, "command-r7b-12-2024", "command-r-08-2024"


def by_model(scripts: Mapping[str, Script]) -> Callable[[Request], Script]:
    def respond(request: Request) -> Script:
        body = request.json()
        return scripts.get(body["model"], streamed() if body.get("stream") else answered())

    return respond


FALLBACKS = Models(fallbacks={FIRST: [SECOND, THIRD], SECOND: [FIRST]})
FAILING: tuple[tuple[str, Script, str], ...] = (
    ("404", refused(404, f"model '{FIRST}' not found"), "model_not_found"),
    ("500", refused(500), "upstream_error"),
    ("503", refused(503), "upstream_unavailable"),
    ("month", refused(429, MONTH), "insufficient_quota"),
    ("cut", (Cut(),), "upstream_cut"),
    ("silent", (Pause(NEVER),), "upstream_timeout"),
)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("script", "code"), [row[1:] for row in FAILING], ids=[row[0] for row in FAILING])
def test_another_model_answers(script: Script, code: str, stream: bool) -> None:
    # Only silence takes all of the time: a busy machine must have the others' answers in it.
    timeouts = Timeouts(first_event=1.0 if code == "upstream_timeout" else 30.0)
    settings = {"models": FALLBACKS, "retries": Retries(count=0), "timeouts": timeouts}
    with run_rule_harness(by_model({FIRST: script}), **settings) as harness:
        response = harness.gateway.chat(model=f"cohere/{FIRST}", stream=stream)
        assert (response.status, response.text) == (200, "Hi there.")
        body = response.chunks[0] if stream else response.body
        assert body["model"] == f"cohere/{FIRST}", "the caller sees the name they asked for"
        assert response.headers["x-gateway-notes"] == f"model {FIRST} -> {SECOND}; fallback from {FIRST} ({code})"
        assert harness.models == [FIRST, SECOND]
        assert harness.gateway.metrics()[f'gateway_fallbacks_total{{model="{FIRST}"}}'] == 1


def test_one_fallback_after_the_other() -> None:
    with run_rule_harness(
        by_model({FIRST: refused(503), SECOND: refused(500)}), models=FALLBACKS, retries=Retries(count=0)
    ) as harness:
        assert harness.gateway.chat(model=FIRST).status == 200
        assert harness.models == [FIRST, SECOND, THIRD]


def test_the_last_fallbacks_failure_is_reported() -> None:
    failing = {FIRST: refused(503), SECOND: refused(500), THIRD: refused(404, f"model '{THIRD}' not found")}
    with run_rule_harness(by_model(failing), models=FALLBACKS, retries=Retries(count=0)) as harness:
        assert harness.gateway.chat(model=FIRST).error["code"] == "model_not_found"
        assert harness.models == [FIRST, SECOND, THIRD]


def test_the_setting_may_use_any_of_a_models_names() -> None:
    models = Models(aliases={"ours": FIRST}, fallbacks={"ours": [f"cohere/{FIRST}", "command-r"]})
    with run_rule_harness(by_model({FIRST: refused(503)}), models=models, retries=Retries(count=0)) as harness:
        assert harness.gateway.chat(model=FIRST).status == 200
        assert harness.models == [FIRST, THIRD]


@pytest.mark.parametrize("status", [400, 422, 498])
def test_what_the_caller_did_needs_no_other_model(status: int) -> None:
    with run_rule_harness(by_model({FIRST: refused(status)}), models=FALLBACKS) as harness:
        assert harness.gateway.chat(model=FIRST).status >= 400
        assert harness.models == [FIRST]


@pytest.mark.parametrize("status", [401, 403])
def test_no_fallback_where_the_servers_key_is_refused(status: int) -> None:
    with run_rule_harness(by_model({FIRST: refused(status)}), models=FALLBACKS) as harness:
        response = harness.gateway.chat(model=FIRST)
        assert (response.status, response.error["code"]) == (502, "upstream_auth")
        assert harness.models == [FIRST]


def test_a_callers_own_quota_is_theirs() -> None:
    with run_rule_harness(by_model({FIRST: refused(429, MONTH)}), models=FALLBACKS, **OWN) as harness:
        assert harness.gateway.chat(model=FIRST).error["code"] == "insufficient_quota"
        assert harness.models == [FIRST]


def test_after_the_first_byte_no_other_model_answers() -> None:
    script = (Head(200, EVENTS), Chunk(BEGUN), Cut())
    with run_rule_harness(by_model({FIRST: script}), models=FALLBACKS) as harness:
        assert "error" in harness.gateway.chat(model=FIRST, stream=True).chunks[-1]
        assert harness.models == [FIRST]


# --- breakers -----------------------------------------------------------------------------------------------

TOUCHY: dict[str, Any] = {"breaker": BreakerSettings(failures=3, open_seconds=60.0), "retries": Retries(count=0)}


def test_a_model_that_fails_all_the_time_is_left_alone() -> None:
    with run_rule_harness(by_model({FIRST: refused(503)}), **TOUCHY) as harness:
        began = time.monotonic()
        assert [harness.gateway.chat().status for _ in range(3)] == [503] * 3
        response = harness.gateway.chat()
        assert (response.status, response.error["code"]) == (503, "circuit_open")
        assert 59 - (time.monotonic() - began) <= int(response.headers["retry-after"]) <= 60
        assert len(harness.upstream.requests) == 3
        assert harness.gateway.chat(model=SECOND).status == 200
        assert harness.gateway.metrics()[f'gateway_circuit_breaker_open{{model="{A}"}}'] == 1
        harness.gateway.log.wait(
            lambda line: line.get("message") == f"the circuit breaker of Cohere's model {A} is open"
        )


def test_a_probe_closes_the_breaker() -> None:
    settings = {**TOUCHY, "breaker": BreakerSettings(failures=3, open_seconds=0.2)}
    with run_rule_harness([refused(503), refused(503), refused(503), answered()], **settings) as harness:
        for _ in range(3):
            harness.gateway.chat()
        harness.gateway.log.wait(lambda line: line.get("message", "").endswith("is open"))
        response = harness.gateway.chat()
        while response.status != 200:
            assert response.error["code"] == "circuit_open"
            response = harness.gateway.chat()
        harness.gateway.log.wait(lambda line: line.get("message", "").endswith("is closed"))
        assert len(harness.upstream.requests) == 4


def test_a_probe_whose_caller_leaves_lets_the_next_call_probe() -> None:
    probed = Signal()

    def respond(request: Request) -> Script:
        if len(harness.upstream.requests) <= 3:
            return refused(503)
        if len(harness.upstream.requests) == 4:
            probed.set()
            return (Pause(NEVER),)
        return answered()

    settings = {**TOUCHY, "breaker": BreakerSettings(failures=3, open_seconds=0.1)}
    with run_rule_harness(respond, **settings) as harness:
        for _ in range(3):
            harness.gateway.chat()
        while not probed.is_set():
            with socket.create_connection(harness.gateway.address, WAIT_SECONDS) as connection:
                connection.sendall(request_bytes("prober"))
                until_probed_or_refused(connection, probed)
        harness.gateway.log.wait(lambda line: line.get("outcome") == "client_closed")
        response = harness.gateway.chat()
        assert (response.status, response.text) == (200, "Hi there.")
        harness.gateway.log.wait(lambda line: line.get("message", "").endswith("is closed"))


def until_probed_or_refused(connection: socket.socket, probed: Signal) -> None:
    """Waits until the call is made, or an open breaker has refused it."""
    connection.setblocking(False)
    response = bytearray()

    def refused_by_breaker() -> bool:
        with contextlib.suppress(BlockingIOError):
            response.extend(connection.recv(65536))
        return b"circuit_open" in response

    awaited(lambda: probed.is_set() or refused_by_breaker())


def test_the_breaker_of_the_connection_opens_for_every_model() -> None:
    with ScriptedUpstream(answered()).run_in_thread() as gone:
        url = gone.url
    with gateway_over(url, cohere_api_key=[SERVER_KEY], **TOUCHY) as gateway:
        assert [gateway.chat(model=model).error["code"] for model in (FIRST, SECOND, THIRD)] == [
            "upstream_unreachable"
        ] * 3
        assert gateway.chat(model=SECOND).error["code"] == "circuit_open"
        assert gateway.metrics()['gateway_circuit_breaker_open{model="connection"}'] == 1
        gateway.log.wait(lambda line: line.get("message") == "the circuit breaker of the connection to Cohere is open")


def test_an_open_breaker_makes_another_model_answer() -> None:
    with run_rule_harness(by_model({FIRST: refused(503)}), **TOUCHY, models=FALLBACKS) as harness:
        for _ in range(5):
            assert harness.gateway.chat(model=FIRST).status == 200
        assert harness.models.count(FIRST) == 3


# --- places -------------------------------------------------------------------------------------------------


@dataclass
class Rush:
    """Callers in threads, and what they were told."""

    gateway: Gateway
    answers: list[Response] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def asks(self) -> None:
        thread = threading.Thread(target=lambda: self.answers.append(self.gateway.chat()))
        self.threads.append(thread)
        thread.start()

    def ends(self) -> list[int]:
        for thread in self.threads:
            thread.join(WAIT_SECONDS)
        return sorted(response.status for response in self.answers)


def test_calls_beyond_the_bound_wait_and_those_beyond_the_queue_are_refused() -> None:
    go_on, received = Signal(), Signal()

    def respond(request: Request) -> Script:
        received.set()
        return (Pause(go_on), *answered())

    concurrency = ConcurrencySettings(max_in_flight=1, queue_size=1)
    with run_rule_harness(respond, concurrency=concurrency) as harness:
        rush = Rush(harness.gateway)
        rush.asks()
        received.wait_in_thread()
        rush.asks()
        awaited(lambda: harness.gateway.metrics()["gateway_requests_in_flight"] == 3)  # with this look
        harness.gateway.ask("GET", "/health/live")  # the second one has been read by now, and waits
        refused_one = harness.gateway.chat()
        assert (refused_one.status, refused_one.error["code"]) == (503, "too_many_calls")
        assert refused_one.headers["retry-after"] == "1"
        assert len(harness.upstream.requests) == 1
        go_on.set()
        assert rush.ends() == [200, 200]
        assert harness.gateway.metrics()["gateway_upstream_queue_duration_seconds_count"] >= 1


def test_a_stream_gives_its_place_back() -> None:
    # One may wait: the last bytes are there a moment before the place is given back.
    with run_rule_harness([streamed()], concurrency=ConcurrencySettings(max_in_flight=1, queue_size=1)) as harness:
        for _ in range(5):
            response = harness.gateway.chat(stream=True)
            assert (response.status, response.text) == (200, "Hi there.")


@pytest.mark.parametrize("script", [refused(503), refused(400), (Cut(),), refused(401)], ids=str)
def test_a_failure_gives_its_place_back(script: Script) -> None:
    with run_rule_harness(
        [script], concurrency=ConcurrencySettings(max_in_flight=1, queue_size=0), retries=Retries(count=0)
    ) as harness:
        codes = {harness.gateway.chat().error["code"] for _ in range(4)}
        assert "too_many_calls" not in codes


def test_who_leaves_the_queue_leaves_no_trace() -> None:
    go_on, received = Signal(), Signal()

    def respond(request: Request) -> Script:
        received.set()
        return (Pause(go_on), *answered())

    with run_rule_harness(respond, concurrency=ConcurrencySettings(max_in_flight=1, queue_size=1)) as harness:
        rush = Rush(harness.gateway)
        rush.asks()
        received.wait_in_thread()
        for identity in ("one", "two", "three"):
            with socket.create_connection(harness.gateway.address, WAIT_SECONDS) as connection:
                connection.sendall(request_bytes(identity))
                harness.gateway.ask("GET", "/health/live")  # it has been read by now, and waits
            assert harness.gateway.log.line_of(identity)["outcome"] == "client_closed"
        go_on.set()
        assert rush.ends() == [200]
        assert harness.gateway.chat().status == 200
        assert len(harness.upstream.requests) == 2


def test_for_a_caller_who_left_between_two_calls_nothing_is_retried() -> None:
    with run_rule_harness([refused(503)], retries=Retries(initial_backoff=20.0, max_backoff=20.0)) as harness:
        with socket.create_connection(harness.gateway.address, WAIT_SECONDS) as connection:
            connection.sendall(request_bytes("leaver"))
            awaited(lambda: bool(harness.upstream.exchanges))
            harness.upstream.exchanges[0].finished.wait_in_thread()
        assert harness.gateway.log.line_of("leaver")["outcome"] == "client_closed"
        assert len(harness.upstream.requests) == 1


# --- answers without end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_answer_that_is_too_large_to_be_true(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (response, streaming):
        monkeypatch.setattr(module, "MAX_RESPONSE_BYTES", 100_000)
    script = streamed(*["x" * 10_000] * 50) if stream else answered("x" * 500_000)
    with run_rule_harness([script], retries=Retries(count=0)) as harness:
        http_response = harness.gateway.chat(stream=stream)
        error = http_response.chunks[-1]["error"] if http_response.status == 200 else http_response.error
        assert error["code"] == "upstream_cut" and "too large" in error["message"]
