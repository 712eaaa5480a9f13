"""One chat turn from validated body to `Answer`: what is said, where it is cut, what it costs.

The `Answer` is the single truth; `stream.py` tells it whole or as events, so both say the same.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.emulator import answers, citations, conversation, tokens, tools, usage
from gateway.emulator.catalogue import Model
from gateway.emulator.citations import Citation
from gateway.emulator.conversation import Conversation
from gateway.emulator.tools import Call


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A finished turn. None means that the block is absent, an empty text that it is there and empty."""

    id: str
    thinking: str | None = None
    plan: str | None = None
    text: str | None = None
    calls: tuple[Call, ...] = ()
    citations: tuple[Citation, ...] = ()
    inline: bool = True  # citations while the text runs, or after it
    finish: str = "COMPLETE"
    usage: dict[str, Any]
    characters: int
    logprobs: bool = False


class _Budget:
    """The output tokens that are left; texts are cut when they run out."""

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.spent = 0
        self.cut = False

    def take(self, text: str) -> str:
        """As much of the text as there are tokens left."""
        pieces = tokens.pieces(text)
        kept = pieces[: self.left]
        self.cut = self.cut or len(kept) < len(pieces)
        self.left -= len(kept)
        self.spent += len(kept)
        return text if len(kept) == len(pieces) else "".join(kept)


def answer(body: Mapping[str, Any], model: Model) -> Answer:
    """The turn that answers a validated request."""
    talk = conversation.read(body, model)
    prompt = usage.measure(body, talk)
    calls = tools.choose(talk)
    # Recorded: max_tokens 4 gives three billed tokens; the start of the turn counts as one.
    budget = _Budget(max(1, (body.get("max_tokens") or model.max_output) - 1))
    thinking = _think(talk, calls, budget)
    reasoning = budget.spent
    plan, text, finish, unbilled = None, None, "COMPLETE", usage.UNBILLED_PLAIN
    found: tuple[Citation, ...] = ()
    mode = str((body.get("citation_options") or {}).get("mode") or "ENABLED").upper()
    if calls:
        plan = None if model.reasoning else budget.take(tools.plan(talk, calls))
        calls = [] if budget.cut else _write(calls, budget)
        finish, unbilled = "TOOL_CALL", usage.UNBILLED_CALLS
    elif not budget.cut:
        text = answers.answer(talk)
        text, stopped = _stop(text, body.get("stop_sequences") or ())
        text = budget.take(text)
        if stopped and not budget.cut:
            finish, unbilled = "STOP_SEQUENCE", usage.UNBILLED_PLAIN + tokens.count(stopped)
        if mode not in citations.SILENT_MODES:
            found = citations.find(text, talk.results or talk.documents)
            unbilled += usage.UNBILLED_CITED if found else 0
    if budget.cut:
        finish, unbilled = "MAX_TOKENS", usage.UNBILLED_CUT
    counted = usage.tell(prompt, budget.spent, unbilled, reasoning if talk.thinks else None)
    said = len(thinking or "") + len(plan or "") + len(text or "") + sum(len(call.arguments) for call in calls)
    return Answer(
        id=str(uuid.uuid4()), thinking=thinking, plan=plan, text=text, calls=tuple(calls), citations=found,
        inline=mode != "ACCURATE", finish=finish, usage=counted, characters=prompt.characters + said,
        logprobs=bool(body.get("logprobs")),
    )  # fmt: skip


def logprob_item(piece: str) -> dict[str, Any]:
    """A LogprobItem of one piece: plausible, stable, meaningless (docs/cohere-api.md#chat-answers: never recorded)."""
    spread = hashlib.blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=2).digest()
    return {
        "text": piece,
        "token_ids": [tokens.number(piece)],
        "logprobs": [-round(int.from_bytes(spread, "big") / 65_536, 6)],
    }


def _think(talk: Conversation, calls: list[Call], budget: _Budget) -> str | None:
    if not talk.thinks:
        return None
    thought = answers.thinking(talk, calls)
    if talk.thinking_budget is not None:
        thought = "".join(tokens.pieces(thought)[: talk.thinking_budget])
    return budget.take(thought)


def _write(calls: list[Call], budget: _Budget) -> list[Call]:
    """The calls that fit; the one that does not ends in the middle of its arguments."""
    written: list[Call] = []
    for call in calls:
        if budget.left <= 0:
            budget.cut = True
            break
        kept = budget.take(call.written)
        if budget.cut:
            written.append(Call(call.id, call.name, kept, kept))
            break
        written.append(call)
    return written


def _stop(text: str, sequences: Sequence[str]) -> tuple[str, str]:
    """The text before the first stop sequence, its trailing blank trimmed (recorded), and that sequence."""
    places = [(text.find(sequence), sequence) for sequence in sequences if sequence and sequence in text]
    if not places:
        return text, ""
    place, sequence = min(places)
    return text[:place].rstrip(), sequence
