"""Which Cohere model a caller means: prefix, aliases, successors (docs/models.md)."""

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
}
"""Ids that Cohere removed on 15 September 2025 (docs/cohere-api.md#models) and what serves their callers now."""


def resolve(requested: str, policy: Policy) -> str:
    """Cohere's id for the model a caller asked for: alias, then prefix, then alias again, then successor."""
    name = policy.aliases.get(requested, requested)
    # `cohere:x` is any-llm's and Otari's spelling; both are in use.
    if name.startswith((PREFIX, "cohere:")):
        name = name[len(PREFIX) :]
    name = policy.aliases.get(name, name)
    if name.startswith(PREFIX):
        name = name[len(PREFIX) :]
    if policy.successors:
        name = SUCCESSORS.get(name, name)
    return policy.model_overrides.get(name, name) if policy.model_overrides else name


def resolve_and_note(requested: str, policy: Policy, notes: Notes) -> str:
    """The same, told where it is another one than was asked for. Raises InvalidField for an empty name."""
    model = resolve(requested, policy)
    if not model:
        raise InvalidField("model", "'model' must not be empty", "empty_string")
    if model != without_prefix(requested):
        notes.inform("model", f"model {without_prefix(requested)} -> {model}")
    return model


def without_prefix(requested: str) -> str:
    """The name without the prefix: what a caller may call the same model without being told so."""
    return requested.removeprefix(PREFIX)


_split = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode


def with_deployment(body: bytes, deployment: str) -> tuple[bytes, str]:
    """A request to this deployment, and the model that its body named instead, if it did.

    At Azure the URL says which model is asked, and the body's `model` counts for nothing.
    """
    try:
        fields = _split(body)
        body_model = msgspec.json.decode(fields.get("model", Raw(b'""')))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body, ""  # whoever reads it next says what is wrong with it
    fields["model"] = Raw(_encode(deployment))
    return _encode(fields), body_model if isinstance(body_model, str) and body_model != deployment else ""
