"""One chat turn, from a validated body to a `ChatResponse`: what is said, where it is cut, what it costs.

`chat_encoding.py` writes the response as one body or as a stream of events, so both say the same.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.emulator import citations, response_text, tokens, tool_selection, usage
from gateway.emulator.citations import Citation
from gateway.emulator.conversation import Conversation, read_conversation
from gateway.emulator.model_catalog import Model
from gateway.emulator.tool_selection import ToolCall


class ChatResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A finished turn. A text that is None has no block in the message, an empty text has an empty one."""

    id: str
    thinking: str | None = None
    plan: str | None = None
    text: str | None = None
    calls: tuple[ToolCall, ...] = ()
    citations: tuple[Citation, ...] = ()
    inline_citations: bool = True  # streamed between the text's deltas, not after them
    finish_reason: str = "COMPLETE"
    usage: dict[str, Any]
    characters: int
    logprobs: bool = False

    @property
    def billed_tokens(self) -> tuple[int, int]:
        """The billed input and output tokens."""
        units = self.usage["billed_units"]
        return units["input_tokens"], units["output_tokens"]


class _OutputBudget:
    """The output tokens that remain. Texts are cut when they run out."""

    def __init__(self, limit: int) -> None:
        self.remaining = limit
        self.spent = 0
        self.exceeded = False

    def take(self, text: str) -> str:
        """Returns as much of the text as there are tokens for, and counts it."""
        pieces = tokens.split(text)
        fitting = pieces[: self.remaining]
        self.exceeded = self.exceeded or len(fitting) < len(pieces)
        self.remaining -= len(fitting)
        self.spent += len(fitting)
        return text if len(fitting) == len(pieces) else "".join(fitting)


def respond(body: Mapping[str, Any], model: Model, disobedience: str = "") -> ChatResponse:
    """Returns the response to a validated request. `disobedience` is one of `faults.DISOBEDIENCE`, or empty."""
    conversation = read_conversation(body, model, disobedience)
    prompt = usage.measure_prompt(body, conversation)
    calls = tool_selection.choose_calls(conversation)
    # Recorded: max_tokens 4 gives three billed tokens, so the start of the turn counts as one.
    budget = _OutputBudget(max(1, (body.get("max_tokens") or model.max_output) - 1))
    thinking = _think(conversation, calls, budget)
    reasoning_tokens = budget.spent
    plan, text, finish_reason, unbilled = None, None, "COMPLETE", usage.UNBILLED_PLAIN
    spans: tuple[Citation, ...] = ()
    mode = str((body.get("citation_options") or {}).get("mode") or "ENABLED").upper()
    if calls:
        plan = None if model.reasoning else budget.take(tool_selection.write_plan(conversation, calls))
        # A turn that was cut in its plan, or in its thinking before that, calls nothing.
        calls = [] if budget.exceeded else _write_calls(calls, budget)
        finish_reason, unbilled = "TOOL_CALL", usage.UNBILLED_CALLS
    elif not budget.exceeded:
        # Before the budget is asked: what follows a stop sequence is never written, and costs nothing.
        text, stop_sequence = _stop(response_text.write_text(conversation), body.get("stop_sequences") or ())
        text = budget.take(text)
        # A text that is cut before the stop sequence has not come to it.
        if stop_sequence and not budget.exceeded:
            finish_reason, unbilled = "STOP_SEQUENCE", usage.UNBILLED_PLAIN + tokens.count(stop_sequence)
        if mode not in citations.DISABLED_MODES:
            spans = citations.find_citations(text, conversation.results or conversation.documents)
            unbilled += usage.UNBILLED_CITED if spans else 0
    if budget.exceeded:
        finish_reason, unbilled = "MAX_TOKENS", usage.UNBILLED_CUT
    characters = len(thinking or "") + len(plan or "") + len(text or "") + sum(len(call.arguments) for call in calls)
    return ChatResponse(
        id=str(uuid.uuid4()),
        thinking=thinking,
        plan=plan,
        text=text,
        calls=tuple(calls),
        citations=spans,
        inline_citations=mode != "ACCURATE",
        finish_reason=finish_reason,
        usage=usage.to_json(prompt, budget.spent, unbilled, reasoning_tokens if conversation.thinks else None),
        characters=prompt.characters + characters,
        logprobs=bool(body.get("logprobs")),
    )


def logprob_item(piece: str) -> dict[str, Any]:
    """Returns a LogprobItem of one token. Its number is stable and means nothing (none was ever recorded)."""
    digest = hashlib.blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=2).digest()
    return {
        "text": piece,
        "token_ids": [tokens.token_id(piece)],
        "logprobs": [-round(int.from_bytes(digest, "big") / 65_536, 6)],
    }


def _think(conversation: Conversation, calls: list[ToolCall], budget: _OutputBudget) -> str | None:
    if not conversation.thinks:
        return None
    thinking = response_text.write_thinking(conversation, calls)
    if conversation.thinking_budget is not None:
        thinking = "".join(tokens.split(thinking)[: conversation.thinking_budget])
    return budget.take(thinking)


def _write_calls(calls: list[ToolCall], budget: _OutputBudget) -> list[ToolCall]:
    """Returns the calls that fit. The one that does not ends in the middle of its arguments."""
    complete: list[ToolCall] = []
    for call in calls:
        if budget.remaining <= 0:
            budget.exceeded = True
            break
        arguments = budget.take(call.raw_arguments)
        if budget.exceeded:
            return [*complete, ToolCall(call.id, call.name, arguments, arguments)]
        complete.append(call)
    return complete


def _stop(text: str, sequences: Sequence[str]) -> tuple[str, str]:
    """Returns the text before the first stop sequence, its trailing space removed (recorded), and that sequence."""
    matches = [(text.find(sequence), sequence) for sequence in sequences if sequence and sequence in text]
    if not matches:
        return text, ""
    position, sequence = min(matches)
    return text[:position].rstrip(), sequence
