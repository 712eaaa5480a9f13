"""The rules of request bodies: their fields, types and ranges, with Cohere's error sentences.

Each endpoint has a table of field -> check. Messages are checked in `message_validation.py`, tools and documents in
`tool_validation.py`, JSON Schemas in `schema_validation.py`.
Source: docs/cohere-api.md#chat-requests, docs/cohere-api.md#embed, docs/cohere-api.md#rerank and
docs/cohere-api.md#errors. "guessed" marks a sentence
that nobody recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from gateway.emulator import message_validation, schema_validation, tool_validation
from gateway.emulator.errors import (
    bad_request,
    invalid_request,
    require_object,
    too_many_tokens,
    unknown_field,
    wrong_type,
)
from gateway.emulator.images import check_url
from gateway.emulator.model_catalog import Model

# Checks the value of a field: (name, value, page of the reference). Raises APIError.
Check = Callable[[str, Any, str], None]
Body = Mapping[str, Any]

MAX_STOP_SEQUENCES = 5
MAX_INPUTS = 96
MAX_TOKENIZE = 65_536
MAX_CHUNKS = 10_000
MAX_SEED = 18_446_744_073_709_551_615


def number(low: float, high: float, sentence: str) -> Check:
    """Returns a check for a number in a closed range."""

    def check(name: str, value: Any, page: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong_type(name, value, "float64", page)
        if not low <= value <= high:
            raise invalid_request(sentence)

    return check


def integer(low: int, high: int | None, sentence: str, go_type: str = "int32") -> Check:
    """Returns a check for an integer in a closed range. Like Go's decoder, it rejects 1.0."""

    def check(name: str, value: Any, page: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(name, value, go_type, page)
        if value < low or (high is not None and value > high):
            raise invalid_request(sentence)

    return check


def boolean(name: str, value: Any, page: str) -> None:
    """Checks for true or false."""
    if not isinstance(value, bool):
        raise wrong_type(name, value, "bool", page)


def string(name: str, value: Any, page: str) -> None:
    """Checks for a string."""
    if not isinstance(value, str):
        raise wrong_type(name, value, "string", page)


def strings(name: str, value: Any, page: str) -> None:
    """Checks for a list of strings."""
    if not isinstance(value, list):
        raise wrong_type(name, value, "[]string", page)
    for item in value:
        string(name, item, page)


def object_list(name: str, value: Any, page: str) -> None:
    """Checks for a list of objects, whose items are checked elsewhere."""
    if not isinstance(value, list):
        raise wrong_type(name, value, "[]Object", page)


def one_of(*choices: str, any_case: bool = False) -> Check:
    """Returns a check for an enum. Case matters, unless Cohere's own samples write it in lower case."""

    def check(name: str, value: Any, page: str) -> None:
        string(name, value, page)
        if (value.upper() if any_case else value) not in choices:
            raise invalid_request(f"{name} must be one of {', '.join(choices)}.")  # guessed

    return check


def nested(table: Mapping[str, Check]) -> Check:
    """Returns a check for an object whose fields are checked by a table."""
    return lambda name, value, page: fields(value, table, page, name)


def stop_sequences(name: str, value: Any, page: str) -> None:
    """Checks for at most five strings."""
    strings(name, value, page)
    if len(value) > MAX_STOP_SEQUENCES:
        raise invalid_request(f"stop_sequences must contain at most {MAX_STOP_SEQUENCES} elements.")  # guessed


def thinking(name: str, value: Any, page: str) -> None:
    """Checks `{type, token_budget}`. Cohere's samples have a budget without a type, so it is accepted."""
    fields(value, THINKING, page, name)
    if value.get("type") is None and value.get("token_budget") is None:
        raise invalid_request("thinking.type is required.")  # guessed


THINKING: dict[str, Check] = {
    "type": one_of("enabled", "disabled"),
    "token_budget": integer(1, None, "token_budget must be greater than 0."),
}
CITATION_OPTIONS: dict[str, Check] = {
    "mode": one_of("ENABLED", "DISABLED", "FAST", "ACCURATE", "OFF", any_case=True),
}
PRIORITY = integer(0, 999, "priority must be between 0 and 999 inclusive.")

CHAT: dict[str, Check] = {
    "model": string,
    "messages": object_list,
    "stream": boolean,
    "tools": object_list,
    "strict_tools": boolean,
    "tool_choice": one_of("REQUIRED", "NONE"),
    "documents": object_list,
    "citation_options": nested(CITATION_OPTIONS),
    "response_format": schema_validation.response_format,
    "safety_mode": one_of("CONTEXTUAL", "STRICT", "OFF"),
    "max_tokens": integer(1, None, "max_tokens must be greater than 0."),
    "stop_sequences": stop_sequences,
    "temperature": number(0, 1, "temperature must be between 0 and 1.0 inclusive."),
    "seed": integer(0, MAX_SEED, f"seed must be between 0 and {MAX_SEED} inclusive.", "uint64"),
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
    "inputs": object_list,
    "max_tokens": integer(1, None, "max_tokens must be greater than 0."),
    "output_dimension": integer(1, None, "output_dimension must be greater than 0."),
    "embedding_types": strings,
    "truncate": one_of("NONE", "START", "END"),
    "priority": PRIORITY,
}
INPUT_TYPES = ("search_document", "search_query", "classification", "clustering", "image")
EMBEDDING_TYPES = ("float", "int8", "uint8", "binary", "ubinary", "base64")

RELEVANT_SPANS: dict[str, Check] = {
    "mode": one_of("enabled", "disabled"),
    "threshold": number(0, 1, "threshold must be between 0 and 1 inclusive."),
    "max_spans": integer(1, None, "max_spans must be greater than 0."),
}
RERANK: dict[str, Check] = {
    "model": string,
    "query": string,
    "documents": strings,
    "top_n": integer(1, None, "top_n must be greater than 0."),
    "max_tokens_per_doc": integer(1, None, "max_tokens_per_doc must be greater than 0."),
    "relevant_spans": nested(RELEVANT_SPANS),
    "priority": PRIORITY,
}


def fields(value: Any, table: Mapping[str, Check], page: str, name: str = "body") -> None:
    """Checks that a value is an object, that its table has every field, and every field that is not null."""
    require_object(name, value, page)
    for field, content in value.items():
        check = table.get(field)
        if check is None:
            raise unknown_field(field, page)
        if content is not None:
            check(field, content, page)


def chat(body: Body, model: Model) -> None:
    """Checks a body of /v2/chat, with the cheapest rules first."""
    fields(body, CHAT, "chat")
    message_validation.check(body.get("messages"), model)
    tools = body.get("tools") or []
    documents = body.get("documents") or []
    tool_validation.check_tools(tools, bool(body.get("strict_tools")), model)
    tool_validation.check_documents(documents)
    _check_capabilities(body, model, tools, documents)
    check_output_limit(body.get("max_tokens"), model)
    if body.get("frequency_penalty") and body.get("presence_penalty") and model.one_penalty:
        raise invalid_request("only one of 'presence_penalty' and 'frequency_penalty' can be specified for this model.")
    if body.get("safety_mode") == "OFF" and not model.safety_off:
        raise invalid_request("safety_mode OFF is not supported for this model.")  # guessed


def check_output_limit(limit: int | None, model: Model) -> None:
    """Checks that max_tokens is not above the model's maximum."""
    if limit is not None and limit > model.max_output:
        raise too_many_tokens(
            f"max tokens must be less than or equal to {model.max_output}, the maximum output for this model"
            f" - received {limit}."
        )


def _check_capabilities(body: Body, model: Model, tools: Collection[Any], documents: Collection[Any]) -> None:
    choice = body.get("tool_choice")
    # Where the model knows no tools either, the next error says more.
    if choice is not None and not model.tool_choice and (model.tools or not tools):
        raise bad_request("tool_choice is not supported for this model")
    if tools and not model.tools:
        raise bad_request("tool use is not supported for this model")
    if choice == "REQUIRED" and not tools:
        raise invalid_request("tool_choice REQUIRED requires tools to be provided.")  # guessed
    if documents and not model.rag:
        raise invalid_request("RAG is not supported for this model.")
    if (body.get("response_format") or {}).get("type") == "json_object":
        if documents:
            raise invalid_request("response_format is not supported with RAG.")
        if tools:
            raise invalid_request("response_format is not supported with tools.")  # guessed
        if not model.json:
            raise invalid_request("response_format is not supported for this model.")  # guessed


def embed(body: Body, model: Model) -> None:
    """Checks a body of /v2/embed."""
    fields(body, EMBED, "embed")
    if body.get("input_type") not in INPUT_TYPES:
        raise invalid_request("valid input_type must be provided with the provided model")
    sources = [field for field in ("texts", "images", "inputs") if body.get(field) is not None]
    if len(sources) != 1:
        raise invalid_request("exactly one of 'texts', 'images' or 'inputs' must be provided.")  # guessed
    source = sources[0]
    content = body[source]
    if not content:
        raise invalid_request(f"{source} must not be empty.")  # guessed
    if source == "images":
        _check_images(content, body["input_type"], model)
    elif source == "texts":
        check_texts(content)
    else:
        _check_input_count(content)
        if not model.multimodal:
            raise invalid_request("inputs is not supported for this model.")  # guessed
        tool_validation.check_embed_inputs(content)
    check_embedding_types(body.get("embedding_types") or (), model)
    if body.get("embedding_types") == []:
        raise bad_request("embedding_types parameter is required")
    _check_dimension(body.get("output_dimension"), model)


def check_embedding_types(types: Iterable[str], model: Model) -> None:
    """Checks that the model has all embedding types."""
    supported = [kind for kind in EMBEDDING_TYPES if kind not in model.unsupported_types]
    for kind in types:
        if kind not in supported:
            choices = ", ".join(supported)
            raise invalid_request(f"embedding_types must be one of {choices} - received {kind}")  # guessed


def _check_images(content: list[str], input_type: str, model: Model) -> None:
    if input_type != "image":
        raise invalid_request("images must be used with input_type=image")
    if len(content) > 1 and not model.multimodal:
        raise invalid_request(f"at most 1 image is supported for this model - received {len(content)}")  # guessed
    for url in content:
        check_url(url, remote=False)


def check_texts(texts: Sequence[str]) -> None:
    """Checks that there are not too many texts, and that none is empty."""
    _check_input_count(texts)
    for index, text in enumerate(texts):
        if not text:
            raise invalid_request(f"inputs contains an element that is the empty string at index {index}")


def _check_input_count(inputs: Sequence[Any]) -> None:
    if len(inputs) > MAX_INPUTS:
        raise invalid_request(f"total number of texts must be at most {MAX_INPUTS} - received {len(inputs)}")


def _check_dimension(dimension: int | None, model: Model) -> None:
    if dimension is None:
        return
    if not model.multimodal:
        raise invalid_request("output_dimension is not supported for this model.")  # guessed
    if dimension not in model.dimensions:
        choices = ", ".join(str(size) for size in sorted(model.dimensions))
        raise invalid_request(f"output_dimension must be one of {choices} - received {dimension}")  # guessed


def rerank(body: Body, model: Model) -> None:
    """Checks a body of /v2/rerank."""
    fields(body, RERANK, "rerank")
    if not (body.get("query") or "").strip():
        raise invalid_request("query must not be empty or be only whitespace")
    documents = body.get("documents")
    if not documents:
        raise invalid_request("list of documents must not be empty")
    for index, document in enumerate(documents):
        if not document:
            raise invalid_request(f"document at index {index} cannot be empty")
    if len(documents) > MAX_CHUNKS:
        raise invalid_request(
            "number of total max chunks (number of documents * max chunks per doc) must be less than 10000"
        )
    spans = body.get("relevant_spans")
    if spans is not None:
        if not model.spans:
            raise invalid_request("relevant_spans is not supported for this model.")  # guessed
        if spans.get("mode") is None:
            raise invalid_request("relevant_spans.mode is required.")  # guessed


def tokenize(body: Body) -> None:
    """Checks the text of /v1/tokenize. An unknown field only causes a warning (recorded)."""
    text = body.get("text")
    if text is None or text == "":
        raise invalid_request("required 'text' param is missing or empty.")
    string("text", text, "tokenize")
    if len(text) > MAX_TOKENIZE:
        raise invalid_request(f"text must be at most {MAX_TOKENIZE} characters - received {len(text)}")  # guessed


def detokenize(body: Body) -> None:
    """Checks the tokens of /v1/detokenize."""
    tokens = body.get("tokens")
    # An empty list is missing; a false or a zero is of the wrong type.
    if not tokens and not isinstance(tokens, bool | int | str):
        raise invalid_request("required 'tokens' param is missing or empty.")  # guessed
    if not isinstance(tokens, list):
        raise wrong_type("tokens", tokens, "[]int64", "detokenize")
    for token in tokens:
        integer(0, None, "tokens must not be negative.", "int64")("tokens", token, "detokenize")
    if len(tokens) > MAX_TOKENIZE:
        raise invalid_request(f"tokens must be at most {MAX_TOKENIZE} - received {len(tokens)}")  # guessed
