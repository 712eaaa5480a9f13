"""Translates Cohere's finish reasons and token counts into OpenAI's, for both projections.

Sources: docs/cohere-api.md#finish-reasons, docs/cohere-api.md#usage.
"""

import math
from collections.abc import Iterable, Mapping

from msgspec import UNSET, Struct, UnsetType

from schemas.cohere.chat import Tokens, Usage
from schemas.cohere.embed import Meta
from translators.core.contracts import UsageBase, UsageTotals

FINISH_REASONS: Mapping[str, str] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    # A full context has this reason, too (docs/cohere-api.md#finish-reasons); for a caller both mean that more was to
    # come.
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    # From v1, not in v2's enum; tolerated (docs/cohere-api.md#finish-reasons).
    "ERROR_TOXIC": "content_filter",
    "ERROR_LIMIT": "length",
    "USER_CANCEL": "stop",
}


def finish_reason(reason: str, calls: int) -> tuple[str, str | None]:
    """Returns OpenAI's finish reason, and Cohere's own where the table lacks it, else None.

    calls: in the answer. They overrule Cohere's reason.
    """
    # An answer with calls is never `stop`, or agents would not run them. One without calls is never `tool_calls`, or
    # agents would wait for them. `length` stays, because arguments that were cut short must not be run.
    translated = FINISH_REASONS.get(reason)
    native = None if translated is not None else reason or None
    translated = translated or "stop"
    if translated == "stop" and calls:
        translated = "tool_calls"
    elif translated == "tool_calls" and not calls:
        translated = "stop"
    return translated, native


MAX_COUNT = 10**12
"""Tokens of one answer. More are nonsense, which no counter and no client of JSON's numbers should have to hold."""


class Counts(Struct, frozen=True):
    """Numbers of tokens. prompt: includes those of images. cached: of prompt. reasoning: of completion. billed: by
    unit, as Cohere sent them."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0
    image: int = 0
    billed: Mapping[str, int | float] = {}

    def outcome(self, finish: str) -> UsageTotals:
        return UsageTotals(finish, self.prompt, self.completion, self.billed, self.cached, self.reasoning)


def total(several: Iterable[Counts]) -> Counts:
    """Adds up the counts of parallel calls, each of which Cohere charges for."""
    summands = list(several)
    billed: dict[str, int | float] = {}
    for one in summands:
        for unit, amount in one.billed.items():
            # Unit by unit, under Cohere's names: units that nobody here has heard of are added up, too, and a price for
            # them can be set later.
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
    """Returns `usage.cost` in US dollars, UNSET where it is unknown."""
    return UNSET if nano_dollars is None else nano_dollars / 1_000_000_000


def counts(usage: Usage | None, base: UsageBase) -> Counts:
    """Reads Cohere's usage, of which any part may be missing and any number a float.

    base: `tokens`, what the model processed, or `billed_units`, what is charged
    (docs/decisions.md#usage-counts-what-the-model-processed). The other one is used where the chosen one is missing.
    """
    # Cached tokens are a share of `tokens.input_tokens` and can exceed the billed ones, so they are capped at the
    # prompt: OpenAI's clients subtract them from it.
    if usage is None:
        return Counts()
    tokens, billed = usage.tokens or _NO_TOKENS, _billed(usage)
    image = _whole(tokens.image_tokens) if tokens.image_tokens else 0
    processed = _pair(tokens.input_tokens, tokens.output_tokens, image)
    if processed is not None and base is UsageBase.TOKENS:
        prompt, completion = processed
    else:
        # `text_tokens` is tolerated as another name: without a number for it the call would look free.
        texts = billed.get("input_tokens", billed.get("text_tokens"))
        charged = _pair(texts, billed.get("output_tokens"), _whole(billed.get("image_tokens")))
        prompt, completion = charged or processed or (0, 0)
    return Counts(
        prompt,
        completion,
        min(_whole(usage.cached_tokens), prompt) if usage.cached_tokens else 0,
        # Capped for the same reason as cached tokens: clients subtract.
        min(_whole(tokens.reasoning_tokens), completion) if tokens.reasoning_tokens else 0,
        image,
        billed,
    )


_NO_TOKENS = Tokens()


def _billed(usage: Usage | Meta) -> Mapping[str, int | float]:
    """Returns Cohere's billed units by their names, without those that have no number."""
    units = usage.billed_units or {}
    # A unit may be null. The usual answer has no such unit, and is passed on without a copy.
    if None in units.values():
        return {name: value for name, value in units.items() if value is not None}
    return units  # type: ignore[return-value]  # there is no None among them


def embedding_counts(meta: Meta | None, base: UsageBase) -> Counts:
    """Reads the usage of an embeddings answer, which has no completion. Images have tokens of their own, or none."""
    if meta is None:
        return Counts()
    billed, tokens = _billed(meta), meta.tokens or _NO_TOKENS
    processed = (tokens.input_tokens, tokens.image_tokens)
    charged = (billed.get("input_tokens"), billed.get("image_tokens"))
    # One base for both numbers: a sum of processed texts and billed images would be neither.
    preferred, other = (processed, charged) if base is UsageBase.TOKENS else (charged, processed)
    texts, images = map(_whole, preferred if preferred != (None, None) else other)
    return Counts(texts + images, image=images, billed=billed)


def _pair(prompt: int | float | None, completion: int | float | None, image: int) -> tuple[int, int] | None:
    return None if prompt is None and completion is None and not image else (_whole(prompt) + image, _whole(completion))


def _whole(number: int | float | None) -> int:
    # Nearly always: msgspec gives an int for a number without a point. The rest is for floats, which Cohere's SDK
    # declares, and for what no number of tokens can be, as a negative one or an infinity.
    if type(number) is int:
        return number if 0 < number < MAX_COUNT else MAX_COUNT if number > 0 else 0
    return min(max(0, int(number)), MAX_COUNT) if number is not None and math.isfinite(number) else 0
