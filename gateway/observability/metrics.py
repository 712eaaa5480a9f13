"""Every Prometheus collector, declared once. The only file that knows prometheus_client.

Labels have closed sets of values: operations and outcomes are ours, models are those that Cohere lists or
the capability table knows, everything else is `other`. With several workers prometheus_client adds up the
processes through files in PROMETHEUS_MULTIPROC_DIR, which `process.py` sets before the workers start.

What every request counts is counted in plain numbers, and goes to prometheus_client with the next `sample`: each of its
values has a lock, and of several workers a place in a file.
"""

import os
import struct
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct
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
from prometheus_client.openmetrics import exposition as openmetrics

from gateway import __version__
from gateway.errors import ERRORS
from gateway.observability import process_usage
from gateway.observability.record import CACHE_HIT, RequestRecord
from translators.core.faults import Fault
from translators.core.notes import Kind, Note
from translators.core.upstream_errors import UPSTREAM_ERRORS

CONTENT_TYPE = CONTENT_TYPE_LATEST
OPENMETRICS = "application/openmetrics-text"
OTHER = "other"

MAX_KEY_LABELS = 100
"""Keys that have a series of their own, the first that cost something; what others cost counts as `other`."""

MAX_BUDGET_SERIES = 100
"""Budgets that have series of their own, the first that something was spent of; further ones have none."""

NANO = 1_000_000_000

UPSTREAM_CODES = frozenset(
    meaning.code
    for table in (ERRORS.values(), (meaning for row in UPSTREAM_ERRORS.values() for meaning in (row.own, row.server)))
    for meaning in table
    # What is below 429 is the caller's own.
    if meaning.status >= 429 and meaning.code and meaning.code != "internal_error"
) | {"upstream_protocol_error"}
"""The codes of failures that are Cohere's or the connection's: a closed set, as Cohere may invent error types."""

UPSTREAM_FAULTS = frozenset(fault for fault in Fault if fault.startswith("provider_")) | {Fault.GATEWAY_CREDENTIALS}
"""The gateway has codes of its own that Cohere uses, too: a limit of a key is no failure of Cohere's."""

# A `_created` series for each series doubles what is scraped and says nothing here.
disable_created_metrics()  # type: ignore[no-untyped-call]

# Up to five minutes for answers of models, and from half a millisecond on for what is the gateway's own.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_SHORT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Sample(Struct, frozen=True):
    """One value of a family, with its labels."""

    labels: Mapping[str, str]
    value: float


class Family(Struct, frozen=True):
    """A counter or a gauge of this process, for exporters other than Prometheus. read: returns its values now."""

    name: str
    text: str
    is_counter: bool
    read: Callable[[], list[Sample]]


class Count:
    """A number that requests add to.

    added: since the last `sample`, which passes it on.
    """

    __slots__ = ("_pass_on", "added")

    def __init__(self, pass_on: Callable[[float], None]) -> None:
        """pass_on: adds to the value of a counter or a gauge."""
        self._pass_on, self.added = pass_on, 0.0

    def flush(self) -> None:
        """Passes on what was added."""
        if self.added:
            added, self.added = self.added, 0.0
            self._pass_on(added)


class _Histogram(Histogram):
    """A histogram that takes many observations at once."""

    def observe_all(self, counts: Sequence[int], total: float) -> None:
        """Observes as many values as there are for each bucket. total: their sum."""
        # What `observe` does for each value, in one step. prometheus_client has no public way for several at once.
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class Observations:
    """What a histogram has not been told yet."""

    __slots__ = ("_bounds", "_counts", "_histogram", "_total")

    def __init__(self, histogram: Any) -> None:
        """histogram: a series of a `_Histogram`."""
        self._histogram = histogram
        self._bounds: Sequence[float] = histogram._upper_bounds
        self._counts, self._total = [0] * len(self._bounds), 0.0

    def observe(self, value: float, exemplar: Mapping[str, str] | None = None) -> None:
        """Takes a value. exemplar: labels of a request that has it."""
        # At once: a number that waits has no place for an exemplar.
        if exemplar is not None:
            self._histogram.observe(value, exemplar)
            return
        # As prometheus_client has it: a bound belongs to the bucket that it ends.
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def flush(self) -> None:
        """Passes on what was observed."""
        if any(self._counts):
            # Emptied first: what is observed while it is passed on goes into the next one.
            counts, total = self._counts, self._total
            self._counts, self._total = [0] * len(counts), 0.0
            self._histogram.observe_all(counts, total)


