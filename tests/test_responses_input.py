"""What a Responses request comes to: items, tools, choices, formats; and the paths of what is wrong with them.

Tables of (what the caller sends, what Cohere gets). What chat and Responses share is tested with chat.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from support import golden, transcripts
from support.app import REASONING, VISION, A
from translators.core.contracts import Context, ConversationContext, ResponseIdentity
from translators.core.errors import InvalidField, NotStored
from translators.operations import responses
from translators.request.messages import LATE_SYSTEM

UTILS: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: dict[str, Any] = {"type": "function", "name": "get_weather", "parameters": UTILS}
TIME: dict[str, Any] = {"type": "function", "name": "get_time", "parameters": UTILS}
HELLO = {"role": "user", "content": "Hello"}


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": A, "input": "Hello", **fields}


def cohere_request(request: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """The one request that goes to Cohere."""
    (body,) = golden.responses_call(request, **settings).bodies
    document: dict[str, Any] = json.loads(body)
    return document


def messages(*items: Any, **fields: Any) -> Any:
    """What Cohere gets as messages for these items."""
    return cohere_request(ask(input=list(items), **fields))["messages"]


def notes(request: dict[str, Any]) -> list[str]:
    return [note.text for note in golden.responses_call(request).notes]


def refused(request: dict[str, Any], **settings: Any) -> InvalidField:
    with pytest.raises(InvalidField) as caught:
        golden.responses_call(request, **settings)
    assert caught.value.failure.status == (404 if isinstance(caught.value, NotStored) else 400)
    return caught.value


def call_item(call_id: str = "c1", name: str = "get_weather", arguments: str = "{}", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **more}


def output_item(call_id: str = "c1", output: Any = "Sunny", **more: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output, **more}


def thought(text: str = "Hm.", **more: Any) -> dict[str, Any]:
    return {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text}],
        **more,
    }


def answer(text: str = "Hi.", **more: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content, **more}


def called(*calls: tuple[str, str, str], **more: Any) -> dict[str, Any]:
    """Cohere's assistant message with these calls."""
    results = [
        {"id": identity, "function": {"name": name, "arguments": arguments}, "type": "function"}
        for identity, name, arguments in calls
    ]
    return {"role": "assistant", **more, "tool_calls": results}


# --- items --------------------------------------------------------------------------------------------------

IMAGE = "https://example.com/a.png"

