"""Resolves a caller's name of a model to Cohere's id: prefix, aliases, synonyms, successors (docs/models.md)."""

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from translators.core.contracts import Policy
from translators.core.errors import InvalidField
from translators.core.notes import Notes

PREFIX = "cohere/"

SUCCESSORS: Mapping[str, str] = {
    "command-r-plus": "command-r-plus-08-2024",
    "command-r-plus-04-2024": "command-r-plus-08-2024",
    "command-r": "command-r-08-2024",
    "command-r-03-2024": "command-r-08-2024",
    "command-r-2024-10-29": "command-r-08-2024",
    "command": "command-r-08-2024",
    "command-light": "command-r7b-12-2024",
    "c4ai-aya-expanse-8b": "c4ai-aya-expanse-32b",
    "c4ai-aya-vision-8b": "c4ai-aya-vision-32b",
    "rerank-english-v2.0": "rerank-v3.5",
    "rerank-multilingual-v2.0": "rerank-v3.5",
}
"""Ids that Cohere removed in 2025 and 2026 (docs/cohere-api.md#models) -> the model that replaces each.

No embedding model is among them, because vectors of different models cannot be compared
(docs/decisions.md#vectors-of-different-models-are-never-mixed).
"""

SYNONYMS: Mapping[str, str] = {
    "command-a": "command-a-03-2025",
    "embed-5-pro": "embed-v5.0-pro",
    "embed-5-fast": "embed-v5.0-fast",
    "rerank-5-pro": "rerank-v5.0-pro",
    "rerank-5-fast": "rerank-v5.0-fast",
    "rerank-4-pro": "rerank-v4.0-pro",
    "rerank-4-fast": "rerank-v4.0-fast",
}
"""OpenRouter's and Vercel's names of models -> Cohere's ids (https://docs.cohere.com/docs/cohere-on-openrouter). They
are not noted: the caller gets the model that was requested.
"""


def resolve(requested: str, policy: Policy) -> str:
    """Returns Cohere's id for a model: by alias, prefix, alias again, synonym, successor, in this order."""
    # Aliases are looked up twice, so that `cohere/<alias>` works, and an alias may itself begin with a prefix.
    name = policy.aliases.get(requested, requested)
    # `cohere:x` is any-llm's and Otari's spelling; both are in use.
    if name.startswith((PREFIX, "cohere:")):
        name = name[len(PREFIX) :]
    name = policy.aliases.get(name, name)
    if name.startswith(PREFIX):
        name = name[len(PREFIX) :]
    name = SYNONYMS.get(name, name)
    if policy.successors:
        name = SUCCESSORS.get(name, name)
    return policy.model_overrides.get(name, name) if policy.model_overrides else name


def resolve_and_note(requested: str, policy: Policy, notes: Notes) -> str:
    """Returns Cohere's id for a model, and notes one that is not the requested one. Raises InvalidField for none."""
    model = resolve(requested, policy)
    if not model:
        raise InvalidField("model", "'model' must not be empty", "empty_string")
    name = without_prefix(requested)
    if model != SYNONYMS.get(name, name):
        notes.inform("model", f"model {name} -> {model}")
    return model


def without_prefix(requested: str) -> str:
    """Returns the name without the prefix: both names mean the same model, so neither is noted."""
    return requested.removeprefix(PREFIX)


_split = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode


def with_deployment(body: bytes, deployment: str) -> tuple[bytes, str]:
    """Returns the body with this deployment as its model, and the model that it named instead, empty if none.

    On Azure the URL names the model, and `model` in the body has no effect.
    """
    try:
        fields = _split(body)
        body_model = msgspec.json.decode(fields.get("model", Raw(b'""')))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body, ""  # the translation reports what is wrong with it
    fields["model"] = Raw(_encode(deployment))
    return _encode(fields), body_model if isinstance(body_model, str) and body_model != deployment else ""
