"""The capabilities of Cohere's models, as far as a translation depends on them.

Sources: docs/cohere-api.md#chat-requests and docs/cohere-api.md#models, and refusals of the live API that third parties
recorded from July to September 2026. A model that is not in the table has the `features` that `/v1/models` reports. One
that is in neither is taken to do everything, so that a new model works on the day it appears.
"""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace


class Capabilities(Struct, frozen=True):
    """The capabilities of one model.

    max_output: tokens, None when unknown. tool_choice: REQUIRED and NONE are accepted. one_penalty: only one of the two
    penalties is accepted. keeps_tools: tools that the history calls must be defined, else 422 INVALID_TOOL_GENERATION
    (docs/cohere-api.md#messages; command-r did without in the recordings). typed_tools: each parameter of a tool must
    have a type, else 400 (docs/cohere-api.md#tools; command-r and command-r-plus). listed: the model is in the table.
    """

    max_output: int | None = None
    reasoning: bool = False
    tools: bool = True
    tool_choice: bool = True
    images: bool = True
    documents: bool = True
    json_schema: bool = True
    one_penalty: bool = False
    keeps_tools: bool = True
    typed_tools: bool = False
    listed: bool = True


_R = Capabilities(4096, images=False, one_penalty=True, keeps_tools=False, typed_tools=True)
_TEXT_ONLY = Capabilities(4096, tools=False, tool_choice=False, images=False, documents=False, json_schema=False)

CAPABILITIES: Mapping[str, Capabilities] = {
    "command-a-plus-05-2026": Capabilities(64_000, reasoning=True, tool_choice=False),
    "command-a-03-2025": Capabilities(8_192, images=False),
    "command-a-reasoning-08-2025": Capabilities(32_768, reasoning=True, tool_choice=False, images=False),
    "command-a-vision-07-2025": Capabilities(8_192, tools=False, tool_choice=False, documents=False),
    "command-a-translate-08-2025": replace(_TEXT_ONLY, max_output=8_192),
    "command-r7b-12-2024": Capabilities(4_096, images=False),
    "command-r7b-arabic-02-2025": Capabilities(4_096, images=False),
    "command-r-08-2024": _R,
    "command-r-plus-08-2024": _R,
    "north-mini-code-1-0": Capabilities(64_000, reasoning=True, tool_choice=False, images=False),
    "north-small-translate-1-0": replace(_TEXT_ONLY, max_output=16_384),
    "c4ai-aya-expanse-32b": _TEXT_ONLY,
    "c4ai-aya-vision-32b": replace(_TEXT_ONLY, images=True),
    "tiny-aya-global": replace(_TEXT_ONLY, max_output=8_192),
    "tiny-aya-earth": replace(_TEXT_ONLY, max_output=8_192),
    "tiny-aya-fire": replace(_TEXT_ONLY, max_output=8_192),
    "tiny-aya-water": replace(_TEXT_ONLY, max_output=8_192),
}

RERANKERS = frozenset(
    {
        *("rerank-v5.0-pro", "rerank-v5.0-fast", "rerank-v4.0-pro", "rerank-v4.0-fast"),
        *("rerank-v3.5", "rerank-english-v3.0", "rerank-multilingual-v3.0"),
    }
)
TRANSCRIBERS = frozenset({"cohere-transcribe-03-2026", "cohere-transcribe-arabic-07-2026"})
"""Rerankers and transcribers have no capabilities that a translation depends on: only their names are listed."""

# A capability that is wrongly assumed leads to an error that the caller sees; a missing one would silently withhold
# something.
_UNKNOWN = Capabilities(reasoning=True, listed=False)


EMBEDDING_TYPES = ("float", "int8", "uint8", "binary", "ubinary", "base64")


class EmbeddingModel(Struct, frozen=True):
    """The vectors of one embedding model.

    sizes: numbers in a vector, the default first; empty when unknown. fused: takes texts and images in one input, and
    several images in a call. types: Cohere's names of the types of vectors; without base64, it is made of floats here.
    """

    sizes: tuple[int, ...] = ()
    fused: bool = True
    types: tuple[str, ...] = EMBEDDING_TYPES


# Version 5 has no base64 according to docs/cohere-api.md#embed. If that is wrong, base64 made of floats still works.
_V5 = EmbeddingModel((2048, 256, 512, 768, 1024, 1536), types=("float", "int8", "binary"))
_V3, _V3_LIGHT = EmbeddingModel((1024,), fused=False), EmbeddingModel((384,), fused=False)

EMBEDDERS: Mapping[str, EmbeddingModel] = {
    "embed-v5.0-pro": _V5,
    "embed-v5.0-fast": _V5,
    "embed-v4.0": EmbeddingModel((1536, 256, 512, 1024)),
    "embed-english-v3.0": _V3,
    "embed-multilingual-v3.0": _V3,
    "embed-english-light-v3.0": _V3_LIGHT,
    "embed-multilingual-light-v3.0": _V3_LIGHT,
}
_NEW_EMBEDDER = EmbeddingModel()

RETIRED_EMBEDDERS = frozenset({"embed-english-v2.0", "embed-english-light-v2.0", "embed-multilingual-v2.0"})
"""Embedding models that Cohere removed in April 2026. They have no successor, because vectors cannot be compared."""


def embedding_model(model: str) -> EmbeddingModel:
    """Returns the row of an embedding model. A model that is not in the table is taken to do everything."""
    return EMBEDDERS.get(model, _NEW_EMBEDDER)


def model_capabilities(
    model: str, features: Mapping[str, frozenset[str]], corrections: Mapping[str, Mapping[str, bool]]
) -> Capabilities:
    """Returns the capabilities of a model: its row, else its features, corrected by what refusals revealed.

    features, corrections: as in `LearnedCapabilities`.
    """
    row = CAPABILITIES.get(model) or _reported(features.get(model))
    learned = corrections.get(model)
    return replace(row, **learned) if learned else row


def _reported(features: frozenset[str] | None) -> Capabilities:
    if features is None:
        return _UNKNOWN
    reasoning = "reasoning" in features
    return Capabilities(
        reasoning=reasoning,
        tools="tools" in features,
        # Of the models with tools, only those that reason refuse it (docs/cohere-api.md#chat-requests).
        tool_choice="tool_choice" in features or not reasoning,
        images="vision" in features,
        json_schema="json_schema" in features,
    )
