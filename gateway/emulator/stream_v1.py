"""A turn of /v1/chat told to the caller: as one body, or as a stream of lines or of events.

Every event says its kind and whether it is the last. Source: docs/cohere-api.md#version-1; the order of
citations and of tool calls follows the specification.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from gateway.emulator import tokens
from gateway.emulator.chat import Answer
from gateway.emulator.chat_v1 import Turn, calls, chatbot
from gateway.emulator.citations import Citation
from gateway.emulator.wire import encode

# A turn that ends with calls is complete: the older vocabulary has no word for it.
FINISHED = {"TOOL_CALL": "COMPLETE"}


def line(kind: str, told: dict[str, Any], *, last: bool = False) -> bytes:
    """One event as a line of JSON."""
    return encode({"is_finished": last, "event_type": kind, **told}) + b"\n"


def event(kind: str, told: dict[str, Any], *, last: bool = False) -> bytes:
    """The same event as a server-sent one."""
    return b"event: %s\ndata: %s\n" % (kind.encode(), line(kind, told, last=last))


def whole(turn: Turn) -> dict[str, Any]:
    """The body of a request without `stream`."""
    answer = turn.answer
    told: dict[str, Any] = {"response_id": str(uuid.uuid4())}
    if turn.only_search:
        told |= {"text": "", "generation_id": answer.id, "is_search_required": True}
    else:
        told |= {"text": chatbot(answer)["message"], "generation_id": answer.id}
        if answer.citations:
            told["citations"] = [_cited(citation) for citation in answer.citations]
            told["documents"] = _documents(turn)
    if turn.search is not None:
        told |= {"search_queries": turn.search.queries, "search_results": turn.search.results}
        if turn.only_search:
            del told["search_results"]
    said = [] if turn.only_search else [chatbot(answer)]
    told |= {"chat_history": [*turn.history, *said], "finish_reason": reason(answer)}
    if answer.calls:
        told["tool_calls"] = calls(answer)
    told["meta"] = meta(answer)
    return told


def events(turn: Turn, *, as_events: bool) -> list[bytes]:
    """The whole stream, one item per event, the ending last."""
    write = event if as_events else line
    answer = turn.answer
    told = [write("stream-start", {"generation_id": answer.id})]
    if turn.search is not None:
        told.append(write("search-queries-generation", {"search_queries": turn.search.queries}))
        if not turn.only_search:
            found = {"search_results": turn.search.results, "documents": list(turn.search.documents.values())}
            told.append(write("search-results", found))
    if not turn.only_search:
        told += [write(kind, what) for kind, what in _said(answer)]
    response = whole(turn)
    told.append(write("stream-end", {"finish_reason": response["finish_reason"], "response": response}, last=True))
    return told


def reason(answer: Answer) -> str:
    """Why it ended."""
    return FINISHED.get(answer.finish, answer.finish)


def meta(answer: Answer) -> dict[str, Any]:
    """What it cost, where the older answers say so."""
    return {"api_version": {"version": "1"}, **answer.usage}


def _said(answer: Answer) -> list[tuple[str, dict[str, Any]]]:
    """What the model writes, piece by piece."""
    if answer.calls:
        told: list[tuple[str, dict[str, Any]]] = [
            ("tool-calls-chunk", {"text": piece}) for piece in tokens.pieces(answer.plan or "")
        ]
        for index, call in enumerate(answer.calls):
            told.append(("tool-calls-chunk", {"tool_call_delta": {"index": index, "name": call.name}}))
            told += [
                ("tool-calls-chunk", {"tool_call_delta": {"index": index, "parameters": piece}})
                for piece in tokens.pieces(call.written)
            ]
        return [*told, ("tool-calls-generation", {"text": answer.plan or "", "tool_calls": calls(answer)})]
    told, place = [], 0
    waiting = list(answer.citations)
    for piece in tokens.pieces(answer.text or answer.plan or ""):
        told.append(("text-generation", {"text": piece}))
        place += len(piece)
        while answer.inline and waiting and waiting[0].end <= place:
            told.append(_citations([waiting.pop(0)]))
    return [*told, *(_citations([citation]) for citation in waiting)]


def _citations(found: Sequence[Citation]) -> tuple[str, dict[str, Any]]:
    return "citation-generation", {"citations": [_cited(citation) for citation in found]}


def _cited(citation: Citation) -> dict[str, Any]:
    return {
        "start": citation.start,
        "end": citation.end,
        "text": citation.text,
        "document_ids": [source["id"] for source in citation.sources],
        "type": "TEXT_CONTENT",
    }


def _documents(turn: Turn) -> list[dict[str, Any]]:
    """The documents that are cited, each once."""
    cited = [source["id"] for citation in turn.answer.citations for source in citation.sources]
    return [turn.documents[identity] for identity in dict.fromkeys(cited) if identity in turn.documents]
