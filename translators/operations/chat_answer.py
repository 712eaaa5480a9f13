"""Steps as chat: one chunk after another, or one completion. Two readers of the same story.

`ChatStream` renders each step as it comes; `completion` folds all of them. That folding the chunks gives the
completion is a law of the tests (`tests/test_laws.py`).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType
from msgspec.json import Encoder

from schemas.openai import chat as openai
from schemas.openai.errors import Error, ErrorBody
from translators.answer import annotations, logprobs
from translators.answer.decoder import AnswerDecoder, StepTransform
from translators.answer.events import Cited, Closed, Delta, Failed, Finished, Kind, Opened, Started, Step
from translators.answer.transforms import SCHEMA_MISSED
from translators.answer.usage import Counts, counts, finish_reason, total
from translators.core.contracts import Context, UsageTotals
from translators.core.errors import AnswerFailed, Failure

REASONING = frozenset({Kind.THINKING, Kind.PLAN})
BLANK_LINE = "\n\n"
"""Between two pieces of reasoning in one turn."""


class ChatView(Struct, frozen=True):
    """What the answer must know of the request. legacy: `functions` were used, not `tools`."""

    model: str
    context: Context
    include_usage: bool = False
    legacy: bool = False
    choices: int = 1
    rewrites: tuple[Callable[[], StepTransform], ...] = ()

    def telling(self) -> AnswerDecoder:
        return AnswerDecoder([make() for make in self.rewrites])

    def completion_id(self, upstream_id: str) -> str:
        """Cohere's own id, by which its support finds the answer; of several choices none is the answer's."""
        return f"chatcmpl-{upstream_id if upstream_id and self.choices == 1 else self.context.identity.unique}"

    def call_id(self, given: str, number: int) -> str:
        return given or f"call_{self.context.identity.unique}_{number}"


def usage(found: Counts) -> openai.Usage:
    return openai.Usage(
        found.prompt,
        found.completion,
        found.prompt + found.completion,
        openai.PromptTokensDetails(found.cached, image_tokens=found.image or UNSET),
        openai.CompletionTokensDetails(found.reasoning),
        dict(found.billed) or UNSET,
    )


class _ChoiceStream:
    """One choice of a streamed answer: `feed` takes an event's data and returns the chunks it makes, as JSON.

    Nearly all events of a stream are one more piece of text, and their chunks differ in nothing else: such a
    chunk is written once, by the same Structs as all others, and each piece is put into its place.
    """

    def __init__(self, view: ChatView, index: int) -> None:
        self.counts = Counts()
        self.finish = ""
        self.failure: Failure | None = None
        self._view, self._index = view, index
        self._telling = view.telling()
        self.id = view.completion_id("")
        self._calls: dict[int, int] = {}  # item -> index among the calls
        self._bases: dict[int, int] = {}  # item -> where it begins in the text or the reasoning
        self._lengths = {True: 0, False: 0}  # of the reasoning, of the text
        self._separator = ""
        self._annotations: list[openai.Annotation] = []
        self._citations: list[openai.CitationNote] = []
        self._usage: None | UnsetType = None if view.include_usage else UNSET
        self._before = self._after = b""  # a text chunk's JSON around its text

    def feed(self, data: bytes) -> Sequence[bytes]:
        steps = self._telling.feed(data)
        if len(steps) == 1:
            return _RENDER[type(steps[0])](self, steps[0])
        return self._rendered(steps)

    def end(self, failure: Failure) -> Sequence[bytes]:
        return self._rendered(self._telling.end(failure))

    def whole(self, body: bytes) -> Sequence[bytes]:
        return self._rendered(self._telling.whole(body))

    def _rendered(self, steps: Sequence[Step]) -> list[bytes]:
        return [chunk for step in steps for chunk in _RENDER[type(step)](self, step)]

    # --- one method a step ---------------------------------------------------------------------------------

    def _piece(self, delta: openai.Delta, logprobs: openai.Logprobs | None = None) -> list[bytes]:
        return [_chunk(self.id, self._view, [openai.ChunkChoice(delta, self._index, None, logprobs)], self._usage)]

    def _started(self, step: Started) -> list[bytes]:
        self.id = self._view.completion_id(step.id)
        self._before, self._after = self._piece(openai.Delta(content=_PLACE))[0].rsplit(_WRITTEN_PLACE, 1)
        return self._piece(openai.Delta("assistant", ""))

    def _opened(self, step: Opened) -> list[bytes]:
        if step.kind is Kind.CALL:
            number = self._calls[step.item] = len(self._calls)
            function = openai.FunctionDelta("", step.name)
            if self._view.legacy:
                return self._piece(openai.Delta(function_call=function))
            call_id = self._view.call_id(step.call_id, number)
            return self._piece(openai.Delta(tool_calls=[openai.ToolCallDelta(number, function, call_id, "function")]))
        reasoning = step.kind in REASONING
        self._separator = BLANK_LINE if reasoning and self._lengths[True] else ""
        self._bases[step.item] = self._lengths[reasoning] + len(self._separator)
        return []

    def _delta(self, step: Delta) -> list[bytes]:
        kind, text = step.kind, step.text
        if kind is Kind.TEXT:
            self._lengths[False] += len(text)
            if not step.logprobs:
                return [self._before + _encode(text) + self._after]
            tokens = openai.Logprobs(logprobs.token_logprobs(step.logprobs))
            return self._piece(openai.Delta(content=text), tokens)
        if kind is Kind.CALL:
            function = openai.FunctionDelta(text)
            if self._view.legacy:
                return self._piece(openai.Delta(function_call=function))
            return self._piece(openai.Delta(tool_calls=[openai.ToolCallDelta(self._calls[step.item], function)]))
        if not text:
            return []
        text, self._separator = self._separator + text, ""
        self._lengths[True] += len(text)
        return self._piece(openai.Delta(reasoning_content=text))

    def _cited(self, step: Cited) -> list[bytes]:
        """Citations wait for the end, in one chunk: both official SDKs put lists of a stream together wrongly
        (the Python helper raises on a second one without `index`, the Node one keeps the last)."""
        base = self._bases[step.item]
        self._annotations += annotations.annotations(step, base)
        self._citations.append(annotations.note(step, base))
        return []

    def _closed(self, step: Closed) -> list[bytes]:
        return []

    def _finished(self, step: Finished) -> list[bytes]:
        self.counts = counts(step.usage, self._view.context.policy.usage_base)
        self.finish, native = _finish(step, len(self._calls), self._view)
        choice = openai.ChunkChoice(openai.Delta(), self._index, self.finish, None, native or UNSET)
        cited: list[bytes] = []
        if self._citations:
            cited = self._piece(openai.Delta(annotations=self._annotations or UNSET, citations=self._citations))
        return [*cited, _chunk(self.id, self._view, [choice], self._usage)]

    def _failed(self, step: Failed) -> list[bytes]:
        self.counts = counts(step.usage, self._view.context.policy.usage_base)
        self.finish, self.failure = "error", step.failure
        return [_encode(error_body(step.failure))]


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
    """A streamed answer of one choice or several: `context.Stream`. One id for all; the usage comes last."""

    def __init__(self, view: ChatView) -> None:
        self.usage = UsageTotals()
        self.finished = False
        self.failure: Failure | None = None
        self._view = view
        self._choices = [_ChoiceStream(view, index) for index in range(view.choices)]

    def feed(self, data: bytes, choice: int = 0) -> Sequence[bytes]:
        if self.finished:
            return ()
        told = self._choices[choice]
        chunks = told.feed(data)
        return self._closed(told, chunks) if told.finish else chunks

    def end(self, failure: Failure, choice: int = 0) -> Sequence[bytes]:
        told = self._choices[choice]
        return self._closed(told, told.end(failure)) if not told.finish else ()

    def whole(self, body: bytes, choice: int = 0) -> Sequence[bytes]:
        told = self._choices[choice]
        return self._closed(told, told.whole(body))

    def done(self, choice: int) -> bool:
        return self.finished or bool(self._choices[choice].finish)

    def final(self) -> bytes:
        return b""

    def _closed(self, told: _ChoiceStream, chunks: Sequence[bytes]) -> Sequence[bytes]:
        """One choice is over: with it the whole answer, if it failed or was the last one open."""
        if self.finished:
            return ()
        self.failure = told.failure
        self.finished = self.failure is not None or all(choice.finish for choice in self._choices)
        found = total(choice.counts for choice in self._choices)
        self.usage = found.outcome(_ending(choice.finish for choice in self._choices))
        if not self.finished or self.failure is not None or not self._view.include_usage:
            return chunks
        return [*chunks, _chunk(told.id, self._view, [], usage(found))]


def _chunk(id: str, view: ChatView, choices: list[openai.ChunkChoice], usage: openai.Usage | None | UnsetType) -> bytes:
    return _encode(openai.ChatCompletionChunk(id, view.context.identity.created, view.model, choices, usage=usage))


def _ending(finishes: Iterable[str]) -> str:
    """Of several choices' finish reasons the first that is not simply the end."""
    return next((finish for finish in finishes if finish not in ("", "stop")), "stop")


