"""`truncation: "auto"`: what is left out of a conversation that Cohere finds too long, and what never is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.openai.chat import (
    AssistantMessage,
    FunctionCall,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from support.app import A, Gateway, gateway_over, story, whole
from support.scripted_upstream import Request, Script, ScriptedUpstream, event_stream, json_answer, transcript
from translators.request.truncation import MOST_HALVINGS, next_halving, shortened

TOO_LONG = {"id": "1", "message": "too many tokens: total number of tokens in this request cannot exceed 128000"}


def _calls(*ids: str) -> AssistantMessage:
    return AssistantMessage(tool_calls=[ToolCall(FunctionCall("look", "{}"), call_id) for call_id in ids])


def _talk(turns: int) -> list[Message]:
    talk: list[Message] = [SystemMessage("Be kind.")]
    for turn in range(turns):
        talk += [UserMessage(f"question {turn}"), AssistantMessage(f"answer {turn}")]
    return [*talk, UserMessage("last")]


# --- which messages -----------------------------------------------------------------------------------------


def test_half_of_the_history_goes_first() -> None:
    talk = _talk(8)
    assert shortened(talk, 0) == talk
    assert shortened(talk, 1) == [talk[0], *talk[-7:]]
    assert shortened(talk, 2) == [talk[0], *talk[-3:]]
    assert shortened(talk, 3) == shortened(talk, 4) == [talk[0], talk[-1]]


def test_only_halvings_that_change_something_are_tried() -> None:
    talk = _talk(8)
    assert [next_halving(talk, halvings) for halvings in range(5)] == [1, 2, 3, None, None]
    assert next_halving([UserMessage("alone")], 0) is None
    assert next_halving([], 0) is None


def test_results_stay_with_their_calls_and_the_question_with_both() -> None:
    rounds: list[Message] = []
    for number in range(4):
        rounds += [_calls(f"a{number}", f"b{number}"), ToolMessage(f"a{number}", "x"), ToolMessage(f"b{number}", "y")]
    talk = [UserMessage("question"), *rounds]
    assert shortened(talk, 1) == [talk[0], *rounds[-6:]]
    assert shortened(talk, 2) == shortened(talk, 3) == [talk[0], *rounds[-3:]]


def test_a_late_result_keeps_everything_since_its_call() -> None:
    late: list[Message] = [
        _calls("a", "b"),
        ToolMessage("b", "x"),
        UserMessage("Well?"),
        _calls("c"),
        ToolMessage("a", "y"),
    ]
    talk: list[Message] = [UserMessage("1"), UserMessage("2"), *late, ToolMessage("c", "z")]
    assert shortened(talk, 1) == shortened(talk, 4) == talk[2:]


_TURN: dict[str, Callable[[str], list[Message]]] = {
    "system": lambda text: [SystemMessage(text)],
    "user": lambda text: [UserMessage(text)],
    "words": lambda text: [AssistantMessage(text)],
    "call": lambda text: [_calls(text), ToolMessage(text, "x")],
    "calls": lambda text: [_calls(text, text + "b"), ToolMessage(text + "b", "x"), ToolMessage(text, "y")],
}


@given(st.lists(st.sampled_from(list(_TURN)), max_size=30), st.integers(1, MOST_HALVINGS))
def test_what_is_left_is_a_conversation(turns: list[str], halvings: int) -> None:
    talk = [message for number, turn in enumerate(turns) for message in _TURN[turn](str(number))]
    left = shortened(talk, halvings)
    positions = [next(position for position, message in enumerate(talk) if message is one) for one in left]
    assert positions == sorted(positions)
    assert [one for one in left if isinstance(one, SystemMessage)] == [
        one for one in talk if isinstance(one, SystemMessage)
    ]
    assert [one for one in talk if isinstance(one, UserMessage)][-1:] == [
        one for one in left if isinstance(one, UserMessage)
    ][-1:]
    if talk:
        assert left and left[-1] is talk[-1]
    called = {call.id for one in left if isinstance(one, AssistantMessage) for call in one.tool_calls or ()}
    assert called == {one.tool_call_id for one in left if isinstance(one, ToolMessage)}


# --- through the gateway ------------------------------------------------------------------------------------


class _Narrow:
    """An upstream whose model takes so many messages and no more."""

    def __init__(self) -> None:
        self.most = 100

    def __call__(self, request: Request) -> Script:
        sent_body = request.json()
        if len(sent_body["messages"]) > self.most:
            return json_answer(400, TOO_LONG)
        return event_stream(transcript(*story())) if sent_body.get("stream") else json_answer(200, whole())


class _NarrowGateway:
    def __init__(self, gateway: Gateway, upstream: ScriptedUpstream, narrow: _Narrow) -> None:
        self.gateway, self.upstream, self.narrow = gateway, upstream, narrow

    def contents(self) -> list[list[str]]:
        """The messages' contents of each request to Cohere."""
        return [[message["content"] for message in request.json()["messages"]] for request in self.upstream.requests]


