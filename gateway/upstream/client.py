"""The way to Cohere that every route uses: places, keys, breakers and retries around the bare session.

An answer is asked for again only before its first byte has left: a whole one until it is all here, a streamed one until
its first piece is. What is worth it says the table in `retry.py`. When nothing is wrong, all this is a few comparisons.
"""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

from gateway.auth.principal import Principal
from gateway.errors import UpstreamError
from gateway.observability.access_log import Log
from gateway.observability.metrics import Metrics
from gateway.settings.schema import Settings
from gateway.upstream.attempts import Attempts
from gateway.upstream.circuit_breaker import WAY, Breakers
from gateway.upstream.concurrency import ConcurrencyLimiter
from gateway.upstream.key_pool import Lease, Pool, PoolKey
from gateway.upstream.response import ProxyRequest, ResponseContext, UpstreamResponse, stopping
from gateway.upstream.retry import RetryBudget
from gateway.upstream.session import UpstreamSession

T = TypeVar("T")
Send: TypeAlias = Callable[[str, float], Awaitable[UpstreamResponse]]
"""Makes the call once: with this key, to be complete by this moment of the loop's clock."""


class UpstreamClient:
    """Cohere, or what stands in its place, asked as often as it makes sense."""

    def __init__(self, settings: Settings, keys: list[str], metrics: Metrics, log: Log) -> None:
        """Raises SettingError."""
        self._session = UpstreamSession(settings.cohere_base_url, settings.timeouts, settings.upstream)
        self._retries, self._total = settings.retries, settings.timeouts.total
        self._wait = settings.pool.wait
        self._metrics, self._log = metrics, log
        self._random = random.Random()
        self._pool = Pool(keys, settings.pool, time.monotonic)
        self._breakers = Breakers(settings.breaker, time.monotonic, self._breaker_changed)
        self._places = ConcurrencyLimiter(settings.concurrency)
        self._asking: set[asyncio.Task[object]] = set()
        self._open: set[UpstreamResponse] = set()
        self._keys_changed: asyncio.Event | None = None
        self._stopping = False

    async def start(self) -> None:
        """Opens the session; needs the running loop."""
        await self._session.start()

    async def stop(self) -> None:
        await self._session.stop()

    def configure(self, settings: Settings, keys: list[str]) -> None:
        """Other keys, retries, breakers and places, for the calls that follow."""
        self._retries, self._wait = settings.retries, settings.pool.wait
        self._pool.configure(keys, settings.pool)
        self._breakers.configure(settings.breaker)
        self._places.configure(settings.concurrency)
        self.keys_changed()
        self._metrics.parked_keys.set(self._pool.parked)

    def interrupt(self) -> None:
        """Ends what is under way: those who wait or read are told that the gateway is stopping."""
        self._stopping = True
        self._places.dismiss(stopping())
        for task in self._asking:
            task.cancel()
        for reply in self._open:
            reply.interrupt()

    def post(
        self, path: str, caller: Principal, body: bytes, streamed: bool, model: str = "", weight: int = 1
    ) -> ResponseContext:
        """model: Cohere's name of it, where there is one; budgets and breakers go by it. weight: as in `through`."""
        return ResponseContext(lambda: self.open("POST", path, caller, body, streamed, model, weight))

    def get(self, path: str, caller: Principal) -> ResponseContext:
        return ResponseContext(lambda: self.open("GET", path, caller, None, False, ""))

    def carry(
        self, passage: ProxyRequest, caller: Principal, path: str, model: str, repeatable: bool, weight: int = 1
    ) -> ResponseContext:
        """Passes a request on as it came, but for the key. path: Cohere's, without the query string. repeatable: asking
        twice does no more than asking once. weight: as in `through`.
        """
        upload = not isinstance(passage.body, bytes | None)

        def send(key: str, last_deadline: float) -> Awaitable[UpstreamResponse]:
            # What comes in pieces takes as long as it takes: each piece has its own time.
            return self._session.pass_on(passage, key, math.inf if upload else last_deadline)

        return ResponseContext(
            lambda: self.through(
                path, caller, send, streamed=True, model=model, weight=weight, repeatable=repeatable and not upload
            )
        )

    async def open(
        self,
        method: str,
        path: str,
        caller: Principal,
        body: bytes | None,
        streamed: bool,
        model: str,
        weight: int = 1,
    ) -> UpstreamResponse:
        """Sends a request until its answer is good, or final. Raises UpstreamError where there is none."""

        def send(key: str, last_deadline: float) -> Awaitable[UpstreamResponse]:
            return self._session.open(method, path, key, body, streamed, last_deadline)

        return await self.through(path, caller, send, streamed=streamed, model=model, weight=weight)

    async def through(
        self,
        path: str,
        caller: Principal,
        send: Send,
        *,
        streamed: bool,
        model: str = "",
        weight: int = 1,
        repeatable: bool = True,
    ) -> UpstreamResponse:
        """As `open`, for any way of sending, say of a body that comes in pieces.

        streamed: of an answer that is a success only the first piece is waited for. weight: what it takes of a key's
        budget, which for some endpoints counts inputs. repeatable: `send` may be called more than once.
        """
        return await self._interruptible(Attempts(self, path, caller, send, streamed, model, weight, repeatable).run())

    async def rest(self, seconds: float) -> None:
        """Waits, but for no gateway that is stopping. Raises UpstreamError."""
        await self._interruptible(asyncio.sleep(seconds))

    async def _interruptible(self, waited: Coroutine[Any, Any, T]) -> T:
        """Raises UpstreamError when the gateway is stopping and its time is up."""
        if self._stopping:
            waited.close()
            raise stopping()
        task = asyncio.current_task()
        assert task is not None
        self._asking.add(task)
        try:
            return await waited
        except asyncio.CancelledError:
            # Our own cancellation, unless somebody else wants the task to end as well.
            if self._stopping and task.uncancel() == 0:
                raise stopping() from None
            raise
        finally:
            self._asking.discard(task)

    def patience(self) -> RetryBudget:
        """For an answer that began with 200 and turned out to be none."""
        return RetryBudget(self._retries, time.monotonic(), time.monotonic, self._random)

    # --- for the course of one call ------------------------------------------------------------------------

    async def place(self, owner: str) -> None:
        """Takes a place. Raises UpstreamError."""
        if not self._places.at_once():
            began = time.monotonic()
            try:
                await self._places.enter(owner)
            finally:
                self._metrics.queue_wait.observe(time.monotonic() - began)

    async def a_key(self, seconds: float) -> None:
        """Waits for a key that is to be free by then, or for news of the keys."""
        self._keys_changed = self._keys_changed or asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._keys_changed.wait()

    def keys_changed(self) -> None:
        """Whoever waits for a key may look again."""
        if self._keys_changed is not None:
            self._keys_changed.set()
            self._keys_changed = None

    def counted(self, why: str) -> None:
        """A retry."""
        self._metrics.retries.labels(why).inc()

    def opened(self, reply: UpstreamResponse) -> None:
        self._open.add(reply)
        reply.closing = self._closed

    def _closed(self, reply: UpstreamResponse) -> None:
        self._open.discard(reply)
        self._places.leave()

    def park(self, lease: Lease, told: UpstreamError) -> None:
        if self._pool.park(lease, told.failure):
            self._metrics.parked_keys.set(self._pool.parked)
            self._log.trouble(
                f"Cohere {lease.key.name} is parked: {told.failure.code}. The other keys serve; "
                "it is tried again from time to time, and after SIGHUP"
            )

    def unpark(self, key: PoolKey) -> None:
        self._metrics.parked_keys.set(self._pool.parked)
        self._log.trouble(f"Cohere {key.name} serves again")

    def _breaker_changed(self, model: str, is_open: bool) -> None:
        name = "way" if model == WAY else self._metrics.known_model(model) or "none"
        self._metrics.breaker.labels(name).set(int(is_open))
        what = "the way to Cohere" if model == WAY else f"Cohere's model {name}"
        self._log.trouble(f"the circuit breaker of {what} is {'open' if is_open else 'closed'}")
