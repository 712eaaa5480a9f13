"""Histories: each role, each odd form that clients keep them in, and what can be said to Cohere of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support import transcripts
from translators.core.errors import InvalidField
from translators.request.messages import IMAGE_FOLLOWS, IMAGE_UNSEEN, LATE_SYSTEM
from translators.request.tool_results import MAX_ARGUMENT_VALUES

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


def cohere_messages(*messages: dict[str, Any], model: str = A, **fields: Any) -> list[dict[str, Any]]:
    request = {"model": model, "messages": list(messages), "tools": [WEATHER], **fields}
    output: list[dict[str, Any]] = transcripts.cohere_request(transcripts.call(request))["messages"]
    return output


def notes(*messages: dict[str, Any], model: str = A) -> list[str]:
    request = {"model": model, "messages": list(messages), "tools": [WEATHER]}
    return [note.text for note in transcripts.call(request).notes]


def refused(*messages: dict[str, Any], model: str = A) -> tuple[str | None, str | None]:
    with pytest.raises(InvalidField) as caught:
        cohere_messages(*messages, model=model)
    return caught.value.failure.param, caught.value.failure.code


# --- system and user ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("content", ["Be brief.", [text("Be brief.")]], ids=["text", "parts"])
def test_c1_developer_is_system(role: str, content: Any) -> None:
    assert cohere_messages({"role": role, "content": content}, USER) == [
        {"role": "system", "content": "Be brief."},
        USER,
    ]


def test_c2_early_system_messages_are_joined_and_a_late_one_stays_in_its_place() -> None:
    request = cohere_messages(
        {"role": "system", "content": "A"},
        {"role": "developer", "content": "B"},
        USER,
        {"role": "system", "content": "C"},
    )
    late = {"role": "user", "content": f"{LATE_SYSTEM}\nC"}
    assert request == [{"role": "system", "content": "A\n\nB"}, USER, late]


def test_c2_only_a_late_one_is_worth_a_note() -> None:
    early = [{"role": "system", "content": "A"}, {"role": "developer", "content": "B"}]
    assert notes(*early, USER) == []
    assert notes(*early, USER, {"role": "system", "content": "C"}) == [
        "messages[3] adjusted late system message -> a user turn"
    ]


def test_c3_system_only() -> None:
    assert cohere_messages({"role": "system", "content": "A"}) == [{"role": "user", "content": "A"}]


EMPTY = pytest.mark.parametrize("content", ["", None, [], [text("")]], ids=json.dumps)


@EMPTY
def test_c4_an_empty_user_turn_is_refused(content: Any) -> None:
    param, _ = refused(USER, {"role": "user", "content": content})
    assert param == "messages[1].content"


@EMPTY
def test_an_empty_user_turn_beside_instructions_is_left_out(content: Any) -> None:
    system = {"role": "system", "content": "Say hello."}
    assert cohere_messages(system, {"role": "user", "content": content}) == [{"role": "user", "content": "Say hello."}]


@EMPTY
@pytest.mark.parametrize("role", ["system", "developer"])
def test_an_empty_system_message_is_left_out(role: str, content: Any) -> None:
    assert cohere_messages({"role": role, "content": content}, USER) == [USER]
    assert notes({"role": role, "content": content}, USER) == []


def test_c4_a_message_without_content_is_refused() -> None:
    assert refused({"role": "user"}) == ("messages[0].content", "empty_string")


def test_c10_parts_stay_parts_and_empty_ones_go() -> None:
    content = [text("A"), text(""), text("B")]
    assert cohere_messages({"role": "user", "content": content}) == [
        {"role": "user", "content": [text("A"), text("B")]}
    ]


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
        (5, "messages[0].content[0]"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_c12_a_part_that_cannot_be_sent_is_refused_by_its_path(part: Any, param: str) -> None:
    assert refused({"role": "user", "content": [part]}, model=VISION)[0] == param


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_c13_images_are_the_users(role: str) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    history = [USER, assistant(tool_calls=[call()]), {"role": role, "content": [image], "tool_call_id": "c1"}]
    param, _ = refused(*history, model=VISION)
    assert param is not None and param.startswith("messages[2].content[0]")


@pytest.mark.parametrize(
    ("value", "expected"),
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
def test_c14_detail_is_preserved(value: Any, expected: Any) -> None:
    content = [{"type": "image_url", "image_url": value}]
    (message,) = cohere_messages({"role": "user", "content": content}, model=VISION, tools=[])
    assert message["content"] == [{"type": "image_url", "image_url": expected}]


def test_c14_another_detail_is_refused() -> None:
    content = [{"type": "image_url", "image_url": {"url": "u", "detail": "ultra"}}]
    assert refused({"role": "user", "content": content}, model=VISION)[0] == "messages[0].content[0].image_url.detail"


def test_c16_b22_neighbours_are_not_merged() -> None:
    history = [USER, USER, assistant(content="A"), assistant(content="B"), USER]
    assert cohere_messages(*history) == history


def test_c17_a_trailing_assistant_turn_is_passed_on() -> None:
    assert cohere_messages(USER, assistant(content="It is")) == [USER, assistant(content="It is")]


# --- assistant ----------------------------------------------------------------------------------------------

CALLED = [{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]

CONTENTS: tuple[tuple[str, dict[str, Any], dict[str, Any] | None, dict[str, Any] | None], ...] = (
    # name, the turn, what it is to a model that plans, what it is to one that reasons; None: dropped
    ("words", {"content": "A"}, {"content": "A"}, {"content": "A"}),
    ("words in parts", {"content": [text("A"), text("B")]}, {"content": "A\n\nB"}, {"content": "A\n\nB"}),
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


@pytest.mark.parametrize(
    ("turn", "planner", "reasoner"), [row[1:] for row in CONTENTS], ids=[row[0] for row in CONTENTS]
)
def test_c5_to_c9_an_assistant_turn(turn: dict[str, Any], planner: Any, reasoner: Any) -> None:
    for model, meant in ((A, planner), (AR, reasoner)):
        history = [USER, assistant(**turn), *([result()] if turn.get("tool_calls") else []), USER]
        request = cohere_messages(*history, model=model)
        assert [one for one in request if one["role"] == "assistant"] == ([assistant(**meant)] if meant else [])


def test_b1_there_is_never_text_beside_calls() -> None:
    for model in (A, AR):
        (_, turn, *_) = cohere_messages(
            USER, assistant(content=[text("A")], tool_calls=[call()]), result(), model=model
        )
        assert turn.get("content") in (None, [thinking("A")])


def test_a_thought_for_a_model_that_has_none_is_noted() -> None:
    assert notes(USER, assistant(content="A", reasoning_content="T"), USER) == [
        "messages[].reasoning_content ignored (this model does not reason)"
    ]
    assert notes(USER, assistant(reasoning_content="T", tool_calls=[call()]), result()) == []


# --- calls and results --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
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
def test_b37_empty_arguments_are_an_empty_object(value: Any, expected: str) -> None:
    (_, turn, _) = cohere_messages(USER, assistant(tool_calls=[call(arguments=value)]), result())
    assert turn["tool_calls"][0]["function"]["arguments"] == expected


def test_b37_no_arguments_at_all() -> None:
    bare = {"id": "c1", "type": "function", "function": {"name": "get_weather"}}
    (_, turn, _) = cohere_messages(USER, assistant(tool_calls=[bare]), result())
    assert turn["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize("arguments", ["{", "nul", "{'a': 1}", '{"a":1}x', "NaN", "[1]", '"text"', "7"])
def test_c25_arguments_that_are_no_object_are_sent_inside_one(arguments: str) -> None:
    history = [USER, assistant(tool_calls=[call(arguments=arguments)]), result()]
    (_, turn, _) = cohere_messages(*history)
    assert json.loads(turn["tool_calls"][0]["function"]["arguments"]) == {"arguments": arguments}
    assert notes(*history) == ['messages[1] arguments adjusted no JSON object -> {"arguments": ...}']


def test_c25_megabytes_of_brackets_are_not_parsed() -> None:
    arguments = '{"a":[' + ",".join(["[]"] * (MAX_ARGUMENT_VALUES + 1)) + "]}"
    history = [USER, assistant(tool_calls=[call(arguments=arguments)]), result()]
    (_, turn, _) = cohere_messages(*history)
    assert json.loads(turn["tool_calls"][0]["function"]["arguments"]) == {"arguments": arguments}


def test_an_assistants_audio_is_told() -> None:
    turn = assistant(content="Hi", audio={"id": "audio_1"})
    assert cohere_messages(USER, turn, USER)[1] == assistant(content="Hi")
    assert notes(USER, turn, USER) == ["messages[].audio ignored (Cohere hears nothing)"]


def test_calls_of_functions_and_custom_tools_in_one_turn() -> None:
    custom = {"id": "c2", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    (_, turn, *_) = cohere_messages(
        USER, assistant(tool_calls=[call(), custom]), result(), result(identity="c2"), tools=[WEATHER]
    )
    functions = [one["function"] for one in turn["tool_calls"]]
    assert functions == [
        {"name": "get_weather", "arguments": "{}"},
        {"name": "patch", "arguments": '{"input":"*** Begin"}'},
    ]


def test_a_call_that_was_cut_and_has_no_result_is_left_out() -> None:
    history = [USER, assistant(content="I look.", tool_calls=[call(arguments='{"ci')]), USER]
    assert cohere_messages(*history) == [USER, assistant(content="I look."), USER]
    assert notes(*history) == ["tool_calls ignored (a call that was cut, without a result)"]


def test_b8_calls_and_the_ids_of_results_are_preserved() -> None:
    request = cohere_messages(USER, assistant(tool_calls=[call("a"), call("b")]), result("2", "b"), result("1", "a"))
    assert [one["id"] for one in request[1]["tool_calls"]] == ["a", "b"]
    assert [(one["tool_call_id"], one["content"]) for one in request[2:]] == [("b", "2"), ("a", "1")]


def test_b15_index_and_other_keys_of_a_call_are_not_forwarded() -> None:
    turn = assistant(content=None, tool_calls=[call(index=0)], reasoning_content="T", audio=None, annotations=[])
    (_, request, _) = cohere_messages(USER, turn, result(name="get_weather"))
    assert request == assistant(tool_plan="T", tool_calls=CALLED)


def test_b24b_unknown_keys_are_noted_and_not_forwarded() -> None:
    history = [{**USER, "name": "ada"}, assistant(tool_calls=[call()]), result(tool_content=[1])]
    assert all("name" not in one and "tool_content" not in one for one in cohere_messages(*history))
    assert notes(*history) == [
        "messages[].tool_content ignored (not known to Cohere)",
        "messages[].name ignored (it tells no speakers apart)",
    ]


def test_c26_a_missing_type_is_function_and_a_missing_id_is_made_up() -> None:
    bare = {"function": {"name": "get_weather", "arguments": "{}"}}
    (_, turn) = cohere_messages(USER, assistant(tool_calls=[bare, bare]))
    first, second = turn["tool_calls"]
    assert first["type"] == "function" and first["id"] and first["id"] != second["id"]


def test_another_type_of_call_is_refused() -> None:
    other = {"id": "c1", "type": "mcp"}
    assert refused(USER, assistant(tool_calls=[other]))[0] == "messages[1].tool_calls[0]"


@pytest.mark.parametrize(
    ("history", "param"),
    [
        ([result()], "messages[1].tool_call_id"),
        ([assistant(tool_calls=[call("a")]), result(identity="b")], "messages[2].tool_call_id"),
        ([result(), assistant(tool_calls=[call()])], "messages[1].tool_call_id"),
        ([assistant(tool_calls=[call()]), {"role": "tool", "content": "x"}], "messages[2].tool_call_id"),
        ([assistant(tool_calls=[call(), call(arguments='{"a":1}')])], "messages[1].tool_calls[1].id"),
        ([{"role": "function", "name": "f", "content": "x"}], "messages[1].name"),
    ],
    ids=["no call", "another id", "before its call", "no id", "twice one id", "no function call"],
)
def test_c18_to_c20_results_answer_calls(history: list[dict[str, Any]], param: str) -> None:
    assert refused(USER, *history)[0] == param


def test_c20_one_id_in_two_turns_is_distinguished() -> None:
    """Cohere refuses an id that comes twice, and clients that count anew in each turn are not wrong."""
    turn = [assistant(tool_calls=[call()]), result()]
    request = cohere_messages(USER, *turn, *turn)
    first, second = (message["tool_calls"][0]["id"] for message in request if "tool_calls" in message)
    assert first != second
    assert [message["tool_call_id"] for message in request if message["role"] == "tool"] == [first, second]


@pytest.mark.parametrize(
    ("value", "expected"),
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
def test_c21_c22_results(value: Any, expected: Any) -> None:
    assert cohere_messages(USER, assistant(tool_calls=[call()]), result(value))[2]["content"] == expected


def test_c22_an_empty_result_is_reported() -> None:
    assert notes(USER, assistant(tool_calls=[call()]), result("")) == ["messages[2].content is empty, sent as {}"]


def test_c23_the_old_form_pairs_results_by_name() -> None:
    def called(name: str) -> dict[str, Any]:
        return assistant(content=None, function_call={"name": name, "arguments": "{}"})

    def returned(name: str, content: str) -> dict[str, Any]:
        return {"role": "function", "name": name, "content": content}

    request = cohere_messages(
        USER, called("f"), returned("f", "1"), called("g"), called("f"), returned("f", "2"), returned("g", "3")
    )
    ids = [one["tool_calls"][0]["id"] for one in request if one["role"] == "assistant"]
    assert len(set(ids)) == 3
    answered = [(one["tool_call_id"], one["content"]) for one in request if one["role"] == "tool"]
    assert answered == [(ids[0], "1"), (ids[1], "3"), (ids[2], "2")], "each result stands behind its call"


def test_c49_names_of_the_history_are_mapped_like_those_of_the_tools() -> None:
    tool = {"type": "function", "function": {"name": "a.b"}}
    history = [
        USER,
        assistant(tool_calls=[call(name="a.b"), call("c2", name="gone-tool")]),
        result(),
        result(identity="c2"),
    ]
    request = {"model": A, "messages": history, "tools": [tool]}
    body = transcripts.cohere_request(transcripts.call(request))
    assert body["tools"][0]["function"]["name"] == "a_b"
    assert [one["function"]["name"] for one in body["messages"][1]["tool_calls"]] == ["a_b", "gone_tool"]


# --- results out of their place, and ids that repeat --------------------------------------------------------


def shape(*messages: dict[str, Any]) -> list[Any]:
    """A conversation in short: (ids of the calls), (id, content of a result), or the content."""
    return [
        [call["id"] for call in one["tool_calls"]]
        if "tool_calls" in one
        else (one["tool_call_id"], one["content"])
        if one["role"] == "tool"
        else one["content"]
        for one in cohere_messages(*messages)
    ]


def texts_of(words: str) -> dict[str, Any]:
    return {"role": "user", "content": words}


def asks(identity: str, arguments: str = "{}") -> dict[str, Any]:
    return assistant(tool_calls=[call(identity, arguments=arguments)])


ONE, TWO = '{"n":1}', '{"n":2}'
ORDERS: dict[str, tuple[list[dict[str, Any]], list[Any]]] = {
    "a user turn before the result": (
        [texts_of("go"), asks("a"), texts_of("hurry"), result("1", "a")],
        ["go", ["a"], ("a", "1"), "hurry"],
    ),
    "a user turn between parallel results": (
        [
            texts_of("go"),
            assistant(tool_calls=[call("a"), call("b")]),
            result("1", "a"),
            texts_of("hurry"),
            result("2", "b"),
        ],
        ["go", ["a", "b"], ("a", "1"), ("b", "2"), "hurry"],
    ),
    "a turn of the assistant's before the result": (
        [texts_of("go"), asks("a"), assistant(content="wait"), result("1", "a")],
        ["go", ["a"], ("a", "1"), "wait"],
    ),
    "results after both calls": (
        [
            texts_of("go"),
            asks("a"),
            asks("b"),
            result("2", "b"),
            result("1", "a"),
        ],
        ["go", ["a"], ("a", "1"), ["b"], ("b", "2")],
    ),
    "ids from 0 in each turn": (
        [
            *(texts_of("x"), asks("0", ONE), result("1", "0"), assistant(content="y")),
            *(texts_of("z"), asks("0", TWO), result("2", "0")),
        ],
        ["x", ["0"], ("0", "1"), "y", "z", ["0_2"], ("0_2", "2")],
    ),
    "the same call twice, each with a result": (
        [
            *(asks("0"), result("1", "0")),
            *(asks("0"), result("2", "0")),
        ],
        [["0"], ("0", "1"), ["0_2"], ("0_2", "2")],
    ),
    "one id in two turns, the results after both": (
        [
            asks("0", ONE),
            asks("0", TWO),
            result("1", "0"),
            result("2", "0"),
        ],
        [["0"], ("0", "1"), ["0_2"], ("0_2", "2")],
    ),
    "one id in two turns, a result for the newer": (
        [
            asks("0", ONE),
            asks("0", TWO),
            result("2", "0"),
        ],
        [["0"], ["0_2"], ("0_2", "2")],
    ),
    "a call told again before its result": (
        [
            texts_of("go"),
            asks("a", '{"n":1}'),
            asks("a", '{ "n": 1 }'),
            result("1", "a"),
        ],
        ["go", ["a"], ("a", "1")],
    ),
    "a call told again after its result": (
        [
            texts_of("go"),
            asks("a"),
            result("1", "a"),
            asks("a"),
            texts_of("on"),
        ],
        ["go", ["a"], ("a", "1"), "on"],
    ),
    "a call told again in its turn": (
        [texts_of("go"), assistant(tool_calls=[call("a"), call("a")]), result("1", "a")],
        ["go", ["a"], ("a", "1")],
    ),
    "a result sent twice": (
        [texts_of("go"), asks("a"), result("1", "a"), result("1", "a")],
        ["go", ["a"], ("a", "1")],
    ),
    "two results of one call": (
        [
            texts_of("go"),
            assistant(tool_calls=[call("a"), call("b")]),
            result("1", "a"),
            result("2", "b"),
            texts_of("on"),
            result("3", "a"),
        ],
        ["go", ["a", "b"], ("a", "1\n\n3"), ("b", "2"), "on"],
    ),
    "a system message before the result": (
        [texts_of("go"), asks("a"), {"role": "system", "content": "Be quick."}, result("1", "a")],
        ["go", ["a"], ("a", "1"), f"{LATE_SYSTEM}\nBe quick."],
    ),
}


@pytest.mark.parametrize(("history", "expected"), ORDERS.values(), ids=ORDERS)
def test_results_follow_their_calls(history: list[dict[str, Any]], expected: list[Any]) -> None:
    assert shape(*history) == expected


# --- speakers -----------------------------------------------------------------------------------------------


def test_names_that_tell_speakers_apart_stand_before_the_text() -> None:
    history: list[dict[str, Any]] = [
        {"role": "user", "name": "Ada", "content": "Hello"},
        {"role": "assistant", "name": "helper", "content": "Hi"},
        {"role": "user", "name": "Bob", "content": [text("Hey"), text("you")]},
    ]
    assert [one["content"] for one in cohere_messages(*history)] == [
        "Ada: Hello",
        "Hi",
        [text("Bob: Hey"), text("you")],
    ]
    assert notes(*history) == [
        "messages[].name emulated (written before the text)",
        "messages[].name ignored (it tells no speakers apart)",
    ]


def test_a_name_beside_no_name_tells_them_apart() -> None:
    history = [{"role": "user", "name": "Ada", "content": "Hello"}, {"role": "user", "content": "Hello"}]
    assert [one["content"] for one in cohere_messages(*history)] == ["Ada: Hello", "Hello"]


# --- images of results --------------------------------------------------------------------------------------

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SEEING = "command-a-plus-05-2026"


def test_an_image_of_a_result_follows_the_results_where_the_model_sees() -> None:
    history = [USER, assistant(tool_calls=[call("a"), call("b")]), result([IMAGE], "a"), result("2", "b"), USER]
    request = cohere_messages(*history, model=SEEING)
    assert request[2]["content"] == [text(IMAGE_FOLLOWS)]
    assert request[3] == result("2", "b")
    assert request[4] == {"role": "user", "content": [text("An image in the result of get_weather (a):"), IMAGE]}
    assert notes(*history, model=SEEING) == ["images of tool results emulated (they follow in a user turn)"]


def test_an_image_of_a_result_is_a_placeholder_elsewhere() -> None:
    history = [USER, assistant(tool_calls=[call()]), result([text("Look:"), IMAGE])]
    assert cohere_messages(*history)[2]["content"] == [text("Look:"), text(IMAGE_UNSEEN)]
    assert notes(*history) == ["messages[2] image adjusted an image -> a placeholder"]
