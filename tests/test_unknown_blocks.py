"""What Cohere may say that has no place in OpenAI's shapes: content of new kinds, deltas without a text, and answers
that Cohere's filter has cut. Whole and streamed, in chat and in Responses, through a real server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.app import IDENTITY, A, Harness, run_harness, whole
from support.scripted_upstream import Script, event_stream, json_answer, transcript
from support.transcripts import Event, content_delta, content_end, content_start, message_end, message_start

RESPONSES = "/v1/responses"
FOREIGN: dict[str, Any] = {"type": "audio", "audio": "bm9pc2U="}


@pytest.fixture(scope="module")
def on() -> Iterator[Harness]:
    with run_harness() as harness:
        yield harness


def foreign(kind: str, index: int, content: Any) -> Event:
    return {"type": kind, "index": index, "delta": {"message": {"content": content}}}


def respond(on: Harness, script: Script, stream: bool) -> dict[str, Any]:
    """The response, or that of a stream's last event."""
    on.respond_with(script)
    answer = on.gateway.ask("POST", RESPONSES, {"model": A, "input": "Hi", "store": False, "stream": stream})
    if not stream:
        return dict(answer.body)
    lines = [line for line in answer.data.decode().splitlines() if line.startswith("data: {")]
    return dict(json.loads(lines[-1].removeprefix("data: "))["response"])


def story(first: list[Event]) -> Script:
    """A stream that begins with these events, and then says Hi."""
    words = [content_start(1), content_delta(1, "Hi"), content_end(1)]
    return event_stream(transcript(message_start(IDENTITY), *first, *words, message_end()))


STORIES: dict[str, list[Event]] = {
    "a block of a new kind": [
        foreign("content-start", 0, FOREIGN),
        foreign("content-delta", 0, {"audio": "bm9pc2U="}),
        content_end(0),
    ],
    "a delta without a text": [foreign("content-delta", 0, {"text": None})],
    "a delta of nothing": [foreign("content-delta", 0, {})],
}


@pytest.mark.parametrize("name", STORIES)
def test_what_has_no_words_is_no_item(on: Harness, name: str) -> None:
    """It was a message, or a reasoning item, without a text in front of the answer."""
    (message,) = respond(on, story(STORIES[name]), True)["output"]
    assert message["content"][0]["text"] == "Hi"
    assert on.chat_over(story(STORIES[name]), stream=True).text == "Hi"


def test_a_block_of_a_new_kind_in_a_whole_answer(on: Harness) -> None:
    blocks = [FOREIGN, {"type": "text", "text": "Hi"}, FOREIGN]
    (message,) = respond(on, json_answer(200, whole(content=blocks)), False)["output"]
    assert message["content"][0]["text"] == "Hi"


def test_log_probabilities_without_a_text_belong_to_the_text(on: Harness) -> None:
    """A delta of them alone does not end the text."""
    logprobs = {"text": "", "token_ids": [1], "logprobs": [-0.5]}
    alone = {**foreign("content-delta", 1, {}), "logprobs": logprobs}
    events = [message_start(IDENTITY), content_start(1), content_delta(1, "Hi"), alone, content_delta(1, " there")]
    script = event_stream(transcript(*events, content_end(1), message_end()))
    (message,) = respond(on, script, True)["output"]
    assert message["content"][0]["text"] == "Hi there"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_the_filter_cut(on: Harness, stream: bool) -> None:
    """Chat says content_filter, and Responses has a reason of that name."""
    events = [message_start(IDENTITY), content_start(0), content_delta(0, "So"), content_end(0)]
    cut = event_stream(transcript(*events, message_end("ERROR_TOXIC")))
    script = cut if stream else json_answer(200, whole("So", finish="ERROR_TOXIC"))
    response = respond(on, script, stream)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
    assert response["output"][0]["status"] == "incomplete"
    chat = on.chat_over(script, stream=stream)
    choices = [choice for chunk in chat.chunks for choice in chunk["choices"]] if stream else chat.body["choices"]
    assert choices[-1]["finish_reason"] == "content_filter"
