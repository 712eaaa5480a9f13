"""Second attempts: what a caller is sent when the first answer fails its check, streamed and whole alike.

The law: for every request whose answer is buffered, and for every outcome of both attempts, a caller who streams is
told what a caller who does not is told, and Cohere is sent the same requests. The upstream is scripted and disobeys
the first time.
"""

import json
from typing import Any

import pytest

from gateway.settings.schema import Models
from support.app import ONCE, A, Harness, Response, answered, run_harness
from support.scripted_upstream import Script, json_answer

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
R, REASONER = "command-r-08-2024", "command-a-plus-05-2026"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
USER = {"role": "user", "content": "Where is it?"}
CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"city":"x"}'}}
HISTORY = [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c", "content": "here"}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
LOOSE = {"type": "json_schema", "json_schema": {"name": "any", "schema": {"type": "object", "properties": {}}}}
DOCUMENTS = ["Oslo is in Norway."]

GOOD, BAD = answered('{"city": "Oslo"}'), answered("It is in Oslo.")


def tool(name: str = "look") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": name, "parameters": CITY}}


def calls(name: str) -> Script:
    call = {"id": f"{name}_1", "type": "function", "function": {"name": name, "arguments": '{"city":"Oslo"}'}}
    message = {"role": "assistant", "tool_calls": [call]}
    return json_answer(200, {"id": "m", "message": message, "finish_reason": "TOOL_CALL", "usage": {}})


def requests() -> dict[str, dict[str, Any]]:
    """Chat requests of every kind whose answer is buffered."""
    json_object = {"response_format": {"type": "json_object"}}
    named = {"tool_choice": {"type": "function", "function": {"name": "new"}}}
    return {
        "json beside tools": {**json_object, "tools": [tool()]},
        "json beside tools on a model that reasons": {**json_object, "tools": [tool()], "model": REASONER},
        "a schema beside tools on a model that reasons": {
            "response_format": SCHEMA,
            "tools": [tool()],
            "model": REASONER,
        },
        "json beside tools that may not be called": {**json_object, "tools": [tool()], "tool_choice": "none"},
        "a schema beside documents": {"response_format": SCHEMA, "documents": DOCUMENTS},
        "a schema beside documents and tools": {"response_format": SCHEMA, "documents": DOCUMENTS, "tools": [tool()]},
        "a schema that Cohere cannot compile": {"response_format": LOOSE, "model": REASONER},
        "a model without schemas": {"response_format": SCHEMA, "model": "c4ai-aya-expanse-32b"},
        "json beside a history of calls": {**json_object, "tools": [tool()], "messages": HISTORY},
        "json beside a history of calls that need no definition": {
            **json_object,
            "tools": [tool()],
            "messages": HISTORY,
            "model": R,
        },
        NAMED: {**named, "tools": [tool(), tool("new")], "messages": HISTORY},
        "a strict schema beside tools": {"response_format": SCHEMA, "tools": [tool()]},
        "two strict schemas beside tools": {"response_format": SCHEMA, "tools": [tool()], "n": 2},
        "two choices": {"response_format": SCHEMA, "documents": DOCUMENTS, "n": 2},
        REQUIRED: {"tool_choice": "required", "tools": [tool("new")], "model": REASONER},
        REQUIRED_BY_NAME: {**named, "tools": [tool(), tool("new")], "model": REASONER},
    }


NAMED = "a named tool beside a history of others"
REQUIRED = "a call on a model that cannot be made to call"
REQUIRED_BY_NAME = "a named tool on a model that cannot be made to call"


ATTEMPTS: dict[str, tuple[Script, ...]] = {
    "obeyed at once": (GOOD,),
    "obeyed the second time": (BAD, GOOD),
    "never obeyed": (BAD, BAD),
    "refused the second time": (BAD, json_answer(400, {"message": "invalid request: too odd"})),
    "cut short the second time": (BAD, answered('{"ci', finish="MAX_TOKENS")),
    "nonsense the second time": (BAD, json_answer(200, b"<html>")),
}
CALLED: dict[str, tuple[Script, ...]] = {
    "obeyed at once": (calls("new"),),
    "obeyed the second time": (calls("look"), calls("new")),
    "never obeyed": (calls("look"), calls("look")),
}
UNCALLED: dict[str, tuple[Script, ...]] = {
    "obeyed at once": (calls("new"),),
    "obeyed the second time": (BAD, calls("new")),
    "never obeyed": (BAD, answered("No.")),
    "refused the second time": ATTEMPTS["refused the second time"],
    "cut short": (answered("I lo", finish="MAX_TOKENS"),),
}
OUTCOMES = {NAMED: CALLED, REQUIRED: UNCALLED, REQUIRED_BY_NAME: UNCALLED}
LAW = [
    (name, kind, case, outcome)
    for name, case in requests().items()
    for kind, outcome in OUTCOMES.get(name, ATTEMPTS).items()
    if case.get("n", 1) == 1 or kind in ("obeyed at once", "never obeyed")  # scripts come in turn: two calls at once
]


@pytest.fixture(scope="module")
def on() -> Any:
    with run_harness() as one:
        yield one


def cohere_requests(on: Harness) -> list[dict[str, Any]]:
    return [request.json() for request in on.upstream.requests]


def ask(on: Harness, path: str, case: dict[str, Any], scripts: tuple[Script, ...], streamed: bool) -> Response:
    on.respond_with(*(script for script in scripts for _ in range(case.get("n", 1))))
    body = {"model": A, "messages": [USER], **case, "stream": streamed}
    return on.gateway.ask("POST", path, _as_responses(body) if path == RESPONSES else body)


def _as_responses(body: dict[str, Any]) -> dict[str, Any]:
    """A chat request in the words of the Responses API."""
    body = {**body, "store": False}
    items: list[dict[str, Any]] = []
    for message in body.pop("messages"):
        called = [
            {"type": "function_call", "call_id": call["id"], **call["function"]}
            for call in message.get("tool_calls", ())
        ]
        if message["role"] == "tool":
            items.append({"type": "function_call_output", "call_id": "c", "output": message["content"]})
        else:
            items += called or [message]
    body["input"] = items
    if "response_format" in body:
        form = body.pop("response_format")
        body["text"] = {"format": {"type": form["type"], **form.get("json_schema", {})}}
    if "tools" in body:
        body["tools"] = [{"type": "function", **one["function"]} for one in body["tools"]]
    if isinstance(body.get("tool_choice"), dict):
        body["tool_choice"] = {"type": "function", "name": body["tool_choice"]["function"]["name"]}
    return body


def outcome_of(path: str, response: Response) -> Any:
    """What a caller was told, however it came: the status, the failure, the answer, the notes."""
    notes = response.headers.get("x-gateway-notes", "")
    if response.headers["content-type"] == "application/json":
        if response.status != 200:
            return response.status, response.error, notes
        return response.status, _response(response.body) if path == RESPONSES else _completion(response.body), notes
    if path == RESPONSES:
        events = [json.loads(line[6:]) for line in response.data.decode().splitlines() if line.startswith("data: {")]
        return response.status, _response(events[-1]["response"]), notes
    choices: dict[int, dict[str, Any]] = {}
    for chunk in response.chunks:
        for choice in chunk["choices"]:
            result = choices.setdefault(choice["index"], {"content": "", "calls": [], "finish": None})
            result["content"] += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls", ()):
                if call.get("id"):
                    result["calls"].append([call["id"], call["function"]["name"], ""])
                result["calls"][-1][2] += call["function"].get("arguments", "")
            result["finish"] = choice["finish_reason"] or result["finish"]
    return response.status, [choices[index] for index in sorted(choices)], notes


def _completion(body: Any) -> list[dict[str, Any]]:
    return [
        {
            "content": choice["message"]["content"] or "",
            "calls": [
                [call["id"], call["function"]["name"], call["function"]["arguments"]]
                for call in choice["message"].get("tool_calls", ())
            ],
            "finish": choice["finish_reason"],
        }
        for choice in body["choices"]
    ]


def _response(body: Any) -> Any:
    volatile = ("id", "created_at", "completed_at")
    return {name: value for name, value in body.items() if name not in volatile}


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize(("case", "scripts"), [row[2:] for row in LAW], ids=[f"{row[0]}, {row[1]}" for row in LAW])
def test_a_stream_says_what_a_whole_answer_says(
    on: Harness, path: str, case: dict[str, Any], scripts: tuple[Script, ...]
) -> None:
    if path == RESPONSES and "n" in case:
        pytest.skip("a response is one choice")
    whole = outcome_of(path, ask(on, path, case, scripts, False))
    whole_requests = cohere_requests(on)
    streamed = outcome_of(path, ask(on, path, case, scripts, True))
    assert streamed == whole
    assert cohere_requests(on) == whole_requests
    assert len(whole_requests) == len(scripts) * case.get("n", 1)
    assert not any(body["stream"] for body in whole_requests)


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_documents_and_tools_give_way_to_the_schema_the_second_time(on: Harness, path: str, streamed: bool) -> None:
    """Cohere compiles a schema only where neither stands beside it: the documents move into the prompt."""
    case = requests()["a schema beside documents and tools"]
    response = ask(on, path, case, (BAD, GOOD), streamed)
    first, second = cohere_requests(on)
    assert "response_format" not in first and first["documents"] and first["tools"]
    assert second["response_format"]["type"] == "json_object"
    assert second["response_format"]["json_schema"]["required"] == ["city"]
    assert not {"documents", "tools", "tool_choice", "citation_options"} & set(second)
    assert "Oslo is in Norway." in second["messages"][0]["content"]
    assert "asked Cohere again: structured_output_invalid" in response.headers["x-gateway-notes"]


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_what_was_replaced_in_the_body_is_noted_the_second_time_too(on: Harness, path: str, streamed: bool) -> None:
    case = {**requests()["a schema beside documents"], "messages": [{**USER, "content": "Where is it? \ud83d"}]}
    response = ask(on, path, case, (BAD, GOOD), streamed)
    assert len(cohere_requests(on)) == 2
    assert "half of a surrogate pair" in response.headers["x-gateway-notes"]


@pytest.mark.parametrize("model", [A, R])
def test_tools_that_the_history_calls_stay_the_second_time_where_they_must(on: Harness, model: str) -> None:
    """Some models refuse a history that calls a tool which is not defined: there the instruction is repeated."""
    case = {**requests()["json beside a history of calls"], "model": model}
    ask(on, CHAT, case, (BAD, GOOD), False)
    first, second = cohere_requests(on)
    assert "tools" in first
    assert ("tools" in second) == (model == A) == ("response_format" not in second)


TOO_LONG = {"message": "too many tokens: total number of tokens in the prompt cannot exceed 9 - received 10."}
LONG_TURNS = [{"role": role, "content": "A story. " * 200} for role in ("user", "assistant")]


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({"truncation": "auto"}, (json_answer(400, TOO_LONG), answered())),
        (
            {"context_management": [{"type": "compaction", "compact_threshold": 500}]},
            (answered("A summary."), answered()),
        ),
    ],
    ids=["shortened", "compacted"],
)
def test_what_was_replaced_in_the_body_is_noted_of_the_request_that_replaces_it(
    on: Harness, fields: dict[str, Any], answers: tuple[Script, ...]
) -> None:
    request = {"model": A, "store": False, "input": [*LONG_TURNS, USER, *LONG_TURNS, USER], **fields}
    on.respond_with(*answers)
    body = json.dumps(request).replace(USER["content"], r"Where \ud83d is it?").encode()
    response = on.gateway.ask("POST", RESPONSES, body)
    assert response.status == 200 and len(on.upstream.requests) == len(answers)
    assert "body adjusted half of a surrogate pair -> U+FFFD" in response.headers["x-gateway-notes"]


def test_a_fallback_is_noted_the_second_time_too() -> None:
    with run_harness(models=Models(fallbacks={A: [R]}), **ONCE) as harness:
        harness.respond_with(json_answer(503, {"message": "down"}), BAD, GOOD)
        body = {"model": A, "messages": [USER], "response_format": SCHEMA, "documents": DOCUMENTS}
        response = harness.gateway.ask("POST", CHAT, body)
        assert response.status == 200 and len(harness.upstream.requests) == 3
        for note in (f"fallback from {A} (upstream_unavailable)", "asked Cohere again: structured_output_invalid"):
            assert note in response.headers["x-gateway-notes"]
