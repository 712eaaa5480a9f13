"""Requests as OpenTelemetry spans, metrics and logs, sent by OTLP over HTTP. The only module that imports the SDK.

Names are those of https://github.com/open-telemetry/semantic-conventions-genai (spans, metrics; `gen_ai.system` and the
token names of before are gone) and of the HTTP conventions; what they have no name for is below `cohere_gateway.`. A
span begins and ends where the record of its request does (`lifecycle.py`), and each attempt at Cohere is an event of
it. No prompt, answer, key or address is in any of them: a record has none of these.

Everything about the connection is the SDK's, by the standard variables (`OTEL_*`): endpoint, headers, certificates,
sampler, resource, limits, intervals.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from opentelemetry._logs import Logger, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Histogram, Observation
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway import __version__
from gateway.observability.metrics import Metrics, Sample
from gateway.observability.record import RequestRecord, TimedAttempt

SCOPE = "cohere-gateway"
PROVIDER = "cohere"

UNTRACED = frozenset({"health", "metrics"})
"""Operations without a span: machines ask for them every few seconds, and nobody looks for them."""

GEN_AI_OPERATIONS: Mapping[str, str] = {
    "chat": "chat",
    "responses": "chat",
    "embed": "embeddings",
    "embeddings": "embeddings",
    "rerank": "rerank",
    "transcription": "transcription",
    "transcriptions": "transcription",
    "parse": "parse",
    "classify": "classify",
}
"""By an operation of ours or a group of Cohere's methods: the value of `gen_ai.operation.name`.

The conventions have names for chat and embeddings and allow others.
"""

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = tuple(4**power for power in range(14))
SECONDS_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
SECONDS_TO_FIRST = (*(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),)
"""Boundaries of buckets, which the conventions give."""

# For each signal, when the process ends.
STOP_MILLISECONDS = 3_000

REPORT_SECONDS = 60.0
"""The SDK's complaints, such as a receiver that is away, are passed on this often."""


class OtlpSpan:
    """The span of one request. context: what belongs to it, such as its log line."""

    __slots__ = ("context", "sampled", "span", "trace_id")

    def __init__(self, span: Span) -> None:
        context = span.get_span_context()
        self.span, self.sampled = span, context.trace_flags.sampled
        self.trace_id = format_trace_id(context.trace_id)
        self.context: Context = set_span_in_context(span)