class Metrics:
    """One process's collectors."""

    def __init__(self, is_model: Callable[[str], bool], fields: Collection[str]) -> None:
        """is_model, fields: which names may become labels."""
        self._is_model, self._fields = is_model, frozenset(fields)
        self._registry = registry = CollectorRegistry()
        # The variable by which prometheus_client decides, when it is imported, where its values are.
        several = bool(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
        self._texts: dict[str, str] = {}
        self.collectors: list[Counter | Gauge | Histogram] = []
        self._families: list[Family] = []
        self._probes: list[Callable[[], None]] = []
        self._pending: dict[Any, Any] = {}  # by what takes it: several kinds of requests count in one series

        def counter(name: str, text: str, *labels: str) -> Counter:
            # Families are called so, while a counter's series end with `_total`.
            self._texts[name.removesuffix("_total")] = text
            collector = Counter(name, text, labels, registry=registry)
            self.collectors.append(collector)
            self._families.append(Family(name, text, True, lambda: _samples(collector)))
            return collector

        def histogram(name: str, text: str, *labels: str, buckets: Collection[float] = _SECONDS) -> Histogram:
            self._texts[name] = text
            collector = _Histogram(name, text, labels, buckets=tuple(buckets), registry=registry)
            self.collectors.append(collector)
            return collector

        def gauge(
            workers: Literal["livesum", "livemax", "livemin", "livemostrecent"], name: str, text: str, *labels: str
        ) -> Gauge:
            """Makes a gauge. workers: how the values of several are put together."""
            self._texts[name] = text
            collector = Gauge(name, text, labels, registry=registry, multiprocess_mode=workers if several else "all")
            self.collectors.append(collector)
            self._families.append(Family(name, text, False, lambda: _samples(collector)))
            return collector

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
        self.per_token = histogram(
            "gateway_time_per_output_token_seconds",
            "Mean time between the tokens of a streamed answer, after its first byte",
            "operation",
            buckets=_SHORT_SECONDS,
        )
        self.overhead = histogram(
            "gateway_overhead_duration_seconds",
            "The part of a request's time in which no call to Cohere was under way, of those that called Cohere",
            "operation",
            buckets=_SHORT_SECONDS,
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
        # Added to and taken from, and never set, so it can be passed on like a counter.
        self.in_flight = self.count(gauge("livesum", "gateway_requests_in_flight", "Requests being served").inc)
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
        self.upstream_attempts = counter(
            "gateway_upstream_attempts_total",
            "Calls by upstream, where there are several: ok, refused (4xx) or failed",
            "upstream",
            "result",
        )
        self.upstream_fallbacks = counter(
            "gateway_upstream_fallbacks_total", "Requests put to another upstream, by the one that failed", "upstream"
        )
        # Of the worker that has most of them, since all have the same keys. So it is with breakers.
        self.disabled_keys = gauge(
            "livemax",
            "gateway_upstream_keys_disabled",
            "Cohere keys of the server's that Cohere refused and that are not used for now",
        )
        self.breaker = gauge(
            "livemax",
            "gateway_circuit_breaker_open",
            "1 while the circuit breaker of a model, or of the connection to Cohere, lets no call through; of several "
            "upstreams `NAME/` and the model",
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
        self.budget_limit = gauge(
            "livemostrecent",
            "gateway_budget_limit_usd",
            "US dollars of a budget, from the first request that it paid for",
            *("subject", "name", "model", "duration"),
        )
        # Of the worker that has counted last: each of them knows the whole sum.
        self.budget_spent = gauge(
            "livemostrecent",
            "gateway_budget_spent_usd",
            "US dollars spent of a budget, as of the last request that it paid for",
            *("subject", "name", "model", "duration"),
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
        self.ledger_queue = gauge("livesum", "gateway_ledger_queue_rows", "Rows of the ledger that wait in memory")
        self.ledger_lag = gauge(
            "livemax",
            "gateway_ledger_lag_seconds",
            "Age of the oldest row that is not in the ledger's database; 0 where there is none",
        )
        self.ledger_bodies = counter(
            "gateway_ledger_bodies_total",
            "Calls whose bodies the ledger was to store: stored, lost (the database is away, too many wait)",
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
        self.collections = histogram(
            "gateway_garbage_collection_seconds",
            "How long a collection of garbage let nothing else run in a worker",
            buckets=_SHORT_SECONDS,
        )
        # Not the sum, which would be the number of workers.
        gauge("livemax", "gateway_build_info", "1, with the version that runs", "version").labels(__version__).set(1)
        self._cpu = counter("process_cpu_seconds_total", "CPU seconds of user and system, of all workers")
        self._resident = gauge("livesum", "process_resident_memory_bytes", "Resident memory in bytes, of all workers")
        self._open_files = gauge("livesum", "process_open_fds", "Open file descriptors, of all workers")
        # Of the worker that may open least: it is the first to have none left.
        self._max_files = gauge("livemin", "process_max_fds", "File descriptors that each worker may open")
        gauge("livemin", "process_start_time_seconds", "When the oldest worker started, in Unix seconds").set(
            time.time()
        )
        self._cpu_seconds = 0.0
        self._budgets: set[tuple[str, str, str, str]] = set()
        self._changed_budgets: dict[tuple[str, str, str, str], tuple[int, int]] = {}
        self._keys: set[str] = set()
        self._series: dict[tuple[str, str, int, str], _Series] = {}
        self._costs: dict[tuple[str, str], Count] = {}

    def count(self, pass_on: Callable[[float], None]) -> Count:
        """Returns the number that is passed on with each `sample`, to a counter's or a gauge's series."""
        count: Count = self._pending.setdefault(pass_on, Count(pass_on))
        return count

    def observations(self, histogram: Histogram) -> Observations:
        """Returns what collects observations for a histogram's series until the next `sample`."""
        observations: Observations = self._pending.setdefault(histogram, Observations(histogram))
        return observations

    def served(self, record: RequestRecord, now: float) -> None:
        """Counts a finished request."""
        model = self.known_model(record.model)
        key = (record.operation, model, record.status, record.outcome)
        # To look up a series by its labels takes longer than to count in it.
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series(self, *key)
        exemplar = {"trace_id": record.trace} if record.span is not None and record.trace else None
        duration = now - record.started
        series.requests.added += 1
        series.duration.observe(duration, exemplar)
        # 0 where Cohere was not called.
        if record.upstream_ended:
            upstream = record.upstream_ended - record.upstream_began
            series.upstream.observe(upstream)
            series.overhead.observe(max(duration - upstream, 0.0))
        if record.streamed and record.first_byte:
            series.first_byte.observe(record.first_byte - record.started, exemplar)
            if (seconds := record.seconds_per_token(now)) is not None:
                series.per_token.observe(seconds)
        if record.cache:
            self.cache.labels(record.operation, record.cache).inc()
        # The tokens of a hit were counted when its answer was first made.
        if record.prompt_tokens and record.cache != CACHE_HIT:
            series.input_tokens.added += record.prompt_tokens
        if record.completion_tokens and record.cache != CACHE_HIT:
            series.output_tokens.added += record.completion_tokens
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
            series = self._costs.get((model, key))
            if series is None:
                series = self._costs[model, key] = self.count(self.cost.labels(model, key).inc)
            series.added += cost / NANO
        if record.saved_nanodollars:
            self.saved.labels(model).inc(record.saved_nanodollars / NANO)

    def note(self, operation: str, notes: Iterable[Note]) -> None:
        """Counts the fields that were not taken as asked."""
        for note in notes:
            if note.kind is not Kind.NOTED:
                # `messages[0].content` counts as `messages`.
                field = note.field.partition("[")[0].partition(".")[0]
                label = field if field in self._fields else OTHER
                self.noted.labels(operation, note.kind.value, label).inc()

    def count_budget(self, labels: tuple[str, str, str, str], spent: int, limit: int) -> None:
        """Shows, from the next `sample` on, what is spent of a budget, in nano-dollars.

        labels: kind and name of its owner, model and duration.
        """
        if labels in self._budgets or len(self._budgets) < MAX_BUDGET_SERIES:
            self._budgets.add(labels)
            self._changed_budgets[labels] = (spent, limit)

    def _show_budgets(self) -> None:
        changed, self._changed_budgets = self._changed_budgets, {}
        for labels, (spent, limit) in changed.items():
            self.budget_limit.labels(*labels).set(limit / NANO)
            self.budget_spent.labels(*labels).set(spent / NANO)

    def known_model(self, model: str) -> str:
        """Returns the label for a model: its name if it is known, else `other`."""
        return model if not model or self._is_model(model) else OTHER

    def numbers(self) -> list[Family]:
        """Returns the counters and gauges of this process."""
        return self._families

    def add_probe(self, probe: Callable[[], None]) -> None:
        """Makes `probe` be called before values are read, to set what changes by itself."""
        self._probes.append(probe)

    def sample(self) -> None:
        """Sets what changes by itself, and passes on what was counted.

        Called once a second in each worker, before values are read, and when a worker ends.
        """
        usage = process_usage.read()
        # A counter refuses what is below 0.
        self._cpu.inc(max(usage.cpu_seconds - self._cpu_seconds, 0.0))
        self._cpu_seconds = usage.cpu_seconds
        self._resident.set(usage.resident_bytes)
        self._open_files.set(usage.open_files)
        self._max_files.set(usage.max_files)
        self._show_budgets()
        for pending in self._pending.values():
            pending.flush()
        for probe in self._probes:
            probe()

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Returns the body of `/metrics` and its content type; with several workers, of all of them.

        accept: the request's header. OpenMetrics, which has exemplars, is for those who name it.
        """
        self.sample()
        # The files of several workers have no exemplars, so here OpenMetrics would be without its use.
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            return _of_all_workers(self._texts), CONTENT_TYPE
        if OPENMETRICS in accept:
            body: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return body, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE


def _samples(collector: Counter | Gauge) -> list[Sample]:
    """Returns the values of a counter or a gauge in this process."""
    return [Sample(one.labels, one.value) for family in collector.collect() for one in family.samples]


class _Series:
    """The series that requests of one kind count in."""

    def __init__(self, metrics: Metrics, operation: str, model: str, status: int, outcome: str) -> None:
        self.requests = metrics.count(metrics.requests.labels(operation, model, str(status), outcome).inc)
        self.duration = metrics.observations(metrics.duration.labels(operation))
        self.first_byte = metrics.observations(metrics.first_byte.labels(operation))
        self.upstream = metrics.observations(metrics.upstream.labels(operation))
        self.overhead = metrics.observations(metrics.overhead.labels(operation))
        self.per_token = metrics.observations(metrics.per_token.labels(operation))
        self.input_tokens = metrics.count(metrics.tokens.labels(operation, model, "input").inc)
        self.output_tokens = metrics.count(metrics.tokens.labels(operation, model, "output").inc)


_READS = 5


def _of_all_workers(texts: Mapping[str, str]) -> bytes:
    """Returns the metrics in the files of all workers.

    Those of a worker that has died go while they are read, and those of one that begins are empty for a moment.
    """
    for _ in range(_READS - 1):
        try:
            return _read_all_workers(texts)
        except (OSError, struct.error, RuntimeError):
            continue
    return _read_all_workers(texts)


def _read_all_workers(texts: Mapping[str, str]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Described(MultiProcessCollector(None), texts))  # type: ignore[no-untyped-call]
    return generate_latest(registry)


class _Described:
    """The collector of all workers' files, with the texts of the families, which it does not know."""

    def __init__(self, collector: Any, texts: Mapping[str, str]) -> None:
        self._collector, self._texts = collector, texts

    def collect(self) -> Iterator[Any]:
        """Yields the families."""
        for family in self._collector.collect():
            family.documentation = self._texts.get(family.name, family.documentation)
            yield family
