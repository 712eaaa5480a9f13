"""The official SDK, sync and async, talking to the gateway in front of the emulator.

What a program written for OpenAI does: ask, stream, call tools, want JSON, look at models. Where the SDK hides
something (the [DONE], the order of chunks, our headers), the bytes are looked at.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pydantic
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionMessageParam

from support.app import REASONING, VISION, A, Gateway, Response, demonstration

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count to 5"}]
COUNTED = "1, 2, 3, 4, 5"
PARIS: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAACAQMAAABIeJ9nAAAAA1BMVEX/AAAZ4gk3AAAADElEQVQI12NgYGAAAAAE"
    "AAEnNCcKAAAAAElFTkSuQmCC"
)
USER = {"role": "user", "content": "Hello"}


@pytest_asyncio.fixture
async def async_sdk(demo: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{demo.url}/v1",
        api_key=demo.key,
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False, verify=False),
    ) as client:
        yield client


@pytest.fixture(scope="module")
def aliased() -> Iterator[Gateway]:
    """A gateway with an alias."""
    from gateway.settings.schema import Models

    with demonstration(models=Models(aliases={"gpt-4o": A, "ours/fast": "command-r7b-12-2024"})) as gateway:
        yield gateway


# --- words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [A, f"cohere/{A}", "command-r-plus", "cohere/command-r-plus", REASONING])
def test_a_whole_answer(sdk: openai.OpenAI, model: str) -> None:
    answer = sdk.chat.completions.create(model=model, messages=HELLO)
    (choice,) = answer.choices
    assert choice.message.content == COUNTED
    assert (choice.message.role, choice.finish_reason, choice.index) == ("assistant", "stop", 0)
    assert (answer.object, answer.model) == ("chat.completion", model)
    assert answer.id.startswith("chatcmpl-") and answer.created > 1_700_000_000
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0 < answer.usage.completion_tokens
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id is not None and answer._request_id.startswith("req_")


def test_a_streamed_answer_says_the_same(sdk: openai.OpenAI) -> None:
    whole = sdk.chat.completions.create(model=A, messages=HELLO)
    chunks = list(
        sdk.chat.completions.create(model=A, messages=HELLO, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == COUNTED
    assert whole.choices[0].message.content == COUNTED
    assert chunks[-1].usage == whole.usage
    assert len(chunks) > 5


@pytest.mark.asyncio
async def test_async(async_sdk: openai.AsyncOpenAI) -> None:
    whole = await async_sdk.chat.completions.create(model=A, messages=HELLO)
    assert whole.choices[0].message.content == COUNTED
    text = ""
    async for chunk in await async_sdk.chat.completions.create(model=A, messages=HELLO, stream=True):
        text += chunk.choices[0].delta.content or ""
    assert text == COUNTED
    models = [model.id async for model in async_sdk.models.list()]
    assert f"cohere/{A}" in models


@pytest.mark.asyncio
async def test_the_async_stream_helper(async_sdk: openai.AsyncOpenAI) -> None:
    async with async_sdk.chat.completions.stream(model=A, messages=HELLO) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == COUNTED


def test_the_stream_helper(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(model=A, messages=HELLO, stream_options={"include_usage": True}) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == COUNTED
    assert final.choices[0].finish_reason == "stop"
    assert final.usage is not None and final.usage.total_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
def test_where_an_answer_is_cut(sdk: openai.OpenAI, stream: bool) -> None:
    request: Any = sdk.chat.completions.create(model=A, messages=HELLO, max_tokens=4, stream=stream)
    reasons = [chunk.choices[0].finish_reason for chunk in request if chunk.choices] if stream else [None]
    reason = reasons[-1] if stream else request.choices[0].finish_reason
    assert reason == "length"
    stopped: Any = sdk.chat.completions.create(model=A, messages=HELLO, stop="3", stream=stream)
    if stream:
        chunks = list(stopped)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "1, 2,"
        assert chunks[-1].choices[0].finish_reason == "stop"
    else:
        assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("1, 2,", "stop")


def test_a_conversation(sdk: openai.OpenAI) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "My name is Ada.", "name": "ada"},
        {"role": "assistant", "content": "Hello Ada."},
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "my name?"}]},
    ]
    answer = sdk.chat.completions.create(model=A, messages=messages)
    assert "Ada" in (answer.choices[0].message.content or "")


def test_reasoning(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model=REASONING, messages=HELLO)
    extra = answer.choices[0].message.model_extra or {}
    assert extra["reasoning_content"]
    assert answer.choices[0].message.content == COUNTED
    assert answer.usage is not None and answer.usage.completion_tokens_details is not None
    assert (answer.usage.completion_tokens_details.reasoning_tokens or 0) > 0
    thought, text = "", ""
    for chunk in sdk.chat.completions.create(model=REASONING, messages=HELLO, stream=True):
        delta = chunk.choices[0].delta
        more = (delta.model_extra or {}).get("reasoning_content") or ""
        assert not (more and text), "the thought comes before the words"
        thought += more
        text += delta.content or ""
    assert (thought, text) == (extra["reasoning_content"], COUNTED)


def test_a_model_that_does_not_reason_says_nothing_of_it(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model=A, messages=HELLO)
    assert "reasoning_content" not in (answer.choices[0].message.model_extra or {})


@pytest.mark.parametrize("stream", [False, True])
def test_a_picture(sdk: openai.OpenAI, stream: bool) -> None:
    parts: Any = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    request: Any = sdk.chat.completions.create(
        model=VISION, messages=[{"role": "user", "content": parts}], stream=stream
    )
    text = (
        "".join(chunk.choices[0].delta.content or "" for chunk in request)
        if stream
        else request.choices[0].message.content
    )
    assert re.search(r"2\s*[x×]\s*2|png|image|picture", text, re.IGNORECASE)


def test_a_picture_on_a_model_without_eyes(sdk: openai.OpenAI) -> None:
    parts: Any = [{"type": "image_url", "image_url": {"url": PIXEL}}]
    with pytest.raises(openai.BadRequestError):
        sdk.chat.completions.create(model=A, messages=[{"role": "user", "content": parts}])


# --- the stream as it is written ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": True}])
@pytest.mark.parametrize(
    ("model", "content", "tools"),
    [(A, "Count to 5", None), (REASONING, "Count to 3", None), (A, "Weather in Paris and Oslo?", TOOLS)],
    ids=["words", "reasoning", "calls"],
)
def test_the_frames_of_a_stream(demo: Gateway, model: str, content: str, tools: Any, options: Any) -> None:
    more = {"stream_options": options} if options is not None else {}
    more |= {"tools": tools} if tools else {}
    response = demo.chat(content, model=model, stream=True, **more)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.frames[-1] == "[DONE]" and response.frames.count("[DONE]") == 1
    chunks = response.chunks
    wants_usage = bool(options and options.get("include_usage"))
    if wants_usage:
        *chunks, last = chunks
        assert last["choices"] == []
        assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"] > 0
        assert all(chunk["usage"] is None for chunk in chunks)
    else:
        assert all("usage" not in chunk for chunk in chunks)
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in response.chunks}) == 1
    assert response.chunks[0]["model"] == model
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert len(choices) == len(chunks) and {choice["index"] for choice in choices} == {0}
    # The role once, at the beginning; the reason once, at the end, in a chunk that says nothing else.
    assert [choice["delta"].get("role") for choice in choices] == ["assistant"] + [None] * (len(choices) - 1)
    assert choices[-1]["delta"] == {}
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == ("tool_calls" if tools else "stop")


def test_the_calls_of_a_stream(demo: Gateway) -> None:
    """id, type and name once per call, in its first fragment; then arguments; indices from 0."""
    response = demo.chat("Weather in Paris and Oslo?", stream=True, tools=TOOLS)
    fragments: dict[int, list[dict[str, Any]]] = {}
    for chunk in response.chunks:
        for call in chunk["choices"][0]["delta"].get("tool_calls", ()):
            fragments.setdefault(call["index"], []).append(call)
    assert list(fragments) == [0, 1]
    for (first, *rest), city in zip(fragments.values(), ("Paris", "Oslo"), strict=True):
        assert (first["type"], first["function"]["name"]) == ("function", "get_weather")
        assert first["id"]
        assert all(set(call) == {"index", "function"} and set(call["function"]) == {"arguments"} for call in rest)
        arguments = "".join(call["function"].get("arguments", "") for call in (first, *rest))
        assert json.loads(arguments) == {"city": city}


# --- tools --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [A, REASONING, "command-r7b-12-2024", "command-r-plus"])
def test_the_tool_loop(sdk: openai.OpenAI, model: str) -> None:
    first = sdk.chat.completions.create(model=model, messages=PARIS, tools=TOOLS)
    assert first.choices[0].finish_reason == "tool_calls"
    message = first.choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    assert message.content is None
    result = {"role": "tool", "tool_call_id": call.id, "content": "22 degrees and sunny in Paris"}
    # The turn goes back as it came, extensions and all.
    history: list[Any] = [*PARIS, message.model_dump(exclude_none=True), result]
    last = sdk.chat.completions.create(model=model, messages=history, tools=TOOLS)
    assert last.choices[0].finish_reason == "stop"
    assert "22 degrees" in (last.choices[0].message.content or "")
    assert not last.choices[0].message.tool_calls


@pytest.mark.parametrize("model", [A, REASONING])
def test_the_tool_loop_streamed(sdk: openai.OpenAI, model: str) -> None:
    with sdk.chat.completions.stream(model=model, messages=PARIS, tools=TOOLS) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "22 degrees and sunny in Paris"}
    turn = {
        "role": "assistant",
        "tool_calls": [
            {"id": call.id, "type": "function", "function": call.function.model_dump(include={"name", "arguments"})}
        ],
    }
    history: list[Any] = [*PARIS, turn, result]
    text = ""
    for chunk in sdk.chat.completions.create(model=model, messages=history, tools=TOOLS, stream=True):
        text += chunk.choices[0].delta.content or ""
    assert "22 degrees" in text


def test_parallel_calls(sdk: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris and Oslo?"}]
    first = sdk.chat.completions.create(model=A, messages=messages, tools=TOOLS)
    calls = first.choices[0].message.tool_calls or []
    assert [json.loads(call.function.arguments)["city"] for call in calls if call.type == "function"] == [
        "Paris",
        "Oslo",
    ]
    assert len({call.id for call in calls}) == 2
    results = [{"role": "tool", "tool_call_id": call.id, "content": f"{n} degrees"} for n, call in enumerate(calls)]
    history: list[Any] = [*messages, first.choices[0].message.model_dump(exclude_none=True), *results]
    last = sdk.chat.completions.create(model=A, messages=history, tools=TOOLS)
    assert last.choices[0].finish_reason == "stop"
    one = sdk.chat.completions.create(model=A, messages=messages, tools=TOOLS, parallel_tool_calls=False)
    assert len(one.choices[0].message.tool_calls or []) == 1


@pytest.mark.parametrize("model", [A, REASONING, "command-r7b-12-2024"])
@pytest.mark.parametrize(
    ("choice", "calls"),
    [("auto", 0), ("none", 0), ("required", 1), ({"type": "function", "function": {"name": "get_weather"}}, 1)],
    ids=["auto", "none", "required", "named"],
)
def test_tool_choice(sdk: openai.OpenAI, model: str, choice: Any, calls: int) -> None:
    if model == REASONING and calls:
        pytest.skip("emulated by an instruction, which the emulator does not obey")
    answer = sdk.chat.completions.create(model=model, messages=HELLO, tools=TOOLS, tool_choice=choice)
    assert len(answer.choices[0].message.tool_calls or []) == calls
    assert answer.choices[0].finish_reason == ("tool_calls" if calls else "stop")


def test_names_that_cohere_refuses(sdk: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "function": {**TOOLS[0]["function"], "name": "get-weather.v2"}}
    answer = sdk.chat.completions.create(model=A, messages=PARIS, tools=[tool], tool_choice="required")
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function" and call.function.name == "get-weather.v2"


def test_the_old_functions(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model=A, messages=PARIS, functions=[TOOLS[0]["function"]])
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "function_call"
    assert message.function_call is not None and json.loads(message.function_call.arguments) == {"city": "Paris"}
    assert message.tool_calls is None


# --- JSON ---------------------------------------------------------------------------------------------------


class City(pydantic.BaseModel):
    name: str
    people: int
    sights: list[str]


def test_a_schema(sdk: openai.OpenAI) -> None:
    parsed = sdk.chat.completions.parse(
        model=A, messages=[{"role": "user", "content": "Describe Paris with its 2100000 people"}], response_format=City
    )
    assert isinstance(parsed.choices[0].message.parsed, City)


def test_a_schema_streamed(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(
        model=A, messages=[{"role": "user", "content": "Describe Paris"}], response_format=City
    ) as stream:
        for _ in stream:
            pass
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, City)


@pytest.mark.parametrize("stream", [False, True])
def test_json_of_any_shape(demo: Gateway, stream: bool) -> None:
    response = demo.chat(
        'Give me JSON with the keys "a" and "b"', response_format={"type": "json_object"}, stream=stream
    )
    assert isinstance(json.loads(response.text), dict)


# --- models -------------------------------------------------------------------------------------------------


def test_the_list_of_models(sdk: openai.OpenAI) -> None:
    models = list(sdk.models.list())
    ids = [model.id for model in models]
    assert f"cohere/{A}" in ids and "cohere/embed-v4.0" in ids
    assert all(name.startswith("cohere/") for name in ids)
    assert len(ids) == len(set(ids))
    assert {model.object for model in models} == {"model"}
    assert all(isinstance(model.created, int) and model.owned_by for model in models)
    assert "cohere/command-r-plus" not in ids, "successors are resolved, not listed"


def test_the_list_is_in_openais_shape(demo: Gateway) -> None:
    body = demo.ask("GET", "/v1/models").body
    assert body["object"] == "list" and set(body) == {"object", "data"}


@pytest.mark.parametrize("name", [A, f"cohere/{A}", f"cohere%2F{A}", f"cohere%2f{A}"])
def test_one_model(demo: Gateway, name: str) -> None:
    response = demo.ask("GET", f"/v1/models/{name}")
    assert response.status == 200
    assert response.body["object"] == "model"
    assert response.body["id"] in (A, f"cohere/{A}")


def test_one_model_by_the_sdk(sdk: openai.OpenAI) -> None:
    assert sdk.models.retrieve(f"cohere/{A}").id.endswith(A)
    assert sdk.models.retrieve("cohere/command-r-plus").object == "model"  # by its successor


@pytest.mark.parametrize("name", ["gpt-4", "cohere/none", "cohere/a/b", "a%20b", "caf%C3%A9", "x" * 500])
def test_an_unknown_model(demo: Gateway, name: str) -> None:
    response = demo.ask("GET", f"/v1/models/{name}")
    assert response.status == 404
    assert response.error["code"] == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_asking_an_unknown_model(sdk: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        sdk.chat.completions.create(model="cohere/no-such-model", messages=HELLO, stream=stream)
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("cohere/no-such-model")


def test_aliases(aliased: Gateway) -> None:
    with aliased.client() as sdk:
        ids = [model.id for model in sdk.models.list()]
        assert {"gpt-4o", "ours/fast"} <= set(ids)
        for name in ("gpt-4o", "ours/fast"):
            assert sdk.models.retrieve(name).id == name
            answer = sdk.chat.completions.create(model=name, messages=HELLO)
            assert (answer.model, answer.choices[0].message.content) == (name, COUNTED)
    assert aliased.ask("GET", "/v1/models/ours%2Ffast").status == 200


def test_successors_can_be_switched_off() -> None:
    from gateway.settings.schema import Models

    with demonstration(models=Models(successors=False)) as gateway:
        assert gateway.chat(model="command-r-plus").status == 404
        assert gateway.ask("GET", "/v1/models/command-r-plus").status == 404


# --- headers of ours ------------------------------------------------------------------------------------------

NOTES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"model": "command-r-plus"}, "model command-r-plus -> command-r-plus-08-2024"),
    ({"temperature": 1.4}, "temperature adjusted 1.4 -> 1.0"),
    ({"logit_bias": {"50256": -100}}, "logit_bias ignored"),
    ({"max_tokens": 999_999}, "max_tokens adjusted 999999 -> 8192"),
    ({"unheard_of": 1}, "unheard_of ignored"),
    ({"messages": [{**USER, "name": "ada"}]}, "messages[].name ignored"),
    ({"tools": TOOLS, "parallel_tool_calls": False}, "parallel_tool_calls emulated"),
)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("requested", "note"), NOTES, ids=[note for _, note in NOTES])
def test_notes(demo: Gateway, requested: dict[str, Any], note: str, stream: bool) -> None:
    response = demo.chat(**requested, stream=stream)
    assert response.status == 200
    assert note in response.headers["x-gateway-notes"]


def test_several_notes_in_one_line(demo: Gateway) -> None:
    response = demo.chat(model="command-r-plus", temperature=1.4, logit_bias={"1": 1})
    result = response.headers["x-gateway-notes"].split("; ")
    assert len(result) == 3
    assert {one.split(" ")[0] for one in result} == {"model", "temperature", "logit_bias"}


def test_many_notes_are_counted(demo: Gateway) -> None:
    response = demo.post({"model": A, "messages": [USER], **{f"unheard_of_number_{n}": n for n in range(200)}})
    assert response.status == 200
    header = response.headers["x-gateway-notes"]
    assert len(header) <= 1024
    assert re.search(r"; \+\d+ more\Z", header)


@pytest.mark.parametrize(
    "name",
    ["x\r\nx-evil: yes", "é\u2028", "\x00", "a;b", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")],
)
def test_notes_are_ascii(demo: Gateway, name: str) -> None:
    response = demo.post({"model": A, "messages": [USER], name: 1})
    assert response.status == 200
    assert "x-evil" not in response.headers
    header = response.headers["x-gateway-notes"]
    assert header.isascii() and header.isprintable()


EQUIVALENT: dict[str, Any] = {
    "temperature": 1,
    "top_p": 1,
    "n": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "store": False,
    "stop": "@@",
    "tool_choice": "auto",
    "tools": TOOLS,
    "user": None,
    "metadata": None,
    "response_format": {"type": "text"},
}


@pytest.mark.parametrize("field", EQUIVALENT)
def test_nothing_to_note(demo: Gateway, field: str) -> None:
    request = {field: EQUIVALENT[field]} | ({"tools": TOOLS} if field == "tool_choice" else {})
    response = demo.chat(**request)
    assert response.status == 200
    assert "x-gateway-notes" not in response.headers
    # And strict mode takes it.
    assert demo.chat(**request, headers={"x-gateway-strict": "true"}).status == 200


@pytest.mark.parametrize(
    ("requested", "param"),
    [
        ({"temperature": 1.4}, "temperature"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"max_tokens": 999_999}, "max_tokens"),
        ({"messages": [USER, {"role": "user", "content": "x", "color": "a"}]}, "messages[1].color"),
    ],
)
@pytest.mark.parametrize("value", ["true", "True", " true "])
def test_strict(demo: Gateway, requested: dict[str, Any], param: str, value: str) -> None:
    response = demo.chat(**requested, headers={"x-gateway-strict": value})
    assert (response.status, response.error["param"]) == (400, param)
    assert demo.chat(**requested, headers={"x-gateway-strict": "false"}).status == 200


def test_strict_does_not_mind_what_was_only_noted(demo: Gateway) -> None:
    assert demo.chat(model="command-r-plus", headers={"x-gateway-strict": "true"}).status == 200


def everything(demo: Gateway) -> list[Response]:
    """An answer of every kind."""
    return [
        demo.chat(),
        demo.chat(stream=True),
        demo.chat(model="no-such"),
        demo.chat(model=f"{A}@503"),
        demo.chat(model=f"{A}@cut"),
        demo.chat(model=f"{A}@cut", stream=True),
        demo.chat(temperature="hot"),
        demo.post(b"{"),
        demo.ask("GET", "/v1/models"),
        demo.ask("GET", "/v1/models/none"),
        demo.ask("GET", "/v1/chat/completions"),
        demo.ask("POST", "/v1/nowhere"),
        demo.ask("GET", "/"),
        demo.ask("GET", "/health/live"),
        demo.ask("GET", "/metrics"),
    ]


def test_every_answer_says_that_it_is_the_emulators(demo: Gateway) -> None:
    for response in everything(demo):
        assert response.headers["x-gateway-upstream"] == "emulator", response


def test_every_answer_has_an_id_of_its_own(demo: Gateway) -> None:
    ids = [response.headers["x-request-id"] for response in everything(demo)]
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", result) for result in ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("abc-123_x.y", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("", False),
        ("a b", False),
        ("a\u00e9", False),
        ("a;b", False),
        ("../../etc", False),
        ('{"a":1}', False),
    ],
)
def test_the_callers_id(demo: Gateway, value: str, expected: bool) -> None:
    for body in ({"model": A, "messages": [USER]}, {}):
        response = demo.post(body, {"x-request-id": value}).headers["x-request-id"]
        assert (response == value) is expected
        assert expected or re.fullmatch(r"req_[0-9a-f]{24}", response)


@pytest.mark.parametrize("requested", [{}, {"stream": True}, {"model": "no-such"}, {"model": f"{A}@503"}])
def test_coheres_trace(demo: Gateway, requested: dict[str, Any]) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", demo.chat(**requested).headers["x-cohere-trace-id"])


def test_no_trace_where_cohere_was_not_called(demo: Gateway) -> None:
    assert "x-cohere-trace-id" not in demo.chat(temperature="hot").headers


def test_nothing_of_coheres_own_headers_is_passed_on(demo: Gateway) -> None:
    for response in (demo.chat(), demo.chat(stream=True), demo.ask("GET", "/v1/models")):
        assert not {"x-envoy-upstream-service-time", "num_tokens", "via", "set-cookie", "server"} & set(
            response.headers
        )


def test_odd_text_survives(sdk: openai.OpenAI) -> None:
    text = 'Grüße 世界 🌍 \u2028 <b>&amp;</b> \\ " \t ñ'
    texts = f'Reply with exactly this: "{text}"'
    for stream in (False, True):
        request: Any = sdk.chat.completions.create(
            model=A, messages=[{"role": "user", "content": texts}], stream=stream
        )
        result = (
            "".join(chunk.choices[0].delta.content or "" for chunk in request)
            if stream
            else request.choices[0].message.content
        )
        assert "Grüße 世界 🌍" in result and "<b>&amp;</b>" in result


def test_a_large_picture(demo: Gateway) -> None:
    """Five megabytes in one string, within the limit."""
    data = base64.b64decode(PIXEL.partition(",")[2]) + b"\x00" * (4 << 20)
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    response = demo.chat(
        [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": url}}], model=VISION
    )
    assert response.status in (200, 400) and (response.status == 200 or response.error["message"])


def test_the_order_and_the_keys_of_a_whole_answer(demo: Gateway) -> None:
    """`object` stands second, and `annotations` are there without any citation, as in OpenAI's own answers."""
    response = demo.chat("Hello")
    assert list(response.body)[:3] == ["id", "object", "created"]
    assert response.body["choices"][0]["message"]["annotations"] == []
    response = demo.chat("Hello", stream=True)
    assert all(list(chunk)[:3] == ["id", "object", "created"] for chunk in response.chunks)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_top_logprobs_hold_the_chosen_token(demo: Gateway, stream: bool) -> None:
    response = demo.chat("Hello", logprobs=True, top_logprobs=5, stream=stream)
    answers = response.chunks if stream else [response.body]
    choices = [choice for answer in answers for choice in answer["choices"] if choice["logprobs"]]
    entries = [entry for choice in choices for entry in choice["logprobs"]["content"]]
    assert entries
    for entry in entries:
        assert entry["top_logprobs"] == [{key: entry[key] for key in ("token", "logprob", "bytes")}]
    assert response.headers["x-gateway-notes"] == "top_logprobs adjusted 5 -> the chosen token alone"
    bare = demo.chat("Hello", logprobs=True).body["choices"][0]["logprobs"]["content"]
    assert all(entry["top_logprobs"] == [] for entry in bare)
