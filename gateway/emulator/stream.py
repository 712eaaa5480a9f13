"""An `Answer` told to the caller: as one body, or as the bytes of server-sent events.

Framing and shapes are docs/cohere-api.md#chat-answers and docs/cohere-api.md#streaming, byte for byte: `event:` equals
the type inside, `[DONE]` has no event line, nothing else stands between.
"""

from __future__ import annotations

from typing import Any

from gateway.emulator import citations, tokens
from gateway.emulator.chat import Answer, logprob_item
from gateway.emulator.citations import Citation
from gateway.emulator.wire import encode

DONE = b"data: [DONE]\n\n"
START: dict[str, Any] = {
    "message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
}


def whole(answer: Answer) -> dict[str, Any]:
    """The body of a request without `stream`."""
    message: dict[str, Any] = {"role": "assistant"}
    content: list[dict[str, Any]] = []
    if answer.thinking is not None:
        content.append({"type": "thinking", "thinking": answer.thinking})
    if answer.text is not None:
        content.append({"type": "text", "text": answer.text})
    if content:
        message["content"] = content
    if answer.plan is not None:
        message["tool_plan"] = answer.plan
    if answer.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.calls
        ]
    if answer.citations:
        message["citations"] = [citations.told(citation, _index(answer)) for citation in answer.citations]
    body: dict[str, Any] = {
        "id": answer.id, "message": message, "finish_reason": answer.finish, "usage": answer.usage,
    }  # fmt: skip
    if answer.logprobs and answer.text:
        body["logprobs"] = [logprob_item(piece) for piece in tokens.pieces(answer.text)]
    return body


def events(answer: Answer) -> list[bytes]:
    """The whole stream, one item per event, `[DONE]` last."""
    told = [event("message-start", {"id": answer.id, "type": "message-start", "delta": START})]
    if answer.thinking is not None:
        told += _block(0, "thinking", answer.thinking)
    if answer.plan is not None:
        told += [
            event("tool-plan-delta", {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": piece}}})
            for piece in tokens.pieces(answer.plan)
        ]
    for index, call in enumerate(answer.calls):
        opened = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        told.append(_indexed("tool-call-start", index, {"tool_calls": opened}))
        told += [
            _indexed("tool-call-delta", index, {"tool_calls": {"function": {"arguments": piece}}})
            for piece in tokens.pieces(call.written)
        ]
        told.append(_indexed("tool-call-end", index))
    if answer.text is not None:
        told += _text(answer, answer.text)
    told.append(message_end({"finish_reason": answer.finish, "usage": answer.usage}))
    told.append(DONE)
    return told


def event(kind: str, data: dict[str, Any]) -> bytes:
    """One event in its frame."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), encode(data))


def message_end(delta: dict[str, Any]) -> bytes:
    """The terminal event."""
    return event("message-end", {"type": "message-end", "delta": delta})


def _index(answer: Answer) -> int:
    return 0 if answer.thinking is None else 1


def _indexed(kind: str, index: int, message: dict[str, Any] | None = None) -> bytes:
    data: dict[str, Any] = {"type": kind, "index": index}
    if message is not None:
        data["delta"] = {"message": message}
    return event(kind, data)


def _block(index: int, kind: str, text: str) -> list[bytes]:
    told = [_indexed("content-start", index, {"content": {"type": kind, kind: ""}})]
    told += [_indexed("content-delta", index, {"content": {kind: piece}}) for piece in tokens.pieces(text)]
    told.append(_indexed("content-end", index))
    return told


def _text(answer: Answer, text: str) -> list[bytes]:
    """The text block with its citations: inline after the delta that ends a span, or all at the end."""
    index = _index(answer)
    waiting = list(enumerate(answer.citations))
    told = [_indexed("content-start", index, {"content": {"type": "text", "text": ""}})]
    place = 0
    for piece in tokens.pieces(text):
        told.append(_delta(answer, index, piece))
        place += len(piece)
        while answer.inline and waiting and waiting[0][1].end <= place:
            told += _citation(*waiting.pop(0), index)
    for number, citation in waiting:
        told += _citation(number, citation, index)
    told.append(_indexed("content-end", index))
    return told


def _delta(answer: Answer, index: int, piece: str) -> bytes:
    data: dict[str, Any] = {
        "type": "content-delta", "index": index, "delta": {"message": {"content": {"text": piece}}},
    }  # fmt: skip
    if answer.logprobs:
        data["logprobs"] = logprob_item(piece)
    return event("content-delta", data)


def _citation(number: int, citation: Citation, index: int) -> list[bytes]:
    started = _indexed("citation-start", number, {"citations": citations.told(citation, index)})
    return [started, _indexed("citation-end", number)]
