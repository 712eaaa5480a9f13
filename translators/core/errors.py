"""What can go wrong in translation, by whose fault it is.

    TranslationError
      InvalidField             the caller's request cannot mean anything to Cohere     -> 400, with `param`
        NotStored              it names something that is not kept here                -> 404, with `param`
      UpstreamProtocolError    Cohere broke its word (order, JSON, missing pieces)      -> 502, or in-band
      AnswerFailed             Cohere says itself that its answer is none               -> 502, 504, or in-band

`Failure` is the value all failures become before they are shown: what the caller is told, once. The mapping
of Cohere's own refusals to a Failure is the table in `refusals.py`.
"""

from msgspec import Struct
from msgspec.structs import replace


class Failure(Struct, frozen=True):
    """One failed request, as the caller will see it.

    status: the HTTP status, used if nothing was sent yet. type, code, param, message: OpenAI's four keys.
    retry: what `x-should-retry` says, None for silence. loud: whether the operator must hear of it.
    again: asking Cohere once more may mend it (the model chose badly, nothing is broken).
    lesson: a capability that the model turned out to lack, or to have (`capabilities.Capabilities`).
    """

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    retry: bool | None = None
    loud: bool = False
    again: bool = False
    lesson: tuple[str, bool] | None = None

    def at(self, param: str) -> "Failure":
        """The same, with the field it is about."""
        return replace(self, param=param)


CANCELLED = Failure(499, "The response was cancelled", "server_error", "cancelled")
"""The caller did not want the answer any more; 499 is nobody's to read, nginx's word for it."""


class TranslationError(Exception):
    """The base of this room's exceptions; never raised itself."""

    failure: Failure


class InvalidField(TranslationError):
    """A field of the request that no translation can save. `param` is a path: `messages[2].content`."""

    def __init__(self, param: str | None, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.failure = Failure(400, message, "invalid_request_error", code, param)


class NotStored(InvalidField):
    """What a field names is not there: 404, as at OpenAI."""

    def __init__(self, param: str, message: str, code: str) -> None:
        super().__init__(param, message, code)
        self.failure = replace(self.failure, status=404)


class UpstreamProtocolError(TranslationError):
    """Cohere's answer is not what its protocol promises: never shown as a success."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(502, message, "server_error", "upstream_protocol_error")


class AnswerFailed(TranslationError):
    """A whole answer whose ending is a failure (finish_reason ERROR, TIMEOUT)."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure
