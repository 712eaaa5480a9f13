"""The OpenAI Agents SDK on the gateway, as its users write it: its default model class, which speaks Responses.

The upstream is the emulator. What is looked at is what the SDK makes of the answers: calls, results, handoffs, typed
outputs, events, sessions.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import openai
import pydantic
import pytest

from support.app import REASONING, A, Gateway, demonstration

if TYPE_CHECKING:
    import agents  # takes a second, which each worker would spend at collection: see `agents_sdk`

T = TypeVar("T")

PARIS = "What is the weather in Paris?"
FIRST_MESSAGE, CORRECT_ANSWER = "My name is Ada.", "What is my name?"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    file = tmp_path_factory.mktemp("storage") / "responses.sqlite3"
    with demonstration(database_url=f"sqlite:///{file}") as gateway:
        yield gateway


@pytest.fixture(scope="module", autouse=True)
def agents_sdk() -> None:
    """Import the SDK in the workers that run these tests, and in no other."""
    globals()["agents"] = importlib.import_module("agents")
    agents.set_tracing_disabled(True)  # traces would be sent to OpenAI


def run(gateway: Gateway, work: Callable[[Callable[[str], Any]], Awaitable[T]]) -> T:
    """`work` gets a function from a model's name to the SDK's default model on this gateway."""

    async def main() -> T:
        async with openai.AsyncOpenAI(
            base_url=f"{gateway.url}/v1",
            api_key=gateway.key,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False, verify=False),
        ) as client:
            return await work(lambda name: agents.OpenAIResponsesModel(name, client))

    return asyncio.run(main())


def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"Sunny in {city}, 22 degrees"


# --- tools --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [A, REASONING])
def test_a_tool_loop(served: Gateway, model: str) -> None:
    async def work(model_of: Callable[[str], Any]) -> Any:
        agent = agents.Agent(
            name="weather", instructions="Be brief.", model=model_of(model), tools=[agents.function_tool(get_weather)]
        )
        return await agents.Runner.run(agent, PARIS)

    result = run(served, work)
    assert "22" in result.final_output
    kinds = [item.type for item in result.new_items]
    assert kinds.count("tool_call_item") == kinds.count("tool_call_output_item") == 1
    assert kinds[-1] == "message_output_item"
    assert result.context_wrapper.usage.requests == 2
    assert result.context_wrapper.usage.input_tokens > 0 < result.context_wrapper.usage.output_tokens


@pytest.mark.parametrize("model", [A, REASONING])
def test_a_streamed_tool_loop(served: Gateway, model: str) -> None:
    async def work(model_of: Callable[[str], Any]) -> tuple[Any, list[Any]]:
        agent = agents.Agent(
            name="weather", instructions="Be brief.", model=model_of(model), tools=[agents.function_tool(get_weather)]
        )
        streaming = agents.Runner.run_streamed(agent, PARIS)
        return streaming, [event async for event in streaming.stream_events()]

    result, output = run(served, work)
    raw = [event.data for event in output if event.type == "raw_response_event"]
    words = "".join(event.delta for event in raw if event.type == "response.output_text.delta")
    assert words.endswith(result.final_output) and "22" in result.final_output
    arguments = [event.arguments for event in raw if event.type == "response.function_call_arguments.done"]
    assert [json.loads(one) for one in arguments] == [{"city": "Paris"}]
    named = [event.name for event in output if event.type == "run_item_stream_event"]
    assert named.index("tool_called") < named.index("tool_output") < named.index("message_output_created")


def test_a_tool_that_must_be_called_is(served: Gateway) -> None:
    async def work(model_of: Callable[[str], Any]) -> Any:
        agent = agents.Agent(
            name="weather",
            model=model_of(A),
            tools=[agents.function_tool(get_weather)],
            model_settings=agents.ModelSettings(tool_choice="get_weather", parallel_tool_calls=False),
            tool_use_behavior="stop_on_first_tool",
        )
        return await agents.Runner.run(agent, "Hello, I am in Oslo")

    assert run(served, work).final_output.startswith("Sunny in")


# --- handoffs and types -------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_handoff(served: Gateway, streamed: bool) -> None:
    async def work(model_of: Callable[[str], Any]) -> Any:
        weather = agents.Agent(
            name="Weather",
            instructions="You know the weather.",
            model=model_of(A),
            tools=[agents.function_tool(get_weather)],
        )
        desk = agents.Agent(
            name="Desk",
            instructions="Send people on.",
            model=model_of(A),
            handoffs=[agents.handoff(weather, tool_description_override="Questions about the weather")],
        )
        request = "transfer to weather: what is the weather in Paris?"
        if not streamed:
            return await agents.Runner.run(desk, request)
        streaming = agents.Runner.run_streamed(desk, request)
        async for _ in streaming.stream_events():
            pass
        return streaming

    result = run(served, work)
    assert result.last_agent.name == "Weather"
    assert "handoff_output_item" in [item.type for item in result.new_items]


class Person(pydantic.BaseModel):
    name: str
    age: int


@pytest.mark.parametrize("beside_tools", [False, True], ids=["alone", "beside tools"])
def test_a_typed_output(served: Gateway, beside_tools: bool) -> None:
    async def work(model_of: Callable[[str], Any]) -> Any:
        agent = agents.Agent(
            name="reader",
            model=model_of(A),
            output_type=Person,
            tools=[agents.function_tool(get_weather)] if beside_tools else [],
        )
        return await agents.Runner.run(agent, "Ada Lovelace died at the age of 36.")

    person = run(served, work).final_output
    assert isinstance(person, Person) and person.age == 36


# --- memory -------------------------------------------------------------------------------------------------


def test_runs_that_continue_each_other(served: Gateway) -> None:
    """By the response's id, as the SDK does it when it is told to."""

    async def work(model_of: Callable[[str], Any]) -> Any:
        agent = agents.Agent(name="memory", model=model_of(A))
        first = await agents.Runner.run(agent, FIRST_MESSAGE)
        return await agents.Runner.run(agent, CORRECT_ANSWER, previous_response_id=first.last_response_id)

    assert run(served, work).final_output == "Your name is Ada."


def test_a_conversation_held_by_the_server(served: Gateway) -> None:
    async def work(model_of: Callable[[str], Any]) -> tuple[Any, Any]:
        model = model_of(A)
        session = agents.OpenAIConversationsSession(openai_client=model._client)
        agent = agents.Agent(name="memory", model=model)
        await agents.Runner.run(agent, FIRST_MESSAGE, session=session)
        again = await agents.Runner.run(agent, CORRECT_ANSWER, session=session)
        return again, await session.get_items()

    again, items = run(served, work)
    assert again.final_output == "Your name is Ada."
    assert [item["role"] for item in items] == ["user", "assistant", "user", "assistant"]


def test_a_session_held_by_the_client(served: Gateway, tmp_path: Path) -> None:
    """Nothing is stored here: the whole history comes back as input, reasoning included."""

    async def work(model_of: Callable[[str], Any]) -> Any:
        session = agents.SQLiteSession("one", tmp_path / "session.db")
        settings = agents.ModelSettings(store=False, response_include=["reasoning.encrypted_content"])
        agent = agents.Agent(
            name="weather",
            model=model_of(REASONING),
            tools=[agents.function_tool(get_weather)],
            model_settings=settings,
        )
        try:
            await agents.Runner.run(agent, PARIS, session=session)
            return await agents.Runner.run(agent, "And in Oslo?", session=session, run_config=agents.RunConfig())
        finally:
            session.close()

    assert run(served, work).final_output
