"""What a caller asks of one request's calls, in the headers of other gateways: less time, fewer attempts, the cache."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.errors import CallerError
from gateway.observability.call_controls import NO_CONTROLS, CallControls, controls_of
from gateway.settings.schema import BreakerSettings, CacheSettings, Retries
from support.app import A, Harness, answered, opened, piece, run_harness, start
from support.scripted_upstream import Chunk, Head, Pause, Signal, json_answer, transcript

READ: tuple[tuple[dict[bytes, bytes], CallControls], ...] = (
    ({}, NO_CONTROLS),
    ({b"cf-aig-request-timeout": b"1500"}, CallControls(first_byte=1.5)),
    ({b"x-litellm-timeout": b"2.5"}, CallControls(total=2.5)),
    ({b"cf-aig-max-attempts": b"1"}, CallControls(attempts=1)),
    ({b"x-litellm-num-retries": b"0"}, CallControls(attempts=1)),
    ({b"x-litellm-num-retries": b"3", b"cf-aig-max-attempts": b"2"}, CallControls(attempts=2)),
    ({b"cf-aig-max-attempts": b" "}, CallControls()),
)


@pytest.mark.parametrize(("headers", "expected"), READ)
def test_headers_are_read(headers: dict[bytes, bytes], expected: CallControls) -> None:
    assert controls_of(headers) == expected


def test_further_headers_of_the_calls_need_no_wish() -> None:
    """Say a `traceparent`, which most requests have without any of these."""
    trace = (("traceparent", "00-1-2-01"),)
    assert controls_of({}, trace) == CallControls(headers=trace)
    assert controls_of({b"x-litellm-timeout": b"2.5"}, trace) == CallControls(total=2.5, headers=trace)
    assert controls_of({}) is NO_CONTROLS


@pytest.mark.parametrize(
    ("name", "wanted", "values"),
    [
        (
            b"cf-aig-request-timeout",
            "a whole number of milliseconds, 1 or more",
            (b"0", b"-1", b"1.5", b"soon", b"9" * 5_000, b"\xb2"),
        ),
        (b"x-litellm-timeout", "a number of seconds above 0", (b"0", b"-1", b"inf", b"nan", b"1e9", b"9" * 5_000)),
        (b"cf-aig-max-attempts", "a whole number, 1 or more", (b"0", b"-1", b"1.5", b"all")),
        (b"x-litellm-num-retries", "a whole number", (b"-1", b"1.5", b"all")),
    ],
)
def test_what_cannot_be_used_is_refused(name: bytes, wanted: str, values: tuple[bytes, ...]) -> None:
    for value in values:
        with pytest.raises(CallerError) as caught:
            controls_of({name: value})
        assert caught.value.failure.message == f"The header {name.decode()} must be {wanted}"


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    breaker = BreakerSettings(failures=2)
    retries = Retries(count=2, initial_backoff=0.001)
    with run_harness(retries=retries, breaker=breaker, cache=CacheSettings(store="memory")) as one:
        yield one


@pytest.mark.parametrize(
    ("header", "value", "calls"),
    [
        ("cf-aig-max-attempts", "1", 1),
        ("x-litellm-num-retries", "1", 2),
        ("cf-aig-max-attempts", "9", 3),
        ("x-litellm-num-retries", "9", 3),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/cohere/v2/chat"])
def test_there_are_no_more_attempts(path: str, header: str, value: str, calls: int) -> None:
    with run_harness(retries=Retries(count=2, initial_backoff=0.001)) as harness:
        harness.respond_with(json_answer(500, {"message": "no"}))
        headers = {"authorization": f"Bearer {harness.gateway.key}", "content-type": "application/json", header: value}
        body = {"model": A, "messages": [{"role": "user", "content": "Hello"}]}
        response = harness.gateway.ask("POST", path, body, headers)
        assert (len(harness.upstream.requests), response.headers["x-gateway-attempts"]) == (calls, str(calls))


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("header", "value"), [("cf-aig-request-timeout", "50"), ("x-litellm-timeout", "0.05")])
def test_there_is_no_more_time_and_no_breaker_opens(harness: Harness, header: str, value: str, streaming: bool) -> None:
    never = Signal()
    for _ in range(4):  # more than open a breaker
        harness.respond_with((Pause(never), *answered()))
        response = harness.gateway.chat("Slow", {header: value}, stream=streaming)
        assert (response.status, response.error["code"]) == (504, "upstream_timeout")
        # On a busy machine the time may be over before anything was sent.
        assert len(harness.upstream.requests) <= 1, "what may take no longer is not tried again"
    never.set()
    harness.respond_with(answered())
    assert harness.gateway.chat("Fast").status == 200


def test_the_time_of_a_stream_ends_it(harness: Harness) -> None:
    never = Signal()
    events = transcript(start(), opened(), piece("word"), done=False)
    harness.respond_with((Head(200, (("content-type", "text/event-stream"),), "chunked"), Chunk(events), Pause(never)))
    response = harness.gateway.chat("Slow", {"x-litellm-timeout": "0.5"}, stream=True)
    never.set()
    assert "upstream_timeout" in response.data.decode()


def test_the_cache_obeys_the_other_names(harness: Harness) -> None:
    harness.respond_with(answered("One."), answered("Two."), answered("Three."))
    for expected, skip in (("miss", "false"), ("hit", ""), ("bypass", "true")):
        response = harness.gateway.chat("Cached", {"cf-aig-cache-ttl": "60", "cf-aig-skip-cache": skip})
        harness.gateway.settle()  # an answer goes to its caller first and to the cache then
        assert response.headers["x-gateway-cache"] == expected
    refused = harness.gateway.chat("Cached", {"cf-aig-cache-ttl": "soon"})
    assert (refused.status, "cf-aig-cache-ttl" in refused.error["message"]) == (400, True)
