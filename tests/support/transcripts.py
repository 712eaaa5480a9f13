"""Streams of Cohere's for the tests: recorded, written by hand, and made by rule; and what they amount to.

Two folders live here, each written without a look at the code under test: `whole` folds Cohere's events into
the whole answer that Cohere would have given instead, and `fold` folds the chunks of a chat stream into the
completion that an OpenAI client would see.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings

from support.recordings import select
from translators.core.contracts import Context, LearnedCapabilities, Policy, ResponseIdentity, UsageBase
from translators.core.errors import Failure
from translators.operations import chat

Event = dict[str, Any]

STREAMS = Path(__file__).resolve().parents[1] / "golden" / "stream"
CREATED = 1_700_000_000
UNIQUE = "00112233445566778899aabbccddeeff"
MODEL = "command-a-03-2025"
REQUEST: dict[str, Any] = {
    "model": f"cohere/{MODEL}",
    "messages": [{"role": "user", "content": "Hello"}],
    "stream": True,
    "stream_options": {"include_usage": True},
}
"""What a stream answers unless its case says otherwise."""

CUT = Failure(502, "The stream ended before the answer was complete", "server_error", "upstream_cut")
"""A stand-in for what the pump says of a stream that just ends."""


@dataclass(frozen=True)
class Transcript:
    """One stream as it came: raw bytes, and the request that it answers."""

    name: str
    raw: bytes
    request: Mapping[str, Any]

    @property
    def data(self) -> list[bytes]:
        """The data of each event, by the plainest reading of Cohere's own framing; `[DONE]` included."""
        lines = self.raw.split(b"\n")
        return [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]

    @property
    def events(self) -> list[Event]:
        """The events' JSON; `[DONE]` left out."""
        return [json.loads(data) for data in self.data if data != b"[DONE]"]


@cache
def written() -> tuple[Transcript, ...]:
    """The streams of the golden cases."""
    results = []
    for path in sorted(STREAMS.iterdir()):
        requested = path / "request.openai.json"
        request = json.loads(requested.read_text(encoding="utf-8")) if requested.exists() else REQUEST
        results.append(Transcript(path.name, (path / "upstream.sse").read_bytes(), request))
    return tuple(results)


@cache
def recorded() -> tuple[Transcript, ...]:
    """The recorded streams; none where the recordings are absent."""
    chosen = select("/v2/chat", status=200, streamed=True)
    return tuple(Transcript(one.name, one.body, REQUEST) for one in chosen)


@cache
def transcripts() -> tuple[Transcript, ...]:
    """All of them."""
    return written() + recorded()


# --- asking and telling -------------------------------------------------------------------------------------


def context(**settings: Any) -> Context:
    """A fixed context; the settings are those of `Policy`, and `strict` and `features`."""
    strict, features = settings.pop("strict", False), settings.pop("features", {})
    if "usage_base" in settings:
        settings["usage_base"] = UsageBase(settings["usage_base"])
    if "extra_upstream_fields" in settings:
        settings["extra_upstream_fields"] = frozenset(settings["extra_upstream_fields"])
    reported = {name: frozenset(words) for name, words in features.items()}
    return Context(ResponseIdentity(CREATED, UNIQUE), Policy(**settings), LearnedCapabilities(reported), strict=strict)


def call(request: Mapping[str, Any] | bytes, **settings: Any) -> chat.ChatTranslation:
    """A chat request translated in the fixed context."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return chat.request(body, context(**settings))


def cohere_request(translation: chat.ChatTranslation) -> Any:
    """The one request that goes to Cohere."""
    (body,) = translation.bodies
    return json.loads(body)


def answered(translation: chat.ChatTranslation, answer: Any) -> Any:
    """Cohere's whole answer as the caller sees it."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return json.loads(translation.translate_response([body]).body)


def chunks(translation: chat.ChatTranslation, data: Iterable[bytes]) -> list[Any]:
    """A stream as the caller sees it, ended as the pump ends one that just stops."""
    stream = translation.stream()
    documents = [document for one in data for document in stream.feed(one)]
    documents += stream.end(CUT)
    return [json.loads(document) for document in documents]


def frame(events: Iterable[Event], done: bool = True) -> bytes:
    """Events in Cohere's framing."""
    lines = [f"event: {event['type']}\ndata: {_compact(event)}\n\n" for event in events]
    return ("".join(lines) + ("data: [DONE]\n\n" if done else "")).encode()


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# --- the whole answer of a stream ---------------------------------------------------------------------------


def whole(events: Sequence[Event]) -> dict[str, Any]:
    """The answer that Cohere would have given without `stream` (docs/cohere-api.md#chat-answers)."""
    answer: dict[str, Any] = {}
    message: dict[str, Any] = {"role": "assistant"}
    blocks: dict[int, dict[str, Any]] = {}
    calls: list[dict[str, Any]] = []
    logprobs: list[Any] = []
    for event in events:
        kind, inside = event["type"], (event.get("delta") or {}).get("message") or {}
        if kind == "message-start":
            answer["id"] = event["id"]
        elif kind in ("content-start", "content-delta"):
            _write(blocks, event.get("index", 0), inside["content"])
            logprobs += [event["logprobs"]] if event.get("logprobs") else []
        elif kind == "tool-plan-delta":
            message["tool_plan"] = message.get("tool_plan", "") + inside["tool_plan"]
        elif kind == "tool-call-start":
            function = {"arguments": "", **inside["tool_calls"]["function"]}
            calls.append({**inside["tool_calls"], "function": function})
        elif kind == "tool-call-delta":
            calls[-1]["function"]["arguments"] += inside["tool_calls"]["function"]["arguments"]
        elif kind == "citation-start":
            message.setdefault("citations", []).append(inside["citations"])
        elif kind == "message-end":
            answer |= {key: value for key, value in event["delta"].items() if value is not None}
    if blocks:
        message["content"] = [blocks[index] for index in sorted(blocks)]
    if calls:
        message["tool_calls"] = calls
    if logprobs:
        answer["logprobs"] = logprobs
    return {**answer, "message": message}


def _write(blocks: dict[int, dict[str, Any]], index: int, piece: Mapping[str, Any]) -> None:
    kind = "thinking" if "thinking" in piece else "text"
    block = blocks.setdefault(index, {"type": kind, kind: ""})
    block[kind] = block.get(kind, "") + (piece.get(kind) or "")


# --- the completion of a stream of chunks -------------------------------------------------------------------


