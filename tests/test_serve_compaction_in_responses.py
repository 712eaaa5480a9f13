"""Compaction inside `POST /v1/responses`: an input that ends in a `compaction_trigger`, and `context_management`; and
`prompt_cache_options.prewarm`, which is answered without Cohere. Whole and streamed, over a scripted upstream.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.app import A, Harness, Response, answered, end, opened, piece, run_harness, start, streamed
from support.scripted_upstream import event_stream, json_answer, transcript

RESPONSES = "/v1/responses"
WHOLE_AND_STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
LONG = "A long story about a lighthouse. " * 200


@pytest.fixture(scope="module")
def on() -> Iterator[Harness]:
    with run_harness() as one:
        yield one


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


HISTORY = [user(LONG), {"role": "assistant", "content": "I see."}, user("What next?")]


def ask(on: Harness, stream: bool, **fields: Any) -> Response:
    return on.gateway.ask("POST", RESPONSES, {"model": A, "stream": stream, **fields})


def events(http_response: Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in http_response.data.decode().splitlines() if line.startswith("data: {")]


def response(http_response: Response) -> Any:
    assert http_response.status == 200, http_response
    return (
        events(http_response)[-1]["response"]
        if http_response.headers["content-type"].startswith("text/event")
        else http_response.body
    )


def upstream_bodies(on: Harness) -> list[dict[str, Any]]:
    return [request.json() for request in on.upstream.requests]


@WHOLE_AND_STREAMED
def test_a_trigger_is_answered_by_a_compaction_that_replaces_what_came_before(on: Harness, stream: bool) -> None:
    on.respond_with(answered("SUMMARY"))
    http_response = ask(on, stream, input=[*HISTORY, {"type": "compaction_trigger"}])
    result = response(http_response)
    (item,) = result["output"]
    assert item["type"] == "compaction" and item["encrypted_content"] and result["status"] == "completed"
    assert result["usage"]["total_tokens"] == 73
    (body,) = upstream_bodies(on)
    assert body["stream"] is False and "[user]\nWhat next?" in body["messages"][1]["content"]
    if stream:
        types = [event["type"].removeprefix("response.") for event in events(http_response)]
        assert types == [
            *("created", "in_progress", "output_item.added", "compaction.compacting", "output_item.done", "completed")
        ]
    # Continued over the item, or over the stored response: the summary stands for all that came before.
    for fields in (
        {"input": [*HISTORY, item, user("Go on")]},
        {"input": [user("Go on")], "previous_response_id": result["id"]},
    ):
        on.respond_with(answered("Yes."))
        assert response(ask(on, False, **fields))["output"][0]["content"][0]["text"] == "Yes."
        (body,) = upstream_bodies(on)
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        assert body["messages"][0]["content"].endswith("SUMMARY") and body["messages"][1]["content"] == "Go on"


def test_a_trigger_that_is_not_the_last_item_is_noted(on: Harness) -> None:
    on.respond_with(answered("Hi."))
    http_response = ask(on, False, store=False, input=[user("a"), {"type": "compaction_trigger"}, user("b")])
    assert (
        "input[].type compaction_trigger ignored (it is not the last item)" in http_response.headers["x-gateway-notes"]
    )
    assert http_response.body["output"][0]["content"][0]["text"] == "Hi."


@WHOLE_AND_STREAMED
def test_a_conversation_beyond_the_threshold_is_compacted_before_it_is_answered(on: Harness, stream: bool) -> None:
    managed = [{"type": "compaction", "compact_threshold": 1000}]
    on.respond_with(answered("SUMMARY"), streamed("It ", "ends.") if stream else answered("It ends."))
    http_response = ask(on, stream, input=HISTORY, context_management=managed, instructions="Be brief.")
    result = response(http_response)
    compaction, message = result["output"]
    assert (compaction["type"], message["type"]) == ("compaction", "message")
    assert message["content"][0]["text"] == "It ends."
    assert result["usage"]["total_tokens"] == 2 * 73, "both calls are counted"
    assert "context_management emulated" in http_response.headers["x-gateway-notes"]
    summary, answer = upstream_bodies(on)
    assert LONG in summary["messages"][1]["content"] and summary["stream"] is False
    assert answer["stream"] is stream
    assert [message["role"] for message in answer["messages"]] == ["system", "user"]
    assert "Be brief." in answer["messages"][0]["content"] and "SUMMARY" in answer["messages"][0]["content"]
    assert LONG not in json.dumps(answer)
    if stream:
        event_types = events(http_response)
        assert [event["sequence_number"] for event in event_types] == list(range(len(event_types)))
        compacting = next(event for event in event_types if event["type"] == "response.compaction.compacting")
        assert (compacting["item_id"], compacting["output_index"]) == (compaction["id"], 0)
    # The next turn begins at the compaction.
    on.respond_with(answered("Fine."))
    response(ask(on, False, input="And then?", previous_response_id=result["id"]))
    (body,) = upstream_bodies(on)
    assert [message["role"] for message in body["messages"]] == ["system", "assistant", "user"]


def test_an_answer_that_fails_has_the_usage_of_its_summary(on: Harness) -> None:
    managed = [{"type": "compaction", "compact_threshold": 1000}]
    for ending, tokens in (([end("ERROR")], 2 * 73), ([], 73)):
        on.respond_with(
            answered("SUMMARY"), event_stream(transcript(start(), opened(), piece("It "), *ending, done=False))
        )
        last = events(ask(on, True, store=False, input=HISTORY, context_management=managed))[-1]
        assert last["type"] == "response.failed" and last["response"]["usage"]["total_tokens"] == tokens


@WHOLE_AND_STREAMED
def test_a_summary_replaces_the_one_before(on: Harness, stream: bool) -> None:
    """Each was in the transcript of the next: to keep them all would make the prompt longer with each compaction."""
    managed = [{"type": "compaction", "compact_threshold": 1000}]
    on.respond_with(answered("FIRST"))
    earlier = response(ask(on, False, input=[*HISTORY, {"type": "compaction_trigger"}], instructions="Be brief."))
    on.respond_with(answered("SECOND"), streamed("It ends.") if stream else answered("It ends."))
    fields = {"context_management": managed, "instructions": "Be brief."}
    result = response(ask(on, stream, previous_response_id=earlier["id"], input=HISTORY, **fields))
    summary, answer = upstream_bodies(on)
    assert "FIRST" in summary["messages"][1]["content"]
    on.respond_with(answered("Fine."))
    response(ask(on, False, input="And then?", previous_response_id=result["id"], instructions="Be brief."))
    (following,) = upstream_bodies(on)
    for body in (answer, following):
        system = body["messages"][0]["content"]
        assert "Be brief." in system and "SECOND" in system and "FIRST" not in system


@WHOLE_AND_STREAMED
@pytest.mark.parametrize(
    ("items", "managed"),
    [
        (HISTORY, [{"type": "compaction", "compact_threshold": 100_000}]),
        (HISTORY, [{"type": "compaction"}]),
        ([user(LONG)], [{"type": "compaction", "compact_threshold": 1000}]),
    ],
    ids=["below", "below the default", "one turn"],
)
def test_what_need_not_or_cannot_be_compacted_is_answered_at_once(
    on: Harness, items: list[Any], managed: list[Any], stream: bool
) -> None:
    on.respond_with(streamed("Hi.") if stream else answered("Hi."))
    result = response(ask(on, stream, store=False, input=items, context_management=managed))
    assert [item["type"] for item in result["output"]] == ["message"] and len(upstream_bodies(on)) == 1


@WHOLE_AND_STREAMED
def test_a_summary_that_is_cut_short_is_no_answer(on: Harness, stream: bool) -> None:
    managed = [{"type": "compaction", "compact_threshold": 1000}]
    for fields in (
        {"input": HISTORY, "context_management": managed},
        {"input": [*HISTORY, {"type": "compaction_trigger"}]},
    ):
        on.respond_with(answered("SUMM", finish="MAX_TOKENS"))
        http_response = ask(on, stream, store=False, **fields)
        assert (http_response.status, http_response.error["code"]) == (502, "compaction_failed")
        on.respond_with(json_answer(429, {"message": "past the per minute request limit, please wait"}))
        assert ask(on, stream, store=False, **fields).status == 429


@WHOLE_AND_STREAMED
def test_prewarming_is_answered_without_cohere(on: Harness, stream: bool) -> None:
    on.respond_with(answered("never"))
    result = response(ask(on, stream, input="Hi", prompt_cache_options={"prewarm": True}))
    assert (result["status"], result["output"]) == ("completed", []) and not upstream_bodies(on)
    on.respond_with(answered("Hello."))
    response(ask(on, False, input="And?", previous_response_id=result["id"]))
    assert [message["role"] for message in upstream_bodies(on)[0]["messages"]] == ["user", "user"]
    on.respond_with(json_answer(200, {"tokens": [1, 2], "token_strings": ["a", "b"]}))
    body = {"model": A, "input": "Hi", "prompt_cache_options": {"prewarm": True}}
    assert on.gateway.ask("POST", f"{RESPONSES}/input_tokens", body).body["input_tokens"] == 2