@pytest.fixture(scope="module")
def running() -> Iterator[_NarrowGateway]:
    narrow = _Narrow()
    with ScriptedUpstream(narrow).run_in_thread() as upstream, gateway_over(upstream.url) as gateway:
        yield _NarrowGateway(gateway, upstream, narrow)


@pytest.fixture
def narrow_gateway(running: _NarrowGateway) -> _NarrowGateway:
    running.upstream.exchanges.clear()
    return running


def _input(turns: int) -> Any:
    talk: list[dict[str, str]] = []
    for turn in range(turns):
        talk += [{"role": "user", "content": f"q{turn}"}, {"role": "assistant", "content": f"a{turn}"}]
    return [*talk, {"role": "user", "content": "last"}]


REQUEST: dict[str, Any] = {"model": A, "instructions": "Be kind.", "store": False}


def test_the_oldest_turns_are_left_out(narrow_gateway: _NarrowGateway) -> None:
    narrow_gateway.narrow.most = 4
    with narrow_gateway.gateway.client() as sdk:
        raw = sdk.responses.with_raw_response.create(input=_input(8), truncation="auto", **REQUEST)
    answer = raw.parse()
    assert (answer.output_text, answer.truncation) == ("Hi there.", "auto")
    assert raw.headers["x-gateway-notes"] == "truncation auto: the oldest 14 messages left out"
    assert [len(request) for request in narrow_gateway.contents()] == [18, 8, 4]
    assert narrow_gateway.contents()[-1] == ["Be kind.", "q7", "a7", "last"]


def test_a_stream_as_well(narrow_gateway: _NarrowGateway) -> None:
    narrow_gateway.narrow.most = 8
    with narrow_gateway.gateway.client() as sdk:
        events = list(sdk.responses.create(input=_input(8), truncation="auto", stream=True, **REQUEST))
    final = events[-1]
    assert final.type == "response.completed"
    assert (final.response.output_text, final.response.truncation) == ("Hi there.", "auto")
    assert [event.type for event in events].count("response.created") == 1
    assert [len(request) for request in narrow_gateway.contents()] == [18, 8]


def test_what_is_not_too_long_is_sent_whole(narrow_gateway: _NarrowGateway) -> None:
    narrow_gateway.narrow.most = 100
    with narrow_gateway.gateway.client() as sdk:
        raw = sdk.responses.with_raw_response.create(input=_input(8), truncation="auto", **REQUEST)
    assert "x-gateway-notes" not in raw.headers
    assert [len(request) for request in narrow_gateway.contents()] == [18]


@pytest.mark.parametrize(("truncation", "calls"), [("auto", 5), ("disabled", 1), (None, 1)])
def test_what_cannot_be_short_enough_is_an_error(narrow_gateway: _NarrowGateway, truncation: Any, calls: int) -> None:
    narrow_gateway.narrow.most = 0
    with narrow_gateway.gateway.client() as sdk, pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(input=_input(40), truncation=truncation, **REQUEST)
    assert caught.value.code == "context_length_exceeded"
    assert len(narrow_gateway.contents()) == calls


def test_strict_mode_lets_it_be(narrow_gateway: _NarrowGateway) -> None:
    narrow_gateway.narrow.most = 4
    with narrow_gateway.gateway.client() as sdk:
        answer = sdk.responses.create(
            input=_input(8), truncation="auto", extra_headers={"x-gateway-strict": "true"}, **REQUEST
        )
    assert answer.output_text == "Hi there."


def test_other_values_are_refused(narrow_gateway: _NarrowGateway) -> None:
    response = narrow_gateway.gateway.ask(
        "POST", "/v1/responses", {"model": A, "input": "a", "truncation": "some", "store": False}
    )
    assert (response.status, response.error["param"], narrow_gateway.contents()) == (400, "truncation", [])


def test_disabled_is_echoed(narrow_gateway: _NarrowGateway) -> None:
    narrow_gateway.narrow.most = 100
    with narrow_gateway.gateway.client() as sdk:
        assert sdk.responses.create(input="a", **REQUEST).truncation == "disabled"


def test_chat_has_no_truncation(narrow_gateway: _NarrowGateway) -> None:
    narrow_gateway.narrow.most = 0
    assert narrow_gateway.gateway.chat().error["code"] == "context_length_exceeded"
    assert len(narrow_gateway.contents()) == 1
