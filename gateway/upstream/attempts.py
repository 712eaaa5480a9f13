"""The attempts of one call."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from gateway.auth.credentials import cohere_keys
from gateway.auth.principal import Principal
from gateway.errors import UpstreamError, failure
from gateway.upstream.key_pool import TRIAL_LIMIT, TRIAL_REMAINING, Lease, Pool, PoolKey
from gateway.upstream.response import UpstreamResponse
from gateway.upstream.retry import RULES, Key, RetryBudget, Rule, retry_after, rule, trouble
from translators.core.upstream_errors import refusal

if TYPE_CHECKING:
    from gateway.upstream.client import UpstreamClient

Send: TypeAlias = Callable[[str, float], Awaitable[UpstreamResponse]]
"""Sends the call once: with this key, and until this time of the loop at the latest."""


class Attempts:
    """One call on its way to its answer: the attempts, and what they came to."""

    def __init__(
        self,
        upstream: "UpstreamClient",
        path: str,
        caller: Principal,
        send: Send,
        streamed: bool,
        model: str,
        weight: int,
        repeatable: bool,
    ) -> None:
        self._upstream, self._path, self._caller, self._send = upstream, path, caller, send
        self._streamed, self._model, self._weight, self._repeatable = streamed, model, weight, repeatable
        self._began = self._deadline = time.monotonic()
        self._patience: RetryBudget | None = None
        self._passed: list[PoolKey] = []
        self._retried: list[str] = []
        self._last: UpstreamResponse | UpstreamError | None = None
        self._why = ""
        self._again = rule("")
        self._told: float | None = None
        self._granted = False
        """A retry was granted, and has not been made yet."""

    async def run(self) -> UpstreamResponse:
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

    async def _attempt(self, lease: Lease | None) -> UpstreamResponse | None:
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
            reply = await self._sent(lease.key.secret if lease is not None else cohere_keys(self._caller.credential)[0])
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

    async def _sent(self, key: str) -> UpstreamResponse:
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

    def _refused(self, reply: UpstreamResponse, body: bytes, lease: Lease | None) -> None:
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
            self._patience = RetryBudget(upstream._retries, self._began, time.monotonic, upstream._random)
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

    def _given_up(self) -> UpstreamResponse:
        """The last failure is what the caller is told."""
        if isinstance(self._last, UpstreamResponse):
            self._last.retried = self._retried
            return self._last
        assert self._last is not None
        raise self._last
