"""Transforms of answer events, which do what a request asks for and Cohere cannot do.

Each answer has its own instances, and each instance sees every event. Whole and streamed answers are changed alike,
because both consist of the same events.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from translators.answer.events import AnswerEvent, Cited, Closed, Delta, Failed, Finished, Kind, Opened
from translators.answer.json_string import JsonString
from translators.core.errors import Failure
from translators.core.faults import Fault
from translators.core.tool_names import ToolNames

SCHEMA_MISSED = "structured_output_invalid"
NOT_FOLLOWED = "tool_choice_not_followed"
"""Error codes of answers that fail their check."""


def _unusable(message: str, code: str) -> Failure:
    """Returns the failure of an answer that misses its request, where a second attempt may succeed."""
    return Failure(502, message, "server_error", code, second_attempt=True, fault=Fault.PROVIDER_ANSWER)


class RestoreToolNames:
    """Restores the caller's names of the tools."""

    def __init__(self, names: ToolNames) -> None:
        self._names = names

    def __call__(self, event: AnswerEvent) -> Sequence[AnswerEvent]:
        if isinstance(event, Opened) and event.kind is Kind.CALL:
            # Only Opened has a name. A tool that Cohere does not know stays as the model wrote it: an invented name is
            # the client's to refuse, as with OpenAI.
            return (replace(event, name=self._names.caller_name(event.name)),)
        return (event,)


class RestoreCallIds:
    """Restores the caller's ids of calls in the sources of citations. ids: Cohere's -> the caller's."""

    def __init__(self, ids: Mapping[str, str]) -> None:
        self._ids = ids

    def __call__(self, event: AnswerEvent) -> Sequence[AnswerEvent]:
        if isinstance(event, Cited) and event.citation.sources:
            sources = [self._restored(source) for source in event.citation.sources]
            return (replace(event, citation=replace(event.citation, sources=sources)),)
        return (event,)

    def _restored(self, source: dict[str, Any]) -> dict[str, Any]:
        """Returns a source with the caller's id. Cohere's may end with the number of a document: `call_1:0`."""
        name = source.get("id")
        if not isinstance(name, str):
            return source
        # The whole one first: an id of the caller's may have a colon of its own.
        call_id, colon, output = (name, "", "") if name in self._ids else name.rpartition(":")
        # Ids that are no call's are left alone: documents may be named by the caller, with colons in their names.
        return {**source, "id": f"{self._ids[call_id]}{colon}{output}"} if call_id in self._ids else source


class LimitToolCalls:
    """Passes on at most `limit` tool calls (`parallel_tool_calls: false` is 1, `tool_choice: none` 0)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._passed: dict[int, bool] = {}  # by the calls' items

    def __call__(self, event: AnswerEvent) -> Sequence[AnswerEvent]:
        if isinstance(event, Opened) and event.kind is Kind.CALL:
            # Counted by what was passed on and not by position: transforms before this one may have removed calls.
            self._passed[event.item] = sum(self._passed.values()) < self._limit
        # All events of a call that is removed go, or a delta would belong to an item that was never opened.
        if isinstance(event, Opened | Delta | Closed | Cited) and not self._passed.get(event.item, True):
            return ()
        return (event,)


class OnlyTools:
    """Fails an answer that calls a tool outside `names`, so that a second attempt can be made."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def __call__(self, event: AnswerEvent) -> Sequence[AnswerEvent]:
        if isinstance(event, Opened) and event.kind is Kind.CALL and event.name not in self._names:
            message = f"The model called '{event.name}' although tool_choice allows only {', '.join(self._names)}"
            return (Failed(_unusable(message, NOT_FOLLOWED)),)
        return (event,)


class RequireToolCall:
    """Fails an answer without a tool call, where nothing but an instruction required one.

    on_missing: called in place of the failure; then the answer passes. An answer that was cut short passes, too: its
    call may have been still to come.
    """

    def __init__(self, on_missing: Callable[[], None] | None) -> None:
        self._on_missing = on_missing
        self._called = False

    def __call__(self, event: AnswerEvent) -> Sequence[AnswerEvent]:
        if isinstance(event, Opened) and event.kind is Kind.CALL:
            self._called = True
        # Decided at the end, because a call may come after any text.
        if isinstance(event, Finished) and event.reason in ("COMPLETE", "STOP_SEQUENCE") and not self._called:
            # A failure costs a second call and may fail the request. Where only a best effort was promised
            # (`on_missing`), the text is better than an error, with a note.
            if self._on_missing is None:
                message = "The model called no tool although tool_choice requires it"
                return (Failed(_unusable(message, NOT_FOLLOWED), event.usage),)
            self._on_missing()
        return (event,)


