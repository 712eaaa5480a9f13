"""What happens to the ledger's rows, as a metric and as sentences for the operator."""

import asyncio
import contextlib
from collections.abc import Callable

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
            # Counters of prometheus_client have locks, so this may be done in the ledger's thread.
            self._metrics.ledger_rows.labels(result).inc(count)
        if result == "lost" and count:
            self._in_loop(lambda: self._alerts.raise_alert("ledger_behind", "ledger", f"{count} rows are lost"))

    def on_bodies(self, result: str, count: int) -> None:
        """Counts the calls whose bodies were to be stored, by what became of them."""
        if count:
            self._metrics.ledger_bodies.labels(result).inc(count)

    def message(self, text: str) -> None:
        """Writes to the log, in its own loop if that still runs."""
        if not self._in_loop(lambda: self._log.message(text)):
            self._log.message(text)

    def _in_loop(self, work: Callable[[], None]) -> bool:
        """Leaves work to the loop of the log and the alerts. Returns whether that still runs."""
        if self._loop is not None:
            # The last rows are written when the loop may have ended already.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(work)
                return True
        return False
