"""Counters that several processes share, and what happens while these cannot be reached.

A reservation waits for the shared counters as long as the settings allow and no longer. After a few failures in a row
they are left alone until a timer finds them well again; meanwhile this process decides by counters of its own, in which
each limit is divided by the number of processes that were last seen, or refuses, as `limits.on_failure` says.
Settlements are sent in groups that nobody waits for. One that is lost frees its reservation when that lapses, and what
it had spent is put into the database (`stored_budgets.py`), with which the counters are compared before their next use.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace

from gateway.limits.stored_budgets import StoredBudgets
from gateway.store.counters import (
    LEASE,
    Counter,
    Counters,
    CountersUnavailable,
    Decision,
    Reservation,
    Settlement,
)
from gateway.store.errors import StoreUnavailable
from gateway.store.memory_counters import MemoryCounters

Result = TypeVar("Result")

MAX_FAILURES = 3
"""Failures in a row after which the shared counters are left alone."""

PROBE_SECONDS = 0.5
"""Between two looks at counters that were left alone."""

BEAT_SECONDS = 5.0
"""Between two signs of life of this process."""

EARLY_BEATS = 4
"""Signs of life at the beginning that follow each other as fast as looks do: processes that were started together are
to know of each other before they may have to share."""

ALIVE_SECONDS = 15
"""After so long without one, a process counts as gone."""

RENEW_SECONDS = LEASE // 3
"""Age at which a reservation is renewed, and how often they are looked through."""

LOOP_TURNS = 6
"""Turns of the event loop in which an answer that has arrived in time may still be read."""

MAX_SEEN = 100_000
"""Budgets of which the spent amount is remembered for the time without shared counters."""

PATIENT_SECONDS = 5.0
"""For what nobody waits for."""


class SharedCounters:
    """Shared counters, within limits. on_change: is called with the reason when they are lost, and with "" after."""

    def __init__(
        self,
        shared: Counters,
        stored: StoredBudgets,
        timeout: float,
        refuses: bool,
        on_change: Callable[[str], None],
        stores_all: bool,
    ) -> None:
        """timeout: seconds that a reservation may take. refuses: nothing is admitted while the counters are away.

        stores_all: what is spent has to be stored because the shared counters may lose it.
        """
        self._shared, self._stored, self._timeout, self._refuses = shared, stored, timeout, refuses
        self._on_change, self._stores_all = on_change, stores_all
        self.degraded = ""
        self.processes = 1
        self._id = secrets.token_hex(8)
        self._failures, self._prepare_at = 0, 0.0
        self._local = MemoryCounters()
        self._shares: dict[str, tuple[Counter | None, Counter]] = {}
        self._loaded: set[tuple[str, int]] = set()
        self._seen: dict[tuple[str, int], int] = {}
        self._live: dict[Reservation, float] = {}
        self._settlements: list[Settlement] = []
        self._settling: asyncio.Task[None] | None = None
        self._timer: asyncio.Task[None] | None = None

    async def reserve(
        self, counters: Sequence[Counter], tokens: int, money: int
    ) -> tuple[Sequence[Counter], Decision, Reservation | None]:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().create_task(self._run_timer())
        if not self.degraded:
            if self._shared.lacks(counters) and asyncio.get_running_loop().time() >= self._prepare_at:
                await self._prepare(counters)
            # A task that outlives the wait: what it reserves after that has to be freed, so its answer is wanted in any
            # case.
            call = asyncio.get_running_loop().create_task(self._shared.reserve(counters, tokens, money))
            try:
                decision = await self._wait(call, self._timeout)
            except CountersUnavailable as error:
                self._fail(error)
            else:
                self._failures = 0
                return counters, decision, self._begin(counters, decision, tokens, money)
            finally:
                if not call.done():  # it is too late, or the caller has left: what it reserves is nobody's
                    call.add_done_callback(partial(self._release, counters, tokens, money))
        # Also after a single late answer, which is no outage yet: nothing may pass unchecked.
        if self._refuses:
            raise CountersUnavailable(self.degraded or "the shared counters did not answer")
        return await self._reserve_locally(counters, tokens, money)

    async def _prepare(self, counters: Sequence[Counter]) -> None:
        """Reads what was spent before, once for a window: the database has more time than the shared counters."""
        try:
            await self._within(PATIENT_SECONDS, self._shared.prepare(counters))
        except (CountersUnavailable, StoreUnavailable):
            # Shared counters that have lost a budget as well refuse to count it; otherwise theirs is right.
            self._prepare_at = asyncio.get_running_loop().time() + PATIENT_SECONDS

    def _release(self, counters: Sequence[Counter], tokens: int, money: int, call: "asyncio.Task[Decision]") -> None:
        """Frees what a call has reserved that nobody waited for."""
        if not call.cancelled() and call.exception() is None and call.result().admitted:
            reservation = Reservation(counters, tokens, money, call.result().lease, leases=call.result().leases)
            self.settle(Settlement(reservation, 0, 0))

    def _begin(self, counters: Sequence[Counter], decision: Decision, tokens: int, money: int) -> Reservation | None:
        if len(self._seen) > MAX_SEEN:
            self._seen.clear()
        for counter, state in zip(counters, decision.states, strict=True):
            if counter.unit == "money":
                self._seen[counter.id, counter.window] = state.spent
        if not decision.admitted:
            return None
        reservation = Reservation(counters, tokens, money, decision.lease, leases=decision.leases)
        self._live[reservation] = asyncio.get_running_loop().time()
        return reservation

    def settle(self, settlement: Settlement) -> None:
        reservation = settlement.reservation
        if reservation.local:
            self._stored.add(reservation.counters, settlement.money)
            self._local.settle(settlement)
            return
        self._live.pop(reservation, None)
        for counter in reservation.counters:
            budget = (counter.id, counter.window)
            if settlement.money and budget in self._seen:
                # Kept current here as well: if the counters are lost, this process goes on from what it knows.
                self._seen[budget] += settlement.money
        # A list and not a call for each: those that end together are one message to the counters.
        self._settlements.append(settlement)
        if self._settling is None:
            self._settling = asyncio.get_running_loop().create_task(self._send_settlements())

    async def claim(self, words: str, window: int) -> bool:
        return await self._stored.claim(words, window)

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.gather(self._timer, return_exceptions=True)
        if (settling := self._settling) is not None:  # which forgets itself when it is done
            await asyncio.wait({settling}, timeout=PATIENT_SECONDS)
            settling.cancel()
            await asyncio.gather(settling, return_exceptions=True)
            self._store(self._settlements, arrived=False)
        with contextlib.suppress(Exception):
            await self._shared.stop()
        await self._stored.stop()

    # --- the shared counters --------------------------------------------------------------------------------

    async def _within(self, seconds: float, call: Coroutine[Any, Any, Result]) -> Result:
        """Returns the result of a call that takes no longer than this. Raises CountersUnavailable."""
        task = asyncio.get_running_loop().create_task(call)
        try:
            return await self._wait(task, seconds)
        finally:
            task.cancel()

    async def _wait(self, task: "asyncio.Task[Result]", seconds: float) -> Result:
        await asyncio.wait({task}, timeout=seconds)
        for _ in range(LOOP_TURNS):
            if task.done():
                return task.result()
            # An event loop that is late itself has not read yet what has arrived.
            await asyncio.sleep(0)
        raise CountersUnavailable(f"the shared counters did not answer within {seconds * 1000:.0f} ms")

    def _fail(self, error: CountersUnavailable) -> None:
        self._failures += 1
        if self._failures >= MAX_FAILURES and not self.degraded:
            self.degraded = f"limits: {error}"
            self._reset_local()
            self._on_change(self.degraded)

    def _reset_local(self) -> None:
        """Forgets what was decided here: it begins with what is left of the shared limits."""
        self._local, self._shares, self._loaded = MemoryCounters(), {}, set()

    async def _send_settlements(self) -> None:
        while self._settlements:
            group, self._settlements = self._settlements, []
            arrived = False
            try:
                if not self.degraded:
                    await self._within(PATIENT_SECONDS, self._shared.settle(group))
                    arrived = True
            except CountersUnavailable as error:
                self._fail(error)
            finally:
                self._store(group, arrived)
        self._settling = None

    def _store(self, group: Sequence[Settlement], arrived: bool) -> None:
        """Stores what was spent, once the shared counters have it, or once they could not be told.

        In the other order, who compares the two would take over an amount that is still on its way, which then counts
        twice.
        """
        for settlement in group:
            if not arrived:
                self._shared.doubt(settlement.reservation.counters)
            if self._stores_all or not arrived:
                self._stored.add(settlement.reservation.counters, settlement.money)

    # --- the timer ------------------------------------------------------------------------------------------

    async def _run_timer(self) -> None:
        loop = asyncio.get_running_loop()
        beat_at = renew_at = 0.0
        beats = 0
        while True:
            try:
                if self.degraded:
                    await self._probe()
                if not self.degraded and loop.time() >= beat_at:
                    self.processes = await self._within(PATIENT_SECONDS, self._shared.beat(self._id, ALIVE_SECONDS))
                    beats += 1
                    beat_at = loop.time() + (BEAT_SECONDS if beats >= EARLY_BEATS else 0.0)
                if not self.degraded and loop.time() >= renew_at:
                    await self._renew(loop.time())
                    renew_at = loop.time() + RENEW_SECONDS / 2
            except CountersUnavailable as error:
                self._fail(error)
            await asyncio.sleep(PROBE_SECONDS)

    async def _probe(self) -> None:
        with contextlib.suppress(CountersUnavailable):
            await self._within(self._timeout, self._shared.reconnect())
            await self._within(self._timeout, self._shared.beat(self._id, ALIVE_SECONDS))
            # A connection may answer only to be made: the second call shows what a request would wait.
            self.processes = await self._within(self._timeout, self._shared.beat(self._id, ALIVE_SECONDS))
            with contextlib.suppress(StoreUnavailable):
                await self._stored.flush()
            self._failures, self.degraded = 0, ""
            self._reset_local()
            self._on_change("")

    async def _renew(self, now: float) -> None:
        old = [reservation for reservation, since in self._live.items() if now - since >= RENEW_SECONDS]
        groups: dict[int, list[Reservation]] = {}
        for reservation in old:
            seconds = int(now - self._live[reservation])
            groups.setdefault(seconds, []).append(reservation)
            self._live[reservation] += seconds
        for seconds, group in groups.items():
            await self._within(PATIENT_SECONDS, self._shared.renew(group, seconds))

    # --- without them ---------------------------------------------------------------------------------------

    async def _reserve_locally(
        self, counters: Sequence[Counter], tokens: int, money: int
    ) -> tuple[Sequence[Counter], Decision, Reservation | None]:
        shares = [await self._share(counter) for counter in counters]
        decision = self._local.reserve(shares, tokens, money)
        reservation = Reservation(shares, tokens, money, local=True) if decision.admitted else None
        return shares, decision, reservation

    async def _share(self, counter: Counter) -> Counter:
        """Returns a counter with this process' share of the limit; of a budget, of what was left of it."""
        original, share = self._shares.get(counter.id, (None, counter))
        if original == counter:
            return share
        before, budget = 0, (counter.id, counter.window)
        if counter.unit == "money":
            before = self._seen.get(budget, -1)
            if before < 0:
                before = self._seen[budget] = await self._stored_amount(counter)
            if budget not in self._loaded:
                self._loaded.add(budget)
                self._local.load({budget: before})
        left = max(counter.limit - before, 0)
        # A limit of a few is not to become none: every process may do at least one of what there was one of.
        share = replace(counter, limit=before + (max(left // self.processes, 1) if left else 0))
        self._shares[counter.id] = (counter, share)
        return share

    async def _stored_amount(self, counter: Counter) -> int:
        try:
            stored = await self._within(self._timeout, self._load(counter))
        except CountersUnavailable:
            return 0
        return stored

    async def _load(self, counter: Counter) -> int:
        try:
            return (await self._stored.load([counter])).get((counter.id, counter.window), 0)
        except StoreUnavailable as error:
            raise CountersUnavailable(str(error)) from error
