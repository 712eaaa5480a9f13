"""Decodes Cohere's bytes, whole or streamed, into answer events: JSON, turn machine, then the request's transforms.

Both projections read the answer through an AnswerDecoder, so neither can see what the other does not.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from schemas.cohere.chat import decode_answer
from schemas.cohere.errors import decode_error
from schemas.cohere.events import decode_event
from translators.answer.events import AnswerEvent, Failed
from translators.answer.replay import replay
from translators.answer.turn import Turn
from translators.core.errors import Failure, UpstreamProtocolError

DONE = b"[DONE]"
"""Cohere's sentinel after message-end. It is not JSON and adds nothing."""


class AnswerTransform(Protocol):
    """Changes one answer's events: takes one event, returns any number. Made anew for each answer; may have state."""

    def __call__(self, event: AnswerEvent) -> Sequence[AnswerEvent]: ...


class AnswerDecoder:
    """Decodes one answer. Call either `whole` once, or `feed` for each stream event and `end` at the end."""

    def __init__(self, transforms: Iterable[AnswerTransform] = ()) -> None:
        self._turn = Turn()
        self._transforms = tuple(transforms)
        self._failed = False

    def feed(self, data: bytes) -> Sequence[AnswerEvent]:
        """Decodes the data of one stream event. Raises UpstreamProtocolError."""
        if data == DONE:
            return ()
        try:
            # RecursionError: JSON nested some thousand deep exhausts the parser's stack. It is an answer that cannot be
            # read, and no bug of ours.
            event = decode_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamProtocolError(_error_message(data, "a stream event")) from error
        # Most requests need no transforms, and this runs for each token of a stream.
        events = self._turn.feed(event)
        return self._transform(events) if self._transforms else events

    def end(self, failure: Failure) -> Sequence[AnswerEvent]:
        """Ends a broken stream with this failure. Returns nothing after a proper end."""
        return self._transform(self._turn.end(failure))

    def whole(self, body: bytes) -> Sequence[AnswerEvent]:
        """Decodes a whole answer. Raises UpstreamProtocolError."""
        try:
            # Decoded as strictly as a stream's events, so that a malformed answer is the same 502 either way.
            answer = decode_answer(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamProtocolError(_error_message(body, "an answer")) from error
        events = self._turn.whole_text(answer)
        if events is None:
            events = [event for upstream_event in replay(answer) for event in self._turn.feed(upstream_event)]
        return self._transform(events) if self._transforms else events

    def _transform(self, events: Sequence[AnswerEvent]) -> Sequence[AnswerEvent]:
        """Applies all transforms in order. A transform may fail the answer: events after a Failed are dropped."""
        for transform in self._transforms:
            events = [changed for event in events for changed in transform(event)]
        # After the transforms have run, not before: they may hold text back, and forget it only by seeing the rest.
        if self._failed:
            return ()
        for index, event in enumerate(events):
            if isinstance(event, Failed):
                self._failed = True
                # Nothing may follow a failure, or a projection would close an answer twice.
                return events[: index + 1]
        return events


def _error_message(body: bytes, what: str) -> str:
    """Describes what cannot be decoded. Some proxies answer 200 with an error body, whose message says more than
    "cannot be read"."""
    try:
        message = decode_error(body).message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message = None
    return f"Cohere answered with an error: {message}" if message else f"Cohere sent {what} that cannot be read"
