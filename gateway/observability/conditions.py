"""What may be wrong with a part of the gateway for a while: looked at once a second, an alert for each beginning."""

import asyncio
from collections.abc import Callable, Sequence

from msgspec import Struct

from gateway.observability.alerts import Alerts, Event

LOOK_SECONDS = 1.0


class Condition(Struct, frozen=True):
    """One part. reason: returns what is wrong with it, empty while nothing is."""

    event: Event
    object: str
    reason: Callable[[], str]


class Conditions:
    """Watches conditions from `start` to `stop`. Does nothing where no alerts are sent."""

    def __init__(self, alerts: Alerts, conditions: Sequence[Condition]) -> None:
        self._alerts, self._conditions = alerts, conditions
        self._present: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Needs the running loop."""
        if self._alerts.enabled:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Sends an alert for what was all right when this was called last."""
        for condition in self._conditions:
            reason = condition.reason()
            # An alert at the beginning alone: what lasts would fill every digest.
            if reason and condition.object not in self._present:
                self._present.add(condition.object)
                self._alerts.raise_alert(condition.event, condition.object, reason)
            elif not reason:
                self._present.discard(condition.object)
