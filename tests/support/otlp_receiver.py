"""A receiver of OTLP over HTTP, which keeps what it is sent: spans, metrics and log records, decoded from protobuf."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.waiting import WAIT_SECONDS

REQUESTS: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


class OtlpReceiver:
    """What has arrived. url: the value of OTEL_EXPORTER_OTLP_ENDPOINT."""

    def __init__(self) -> None:
        self.url = ""
        self.headers: dict[str, str] = {}
        self._changed = threading.Condition()
        self._received: list[Any] = []

    def receive(self, message: Any, headers: dict[str, str]) -> None:
        with self._changed:
            self._received.append(message)
            self.headers = headers
            self._changed.notify_all()

    def wait_for(self, wanted: Callable[[], Any], timeout: float = WAIT_SECONDS) -> Any:
        """Returns what `wanted` finds as soon as it finds something."""
        with self._changed:
            result = self._changed.wait_for(wanted, timeout)
        assert result, "it was not exported in time"
        return result

    @property
    def raw(self) -> str:
        """Everything as text."""
        return "\n".join(str(message) for message in self._received)

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for message in self._received
            if isinstance(message, ExportTraceServiceRequest)
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def metrics(self) -> dict[str, Any]:
        """The last value of each metric by its name."""
        return {
            metric.name: metric
            for message in self._received
            if isinstance(message, ExportMetricsServiceRequest)
            for resource in message.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    @property
    def logs(self) -> list[Any]:
        return [
            record
            for message in self._received
            if isinstance(message, ExportLogsServiceRequest)
            for resource in message.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    @property
    def resource(self) -> dict[str, Any]:
        """The attributes of the resource of the last spans."""
        messages = [message for message in self._received if isinstance(message, ExportTraceServiceRequest)]
        return attributes(messages[-1].resource_spans[0].resource)


def attributes(holder: Any) -> dict[str, Any]:
    """The attributes of a span, an event, a data point or a log record."""
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in holder.attributes}


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """A receiver on a port of its own."""
    receiver = OtlpReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            message = REQUESTS[self.path]()
            message.ParseFromString(body)
            receiver.receive(message, {name.lower(): value for name, value in self.headers.items()})
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
