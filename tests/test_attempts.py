"""One call to Cohere without a network: what its attempts come to, and what is given back on every way out."""

from __future__ import annotations

import asyncio
import random
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.auth import credentials
from gateway.auth.principal import Principal
from gateway.errors import UpstreamError, failure
from gateway.settings.schema import BreakerSettings, ConcurrencySettings, PoolSettings, Retries
from gateway.upstream import key_pool
from gateway.upstream.attempts import Attempts, CallOptions, Resources
from gateway.upstream.circuit_breaker import Breakers
from gateway.upstream.concurrency import ConcurrencyLimiter, Wakeup
from gateway.upstream.in_flight import InFlight
from gateway.upstream.key_pool import KeyPool
from support.waiting import WAIT_SECONDS
from translators.core.errors import Failure

SERVER = Principal("caller", "owner", False, credentials.store(()))
MODEL = "command-a-03-2025"


@dataclass(eq=False)
class StubResponse:
    """As much of an UpstreamResponse as a call looks at."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    closed: bool = False
    interrupted: bool = False
    on_close: Callable[[Any], None] | None = None
    retry_reasons: Any = ()
    trace_id: str = ""

    def header(self, name: str) -> str:
        return self.headers.get(name, "")

    async def read_body(self) -> bytes:
        return b"{}"

    async def read_first_chunk(self) -> None:
        return None

    async def failure(self, own_key: bool, secret: str = "") -> Failure:
        return Failure(self.status, "no", code="upstream_error")

    def interrupt(self) -> None:
        self.interrupted = True

    def close(self) -> None:
        self.closed = True
        if self.on_close is not None:
            self.on_close(self)
            self.on_close = None


@dataclass
class Events:
    """An observer that remembers."""

    retries: list[str] = field(default_factory=list)
    queue_waits: list[float] = field(default_factory=list)
    breakers: list[tuple[str | None, bool]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def on_retry(self, reason: str) -> None:
        self.retries.append(reason)

    def on_queue_wait(self, seconds: float) -> None:
        self.queue_waits.append(seconds)

    def on_key_disabled(self, key: str, code: str, disabled: int) -> None:
        self.keys.append(f"-{key[:5]}")

    def on_key_enabled(self, key: str, disabled: int) -> None:
        self.keys.append(f"+{key[:5]}")

    def on_keys_configured(self, disabled: int) -> None:
        self.keys.append(f"{disabled} disabled")

    def on_breaker_change(self, model: str | None, is_open: bool) -> None:
        self.breakers.append((model, is_open))


def resources(keys: int = 1, **settings: Any) -> tuple[Resources, Events]:
    """What calls share, with the clock of the loop. settings: `retries`, `breaker`, `concurrency` and `pool`."""
    events, clock = Events(), asyncio.get_running_loop().time
    pool = settings.get("pool", PoolSettings())
    return (
        Resources(
            pool=KeyPool([f"key-{number}" for number in range(keys)], pool, clock),
            breakers=Breakers(settings.get("breaker", BreakerSettings()), clock, events.on_breaker_change),
            limiter=ConcurrencyLimiter(settings.get("concurrency", ConcurrencySettings())),
            in_flight=InFlight(),
            keys_freed=Wakeup(),
            observer=events,
            retries=settings.get("retries", Retries(initial_backoff=0.001, max_backoff=0.001)),
            key_wait=pool.queue_timeout,
            total=60.0,
            clock=clock,
            random=random.Random(1),
        ),
        events,
    )


@dataclass
class Script:
    """Outcomes in order, the last one for all that follow: a response, an exception to raise, or an event to await."""

    outcomes: list[StubResponse | BaseException | asyncio.Event]
    keys: list[str] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)

    async def send(self, key: str, last_deadline: float, headers: Any, attempt: Any) -> Any:
        self.keys.append(key)
        names = [frame.f_code for frame, _ in traceback.walk_stack(sys._getframe())]
        self.frames = [name.co_name for name in names if "/gateway/upstream/" in name.co_filename]
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, BaseException):
            raise outcome
        if isinstance(outcome, asyncio.Event):
            await outcome.wait()
            raise AssertionError("nobody sets it")
        return outcome


def call(
    shared: Resources, script: Script, *, streamed: bool = False, repeatable: bool = True, **options: Any
) -> Attempts:
    call_options = CallOptions(MODEL, **options)
    return Attempts(shared, script.send, SERVER, "/v2/chat", call_options, streamed=streamed, repeatable=repeatable)


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await main()

    asyncio.run(within())


@contextmanager
def nothing_is_left(shared: Resources) -> Iterator[None]:
    """No slot is taken and nothing is in flight afterwards."""
    yield
    assert shared.limiter.in_use == shared.limiter.waiting == 0
    assert not shared.in_flight.tasks and not shared.in_flight.responses


def unreachable() -> UpstreamError:
    return UpstreamError(failure("unreachable", "x"), cause="unreachable")


# --- slots --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_a_response_holds_its_slot_until_it_is_closed(streamed: bool) -> None:
    async def main() -> None:
        shared, events = resources()
        with nothing_is_left(shared):
            async with call(shared, Script([StubResponse()]), streamed=streamed) as response:
                assert shared.limiter.in_use == 1 and shared.in_flight.responses == {response}
        assert response.closed and not events.queue_waits  # type: ignore[attr-defined]

    run(main)


@pytest.mark.parametrize(
    "outcome",
    [StubResponse(400), StubResponse(503), unreachable(), UpstreamError(failure("cut", "x")), ValueError("a bug")],
    ids=["400", "503", "unreachable", "cut", "bug"],
)
def test_a_failure_gives_its_slot_back(outcome: StubResponse | Exception) -> None:
    async def main() -> None:
        shared, _ = resources(retries=Retries(count=0))
        with nothing_is_left(shared):
            if isinstance(outcome, StubResponse):
                async with call(shared, Script([outcome])) as response:
                    assert response.status == outcome.status and outcome.closed
            else:
                with pytest.raises(type(outcome)):
                    async with call(shared, Script([outcome])):
                        pass

    run(main)


def test_a_wait_for_a_slot_is_observed() -> None:
    async def main() -> None:
        shared, events = resources(concurrency=ConcurrencySettings(max_in_flight=1))
        with nothing_is_left(shared):
            assert shared.limiter.try_acquire("other")
            task = asyncio.create_task(enter(call(shared, Script([StubResponse()]))))
            while not shared.limiter.waiting:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            assert not events.queue_waits
            shared.limiter.release("other")
            await task
        assert len(events.queue_waits) == 1 and events.queue_waits[0] >= 0.009

    run(main)


async def enter(attempts: Attempts) -> None:
    async with attempts:
        pass


def test_a_call_is_sent_two_frames_below_its_caller() -> None:
    """Each frame is paid for by every request, and again by every chunk that it waits for."""

    async def main() -> None:
        shared, _ = resources()
        script = Script([StubResponse()])
        await enter(call(shared, script))
        assert script.frames == ["_attempt", "__aenter__"]

    run(main)


# --- breakers -----------------------------------------------------------------------------------------------


def test_a_breaker_that_opens_between_two_attempts_leaves_the_last_failure() -> None:
    async def main() -> None:
        shared, events = resources(breaker=BreakerSettings(failures=2), retries=Retries(count=5, initial_backoff=0.001))
        script = Script([StubResponse(500), StubResponse(503), StubResponse(200)])
        with nothing_is_left(shared):
            async with call(shared, script) as response:
                assert (response.status, response.retry_reasons) == (503, ["500"])
        assert len(script.keys) == 2 and events.breakers == [(MODEL, True)]

    run(main)


def test_an_open_breaker_is_an_error_of_its_own_before_the_first_attempt() -> None:
    async def main() -> None:
        shared, _ = resources(breaker=BreakerSettings(failures=1), retries=Retries(count=0))
        script = Script([StubResponse(503), StubResponse()])
        with nothing_is_left(shared):
            await enter(call(shared, script))
            with pytest.raises(UpstreamError) as caught:
                await enter(call(shared, script))
        assert caught.value.failure.code == "circuit_open" and caught.value.retry_after == "10"
        assert len(script.keys) == 1

    run(main)


@pytest.mark.parametrize(
    "outcome",
    [
        asyncio.CancelledError(),
        ValueError("a bug"),
        UpstreamError(failure("no_descriptors", "x"), cause="descriptors"),
        UpstreamError(failure("cut", "x")),
    ],
    ids=["cancelled", "bug", "descriptors", "unsendable"],
)
def test_a_probe_that_says_nothing_of_cohere_lets_the_next_call_probe(outcome: BaseException) -> None:
    async def main() -> None:
        shared, events = resources(breaker=BreakerSettings(failures=1, open_seconds=0.01), retries=Retries(count=0))
        await enter(call(shared, Script([StubResponse(503)])))
        await asyncio.sleep(0.02)
        with nothing_is_left(shared), pytest.raises(type(outcome)):
            await enter(call(shared, Script([outcome])))
        await enter(call(shared, Script([StubResponse()])))
        assert events.breakers == [(MODEL, True), (MODEL, False)]

    run(main)


# --- the end ------------------------------------------------------------------------------------------------


async def cut(shared: Resources, attempts: Attempts) -> str:
    """The code of the error that a call gets which waits when the gateway's time is up."""
    task = asyncio.create_task(enter(attempts))
    await asyncio.sleep(0.01)
    assert not task.done()
    shared.limiter.reject_waiters(UpstreamError(failure("stopping", "x")))
    shared.in_flight.interrupt()
    with pytest.raises(UpstreamError) as caught:
        await task
    return str(caught.value.failure.code)


