"""The errors of translation.

    TranslationError
      InvalidField             the request cannot be translated                         -> 400, with `param`
        NotStored              the request refers to something that is not stored       -> 404, with `param`
      UpstreamProtocolError    Cohere's answer breaks its protocol                      -> 502, or in the stream
      AnswerFailed             Cohere reports a failed answer, or it fails a check      -> 502, 504, or in the stream

Each becomes a `Failure`, the value that the error for the caller is made of. Cohere's error statuses become Failures by
the table in `upstream_errors.py`.
"""

from msgspec import Struct
from msgspec.structs import replace

from translators.core.faults import Fault


class Failure(Struct, frozen=True):
    """A failed request, as the caller sees it.

    status: the HTTP status, unless the response has begun. type, code, param, message: OpenAI's four keys.
    should_retry: the value of `x-should-retry`, None to leave it out. alert_operator: logged as an error.
    second_attempt: another call may succeed, because the model did not follow its instructions. learned_capability:
    what the error revealed about the model, as a field of `capabilities.Capabilities` and its value. fault: for the
    metrics, the log and the ledger; the caller does not see it.
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
"""The caller left or cancelled. 499 is nginx's status for that; only the log has it."""


class TranslationError(Exception):
    """The base of the errors of translation. It is never raised itself."""

    failure: Failure


class InvalidField(TranslationError):
    """A field that cannot be translated. param: its path, such as `messages[2].content`."""

    def __init__(self, param: str | None, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.failure = Failure(400, message, "invalid_request_error", code, param, fault=Fault.CALLER_REQUEST)


class NotStored(InvalidField):
    """A field refers to something that is not stored: 404, as at OpenAI."""

    def __init__(self, param: str, message: str, code: str) -> None:
        super().__init__(param, message, code)
        self.failure = replace(self.failure, status=404)


class UpstreamProtocolError(TranslationError):
    """Cohere's answer breaks its protocol. Nothing of it is shown as a success."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(502, message, "server_error", "upstream_protocol_error", fault=Fault.PROVIDER_ANSWER)


class AnswerFailed(TranslationError):
    """A whole answer that ended in a failure (finish reason ERROR or TIMEOUT), or that failed a check."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure
