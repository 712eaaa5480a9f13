"""Whether OpenTelemetry is on, and what it is told of requests. The SDK is an extra, which `otlp.py` alone imports.

It is on where the environment names a receiver of OTLP (`OTEL_EXPORTER_OTLP_ENDPOINT` or one for a single signal), as
https://opentelemetry.io/docs/languages/sdk-configuration/otlp-exporter/ describes.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Protocol

from gateway.observability.record import RequestRecord

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"

SIGNALS = ("traces", "metrics", "logs")

MISSING = (
    f"{ENDPOINT} is set, but OpenTelemetry is not installed and nothing is exported: make install EXTRAS=otel, or "
    "pip install '.[otel]'"
)


class Telemetry(Protocol):
    """Exports requests as spans, metrics and logs. Its methods return at once and raise nothing."""

    def begin(self, record: RequestRecord) -> None:
        """Opens the span of a request, as a child of the span that its headers name."""
        ...

    def finish(self, record: RequestRecord, now: float) -> None:
        """Closes the span of a request and measures it. now: in monotonic seconds."""
        ...

    def line(self, record: RequestRecord, line: Mapping[str, Any]) -> None:
        """Exports the log line of a request."""
        ...

    def message(self, text: str) -> None:
        """Exports a sentence for the operator."""
        ...

    def stop(self) -> None:
        """Exports what is left, within some seconds. Blocks."""
        ...


def signals(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Returns which of SIGNALS are exported: those with an endpoint, unless the environment switches them off."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    return tuple(
        signal
        for signal in SIGNALS
        if (environment.get(ENDPOINT) or environment.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"))
        and environment.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").strip().lower() != "none"
    )


def is_installed() -> bool:
    """Tells whether the extra is installed."""
    return find_spec("opentelemetry.exporter") is not None and find_spec("opentelemetry.sdk") is not None


def create(environment: Mapping[str, str], message: Callable[[str], None], **options: Any) -> Telemetry | None:
    """Returns the exporter, or None where OpenTelemetry is off or not installed; `message` is told the latter.

    options: those of `otlp.OtlpTelemetry`.
    """
    exported = signals(environment)
    if not exported:
        return None
    try:
        from gateway.observability.otlp import OtlpTelemetry
    # Nothing but a line in the log: the variable is often set for a whole cluster (docs/decisions.md).
    except ModuleNotFoundError:
        message(MISSING)
        return None
    return OtlpTelemetry(exported, message=message, **options)
