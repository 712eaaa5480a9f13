"""Items that a request only names: found among what was stored for this caller, on both databases.

The Vercel AI SDK does this by default: it sends the whole conversation anew, its own turns in full and the
assistant's as references.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from support.app import A, Gateway, Harness, answered, demonstration, run_harness, whole
from support.databases import KINDS, throwaway
from support.scripted_upstream import json_answer

OTHER_KEY = "caller-key-0009"
QUESTION: Any = {"role": "user", "content": "Say cobalt"}
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


@pytest.fixture(scope="module", params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with asyncio.Runner() as runner:
        created = throwaway(request.param, tmp_path_factory.mktemp("store"))
        url = runner.run(created.__aenter__())
        yield url
        runner.run(created.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def sdk(database: str) -> Iterator[openai.OpenAI]:
    with demonstration(database_url=database) as gateway, gateway.client() as client:
        yield client


@pytest.fixture(scope="module")
def own(database: str) -> Iterator[Harness]:
    """Callers with keys of their own, an upstream whose words are known."""
    with run_harness(database_url=database) as harness:
        yield harness


def named(*items: Any) -> list[Any]:
    return [{"type": "item_reference", "id": item.id} for item in items]


def ask(gateway: Gateway, input: Any, key: str | None = None, **fields: Any) -> Any:
    headers = {"authorization": f"Bearer {key or gateway.key}", "content-type": "application/json"}
    return gateway.ask("POST", "/v1/responses", {"model": A, "input": input, **fields}, headers)


def upstream_texts(harness: Harness) -> list[Any]:
    """What Cohere was last sent: role and text of each message."""
    return [
        (message["role"], message["content"] if isinstance(message["content"], str) else message["content"][0]["text"])
        for message in harness.upstream.exchanges[-1].request.json()["messages"]
    ]


@pytest.mark.parametrize("store", [True, False])
def test_an_answer_is_named_and_stands_where_it_was_named(own: Harness, store: bool) -> None:
    own.respond_with(json_answer(200, {**whole("Cobalt."), "id": f"one-{store}"}))
    first = ask(own.gateway, "Say cobalt").body
    (answer,) = first["output"]
    again = ask(own.gateway, [QUESTION, {"type": "item_reference", "id": answer["id"]}, QUESTION], store=store)
    assert again.status == 200, again
    assert upstream_texts(own) == [("user", "Say cobalt"), ("assistant", "Cobalt."), ("user", "Say cobalt")]


def test_a_loop_of_the_ai_sdk(sdk: openai.OpenAI) -> None:
    """The assistant's turn as references: its reasoning and its call; then the call's result in full."""
    conversation: list[Any] = [{"role": "user", "content": "What is the weather in Toronto?"}]
    first = sdk.responses.create(model=A, input=conversation, tools=[WEATHER])
    (call,) = [item for item in first.output if item.type == "function_call"]
    conversation += named(*first.output)
    conversation.append({"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 22 degrees"})
    second = sdk.responses.create(model=A, input=conversation, tools=[WEATHER])
    assert "22" in second.output_text
    conversation += [*named(*second.output), {"role": "user", "content": "Say thanks"}]
    assert sdk.responses.create(model=A, input=conversation, tools=[WEATHER]).status == "completed"


def test_what_was_named_is_preserved_as_itself(sdk: openai.OpenAI) -> None:
    """It can be continued, listed and named again, even when the response that had it first is gone."""
    first = sdk.responses.create(model=A, input=[QUESTION])
    second = sdk.responses.create(model=A, input=[QUESTION, *named(*first.output), QUESTION])
    sdk.responses.delete(first.id)
    kinds = [item.type for item in sdk.responses.input_items.list(second.id, order="asc")]
    assert kinds == ["message", "message", "message"]
    third = sdk.responses.create(model=A, input="Say it again", previous_response_id=second.id)
    assert third.status == "completed"


def test_the_items_of_a_request_may_be_named(own: Harness) -> None:
    own.respond_with(answered())
    first = ask(own.gateway, [QUESTION]).body
    (item,) = own.gateway.ask("GET", f"/v1/responses/{first['id']}/input_items").body["data"]
    assert ask(own.gateway, [{"id": item["id"]}]).status == 200  # the type may be missing
    assert upstream_texts(own) == [("user", "Say cobalt")]


def test_what_the_history_has_is_not_sent_twice(own: Harness) -> None:
    own.respond_with(json_answer(200, {**whole("Cobalt."), "id": "twice"}))
    first = ask(own.gateway, "Say cobalt").body
    again = {"type": "item_reference", "id": first["output"][0]["id"]}
    response = ask(own.gateway, [again, again, QUESTION], previous_response_id=first["id"])
    assert response.status == 200
    assert upstream_texts(own) == [("user", "Say cobalt"), ("assistant", "Cobalt."), ("user", "Say cobalt")]


def test_what_was_named_beside_its_history_can_be_continued(sdk: openai.OpenAI) -> None:
    """A call that the history has and the request names must not be kept twice: two calls of one id are refused."""
    first = sdk.responses.create(model=A, input="What is the weather in Toronto?", tools=[WEATHER])
    (call,) = [item for item in first.output if item.type == "function_call"]
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 22 degrees"}
    more: Any = {"role": "user", "content": "Say thanks"}
    second = sdk.responses.create(
        model=A, input=[*named(*first.output, *first.output), result], previous_response_id=first.id, tools=[WEATHER]
    )
    third = sdk.responses.create(model=A, input=[more], previous_response_id=second.id, tools=[WEATHER])
    assert third.status == "completed"
    alone = sdk.responses.create(model=A, input=[*named(call, call), result], tools=[WEATHER])
    assert sdk.responses.create(model=A, input=[more], previous_response_id=alone.id, tools=[WEATHER]).output_text
    kinds = [item.type for item in sdk.responses.input_items.list(second.id, order="asc")]
    assert kinds == ["function_call_output"]


def test_an_item_of_a_conversation_may_be_named_in_it(sdk: openai.OpenAI) -> None:
    request: Any = {"type": "message", **QUESTION}
    conversation = sdk.conversations.create(items=[request])
    (item,) = sdk.conversations.items.list(conversation.id).data
    response = sdk.responses.create(model=A, conversation=conversation.id, input=[*named(item), QUESTION])
    assert response.status == "completed"


def test_an_item_of_another_conversation_may_be_named(own: Harness) -> None:
    """By whoever it belongs to, as long as it is there."""
    own.respond_with(answered())
    reference = {"type": "item_reference", "id": "note"}
    request = {"id": "note", "role": "user", "content": "Say amber"}
    conversation = own.gateway.ask("POST", "/v1/conversations", {"items": [request]}).body
    other = own.gateway.ask("POST", "/v1/conversations", {}).body
    for fields in ({}, {"conversation": other["id"]}):
        assert ask(own.gateway, [reference, QUESTION], **fields).status == 200
        assert upstream_texts(own) == [("user", "Say amber"), ("user", "Say cobalt")]
    own.gateway.ask("DELETE", f"/v1/conversations/{other['id']}")  # it has the item, too, by now
    assert ask(own.gateway, [reference], OTHER_KEY).status == 404
    own.gateway.ask("DELETE", f"/v1/conversations/{conversation['id']}")
    assert ask(own.gateway, [reference]).status == 404


UNKNOWN = {
    "never there": "msg_none_item_0",
    "of no kind": "anything",
    "an input that was never there": "item_0123_0",
    "with a NUL": "msg_\0_item_0",
    "very long": "msg_" + "x" * 5000 + "_item_0",
    "half a pair": "msg_\ud800_item_0",
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("store", [True, False])
def test_an_unknown_item_is_a_404_with_its_path(own: Harness, name: str, store: bool) -> None:
    own.respond_with(answered())
    items = [QUESTION, {"type": "item_reference", "id": UNKNOWN[name]}]
    response = ask(own.gateway, items, store=store)
    if name == "half a pair":
        assert response.status in (400, 404)
        return
    assert (response.status, response.error["param"], response.error["code"]) == (404, "input[1].id", "item_not_found")
    assert not own.upstream.exchanges


def test_nobody_names_somebody_elses_items(own: Harness) -> None:
    own.respond_with(json_answer(200, {**whole("Secret."), "id": "private"}))
    first = ask(own.gateway, [QUESTION]).body
    (request,) = own.gateway.ask("GET", f"/v1/responses/{first['id']}/input_items").body["data"]
    for id in (first["output"][0]["id"], request["id"]):
        reference = [{"type": "item_reference", "id": id}]
        assert ask(own.gateway, [QUESTION, *reference]).status == 200
        response = ask(own.gateway, [QUESTION, *reference], OTHER_KEY)
        assert (response.status, response.error["param"]) == (404, "input[1].id")


def test_what_was_deleted_or_not_stored_is_not_there(own: Harness) -> None:
    own.respond_with(json_answer(200, {**whole(), "id": "gone"}))
    for store in (True, False):
        first = ask(own.gateway, "Hello", store=store).body
        own.gateway.ask("DELETE", f"/v1/responses/{first['id']}")
        response = ask(own.gateway, [{"type": "item_reference", "id": first["output"][0]["id"]}])
        assert (response.status, response.error["param"]) == (404, "input[0].id")


def test_the_tokens_of_what_is_named_are_counted(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(model=A, input=[QUESTION])
    alone = sdk.responses.input_tokens.count(model=A, input=[QUESTION, QUESTION])
    more = sdk.responses.input_tokens.count(model=A, input=[QUESTION, *named(*first.output), QUESTION])
    assert more.input_tokens > alone.input_tokens


def test_without_a_storage_it_is_a_503() -> None:
    with demonstration(database_url="postgresql://postgres@127.0.0.1:1/nothing") as gateway:
        response = ask(gateway, [{"type": "item_reference", "id": "msg_1_item_0"}], store=False)
    assert (response.status, response.error["code"]) == (503, "storage_unavailable")
