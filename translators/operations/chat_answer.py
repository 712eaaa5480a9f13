"""Writes answer events as chat: chunks of a stream, or one completion.

`ChatStream` renders each event as it comes; `completion` folds all of them. The chunks of a stream add up to the
completion, which `tests/test_laws.py` checks as a law.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType
from msgspec.json import Encoder

from schemas.openai import chat as openai
from schemas.openai.errors import Error, ErrorBody
from translators.answer import annotations, logprobs
from translators.answer.decoder import AnswerDecoder, AnswerTransform
from translators.answer.events import (
    CALL,
    TEXT,
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
from translators.answer.transforms import SCHEMA_MISSED
from translators.answer.usage import Counts, counts, dollars, finish_reason, total
from translators.core.contracts import Context, UsageTotals
from translators.core.errors import AnswerFailed, Failure

REASONING = frozenset({Kind.THINKING, Kind.PLAN})
BLANK_LINE = "\n\n"
"""Separates two pieces of reasoning in one turn: OpenAI's field is a single text."""


class ChatView(Struct, frozen=True):
    """What the response depends on in the request.

    model: as the caller named it. include_usage: of `stream_options`. legacy: the request has `functions`, not `tools`.
    choices: `n`. transforms: of each answer, in order. top_logprobs: each token has the field. custom: the internal
    names of custom tools -> their names.
    """

    model: str
    context: Context
    include_usage: bool = False
    legacy: bool = False
    choices: int = 1
    transforms: tuple[Callable[[], AnswerTransform], ...] = ()
    top_logprobs: bool = False
    custom: Mapping[str, str] = {}

    def decoder(self) -> AnswerDecoder:
        return AnswerDecoder([make() for make in self.transforms])

    def completion_id(self, upstream_id: str) -> str:
        """Returns the completion's id: Cohere's, by which its support finds the answer; with choices a random one."""
        return f"chatcmpl-{upstream_id if upstream_id and self.choices == 1 else self.context.identity.unique}"

    def call_id(self, upstream_id: str, number: int) -> str:
        return upstream_id or f"call_{self.context.identity.unique}_{number}"


def usage(tokens: Counts, cost: int | None) -> openai.Usage:
    """Converts the counts to chat's `usage`. cost: nano-dollars, None where unknown."""
    return openai.Usage(
        tokens.prompt,
        tokens.completion,
        tokens.prompt + tokens.completion,
        openai.PromptTokensDetails(tokens.cached, image_tokens=tokens.image or UNSET),
        openai.CompletionTokensDetails(tokens.reasoning),
        dict(tokens.billed) or UNSET,
        dollars(cost),
    )


