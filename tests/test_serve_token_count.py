"""`POST /v1/responses/input_tokens`: which texts are counted, in which pieces, and what a caller is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.emulator.tokens import split as split_tokens
from gateway.pipeline.fan_out import MAX_CONCURRENT_PARTS
from support.app import REASONING, A, Gateway, Harness, Response, demonstration, gateway_over, run_harness
from support.scripted_upstream import Pause, Request, Script, ScriptedUpstream, json_answer
from translators.core.errors import UpstreamProtocolError
from translators.operations.responses_token_count import MOST_CHARACTERS, token_count, tokenize_requests

PATH = "/v1/responses/input_tokens"
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Get the weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def by_words(request: Request) -> Script:
    """A tokenizer for which each word is a token."""
    return json_answer(200, {"tokens": [1] * len(request.json()["text"].split()), "token_strings": []})


@pytest.fixture(scope="module")
def counting() -> Iterator[tuple[Gateway, ScriptedUpstream]]:
    with ScriptedUpstream(by_words).run_in_thread() as upstream, gateway_over(upstream.url) as gateway:
        yield gateway, upstream


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    with run_harness() as result:
        yield result


def count(gateway: Gateway, **body: Any) -> Response:
    return gateway.ask("POST", PATH, body)


# --- the texts ----------------------------------------------------------------------------------------------


def _texts(**chat: Any) -> str:
    (body,) = tokenize_requests(json.dumps({"model": A, **chat}).encode())
    request = json.loads(body)
    assert (list(request), request["model"]) == (["text", "model"], A)
    return str(request["text"])


def test_every_text_of_a_request_is_counted() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
    messages = [
        {"role": "system", "content": "Be kind."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": PIXEL}}],
        },
        {"role": "assistant", "tool_plan": "I look.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "document", "document": {"data": "seen"}}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Yes."}]},
    ]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    assert _texts(messages=messages, tools=tools, documents=["paper", {"data": {"a": 1}}]).split("\n") == [
        *("Be kind.", "See", "I look.", 'look {"at":1}', '{"data":"seen"}', "Hm.", "Yes."),
        *('{"type":"function","function":{"name":"look","parameters":{}}}', "paper", '{"data":{"a":1}}'),
    ]


@given(st.text(st.sampled_from("ab \n\N{SNOWMAN}"), min_size=1), st.integers(1, 40_000))
def test_pieces_are_the_whole_text_within_the_limit(seed: str, times: int) -> None:
    text = (seed * times)[: MOST_CHARACTERS * 3 + 7]
    requests = [json.loads(body)["text"] for body in tokenize_requests(json.dumps(_request_of(text)).encode())]
    assert "".join(requests) == text
    assert all(1 <= len(piece) <= MOST_CHARACTERS for piece in requests)
    assert len(requests) <= 2 * len(text) // MOST_CHARACTERS + 1


def _request_of(text: str) -> dict[str, Any]:
    return {"model": A, "messages": [{"role": "user", "content": text}]}


def test_words_are_not_cut() -> None:
    requests = [
        json.loads(body)["text"] for body in tokenize_requests(json.dumps(_request_of("seven77 " * 20_000)).encode())
    ]
    assert len(requests) == 3 and all(text.split() == ["seven77"] * len(text.split()) for text in requests)


def test_without_text_nothing_is_requested() -> None:
    assert tokenize_requests(json.dumps(_request_of("")).encode()) == []
    assert json.loads(token_count([])) == {"object": "response.input_tokens", "input_tokens": 0}


@pytest.mark.parametrize("answer", [b"", b"{}", b'{"tokens":"a"}', b"<html>", b'{"tokens":["\xff"]}'])
def test_an_answer_without_tokens_is_none(answer: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        token_count([b'{"tokens":[1]}', answer])


# --- through the gateway ------------------------------------------------------------------------------------


def test_the_sdk_counts() -> None:
    with demonstration() as demo, demo.client() as sdk:
        answer = sdk.responses.input_tokens.count(model=A, input="How many tokens are these?", instructions="Count.")
    assert answer.object == "response.input_tokens"
    assert answer.input_tokens == len(split_tokens("Count.\nHow many tokens are these?"))


def test_tools_and_items_are_counted(counting: tuple[Gateway, ScriptedUpstream]) -> None:
    gateway, upstream = counting
    items: Any = [
        {"role": "user", "content": "Weather in Rome?"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "I should look."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Rome"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "Sunny."},
    ]
    with gateway.client() as sdk:
        raw = sdk.responses.input_tokens.with_raw_response.count(model=REASONING, input=items, tools=[WEATHER])
    text = upstream.requests[-1].json()["text"]
    assert text.split("\n")[:4] == ["Weather in Rome?", "I should look.", 'weather {"city":"Rome"}', "Sunny."]
    assert '"description":"Get the weather"' in text
    assert raw.parse().input_tokens == len(text.split())
    assert raw.headers["x-request-id"]


def test_a_long_text_is_counted_in_pieces(counting: tuple[Gateway, ScriptedUpstream]) -> None:
    gateway, upstream = counting
    upstream.exchanges.clear()
    assert count(gateway, model=A, input="word " * 100_000).body["input_tokens"] == 100_000
    assert len(upstream.requests) == 8
    assert {request.path for request in upstream.requests} == {"/v1/tokenize"}


def test_only_a_few_pieces_are_requested_at_once() -> None:
    waiting: list[int] = []

    def slow(request: Request) -> Script:
        waiting.append(sum(not exchange.finished.is_set() for exchange in upstream.exchanges))
        return Pause(0.05), *by_words(request)

    with ScriptedUpstream(slow).run_in_thread() as upstream, gateway_over(upstream.url) as gateway:
        assert count(gateway, model=A, input="word " * 150_000).body["input_tokens"] == 150_000
    assert len(waiting) == 12 and 1 < max(waiting) <= MAX_CONCURRENT_PARTS


def test_a_history_is_counted(tmp_path: Path) -> None:
    with demonstration(database_url=f"sqlite:///{tmp_path / 'kept.db'}") as demo, demo.client() as sdk:
        first = sdk.responses.create(model=A, input="one two three")
        alone = sdk.responses.input_tokens.count(model=A, input="four")
        both = sdk.responses.input_tokens.count(model=A, input="four", previous_response_id=first.id)
        assert both.input_tokens > alone.input_tokens + 2
        with pytest.raises(openai.NotFoundError):
            sdk.responses.input_tokens.count(model=A, input="four", previous_response_id="resp_none")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "a"}, "model"),
        ({"model": A}, "input"),
        ({"model": A, "input": ""}, "input"),
        ({"model": A, "input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
        ({"model": A, "input": "a", "temperature": "hot"}, "temperature"),
        ({"model": A, "input": "a", "prompt": {"id": "p"}}, "prompt"),
    ],
)
def test_what_responses_refuses_is_refused_alike(
    counting: tuple[Gateway, ScriptedUpstream], body: dict[str, Any], param: str
) -> None:
    gateway, _ = counting
    response = gateway.ask("POST", PATH, body)
    assert (response.status, response.error["param"]) == (400, param)
    assert response.data == gateway.ask("POST", "/v1/responses", {**body, "store": False}).data


def test_notes_are_reported(counting: tuple[Gateway, ScriptedUpstream]) -> None:
    response = count(counting[0], model=A, input="a", unheard_of=1)
    assert (response.body["input_tokens"], response.headers["x-gateway-notes"]) == (
        1,
        "unheard_of ignored (not known to Cohere)",
    )


def test_bodies_that_are_not_json_are_refused(counting: tuple[Gateway, ScriptedUpstream]) -> None:
    assert counting[0].ask("POST", PATH, b"{").error["code"] == "invalid_json"


def test_a_refusal_is_reported(harness: Harness) -> None:
    harness.respond_with(json_answer(401, {"message": "invalid api token"}))
    response = count(harness.gateway, model=A, input="a " * 200_000)
    assert (response.status, response.error["code"]) == (401, "invalid_api_key")


def test_a_broken_answer_is_no_count(harness: Harness) -> None:
    harness.respond_with(json_answer(200, b"<html>"))
    response = count(harness.gateway, model=A, input="a")
    assert (response.status, response.error["code"]) == (502, "upstream_protocol_error")


def test_it_is_measured(counting: tuple[Gateway, ScriptedUpstream]) -> None:
    gateway, _ = counting
    response = count(gateway, model=A, input="a")
    line = gateway.log.line_of(response.headers["x-request-id"])
    assert (line["operation"], line["model"], line["status"]) == ("input_tokens", A, 200)