READ: dict[str, tuple[list[Any], list[Any]]] = {
    "the easy spelling": ([HELLO], [HELLO]),
    "the full spelling": (
        [
            {
                "type": "message",
                "role": "user",
                "id": "i",
                "status": "completed",
                "content": [{"type": "input_text", "text": "Hello"}],
            }
        ],
        [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    ),
    "chat's spelling of a part": (
        [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    ),
    "an assistant's words in both spellings": (
        [HELLO, answer("Hi."), HELLO, {"role": "assistant", "content": "Ho."}, HELLO],
        [HELLO, {"role": "assistant", "content": "Hi."}, HELLO, {"role": "assistant", "content": "Ho."}, HELLO],
    ),
    "a phase is read by nobody": (
        [HELLO, answer("Hi.", phase="final_answer"), HELLO],
        [HELLO, {"role": "assistant", "content": "Hi."}, HELLO],
    ),
    "several parts of one message are joined": (
        [HELLO, {"role": "assistant", "content": [{"type": "output_text", "text": t} for t in ("a", "b")]}, HELLO],
        [HELLO, {"role": "assistant", "content": "a\n\nb"}, HELLO],
    ),
    "a refusal is text": (
        [HELLO, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, HELLO],
        [HELLO, {"role": "assistant", "content": "No."}, HELLO],
    ),
    "a late system message stays in its place": (
        [{"role": "developer", "content": "One."}, HELLO, {"role": "system", "content": "Two."}],
        [{"role": "system", "content": "One."}, HELLO, {"role": "user", "content": f"{LATE_SYSTEM}\nTwo."}],
    ),
    "a developer's parts": (
        [{"role": "developer", "content": [{"type": "input_text", "text": t} for t in ("One.", "Two.")]}, HELLO],
        [{"role": "system", "content": "One.\n\nTwo."}, HELLO],
    ),
    "a call and its output": (
        [HELLO, call_item(arguments='{"city":"Paris"}', id="fc_1", status="completed"), output_item(id="o")],
        [
            HELLO,
            called(("c1", "get_weather", '{"city":"Paris"}')),
            {"role": "tool", "tool_call_id": "c1", "content": "Sunny"},
        ],
    ),
    "parallel calls are one message": (
        [
            HELLO,
            call_item("c1"),
            call_item("c2", "get_time"),
            output_item("c1", "Sunny"),
            output_item("c2", "Noon"),
        ],
        [
            HELLO,
            called(("c1", "get_weather", "{}"), ("c2", "get_time", "{}")),
            {"role": "tool", "tool_call_id": "c1", "content": "Sunny"},
            {"role": "tool", "tool_call_id": "c2", "content": "Noon"},
        ],
    ),
    "outputs come in the caller's order": (
        [HELLO, call_item("c1"), call_item("c2"), output_item("c2", "two"), output_item("c1", "one")],
        [
            HELLO,
            called(("c1", "get_weather", "{}"), ("c2", "get_weather", "{}")),
            {"role": "tool", "tool_call_id": "c2", "content": "two"},
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
        ],
    ),
    "words before a call are its plan": (
        [HELLO, answer("I look."), call_item(), output_item()],
        [
            HELLO,
            called(("c1", "get_weather", "{}"), tool_plan="I look."),
            {"role": "tool", "tool_call_id": "c1", "content": "Sunny"},
        ],
    ),
    "a thought before a call is its plan": (
        [HELLO, thought("I look."), call_item(), output_item()],
        [
            HELLO,
            called(("c1", "get_weather", "{}"), tool_plan="I look."),
            {"role": "tool", "tool_call_id": "c1", "content": "Sunny"},
        ],
    ),
    "an output of parts": (
        [HELLO, call_item(), output_item(output=[{"type": "input_text", "text": t} for t in ("Sun", "ny")])],
        [HELLO, called(("c1", "get_weather", "{}")), {"role": "tool", "tool_call_id": "c1", "content": "Sun\n\nny"}],
    ),
    "a call that is sent again before its output": (
        [HELLO, call_item(arguments='{"a":1}'), call_item(arguments='{ "a": 1 }'), output_item()],
        [HELLO, called(("c1", "get_weather", '{"a":1}')), {"role": "tool", "tool_call_id": "c1", "content": "Sunny"}],
    ),
    "items of ours that are sent again": (
        [HELLO, answer("Hi.", id="msg_m_item_0"), HELLO, answer("Hi.", id="msg_m_item_0")],
        [HELLO, {"role": "assistant", "content": "Hi."}, HELLO],
    ),
    "an empty developer message": ([{"role": "developer", "content": ""}, HELLO], [HELLO]),
    "an item of an unknown type": ([{"type": "zzz", "id": "z"}, HELLO], [HELLO]),
    "a program": (
        [HELLO, {"type": "program", "code": "x"}, {"type": "program_output", "result": "r"}],
        [HELLO],
    ),
    "empty arguments are an empty object": (
        [HELLO, call_item(arguments=""), output_item()],
        [HELLO, called(("c1", "get_weather", "{}")), {"role": "tool", "tool_call_id": "c1", "content": "Sunny"}],
    ),
    "traces of hosted tools are left out": (
        [HELLO, {"type": "web_search_call", "id": "ws", "status": "completed"}, answer("Hi."), HELLO],
        [HELLO, {"role": "assistant", "content": "Hi."}, HELLO],
    ),
}


@pytest.mark.parametrize("name", READ)
def test_items(name: str) -> None:
    items, expected = READ[name]
    assert messages(*items, tools=[WEATHER, TIME]) == expected


@pytest.mark.parametrize("item_id", ["ls_1", None])
def test_the_output_of_a_local_shell_names_its_call_or_its_item(item_id: str | None) -> None:
    """OpenAI's document calls the output's key `id`, which its items have from the call."""
    call = {"type": "local_shell_call", "id": item_id, "call_id": "c1", "action": {"type": "exec", "command": ["ls"]}}
    result = {"type": "local_shell_call_output", "output": "a.txt"}
    result |= {"id": item_id} if item_id else {"call_id": "c1"}
    (_, turn, tool) = messages(HELLO, call, result)
    assert (turn["tool_calls"][0]["id"], tool["tool_call_id"]) == ("c1", "c1")


def test_text_for_input() -> None:
    assert cohere_request(ask())["messages"] == [HELLO]


@pytest.mark.parametrize("detail", ["auto", "low", "high", None])
def test_an_image_keeps_its_detail(detail: str | None) -> None:
    part = {"type": "input_image", "image_url": IMAGE, "detail": detail}
    request = cohere_request({"model": VISION, "input": [{"role": "user", "content": [part]}]})["messages"]
    image = {"url": IMAGE} if detail is None else {"url": IMAGE, "detail": detail}
    assert request == [{"role": "user", "content": [{"type": "image_url", "image_url": image}]}]


def test_one_turn_of_a_reasoning_model_is_one_message() -> None:
    request = {
        "model": REASONING,
        "input": [HELLO, thought("Hm."), answer("I look."), call_item("c1"), call_item("c2"), output_item("c1")],
        "tools": [WEATHER],
    }
    result = cohere_request(request)["messages"]
    assert [message["role"] for message in result] == ["user", "assistant", "tool"]
    turn = result[1]
    assert [call["id"] for call in turn["tool_calls"]] == ["c1", "c2"]
    thinking = [part["thinking"] for part in turn["content"] if part["type"] == "thinking"]
    assert "".join(thinking) == "Hm.\n\nI look."


def test_a_thought_goes_back_as_a_thinking_block() -> None:
    request = cohere_request({"model": REASONING, "input": [HELLO, thought("Hm."), answer("Hi."), HELLO]})["messages"]
    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Hi."}]
    assert request[1] == {"role": "assistant", "content": parts}


def test_a_summary_stands_for_its_thought() -> None:
    summary = {"type": "reasoning", "summary": [{"type": "summary_text", "text": t} for t in ("One.", "Two.")]}
    request = cohere_request({"model": REASONING, "input": [HELLO, summary, answer("Hi."), HELLO]})["messages"]
    assert request[1]["content"][0] == {"type": "thinking", "thinking": "One.\n\nTwo."}


def test_a_sealed_thought_is_opened_and_a_foreign_one_is_noted() -> None:
    keys = ConversationContext(decrypt_reasoning=lambda token: "Hm." if token == "ours" else None)
    context = Context(ResponseIdentity(transcripts.CREATED, transcripts.UNIQUE), conversation=keys)
    for token, roles in (("ours", ["thinking", "text"]), ("gAAAA-foreign", None)):
        sealed = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": token}
        request = {"model": REASONING, "input": [HELLO, sealed, answer("Hi."), HELLO]}
        call = responses.request(json.dumps(request).encode(), context)
        turn = json.loads(call.bodies[0])["messages"][1]
        assert "foreign" not in json.dumps(turn)
        if roles:
            assert [part["type"] for part in turn["content"]] == roles and not len(call.notes)
        else:
            assert turn == {"role": "assistant", "content": "Hi."}
            assert [note.text for note in call.notes] == ["input[].encrypted_content ignored (it was not made here)"]


def test_two_messages_of_the_assistant_stay_two() -> None:
    result = messages(HELLO, answer("One."), answer("Two."), HELLO)
    assert [message.get("content") for message in result] == ["Hello", "One.", "Two.", "Hello"]


# --- what was said before -----------------------------------------------------------------------------------


def test_history_comes_between_the_instructions_and_the_input() -> None:
    history = (json.dumps([HELLO]).encode(), json.dumps([thought("I look."), call_item(id="fc_1")]).encode())
    identity = ResponseIdentity(transcripts.CREATED, transcripts.UNIQUE)
    context = Context(identity, conversation=ConversationContext(history))
    request = ask(input=[output_item()], instructions="Be brief.", tools=[WEATHER], previous_response_id="resp_1")
    result = json.loads(responses.request(json.dumps(request).encode(), context).bodies[0])["messages"]
    assert result == [
        {"role": "system", "content": "Be brief."},
        HELLO,
        called(("c1", "get_weather", "{}"), tool_plan="I look."),
        {"role": "tool", "tool_call_id": "c1", "content": "Sunny"},
    ]


def test_instructions_go_first() -> None:
    result = messages({"role": "system", "content": "Two."}, HELLO, instructions="One.")
    assert result == [{"role": "system", "content": "One.\n\nTwo."}, HELLO]


@pytest.mark.parametrize("empty", ["", None])
def test_empty_instructions_are_none(empty: str | None) -> None:
    assert cohere_request(ask(instructions=empty))["messages"] == [HELLO]


def test_the_requests_own_items_are_preserved_with_ids() -> None:
    body = json.dumps(ask(input=[{"id": "mine", **HELLO}, HELLO, call_item()])).encode()
    stored = responses.state_options(body, "resp_abc").items
    assert [identity for identity, _ in stored] == ["mine", "item_abc_1", "item_abc_2"]
    items = [json.loads(item) for _, item in stored]
    assert [item["id"] for item in items] == ["mine", "item_abc_1", "item_abc_2"]
    assert [item["type"] for item in items] == ["message", "message", "function_call"]


def test_text_is_preserved_as_an_item() -> None:
    ((identity, item),) = responses.state_options(json.dumps(ask()).encode(), "resp_abc").items
    assert json.loads(item) == {
        "id": identity,
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [{"type": "input_text", "text": "Hello"}],
    }


def test_numbers_in_items_are_preserved_as_they_are() -> None:
    raw = b'{"model":"m","input":[{"role":"user","content":"a","x":1180591620717411303424,"y":1.10}]}'
    ((_, item),) = responses.state_options(raw, "resp_abc").items
    assert b"1180591620717411303424" in item and b"1.10" in item


def test_both_memories_at_once_are_refused() -> None:
    with pytest.raises(InvalidField) as caught:
        responses.state_options(json.dumps(ask(previous_response_id="a", conversation="b")).encode(), "resp_1")
    assert caught.value.failure.param == "conversation"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"store": False}, ("", "", False, False)),
        ({"previous_response_id": "resp_2"}, ("resp_2", "", True, False)),
        ({"conversation": {"id": "conv_2"}}, ("", "conv_2", True, False)),
        ({"background": True}, ("", "", True, True)),
        ({"store": None}, ("", "", True, False)),
    ],
    ids=str,
)
@pytest.mark.parametrize("top", [{}, {"store": None, "previous_response_id": None}], ids=["absent", "null"])
def test_state_in_the_object_of_further_fields_counts(
    top: dict[str, Any], fields: dict[str, Any], expected: tuple[str, str, bool, bool]
) -> None:
    options = responses.state_options(json.dumps(ask(extra_params=fields, **top)).encode(), "resp_1")
    assert len(options.items) == 1
    assert (options.previous_response_id, options.conversation, options.store, options.background) == expected


