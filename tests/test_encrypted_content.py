"""Sealed thoughts: what only their owner's gateway opens, and how they travel through the official SDK."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth import credentials
from gateway.auth.principal import Principal
from gateway.errors import CallerError
from gateway.memory_budget import UNLIMITED, Gathering
from gateway.settings.schema import Settings
from gateway.state import encrypted_content
from gateway.state.encrypted_content import NONCE_BYTES, PREFIX, Seal, TextBudget, seal_of
from support.app import (
    CALLER_KEY,
    MASTER_KEY,
    REASONING,
    SERVER_KEY,
    Harness,
    Response,
    end,
    gateway_over,
    run_harness,
    start,
    whole,
)
from support.principals import principal_of
from support.scripted_upstream import event_stream, json_answer, transcript

KEY = "a Cohere key"
THOUGHT = "The user greets me. I shall greet back, as befits: \N{WAVING HAND SIGN}."
INCLUDE: Any = ["reasoning.encrypted_content"]
SERVER = credentials.store(["the server's key"])
BUDGET = TextBudget(2**40, Gathering(UNLIMITED))
FOREIGN = "input[].encrypted_content ignored (it was not made here)"


def seal_with(key: str, owner: str = "") -> Seal:
    return Seal(credentials.store([key]), owner)


# --- tokens -------------------------------------------------------------------------------------------------


@given(st.text())
def test_what_was_sealed_is_opened(text: str) -> None:
    token = seal_with(KEY, "owner").seal(text)
    assert seal_with(KEY, "owner").open(token, BUDGET) == text


def test_a_token_says_nothing() -> None:
    token = seal_with(KEY).seal(THOUGHT)
    assert token != seal_with(KEY).seal(THOUGHT)
    assert token.isascii() and THOUGHT[:8].encode() not in base64.urlsafe_b64decode(token[len(PREFIX) :])
    assert len(seal_with(KEY).seal("again and " * 1000)) < 300


def test_nobody_else_opens_it() -> None:
    token = seal_with(KEY, "owner").seal(THOUGHT)
    assert seal_with(KEY, "other").open(token, BUDGET) is None
    assert seal_with("another Cohere key", "owner").open(token, BUDGET) is None


def test_a_changed_token_is_not_opened() -> None:
    ours = seal_with(KEY, "owner")
    data = base64.urlsafe_b64decode(ours.seal("short")[len(PREFIX) :])
    for position in range(len(data)):
        changed = bytes([*data[:position], data[position] ^ 1, *data[position + 1 :]])
        assert ours.open(PREFIX + base64.urlsafe_b64encode(changed).decode(), BUDGET) is None
    for length in range(len(data)):
        assert ours.open(PREFIX + base64.urlsafe_b64encode(data[:length]).decode(), BUDGET) is None


@pytest.mark.parametrize(
    "token", ["", "gAAAAABo", PREFIX, PREFIX + "!", PREFIX + "\N{SNOWMAN}", PREFIX + "AAAA", "\udcff"]
)
def test_what_is_no_token_is_not_opened(token: str) -> None:
    assert seal_with(KEY).open(token, BUDGET) is None


def test_no_token_unpacks_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    token = seal_with(KEY).seal("x" * 1000)
    assert seal_with(KEY).open(token, BUDGET)
    monkeypatch.setattr(encrypted_content, "MAX_TEXT_BYTES", 999)
    assert seal_with(KEY).open(token, BUDGET) is None


def test_tokens_unpack_to_no_more_than_the_budget_together() -> None:
    seal, budget = seal_with(KEY), TextBudget(2500, Gathering(UNLIMITED))
    token = seal.seal("x" * 1000)
    assert seal.open(token, budget) and seal.open(token, budget)
    with pytest.raises(CallerError, match="unpacks to more than 2500 bytes"):
        seal.open(token, budget)
    assert seal.open(seal.seal("x" * 2500), TextBudget(2500, Gathering(UNLIMITED)))


def test_packed_data_that_is_none_is_not_opened() -> None:
    nonce = bytes(NONCE_BYTES)
    credential, label = credentials.store([KEY]), encrypted_content.THOUGHT.label
    data = nonce + encrypted_content._ciphers(credential, label)[0].encrypt(nonce, b"not packed", b"")
    assert Seal(credential).open(PREFIX + base64.urlsafe_b64encode(data).decode(), BUDGET) is None


def test_callers_of_one_key_are_distinguished() -> None:
    one, other = (Principal("name", owner, False, SERVER) for owner in ("one", "other"))
    token = seal_of(one).seal(THOUGHT)
    assert seal_of(one).open(token, BUDGET) == THOUGHT
    assert seal_of(other).open(token, BUDGET) is None


# --- through the gateway ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    with run_harness() as result:
        yield result


def _thinking(text: str) -> dict[str, Any]:
    content = [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": text}]
    return {**whole(), "message": {"role": "assistant", "content": content}}


def _block(index: int, kind: str, key: str, text: str) -> list[dict[str, Any]]:
    return [
        {"type": "content-start", "index": index, "delta": {"message": {"content": {"type": kind, key: ""}}}},
        {"type": "content-delta", "index": index, "delta": {"message": {"content": {key: text}}}},
        {"type": "content-end", "index": index},
    ]


def _sealed(sdk: openai.OpenAI) -> str:
    answer = sdk.responses.create(model=REASONING, input="Hello", include=INCLUDE, store=False)
    thought = answer.output[0]
    assert thought.type == "reasoning" and thought.encrypted_content
    return thought.encrypted_content


def _next_turn(sdk: openai.OpenAI, token: str) -> str:
    """What the caller is told who sends back the token and nothing else of the thought."""
    turn: Any = [
        {"role": "user", "content": "Hello"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": token},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "And now?"},
    ]
    answer = sdk.responses.with_raw_response.create(model=REASONING, input=turn, store=False)
    return answer.headers.get("x-gateway-notes", "")


def _request_text(harness: Harness) -> Any:
    """The assistant's turn as Cohere got it last."""
    return harness.upstream.requests[-1].json()["messages"][1]["content"]


