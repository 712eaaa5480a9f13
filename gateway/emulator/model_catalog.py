"""The models that exist, what each can do, and the models that Cohere has removed.

Source: docs/cohere-api.md#models, for what a model rejects docs/cohere-api.md#chat-requests, and for the size
of its hidden prompt docs/cohere-api.md#usage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.emulator.errors import APIError, bad_request, invalid_request

COMMAND_R = ("json_mode", "json_schema", "safety_modes", "tools")
STRICT = ("json_mode", "json_schema", "strict_tools", "safety_modes", "tools")  # recorded for Command A
REASONING = (*STRICT, "reasoning")  # recorded for Command A Reasoning

LEGACY_ENDPOINTS = ("generate", "chat", "summarize")  # recorded for Command R, and assumed for its successors

TOKENIZERS = "https://storage.googleapis.com/cohere-public/tokenizers/"


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model. The defaults are those of a text chat model of 2024."""

    name: str
    endpoints: tuple[str, ...] = ("chat",)
    default_endpoints: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    context_length: int = 128_000
    max_output: int = 4_096
    temperature: float = 0.3
    tools: bool = False
    tool_choice: bool = False
    rag: bool = False
    json: bool = False
    vision: bool = False
    reasoning: bool = False
    one_penalty: bool = False  # rejects frequency and presence penalty together
    safety_off: bool = False  # accepts safety_mode OFF
    typed_tools: bool = False  # rejects tool parameters without a type
    indented_arguments: bool = False  # writes streamed arguments over several lines
    # Tokens of the prompt that Cohere adds: to a plain request, with a system prompt, with tools, with documents
    hidden: int = 495
    hidden_system: int = 529
    hidden_tools: int = 1_400
    hidden_documents: int = 1_200
    dimensions: tuple[int, ...] = ()  # embed; the first is the default
    multimodal: bool = False  # embed: inputs of several parts, output_dimension, any number of images
    unsupported_types: tuple[str, ...] = ()  # embed: embedding types that it rejects
    lowercase: bool = False  # embed: the response repeats the texts in lower case
    space: str = ""  # embed: models of one space give the same vectors
    spans: bool = False  # rerank: relevant_spans
    v1: bool = True  # chat: serves /v1/chat too; models after Command A do not (recorded for one)
    finetuned: bool = False  # "trained" by finetuning.py


def _command_r(name: str, **overrides: Any) -> Model:
    settings: dict[str, Any] = {
        "features": COMMAND_R, "tools": True, "tool_choice": True, "rag": True, "json": True,
        "safety_off": True, "one_penalty": True, "typed_tools": True, "indented_arguments": True,
        "hidden": 66, "hidden_system": 66, "hidden_tools": 883, "hidden_documents": 680, "endpoints": LEGACY_ENDPOINTS,
    }  # fmt: skip
    return Model(name=name, **(settings | overrides))


def _reasoning(name: str, **overrides: Any) -> Model:
    settings: dict[str, Any] = {
        "features": REASONING, "tools": True, "rag": True, "json": True, "reasoning": True,
        "temperature": 0.6, "hidden_tools": 1_417, "v1": False,
    }  # fmt: skip
    return Model(name=name, **(settings | overrides))


def _embed(name: str, dimensions: tuple[int, ...], **overrides: Any) -> Model:
    return Model(name=name, endpoints=("embed",), max_output=0, dimensions=dimensions, **overrides)


def _rerank(name: str, context_length: int, **overrides: Any) -> Model:
    return Model(name=name, endpoints=("rerank",), max_output=0, context_length=context_length, **overrides)


def _transcribe(name: str) -> Model:
    return Model(name=name, endpoints=("transcribe",), max_output=0)


