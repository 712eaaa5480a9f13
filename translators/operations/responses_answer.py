"""Steps as the Responses API: events one after another, and the response that the last of them holds.

The second projection of the turn machine. A whole answer is told as the same events, of which only the last
one's response is kept: so a streamed response and a whole one are the same object (a law of the tests).

An item is done when the next step comes, not when it closes: only then is it known whether the answer was
cut short inside it (`incomplete`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import UNSET, Raw, Struct
from msgspec.json import Encoder
from msgspec.structs import replace

from schemas.openai import responses as openai
from translators.answer import annotations, logprobs
from translators.answer.decoder import AnswerDecoder, StepTransform
from translators.answer.events import Cited, Closed, Delta, Failed, Finished, Kind, Opened, Started, Step
from translators.answer.transforms import SCHEMA_MISSED
from translators.answer.usage import Counts, counts, finish_reason
from translators.core.contracts import Context, UsageTotals
from translators.core.errors import CANCELLED, AnswerFailed, Failure

FIRST_IN_BACKGROUND = ("response.created", "response.queued")
"""Told before anybody works on a response in the background; `created` first, as the official SDK demands."""

LAST: Mapping[str, str] = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    # OpenAI has no event of its own for it, and every stream must end with one that holds the response.
    "cancelled": "response.incomplete",
    "failed": "response.failed",
}
"""What a response has come to -> the event that ends its stream."""

TEXT_DELTA = "response.output_text.delta"

_encode = Encoder().encode
_PLACE = "\u0000"
_WRITTEN_PLACE = _encode(_PLACE)


class ResponsesView(Struct, frozen=True):
    """What the answer must know of the request.

    base: the response as it stands before anything came; summaries: reasoning is told as a summary (of the two forms
    the one that every client shows, and whose events OpenAI and Open Responses call by the same names); sealed: the
    thoughts' opaque form is asked for; namespaces: inner name -> (namespace, name) of namespaced tools.
    """

    base: openai.Response
    context: Context
    summaries: bool = False
    sealed: bool = False
    namespaces: Mapping[str, tuple[str, str]] = {}
    rewrites: tuple[Callable[[], StepTransform], ...] = ()
    refuse: bool = False

    def telling(self) -> AnswerDecoder:
        return AnswerDecoder([make() for make in self.rewrites])


def usage(found: Counts) -> openai.Usage:
    return openai.Usage(
        found.prompt,
        openai.InputTokensDetails(found.cached, image_tokens=found.image or UNSET),
        found.completion,
        openai.OutputTokensDetails(found.reasoning),
        found.prompt + found.completion,
        dict(found.billed) or UNSET,
    )


class _Open(Struct):
    """The item being written, or written and not yet done.

    around: the JSON of a piece of text, but for the piece and the event's number: before, between and after them.
    """

    step: Opened
    id: str
    pieces: list[str] = []
    around: tuple[bytes, bytes, bytes] = (b"", b"", b"")
    annotations: list[dict[str, Any]] = []
    citations: list[Any] = []
    logprobs: list[Any] = []
    closed: bool = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class ResponsesStream:
    """A streamed answer: `context.Stream`, of one choice. `response` is the object as it stands."""

    def __init__(self, view: ResponsesView) -> None:
        self.usage = UsageTotals()
        self.finished = False
        self.failure: Failure | None = None
        self.response = view.base
        self._view = view
        self._telling = view.telling()
        # In the background the first events were told before Cohere was asked.
        self._sequence = len(FIRST_IN_BACKGROUND) if view.base.background else 0
        self._begun = False
        self._upstream_id = view.context.identity.unique
        self._output: list[openai.Item] = []
        self._places: dict[int, int] = {}  # item of the turn -> its place in the output
        self._open: _Open | None = None
        self._calls = 0

    def feed(self, data: bytes, choice: int = 0) -> Sequence[bytes]:
        steps = self._telling.feed(data)
        if len(steps) == 1:
            step = steps[0]
            # The hot lines of a stream: one more piece of text.
            if type(step) is Delta and step.kind is Kind.TEXT and not step.logprobs:
                opened, number = self._current(), self._sequence
                self._sequence = number + 1
                opened.pieces.append(step.text)
                before, between, after = opened.around
                return (before + _encode(step.text) + between + b"%d" % number + after,)
        return self._told(steps)

    def end(self, failure: Failure, choice: int = 0) -> Sequence[bytes]:
        return self._told(self._telling.end(failure))

    def whole(self, body: bytes, choice: int = 0) -> Sequence[bytes]:
        return self._told(self._telling.whole(body))

    def done(self, choice: int) -> bool:
        return self.finished

    def final(self) -> bytes:
        return _encode(self.response)

    def _told(self, steps: Sequence[Step]) -> Sequence[bytes]:
        return [_encode(event) for step in steps for event in _TELL[type(step)](self, step)]

    def _number(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    # --- one method a step ---------------------------------------------------------------------------------

    def _started(self, step: Started) -> list[Struct]:
        self._upstream_id, self._begun = step.id or self._view.context.identity.unique, True
        created = () if self._view.base.background else ("response.created",)
        names = (*created, "response.in_progress")
        return [openai.ResponseEvent(name, self.response, self._number()) for name in names]

    def _opened(self, step: Opened) -> list[Struct]:
        events = self._finish_item("completed")
        index = self._places[step.item] = len(self._output)
        self._open = opened = _Open(step, f"{_PREFIXES[step.kind]}_{self._upstream_id}_item_{index}")
        if step.kind is Kind.TEXT:
            opened.around = _around(openai.TextDelta(TEXT_DELTA, opened.id, index, 0, _PLACE, 0, []))
        events.append(openai.ItemEvent("response.output_item.added", index, self._item("in_progress"), self._number()))
        if step.kind is Kind.CALL:
            self._calls += 1
        elif step.kind is not Kind.TEXT and self._view.summaries:
            part = openai.SummaryText("")
            events.append(
                openai.SummaryPartEvent(
                    "response.reasoning_summary_part.added", opened.id, index, 0, part, self._number()
                )
            )
        else:
            events.append(
                openai.PartEvent("response.content_part.added", opened.id, index, 0, self._part(), self._number())
            )
        return events

    def _delta(self, step: Delta) -> list[Struct]:
        opened, index = self._current(), len(self._output)
        opened.pieces.append(step.text)
        if step.kind is Kind.TEXT:
            tokens: list[Any] = logprobs.token_logprobs(step.logprobs)
            opened.logprobs += tokens
            return [openai.TextDelta(TEXT_DELTA, opened.id, index, 0, step.text, self._number(), tokens)]
        if step.kind is Kind.CALL:
            return [openai.ArgumentsDelta(opened.id, index, step.text, self._number())]
        if self._view.summaries:
            name = "response.reasoning_summary_text.delta"
            return [openai.SummaryDelta(name, opened.id, index, 0, step.text, self._number())]
        return [openai.TextDelta("response.reasoning_text.delta", opened.id, index, 0, step.text, self._number())]

    def _cited(self, step: Cited) -> list[Struct]:
        """A citation may come when its item is done: then the last event's response has it, too."""
        place = self._places[step.item]
        note, added = annotations.note(step, 0), annotations.flat_annotations(step)
        opened = self._open
        if opened is not None and opened.step.item == step.item:
            id, first = opened.id, len(opened.annotations)
            opened.citations.append(note)
            opened.annotations += added
        else:
            id, first = self._output[place].id, _annotated(self._output[place])
            self._output[place] = _cited_late(self._output[place], note, added)
        return [
            openai.AnnotationAdded(id, place, 0, number, annotation, self._number())
            for number, annotation in enumerate(added, first)
        ]

    def _closed(self, step: Closed) -> list[Struct]:
        opened = self._current()
        opened.pieces, opened.closed = [step.text], step.complete
        return []

    def _finished(self, step: Finished) -> list[Struct]:
        found = counts(step.usage, self._view.context.policy.usage_base)
        reason, _ = finish_reason(step.reason, self._calls)
        cut = reason == "length"
        # Lenient: a refusal may come as the only event, and clients want to see the beginning first.
        events = [] if self._begun else self._started(Started(""))
        events += self._finish_item("incomplete" if cut else "completed")
        self.usage, self.finished = found.outcome(reason), True
        self.response = replace(
            self._view.base,
            status="incomplete" if cut else "completed",
            completed_at=None if cut else self._view.context.identity.completed_at(),
            incomplete_details=openai.IncompleteDetails("max_output_tokens") if cut else None,
            output=list(self._output),
            usage=usage(found),
        )
        return [*events, self._last()]

    def _failed(self, step: Failed) -> list[Struct]:
        """Every failure of Cohere's is `server_error`: OpenAI's list of codes is closed; the text says the rest."""
        found = counts(step.usage, self._view.context.policy.usage_base)
        events = self._finish_item("incomplete")
        self.usage, self.finished, self.failure = found.outcome("error"), True, step.failure
        code = "rate_limit_exceeded" if step.failure.status == 429 else "server_error"
        cancelled = step.failure == CANCELLED
        self.response = replace(
            self._view.base,
            status="cancelled" if cancelled else "failed",
            error=None if cancelled else openai.Error(code, step.failure.message),
            output=list(self._output),
            usage=usage(found) if step.usage is not None else None,
        )
        return [*events, self._last()]

    def _last(self) -> openai.ResponseEvent:
        return openai.ResponseEvent(LAST[self.response.status], self.response, self._number())

    # --- items ---------------------------------------------------------------------------------------------

    def _current(self) -> _Open:
        assert self._open is not None, "the turn machine opens an item before it writes"
        return self._open

    def _part(self) -> openai.AnsweredText | openai.ReasoningText:
        opened = self._current()
        citations = list(opened.citations) or UNSET
        if opened.step.kind is not Kind.TEXT:
            return openai.ReasoningText(opened.text, citations=citations)
        return openai.AnsweredText(opened.text, list(opened.annotations), list(opened.logprobs), citations=citations)

    def _item(self, status: str) -> openai.Item:
        """The open item as it stands; without content while it is in progress."""
        opened = self._current()
        step, begun = opened.step, status == "in_progress"
        if step.kind is Kind.TEXT:
            part = self._part()
            assert isinstance(part, openai.AnsweredText)
            return openai.AnsweredMessage(opened.id, status, [] if begun else [part])
        if step.kind is Kind.CALL:
            namespace, name = self._view.namespaces.get(step.name, ("", step.name))
            call_id = step.call_id or f"call_{opened.id}"
            return openai.AnsweredCall(opened.id, status, call_id, name, opened.text, namespace=namespace or UNSET)
        citations = list(opened.citations) or UNSET
        if self._view.summaries:
            shown = [] if begun else [openai.SummaryText(opened.text, citations=citations)]
            return openai.AnsweredReasoning(opened.id, status, shown, encrypted_content=self._seal(begun))
        content = [] if begun else [openai.ReasoningText(opened.text, citations=citations)]
        return openai.AnsweredReasoning(opened.id, status, [], content=content, encrypted_content=self._seal(begun))

    def _seal(self, begun: bool) -> Any:
        """Not null while the item is open: Open Responses has it as a text or not at all."""
        if begun or not self._view.sealed:
            return UNSET
        return self._view.context.conversation.encrypt_reasoning(self._current().text)

    def _finish_item(self, status: str) -> list[Struct]:
        """The events that end the open item, if there is one; then it belongs to the output."""
        opened = self._open
        if opened is None:
            return []
        if not opened.closed:
            status = "incomplete"
        index, item = len(self._output), self._item(status)
        events: list[Struct] = []
        if isinstance(item, openai.AnsweredCall):
            events.append(openai.ArgumentsDone(opened.id, index, item.name, opened.text, self._number()))
        elif isinstance(item, openai.AnsweredReasoning) and self._view.summaries:
            name = "response.reasoning_summary_text.done"
            events.append(openai.SummaryDone(name, opened.id, index, 0, opened.text, self._number()))
            name, part = "response.reasoning_summary_part.done", item.summary[0]
            events.append(openai.SummaryPartEvent(name, opened.id, index, 0, part, self._number()))
        else:
            events += self._text_done(opened, index)
        self._output.append(item)
        self._open = None
        events.append(openai.ItemEvent("response.output_item.done", index, item, self._number()))
        return events

    def _text_done(self, opened: _Open, index: int) -> list[Struct]:
        spoken = opened.step.kind is Kind.TEXT
        name = "response.output_text.done" if spoken else "response.reasoning_text.done"
        tokens: Any = list(opened.logprobs) if spoken else UNSET
        return [
            openai.TextDone(name, opened.id, index, 0, opened.text, self._number(), tokens),
            openai.PartEvent("response.content_part.done", opened.id, index, 0, self._part(), self._number()),
        ]