class OtlpTelemetry:
    """Implements `telemetry.Telemetry`."""

    def __init__(
        self,
        signals: Sequence[str],
        metrics: Metrics,
        message: Callable[[str], None],
        propagates: bool,
        upstream: str,
    ) -> None:
        """signals: which of traces, metrics and logs are exported. propagates: Cohere gets `traceparent`. upstream:
        what answers, if it is not Cohere.
        """
        # First, since the providers may complain while they are made.
        _report_complaints(message)
        resource = Resource.create(
            {
                "service.name": SCOPE,
                "service.version": __version__,
                **({"cohere_gateway.upstream": upstream} if upstream else {}),
                # Read here, because the SDK lets what it is given win over the environment.
                **{name: value for name, value in OTELResourceDetector().detect().attributes.items() if value},
                # Each worker exports for itself: under one id they would overwrite each other's counters.
                "service.instance.id": str(uuid.uuid4()),
            }
        )
        self._known_model, self._propagates = metrics.known_model, propagates
        self._propagator = TraceContextTextMapPropagator()
        self._providers: list[TracerProvider | MeterProvider | LoggerProvider] = []
        self._tracer: Tracer | None = None
        self._instruments: _Instruments | None = None
        self._logger: Logger | None = None
        if "traces" in signals:
            # Not at the exit of the interpreter: `stop` shuts it down, within a time.
            traces = TracerProvider(resource=resource, shutdown_on_exit=False)
            traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
            self._providers.append(traces)
            self._tracer = traces.get_tracer(SCOPE, __version__)
        if "metrics" in signals:
            reader = PeriodicExportingMetricReader(OTLPMetricExporter())
            meters = MeterProvider([reader], resource, shutdown_on_exit=False)
            self._providers.append(meters)
            self._instruments = _Instruments(meters, metrics)
        if "logs" in signals:
            logs = LoggerProvider(resource, shutdown_on_exit=False)
            logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
            self._providers.append(logs)
            self._logger = logs.get_logger(SCOPE, __version__)

    def begin(self, record: RequestRecord) -> None:
        if self._tracer is None:
            return
        # The propagator reads these two alone.
        carrier = {
            name: value.decode("latin-1")
            for name in ("traceparent", "tracestate")
            if (value := record.headers.get(name.encode())) is not None
        }
        # Not the current context: a request is a trace of its own unless its caller says otherwise.
        parent = self._propagator.extract(carrier, Context()) if carrier else Context()
        # Called by its verb until its operation is known.
        span = OtlpSpan(self._tracer.start_span(record.method, parent, SpanKind.SERVER))
        record.span = span
        if self._propagates:
            headers: dict[str, str] = {}
            self._propagator.inject(headers, span.context)
            record.trace_headers = tuple(headers.items())

    def finish(self, record: RequestRecord, now: float) -> None:
        if record.operation in UNTRACED:
            return
        if self._instruments is not None:
            self._instruments.measure(record, now, self._known_model(record.model))
        # A trace that is not sampled has a span without anything in it.
        if isinstance(record.span, OtlpSpan) and record.span.span.is_recording():
            self._end(record.span.span, record, now)

    def _end(self, span: Span, record: RequestRecord, now: float) -> None:
        began = time.time_ns() - int(now * 1e9)  # of the monotonic clock, in Unix nanoseconds
        attributes = attributes_of(record)
        span.update_name(span_name(record))
        span.set_attributes(attributes)
        for number, attempt in enumerate(record.attempts, 1):
            at = began + int(attempt.began * 1e9) if isinstance(attempt, TimedAttempt) else None
            span.add_event("cohere_gateway.attempt", _attempt_attributes(number, attempt), at)
        if record.fault is not None and record.fault.startswith(("provider_", "gateway_")):
            # A caller's mistake is no error of a server's span: the conventions leave its status unset.
            span.set_status(StatusCode.ERROR, record.error or record.fault.value)
        # At the moment of the line and the row, and not a little later.
        span.end(began + int(now * 1e9))

    def line(self, record: RequestRecord, line: Mapping[str, Any]) -> None:
        if self._logger is None or record.operation in UNTRACED:
            return
        failed = record.fault is not None and record.fault.startswith(("provider_", "gateway_"))
        self._logger.emit(
            timestamp=time.time_ns(),
            # So that a line is found with its span.
            context=record.span.context if isinstance(record.span, OtlpSpan) else Context(),
            severity_number=SeverityNumber.ERROR if failed else SeverityNumber.INFO,
            severity_text="ERROR" if failed else "INFO",
            body=f"{line['method']} {line['path']} {line['status']}",
            attributes={f"cohere_gateway.{name}": value for name, value in line.items() if value is not None},
            event_name="cohere_gateway.request",
        )

    def message(self, text: str) -> None:
        if self._logger is not None:
            self._logger.emit(
                timestamp=time.time_ns(),
                context=Context(),
                severity_number=SeverityNumber.WARN,
                severity_text="WARN",
                body=text,
                event_name="cohere_gateway.message",
            )

    def stop(self) -> None:
        for provider in self._providers:
            if isinstance(provider, MeterProvider):
                provider.shutdown(STOP_MILLISECONDS)
            else:
                # Its `shutdown` takes no time-out, so what is left is exported within one before.
                provider.force_flush(STOP_MILLISECONDS)
                provider.shutdown()


def operation_of(record: RequestRecord) -> str:
    """Returns the value of `gen_ai.operation.name`; empty for what asks no model."""
    return GEN_AI_OPERATIONS.get(record.operation) or GEN_AI_OPERATIONS.get(record.method_group, "")


def span_name(record: RequestRecord) -> str:
    """Returns `{gen_ai.operation.name} {gen_ai.request.model}`, or the verb and the operation of what asks no model."""
    operation = operation_of(record)
    if operation:
        return f"{operation} {record.model}".rstrip()
    return f"{record.method} {record.operation}"


def attributes_of(record: RequestRecord) -> dict[str, str | int | float | bool]:
    """Returns the attributes of a request's span. What is not known is left out."""
    values: dict[str, str | int | float | bool | None] = {
        "http.request.method": record.method,
        "url.path": record.path,
        "http.response.status_code": record.status or None,
        "error.type": record.error or (record.fault.value if record.fault is not None else None),
        "cohere_gateway.request.id": record.request_id,
        # Only where there is a row that it leads to.
        "cohere_gateway.log.id": record.id if record.has_row else None,
        "cohere_gateway.operation": record.operation,
        "cohere_gateway.door": record.door,
        "cohere_gateway.outcome": record.outcome,
        "cohere_gateway.fault": record.fault.value if record.fault is not None else None,
        "cohere_gateway.cache": record.cache or None,
        "cohere_gateway.key.alias": record.principal.name if record.principal.key is not None else None,
        "cohere_gateway.team.id": record.principal.team.team_id if record.principal.team is not None else None,
        "cohere_gateway.notes": len(record.notes) or None,
        "cohere_gateway.retries": record.retries or None,
        "cohere_gateway.attempt.upstream": (record.attempts[-1].upstream or None) if record.attempts else None,
    }
    operation = operation_of(record)
    if operation:
        values |= {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": record.requested_model or record.model or None,
            "gen_ai.response.model": record.model or None,
            "gen_ai.request.stream": record.streamed or None,
            "gen_ai.response.time_to_first_chunk": (
                record.first_byte - record.started if record.streamed and record.first_byte else None
            ),
            "gen_ai.usage.input_tokens": record.prompt_tokens or None,
            "gen_ai.usage.output_tokens": record.completion_tokens or None,
            "gen_ai.usage.cache_read.input_tokens": record.cached_tokens or None,
            "gen_ai.usage.reasoning.output_tokens": record.thinking_tokens or None,
            "cohere_gateway.cost.usd": float(record.cost_text) if record.cost_text else None,
        }
    return {name: value for name, value in values.items() if value is not None}


