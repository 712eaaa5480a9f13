"""How much a model reasons: OpenAI's efforts as Cohere's `thinking`.

Cohere has on, off, and a budget of tokens (docs/cohere-api.md#reasoning). Precedence of the fields
(docs/decisions.md#reasoning-is-never-the-answers-text): `thinking`, then `reasoning`, then `reasoning_effort`.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from schemas.cohere.chat import Thinking
from schemas.openai.chat import AssistantMessage, Message, ThinkingPart, UserMessage
from translators.core.capabilities import Capabilities
from translators.core.errors import InvalidField
from translators.core.notes import Notes

BUDGETS: Mapping[str, int | None] = {
    "none": 0,
    "minimal": 512,
    "low": 2_048,
    "medium": 8_192,
    # OpenAI's efforts above `high` mean the same: there is nothing above no limit.
    "high": None,
    "xhigh": None,
    "max": None,
}
"""Reasoning tokens for each effort. None is no limit, which Cohere recommends; 0 switches reasoning off."""

SAME_EFFORT: Mapping[str, str] = {
    **dict.fromkeys(("", "default", "auto"), ""),
    **dict.fromkeys(("off", "disable", "disabled"), "none"),
}
"""Other words for an effort, in small letters -> ours, empty for none at all: forms whose choice is empty, and other
providers' words."""

ANSWER_RESERVE = 1_024
"""Tokens to leave for the answer within max_tokens. Cohere's guide says at least 1,000."""


class ThinkingOptions(Struct, forbid_unknown_fields=True):
    """`thinking` of a request: Cohere's own, and Anthropic's spelling of it."""

    type: Literal["enabled", "disabled", "adaptive"] = "enabled"
    token_budget: Annotated[int, Meta(ge=0)] | None = None
    budget_tokens: Annotated[int, Meta(ge=0)] | None = None

    def upstream(self) -> Thinking:
        """Returns Cohere's form."""
        budget = self.token_budget if self.token_budget is not None else self.budget_tokens
        # A budget beside it is left out: the two would contradict each other.
        if self.type == "disabled":
            return Thinking("disabled")
        return Thinking("enabled", UNSET if budget is None else budget)


class Reasoning(Struct, forbid_unknown_fields=True):
    """`reasoning` of a request. `summary` and `generate_summary` have an effect in /v1/responses only."""

    effort: str | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    enabled: bool | None = None
    exclude: bool | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


def apply_context(messages: list[Message], reasoning: Reasoning | None, notes: Notes) -> list[Message]:
    """Applies `reasoning.context`: with `current_turn` thoughts before the last user message are left out."""
    if reasoning is None:
        return messages
    if reasoning.mode not in (None, "standard"):
        notes.ignored("reasoning.mode", "Cohere has none")
    if reasoning.context != "current_turn":
        if reasoning.context not in (None, "auto", "all_turns"):
            notes.ignored("reasoning.context", "not known to Cohere")
        return messages
    # Thoughts after it belong to the chain of calls that is going on, and without them the model would begin to think
    # anew.
    last = max((index for index, one in enumerate(messages) if isinstance(one, UserMessage)), default=0)
    return [_without_thoughts(one) if index < last else one for index, one in enumerate(messages)]


def _without_thoughts(message: Message) -> Message:
    if not isinstance(message, AssistantMessage):
        return message
    content = message.content
    if isinstance(content, list):
        content = [part for part in content if not isinstance(part, ThinkingPart)]
    return replace(message, content=content, reasoning_content=None, reasoning=None)


def thinking(
    native: ThinkingOptions | None,
    reasoning: Reasoning | None,
    effort: str | None,
    max_tokens: int | None,
    capabilities: Capabilities,
    notes: Notes,
) -> Thinking | UnsetType:
    """Returns Cohere's `thinking`, UNSET to leave it to the model. Raises InvalidField for an unknown effort.

    native: the caller's `thinking`. effort: `reasoning_effort`. max_tokens: the limit to send, None without one.
    """
    field, requested = _requested(reasoning, effort)
    if isinstance(requested, str):
        word = requested.lower()
        requested = SAME_EFFORT.get(word, word) or None
    if field != "reasoning_effort" and effort not in (None, requested):
        notes.ignored("reasoning_effort", f"{field} is given, too")
    if native is not None:
        if requested is not None:
            notes.ignored(field, "thinking is given, too")
        # Passed on even to a model that does not reason: it is Cohere's field, so Cohere's error is the answer to it.
        return native.upstream()
    if requested is None:
        return UNSET
    if isinstance(requested, str):
        if requested not in BUDGETS:
            raise InvalidField(field, f"Invalid '{field}': '{requested}' is none of {', '.join(BUDGETS)}")
        budget = BUDGETS[requested]
    else:
        budget = requested
    # Not refused: programs set an effort once for all models. `none` on a model that never reasons is simply fulfilled.
    if not capabilities.reasoning:
        if budget != 0:
            notes.ignored(field, "this model does not reason")
        return UNSET
    if budget == 0:
        return Thinking("disabled")
    noted_field = None if isinstance(requested, str) else field
    return Thinking("enabled", _with_reserve(budget, max_tokens, noted_field, notes))


def _requested(reasoning: Reasoning | None, effort: str | None) -> tuple[str, str | int | None]:
    """Returns the field that has precedence and its value: an effort, a budget in tokens, or None."""
    if reasoning is not None:
        if reasoning.max_tokens is not None:
            return "reasoning.max_tokens", reasoning.max_tokens
        if reasoning.effort is not None:
            return "reasoning.effort", reasoning.effort
        if reasoning.enabled is False:
            return "reasoning.enabled", "none"
    return "reasoning_effort", effort


def _with_reserve(budget: int | None, max_tokens: int | None, field: str | None, notes: Notes) -> int | UnsetType:
    """Lowers a budget so that the answer keeps its reserve of max_tokens. Returns UNSET for no limit.

    budget: None is no limit. field: to note the change under, None where the caller named no number.
    """
    # Reasoning counts within max_tokens. A budget as large as that leaves an answer of a thinking block alone
    # (docs/cohere-api.md#reasoning). Of a small max_tokens, half is left.
    if max_tokens is not None:
        ceiling = max(max_tokens - ANSWER_RESERVE, max_tokens // 2, 1)
        if budget is None or budget > ceiling:
            if field and budget is not None:
                notes.adjusted(field, budget, ceiling)
            budget = ceiling
    return UNSET if budget is None else budget
