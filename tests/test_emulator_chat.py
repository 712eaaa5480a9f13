"""What the emulator says in a chat: the rules, and the law that whole and streamed say the same."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest

from support.recordings import Recording, each_recording
from test_emulator import PIXEL, PLUS, R7B, REASONING, VISION, WEATHER, A, EmulatorClient, R, Response, running

NORTH = "north-mini-code-1-0"


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorClient]:
    with running() as caller:
        yield caller


def tool(name: str, description: str, required: list[str] | None = None, /, **properties: Any) -> dict[str, Any]:
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if properties:
        parameters["required"] = list(properties) if required is None else required
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


INTEGER = {"type": "integer"}
STRING = {"type": "string"}
ADD = tool("add", "Add x and y together", x=INTEGER, y=INTEGER)
SUBTRACT = tool("subtract", "Subtract y from x (i.e.: x - y)", x=INTEGER, y=INTEGER)
MAGIC = tool("magic_function", "Applies a magic function to an input.", input=INTEGER)
MAGIC_NO_ARGUMENTS = tool("magic_function_no_args", "Calculates a magic function.")
FINAL = tool("final_result", "The final response which ends this conversation", city=STRING, summary=STRING)
TIME = tool("get_time", "The local time in a city.", city=STRING)
SEARCH = tool("web_search", "Search the web.", query=STRING)


def loop(result: Any, identity: str = "get_weather_a1b2c3d4e5f6") -> list[dict[str, Any]]:
    """A conversation that ends with what a tool returned."""
    call = {
        "id": identity,
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
    }
    return [
        {"role": "user", "content": "Get weather for Paris and summarize"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": identity, "content": result},
    ]


def text(response: Response) -> str:
    """The text block of a whole answer."""
    assert response.status == 200, response.data
    return next(str(block["text"]) for block in response.body["message"]["content"] if block["type"] == "text")


def calls(response: Response) -> list[tuple[str, Any]]:
    """The calls of a whole answer."""
    assert response.status == 200, response.data
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in response.body["message"].get("tool_calls", ())
    ]


def fold(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The body that a stream amounts to; asserts the order of events on the way."""
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message-start" and kinds[-1] == "message-end" and kinds.count("message-end") == 1
    assert set(kinds) <= KINDS
    plans = [index for index, kind in enumerate(kinds) if kind == "tool-plan-delta"]
    assert not plans or "tool-call-start" not in kinds[: plans[-1]]
    assert all("delta" not in event for event in events if event["type"] in ENDS)
    message: dict[str, Any] = {
        "content": fold_content(events),
        "tool_plan": "".join(events[index]["delta"]["message"]["tool_plan"] for index in plans),
        "tool_calls": fold_calls(events),
        "citations": [each["delta"]["message"]["citations"] for each in of_kind(events, "citation-start")],
    }
    result = {"role": "assistant"} | {key: value for key, value in message.items() if value}
    logprobs = [event["logprobs"] for event in events if "logprobs" in event]
    return {"message": result, **events[-1]["delta"]} | ({"logprobs": logprobs} if logprobs else {})


