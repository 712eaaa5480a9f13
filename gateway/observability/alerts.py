"""Alerts: what an operator should hear of at once, sent to one webhook.

A message is `{"event", "time", "message", "object", "details"}`, signed with HMAC-SHA256 over its bytes in the header
`x-gateway-signature: sha256=...`. The first of an event is sent at once; what follows within a minute is sent together
at its end, with the number of each message. A delivery that fails is tried again, later and later, and then given up;
nobody waits for any of this.
"""

import asyncio
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import msgspec
from msgspec import Struct

from gateway.settings.schema import SettingError

if TYPE_CHECKING:
    import aiohttp

Event: TypeAlias = Literal[
    "soft_budget",
    "budget",
    "key_disabled",
    "breaker_open",
    "limits_degraded",
    "ledger_behind",
    "store_away",
    "deprecated_model",
]
EVENTS: tuple[Event, ...] = get_args(Event)

SIGNATURE_HEADER = "x-gateway-signature"

DIGEST_SECONDS = 60.0
"""After an alert, further ones of its event wait for this long, and go together."""

RETRY_SECONDS = (1.0, 5.0, 25.0, 125.0)
"""Pauses before a delivery is tried again."""

DELIVERY_SECONDS = 10.0

MAX_OBJECTS = 100
"""Objects of one digest; further ones are counted."""

MAX_DELIVERIES = 100
"""Deliveries under way at once; further alerts are dropped, and the log says so."""

MAX_ONCE = 10_000
"""Alerts that are remembered as sent, for those that are due once."""


class Alert(Struct, frozen=True):
    """One message. object: what it is about, such as `key k-1`. details: more about it, by name."""

    event: Event
    time: str
    message: str
    object: str
    details: Mapping[str, Any]


class Alerts:
    """Sends alerts, if there is a URL. message: writes to the log."""

    def __init__(self, url: str, secret: str, message: Callable[[str], None], digest: float = DIGEST_SECONDS) -> None:
        """Raises SettingError for a URL that is none, or one without a secret."""
        if url and not url.startswith(("http://", "https://")):
            raise SettingError("alerts.url: it is not an http or https address")
        if url and not secret:
            raise SettingError("alerts.secret: alerts are signed; set it to a secret that the receiver knows as well")
        self._url, self._secret, self._message, self._digest = url, secret.encode(), message, digest
        self._waiting: dict[Event, OrderedDict[str, tuple[int, Alert]]] = {}
        self._once: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    @property
    def enabled(self) -> bool:
        """There is somebody to send alerts to."""
        return bool(self._url)

    def raise_alert(self, event: Event, object: str, message: str, **details: Any) -> None:
        """Sends an alert, at once or with the next digest of its event. Belongs to the running loop."""
        if not self._url:
            return
        alert = Alert(event, datetime.now(UTC).isoformat(timespec="milliseconds"), message, object, details)
        waiting = self._waiting.get(event)
        if waiting is None:
            self._waiting[event] = OrderedDict()
            self._deliver(alert)
            self._start(self._send_digests(event))
        else:
            count, _ = waiting.get(object, (0, alert))
            # Of an object that waits already the newest message counts, and how many there were.
            if count or len(waiting) < MAX_OBJECTS:
                waiting[object] = (count + 1, alert)

    def raise_once(
        self,
        key: tuple[str, ...],
        event: Event,
        object: str,
        message: str,
        claim: Callable[[], Awaitable[bool]] | None = None,
        **details: Any,
    ) -> None:
        """Sends an alert that this process has not sent yet, by this key.

        claim: returns whether no other process has sent it.
        """
        if not self._url or key in self._once:
            return
        # Before the claim is answered, so that this process asks once.
        self._once[key] = None
        if len(self._once) > MAX_ONCE:
            self._once.popitem(last=False)
        raise_alert = partial(self.raise_alert, event, object, message, **details)
        if claim is None:
            raise_alert()
        else:
            self._start(self._raise_claimed(claim, raise_alert))

    async def _raise_claimed(self, claim: Callable[[], Awaitable[bool]], raise_alert: Callable[[], None]) -> None:
        if await claim():
            raise_alert()

    async def stop(self) -> None:
        """Gives up what has not been delivered."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_digests(self, event: Event) -> None:
        """Sends what comes within each minute together, until a minute brings nothing."""
        while True:
            await asyncio.sleep(self._digest)
            waiting = self._waiting[event]
            if not waiting:
                del self._waiting[event]
                return
            self._waiting[event] = OrderedDict()
            (count, last) = next(reversed(waiting.values()))
            # A single one is sent as it is: receivers need not know of digests for it.
            if len(waiting) == 1 and count == 1:
                self._deliver(last)
                continue
            total = sum(count for count, _ in waiting.values())
            alerts = [{"count": count, **msgspec.to_builtins(alert)} for count, alert in waiting.values()]
            message = f"{total} more since the last alert of this kind"
            self._deliver(Alert(event, last.time, message, "", {"alerts": alerts}))

    def _deliver(self, alert: Alert) -> None:
        # The timers of digests, one for each event, are tasks as well.
        if len(self._tasks) >= MAX_DELIVERIES + len(EVENTS):
            self._message(f"alerts: too many are waiting to be sent; dropped: {alert.message}")
            return
        self._start(self._try_to_deliver(alert))

    async def _try_to_deliver(self, alert: Alert) -> None:
        # Once, so that each attempt sends the same bytes and signature.
        body = msgspec.json.encode(alert)
        signature = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
        headers = {"content-type": "application/json", SIGNATURE_HEADER: f"sha256={signature}"}
        for pause in (*RETRY_SECONDS, None):
            reason = await self._post(body, headers)
            if not reason:
                return
            if pause is None:
                self._message(f"alerts: the webhook could not be reached: {reason}; dropped: {alert.message}")
                return
            await asyncio.sleep(pause)

    async def _post(self, body: bytes, headers: Mapping[str, str]) -> str:
        """Returns why a delivery failed; empty if it did not."""
        import aiohttp  # whoever has no webhook does not load it

        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DELIVERY_SECONDS))
        try:
            # A redirect would take the message, with its signature, to somebody else.
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                return "" if response.status < 300 else f"status {response.status}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return type(error).__name__
