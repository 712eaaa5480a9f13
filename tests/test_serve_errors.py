"""What the caller sees when Cohere refuses, breaks off, falls silent or talks nonsense.

REFUSALS is the table in docs/reference/errors.md#errors-from-cohere, both columns; each row is asked
whole and streamed, through the official SDK. Then what Cohere said after 200 that is no answer: before the first
event it is an ordinary error, after it an error event and no [DONE]. Connections that break are in test_faults.py.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import IncompleteRead
from typing import Any

import openai
import pytest

from gateway.settings.schema import Timeouts
from support.app import (
    CHAT,
    CLOSED,
    SERVER_KEY,
    USAGE,
    A,
    Harness,
    Response,
    answered,
    end,
    gateway_over,
    opened,
    piece,
    run_harness,
    start,
    story,
    streamed,
    whole,
)
from support.ports import free_port
from support.scripted_upstream import (
    Chunk,
    Cut,
    End,
    Head,
    Pause,
    Reset,
    Script,
    ScriptedUpstream,
    Signal,
    Write,
    compact_json,
    event_stream,
    json_answer,
    transcript,
)
from support.waiting import WAIT_SECONDS
from translators.core.capabilities import CAPABILITIES

HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
NEVER = Signal()
IN_TIME = 0.25
"""Seconds of silence that the impatient gateway bears."""


@pytest.fixture(scope="module")
def own() -> Iterator[Harness]:
    """The caller's key is the Cohere key."""
    with run_harness() as harness:
        yield harness


@pytest.fixture(scope="module")
def server() -> Iterator[Harness]:
    """The server's Cohere key is used."""
    with run_harness(cohere_api_key=[SERVER_KEY]) as harness:
        yield harness


@pytest.fixture(scope="module")
def hasty() -> Iterator[Harness]:
    """A gateway that does not wait for long."""
    with run_harness(timeouts=Timeouts(first_event=IN_TIME, between_events=IN_TIME)) as harness:
        yield harness


@pytest.fixture(scope="module")
def patient_at_first() -> Iterator[Harness]:
    """The same once an answer has begun: on a busy machine a first event may take its time."""
    with run_harness(timeouts=Timeouts(first_event=WAIT_SECONDS, between_events=IN_TIME)) as harness:
        yield harness


# --- the table ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """What the caller is told. `retry` is the header `x-should-retry`, None when there must be none."""

    status: int
    type: str
    code: str | None
    param: str | None = None
    retry: str | None = None
    alerts: bool = False


@dataclass(frozen=True)
class Row:
    """Cohere's answer, and what becomes of it with the caller's own key and with the server's."""

    name: str
    status: int
    body: Any
    own: Expected
    server: Expected | None = None  # None: the same
    says: str = ""  # a part of the message, where it is Cohere's own sentence; "" means any


def invalid(param: str | None, code: str = "invalid_value") -> Expected:
    return Expected(400, "invalid_request_error", code, param)


def bad_gateway(code: str) -> Expected:
    return Expected(502, "server_error", code)


OURS = Expected(502, "server_error", "upstream_auth", retry="false", alerts=True)
TRIAL = (
    "You are using a Trial key, which is limited to {} API calls / {}. You can continue to use the Trial key for free"
    " or upgrade to a Production key"
)
NO_MODEL = "model 'xyz' not found, make sure the correct model ID was used and that you have access to the model."
GONE = "model 'command-r-plus' was removed on September 15, 2025. See https://docs.cohere.com/docs/models"
MISSING = Expected(404, "invalid_request_error", "model_not_found")
A_MINUTE = Expected(429, "rate_limit_error", "rate_limit_exceeded")
A_MONTH = Expected(429, "insufficient_quota", "insufficient_quota", retry="false")
BILLING = "Please add or update your payment method at https://dashboard.cohere.com/billing?tab=payment to continue"
UNUSABLE = "your request resulted in an invalid tool generation. Try updating the messages or tool definitions"