class HideReasoning:
    """Removes thoughts and plans (`reasoning: {exclude: true}`)."""

    def __call__(self, event: AnswerEvent) -> Sequence[AnswerEvent]:
        # Removed here and not in the projections, so that neither can forget it. Reasoning tokens still count in usage:
        # they were billed.
        hidden = isinstance(event, Opened | Delta | Closed | Cited) and event.kind in (Kind.THINKING, Kind.PLAN)
        return () if hidden else (event,)


class AnswerFromToolCall:
    """Turns the call of the answer tool into the text of the answer. name: of the tool.

    A second such call is removed, because two JSON texts in a row are not JSON.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._items: list[int] = []

    def __call__(self, event: AnswerEvent) -> Sequence[AnswerEvent]:
        if isinstance(event, Opened) and event.kind is Kind.CALL and event.name == self._name:
            # Known by the item from here on, because a Delta has no name.
            self._items.append(event.item)
            return (Opened(event.item, Kind.TEXT),) if len(self._items) == 1 else ()
        if isinstance(event, Delta | Closed) and event.item in self._items:
            return (replace(event, kind=Kind.TEXT),) if event.item == self._items[0] else ()
        return (event,)


class UnwrapCustomInput:
    """Turns the arguments of a custom tool's function, `{"input": "..."}`, into the input, piece by piece."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._inputs: dict[int, _CustomInput] = {}  # by the calls' items

    def __call__(self, event: AnswerEvent) -> Sequence[AnswerEvent]:
        if isinstance(event, Opened) and event.kind is Kind.CALL and event.name in self._names:
            self._inputs[event.item] = _CustomInput()
        elif isinstance(event, Delta) and event.item in self._inputs:
            # The input goes on while it arrives and is not held back until the call is complete: it may be a long patch
            # or program.
            text = self._inputs[event.item].feed(event.text)
            return (replace(event, text=text),) if text else ()
        elif isinstance(event, Closed) and event.item in self._inputs:
            # The pieces and the whole must be the same text. What was sent cannot be taken back, so the whole is made
            # of the pieces, not decoded again.
            unwrapped = self._inputs[event.item]
            rest = unwrapped.end(event.text)
            closed = replace(event, text="".join(unwrapped.pieces))
            return (Delta(event.item, Kind.CALL, rest), closed) if rest else (closed,)
        return (event,)


class _CustomInput:
    """Reads the input from the arguments of one call. pieces: what was returned so far.

    Arguments that do not begin with `{"input": "` are held back, and read as a whole when they are complete.
    """

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._pending = ""
        self._string: JsonString | None = None
        self._held_back = False

    def feed(self, piece: str) -> str:
        """Reads the next piece of the arguments. Returns the input in it."""
        if self._held_back:
            return ""
        if self._string is None:
            self._pending += piece
            head = _INPUT_HEAD.match(self._pending)
            if head is None:
                begun = len(self._pending) <= MAX_HELD_BACK and _MAYBE_INPUT_HEAD.match(self._pending)
                self._held_back = not begun
                return ""
            self._string, piece = JsonString(), self._pending[head.end() :]
        return self._add(self._string.feed(piece))

    def end(self, arguments: str) -> str:
        """Returns the rest of the input. arguments: all of them."""
        return self._add(self._string.end() if self._string is not None else _loose_input(arguments))

    def _add(self, text: str) -> str:
        self.pieces.append(text)
        return text


_INPUT_HEAD = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_MAYBE_INPUT_HEAD = re.compile(r'\s*(\{\s*("(i(n(p(u(t("\s*(:\s*)?)?)?)?)?)?)?)?)?\Z')


def _loose_input(arguments: str) -> str:
    """Reads the input of a model that did not follow the schema: the only text in its object, else all it wrote."""
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return arguments
    if isinstance(value, dict):
        texts = [one for one in value.values() if isinstance(one, str)]
        value = value["input"] if isinstance(value.get("input"), str) else texts[0] if len(texts) == 1 else value
    if isinstance(value, str):
        return value
    return arguments if value else ""


MAX_HELD_BACK = 4096
"""The most characters that are held back. Without this bound each piece would cost as much as all before it."""


