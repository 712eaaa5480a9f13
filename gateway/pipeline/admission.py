"""The one place that lets a request through to Cohere, and that learns how it ended.

Every endpoint that calls Cohere asks here first and settles here last. What a key may do, limits and budgets belong
here and nowhere else.
"""

import time
from collections.abc import Sequence
from types import TracebackType

from gateway.auth import permissions
from gateway.auth.directory import KeyDirectory
from gateway.auth.principal import Principal
from gateway.cohere_methods import Method
from gateway.errors import CallerError, failure
from gateway.http.attribution import attribute_body
from gateway.http.body import note_changes
from gateway.ledger.prices import BILLED_GROUPS, BYTES_PER_TOKEN, Prices
from gateway.ledger.writer import Ledger
from gateway.limits.limiter import LimitedRequest, Limiter
from gateway.observability.metrics import Metrics
from gateway.observability.record import CACHE_HIT, RequestRecord
from gateway.pipeline.accepted_keys import AcceptedKeys
from gateway.pipeline.deprecated_models import DeprecatedModels
from gateway.settings.schema import Settings
from gateway.upstream.response import UpstreamResponse
from translators.answer.job_usage import JobUsage, ended_jobs
from translators.answer.raw_usage import usage_of
from translators.core.contracts import UsageBase, UsageTotals, Workload
from translators.core.notes import Notes

END_USER_BLOCKED = failure("end_user_blocked", "The end user whom this request names is blocked")

JOB_GROUPS = frozenset({"batches", "embed_jobs"})
"""Groups of methods whose work is billed when it is done, which only a look at it shows."""


class AdmissionController:
    """Decides which requests may call Cohere."""

    def __init__(
        self,
        metrics: Metrics,
        accepted_keys: AcceptedKeys,
        directory: KeyDirectory,
        limiter: Limiter,
        ledger: Ledger,
        deprecated_models: DeprecatedModels,
        settings: Settings,
    ) -> None:
        self._metrics, self._accepted_keys, self._directory = metrics, accepted_keys, directory
        self._limiter, self._ledger, self._deprecated_models = limiter, ledger, deprecated_models
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Takes the prices of these settings, for the requests that follow."""
        # Replaced and never changed: requests under way keep the prices that they were admitted with.
        self.prices, self.usage_base = Prices(settings.prices, settings.policy), UsageBase(settings.usage_base)
        self._limiter.set_prices(self.prices)

    def permit(self, record: RequestRecord, method: Method) -> None:
        """Makes sure that the caller may call this method of Cohere's, before anything of the body is read.

        Raises CallerError (403).
        """
        try:
            permissions.require_method(record.principal.access, method)
        except CallerError as error:
            # For the log line, where an operator looks for the reason of a 403 without the caller's copy of it.
            record.reason = error.failure.message
            raise

    def permit_model(self, record: RequestRecord, method: Method, model: str) -> None:
        """Makes sure that the caller may use this model of Cohere's. Raises CallerError (403)."""
        try:
            permissions.require_model(record.principal.access, method, model)
        except CallerError as error:
            record.reason = error.failure.message
            raise

    def depends_on_body(self, record: RequestRecord) -> bool:
        """Tells whether limits of the caller depend on what is in the body of a request, its model above all."""
        return self._limiter.depends_on_body(record)

    async def admit(self, record: RequestRecord, method: Method, workload: Workload, notes: Notes) -> "Admission":
        """Lets a request in that calls this method of Cohere's; `notes` are those of its translation.

        What it may take of its limits and budgets is reserved until the admission is left. Raises CallerError for one
        that may not come in.
        """
        # The operator chose so (`ledger.on_failure`): no call whose cost could be lost.
        if self._ledger.refusing:
            raise CallerError(failure("no_ledger", "No call is served while the ledger cannot be written"))
        record.model, record.requested_model = workload.model, workload.requested_model or record.requested_model
        attribute_body(record, workload)
        # A second time for endpoints that permitted before they read the body, and the first time for all that did not.
        # It is a look into a set.
        self.permit(record, method)
        self.permit_model(record, method, workload.model)
        self._permit_end_user(record, record.end_user)
        # Only requests that may come in count: others would make noise about models that nobody uses.
        self._deprecated_models.see(record)
        return await self._reserve(record, method, workload, notes)

    async def admit_lookup(self, record: RequestRecord, method: Method, notes: Notes) -> "Admission":
        """Lets a request in that is answered from the list of models, and whose caller has been permitted.

        Raises CallerError past a limit.
        """
        return await self._reserve(record, method, Workload(""), notes)

    async def _reserve(self, record: RequestRecord, method: Method, workload: Workload, notes: Notes) -> "Admission":
        prices = self.prices  # those that the reservation is made with: a reload may come before the answer
        try:
            limited = await self._limiter.reserve(record, method, workload)
        except CallerError as error:
            record.reason = error.failure.message
            raise
        return Admission(
            self, self._metrics, self._accepted_keys, record, notes, method, workload, self._limiter, limited, prices
        )

    def _permit_end_user(self, record: RequestRecord, name: str) -> None:
        end_user = self._directory.end_users.get(name) if name else None
        if end_user is not None and end_user.blocked:
            record.reason = END_USER_BLOCKED.message
            raise CallerError(END_USER_BLOCKED)


