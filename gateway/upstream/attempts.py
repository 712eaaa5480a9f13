"""One call to Cohere: the attempts, and the response that they come to.

A call is attempted again only before the first byte of its response has left: a whole response until all of it is here,
a stream until its first chunk is. Which failures are worth another attempt is the table in `retry.py`.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Generator
from random import Random
from types import TracebackType
from typing import Any, TypeAlias

from msgspec import UNSET, Struct

from gateway.auth.credentials import cohere_keys
from gateway.auth.principal import Principal
from gateway.errors import UpstreamError, failure
from gateway.memory_budget import UNLIMITED, RequestMemory
from gateway.observability.call_controls import NO_CONTROLS, CallControls, Headers
from gateway.observability.clock import milliseconds
from gateway.observability.record import RequestRecord, TimedAttempt
from gateway.settings.schema import Retries
from gateway.upstream.circuit_breaker import Breakers
from gateway.upstream.concurrency import ConcurrencyLimiter, Wakeup
from gateway.upstream.in_flight import InFlight
from gateway.upstream.key_pool import TRIAL_LIMIT_HEADER, TRIAL_REMAINING_HEADER, KeyPool, Lease, PoolKey
from gateway.upstream.observer import UpstreamObserver
from gateway.upstream.response import UpstreamResponse
from gateway.upstream.retry import FINAL, RULES, KeyAction, RetryBudget, Rule, cause_of, parse_retry_after, rule_for
from translators.core.errors import Failure

Send: TypeAlias = Callable[[str, float, Headers, TimedAttempt], Awaitable[UpstreamResponse]]
"""Makes the call once: with this Cohere key, until this time of the loop's clock at the latest, with these headers.

