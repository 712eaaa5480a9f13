"""The turn machine: a state machine from Cohere's stream events to answer events.

It alone knows which item is open, how items are numbered, the text so far, the legal order of events, and the ending.
It does not know which projection reads its events (chat or Responses), and no projection knows an event of Cohere's
(docs/decisions.md#one-state-machine-for-answers).

TRANSITIONS decides which events are legal. Leniency is a row in it, never an `if` below. An illegal event raises
UpstreamProtocolError and leaves the state unchanged: a stream that ends with an error is better than one that silently
loses text. Two errors do not fit the table and are raised below: a tool call without a name, and a piece of another
call than the open one.

Two things are delayed on purpose. A text block is closed by the event that follows it, not by its content-end, because
citations may come after that (docs/cohere-api.md#order-of-events). The first fragment of a call's arguments is held
back while it may still become `null`, which older models send for a call without arguments; then the arguments are `{}`
(docs/cohere-api.md#chat-answers).
"""

from collections.abc import Callable
from enum import Enum
from typing import Any

from msgspec.structs import replace

from schemas.cohere import events as cohere
from schemas.cohere.chat import ChatAnswer, Citation, LogprobItem, Usage
from translators.answer.citations import clamp, locate
from translators.answer.events import (
    TEXT,
    THINKING,
    AnswerEvent,
    Cited,
    Closed,
    Delta,
    Failed,
    Finished,
    Kind,
    Opened,
    Started,
)
from translators.core.errors import Failure, UpstreamProtocolError
from translators.core.faults import Fault


class State(Enum):
    """The states of a turn. Their names appear in the messages of protocol errors."""

    # DONE is the only state that absorbs everything; each other one says in TRANSITIONS what it takes. A state more is
    # worth its row only if the same event means something else in it: that is why CONTENT and ENDED are two, and
    # thoughts and texts one.
    IDLE = "idle"  # before the first event
    BETWEEN = "between"  # no item is open
    CONTENT = "content"  # a text or a thought is open
    ENDED = "ended"  # its content-end came, but citations of it may follow
    PLAN = "plan"  # the plan before the calls is open
    CALL = "call"  # a call is open
    DONE = "done"  # after message-end, or after a failure


_ITEM_STARTS: dict[type, State] = {
    cohere.ContentStart: State.CONTENT,
    # Lenient: a delta without its content-start. Its key, `text` or `thinking`, tells the kind. Never recorded.
    cohere.ContentDelta: State.CONTENT,
    cohere.PlanDelta: State.PLAN,
    cohere.CallStart: State.CALL,
    cohere.MessageEnd: State.DONE,
}

TRANSITIONS: dict[State, dict[type, State]] = {
    State.IDLE: {
        cohere.MessageStart: State.BETWEEN,
        # Lenient: a refusal may come as the only event.
        cohere.MessageEnd: State.DONE,
    },
    State.BETWEEN: {
        **_ITEM_STARTS,
        # Citations are legal wherever text may have come before them, here too (docs/cohere-api.md#order-of-events).
        cohere.CitationStart: State.BETWEEN,
        cohere.CitationEnd: State.BETWEEN,
        # Lenient: the end of an item that was never opened has no content to lose.
        cohere.ContentEnd: State.BETWEEN,
        cohere.CallEnd: State.BETWEEN,
    },
    # Lenient: the next item may start without the end of the last.
    State.CONTENT: {
        **_ITEM_STARTS,
        cohere.ContentEnd: State.ENDED,
        cohere.CitationStart: State.CONTENT,
        cohere.CitationEnd: State.CONTENT,
    },
    State.ENDED: {
        **_ITEM_STARTS,
        cohere.CitationStart: State.ENDED,
        cohere.CitationEnd: State.ENDED,
    },
    # A plan has no event for its end: the next item ends it.
    State.PLAN: {
        **_ITEM_STARTS,
        cohere.CitationStart: State.PLAN,
        cohere.CitationEnd: State.PLAN,
    },
    # Lenient: a call's end may be missing (it is then closed by the next item, or by the end).
    State.CALL: {
        **_ITEM_STARTS,
        cohere.CallDelta: State.CALL,
        cohere.CallEnd: State.BETWEEN,
        cohere.CitationStart: State.CALL,
        cohere.CitationEnd: State.CALL,
    },
    # Whatever follows the end is ignored: the caller already has a finished answer.
    State.DONE: {kind: State.DONE for kind in cohere.KINDS},
}

