"""Golden cases: directories whose names are sentences, holding what goes in and what must come out.

    golden/chat/<case>/    request.openai.json   request.cohere.json or error.json   notes.txt
                           response.cohere.json  response.openai.json   why.md
    golden/stream/<case>/  upstream.sse (raw bytes)   chat.jsonl   responses.jsonl   why.md
                           request.openai.json (optional)
    golden/responses/<case>/  as chat, in the words of the Responses API
    golden/compaction/<case>/  as chat, of a request to compact; its seal leaves what it seals readable
    golden/embeddings/<case>/  as chat; a request that is asked in parts has lists of Cohere's requests and answers

`settings.json` may stand in either: the settings and headers under which the case is told. Expectations are
compared as JSON, so the order of keys and the white space are free. `UPDATE=1` writes them anew and prints
what changed; they are then reviewed like code. Where `CI` is set it refuses to.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from gateway.pipeline.cl100k_base import vocabulary
from support import transcripts
from translators.core.contracts import Context, ConversationContext, Stream
from translators.core.errors import TranslationError
from translators.operations import embeddings as embeddings_api
from translators.operations import responses as responses_api
from translators.operations import responses_compaction as compaction_api

ROOT = Path(__file__).resolve().parents[1] / "golden"

CHAT_INPUTS = frozenset({"request.openai.json", "response.cohere.json", "settings.json", "why.md"})
STREAM_INPUTS = frozenset({"request.openai.json", "upstream.sse", "settings.json", "why.md"})


class UpdateRefused(Exception):
    """Expectations are never rewritten where nobody reviews them."""


def cases(kind: str) -> list[Path]:
    """The directories of one kind, by name."""
    return sorted(path for path in (ROOT / kind).iterdir() if path.is_dir())


def updating(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether expectations are to be written. Raises UpdateRefused in CI."""
    if not environment.get("UPDATE"):
        return False
    if environment.get("CI"):
        raise UpdateRefused("UPDATE=1 is for a desk, not for CI: expectations are reviewed before they are kept")
    return True


def chat(case: Path) -> dict[str, str]:
    """What the case's inputs come to: file name -> content."""
    return _whole(case, transcripts.call)


def responses(case: Path) -> dict[str, str]:
    """The same of a Responses request."""
    return _whole(case, responses_call)


def compaction(case: Path) -> dict[str, str]:
    """The same of a request to compact."""
    return _whole(case, compaction_call)


SEALED = "sealed: "
"""What is before a text that a case's context has sealed."""


def compaction_call(
    request: Mapping[str, Any] | bytes, history: Sequence[Any] = (), **settings: Any
) -> compaction_api.CompactionTranslation:
    """A request to compact, translated in the fixed context. history: arrays of items."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return compaction_api.request(body, summarising(history, **settings))


def summarising(history: Sequence[Any] = (), **settings: Any) -> Context:
    """The fixed context, with a seal that can be read."""
    conversation = ConversationContext(
        history=tuple(json.dumps(items).encode() for items in history),
        encrypt_summary=lambda text: SEALED + text,
        decrypt_summary=lambda token: token.removeprefix(SEALED) if token.startswith(SEALED) else None,
    )
    return replace(transcripts.context(**settings), conversation=conversation)


def embeddings(case: Path) -> dict[str, str]:
    """The same of an embeddings request."""
    settings = _read(case, "settings.json") or {}
    try:
        call = embeddings_call((case / "request.openai.json").read_bytes(), **settings)
    except TranslationError as error:
        return {"error.json": _pretty(_stream_text(error))}
    requests = [json.loads(body) for body in call.bodies]
    created = {"request.cohere.json": _pretty(requests if len(requests) > 1 else requests[0])}
    if notes := "".join(f"{note.text}\n" for note in call.notes):
        created["notes.txt"] = notes
    answer = _read(case, "response.cohere.json")
    if answer is not None:
        answers = [json.dumps(one).encode() for one in (answer if isinstance(answer, list) else [answer])]
        try:
            created["response.openai.json"] = _pretty(json.loads(call.translate_response(answers).body))
        except TranslationError as error:
            created["error.json"] = _pretty(_stream_text(error))
    return created


def embeddings_call(request: Mapping[str, Any] | bytes, **settings: Any) -> embeddings_api.EmbeddingsRequest:
    """An embeddings request translated in the fixed context."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return embeddings_api.request(body, replace(transcripts.context(**settings), vocabulary=vocabulary))


