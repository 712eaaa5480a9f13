"""What Cohere cannot do and the gateway does: several choices, structured output where Cohere refuses it, answers
that are checked and asked for again, a named tool beside a history of others.

The upstream is scripted where its answer matters, and the emulator, which validates as strictly as Cohere, where
it matters that the request is one that Cohere takes.
"""

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from support.app import R7B, A, Harness, Response, answered, demonstration, run_harness, start, story, whole
from support.scripted_upstream import Script, event_stream, json_answer, transcript

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 3}},
    "required": ["name"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
REASONER = "command-a-plus-05-2026"


def tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


def calls(name: str, arguments: str = "{}") -> Script:
    call = {"id": f"{name}_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    message = {"role": "assistant", "tool_calls": [call]}
    return json_answer(200, {"id": "m", "message": message, "finish_reason": "TOOL_CALL", "usage": {}})


def cohere_requests(on: Harness) -> list[dict[str, Any]]:
    return [request.json() for request in on.upstream.requests]


def content(response: Response) -> Any:
    assert response.status == 200, response
    return response.body["choices"][0]["message"]["content"]


# --- several choices ----------------------------------------------------------------------------------------


def test_n_choices_whole() -> None:
    with run_harness() as on:
        on.respond_with(answered("One."), answered("Two."), answered("Three."))
        response = on.gateway.chat(n=3, seed=7)
        choices = response.body["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2]
        assert {choice["message"]["content"] for choice in choices} == {"One.", "Two.", "Three."}
        assert sorted(body["seed"] for body in cohere_requests(on)) == [7, 8, 9]
        one = on.chat_over(answered("One.")).body["usage"]
        assert response.body["usage"]["total_tokens"] == 3 * one["total_tokens"]
        assert "n emulated (3 parallel calls to Cohere)" in response.headers["x-gateway-notes"]


def test_n_choices_streamed() -> None:
    with demonstration() as gateway, gateway.client() as client:
        texts, finished, ids, usages = {0: "", 1: "", 2: ""}, [], set(), []
        request: dict[str, Any] = {"model": A, "messages": [{"role": "user", "content": "Hi"}], "n": 3, "stream": True}
        for chunk in client.chat.completions.create(**request, stream_options={"include_usage": True}):
            ids.add(chunk.id)
            usages += [chunk.usage] if chunk.usage else []
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                finished += [choice.index] if choice.finish_reason else []
        assert len(ids) == len(usages) == 1 and sorted(finished) == [0, 1, 2]
        assert len(set(texts.values())) == 1 and texts[0]


@pytest.mark.parametrize("streamed", [False, True])
def test_one_choice_that_is_refused_fails_all(streamed: bool) -> None:
    refused = json_answer(
        429, {"message": "You are past the per minute request limit, please wait and try again later."}
    )
    good = event_stream(transcript(*story("Hi"))) if streamed else answered("Hi")
    with run_harness() as on:
        on.respond_with(good, refused, good)
        response = on.gateway.chat(n=3, stream=streamed)
        assert (response.status, response.error["code"]) == (429, "rate_limit_exceeded")


def test_one_choice_that_breaks_off_ends_the_stream_with_one_error() -> None:
    broken = event_stream(transcript(start(), done=False))
    with run_harness() as on:
        on.respond_with(event_stream(transcript(*story("Hi"))), broken)
        response = on.gateway.chat(n=2, stream=True)
        frames = response.frames
        assert json.loads(frames[-1])["error"]["code"] == "upstream_cut"
        assert sum("error" in json.loads(frame) for frame in frames if frame != "[DONE]") == 1
        assert "[DONE]" not in frames


# --- structured output --------------------------------------------------------------------------------------


class Person(BaseModel):
    name: str = Field(min_length=1)
    age: int
    nick: str | None = None


@pytest.mark.parametrize("model", [A, "command-r-plus-08-2024", REASONER])
@pytest.mark.parametrize("beside", ["nothing", "tools", "documents", "a tool's result"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_parse(model: str, beside: str, streamed: bool) -> None:
    """Whatever Cohere refuses beside a schema, the SDK gets its object."""
    fields: dict[str, Any] = {}
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Ada is 36 years old."}]
    if beside == "documents":
        fields["extra_body"] = {"documents": [{"data": {"text": "Ada is 36 years old."}}]}
    if beside in ("tools", "a tool's result"):
        fields["tools"] = [{**tool("look_up"), "function": {**tool("look_up")["function"], "strict": True}}]
    if beside == "a tool's result":
        call = {"id": "c", "type": "function", "function": {"name": "look_up", "arguments": '{"city":"x"}'}}
        messages += [
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "36"},
        ]
    with demonstration() as gateway, gateway.client() as client:
        request: dict[str, Any] = {"model": model, "messages": messages, "response_format": Person, **fields}
        if streamed:
            with client.chat.completions.stream(**request) as events:
                message = events.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.parse(**request).choices[0].message
        if beside == "tools" and message.tool_calls:
            assert [call.function.name for call in message.tool_calls] == ["look_up"]  # as the model may well do
        else:
            assert isinstance(message.parsed, Person) and not message.tool_calls


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "string"}},
        {"anyOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"type": "null"}]},
        {"$ref": "#/$defs/P", "$defs": {"P": {"type": "object", "properties": {"a": {"type": "integer"}}}}},
        {"type": "array", "items": {"$ref": "#/$defs/P"}, "$defs": {"P": {"type": "string"}}},
    ],
    ids=["an array", "a union", "a reference", "an array of references"],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_schema_without_an_object_at_its_top(schema: dict[str, Any], streamed: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    with demonstration() as gateway:
        response = gateway.chat("A list of 3 things", response_format=form, stream=streamed)
        text = response.text if streamed else content(response)
        assert "value" not in text
        assert isinstance(json.loads(text), list if schema.get("type") == "array" else dict | None)


def test_keywords_that_cohere_does_not_know_are_checked_here() -> None:
    with run_harness() as on:
        on.respond_with(answered('{"name": "A"}'), answered('{"name": "Ada"}'))
        response = on.gateway.chat(model=A, response_format=FORMAT)
        assert content(response) == '{"name": "Ada"}'
        assert "minLength" not in json.dumps(cohere_requests(on)[0]["response_format"])
        assert "asked Cohere again: structured_output_invalid" in response.headers["x-gateway-notes"]


def test_the_second_prompt_has_what_cohere_does_not_compile() -> None:
    with run_harness() as on:
        on.respond_with(answered('{"name": "A"}'), answered('{"name": "Ada"}'))
        on.gateway.chat(model=A, response_format=FORMAT)
        first, second = cohere_requests(on)
        assert first["messages"] == second["messages"][1:] and second["response_format"] == first["response_format"]
        assert '"minLength":3' in second["messages"][0]["content"]


LOOSE = {
    "an object of any keys": {"type": "object", "properties": {"ages": {"type": "object"}}, "required": ["ages"]},
    "a value of any kind": {"type": "object", "properties": {"any": {"title": "Any"}}, "required": ["any"]},
    "an object of any keys at the top": {"type": "object", "additionalProperties": {"type": "integer"}},
    "nothing": {"type": "object", "properties": {}},
}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", [A, REASONER, "command-r-plus", "command-a-vision-07-2025"])
@pytest.mark.parametrize("schema", LOOSE.values(), ids=LOOSE)
def test_a_schema_that_cohere_cannot_compile(schema: dict[str, Any], model: str, streamed: bool) -> None:
    """`dict[str, int]`, `Any`, `z.record()`: a tool stands for the answer, or an instruction asks for it."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with demonstration() as gateway:
        response = gateway.chat("Ada is 36", model=model, response_format=form, stream=streamed)
        assert isinstance(json.loads(response.text if streamed else content(response)), dict)
        assert "response_format emulated" in response.headers["x-gateway-notes"]


def test_a_model_that_turns_out_to_want_types_is_given_them() -> None:
    anything = tool("look")
    anything["function"]["parameters"] = {"type": "object", "properties": {"a": {"title": "A"}}}
    with run_harness() as on:
        on.respond_with(json_answer(400, {"message": "property a must have a type"}), answered("Hi."), answered("Hi."))
        assert content(on.gateway.chat(model=R7B, tools=[anything])) == "Hi."
        assert content(on.gateway.chat(model=R7B, tools=[anything])) == "Hi."
        properties = [body["tools"][0]["function"]["parameters"]["properties"]["a"] for body in cohere_requests(on)]
        assert ["anyOf" in one for one in properties] == [False, True, True]


def test_a_format_in_the_prompt_is_in_the_second_prompt_too() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": LOOSE["nothing"]}}
    with run_harness() as on:
        on.respond_with(answered("It rains."), answered("{}"))
        assert content(on.gateway.chat(model=REASONER, response_format=form)) == "{}"
        assert all("response_format" not in body and "tools" not in body for body in cohere_requests(on))


def test_an_answer_that_misses_its_schema_twice_is_an_error() -> None:
    with run_harness() as on:
        on.respond_with(answered('{"name": "A"}'), answered("It rains."))
        response = on.gateway.chat(model=A, response_format=FORMAT)
        assert (response.status, response.error["code"]) == (502, "structured_output_invalid")
        assert len(cohere_requests(on)) == 2


def test_or_a_refusal_by_setting() -> None:
    with run_harness(strict_failures="refusal") as on:
        on.respond_with(answered('{"name": "A"}'), answered("It rains."))
        choice = on.gateway.chat(model=A, response_format=FORMAT).body["choices"][0]
        assert choice["message"]["content"] is None and "JSON schema" in choice["message"]["refusal"]
        assert choice["finish_reason"] == "stop"


def test_a_stream_that_misses_its_schema_twice_is_an_error() -> None:
    """It is checked before it is shown, as Cohere compiles a part of this schema only."""
    with run_harness() as on:
        on.respond_with(answered('{"name": "A"}'))
        response = on.gateway.chat(model=A, response_format=FORMAT, stream=True)
        assert response.error["code"] == "structured_output_invalid"
        assert len(cohere_requests(on)) == 2 and not any(body.get("stream") for body in cohere_requests(on))


def test_a_stream_is_visible_as_it_comes_where_cohere_compiles_all_of_its_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    whole_schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    with run_harness() as on:
        script = event_stream(transcript(*story('{"b": 1}')))
        response = on.chat_over(script, model=A, response_format=whole_schema, stream=True)
        assert json.loads(response.frames[-1])["error"]["code"] == "structured_output_invalid"


def test_an_answer_that_was_cut_short_is_not_called_invalid() -> None:
    with run_harness() as on:
        response = on.chat_over(json_answer(200, whole('{"na', finish="MAX_TOKENS")), model=A, response_format=FORMAT)
        assert response.body["choices"][0]["finish_reason"] == "length"


def test_beside_tools_a_tool_stands_for_the_answer() -> None:
    with run_harness() as on:
        on.respond_with(calls("give_final_answer", '{"name":"Ada"}'))
        response = on.gateway.chat(model=A, response_format=FORMAT, tools=[tool("look")])
        assert content(response) == '{"name":"Ada"}'
        assert response.body["choices"][0]["finish_reason"] == "stop"
        assert "tool_calls" not in response.body["choices"][0]["message"]
        (body,) = cohere_requests(on)
        assert body["tool_choice"] == "REQUIRED" and "response_format" not in body
        assert [one["function"]["name"] for one in body["tools"]] == ["look", "give_final_answer"]


def test_a_model_that_answers_with_text_all_the_same() -> None:
    with run_harness() as on:
        on.respond_with(answered('```json\n{"name": "Ada"}\n```'))
        assert content(on.gateway.chat(model=A, response_format=FORMAT, tools=[tool("look")])) == '{"name": "Ada"}'


def test_a_real_call_beside_it_is_a_call() -> None:
    with run_harness() as on:
        on.respond_with(calls("look", '{"city":"Oslo"}'))
        choice = on.gateway.chat(model=A, response_format=FORMAT, tools=[tool("look")]).body["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "look"


# --- a named tool -------------------------------------------------------------------------------------------


HISTORY = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "old", "arguments": '{"city":"x"}'}}],
    },
    {"role": "tool", "tool_call_id": "c", "content": "Sunny"},
]


def respond(on: Harness, **fields: Any) -> Response:
    named = {"type": "function", "function": {"name": "new"}}
    body = {"model": A, "messages": HISTORY, "tools": [tool("old"), tool("new")], "tool_choice": named, **fields}
    return on.gateway.post(body)


def test_a_named_tool_alone_is_sent() -> None:
    with run_harness() as on:
        on.respond_with(calls("new"))
        on.gateway.post({
            "model": A,
            "messages": [{"role": "user", "content": "Hi"}],
            "tools": [tool("old"), tool("new")],
            "tool_choice": {"type": "function", "function": {"name": "new"}},
        })  # fmt: skip
        (body,) = cohere_requests(on)
        assert [one["function"]["name"] for one in body["tools"]] == ["new"] and body["tool_choice"] == "REQUIRED"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_tools_that_the_history_calls_stay_and_the_answer_is_checked(streamed: bool) -> None:
    with run_harness() as on:
        on.respond_with(calls("old"), calls("new"))
        response = respond(on, stream=streamed)
        first, second = cohere_requests(on)
        assert [one["function"]["name"] for one in first["tools"]] == ["old", "new"]
        assert "You must call the tool new" in first["messages"][0]["content"]
        assert first["stream"] is second["stream"] is False
        assert '"name":"new"' in response.data.decode() and '"name":"old"' not in response.data.decode()
        assert response.headers["content-type"].startswith("text/event-stream" if streamed else "application/json")


def test_a_choice_that_is_not_followed_twice_is_an_error() -> None:
    with run_harness() as on:
        on.respond_with(calls("old"), calls("old"))
        response = respond(on)
        assert (response.status, response.error["code"]) == (502, "tool_choice_not_followed")


# --- a call that only an instruction asks for -----------------------------------------------------------------

DISOBEYED = "tool_choice required: the model called no tool all the same"
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


def must_call(on: Harness, path: str, **fields: Any) -> Response:
    function = {"name": "look", "parameters": {"type": "object", "properties": {}}}
    request: dict[str, Any] = {"model": REASONER, "tool_choice": "required", **fields}
    if path == CHAT:
        tools: Any = [{"type": "function", "function": function}]
        return on.gateway.ask(
            "POST", path, {**request, "messages": [{"role": "user", "content": "Hi"}], "tools": tools}
        )
    return on.gateway.ask(
        "POST", path, {**request, "input": "Hi", "store": False, "tools": [{"type": "function", **function}]}
    )


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize("choice", ["required", "named"])
def test_a_model_that_calls_nothing_is_retried(path: str, choice: str) -> None:
    named: Any = {"type": "function", "name": "look", "function": {"name": "look"}}
    if path == RESPONSES:
        del named["function"]
    with run_harness() as on:
        on.respond_with(answered("I will not."), calls("look"))
        response = must_call(on, path, **({"tool_choice": named} if choice == "named" else {}))
        assert response.status == 200 and b'"name":"look"' in response.data and b"will not" not in response.data
        assert len(cohere_requests(on)) == 2 and DISOBEYED not in response.headers["x-gateway-notes"]
        assert "asked Cohere again: tool_choice_not_followed" in response.headers["x-gateway-notes"]


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_one_that_calls_nothing_twice_is_passed_on_with_a_note(path: str) -> None:
    with run_harness() as on:
        on.respond_with(answered("I will not."), answered("No."))
        response = must_call(on, path)
        assert response.status == 200 and b"No." in response.data and len(cohere_requests(on)) == 2
        assert DISOBEYED in response.headers["x-gateway-notes"]


@pytest.mark.parametrize("finish", ["MAX_TOKENS", "COMPLETE"])
def test_an_answer_that_was_cut_short_might_have_called(finish: str) -> None:
    with run_harness() as on:
        on.respond_with(json_answer(200, whole("I lo", finish=finish)), calls("look"))
        assert must_call(on, CHAT).status == 200
        assert len(cohere_requests(on)) == (1 if finish == "MAX_TOKENS" else 2)


def test_tools_of_the_history_are_defined_in_outline() -> None:
    with run_harness() as on:
        on.respond_with(answered("Sunny."))
        on.gateway.post({"model": A, "messages": HISTORY})
        (body,) = cohere_requests(on)
        assert body["tools"][0]["function"]["name"] == "old" and body["tool_choice"] == "NONE"


@pytest.mark.parametrize("model", [A, REASONER, "command-r-08-2024"])
def test_the_emulator_takes_all_of_it(model: str) -> None:
    with demonstration() as gateway, gateway.client() as client:
        for choice in ("auto", "none", "required", {"type": "function", "function": {"name": "new"}}):
            try:
                request: dict[str, Any] = {"model": model, "messages": HISTORY, "tools": [tool("old"), tool("new")]}
                request["tool_choice"] = choice
                client.chat.completions.create(**request)
            except openai.InternalServerError as error:
                # A rule-based stand-in does not obey an instruction; that it was given one is all there is to see.
                assert error.code == "tool_choice_not_followed" and model == REASONER
