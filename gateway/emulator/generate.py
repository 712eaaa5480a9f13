"""POST /v1/generate and POST /v1/summarize, the endpoints before chat.

Cohere's specification calls both legacy and still has them. A prompt is answered like a chat turn; a summary is the
text's own first sentences. Source: docs/cohere-api.md#version-1.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

from gateway.emulator import chat, tokens, validation
from gateway.emulator.chat import ChatResponse
from gateway.emulator.chat_v1_encoding import json_line
from gateway.emulator.errors import invalid_request
from gateway.emulator.http_exchange import count_headers
from gateway.emulator.request import META_V1, Request, Response
from gateway.emulator.validation import Check

DEFAULT_MODEL = "command-a-03-2025"
MAX_GENERATIONS = 5
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
LENGTHS = {"short": 1, "medium": 3, "long": 6}  # in sentences
MIN_TEXT, MAX_TEXT = 250, 50_000  # characters

# Fields that mean the same in /v2/chat
SHARED_FIELDS = ("max_tokens", "seed", "k", "p", "frequency_penalty", "presence_penalty")
TEMPERATURE = validation.number(0, 5, "temperature must be between 0 and 5.0 inclusive.")
GENERATE: dict[str, Check] = {
    "prompt": validation.string,
    "model": validation.string,
    "num_generations": validation.integer(
        1, MAX_GENERATIONS, f"num_generations must be between 1 and {MAX_GENERATIONS} inclusive."
    ),
    "stream": validation.boolean,
    "truncate": validation.one_of("NONE", "START", "END"),
    "temperature": TEMPERATURE,
    "preset": validation.string,
    "end_sequences": validation.stop_sequences,
    "stop_sequences": validation.stop_sequences,
    "return_likelihoods": validation.one_of("GENERATION", "ALL", "NONE"),
    "raw_prompting": validation.boolean,
    **{name: validation.CHAT[name] for name in SHARED_FIELDS},
}
SUMMARIZE: dict[str, Check] = {
    "text": validation.string,
    "length": validation.string,
    "format": validation.string,
    "model": validation.string,
    "extractiveness": validation.one_of("low", "medium", "high"),
    "temperature": TEMPERATURE,
    "additional_command": validation.string,
}


def handle_generate(request: Request) -> Response:
    """Handles POST /v1/generate."""
    body = request.select(GENERATE)
    model = request.emulator.model_catalog.find_for("generate", body.get("model") or DEFAULT_MODEL)
    validation.fields(body, GENERATE, "generate")
    prompt = body.get("prompt") or ""
    if not prompt:
        raise invalid_request("prompt must be at least 1 token long.")  # guessed
    validation.check_output_limit(body.get("max_tokens"), model)
    responses = [chat.respond(_chat_body(body), model) for _ in range(body.get("num_generations") or 1)]
    warning = request.unknown_field_warning(GENERATE)
    if body.get("stream"):
        return Response(events=tuple(_events(responses, prompt)), stream_format="v1 lines", headers=warning)
    billed = {
        # The prompt is billed once, however many generations it has.
        "input_tokens": responses[0].billed_tokens[0],
        "output_tokens": sum(response.billed_tokens[1] for response in responses),
    }
    response_body = {
        "id": str(uuid.uuid4()),
        "generations": [_generation(response, body) | {"index": index} for index, response in enumerate(responses)],
        "prompt": prompt,
        "meta": META_V1 | {"billed_units": billed},
    }
    counts = {"num_chars": responses[0].characters, "num_tokens": sum(billed.values())}
    return Response(body=response_body, headers=(*count_headers(counts), *warning))


def _chat_body(body: dict[str, Any]) -> dict[str, Any]:
    """Returns the body of /v2/chat that means the same."""
    chat_body = {name: body[name] for name in SHARED_FIELDS if name in body}
    chat_body |= {"messages": [{"role": "user", "content": body["prompt"]}]}
    chat_body["stop_sequences"] = [*(body.get("stop_sequences") or ()), *(body.get("end_sequences") or ())]
    return chat_body


def _generation(response: ChatResponse, body: dict[str, Any]) -> dict[str, Any]:
    """Returns one element of `generations`, without its index."""
    text = response.text or ""
    generation: dict[str, Any] = {"id": response.id, "text": text}
    if body.get("return_likelihoods") in ("GENERATION", "ALL"):
        items = [chat.logprob_item(piece) for piece in tokens.split(text)]
        generation["likelihood"] = sum(item["logprobs"][0] for item in items) / max(1, len(items))
        generation["token_likelihoods"] = [{"token": item["text"], "likelihood": item["logprobs"][0]} for item in items]
    return generation | {"finish_reason": response.finish_reason}


def _events(responses: list[ChatResponse], prompt: str) -> list[bytes]:
    """Returns the whole stream, one generation after the other, `stream-end` last."""
    events = []
    for index, response in enumerate(responses):
        number = {"index": index} if len(responses) > 1 else {}
        events += [
            json_line("text-generation", number | {"text": piece}) for piece in tokens.split(response.text or "")
        ]
    generations = [
        {
            "id": response.id,
            "text": response.text or "",
            "index": index,
            "finish_reason": response.finish_reason,
        }
        for index, response in enumerate(responses)
    ]
    end = {
        "finish_reason": responses[0].finish_reason,
        "response": {"id": str(uuid.uuid4()), "prompt": prompt, "generations": generations},
    }
    return [*events, json_line("stream-end", end, last=True)]


def handle_summarize(request: Request) -> Response:
    """Handles POST /v1/summarize."""
    body = request.select(SUMMARIZE)
    request.emulator.model_catalog.find_for("summarize", body.get("model") or DEFAULT_MODEL)
    validation.fields(body, SUMMARIZE, "summarize")
    text = body.get("text") or ""
    if len(text) < MIN_TEXT:
        raise invalid_request(f"text must be longer than {MIN_TEXT} characters")
    if len(text) > MAX_TEXT:
        raise invalid_request(f"text must be shorter than {MAX_TEXT} characters")  # guessed
    length, text_format = body.get("length", "medium"), body.get("format", "paragraph")
    if length not in LENGTHS:
        raise invalid_request("length must be one of 'short', 'medium', or 'long'.")
    if text_format not in ("paragraph", "bullets"):
        raise invalid_request("format must be one of 'paragraph', or 'bullets'.")
    sentences = SENTENCE_END.split(text.strip())[: LENGTHS[length]]
    summary = " ".join(sentences)
    if text_format == "bullets":
        summary = "\n".join(f"- {sentence}" for sentence in sentences)
    billed = {"input_tokens": tokens.count(text), "output_tokens": tokens.count(summary)}
    response_body = {"id": str(uuid.uuid4()), "summary": summary, "meta": META_V1 | {"billed_units": billed}}
    return Response(body=response_body, headers=request.unknown_field_warning(SUMMARIZE))