FAILED_REASONS: dict[str, Failure] = {
    "ERROR": Failure(
        502, "Cohere could not finish the answer", "server_error", "upstream_error", fault=Fault.PROVIDER_UNAVAILABLE
    ),
    "TIMEOUT": Failure(
        504,
        "Cohere stopped the answer at its time limit",
        "server_error",
        "upstream_timeout",
        fault=Fault.PROVIDER_TIMEOUT,
    ),
}
"""Finish reasons of answers that failed (docs/decisions.md#a-failure-never-looks-like-a-success)."""

# Without this a client would parse `null` where its SDK promises an object, and agents fail on it. Real arguments begin
# with a brace, so nothing but such a `null` is ever delayed.
_MAYBE_NULL = ("", "n", "nu", "nul", "null")
"""Beginnings of arguments that are held back."""


class Turn:
    """The state of one assistant turn. Feed it Cohere's events in order."""

    def __init__(self) -> None:
        self.state = State.IDLE
        self._steps = _STEPS[State.IDLE]  # the state's row: saves one look-up for each event
        self.usage: Usage | None = None
        self._items = 0  # how many items were opened; the open one has the highest number
        self._open: Kind | None = None
        # Joined only when an item closes: adding up a string would copy it with each delta.
        self._parts: list[str] = []
        self._pending_arguments = ""
        self._index: int | None = None  # Cohere's index of the open content block
        self._call: int | None = None  # Cohere's index of the open call
        self._blocks: dict[int, int] = {}  # Cohere's content index -> item
        # Texts of closed items, because a citation may come late and its offsets are checked against the text.
        self._closed: dict[int, tuple[Kind, str]] = {}
        self._pending_citations: list[Citation] = []  # their words have not come yet

    def feed(self, event: cohere.Event | cohere.Unknown) -> list[AnswerEvent]:
        """Returns the answer events that this event leads to. Raises UpstreamProtocolError for an illegal one."""
        # By the class and not by isinstance: a look-up costs the same for every kind of event, and this line runs for
        # each token. None of the events has a subclass that it could miss.
        step = self._steps.get(type(event))
        if step is None:
            # New kinds of events may come at any time. Cohere's SDK ignores them, too (docs/cohere-api.md#streaming).
            if type(event) is cohere.Unknown:
                return []
            raise UpstreamProtocolError(f"Cohere sent {_tag(type(event))} where it may not come ({self.state.value})")
        handler, following = step
        events = handler(self, event)
        # Entered only after the handler has returned: a handler that raises leaves the machine where it was, so that
        # `end` still closes the item that is open.
        if following is not self.state:
            self._enter(following)
        return events

    def whole_text(self, answer: ChatAnswer) -> list[AnswerEvent] | None:
        """Returns the answer events of a whole answer that is one text and nothing else; None for any other.

        They are those of `feed` for what `replay` makes of it, which `tests/test_turn.py` checks as a law: most answers
        are such, and to replay them costs ten times as much.
        """
        message, reason = answer.message, answer.finish_reason
        content = message.content
        if (
            # A condition that is forgotten here loses what it stands for without an error. The law in
            # `tests/test_turn.py` feeds both ways with generated answers, and fails then.
            content is None
            or len(content) != 1
            or message.tool_plan
            or message.tool_calls
            or message.citations
            or answer.logprobs
            or answer.error
            or reason in FAILED_REASONS
        ):
            return None
        text = content[0].text
        # An empty text is no Delta in a replay, and a thought would be opened as one.
        if not text or content[0].thinking is not None or content[0].type == "thinking":
            return None
        self._enter(State.DONE)
        self.usage = answer.usage
        return [
            Started(answer.id or ""),
            Opened(0, TEXT),
            Delta(0, TEXT, text),
            Closed(0, TEXT, text, reason != "MAX_TOKENS"),
            Finished(reason, answer.usage),
        ]

    def end(self, failure: Failure) -> list[AnswerEvent]:
        """Ends a broken stream: closes the open item and fails. Returns nothing after a proper end."""
        if self.state is State.DONE:
            return []
        self._enter(State.DONE)
        # The open item is closed before the failure, because a projection may have sent its beginning: in Responses
        # every item that was added has to be done, too.
        return [*self._close(complete=False), Failed(failure, self.usage)]

    def _enter(self, state: State) -> None:
        self.state, self._steps = state, _STEPS[state]

    # --- one method for each of Cohere's events ------------------------------------------------------------------

    def _ignore(self, event: Any) -> list[AnswerEvent]:
        return []

    def _message_start(self, event: cohere.MessageStart) -> list[AnswerEvent]:
        return [Started(event.id or "")]

    def _content_start(self, event: cohere.ContentStart) -> list[AnswerEvent]:
        content = event.delta.message.content if event.delta and event.delta.message else None
        thinking = content is not None and (content.type == "thinking" or content.thinking is not None)
        kind = Kind.THINKING if thinking else Kind.TEXT
        # Whatever was open ends here. Two open texts at once have no meaning for either projection, and Cohere's blocks
        # follow one another.
        events = self._close()
        # New kinds of blocks may come at any time, as new events may. Opened as a text, one would be an empty message.
        if content is not None and content.type not in _KINDS and content.text is None and not thinking:
            return events
        events += self._begin(kind, event.index)
        text = (content.thinking if thinking else content.text) if content else None
        if text:
            events.append(self._write(kind, text))
        return events

    def _content_delta(self, event: cohere.ContentDelta) -> list[AnswerEvent]:
        try:
            # `delta` and `message` may be absent in the schema. An exception that does not happen is free; three looks
            # for None are not.
            content = event.delta.message.content  # type: ignore[union-attr]  # to look first costs each delta
        except AttributeError:
            return []
        if content is None:
            return []
        # The key decides, not a type that the block was opened with: deltas have no type, and the one with `thinking`
        # is a thought even inside a block that said otherwise.
        text, kind = content.text, TEXT
        if text is None:
            text, kind = content.thinking, THINKING
            if text is None:
                # Neither: of a block of another kind, or of log probabilities alone, which belong to the open block.
                if event.logprobs is None:
                    return []
                kind = THINKING if self._open is THINKING else TEXT
        # Nearly every event of a stream takes this path: one more piece of the open block.
        if kind is self._open and event.index == self._index:
            if text and event.logprobs is None:
                self._parts.append(text)
                return [Delta(self._items - 1, kind, text)]
            # A delta of log probabilities alone has no text, and still has to reach the caller: its empty Delta carries
            # them.
            events: list[AnswerEvent] = []
        else:
            events = [*self._close(), *self._begin(kind, event.index)]
        if text or event.logprobs:
            events.append(self._write(kind, text or "", (event.logprobs,) if event.logprobs else ()))
        return events

    def _plan_delta(self, event: cohere.PlanDelta) -> list[AnswerEvent]:
        text = event.delta.message.tool_plan if event.delta and event.delta.message else None
        # The first piece opens the plan. Cohere has no start event for it.
        events = [] if self._open is Kind.PLAN else [*self._close(), *self._begin(Kind.PLAN)]
        if text:
            events.append(self._write(Kind.PLAN, text))
        return events

    def _call_start(self, event: cohere.CallStart) -> list[AnswerEvent]:
        details = _call_details(event)
        function = details.function if details else None
        # A call without a name could be run by nobody. To send it on would blame the caller's tools for it.
        if details is None or function is None or not function.name:
            raise UpstreamProtocolError("Cohere began a tool call without naming the tool")
        events = [*self._close(), *self._begin(Kind.CALL, None, details.id or "", function.name)]
        # Kept apart from `_index`: blocks and calls are counted separately, so block 0 and call 0 are different things
        # (docs/cohere-api.md#order-of-events).
        self._call = event.index
        if function.arguments:
            events.extend(self._write_arguments(function.arguments))
        return events

    def _call_delta(self, event: cohere.CallDelta) -> list[AnswerEvent]:
        self._check_call(event.index)
        details = _call_details(event)
        fragment = details.function.arguments if details and details.function else None
        return self._write_arguments(fragment) if fragment else []

    def _call_end(self, event: cohere.CallEnd) -> list[AnswerEvent]:
        # Elsewhere the table has let it through because nothing was open. Its index then belongs to no call.
        if self._open is Kind.CALL:
            self._check_call(event.index)
        return self._close()

    def _check_call(self, index: int | None) -> None:
        """Raises UpstreamProtocolError for a piece of another call than the open one."""
        # Calls never overlap (docs/cohere-api.md#order-of-events). If they did, the arguments of two calls would be
        # mixed, and a tool would run with them.
        if None not in (index, self._call) and index != self._call:
            raise UpstreamProtocolError(f"Cohere wrote to tool call {index} while {self._call} is open")

    def _citation_start(self, event: cohere.CitationStart) -> list[AnswerEvent]:
        # A single object in a stream, a list in a whole answer (docs/cohere-api.md#streaming).
        value = event.delta.message.citations if event.delta and event.delta.message else None
        citations = value if isinstance(value, list) else [value] if value else []
        return [event for citation in citations for event in self._cite(citation)]

    def _message_end(self, event: cohere.MessageEnd) -> list[AnswerEvent]:
        # An ending without a delta still ends the answer: without a reason, which projections take for a stop.
        ending = event.delta or cohere.Ending()
        self.usage = ending.usage
        reason = ending.finish_reason or ""
        failure = FAILED_REASONS.get(reason)
        # An error beside a normal reason is still a failure (docs/cohere-api.md#errors-inside-a-stream).
        if failure is None and ending.error:
            failure = FAILED_REASONS["ERROR"]
        if failure is not None:
            return [*self._close(complete=False), Failed(_explained(failure, ending), self.usage)]
        # An item that was open when the tokens ran out is incomplete. Its arguments are not completed to `{}`, because
        # nobody should run a call that was cut short.
        return [*self._cite_pending(), *self._close(reason != "MAX_TOKENS"), Finished(reason, self.usage)]

    # --- items ---------------------------------------------------------------------------------------------

    def _begin(self, kind: Kind, index: int | None = None, call_id: str = "", name: str = "") -> list[AnswerEvent]:
        # Our numbers and not Cohere's: its three counters overlap, and Responses wants one order over texts, thoughts
        # and calls (`output_index`).
        item = self._items
        self._items += 1
        self._open, self._index, self._parts, self._pending_arguments = kind, index, [], ""
        if index is not None:
            self._blocks[index] = item
        return [Opened(item, kind, call_id, name)]

    def _write(self, kind: Kind, text: str, logprobs: tuple[LogprobItem, ...] = ()) -> AnswerEvent:
        self._parts.append(text)
        return Delta(self._items - 1, kind, text, logprobs)

    def _write_arguments(self, fragment: str) -> list[AnswerEvent]:
        """Writes a fragment of a call's arguments, or holds it back while they may be `null`."""
        # Only before the first piece is written: later a fragment `null` may be a value inside the object.
        if not self._parts:
            self._pending_arguments += fragment
            if self._pending_arguments in _MAYBE_NULL:
                return []
            fragment, self._pending_arguments = self._pending_arguments, ""
        return [self._write(Kind.CALL, fragment)]

    def _close(self, complete: bool = True) -> list[AnswerEvent]:
        """Closes the open item, if there is one. complete: False if the answer was cut short inside it."""
        kind, item = self._open, self._items - 1
        if kind is None:
            return []
        events: list[AnswerEvent] = []
        if kind is Kind.CALL and not self._parts:
            # `{}` and not nothing: SDKs parse the arguments of a finished call, and fail on an empty text
            # (docs/cohere-api.md#order-of-events).
            if complete and self._pending_arguments in ("", "null"):
                events.append(self._write(kind, "{}"))
            # A call that was cut short shows what there was, half of a `null` included, so that nobody takes it for
            # complete.
            elif self._pending_arguments:
                events.append(self._write(kind, self._pending_arguments))
        text = "".join(self._parts)
        self._open, self._index, self._parts = None, None, []
        # The whole text is kept until the answer ends, at most one answer's length. Citations of the accurate mode come
        # when their block is closed, and are checked against it.
        self._closed[item] = kind, text
        events.append(Closed(item, kind, text, complete))
        return events

    # --- citations -----------------------------------------------------------------------------------------

    def _cite(self, citation: Citation) -> list[AnswerEvent]:
        """Returns the citation if its words are in the text already; else keeps it for the end."""
        # In the fast mode a citation may come before the words that it cites (docs/cohere-api.md#order-of-events).
        item = self._cited_item(citation)
        if item is not None:
            kind, text = self._text_of(item)
            span = locate(citation, text)
            if span is not None:
                return [Cited(item, kind, *span, citation)]
        # It is not dropped: the words may be in the next delta. Nor is it sent unchecked: offsets that point elsewhere
        # make a client underline the wrong words, and no error shows it.
        self._pending_citations.append(citation)
        return []

    def _cite_pending(self) -> list[AnswerEvent]:
        """Returns the citations that waited for their words. One without any item to cite is dropped."""
        events: list[AnswerEvent] = []
        for citation in self._pending_citations:
            item = self._cited_item(citation)
            if item is not None:
                kind, text = self._text_of(item)
                # At the end an approximate place is better than none: the caller asked for documents, and still learns
                # which of them.
                events.append(Cited(item, kind, *(locate(citation, text, True) or clamp(citation, text)), citation))
        return events

    def _cited_item(self, citation: Citation) -> int | None:
        """Returns the cited item: the block of `content_index`, else the newest item with these words in this span."""
        # `content_index` is only there after a thinking block (docs/cohere-api.md#documents-and-citations).
        kind = _CITED_KINDS.get(citation.type or "", Kind.TEXT)
        block = self._blocks.get(citation.content_index) if citation.content_index is not None else None
        # A `content_index` that names a thought while the citation is of a text is a block of another counting, so the
        # words decide.
        if block is not None and self._text_of(block)[0] is kind:
            return block
        # The newest first: an answer may repeat its words, and a citation follows the text that it is about.
        items = [item for item in range(self._items - 1, -1, -1) if self._text_of(item)[0] is kind]
        for item in items:
            if self._text_of(item)[1][citation.start : citation.end] == citation.text:
                return item
        return items[0] if items else None

    def _text_of(self, item: int) -> tuple[Kind, str]:
        if self._open is not None and item == self._items - 1:
            return self._open, "".join(self._parts)
        return self._closed[item]