REFUSALS = (
    Row(
        "400 a range",
        400,
        {"message": "invalid request: temperature must be between 0 and 1.0 inclusive."},
        invalid("temperature"),
        says="temperature must be between",
    ),
    Row(
        "400 too many tokens asked for",
        400,
        {
            "message": "too many tokens: max tokens must be less than or equal to 4096, the maximum output for this"
            " model - received 8192."
        },
        invalid("max_tokens"),
    ),
    Row(
        "400 overlong prompt",
        400,
        {"message": "too many tokens: size limit exceeded by 11326 tokens. Try using shorter or fewer inputs"},
        invalid("messages", "context_length_exceeded"),
    ),
    Row(
        "400 tool_choice",
        400,
        {"message": "tool_choice is not supported for this model"},
        invalid("tool_choice"),
    ),
    Row(
        "400 tools",
        400,
        {
            "message": "invalid request: tool names can only contain certain characters (A-Za-z0-9_) and can't begin"
            " with a digit (provided name: 'xyz')."
        },
        invalid("tools"),
    ),
    Row("400 no field", 400, {"message": "system turn must be the first in the list"}, invalid(None)),
    Row("400 without a word", 400, b"", invalid(None)),
    Row(
        "401",
        401,
        {"message": "invalid api token"},
        Expected(401, "authentication_error", "invalid_api_key"),
        OURS,
    ),
    Row("401 without a word", 401, b"", Expected(401, "authentication_error", "invalid_api_key"), OURS),
    Row(
        "402",
        402,
        {"message": BILLING},
        Expected(402, "insufficient_quota", "insufficient_quota"),
        Expected(429, "insufficient_quota", "insufficient_quota", retry="false", alerts=True),
    ),
    Row(
        "403",
        403,
        {"message": "your api key does not have permission to perform this operation"},
        Expected(403, "permission_error", "permission_denied"),
        OURS,
    ),
    Row(
        "403 names a model",
        403,
        {"message": "you do not have access to the model 'command-x'"},
        Expected(403, "permission_error", "permission_denied"),
        MISSING,
    ),
    Row("404 unknown", 404, {"id": "5f1c", "message": NO_MODEL}, MISSING, says=NO_MODEL),
    Row("404 removed", 404, {"id": "5f1c", "message": GONE}, MISSING, says="was removed on"),
    Row(
        "422 tools",
        422,
        {"error_type": "INVALID_TOOL_GENERATION", "message": UNUSABLE},
        Expected(422, "invalid_request_error", "INVALID_TOOL_GENERATION"),
        says=UNUSABLE,
    ),
    Row(
        "422 no answer",
        422,
        {"error_type": "NO_VALID_RESPONSE_GENERATED", "message": "No valid response generated. Try updating messages"},
        Expected(422, "invalid_request_error", "NO_VALID_RESPONSE_GENERATED"),
    ),
    Row("429 trial minute", 429, {"message": TRIAL.format(20, "minute")}, A_MINUTE, says="20 API calls / minute"),
    Row(
        "429 minute",
        429,
        {"message": "You are past the per minute request limit, please wait and try again later."},
        A_MINUTE,
    ),
    Row("429 tokens", 429, {"message": "trial token rate limit exceeded, limit is 100000 tokens per minute"}, A_MINUTE),
    Row("429 says nothing", 429, {"message": "Please wait and try again later"}, A_MINUTE),
    Row("429 without a word", 429, b"", A_MINUTE),
    Row("429 trial month", 429, {"message": TRIAL.format(1000, "month")}, A_MONTH, says="1000 API calls / month"),
    Row(
        "429 month",
        429,
        {"message": "You are past the per-month request limit for this model, please wait and try again later."},
        A_MONTH,
    ),
    Row(
        "498",
        498,
        {"message": "blocked input: please adjust your prompt and try again"},
        Expected(400, "invalid_request_error", "content_filter"),
        says="blocked input",
    ),
    Row("499", 499, {"message": "request cancelled"}, bad_gateway("upstream_cancelled")),
    Row("500", 500, {"message": "internal server error, trace 4bf9"}, bad_gateway("upstream_error"), says="trace 4bf9"),
    Row("500 without a word", 500, b"", bad_gateway("upstream_error")),
    Row("501", 501, {"message": "not implemented"}, bad_gateway("upstream_not_implemented")),
    Row("502 HTML", 502, HTML, bad_gateway("upstream_error")),
    Row("503", 503, {"message": "unavailable"}, Expected(503, "server_error", "upstream_unavailable")),
    Row("503 HTML", 503, HTML, Expected(503, "server_error", "upstream_unavailable")),
    Row("504", 504, {"message": "timed out"}, Expected(504, "server_error", "upstream_timeout")),
    Row("504 without a word", 504, b"", Expected(504, "server_error", "upstream_timeout")),
    Row("524 nobody's", 524, b"error code: 524", bad_gateway("upstream_error")),
    Row("500 a list", 500, b"[1, 2]", bad_gateway("upstream_error")),
    Row("500 wrong types", 500, b'{"message": {"deep": 1}}', bad_gateway("upstream_error")),
    Row("500 bytes", 500, b"\x00\xff\xfe\x80" * 9, bad_gateway("upstream_error")),
)

