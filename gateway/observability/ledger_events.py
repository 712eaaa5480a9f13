"""What happens to the ledger's rows, as a metric and as sentences for the operator."""

import asyncio
import contextlib

from gateway.observability.access_log import Log
from gateway.observability.alerts import Alerts
from gateway.observability.metrics import Metrics


class LedgerEvents:
    """Implements `LedgerObserver` (`gateway/ledger/writer.py`), whose methods are called in the ledger's thread."""

    def __init__(self, metrics: Metrics, log: Log, alerts: Alerts) -> None:
        self._metrics, self._log, self._alerts = metrics, log, alerts
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Needs the running loop: the log belongs to it."""
        self._loop = asyncio.get_running_loop()

    def on_rows(self, result: str, count: int) -> None:
        """Counts rows by what became of them."""
        if count:
            self._metrics.ledger_rows.labels(result).inc(count)

    def message(self, text: str) -> None:
        """Writes to the log, in its own loop if that still runs."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._report, text)
                return
        self._log.message(text)

    def _report(self, text: str) -> None:
        self._log.message(text)
        self._alerts.raise_alert("ledger_behind", "ledger", text)
