"""`translators/request/other_shapes.py`: what other APIs' clients send, in OpenAI's form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support import transcripts
from support.app import A
from translators.core.errors import InvalidField
from translators.core.notes import Notes
from translators.operations import chat
from translators.request import other_shapes

SCHEMA = {"type": "object", "properties": {}}
TEXT = {"type": "text", "text": "Hi"}
DATA = "data:image/png;base64,QQ=="


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def file(**fields: str) -> dict[str, Any]:
    return {"type": "file", "file": fields}


PARTS: dict[str, tuple[Any, Any]] = {
    "a text": ("Hi", TEXT),
    "a text without a type": ({"text": "Hi", "x": 1}, {"type": "text", "text": "Hi", "x": 1}),
    "a type alone": ({"type": "text"}, {"type": "text"}),
    "a number": (5, 5),
    "neither type nor text": ({"text": 5}, {"text": 5}),
    "what cannot be read stays": ({"type": "image", "image": 5}, {"type": "image", "image": 5}),
    "Anthropic's image": (
        {"type": "image", "source": {"type": "base64", "data": "QQ==", "media_type": "image/jpeg"}},
        image("data:image/jpeg;base64,QQ=="),
    ),
    "Anthropic's image without a type": ({"type": "image", "source": {"data": "QQ=="}}, image(DATA)),
    "Anthropic's image at a URL": ({"type": "image", "source": {"url": "https://x/a"}}, image("https://x/a")),
    "the AI SDK's image": ({"type": "image", "image": "QQ==", "mediaType": "image/png"}, image(DATA)),
    "the AI SDK's image as a data URI": ({"type": "image", "image": DATA}, image(DATA)),
    "MCP's image": ({"type": "image", "data": "QQ==", "mimeType": "image/gif"}, image("data:image/gif;base64,QQ==")),
    "LangChain's image": ({"type": "image", "base64": "QQ==", "mime_type": "image/png"}, image(DATA)),
    "LangChain's image at a URL": ({"type": "image", "url": "http://x/a"}, image("http://x/a")),
    "a mark for a cache": (
        {"type": "image", "url": "http://x/a", "cache_control": {"type": "ephemeral"}},
        {**image("http://x/a"), "cache_control": {"type": "ephemeral"}},
    ),
    "Anthropic's text document": ({"type": "document", "source": {"type": "text", "data": "Hi"}}, TEXT),
    "a text document without a text": (
        {"type": "document", "source": {"type": "text", "data": 5}},
        {"type": "document", "source": {"type": "text", "data": 5}},
    ),
    "Anthropic's document": (
        {"type": "document", "title": "a.pdf", "source": {"data": "QQ==", "media_type": "application/pdf"}},
        file(file_data="data:application/pdf;base64,QQ==", filename="a.pdf"),
    ),
    "Anthropic's document at a URL": (
        {"type": "document", "title": 5, "source": {"type": "url", "url": "https://x/a.pdf"}},
        file(file_url="https://x/a.pdf"),
    ),
    "Cohere's document": ({"type": "document", "document": {"data": "Hi"}},) * 2,
    "LangChain's file": (
        {"type": "file", "base64": "QQ==", "mime_type": "text/plain", "filename": "a.txt"},
        file(file_data="data:text/plain;base64,QQ==", filename="a.txt"),
    ),
    "the AI SDK's file": (
        {"type": "file", "data": "QQ==", "mediaType": "text/plain"},
        file(file_data="data:text/plain;base64,QQ=="),
    ),
    "a file at a URL": ({"type": "file", "url": "https://x/a"}, file(file_url="https://x/a")),
    "a file at a data URI": ({"type": "file", "url": "data:,a"}, file(file_data="data:,a")),
    "a file of an unknown type": ({"type": "file", "data": "QQ=="},) * 2,
    "OpenAI's file": (file(file_id="f", x="y"),) * 2,
    "a file of Responses": (
        {"type": "input_file", "file_id": "f", "filename": "a", "x": "y"},
        file(file_id="f", filename="a"),
    ),
    "the AI SDK's reasoning": ({"type": "reasoning", "text": "Hm"}, {"type": "thinking", "thinking": "Hm"}),
    "LangChain's reasoning": ({"type": "reasoning", "reasoning": "Hm"}, {"type": "thinking", "thinking": "Hm"}),
    "a summary of reasoning": (
        {"type": "reasoning", "summary": [{"text": "Hm"}, {"text": ""}, "x", {"text": "So"}]},
        {"type": "thinking", "thinking": "Hm\n\nSo"},
    ),
    "reasoning without a text": ({"type": "reasoning", "summary": "Hm"},) * 2,
    "MCP's resource": ({"type": "resource", "resource": {"text": "Hi"}}, TEXT),
    "MCP's resource of bytes": ({"type": "resource", "resource": {"blob": "QQ=="}},) * 2,
    "no resource": ({"type": "resource", "resource": "Hi"},) * 2,
}


@pytest.mark.parametrize(("part", "expected"), PARTS.values(), ids=PARTS)
def test_a_part(part: Any, expected: Any) -> None:
    notes = Notes()
    (message,) = other_shapes.messages([{"role": "user", "content": [part]}], "messages", notes)
    assert message == {"role": "user", "content": [expected]} and not list(notes)


@pytest.mark.parametrize("content", [{"type": "text", "text": "Hi"}, {"text": "Hi"}, ["Hi"]], ids=str)
def test_a_part_may_stand_without_a_list(content: Any) -> None:
    (message,) = other_shapes.messages([{"role": "user", "content": content}], "messages", Notes())
    assert message["content"] == [TEXT]


@pytest.mark.parametrize("value", ["Hi", 5, [5, {"role": "user"}], [{"role": "user", "content": {"a": 1}}]], ids=str)
def test_what_no_api_has_is_left_to_the_field_table(value: Any) -> None:
    assert other_shapes.messages(value, "messages", Notes()) == value


def test_what_only_its_author_can_read_is_left_out() -> None:
    notes = Notes()
    content = ["Hi", {"type": "redacted_thinking", "data": "x"}]
    (message,) = other_shapes.messages([{"role": "assistant", "content": content}], "messages", notes)
    assert message["content"] == [TEXT]
    assert [note.text for note in notes] == [
        "messages[].content[].type redacted_thinking ignored (only its author can read it)"
    ]


def test_results_in_a_user_turn_stand_before_it() -> None:
    notes = Notes()
    results = [
        {"type": "tool_result", "tool_use_id": "a", "content": "One"},
        {"type": "tool_result", "tool_use_id": "b", "content": {"n": 2}, "is_error": True},
    ]
    first = {"role": "tool", "tool_call_id": "a", "content": "One"}
    second = {"role": "tool", "tool_call_id": "b", "content": '{"n":2}'}
    turn = {"role": "user", "content": ["Hi", *results]}
    expected = [first, second, {"role": "user", "content": [TEXT]}]
    assert other_shapes.messages([turn], "messages", notes) == expected
    assert [note.text for note in notes] == [
        "messages[].content[].is_error ignored (Cohere sees the result alone)",
        "messages[].content adjusted an object -> its JSON text",
    ]
    alone = {"role": "user", "content": results[:1]}
    assert other_shapes.messages([alone], "messages", notes) == [first]


def test_calls_among_the_parts_are_calls_once_each() -> None:
    used = [
        {"type": "tool_use", "id": name, "name": "f", "input": arguments}
        for name, arguments in (("a", {"n": 1}), ("b", None))
    ]
    existing = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    call = {"id": "b", "type": "function", "function": {"name": "f", "arguments": {}}}

    def converted(**fields: Any) -> Any:
        (message,) = other_shapes.messages([{"role": "assistant", **fields}], "messages", Notes())
        return message

    both = converted(content=["Hi", *used], tool_calls=[existing])
    assert (both["content"], both["tool_calls"]) == ([TEXT], [existing, call])
    alone = converted(content=used[1:])
    assert (alone["content"], alone["tool_calls"]) == (None, [call])
    assert converted(content=["Hi"])["content"] == [TEXT] and "tool_calls" not in converted(content=["Hi"])
    # The field table says what is wrong with these.
    assert converted(content=used[1:], tool_calls="all")["tool_calls"] == "all"


RESULTS: dict[str, tuple[Any, Any, str]] = {
    "a text": ("Sunny", "Sunny", ""),
    "nothing": (None, None, ""),
    "an empty list": ([], [], ""),
    "data": ({"a": [1]}, '{"a":[1]}', "an object"),
    "a list": ([1, 2], "[1,2]", "an array"),
    "a number": (5, "5", "a number"),
    "zero": (0, "0", "a number"),
    "a truth": (False, "false", "a boolean"),
    "a part": (TEXT, [TEXT], ""),
    "parts": ([TEXT, {"type": "image", "url": "http://x/a"}], [TEXT, image("http://x/a")], ""),
    "parts and data": ([TEXT, {"a": 1}], '[{"type":"text","text":"Hi"},{"a":1}]', "an array"),
    "a whole result of MCP's": ({"content": [TEXT], "isError": False}, [TEXT], ""),
    "the same with data": ({"content": [TEXT], "structuredContent": {}}, [TEXT], ""),
    "data with a content": ({"content": [TEXT]}, '{"content":[{"type":"text","text":"Hi"}]}', "an object"),
}


@pytest.mark.parametrize(("content", "expected", "what"), RESULTS.values(), ids=RESULTS)
def test_the_result_of_a_tool(content: Any, expected: Any, what: str) -> None:
    notes = Notes()
    (message,) = other_shapes.messages([{"role": "tool", "content": content}], "messages", notes)
    assert message["content"] == expected
    item = other_shapes.input_item({"type": "function_call_output", "output": content}, "input[0]", notes)
    in_responses = {"type": "input_image", "image_url": "http://x/a"}
    assert item["output"] == ([TEXT, in_responses] if isinstance(expected, list) and len(expected) == 2 else expected)
    assert [note.text for note in notes] == (
        [f"{field} adjusted {what} -> its JSON text" for field in ("messages[].content", "input[].output")]
        if what
        else []
    )


def test_the_result_of_a_function_is_one_text() -> None:
    for content, expected in (([TEXT, "So"], "Hi\n\nSo"), ("Hi", "Hi")):
        message = {"role": "function", "name": "f", "content": content}
        if isinstance(content, list):
            message["content"] = [TEXT, {"type": "text", "text": "So"}]
        assert other_shapes.messages([message], "messages", Notes())[0]["content"] == expected
    picture = {"role": "function", "name": "f", "content": [image(DATA)]}
    assert other_shapes.messages([picture], "messages", Notes()) == [picture]


def test_items_of_responses() -> None:
    def converted(item: Any) -> Any:
        return other_shapes.input_item(item, "input[0]", Notes())

    part = {"type": "file", "data": "QQ==", "mediaType": "text/plain", "filename": "a.txt"}
    in_responses = {"type": "input_file", "file_data": "data:text/plain;base64,QQ==", "filename": "a.txt"}
    assert converted({"role": "user", "content": [part, "Hi"]})["content"] == [in_responses, TEXT]
    assert converted({"type": "function_call_output", "output": [part]})["output"] == [in_responses]
    assert converted({"type": "function_call_output"})["output"] == ""
    assert converted({"type": "function_call", "arguments": "{}"})["arguments"] == "{}"
    assert converted({"role": "user"}) == {"role": "user", "content": ""}
    assert converted({"role": "user", "content": [file(file_id="f")]})["content"] == [
        {"type": "input_file", "file_id": "f"}
    ]
    assert converted({"type": "reasoning", "content": [part]})["content"] == [part]
    for picture, expected in (
        (image(DATA), {"image_url": DATA}),
        ({"type": "image_url", "image_url": DATA}, {"image_url": DATA}),
        ({"type": "image_url", "image_url": {"url": DATA, "detail": "low"}}, {"image_url": DATA, "detail": "low"}),
        ({"type": "input_image", "image_url": {"url": DATA, "detail": None}}, {"image_url": DATA}),
    ):
        assert converted({"role": "user", "content": [picture]})["content"] == [{"type": "input_image", **expected}]
    for wrong in ({"url": DATA, "x": 1}, {"url": 5}, {}, 5):
        picture = {"type": "image_url", "image_url": wrong}
        assert converted({"role": "user", "content": [picture]})["content"] == [picture]
    assert converted("Hi") == "Hi" and converted({"type": 5}) == {"type": 5}


FUNCTION = {"type": "function", "name": "f", "parameters": SCHEMA}
TOOLS: dict[str, tuple[Any, Any]] = {
    "Anthropic's": ({"name": "f", "input_schema": SCHEMA}, FUNCTION),
    "Anthropic's, with its type": ({"type": "custom", "name": "f", "input_schema": SCHEMA}, FUNCTION),
    "MCP's": ({"name": "f", "inputSchema": SCHEMA}, FUNCTION),
    "a name alone": ({"name": "f"}, {"type": "function", "name": "f"}),
    "OpenAI's of one text": ({"type": "custom", "name": "f"},) * 2,
    "a function without a type": (
        {"function": {"name": "f", "input_schema": SCHEMA}},
        {"type": "function", "function": {"name": "f", "parameters": SCHEMA}},
    ),
    "two schemas": (
        {"name": "f", "parameters": {}, "input_schema": SCHEMA},
        {"type": "function", "name": "f", "parameters": {}, "input_schema": SCHEMA},
    ),
    "another schema in place of null": ({"name": "f", "parameters": None, "input_schema": SCHEMA}, FUNCTION),
    "no schema": ({"name": "f", "input_schema": 5}, {"type": "function", "name": "f", "input_schema": 5}),
    "hosted": ({"type": "web_search", "name": "f", "input_schema": SCHEMA},) * 2,
    "neither type nor name": ({"description": "x"},) * 2,
    "no object": (5, 5),
}


@pytest.mark.parametrize(("tool", "expected"), TOOLS.values(), ids=TOOLS)
def test_a_tool(tool: Any, expected: Any) -> None:
    assert other_shapes.tools([tool], "tools", Notes()) == [expected]


def test_tools_that_are_no_list() -> None:
    assert other_shapes.tools("all", "tools", Notes()) == "all"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", "auto"),
        ({"type": "tool", "name": "f"}, {"type": "function", "name": "f"}),
        ({"function": {"name": "f"}}, {"type": "function", "function": {"name": "f"}}),
        ({"type": "tool"}, {"type": "tool"}),
        ({"type": "auto", "name": "f"}, {"type": "auto", "name": "f"}),
    ],
    ids=str,
)
def test_a_choice(choice: Any, expected: Any) -> None:
    assert other_shapes.choice(choice) == expected


def test_metadata_is_text() -> None:
    notes = Notes()
    value = {"a": "x", "b": 1, "c": None, "d": [1], "e": True, "f": {"g": 1}}
    expected = {"a": "x", "b": "1", "d": "[1]", "e": "true", "f": '{"g":1}'}
    assert other_shapes.texts(value, "metadata", notes) == expected
    assert [note.text for note in notes] == [
        f"metadata.{name} adjusted {what} -> its JSON text"
        for name, what in (("b", "a number"), ("d", "an array"), ("e", "a boolean"), ("f", "an object"))
    ]
    assert other_shapes.texts("all", "metadata", notes) == "all"


# --- places in the caller's request -------------------------------------------------------------------------

USER = {"role": "user", "content": "Hi"}
USED = {"role": "assistant", "content": [{"type": "tool_use", "id": name, "name": "f", "input": {}} for name in "ab"]}
AUDIO = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}


def result(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": name, "content": "One", **more}


def chat_call(request: dict[str, Any], **settings: Any) -> chat.ChatTranslation:
    return chat.request(json.dumps(request).encode(), transcripts.context(**settings))


def conversation(*parts: Any, last: Any = "Hi") -> dict[str, Any]:
    """One whose results are two messages before their turn, so that all that follows moves by two."""
    turns = [USER, USED, {"role": "user", "content": [result("a"), result("b"), *parts]}]
    return {"model": A, "messages": [*turns, {"role": "user", "content": last}]}


MOVED: dict[str, tuple[dict[str, Any], str]] = {
    "a message behind results": (conversation(last=[AUDIO]), "messages[3].content[0]"),
    "a part that is none": (conversation(last=["Hi", {"type": "bogus"}]), "messages[3].content[1].type"),
    "a part beside results": (conversation("Hi", AUDIO), "messages[2].content[3]"),
    "a result without its call": (conversation(result("c")), "messages[2].content[2].tool_use_id"),
    "a file in a result": (
        conversation(result("b", content=[TEXT, {"type": "file", "file": {"file_id": "f"}}])),
        "messages[2].content[2].content[1]",
    ),
    "a part behind an encrypted thought": (
        {
            "model": A,
            "messages": [
                {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}, {"type": "bogus"}]},
                USER,
            ],
        },
        "messages[0].content[1].type",
    ),
}


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize("nested", [False, True], ids=["at the top", "in extra_params"])
def test_errors_name_the_place_in_the_request(name: str, nested: bool) -> None:
    request, param = MOVED[name]
    if nested:
        request = {"model": A, "extra_params": {"messages": request["messages"]}}
    with pytest.raises(InvalidField) as caught:
        chat_call(request)
    assert caught.value.failure.param == param
    assert "messages[" not in caught.value.failure.message.replace(param, "")


def test_what_is_refused_in_strict_mode_is_named_by_its_place() -> None:
    for request, param in (
        (conversation(result("b", is_error=True)), "messages[2].content[2].is_error"),
        (conversation(result("b", content={"n": 1})), "messages[2].content[2].content"),
    ):
        with pytest.raises(InvalidField) as caught:
            chat_call(request, strict=True)
        assert caught.value.failure.param == param


def test_notes_name_the_place_in_the_request() -> None:
    request = conversation()
    request["messages"].append({"role": "system", "content": "Be brief."})
    assert "messages[4] adjusted late system message -> a user turn" in [note.text for note in chat_call(request).notes]
    request["messages"][2]["content"][1]["content"] = ""
    assert "messages[2].content[1].content is empty, sent as {}" in [note.text for note in chat_call(request).notes]
