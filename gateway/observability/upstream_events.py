"""What happens in calls to Cohere, as metrics and as sentences for the operator."""

from gateway.observability.access_log import Log
from gateway.observability.alerts import Alerts
from gateway.observability.metrics import Metrics


class UpstreamEvents:
    """Implements `UpstreamObserver` (`upstream/observer.py`)."""

    def __init__(self, metrics: Metrics, log: Log, alerts: Alerts) -> None:
        self._metrics, self._log, self._alerts = metrics, log, alerts

    def on_retry(self, reason: str) -> None:
        """Counts a retry by its reason."""
        self._metrics.retries.labels(reason).inc()

    def on_queue_wait(self, seconds: float) -> None:
        """Observes the time that a call waited for its turn."""
        self._metrics.queue_wait.observe(seconds)

    def on_key_disabled(self, key: str, code: str, disabled: int) -> None:
        """Counts the disabled keys and tells the operator which one joined them."""
        self._metrics.disabled_keys.set(disabled)
        self._log.message(
            f"Cohere {key} is disabled: {code}. The other keys serve; "
            "it is tried again from time to time, and after SIGHUP"
        )
        self._alerts.raise_alert("key_disabled", key, f"Cohere {key} is disabled: {code}", code=code, disabled=disabled)

    def on_key_enabled(self, key: str, disabled: int) -> None:
        """Counts the disabled keys and tells the operator which one left them."""
        self._metrics.disabled_keys.set(disabled)
        self._log.message(f"Cohere {key} serves again")

    def on_keys_configured(self, disabled: int) -> None:
        """Counts the disabled keys."""
        self._metrics.disabled_keys.set(disabled)

    def on_breaker_change(self, model: str | None, is_open: bool) -> None:
        """Shows a breaker's state and tells the operator of its change."""
        label = "connection" if model is None else self._metrics.known_model(model) or "none"
        self._metrics.breaker.labels(label).set(int(is_open))
        subject = "the connection to Cohere" if model is None else f"Cohere's model {label}"
        self._log.message(f"the circuit breaker of {subject} is {'open' if is_open else 'closed'}")
        if is_open:
            self._alerts.raise_alert("breaker_open", label, f"the circuit breaker of {subject} is open")
