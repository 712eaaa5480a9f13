"""What a turn costs: billed tokens, processed tokens with the prompt that the caller never sees, cached ones.

Source: docs/cohere-api.md#usage (recorded cases). The identity that holds on the wire:
header num_tokens = billed input + billed output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.emulator import images, tokens
from gateway.emulator.conversation import Conversation, all_text
from gateway.emulator.json_schema import walk
from gateway.emulator.refusals import overlong

CACHE_LINE = 16  # recorded: cached_tokens is always a multiple of it
HIDDEN_PER_TOOL = 29  # recorded: 1,449 with two tools against 1,419 with one
HIDDEN_CHARACTERS = 5  # recorded: 2,583 num_chars for 496 tokens

# Output tokens that are processed but not billed (recorded: +1 when cut short, +3 plain, +29 with calls,
# +23 cited).
UNBILLED_CUT, UNBILLED_PLAIN, UNBILLED_CALLS, UNBILLED_CITED = 1, 3, 29, 23


class Prompt(msgspec.Struct, frozen=True):
    """The size of what goes in."""

    billed: int
    processed: int
    cached: int
    image_tokens: int
    characters: int


def measure(body: Mapping[str, Any], conversation: Conversation) -> Prompt:
    """The prompt's size; refused when it exceeds the model's context."""
    model = conversation.model
    told = [all_text(message) for message in body["messages"]]
    told += [_tool_text(tool) for tool in body.get("tools") or ()]
    told += [source.text for source in conversation.documents]
    billed = max(1, sum(tokens.count(text) for text in told))
    hidden = _hidden(conversation)
    processed = billed + hidden
    if processed > model.context_length:
        raise overlong(
            f"size limit exceeded by {processed - model.context_length} tokens. Try using shorter or fewer"
            " inputs, or setting prompt_truncation='AUTO'."
        )
    image_tokens = images.TOKENS * len(conversation.images)
    cached = hidden // CACHE_LINE * CACHE_LINE if hidden >= 4 * CACHE_LINE else 0
    characters = sum(len(text) for text in told) + HIDDEN_CHARACTERS * hidden
    return Prompt(billed + image_tokens, processed, cached, image_tokens, characters)


def tell(prompt: Prompt, billed: int, unbilled: int, reasoning: int | None) -> dict[str, Any]:
    """The `usage` object; `reasoning` is None on models that do not reason."""
    counted: dict[str, Any] = {"input_tokens": prompt.processed, "output_tokens": billed + unbilled}
    if prompt.image_tokens:
        counted["image_tokens"] = prompt.image_tokens
    if reasoning is not None:
        counted["reasoning_tokens"] = reasoning
    return {
        "billed_units": {"input_tokens": prompt.billed, "output_tokens": billed},
        "tokens": counted,
        "cached_tokens": prompt.cached,
    }


def _hidden(conversation: Conversation) -> int:
    model = conversation.model
    if conversation.tools:
        return model.hidden_tools + HIDDEN_PER_TOOL * (len(conversation.tools) - 1)
    if conversation.documents:
        return model.hidden_documents
    return model.hidden_system if conversation.system else model.hidden


def _tool_text(tool: Mapping[str, Any]) -> str:
    """The words of a tool that are billed: name, description, and those of its parameters."""
    function = tool["function"]
    told = [function["name"], function.get("description") or ""]
    for node, _ in walk(function["parameters"]):
        told += [*(node.get("properties") or ()), str(node.get("description") or "")]
    return " ".join(told)