class _ChoiceStream:
    """One choice of a streamed answer. Its methods return chunks as JSON."""

    # Nearly all events of a stream are one more piece of text, and their chunks differ in nothing else. Such a chunk is
    # encoded once, by the same Structs as the others, and each piece is put between its two halves.

    def __init__(self, view: ChatView, index: int) -> None:
        self.counts = Counts()
        self.finish = ""
        self.failure: Failure | None = None
        self._view, self._index = view, index
        self._decoder = view.decoder()
        # A stream that fails before it has started still needs an id for its chunks.
        self.id = view.completion_id("")
        self._calls: dict[int, int] = {}  # item -> index among the calls
        self._custom: set[int] = set()  # items of custom tools' calls
        self._bases: dict[int, int] = {}  # item -> its offset in the text or the reasoning
        self._lengths = {True: 0, False: 0}  # of the reasoning, of the text
        self._separator = ""
        self._annotations: list[openai.Annotation] = []
        self._citations: list[openai.CitationNote] = []
        self._usage: None | UnsetType = None if view.include_usage else UNSET
        self._before = self._after = b""  # a text chunk's JSON around its text

    def feed(self, data: bytes) -> Sequence[bytes]:
        events = self._decoder.feed(data)
        # The usual case, without a list and a generator around it.
        if len(events) == 1:
            event = events[0]
            return self._delta(event) if type(event) is Delta else _RENDER[type(event)](self, event)
        return self._rendered(events)

    def end(self, failure: Failure) -> Sequence[bytes]:
        return self._rendered(self._decoder.end(failure))

    def whole(self, body: bytes) -> Sequence[bytes]:
        return self._rendered(self._decoder.whole(body))

    def _rendered(self, events: Sequence[AnswerEvent]) -> list[bytes]:
        return [chunk for event in events for chunk in _RENDER[type(event)](self, event)]

    # --- one method for each event ---------------------------------------------------------------------------------

    def _piece(self, delta: openai.Delta, logprobs: openai.Logprobs | None = None) -> list[bytes]:
        return [_chunk(self.id, self._view, [openai.ChunkChoice(delta, self._index, None, logprobs)], self._usage)]

    def _started(self, event: Started) -> list[bytes]:
        self.id = self._view.completion_id(event.id)
        # Only now, because the id is part of each chunk, and it comes with the first event.
        self._before, self._after = self._piece(openai.Delta(content=_PLACEHOLDER))[0].rsplit(_ENCODED_PLACEHOLDER, 1)
        # The role alone, as OpenAI begins a stream: clients make their message of this chunk.
        return self._piece(openai.Delta("assistant", ""))

    def _opened(self, event: Opened) -> list[bytes]:
        if event.kind is Kind.CALL:
            # OpenAI counts the calls from 0; an item's number counts texts and thoughts as well.
            number = self._calls[event.item] = len(self._calls)
            call_id = self._view.call_id(event.call_id, number)
            if event.name in self._view.custom:
                self._custom.add(event.item)
                custom = openai.CustomDelta("", self._view.custom[event.name])
                return self._piece(
                    openai.Delta(tool_calls=[openai.ToolCallDelta(number, id=call_id, type="custom", custom=custom)])
                )
            function = openai.FunctionDelta("", event.name)
            if self._view.legacy:
                return self._piece(openai.Delta(function_call=function))
            return self._piece(openai.Delta(tool_calls=[openai.ToolCallDelta(number, function, call_id, "function")]))
        reasoning = event.kind in REASONING
        # Not sent yet: an item without any text would leave a blank line behind.
        self._separator = BLANK_LINE if reasoning and self._lengths[True] else ""
        self._bases[event.item] = self._lengths[reasoning] + len(self._separator)
        return []

    def _delta(self, event: Delta) -> list[bytes]:
        kind, text = event.kind, event.text
        if kind is TEXT:
            if not event.logprobs:
                # Three pieces of bytes and no object. This line is what a stream costs.
                return [self._before + _encode(text) + self._after]
            tokens = openai.Logprobs(logprobs.token_logprobs(event.logprobs, self._view.top_logprobs))
            return self._piece(openai.Delta(content=text), tokens)
        if kind is CALL:
            if event.item in self._custom:
                custom = openai.ToolCallDelta(self._calls[event.item], custom=openai.CustomDelta(text))
                return self._piece(openai.Delta(tool_calls=[custom]))
            function = openai.FunctionDelta(text)
            if self._view.legacy:
                return self._piece(openai.Delta(function_call=function))
            return self._piece(openai.Delta(tool_calls=[openai.ToolCallDelta(self._calls[event.item], function)]))
        if not text:
            return []
        text, self._separator = self._separator + text, ""
        self._lengths[True] += len(text)
        return self._piece(openai.Delta(reasoning_content=text))

    def _cited(self, event: Cited) -> list[bytes]:
        """Collects the citation for one chunk at the end."""
        # Both official SDKs accumulate lists in a stream wrongly: the Python helper raises on a second list without
        # `index`, and the Node helper replaces the first one.
        base = self._bases[event.item]
        self._annotations += annotations.annotations(event, base)
        self._citations.append(annotations.citation_note(event, base))
        return []

    def _closed(self, event: Closed) -> list[bytes]:
        if event.kind is TEXT:
            self._lengths[False] += len(event.text)  # here, as nobody asks before: a text has many deltas
        return []

    def _finished(self, event: Finished) -> list[bytes]:
        self.counts = counts(event.usage, self._view.context.policy.usage_base)
        self.finish, native = _finish(event, len(self._calls), self._view)
        choice = openai.ChunkChoice(openai.Delta(), self._index, self.finish, None, native or UNSET)
        cited: list[bytes] = []
        # Before the chunk with the finish reason, after which some clients stop reading.
        if self._citations:
            cited = self._piece(openai.Delta(annotations=self._annotations or UNSET, citations=self._citations))
        return [*cited, _chunk(self.id, self._view, [choice], self._usage)]

    def _failed(self, event: Failed) -> list[bytes]:
        self.counts = counts(event.usage, self._view.context.policy.usage_base)
        # No `[DONE]` follows, or SDKs would take the answer for complete
        # (docs/decisions.md#a-failure-never-looks-like-a-success).
        self.finish, self.failure = "error", event.failure
        return [_encode(error_body(event.failure))]


