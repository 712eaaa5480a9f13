"""What is not served of OpenAI's API is refused with a reason and another way, never with a bare 404 or 405."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import openai
import pytest

from gateway.http.unsupported import UNSUPPORTED, refusal
from support import oracle
from support.app import Gateway, gateway_over

NOWHERE = ("unknown_url", "method_not_allowed")


@cache
def operations() -> tuple[tuple[str, str], ...]:
    """Every method and path of OpenAI's specification, parameters filled in."""
    return tuple((method, "/v1" + re.sub(r"\{.*?\}", "x1", path)) for method, path in oracle.openai_operations())


def test_every_operation_of_openai_is_served_or_refused_with_a_reason(demo: Gateway) -> None:
    refused = 0
    for method, path in operations():
        response = demo.ask(method, path, b"{}" if method != "GET" else None)
        if response.status < 400:
            continue
        assert response.error["code"] not in NOWHERE, f"{method} {path} leads nowhere"
        if response.error["type"] == "UnsupportedOperationError":
            refused += 1
            assert (response.status, response.error["code"]) == (400, "unsupported_operation")
            assert "not supported" in response.error["message"]
    assert refused > 150


def test_the_sdk_raises_what_it_raises_for_a_bad_request(demo: Gateway) -> None:
    with demo.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.generate(model="x", prompt="a cat")
        assert (caught.value.type, caught.value.code) == ("UnsupportedOperationError", "unsupported_operation")
        assert "Use " in str(caught.value) or "images" in str(caught.value)
        with pytest.raises(openai.BadRequestError, match="POST /v1/chat/completions"):
            client.completions.create(model="x", prompt="a")
        with pytest.raises(openai.BadRequestError, match="not supported"):
            client.files.list()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/x"),
        ("GET", "/v1/chat/completions/x/messages"),
        ("DELETE", "/v1/models/cohere/x"),
        ("GET", "/v1/files"),
        ("GET", "/v1/files/x/content"),
        ("PUT", "/v1/images/generations"),
        ("POST", "/v1/fine_tuning/alpha/graders/run"),
        ("POST", "/v1/audio/speech"),
        ("POST", "/v1/audio/translations"),
        ("POST", "/v1/decisions"),
        ("POST", "/v1/agents/x/versions"),
        ("POST", "/v1/live/sessions/x/hangup"),
        ("GET", "/v1/safety/cases/x"),
        ("GET", "/v1/vaults"),
        ("POST", "/v1/webhook_endpoints"),
        ("GET", "/v1/webhook_event_types"),
        ("POST", "/files/"),
        ("POST", "/openai/deployments/x/images/generations"),
    ],
)
def test_refused(demo: Gateway, method: str, path: str) -> None:
    assert demo.ask(method, path, b"{}").error["type"] == "UnsupportedOperationError"


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("DELETE", "/v1/chat/completions", "method_not_allowed"),
        ("DELETE", "/v1/models", "method_not_allowed"),
        ("GET", "/v1/filesx", "unknown_url"),
        ("GET", "/v1/audio", "unknown_url"),
        ("GET", "/v1/audio/nothing", "unknown_url"),
        ("GET", "/v1/nothing", "unknown_url"),
        ("GET", "/v1", "unknown_url"),
    ],
)
def test_what_openai_does_not_have_either_is_nowhere(demo: Gateway, method: str, path: str, code: str) -> None:
    assert demo.ask(method, path).error["code"] == code


def rows() -> Iterator[tuple[str, str]]:
    for key, row in UNSUPPORTED.items():
        path = f"{key}x" if key.endswith("/") else key
        yield from ((method, path) for method in row.methods or ("GET", "POST"))


@pytest.mark.parametrize(("method", "path"), list(rows()))
def test_each_row_refuses_something_and_its_sentences_are_whole(method: str, path: str) -> None:
    error = refusal(method, path)
    assert error is not None
    sentence = error.failure.message
    assert sentence.endswith(".") and ".." not in sentence
    first, second = sentence.split(". ", 1)
    assert re.search(r" (is|are) not supported: ", first) and second[0].isupper()


def test_a_route_wins_over_a_row(demo: Gateway) -> None:
    assert refusal("GET", "/v1/chat/completions") is not None
    assert demo.chat().status == 200
    assert refusal("POST", "/v1/chat/completions") is None


def test_a_key_is_wanted_before_anything_else() -> None:
    with gateway_over("http://127.0.0.1:9") as gateway:
        assert gateway.ask("GET", "/v1/files", headers={}).status == 401