class _StripText:
    """Removes a wrapper around the text. Characters that may belong to it are held back until that is decided."""

    MARK: str
    """The character that ends the wrapper."""

    MAX_MARKS: int

    def __init__(self) -> None:
        self._emitted: list[str] = []
        self._removed = 0  # characters at the front
        self._pending = ""
        self._begun = self._wrapped = False

    def front(self, pending: str) -> int | None:
        """Returns how many characters to remove at the front: 0 for none, None while that is undecided."""
        raise NotImplementedError

    def closes(self, pending: str) -> bool:
        """Returns whether the characters held back at the end belong to the wrapper."""
        raise NotImplementedError

    def __call__(self, event: AnswerEvent) -> Sequence[AnswerEvent]:
        if isinstance(event, Delta) and event.kind is Kind.TEXT:
            text = self._feed(event.text)
            self._emitted.append(text)
            # Log probabilities go on at once, although their text may be held back: each of them has its token's text
            # with it.
            return (replace(event, text=text),) if text or event.logprobs else ()
        if isinstance(event, Cited) and event.kind is Kind.TEXT:
            # Offsets count from the beginning of Cohere's text, of which the front is gone.
            # A citation inside the wrapper itself would be before the text; it becomes an empty span at its beginning.
            start, end = max(0, event.start - self._removed), max(0, event.end - self._removed)
            return (replace(event, start=start, end=end),)
        if isinstance(event, Closed) and event.kind is Kind.TEXT:
            rest = self._rest()
            # Not Cohere's text with the wrapper cut off: a client may compare what it got in pieces with the whole, and
            # they have to be equal to the character.
            whole = "".join([*self._emitted, rest])
            self._emitted.clear()
            closed = replace(event, text=whole)
            return (Delta(event.item, Kind.TEXT, rest), closed) if rest else (closed,)
        return (event,)

    def _feed(self, text: str) -> str:
        """Reads the next piece. Returns the text that certainly does not belong to the wrapper."""
        self._pending += text
        if not self._begun:
            front = self.front(self._pending)
            # A model that writes white space until it runs out of tokens (docs/cohere-api.md#json-schemas) would
            # otherwise cost the square of its length.
            if front is None and len(self._pending) > MAX_HELD_BACK:
                if self._pending.isspace():
                    self._pending = ""  # white space before JSON means nothing
                else:
                    front = 0  # no wrapper is that long
            if front is None:
                return ""
            self._begun, self._wrapped, self._removed = True, front > 0, front
            self._pending = self._pending[front:]
        end = self._tail_start(self._pending) if self._wrapped else len(self._pending)
        text, self._pending = self._pending[:end], self._pending[end:]
        return text

    def _tail_start(self, pending: str) -> int:
        """Returns the index of the characters at the end that may belong to the wrapper: marks and white space."""
        bare = pending.rstrip()
        marks = len(bare) - len(bare.rstrip(self.MARK))
        before = bare[: len(bare) - min(marks, self.MAX_MARKS)]
        start = len(before if marks > self.MAX_MARKS else before.rstrip())
        return max(start, len(pending) - MAX_HELD_BACK)

    def _rest(self) -> str:
        """Returns the characters held back at the end, unless they belong to the wrapper."""
        pending, closed = self._pending, self._wrapped and self.closes(self._pending)
        self._pending, self._begun, self._wrapped = "", False, False
        return "" if closed else pending


class StripCodeFence(_StripText):
    """Removes the Markdown code fence that models often put around JSON."""

    MARK, MAX_MARKS = "`", 3

    def front(self, pending: str) -> int | None:
        text = pending.lstrip()
        if not text.startswith("```"):
            return None if "```".startswith(text) else 0
        # The rest of the fence's line is the name of a language, such as `json`.
        line_end = pending.find("\n", len(pending) - len(text))
        return line_end + 1 if line_end >= 0 else None

    def closes(self, pending: str) -> bool:
        return "```" in pending or not pending.strip("` \n\r\t")


class UnwrapValue(_StripText):
    """Turns `{"value": X}` into X: removes the wrapper of a schema whose root is no object."""

    KEY = "value"
    MARK, MAX_MARKS = "}", 1
    _HEAD = re.compile(r'\s*\{\s*"value"\s*:\s*')
    _MAYBE_HEAD = re.compile(r'\s*(\{\s*("(v(a(l(u(e("\s*)?)?)?)?)?)?)?)?\Z')

    def front(self, pending: str) -> int | None:
        head = self._HEAD.match(pending)
        if head is not None:
            # White space after the colon may go on in the next piece.
            return head.end() if head.end() < len(pending) or head.end() > MAX_HELD_BACK else None
        return None if self._MAYBE_HEAD.match(pending) else 0

    def closes(self, pending: str) -> bool:
        return "}" in pending


class ValidateSchema:
    """Fails an answer whose text does not satisfy the schema.

    violation: returns what is wrong with a text, empty if nothing is. An answer that was cut short (`length`) or that
    calls tools passes: it is no instance of the schema, and is not meant to be.
    """

    def __init__(self, violation: Callable[[str], str]) -> None:
        self._violation = violation
        self._text = ""
        self._called = False

    def __call__(self, event: AnswerEvent) -> Sequence[AnswerEvent]:
        if isinstance(event, Closed):
            if event.kind is Kind.TEXT:
                self._text += event.text
            elif event.kind is Kind.CALL:
                self._called = True
        elif isinstance(event, Finished) and event.reason in _VALIDATED_REASONS and not self._called:
            violation = self._violation(self._text)
            if violation:
                message = f"The model's answer does not satisfy the JSON schema: {violation}"
                return (Failed(_unusable(message, SCHEMA_MISSED), event.usage),)
        return (event,)


_VALIDATED_REASONS = ("COMPLETE", "STOP_SEQUENCE", "TOOL_CALL")
