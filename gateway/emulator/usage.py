"""What a turn costs: billed tokens, processed tokens with the hidden prompt, and cached tokens.

Source: docs/cohere-api.md#usage (recorded responses). The header `num_tokens` is always the sum of the billed input and
output tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.emulator import images, tokens
from gateway.emulator.conversation import Conversation, all_text
from gateway.emulator.errors import too_many_tokens
from gateway.emulator.schema_validation import walk

CACHE_BLOCK = 16  # recorded: cached_tokens is always a multiple of it
HIDDEN_PER_TOOL = 29  # recorded: 1,449 with two tools, 1,419 with one
HIDDEN_CHARACTERS = 5  # per token; recorded: 2,583 num_chars for 496 tokens

# Output tokens that are processed but not billed (recorded): one when the text is cut, 3 after plain text, 29 after
# tool calls, 23 with citations.
UNBILLED_CUT, UNBILLED_PLAIN, UNBILLED_CALLS, UNBILLED_CITED = 1, 3, 29, 23


class Prompt(msgspec.Struct, frozen=True):
    """The size of a prompt, in tokens and characters."""

    billed: int
    processed: int
    cached: int
    image_tokens: int
    characters: int


def measure_prompt(body: Mapping[str, Any], conversation: Conversation) -> Prompt:
    """Returns the size of the prompt. Raises a 400 when it is longer than the model's context."""
    model = conversation.model
    texts = [all_text(message) for message in body["messages"]]
    texts += [_tool_text(tool) for tool in body.get("tools") or ()]
    texts += [source.text for source in conversation.documents]
    billed = max(1, sum(tokens.count(text) for text in texts))
    hidden = _hidden_tokens(conversation)
    processed = billed + hidden
    check_context(processed, model.context_length)
    image_tokens = images.TOKENS * len(conversation.images)
    cached = hidden // CACHE_BLOCK * CACHE_BLOCK if hidden >= 4 * CACHE_BLOCK else 0
    characters = sum(len(text) for text in texts) + HIDDEN_CHARACTERS * hidden
    return Prompt(billed + image_tokens, processed, cached, image_tokens, characters)


def check_context(count: int, limit: int) -> None:
    """Raises a 400 when there are more tokens than the limit."""
    if count > limit:
        raise too_many_tokens(
            f"size limit exceeded by {count - limit} tokens. Try using shorter or fewer inputs,"
            " or setting prompt_truncation='AUTO'."
        )


def to_json(prompt: Prompt, billed: int, unbilled: int, reasoning: int | None) -> dict[str, Any]:
    """Returns the `usage` object. `reasoning` is None for models that do not reason."""
    processed: dict[str, Any] = {"input_tokens": prompt.processed, "output_tokens": billed + unbilled}
    if prompt.image_tokens:
        processed["image_tokens"] = prompt.image_tokens
    if reasoning is not None:
        processed["reasoning_tokens"] = reasoning
    return {
        "billed_units": {"input_tokens": prompt.billed, "output_tokens": billed},
        "tokens": processed,
        "cached_tokens": prompt.cached,
    }


def _hidden_tokens(conversation: Conversation) -> int:
    """Returns the size of the prompt that Cohere adds."""
    model = conversation.model
    if conversation.tools:
        return model.hidden_tools + HIDDEN_PER_TOOL * (len(conversation.tools) - 1)
    if conversation.documents:
        return model.hidden_documents
    return model.hidden_system if conversation.system else model.hidden


def _tool_text(tool: Mapping[str, Any]) -> str:
    """Returns the words of a tool that are billed: its name, its description, and those of its parameters."""
    function = tool["function"]
    texts = [function["name"], function.get("description") or ""]
    for node, _ in walk(function["parameters"]):
        texts += [*(node.get("properties") or ()), str(node.get("description") or "")]
    return " ".join(texts)
