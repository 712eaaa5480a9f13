"""The one place that lets a request through to Cohere, and that learns how it ended.

Every endpoint that calls Cohere asks here first and settles here last. What a key may do, limits and budgets belong
here and nowhere else.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from types import TracebackType

from gateway.auth import permissions
from gateway.auth.directory import KeyDirectory
from gateway.auth.principal import Principal
from gateway.cohere_methods import Method
from gateway.errors import CallerError, failure
from gateway.ledger.writer import Ledger
from gateway.limits.limiter import LimitedRequest, Limiter
from gateway.observability.metrics import Metrics
from gateway.observability.record import CACHE_HIT, RequestRecord
from gateway.pipeline.accepted_keys import AcceptedKeys
from gateway.upstream.response import TRACE_HEADER, UpstreamResponse
from translators.core.contracts import Workload
from translators.core.notes import Notes

END_USER_BLOCKED = failure("end_user_blocked", "The end user whom this request names is blocked")


class AdmissionController:
    """Decides which requests may call Cohere."""

    def __init__(
        self,
        metrics: Metrics,
        accepted_keys: AcceptedKeys,
        directory: KeyDirectory,
        limiter: Limiter,
        ledger: Ledger,
    ) -> None:
        self._metrics, self._accepted_keys, self._directory = metrics, accepted_keys, directory
        self._limiter, self._ledger = limiter, ledger

    def permit(self, record: RequestRecord, method: Method) -> None:
        """Makes sure that the caller may call this method of Cohere's, before anything of the body is read.

        Raises CallerError (403).
        """
        with _reason(record):
            permissions.require_method(record.principal.access, method)

    def permit_model(self, record: RequestRecord, method: Method, model: str) -> None:
        """Makes sure that the caller may use this model of Cohere's. Raises CallerError (403)."""
        with _reason(record):
            permissions.require_model(record.principal.access, method, model)

    async def admit(self, record: RequestRecord, method: Method, workload: Workload, notes: Notes) -> "Admission":
        """Lets a request in that calls this method of Cohere's; `notes` are those of its translation.

        What it may take of its limits and budgets is reserved until the admission is left. Raises CallerError for one
        that may not come in.
        """
        if self._ledger.refusing:
            raise CallerError(failure("no_ledger", "No call is served while the ledger cannot be written"))
        record.model, record.requested_model = workload.model, workload.requested_model or record.requested_model
        self.permit(record, method)
        self.permit_model(record, method, workload.model)
        self._permit_end_user(record, workload.end_user)
        return await self._reserve(record, method, workload, notes)

    async def admit_lookup(self, record: RequestRecord, method: Method, notes: Notes) -> "Admission":
        """Lets a request in that is answered from the list of models, and whose caller has been permitted.

        Raises CallerError past a limit.
        """
        return await self._reserve(record, method, Workload(""), notes)

    async def _reserve(self, record: RequestRecord, method: Method, workload: Workload, notes: Notes) -> "Admission":
        try:
            limited = await self._limiter.reserve(record, method, workload)
        except CallerError as error:
            record.reason = error.failure.message
            raise
        return Admission(self, self._metrics, self._accepted_keys, record, notes, self._limiter, limited)

    def _permit_end_user(self, record: RequestRecord, name: str) -> None:
        end_user = self._directory.end_users.get(name) if name else None
        if end_user is not None and end_user.blocked:
            with _reason(record):
                raise CallerError(END_USER_BLOCKED)


@contextlib.contextmanager
def _reason(record: RequestRecord) -> Iterator[None]:
    """Records why a request is refused."""
    try:
        yield
    except CallerError as error:
        record.reason = error.failure.message
        raise


class Admission:
    """One admitted request, as a context around its calls to Cohere. Leaving it settles the request.

    notes: of the translation that was answered, for the caller and the metrics.
    """

    __slots__ = ("_accepted_keys", "_controller", "_limited", "_limiter", "_metrics", "notes", "record")

    def __init__(
        self,
        controller: AdmissionController,
        metrics: Metrics,
        accepted_keys: AcceptedKeys,
        record: RequestRecord,
        notes: Notes,
        limiter: Limiter,
        limited: LimitedRequest | None,
    ) -> None:
        self._controller = controller
        self._metrics, self._accepted_keys, self.record, self.notes = metrics, accepted_keys, record, notes
        self._limiter, self._limited = limiter, limited

    @property
    def principal(self) -> Principal:
        return self.record.principal

    def __enter__(self) -> "Admission":
        self.record.upstream_began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        record = self.record
        if record.cache != CACHE_HIT:
            record.upstream_ended = time.monotonic()
        if self._limited is not None:
            failed = error is not None or bool(record.error) or record.status >= 400
            self._limiter.settle(self._limited, record, failed)
        if len(self.notes):
            record.set_notes(self.notes)
            self._metrics.note(record.operation, self.notes)

    async def extend(self, method: Method, workload: Workload) -> None:
        """Lets the request, which is admitted, call another method of Cohere's as well; it stays one request.

        Raises CallerError if it may not.
        """
        self._controller.permit(self.record, method)
        self._controller.permit_model(self.record, method, workload.model)
        self._limited = await self._limiter.extend(self._limited, self.record, method, workload)

    def see(self, response: UpstreamResponse) -> None:
        """Records what the head of Cohere's response says: its id of the call, and how often the call was made."""
        if response.retry_reasons:
            self.retried(response.retry_reasons)
        self.record.trace_id = self.record.trace_id or response.header(TRACE_HEADER)

    async def accept(self, response: UpstreamResponse) -> UpstreamResponse:
        """Returns a response that is a success. Raises UpstreamError with Cohere's refusal for any other."""
        self.see(response)
        principal = self.record.principal
        await response.raise_for_status(principal.own_key)
        if principal.own_key:
            self._accepted_keys.add(principal)
        return response

    def retried(self, reasons: Sequence[str]) -> None:
        """Tells the caller and the log that Cohere was called more than once, and why."""
        self.record.retries += len(reasons)
        self.notes.inform("upstream", f"asked Cohere again: {', '.join(reasons)}")