def _annotated(item: openai.Item) -> int:
    """How many annotations a done item has."""
    part = item.content[0] if isinstance(item, openai.AnsweredMessage) else None
    return len(part.annotations) if isinstance(part, openai.AnsweredText) else 0


def _cited_late(item: openai.Item, note: Any, added: list[dict[str, Any]]) -> openai.Item:
    """A done item with one more citation."""
    match item:
        case openai.AnsweredMessage(content=[openai.AnsweredText() as part]):
            citations = [*(part.citations or ()), note]
            return replace(item, content=[replace(part, annotations=[*part.annotations, *added], citations=citations)])
        case openai.AnsweredReasoning(summary=[summary]):
            return replace(item, summary=[replace(summary, citations=[*(summary.citations or ()), note])])
        case openai.AnsweredReasoning(content=[thought]):
            return replace(item, content=[replace(thought, citations=[*(thought.citations or ()), note])])
    return item


def _around(event: openai.TextDelta) -> tuple[bytes, bytes, bytes]:
    """The JSON of an event of this item around its text and its number. All but the text are plain names of ours,
    of Cohere's, or numbers: the last place of text that looks like it is it.
    """
    before, rest = _encode(event).rsplit(_WRITTEN_PLACE, 1)
    between, after = rest.split(b":0", 1)
    return before, between + b":", after