def fold(documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What an OpenAI client has in hand after the last chunk."""
    result: dict[str, Any] = {"content": "", "tool_calls": [], "annotations": [], "citations": []}
    for document in documents:
        if "error" in document:
            result["error"] = document["error"]
            continue
        result |= {key: document[key] for key in ("id", "model", "created")}
        if document.get("usage"):
            result["usage"] = document["usage"]
        for choice in document["choices"]:
            assert choice["index"] == 0
            _add(result, choice)
    return result


def _add(document: dict[str, Any], choice: Mapping[str, Any]) -> None:
    delta = choice["delta"]
    for key in ("content", "reasoning_content"):
        if delta.get(key) is not None:
            document[key] = document.get(key, "") + delta[key]
    for key in ("annotations", "citations"):
        document[key] += delta.get(key, [])
    for piece in delta.get("tool_calls", ()):
        if piece["index"] == len(document["tool_calls"]):
            kind = piece.get("type")
            assert piece["id"] and kind in ("function", "custom"), "a call begins with its id and type"
            empty = {"name": "", "arguments": ""} if kind == "function" else {"name": "", "input": ""}
            document["tool_calls"].append({"id": piece["id"], "type": kind, kind: empty})
        call = document["tool_calls"][piece["index"]]
        for key, text in piece[call["type"]].items():
            call[call["type"]][key] += text
    if "function_call" in delta:
        function = document.setdefault("function_call", {"name": "", "arguments": ""})
        for key, text in delta["function_call"].items():
            function[key] += text
    if choice.get("logprobs"):
        document.setdefault("logprobs", []).extend(choice["logprobs"]["content"])
    for key in ("finish_reason", "native_finish_reason"):
        if choice.get(key):
            assert key not in document, "the end is told once"
            document[key] = choice[key]


def folded_completion(completion: Mapping[str, Any]) -> dict[str, Any]:
    """A completion in the form that `fold` gives, so that the two can be compared."""
    (choice,) = completion["choices"]
    message = choice["message"]
    result: dict[str, Any] = {key: completion[key] for key in ("id", "model", "created", "usage")}
    result["content"] = message["content"] or ""
    for key in ("tool_calls", "annotations", "citations"):
        result[key] = message.get(key, [])
    for key in ("reasoning_content", "function_call"):
        if key in message:
            result[key] = message[key]
    if choice["logprobs"]:
        result["logprobs"] = choice["logprobs"]["content"]
    for key in ("finish_reason", "native_finish_reason"):
        if key in choice:
            result[key] = choice[key]
    return result


# --- events made by rule ------------------------------------------------------------------------------------

_WORDS = st.sampled_from(["a", " the", "Sunny", " 22°C", "\n", "😀", "né", " ", '"', "\\", "{", "\u0000", "<&>"])
_LETTERS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
PIECES = st.lists(st.one_of(_WORDS, _LETTERS), max_size=5)
_SOURCES = st.lists(
    st.sampled_from(
        [
            {"type": "document", "id": "d1", "document": {"id": "d1", "title": "One", "url": "https://example.com/1"}},
            {"type": "document", "id": "d2", "document": {"id": "d2", "text": "Two"}},
            {"type": "tool", "id": "f_0:0", "tool_output": {"content": "Sunny"}},
            {"type": "tool", "id": "f_1:0", "tool_output": {"url": "https://example.com/2", "n": 5}},
            {"type": "new", "id": "x"},
        ]
    ),
    max_size=2,
)
ARGUMENTS = st.sampled_from(
    [
        [],
        ["{}"],
        ["null"],
        ["nu", "ll"],
        ["n"],
        ['{"city": ', '"Paris"}'],
        ["{\n    ", '"n": 1', "\n}"],
        ["", "{}"],
        ['{"e":"😀"}'],
    ]
)
_NUMBER = st.one_of(st.integers(0, 5_000), st.floats(0, 5_000, allow_nan=False))
USAGES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.just({}),
    st.fixed_dictionaries(
        {},
        optional={
            "tokens": st.fixed_dictionaries(
                {},
                optional={
                    name: _NUMBER for name in ("input_tokens", "output_tokens", "image_tokens", "reasoning_tokens")
                },
            ),
            "billed_units": st.fixed_dictionaries(
                {}, optional={name: _NUMBER for name in ("input_tokens", "output_tokens", "images")}
            ),
            "cached_tokens": st.integers(0, 2_000),
        },
    ),
)
GOOD_REASONS = st.sampled_from(["COMPLETE", "STOP_SEQUENCE", "MAX_TOKENS", "TOOL_CALL", "NEW_REASON", "USER_CANCEL"])


def content_start(index: int, kind: str = "text", text: str = "") -> Event:
    return {"type": "content-start", "index": index, "delta": {"message": {"content": {"type": kind, kind: text}}}}


def content_delta(index: int, text: str, kind: str = "text") -> Event:
    return {"type": "content-delta", "index": index, "delta": {"message": {"content": {kind: text}}}}


def content_end(index: int) -> Event:
    return {"type": "content-end", "index": index}


def plan_delta(text: str) -> Event:
    return {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": text}}}


def call_start(index: int, name: str = "get_weather", arguments: str = "", identity: str | None = None) -> Event:
    result = {
        "id": f"{name}_{index}" if identity is None else identity,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
    return {"type": "tool-call-start", "index": index, "delta": {"message": {"tool_calls": result}}}


def call_delta(index: int, arguments: str) -> Event:
    inside = {"tool_calls": {"function": {"arguments": arguments}}}
    return {"type": "tool-call-delta", "index": index, "delta": {"message": inside}}


def call_end(index: int) -> Event:
    return {"type": "tool-call-end", "index": index}


def citation_start(start: int, end: int, text: str, index: int = 0, **more: Any) -> Event:
    citation = {"start": start, "end": end, "text": text, "sources": [], "type": "TEXT_CONTENT", **more}
    return {"type": "citation-start", "index": index, "delta": {"message": {"citations": citation}}}


def citation_end(index: int = 0) -> Event:
    return {"type": "citation-end", "index": index}


def message_start(identity: str = "5f0c7e1a-0000-4000-8000-000000000001") -> Event:
    empty = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    return {"id": identity, "type": "message-start", "delta": {"message": empty}}


def message_end(reason: str | None = "COMPLETE", **more: Any) -> Event:
    return {"type": "message-end", "delta": {"finish_reason": reason, **more}}


@st.composite
def answers(draw: st.DrawFn, reasons: st.SearchStrategy[str] = GOOD_REASONS, log_thinkers: bool = False) -> list[Event]:
    """A stream in the order that Cohere promises (docs/cohere-api.md#order-of-events): plan, blocks, calls, end.

    log_thinkers: answers that think may have log probabilities (of their text), too.
    """
    events = [message_start()]
    for piece in draw(st.one_of(st.just([]), PIECES)):
        events.append(plan_delta(piece))
    kinds = draw(st.sampled_from([[], ["text"], ["thinking"], ["thinking", "text"], ["text", "text"]]))
    logprobs = draw(st.booleans()) and (log_thinkers or "thinking" not in kinds)
    number = 0
    for index, kind in enumerate(kinds):
        text = ""
        events.append(content_start(index, kind))
        for piece in draw(PIECES):
            text += piece
            delta = content_delta(index, piece, kind)
            if logprobs and kind == "text":
                delta["logprobs"] = {"text": piece, "token_ids": [1], "logprobs": [-0.5]}
            events.append(delta)
            if text and draw(st.integers(0, 3)) == 0:
                start = draw(st.integers(0, len(text) - 1))
                cited: dict[str, Any] = {"sources": draw(_SOURCES)}
                if kind == "thinking":
                    cited["type"] = "THINKING_CONTENT"
                if len(kinds) > 1:
                    cited["content_index"] = index
                events += [citation_start(start, len(text), text[start:], number, **cited), citation_end(number)]
                number += 1
        events.append(content_end(index))
    for index in range(draw(st.integers(0, 2))):
        events.append(call_start(index, draw(st.sampled_from(["get_weather", "f"]))))
        events += [call_delta(index, piece) for piece in draw(ARGUMENTS)]
        events.append(call_end(index))
    usage = draw(USAGES)
    events.append(message_end(draw(reasons), **({} if usage is None else {"usage": usage})))
    return events


@st.composite
def walks(draw: st.DrawFn) -> list[Event]:
    """Any walk over the turn machine's own table: legal, and as odd as leniency allows."""
    from translators.answer.turn import TRANSITIONS, State

    state, events, number = State.IDLE, list[Event](), 0
    for _ in range(draw(st.integers(1, 14))):
        kind = draw(st.sampled_from(sorted(TRANSITIONS[state], key=lambda kind: kind.__name__)))
        events.append(draw(event_of(tag_of(kind), number)))
        state, number = TRANSITIONS[state][kind], number + 1
        if state is State.DONE:
            break
    return events


def tag_of(kind: type) -> str:
    """The `type` of an event's Struct."""
    return str(kind.__struct_config__.tag)  # type: ignore[attr-defined]


def event_of(tag: str, number: int = 0) -> st.SearchStrategy[Event]:
    """An event of a kind, good in itself; `number` keeps the calls' ids apart."""
    text, index = st.one_of(_WORDS, _LETTERS, st.just("")), st.integers(0, 2)
    kind = st.sampled_from(["text", "thinking"])
    cited = st.builds(
        citation_start,
        st.integers(0, 6),
        st.integers(0, 9),
        text,
        sources=_SOURCES,
        type=st.sampled_from(["TEXT_CONTENT", "THINKING_CONTENT", "PLAN", None]),
        content_index=st.one_of(st.none(), index),
    )
    events: dict[str, st.SearchStrategy[Event]] = {
        "message-start": st.builds(message_start),
        "content-start": st.builds(content_start, index, kind, text),
        "content-delta": st.builds(content_delta, index, text, kind),
        "content-end": st.builds(content_end, index),
        "tool-plan-delta": st.builds(plan_delta, text),
        "tool-call-start": st.builds(call_start, st.just(number), arguments=st.sampled_from(["", "{", "null"])),
        "tool-call-delta": st.builds(call_delta, index, st.one_of(text, st.sampled_from(["nu", "ll", "{}"]))),
        "tool-call-end": st.builds(call_end, index),
        "citation-start": cited,
        "citation-end": st.builds(citation_end),
        "message-end": st.builds(
            message_end,
            st.one_of(GOOD_REASONS, st.sampled_from(["ERROR", "TIMEOUT", "ERROR_TOXIC", None])),
            error=st.sampled_from([None, "it broke"]),
            usage=USAGES,
        ),
    }
    return events[tag]


LONG = os.environ.get("GATEWAY_TEST_LONG") == "1"  # what `make test-long` sets


def cut_positions(raw: bytes) -> Sequence[int]:
    """Where to cut a transcript in two: everywhere if it is short, else near every line's end.

    `make test` has the time for some of these places, `make test-long` for all.
    """
    positions = [
        position
        for position in range(1, len(raw))
        if len(raw) <= 4_000 or any(byte in b"\r\n" for byte in raw[max(position - 3, 0) : position + 3])
    ]
    return positions if LONG else positions[:: len(positions) // 400 + 1]


def property_of(examples: int = 200) -> settings:
    """Return how a property is tried: on a quarter of so many examples, on all of them in `make test-long`.

    They are the same every time, so that a red build is red for everybody. `HYPOTHESIS_EXAMPLES=20000` looks for new
    ones, by chance.
    """
    more = int(os.environ.get("HYPOTHESIS_EXAMPLES", "0"))
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=more or (examples if LONG else max(examples // 4, 20)),
        derandomize=not more,
        deadline=None,
        database=None,
        suppress_health_check=slow,
    )
