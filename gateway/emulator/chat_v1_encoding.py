"""A `ChatV1Response` in the formats of /v1/chat: one body, or a stream of JSON lines or server-sent events.

Every event names its type and whether it is the last. The order of citations and of tool calls follows the
specification. Source: docs/cohere-api.md#version-1.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from gateway.emulator import tokens
from gateway.emulator.chat import ChatResponse
from gateway.emulator.chat_v1 import ChatV1Response, chatbot_turn, v1_calls
from gateway.emulator.citations import Citation
from gateway.emulator.go_json import encode
from gateway.emulator.request import META_V1

# v1 has no finish reason for a turn that ends with tool calls.
FINISH_REASONS = {"TOOL_CALL": "COMPLETE"}


def json_line(kind: str, data: dict[str, Any], *, last: bool = False) -> bytes:
    """Returns one event as a line of JSON."""
    return encode({"is_finished": last, "event_type": kind, **data}) + b"\n"


def sse_event(kind: str, data: dict[str, Any], *, last: bool = False) -> bytes:
    """Returns the same event as a server-sent event."""
    return b"event: %s\ndata: %s\n" % (kind.encode(), json_line(kind, data, last=last))


def to_body(v1_response: ChatV1Response) -> dict[str, Any]:
    """Returns the body of a request without `stream`."""
    response = v1_response.response
    body: dict[str, Any] = {"response_id": str(uuid.uuid4())}
    if v1_response.search_only:
        body |= {"text": "", "generation_id": response.id, "is_search_required": True}
    else:
        body |= {"text": chatbot_turn(response)["message"], "generation_id": response.id}
        if response.citations:
            body["citations"] = [_citation(citation) for citation in response.citations]
            body["documents"] = _cited_documents(v1_response)
    if v1_response.search is not None:
        body["search_queries"] = v1_response.search.queries
        if not v1_response.search_only:
            body["search_results"] = v1_response.search.results
    new_turns = [] if v1_response.search_only else [chatbot_turn(response)]
    body |= {"chat_history": [*v1_response.history, *new_turns]}
    body |= {"finish_reason": FINISH_REASONS.get(response.finish_reason, response.finish_reason)}
    if response.calls:
        body["tool_calls"] = v1_calls(response)
    body["meta"] = META_V1 | response.usage
    return body


def to_events(v1_response: ChatV1Response, *, as_sse: bool) -> list[bytes]:
    """Returns the whole stream, one item per event, `stream-end` last."""
    write = sse_event if as_sse else json_line
    search = v1_response.search
    events = [write("stream-start", {"generation_id": v1_response.response.id})]
    if search is not None:
        events.append(write("search-queries-generation", {"search_queries": search.queries}))
        if not v1_response.search_only:
            results = {"search_results": search.results, "documents": list(search.documents.values())}
            events.append(write("search-results", results))
    if not v1_response.search_only:
        events += [write(kind, data) for kind, data in _generation_events(v1_response.response)]
    body = to_body(v1_response)
    events.append(write("stream-end", {"finish_reason": body["finish_reason"], "response": body}, last=True))
    return events


def _generation_events(response: ChatResponse) -> list[tuple[str, dict[str, Any]]]:
    """Returns the (type, data) of what the model generates, piece by piece."""
    if response.calls:
        return _call_events(response)
    events: list[tuple[str, dict[str, Any]]] = []
    position = 0
    pending = list(response.citations)
    for piece in tokens.split(response.text or response.plan or ""):
        events.append(("text-generation", {"text": piece}))
        position += len(piece)
        while response.inline_citations and pending and pending[0].end <= position:
            events.append(_citation_event([pending.pop(0)]))
    return [*events, *(_citation_event([citation]) for citation in pending)]


def _call_events(response: ChatResponse) -> list[tuple[str, dict[str, Any]]]:
    kind = "tool-calls-chunk"
    events: list[tuple[str, dict[str, Any]]] = [(kind, {"text": piece}) for piece in tokens.split(response.plan or "")]
    for index, call in enumerate(response.calls):
        events.append((kind, {"tool_call_delta": {"index": index, "name": call.name}}))
        events += [
            (kind, {"tool_call_delta": {"index": index, "parameters": piece}})
            for piece in tokens.split(call.raw_arguments)
        ]
    return [*events, ("tool-calls-generation", {"text": response.plan or "", "tool_calls": v1_calls(response)})]


def _citation_event(citations: Sequence[Citation]) -> tuple[str, dict[str, Any]]:
    return "citation-generation", {"citations": [_citation(citation) for citation in citations]}


def _citation(citation: Citation) -> dict[str, Any]:
    return {
        "start": citation.start,
        "end": citation.end,
        "text": citation.text,
        "document_ids": [source["id"] for source in citation.sources],
        "type": "TEXT_CONTENT",
    }


def _cited_documents(v1_response: ChatV1Response) -> list[dict[str, Any]]:
    """Returns the documents that are cited, each once."""
    ids = [source["id"] for citation in v1_response.response.citations for source in citation.sources]
    return [v1_response.documents[identity] for identity in dict.fromkeys(ids) if identity in v1_response.documents]