def _attempt_attributes(number: int, attempt: Any) -> dict[str, str | int | float]:
    return {
        "cohere_gateway.attempt.number": number,
        "cohere_gateway.attempt.key": attempt.key,
        "cohere_gateway.attempt.duration_ms": attempt.ms,
        **({"http.response.status_code": attempt.status} if attempt.status else {}),
        **({"cohere.trace_id": attempt.trace_id} if attempt.trace_id else {}),
        **({"cohere_gateway.attempt.upstream": attempt.upstream} if attempt.upstream else {}),
    }


class _Instruments:
    """The histograms of the conventions, and the gateway's own counters and gauges under the names of `/metrics`."""

    def __init__(self, provider: MeterProvider, metrics: Metrics) -> None:
        meter = provider.get_meter(SCOPE, __version__)

        def histogram(name: str, unit: str, text: str, boundaries: Sequence[float]) -> Histogram:
            return meter.create_histogram(name, unit, text, explicit_bucket_boundaries_advisory=boundaries)

        self._duration = histogram("gen_ai.client.operation.duration", "s", "Calls to Cohere", SECONDS)
        self._tokens = histogram("gen_ai.client.token.usage", "{token}", "Tokens that Cohere bills", TOKENS)
        self._request = histogram("gen_ai.server.request.duration", "s", "Requests to a model", SECONDS)
        self._first = histogram(
            "gen_ai.server.time_to_first_token", "s", "Until the first byte of a stream", SECONDS_TO_FIRST
        )
        self._per_token = histogram(
            "gen_ai.server.time_per_output_token", "s", "Between the tokens of a stream", SECONDS_PER_TOKEN
        )
        self._http = histogram("http.server.request.duration", "s", "HTTP requests", SECONDS)
        # Read when they are exported, so that nothing is counted a second time for it.
        for family in metrics.numbers():
            create = meter.create_observable_counter if family.is_counter else meter.create_observable_gauge
            create(family.name, [_callback(family.read)], description=family.text)

    def measure(self, record: RequestRecord, now: float, model: str) -> None:
        """Measures a finished request. model: a label of `/metrics`, as callers may write anything."""
        error = {"error.type": record.fault.value} if record.fault is not None else {}
        duration = now - record.started
        http: dict[str, str | int] = {
            "http.request.method": record.method,
            "http.response.status_code": record.status,
            **error,
        }
        # Of all requests. What follows is of those that ask a model.
        self._http.record(duration, http)
        operation = operation_of(record)
        if not operation:
            return
        labels = {"gen_ai.operation.name": operation, "gen_ai.provider.name": PROVIDER, "gen_ai.request.model": model}
        self._request.record(duration, {**labels, **error})
        if record.upstream_ended:
            self._duration.record(record.upstream_ended - record.upstream_began, {**labels, **error})
        for direction in ("input", "output"):
            if count := record.billed.get(f"{direction}_tokens"):
                self._tokens.record(count, {**labels, "gen_ai.token.type": direction})
        if record.streamed and record.first_byte:
            self._first.record(record.first_byte - record.started, labels)
            if (seconds := record.seconds_per_token(now)) is not None:
                self._per_token.record(seconds, labels)


def _callback(read: Callable[[], Iterable[Sample]]) -> Callable[[CallbackOptions], list[Observation]]:
    return lambda _: [Observation(sample.value, dict(sample.labels)) for sample in read()]


class _Complaints(logging.Handler):
    """Passes what the SDK complains about on to the operator's log, once in a while."""

    def __init__(self, message: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._message, self._reported = message, -REPORT_SECONDS

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._reported >= REPORT_SECONDS:
            self._reported = now
            self._message(f"OpenTelemetry: {record.getMessage()}")


def _report_complaints(message: Callable[[str], None]) -> None:
    logger = logging.getLogger("opentelemetry")
    # The SDK's own lines would stand among the log's JSON.
    logger.handlers[:] = [_Complaints(message)]
    logger.propagate = False
