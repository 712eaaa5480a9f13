"""A `ChatResponse` in the formats of /v2/chat: one body, or the bytes of server-sent events.

Source: docs/cohere-api.md#chat-answers and docs/cohere-api.md#streaming. The `event:` line repeats the type
inside the data, `[DONE]` has no `event:` line, and nothing else stands between the events.
"""

from __future__ import annotations

from typing import Any

from gateway.emulator import citations, tokens
from gateway.emulator.chat import ChatResponse, logprob_item
from gateway.emulator.citations import Citation
from gateway.emulator.go_json import encode

DONE = b"data: [DONE]\n\n"
MESSAGE_START: dict[str, Any] = {
    "message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
}


def to_body(response: ChatResponse) -> dict[str, Any]:
    """Returns the body of a request without `stream`."""
    message: dict[str, Any] = {"role": "assistant"}
    content: list[dict[str, Any]] = []
    if response.thinking is not None:
        content.append({"type": "thinking", "thinking": response.thinking})
    if response.text is not None:
        content.append({"type": "text", "text": response.text})
    if content:
        message["content"] = content
    if response.plan is not None:
        message["tool_plan"] = response.plan
    if response.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in response.calls
        ]
    if response.citations:
        index = _text_index(response)
        message["citations"] = [citations.to_json(citation, index) for citation in response.citations]
    body: dict[str, Any] = {
        "id": response.id, "message": message, "finish_reason": response.finish_reason, "usage": response.usage,
    }  # fmt: skip
    if response.logprobs and response.text:
        body["logprobs"] = [logprob_item(piece) for piece in tokens.split(response.text)]
    return body


def to_events(response: ChatResponse) -> list[bytes]:
    """Returns the whole stream, one item per event, `[DONE]` last."""
    events = [sse_event("message-start", {"id": response.id, "type": "message-start", "delta": MESSAGE_START})]
    if response.thinking is not None:
        events += _thinking_events(response.thinking)
    if response.plan is not None:
        events += [
            sse_event("tool-plan-delta", {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": piece}}})
            for piece in tokens.split(response.plan)
        ]
    for index, call in enumerate(response.calls):
        start = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        events.append(_indexed("tool-call-start", index, {"tool_calls": start}))
        events += [
            _indexed("tool-call-delta", index, {"tool_calls": {"function": {"arguments": piece}}})
            for piece in tokens.split(call.raw_arguments)
        ]
        events.append(_indexed("tool-call-end", index))
    if response.text is not None:
        events += _text_events(response, response.text)
    events.append(message_end({"finish_reason": response.finish_reason, "usage": response.usage}))
    events.append(DONE)
    return events


def sse_event(kind: str, data: dict[str, Any]) -> bytes:
    """Returns one server-sent event."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), encode(data))


def message_end(delta: dict[str, Any]) -> bytes:
    """Returns the last event before `[DONE]`."""
    return sse_event("message-end", {"type": "message-end", "delta": delta})


def _text_index(response: ChatResponse) -> int:
    """Returns the index of the text block, which a thinking block precedes."""
    # Calls and citations are not counted: they have indices of their own (docs/cohere-api.md#order-of-events).
    return 0 if response.thinking is None else 1


def _indexed(kind: str, index: int, message: dict[str, Any] | None = None) -> bytes:
    data: dict[str, Any] = {"type": kind, "index": index}
    if message is not None:
        data["delta"] = {"message": message}
    return sse_event(kind, data)


def _thinking_events(text: str) -> list[bytes]:
    # Only the start of a block names its type.
    start = _indexed("content-start", 0, {"content": {"type": "thinking", "thinking": ""}})
    deltas = [_indexed("content-delta", 0, {"content": {"thinking": piece}}) for piece in tokens.split(text)]
    return [start, *deltas, _indexed("content-end", 0)]


def _text_events(response: ChatResponse, text: str) -> list[bytes]:
    """Returns the text block. Its citations follow the delta that ends their span, or all deltas."""
    index = _text_index(response)
    pending = list(enumerate(response.citations))
    events = [_indexed("content-start", index, {"content": {"type": "text", "text": ""}})]
    position = 0
    for piece in tokens.split(text):
        events.append(_text_delta(response, index, piece))
        position += len(piece)
        # They are sorted by their beginnings, and as none overlaps another, by their ends as well.
        while response.inline_citations and pending and pending[0][1].end <= position:
            events += _citation_events(*pending.pop(0), index)
    for number, citation in pending:
        events += _citation_events(number, citation, index)
    events.append(_indexed("content-end", index))
    return events


def _text_delta(response: ChatResponse, index: int, piece: str) -> bytes:
    data: dict[str, Any] = {
        "type": "content-delta", "index": index, "delta": {"message": {"content": {"text": piece}}},
    }  # fmt: skip
    if response.logprobs:
        data["logprobs"] = logprob_item(piece)
    return sse_event("content-delta", data)


def _citation_events(number: int, citation: Citation, index: int) -> list[bytes]:
    start = _indexed("citation-start", number, {"citations": citations.to_json(citation, index)})
    return [start, _indexed("citation-end", number)]