EXCEPTIONS: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    402: openai.APIStatusError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
    504: openai.InternalServerError,
}

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("column", ["own", "server"])
@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.name)
def test_cohere_refuses(row: Row, column: str, stream: bool, request: pytest.FixtureRequest) -> None:
    harness: Harness = request.getfixturevalue(column)
    output = row.own if column == "own" else row.server or row.own
    harness.respond_with(json_answer(row.status, row.body, {"x-debug-trace-id": TRACE, "retry-after": "7"}))
    # After a 429 the key rests for the model that was asked: each has its own, so that nobody waits for it here.
    limited = [one.name for one in REFUSALS if one.status == 429]
    model = [*CAPABILITIES][limited.index(row.name) * 2 + stream] if row.status == 429 else A
    with harness.gateway.client() as client, pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}], stream=stream)
    error, headers = raised.value, raised.value.response.headers
    assert type(error) is EXCEPTIONS[output.status]
    result = Expected(
        error.status_code, str(error.type), error.code, error.param, headers.get("x-should-retry"), output.alerts
    )
    assert result == output
    assert isinstance(error.body, dict) and set(error.body) == {"message", "type", "param", "code"}
    assert isinstance(error.body["message"], str) and error.body["message"].strip()
    assert row.says in error.body["message"]
    assert "<" not in error.body["message"], "a page of HTML helps nobody"
    assert headers["content-type"] == "application/json"
    assert headers["retry-after"] == "7"
    assert headers["x-cohere-trace-id"] == TRACE
    assert re.fullmatch(r"req_[0-9a-f]{24}", headers["x-request-id"])
    # A refusal that teaches what a model cannot do is answered by asking in another way, once.
    assert len(harness.upstream.exchanges) in ((1, 2) if row.name == "400 tool_choice" else (1,))
    line = harness.gateway.log.line_of(headers["x-request-id"])
    assert (line["status"], line["outcome"]) == (output.status, "error")
    assert line["error"] == (output.code or output.type)
    troubles = [
        one["message"] for one in harness.gateway.log.lines if headers["x-request-id"] in one.get("message", "")
    ]
    assert bool(troubles) is output.alerts
    assert SERVER_KEY not in str(troubles) + str(error.body)


def test_the_table_has_both_columns_of_every_status() -> None:
    assert {row.status for row in REFUSALS} >= {400, 401, 402, 403, 404, 422, 429, 498, 499, 500, 501, 503, 504}
    assert {row.status for row in REFUSALS if row.server} == {401, 402, 403}


@pytest.mark.parametrize("status", [302, 307, 308])
def test_a_redirect_is_not_followed(own: Harness, status: int) -> None:
    with ScriptedUpstream(answered()).run_in_thread() as elsewhere:
        response = own.chat_over(json_answer(status, b"", {"location": f"{elsewhere.url}/v2/chat"}))
        assert (response.status, response.error["code"]) == (502, "upstream_error")
        assert not elsewhere.connections
    assert "location" not in response.headers


@pytest.mark.parametrize("retry_after", ["0", "120", "Fri, 20 Nov 2026 21:20:23 GMT"])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_passed_on(own: Harness, status: int, retry_after: str) -> None:
    response = own.chat_over(json_answer(status, {"message": "later"}, {"retry-after": retry_after}))
    assert (response.status, response.headers["retry-after"]) == (status, retry_after)


@pytest.mark.parametrize("retry_after", ["soon", "-1", "nan", "1e99", "0x10", "Fri, 99 Nov 2026 21:20:23 GMT", "7;8"])
def test_a_retry_after_of_nonsense_is_dropped(own: Harness, retry_after: str) -> None:
    response = own.chat_over(json_answer(503, {"message": "later"}, {"retry-after": retry_after}))
    assert response.status == 503 and "retry-after" not in response.headers


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 500, 503])
@pytest.mark.parametrize(
    "body",
    [compact_json({"message": f"no such token: {SERVER_KEY}!"}), f"Authorization: Bearer {SERVER_KEY}".encode()],
    ids=["JSON", "text"],
)
def test_an_error_that_repeats_the_servers_key_is_masked(status: int, body: bytes) -> None:
    with run_harness(cohere_api_key=[SERVER_KEY]) as on:
        for response in (
            on.chat_over(json_answer(status, body, {})),
            on.gateway.ask("POST", "/cohere/v2/chat", {"model": A, "messages": []}),
            on.gateway.ask("POST", "/litellm/cohere/v2/chat", {"model": A, "messages": []}),
        ):
            assert response.status >= 400
            assert SERVER_KEY.encode() not in response.data
        assert SERVER_KEY.encode() not in on.gateway.log.getvalue()
        if status in (400, 422):
            assert b"***" in response.data


def test_a_compressed_error_that_repeats_the_servers_key_is_masked() -> None:
    body = gzip.compress(compact_json({"message": f"no such token: {SERVER_KEY}"}))
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    with run_harness(cohere_api_key=[SERVER_KEY]) as on:
        on.respond_with(json_answer(400, body, headers))
        accepts = {"accept-encoding": "gzip", "content-type": "application/json"}
        response = on.gateway.ask("POST", "/cohere/v2/chat", {"model": A, "messages": []}, accepts)
        assert (response.status, response.body["message"]) == (400, f"no such token: {'*' * len(SERVER_KEY)}")


