"""THE STATE MACHINE: Cohere's events in, steps out.

Everything that must be right once is here: which item is open, how items are numbered, the text so far,
what may follow what, and the ending. This file does not know which projection listens, and no projection
knows an event of Cohere's.

TRANSITIONS is all there is to say about legality. Leniency is a row in it, never an `if` below. A pair that
is not in it raises UpstreamProtocolError and leaves the state as it was: to end a stream with an error is
better than to lose text in silence. Two things do not fit the table and are refused below: a call without a
name, and a piece of another call than the open one.

Two things are deliberately late. A text block is closed by what comes after it, not by its content-end,
because citations may follow content-end (recorded with documents; docs/cohere-api.md#order-of-events). And the first
fragment of a call's arguments is held back while it may still become `null`, which older models send for a
call without arguments; such a call's arguments are `{}` (docs/cohere-api.md#chat-answers).
"""

from collections.abc import Callable
from enum import Enum
from typing import Any

from schemas.cohere import events
from schemas.cohere.chat import Citation, LogprobItem, Usage
from translators.answer.citations import clamp, locate
from translators.answer.events import Cited, Closed, Delta, Failed, Finished, Kind, Opened, Started, Step
from translators.core.errors import Failure, UpstreamProtocolError


class State(Enum):
    IDLE = "idle"  # nothing came yet
    BETWEEN = "between"  # nothing is open
    CONTENT = "content"  # a text or a thought is being written
    ENDED = "ended"  # it is written, but citations of it may follow
    PLAN = "plan"  # the plan before the calls
    CALL = "call"  # a call's arguments
    DONE = "done"  # the end was told


_ITEM_STARTS: dict[type, State] = {
    events.ContentStart: State.CONTENT,
    # Lenient: a delta without its content-start says by its key what it is (recorded nowhere, tolerated).
    events.ContentDelta: State.CONTENT,
    events.PlanDelta: State.PLAN,
    events.CallStart: State.CALL,
    events.MessageEnd: State.DONE,
}

TRANSITIONS: dict[State, dict[type, State]] = {
    State.IDLE: {
        events.MessageStart: State.BETWEEN,
        # Lenient: a refusal may come as the only event.
        events.MessageEnd: State.DONE,
    },
    State.BETWEEN: {
        **_ITEM_STARTS,
        events.CitationStart: State.BETWEEN,
        events.CitationEnd: State.BETWEEN,
        # Lenient: ends of what was never opened carry nothing.
        events.ContentEnd: State.BETWEEN,
        events.CallEnd: State.BETWEEN,
    },
    # Lenient: the next item may start without the end of the last.
    State.CONTENT: {
        **_ITEM_STARTS,
        events.ContentEnd: State.ENDED,
        events.CitationStart: State.CONTENT,
        events.CitationEnd: State.CONTENT,
    },
    State.ENDED: {
        **_ITEM_STARTS,
        events.CitationStart: State.ENDED,
        events.CitationEnd: State.ENDED,
    },
    # Nothing ends a plan but the next thing.
    State.PLAN: {
        **_ITEM_STARTS,
        events.CitationStart: State.PLAN,
        events.CitationEnd: State.PLAN,
    },
    # Lenient: a call's end may be missing (it is then closed by the next item, or by the end).
    State.CALL: {
        **_ITEM_STARTS,
        events.CallDelta: State.CALL,
        events.CallEnd: State.BETWEEN,
        events.CitationStart: State.CALL,
        events.CitationEnd: State.CALL,
    },
    # Nothing after the end changes the answer.
    State.DONE: {kind: State.DONE for kind in events.KINDS},
}

FAILED_REASONS: dict[str, Failure] = {
    "ERROR": Failure(502, "Cohere could not finish the answer", "server_error", "upstream_error"),
    "TIMEOUT": Failure(504, "Cohere stopped the answer at its time limit", "server_error", "upstream_timeout"),
}
"""Finish reasons that are no answer (docs/decisions.md#a-failure-never-looks-like-a-success)."""

_MAYBE_NULL = ("", "n", "nu", "nul", "null")


