"""Every Prometheus collector, declared once. The only file that knows prometheus_client.

Labels have closed sets of values: operations and outcomes are ours, models are those that Cohere lists or
the capability table knows, everything else is `other`. With several workers prometheus_client adds up the
processes through files in PROMETHEUS_MULTIPROC_DIR, which `process.py` sets before the workers start.
"""

import os
from collections.abc import Callable, Collection, Iterable
from typing import Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from gateway.errors import ERRORS
from gateway.observability.record import CACHE_HIT, RequestRecord
from translators.core.faults import Fault
from translators.core.notes import Kind, Note
from translators.core.upstream_errors import UPSTREAM_ERRORS

CONTENT_TYPE = CONTENT_TYPE_LATEST
OTHER = "other"

MAX_KEY_LABELS = 100
"""Keys that have a series of their own, the first that cost something; what others cost counts as `other`."""

NANO = 1_000_000_000

UPSTREAM_CODES = frozenset(
    meaning.code
    for table in (ERRORS.values(), (meaning for row in UPSTREAM_ERRORS.values() for meaning in (row.own, row.server)))
    for meaning in table
    if meaning.status >= 429 and meaning.code and meaning.code != "internal_error"
) | {"upstream_protocol_error"}
"""The codes of failures that are Cohere's or the connection's: a closed set, as Cohere may invent error types."""

UPSTREAM_FAULTS = frozenset(fault for fault in Fault if fault.startswith("provider_")) | {Fault.GATEWAY_CREDENTIALS}
"""The gateway has codes of its own that Cohere uses, too: a limit of a key is no failure of Cohere's."""

# A `_created` series for each series doubles what is scraped and says nothing here.
disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """One process's collectors."""

    def __init__(self, is_model: Callable[[str], bool], fields: Collection[str]) -> None:
        """is_model, fields: which names may become labels."""
        self._is_model, self._fields = is_model, frozenset(fields)
        self._registry = registry = CollectorRegistry()
        several = bool(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=_SECONDS, registry=registry)

        def gauge(
            workers: Literal["livesum", "livemax", "livemostrecent"], name: str, text: str, *labels: str
        ) -> Gauge:
            """workers: how the values of several are put together."""
            return Gauge(name, text, labels, registry=registry, multiprocess_mode=workers if several else "all")

        self.requests = counter(
            "gateway_requests_total", "Requests answered", "operation", "model", "status", "outcome"
        )
        self.duration = histogram(
            "gateway_request_duration_seconds", "From the request's head to the answer's last byte", "operation"
        )
        self.first_byte = histogram(
            "gateway_time_to_first_token_seconds",
            "From the request's head to the first byte of a streamed answer",
            "operation",
        )
        self.upstream = histogram(
            "gateway_upstream_duration_seconds", "From the call to Cohere to the last byte of its answer", "operation"
        )
        self.tokens = counter(
            "gateway_tokens_total",
            "Tokens as Cohere counts them; of a stream that broke off before, estimated",
            "operation",
            "model",
            "direction",
        )
        self.cost = counter(
            "gateway_cost_usd_total", "US dollars that Cohere charges for, as far as prices are known", "model", "key"
        )
        self.saved = counter("gateway_cost_saved_usd_total", "US dollars that the cache spared", "model")
        self.unpriced = counter("gateway_unpriced_requests_total", "Requests whose cost is unknown", "model")
        self.cache = counter(
            "gateway_cache_lookups_total",
            "Requests that could have been answered from the cache",
            "operation",
            "result",
        )
        self.in_flight = gauge("livesum", "gateway_requests_in_flight", "Requests being served")
        self.runs = gauge(
            "livesum", "gateway_background_responses_in_flight", "Background responses that have not ended"
        )
        self.disconnects = counter("gateway_client_disconnects_total", "Callers who left early", "operation", "phase")
        self.upstream_errors = counter(
            "gateway_upstream_errors_total", "Failures of Cohere or of the connection to it", "operation", "code"
        )
        self.failures = counter(
            "gateway_failures_total", "Requests that failed, by whose fault it was", "operation", "fault"
        )
        self.noted = counter(
            "gateway_request_notes_total",
            "Fields of requests that were ignored, adjusted or emulated",
            "operation",
            "kind",
            "field",
        )
        self.retries = counter(
            "gateway_upstream_retries_total", "Calls to Cohere made once more, by what went wrong before", "reason"
        )
        self.fallbacks = counter(
            "gateway_fallbacks_total", "Requests put to another model, by the model that failed", "model"
        )
        self.disabled_keys = gauge(
            "livemax",
            "gateway_upstream_keys_disabled",
            "Cohere keys of the server's that Cohere refused and that are not used for now",
        )
        self.breaker = gauge(
            "livemax",
            "gateway_circuit_breaker_open",
            "1 while the circuit breaker of a model, or of the connection to Cohere, lets no call through",
            "model",
        )
        self.queue_wait = histogram(
            "gateway_upstream_queue_duration_seconds",
            "Waiting for a free slot to call Cohere, of the calls that had to wait",
        )
        self.held_bytes = gauge(
            "livesum", "gateway_held_bytes", "Bytes of request bodies and of Cohere's whole answers in memory"
        )
        self.limit_refusals = counter(
            "gateway_limit_refusals_total",
            "Limits that refused a request, by whose they are and what they count",
            "subject",
            "unit",
        )
        self.limits_degraded = gauge(
            "livemax",
            "gateway_limits_degraded",
            "1 while the shared counters of limits are away and each process holds requests to its share",
        )
        self.ledger_rows = counter(
            "gateway_ledger_rows_total",
            "Rows of the ledger: written, put aside on the disk (spooled), lost, not made (a flood of strangers)",
            "result",
        )
        self.stored_bytes = gauge(
            "livemostrecent", "gateway_stored_bytes", "Bytes of stored responses and conversations, as of a minute ago"
        )
        self.workers = gauge("livesum", "gateway_workers", "Worker processes that run")
        self.worker_restarts = counter(
            "gateway_worker_restarts_total",
            "Worker processes that were replaced, by what was wrong with them",
            "reason",
        )
        self.loop_delay = histogram(
            "gateway_event_loop_delay_seconds", "How late the event loop was for what was due each second"
        )
        self._keys: set[str] = set()
        self._series: dict[tuple[str, str, int, str], _Series] = {}

    def served(self, record: RequestRecord, now: float) -> None:
        """Counts a finished request."""
        model = self.known_model(record.model)
        key = (record.operation, model, record.status, record.outcome)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series(self, *key)
        series.requests.inc()
        series.duration.observe(now - record.started)
        if record.upstream_ended:
            series.upstream.observe(record.upstream_ended - record.upstream_began)
        if record.streamed and record.first_byte:
            series.first_byte.observe(record.first_byte - record.started)
        if record.cache:
            self.cache.labels(record.operation, record.cache).inc()
        if record.prompt_tokens and record.cache != CACHE_HIT:
            series.input_tokens.inc(record.prompt_tokens)
        if record.completion_tokens and record.cache != CACHE_HIT:
            series.output_tokens.inc(record.completion_tokens)
        self._count_cost(record, model)
        if record.fault is not None:
            self.failures.labels(record.operation, record.fault.value).inc()
        if record.outcome == "client_closed":
            phase = "streaming" if record.response_started else "waiting"
            self.disconnects.labels(record.operation, phase).inc()
        elif record.error in UPSTREAM_CODES and record.fault in UPSTREAM_FAULTS:
            self.upstream_errors.labels(record.operation, record.error).inc()

    def _count_cost(self, record: RequestRecord, model: str) -> None:
        """Counts money. Not all keys may become labels, as somebody may have thousands of them."""
        cost = record.cost_nanodollars
        if cost is None:
            self.unpriced.labels(model).inc()
        elif cost:
            key = record.principal.name if record.principal.key is not None else ""
            if key and key not in self._keys:
                if len(self._keys) < MAX_KEY_LABELS:
                    self._keys.add(key)
                else:
                    key = OTHER
            self.cost.labels(model, key).inc(cost / NANO)
        if record.saved_nanodollars:
            self.saved.labels(model).inc(record.saved_nanodollars / NANO)

    def note(self, operation: str, notes: Iterable[Note]) -> None:
        """Counts the fields that were not taken as asked."""
        for note in notes:
            if note.kind is not Kind.NOTED:
                field = note.field.partition("[")[0].partition(".")[0]
                label = field if field in self._fields else OTHER
                self.noted.labels(operation, note.kind.value, label).inc()

    def known_model(self, model: str) -> str:
        """The label for a model: its name if it is known, else `other`."""
        return model if not model or self._is_model(model) else OTHER

    def exposition(self) -> bytes:
        """The text of `/metrics`; with several workers, of all of them."""
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            return _of_all_workers()
        return generate_latest(self._registry)


class _Series:
    """The series that requests of one kind count in: `labels()` takes a lock and builds strings each time."""

    def __init__(self, metrics: Metrics, operation: str, model: str, status: int, outcome: str) -> None:
        self.requests = metrics.requests.labels(operation, model, str(status), outcome)
        self.duration = metrics.duration.labels(operation)
        self.first_byte = metrics.first_byte.labels(operation)
        self.upstream = metrics.upstream.labels(operation)
        self.input_tokens = metrics.tokens.labels(operation, model, "input")
        self.output_tokens = metrics.tokens.labels(operation, model, "output")


_READS = 5


def _of_all_workers() -> bytes:
    """Returns the metrics in the files of all workers. Those of a worker that has died go while they are read."""
    for _ in range(_READS - 1):
        try:
            return _read_all_workers()
        except OSError:
            continue
    return _read_all_workers()


def _read_all_workers() -> bytes:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
