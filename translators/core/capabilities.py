"""What each Cohere model can do, where it matters to a translation.

Sources: docs/cohere-api.md#chat-requests and docs/cohere-api.md#models (catalogue, limits), and the refusals third
parties recorded from the live API in July to September 2026. The `features` that `/v1/models` reports are added to what
the table says; a model that is in neither is taken to do everything, so that a new one works on the day it appears.
"""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace


class Capabilities(Struct, frozen=True):
    """max_output: tokens, None when unknown. tool_choice: REQUIRED and NONE are accepted.

    keeps_tools: tools that were called in the history must stay defined, else 422 INVALID_TOOL_GENERATION
    (docs/cohere-api.md#messages: reported for the newer models, not seen with command-r in the recordings).

    typed_tools: a tool's parameters must all say their type, else 400 "property x must have a type" (third parties met
    it with command-r and command-r-plus).
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
"""Models that are asked alike, whatever they can do: they are only known by name."""

_UNKNOWN = Capabilities(reasoning=True, listed=False)


EMBEDDING_TYPES = ("float", "int8", "uint8", "binary", "ubinary", "base64")


class EmbeddingModel(Struct, frozen=True):
    """sizes: of its vectors, its own first; none when unknown. fused: texts and images in one input, and as many images
    in a call as there are. types: of its vectors, as Cohere names them; where base64 is not among them it is made here.
    """

    sizes: tuple[int, ...] = ()
    fused: bool = True
    types: tuple[str, ...] = EMBEDDING_TYPES


# That the newest give no base64 is a third party's report (docs/cohere-api.md#embed); floats they all give.
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
"""Embedding models that Cohere removed in April 2026. Nothing serves their callers: the vectors are not comparable."""


def embedding_model(model: str) -> EmbeddingModel:
    """Returns the table's row for an embedding model. One that the table lacks is taken to do everything."""
    return EMBEDDERS.get(model, _NEW_EMBEDDER)


def model_capabilities(
    model: str, features: Mapping[str, frozenset[str]], corrections: Mapping[str, Mapping[str, bool]]
) -> Capabilities:
    """Returns what a model can do: the table's row, else what `/v1/models` reports, with what refusals revealed."""
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
        tool_choice="tool_choice" in features or not reasoning,
        images="vision" in features,
        json_schema="json_schema" in features,
    )
