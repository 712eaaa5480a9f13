"""How a turn ended and what it used: two tables and two functions, for both projections."""

import math
from collections.abc import Iterable, Mapping

from msgspec import Struct

from schemas.cohere.chat import Tokens, Usage
from schemas.cohere.embed import Meta
from translators.core.contracts import UsageBase, UsageTotals

FINISH_REASONS: Mapping[str, str] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    # Left over from v1; not in v2's enum, tolerated (docs/cohere-api.md#finish-reasons).
    "ERROR_TOXIC": "content_filter",
    "ERROR_LIMIT": "length",
    "USER_CANCEL": "stop",
}


def finish_reason(reason: str, calls: int) -> tuple[str, str | None]:
    """OpenAI's finish reason, and Cohere's raw one where the table lacks it.

    Proof against contradiction: calls are never reported as `stop` (agents would not run them), and no calls
    never as `tool_calls` (agents would wait for ever). `length` stays: truncated arguments must not be run.
    """
    meant = FINISH_REASONS.get(reason)
    native = None if meant is not None else reason or None
    meant = meant or "stop"
    if meant == "stop" and calls:
        meant = "tool_calls"
    elif meant == "tool_calls" and not calls:
        meant = "stop"
    return meant, native


class Counts(Struct, frozen=True):
    """Whole numbers of tokens; `prompt` includes the image tokens. `billed` is Cohere's own, untouched."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0
    image: int = 0
    billed: Mapping[str, int | float] = {}

    def outcome(self, finish: str) -> UsageTotals:
        return UsageTotals(finish, self.prompt, self.completion, self.billed)


def total(several: Iterable[Counts]) -> Counts:
    """The sum over parallel calls: Cohere charges for each."""
    found = list(several)
    billed: dict[str, int | float] = {}
    for one in found:
        for unit, amount in one.billed.items():
            billed[unit] = billed.get(unit, 0) + amount
    return Counts(
        sum(one.prompt for one in found),
        sum(one.completion for one in found),
        sum(one.cached for one in found),
        sum(one.reasoning for one in found),
        sum(one.image for one in found),
        billed,
    )


def counts(usage: Usage | None, base: UsageBase) -> Counts:
    """The one reading of Cohere's usage: any part may be missing, and numbers may be floats.

    `tokens` counts what the model processed, `billed_units` what is charged; whichever is chosen, the other
    one stands in when it is missing (docs/decisions.md#usage-counts-what-the-model-processed). Cached tokens count
    against `tokens.input_tokens` and can exceed the billed ones, so they are kept within the prompt.
    """
    if usage is None:
        return Counts()
    tokens = usage.tokens or Tokens()
    billed = {name: value for name, value in (usage.billed_units or {}).items() if value is not None}
    image = _whole(tokens.image_tokens)
    processed = _pair(tokens.input_tokens, tokens.output_tokens, image)
    charged = _pair(billed.get("input_tokens"), billed.get("output_tokens"), 0)
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


def embedded(meta: Meta | None, base: UsageBase) -> Counts:
    """The same for vectors: no completion, and images are billed in tokens of their own, or by the piece."""
    if meta is None:
        return Counts()
    billed = {name: value for name, value in (meta.billed_units or {}).items() if value is not None}
    tokens = meta.tokens or Tokens()
    processed = (tokens.input_tokens, tokens.image_tokens)
    charged = (billed.get("input_tokens"), billed.get("image_tokens"))
    first, second = (processed, charged) if base is UsageBase.TOKENS else (charged, processed)
    texts, images = map(_whole, first if first != (None, None) else second)
    return Counts(texts + images, image=images, billed=billed)


def _pair(given: int | float | None, made: int | float | None, image: int) -> tuple[int, int] | None:
    return None if given is None and made is None else (_whole(given) + image, _whole(made))


def _whole(number: int | float | None) -> int:
    if type(number) is int:
        return number if number > 0 else 0
    return max(0, int(number)) if number is not None and math.isfinite(number) else 0
