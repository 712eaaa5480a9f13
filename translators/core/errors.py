"""What can go wrong in translation, by whose fault it is.

    TranslationError
      InvalidField             the caller's request cannot mean anything to Cohere     -> 400, with `param`
        NotStored              it names something that is not kept here                -> 404, with `param`
      UpstreamProtocolError    Cohere broke its word (order, JSON, missing pieces)      -> 502, or in-band
      AnswerFailed             Cohere says itself that its answer is none               -> 502, 504, or in-band

`Failure` is the value all failures become before they are shown: what the caller is told, once. The mapping
of Cohere's own refusals to a Failure is the table in `upstream_errors.py`.
"""

from msgspec import Struct
from msgspec.structs import replace

from translators.core.faults import Fault


class Failure(Struct, frozen=True):
    """One failed request, as the caller will see it.

    status: the HTTP status, used if nothing was sent yet. type, code, param, message: OpenAI's four keys.
    should_retry: the value of `x-should-retry`, None to leave it out. alert_operator: the log says it loudly.
    second_attempt: another call may succeed (the model chose badly, nothing is broken).
    learned_capability: what the error revealed about the model: a field of `capabilities.Capabilities` and its value.
    fault: whose fault it is; it is not in the answer.
    """

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    should_retry: bool | None = None
    alert_operator: bool = False
    second_attempt: bool = False
    learned_capability: tuple[str, bool] | None = None
    fault: Fault = Fault.GATEWAY_INTERNAL

    def at(self, param: str) -> "Failure":
        """Returns the same failure with the path of the field that it is about."""
        return replace(self, param=param)


CANCELLED = Failure(499, "The response was cancelled", "server_error", "cancelled", fault=Fault.CALLER_LEFT)
"""The caller did not want the answer any more; 499 is nobody's to read, nginx's word for it."""


class TranslationError(Exception):
    """The base of all exceptions of translation. It is never raised itself."""

    failure: Failure


class InvalidField(TranslationError):
    """A field of the request that no translation can save. `param` is a path: `messages[2].content`."""

    def __init__(self, param: str | None, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.failure = Failure(400, message, "invalid_request_error", code, param, fault=Fault.CALLER_REQUEST)


class NotStored(InvalidField):
    """What a field names is not there: 404, as at OpenAI."""

    def __init__(self, param: str, message: str, code: str) -> None:
        super().__init__(param, message, code)
        self.failure = replace(self.failure, status=404)


class UpstreamProtocolError(TranslationError):
    """Cohere's answer is not what its protocol promises: never shown as a success."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(502, message, "server_error", "upstream_protocol_error", fault=Fault.PROVIDER_ANSWER)


class AnswerFailed(TranslationError):
    """A whole answer whose ending is a failure (finish_reason ERROR, TIMEOUT)."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure
