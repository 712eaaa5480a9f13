"""How much a model shall think.

Cohere knows on, off, and a budget of tokens (docs/cohere-api.md#reasoning); OpenAI knows words. Precedence
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
    "high": None,
    "xhigh": None,
    "max": None,
}
"""Tokens of thought for each effort; None is unlimited, which Cohere recommends, 0 switches thinking off."""

ANSWER_RESERVE = 1_024
"""Tokens that Cohere's guide asks to leave for the answer within max_tokens."""


class ThinkingOptions(Struct, forbid_unknown_fields=True):
    """`thinking` of a request: Cohere's own, and Anthropic's spelling of it."""

    type: Literal["enabled", "disabled", "adaptive"] = "enabled"
    token_budget: Annotated[int, Meta(ge=0)] | None = None
    budget_tokens: Annotated[int, Meta(ge=0)] | None = None

    def upstream(self) -> Thinking:
        """Return Cohere's form."""
        budget = self.token_budget if self.token_budget is not None else self.budget_tokens
        if self.type == "disabled":
            return Thinking("disabled")
        return Thinking("enabled", UNSET if budget is None else budget)


class Reasoning(Struct, forbid_unknown_fields=True):
    """`reasoning` of a request. `summary` and `generate_summary` shape the answer of /v1/responses alone."""

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
    """Cohere's `thinking` for what was asked, or UNSET. Raises InvalidField on an unknown effort."""
    field, wish = _requested(reasoning, effort)
    if field != "reasoning_effort" and effort not in (None, wish):
        notes.ignored("reasoning_effort", f"{field} is given, too")
    if native is not None:
        if wish is not None:
            notes.ignored(field, "thinking is given, too")
        return native.upstream()
    if wish is None:
        return UNSET
    if isinstance(wish, str):
        if wish not in BUDGETS:
            raise InvalidField(field, f"Invalid '{field}': '{wish}' is none of {', '.join(BUDGETS)}")
        budget = BUDGETS[wish]
    else:
        budget = wish
    if not capabilities.reasoning:
        if budget != 0:
            notes.ignored(field, "this model does not reason")
        return UNSET
    if budget == 0:
        return Thinking("disabled")
    return Thinking("enabled", _with_reserve(budget, max_tokens, None if isinstance(wish, str) else field, notes))


def _requested(reasoning: Reasoning | None, effort: str | None) -> tuple[str, str | int | None]:
    """The field that decides, and what it says: a word, a budget, or nothing."""
    if reasoning is not None:
        if reasoning.max_tokens is not None:
            return "reasoning.max_tokens", reasoning.max_tokens
        if reasoning.effort is not None:
            return "reasoning.effort", reasoning.effort
        if reasoning.enabled is False:
            return "reasoning.enabled", "none"
    return "reasoning_effort", effort


def _with_reserve(budget: int | None, max_tokens: int | None, field: str | None, notes: Notes) -> int | UnsetType:
    """Thinking counts within max_tokens: a budget as large as that would leave no answer at all.

    `asked` names the field of a budget that the caller put in numbers, whose change is worth a note.
    """
    if max_tokens is not None:
        ceiling = max(max_tokens - ANSWER_RESERVE, max_tokens // 2, 1)
        if budget is None or budget > ceiling:
            if field and budget is not None:
                notes.adjusted(field, budget, ceiling)
            budget = ceiling
    return UNSET if budget is None else budget
