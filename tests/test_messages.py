"""Histories: each role, each odd form that clients keep them in, and what can be said to Cohere of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support import transcripts
from translators.core.errors import InvalidField

A, AR, VISION = "command-a-03-2025", "command-a-reasoning-08-2025", "command-a-plus-05-2026"
USER = {"role": "user", "content": "Hi"}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def thinking(words: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": words}


def call(identity: str = "c1", name: str = "get_weather", arguments: Any = "{}", **more: Any) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def assistant(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", **fields}


def result(content: Any = "Sunny", identity: str = "c1", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": content, **more}


WEATHER = {"type": "function", "function": {"name": "get_weather"}}


def sent(*messages: dict[str, Any], model: str = A, **fields: Any) -> list[dict[str, Any]]:
    request = {"model": model, "messages": list(messages), "tools": [WEATHER], **fields}
    told: list[dict[str, Any]] = transcripts.sent(transcripts.call(request))["messages"]
    return told


def notes(*messages: dict[str, Any], model: str = A) -> list[str]:
    request = {"model": model, "messages": list(messages), "tools": [WEATHER]}
    return [note.text for note in transcripts.call(request).notes]


def refused(*messages: dict[str, Any], model: str = A) -> tuple[str | None, str | None]:
    with pytest.raises(InvalidField) as caught:
        sent(*messages, model=model)
    return caught.value.failure.param, caught.value.failure.code


# --- system and user ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("content", ["Be brief.", [text("Be brief.")]], ids=["text", "parts"])
def test_c1_developer_is_system(role: str, content: Any) -> None:
    assert sent({"role": role, "content": content}, USER) == [{"role": "system", "content": "Be brief."}, USER]


def test_c2_system_messages_are_joined_in_order_and_hoisted() -> None:
    told = sent(
        {"role": "system", "content": "A"},
        {"role": "developer", "content": "B"},
        USER,
        {"role": "system", "content": "C"},
    )
    assert told == [{"role": "system", "content": "A\n\nB\n\nC"}, USER]


def test_c2_only_a_late_one_is_worth_a_note() -> None:
    early = [{"role": "system", "content": "A"}, {"role": "developer", "content": "B"}]
    assert notes(*early, USER) == []
    assert notes(*early, USER, {"role": "system", "content": "C"}) == [
        "messages[3] adjusted late system message -> first message"
    ]


def test_c3_system_only() -> None:
    assert sent({"role": "system", "content": "A"}) == [{"role": "user", "content": "A"}]


@pytest.mark.parametrize("role", ["user", "system", "developer"])
@pytest.mark.parametrize("content", ["", None, [], [text("")]], ids=json.dumps)
def test_c4_nothing_said_is_refused(role: str, content: Any) -> None:
    param, _ = refused(USER, {"role": role, "content": content})
    assert param == "messages[1].content"


def test_c4_a_message_without_content_is_refused() -> None:
    assert refused({"role": "user"}) == ("messages[0].content", "missing_required_parameter")


def test_c10_parts_stay_parts_and_empty_ones_go() -> None:
    content = [text("A"), text(""), text("B")]
    assert sent({"role": "user", "content": content}) == [{"role": "user", "content": [text("A"), text("B")]}]


@pytest.mark.parametrize("role", ["User", "critic", "", None, 5], ids=str)
def test_an_unknown_role_is_refused(role: Any) -> None:
    param, _ = refused({"role": role, "content": "Hi"})
    assert param == "messages[0].role"


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "messages[0].content[0]"),
        ({"type": "file", "file": {"file_id": "f"}}, "messages[0].content[0]"),
        ({"type": "video_url", "video_url": {"url": "x"}}, "messages[0].content[0].type"),
        ({"type": "image_url"}, "messages[0].content[0].image_url"),
        ({"type": "image_url", "image_url": {}}, "messages[0].content[0].image_url.url"),
        ({"type": "text"}, "messages[0].content[0].text"),
        ({}, "messages[0].content[0].type"),
        ("Hi", "messages[0].content[0]"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_c12_a_part_that_cannot_be_said_is_refused_by_its_path(part: Any, param: str) -> None:
    assert refused({"role": "user", "content": [part]}, model=VISION)[0] == param


@pytest.mark.parametrize("role", ["system", "assistant", "tool"])
def test_c13_images_are_the_users(role: str) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    history = [USER, assistant(tool_calls=[call()]), {"role": role, "content": [image], "tool_call_id": "c1"}]
    param, _ = refused(*history, model=VISION)
    assert param is not None and param.startswith("messages[2].content[0]")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"url": "u", "detail": "low"}, {"url": "u", "detail": "low"}),
        ({"url": "u", "detail": "high"}, {"url": "u", "detail": "high"}),
        ({"url": "u", "detail": "auto"}, {"url": "u", "detail": "auto"}),
        ({"url": "u", "detail": None}, {"url": "u"}),
        ({"url": "u"}, {"url": "u"}),
        ("u", {"url": "u"}),
    ],
    ids=json.dumps,
)
def test_c14_detail_is_kept(given: Any, told: Any) -> None:
    content = [{"type": "image_url", "image_url": given}]
    (message,) = sent({"role": "user", "content": content}, model=VISION, tools=[])
    assert message["content"] == [{"type": "image_url", "image_url": told}]


def test_c14_another_detail_is_refused() -> None:
    content = [{"type": "image_url", "image_url": {"url": "u", "detail": "ultra"}}]
    assert refused({"role": "user", "content": content}, model=VISION)[0] == "messages[0].content[0].image_url.detail"


def test_c16_b22_neighbours_are_not_merged() -> None:
    history = [USER, USER, assistant(content="A"), assistant(content="B"), USER]
    assert sent(*history) == history


def test_c17_a_trailing_assistant_turn_is_passed_on() -> None:
    assert sent(USER, assistant(content="It is")) == [USER, assistant(content="It is")]


# --- assistant ----------------------------------------------------------------------------------------------

CALLED = [{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]

SAID: tuple[tuple[str, dict[str, Any], dict[str, Any] | None, dict[str, Any] | None], ...] = (
    # name, the turn, what it is to a model that plans, what it is to one that reasons; None: dropped
    ("words", {"content": "A"}, {"content": "A"}, {"content": "A"}),
    ("words in parts", {"content": [text("A"), text("B")]}, {"content": "AB"}, {"content": "AB"}),
    ("nothing", {"content": None}, None, None),
    ("no words", {"content": ""}, None, None),
    ("no parts", {"content": []}, None, None),
    ("no calls", {"content": None, "tool_calls": []}, None, None),
    ("a refusal", {"content": None, "refusal": "No."}, {"content": "No."}, {"content": "No."}),
    ("a refusal part", {"content": [{"type": "refusal", "refusal": "No."}]}, {"content": "No."}, {"content": "No."}),
    ("a call", {"content": None, "tool_calls": [call()]}, {"tool_calls": CALLED}, {"tool_calls": CALLED}),
    ("a call and no words", {"content": "", "tool_calls": [call()]}, {"tool_calls": CALLED}, {"tool_calls": CALLED}),
    ("a call and no parts", {"content": [], "tool_calls": [call()]}, {"tool_calls": CALLED}, {"tool_calls": CALLED}),
    (
        "a call and words",
        {"content": "A", "tool_calls": [call()]},
        {"tool_plan": "A", "tool_calls": CALLED},
        {"content": [thinking("A")], "tool_calls": CALLED},
    ),
    (
        "a call and a thought",
        {"reasoning_content": "T", "tool_calls": [call()]},
        {"tool_plan": "T", "tool_calls": CALLED},
        {"content": [thinking("T")], "tool_calls": CALLED},
    ),
    (
        "a call, a thought and words",
        {"reasoning_content": "T", "content": "A", "tool_calls": [call()]},
        {"tool_plan": "T\n\nA", "tool_calls": CALLED},
        {"content": [thinking("T\n\nA")], "tool_calls": CALLED},
    ),
    (
        "a thought and words",
        {"reasoning_content": "T", "content": "A"},
        {"content": "A"},
        {"content": [thinking("T"), text("A")]},
    ),
    (
        "another name of a thought",
        {"reasoning": "T", "content": "A"},
        {"content": "A"},
        {"content": [thinking("T"), text("A")]},
    ),
    (
        "a thinking part",
        {"content": [thinking("T"), text("A")]},
        {"content": "A"},
        {"content": [thinking("T"), text("A")]},
    ),
    ("a thought only", {"reasoning_content": "T", "content": None}, None, {"content": [thinking("T")]}),
    ("an empty thought", {"reasoning_content": "", "content": "A"}, {"content": "A"}, {"content": "A"}),
)


@pytest.mark.parametrize(("turn", "planner", "reasoner"), [row[1:] for row in SAID], ids=[row[0] for row in SAID])
def test_c5_to_c9_an_assistant_turn(turn: dict[str, Any], planner: Any, reasoner: Any) -> None:
    for model, meant in ((A, planner), (AR, reasoner)):
        history = [USER, assistant(**turn), *([result()] if turn.get("tool_calls") else []), USER]
        told = sent(*history, model=model)
        assert [one for one in told if one["role"] == "assistant"] == ([assistant(**meant)] if meant else [])


def test_b1_there_is_never_text_beside_calls() -> None:
    for model in (A, AR):
        (_, turn, *_) = sent(USER, assistant(content=[text("A")], tool_calls=[call()]), result(), model=model)
        assert turn.get("content") in (None, [thinking("A")])


def test_a_thought_for_a_model_that_has_none_is_noted() -> None:
    assert notes(USER, assistant(content="A", reasoning_content="T"), USER) == [
        "messages[].reasoning_content ignored (this model does not reason)"
    ]
    assert notes(USER, assistant(reasoning_content="T", tool_calls=[call()]), result()) == []


# --- calls and results --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", "{}"),
        (None, "{}"),
        ("null", "{}"),
        (" null\n", "{}"),
        ("  ", "{}"),
        ({}, "{}"),
        ({"a": "é"}, '{"a":"é"}'),
        ('{"a": 1}', '{"a": 1}'),
        ('{\n  "a": 1}', '{\n  "a": 1}'),
    ],
    ids=json.dumps,
)
def test_b37_empty_arguments_are_an_empty_object(given: Any, told: str) -> None:
    (_, turn, _) = sent(USER, assistant(tool_calls=[call(arguments=given)]), result())
    assert turn["tool_calls"][0]["function"]["arguments"] == told


def test_b37_no_arguments_at_all() -> None:
    bare = {"id": "c1", "type": "function", "function": {"name": "get_weather"}}
    (_, turn, _) = sent(USER, assistant(tool_calls=[bare]), result())
    assert turn["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize("arguments", ["{", "nul", "{'a': 1}", '{"a":1}x', "NaN"])
def test_c25_arguments_that_are_no_json_are_refused(arguments: str) -> None:
    param, code = refused(USER, assistant(tool_calls=[call(), call("c2", arguments=arguments)]), result())
    assert (param, code) == ("messages[1].tool_calls[1].function.arguments", "invalid_json")


def test_b8_calls_and_the_ids_of_results_are_kept() -> None:
    told = sent(USER, assistant(tool_calls=[call("a"), call("b")]), result("2", "b"), result("1", "a"))
    assert [one["id"] for one in told[1]["tool_calls"]] == ["a", "b"]
    assert [(one["tool_call_id"], one["content"]) for one in told[2:]] == [("b", "2"), ("a", "1")]


def test_b15_index_and_other_keys_of_a_call_are_not_forwarded() -> None:
    turn = assistant(content=None, tool_calls=[call(index=0)], reasoning_content="T", audio=None, annotations=[])
    (_, told, _) = sent(USER, turn, result(name="get_weather"))
    assert told == assistant(tool_plan="T", tool_calls=CALLED)


def test_b24b_unknown_keys_are_noted_and_not_forwarded() -> None:
    history = [{**USER, "name": "ada"}, assistant(tool_calls=[call()]), result(tool_content=[1])]
    assert all("name" not in one and "tool_content" not in one for one in sent(*history))
    assert notes(*history) == [
        "messages[].name ignored (not known to Cohere)",
        "messages[].tool_content ignored (not known to Cohere)",
    ]


def test_c26_a_missing_type_is_function_and_a_missing_id_is_made_up() -> None:
    bare = {"function": {"name": "get_weather", "arguments": "{}"}}
    (_, turn) = sent(USER, assistant(tool_calls=[bare, bare]))
    first, second = turn["tool_calls"]
    assert first["type"] == "function" and first["id"] and first["id"] != second["id"]


def test_another_type_of_call_is_refused() -> None:
    custom = {"id": "c1", "type": "custom", "custom": {"name": "x", "input": "y"}}
    assert refused(USER, assistant(tool_calls=[custom]))[0] == "messages[1].tool_calls[0]"


@pytest.mark.parametrize(
    ("history", "param"),
    [
        ([result()], "messages[1].tool_call_id"),
        ([assistant(tool_calls=[call("a")]), result(identity="b")], "messages[2].tool_call_id"),
        ([result(), assistant(tool_calls=[call()])], "messages[1].tool_call_id"),
        ([assistant(tool_calls=[call()]), {"role": "tool", "content": "x"}], "messages[2].tool_call_id"),
        ([assistant(tool_calls=[call(), call()])], "messages[1].tool_calls[1].id"),
        ([{"role": "function", "name": "f", "content": "x"}], "messages[1].name"),
    ],
    ids=["no call", "another id", "before its call", "no id", "twice one id", "no function call"],
)
def test_c18_to_c20_results_answer_calls(history: list[dict[str, Any]], param: str) -> None:
    assert refused(USER, *history)[0] == param


def test_c20_one_id_in_two_turns_is_told_apart() -> None:
    """Cohere refuses an id that comes twice, and clients that count anew in each turn are not wrong."""
    turn = [assistant(tool_calls=[call()]), result()]
    told = sent(USER, *turn, *turn)
    first, second = (message["tool_calls"][0]["id"] for message in told if "tool_calls" in message)
    assert first != second
    assert [message["tool_call_id"] for message in told if message["role"] == "tool"] == [first, second]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("Sunny", "Sunny"),
        ('{"a":1}', '{"a":1}'),
        ([text("A"), text("B")], [text("A"), text("B")]),
        ([text("A"), text("")], [text("A")]),
        (
            [{"type": "document", "document": {"id": "d", "data": {"t": 1}}}],
            [{"type": "document", "document": {"id": "d", "data": {"t": 1}}}],
        ),
        ("", "{}"),
        (None, "{}"),
        ([], "{}"),
        ([text("")], "{}"),
    ],
    ids=json.dumps,
)
def test_c21_c22_results(given: Any, told: Any) -> None:
    assert sent(USER, assistant(tool_calls=[call()]), result(given))[2]["content"] == told


def test_c22_an_empty_result_is_told() -> None:
    assert notes(USER, assistant(tool_calls=[call()]), result("")) == ["messages[2].content is empty, sent as {}"]


def test_c23_the_old_form_pairs_results_by_name() -> None:
    def called(name: str) -> dict[str, Any]:
        return assistant(content=None, function_call={"name": name, "arguments": "{}"})

    def returned(name: str, content: str) -> dict[str, Any]:
        return {"role": "function", "name": name, "content": content}

    told = sent(USER, called("f"), returned("f", "1"), called("g"), called("f"), returned("f", "2"), returned("g", "3"))
    ids = [one["tool_calls"][0]["id"] for one in told if one["role"] == "assistant"]
    assert len(set(ids)) == 3
    answered = [(one["tool_call_id"], one["content"]) for one in told if one["role"] == "tool"]
    assert answered == [(ids[0], "1"), (ids[2], "2"), (ids[1], "3")]


def test_c49_names_of_the_history_are_mapped_like_those_of_the_tools() -> None:
    tool = {"type": "function", "function": {"name": "a.b"}}
    history = [
        USER,
        assistant(tool_calls=[call(name="a.b"), call("c2", name="gone-tool")]),
        result(),
        result(identity="c2"),
    ]
    request = {"model": A, "messages": history, "tools": [tool]}
    body = transcripts.sent(transcripts.call(request))
    assert body["tools"][0]["function"]["name"] == "a_b"
    assert [one["function"]["name"] for one in body["messages"][1]["tool_calls"]] == ["a_b", "gone_tool"]
