"""Cohere's refusals: the table in docs/reference/errors.md row by row, and what its sentences say of the field at
fault."""

from __future__ import annotations

import json
from typing import Any

import pytest

from translators.core.errors import Failure
from translators.core.upstream_errors import LONGEST_TEXT, UPSTREAM_ERRORS, upstream_failure

MONTH = "You are using a Trial key, which is limited to 1000 API calls / month."
MINUTE = "You are past the per minute request limit, please wait and try again later."
MODEL = "your key has no access to the model 'command-a-03-2025'"


def error_of(status: int, message: Any = "no", own: bool = True, **more: Any) -> Failure:
    return upstream_failure(status, json.dumps({"id": "x", "message": message, **more}).encode(), own)


# status, text, whose key, the caller's status, type, code, x-should-retry
ROWS: tuple[tuple[int, str, bool, int, str, str | None, bool | None], ...] = (
    *((400, "no", own, 400, "invalid_request_error", "invalid_value", None) for own in (True, False)),
    (401, "invalid api token", True, 401, "authentication_error", "invalid_api_key", None),
    (401, "invalid api token", False, 502, "server_error", "upstream_auth", False),
    (402, "add a payment method", True, 402, "insufficient_quota", "insufficient_quota", None),
    (402, "add a payment method", False, 429, "insufficient_quota", "insufficient_quota", False),
    (403, "no", True, 403, "permission_error", "permission_denied", None),
    (403, "no", False, 502, "server_error", "upstream_auth", False),
    (403, MODEL, True, 403, "permission_error", "permission_denied", None),
    (403, MODEL, False, 404, "invalid_request_error", "model_not_found", None),
    *(
        (404, "model 'x' not found", own, 404, "invalid_request_error", "model_not_found", None)
        for own in (True, False)
    ),
    *((408, "no", own, 504, "server_error", "upstream_timeout", None) for own in (True, False)),
    *((422, "no", own, 422, "invalid_request_error", "unprocessable_entity", None) for own in (True, False)),
    *((429, MINUTE, own, 429, "rate_limit_error", "rate_limit_exceeded", None) for own in (True, False)),
    *((429, MONTH, own, 429, "insufficient_quota", "insufficient_quota", False) for own in (True, False)),
    *((498, "blocked", own, 400, "invalid_request_error", "content_filter", None) for own in (True, False)),
    *((499, "request cancelled", own, 502, "server_error", "upstream_cancelled", None) for own in (True, False)),
    *((500, "no", own, 502, "server_error", "upstream_error", None) for own in (True, False)),
    *((501, "no", own, 502, "server_error", "upstream_not_implemented", None) for own in (True, False)),
    *((503, "no", own, 503, "server_error", "upstream_unavailable", None) for own in (True, False)),
    *((504, "no", own, 504, "server_error", "upstream_timeout", None) for own in (True, False)),
    # statuses that nobody promised
    *((418, "no", own, 400, "invalid_request_error", "invalid_value", None) for own in (True, False)),
    *((502, "no", own, 502, "server_error", "upstream_error", None) for own in (True, False)),
    *((529, "no", own, 502, "server_error", "upstream_error", None) for own in (True, False)),
)


@pytest.mark.parametrize(
    ("status", "text", "own", "visible", "type", "code", "retry"),
    ROWS,
    ids=[f"{row[0]} {'own' if row[2] else 'server'} {row[1][:12]}" for row in ROWS],
)
def test_the_table(
    status: int, text: str, own: bool, visible: int, type: str, code: str | None, retry: bool | None
) -> None:
    failure = error_of(status, text, own)
    assert (failure.status, failure.type, failure.code, failure.should_retry) == (visible, type, code, retry)


def test_every_row_is_tried() -> None:
    assert set(UPSTREAM_ERRORS) <= {row[0] for row in ROWS}


def test_a_broken_key_of_the_servers_is_reported_to_the_operator_and_not_to_the_caller() -> None:
    for status in (401, 403):
        failure = error_of(status, "invalid api token abc123", own=False)
        assert failure.alert_operator and "abc123" not in failure.message and "invalid api token" not in failure.message
        assert not error_of(status, "invalid api token abc123").alert_operator
    assert error_of(402, own=False).alert_operator and not error_of(429, MINUTE, own=False).alert_operator


@pytest.mark.parametrize(
    "kind", ["INVALID_TOOL_GENERATION", "HALLUCINATED_ALL_TOOL_CALLS", "NO_VALID_RESPONSE_GENERATED"]
)
@pytest.mark.parametrize("status", [400, 422])
def test_c143_the_error_type_is_the_code(status: int, kind: str) -> None:
    failure = error_of(status, "all generated tool calls were hallucinated", error_type=kind)
    assert (failure.status, failure.code) == (status, kind)