class Turn:
    """One assistant turn. Feed it events in order; it returns the steps each of them makes."""

    def __init__(self) -> None:
        self.state = State.IDLE
        self._legal = TRANSITIONS[State.IDLE]  # of the state: one look-up an event saved
        self.usage: Usage | None = None
        self._items = 0
        self._open: Kind | None = None
        self._parts: list[str] = []
        self._held = ""
        self._index: int | None = None  # Cohere's index of the open content block
        self._call: int | None = None  # Cohere's index of the open call
        self._blocks: dict[int, int] = {}  # Cohere's content index -> item
        self._closed: dict[int, tuple[Kind, str]] = {}
        self._unplaced: list[Citation] = []

    def feed(self, event: events.Event | events.Unknown) -> list[Step]:
        """The steps this event makes. Raises UpstreamProtocolError if it may not come now."""
        kind = type(event)
        if kind is events.Unknown:
            return []
        following = self._legal.get(kind)
        if following is None:
            raise UpstreamProtocolError(f"Cohere sent {_tag(kind)} where it may not come ({self.state.value})")
        if self.state is State.DONE:
            return []
        steps = _HANDLERS[kind](self, event)
        if following is not self.state:
            self._enter(following)
        return steps

    def end(self, failure: Failure) -> list[Step]:
        """The stream is over. Nothing if the end was told; else closes what is open and fails."""
        if self.state is State.DONE:
            return []
        self._enter(State.DONE)
        return [*self._close(complete=False), Failed(failure, self.usage)]

    def _enter(self, state: State) -> None:
        self.state, self._legal = state, TRANSITIONS[state]

    # --- one method an event -------------------------------------------------------------------------------

    def _nothing(self, event: Any) -> list[Step]:
        return []

    def _message_start(self, event: events.MessageStart) -> list[Step]:
        return [Started(event.id or "")]

    def _content_start(self, event: events.ContentStart) -> list[Step]:
        content = event.delta.message.content if event.delta and event.delta.message else None
        thinking = content is not None and (content.type == "thinking" or content.thinking is not None)
        kind = Kind.THINKING if thinking else Kind.TEXT
        steps = [*self._close(), *self._begin(kind, event.index)]
        text = (content.thinking if thinking else content.text) if content else None
        if text:
            steps.append(self._write(kind, text))
        return steps

    def _content_delta(self, event: events.ContentDelta) -> list[Step]:
        content = event.delta.message.content if event.delta and event.delta.message else None
        if content is None:
            return []
        text, kind = content.text, Kind.TEXT
        if text is None:
            text, kind = content.thinking, Kind.THINKING
        # The hot lines of a stream: one more piece of the block that is open.
        if kind is self._open and event.index == self._index:
            if text and event.logprobs is None:
                self._parts.append(text)
                return [Delta(self._items - 1, kind, text)]
            steps: list[Step] = []
        else:
            steps = [*self._close(), *self._begin(kind, event.index)]
        if text or event.logprobs:
            steps.append(self._write(kind, text or "", (event.logprobs,) if event.logprobs else ()))
        return steps

    def _plan_delta(self, event: events.PlanDelta) -> list[Step]:
        text = event.delta.message.tool_plan if event.delta and event.delta.message else None
        steps = [] if self._open is Kind.PLAN else [*self._close(), *self._begin(Kind.PLAN)]
        if text:
            steps.append(self._write(Kind.PLAN, text))
        return steps

    def _call_start(self, event: events.CallStart) -> list[Step]:
        details = _call_details(event)
        function = details.function if details else None
        if details is None or function is None or not function.name:
            raise UpstreamProtocolError("Cohere began a tool call without naming the tool")
        steps = [*self._close(), *self._begin(Kind.CALL, None, details.id or "", function.name)]
        self._call = event.index
        if function.arguments:
            steps.extend(self._argue(function.arguments))
        return steps

    def _call_delta(self, event: events.CallDelta) -> list[Step]:
        self._check_call(event.index)
        details = _call_details(event)
        fragment = details.function.arguments if details and details.function else None
        return self._argue(fragment) if fragment else []

    def _call_end(self, event: events.CallEnd) -> list[Step]:
        if self._open is Kind.CALL:
            self._check_call(event.index)
        return self._close()

    def _check_call(self, index: int | None) -> None:
        """Calls come one after another (docs/cohere-api.md#order-of-events). A piece of another call must not join this
        one."""
        if None not in (index, self._call) and index != self._call:
            raise UpstreamProtocolError(f"Cohere wrote to tool call {index} while {self._call} is open")

    def _citation_start(self, event: events.CitationStart) -> list[Step]:
        found = event.delta.message.citations if event.delta and event.delta.message else None
        citations = found if isinstance(found, list) else [found] if found else []
        return [step for citation in citations for step in self._cite(citation)]

    def _message_end(self, event: events.MessageEnd) -> list[Step]:
        ending = event.delta or events.Ending()
        self.usage = ending.usage
        reason = ending.finish_reason or ""
        failure = FAILED_REASONS.get(reason)
        if failure is None and ending.error:
            failure = FAILED_REASONS["ERROR"]
        if failure is not None:
            return [*self._close(complete=False), Failed(_explained(failure, ending), self.usage)]
        # What was open when the tokens ran out is no whole item: its arguments are told as they are.
        return [*self._place_late(), *self._close(reason != "MAX_TOKENS"), Finished(reason, self.usage)]

    # --- items ---------------------------------------------------------------------------------------------

    def _begin(self, kind: Kind, index: int | None = None, call_id: str = "", name: str = "") -> list[Step]:
        item = self._items
        self._items += 1
        self._open, self._index, self._parts, self._held = kind, index, [], ""
        if index is not None:
            self._blocks[index] = item
        return [Opened(item, kind, call_id, name)]

    def _write(self, kind: Kind, text: str, logprobs: tuple[LogprobItem, ...] = ()) -> Step:
        self._parts.append(text)
        return Delta(self._items - 1, kind, text, logprobs)

    def _argue(self, fragment: str) -> list[Step]:
        if not self._parts:
            self._held += fragment
            if self._held in _MAYBE_NULL:
                return []
            fragment, self._held = self._held, ""
        return [self._write(Kind.CALL, fragment)]

    def _close(self, complete: bool = True) -> list[Step]:
        """Closes the open item, if any."""
        kind, item = self._open, self._items - 1
        if kind is None:
            return []
        steps: list[Step] = []
        if kind is Kind.CALL and not self._parts:
            if complete and self._held in ("", "null"):
                steps.append(self._write(kind, "{}"))
            elif self._held:
                steps.append(self._write(kind, self._held))
        text = "".join(self._parts)
        self._open, self._index, self._parts = None, None, []
        self._closed[item] = kind, text
        steps.append(Closed(item, kind, text, complete))
        return steps

    # --- citations -----------------------------------------------------------------------------------------

    def _cite(self, citation: Citation) -> list[Step]:
        item = self._cited_item(citation)
        if item is not None:
            kind, text = self._text_of(item)
            place = locate(citation, text)
            if place is not None:
                return [Cited(item, kind, *place, citation)]
        self._unplaced.append(citation)
        return []

    def _place_late(self) -> list[Step]:
        """Citations whose words had not been written when they came; dropped if nothing ever was."""
        steps: list[Step] = []
        for citation in self._unplaced:
            item = self._cited_item(citation)
            if item is not None:
                kind, text = self._text_of(item)
                steps.append(Cited(item, kind, *(locate(citation, text, True) or clamp(citation, text)), citation))
        return steps

    def _cited_item(self, citation: Citation) -> int | None:
        """`content_index` names the block; without one it is the newest item that holds the words there."""
        wanted = _CITED_KINDS.get(citation.type or "", Kind.TEXT)
        named = self._blocks.get(citation.content_index) if citation.content_index is not None else None
        if named is not None and self._text_of(named)[0] is wanted:
            return named
        items = [item for item in range(self._items - 1, -1, -1) if self._text_of(item)[0] is wanted]
        for item in items:
            if self._text_of(item)[1][citation.start : citation.end] == citation.text:
                return item
        return items[0] if items else None

    def _text_of(self, item: int) -> tuple[Kind, str]:
        if self._open is not None and item == self._items - 1:
            return self._open, "".join(self._parts)
        return self._closed[item]


