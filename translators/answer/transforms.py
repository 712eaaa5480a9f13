"""Changes to what an answer tells that the request asked for and Cohere cannot make.

Each is made once an answer and sees every step, so whole and streamed answers are changed alike.
"""

import re
from collections.abc import Callable, Collection, Sequence

from msgspec.structs import replace

from translators.answer.events import Cited, Closed, Delta, Failed, Finished, Kind, Opened, Step
from translators.core.errors import Failure
from translators.core.tool_names import ToolNames


class RestoreToolNames:
    """The tools' names as the caller wrote them."""

    def __init__(self, names: ToolNames) -> None:
        self._names = names

    def __call__(self, step: Step) -> Sequence[Step]:
        if isinstance(step, Opened) and step.kind is Kind.CALL:
            return (replace(step, name=self._names.asked(step.name)),)
        return (step,)


class LimitToolCalls:
    """At most `limit` tool calls are passed on (`parallel_tool_calls: false` is 1, `tool_choice: none` 0)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._calls: dict[int, bool] = {}  # item -> is passed on

    def __call__(self, step: Step) -> Sequence[Step]:
        if isinstance(step, Opened) and step.kind is Kind.CALL:
            self._calls[step.item] = sum(self._calls.values()) < self._limit
        if isinstance(step, Opened | Delta | Closed | Cited) and not self._calls.get(step.item, True):
            return ()
        return (step,)


class OnlyTools:
    """A call of any other tool than these fails the answer: the model was told, and may be told again."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def __call__(self, step: Step) -> Sequence[Step]:
        if isinstance(step, Opened) and step.kind is Kind.CALL and step.name not in self._names:
            message = f"The model called '{step.name}' although tool_choice allows only {', '.join(self._names)}"
            return (Failed(Failure(502, message, "server_error", NOT_FOLLOWED, second_attempt=True)),)
        return (step,)


class RequireToolCall:
    """An answer without a call, where only an instruction asked for one, fails to be asked for again; or, where it is
    to be shown as it is, `disobeyed` hears of it. One that was cut short might have called yet.
    """

    def __init__(self, disobeyed: Callable[[], None] | None) -> None:
        self._disobeyed = disobeyed
        self._called = False

    def __call__(self, step: Step) -> Sequence[Step]:
        if isinstance(step, Opened) and step.kind is Kind.CALL:
            self._called = True
        if isinstance(step, Finished) and step.reason in ("COMPLETE", "STOP_SEQUENCE") and not self._called:
            if self._disobeyed is None:
                message = "The model called no tool although tool_choice requires it"
                return (Failed(Failure(502, message, "server_error", NOT_FOLLOWED, second_attempt=True), step.usage),)
            self._disobeyed()
        return (step,)


class HideReasoning:
    """Thoughts and plans are not shown (`reasoning: {exclude: true}`)."""

    def __call__(self, step: Step) -> Sequence[Step]:
        hidden = isinstance(step, Opened | Delta | Closed | Cited) and step.kind in (Kind.THINKING, Kind.PLAN)
        return () if hidden else (step,)