class Admission:
    """One admitted request, as a context around its calls to Cohere. Leaving it settles the request.

    notes: of the translation that was answered, for the caller and the metrics.
    """

    __slots__ = (
        "_accepted_keys",
        "_answers",
        "_controller",
        "_events",
        "_limited",
        "_limiter",
        "_method",
        "_metrics",
        "_prices",
        "notes",
        "prompt_bytes",
        "record",
    )

    def __init__(
        self,
        controller: AdmissionController,
        metrics: Metrics,
        accepted_keys: AcceptedKeys,
        record: RequestRecord,
        notes: Notes,
        method: Method,
        workload: Workload,
        limiter: Limiter,
        limited: LimitedRequest | None,
        prices: Prices,
    ) -> None:
        """prices: of the whole request, whatever the settings say by the time that Cohere has answered."""
        self._controller, self._method = controller, method
        self._metrics, self._accepted_keys, self.record, self.notes = metrics, accepted_keys, record, notes
        self._events: list[tuple[str, str]] = []
        """What was told of the request: a field and a sentence each."""
        self._limiter, self._limited, self._prices = limiter, limited, prices
        self.prompt_bytes = workload.prompt_bytes // max(workload.calls, 1)
        """Of one call."""
        self._answers = 0
        """Answers that were paid for, or estimated."""

    def set_notes(self, notes: Notes) -> None:
        """Takes the notes of the translation that is to be answered, and adds what holds for the whole request."""
        note_changes(self.record, notes)
        for field, sentence in self._events:
            notes.inform(field, sentence)
        self.notes = notes

    def inform(self, field: str, sentence: str) -> None:
        """Notes what happened to the request, whichever translation is answered in the end."""
        self._events.append((field, sentence))
        self.notes.inform(field, sentence)

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
        attempts, answers = record.attempts, self._answers
        if len(attempts) > answers and self.billed and sum([one.may_be_billed for one in attempts]) > answers:
            self._add_uncounted()
        if record.cache != CACHE_HIT:
            record.upstream_ended = time.monotonic()
        if self._limited is not None:
            failed = error is not None or bool(record.error) or record.status >= 400
            # Here and nowhere else, on every way out: what is not settled stays reserved, and counts against the
            # caller.
            self._limiter.settle(self._limited, record, failed)
        if len(self.notes):
            record.set_notes(self.notes)
            self._metrics.note(record.operation, self.notes)

    def give_back(self) -> None:
        """Frees what was reserved, for a request that will make no call."""
        if self._limited is not None:
            self._limiter.give_back(self._limited)

    async def extend(self, method: Method, workload: Workload) -> None:
        """Lets the request, which is admitted, call another method of Cohere's as well; it stays one request.

        Raises CallerError if it may not.
        """
        self._controller.permit(self.record, method)
        self._controller.permit_model(self.record, method, workload.model)
        # The same reservation grows. Two of them could each be let in where their sum is not.
        self._limited = await self._limiter.extend(self._limited, self.record, method, workload)

    async def repeat(self, workload: Workload) -> bool:
        """Reserves what another call of the same kind may take. Returns whether the limits and budgets let it in.

        For a call that follows one that was paid for, and for one to another model, whose limits count from now on.
        """
        record = self.record
        try:
            self._limited = await self._limiter.extend(self._limited, record, self._method, workload, replaces=True)
        except CallerError:
            return False
        return True

    def see(self, response: UpstreamResponse) -> None:
        """Records what the head of Cohere's response says: its id of the call, and how often the call was made."""
        if response.retry_reasons:
            self.retried(response.retry_reasons)
        if self.record.uncounted_calls and self.billed:
            self._add_uncounted()
        self.record.trace_id = self.record.trace_id or response.trace_id
        self.record.upstream_ended = time.monotonic()

    async def accept(self, response: UpstreamResponse) -> UpstreamResponse:
        """Returns a response that is a success. Raises UpstreamError with Cohere's refusal for any other."""
        self.see(response)
        principal = self.record.principal
        await response.raise_for_status(principal.own_key)
        # An answer proves the key (`accepted_keys.py`); a refusal does not, so this comes after it.
        if principal.own_key:
            self._accepted_keys.add(principal)
        return response

    def retried(self, reasons: Sequence[str]) -> None:
        """Tells the caller and the log that Cohere was called more than once, and why."""
        self.record.retries += len(reasons)
        self.inform("upstream", f"asked Cohere again: {', '.join(reasons)}")

    @property
    def billed(self) -> bool:
        """Cohere bills the answers of the method that was admitted."""
        return self._method.group in BILLED_GROUPS

    # --- money ---------------------------------------------------------------------------------------------

    def bill(self, model: str, answer: bytes, method: Method | None = None) -> bool:
        """Adds what Cohere charges for a whole answer, or for a stream that this event ends. Returns whether it said.

        model: the one that answered. method: of the call, where it is not the one that was admitted. Called for all
        that Cohere sent with a success, whatever becomes of it here.
        """
        self.record.upstream_ended = time.monotonic()
        # True means that nothing is missing from the bill: no estimate follows.
        if (method or self._method).group not in BILLED_GROUPS:
            return True
        usage = usage_of(answer, self._controller.usage_base)
        self.bill_usage(model, usage)
        # Tokens that Cohere counted are no matter of an estimate, though it did not say what it charges for them.
        return bool(usage.billed or usage.prompt_tokens or usage.completion_tokens)

    def bill_usage(self, model: str, usage: UsageTotals) -> None:
        """Adds what Cohere charges for an answer, where its counts have been read."""
        self._answers += 1
        prices = self._prices
        cost = prices.cost_of(model, usage.billed, usage.cached_tokens)
        self.record.add_usage(usage, cost, prices.version)
        if self._limited is not None and self._limited.further:
            self._limited.add(model, usage.prompt_tokens + usage.completion_tokens, cost or 0)

    @property
    def sees_jobs(self) -> bool:
        """The answers of the method say what jobs have cost that ran before."""
        return self._method.group in JOB_GROUPS and self._method.verb == "GET"

    def ended_jobs(self, answer: bytes) -> Sequence[JobUsage]:
        """Returns the jobs in an answer that have ended and were billed."""
        return ended_jobs(self._method.group, answer, self._controller.usage_base)

    def bill_estimate(self, model: str, pieces: int, ended: bool = False) -> None:
        """Adds what a stream may have consumed of which Cohere never said it.

        pieces: the deltas that came, about a token each. ended: it ended properly, and has been billed as unknown.
        """
        # An ended stream has told all it will. What it did not count is unknown, and not what we guess.
        prompt_tokens = 0 if ended else -(-self.prompt_bytes // BYTES_PER_TOKEN)
        prices, cost = self._prices, None
        if not ended:
            self._answers += 1
            cost = prices.cost_of(model, {"input_tokens": prompt_tokens, "output_tokens": pieces})
        self.record.add_estimate(prompt_tokens, pieces, cost, prices.version)

    def credit(self, model: str, answers: Sequence[bytes]) -> None:
        """Adds what these answers out of the cache would have cost."""
        for answer in answers:
            usage = usage_of(answer, self._controller.usage_base)
            self.record.add_saved(usage, self._prices.cost_of(model, usage.billed, usage.cached_tokens))

    def credit_inputs(self, before: Workload, after: Workload) -> None:
        """Adds what inputs out of the cache would have cost, by their length. before, after: without and with it."""
        whole, rest = (self._prices.estimate(one.model, self._method, one) for one in (before, after))
        self.record.add_saved(UsageTotals(), None if whole is None or rest is None else whole - rest)

    def _add_uncounted(self) -> None:
        """Makes the cost unknown, where Cohere may charge for a call of which it has not said what it consumed.

        It timed out, it broke off, or the caller left; or another call failed, so that nobody waited for this one.
        """
        self.record.add_usage(UsageTotals(), None, self._prices.version)