_PREFIXES = {Kind.TEXT: "msg", Kind.THINKING: "rs", Kind.PLAN: "rs", Kind.CALL: "fc"}
"""Ids of items (docs/decisions.md#items-are-named-after-coheres-message)."""

_ITEM_ID = re.compile(r"(?:msg|rs|fc)_(.+)_item_[0-9]+")


def answer_id(item_id: str) -> str:
    """What the ids of all items of an answer have in common; empty for an id that is none of an answer's."""
    found = _ITEM_ID.fullmatch(item_id)
    return found[1] if found else ""


_TELL: dict[type, Callable[[ResponsesStream, Any], list[Struct]]] = {
    Started: ResponsesStream._started,
    Opened: ResponsesStream._opened,
    Delta: ResponsesStream._delta,
    Cited: ResponsesStream._cited,
    Closed: ResponsesStream._closed,
    Finished: ResponsesStream._finished,
    Failed: ResponsesStream._failed,
}


# --- streams that were told before, and are told again -------------------------------------------------------


class _Ended(Struct):
    """ResponseEvent, of a response that is JSON already."""

    type: str
    response: Raw
    sequence_number: int


_LAST_BEGINNINGS = tuple(b'{"type":"%s"' % name.encode() for name in LAST.values())


def is_last(document: bytes) -> bool:
    """Whether nothing follows this event."""
    return document.startswith(_LAST_BEGINNINGS)