def of_kind(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The events of one type, whose indices count from 0 if they open something."""
    results = [event for event in events if event["type"] == kind]
    if kind.endswith("-start"):
        assert [event["index"] for event in results] == list(range(len(results)))
    return results


def fold_content(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    blocks = [dict(event["delta"]["message"]["content"]) for event in of_kind(events, "content-start")]
    for event in of_kind(events, "content-delta"):
        for key, value in event["delta"]["message"]["content"].items():
            blocks[event["index"]][key] += value
    return blocks


def fold_calls(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    opened = [event["delta"]["message"]["tool_calls"] for event in of_kind(events, "tool-call-start")]
    for event in of_kind(events, "tool-call-delta"):
        function = event["delta"]["message"]["tool_calls"]["function"]
        opened[event["index"]]["function"]["arguments"] += function["arguments"]
    return opened


ENDS = ("content-end", "tool-call-end", "citation-end")
KINDS = {"message-start", "content-start", "content-delta", "tool-plan-delta", "tool-call-start", "tool-call-delta",
         "citation-start", "message-end", *ENDS}  # fmt: skip


# --- whole and streamed say the same ------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"name": STRING, "age": INTEGER}, "required": ["name", "age"]}
SAME: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain, reasoning": {"model": PLUS},
    "thinking disabled": {"model": REASONING, "thinking": {"type": "disabled"}},
    "thinking budget": {"model": NORTH, "thinking": {"type": "enabled", "token_budget": 5}},
    "one call": {"content": "What's the weather in Paris?", "tools": [WEATHER]},
    "indented arguments": {"content": "Weather in Paris?", "tools": [WEATHER], "model": R7B},
    "two calls": {"content": "What's the weather in Paris and Oslo?", "tools": [WEATHER], "model": R7B},
    "call without arguments": {"content": "Use magic_function_no_args.", "tools": [MAGIC_NO_ARGUMENTS]},
    "call, reasoning": {"content": "What's the weather in Paris?", "tools": [WEATHER], "model": REASONING},
    "cited tool result": {"messages": loop("Sunny, 22C in Paris"), "tools": [WEATHER]},
    "cited tool result, reasoning": {"messages": loop("Sunny, 22C"), "tools": [WEATHER], "model": PLUS},
    "documents": {"content": "What color is the sky?", "documents": ["The sky is green. Grass is blue."]},
    "documents, accurate": {
        "content": "What color is the sky?",
        "documents": [{"id": "d", "data": {"text": "The sky is green."}}],
        "citation_options": {"mode": "accurate"},
    },
    "json": {"content": "A person as JSON", "response_format": {"type": "json_object", "json_schema": SCHEMA}},
    "cut short": {"max_tokens": 5},
    "cut in thinking": {"model": REASONING, "max_tokens": 5},
    "stopped": {"content": "Output exactly this sequence: alpha<END>omega", "stop_sequences": ["<END>"]},
    "logprobs": {"logprobs": True},
    "images": {"model": VISION, "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]},
    "unicode": {"content": "Repeat: Grüße aus Zürich 😀👩‍🚀 \u2028 <b>"},
    "nothing but blanks": {"content": "  \n\t "},
}


@pytest.mark.parametrize("fields", SAME.values(), ids=SAME)
def test_whole_and_streamed_say_the_same(emulator: EmulatorClient, fields: dict[str, Any]) -> None:
    whole = emulator.chat(**fields).body
    folded = fold(emulator.chat(stream=True, **fields).events)
    whole.pop("id")
    for call in folded["message"].get("tool_calls", ()):
        written = call["function"]["arguments"]
        call["function"]["arguments"] = json.dumps(
            json.loads(written or "{}"), separators=(",", ":"), ensure_ascii=False
        )
    assert folded == whole
    assert emulator.chat(**fields).body | {"id": ""} == whole | {"id": ""}  # and says it again
    usage = whole["usage"]
    assert usage["billed_units"]["input_tokens"] > 0 and usage["billed_units"]["output_tokens"] > 0
    assert usage["tokens"]["output_tokens"] >= usage["billed_units"]["output_tokens"]
    assert usage["cached_tokens"] % 16 == 0 and usage["cached_tokens"] <= usage["tokens"]["input_tokens"]
    for citation in whole["message"].get("citations", ()):
        block = whole["message"]["content"][citation.get("content_index", 0)]
        assert block["text"][citation["start"] : citation["end"]] == citation["text"]


def test_the_frames_are_exact(emulator: EmulatorClient) -> None:
    data = emulator.chat("Reply with exactly: Hi there", stream=True).data
    identity = re.search(rb'"id":"([0-9a-f-]{36})"', data)
    assert identity
    data = data.replace(identity[1], b"ID")
    assert data == (
        b'event: message-start\ndata: {"id":"ID","type":"message-start","delta":{"message":{"role":"assistant",'
        b'"content":[],"tool_plan":"","tool_calls":[],"citations":[]}}}\n\n'
        b'event: content-start\ndata: {"type":"content-start","index":0,"delta":{"message":{"content":'
        b'{"type":"text","text":""}}}}\n\n'
        b'event: content-delta\ndata: {"type":"content-delta","index":0,"delta":{"message":{"content":'
        b'{"text":"Hi"}}}}\n\n'
        b'event: content-delta\ndata: {"type":"content-delta","index":0,"delta":{"message":{"content":'
        b'{"text":" there"}}}}\n\n'
        b'event: content-end\ndata: {"type":"content-end","index":0}\n\n'
        b'event: message-end\ndata: {"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":'
        b'{"billed_units":{"input_tokens":7,"output_tokens":2},"tokens":{"input_tokens":502,"output_tokens":5},'
        b'"cached_tokens":480}}}\n\n'
        b"data: [DONE]\n\n"
    )


@pytest.mark.parametrize(
    ("fields", "raw"),
    [
        ({"model": R7B, "tools": [WEATHER], "content": "Weather in Paris?"}, '{\n    "city": "Paris"\n}'),
        ({"model": A, "tools": [WEATHER], "content": "Weather in Paris?"}, '{"city": "Paris"}'),
        ({"model": A, "tools": [MAGIC_NO_ARGUMENTS], "content": "Use magic_function_no_args."}, ""),
    ],
    ids=["several lines", "one line, as recorded on Command A", "nothing at all"],
)
def test_streamed_arguments_are_as_the_model_writes_them(
    emulator: EmulatorClient, fields: dict[str, Any], raw: str
) -> None:
    events = emulator.chat(stream=True, **fields).events
    assert fold(events)["message"]["tool_calls"][0]["function"]["arguments"] == raw
    assert [event["type"] for event in events].count("tool-call-delta") != 1


@pytest.mark.parametrize(("mode", "inline"), [("FAST", True), ("ENABLED", True), (None, True), ("ACCURATE", False)])
def test_where_citations_come_in_a_stream(emulator: EmulatorClient, mode: str | None, inline: bool) -> None:
    documents = ["The sky is green.", "Grass is blue."]
    response = emulator.chat(
        "What is the sky like?",
        documents=[f"{documents[0]} {documents[1]}", "x"],
        citation_options={"mode": mode} if mode else None,
        stream=True,
        max_tokens=None,
    )
    kinds = [event["type"] for event in response.events]
    first = kinds.index("citation-start")
    last_delta = len(kinds) - 1 - kinds[::-1].index("content-delta")
    assert kinds[first + 1] == "citation-end" and first > kinds.index("content-delta")
    assert first > last_delta  # the one sentence quoted is the end of the answer
    assert kinds.index("content-end") > first
    listed = emulator.chat(messages=loop("Sunny, 22C"), stream=True, citation_options={"mode": mode} if mode else None)
    kinds = [event["type"] for event in listed.events]
    last_delta = len(kinds) - 1 - kinds[::-1].index("content-delta")
    assert (kinds.index("citation-start") < last_delta) is inline


@pytest.mark.parametrize("mode", ["OFF", "DISABLED", "off"])
def test_citations_can_be_switched_off(emulator: EmulatorClient, mode: str) -> None:
    response = emulator.chat(messages=loop("Sunny"), citation_options={"mode": mode})
    assert "citations" not in response.body["message"]


# --- plain answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "expected_text"),
    [
        ("Reply with exactly: identity probe", "identity probe"),
        ("Reply with exactly this one word and nothing else: streamed", "streamed"),
        ("Reply with the single word ready.", "ready"),
        ("Answer with the word 'banana' only", "banana"),
        ('Say "foo bar"', "foo bar"),
        ("Say hi in one word.", "hi"),
        ("Please repeat after me: blue", "blue"),
        ("Output exactly this sequence: alpha<END>omega", "alpha<END>omega"),
        ("2+2", "4"),
        ("What is 2 + 2 * 3?", "8"),
        ("Calculate 9 - 4. Answer directly without calling a tool.", "5"),
        ("What is 7 divided by 2?", "3.5"),
        ("What is the capital of France?", "The capital of France is Paris."),
        ("Count to 5", "1, 2, 3, 4, 5"),
    ],
)
def test_short_answers(emulator: EmulatorClient, prompt: str, expected_text: str) -> None:
    assert text(emulator.chat(prompt)) == expected_text


@pytest.mark.parametrize("prompt", ["Tell me a story.", "Hello!", "2024-01-02", "1/0 = ?", "Reply with one sentence."])
def test_other_answers_say_that_this_is_an_emulator(emulator: EmulatorClient, prompt: str) -> None:
    assert "Cohere emulator (rule-based, not a model)" in text(emulator.chat(prompt))


@pytest.mark.parametrize(
    ("statements", "question", "expected"),
    [
        (["My name is Ada."], "What is my name?", "Your name is Ada."),
        (["My name is Ada. Remember it."], "What is my name? Reply with only the name.", "Ada"),
        (["My name is Ada.", "Actually, my name is Eve."], "Do you remember my name?", "Your name is Eve."),
        (["I'm Bob and I am 36 years old."], "How old am I? Answer with the number only.", "36"),
        (["My dog's name is Rex. My name is Ada."], "What is my dog's name?", "Your dog's name is Rex."),
        (["My favourite colour is teal and I live in Oslo."], "Where do I live?", "You told me: Oslo."),
        (["The secret word is banana.", "Hello"], "What was the secret word?", "The secret word is banana."),
        (["Remember the number 42."], "What number did I ask you to remember? Just the number.", "42"),
        (["I have three cats."], "How many cats do I have?", "Your cats is three."),
        (["My name is Ada.", "Count to 2"], "What did I just say?", "You said: Count to 2"),
        ([], "My name is Ada. What is my name?", "Your name is Ada."),
    ],
)
def test_what_was_stated_is_remembered(
    emulator: EmulatorClient, statements: list[str], question: str, expected: str
) -> None:
    messages: list[dict[str, Any]] = []
    for statement in statements:
        messages += [{"role": "user", "content": statement}, {"role": "assistant", "content": "I see."}]
    assert text(emulator.chat(messages=[*messages, {"role": "user", "content": question}])) == expected


def test_what_the_system_prompt_and_the_assistant_stated_is_remembered(emulator: EmulatorClient) -> None:
    messages = [
        {"role": "system", "content": "The user's name is Ada."},
        {"role": "user", "content": "Tell me a code."},
        {"role": "assistant", "content": "The code is 7421."},
    ]
    for question, expected in (("What is my name?", "Your name is Ada."), ("What was the code?", "The code is 7421.")):
        assert text(emulator.chat(messages=[*messages, {"role": "user", "content": question}])) == expected


def test_what_was_stated_fills_fields(emulator: EmulatorClient) -> None:
    messages = [
        {"role": "user", "content": "My name is Ada and my age is 36."},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": "Fill in the form with save_form"},
    ]
    form = tool("save_form", "Saves a form.", name=STRING, age=INTEGER)
    assert calls(emulator.chat(messages=messages, tools=[form])) == [("save_form", {"name": "Ada", "age": 36})]


def test_the_system_may_order_an_answer(emulator: EmulatorClient) -> None:
    messages = [
        {"role": "system", "content": 'Always answer "no".'},
        {"role": "user", "content": "Are you there?"},
    ]
    assert text(emulator.chat(messages=messages)) == "no"


def test_images_are_counted_and_described(emulator: EmulatorClient) -> None:
    image = {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}
    response = emulator.chat([{"type": "text", "text": "Look"}, image, image], model=VISION)
    assert "2 images: image/png, 2x2 pixels, 84 bytes" in text(response)
    usage = response.body["usage"]
    assert usage["tokens"]["image_tokens"] == 518
    assert usage["billed_units"]["input_tokens"] == 518 + 1
    assert usage["tokens"]["input_tokens"] == 495 + 1


# --- tools --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "tools", "expected"),
    [
        ("What's the weather in Paris?", [WEATHER], [("get_weather", {"city": "Paris"})]),
        (
            "What is the weather in San Francisco, CA?",
            [WEATHER, SUBTRACT],
            [("get_weather", {"city": "San Francisco, CA"})],
        ),
        (
            "What's the weather in Paris and Oslo?",
            [WEATHER],
            [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Oslo"})],
        ),
        (
            "What's the weather in Paris, Oslo, and New York?",
            [WEATHER],
            [("get_weather", {"city": city}) for city in ("Paris", "Oslo", "New York")],
        ),
        (
            "What's the weather in Paris and what time is it in Tokyo?",
            [WEATHER, TIME],
            [("get_weather", {"city": "Paris"}), ("get_time", {"city": "Tokyo"})],
        ),
        (
            "What's the weather in Paris and what is 3 - 1?",
            [WEATHER, SUBTRACT],
            [("get_weather", {"city": "Paris"}), ("subtract", {"x": 3, "y": 1})],
        ),
        ("What is the value of magic_function(3)? Use the tool.", [MAGIC], [("magic_function", {"input": 3})]),
        (
            "What is the value of magic_function_no_args()? Use the tool.",
            [MAGIC_NO_ARGUMENTS],
            [("magic_function_no_args", {})],
        ),
        ("Use the subtract tool to calculate 8 - 3.", [ADD, SUBTRACT], [("subtract", {"x": 8, "y": 3})]),
        ('Search for "cohere gateway"', [SEARCH], [("web_search", {"query": "cohere gateway"})]),
        ("Wie ist das Wetter in Zürich? get_weather", [WEATHER], [("get_weather", {"city": "Zürich"})]),
        ("How do you do, my friend?", [WEATHER, ADD, SUBTRACT], []),
        ("Weather in Paris? Answer without calling a tool.", [WEATHER], []),
    ],
)
def test_which_tools_are_called(
    emulator: EmulatorClient, prompt: str, tools: list[Any], expected: list[tuple[str, Any]]
) -> None:
    response = emulator.chat(prompt, tools=tools)
    assert calls(response) == expected
    assert response.body["finish_reason"] == ("TOOL_CALL" if expected else "COMPLETE")
    for call in response.body["message"].get("tool_calls", ()):
        assert re.fullmatch(rf"{call['function']['name']}_[a-z0-9]{{12}}", call["id"])


SQL = (
    "Execute SQL queries against the session's database. Ask it what is stored about France or any other country, its"
    " capital, its cities and its dates. Tables: todos (id, title, status), todo_deps (todo_id, depends_on)."
)
MANY_TOOLS = [
    tool("tool_1", "Executes SQL about the capital of France " * 20, query=STRING),
    tool("sql", SQL, query=STRING),
    tool("session_store_sql", SQL, query=STRING),
    *(
        tool(name, f"Does more than its name says: the best tool for {name} and any country.", x=STRING)
        for name in "bash view create edit task grep web_search get_file_contents list_issues search_code".split()
    ),
    *(tool(f"github_list_{name}", f"Lists the {name} of a repository.", x=STRING) for name in ("commits", "branches")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("What is the capital of France?", []),
        ("What is the capital of France?\n\n<reminder>\n<sql_tables>Tables: todos</sql_tables>\n</reminder>", []),
        ("Create a haiku about the task of living", []),
        ("Explain what a list is in Python.", []),
        ("Tell me a story about a bear who wants to search for honey.", []),
        ("What is the best country in the world?", []),
        ("Use the sql tool to run SELECT 1", ["sql"]),
        ("Call `view` for a.txt", ["view"]),
        ("Search the web for cohere gateway", ["web_search"]),
        ("Which issues are open?", ["list_issues"]),
        ("List the commits of main", ["github_list_commits"]),
    ],
)
def test_among_many_tools_only_one_that_is_clearly_meant_is_called(
    emulator: EmulatorClient, prompt: str, expected: list[str]
) -> None:
    assert [name for name, _ in calls(emulator.chat(prompt, tools=MANY_TOOLS))] == expected


def test_most_of_a_short_description_means_its_tool(emulator: EmulatorClient) -> None:
    lookup = tool("lookup_7", "Find the order of a customer.", customer=INTEGER)
    assert calls(emulator.chat("Where is the order of customer 12?", tools=[lookup])) == [
        ("lookup_7", {"customer": 12})
    ]
    assert calls(emulator.chat("Is the customer always right?", tools=[lookup])) == []


def test_a_system_prompt_may_forbid_calls(emulator: EmulatorClient) -> None:
    messages = [
        {"role": "system", "content": "Do not call any tool now: answer with text."},
        {"role": "user", "content": "What's the weather in Paris?"},
    ]
    assert calls(emulator.chat(messages=messages, tools=[WEATHER])) == []


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Ada is 36.", "give_final_answer"),
        ("What's the weather in Oslo?", "get_weather"),
        ("Hello", "give_final_answer"),
    ],
)
def test_a_required_call_is_the_answer_unless_another_tool_fits(
    emulator: EmulatorClient, prompt: str, expected: str
) -> None:
    answer = tool("give_final_answer", "Gives the final answer to the user.", name=STRING, age=INTEGER)
    response = emulator.chat(prompt, tools=[ADD, WEATHER, answer], tool_choice="REQUIRED")
    assert [name for name, _ in calls(response)] == [expected]


def test_a_required_call_is_made_once(emulator: EmulatorClient) -> None:
    response = emulator.chat("Use the correct tool to calculate 9 - 4.", tools=[ADD, SUBTRACT], tool_choice="REQUIRED")
    assert calls(response) == [("subtract", {"x": 9, "y": 4})]
    assert response.body["message"]["tool_plan"] == "I will use one or more of the available tools to find the answer"
    unrelated = emulator.chat("Hello", tools=[WEATHER, ADD], tool_choice="REQUIRED")
    assert len(calls(unrelated)) == 1


def test_a_required_call_after_a_result_takes_another_tool(emulator: EmulatorClient) -> None:
    fields: dict[str, Any] = {"messages": loop("Sunny, 22C in Paris"), "tool_choice": "REQUIRED"}
    assert calls(emulator.chat(**fields, tools=[WEATHER, FINAL])) == [
        ("final_result", {"city": "Paris", "summary": "Sunny, 22C in Paris"})
    ]
    assert [name for name, _ in calls(emulator.chat(**fields, tools=[WEATHER]))] == ["get_weather"]


def test_no_call_when_none_is_allowed(emulator: EmulatorClient) -> None:
    response = emulator.chat("What's the weather in Paris?", tools=[WEATHER], tool_choice="NONE")
    assert calls(response) == [] and text(response)


def test_a_tool_turn_has_no_content_unless_the_model_reasons(emulator: EmulatorClient) -> None:
    fields: dict[str, Any] = {"content": "What's the weather in Paris?", "tools": [WEATHER]}
    assert list(emulator.chat(**fields).body["message"]) == ["role", "tool_plan", "tool_calls"]
    thought = emulator.chat(**fields, model=REASONING).body
    assert list(thought["message"]) == ["role", "content", "tool_calls"]
    assert [block["type"] for block in thought["message"]["content"]] == ["thinking"]
    assert thought["usage"]["tokens"]["reasoning_tokens"] > 0


@pytest.mark.parametrize(
    ("content", "source", "output", "expected_text"),
    [
        ("Sunny, 22C", "get_weather_a1b2c3d4e5f6:0", {"content": "Sunny, 22C"}, "Sunny, 22C"),
        (
            [{"type": "document", "document": {"data": {"output": "60"}}}],
            "get_weather_a1b2c3d4e5f6:0",
            {"output": "60"},
            "60",
        ),
        (
            [{"type": "document", "document": {"id": "w1", "data": {"temp": "22C"}}}],
            "w1",
            {"temp": "22C"},
            "22C",
        ),
        (
            [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
            "get_weather_a1b2c3d4e5f6:0",
            {"content": "one"},
            "one\ntwo",
        ),
        ("", "", {}, "nothing"),
    ],
    ids=["text", "document", "document with id", "parts", "empty"],
)
def test_a_tool_result_is_reported_and_cited(
    emulator: EmulatorClient, content: Any, source: str, output: Any, expected_text: str
) -> None:
    response = emulator.chat(messages=loop(content), tools=[WEATHER])
    assert expected_text in text(response) and response.body["finish_reason"] == "COMPLETE"
    cited = response.body["message"].get("citations", [])
    assert bool(cited) is bool(content)
    if cited:
        assert cited[0]["sources"] == [{"type": "tool", "id": source, "tool_output": output}]
        assert list(cited[0]) == ["start", "end", "text", "sources", "type"]


def test_content_index_stands_only_after_thinking(emulator: EmulatorClient) -> None:
    for model, expected in ((A, None), (PLUS, 1)):
        cited = emulator.chat(messages=loop("Sunny"), model=model).body["message"]["citations"]
        assert cited[0].get("content_index") == expected


# --- documents and JSON -------------------------------------------------------------------------------------


def test_the_best_document_is_quoted(emulator: EmulatorClient) -> None:
    documents = ["Grass is blue. Cats purr.", {"data": {"title": "Sky", "snippet": "The sky is green."}}]
    response = emulator.chat("What color is the sky?", documents=documents, model=R)
    assert "The sky is green." in text(response)
    assert response.body["message"]["citations"][0]["sources"] == [
        {
            "type": "document",
            "id": "doc:1",
            "document": {"id": "doc:1", "title": "Sky", "snippet": "The sky is green."},
        }
    ]


NESTED = {
    "type": "object",
    "$defs": {
        "Person": {
            "type": "object",
            "properties": {
                "name": STRING,
                "mother": {"anyOf": [{"$ref": "#/$defs/Person"}, {"type": "null"}]},
                "role": {"type": "string", "enum": ["admin", "user"]},
            },
            "required": ["name", "mother", "role"],
        }
    },
    "properties": {
        "kind": {"type": "string", "const": "people"},
        "people": {"type": "array", "items": {"$ref": "#/$defs/Person"}},
        "born": {"type": "string", "format": "date"},
        "code": {"type": "string", "pattern": "[A-Z]{2}-\\d{3}"},
        "ratio": {"anyOf": [{"type": "number"}, {"type": "null"}]},
    },
    "required": ["kind", "people", "born", "code", "ratio"],
}


@pytest.mark.parametrize("key", ["json_schema", "schema"])
def test_json_fits_the_schema(emulator: EmulatorClient, key: str) -> None:
    for prompt, schema in (
        ("A person named Ada, 36 years old, as JSON", SCHEMA),
        ("JSON please: the user Bob", NESTED),
    ):
        document = json.loads(text(emulator.chat(prompt, response_format={"type": "json_object", key: schema})))
        jsonschema.validate(document, schema)
    assert document["people"][0]["role"] == "user"


@pytest.mark.parametrize(
    ("prompt", "events"),
    [
        ('JSON with keys "name" and "age" for John, 30', {"name": "John", "age": 30}),
        ("Return JSON. What is 2+2?", {"answer": "4"}),
        (f"Fill this JSON schema: {json.dumps(SCHEMA)} with Ada aged 36", {"name": "Ada", "age": 36}),
    ],
)
def test_json_without_a_schema(emulator: EmulatorClient, prompt: str, events: Any) -> None:
    assert json.loads(text(emulator.chat(prompt, response_format={"type": "json_object"}))) == events


def test_a_schema_in_the_system_prompt_and_json_requested_by_the_user(emulator: EmulatorClient) -> None:
    messages = [
        {"role": "system", "content": f"Provide objects that match this json_schema: {json.dumps(SCHEMA)}"},
        {"role": "user", "content": "Ada is 36\n\nReturn the correct JSON response within a ```json codeblock."},
    ]
    jsonschema.validate(json.loads(text(emulator.chat(messages=messages))), SCHEMA)
    assert not text(emulator.chat("Return the JSON response of yesterday")).startswith("{")


BOUNDED = {
    "type": "object",
    "properties": {
        "importance": {"type": "number", "minimum": 0, "maximum": 1},
        "code": {"type": "string", "pattern": "^[A-Z]{2}-\\d+$", "minLength": 6},
        "title": {"type": "string", "maxLength": 5},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2, "uniqueItems": True},
    },
    "required": ["importance", "code", "title", "tags"],
}


def test_bounds_that_only_the_prompt_has_are_obeyed_once_it_has_them(emulator: EmulatorClient) -> None:
    """Cohere compiles a schema without bounds, so the first answer may miss them."""
    loose = copy.deepcopy(BOUNDED)
    for item in loose["properties"].values():  # type: ignore[attr-defined]
        for keyword in ("minimum", "maximum", "pattern", "minLength", "maxLength", "minItems", "uniqueItems"):
            item.pop(keyword, None)
    fields: dict[str, Any] = {"response_format": {"type": "json_object", "json_schema": loose}}
    user = {"role": "user", "content": "How important is the Treaty of Rome? 5"}
    first = json.loads(text(emulator.chat(messages=[user], **fields)))
    assert not jsonschema.Draft202012Validator(BOUNDED).is_valid(first) and first["importance"] == 5
    system = {"role": "system", "content": f"The JSON must satisfy this JSON Schema: {json.dumps(BOUNDED)}"}
    jsonschema.validate(json.loads(text(emulator.chat(messages=[system, user], **fields))), BOUNDED)


def test_bounds_of_a_value_in_a_wrapper_are_obeyed(emulator: EmulatorClient) -> None:
    bounded = {"type": "array", "items": {"$ref": "#/$defs/grade"}, "minItems": 3,
               "$defs": {"grade": {"type": "integer", "minimum": 1, "maximum": 6}}}  # fmt: skip
    items = {"type": "array", "items": {"type": "integer"}}
    wrapper = {"type": "object", "properties": {"value": items}, "required": ["value"]}
    system = {"role": "system", "content": f"The JSON must satisfy this JSON Schema: {json.dumps(bounded)}"}
    messages = [system, {"role": "user", "content": "Grades, such as 99"}]
    response = emulator.chat(messages=messages, response_format={"type": "json_object", "json_schema": wrapper})
    jsonschema.validate(json.loads(text(response))["value"], bounded)


def test_a_deep_schema_is_filled_and_an_endless_one_has_an_end(emulator: EmulatorClient) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(30):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    document = json.loads(
        text(emulator.chat("JSON please", response_format={"type": "json_object", "json_schema": deep}))
    )
    jsonschema.validate(document, deep)
    endless = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    assert text(emulator.chat("JSON please", response_format={"type": "json_object", "json_schema": endless}))


# --- limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 4, 10])
def test_max_tokens_cuts(emulator: EmulatorClient, limit: int) -> None:
    body = emulator.chat("Write a detailed description of the ocean.", max_tokens=limit).body
    assert body["finish_reason"] == "MAX_TOKENS"
    assert body["usage"]["billed_units"]["output_tokens"] == max(1, limit - 1)  # recorded: 4 gives 3
    assert body["message"]["content"][0]["text"]


def test_thinking_can_eat_all_tokens(emulator: EmulatorClient) -> None:
    body = emulator.chat(model=REASONING, max_tokens=5).body
    assert [block["type"] for block in body["message"]["content"]] == ["thinking"]
    assert body["finish_reason"] == "MAX_TOKENS"


def test_a_call_can_be_cut_in_its_arguments(emulator: EmulatorClient) -> None:
    fields: dict[str, Any] = {"content": "Weather in Paris?", "tools": [WEATHER], "model": R7B, "max_tokens": 24}
    whole = emulator.chat(**fields).body
    assert whole["finish_reason"] == "MAX_TOKENS"
    arguments = whole["message"]["tool_calls"][0]["function"]["arguments"]
    assert arguments and not arguments.endswith("}")
    streamed = fold(emulator.chat(stream=True, **fields).events)
    assert streamed["message"]["tool_calls"] == whole["message"]["tool_calls"]


def test_a_stop_sequence_ends_the_text_before_itself(emulator: EmulatorClient) -> None:
    body = emulator.chat("Repeat: The capital is Paris today", stop_sequences=["Oslo", "Paris"]).body
    assert body["message"]["content"][0]["text"] == "The capital is"
    assert body["finish_reason"] == "STOP_SEQUENCE"


def test_logprobs_have_one_item_per_piece(emulator: EmulatorClient) -> None:
    body = emulator.chat("Reply with exactly: Hi there", logprobs=True).body
    assert [item["text"] for item in body["logprobs"]] == ["Hi", " there"]
    for item in body["logprobs"]:
        assert list(item) == ["text", "token_ids", "logprobs"]
        assert len(item["token_ids"]) == len(item["logprobs"]) == 1 and item["logprobs"][0] <= 0


@pytest.mark.parametrize(
    ("fields", "hidden"),
    [
        ({"model": R}, 66),
        ({"model": R7B}, 495),
        ({"model": PLUS}, 25),
        ({"model": R7B, "tools": [WEATHER]}, 1_400),
        ({"model": REASONING, "tools": [WEATHER]}, 1_417),
    ],
)
def test_the_hidden_prompt_is_counted(emulator: EmulatorClient, fields: Mapping[str, Any], hidden: int) -> None:
    usage = emulator.chat(**fields).body["usage"]
    assert usage["tokens"]["input_tokens"] - usage["billed_units"]["input_tokens"] == hidden


# --- beside the recordings ----------------------------------------------------------------------------------


def shape(value: Any) -> Any:
    """Keys and types without values; lists as their first item."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in sorted(value.items()) if key not in OPTIONAL}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


# What came with the years (cached_tokens, reasoning_tokens) or depends on the very words (citations).
OPTIONAL = ("cached_tokens", "reasoning_tokens", "citations", "logprobs")
# Their models are gone: the emulator answers 404, as Cohere does now.
GONE = ("command-r-plus", "command-r")


@each_recording("/v2/chat", status=200)
def test_as_recorded(emulator: EmulatorClient, recording: Recording) -> None:
    response = emulator.post("/v2/chat", recording.request.body)
    if recording.request.body["model"] in GONE:
        assert response.status == 404
        return
    assert response.status == 200, response.data
    if recording.streamed:
        ours, theirs = fold(response.events), fold(recording.events())
        kinds = [dict.fromkeys(event["type"] for event in events) for events in (response.events, recording.events())]
        assert kinds[0] == kinds[1]
    else:
        ours, theirs = response.body, recording.json()
    assert shape(ours) == shape(theirs)
    if theirs["finish_reason"] == "TOOL_CALL":
        texts = [[call["function"] for call in each["message"]["tool_calls"]] for each in (ours, theirs)]
        names = [[call["name"] for call in each] for each in texts]
        assert names[0] == names[1]
        assert texts[0][0]["arguments"] == texts[1][0]["arguments"] or "summary" in texts[0][0]["arguments"]


@each_recording("/v2/chat", "/v2/embed", status=404)
def test_refused_as_recorded(emulator: EmulatorClient, recording: Recording) -> None:
    response = emulator.post(recording.request.path, recording.request.body)
    assert response.status == 404
    assert response.body["message"] == recording.json()["message"] and list(response.body) == ["id", "message"]


def test_a_sum_that_nobody_asks_for_is_not_calculated(emulator: EmulatorClient) -> None:
    assert text(emulator.chat("What is 3 + 4?")) == "7"
    assert text(emulator.chat("Between 3 + 4 oaks there was a bench.")) != "7"


def test_the_schema_in_a_prompt_among_other_braces(emulator: EmulatorClient) -> None:
    """It says more than the one of the request about the same fields, and nothing about others."""
    wanted = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    question = 'Fill in {name} and {"n": 1}. The JSON schema: ' + json.dumps(wanted)
    same = {"type": "json_object"}
    assert json.loads(text(emulator.chat(question, response_format=same))) == {"a": 1}
    own = {"type": "object", "properties": {"b": STRING, "c": STRING}, "required": ["b", "c"]}
    assert set(json.loads(text(emulator.chat(question, response_format=same | {"json_schema": own})))) == {"b", "c"}