@pytest.mark.parametrize("cut", [0, 5], ids=["in one piece", "cut in two"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_an_error_in_a_200_that_repeats_the_servers_key_is_masked(streamed: bool, cut: int) -> None:
    """Whichever way the error is said, and wherever the network cuts it."""
    text = f"rejected by upstream: Bearer {SERVER_KEY}!"
    ending = end("ERROR", error=text)
    if streamed:
        bodies = [transcript(*story("Hi", ending=ending)), b"data: " + compact_json({"message": text}) + b"\n\n"]
        kind = "text/event-stream"
    else:
        bodies = [compact_json({**whole(finish="ERROR"), "error": text}), compact_json({"message": text})]
        kind = "application/json"
    message = {"role": "user", "content": "Hi"}
    with run_harness(cohere_api_key=[SERVER_KEY]) as on:
        for body in bodies:
            middle = body.index(SERVER_KEY.encode()) + cut
            # Without the pause one read would bring both.
            pieces = (Chunk(body[:middle]), Pause(0.02), Chunk(body[middle:])) if cut else (Chunk(body),)
            on.respond_with((Head(200, (("content-type", kind),)), *pieces, End()))
            trips: list[tuple[str, dict[str, Any]]] = [
                (CHAT, {"messages": [message]}),
                ("/v1/responses", {"input": "Hi", "store": False}),
                ("/cohere/v2/chat", {"messages": [message]}),
            ]
            for path, fields in trips:
                response = on.gateway.ask("POST", path, {"model": A, "stream": streamed, **fields})
                assert SERVER_KEY.encode() not in response.data
                assert b"rejected by upstream: Bearer ***" in response.data
        assert SERVER_KEY.encode() not in on.gateway.log.getvalue()


@pytest.mark.parametrize("key", ["k", "test", "text", "placeholder"])
def test_a_placeholder_is_no_secret(key: str) -> None:
    """Private deployments and emulators take any key; its letters are those of the answers."""
    text = f"Look: a {key} in a text of a test."
    message = {"role": "user", "content": "Hi"}
    with run_harness(cohere_api_key=[key]) as on:
        for stream in (False, True):
            on.respond_with(event_stream(transcript(*story(text))) if stream else json_answer(200, whole(text)))
            assert on.gateway.ask("POST", CHAT, {"model": A, "messages": [message], "stream": stream}).text == text
            native = on.gateway.ask("POST", "/cohere/v2/chat", {"model": A, "messages": [message], "stream": stream})
            assert text.encode() in native.data


GZIP = (("content-type", "application/json"), ("content-encoding", "gzip"))


@pytest.mark.parametrize("pieces", [1, 7, 10_000], ids=["whole", "in pieces", "byte by byte"])
def test_a_compressed_answer_that_repeats_the_servers_key_is_unpacked_and_masked(pieces: int) -> None:
    text = compact_json({"message": f"Bearer {SERVER_KEY}!", "rest": "ab" * 60_000})
    packed = gzip.compress(text[:30]) + gzip.compress(text[30:])  # of two members, as the format allows
    size = -(-len(packed) // pieces)
    chunks = [Chunk(packed[start : start + size]) for start in range(0, len(packed), size)]
    accepts = {"accept-encoding": "gzip", "content-type": "application/json"}
    with run_harness(cohere_api_key=[SERVER_KEY]) as on:
        on.respond_with((Head(200, GZIP), *chunks, End()))
        response = on.gateway.ask("POST", "/cohere/v2/chat", {"model": A, "messages": []}, accepts)
        assert "content-encoding" not in response.headers
        assert response.data == text.replace(SERVER_KEY.encode(), b"*" * len(SERVER_KEY))


@pytest.mark.parametrize(
    ("coding", "data"),
    [("br", b"\x0b\x02\x80Hi\x03"), ("gzip", b"no gzip"), ("gzip", gzip.compress(b"{}")[:-6])],
    ids=["not asked for", "not what it says", "cut"],
)
def test_an_answer_that_cannot_be_looked_into_is_no_success(coding: str, data: bytes) -> None:
    headers = (("content-type", "application/json"), ("content-encoding", coding))
    with run_harness(cohere_api_key=[SERVER_KEY]) as on:
        on.respond_with((Head(200, headers), Chunk(data), End()))
        try:
            assert on.gateway.ask("POST", "/cohere/v2/chat", {"model": A, "messages": []}).status == 502
        except IncompleteRead:  # what came before the end may have been sent on
            assert coding == "gzip"


def test_no_retry_after_is_made_up(own: Harness) -> None:
    assert "retry-after" not in own.chat_over(json_answer(429, {"message": "later"})).headers


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (200, "retry-after"),
        pytest.param(200, "x-debug-trace-id"),
        pytest.param(429, "x-debug-trace-id"),
        pytest.param(429, "retry-after"),
    ],
)
def test_a_header_that_is_no_text(own: Harness, status: int, name: str) -> None:
    """A lone 0xE9 is no UTF-8: whatever is made of it, the answer must come."""
    body = whole() if status == 200 else {"message": "later"}
    assert own.chat_over(json_answer(status, body, {name: "caf\u00e9"})).status == status


@pytest.mark.parametrize("retries", [1, 2])
def test_the_sdk_does_not_retry_what_will_not_help(own: Harness, retries: int) -> None:
    own.respond_with(json_answer(429, {"message": TRIAL.format(1000, "month")}))
    with own.gateway.client(max_retries=retries) as client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model=A, messages=[{"role": "user", "content": "Hi"}])
    assert len(own.upstream.exchanges) == 1


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/command-a-03-2025"])
@pytest.mark.parametrize(
    ("column", "status", "expected"),
    [("own", 401, 401), ("server", 401, 502), ("own", 429, 429), ("own", 500, 502), ("own", 404, 404)],
)
def test_lookups_are_refused_alike(
    path: str, column: str, status: int, expected: int, request: pytest.FixtureRequest
) -> None:
    harness: Harness = request.getfixturevalue(column)
    harness.respond_with(json_answer(status, {"message": "no"}, {"retry-after": "3"}))
    response = harness.gateway.ask("GET", path)
    assert response.status == expected
    assert response.error["message"]
    assert response.headers["retry-after"] == "3"


