"""The rules of every request body: which fields exist, their types, their ranges, with Cohere's sentences.

Tables of (field, check). What reaches into messages is in `messages.py`, into tools and documents in
`tool_validation.py`, into JSON Schemas in `json_schema.py`. Nothing here decides what to answer.
Sources: docs/cohere-api.md#chat-requests, docs/cohere-api.md#embed, docs/cohere-api.md#rerank,
docs/cohere-api.md#models and docs/cohere-api.md#errors; "guessed" marks a sentence that nobody recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from gateway.emulator import json_schema, messages, tool_validation
from gateway.emulator.catalogue import Model
from gateway.emulator.images import check_url
from gateway.emulator.refusals import bare, invalid, overlong, unknown_field, wrong_type

Check = Callable[[str, Any, str], None]
Body = Mapping[str, Any]

MOST_STOP_SEQUENCES = 5
MOST_INPUTS = 96
MOST_TOKENS_PER_CALL = 65_536
MOST_CHUNKS = 10_000
LARGEST_SEED = 18_446_744_073_709_551_615


def number(low: float, high: float, sentence: str) -> Check:
    """A float in a closed range."""

    def check(name: str, value: Any, page: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong_type(name, value, "float64", page)
        if not low <= value <= high or math.isnan(value):
            raise invalid(sentence)

    return check


def integer(low: int, high: int | None, sentence: str, wanted: str = "int32") -> Check:
    """An int in a closed range. A float without a fraction is refused too, as Go's decoder does."""

    def check(name: str, value: Any, page: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(name, value, wanted, page)
        if value < low or (high is not None and value > high):
            raise invalid(sentence)

    return check


def boolean(name: str, value: Any, page: str) -> None:
    """true or false, nothing that merely looks so."""
    if not isinstance(value, bool):
        raise wrong_type(name, value, "bool", page)


def string(name: str, value: Any, page: str) -> None:
    """Any text."""
    if not isinstance(value, str):
        raise wrong_type(name, value, "string", page)


def strings(name: str, value: Any, page: str) -> None:
    """A list of texts."""
    if not isinstance(value, list):
        raise wrong_type(name, value, "[]string", page)
    for item in value:
        string(name, item, page)


def listing(name: str, value: Any, page: str) -> None:
    """A list of objects; its items are judged elsewhere."""
    if not isinstance(value, list):
        raise wrong_type(name, value, "[]Object", page)


def one_of(*choices: str, any_case: bool = False) -> Check:
    """An enum. Case counts, except where the documentation's own samples write lower case."""

    def check(name: str, value: Any, page: str) -> None:
        string(name, value, page)
        if (value.upper() if any_case else value) not in choices:
            raise invalid(f"{name} must be one of {', '.join(choices)}.")  # guessed

    return check


def stops(name: str, value: Any, page: str) -> None:
    """At most five stop sequences."""
    strings(name, value, page)
    if len(value) > MOST_STOP_SEQUENCES:
        raise invalid(f"stop_sequences must contain at most {MOST_STOP_SEQUENCES} elements.")  # guessed


def citation_options(name: str, value: Any, page: str) -> None:
    """`{mode}`; lower case modes are in the documentation's samples (docs/cohere-api.md#documents-and-citations)."""
    fields(value, {"mode": one_of("ENABLED", "DISABLED", "FAST", "ACCURATE", "OFF", any_case=True)}, page, name)


def thinking(name: str, value: Any, page: str) -> None:
    """`{type, token_budget}`; samples without a type exist, so a budget alone is taken."""
    table = {
        "type": one_of("enabled", "disabled"),
        "token_budget": integer(1, None, "token_budget must be greater than 0."),
    }
    fields(value, table, page, name)
    if value.get("type") is None and value.get("token_budget") is None:
        raise invalid("thinking.type is required.")  # guessed


PRIORITY = integer(0, 999, "priority must be between 0 and 999 inclusive.")

CHAT: dict[str, Check] = {
    "model": string,
    "messages": listing,
    "stream": boolean,
    "tools": listing,
    "strict_tools": boolean,
    "tool_choice": one_of("REQUIRED", "NONE"),
    "documents": listing,
    "citation_options": citation_options,
    "response_format": json_schema.response_format,
    "safety_mode": one_of("CONTEXTUAL", "STRICT", "OFF"),
    "max_tokens": integer(1, None, "max_tokens must be greater than 0."),
    "stop_sequences": stops,
    "temperature": number(0, 1, "temperature must be between 0 and 1.0 inclusive."),
    "seed": integer(0, LARGEST_SEED, f"seed must be between 0 and {LARGEST_SEED} inclusive.", "uint64"),
    "frequency_penalty": number(0, 1, "frequency_penalty must be between 0 and 1 inclusive."),
    "presence_penalty": number(0, 1, "presence_penalty must be between 0 and 1 inclusive."),
    "k": integer(0, 500, "k must be between 0 and 500 inclusive."),
    "p": number(0.01, 0.99, "p must be between 0.01 and 0.99 inclusive."),
    "logprobs": boolean,
    "thinking": thinking,
    "priority": PRIORITY,
}

EMBED: dict[str, Check] = {
    "model": string,
    "input_type": string,
    "texts": strings,
    "images": strings,
    "inputs": listing,
    "max_tokens": integer(1, None, "max_tokens must be greater than 0."),
    "output_dimension": integer(1, None, "output_dimension must be greater than 0."),
    "embedding_types": strings,
    "truncate": one_of("NONE", "START", "END"),
    "priority": PRIORITY,
}
INPUT_TYPES = ("search_document", "search_query", "classification", "clustering", "image")
EMBEDDING_TYPES = ("float", "int8", "uint8", "binary", "ubinary", "base64")

RERANK: dict[str, Check] = {
    "model": string,
    "query": string,
    "documents": strings,
    "top_n": integer(1, None, "top_n must be greater than 0."),
    "max_tokens_per_doc": integer(1, None, "max_tokens_per_doc must be greater than 0."),
    "relevant_spans": lambda name, value, page: fields(value, SPANS, page, name),
    "priority": PRIORITY,
}
SPANS: dict[str, Check] = {
    "mode": one_of("enabled", "disabled"),
    "threshold": number(0, 1, "threshold must be between 0 and 1 inclusive."),
    "max_spans": integer(1, None, "max_spans must be greater than 0."),
}


def fields(value: Any, table: Mapping[str, Check], page: str, name: str = "body") -> None:
    """Every field is known and, unless null, right by itself."""
    if not isinstance(value, dict):
        raise wrong_type(name, value, "Object", page)
    for field, content in value.items():
        check = table.get(field)
        if check is None:
            raise unknown_field(field, page)
        if content is not None:
            check(field, content, page)


def chat(body: Body, model: Model) -> None:
    """All rules of /v2/chat, cheapest first; returns when the request may be answered."""
    fields(body, CHAT, "chat")
    messages.check(body.get("messages"), model)
    tools = body.get("tools") or []
    documents = body.get("documents") or []
    tool_validation.check_tools(tools, bool(body.get("strict_tools")), model)
    tool_validation.check_documents(documents)
    _capabilities(body, model, tools, documents)
    limit = body.get("max_tokens")
    if limit is not None and limit > model.max_output:
        raise overlong(
            f"max tokens must be less than or equal to {model.max_output}, the maximum output for this model"
            f" - received {limit}."
        )
    if body.get("frequency_penalty") and body.get("presence_penalty") and model.one_penalty:
        raise invalid("only one of 'presence_penalty' and 'frequency_penalty' can be specified for this model.")
    if body.get("safety_mode") == "OFF" and not model.safety_off:
        raise invalid("safety_mode OFF is not supported for this model.")  # guessed


def _capabilities(body: Body, model: Model, tools: Collection[Any], documents: Collection[Any]) -> None:
    choice = body.get("tool_choice")
    if choice is not None and not model.tool_choice and (model.tools or not tools):
        raise bare("tool_choice is not supported for this model")
    if tools and not model.tools:
        raise bare("tool use is not supported for this model")
    if choice == "REQUIRED" and not tools:
        raise invalid("tool_choice REQUIRED requires tools to be provided.")  # guessed
    if documents and not model.rag:
        raise invalid("RAG is not supported for this model.")
    form = body.get("response_format") or {}
    if form.get("type") == "json_object":
        if documents:
            raise invalid("response_format is not supported with RAG.")
        if tools:
            raise invalid("response_format is not supported with tools.")  # guessed
        if not model.json:
            raise invalid("response_format is not supported for this model.")  # guessed


def embed(body: Body, model: Model) -> None:
    """All rules of /v2/embed."""
    fields(body, EMBED, "embed")
    if body.get("input_type") not in INPUT_TYPES:
        raise invalid("valid input_type must be provided with the provided model")
    given = [field for field in ("texts", "images", "inputs") if body.get(field) is not None]
    if len(given) != 1:
        raise invalid("exactly one of 'texts', 'images' or 'inputs' must be provided.")  # guessed
    source = given[0]
    content = body[source]
    if not content:
        raise invalid(f"{source} must not be empty.")  # guessed
    if source == "images":
        _images(content, body["input_type"], model)
    elif len(content) > MOST_INPUTS:
        raise invalid(f"total number of texts must be at most {MOST_INPUTS} - received {len(content)}")
    if source == "texts":
        _no_empty(content)
    if source == "inputs":
        if not model.multimodal:
            raise invalid("inputs is not supported for this model.")  # guessed
        tool_validation.check_inputs(content)
    for kind in body.get("embedding_types") or ():
        if kind not in EMBEDDING_TYPES:
            raise invalid(f"embedding_types must be one of {', '.join(EMBEDDING_TYPES)} - received {kind}")  # guessed
    if body.get("embedding_types") == []:
        raise bare("embedding_types parameter is required")
    _dimension(body.get("output_dimension"), model)


def _images(content: list[str], input_type: str, model: Model) -> None:
    if input_type != "image":
        raise invalid("images must be used with input_type=image")
    if len(content) > 1 and not model.multimodal:
        raise invalid(f"at most 1 image is supported for this model - received {len(content)}")  # guessed
    for url in content:
        check_url(url, remote=False)


def _no_empty(content: list[str]) -> None:
    for index, item in enumerate(content):
        if not item:
            raise invalid(f"inputs contains an element that is the empty string at index {index}")


def _dimension(wanted: int | None, model: Model) -> None:
    if wanted is None:
        return
    if not model.multimodal:
        raise invalid("output_dimension is not supported for this model.")  # guessed
    if wanted not in model.dimensions:
        choices = ", ".join(str(size) for size in sorted(model.dimensions))
        raise invalid(f"output_dimension must be one of {choices} - received {wanted}")  # guessed


def rerank(body: Body, model: Model) -> None:
    """All rules of /v2/rerank."""
    fields(body, RERANK, "rerank")
    if not (body.get("query") or "").strip():
        raise invalid("query must not be empty or be only whitespace")
    documents = body.get("documents")
    if not documents:
        raise invalid("list of documents must not be empty")
    for index, document in enumerate(documents):
        if not document:
            raise invalid(f"document at index {index} cannot be empty")
    if len(documents) > MOST_CHUNKS:
        raise invalid("number of total max chunks (number of documents * max chunks per doc) must be less than 10000")
    spans = body.get("relevant_spans")
    if spans is not None:
        if not model.spans:
            raise invalid("relevant_spans is not supported for this model.")  # guessed
        if spans.get("mode") is None:
            raise invalid("relevant_spans.mode is required.")  # guessed


def tokenize(body: Body) -> None:
    """The text of /v1/tokenize. Its unknown fields are only warned about (recorded)."""
    text = body.get("text")
    if text is None or text == "":
        raise invalid("required 'text' param is missing or empty.")
    string("text", text, "tokenize")
    if len(text) > MOST_TOKENS_PER_CALL:
        raise invalid(f"text must be at most {MOST_TOKENS_PER_CALL} characters - received {len(text)}")  # guessed


def detokenize(body: Body) -> None:
    """The tokens of /v1/detokenize."""
    tokens = body.get("tokens")
    if not tokens and not isinstance(tokens, bool | int | str):
        raise invalid("required 'tokens' param is missing or empty.")  # guessed
    if not isinstance(tokens, list):
        raise wrong_type("tokens", tokens, "[]int64", "detokenize")
    for token in tokens:
        integer(0, None, "tokens must not be negative.", "int64")("tokens", token, "detokenize")
    if len(tokens) > MOST_TOKENS_PER_CALL:
        raise invalid(f"tokens must be at most {MOST_TOKENS_PER_CALL} - received {len(tokens)}")  # guessed