@pytest.mark.parametrize("waits_for", ["a slot", "a key", "a response", "the next attempt"])
def test_whatever_a_call_waits_for_a_shutdown_ends_it(waits_for: str) -> None:
    async def main() -> None:
        shared, _ = resources(
            retries=Retries(initial_backoff=20.0, max_backoff=20.0), concurrency=ConcurrencySettings(max_in_flight=1)
        )
        script = Script([asyncio.Event()])
        if waits_for == "a slot":
            shared.limiter.try_acquire("other")
        elif waits_for == "a key":
            lease = shared.pool.lease("/v2/chat", MODEL)
            assert not isinstance(lease, float)
            shared.pool.cool_down(lease, 5.0)
        elif waits_for == "the next attempt":
            script = Script([StubResponse(503)])
        assert await cut(shared, call(shared, script)) == "gateway_stopping"
        if waits_for == "a slot":
            shared.limiter.release("other")
        calls = len(script.keys)
        with nothing_is_left(shared), pytest.raises(UpstreamError, match="stopping"):
            await enter(call(shared, script))
        assert len(script.keys) == calls, "nothing begins any more"

    run(main)


def test_a_shutdown_interrupts_the_responses_that_are_read() -> None:
    async def main() -> None:
        shared, _ = resources()
        async with call(shared, Script([StubResponse()])) as response:
            shared.in_flight.interrupt()
            assert response.interrupted  # type: ignore[attr-defined]

    run(main)