# --- 200, but no answer ---------------------------------------------------------------------------------------

NO_ANSWER: tuple[tuple[str, bytes], ...] = (
    ("an error body", b'{"message":"something is wrong"}'),
    ("nothing", b""),
    ("HTML", HTML),
    ("not JSON", b"OK"),
    ("half of it", json.dumps(whole()).encode()[:60]),
    ("a list", b"[]"),
    ("a number", b"7"),
    ("null", b"null"),
    ("an empty object", b"{}"),
    ("wrong types", b'{"id":1,"finish_reason":2,"message":"hello"}'),
    ("bytes", b"\x80\xff\x00"),
    ("nested too deeply", b'{"message":' + b"[" * 100_000),
    ("a stream", transcript(*story())),
)


@pytest.mark.parametrize(("name", "body"), NO_ANSWER, ids=[name for name, _ in NO_ANSWER])
def test_200_without_an_answer(own: Harness, name: str, body: bytes) -> None:
    response = own.chat_over(json_answer(200, body))
    assert response.status == 502
    assert response.error["type"] == "server_error"
    assert response.error["code"] == "upstream_protocol_error"
    if name == "an error body":
        assert "something is wrong" in response.error["message"]


def test_an_error_in_the_place_of_a_stream_says_what_it_says(own: Harness) -> None:
    response = own.chat_over(json_answer(200, {"message": "the model is being moved"}), stream=True)
    assert response.status == 502
    assert response.error["message"] == "Cohere answered with an error: the model is being moved"


NO_STREAM = tuple((name, body) for name, body in NO_ANSWER if name != "a stream") + (
    ("a whole answer", json.dumps(whole()).encode()),
    ("only [DONE]", b"data: [DONE]\n\n"),
    ("only comments", b": hello\n\n: again\n\n"),
    ("only empty lines", b"\n\n\n\n"),
    ("broken JSON", b'event: message-start\ndata: {"type":"message-start","delt\n\n' + transcript(*story())),
    ("no start", transcript(opened(), piece("Hi"), CLOSED, end())),
    ("a wrong type", b'data: {"type": 7}\n\n'),
    ("bytes in an event", b"data: \xff\xfe\n\n"),
)


@pytest.mark.parametrize(("name", "body"), NO_STREAM, ids=[name for name, _ in NO_STREAM])
def test_200_without_a_stream(own: Harness, name: str, body: bytes) -> None:
    """Nothing was sent yet: an ordinary error with an ordinary status."""
    response = own.chat_over(event_stream(body), stream=True)
    assert response.status == 502, response
    assert response.error["type"] == "server_error"


def test_the_first_event_says_that_it_failed(own: Harness) -> None:
    ending = end("ERROR", {}, error=UNUSABLE, error_type="INVALID_TOOL_GENERATION")
    response = own.chat_over(event_stream(transcript(ending)), stream=True)
    assert response.status == 502
    assert response.error["code"]


# --- finish reasons that are failures ---------------------------------------------------------------------------

