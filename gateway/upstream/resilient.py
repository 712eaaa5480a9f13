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

from gateway.access.caller import Caller
from gateway.errors import UpstreamError, failure
from gateway.log import Log
from gateway.metrics import Metrics
from gateway.settings import Settings
from gateway.upstream.breaker import WAY, Breakers
from gateway.upstream.client import Upstream
from gateway.upstream.keys import TRIAL_LIMIT, TRIAL_REMAINING, Lease, Pool, PoolKey
from gateway.upstream.places import Places
from gateway.upstream.reply import Opening, Passage, Reply, stopping
from gateway.upstream.retry import RULES, Key, Patience, Rule, retry_after, rule, trouble
from translators.refusals import refusal

T = TypeVar("T")
Send: TypeAlias = Callable[[str, float], Awaitable[Reply]]
"""Makes the call once: with this key, to be complete by this moment of the loop's clock."""


class ResilientUpstream:
    """Cohere, or what stands in its place, asked as often as it makes sense."""

    def __init__(self, settings: Settings, keys: list[str], metrics: Metrics, log: Log) -> None:
        """Raises SettingError."""
        self._session = Upstream(settings.cohere_base_url, settings.timeouts, settings.upstream)
        self._retries, self._total = settings.retries, settings.timeouts.total
        self._wait = settings.pool.wait
        self._metrics, self._log = metrics, log
        self._random = random.Random()
        self._pool = Pool(keys, settings.pool, time.monotonic)
        self._breakers = Breakers(settings.breaker, time.monotonic, self._breaker_changed)
        self._places = Places(settings.concurrency)
        self._asking: set[asyncio.Task[object]] = set()
        self._open: set[Reply] = set()
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

    def post(self, path: str, caller: Caller, body: bytes, streamed: bool, model: str = "", weight: int = 1) -> Opening:
        """model: Cohere's name of it, where there is one; budgets and breakers go by it. weight: as in `through`."""
        return Opening(lambda: self.open("POST", path, caller, body, streamed, model, weight))

    def get(self, path: str, caller: Caller) -> Opening:
        return Opening(lambda: self.open("GET", path, caller, None, False, ""))

    def carry(
        self, passage: Passage, caller: Caller, path: str, model: str, repeatable: bool, weight: int = 1
    ) -> Opening:
        """Passes a request on as it came, but for the key. path: Cohere's, without the query string. repeatable: asking
        twice does no more than asking once. weight: as in `through`.
        """
        upload = not isinstance(passage.body, bytes | None)

        def send(key: str, last_deadline: float) -> Awaitable[Reply]:
            # What comes in pieces takes as long as it takes: each piece has its own time.
            return self._session.pass_on(passage, key, math.inf if upload else last_deadline)

        return Opening(
            lambda: self.through(
                path, caller, send, streamed=True, model=model, weight=weight, repeatable=repeatable and not upload
            )
        )

    async def open(
        self,
        method: str,
        path: str,
        caller: Caller,
        body: bytes | None,
        streamed: bool,
        model: str,
        weight: int = 1,
    ) -> Reply:
        """Sends a request until its answer is good, or final. Raises UpstreamError where there is none."""

        def send(key: str, last_deadline: float) -> Awaitable[Reply]:
            return self._session.open(method, path, key, body, streamed, last_deadline)

        return await self.through(path, caller, send, streamed=streamed, model=model, weight=weight)

    async def through(
        self,
        path: str,
        caller: Caller,
        send: Send,
        *,
        streamed: bool,
        model: str = "",
        weight: int = 1,
        repeatable: bool = True,
    ) -> Reply:
        """As `open`, for any way of sending, say of a body that comes in pieces.

        streamed: of an answer that is a success only the first piece is waited for. weight: what it takes of a key's
        budget, which for some endpoints counts inputs. repeatable: `send` may be called more than once.
        """
        return await self._interruptible(_Course(self, path, caller, send, streamed, model, weight, repeatable).run())

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

    def patience(self) -> Patience:
        """For an answer that began with 200 and turned out to be none."""
        return Patience(self._retries, time.monotonic(), time.monotonic, self._random)

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

    def opened(self, reply: Reply) -> None:
        self._open.add(reply)
        reply.closing = self._closed

    def _closed(self, reply: Reply) -> None:
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


