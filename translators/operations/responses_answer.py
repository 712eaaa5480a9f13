"""Writes answer events as stream events of the Responses API, the last of which holds the whole response.

A whole answer goes through the same code, and only the response in its last event is used. So a streamed response and a
whole one are the same object, which the tests check as a law.

An item is not done when its block closes but when the next answer event comes: only then is it certain whether the
answer was cut short inside it (status `incomplete`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import UNSET, Raw, Struct
from msgspec.json import Encoder
from msgspec.structs import replace

from schemas.cohere.chat import Usage
from schemas.openai import responses as openai
from translators.answer import annotations, logprobs
from translators.answer.decoder import AnswerDecoder, AnswerTransform
from translators.answer.events import TEXT, AnswerEvent, Cited, Closed, Delta, Failed, Finished, Kind, Opened, Started
from translators.answer.transforms import SCHEMA_MISSED
from translators.answer.usage import Counts, counts, dollars, finish_reason, total
from translators.core.contracts import Context, UsageTotals
from translators.core.errors import CANCELLED, AnswerFailed, Failure
from translators.operations.responses_calls import PREFIXES, call_delta, call_done, call_item, comes_whole
from translators.operations.responses_summary import REPLACES_ALL, read_summary
from translators.request.client_tools import ClientTool

FIRST_IN_BACKGROUND = ("response.created", "response.queued")
"""The events of a background response before its generation begins; `created` first, as the official SDK demands."""

LAST: Mapping[str, str] = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    # OpenAI has no event of its own for it, and every stream must end with one that holds the response.
    "cancelled": "response.incomplete",
    "failed": "response.failed",
}
"""A response's final status -> the event that ends its stream."""

