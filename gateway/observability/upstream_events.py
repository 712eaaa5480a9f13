"""What happens in calls to Cohere, as metrics and as sentences for the operator."""

from gateway.observability.access_log import Log
from gateway.observability.alerts import Alerts
from gateway.observability.metrics import Count, Metrics


class UpstreamEvents:
    """Implements `UpstreamObserver` (`upstream/observer.py`), and of several upstreams `RoutingObserver`."""

    def __init__(
        self,
        metrics: Metrics,
        log: Log,
        alerts: Alerts,
        upstream: str = "",
        disabled_keys: dict[str, int] | None = None,
    ) -> None:
        """upstream: its name where there are several. disabled_keys: the number of them by upstream, shared by all."""
        self._metrics, self._log, self._alerts, self._upstream = metrics, log, alerts, upstream
        self._disabled_keys: dict[str, int] = {} if disabled_keys is None else disabled_keys
        self._attempts: dict[tuple[str, str], Count] = {}
        self._subject = f"Cohere (upstream {upstream})" if upstream else "Cohere"

    def named(self, upstream: str) -> "UpstreamEvents":
        """Returns what receives the events of one of several upstreams."""
        return UpstreamEvents(self._metrics, self._log, self._alerts, upstream, self._disabled_keys)

    def on_attempt(self, upstream: str, status: int) -> None:
        """Counts a call by what became of it."""
        result = "ok" if 200 <= status < 300 else "refused" if 400 <= status < 500 else "failed"
        counter = self._attempts.get((upstream, result))
        if counter is None:
            series = self._metrics.upstream_attempts.labels(upstream, result)
            counter = self._attempts[upstream, result] = self._metrics.count(series.inc)
        counter.added += 1

    def on_another_upstream(self, upstream: str) -> None:
        """Counts a request that goes on to another upstream."""
        self._metrics.upstream_fallbacks.labels(upstream).inc()

    def on_retry(self, reason: str) -> None:
        """Counts a retry by its reason."""
        self._metrics.retries.labels(reason).inc()

    def on_queue_wait(self, seconds: float) -> None:
        """Observes the time that a call waited for its turn."""
        self._metrics.queue_wait.observe(seconds)

    def on_key_disabled(self, key: str, code: str, disabled: int) -> None:
        """Counts the disabled keys and tells the operator which one joined them."""
        self._set_disabled_keys(disabled)
        self._log.message(
            f"{self._subject} {key} is disabled: {code}. The other keys serve; "
            "it is tried again from time to time, and after SIGHUP"
        )
        message = f"{self._subject} {key} is disabled: {code}"
        name = f"{self._upstream}/{key}" if self._upstream else key
        self._alerts.raise_alert("key_disabled", name, message, code=code, disabled=disabled)

    def on_key_enabled(self, key: str, disabled: int) -> None:
        """Counts the disabled keys and tells the operator which one left them."""
        self._set_disabled_keys(disabled)
        self._log.message(f"{self._subject} {key} serves again")

    def on_keys_configured(self, disabled: int) -> None:
        """Counts the disabled keys."""
        self._set_disabled_keys(disabled)

    def on_breaker_change(self, model: str | None, is_open: bool) -> None:
        """Shows a breaker's state and tells the operator of its change."""
        label = "connection" if model is None else self._metrics.known_model(model) or "none"
        subject = f"the connection to {self._subject}" if model is None else f"{self._subject}'s model {label}"
        if self._upstream:
            label = f"{self._upstream}/{label}"
        self._metrics.breaker.labels(label).set(int(is_open))
        self._log.message(f"the circuit breaker of {subject} is {'open' if is_open else 'closed'}")
        if is_open:
            self._alerts.raise_alert("breaker_open", label, f"the circuit breaker of {subject} is open")

    def _set_disabled_keys(self, disabled: int) -> None:
        self._disabled_keys[self._upstream] = disabled
        # The gauge has no label for upstreams, so it shows the sum of all.
        self._metrics.disabled_keys.set(sum(self._disabled_keys.values()))