class AnswerCall:
    """The call of the tool that stands for the answer is the answer's text; a second one is left out, as two JSON
    texts in a row are none.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._answers: list[int] = []  # the items of such calls

    def __call__(self, step: Step) -> Sequence[Step]:
        if isinstance(step, Opened) and step.kind is Kind.CALL and step.name == self._name:
            self._answers.append(step.item)
            return (Opened(step.item, Kind.TEXT),) if len(self._answers) == 1 else ()
        if isinstance(step, Delta | Closed) and step.item in self._answers:
            return (replace(step, kind=Kind.TEXT),) if step.item == self._answers[0] else ()
        return (step,)


class _TextRewrite:
    """Text changed as it comes: `more` takes the next piece, `rest` what was held back at the end."""

    def __init__(self) -> None:
        self._shown = ""
        self._cut = 0  # characters taken from the front

    def more(self, text: str) -> str:
        raise NotImplementedError

    def rest(self) -> str:
        raise NotImplementedError

    def __call__(self, step: Step) -> Sequence[Step]:
        if isinstance(step, Delta) and step.kind is Kind.TEXT:
            shown = self.more(step.text)
            self._shown += shown
            return (replace(step, text=shown),) if shown or step.logprobs else ()
        if isinstance(step, Cited) and step.kind is Kind.TEXT:
            return (replace(step, start=max(0, step.start - self._cut), end=max(0, step.end - self._cut)),)
        if isinstance(step, Closed) and step.kind is Kind.TEXT:
            rest = self.rest()
            whole, self._shown = self._shown + rest, ""
            closed = replace(step, text=whole)
            return (Delta(step.item, Kind.TEXT, rest), closed) if rest else (closed,)
        return (step,)


class _Peeled(_TextRewrite):
    """Text without something around it. What may belong to that is held back until it is known."""

    TAIL: re.Pattern[str]
    """The longest end of a text that may belong to what is taken off."""

    def __init__(self) -> None:
        super().__init__()
        self._held = ""
        self._begun = self._wrapped = False

    def front(self, held: str) -> int | None:
        """How many characters to take off the front: 0 for none, None while it cannot be told yet."""
        raise NotImplementedError

    def closes(self, held: str) -> bool:
        """What is held back at the end belongs to what is taken off."""
        raise NotImplementedError

    def more(self, text: str) -> str:
        self._held += text
        if not self._begun:
            front = self.front(self._held)
            if front is None:
                return ""
            self._begun, self._wrapped, self._cut = True, front > 0, front
            self._held = self._held[front:]
        tail = self.TAIL.search(self._held) if self._wrapped else None
        end = tail.start() if tail else len(self._held)
        shown, self._held = self._held[:end], self._held[end:]
        return shown

    def rest(self) -> str:
        held, closed = self._held, self._wrapped and self.closes(self._held)
        self._held, self._begun, self._wrapped = "", False, False
        return "" if closed else held


class StripCodeFence(_Peeled):
    """JSON without the Markdown fence that models like to put around it."""

    TAIL = re.compile(r"\s*`{0,3}\s*\Z")

    def front(self, held: str) -> int | None:
        words = held.lstrip()
        if not words.startswith("```"):
            return None if "```".startswith(words) else 0
        line_end = held.find("\n", len(held) - len(words))
        return line_end + 1 if line_end >= 0 else None

    def closes(self, held: str) -> bool:
        return "```" in held or not held.strip("` \n\r\t")


class Unwrapped(_Peeled):
    """`{"value": X}` told as X: the wrapper that a schema without an object at its top was given."""

    KEY = "value"
    TAIL = re.compile(r"\s*\}?\s*\Z")
    _HEAD = re.compile(r'\s*\{\s*"value"\s*:\s*')
    _MAYBE_HEAD = re.compile(r'\s*(\{\s*("(v(a(l(u(e("\s*)?)?)?)?)?)?)?)?\Z')

    def front(self, held: str) -> int | None:
        head = self._HEAD.match(held)
        if head is not None:
            # White space after the colon may go on in the next piece.
            return head.end() if head.end() < len(held) else None
        return None if self._MAYBE_HEAD.match(held) else 0

    def closes(self, held: str) -> bool:
        return "}" in held


class ValidateSchema:
    """The finished text must satisfy the schema that was asked for, else the answer fails.

    An answer that was cut short (`length`) or that calls tools is no instance and is not looked at.
    """

    def __init__(self, complaint: Callable[[str], str]) -> None:
        self._complaint = complaint
        self._text = ""
        self._calls = False

    def __call__(self, step: Step) -> Sequence[Step]:
        if isinstance(step, Closed):
            if step.kind is Kind.TEXT:
                self._text += step.text
            elif step.kind is Kind.CALL:
                self._calls = True
        elif (
            isinstance(step, Finished) and step.reason in ("COMPLETE", "STOP_SEQUENCE", "TOOL_CALL") and not self._calls
        ):
            complaint = self._complaint(self._text)
            if complaint:
                message = f"The model's answer does not satisfy the JSON schema: {complaint}"
                return (Failed(Failure(502, message, "server_error", SCHEMA_MISSED, second_attempt=True), step.usage),)
        return (step,)


SCHEMA_MISSED = "structured_output_invalid"
NOT_FOLLOWED = "tool_choice_not_followed"