def responses_call(request: Mapping[str, Any] | bytes, **settings: Any) -> responses_api.ResponsesTranslation:
    """A Responses request translated in the fixed context."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return responses_api.request(body, transcripts.context(**settings))


def responses_answer(call: responses_api.ResponsesTranslation, answer: Any) -> Any:
    """Cohere's whole answer as the caller sees it."""
    return json.loads(call.translate_response([json.dumps(answer).encode()]).body)


def as_responses(request: Mapping[str, Any]) -> dict[str, Any]:
    """What a chat request of one question is in the Responses API, as far as its stream can tell."""
    result: dict[str, Any] = {"model": request["model"], "input": request["messages"], "stream": True}
    functions = [*(tool["function"] for tool in request.get("tools", ())), *request.get("functions", ())]
    if functions:
        result["tools"] = [{"type": "function", **function} for function in functions]
    if request.get("logprobs"):
        result["include"] = ["message.output_text.logprobs"]
    return result


def _whole(case: Path, translate: Callable[..., Any]) -> dict[str, str]:
    settings = _read(case, "settings.json") or {}
    try:
        call = translate((case / "request.openai.json").read_bytes(), **settings)
    except TranslationError as error:
        return {"error.json": _pretty(_stream_text(error))}
    created = {"request.cohere.json": _pretty(transcripts.cohere_request(call))}
    notes = "".join(f"{note.text}\n" for note in call.notes)
    if notes:
        created["notes.txt"] = notes
    answer = case / "response.cohere.json"
    if answer.exists():
        try:
            created["response.openai.json"] = _pretty(transcripts.answered(call, answer.read_bytes()))
        except TranslationError as error:
            created["error.json"] = _pretty(_stream_text(error))
    return created


def stream(case: Path) -> dict[str, str]:
    """What the case's transcript comes to in either projection: one document a line."""
    from gateway.http import sse

    settings = _read(case, "settings.json") or {}
    decoder = sse.Decoder()
    data = [*decoder.feed((case / "upstream.sse").read_bytes()), *decoder.end()]
    request = _read(case, "request.openai.json") or transcripts.REQUEST
    translation = responses_call(as_responses(request), **settings)
    return {
        "chat.jsonl": _lines(stream_documents(transcripts.call(request, **settings).stream(), data)),
        "responses.jsonl": _lines(stream_documents(translation.stream(), data)),
    }


def stream_documents(stream: Stream, data: Sequence[bytes]) -> list[Any]:
    """A stream as the caller sees it, ended as the pump ends one that breaks its word or just stops."""
    documents: list[bytes] = []
    for one in data:
        try:
            documents += stream.feed(one)
        except TranslationError as error:
            documents += stream.end(error.failure)
    documents += stream.end(transcripts.CUT)
    return [json.loads(document) for document in documents]


def _lines(documents: Sequence[Any]) -> str:
    return "".join(f"{json.dumps(document, ensure_ascii=False)}\n" for document in documents)


def compare(case: Path, events: Mapping[str, str], inputs: frozenset[str]) -> None:
    """Asserts that the case's expectations are what was made; with UPDATE=1 writes them instead."""
    stored = {path.name: path.read_text(encoding="utf-8") for path in case.iterdir() if path.name not in inputs}
    if updating():
        for name in stored.keys() - events.keys():
            (case / name).unlink()
        for name, content in events.items():
            if _meaning(name, stored.get(name)) != _meaning(name, content):
                print("".join(_difference(f"{case.name}/{name}", stored.get(name, ""), content)))
                (case / name).write_text(content, encoding="utf-8")
        return
    assert set(stored) == set(events), f"{case.name}: these files are expected"
    for name, content in events.items():
        if _meaning(name, stored[name]) != _meaning(name, content):
            raise AssertionError("\n" + "".join(_difference(f"{case.name}/{name}", stored[name], content)))


def _read(case: Path, name: str) -> Any:
    path = case / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _stream_text(error: TranslationError) -> dict[str, Any]:
    failure = error.failure
    result = {"param": failure.param, "code": failure.code, "message": failure.message}
    return result if failure.status == 400 else {"status": failure.status, "type": failure.type, **result}


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _meaning(name: str, content: str | None) -> Any:
    if content is None or name.endswith(".txt"):
        return content
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in content.splitlines()]
    return json.loads(content)


def _difference(name: str, was: str, now: str) -> Iterator[str]:
    return difflib.unified_diff(was.splitlines(True), now.splitlines(True), f"{name} (kept)", f"{name} (made)")
