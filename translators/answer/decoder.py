"""Cohere's bytes, whole or streamed, told as steps: decode, turn machine, then the request's rewrites.

The one way from an answer of Cohere's to either projection.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from schemas.cohere.chat import decode_answer
from schemas.cohere.errors import decode_error
from schemas.cohere.events import decode_event
from translators.answer.events import Failed, Step
from translators.answer.replay import replay
from translators.answer.turn import Turn
from translators.core.errors import Failure, UpstreamProtocolError

DONE = b"[DONE]"
"""Cohere's sentinel after message-end: not JSON, and it says nothing new."""


class StepTransform(Protocol):
    """Changes what is told: one step in, any number out. Made anew for each answer, may keep state."""

    def __call__(self, step: Step) -> Sequence[Step]: ...


class AnswerDecoder:
    """One answer. Either `whole` once, or `feed` for each event and `end` at the end."""

    def __init__(self, rewrites: Iterable[StepTransform] = ()) -> None:
        self._turn = Turn()
        self._rewrites = tuple(rewrites)
        self._failed = False

    def feed(self, data: bytes) -> Sequence[Step]:
        """The steps of one stream event. Raises UpstreamProtocolError."""
        if data == DONE:
            return ()
        try:
            event = decode_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamProtocolError(_complaint(data, "a stream event")) from error
        steps = self._turn.feed(event)
        return self._rewritten(steps) if self._rewrites else steps

    def end(self, failure: Failure) -> Sequence[Step]:
        """The steps that end a broken stream; nothing after a proper end."""
        return self._rewritten(self._turn.end(failure))

    def whole(self, body: bytes) -> Sequence[Step]:
        """All steps of a whole answer. Raises UpstreamProtocolError."""
        try:
            answer = decode_answer(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamProtocolError(_complaint(body, "an answer")) from error
        steps = [step for event in replay(answer) for step in self._turn.feed(event)]
        return self._rewritten(steps) if self._rewrites else steps

    def _rewritten(self, steps: Sequence[Step]) -> Sequence[Step]:
        """The steps through all rewrites. A rewrite may fail the answer: then nothing more is told."""
        for rewrite in self._rewrites:
            steps = [told for step in steps for told in rewrite(step)]
        if self._failed:
            return ()
        for index, step in enumerate(steps):
            if isinstance(step, Failed):
                self._failed = True
                return steps[: index + 1]
        return steps


def _complaint(body: bytes, what: str) -> str:
    """Some proxies answer 200 with an error body, asked for a stream or not: its message is worth more than "cannot be
    read"."""
    try:
        stated = decode_error(body).message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        stated = None
    return f"Cohere answered with an error: {stated}" if stated else f"Cohere sent {what} that cannot be read"