_HANDLERS: dict[type, Callable[[Turn, Any], list[Step]]] = {
    events.MessageStart: Turn._message_start,
    events.ContentStart: Turn._content_start,
    events.ContentDelta: Turn._content_delta,
    events.ContentEnd: Turn._nothing,
    events.PlanDelta: Turn._plan_delta,
    events.CallStart: Turn._call_start,
    events.CallDelta: Turn._call_delta,
    events.CallEnd: Turn._call_end,
    events.CitationStart: Turn._citation_start,
    events.CitationEnd: Turn._nothing,
    events.MessageEnd: Turn._message_end,
}

_CITED_KINDS = {"THINKING_CONTENT": Kind.THINKING, "PLAN": Kind.PLAN}


def _call_details(event: events.CallStart | events.CallDelta) -> events.CallDetails | None:
    found = event.delta.message.tool_calls if event.delta and event.delta.message else None
    if isinstance(found, list):
        return found[0] if found else None
    return found


def _explained(failure: Failure, ending: events.Ending) -> Failure:
    """Cohere's `error` and `error_type` say more than the reason does (docs/cohere-api.md#errors-inside-a-stream)."""
    if not ending.error and not ending.error_type:
        return failure
    message = f"{failure.message}: {ending.error}" if ending.error else failure.message
    return Failure(failure.status, message, failure.type, ending.error_type or failure.code)


def _tag(kind: type) -> str:
    return str(kind.__struct_config__.tag)  # type: ignore[attr-defined]
