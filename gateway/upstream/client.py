"""The client that every route uses: keys, circuit breakers, retries and a limit around the bare session."""

import asyncio
import functools
import random
import time
from collections.abc import Mapping, Sequence

from gateway.auth.principal import Principal
from gateway.settings.schema import NamedUpstream, Settings
from gateway.upstream.attempts import NO_OPTIONS, Attempts, CallOptions, Resources
from gateway.upstream.circuit_breaker import Breakers
from gateway.upstream.concurrency import ConcurrencyLimiter, Wakeup
from gateway.upstream.in_flight import InFlight
from gateway.upstream.key_pool import KeyPool
from gateway.upstream.observer import UpstreamObserver
from gateway.upstream.response import ProxyRequest, shutdown_error
from gateway.upstream.retry import RetryBudget
from gateway.upstream.session import UpstreamSession


class UpstreamClient:
    """Cohere, or what stands in its place. Each call is an `Attempts`: `async with client.post(...) as response`."""

    routes_by_model = False

    def __init__(self, settings: Settings, keys: list[str], observer: UpstreamObserver, name: str = "") -> None:
        """name: of a table in `upstreams`; without one it is the default. Raises SettingError."""
        # The default upstream is made of settings at the top, as ever; a table has the same fields under its name.
        named = settings.upstreams[name] if name else None
        self._session = UpstreamSession(
            named.base_url if named is not None else settings.cohere_base_url,
            settings.timeouts,
            named or settings.upstream,
            f"upstreams.{name}" if name else "upstream",
        )
        self.resources = Resources(
            pool=KeyPool(keys, settings.pool, time.monotonic),
            breakers=Breakers(settings.breaker, time.monotonic, observer.on_breaker_change),
            limiter=ConcurrencyLimiter(settings.concurrency),
            in_flight=InFlight(),
            keys_freed=Wakeup(),
            observer=observer,
            retries=settings.retries,
            key_wait=settings.pool.queue_timeout,
            total=settings.timeouts.total,
            clock=time.monotonic,
            random=random.Random(),
        )

    async def start(self) -> None:
        """Opens the session; needs the running loop."""
        await self._session.start()

    async def stop(self) -> None:
        """Closes the session."""
        await self._session.stop()

    def configure(self, settings: Settings, keys: list[str]) -> None:
        """Takes over other keys, retries, breakers and limits, for the calls that follow."""
        resources = self.resources
        resources.retries, resources.key_wait = settings.retries, settings.pool.queue_timeout
        resources.pool.configure(keys, settings.pool)
        resources.breakers.configure(settings.breaker)
        resources.limiter.configure(settings.concurrency)
        # There may be new keys, or more calls allowed: those who wait for a key ask again.
        resources.keys_freed.notify_all()
        resources.observer.on_keys_configured(resources.pool.disabled)

    def condition(self) -> str:
        """Returns why calls to Cohere fail at present; an empty text if nothing is known to be wrong."""
        resources = self.resources
        if resources.breakers.is_connection_open:
            return "Cohere cannot be reached: the circuit breaker of the connection is open"
        disabled = resources.pool.disabled
        if disabled and disabled == len(resources.pool):
            return "Cohere refuses every key of the server's"
        return ""

    def accepts(self, upstreams: Mapping[str, NamedUpstream]) -> bool:
        """Tells whether these named upstreams can be taken over without other connections: they cannot."""
        return not upstreams

    def all_resources(self) -> Mapping[str, Resources]:
        """Returns what calls share, by upstream; this one has no name."""
        return {"": self.resources}

    def interrupt(self) -> None:
        """Ends what is under way: whoever waits or reads gets the error of a gateway that is shutting down."""
        self.resources.limiter.reject_waiters(shutdown_error())
        self.resources.in_flight.interrupt()

    def post(
        self,
        path: str,
        caller: Principal,
        body: bytes,
        streamed: bool,
        options: CallOptions = NO_OPTIONS,
    ) -> Attempts:
        """Posts a JSON body. The parameters are those of `Attempts`."""
        send = functools.partial(self._session.open, "POST", path, body, streamed)
        return Attempts(self.resources, send, caller, path, options, streamed=streamed)

    def get(self, path: str, caller: Principal) -> Attempts:
        """Gets a JSON document."""
        return Attempts(self.resources, functools.partial(self._session.open, "GET", path, None, False), caller, path)

    def forward(
        self,
        request: ProxyRequest,
        caller: Principal,
        path: str,
        repeatable: bool,
        options: CallOptions = NO_OPTIONS,
    ) -> Attempts:
        """Forwards a request as it came, but for the key. The parameters are those of `Attempts`; a request whose body
        is still arriving is never repeated.
        """
        send = functools.partial(self._session.forward, request)
        # What has been passed on is gone: nobody keeps a gigabyte to send it twice.
        repeatable = repeatable and isinstance(request.body, bytes | None)
        # `streamed` whatever comes back: a body is passed on as it arrives, and nobody needs the whole of it.
        return Attempts(self.resources, send, caller, path, options, streamed=True, repeatable=repeatable)

    def first_upstream(self, model: str, caller: Principal) -> tuple[str, str]:
        """Returns two empty texts: there is no other upstream."""
        return "", ""

    async def further_models(self, caller: Principal, pages: Sequence[bytes]) -> tuple[list[bytes], str]:
        """Returns pages of models that other upstreams have beside these, and a note: there are none."""
        return [], ""

    async def sleep(self, seconds: float) -> None:
        """Sleeps, but not in a gateway that is shutting down. Raises UpstreamError."""
        with self.resources.in_flight.interruptible():
            await asyncio.sleep(seconds)

    def retry_budget(self) -> RetryBudget:
        """Returns a budget for a 200 response that turned out to be an error."""
        return RetryBudget(self.resources.retries, time.monotonic(), time.monotonic, self.resources.random)

    def count_retry(self, reason: str) -> None:
        """Counts a retry that the pipeline makes."""
        self.resources.observer.on_retry(reason)