INCOMPLETE: Mapping[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""A finish reason of chat of an answer that was cut short -> the reason that Responses has for it."""

TEXT_DELTA = "response.output_text.delta"

_encode = Encoder().encode
# A character that is always escaped. The last one in the JSON stands for the text, as in `chat_answer.py`.
_PLACEHOLDER = "\u0000"
_ENCODED_PLACEHOLDER = _encode(_PLACEHOLDER)


class ResponsesView(Struct, frozen=True):
    """What the response depends on in the request.

    base: the response before the first event. summaries: reasoning is shown as a summary, not as raw text
    (docs/decisions.md#thinking-is-a-summary-in-the-responses-api). encrypted: reasoning items have
    `encrypted_content`. tools: of the request, by internal name. refuse_missed_schema: `Policy.refuse_missed_schema`.
    summary: of the conversation, where it was compacted before it is answered. summary_tokens: what that consumed.
    """

    base: openai.Response
    context: Context
    summaries: bool = False
    encrypted: bool = False
    tools: Mapping[str, ClientTool] = {}
    transforms: tuple[Callable[[], AnswerTransform], ...] = ()
    refuse_missed_schema: bool = False
    summary: str = ""
    summary_tokens: Counts = Counts()

    def tool(self, name: str) -> ClientTool:
        """Returns the tool of an internal name; a name that no tool has is a function's."""
        return self.tools.get(name) or ClientTool("function", name)

    def decoder(self) -> AnswerDecoder:
        return AnswerDecoder([make() for make in self.transforms])


def usage(tokens: Counts, cost: int | None) -> openai.Usage:
    """Converts the counts to `usage` of Responses. cost: nano-dollars, None where unknown."""
    return openai.Usage(
        tokens.prompt,
        openai.InputTokensDetails(tokens.cached, image_tokens=tokens.image or UNSET),
        tokens.completion,
        openai.OutputTokensDetails(tokens.reasoning),
        tokens.prompt + tokens.completion,
        dict(tokens.billed) or UNSET,
        dollars(cost),
    )


class _OpenItem(Struct):
    """The item that is being written, or is complete and not yet done.

    tool: of a call, None for other items. text: all of it, from the end of its block on. template: the JSON of a text
    delta in three pieces, between which its text and its sequence number go. closed: its block was complete, so it was
    not cut short.
    """

    event: Opened
    id: str
    tool: ClientTool | None = None
    text: str = ""
    template: tuple[bytes, bytes, bytes] = (b"", b"", b"")
    annotations: list[dict[str, Any]] = []
    citations: list[Any] = []
    logprobs: list[Any] = []
    closed: bool = False


class ResponsesStream:
    """A streamed answer of one choice (`contracts.Stream`). response: the response object so far."""

    def __init__(self, view: ResponsesView) -> None:
        self.usage = UsageTotals()
        self.finished = False
        self.failure: Failure | None = None
        self.response = view.base
        self._view = view
        self._decoder = view.decoder()
        # The first events of a background response were sent before Cohere was called.
        self._sequence = len(FIRST_IN_BACKGROUND) if view.base.background else 0
        self._begun = False
        self._upstream_id = view.context.identity.unique
        self._output: list[openai.Item] = []
        self._indexes: dict[int, int] = {}  # item -> its index in the output
        self._open: _OpenItem | None = None
        self._calls = 0

    def feed(self, data: bytes, choice: int = 0) -> Sequence[bytes]:
        events = self._decoder.feed(data)
        if len(events) == 1:
            event = events[0]
            # Nearly every event of a stream is a piece of text. Its JSON is joined of prepared bytes here, because a
            # Struct for each would be most of the time that a stream takes.
            if type(event) is Delta and event.kind is TEXT and not event.logprobs:
                opened, number = self._current(), self._sequence
                self._sequence = number + 1
                before, between, after = opened.template
                return (before + _encode(event.text) + between + b"%d" % number + after,)
        return self._render(events)

    def end(self, failure: Failure, choice: int = 0) -> Sequence[bytes]:
        return self._render(self._decoder.end(failure))

    def fail(self, failure: Failure) -> Sequence[bytes]:
        # The official SDK fails at a stream that does not begin with `response.created`.
        return [*self._render([Started("")]), *self.end(failure)]

    def whole(self, body: bytes, choice: int = 0) -> Sequence[bytes]:
        return self._render(self._decoder.whole(body))

    def done(self, choice: int) -> bool:
        return self.finished

    def final(self) -> bytes:
        return _encode(self.response)

    def _render(self, events: Sequence[AnswerEvent]) -> Sequence[bytes]:
        return [_encode(document) for event in events for document in _RENDER[type(event)](self, event)]

    def _number(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    # --- one method for each kind of answer event ------------------------------------------------------------------

    def _started(self, event: Started) -> list[Struct]:
        self._upstream_id, self._begun = event.id or self._view.context.identity.unique, True
        created = () if self._view.base.background else ("response.created",)
        names = (*created, "response.in_progress")
        documents: list[Struct] = [openai.ResponseEvent(name, self.response, self._number()) for name in names]
        return [*documents, *self._compact(self._view.summary)] if self._view.summary else documents

    def _compact(self, summary: str) -> list[Struct]:
        """Adds a compaction, which stands for everything before it, to the output."""
        index = len(self._output)
        # Encrypted, because OpenAI's item is opaque and callers send it back unread. `REPLACES_ALL` tells the reader
        # to drop what precedes it.
        sealed = self._view.context.conversation.encrypt_summary(REPLACES_ALL + summary)
        item = openai.Compaction(f"cmp_{self._upstream_id}_item_{index}", sealed)
        self._output.append(item)
        return [
            # Empty when it is added, as the contents of other items are.
            openai.ItemEvent("response.output_item.added", index, replace(item, encrypted_content=""), self._number()),
            openai.Compacting(item.id, index, self._number()),
            openai.ItemEvent("response.output_item.done", index, item, self._number()),
        ]

    def _opened(self, event: Opened) -> list[Struct]:
        documents = self._finish_item("completed")
        index = self._indexes[event.item] = len(self._output)
        tool = self._view.tool(event.name) if event.kind is Kind.CALL else None
        prefix = _PREFIXES[event.kind] if tool is None else PREFIXES[tool.kind]
        self._open = opened = _OpenItem(event, f"{prefix}_{self._upstream_id}_item_{index}", tool)
        if event.kind is TEXT:
            opened.template = _delta_template(openai.TextDelta(TEXT_DELTA, opened.id, index, 0, _PLACEHOLDER, 0, []))
        if tool is not None:
            self._calls += 1
            # Such an item is added when it is done (`_finish_item`).
            if comes_whole(tool):
                return documents
        documents.append(
            openai.ItemEvent("response.output_item.added", index, self._item("in_progress"), self._number())
        )
        if tool is not None:
            return documents
        if event.kind is not TEXT and self._view.summaries:
            part = openai.SummaryText("")
            documents.append(
                openai.SummaryPartEvent(
                    "response.reasoning_summary_part.added", opened.id, index, 0, part, self._number()
                )
            )
        else:
            documents.append(
                openai.PartEvent("response.content_part.added", opened.id, index, 0, self._part(), self._number())
            )
        return documents

    def _delta(self, event: Delta) -> list[Struct]:
        opened, index = self._current(), len(self._output)
        if event.kind is TEXT:
            tokens: list[Any] = logprobs.token_logprobs(event.logprobs, self._view.base.top_logprobs > 0)
            opened.logprobs += tokens
            return [openai.TextDelta(TEXT_DELTA, opened.id, index, 0, event.text, self._number(), tokens)]
        if opened.tool is not None:
            if comes_whole(opened.tool):
                return []
            return [call_delta(opened.tool, opened.id, index, event.text, self._number())]
        if self._view.summaries:
            name = "response.reasoning_summary_text.delta"
            return [openai.SummaryDelta(name, opened.id, index, 0, event.text, self._number())]
        return [openai.TextDelta("response.reasoning_text.delta", opened.id, index, 0, event.text, self._number())]

    def _cited(self, event: Cited) -> list[Struct]:
        """Adds a citation to its item, which may be done already."""
        # Then only this event and the response in the last event have it (docs/cohere-api.md#order-of-events).
        index = self._indexes[event.item]
        note, added = annotations.citation_note(event, 0), annotations.flat_annotations(event)
        opened = self._open
        if opened is not None and opened.event.item == event.item:
            id, first = opened.id, len(opened.annotations)
            opened.citations.append(note)
            opened.annotations += added
        else:
            id, first = self._output[index].id, _annotation_count(self._output[index])
            self._output[index] = _with_citation(self._output[index], note, added)
        return [
            openai.AnnotationAdded(id, index, 0, number, annotation, self._number())
            for number, annotation in enumerate(added, first)
        ]

    def _closed(self, event: Closed) -> list[Struct]:
        opened = self._current()
        # Joined once here, and not again with each look at the text.
        opened.text, opened.closed = event.text, event.complete
        return []

    def _finished(self, event: Finished) -> list[Struct]:
        tokens = self._tokens(event.usage)
        reason, _ = finish_reason(event.reason, self._calls)
        cut = INCOMPLETE.get(reason)
        # Cohere may send a refusal as the only event, and clients expect a response to begin.
        documents = [] if self._begun else self._started(Started(""))
        documents += self._finish_item("incomplete" if cut else "completed")
        self.usage, self.finished = tokens.outcome(reason), True
        self.response = replace(
            self._view.base,
            status="incomplete" if cut else "completed",
            completed_at=None if cut else self._view.context.identity.completed_at(),
            incomplete_details=openai.IncompleteDetails(cut) if cut else None,
            output=list(self._output),
            usage=usage(tokens, self._view.context.cost()),
        )
        return [*documents, self._last()]

    def _failed(self, event: Failed) -> list[Struct]:
        """Ends the response as failed. OpenAI's list of codes is closed: every failure but a 429 is `server_error`."""
        tokens = self._tokens(event.usage)
        documents = self._finish_item("incomplete")
        self.usage, self.finished, self.failure = tokens.outcome("error"), True, event.failure
        code = "rate_limit_exceeded" if event.failure.status == 429 else "server_error"
        cancelled = event.failure == CANCELLED
        self.response = replace(
            self._view.base,
            status="cancelled" if cancelled else "failed",
            error=None if cancelled else openai.Error(code, event.failure.message),
            output=list(self._output),
            usage=usage(tokens, self._view.context.cost()) if event.usage is not None or self._view.summary else None,
        )
        return [*documents, self._last()]

    def _tokens(self, answered: Usage | None) -> Counts:
        """Returns what the answer has consumed, and the summary that came before it."""
        tokens = counts(answered, self._view.context.policy.usage_base)
        return total([self._view.summary_tokens, tokens]) if self._view.summary else tokens

    def _last(self) -> openai.ResponseEvent:
        return openai.ResponseEvent(LAST[self.response.status], self.response, self._number())

    # --- items ---------------------------------------------------------------------------------------------

    def _current(self) -> _OpenItem:
        assert self._open is not None, "the turn machine opens an item before it writes"
        return self._open

    def _part(self) -> openai.AnsweredText | openai.ReasoningText:
        opened = self._current()
        citations = list(opened.citations) or UNSET
        if opened.event.kind is not TEXT:
            return openai.ReasoningText(opened.text, citations=citations)
        return openai.AnsweredText(opened.text, list(opened.annotations), list(opened.logprobs), citations=citations)

    def _item(self, status: str) -> openai.Item:
        """Returns the open item so far; without content while it is in progress."""
        opened = self._current()
        # OpenAI's `output_item.added` has empty content, which the deltas fill.
        event, begun = opened.event, status == "in_progress"
        if event.kind is TEXT:
            part = self._part()
            assert isinstance(part, openai.AnsweredText)
            return openai.AnsweredMessage(opened.id, status, [] if begun else [part])
        if opened.tool is not None:
            return call_item(opened.tool, opened.id, status, event.call_id or f"call_{opened.id}", opened.text)
        citations, encrypted = list(opened.citations) or UNSET, self._encrypted(begun)
        if self._view.summaries:
            summary = [] if begun else [openai.SummaryText(opened.text, citations=citations)]
            return openai.AnsweredReasoning(opened.id, status, summary, encrypted_content=encrypted)
        content = [] if begun else [openai.ReasoningText(opened.text, citations=citations)]
        return openai.AnsweredReasoning(opened.id, status, [], content=content, encrypted_content=encrypted)

    def _encrypted(self, begun: bool) -> Any:
        """Returns the opaque form of a thought that is done. Before, it is absent: Open Responses allows no null."""
        if begun or not self._view.encrypted:
            return UNSET
        return self._view.context.conversation.encrypt_reasoning(self._current().text)

    def _finish_item(self, status: str) -> list[Struct]:
        """Ends the open item, if there is one, and adds it to the output."""
        opened = self._open
        if opened is None:
            return []
        if not opened.closed:
            status = "incomplete"
        index, item = len(self._output), self._item(status)
        documents: list[Struct] = []
        if opened.tool is not None and comes_whole(opened.tool):
            # With its contents, which no deltas will bring.
            begun = replace(item, status="in_progress")
            documents.append(openai.ItemEvent("response.output_item.added", index, begun, self._number()))
        elif opened.tool is not None:
            documents.append(call_done(opened.tool, opened.id, index, opened.text, self._number()))
        elif isinstance(item, openai.AnsweredReasoning) and self._view.summaries:
            name = "response.reasoning_summary_text.done"
            documents.append(openai.SummaryDone(name, opened.id, index, 0, opened.text, self._number()))
            name, part = "response.reasoning_summary_part.done", item.summary[0]
            documents.append(openai.SummaryPartEvent(name, opened.id, index, 0, part, self._number()))
        else:
            documents += self._text_done(opened, index)
        self._output.append(item)
        self._open = None
        documents.append(openai.ItemEvent("response.output_item.done", index, item, self._number()))
        return documents

    def _text_done(self, opened: _OpenItem, index: int) -> list[Struct]:
        is_text = opened.event.kind is TEXT
        name = "response.output_text.done" if is_text else "response.reasoning_text.done"
        tokens: Any = list(opened.logprobs) if is_text else UNSET
        return [
            openai.TextDone(name, opened.id, index, 0, opened.text, self._number(), tokens),
            openai.PartEvent("response.content_part.done", opened.id, index, 0, self._part(), self._number()),
        ]


def _annotation_count(item: openai.Item) -> int:
    """Returns how many annotations an item has that is done."""
    part = item.content[0] if isinstance(item, openai.AnsweredMessage) else None
    return len(part.annotations) if isinstance(part, openai.AnsweredText) else 0


def _with_citation(item: openai.Item, note: Any, added: list[dict[str, Any]]) -> openai.Item:
    """Returns an item that is done with one more citation."""
    match item:
        case openai.AnsweredMessage(content=[openai.AnsweredText() as part]):
            citations = [*(part.citations or ()), note]
            return replace(item, content=[replace(part, annotations=[*part.annotations, *added], citations=citations)])
        case openai.AnsweredReasoning(summary=[summary]):
            return replace(item, summary=[replace(summary, citations=[*(summary.citations or ()), note])])
        case openai.AnsweredReasoning(content=[thought]):
            return replace(item, content=[replace(thought, citations=[*(thought.citations or ()), note])])
    return item


def _delta_template(event: openai.TextDelta) -> tuple[bytes, bytes, bytes]:
    """Splits the JSON of a text delta at its text and at its sequence number.

    The other values are names, ids and numbers, so the last placeholder is the text.
    """
    before, rest = _encode(event).rsplit(_ENCODED_PLACEHOLDER, 1)
    # The first 0 behind the text is the sequence number.
    between, after = rest.split(b":0", 1)
    return before, between + b":", after


_PREFIXES = {Kind.TEXT: "msg", Kind.THINKING: "rs", Kind.PLAN: "rs"}
"""Prefixes of items' ids, by kind (docs/decisions.md#items-are-named-after-coheres-message)."""

_ITEM_ID = re.compile(rf"(?:msg|rs|cmp|{'|'.join(PREFIXES.values())})_(.+)_item_[0-9]+")


def answer_id(item_id: str) -> str:
    """Returns the part that the ids of all items of one answer share; empty for an id that was not made here."""
    match = _ITEM_ID.fullmatch(item_id)
    return match[1] if match else ""


_RENDER: dict[type, Callable[[ResponsesStream, Any], list[Struct]]] = {
    Started: ResponsesStream._started,
    Opened: ResponsesStream._opened,
    Delta: ResponsesStream._delta,
    Cited: ResponsesStream._cited,
    Closed: ResponsesStream._closed,
    Finished: ResponsesStream._finished,
    Failed: ResponsesStream._failed,
}


class CompactionStream(ResponsesStream):
    """The stream of a response that consists of a compaction. Cohere's answer is the summary."""

    def whole(self, body: bytes, choice: int = 0) -> Sequence[bytes]:
        summary = read_summary(body, self._view.transforms)
        documents = self._started(Started(summary.id))
        documents += self._compact(summary.text)
        documents += self._finished(Finished("COMPLETE", summary.usage))
        return [_encode(document) for document in documents]


class PreparedStream(ResponsesStream):
    """The stream of a response without output, for which Cohere is not called."""

    def whole(self, body: bytes = b"", choice: int = 0) -> Sequence[bytes]:
        return super().whole(EMPTY_ANSWER)


EMPTY_ANSWER = b'{"id":"","finish_reason":"COMPLETE","message":{"role":"assistant"}}'
"""An answer of Cohere's without content."""


# --- the end of streams that are replayed ---------------------------------------------------------------------


class _LastEvent(Struct):
    """A `ResponseEvent` whose response is encoded already."""

    type: str
    response: Raw
    sequence_number: int


_LAST_EVENT_PREFIXES = tuple(b'{"type":"%s"' % name.encode() for name in LAST.values())


def is_last(document: bytes) -> bool:
    """Returns whether this event ends a stream."""
    return document.startswith(_LAST_EVENT_PREFIXES)


def last_event(status: str, response: bytes, number: int) -> bytes:
    """Makes the last event of a stream that broke off, from its stored response."""
    return _encode(_LastEvent(LAST[status], Raw(response), number))


def gone_event(number: int) -> bytes:
    """Makes the last event of a stream whose response was deleted meanwhile."""
    return _encode(openai.ErrorEvent("response_not_found", "The response was deleted", None, number))


# --- whole answers -------------------------------------------------------------------------------------------


def whole(
    body: bytes, view: ResponsesView, stream_type: type[ResponsesStream] = ResponsesStream
) -> tuple[openai.Response, UsageTotals]:
    """Converts Cohere's whole answer to a response. Raises UpstreamProtocolError or AnswerFailed."""
    stream = stream_type(view)
    stream.whole(body)
    if stream.failure is None:
        return stream.response, stream.usage
    if view.refuse_missed_schema and stream.failure.code == SCHEMA_MISSED:
        return _refused(stream, view.context.identity.completed_at()), stream.usage
    raise AnswerFailed(stream.failure)


def _refused(stream: ResponsesStream, ended: int) -> openai.Response:
    """Makes a refusal of an answer that missed its schema (setting `strict_failures`)."""
    assert stream.failure is not None
    response = stream.response
    refusal = openai.AnsweredRefusal(stream.failure.message)
    message = openai.AnsweredMessage(f"msg_{response.id}_item_0", "completed", [refusal])
    return replace(response, status="completed", error=None, output=[message], completed_at=ended)