_HANDLERS: dict[type, Callable[[Turn, Any], list[AnswerEvent]]] = {
    cohere.MessageStart: Turn._message_start,
    cohere.ContentStart: Turn._content_start,
    cohere.ContentDelta: Turn._content_delta,
    cohere.ContentEnd: Turn._ignore,
    cohere.PlanDelta: Turn._plan_delta,
    cohere.CallStart: Turn._call_start,
    cohere.CallDelta: Turn._call_delta,
    cohere.CallEnd: Turn._call_end,
    cohere.CitationStart: Turn._citation_start,
    cohere.CitationEnd: Turn._ignore,
    cohere.MessageEnd: Turn._message_end,
}

_STEPS: dict[State, dict[type, tuple[Callable[[Turn, Any], list[AnswerEvent]], State]]] = {
    state: {
        # Made once, when the module is imported. Both tables stay as they are read, and a delta pays one look-up
        # instead of two.
        kind: (Turn._ignore if state is State.DONE else _HANDLERS[kind], following)
        for kind, following in row.items()
    }
    for state, row in TRANSITIONS.items()
}
"""What is done with an event, and the state that follows: both tables in one."""

_KINDS = (None, "text", "thinking")
"""Types of content blocks."""

_CITED_KINDS = {"THINKING_CONTENT": Kind.THINKING, "PLAN": Kind.PLAN}


def _call_details(event: cohere.CallStart | cohere.CallDelta) -> cohere.CallDetails | None:
    value = event.delta.message.tool_calls if event.delta and event.delta.message else None
    # A single object in deltas (docs/cohere-api.md#streaming). Of a list only the first is read, because an event is of
    # one call.
    if isinstance(value, list):
        return value[0] if value else None
    return value


def _explained(failure: Failure, ending: cohere.Ending) -> Failure:
    """Adds Cohere's `error` and `error_type`, which say more (docs/cohere-api.md#errors-inside-a-stream)."""
    if not ending.error and not ending.error_type:
        return failure
    # Cohere's own words are for the caller, whose request failed. `error_type` becomes the code, as it does for errors
    # before the first byte, so that one program can handle both.
    message = f"{failure.message}: {ending.error}" if ending.error else failure.message
    return replace(failure, message=message, code=ending.error_type or failure.code)


def _tag(kind: type) -> str:
    return str(kind.__struct_config__.tag)  # type: ignore[attr-defined]
