"""The bytes that the benchmarks send, in both dialects: shaped like recorded traffic, with our own texts.

The prompt carries the script for the upstream stand-in ("bench deltas=100 pace=20"): whatever stands in the
middle may rename models and rewrite headers, but it must hand on what the user said.
"""

from __future__ import annotations

import json
from typing import Any

MODEL = "command-a-03-2025"
COHERE_ID = "5481bf9b-876e-487f-88fe-%012d"

_SYSTEM = (
    "You are the assistant of a small travel agency. Answer in plain English, in at most three paragraphs, "
    "and say so when you do not know. Prices are in euros, distances in kilometres; dates: 3 May 2026."
)
_QUESTION = (
    'We land in Lisbon on a Friday at noon and fly home from Porto on Tuesday evening. Two of us "hate" '
    "museums, one would see every one of them; nobody wants to drive. What would you do with the four days, "
    "and what must be booked before we leave?\nPlease keep the walking under ten kilometres a day."
)

# One piece is about one token, as Cohere streams them; some need escaping, some are not ASCII.
_PIECES = (
    " the", " train", " from", " Santa", " Apol\u00f3nia", " takes", " about", " three", " hours", ",", " so",
    " book", " two", " seats", " at", " the", ' "', "window", '"', ".", "\n\n", "On", " Saturday", " morning",
    " you", " could", " walk",
)  # fmt: skip


def text(pieces: int) -> str:
    """The answer that a stream of so many content deltas adds up to."""
    return "".join(_PIECES[number % len(_PIECES)] for number in range(pieces))


COHERE_KEY = "Zt4mQ8vK1xWc7Yb0RfJ2nHs6LdPg3Ea9UoTi5XkM"
"""A key that is none, as long as Cohere's are: answers are searched for it, and a short one takes longer to find."""

# About 400 tokens: an ordinary answer, 2 KB.
ANSWER_TEXT = text(380)


HISTORY = (
    'def kilometres(miles: float) -> float:\n    """Returns the same distance."""\n    return miles * 1.609\n' * 20
)
"""A turn of a long conversation about code, 2 KB."""


def openai_request(*, stream: bool, deltas: int = 100, pace_ms: int = 0, number: int = 0, history_kb: int = 0) -> bytes:
    """A chat request; `number` makes it unlike the last one (same length), so that no cache can answer it.

    history_kb: kilobytes of earlier turns, as agents send them.
    """
    script = f"(bench deltas={deltas} pace={pace_ms} number={number:012d})"
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": _SYSTEM},
            *({"role": ("user", "assistant")[turn % 2], "content": HISTORY} for turn in range(history_kb // 2)),
            {"role": "user", "content": f"{_QUESTION}\n{script}"},
        ],
        "max_tokens": 800,
        "temperature": 0.3,
    }
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return _json(body)


def responses_request(*, deltas: int, pace_ms: int, store: bool) -> bytes:
    """The same request, streamed, in the words of the Responses API."""
    chat = json.loads(openai_request(stream=True, deltas=deltas, pace_ms=pace_ms))
    body = {
        "model": chat["model"],
        "input": chat["messages"],
        "max_output_tokens": chat["max_tokens"],
        "temperature": chat["temperature"],
        "stream": True,
        "store": store,
    }
    return _json(body)


EMBED_MODEL = "embed-v4.0"
DIMENSIONS = 1024
EMBED_MARK = b"(bench text "
"""Stands once in each text to embed: the stand-in counts them."""


def embed_request(inputs: int, encoding: str, number: int = 0, dimensions: bool = True) -> bytes:
    """An embeddings request of so many texts of about 40 tokens; `number` makes each text unlike the last one.

    dimensions: say how many there are to be, which not every gateway takes.
    """
    texts = [f"{_SYSTEM[:170]} (bench text {position} number={number:012d})" for position in range(inputs)]
    body: dict[str, Any] = {"model": EMBED_MODEL, "input": texts, "encoding_format": encoding}
    return _json(body | ({"dimensions": DIMENSIONS} if dimensions else {}))


RERANK_MODEL = "rerank-v4.0-fast"
RERANK_MARK = _SYSTEM[:60].encode()
"""Stands once in each document to rank: the stand-in counts them."""


def rerank_request(documents: int, number: int = 0) -> bytes:
    """A rerank request of so many documents of about 40 tokens."""
    return _json(
        {
            "model": RERANK_MODEL,
            "query": f"What must be booked before we leave? ({number:012d})",
            "documents": [f"{_SYSTEM[:170]} {position}" for position in range(documents)],
            "top_n": documents,
        }
    )


def rerank_answer(documents: int) -> bytes:
    """Cohere's answer to it."""
    results = [{"index": index, "relevance_score": round(0.9 / (index + 1), 7)} for index in range(documents)]
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return _json({"id": COHERE_ID % 0, "results": results, "meta": meta})


def cohere_request(*, stream: bool, deltas: int = 100, pace_ms: int = 0) -> bytes:
    """The same request in Cohere's words."""
    body = json.loads(openai_request(stream=stream, deltas=deltas, pace_ms=pace_ms))
    body.pop("stream_options", None)
    return _json(body)


def cohere_answer(number: int = 0) -> bytes:
    """A whole /v2/chat answer of about 2 KB."""
    return _json(
        {
            "id": COHERE_ID % number,
            "message": {"role": "assistant", "content": [{"type": "text", "text": ANSWER_TEXT}]},
            "finish_reason": "COMPLETE",
            "usage": _USAGE,
        }
    )


def cohere_events(deltas: int, number: int = 0) -> list[bytes]:
    """A whole /v2/chat stream, one item per server-sent event; the first names the id, the last is [DONE]."""
    opened = {"content": {"type": "text", "text": ""}}
    empty = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    events: list[dict[str, Any]] = [
        {"id": COHERE_ID % number, "type": "message-start", "delta": {"message": empty}},
        {"type": "content-start", "index": 0, "delta": {"message": opened}},
    ]
    for position in range(deltas):
        content = {"text": _PIECES[position % len(_PIECES)]}
        events.append({"type": "content-delta", "index": 0, "delta": {"message": {"content": content}}})
    events.append({"type": "content-end", "index": 0})
    events.append({"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": _USAGE}})
    framed = [b"event: %s\ndata: %s\n\n" % (event["type"].encode(), _json(event)) for event in events]
    return [*framed, b"data: [DONE]\n\n"]


_USAGE = {
    "billed_units": {"input_tokens": 163, "output_tokens": 380},
    "tokens": {"input_tokens": 672, "output_tokens": 382},
    "cached_tokens": 480,
}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