It says in the attempt when all of the request has been sent.
"""


class _Immediate:
    """Nothing to wait for. A coroutine that returns at once would be made for each call."""

    def __await__(self) -> Generator[Any, None, None]:
        return iter(())  # type: ignore[return-value]  # whose end is what a generator's is


class _NoLimit:
    """The context of a call whose caller sets it no time."""

    def __aenter__(self) -> Awaitable[None]:
        return _IMMEDIATE

    def __aexit__(self, *_: object) -> Awaitable[None]:
        return _IMMEDIATE


_IMMEDIATE, _NO_LIMIT = _Immediate(), _NoLimit()


class CallOptions(Struct):
    """What a call takes from the request that it is made for.

    model: Cohere's name of it, where there is one; budgets and breakers go by it. weight: what the call takes of a
    key's budget, which for some endpoints counts inputs. attempts: gets one for each; None where nobody keeps them.
    on_uncounted: called when one fails for which Cohere may charge. memory: where a response that is read whole is
    counted. has_alternative: another upstream is asked next, so that no pause is worth while: other keys are tried, and
    nothing is waited for.
    """

    model: str = ""
    weight: int = 1
    attempts: list[TimedAttempt] | None = None
    on_uncounted: Callable[[], None] | None = None
    memory: RequestMemory = UNLIMITED
    controls: CallControls = NO_CONTROLS
    has_alternative: bool = False

    @classmethod
    def of(cls, record: RequestRecord, model: str, weight: int = 1) -> "CallOptions":
        """Returns the options of a call for this request."""
        return cls(model, weight, record.attempts, record.call_uncounted, record.memory, record.controls)


NO_OPTIONS = CallOptions()


class Resources(Struct):
    """What all calls share. The client replaces `retries` and the times when the settings are read again.

    key_wait: seconds that a call waits for a key; total: seconds until its response must be complete. keys_freed wakes
    those who wait for a key. clock: monotonic seconds. share_of: names the share of the slots that a caller has.
    """

    pool: KeyPool
    breakers: Breakers
    limiter: ConcurrencyLimiter
    in_flight: InFlight
    keys_freed: Wakeup
    observer: UpstreamObserver
    retries: Retries
    key_wait: float
    total: float
    clock: Callable[[], float]
    random: Random
    share_of: Callable[[Principal], str] = lambda principal: principal.owner


class FailedAttempt(Struct):
    """An attempt that came to nothing.

    outcome: Cohere's response, closed already, or why there is none. reason: the label of a retry that follows.
    retry_after: the seconds that Cohere asks for.
    """

    outcome: UpstreamResponse | UpstreamError
    reason: str
    rule: Rule
    retry_after: float | None = None


class Attempts:
    """One call: `async with` makes it, as often as makes sense, and closes the response on every way out.

    Entering raises UpstreamError where there is no response. One that is not a success is returned like any other.

    path: Cohere's, without the query string; budgets go by it. streamed: only the first chunk of a success is waited
    for. repeatable: `send` may be called more than once.
    """

    __slots__ = (
        "_budget",
        "_caller",
        "_controls",
        "_deadline",
        "_failed",
        "_failed_keys",
        "_last",
        "_count",
        "_model",
        "_options",
        "_path",
        "_recorded",
        "_repeatable",
        "_resources",
        "_response",
        "_retry_granted",
        "_retry_reasons",
        "_send",
        "_share",
        "_started",
        "_streamed",
    )

    def __init__(
        self,
        resources: Resources,
        send: Send,
        caller: Principal,
        path: str,
        options: CallOptions = NO_OPTIONS,
        *,
        streamed: bool = False,
        repeatable: bool = True,
    ) -> None:
        self._resources, self._send, self._caller, self._path = resources, send, caller, path
        self._share = resources.share_of(caller)
        self._streamed, self._repeatable = streamed, repeatable
        self._options, self._model, self._controls = options, options.model, options.controls
        self._recorded: list[TimedAttempt] = [] if options.attempts is None else options.attempts
        self._last: TimedAttempt | None = None
        self._count = 0
        self._response: UpstreamResponse | None = None
        self._started = self._deadline = 0.0
        self._budget: RetryBudget | None = None
        self._failed: FailedAttempt | None = None
        self._failed_keys: list[PoolKey] = []
        self._retry_reasons: list[str] = []
        self._retry_granted = False
        """A retry was granted and has not been made yet."""

    async def __aenter__(self) -> UpstreamResponse:
        """Makes attempts until one succeeds or the failure is final. Raises UpstreamError."""
        resources, own_key = self._resources, self._caller.own_key
        limiter = resources.limiter
        self._started = resources.clock()
        self._deadline = self._started + min(resources.total, self._controls.total or math.inf)
        with resources.in_flight.interruptible():
            while True:
                # Without a coroutine as long as a slot is free, which is nearly always.
                if not limiter.try_acquire(self._share):
                    await self._wait_for_turn()
                try:
                    # After the slot: a key that is lent while the call waits in the queue would be counted as used, and
                    # rest unused.
                    lease = None if own_key else self._take_key()
                    response = None if isinstance(lease, float) else await self._attempt(lease)
                # A cancelled call, too, gives its slot back, or the gateway would lose one with every caller who
                # leaves.
                except BaseException:
                    limiter.release(self._share)
                    raise
                if response is not None:
                    self._response = response
                    return response
                # The slot is free during the pause: somebody else can use it, and a pause may be long.
                limiter.release(self._share)
                if not await self._wait_for_next(lease):
                    return self._final()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._response is not None:
            self._response.close()
            self._stop_timing()

    # --- one attempt ---------------------------------------------------------------------------------------

    async def _attempt(self, lease: Lease | None) -> UpstreamResponse | None:
        """Makes the call once. Returns None if it failed: `_failed` says how. Raises UpstreamError if the breaker is
        open and nothing has been sent yet.
        """
        if self._refused_by_breaker():
            return None
        now = self._resources.clock()
        # Recorded before the call is made: an attempt that never comes back shows in the log, too.
        attempt = TimedAttempt(lease.key.number if lease is not None else 0, model=self._model or UNSET, began=now)
        self._recorded.append(attempt)
        self._last = attempt
        self._count += 1
        breakers, model = self._resources.breakers, self._model
        try:
            async with self._time_limit():
                secret = lease.key.secret if lease is not None else ""
                key = secret or cohere_keys(self._caller.credential)[0]
                response = await self._send(key, self._deadline, self._controls.headers, attempt)
                response.memory = self._options.memory
                response.key_mask = lease.key.mask if lease is not None else None
                # As soon as the head is there. If the body breaks, Cohere's id of the call is what its support asks
                # for.
                attempt.status, attempt.trace_id = response.status, response.trace_id
                try:
                    if 200 <= response.status < 300:
                        # Inside of the attempt, so that what breaks before can still be tried again
                        # (docs/decisions.md#one-way-to-cohere-for-all-endpoints).
                        await (response.read_first_chunk() if self._streamed else response.read_body())
                    else:
                        # Read before the connection is given back: the text decides what the status means
                        # (docs/cohere-api.md#retries).
                        refusal = await response.failure(lease is None)
                        response.close()
                        self._record_refusal(response, refusal, lease)
                        return None
                except BaseException:
                    response.close()
                    raise
        except TimeoutError:
            # Without a cause: a caller in a hurry says nothing of Cohere, whom a breaker would leave alone.
            message = "Cohere did not answer within the time that the request allows"
            self._record_error(UpstreamError(failure("silent", message)))
            return None
        except UpstreamError as error:
            self._record_error(error)
            return None
        except BaseException:
            # It says nothing of Cohere that, say, the caller has left.
            breakers.record_nothing(model)
            raise
        finally:
            self._stop_timing()
        self._record_success(response, lease)
        return response

    def _time_limit(self) -> asyncio.Timeout | _NoLimit:
        """Returns what ends an attempt when the time is up that the caller gives it."""
        controls = self._controls
        if controls is NO_CONTROLS:
            return _NO_LIMIT
        left = math.inf if controls.total is None else self._deadline - self._resources.clock()
        seconds = min(left, controls.first_byte or math.inf)
        return asyncio.timeout(seconds if seconds < math.inf else None)

    def _stop_timing(self) -> None:
        """Takes down how long the last attempt has taken. Of a stream that is once more, when it was read."""
        assert self._last is not None
        self._last.ms = milliseconds(self._resources.clock() - self._last.began)

    def _refused_by_breaker(self) -> bool:
        """Returns whether an open breaker forbids the attempt. Raises UpstreamError where it would be the first."""
        resources, failed = self._resources, self._failed
        if seconds := resources.breakers.admit(self._model):
            if failed is not None:
                # The failure that opened the breaker is what the caller learns: it says more than that calls are held
                # back.
                failed.rule, failed.retry_after = FINAL, None
                return True
            message = "Cohere fails too often at the moment; it is tried again soon"
            raise UpstreamError(failure("circuit_open", message), f"{max(seconds, 1):.0f}")
        self._retry_granted = False
        if failed is not None:
            self._retry_reasons.append(failed.reason)
            resources.observer.on_retry(failed.reason)
        return False

    def _record_error(self, error: UpstreamError) -> None:
        """Takes down an attempt without a response."""
        assert self._last is not None
        if self._last.may_be_billed and self._options.on_uncounted is not None:
            self._options.on_uncounted()
        self._last.error = error.failure.code or UNSET
        self._failed = FailedAttempt(error, error.failure.code or "", rule_for(error.cause))
        if self._failed.rule.breaks:
            self._resources.breakers.record_failure(self._model, connection=error.cause == "unreachable")
        else:
            self._resources.breakers.record_nothing(self._model)

    def _record_refusal(self, response: UpstreamResponse, failure: Failure, lease: Lease | None) -> None:
        """Takes down what a response that is not a success says of the key, the model and the connection."""
        resources = self._resources
        cause = cause_of(response.status, failure.code)
        seconds = parse_retry_after(response.header("retry-after"), time.time())
        self._failed = failed = FailedAttempt(response, str(cause), rule_for(cause, lease is None), seconds)
        assert self._last is not None
        self._last.error = failure.code or failed.reason
        # An error that is the caller's own shows that Cohere is up, and closes a breaker like any answer.
        if failed.rule.breaks:
            resources.breakers.record_failure(self._model, connection=False)
        else:
            resources.breakers.record_success(self._model)
        # A caller's own key is nobody's to cool down: it may be used elsewhere, and only its owner knows how.
        if lease is None or failed.rule.key is KeyAction.KEEP:
            return
        self._failed_keys.append(lease.key)
        if failed.rule.key is KeyAction.COOL_DOWN:
            resources.pool.cool_down(lease, seconds)
        elif resources.pool.disable(lease):
            resources.observer.on_key_disabled(lease.key.name, failure.code or "", resources.pool.disabled)

    def _record_success(self, response: UpstreamResponse, lease: Lease | None) -> None:
        """Takes down what a success says, and hands its slot over to the response, which gives it back when closed."""
        resources = self._resources
        resources.breakers.record_success(self._model)
        if lease is not None:
            cooldown_until = lease.bucket.cooldown_until
            limit = response.header(TRIAL_LIMIT_HEADER)
            if resources.pool.record_success(lease, limit, response.header(TRIAL_REMAINING_HEADER) if limit else ""):
                resources.observer.on_key_enabled(lease.key.name, resources.pool.disabled)
            # A success with a key that was resting: those who wait for a key need not wait any longer.
            if lease.bucket.cooldown_until != cooldown_until:
                resources.keys_freed.notify_all()
        response.retry_reasons = self._retry_reasons
        # Only now is it interruptible by itself; before, the attempt was.
        resources.in_flight.responses.add(response)
        response.on_close = self._release

    def _release(self, response: UpstreamResponse) -> None:
        self._resources.in_flight.responses.discard(response)
        self._resources.limiter.release(self._share)

    def _final(self) -> UpstreamResponse:
        """Returns the last response. Raises UpstreamError where there was none."""
        assert self._failed is not None
        outcome = self._failed.outcome
        if isinstance(outcome, UpstreamError):
            raise outcome
        outcome.retry_reasons = self._retry_reasons
        return outcome

    # --- between attempts ----------------------------------------------------------------------------------

    async def _wait_for_turn(self) -> None:
        """Waits until the limiter admits one more call. Raises UpstreamError."""
        clock, started = self._resources.clock, self._resources.clock()
        try:
            await self._resources.limiter.acquire(self._share)
        finally:
            self._resources.observer.on_queue_wait(clock() - started)

    def _take_key(self) -> Lease | float:
        """Returns a key, or the seconds until there is one."""
        longest = self._resources.retries.max_backoff
        return self._resources.pool.lease(self._path, self._model, self._options.weight, self._failed_keys, longest)

    async def _wait_for_next(self, lease: Lease | float | None) -> bool:
        """Waits until the next attempt may be made. Returns False where none may.

        lease: the key of the attempt that failed, None for the caller's own; or the seconds until a key is free.
        Raises UpstreamError where no key will be free in time for the first attempt.
        """
        failed = self._failed
        if failed is not None and self._count >= (self._controls.attempts or math.inf):
            return False
        if isinstance(lease, float):
            if failed is None:
                await self._wait_for_key(lease)
                return True
            pause = self._wait_for_keys_again(lease)
        else:
            assert failed is not None
            if failed.rule.key is not KeyAction.KEEP and lease is not None and self._repeatable:
                return True  # another key may do; if there is none, we come by here again
            pause = self._next_delay(failed.rule, failed.retry_after)
        if pause is None:
            return False
        self._retry_granted = True
        self._failed_keys.clear()
        await asyncio.sleep(pause)
        return True

    async def _wait_for_key(self, seconds: float) -> None:
        """Waits until a key may be free, within bounds. Raises UpstreamError."""
        resources = self._resources
        left = self._started + min(resources.key_wait, resources.total) - resources.clock()
        if seconds > left or self._options.has_alternative:
            message = "Cohere's rate limit is reached for every key of the gateway; wait and retry"
            raise UpstreamError(
                failure("keys_spent", message), f"{max(seconds, 1):.0f}" if seconds < math.inf else None
            )
        # Not all at once: some chance, and at most so long after the moment.
        await resources.keys_freed.wait(seconds + resources.random.random() * min(seconds * 0.1, 0.5))

    def _next_delay(self, what: Rule, seconds: float | None) -> float | None:
        """Returns the seconds until the next attempt, None where there is none. seconds: what Cohere asks for."""
        if not self._repeatable or self._options.has_alternative:
            return None
        resources = self._resources
        if self._budget is None:
            self._budget = RetryBudget(resources.retries, self._started, resources.clock, resources.random)
        pause = self._budget.next_delay(what, seconds)
        # What would come after all time is up is no response, but a second failure that hides the first.
        return None if pause is None or resources.clock() + pause >= self._deadline else pause

    def _wait_for_keys_again(self, seconds: float) -> float | None:
        """Returns the seconds until the next attempt where every key has been tried: to wait for the first that is free
        again counts as a retry. If it rests once more by then, because another call was refused with it, the wait goes
        on.
        """
        if not self._retry_granted:
            return self._next_delay(RULES[429], seconds)
        assert self._budget is not None
        return seconds if seconds < min(self._budget.seconds_left, self._deadline - self._resources.clock()) else None