def _finish(step: Finished, calls: int, view: ChatView) -> tuple[str, str | None]:
    reason, native = finish_reason(step.reason, calls)
    return ("function_call" if view.legacy and reason == "tool_calls" else reason), native


_encode = Encoder().encode
_PLACE = "\u0000"
_WRITTEN_PLACE = _encode(_PLACE)
"""Where a piece of text goes in a text chunk: the last such place in it, whatever a model may be called."""


def error_body(failure: Failure) -> ErrorBody:
    return ErrorBody(Error(failure.message, failure.type, failure.param, failure.code))


class _Piece(Struct):
    """One item while the whole is being put together."""

    kind: Kind
    text: str = ""
    call_id: str = ""
    name: str = ""
    base: int = 0


def completion(
    tellings: Sequence[Sequence[Step]], view: ChatView, refuse: bool = False
) -> tuple[openai.ChatCompletion, UsageTotals]:
    """All steps of each choice as one completion. Raises AnswerFailed when a story ends in a failure.

    refuse: a choice that misses its schema becomes a refusal instead.
    """
    choices: list[openai.Choice] = []
    used: list[Counts] = []
    upstream_id = ""
    for index, steps in enumerate(tellings):
        choice, found, upstream_id = _choice(steps, index, view, refuse)
        choices.append(choice)
        used.append(found)
    found = used[0] if len(used) == 1 else total(used)
    answer = openai.ChatCompletion(
        view.completion_id(upstream_id), view.context.identity.created, view.model, choices, usage=usage(found)
    )
    return answer, found.outcome(_ending(choice.finish_reason for choice in choices))