FINISHES: tuple[tuple[str, dict[str, Any], int, str, str], ...] = (
    ("ERROR", {}, 502, "upstream_error", ""),
    (
        "ERROR",
        {"error": UNUSABLE, "error_type": "INVALID_TOOL_GENERATION"},
        502,
        "INVALID_TOOL_GENERATION",
        UNUSABLE,
    ),
    ("TIMEOUT", {}, 504, "upstream_timeout", ""),
)


@pytest.mark.parametrize(("finish", "more", "status", "code", "says"), FINISHES)
def test_a_stream_that_finishes_as_a_failure(
    own: Harness, finish: str, more: dict[str, Any], status: int, code: str, says: str
) -> None:
    events = [start(), opened(), piece("Hi"), end(finish, {}, **more)]
    response = own.chat_over(event_stream(transcript(*events)), stream=True)
    error = broken_off(response, "Hi")
    assert error["code"] == code or not says
    assert says in error["message"]
    line = own.gateway.log.line_of(response.headers["x-request-id"])
    assert line["outcome"] == "error"


@pytest.mark.parametrize(("finish", "status"), [("ERROR", 502), ("TIMEOUT", 504)])
@pytest.mark.parametrize("usage", [USAGE, {}], ids=["usage", "no usage"])
def test_a_whole_answer_that_finishes_as_a_failure(own: Harness, finish: str, status: int, usage: Any) -> None:
    response = own.chat_over(json_answer(200, whole("half of it", finish=finish, usage=usage)))
    assert response.status == status
    assert response.error["type"] == "server_error"
    assert "half of it" not in response.data.decode()


# --- what breaks in the middle --------------------------------------------------------------------------------

BEGUN = transcript(start(), opened(), piece("Hi"), piece(" th"), done=False)


def broken_off(response: Response, text: str) -> dict[str, Any]:
    """The error that ends a stream after this text: in OpenAI's shape, the last thing said, no [DONE]."""
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "[DONE]" not in response.frames
    *chunks, last = response.chunks
    assert all("error" not in chunk and chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)
    assert list(last) == ["error"]
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert last["error"]["type"] == "server_error"
    assert last["error"]["message"]
    return dict(last["error"])


CUTS: tuple[tuple[str, Script, str], ...] = (
    ("closed inside the coding", event_stream(BEGUN, ending=Cut()), "Hi th"),
    ("reset", (*event_stream(BEGUN, ending=Pause(0.05)), Reset()), "Hi th"),
    ("a clean end without message-end", event_stream(BEGUN), "Hi th"),
    ("[DONE] without message-end", event_stream(BEGUN + b"data: [DONE]\n\n"), "Hi th"),
)


@pytest.mark.parametrize(("name", "script", "text"), CUTS, ids=[name for name, _, _ in CUTS])
def test_the_sdk_raises_when_a_stream_breaks_off(own: Harness, name: str, script: Script, text: str) -> None:
    own.respond_with(script)
    texts = ""
    with own.gateway.client() as client:
        stream = client.chat.completions.create(model=A, messages=[{"role": "user", "content": "Hi"}], stream=True)
        with pytest.raises(openai.APIError) as raised:
            for chunk in stream:
                texts += chunk.choices[0].delta.content or ""
    assert texts == text
    assert not isinstance(raised.value, openai.APIConnectionError)
    assert raised.value.code == "upstream_cut"
    assert raised.value.type == "server_error"


def test_the_sdk_raises_when_a_stream_finishes_as_a_failure(own: Harness) -> None:
    own.respond_with(event_stream(transcript(start(), opened(), piece("Hi"), end("ERROR", {}, error=UNUSABLE))))
    with own.gateway.client() as client:
        stream = client.chat.completions.create(model=A, messages=[{"role": "user", "content": "Hi"}], stream=True)
        with pytest.raises(openai.APIError, match="invalid tool generation"):
            list(stream)


BODY = json.dumps(whole("Hi there.")).encode()


def test_a_gzipped_answer_is_read(own: Harness) -> None:
    assert own.chat_over(json_answer(200, gzip.compress(BODY), {"content-encoding": "gzip"})).text == "Hi there."


# --- silence --------------------------------------------------------------------------------------------------

HEAD = Head(200, (("content-type", "text/event-stream"),))
JSON_HEAD = Head(200, (("content-type", "application/json"),), "length", length=len(BODY))
SILENT: tuple[tuple[str, bool, Script], ...] = (
    ("whole, before the head", False, (Pause(NEVER),)),
    ("whole, inside the head", False, (Write(b"HTTP/1.1 200 OK\r\ncontent-ty"), Pause(NEVER))),
    ("whole, before the body", False, (JSON_HEAD, Pause(NEVER))),
    ("whole, inside the body", False, (JSON_HEAD, Write(BODY[:40]), Pause(NEVER))),
    ("streamed, before the head", True, (Pause(NEVER),)),
    ("streamed, before the first event", True, (HEAD, Pause(NEVER))),
    ("streamed, only comments", True, (HEAD, Chunk(b": wait\n\n"), Pause(NEVER))),
)