class _Course:
    """One call on its way to its answer: the attempts, and what they came to."""

    def __init__(
        self,
        upstream: ResilientUpstream,
        path: str,
        caller: Caller,
        send: Send,
        streamed: bool,
        model: str,
        weight: int,
        repeatable: bool,
    ) -> None:
        self._upstream, self._path, self._caller, self._send = upstream, path, caller, send
        self._streamed, self._model, self._weight, self._repeatable = streamed, model, weight, repeatable
        self._began = self._deadline = time.monotonic()
        self._patience: Patience | None = None
        self._passed: list[PoolKey] = []
        self._retried: list[str] = []
        self._last: Reply | UpstreamError | None = None
        self._why = ""
        self._again = rule("")
        self._told: float | None = None
        self._granted = False
        """A retry was granted, and has not been made yet."""

    async def run(self) -> Reply:
        """Attempt upon attempt. Raises UpstreamError."""
        upstream, pool = self._upstream, self._upstream._pool
        self._deadline = self._began + upstream._total
        while True:
            await upstream.place(self._caller.owner)
            try:
                lease = None if self._caller.own_key else self._lease(pool)
                reply = None if isinstance(lease, float) else await self._attempt(lease)
            except BaseException:
                upstream._places.leave()
                raise
            if reply is not None:
                return reply
            upstream._places.leave()
            if not isinstance(lease, float):
                if self._again.key is not Key.KEPT and not self._caller.own_key and self._repeatable:
                    continue  # another key may do; if there is none, we come by below
                pause = self._pausing(self._again, self._told)
            elif self._last is None:
                await self._slot(lease)
                continue
            else:
                pause = self._waiting(lease)
            if pause is None:
                return self._given_up()
            self._granted = True
            self._passed.clear()
            await asyncio.sleep(pause)

    def _lease(self, pool: Pool) -> Lease | float:
        """A key, or the seconds until there is one."""
        longest = self._upstream._retries.longest_pause
        lease = pool.take(self._path, self._model, self._weight, self._passed, longest)
        return math.inf if lease is None else lease

    def _left(self) -> float:
        """Seconds that this call may still wait for a key."""
        upstream = self._upstream
        return self._began + min(upstream._wait, upstream._total) - time.monotonic()

    async def _slot(self, seconds: float) -> None:
        """Waits until a key may be free, within bounds. Raises UpstreamError."""
        upstream = self._upstream
        if seconds > self._left():
            told = failure("keys_spent", "Cohere's rate limit is reached for every key of the gateway; wait and retry")
            raise UpstreamError(told, f"{max(seconds, 1):.0f}" if seconds < math.inf else None)
        # Not all at once: some chance, and at most so long after the moment.
        await upstream.a_key(seconds + upstream._random.random() * min(seconds * 0.1, 0.5))

    async def _attempt(self, lease: Lease | None) -> Reply | None:
        """One call. None if it failed: `_last`, `_again` and `_told` say how. Raises UpstreamError if it may not be
        made.
        """
        upstream, model, breakers = self._upstream, self._model, self._upstream._breakers
        if seconds := breakers.refused(model):
            if self._last is not None:
                self._again, self._told = rule(""), None
                return None
            raise UpstreamError(
                failure("circuit_open", "Cohere fails too often at the moment; it is tried again soon"),
                f"{max(seconds, 1):.0f}",
            )
        self._granted = False
        if self._last is not None:
            self._retried.append(self._why)
            upstream.counted(self._why)
        try:
            reply = await self._sent(lease.key.secret if lease is not None else self._caller.upstream_key)
        except UpstreamError as error:
            self._last, self._why, self._told = error, error.failure.code or "", None
            self._again = rule(error.cause)
            if self._again.breaks:
                breakers.failed(model, way=error.cause == "unreachable")
            else:
                breakers.undecided(model)
            return None
        except BaseException:
            breakers.undecided(model)
            raise
        if not 200 <= reply.status < 300:
            self._refused(reply, await reply.said(), lease)
            return None
        breakers.succeeded(model)
        if lease is not None:
            rested = lease.bucket.rests
            if upstream._pool.succeeded(lease, reply.header(TRIAL_LIMIT), reply.header(TRIAL_REMAINING)):
                upstream.unpark(lease.key)
            if lease.bucket.rests != rested:
                upstream.keys_changed()
        reply.retried = self._retried
        upstream.opened(reply)
        return reply

    async def _sent(self, key: str) -> Reply:
        """The answer as far as it must be known: the first piece of a stream, all of anything else."""
        reply = await self._send(key, self._deadline)
        try:
            if 200 <= reply.status < 300:
                await (reply.begin() if self._streamed else reply.whole())
            else:
                await reply.said()
                reply.close()
        except BaseException:
            reply.close()
            raise
        return reply

    def _refused(self, reply: Reply, body: bytes, lease: Lease | None) -> None:
        """An answer that is not a success: what it says of the key, the model and the way."""
        upstream = self._upstream
        told = refusal(reply.status, body, lease is None)
        what = trouble(reply.status, told.code)
        self._last, self._why, self._again = reply, str(what), rule(what)
        self._told = retry_after(reply.header("retry-after"), time.time())
        if self._again.breaks:
            upstream._breakers.failed(self._model, way=False)
        else:
            upstream._breakers.succeeded(self._model)
        if lease is not None and self._again.key is not Key.KEPT:
            self._passed.append(lease.key)
            if self._again.key is Key.COOLS:
                upstream._pool.cools(lease, self._told)
            else:
                upstream.park(lease, UpstreamError(told))

    def _pausing(self, again: Rule, told: float | None) -> float | None:
        if not self._repeatable:
            return None
        if self._patience is None:
            upstream = self._upstream
            self._patience = Patience(upstream._retries, self._began, time.monotonic, upstream._random)
        pause = self._patience.pause(again, told)
        # What would come after all time is up is no answer, but a second failure that hides the first.
        return None if pause is None or time.monotonic() + pause >= self._deadline else pause

    def _waiting(self, seconds: float) -> float | None:
        """Every key has been tried: the next one that is free again counts as a retry. If it rests once more by then,
        because somebody else was refused with it, waiting for it goes on.
        """
        if not self._granted:
            return self._pausing(RULES[429], seconds)
        assert self._patience is not None
        return seconds if seconds < min(self._patience.left, self._deadline - time.monotonic()) else None

    def _given_up(self) -> Reply:
        """The last failure is what the caller is told."""
        if isinstance(self._last, Reply):
            self._last.retried = self._retried
            return self._last
        assert self._last is not None
        raise self._last