def _choice(steps: Sequence[Step], index: int, view: ChatView, refuse: bool) -> tuple[openai.Choice, Counts, str]:
    upstream_id, finished = "", Finished("", None)
    pieces: dict[int, _Piece] = {}
    cited: list[Cited] = []
    tokens: list[openai.TokenLogprob] = []
    for step in steps:
        if isinstance(step, Opened):
            pieces[step.item] = _Piece(step.kind, "", step.call_id, step.name)
        elif isinstance(step, Delta):
            if step.logprobs and step.kind is Kind.TEXT:
                tokens += logprobs.token_logprobs(step.logprobs)
        elif isinstance(step, Closed):
            pieces[step.item].text = step.text
        elif isinstance(step, Cited):
            cited.append(step)
        elif isinstance(step, Started):
            upstream_id = step.id
        elif isinstance(step, Finished):
            finished = step
        elif refuse and step.failure.code == SCHEMA_MISSED:
            refusal = openai.AnsweredMessage(None, refusal=step.failure.message)
            found = counts(step.usage, view.context.policy.usage_base)
            return openai.Choice(index, refusal, "stop"), found, upstream_id
        else:
            raise AnswerFailed(step.failure)
    message, calls = _message(pieces, cited, view)
    reason, native = _finish(finished, calls, view)
    shown = openai.Logprobs(tokens) if tokens else None
    choice = openai.Choice(index, message, reason, shown, native or UNSET)
    return choice, counts(finished.usage, view.context.policy.usage_base), upstream_id


def _message(pieces: dict[int, _Piece], cited: list[Cited], view: ChatView) -> tuple[openai.AnsweredMessage, int]:
    text, reasoning = "", ""
    calls: list[openai.AnsweredToolCall] = []
    spoke = False
    for piece in pieces.values():
        if piece.kind is Kind.CALL:
            call_id = view.call_id(piece.call_id, len(calls))
            calls.append(openai.AnsweredToolCall(call_id, openai.AnsweredFunction(piece.name, piece.text)))
        elif piece.kind is Kind.TEXT:
            piece.base, spoke = len(text), True
            text += piece.text
        elif piece.text:
            separator = BLANK_LINE if reasoning else ""
            piece.base = len(reasoning) + len(separator)
            reasoning += separator + piece.text
    found = [item for step in cited for item in annotations.annotations(step, pieces[step.item].base)]
    notes = [annotations.note(step, pieces[step.item].base) for step in cited]
    message = openai.AnsweredMessage(
        text if spoke else None,
        reasoning_content=reasoning or UNSET,
        tool_calls=calls if calls and not view.legacy else UNSET,
        function_call=calls[0].function if calls and view.legacy else UNSET,
        annotations=found or UNSET,
        citations=notes or UNSET,
    )
    return message, len(calls)