def test_a_caller_who_leaves_during_a_shutdown_is_cancelled_as_always() -> None:
    """Two want the task to end. The one that is not ours gets what it asked for."""

    async def main() -> None:
        shared, _ = resources()
        task = asyncio.create_task(enter(call(shared, Script([asyncio.Event()]))))
        await asyncio.sleep(0.01)
        with nothing_is_left(shared):
            task.cancel()
            shared.in_flight.interrupt()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main)


# --- keys ---------------------------------------------------------------------------------------------------


def test_another_key_is_no_retry() -> None:
    async def main() -> None:
        shared, events = resources(3, retries=Retries(count=0))
        script = Script([StubResponse(401), StubResponse(429), StubResponse()])
        with nothing_is_left(shared):
            async with call(shared, script) as response:
                assert response.status == 200
        assert sorted(script.keys) == ["key-0", "key-1", "key-2"]
        assert len(events.keys) == 1 and shared.pool.disabled == 1

    run(main)


def test_a_key_that_serves_again_wakes_those_who_wait_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        shared, _ = resources(retries=Retries(count=0))
        await enter(call(shared, Script([StubResponse(429)])))
        monkeypatch.setattr(key_pool, "PROBE_INTERVAL", 0.0)
        lease = shared.pool.lease("/v2/chat", MODEL)  # the probe
        assert not isinstance(lease, float)
        monkeypatch.setattr(key_pool, "PROBE_INTERVAL", 4.0)
        waiting = asyncio.create_task(enter(call(shared, Script([StubResponse()]))))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        probe = call(shared, Script([StubResponse()]))
        probe._record_success(StubResponse(), lease)  # type: ignore[arg-type]
        async with asyncio.timeout(3.0):
            await waiting

    run(main)


def test_no_key_at_all_is_an_error_at_once() -> None:
    async def main() -> None:
        shared, _ = resources(0)
        with nothing_is_left(shared), pytest.raises(UpstreamError) as caught:
            await enter(call(shared, Script([StubResponse()])))
        assert caught.value.failure.code == "rate_limit_exceeded" and caught.value.retry_after is None

    run(main)