@pytest.mark.parametrize(("name", "stream", "script"), SILENT, ids=[name for name, _, _ in SILENT])
def test_silence_before_anything_was_sent(hasty: Harness, name: str, stream: bool, script: Script) -> None:
    response = hasty.chat_over(script, stream=stream)
    assert response.status == 504
    assert (response.error["type"], response.error["code"]) == ("server_error", "upstream_timeout")
    hasty.upstream.closed[0].wait_in_thread()


def test_silence_in_the_middle_of_a_stream(patient_at_first: Harness) -> None:
    response = patient_at_first.chat_over(event_stream(BEGUN, ending=Pause(NEVER)), stream=True)
    assert broken_off(response, "Hi th")["code"] == "upstream_timeout"
    patient_at_first.upstream.closed[0].wait_in_thread()


SOON = 10.0


def test_a_failed_stream_is_closed_at_once(patient_at_first: Harness) -> None:
    response = patient_at_first.chat_over(event_stream(BEGUN, ending=Pause(NEVER)), stream=True)
    assert broken_off(response, "Hi th")["code"] == "upstream_timeout"
    patient_at_first.upstream.closed[0].wait_in_thread(SOON)


NO_SIZE: Script = (Head(200, (("content-type", "text/event-stream"),)), Chunk(BEGUN), Pause(0.05), Write(b"zz\r\n"))


def test_a_chunk_without_a_size(patient_at_first: Harness) -> None:
    """aiohttp does not wake who reads a body whose coding breaks: the silence is what is noticed."""
    broken_off(patient_at_first.chat_over((*NO_SIZE, Pause(NEVER)), stream=True), "Hi th")


def test_a_chunk_without_a_size_is_no_fault_of_ours(patient_at_first: Harness) -> None:
    response = patient_at_first.chat_over((*NO_SIZE, Pause(NEVER)), stream=True)
    line = patient_at_first.gateway.log.line_of(response.headers["x-request-id"])
    assert line["error"].startswith("upstream")
    assert not [
        one for one in patient_at_first.gateway.log.lines if response.headers["x-request-id"] in one.get("message", "")
    ]


HEAD_AND_BEGINNING = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n"
    % (len(BEGUN), BEGUN)
)
REST = transcript(piece("ere."), CLOSED, end())


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(event_stream(BEGUN, ending=Pause(NEVER)), id="the head first"),
        pytest.param((Write(HEAD_AND_BEGINNING), Pause(NEVER)), id="head and event at once"),
    ],
)
def test_after_the_first_event_the_time_out_between_events_counts(script: Script) -> None:
    with run_harness(timeouts=Timeouts(first_event=600, between_events=IN_TIME)) as harness:
        assert broken_off(harness.chat_over(script, stream=True), "Hi th")["code"] == "upstream_timeout"


def test_inside_a_body_the_time_out_between_events_counts() -> None:
    with run_harness(timeouts=Timeouts(first_event=600, between_events=IN_TIME)) as harness:
        assert harness.chat_over((JSON_HEAD, Write(BODY[:40]), Pause(NEVER))).status == 504


@pytest.mark.parametrize(
    "script",
    [
        pytest.param((HEAD, Pause(0.05), Chunk(BEGUN), Pause(3.5), Chunk(REST), End()), id="the head first"),
        pytest.param(
            (Write(HEAD_AND_BEGINNING), Pause(3.5), *event_stream(REST)[1:]),
            id="head and event at once",
        ),
    ],
)
def test_the_time_out_for_the_first_event_ends_with_it(script: Script) -> None:
    with run_harness(timeouts=Timeouts(first_event=3.0, between_events=WAIT_SECONDS)) as harness:
        assert harness.chat_over(script, stream=True).text == "Hi there."


def test_a_slow_stream_is_not_a_silent_one() -> None:
    """Longer in sum than the patience, but never that long between two events."""
    script = event_stream(transcript(*story(*"abcdefgh")), per_event=True, between=Pause(0.3))
    with run_harness(timeouts=Timeouts(first_event=WAIT_SECONDS, between_events=2.5)) as harness:
        assert harness.chat_over(script, stream=True).text == "abcdefgh"


def test_nobody_listens() -> None:
    port = free_port()
    with gateway_over(f"http://127.0.0.1:{port}") as gateway:
        for stream in (False, True):
            response = gateway.chat(stream=stream)
            assert (response.status, response.error["code"]) == (502, "upstream_unreachable")
            assert str(port) not in response.error["message"]
        assert gateway.ask("GET", "/v1/models").status == 502
        with gateway.client() as client, pytest.raises(openai.InternalServerError):
            client.models.list()


# --- what is odd, but no error --------------------------------------------------------------------------------

