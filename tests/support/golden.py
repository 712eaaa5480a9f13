"""Golden cases: directories whose names are sentences, holding what goes in and what must come out.

    golden/chat/<case>/    request.openai.json   request.cohere.json or error.json   notes.txt
                           response.cohere.json  response.openai.json   why.md
    golden/stream/<case>/  upstream.sse (raw bytes)   chat.jsonl   why.md   request.openai.json (optional)

`settings.json` may stand in either: the settings and headers under which the case is told. Expectations are
compared as JSON, so the order of keys and the white space are free. `UPDATE=1` writes them anew and prints
what changed; they are then reviewed like code. Where `CI` is set it refuses to.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from support import transcripts
from translators.errors import TranslationError

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
    settings = _read(case, "settings.json") or {}
    try:
        call = transcripts.call((case / "request.openai.json").read_bytes(), **settings)
    except TranslationError as error:
        return {"error.json": _pretty(_told(error))}
    made = {"request.cohere.json": _pretty(transcripts.sent(call))}
    notes = "".join(f"{note.text}\n" for note in call.notes)
    if notes:
        made["notes.txt"] = notes
    answer = case / "response.cohere.json"
    if answer.exists():
        try:
            made["response.openai.json"] = _pretty(transcripts.answered(call, answer.read_bytes()))
        except TranslationError as error:
            made["error.json"] = _pretty(_told(error))
    return made


def stream(case: Path) -> dict[str, str]:
    """What the case's transcript comes to: one document a line."""
    from gateway import sse

    settings = _read(case, "settings.json") or {}
    decoder = sse.Decoder()
    data = [*decoder.feed((case / "upstream.sse").read_bytes()), *decoder.end()]
    call = transcripts.call(_read(case, "request.openai.json") or transcripts.REQUEST, **settings)
    told = call.stream()
    documents: list[bytes] = []
    for one in data:
        try:
            documents += told.feed(one)
        except TranslationError as error:
            documents += told.end(error.failure)
    documents += told.end(transcripts.CUT)
    lines = [json.dumps(json.loads(document), ensure_ascii=False) for document in documents]
    return {"chat.jsonl": "".join(f"{line}\n" for line in lines)}


def compare(case: Path, made: Mapping[str, str], inputs: frozenset[str]) -> None:
    """Asserts that the case's expectations are what was made; with UPDATE=1 writes them instead."""
    kept = {path.name: path.read_text(encoding="utf-8") for path in case.iterdir() if path.name not in inputs}
    if updating():
        for name in kept.keys() - made.keys():
            (case / name).unlink()
        for name, content in made.items():
            if _meaning(name, kept.get(name)) != _meaning(name, content):
                print("".join(_difference(f"{case.name}/{name}", kept.get(name, ""), content)))
                (case / name).write_text(content, encoding="utf-8")
        return
    assert set(kept) == set(made), f"{case.name}: these files are expected"
    for name, content in made.items():
        if _meaning(name, kept[name]) != _meaning(name, content):
            raise AssertionError("\n" + "".join(_difference(f"{case.name}/{name}", kept[name], content)))


def _read(case: Path, name: str) -> Any:
    path = case / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _told(error: TranslationError) -> dict[str, Any]:
    failure = error.failure
    told = {"param": failure.param, "code": failure.code, "message": failure.message}
    return told if failure.status == 400 else {"status": failure.status, "type": failure.type, **told}


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