MODELS: tuple[Model, ...] = (
    _reasoning("command-a-plus-05-2026", features=(*REASONING, "vision"), context_length=436_000,
               max_output=65_536, vision=True, hidden=25, hidden_system=25),
    Model(name="command-a-03-2025", endpoints=LEGACY_ENDPOINTS, features=STRICT, default_endpoints=("chat", "generate"),
          context_length=288_000, max_output=8_192, tools=True, tool_choice=True, rag=True, json=True,
          hidden_tools=1_425),
    _reasoning("command-a-reasoning-08-2025", context_length=288_768, max_output=32_768),
    Model(name="command-a-vision-07-2025", features=("json_mode", "json_schema", "safety_modes", "vision"),
          max_output=8_192, json=True, vision=True, v1=False),
    Model(name="command-a-translate-08-2025", features=("safety_modes",), context_length=8_992,
          max_output=8_192, v1=False),
    Model(name="command-r7b-12-2024", features=STRICT, context_length=132_000, tools=True, tool_choice=True,
          rag=True, json=True, indented_arguments=True),
    Model(name="command-r7b-arabic-02-2025", features=STRICT, tools=True, tool_choice=True, rag=True,
          json=True, indented_arguments=True),
    _command_r("command-r-08-2024"),
    _command_r("command-r-plus-08-2024"),
    _reasoning("north-mini-code-1-0", context_length=436_000, max_output=65_536),
    Model(name="north-small-translate-1-0", context_length=16_384, max_output=16_384, v1=False),
    Model(name="c4ai-aya-expanse-32b", hidden=8, hidden_system=12),
    Model(name="c4ai-aya-vision-32b", features=("vision",), context_length=16_384, vision=True, hidden=8,
          hidden_system=12),
    *(Model(name=f"tiny-aya-{region}", context_length=8_192, max_output=8_192, hidden=8, hidden_system=12, v1=False)
      for region in ("global", "earth", "fire", "water")),
    # Their announcement names float, int8 and binary; whether base64 is accepted is not known.
    *(_embed(f"embed-v5.0-{size}", (2048, 256, 512, 768, 1024, 1536), multimodal=True, space="v5",
             unsupported_types=("uint8", "ubinary")) for size in ("pro", "fast")),
    _embed("embed-v4.0", (1536, 256, 512, 1024), multimodal=True, space="v4", default_endpoints=("embed",)),
    _embed("embed-english-v3.0", (1024,), context_length=512, space="english-v3"),
    _embed("embed-multilingual-v3.0", (1024,), context_length=512, space="multilingual-v3"),
    # recorded: its response repeats the texts in lower case
    _embed("embed-english-light-v3.0", (384,), context_length=512, lowercase=True, space="english-light-v3"),
    _embed("embed-multilingual-light-v3.0", (384,), context_length=512, space="multilingual-light-v3"),
    _rerank("rerank-v5.0-pro", 32_768, spans=True),
    _rerank("rerank-v5.0-fast", 32_768, spans=True),
    _rerank("rerank-v4.0-pro", 32_768),
    _rerank("rerank-v4.0-fast", 32_768),
    _rerank("rerank-v3.5", 4_096, default_endpoints=("rerank",)),
    _rerank("rerank-english-v3.0", 4_096),
    _rerank("rerank-multilingual-v3.0", 4_096),
    # guessed: the word for them in `endpoints`
    _transcribe("cohere-transcribe-03-2026"),
    _transcribe("cohere-transcribe-arabic-07-2026"),
)  # fmt: skip

# name -> (date as in the error, anchor on the models page); recorded for command-r-plus
REMOVED: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        (
            "command-r-03-2024",
            "command-r",
            "command-r-plus-04-2024",
            "command-r-plus",
            "command",
            "command-light",
        ),
        ("September 15, 2025", "command"),
    ),
    **dict.fromkeys(("c4ai-aya-expanse-8b", "c4ai-aya-vision-8b"), ("April 4, 2026", "aya")),
    **dict.fromkeys(
        ("embed-english-v2.0", "embed-english-light-v2.0", "embed-multilingual-v2.0"),
        ("April 4, 2026", "embed"),
    ),
    **dict.fromkeys(("rerank-english-v2.0", "rerank-multilingual-v2.0"), ("April 30, 2025", "rerank")),
}


class ModelCatalog:
    """The models that one emulator serves, in the order of its list."""

    def __init__(self, models: Iterable[Model | Mapping[str, Any]] | None = None) -> None:
        rows = MODELS if models is None else models
        converted = (row if isinstance(row, Model) else msgspec.convert(dict(row), Model) for row in rows)
        self.models: dict[str, Model] = {model.name: model for model in converted}

    def find(self, name: str) -> Model:
        """Returns the model of that name. Raises a 404 that says whether it is unknown or was removed."""
        model = self.models.get(name)
        if model is not None:
            return model
        if name in REMOVED:
            date, anchor = REMOVED[name]
            raise APIError(
                404,
                f"model '{name}' was removed on {date}. See https://docs.cohere.com/docs/models#{anchor}"
                " for a list of models you can use instead.",
            )
        raise APIError(
            404,
            f"model '{name}' not found, make sure the correct model ID was used and that you have access to the model.",
        )

    def find_required(self, name: object) -> Model:
        """Returns the model that a request names. Raises a 400 if it names none, a 404 if there is no such one."""
        if not isinstance(name, str) or not name:
            raise bad_request("a model parameter is required for this endpoint.")
        return self.find(name)

    def find_for(self, endpoint: str, name: object) -> Model:
        """Returns the model that a request names. Raises a 400 if it does not serve the endpoint."""
        model = self.find_required(name)
        if endpoint not in model.endpoints:
            raise invalid_request(f"model '{name}' is not supported by the {endpoint} API")
        return model


def describe(model: Model) -> dict[str, Any]:
    """Returns a model in the format of `GET /v1/models`."""
    description: dict[str, Any] = {
        "name": model.name,
        "endpoints": list(model.endpoints),
        "finetuned": model.finetuned,
        "context_length": model.context_length,
        "tokenizer_url": f"{TOKENIZERS}{model.name}.json",
        "default_endpoints": list(model.default_endpoints),
    }
    if "chat" in model.endpoints:
        description["features"] = list(model.features)
        description["sampling_defaults"] = {
            "temperature": model.temperature, "k": 0, "p": 0.75, "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
        }  # fmt: skip
    if "rerank" in model.endpoints:
        description["sampling_defaults"] = {"max_tokens_per_doc": 4_096}
    return description
