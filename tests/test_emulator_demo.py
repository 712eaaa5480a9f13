"""The demonstration: what a caller of the gateway sees of an emulator that is strict, and that disobeys on request."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from support.app import REASONING, A, Gateway, Response

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "How important is this? 5"}
BOUNDED = {
    "type": "object",
    "properties": {"importance": {"type": "number", "minimum": 0, "maximum": 1}},
    "required": ["importance"],
    "additionalProperties": False,
}
STRICT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": BOUNDED, "strict": True}}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def tool(name: str, description: str = "Weather of a city") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": CITY}}


WEATHER = tool("get_weather")
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Oslo"}'}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "Sunny"}


def ask(demo: Gateway, *messages: dict[str, Any], stream: bool = False, **fields: Any) -> Response:
    return demo.ask("POST", CHAT, {"model": A, "messages": list(messages), "stream": stream, **fields})


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_bounds_of_a_strict_schema_are_obeyed(demo: Gateway, stream: bool) -> None:
    """Cohere does not compile bounds, so the first answer says 5, and the second obeys what it is told."""
    response = ask(demo, USER, stream=stream, response_format=STRICT)
    assert response.status == 200, response.data
    if not stream:
        jsonschema.validate(json.loads(response.text), BOUNDED)


def test_a_call_without_its_result_is_refused(demo: Gateway) -> None:
    user = {"role": "user", "content": "weather in Oslo"}
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    response = ask(demo, user, called, {"role": "user", "content": "Hello"}, tools=[WEATHER])
    assert response.status == 400 and "c1" in response.error["message"]
    assert ask(demo, user, called, RESULT, {"role": "user", "content": "Hello"}, tools=[WEATHER]).status == 200


DISOBEDIENCE: dict[str, dict[str, Any]] = {
    "broken_schema": {"response_format": STRICT},
    "prose_for_json": {"response_format": STRICT},
    "prose_for_json beside documents": {"response_format": STRICT, "documents": ["Oslo is in Norway."]},
    "broken_schema beside tools": {"response_format": STRICT, "tools": [WEATHER]},
    "no_tool_call": {"model": REASONING, "tools": [WEATHER], "tool_choice": "required"},
    "wrong_tool": {
        "messages": [
            {"role": "user", "content": "weather in Oslo"},
            {"role": "assistant", "tool_calls": [CALL]},
            RESULT,
            {"role": "user", "content": "And the news of Oslo?"},
        ],
        "tools": [WEATHER, tool("get_news", "News of a city")],
        "tool_choice": {"type": "function", "function": {"name": "get_news"}},
    },
}


@pytest.mark.parametrize("case", DISOBEDIENCE)
def test_a_disobedient_model_is_retried(demo: Gateway, case: str) -> None:
    fields = dict(DISOBEDIENCE[case])
    *before, user = fields.pop("messages", [{"role": "user", "content": f"{USER['content']} {case}"}])
    fault = case.partition(" ")[0]
    responses = []
    for order in ("", f" [x-emulator-fault: {fault}]", f" [x-emulator-fault: {fault}=2]"):
        content = user["content"] + order
        responses.append(ask(demo, *before, {"role": "user", "content": content}, **fields))
    obedient, second_attempt, never = responses
    assert obedient.status == second_attempt.status == 200, (obedient.data, second_attempt.data)
    assert shape(second_attempt) == shape(obedient)
    # It disobeys twice, and there are two attempts. A text instead of a call is shown, with a note.
    assert never.status == (200 if fault == "no_tool_call" else 502)


def shape(response: Response) -> Any:
    """The tools that an answer calls, or the keys of its JSON."""
    message = response.body["choices"][0]["message"]
    if message.get("tool_calls"):
        return [call["function"]["name"] for call in message["tool_calls"]]
    return sorted(json.loads(message["content"]))


@pytest.mark.parametrize("path", ["chat", "responses"])
def test_a_name_is_remembered_over_turns(demo: Gateway, path: str) -> None:
    first, question = "My name is Ada. Remember it.", "What is my name? Reply with only the name."
    with demo.client() as sdk:
        if path == "responses":
            response = sdk.responses.create(model=A, input=first)
            again = sdk.responses.create(model=A, input=question, previous_response_id=response.id)
            assert again.output_text == "Ada"
            return
        messages: list[Any] = [{"role": "user", "content": first}]
        completion = sdk.chat.completions.create(model=A, messages=messages)
        messages.append({"role": "assistant", "content": completion.choices[0].message.content})
        messages.append({"role": "user", "content": question})
        answer = sdk.chat.completions.create(model=A, messages=messages)
        assert answer.choices[0].message.content == "Ada"