def last_event(status: str, response: bytes, number: int) -> bytes:
    """The end of a stream that broke off, as its response says it ended."""
    return _encode(_Ended(LAST[status], Raw(response), number))


def gone_event(number: int) -> bytes:
    """The end of a stream whose response was deleted meanwhile."""
    return _encode(openai.ErrorEvent("response_not_found", "The response was deleted", None, number))


# --- whole answers -------------------------------------------------------------------------------------------


def whole(body: bytes, view: ResponsesView) -> tuple[openai.Response, UsageTotals]:
    """Cohere's whole answer as a response. Raises UpstreamProtocolError or AnswerFailed."""
    stream = ResponsesStream(view)
    stream.whole(body)
    if stream.failure is None:
        return stream.response, stream.usage
    if view.refuse and stream.failure.code == SCHEMA_MISSED:
        return _refused(stream, view.context.identity.completed_at()), stream.usage
    raise AnswerFailed(stream.failure)


def _refused(stream: ResponsesStream, ended: int) -> openai.Response:
    """An answer that missed its schema, told as a refusal (setting `strict_failures`)."""
    assert stream.failure is not None
    response = stream.response
    refusal = openai.AnsweredRefusal(stream.failure.message)
    message = openai.AnsweredMessage(f"msg_{response.id}_item_0", "completed", [refusal])
    return replace(response, status="completed", error=None, output=[message], completed_at=ended)