def test_the_thinking_comes_back(harness: Harness) -> None:
    harness.respond_with(json_answer(200, _thinking("Hi.")))
    with harness.gateway.client() as sdk:
        assert _next_turn(sdk, _sealed(sdk)) == ""
    assert _request_text(harness) == [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": "Hi."}]


def test_a_stream_seals_as_well(harness: Harness) -> None:
    events = [start(), *_block(0, "thinking", "thinking", THOUGHT), *_block(1, "text", "text", "Hi."), end()]
    harness.respond_with(event_stream(transcript(*events)), json_answer(200, whole()))
    tokens = []
    with harness.gateway.client() as sdk:
        for event in sdk.responses.create(model=REASONING, input="a", include=INCLUDE, store=False, stream=True):
            if event.type == "response.output_item.done" and event.item.type == "reasoning":
                tokens.append(event.item.encrypted_content)
            if event.type == "response.completed" and event.response.output[0].type == "reasoning":
                tokens.append(event.response.output[0].encrypted_content)
        assert len(tokens) == 2 and len(set(tokens)) == 1 and tokens[0]
        assert _next_turn(sdk, tokens[0]) == ""
    assert _request_text(harness)[0] == {"type": "thinking", "thinking": THOUGHT}


def test_it_is_sealed_only_when_requested(harness: Harness) -> None:
    harness.respond_with(json_answer(200, _thinking("Hi.")))
    with harness.gateway.client() as sdk:
        thought = sdk.responses.create(model=REASONING, input="Hello", store=False).output[0]
    assert thought.type == "reasoning" and not thought.encrypted_content


def test_another_replica_opens_it(harness: Harness) -> None:
    harness.respond_with(json_answer(200, _thinking("Hi.")))
    with gateway_over(harness.upstream.url) as replica, harness.gateway.client() as one, replica.client() as other:
        assert _next_turn(other, _sealed(one)) == ""
    assert _request_text(harness)[0] == {"type": "thinking", "thinking": THOUGHT}


def test_another_caller_does_not(harness: Harness) -> None:
    harness.respond_with(json_answer(200, _thinking("Hi.")))
    with harness.gateway.client() as one, harness.gateway.client("another-caller") as other:
        assert _next_turn(other, _sealed(one)) == FOREIGN
    assert _request_text(harness) == "Hi."


def test_a_foreign_token_is_ignored_and_noted(harness: Harness) -> None:
    harness.respond_with(json_answer(200, whole()))
    with harness.gateway.client() as sdk:
        assert _next_turn(sdk, "gAAAAABnothing-of-ours") == FOREIGN
    assert _request_text(harness) == "Hi."


def test_a_request_unpacks_no_more_than_a_body_may_have() -> None:
    """Whoever brings a Cohere key can make tokens with it, of eleven kilobytes that unpack to eight megabytes."""
    caller = principal_of(Settings(), CALLER_KEY)
    with run_harness(body_limit=100_000) as harness:
        token = seal_of(caller).seal("x" * 30_000)
        assert len(token) < 300

        def ask(count: int) -> Response:
            items = [*({"type": "reasoning", "summary": [], "encrypted_content": token} for _ in range(count))]
            request = {"model": REASONING, "input": [*items, {"role": "user", "content": "Hello"}], "store": False}
            return harness.gateway.ask("POST", "/v1/responses", request)

        refused = ask(4)
        assert (refused.status, refused.body["error"]["code"]) == (413, "request_too_large")
        assert "unpacks to more than 100000 bytes" in refused.body["error"]["message"]
        assert not harness.upstream.requests
        harness.respond_with(json_answer(200, whole()))
        assert ask(3).status == 200


def test_the_servers_key_seals_too() -> None:
    with run_harness(key=MASTER_KEY, cohere_api_key=[SERVER_KEY], master_key=MASTER_KEY) as harness:
        harness.respond_with(json_answer(200, _thinking("Hi.")))
        with harness.gateway.client() as sdk:
            assert _next_turn(sdk, _sealed(sdk)) == ""
        assert _request_text(harness)[0] == {"type": "thinking", "thinking": THOUGHT}


KEYS = (
    ("added at the end", ["one"], ["one", "two"], True),
    ("added in front", ["one"], ["two", "one"], True),
    ("in another order", ["one", "two"], ["two", "one"], True),
    ("taken away, not the first", ["one", "two"], ["one"], True),
    ("taken away, the first", ["one", "two"], ["two"], False),
    ("replaced", ["one"], ["two"], False),
)


@pytest.mark.parametrize(("before", "after", "opens"), [row[1:] for row in KEYS], ids=[row[0] for row in KEYS])
def test_the_servers_keys_may_change(before: list[str], after: list[str], opens: bool) -> None:
    old, new = (
        principal_of(Settings(cohere_api_key=keys, master_key=MASTER_KEY), MASTER_KEY) for keys in (before, after)
    )
    token = seal_of(old).seal(THOUGHT)
    assert seal_of(new).open(token, BUDGET) == (THOUGHT if opens else None)
    assert seal_of(old).open(token, BUDGET) == THOUGHT