SENTENCES: tuple[tuple[str, str | None, str | None], ...] = (
    # Cohere's sentence (docs/cohere-api.md#errors), param, code
    ("invalid request: temperature must be between 0 and 1.0 inclusive.", "temperature", "invalid_value"),
    ("invalid request: presence_penalty must be between 0 and 1 inclusive.", "presence_penalty", "invalid_value"),
    ("invalid request: response_format is not supported with RAG.", "response_format", "invalid_value"),
    ("tool_choice is not supported for this model", "tool_choice", "invalid_value"),
    ("unknown field: parameter 'n' is not a valid field", "n", "invalid_value"),
    ("unknown field: parameter tool_content is not a valid field", "tool_content", "invalid_value"),
    ("parameter 'texts' is of type object but should be of type string", "texts", "invalid_value"),
    ("invalid request: required 'text' param is missing or empty.", "text", "invalid_value"),
    (
        "invalid request: tool names can only contain certain characters (A-Za-z0-9_) and can't begin with a digit"
        " (provided name: 'x-y').",
        "tools",
        "invalid_value",
    ),
    ("tool use is not supported for this model", "tools", "invalid_value"),
    (
        "too many tokens: max tokens must be less than or equal to 4096, the maximum output for this model"
        " - received 8192.",
        "max_tokens",
        "invalid_value",
    ),
    (
        "too many tokens: size limit exceeded by 11326 tokens. Try using shorter or fewer inputs, or setting"
        " prompt_truncation='AUTO'.",
        "messages",
        "context_length_exceeded",
    ),
    (
        "too many tokens: minimal context could not be added to prompt (size limit exceeded by 280 tokens)",
        "messages",
        "context_length_exceeded",
    ),
    ("message must not be empty in a turn", None, "invalid_value"),
    ("invalid request: something new", None, "invalid_value"),
)


@pytest.mark.parametrize(("sentence", "param", "code"), SENTENCES, ids=[row[0][:50] for row in SENTENCES])
def test_c142_the_field_at_fault(sentence: str, param: str | None, code: str | None) -> None:
    failure = error_of(400, sentence)
    assert (failure.param, failure.code, failure.message) == (param, code, sentence)


def test_a_field_is_called_by_openais_name() -> None:
    assert error_of(400, "parameter 'stop_sequences' must be short").param == "stop"
    assert error_of(400, "parameter 'p' must be between 0.01 and 0.99").param == "top_p"


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_only_a_bad_request_has_a_field(status: int) -> None:
    assert error_of(status, "parameter 'x' is odd").param is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Cohere answered with status 500 and no message"),
        (b"   ", "Cohere answered with status 500 and no message"),
        (b"{}", "{}"),
        (b"upstream connect error", "upstream connect error"),
        (b"<html><body>502 Bad Gateway nginx</body></html>", "Cohere answered with a page that is not JSON"),
        (b"  \n<!DOCTYPE html>", "Cohere answered with a page that is not JSON"),
        (b'{"message": 5}', '{"message": 5}'),
        (b'{"message": null}', '{"message": null}'),
        (b'["a"]', '["a"]'),
        (b"\xff\xfe", "Cohere answered with status 500 and no message"),
        (b'{"message":"x","data":[1]}', "x"),
    ],
    ids=repr,
)
def test_c144_a_body_that_is_not_coheres(body: bytes, message: str) -> None:
    failure = upstream_failure(500, body, True)
    assert failure.status == 502 and failure.message == message


def test_c144_a_long_body_is_cut() -> None:
    for body in (b"x" * 100_000, "é".encode() * 100_000):
        assert len(upstream_failure(500, body, True).message) == LONGEST_TEXT


@pytest.mark.parametrize("status", [400, 403, 404, 422, 429])
def test_a_page_of_a_proxys_is_never_coheres_word(status: int) -> None:
    """The last rows of the table in docs/reference/errors.md: HTML and nonsense are a 502."""
    assert upstream_failure(status, b"<html><body>Blocked by the firewall</body></html>", True).status == 502


def test_a_body_that_is_nested_without_end() -> None:
    assert upstream_failure(500, b'{"message":' + b"[" * 100_000, True).status == 502


def test_a_body_that_is_nested_without_end_beside_its_message() -> None:
    assert upstream_failure(500, b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b',"message":"x"}', True).status == 502


# Bodies of errors in other shapes than Cohere's -> the sentence that the caller reads.
FOREIGN: dict[str, tuple[Any, str]] = {
    "OpenAI's": ({"error": {"message": "no such model", "type": "x", "code": None}}, "no such model"),
    "Azure's": ({"error": {"code": "404", "message": "Deployment not found"}}, "Deployment not found"),
    "an error as a text": ({"error": "no healthy upstream"}, "no healthy upstream"),
    "a detail": ({"detail": "Not authenticated"}, "Not authenticated"),
    "FastAPI's": (
        {"detail": [{"loc": ["body", "model"], "msg": "field required"}, {"loc": ["body", "x"], "msg": "extra"}]},
        "field required; extra",
    ),
    "a title": ({"type": "about:blank", "title": "Too Many Requests", "status": 429}, "Too Many Requests"),
    "a title and a detail": ({"title": "Bad", "detail": "the model is gone"}, "the model is gone"),
    "errors": ({"errors": [{"message": "one"}, {"message": "two"}]}, "one; two"),
    "a message in a message": ({"message": {"message": "no"}}, "no"),
    "an empty message": ({"message": "", "detail": "so"}, "so"),
    "a long one": ({"error": "x" * 1_000}, "x" * LONGEST_TEXT),
    "without a sentence": ({"error": {"code": 5}}, '{"error": {"code": 5}}'),
    "too deep": ({"error": {"error": {"error": {"error": {"error": "x"}}}}}, '{"error": {"error": {"error": '),
    "an array": (["x"], '["x"]'),
    "large": ({"detail": "x", "more": "y" * 70_000}, '{"detail": "x", "more": "yyy'),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_the_sentence_of_another_servers_error_is_found(name: str) -> None:
    body, sentence = FOREIGN[name]
    failure = upstream_failure(404, json.dumps(body).encode(), True)
    assert failure.message.startswith(sentence) and len(failure.message) <= LONGEST_TEXT
    assert name in ("too deep", "large") or failure.message == sentence