_RENDER: dict[type, Callable[[_ChoiceStream, Any], list[bytes]]] = {
    Started: _ChoiceStream._started,
    Opened: _ChoiceStream._opened,
    Delta: _ChoiceStream._delta,
    Cited: _ChoiceStream._cited,
    Closed: _ChoiceStream._closed,
    Finished: _ChoiceStream._finished,
    Failed: _ChoiceStream._failed,
}


class ChatStream:
    """A streamed answer of one choice or several (`contracts.Stream`). The usage comes in the last chunk."""

    def __init__(self, view: ChatView) -> None:
        self.usage = UsageTotals()
        self.finished = False
        self.failure: Failure | None = None
        self._view = view
        self._choices = [_ChoiceStream(view, index) for index in range(view.choices)]

    def feed(self, data: bytes, choice: int = 0) -> Sequence[bytes]:
        if self.finished:
            return ()
        chosen = self._choices[choice]
        chunks = chosen.feed(data)
        return self._closed(chosen, chunks) if chosen.finish else chunks

    def end(self, failure: Failure, choice: int = 0) -> Sequence[bytes]:
        chosen = self._choices[choice]
        return self._closed(chosen, chosen.end(failure)) if not chosen.finish else ()

    def fail(self, failure: Failure) -> Sequence[bytes]:
        return self.end(failure)

    def whole(self, body: bytes, choice: int = 0) -> Sequence[bytes]:
        chosen = self._choices[choice]
        return self._closed(chosen, chosen.whole(body))

    def done(self, choice: int) -> bool:
        return self.finished or bool(self._choices[choice].finish)

    def final(self) -> bytes:
        return b""

    def _closed(self, ended: _ChoiceStream, chunks: Sequence[bytes]) -> Sequence[bytes]:
        """Ends a choice whose answer is over, and the whole stream if it failed or no other choice is open."""
        # Choices run in parallel, and one of them may have failed the whole stream while another one still sends.
        if self.finished:
            return ()
        self.failure = ended.failure
        self.finished = self.failure is not None or all(choice.finish for choice in self._choices)
        # Of all choices so far, also after a failure: each of them was billed.
        tokens = total(choice.counts for choice in self._choices)
        self.usage = tokens.outcome(_ending(choice.finish for choice in self._choices))
        # OpenAI sends the usage in a chunk of its own, without choices. A failed stream has ended with its error.
        if not self.finished or self.failure is not None or not self._view.include_usage:
            return chunks
        return [*chunks, _chunk(ended.id, self._view, [], usage(tokens, self._view.context.cost()))]


def _chunk(id: str, view: ChatView, choices: list[openai.ChunkChoice], usage: openai.Usage | None | UnsetType) -> bytes:
    created = view.context.identity.created
    return _encode(openai.ChatCompletionChunk(id=id, created=created, model=view.model, choices=choices, usage=usage))


def _ending(finishes: Iterable[str]) -> str:
    """Returns the first finish reason of several choices that is not `stop`."""
    return next((finish for finish in finishes if finish not in ("", "stop")), "stop")


def _finish(event: Finished, calls: int, view: ChatView) -> tuple[str, str | None]:
    reason, native = finish_reason(event.reason, calls)
    return ("function_call" if view.legacy and reason == "tool_calls" else reason), native


_encode = Encoder().encode
_PLACEHOLDER = "\u0000"
_ENCODED_PLACEHOLDER = _encode(_PLACEHOLDER)
"""Replaced by the text in a text chunk. The last one in it counts, because a model's name may contain it, too."""


def error_body(failure: Failure) -> ErrorBody:
    return ErrorBody(Error(failure.message, failure.type, failure.param, failure.code))


class _Piece(Struct):
    """An item of the message. base: its offset in the text or the reasoning."""

    kind: Kind
    text: str = ""
    call_id: str = ""
    name: str = ""
    base: int = 0


