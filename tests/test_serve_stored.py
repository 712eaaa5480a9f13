"""Stored responses and conversations as the official SDK sees them: read, paged, changed, deleted.

Each test runs over SQLite and over PostgreSQL (`test_store_database.py` says where that is looked for). What a
response says is the emulator's; who owns what is seen with callers that bring keys of their own.
"""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.state import conversation_state
from gateway.store.errors import StoreUnavailable
from gateway.store.store import Store
from support import oracle
from support.app import A, Gateway, Harness, answered, demonstration, emulator, gateway_over, run_harness
from support.databases import KINDS, throwaway
from support.waiting import WAIT_SECONDS

NOWHERE = "postgresql://postgres@127.0.0.1:1/nothing"
OTHER_KEY = "caller-key-0009"
RESPONSE, CONVERSATION = "/v1/responses/resp_none", "/v1/conversations/conv_none"


@pytest.fixture(scope="module", params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty database."""
    with asyncio.Runner() as runner:
        created = throwaway(request.param, tmp_path_factory.mktemp("store"))
        url = runner.run(created.__aenter__())
        yield url
        runner.run(created.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def gateway(database: str) -> Iterator[Gateway]:
    with demonstration(database_url=database) as result:
        yield result


@pytest.fixture
def sdk(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with gateway.client() as client:
        yield client


@pytest.fixture(scope="module")
def own(database: str) -> Iterator[Harness]:
    """Callers with keys of their own."""
    with run_harness(database_url=database) as harness:
        harness.respond_with(answered())
        yield harness


@pytest.fixture(scope="module")
def broken() -> Iterator[Gateway]:
    """A gateway whose storage does not answer."""
    with demonstration(database_url=NOWHERE) as result:
        yield result


def message(text: Any, **more: Any) -> Any:
    return {"type": "message", "role": "user", "content": text, **more}


def check(document: Any, schema: str) -> None:
    """Against OpenAI's specification, where it is at hand."""
    oracle.openai_validator(schema).check(document)


# --- responses ----------------------------------------------------------------------------------------------


def test_a_response_is_there_as_it_was_answered(gateway: Gateway, sdk: openai.OpenAI) -> None:
    created = gateway.ask("POST", "/v1/responses", {"model": A, "input": "Hello", "metadata": {"topic": "greeting"}})
    assert gateway.ask("GET", f"/v1/responses/{created.body['id']}").data == created.data
    response = sdk.responses.retrieve(created.body["id"])
    assert response.status == "completed" and response.output_text and response.metadata == {"topic": "greeting"}


def test_a_streamed_response_is_there_as_it_ended(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model=A, input="Hello") as stream:
        final = stream.get_final_response()
    response = sdk.responses.retrieve(final.id)
    assert (response.status, response.output_text, response.usage) == (final.status, final.output_text, final.usage)


def test_head_is_answered_without_a_body(gateway: Gateway, sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(model=A, input="Hello")
    http_response = gateway.ask("HEAD", f"/v1/responses/{response.id}")
    assert (http_response.status, http_response.data) == (200, b"")


def test_a_deleted_response_is_gone(gateway: Gateway, sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(model=A, input="Hello")
    deleted = gateway.ask("DELETE", f"/v1/responses/{response.id}")
    assert deleted.body == {"id": response.id, "object": "response", "deleted": True}
    for again in (sdk.responses.retrieve, sdk.responses.delete, sdk.responses.input_items.list, sdk.responses.cancel):
        with pytest.raises(openai.NotFoundError) as caught:
            again(response.id)
        assert caught.value.code == "response_not_found"
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.responses.create(model=A, input="And now?", previous_response_id=response.id)
    assert caught.value.code == "previous_response_not_found"


def test_the_sdk_deletes(sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(model=A, input="Hello")
    sdk.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(response.id)


def test_what_was_not_stored_is_not_there(sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(model=A, input="Hello", store=False)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(response.id)


def test_a_synchronous_response_cannot_be_cancelled(sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(model=A, input="Hello")
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        sdk.responses.cancel(response.id)
    assert sdk.responses.retrieve(response.id).status == "completed"


def test_a_response_without_events_cannot_be_streamed_again(gateway: Gateway, sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(model=A, input="Hello")
    http_response = gateway.ask("GET", f"/v1/responses/{response.id}?stream=true")
    assert (http_response.status, http_response.error["param"]) == (400, "stream")


# --- input items --------------------------------------------------------------------------------------------


def test_a_text_is_one_input_item(gateway: Gateway, sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(model=A, input="Hello")
    http_response = gateway.ask("GET", f"/v1/responses/{response.id}/input_items").body
    check(http_response, "ResponseItemList")
    (item,) = http_response["data"]
    assert (item["type"], item["role"], item["status"]) == ("message", "user", "completed")
    assert item["content"] == [{"type": "input_text", "text": "Hello"}]
    assert http_response["object"] == "list" and http_response["has_more"] is False
    assert http_response["first_id"] == http_response["last_id"] == item["id"]


def test_input_items_have_what_the_request_left_out(gateway: Gateway) -> None:
    items = [
        {"role": "user", "content": "What is the weather?"},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
        {"role": "assistant", "content": "It rains.", "id": "msg_mine"},
        {"role": "user", "content": [{"type": "input_text", "text": "And tomorrow?"}]},
    ]
    response = gateway.ask("POST", "/v1/responses", {"model": A, "input": items}).body
    http_response = gateway.ask("GET", f"/v1/responses/{response['id']}/input_items?order=asc").body
    check(http_response, "ResponseItemList")
    kinds = ["message", "function_call", "function_call_output", "message", "message"]
    assert [item["type"] for item in http_response["data"]] == kinds
    assert http_response["data"][3]["id"] == "msg_mine"
    assert http_response["data"][3]["content"] == [
        {"type": "output_text", "text": "It rains.", "annotations": [], "logprobs": []}
    ]
    assert len({item["id"] for item in http_response["data"]}) == 5


def test_input_items_are_those_of_the_own_request(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(model=A, input="One")
    second = sdk.responses.create(model=A, input="Two", previous_response_id=first.id)
    (item,) = sdk.responses.input_items.list(second.id)
    assert item.type == "message" and item.content[0].to_dict() == {"type": "input_text", "text": "Two"}


@pytest.fixture(scope="module")
def listed(gateway: Gateway) -> str:
    """A response of 25 input items, msg_0 to msg_24."""
    items = [message(f"Number {number}", id=f"msg_{number}") for number in range(25)]
    response = gateway.ask("POST", "/v1/responses", {"model": A, "input": items})
    assert response.status == 200
    return f"/v1/responses/{response.body['id']}/input_items"


@pytest.fixture(scope="module")
def held(gateway: Gateway) -> str:
    """A conversation of the same."""
    conversation = gateway.ask("POST", "/v1/conversations", {}).body["id"]
    for part in (range(20), range(20, 25)):
        items = [message(f"Number {number}", id=f"msg_{number}") for number in part]
        assert gateway.ask("POST", f"/v1/conversations/{conversation}/items", {"items": items}).status == 200
    return f"/v1/conversations/{conversation}/items"


@pytest.fixture(params=["listed", "held"])
def paged(request: pytest.FixtureRequest) -> str:
    """The path of a list of 25 items."""
    return str(request.getfixturevalue(request.param))


PAGES = (
    ("", range(24, 4, -1), True),
    ("?order=desc&limit=3", range(24, 21, -1), True),
    ("?order=asc", range(20), True),
    ("?order=asc&limit=1", range(1), True),
    ("?order=asc&limit=25", range(25), False),
    ("?order=asc&limit=100", range(25), False),
    ("?order=asc&limit=24", range(24), True),
    ("?after=msg_5", range(4, -1, -1), False),
    ("?after=msg_5&order=asc", range(6, 25), False),
    ("?after=msg_5&order=asc&limit=2", range(6, 8), True),
    ("?after=msg_24&order=asc", range(0), False),
    ("?after=msg_0", range(0), False),
)


@pytest.mark.parametrize(("query", "numbers", "more"), PAGES)
def test_pages(gateway: Gateway, paged: str, query: str, numbers: range, more: bool) -> None:
    response = gateway.ask("GET", paged + query).body
    check(response, "ConversationItemList" if "conversations" in paged else "ResponseItemList")
    ids = [f"msg_{number}" for number in numbers]
    assert [item["id"] for item in response["data"]] == ids
    assert (response["first_id"], response["last_id"]) == ((ids[0], ids[-1]) if ids else ("", ""))
    assert response["has_more"] is more


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=-1", "limit=ten", "limit=", "limit=1.5", "order=up"])
def test_a_wrong_page_is_refused(gateway: Gateway, paged: str, query: str) -> None:
    response = gateway.ask("GET", f"{paged}?{query}")
    assert (response.status, response.error["param"]) == (400, query.partition("=")[0])


@pytest.mark.parametrize("after", ["msg_99", "%00", "%ED%A0%80", "x" * 1000])
def test_a_page_after_nothing_is_not_there(gateway: Gateway, paged: str, after: str) -> None:
    response = gateway.ask("GET", f"{paged}?after={after}")
    assert (response.status, response.error["code"], response.error["param"]) == (404, "item_not_found", "after")


def test_the_sdk_pages_by_itself(sdk: openai.OpenAI, listed: str, held: str) -> None:
    ids = [f"msg_{number}" for number in range(25)]
    response, conversation = listed.split("/")[3], held.split("/")[3]
    assert [item.id for item in sdk.responses.input_items.list(response, limit=4, order="asc")] == ids
    assert [item.id for item in sdk.conversations.items.list(conversation, limit=4)] == ids[::-1]


# --- conversations ------------------------------------------------------------------------------------------


def test_a_conversation_from_beginning_to_end(gateway: Gateway, sdk: openai.OpenAI) -> None:
    conversation = sdk.conversations.create(items=[message("Hello")], metadata={"topic": "demo"})
    assert (
        conversation.id.startswith("conv_")
        and conversation.object == "conversation"
        and conversation.metadata == {"topic": "demo"}
    )
    response = sdk.conversations.retrieve(conversation.id)
    assert response == conversation
    check(gateway.ask("GET", f"/v1/conversations/{conversation.id}").body, "ConversationResource")
    changed = sdk.conversations.update(conversation.id, metadata={"topic": "other"})
    assert (changed.id, changed.created_at, changed.metadata) == (
        conversation.id,
        conversation.created_at,
        {"topic": "other"},
    )
    assert sdk.conversations.retrieve(conversation.id) == changed
    assert sdk.conversations.update(conversation.id, metadata={}).metadata == {}
    deleted = sdk.conversations.delete(conversation.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (conversation.id, "conversation.deleted", True)
    for again in (sdk.conversations.retrieve, sdk.conversations.delete, sdk.conversations.items.list):
        with pytest.raises(openai.NotFoundError) as caught:
            again(conversation.id)
        assert caught.value.code == "conversation_not_found"


@pytest.mark.parametrize("body", [b"", b"{}", b'{"items":null,"metadata":null}', b'{"items":[]}'])
def test_an_empty_conversation(gateway: Gateway, body: bytes) -> None:
    conversation = gateway.ask("POST", "/v1/conversations", body)
    assert conversation.status == 200 and conversation.body["metadata"] == {}
    response = gateway.ask("GET", f"/v1/conversations/{conversation.body['id']}/items").body
    assert response == {"data": [], "first_id": "", "last_id": "", "has_more": False, "object": "list"}


def test_items_are_added_read_and_deleted(gateway: Gateway, sdk: openai.OpenAI) -> None:
    conversation = sdk.conversations.create()
    call = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}
    path = f"/v1/conversations/{conversation.id}/items"
    added = gateway.ask("POST", path, {"items": [message("What is the weather?"), call, output]}).body
    check(added, "ConversationItemList")
    ids = [item["id"] for item in added["data"]]
    assert [id.split("_")[0] for id in ids] == ["msg", "item", "item"]
    assert (added["first_id"], added["last_id"], added["has_more"]) == (ids[0], ids[-1], False)
    assert gateway.ask("GET", f"{path}?order=asc").body == added
    assert gateway.ask("GET", f"{path}/{ids[0]}").body == added["data"][0]
    read = sdk.conversations.items.retrieve(ids[1], conversation_id=conversation.id)
    assert read.type == "function_call" and read.name == "weather"
    assert sdk.conversations.items.delete(ids[1], conversation_id=conversation.id) == conversation
    for again in (sdk.conversations.items.retrieve, sdk.conversations.items.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            again(ids[1], conversation_id=conversation.id)
        assert caught.value.code == "item_not_found"
    assert [item.id for item in sdk.conversations.items.list(conversation.id, order="asc")] == [ids[0], ids[2]]


def test_an_item_keeps_its_id_and_no_conversation_has_it_twice(sdk: openai.OpenAI) -> None:
    conversation = sdk.conversations.create(items=[message("One", id="msg_one")])
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.conversations.items.create(conversation.id, items=[message("Two"), message("Again", id="msg_one")])
    assert caught.value.param == "items"
    with pytest.raises(openai.BadRequestError):
        sdk.conversations.create(items=[message("One", id="msg_one"), message("Two", id="msg_one")])
    assert [item.id for item in sdk.conversations.items.list(conversation.id)] == ["msg_one"]
    other = sdk.conversations.create(items=[message("Elsewhere", id="msg_one")])
    assert [item.id for item in sdk.conversations.items.list(other.id)] == ["msg_one"]


def test_answers_are_added_to_their_conversation_under_their_ids(sdk: openai.OpenAI) -> None:
    conversation = sdk.conversations.create(
        items=[{"role": "developer", "content": "Answer briefly.", "type": "message"}]
    )
    first = sdk.responses.create(model=A, input="Hello", conversation=conversation.id)
    second = sdk.responses.create(model=A, input="Goodbye", conversation=conversation.id)
    items = list(sdk.conversations.items.list(conversation.id, limit=2, order="asc"))
    assert [item.role for item in items if item.type == "message"] == [
        *("developer", "user", "assistant", "user", "assistant")
    ]
    assert [items[2].id, items[4].id] == [first.output[0].id, second.output[0].id]
    answer = sdk.conversations.items.retrieve(str(first.output[0].id), conversation_id=conversation.id)
    assert answer.type == "message" and answer.content[0].to_dict()["text"] == first.output_text
    sdk.conversations.delete(conversation.id)
    assert sdk.responses.retrieve(first.id).id == first.id


WRONG: tuple[tuple[Any, str | None], ...] = (
    ({"items": [message(str(number)) for number in range(21)]}, "items"),
    ({"items": "Hello"}, "items"),
    ({"items": ["Hello"]}, "items[0]"),
    ({"items": [message("One"), {"role": "user", "content": 5}]}, "items[1].content"),
    ({"items": [message("One"), {"role": "nobody", "content": "Two"}]}, "items[1].role"),
    ({"items": [{"type": "item_reference", "id": "msg_1"}]}, "items[0].id"),
    ({"items": [{"id": "msg_1"}]}, "items[0].id"),
    ({"items": [message([{"type": "input_file", "file_id": "file_1"}])]}, "items[0].content[0]"),
    ({"items": [{"type": "function_call_output", "output": "rain"}]}, "items[0].call_id"),
    ({"items": [{"type": "function_call_output", "call_id": 1, "output": 1}]}, "items[0].call_id"),
    ({"items": [message([{"type": "input_smell", "text": "x"}])]}, "items[0].content[0].type"),
    ({"items": [message("One", id=1)]}, "items[0].id"),
    ({"items": [message("One", id="a/b")]}, "items[0].id"),
    ({"items": [message("One", id="a\0")]}, "items[0].id"),
    ({"items": [message("One", id="x" * 129)]}, "items[0].id"),
    ({"items": [{"type": "function_call", "call_id": "1", "name": "f", "arguments": 1}]}, "items[0].arguments"),
    ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
    ({"metadata": {"a": "x" * 513}}, "metadata[]"),
    ({"metadata": {"a": 1}}, "metadata[]"),
    ({"metadata": []}, "metadata"),
    ([], None),
    (b"{", None),
)


@pytest.mark.parametrize(("body", "param"), WRONG)
def test_a_wrong_conversation_is_refused_with_its_place(gateway: Gateway, body: Any, param: str | None) -> None:
    response = gateway.ask("POST", "/v1/conversations", body)
    assert (response.status, response.error["param"]) == (400, param), response


def test_what_a_change_must_have(gateway: Gateway) -> None:
    conversation = gateway.ask("POST", "/v1/conversations", {}).body["id"]
    for path, param in (
        (f"/v1/conversations/{conversation}", "metadata"),
        (f"/v1/conversations/{conversation}/items", "items"),
    ):
        response = gateway.ask("POST", path, {})
        assert (response.status, response.error["param"], response.error["code"]) == (
            400,
            param,
            "missing_required_parameter",
        )


def test_whatever_a_request_takes_a_conversation_takes(gateway: Gateway, sdk: openai.OpenAI) -> None:
    items: list[Any] = [
        {"role": "system", "content": "Answer briefly."},
        message([{"type": "input_text", "text": "What is the weather?"}]),
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "I should look."}]},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "rain"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "It rains."}]},
    ]
    conversation = gateway.ask("POST", "/v1/conversations", {"items": items})
    assert "web_search_call ignored" in conversation.headers["x-gateway-notes"]
    id = conversation.body["id"]
    kinds = [item.type for item in sdk.conversations.items.list(id, order="asc")]
    assert kinds == [item.get("type", "message") for item in items]
    assert sdk.responses.create(model=A, input="And tomorrow?", conversation=id).status == "completed"


def test_an_image_is_stored_for_models_that_see(gateway: Gateway) -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
    conversation = gateway.ask("POST", "/v1/conversations", {"items": [message([image])]}).body["id"]
    response = gateway.ask("GET", f"/v1/conversations/{conversation}/items").body
    check(response, "ConversationItemList")
    assert response["data"][0]["content"] == [{**image, "detail": "auto"}]


def test_items_of_a_shell_have_what_the_request_left_out(gateway: Gateway) -> None:
    output = {"stdout": "moss.txt", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}
    items = [
        {"type": "shell_call", "call_id": "s1", "action": {"commands": ["ls"]}},
        {"type": "shell_call_output", "call_id": "s1", "output": [output], "max_output_length": 100},
        {"type": "shell_call_output", "call_id": "s1", "output": [output]},
    ]
    conversation = gateway.ask("POST", "/v1/conversations", {"items": items}).body["id"]
    listed = gateway.ask("GET", f"/v1/conversations/{conversation}/items?order=asc").body
    check(listed, "ConversationItemList")
    call, first, second = listed["data"]
    assert call["action"] == {"commands": ["ls"], "timeout_ms": None, "max_output_length": None}
    assert (first["output"], first["max_output_length"], second["max_output_length"]) == ([output], 100, None)


def test_an_item_that_a_request_may_have_is_taken_and_noted(gateway: Gateway) -> None:
    """A type that nobody knows, and a call that was cut: a request may have them, so a conversation may."""
    cut = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{"}
    response = gateway.ask("POST", "/v1/conversations", {"items": [{"type": "telepathy"}, cut]})
    assert response.status == 200
    assert response.headers["x-gateway-notes"] == "items[].type telepathy ignored (not known to Cohere)"
    items = gateway.ask("GET", f"/v1/conversations/{response.body['id']}/items?order=asc").body["data"]
    assert [item["type"] for item in items] == ["telepathy", "function_call"]
    assert items[1]["arguments"] == "{"
    answer = gateway.ask("POST", "/v1/responses", {"model": A, "input": "Hello", "conversation": response.body["id"]})
    assert answer.status == 200


def test_a_wrong_item_adds_none(gateway: Gateway) -> None:
    conversation = gateway.ask("POST", "/v1/conversations", {}).body["id"]
    path = f"/v1/conversations/{conversation}/items"
    assert gateway.ask("POST", path, {"items": [message("One"), {"role": "nobody", "content": "Two"}]}).status == 400
    assert gateway.ask("GET", path).body["data"] == []


def test_unknown_fields_are_noted_and_refused_in_strict_mode(gateway: Gateway) -> None:
    body = {"items": [message("One", mood="good")], "colour": "blue"}
    response = gateway.ask("POST", "/v1/conversations", body)
    assert response.status == 200
    assert (
        "colour ignored" in response.headers["x-gateway-notes"]
        and "mood ignored" in response.headers["x-gateway-notes"]
    )
    headers = {"content-type": "application/json", "x-gateway-strict": "true"}
    assert gateway.ask("POST", "/v1/conversations", body, headers).status == 400


# --- what is not there --------------------------------------------------------------------------------------

ABSENT: tuple[tuple[str, str, Any, str], ...] = (
    ("GET", RESPONSE, None, "response_not_found"),
    ("DELETE", RESPONSE, None, "response_not_found"),
    ("POST", f"{RESPONSE}/cancel", None, "response_not_found"),
    ("GET", f"{RESPONSE}/input_items", None, "response_not_found"),
    ("GET", CONVERSATION, None, "conversation_not_found"),
    ("POST", CONVERSATION, {"metadata": {}}, "conversation_not_found"),
    ("DELETE", CONVERSATION, None, "conversation_not_found"),
    ("GET", f"{CONVERSATION}/items", None, "conversation_not_found"),
    ("GET", f"{CONVERSATION}/items?after=msg_1", None, "conversation_not_found"),
    ("POST", f"{CONVERSATION}/items", {"items": [message("Hello")]}, "conversation_not_found"),
    ("GET", f"{CONVERSATION}/items/msg_1", None, "conversation_not_found"),
    ("DELETE", f"{CONVERSATION}/items/msg_1", None, "conversation_not_found"),
)


@pytest.mark.parametrize(("method", "path", "body", "code"), ABSENT)
def test_what_is_not_there(gateway: Gateway, method: str, path: str, body: Any, code: str) -> None:
    response = gateway.ask(method, path, body)
    assert (response.status, response.error["code"]) == (404, code)


def test_a_method_that_a_path_does_not_take(gateway: Gateway) -> None:
    response = gateway.ask("PUT", CONVERSATION, {})
    assert (response.status, response.error["code"]) == (405, "method_not_allowed")
    assert {method.strip() for method in response.headers["allow"].split(",")} == {"GET", "HEAD", "POST", "DELETE"}


# --- whose it is --------------------------------------------------------------------------------------------


def test_nobody_finds_what_somebody_else_owns(own: Harness) -> None:
    own.respond_with(answered())
    with own.gateway.client() as mine, own.gateway.client(OTHER_KEY) as theirs:
        response = mine.responses.create(model=A, input="Hello")
        conversation = mine.conversations.create(items=[message("Hello", id="msg_1")], metadata={"topic": "mine"})
        for look in (
            lambda sdk: sdk.responses.retrieve(response.id),
            lambda sdk: sdk.responses.input_items.list(response.id),
            lambda sdk: sdk.responses.cancel(response.id),
            lambda sdk: sdk.responses.delete(response.id),
            lambda sdk: sdk.responses.create(model=A, input="And?", previous_response_id=response.id),
            lambda sdk: sdk.responses.create(model=A, input="And?", conversation=conversation.id),
            lambda sdk: sdk.conversations.retrieve(conversation.id),
            lambda sdk: sdk.conversations.update(conversation.id, metadata={"topic": "theirs"}),
            lambda sdk: sdk.conversations.items.list(conversation.id),
            lambda sdk: sdk.conversations.items.create(conversation.id, items=[message("Mine now")]),
            lambda sdk: sdk.conversations.items.retrieve("msg_1", conversation_id=conversation.id),
            lambda sdk: sdk.conversations.items.delete("msg_1", conversation_id=conversation.id),
            lambda sdk: sdk.conversations.delete(conversation.id),
        ):
            with pytest.raises(openai.NotFoundError):
                look(theirs)
        assert mine.responses.retrieve(response.id).id == response.id
        assert mine.conversations.retrieve(conversation.id).metadata == {"topic": "mine"}
        assert [item.id for item in mine.conversations.items.list(conversation.id)] == ["msg_1"]


@pytest.mark.parametrize("path", ["/v1/responses/resp_1", "/v1/conversations/conv_1/items"])
def test_nobody_reads_without_a_key(own: Harness, path: str) -> None:
    assert own.gateway.ask("GET", path, headers={}).status == 401


# --- storage ------------------------------------------------------------------------------------------------


def test_all_of_it_survives_a_restart(database: str) -> None:
    with emulator() as upstream:
        with (
            gateway_over(upstream, demo=True, database_url=database) as gateway,
            gateway.client() as sdk,
        ):
            conversation = sdk.conversations.create(items=[message("Hello", id="msg_1")], metadata={"topic": "demo"})
            first = gateway.ask("POST", "/v1/responses", {"model": A, "input": "My name is Ada."})
        with (
            gateway_over(upstream, demo=True, database_url=database) as gateway,
            gateway.client() as sdk,
        ):
            id = first.body["id"]
            assert gateway.ask("GET", f"/v1/responses/{id}").data == first.data
            assert len(sdk.responses.input_items.list(id).data) == 1
            assert sdk.responses.create(model=A, input="Who am I?", previous_response_id=id).previous_response_id == id
            assert sdk.conversations.retrieve(conversation.id) == conversation
            assert [item.id for item in sdk.conversations.items.list(conversation.id)] == ["msg_1"]


def test_a_broken_storage_is_a_503_everywhere(broken: Gateway) -> None:
    for method, path, body, _ in (*ABSENT, ("POST", "/v1/conversations", {}, "")):
        response = broken.ask(method, path, body)
        assert (response.status, response.error["code"], response.error["type"]) == (
            503,
            "storage_unavailable",
            "server_error",
        )
        assert "127.0.0.1" not in response.error["message"]
    assert broken.log.wait(lambda line: line.get("message", "").startswith("storage: "))


def test_a_wrong_request_is_a_400_with_a_broken_storage_too(broken: Gateway) -> None:
    for body, param in WRONG[:3]:
        response = broken.ask("POST", "/v1/conversations", body)
        assert (response.status, response.error["param"]) == (400, param)


def test_the_operations_have_names_of_their_own(gateway: Gateway) -> None:
    gateway.ask("GET", RESPONSE)
    gateway.ask("DELETE", CONVERSATION)
    result = {line.get("operation") for line in gateway.log.lines}
    assert {"response", "conversation_delete"} <= result


def test_a_body_that_is_no_json_is_refused(gateway: Gateway) -> None:
    response = gateway.ask("POST", "/v1/conversations", b"{}", {"content-type": "text/plain"})
    assert (response.status, response.error["code"]) == (415, "unsupported_media_type")


def test_a_body_may_come_where_none_is_read(gateway: Gateway, sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(model=A, input="Hello")
    connection = http.client.HTTPConnection(*gateway.address, timeout=WAIT_SECONDS)
    try:
        for _ in range(2):
            path, headers = f"/v1/responses/{response.id}/cancel", {"content-type": "application/json"}
            connection.request("POST", path, b'{"why":"not"}', headers)
            answer = connection.getresponse()
            assert answer.status == 400 and b"synchronous" in answer.read()
    finally:
        connection.close()


# --- a storage that is away for a moment ----------------------------------------------------------------------


@pytest.mark.parametrize("back", ["soon", "at the end of the process"])
def test_what_a_storage_missed_is_preserved_when_it_is_back(
    back: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answered before the request and not after the answer, which is paid and has left."""
    failures = 2 if back == "soon" else 1
    save = Store.save

    async def falls_short(store: Store, *value: Any) -> bool:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreUnavailable("the database is away")
        return await save(store, *value)

    monkeypatch.setattr(Store, "save", falls_short)
    monkeypatch.setattr(conversation_state, "SAVE_RETRY_SECONDS", (0.05, 0.05, 0.05) if back == "soon" else (600.0,))
    url = f"sqlite:///{tmp_path}/store.db"
    with demonstration(database_url=url) as gateway:
        response = gateway.ask("POST", "/v1/responses", {"model": A, "input": "Hello"})
        assert response.status == 200
        path = f"/v1/responses/{response.body['id']}"
        until = time.monotonic() + WAIT_SECONDS
        while back == "soon" and gateway.ask("GET", path).status != 200:
            assert time.monotonic() < until
            time.sleep(0.02)
    with demonstration(database_url=url) as gateway:
        assert gateway.ask("GET", path).body == response.body


@pytest.mark.parametrize("limits", [(5, 1_000_000), (1000, 3000)], ids=["items", "bytes"])
def test_a_conversation_that_is_too_large_is_a_400(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int]
) -> None:
    """Nothing of it is left out: an answer that does not know the last turns would be a wrong one."""
    monkeypatch.setattr(Store.history, "__defaults__", limits)
    items = {"items": [message("Hello")]}
    id = gateway.ask("POST", "/v1/conversations", items).body["id"]
    request = {"model": A, "input": "Hello", "conversation": id}
    assert gateway.ask("POST", "/v1/responses", request).status == 200
    more = {"items": [message("x" * 300) for _ in range(6)]}
    assert gateway.ask("POST", f"/v1/conversations/{id}/items", more).status == 200
    response = gateway.ask("POST", "/v1/responses", request)
    assert (response.status, response.error["param"], response.error["code"]) == (400, "conversation", "bad_request")
    assert "more than 10000 items" in response.error["message"]


def test_a_chain_that_is_too_long_is_a_400_at_its_field(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store.chain, "__defaults__", (2, 1_000_000))
    id = None
    for status in (200, 200, 200, 400):
        response = gateway.ask("POST", "/v1/responses", {"model": A, "input": "Hello", "previous_response_id": id})
        assert response.status == status
        id = response.body.get("id")
    assert response.error["param"] == "previous_response_id" and "more than" in response.error["message"]
