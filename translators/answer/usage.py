"""Finish reasons and token counts, for both projections: Cohere's as OpenAI's."""

import math
from collections.abc import Iterable, Mapping

from msgspec import UNSET, Struct, UnsetType

from schemas.cohere.chat import Tokens, Usage
from schemas.cohere.embed import Meta
from translators.core.contracts import UsageBase, UsageTotals

FINISH_REASONS: Mapping[str, str] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    # From v1, not in v2's enum; tolerated (docs/cohere-api.md#finish-reasons).
    "ERROR_TOXIC": "content_filter",
    "ERROR_LIMIT": "length",
    "USER_CANCEL": "stop",
}


def finish_reason(reason: str, calls: int) -> tuple[str, str | None]:
    """Returns OpenAI's finish reason, and Cohere's own where the table lacks it.

    The number of calls overrules Cohere's word: an answer with calls is never `stop` (agents would not run them), one
    without never `tool_calls` (agents would wait for ever). `length` stays: truncated arguments must not be run.
    """
    translated = FINISH_REASONS.get(reason)
    native = None if translated is not None else reason or None
    translated = translated or "stop"
    if translated == "stop" and calls:
        translated = "tool_calls"
    elif translated == "tool_calls" and not calls:
        translated = "stop"
    return translated, native


class Counts(Struct, frozen=True):
    """Whole numbers of tokens. `prompt` includes the image tokens; `billed` is Cohere's own count, unchanged."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0
    image: int = 0
    billed: Mapping[str, int | float] = {}

    def outcome(self, finish: str) -> UsageTotals:
        return UsageTotals(finish, self.prompt, self.completion, self.billed, self.cached, self.reasoning)


def total(several: Iterable[Counts]) -> Counts:
    """Adds up the counts of parallel calls: Cohere charges for each."""
    summands = list(several)
    billed: dict[str, int | float] = {}
    for one in summands:
        for unit, amount in one.billed.items():
            billed[unit] = billed.get(unit, 0) + amount
    return Counts(
        sum(one.prompt for one in summands),
        sum(one.completion for one in summands),
        sum(one.cached for one in summands),
        sum(one.reasoning for one in summands),
        sum(one.image for one in summands),
        billed,
    )


def dollars(nano_dollars: int | None) -> float | UnsetType:
    """Returns `usage.cost`: US dollars, left out where they are unknown."""
    return UNSET if nano_dollars is None else nano_dollars / 1_000_000_000


def counts(usage: Usage | None, base: UsageBase) -> Counts:
    """Reads Cohere's usage, of which any part may be missing and any number a float.

    `tokens` counts what the model processed, `billed_units` what is charged. `base` chooses between them
    (docs/decisions.md#usage-counts-what-the-model-processed); the other one stands in when the chosen one is missing.
    Cached tokens count against `tokens.input_tokens` and can exceed the billed ones, so they are capped at the prompt.
    """
    if usage is None:
        return Counts()
    tokens = usage.tokens or Tokens()
    billed = {name: value for name, value in (usage.billed_units or {}).items() if value is not None}
    image = _whole(tokens.image_tokens)
    processed = _pair(tokens.input_tokens, tokens.output_tokens, image)
    texts = billed.get("input_tokens", billed.get("text_tokens"))
    charged = _pair(texts, billed.get("output_tokens"), _whole(billed.get("image_tokens")))
    first, second = (processed, charged) if base is UsageBase.TOKENS else (charged, processed)
    prompt, completion = first or second or (0, 0)
    return Counts(
        prompt,
        completion,
        min(_whole(usage.cached_tokens), prompt),
        min(_whole(tokens.reasoning_tokens), completion),
        image,
        billed,
    )


def embedding_counts(meta: Meta | None, base: UsageBase) -> Counts:
    """Reads the usage of an embeddings answer: no completion; images are billed in tokens of their own, or each."""
    if meta is None:
        return Counts()
    billed = {name: value for name, value in (meta.billed_units or {}).items() if value is not None}
    tokens = meta.tokens or Tokens()
    processed = (tokens.input_tokens, tokens.image_tokens)
    charged = (billed.get("input_tokens"), billed.get("image_tokens"))
    first, second = (processed, charged) if base is UsageBase.TOKENS else (charged, processed)
    texts, images = map(_whole, first if first != (None, None) else second)
    return Counts(texts + images, image=images, billed=billed)


def _pair(prompt: int | float | None, completion: int | float | None, image: int) -> tuple[int, int] | None:
    return None if prompt is None and completion is None and not image else (_whole(prompt) + image, _whole(completion))


def _whole(number: int | float | None) -> int:
    if type(number) is int:
        return number if number > 0 else 0
    return max(0, int(number)) if number is not None and math.isfinite(number) else 0