def completion(
    answers: Sequence[Sequence[AnswerEvent]], view: ChatView, refuse: bool = False
) -> tuple[openai.ChatCompletion, UsageTotals]:
    """Folds the events of each choice into one completion. Raises AnswerFailed if one of them failed.

    refuse: a choice that misses its schema becomes a refusal.
    """
    choices: list[openai.Choice] = []
    used: list[Counts] = []
    upstream_id = ""
    for index, events in enumerate(answers):
        choice, tokens, upstream_id = _choice(events, index, view, refuse)
        choices.append(choice)
        used.append(tokens)
    tokens = used[0] if len(used) == 1 else total(used)
    answer = openai.ChatCompletion(
        id=view.completion_id(upstream_id),
        created=view.context.identity.created,
        model=view.model,
        choices=choices,
        usage=usage(tokens, view.context.cost()),
    )
    return answer, tokens.outcome(_ending(choice.finish_reason for choice in choices))


def _choice(
    events: Sequence[AnswerEvent], index: int, view: ChatView, refuse: bool
) -> tuple[openai.Choice, Counts, str]:
    upstream_id, finished = "", Finished("", None)
    pieces: dict[int, _Piece] = {}
    cited: list[Cited] = []
    entries: list[openai.TokenLogprob] = []
    for event in events:
        if isinstance(event, Opened):
            pieces[event.item] = _Piece(event.kind, "", event.call_id, event.name)
        elif isinstance(event, Delta):
            if event.logprobs and event.kind is Kind.TEXT:
                entries += logprobs.token_logprobs(event.logprobs, view.top_logprobs)
        elif isinstance(event, Closed):
            pieces[event.item].text = event.text
        elif isinstance(event, Cited):
            cited.append(event)
        elif isinstance(event, Started):
            upstream_id = event.id
        elif isinstance(event, Finished):
            finished = event
        elif refuse and event.failure.code == SCHEMA_MISSED:
            refusal = openai.AnsweredMessage(None, refusal=event.failure.message)
            tokens = counts(event.usage, view.context.policy.usage_base)
            return openai.Choice(index, refusal, "stop"), tokens, upstream_id
        else:
            raise AnswerFailed(event.failure)
    message, calls = _message(pieces, cited, view)
    reason, native = _finish(finished, calls, view)
    choice = openai.Choice(index, message, reason, openai.Logprobs(entries) if entries else None, native or UNSET)
    return choice, counts(finished.usage, view.context.policy.usage_base), upstream_id


def _message(pieces: dict[int, _Piece], cited: list[Cited], view: ChatView) -> tuple[openai.AnsweredMessage, int]:
    text, reasoning = "", ""
    calls: list[openai.AnsweredToolCall | openai.AnsweredCustomToolCall] = []
    has_text = False
    for piece in pieces.values():
        if piece.kind is CALL:
            calls.append(_call(piece, view.call_id(piece.call_id, len(calls)), view))
        elif piece.kind is TEXT:
            piece.base, has_text = len(text), True
            text += piece.text
        elif piece.text:
            separator = BLANK_LINE if reasoning else ""
            piece.base = len(reasoning) + len(separator)
            reasoning += separator + piece.text
    notes = [item for event in cited for item in annotations.annotations(event, pieces[event.item].base)]
    citations = [annotations.citation_note(event, pieces[event.item].base) for event in cited]
    message = openai.AnsweredMessage(
        text if has_text else None,
        reasoning_content=reasoning or UNSET,
        tool_calls=calls if calls and not view.legacy else UNSET,
        function_call=_function_call(calls) if view.legacy else UNSET,
        annotations=notes,
        citations=citations or UNSET,
    )
    return message, len(calls)


def _call(piece: _Piece, call_id: str, view: ChatView) -> openai.AnsweredToolCall | openai.AnsweredCustomToolCall:
    if piece.name in view.custom:
        return openai.AnsweredCustomToolCall(call_id, openai.AnsweredCustom(view.custom[piece.name], piece.text))
    return openai.AnsweredToolCall(call_id, openai.AnsweredFunction(piece.name, piece.text))


def _function_call(
    calls: Sequence[openai.AnsweredToolCall | openai.AnsweredCustomToolCall],
) -> openai.AnsweredFunction | UnsetType:
    """Returns the first call as `function_call`, the legacy form, which has no custom tools."""
    return next((call.function for call in calls if isinstance(call, openai.AnsweredToolCall)), UNSET)
