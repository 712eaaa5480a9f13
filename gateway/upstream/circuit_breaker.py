"""Circuit breakers: after many failures no call is made for a while, then one that decides.

Pure but for the clock, which is passed in. There is one breaker for the connection to Cohere and one for each model.
Nothing is remembered of what has not failed, so that a call costs nothing here as long as all is well.
"""

from collections.abc import Callable
from typing import Final

from gateway.settings.schema import BreakerSettings

CONNECTION: Final = None
"""The key of the breaker of the connection itself, whatever the model."""

MAX_BREAKERS = 1_000
"""Breakers at once: callers may name any model."""


class Breaker:
    """Closed (calls are made), open (none is), or half open (one is, the probe).

    window_start, retry_at: by the clock. calls, failures: of the window.
    """

    __slots__ = ("calls", "failures", "is_open", "probing", "retry_at", "window_start")

    def __init__(self, now: float) -> None:
        self.window_start, self.calls, self.failures = now, 0, 0
        self.retry_at = 0.0
        self.is_open = self.probing = False


class Breakers:
    """All breakers, by model. on_change is called with a model, or CONNECTION, and whether its breaker is open."""

    def __init__(
        self, settings: BreakerSettings, clock: Callable[[], float], on_change: Callable[[str | None, bool], None]
    ) -> None:
        self._settings, self._clock, self._on_change = settings, clock, on_change
        self._breakers: dict[str | None, Breaker] = {}

    def configure(self, settings: BreakerSettings) -> None:
        """Takes over other bounds. Where no breaker may open any more, the open ones close."""
        self._settings = settings
        if not settings.failures:
            breakers, self._breakers = self._breakers, {}
            for model, breaker in breakers.items():
                if breaker.is_open:
                    self._on_change(model, False)

    def report(self) -> list[dict[str, str | float | None]]:
        """Returns the breakers that are open: of which model, None for the connection, and the seconds they stay so."""
        now = self._clock()
        return [
            {"model": model, "seconds": max(breaker.retry_at - now, 0.0)}
            for model, breaker in self._breakers.items()
            if breaker.is_open
        ]

    @property
    def is_connection_open(self) -> bool:
        """Cohere could not be reached so often that calls are refused for now."""
        breaker = self._breakers.get(CONNECTION)
        return breaker is not None and breaker.is_open

    def admit(self, model: str) -> float:
        """Returns 0 if a call may be made, perhaps as the probe, else the seconds for which none may.

        Each call that is admitted is reported by one of the three methods that follow.
        """
        if not self._breakers:
            return 0.0
        now = self._clock()
        is_open = [breaker for key in (CONNECTION, model) if (breaker := self._breakers.get(key)) and breaker.is_open]
        # First all of them are asked, then all are marked: a probe that one allows and the other forbids would never be
        # reported.
        for breaker in is_open:
            if breaker.probing or breaker.retry_at > now:
                return max(breaker.retry_at - now, 1.0)
        for breaker in is_open:
            breaker.probing = True
        return 0.0

    def record_success(self, model: str) -> None:
        """Notes that Cohere answered, if only with an error that is the caller's."""
        if self._breakers:
            for key in (CONNECTION, model):
                self._record(key, False)

    def record_failure(self, model: str, connection: bool) -> None:
        """Notes that a call failed. connection: Cohere could not be reached."""
        # Zero switches breakers off.
        if not self._settings.failures:
            return
        key = CONNECTION if connection else model
        if key not in self._breakers:
            if len(self._breakers) >= MAX_BREAKERS:
                # Those that count failures are forgotten and begin anew; open ones are kept, or Cohere would be called
                # again at once.
                self._breakers = {key: breaker for key, breaker in self._breakers.items() if breaker.is_open}
            self._breakers[key] = Breaker(self._clock())
        self._record(key, True)
        if connection:
            self.record_nothing(model)
        else:
            # Cohere answered, if only with a failure: it can be reached.
            self._record(CONNECTION, False)

    def record_nothing(self, model: str) -> None:
        """Notes that a call said nothing of Cohere, say because its caller left: the next one may probe."""
        for key in (CONNECTION, model):
            if breaker := self._breakers.get(key):
                breaker.probing = False

    def _record(self, key: str | None, failed: bool) -> None:
        breaker = self._breakers.get(key)
        if breaker is None:
            return
        now, settings = self._clock(), self._settings
        if breaker.is_open:
            if not breaker.probing:
                return  # the call was under way when the breaker opened
            breaker.probing = False
            if failed:
                breaker.retry_at = now + settings.open_seconds
            else:
                del self._breakers[key]
                self._on_change(key, False)
            return
        if now - breaker.window_start >= settings.window:
            # A whole window without trouble: nothing is remembered of what is well, so that `admit` has nothing to look
            # through.
            if not failed:
                del self._breakers[key]
                return
            breaker.window_start, breaker.calls, breaker.failures = now, 0, 0
        breaker.calls += 1
        breaker.failures += failed
        # Half of the calls at least: a busy model has some failures in each window without being down.
        if breaker.failures >= settings.failures and breaker.failures * 2 >= breaker.calls:
            breaker.is_open, breaker.retry_at = True, now + settings.open_seconds
            self._on_change(key, True)
