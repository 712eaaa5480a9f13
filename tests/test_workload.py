"""What a translation says of the work it asks for: the input of limits and budgets."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from support import transcripts
from translators.core.contracts import Workload
from translators.operations import chat, embeddings, rerank, responses, responses_compaction, transcription

A = "command-a-03-2025"
V = "command-a-vision-07-2025"
HELLO = [{"role": "user", "content": "Hello"}]
REQUEST: dict[str, Callable[..., Any]] = {
    "chat": chat.request,
    "responses": responses.request,
    "compact": responses_compaction.request,
    "embeddings": embeddings.request,
    "rerank": rerank.request,
    "transcription": transcription.request,
}


def workload(operation: str, **fields: Any) -> tuple[Workload, int]:
    """The workload of a request, and the bytes that Cohere would be sent."""
    translation = REQUEST[operation](json.dumps(fields).encode(), transcripts.context())
    result: Workload = translation.workload
    return result, sum(map(len, getattr(translation, "bodies", ())))


@pytest.mark.parametrize(
    ("operation", "fields", "expected"),
    [
        ("chat", {"model": A, "messages": HELLO, "user": "ada"}, (A, None, "ada")),
        ("chat", {"model": A, "messages": HELLO, "max_tokens": 10, "n": 3}, (A, 30, "")),
        ("chat", {"model": A, "messages": HELLO, "safety_identifier": "b", "user": "a"}, (A, None, "a")),
        ("chat", {"model": A, "messages": HELLO, "safety_identifier": "b"}, (A, None, "b")),
        ("chat", {"model": A, "messages": HELLO, "user": ["no text"]}, (A, None, "")),
        ("chat", {"model": A, "messages": HELLO, "max_tokens": 99_999}, (A, 8_192, "")),
        ("responses", {"model": A, "input": "Hello", "max_output_tokens": 50, "user": "a"}, (A, 50, "a")),
        ("compact", {"model": A, "input": "Hello"}, (A, None, "")),
        ("embeddings", {"model": "embed-v4.0", "input": ["one", "two"], "user": "a"}, ("embed-v4.0", None, "a")),
        ("rerank", {"model": "rerank-v3.5", "query": "q", "documents": ["d"], "user": "a"}, ("rerank-v3.5", None, "a")),
    ],
)
def test_workload(operation: str, fields: dict[str, Any], expected: tuple[str, int | None, str]) -> None:
    result, request = workload(operation, **fields)
    assert (result.model, result.max_tokens, result.end_user) == expected
    assert result.prompt_bytes == request


@pytest.mark.parametrize(
    ("operation", "fields", "expected"),
    [
        ("chat", {"model": A, "messages": HELLO, "n": 3}, (3, 0, 1)),
        ("embeddings", {"model": "embed-v4.0", "input": ["a"] * 97}, (2, 0, 1)),
        ("embeddings", {"model": "embed-v4.0", "images": ["data:image/png;base64,AAAA"]}, (1, 1, 1)),
        ("rerank", {"model": "rerank-v3.5", "query": "q", "documents": ["d"] * 100}, (1, 0, 1)),
        ("rerank", {"model": "rerank-v3.5", "query": "q", "documents": ["d"] * 101}, (1, 0, 2)),
        ("rerank", {"model": "rerank-v3.5", "query": "q", "documents": ["d" * 2_000] * 51}, (1, 0, 2)),
    ],
)
def test_calls_images_and_searches(operation: str, fields: dict[str, Any], expected: tuple[int, int, int]) -> None:
    result, _ = workload(operation, **fields)
    assert (result.calls, result.images, result.searches) == expected


def test_a_recording_has_no_text() -> None:
    model = "cohere-transcribe-03-2026"
    result, _ = workload("transcription", model=model, language="en", user="a")
    assert result == Workload(model, 0, None, "a", requested_model=model)


def test_images_are_no_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    content = [{"type": "text", "text": "What is this?"}, image]
    result, _ = workload("chat", model=V, messages=[{"role": "user", "content": content}])
    assert 0 < result.prompt_bytes < 1_000
    assert result.images == 1
    result, _ = workload("embeddings", model="embed-v4.0", images=[image["image_url"]["url"]])  # type: ignore[index]
    assert result.prompt_bytes == 0
