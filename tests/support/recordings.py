"""Recorded exchanges with the real Cohere, read from `shared/recordings` beside the repository.

They are evidence, not fixtures of ours: they are not committed here, so a checkout without them skips the
tests that want them, visibly. A recorder may have sorted the keys or redacted the ids (each file's `source`
says so); the bytes of an event stream, its `event:` lines and its `[DONE]` are as they came.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
FOLDER = SHARED / "recordings"
ABSENT = "shared recordings are absent"

# How the recorded body was framed on the wire says nothing about how a test sends it again, and the recorder
# kept both a content-length and a transfer-encoding, which together are not even legal.
FRAMING_HEADERS = frozenset({"content-length", "transfer-encoding", "content-encoding", "connection"})


@dataclass(frozen=True)
class RecordedRequest:
    """What was asked: the body is the decoded JSON object."""

    method: str
    path: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Recording:
    """One exchange. `body` is the answer's bytes; the header names are in lower case."""

    name: str
    source: str
    request: RecordedRequest
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def streamed(self) -> bool:
        """Whether the answer is an event stream."""
        return self.headers.get("content-type", "").startswith("text/event-stream")

    def json(self) -> Any:
        """The answer of an exchange that was not streamed."""
        return json.loads(self.body)

    def events(self) -> list[dict[str, Any]]:
        """The JSON of each event of a stream, `[DONE]` left out.

        This reads only the exact framing that Cohere uses; it is a second opinion for our decoder, not a
        decoder.
        """
        return [
            json.loads(line.removeprefix("data: "))
            for line in self.body.decode().split("\n")
            if line.startswith("data: ") and line != "data: [DONE]"
        ]


def available() -> bool:
    """Whether the recordings lie beside the repository."""
    return FOLDER.is_dir()


@cache
def recordings() -> tuple[Recording, ...]:
    """All recordings by name; none when the folder is absent."""
    return tuple(_read(path) for path in sorted(FOLDER.glob("*.json")))


def select(*paths: str, status: int | None = None, streamed: bool | None = None) -> Iterator[Recording]:
    """The recordings of these API paths (all without one), of this status, streamed or not."""
    for recording in recordings():
        if paths and recording.request.path not in paths:
            continue
        if status is not None and recording.status != status:
            continue
        if streamed is not None and recording.streamed != streamed:
            continue
        yield recording


def each_recording(*paths: str, status: int | None = None, streamed: bool | None = None) -> pytest.MarkDecorator:
    """Run a test once per selected recording, as argument `recording`; one visible skip without them."""
    if not available():
        absent = pytest.param(None, marks=pytest.mark.skip(reason=ABSENT), id="absent")
        return pytest.mark.parametrize("recording", [absent])
    chosen = list(select(*paths, status=status, streamed=streamed))
    if not chosen:
        # An empty list would make pytest skip in silence, and a misspelled path would look like a pass.
        raise ValueError(f"no recording of {paths or 'any path'} with status={status}, streamed={streamed}")
    return pytest.mark.parametrize("recording", [pytest.param(one, id=one.name) for one in chosen])


def _read(path: Path) -> Recording:
    raw = json.loads(path.read_text(encoding="utf-8"))
    request, response = raw["request"], raw["response"]
    headers = {name.lower(): value for name, value in response["headers"].items()}
    return Recording(
        name=path.stem,
        source=raw["source"],
        request=RecordedRequest(request["method"], request["path"], request["body"]),
        status=response["status"],
        headers={name: value for name, value in headers.items() if name not in FRAMING_HEADERS},
        body=_body_bytes(response["body"]),
    )


def _body_bytes(body: Any) -> bytes:
    # Recorders' habits differ: the text as it came, or the object it held, re-made here as compact as
    # Cohere's.
    if isinstance(body, str):
        return body.encode()
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
