"""Circuit breakers: who fails all the time is left alone for a while, then tried with one call.

Pure but for the clock, which is passed in. There is one for the way to Cohere and one for each model. Nothing is kept
of what has not failed, so that a call costs nothing here as long as all is well.
"""

from collections.abc import Callable
from typing import Final

from gateway.settings.schema import BreakerSettings

CONNECTION: Final = None
"""The key of the breaker of the connection itself, whatever the model."""

MOST = 1_000
"""Breakers at once: callers may name any model."""


class Breaker:
    """Closed (calls go through), open (none does), or half open (one does, and decides)."""

    __slots__ = ("began", "calls", "failures", "opened", "probing", "until")

    def __init__(self, now: float) -> None:
        self.began, self.calls, self.failures = now, 0, 0
        self.until = 0.0
        self.opened = self.probing = False


class Breakers:
    """All of them. `changed` is told a name and whether it is open."""

    def __init__(
        self, settings: BreakerSettings, clock: Callable[[], float], changed: Callable[[str | None, bool], None]
    ) -> None:
        self.settings = settings
        self._clock, self._changed = clock, changed
        self._of: dict[str | None, Breaker] = {}

    def configure(self, settings: BreakerSettings) -> None:
        """Other bounds. Where no breaker may open any more, those that are open close."""
        self.settings = settings
        if not settings.failures:
            broken, self._of = self._of, {}
            for name, breaker in broken.items():
                if breaker.opened:
                    self._changed(name, False)

    def refused(self, model: str) -> float:
        """Seconds for which a call is not to be made; 0 lets it through, perhaps as the probe of a half open one."""
        if not self._of:
            return 0.0
        now = self._clock()
        found = [breaker for name in (CONNECTION, model) if (breaker := self._of.get(name)) and breaker.opened]
        for breaker in found:
            if breaker.probing or breaker.until > now:
                return max(breaker.until - now, 1.0)
        for breaker in found:
            breaker.probing = True
        return 0.0

    def succeeded(self, model: str) -> None:
        """Cohere answered, if only to refuse."""
        if self._of:
            for name in (CONNECTION, model):
                self._counted(name, False)

    def failed(self, model: str, way: bool) -> None:
        """way: it was the connection, not an answer."""
        if not self.settings.failures:
            return
        name = CONNECTION if way else model
        if name not in self._of:
            if len(self._of) >= MOST:
                self._of = {one: breaker for one, breaker in self._of.items() if breaker.opened}
            self._of[name] = Breaker(self._clock())
        self._counted(name, True)
        if name == CONNECTION:
            self.undecided(model)
        else:
            self._counted(CONNECTION, False)

    def undecided(self, model: str) -> None:
        """The call said nothing of Cohere, say because its caller left: the next one may probe."""
        for name in (CONNECTION, model):
            if breaker := self._of.get(name):
                breaker.probing = False

    def _counted(self, name: str | None, failed: bool) -> None:
        breaker = self._of.get(name)
        if breaker is None:
            return
        now, settings = self._clock(), self.settings
        if breaker.opened:
            if not breaker.probing:
                return  # it was under way when the breaker opened
            breaker.probing = False
            if failed:
                breaker.until = now + settings.open_seconds
            else:
                del self._of[name]
                self._changed(name, False)
            return
        if now - breaker.began >= settings.window:
            if not failed:
                del self._of[name]
                return
            breaker.began, breaker.calls, breaker.failures = now, 0, 0
        breaker.calls += 1
        breaker.failures += failed
        if breaker.failures >= settings.failures and breaker.failures * 2 >= breaker.calls:
            breaker.opened, breaker.until = True, now + settings.open_seconds
            self._changed(name, True)