def test_state_at_the_top_has_precedence() -> None:
    request = ask(store=True, extra_params={"store": False, "input": "Bye"})
    options = responses.state_options(json.dumps(request).encode(), "resp_1")
    assert options.store and b"Hello" in options.items[0][1]


# --- tools of a request that is not answered ----------------------------------------------------------------


def prepared(request: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(responses.prepare(json.dumps(request).encode(), transcripts.context()).final)
    return document


def prewarmed(request: dict[str, Any]) -> dict[str, Any]:
    call = golden.responses_call({**request, "prompt_cache_options": {"prewarm": True}})
    document: dict[str, Any] = json.loads(call.translate_response([]).body)
    return document


@pytest.mark.parametrize("answer_to", [prepared, prewarmed])
def test_tools_are_read_where_nothing_is_answered(answer_to: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    tool = {"name": "f", "input_schema": UTILS}
    (echoed,) = answer_to(ask(tools=[tool], tool_choice={"type": "tool", "name": "f"}))["tools"]
    assert (echoed["type"], echoed["name"], echoed["parameters"]) == ("function", "f", UTILS)
    for wrong, param in (({"type": "function"}, "name"), ({"description": "f"}, "type"), ({"type": 5}, "type")):
        with pytest.raises(InvalidField) as caught:
            answer_to(ask(tools=[wrong]))
        assert caught.value.failure.param == f"tools[0].{param}"


# --- errors and their paths ---------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no input": ({"model": A}, "input"),
    "no model": ({"input": "a"}, "model"),
    "empty input": (ask(input=""), "input"),
    "no items": (ask(input=[]), "input"),
    "input of another type": (ask(input=5), "input"),
    "an item that is none": (ask(input=[HELLO, 5]), "input[1]"),
    "nothing but an unknown item": (ask(input=[{"type": "zzz"}]), "input"),
    "an unknown part": (
        ask(input=[HELLO, HELLO, HELLO, {"role": "user", "content": [{"type": "zzz"}]}]),
        "input[3].content[0].type",
    ),
    "a part without its text": (
        ask(input=[{"role": "user", "content": [{"type": "input_text"}]}]),
        "input[0].content[0].text",
    ),
    "a role that is none": (ask(input=[{"role": "tool", "content": "a"}]), "input[0].role"),
    "an empty message": (ask(input=[HELLO, {"role": "user", "content": ""}]), "input[1].content"),
    "an empty part": (
        ask(input=[HELLO, answer(), {"role": "user", "content": [{"type": "input_text", "text": ""}]}]),
        "input[2].content",
    ),
    "a file": (
        ask(input=[{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]),
        "input[0].content[0]",
    ),
    "a file in the result of a tool": (
        ask(
            input=[
                *(HELLO, call_item()),
                output_item(output=[{"type": "input_text", "text": "a"}, {"type": "input_file", "file_id": "f"}]),
            ]
        ),
        "input[2].output[1]",
    ),
    "audio": (
        ask(input=[{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]),
        "input[0].content[0]",
    ),
    "an image for a model without eyes": (
        ask(input=[HELLO, answer(), {"role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]}]),
        "input[2].content[0]",
    ),
    "an image by id": (
        {"model": VISION, "input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
        "input[0].content[0]",
    ),
    "an image of the system's": (
        ask(input=[{"role": "system", "content": [{"type": "input_image", "image_url": IMAGE}]}, HELLO]),
        "input[0].content[0]",
    ),
    "an output without a call": (ask(input=[HELLO, output_item("zzz")]), "input[1].call_id"),
    "an output before its call": (ask(input=[output_item(), call_item()]), "input[0].call_id"),
    "a call without an id": (
        ask(input=[{"type": "function_call", "name": "f", "arguments": "{}"}]),
        "input[0].call_id",
    ),
    "two calls of one id": (ask(input=[HELLO, call_item(), call_item(arguments='{"a":1}')]), "input[1]"),
    "two calls of one id in a turn without its thoughts": (
        ask(input=[HELLO, call_item(), call_item(arguments='{"a":1}'), HELLO], reasoning={"context": "current_turn"}),
        "input[1]",
    ),
    "an item that is not stored": (ask(input=[{"type": "item_reference", "id": "msg_1"}]), "input[0].id"),
    "a tool without a name": (ask(tools=[{"type": "function"}]), "tools[0].name"),
    "a tool without a type": (ask(tools=[WEATHER, {"description": "f"}]), "tools[1].type"),
    "a tool's schema": (ask(tools=[WEATHER, {**TIME, "parameters": {"type": "string"}}]), "tools[1].parameters"),
    "a namespace without a name": (ask(tools=[{"type": "namespace", "tools": [WEATHER]}]), "tools[0].name"),
    "a nested tool without a type": (
        ask(tools=[{"type": "namespace", "name": "n", "tools": [{"description": "f"}]}]),
        "tools[0].tools[0].type",
    ),
    "a nested tool's schema": (
        ask(tools=[WEATHER, {"type": "namespace", "name": "n", "tools": [{**TIME, "parameters": {"type": "array"}}]}]),
        "tools[1].tools[0].parameters",
    ),
    "a nested tool of another shape": (
        ask(tools=[{"type": "namespace", "name": "n", "tools": [{"type": "function", "name": 5}]}]),
        "tools[0].tools[0].name",
    ),
    "a choice of nothing": (ask(tools=[WEATHER], tool_choice="sometimes"), "tool_choice"),
    "a choice that is not there": (
        ask(tools=[WEATHER], tool_choice={"type": "function", "name": "zzz"}),
        "tool_choice",
    ),
    "a choice without a name": (ask(tools=[WEATHER], tool_choice={"type": "function"}), "tool_choice.name"),
    "a choice without a type": (ask(tools=[WEATHER], tool_choice={"mode": "auto"}), "tool_choice.type"),
    "a call of no allowed tool": (
        ask(tools=[WEATHER], tool_choice={"type": "allowed_tools", "mode": "required", "tools": []}),
        "tool_choice",
    ),
    "nothing to compact": (ask(input=[{"type": "compaction_trigger"}]), "input"),
    "a choice among no tools": (ask(tool_choice="required"), "tool_choice"),
    "a format that is none": (ask(text={"format": {"type": "grammar"}}), "text.format.type"),
    "a format without a schema": (
        ask(text={"format": {"type": "json_schema", "name": "x"}}),
        "text.format.schema",
    ),
    "a format with a wrong schema": (
        ask(text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "object", "properties": 5}}}),
        "text.format.schema",
    ),
    "an effort that is none": (ask(reasoning={"effort": "wild"}), "reasoning.effort"),
    "no tokens at all": (ask(max_output_tokens=0), "max_output_tokens"),
    "no calls at all": (ask(max_tool_calls=0), "max_tool_calls"),
    "a prompt template": (ask(prompt={"id": "p"}), "prompt"),
    "metadata that is no object": (ask(metadata=[1]), "metadata"),
    "too much metadata": (ask(metadata={str(number): "" for number in range(17)}), "metadata"),
    "metadata with a long key": (ask(metadata={"k" * 65: ""}), "metadata"),
    "metadata with a long value": (ask(metadata={"k": "v" * 513}), "metadata[]"),
    "a conversation without an id": (ask(conversation={}), "conversation.id"),
    "a conversation of another type": (ask(conversation={"id": ["a"]}), "conversation.id"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_by_its_path(name: str) -> None:
    request, param = WRONG[name]
    failure = refused(request).failure
    assert failure.param == param
    assert failure.code and failure.message
    for elsewhere in ("messages[", "response_format", ".function."):
        assert elsewhere not in failure.message, "a word of chat's, which the caller has not said"


def test_a_number_out_of_range_beside_an_unknown_key_is_a_400() -> None:
    body = b'{"model":"m","input":[{"role":"user","content":"a","x":1e999}]}'
    with pytest.raises(InvalidField):
        responses.request(body, transcripts.context())


# --- tools --------------------------------------------------------------------------------------------------


def test_flat_tools_are_nested() -> None:
    request = cohere_request(ask(tools=[{**WEATHER, "description": "d", "strict": False}]))
    assert request["tools"] == [
        {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": UTILS}}
    ]
    assert "strict_tools" not in request


def test_strict_tools_when_every_tool_allows_it() -> None:
    assert cohere_request(ask(tools=[{**WEATHER, "strict": True}, {**TIME, "strict": True}]))["strict_tools"] is True
    assert "strict_tools" not in cohere_request(ask(tools=[{**WEATHER, "strict": True}, TIME]))


def test_a_tool_without_parameters_gets_an_empty_object() -> None:
    request = cohere_request(ask(tools=[{"type": "function", "name": "f", "parameters": None}]))
    assert request["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {}}


CODEX: list[dict[str, Any]] = [
    WEATHER,
    {
        "type": "namespace",
        "name": "agents",
        "description": "Other agents",
        "tools": [
            {"type": "function", "name": "spawn", "parameters": UTILS, "strict": False},
            {"type": "function", "name": "get_weather", "parameters": UTILS},
            {"type": "custom", "name": "shell"},
        ],
    },
]


def test_a_namespace_is_flattened_and_mapped_back() -> None:
    call = golden.responses_call(ask(tools=CODEX, stream=True))
    names = [tool["function"]["name"] for tool in json.loads(call.bodies[0])["tools"]]
    assert names[0] == "get_weather" and len(set(names)) == 4
    assert all(name.replace("_", "a").isalnum() for name in names), "what Cohere takes for a name"
    results = [transcripts.message_start()]
    for index, name in enumerate(names):
        results += [transcripts.call_start(index, name), transcripts.call_end(index)]
    results.append(transcripts.message_end("TOOL_CALL"))
    result = golden.stream_documents(call.stream(), [json.dumps(event).encode() for event in results])
    expected = [("get_weather", None), ("spawn", "agents"), ("get_weather", "agents"), ("shell", "agents")]
    output = result[-1]["response"]["output"]
    assert [(item["name"], item.get("namespace")) for item in output] == expected
    begun = [event["item"] for event in result if event["type"] == "response.output_item.added"]
    assert [(item["name"], item.get("namespace")) for item in begun] == expected
    done = [event["name"] for event in result if event["type"] == "response.function_call_arguments.done"]
    assert done == ["get_weather", "spawn", "get_weather"]
    assert output[-1]["type"] == "custom_tool_call"
    # And the calls come back in the history under the names they were sent by.
    back = [item if "input" in item else {**item, "arguments": "{}"} for item in output]
    outputs = [output_item(item["call_id"]) for item in output[:-1]]
    outputs.append(output_item(output[-1]["call_id"], type="custom_tool_call_output"))
    again = cohere_request(ask(input=[HELLO, *back, *outputs], tools=CODEX))
    assert [one["function"]["name"] for one in again["messages"][1]["tool_calls"]] == names


def test_what_is_no_tool_of_the_callers_in_a_namespace_is_noted() -> None:
    tools = [WEATHER, {"type": "namespace", "name": "n", "tools": [{"type": "web_search"}, TIME]}]
    assert "tools[].type web_search ignored (Cohere has no such tool)" in notes(ask(tools=tools))
    assert refused(ask(tools=tools), strict=True).failure.param == "tools[1].tools[0].type"


def test_an_item_of_an_unknown_type_is_noted_and_refused_in_strict_mode() -> None:
    request = ask(input=[HELLO, {"type": "zzz" * 50}])
    assert notes(request) == [f"input[].type {('zzz' * 50)[:64]} ignored (not known to Cohere)"]
    assert refused(request, strict=True).failure.param == "input[1].type"


HOSTED = [
    {"type": "web_search", "search_context_size": "low", "user_location": {"type": "approximate"}},
    {"type": "file_search", "vector_store_ids": ["vs"]},
    {"type": "mcp", "server_label": "a", "server_url": "https://example.com"},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "tool_search"},
]


@pytest.mark.parametrize("tool", HOSTED, ids=lambda tool: str(tool["type"]))
def test_a_hosted_tool_is_ignored_with_one_note_and_refused_in_strict_mode(tool: dict[str, Any]) -> None:
    request = ask(tools=[WEATHER, tool])
    assert [one["function"]["name"] for one in cohere_request(request)["tools"]] == ["get_weather"]
    assert notes(request) == [f"tools[].type {tool['type']} ignored (Cohere has no such tool)"]
    failure = refused(request, strict=True).failure
    assert (failure.param, failure.code) == ("tools[1].type", "unsupported_value")


def test_only_hosted_tools_are_no_tools() -> None:
    assert "tools" not in cohere_request(ask(tools=HOSTED))


def test_a_key_of_a_tool_that_nobody_knows_is_noted() -> None:
    request = ask(tools=[{**WEATHER, "defer_loading": True, "cache_control": {"type": "ephemeral"}, "output": None}])
    assert notes(request) == [
        "tools[].defer_loading ignored (all tools are sent)",
        "cache_control ignored (not known to Cohere)",
    ]
    assert refused(request, strict=True).failure.param == "tools[0].defer_loading"


ALLOWED = {"type": "allowed_tools", "tools": [{"type": "function", "name": "get_time"}]}
CHOICES: dict[str, tuple[Any, str | None, list[str]]] = {
    "nothing": (None, None, ["get_weather", "get_time"]),
    "auto": ("auto", None, ["get_weather", "get_time"]),
    "none": ("none", "NONE", ["get_weather", "get_time"]),
    "required": ("required", "REQUIRED", ["get_weather", "get_time"]),
    "a name": ({"type": "function", "name": "get_time"}, "REQUIRED", ["get_time"]),
    "allowed": ({**ALLOWED, "mode": "auto"}, None, ["get_time"]),
    "allowed without a mode": (ALLOWED, None, ["get_time"]),
    "allowed and required": ({**ALLOWED, "mode": "required"}, "REQUIRED", ["get_time"]),
    "a hosted tool": ({"type": "file_search"}, None, ["get_weather", "get_time"]),
    "nothing allowed": ({**ALLOWED, "tools": []}, "NONE", ["get_weather", "get_time"]),
    "hosted tools allowed": ({**ALLOWED, "tools": [{"type": "file_search"}]}, "NONE", ["get_weather", "get_time"]),
    "hosted tools allowed and required": (
        {**ALLOWED, "tools": [{"type": "file_search"}], "mode": "required"},
        None,
        ["get_weather", "get_time"],
    ),
    "a mode as a type": ({"type": "none"}, "NONE", ["get_weather", "get_time"]),
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_choice(name: str) -> None:
    choice, expected, names = CHOICES[name]
    request = cohere_request(ask(tools=[WEATHER, TIME], tool_choice=choice))
    assert request.get("tool_choice") == expected
    assert [tool["function"]["name"] for tool in request["tools"]] == names


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_that_cohere_lacks_are_noted(mode: str) -> None:
    choice = {"type": "allowed_tools", "tools": [{"type": "file_search"}], "mode": mode}
    assert notes(ask(tools=[WEATHER], tool_choice=choice)) == ["tool_choice ignored (Cohere has none of these tools)"]


def test_a_choice_of_a_hosted_tool_is_noted() -> None:
    request = ask(tools=[WEATHER], tool_choice={"type": "file_search"})
    assert notes(request) == ["tool_choice ignored (Cohere has no tool of type file_search)"]
    assert refused(request, strict=True).failure.param == "tool_choice"


@pytest.mark.parametrize(("fields", "calls"), [({"parallel_tool_calls": False}, 1), ({"max_tool_calls": 2}, 2)])
def test_calls_beyond_the_limit_are_not_passed_on(fields: dict[str, Any], calls: int) -> None:
    results = [transcripts.message_start()]
    for index in range(3):
        results += [transcripts.call_start(index), transcripts.call_end(index)]
    results.append(transcripts.message_end("TOOL_CALL"))
    call = golden.responses_call(ask(tools=[WEATHER], **fields))
    output = golden.responses_answer(call, transcripts.whole(results))["output"]
    assert [item["call_id"] for item in output] == [f"get_weather_{index}" for index in range(calls)]


# --- the shape of the answer --------------------------------------------------------------------------------

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
JSON_SCHEMA: dict[str, Any] = {"type": "json_schema", "name": "x", "schema": SCHEMA}


def formatted(form: Any, **fields: Any) -> Any:
    return cohere_request(ask(text={"format": form}, **fields)).get("response_format")


def test_the_format() -> None:
    assert formatted({"type": "text"}) is None and formatted(None) is None
    assert formatted({"type": "json_object"}) == {"type": "json_object"}
    assert formatted(JSON_SCHEMA) == {"type": "json_object", "json_schema": SCHEMA}
    assert formatted({**JSON_SCHEMA, "strict": True}) == {"type": "json_object", "json_schema": SCHEMA}


def test_a_strict_format_is_checked_and_retried() -> None:
    call = golden.responses_call(ask(text={"format": {**JSON_SCHEMA, "strict": True}}))
    assert call.second_attempt() is not None
    assert golden.responses_call(ask(text={"format": JSON_SCHEMA})).second_attempt() is None


def test_a_schema_missed_twice_can_be_a_refusal() -> None:
    call = golden.responses_call(ask(text={"format": {**JSON_SCHEMA, "strict": True}}), refuse_missed_schema=True)
    second = call.second_attempt()
    assert second is not None
    results = [
        transcripts.message_start(),
        transcripts.content_start(0, "text", "no"),
        transcripts.content_end(0),
        transcripts.message_end(usage={"tokens": {"input_tokens": 5, "output_tokens": 1}}),
    ]
    response = golden.responses_answer(second, transcripts.whole(results))
    (message,) = response["output"]
    assert response["status"] == "completed" and response["error"] is None
    assert message["content"][0]["type"] == "refusal" and message["id"].startswith("msg_")
    assert response["usage"]["input_tokens"] == 5


def test_a_format_beside_tools_is_a_tool_that_stands_for_the_answer() -> None:
    request = ask(text={"format": JSON_SCHEMA}, tools=[WEATHER], stream=True)
    call = golden.responses_call(request)
    document = json.loads(call.bodies[0])
    assert "response_format" not in document and document["tool_choice"] == "REQUIRED"
    names = [tool["function"]["name"] for tool in document["tools"]]
    assert names == ["get_weather", "give_final_answer"]
    results = [
        transcripts.message_start(),
        transcripts.call_start(0, "give_final_answer"),
        transcripts.call_delta(0, '{"n":'),
        transcripts.call_delta(0, "1}"),
        transcripts.call_end(0),
        transcripts.message_end("TOOL_CALL"),
    ]
    final = golden.stream_documents(call.stream(), [json.dumps(event).encode() for event in results])[-1]["response"]
    (message,) = final["output"]
    assert (message["type"], message["content"][0]["text"], final["status"]) == ("message", '{"n":1}', "completed")


def test_a_format_while_a_tool_must_be_called_waits() -> None:
    request = cohere_request(ask(text={"format": JSON_SCHEMA}, tools=[WEATHER], tool_choice="required"))
    assert "response_format" not in request and [tool["function"]["name"] for tool in request["tools"]] == [
        "get_weather"
    ]


def test_verbosity_has_no_effect_and_is_noted() -> None:
    assert notes(ask(text={"verbosity": "low"})) == ["text.verbosity ignored (Cohere has none)"]
    assert notes(ask(text={"verbosity": "medium"})) == []


FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "max_output_tokens": ({"max_output_tokens": 99}, {"max_tokens": 99}),
    "temperature": ({"temperature": 0.5}, {"temperature": 0.5}),
    "top_p": ({"top_p": 0.5}, {"p": 0.5}),
    "top_k": ({"top_k": 5}, {"k": 5}),
    "stop": ({"stop": "END"}, {"stop_sequences": ["END"]}),
    "seed": ({"seed": 5}, {"seed": 5}),
    "frequency_penalty": ({"frequency_penalty": 0.5}, {"frequency_penalty": 0.5}),
    "presence_penalty": ({"presence_penalty": 0.5}, {"presence_penalty": 0.5}),
    "safety_mode": ({"safety_mode": "STRICT"}, {"safety_mode": "STRICT"}),
    "documents": ({"documents": ["a"]}, {"documents": ["a"]}),
    "log probabilities by include": ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
    "nothing of it": (
        {
            "include": [],
            "store": False,
            "metadata": {"a": "b"},
            "top_logprobs": 0,
            "stream_options": {"include_obfuscation": False},
        },
        {},
    ),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name: str) -> None:
    fields, expected = FIELDS[name]
    assert cohere_request(ask(**fields)) == {**cohere_request(ask()), **expected}
    assert notes(ask(**fields)) == []


def test_top_logprobs_hold_the_chosen_token_and_are_noted() -> None:
    assert cohere_request(ask(top_logprobs=2))["logprobs"] is True
    assert notes(ask(top_logprobs=2)) == ["top_logprobs adjusted 2 -> the chosen token alone"]


def test_more_than_the_model_writes_is_brought_down_under_its_own_name() -> None:
    (note,) = notes(ask(max_output_tokens=10_000_000))
    assert note.startswith("max_output_tokens adjusted 10000000 -> ")


@pytest.mark.parametrize(
    ("reasoning", "thinking"),
    [
        ({"effort": "none"}, {"type": "disabled"}),
        ({"max_tokens": 700}, {"type": "enabled", "token_budget": 700}),
        ({"effort": "high", "summary": "auto"}, {"type": "enabled"}),
    ],
)
def test_reasoning(reasoning: dict[str, Any], thinking: dict[str, Any]) -> None:
    assert cohere_request({"model": REASONING, "input": "Hello", "reasoning": reasoning})["thinking"] == thinking


def test_what_is_included_without_effect_is_noted() -> None:
    request = ask(include=["web_search_call.action.sources", "reasoning.encrypted_content"])
    assert notes(request) == ["include web_search_call.action.sources ignored (Cohere has no such thing)"]
    assert refused(request, strict=True).failure.param == "include"


NEW_FIELDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "the window that is kept": ({"background_options": {"completion_window": "soonest"}}, []),
    "a later window": (
        {"background_options": {"completion_window": "8h", "continuation_id": "c"}},
        [
            "background_options.completion_window ignored (it begins as soon as it can)",
            "background_options.continuation_id ignored (background responses are not ordered)",
        ],
    ),
    "programs": ({"access_programs": {"cyber": "standard"}}, ["access_programs ignored (Cohere has none)"]),
    "images as they are": ({"image": {"context_compression": "auto"}}, []),
    "images compressed": (
        {"image": {"context_compression": "enabled"}},
        ["image.context_compression ignored (Cohere compresses no images)"],
    ),
    "a cache of the usual mode": ({"prompt_cache_options": {"mode": "implicit"}}, []),
    "a cache for a time": (
        {"prompt_cache_options": {"ttl": "12h", "comparison_response_id": "resp_1"}},
        ["prompt_cache_options ignored (Cohere caches prompts itself)"],
    ),
    "obfuscation": (
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        ["stream_options.include_obfuscation ignored (there is no obfuscation)"],
    ),
    "no obfuscation": ({"stream": True, "stream_options": {"include_obfuscation": False}}, []),
    "another management of the context": (
        {"context_management": [{"type": "compaction"}, {"type": "pruning"}]},
        ["context_management[].type pruning ignored (not known)"],
    ),
    "all turns": ({"reasoning": {"context": "all_turns", "mode": "standard"}}, []),
    "a mode of reasoning": ({"reasoning": {"mode": "pro"}}, ["reasoning.mode ignored (Cohere has none)"]),
    "a slow tier": ({"service_tier": "flex"}, ["service_tier emulated (priority 999)"]),
    "a slow tier with a priority": ({"service_tier": "flex", "priority": 3}, []),
    "a fast tier": ({"service_tier": "ultrafast"}, ["service_tier ignored (Cohere has no tiers)"]),
    "the usual tier": ({"service_tier": "auto"}, []),
}


@pytest.mark.parametrize("name", NEW_FIELDS)
def test_fields_of_todays_openai(name: str) -> None:
    fields, expected = NEW_FIELDS[name]
    assert notes(ask(**fields)) == expected
    priority = {"flex": fields.get("priority", 999)}.get(fields.get("service_tier", ""))
    assert cohere_request(ask(**fields)).get("priority") == priority


def test_a_comparison_of_prompt_caches_is_unavailable() -> None:
    call = golden.responses_call(ask(prompt_cache_options={"comparison_response_id": "resp_1"}))
    response = golden.responses_answer(
        call, transcripts.whole([transcripts.message_start(), transcripts.message_end()])
    )
    assert response["prompt_cache_diagnostics"] == {"type": "unavailable"}


@pytest.mark.parametrize("context", ["current_turn", "all_turns", None])
def test_thoughts_of_earlier_turns_are_left_out_where_only_the_current_one_is_wanted(context: str | None) -> None:
    def thought(text: str) -> dict[str, Any]:
        return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}

    items = [HELLO, thought("early"), answer("Hi."), HELLO, thought("late"), call_item(), output_item()]
    body = json.dumps(cohere_request(ask(input=items, model=REASONING, reasoning={"context": context})))
    assert "late" in body and ("early" in body) == (context != "current_turn")


def test_notes_name_the_fields_of_this_api() -> None:
    items = [HELLO, {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]}, answer("Hi."), HELLO]
    assert notes(ask(input=items)) == ["input[].reasoning_content ignored (this model does not reason)"]


CONFIGURED = {"type": "configuration_update", "reasoning": {"effort": "low"}}


@pytest.mark.parametrize(
    ("history", "items", "effort", "budget"),
    [
        ([], [CONFIGURED, HELLO], None, 2048),
        ([], [CONFIGURED, HELLO], "medium", 2048),
        ([HELLO, CONFIGURED], [HELLO], None, 2048),
        ([HELLO, CONFIGURED], [HELLO], "medium", 8192),
        ([], [CONFIGURED, HELLO, {**CONFIGURED, "reasoning": {"effort": "minimal"}}], None, 512),
    ],
)
def test_a_configuration_update_holds_from_there_on(
    history: list[Any], items: list[Any], effort: str | None, budget: int
) -> None:
    """A field of the request comes after its history and before its input."""
    context = golden.summarising([history] if history else [])
    body = {"model": REASONING, "input": items, **({"reasoning": {"effort": effort}} if effort else {})}
    call = responses.request(json.dumps(body).encode(), context)
    assert json.loads(call.bodies[0])["thinking"]["token_budget"] == budget


def test_what_codex_sends_is_taken() -> None:
    parts = [{"type": "input_text", "text": "One."}, {"type": "input_text", "text": "Two."}]
    request = {
        "model": A,
        "input": [
            {"type": "message", "role": "developer", "content": parts},
            {"type": "message", "role": "user", "content": parts},
        ],
        "tools": CODEX,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "k",
        "client_metadata": {"a": "b"},
        "text": {"verbosity": "low"},
    }
    result = cohere_request(request)
    assert [message["role"] for message in result["messages"]] == ["system", "user"]
    assert len(result["tools"]) == 4 and result["stream"] is True