PLAIN = transcript(*story("Grüße", ", 世", "界 🌍."))
EXPECTED = "Grüße, 世界 🌍."
TELEMETRY = b'event: telemetry\ndata: {"type":"telemetry","detail":{"x":1}}\n\n'
EVENTS = PLAIN.split(b"\n\n")[:-1]
ODD: tuple[tuple[str, Script], ...] = (
    ("as Cohere frames it", event_stream(PLAIN)),
    ("CRLF", event_stream(PLAIN.replace(b"\n", b"\r\n"))),
    ("CR", event_stream(PLAIN.replace(b"\n", b"\r"))),
    ("a byte order mark", event_stream(b"\xef\xbb\xbf" + PLAIN)),
    ("no space after the colon", event_stream(PLAIN.replace(b": ", b":"))),
    ("no event lines", event_stream(b"".join(event.split(b"\n")[-1] + b"\n\n" for event in EVENTS))),
    ("no [DONE]", event_stream(transcript(*story("Grüße", ", 世", "界 🌍."), done=False))),
    ("no last empty line", event_stream(transcript(*story("Grüße", ", 世", "界 🌍."), done=False)[:-2])),
    ("comments", event_stream(b": hello\n\n" + b": ping\n\n".join(event + b"\n\n" for event in EVENTS))),
    ("unknown events", event_stream(TELEMETRY.join(event + b"\n\n" for event in EVENTS))),
    ("a debug event", event_stream(b'data: {"type":"debug","prompt":"x"}\n\n' + PLAIN)),
    (
        "newline-delimited JSON",
        event_stream(b"".join(json.dumps(event).encode() + b"\n" for event in story("Grüße", ", 世", "界 🌍."))),
    ),
    ("an event a chunk", event_stream(PLAIN, per_event=True, between=Pause(0.002))),
    ("a byte a chunk", event_stream([PLAIN[at : at + 1] for at in range(len(PLAIN))], between=Pause(0))),
    ("three bytes a chunk", event_stream([PLAIN[at : at + 3] for at in range(0, len(PLAIN), 3)], between=Pause(0))),
    ("until the connection ends", (Head(200, (("content-type", "text/event-stream"),), "close"), Write(PLAIN), End())),
    (
        "with a length",
        (Head(200, (("content-type", "text/event-stream"),), "length"), Write(PLAIN), End()),
    ),
    ("another content type", event_stream(PLAIN, headers={"content-type": "application/stream+json"})),
    ("noise after the end", event_stream(PLAIN + b"data: more\n\n")),
    ("cut after the end", event_stream(PLAIN, ending=Cut())),
)


@pytest.mark.parametrize(("name", "script"), ODD, ids=[name for name, _ in ODD])
def test_odd_streams_are_read(own: Harness, name: str, script: Script) -> None:
    response = own.chat_over(script, stream=True)
    assert (response.status, response.text) == (200, EXPECTED)
    assert response.frames[-1] == "[DONE]"
    assert response.frames.count("[DONE]") == 1
    assert [choice["finish_reason"] for chunk in response.chunks for choice in chunk["choices"]][-1] == "stop"


def test_a_cut_at_every_place(own: Harness) -> None:
    """Never a silent loss: either all of the text and [DONE], or an error."""
    complete = PLAIN.index(b"data: [DONE]")
    # The last line end of message-end may be missing: it was complete.
    for at in [*range(1, complete - 2, 7), complete - 1, complete]:
        response = own.chat_over(event_stream(PLAIN[:at]), stream=True)
        if at >= complete - 2:
            assert (response.text, response.frames[-1]) == (EXPECTED, "[DONE]")
        elif response.status == 200:
            assert "error" in response.chunks[-1] and response.frames[-1] != "[DONE]"
        else:
            assert response.status == 502


def test_one_very_long_event(own: Harness) -> None:
    text = "lorem ipsum " * (5 * 1024 * 1024 // 12)
    response = own.chat_over(streamed(text), stream=True)
    assert response.text == text
    assert response.frames[-1] == "[DONE]"


def test_a_very_long_whole_answer(own: Harness) -> None:
    text = "lorem ipsum " * (5 * 1024 * 1024 // 12)
    assert own.chat_over(answered(text)).text == text


def test_errors_are_also_errors_to_plain_http(own: Harness) -> None:
    """Not through the SDK: status line, content type and length as written."""
    own.respond_with(json_answer(404, {"message": NO_MODEL}))
    response = own.gateway.ask("POST", CHAT, {"model": "xyz", "messages": [{"role": "user", "content": "Hi"}]})
    assert response.status == 404
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.data)
    assert response.error == {
        "message": NO_MODEL, "type": "invalid_request_error",
        "param": response.error["param"], "code": "model_not_found",
    }  # fmt: skip
