"""POST /v1/generate and POST /v1/summarize: what there was before chat.

Cohere's specification calls both legacy and still has them, so they are served: a prompt is answered as a
chat turn is, a summary is made of the text's own first sentences. Source: docs/cohere-api.md#version-1 and
docs/cohere-api.md#errors.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

from gateway.emulator import chat, tokens, validation, wire
from gateway.emulator.catalogue import Model
from gateway.emulator.chat import Answer
from gateway.emulator.refusals import invalid, overlong
from gateway.emulator.request import META_V1, Reply, Request, warnings
from gateway.emulator.stream_v1 import line
from gateway.emulator.validation import Check

DEFAULT_MODEL = "command-a-03-2025"
MOST_GENERATIONS = 5
SENTENCE = re.compile(r"(?<=[.!?])\s+")
LENGTHS = {"short": 1, "medium": 3, "long": 6}  # sentences
SHORTEST_TEXT, LONGEST_TEXT = 250, 50_000

SAME = ("max_tokens", "seed", "k", "p", "frequency_penalty", "presence_penalty")
GENERATE: dict[str, Check] = {
    "prompt": validation.string,
    "model": validation.string,
    "num_generations": validation.integer(
        1, MOST_GENERATIONS, f"num_generations must be between 1 and {MOST_GENERATIONS} inclusive."
    ),
    "stream": validation.boolean,
    "truncate": validation.one_of("NONE", "START", "END"),
    "temperature": validation.number(0, 5, "temperature must be between 0 and 5.0 inclusive."),
    "preset": validation.string,
    "end_sequences": validation.stops,
    "stop_sequences": validation.stops,
    "return_likelihoods": validation.one_of("GENERATION", "ALL", "NONE"),
    "raw_prompting": validation.boolean,
    **{name: validation.CHAT[name] for name in SAME},
}
SUMMARIZE: dict[str, Check] = {
    "text": validation.string,
    "length": validation.string,
    "format": validation.string,
    "model": validation.string,
    "extractiveness": validation.one_of("low", "medium", "high"),
    "temperature": validation.number(0, 5, "temperature must be between 0 and 5.0 inclusive."),
    "additional_command": validation.string,
}


def generate(request: Request) -> Reply:
    """POST /v1/generate."""
    body = {name: value for name, value in request.body.items() if name in GENERATE and value is not None}
    model = request.emulator.catalogue.serving(body.get("model") or DEFAULT_MODEL, "generate")
    validation.fields(body, GENERATE, "generate")
    prompt = body.get("prompt") or ""
    if not prompt:
        raise invalid("prompt must be at least 1 token long.")  # guessed
    made = [_generation(body, model, number) for number in range(body.get("num_generations") or 1)]
    warned = warnings(request.body, GENERATE)
    if body.get("stream"):
        return Reply(events=tuple(_events(made, prompt)), dialect="lines", headers=warned)
    billed = {
        "input_tokens": made[0].usage["billed_units"]["input_tokens"],
        "output_tokens": sum(answer.usage["billed_units"]["output_tokens"] for answer in made),
    }
    told = {
        "id": str(uuid.uuid4()),
        "generations": [_told(answer, body) | {"index": index} for index, answer in enumerate(made)],
        "prompt": prompt,
        "meta": META_V1 | {"billed_units": billed},
    }
    numbers = {"num_chars": made[0].characters, "num_tokens": sum(billed.values())}
    return Reply(body=told, headers=(*wire.number_headers(numbers), *warned))


def _generation(body: dict[str, Any], model: Model, number: int) -> Answer:
    asked = {name: body[name] for name in SAME if name in body}
    asked |= {"messages": [{"role": "user", "content": body["prompt"]}]}
    asked["stop_sequences"] = [*(body.get("stop_sequences") or ()), *(body.get("end_sequences") or ())]
    limit = body.get("max_tokens")
    if limit is not None and limit > model.max_output:
        raise overlong(
            f"max tokens must be less than or equal to {model.max_output}, the maximum output for this model"
            f" - received {limit}."
        )
    return chat.answer(asked, model)


def _told(answer: Answer, body: dict[str, Any]) -> dict[str, Any]:
    text = answer.text or ""
    told: dict[str, Any] = {"id": answer.id, "text": text}
    if body.get("return_likelihoods") in ("GENERATION", "ALL"):
        pieces = [chat.logprob_item(piece) for piece in tokens.pieces(text)]
        told["likelihood"] = sum(item["logprobs"][0] for item in pieces) / max(1, len(pieces))
        told["token_likelihoods"] = [{"token": item["text"], "likelihood": item["logprobs"][0]} for item in pieces]
    return told | {"finish_reason": answer.finish}


def _events(made: list[Answer], prompt: str) -> list[bytes]:
    told = []
    for index, answer in enumerate(made):
        several = {"index": index} if len(made) > 1 else {}
        told += [line("text-generation", several | {"text": piece}) for piece in tokens.pieces(answer.text or "")]
    finished = [
        {"id": answer.id, "text": answer.text or "", "index": index, "finish_reason": answer.finish}
        for index, answer in enumerate(made)
    ]
    response = {"id": str(uuid.uuid4()), "prompt": prompt, "generations": finished}
    told.append(line("stream-end", {"finish_reason": made[0].finish, "response": response}, last=True))
    return told


def summarize(request: Request) -> Reply:
    """POST /v1/summarize."""
    body = {name: value for name, value in request.body.items() if name in SUMMARIZE and value is not None}
    request.emulator.catalogue.serving(body.get("model") or DEFAULT_MODEL, "summarize")
    validation.fields(body, SUMMARIZE, "summarize")
    text = body.get("text") or ""
    if len(text) < SHORTEST_TEXT:
        raise invalid(f"text must be longer than {SHORTEST_TEXT} characters")
    if len(text) > LONGEST_TEXT:
        raise invalid(f"text must be shorter than {LONGEST_TEXT} characters")  # guessed
    length, form = body.get("length", "medium"), body.get("format", "paragraph")
    if length not in LENGTHS:
        raise invalid("length must be one of 'short', 'medium', or 'long'.")
    if form not in ("paragraph", "bullets"):
        raise invalid("format must be one of 'paragraph', or 'bullets'.")
    sentences = SENTENCE.split(text.strip())[: LENGTHS[length]]
    summary = " ".join(sentences) if form == "paragraph" else "\n".join(f"- {sentence}" for sentence in sentences)
    billed = {"input_tokens": tokens.count(text), "output_tokens": tokens.count(summary)}
    told = {"id": str(uuid.uuid4()), "summary": summary, "meta": META_V1 | {"billed_units": billed}}
    return Reply(body=told, headers=warnings(request.body, SUMMARIZE))
