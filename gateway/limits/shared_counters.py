"""Counters that several processes share, and what happens while these cannot be reached.

A reservation waits for the shared counters as long as the settings allow and no longer. After a few failures in a row
a server of theirs is left alone until a timer finds it well again (`outages.py`); meanwhile this process holds requests
to its shares of the limits that are counted there (`local_shares.py`), or refuses, as `limits.on_failure` says. What it
has admitted by itself is handed over to the shared counters when they answer again. Only when all processes have had
the time for it are they asked again.
Settlements are sent in groups that nobody waits for. What one that did not arrive had spent is put into the database
(`stored_budgets.py`), with which the counters are compared before their next use; what it frees is sent once more.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence, Set
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace

from gateway.limits.local_shares import MAX_HANDED_OVER, LocalShares, is_outstanding
from gateway.limits.outages import Outage, Outages
from gateway.limits.stored_budgets import StoredBudgets
from gateway.store.counters import (
    CONFIRM_SECONDS,
    LEASE,
    Counter,
    Counters,
    CountersIncomplete,
    CountersUnavailable,
    Decision,
    Past,
    Reservation,
    Settlement,
)
from gateway.store.errors import StoreUnavailable

Result = TypeVar("Result")
Item = TypeVar("Item")

PROBE_SECONDS = CONFIRM_SECONDS
"""Between two looks at counters that were left alone, and between two at budgets that are not used."""

RETURN_SECONDS = 2 * PROBE_SECONDS
"""After the shared counters were found well. By then each process has found them, and handed over what it admitted."""

BEAT_SECONDS = 5.0
"""Between two signs of life of this process."""

EARLY_BEATS = 4
"""Signs of life at the beginning that follow each other as fast as looks do: processes that were started together are
to know of each other before they may have to share."""

# Three signs of life that did not come.
ALIVE_SECONDS = 15
"""After so long without one, a process counts as gone."""

RENEW_SECONDS = LEASE // 3
"""Age at which a reservation is renewed, and how often they are looked through."""

LOOP_TURNS = 6
"""Turns of the event loop in which an answer that has arrived in time may still be read."""

SILENT_PART = 0.9
"""A server is late with an answer after so much of the time that a reservation may take: what was done before it was
asked took some of it."""

END_SECONDS = 1.0
"""How long the end waits for calls that were cancelled."""

PATIENT_SECONDS = 5.0
"""For what nobody waits for."""

LATE_SECONDS = 2.0
"""More than a database takes, beyond its time, to say what became of a transaction (`database.GRACE_SECONDS`)."""


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
        workers: int = 1,
    ) -> None:
        """timeout: seconds that a reservation may take. refuses: nothing is admitted while the counters are away.

        stores_all: what is spent has to be stored because the shared counters may lose it. workers: processes of this
        machine, for the time in which nobody knows how many there are in all.
        """
        self._shared, self._stored, self._timeout, self._refuses = shared, stored, timeout, refuses
        self._on_change, self._stores_all = on_change, stores_all
        # What did not arrive is stored, and a database that has not given up yet may count it as well. What was spent
        # in Redis is stored in any case, and compared.
        self._settlement_timeout = PATIENT_SECONDS if stores_all else max(PATIENT_SECONDS, timeout + LATE_SECONDS)
        self._is_ending = False
        self.degraded = ""
        self._id = secrets.token_hex(8)
        self._prepare_at = 0.0
        self._outages = Outages(shared.server_of, self._report)
        self._shares = LocalShares(self._stored_amount, processes=workers)
        # When so many processes were last seen, or more: 0 before the first answer.
        self._processes_at = 0.0
        # Reads how many there were before, where the shared counters were away from the beginning.
        self._remembering: asyncio.Task[None] | None = None
        # The database is not asked again before, for what a share begins with.
        self._ask_at = 0.0
        self._live: dict[Reservation, float] = {}
        self._settlements: list[Settlement] = []
        # Those that are being sent.
        self._group: Sequence[Settlement] = ()
        # What is to be free although its settlement did not arrive.
        self._unsettled: list[Settlement] = []
        shared.watch(self._watched, lambda: self.processes, self._outages.is_away)
        # Something was admitted here of late that the shared counters can be told.
        self._has_news = False
        # What is being handed over, and the settlements of what has to be handed over first.
        self._adopting: set[Reservation] = set()
        self._deferred: list[Settlement] = []
        self._settling: asyncio.Task[None] | None = None
        self._timer: asyncio.Task[None] | None = None
        # When it is due next, and how often it was done.
        self._beat_at, self._renew_at, self._beats = 0.0, 0.0, 0
        # Calls that nobody waits for any more. Each still has a connection.
        self._abandoned: set[asyncio.Task[Any]] = set()

    @property
    def processes(self) -> int:
        """How many processes there are, this one included, as was last seen."""
        return self._shares.processes

    async def reserve(
        self, counters: Sequence[Counter], tokens: int, money: int
    ) -> tuple[Sequence[Counter], Decision, Reservation | None]:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().create_task(self._run_timer())
        avoided, reason = self._outages.avoided(counters), self.degraded
        if not avoided:
            try:
                decision = await self._ask(counters, tokens, money)
            except CountersUnavailable as error:
                reason = str(error)
            else:
                return counters, decision, self._begin(counters, decision, tokens, money)
        # Also after a single late answer, which is no outage yet: nothing may pass unchecked.
        if self._refuses:
            raise CountersUnavailable(reason)
        if not self._processes_at:
            await self._remember_processes()
        if 0 < len(avoided) < len(counters):
            with contextlib.suppress(CountersUnavailable):
                return await self._reserve_apart(counters, avoided, tokens, money)
        shares, decision, reservation = await self._shares.reserve(counters, tokens, money)
        if reservation is not None and is_outstanding(reservation, self._outages.is_away):
            self._has_news = True
            self._send_soon()
        return shares, decision, reservation

    async def _ask(self, counters: Sequence[Counter], tokens: int, money: int) -> Decision:
        """Lets the shared counters decide. Raises CountersUnavailable."""
        if self._shared.lacks(counters) and asyncio.get_running_loop().time() >= self._prepare_at:
            await self._prepare(counters)
        # A task that outlives the wait: what it reserves after that has to be freed, so its answer is wanted.
        call = asyncio.get_running_loop().create_task(self._shared.reserve(counters, tokens, money, self._timeout))
        try:
            decision = await self._wait(call, self._timeout)
        except BaseException as error:
            # It is too late, or the caller has left: what it reserves is nobody's.
            call.add_done_callback(partial(self._release, counters, tokens, money))
            self._abandon(call)
            if isinstance(error, CountersUnavailable) and not isinstance(error, CountersIncomplete):
                subjects = {counter.subject for counter in counters}
                self._fail(error, self._shared.silent(subjects, SILENT_PART * self._timeout))
            raise
        self._outages.succeed(counters)
        return decision

    async def _reserve_apart(
        self, counters: Sequence[Counter], avoided: Set[int], tokens: int, money: int
    ) -> tuple[Sequence[Counter], Decision, Reservation | None]:
        """Decides of the counters at these positions by this process' shares, and lets the shared ones decide of the
        others. Raises CountersUnavailable.
        """
        here = [counter for n, counter in enumerate(counters) if n in avoided]
        there = [counter for n, counter in enumerate(counters) if n not in avoided]

        def merged(first: Sequence[Item], second: Sequence[Item]) -> list[Item]:
            items = iter(first), iter(second)
            return [next(items[n not in avoided]) for n in range(len(counters))]

        shares, decision = await self._shares.look(here, tokens, money)
        if not decision.admitted:
            others, seen = await self._shares.look(there, tokens, money)
            return merged(shares, others), Decision(False, merged(decision.states, seen.states)), None
        shared = await self._ask(there, tokens, money)
        if not shared.admitted:
            return merged(shares, there), Decision(False, merged(decision.states, shared.states)), None
        shares, decision, reservation = await self._shares.reserve(here, tokens, money)
        states = merged(decision.states, shared.states)
        if reservation is None:
            # Another request has taken it meanwhile.
            self._withdraw(Reservation(there, tokens, money, shared.lease, leases=shared.leases))
            return merged(shares, there), Decision(False, states), None
        self._shares.see(there, shared, tokens, money)
        reservation.counters, reservation.leases = merged(shares, there), shared.leases
        self._live[reservation] = asyncio.get_running_loop().time()
        return reservation.counters, Decision(True, states), reservation

    async def _prepare(self, counters: Sequence[Counter]) -> None:
        """Reads what was spent before, once for a window: the database has more time than the shared counters."""
        try:
            spent = await self._within(PATIENT_SECONDS, self._shared.prepare(counters))
            # Shares begin with it if the shared counters are lost before they have said anything of these budgets.
            self._shares.see_stored(counters, spent)
        except (CountersUnavailable, StoreUnavailable):
            # Shared counters that have lost a budget as well refuse to count it; otherwise theirs is right.
            self._prepare_at = asyncio.get_running_loop().time() + PATIENT_SECONDS

    def _release(self, counters: Sequence[Counter], tokens: int, money: int, call: "asyncio.Task[Decision]") -> None:
        """Takes back what a call has reserved that nobody waited for."""
        if not call.cancelled() and call.exception() is None and call.result().admitted:
            self._withdraw(Reservation(counters, tokens, money, call.result().lease, leases=call.result().leases))

    def _withdraw(self, reservation: Reservation) -> None:
        self._settlements.append(Settlement(reservation, 0, 0, withdrawn=True))
        self._send_soon()

    def _watched(self) -> Iterator[Reservation]:
        """Yields what the shared counters have reserved for this process and have not freed yet."""
        yield from self._live
        for settlement in (*self._group, *self._settlements):
            yield settlement.reservation

    def _begin(self, counters: Sequence[Counter], decision: Decision, tokens: int, money: int) -> Reservation | None:
        self._shares.see(counters, decision, tokens, money)
        if not decision.admitted:
            return None
        reservation = Reservation(counters, tokens, money, decision.lease, leases=decision.leases)
        self._live[reservation] = asyncio.get_running_loop().time()
        return reservation

    def settle(self, settlement: Settlement) -> None:
        reservation = settlement.reservation
        if reservation in self._adopting or (reservation.local and self._is_due(reservation)):
            # Once the shared counters have taken it over: a budget that they do not know of is not left to others.
            self._deferred.append(settlement)
            self._has_news = True
            self._send_soon()
            return
        if reservation.local:
            self._settle_alone(settlement)
            return
        self._shares.settle(settlement)
        self._send(settlement)

    def _is_due(self, reservation: Reservation) -> bool:
        """Tells whether it is about to be handed over."""
        return self._shares.is_untold(reservation) and is_outstanding(reservation, self._outages.is_away)

    def _send(self, settlement: Settlement) -> None:
        self._live.pop(settlement.reservation, None)
        # A list and not a call for each: those that end together are one message to the counters.
        self._settlements.append(settlement)
        self._send_soon()

    def _send_soon(self) -> None:
        if self._settling is None:
            self._settling = asyncio.get_running_loop().create_task(self._send_settlements())

    async def claim(self, words: str, window: int) -> bool:
        return await self._stored.claim(words, window)

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.gather(self._timer, return_exceptions=True)
        await self._end_abandoned()
        if (settling := self._settling) is not None:  # which forgets itself when it is done
            await asyncio.wait({settling}, timeout=PATIENT_SECONDS)
            # No further message is sent, and that under way is not given up: it may be counted yet, and then be stored,
            # too.
            self._is_ending = True
            await asyncio.wait({settling}, timeout=self._settlement_timeout)
            settling.cancel()
            await asyncio.gather(settling, return_exceptions=True)
            self._store(self._settlements, CountersUnavailable("the process ends"))
        for settlement in self._deferred:
            self._store_alone(settlement.reservation.counters, settlement.money)
        await self._end_abandoned()
        with contextlib.suppress(Exception):
            await self._shared.stop()
        # Last, since what is left is put into it.
        await self._stored.stop()

    # --- the shared counters --------------------------------------------------------------------------------

    async def _within(self, seconds: float, call: Coroutine[Any, Any, Result]) -> Result:
        """Returns the result of a call that takes no longer than this. Raises CountersUnavailable."""
        task = asyncio.get_running_loop().create_task(call)
        try:
            return await self._wait(task, seconds)
        finally:
            # It may fail where it is cancelled, and nobody is there to hear of it.
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            task.cancel()
            self._abandon(task)

    def _abandon(self, call: "asyncio.Task[Any]") -> None:
        """Remembers a call that nobody waits for any more, until it has ended."""
        if not call.done():
            self._abandoned.add(call)
            call.add_done_callback(self._abandoned.discard)

    async def _end_abandoned(self) -> None:
        """Ends the calls that nobody waits for, so that their connections are given back and can be closed."""
        if calls := {*self._abandoned}:
            for call in calls:
                call.cancel()
            await asyncio.wait(calls, timeout=END_SECONDS)

    async def _wait(self, task: "asyncio.Task[Result]", seconds: float) -> Result:
        await asyncio.wait({task}, timeout=seconds)
        for _ in range(LOOP_TURNS):
            if task.done():
                return task.result()
            # An event loop that is late itself has not read yet what has arrived.
            await asyncio.sleep(0)
        raise CountersUnavailable(f"the shared counters did not answer within {seconds * 1000:.0f} ms")

    def _fail(self, error: CountersUnavailable, subjects: Collection[str] = ("",)) -> None:
        """Takes note of a failure. subjects: that were asked for, where the error does not say which it concerns."""
        self._outages.fail(error, subjects)
        # What waited for a server to take it over is settled without it.
        if self._deferred:
            self._send_soon()

    def _report(self, reason: str) -> None:
        """Tells of servers that are away. Of a further one, or of some that are back, nothing new is said."""
        was_degraded, self.degraded = bool(self.degraded), reason
        if bool(reason) != was_degraded:
            self._on_change(reason)

    @property
    def _behind(self) -> bool:
        """There is something that the shared counters do not know, beside settlements that are new."""
        return bool(self._unsettled or self._shares.has_untold)

    async def _send_settlements(self) -> None:
        try:
            while True:
                # Some may have waited for a server that is away by now.
                self._settle_deferred()
                arrived = True
                while self._settlements and not self._is_ending:
                    arrived = await self._send_group()
                # After a failure the timer tries again, and not this at once.
                if not arrived or not self._has_news or self._is_ending:
                    break
                try:
                    await self._catch_up()
                except CountersUnavailable as error:
                    self._fail(error)
                    if not self._settlements:
                        break
        finally:
            self._settling = None

    async def _send_group(self) -> bool:
        """Sends the settlements that wait, where somebody answers. Returns whether these arrived."""
        arrived, failure = False, CountersUnavailable("")
        async with self._stored.order:
            # In order with whoever begins or joins a generation: what was spent is in one of the two places then.
            group, self._settlements = self._settlements, []
            self._group = group
            away = {one for one in _subjects(group) if self._outages.has_lost(one)} if self.degraded else set()
            message = _parts(group, lambda counter: counter.subject not in away) if away else group
            try:
                if message:
                    await self._within(self._settlement_timeout, self._shared.settle(message))
                arrived, failure = True, CountersUnavailable("", away)
            except CountersUnavailable as error:
                if error.subjects is not None:
                    failure = CountersUnavailable("", away.union(error.subjects))
                self._fail(error, _subjects(message))
            finally:
                self._group = ()
                self._store(group, failure)
        return arrived

    async def _catch_up(self) -> None:
        """Tells the shared counters some of what they do not know. Raises CountersUnavailable, and nothing is lost.

        Where some of them are away, those that were told are not told again.
        """
        self._has_news = False
        is_away = self._outages.is_away
        unsettled = _parts(self._unsettled, lambda counter: not is_away(counter))
        self._unsettled = _parts(self._unsettled, is_away)
        reservations, past = self._shares.hand_over(is_away)
        # There may be more.
        self._has_news = MAX_HANDED_OVER in (len(reservations), len(past))
        self._adopting = {one for one, _ in reservations}
        failure: CountersUnavailable | None = None
        try:
            try:
                if unsettled:
                    await self._within(self._settlement_timeout, self._shared.settle(unsettled))
                unsettled = []
            except CountersUnavailable as error:
                failure, unsettled = error, _parts(unsettled, error.concerns)
            try:
                if reservations or past:
                    await self._within(self._settlement_timeout, self._shared.adopt(reservations, past))
                past = []
            except CountersUnavailable as error:
                failure, past = error, [one for one in past if error.concerns(one.counter)]
        finally:
            self._adopting = set()
            self._unsettled += unsettled
            self._take_note(reservations, past)
            if failure is None:
                self._settle_deferred()
            else:
                # What they reserved is free, though nobody can be told: one node of several may be away for long.
                deferred, self._deferred = self._deferred, []
                for settlement in deferred:
                    if settlement.reservation.local:
                        self._settle_alone(settlement)
                    else:
                        self.settle(settlement)
        if failure is not None:
            raise failure

    def _take_note(self, reservations: Sequence[tuple[Reservation, int]], past: Sequence[Past]) -> None:
        """Keeps what was not handed over of these reservations, and this of what was spent."""
        now = asyncio.get_running_loop().time()
        left: list[tuple[Reservation, int]] = []
        for reservation, age in reservations:
            if reservation.local:
                left.append((reservation, age))
            if any(map(reservation.is_shared, reservation.counters)):
                self._live.setdefault(reservation, now)
        self._shares.take_back(left, past)

    def _settle_deferred(self) -> None:
        deferred, self._deferred = self._deferred, []
        for settlement in deferred:
            self.settle(settlement)

    def _settle_alone(self, settlement: Settlement) -> None:
        """Ends a reservation of which the shared counters do not know, or not all of them."""
        reservation = settlement.reservation
        self._shares.settle(settlement)
        self._live.pop(reservation, None)
        if shared := [counter for counter in reservation.counters if reservation.is_shared(counter)]:
            self._send(replace(settlement, reservation=reservation.part(shared)))
        local = [counter for counter in reservation.counters if not reservation.is_shared(counter)]
        self._store_alone(local, settlement.money)

    def _store(self, group: Sequence[Settlement], failure: CountersUnavailable) -> None:
        """Stores what was spent, once the shared counters have it, or once they could not be told.

        In the other order, who compares the two would take over an amount that is still on its way, which then counts
        twice.
        """
        for settlement in group:
            lost = _parts([settlement], failure.concerns) if failure.subjects != set() else []
            for one in lost:
                self._shared.doubt(one.reservation.counters)
                # Without the money, which the database has.
                self._unsettled.append(replace(one, money=0))
            if lost or self._stores_all:
                self._stored.add(settlement.reservation.counters, settlement.money)

    def _store_alone(self, counters: Sequence[Counter], money: int) -> None:
        """Stores what was spent, for shared counters that do not know it."""
        self._stored.add(counters, money)
        self._shared.miss(counters, money)

    # --- the timer ------------------------------------------------------------------------------------------

    async def _run_timer(self) -> None:
        while True:
            for outage in self._outages.open():
                await self._probe(outage)
            for step in (self._say_alive, self._renew_in_time, self._tell, self._confirm):
                try:
                    await step()
                except CountersUnavailable as error:
                    self._fail(error)
                    if error.subjects is None:
                        break
            else:
                if self._behind:
                    self._has_news = True
                    self._send_soon()
            await asyncio.sleep(PROBE_SECONDS)

    async def _say_alive(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._beat_at and not self._outages.has_lost(""):
            await self._see_processes(await self._beat(PATIENT_SECONDS))
            self._beats += 1
            self._beat_at = now + (BEAT_SECONDS if self._beats >= EARLY_BEATS else 0.0)

    async def _renew_in_time(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._renew_at:
            await self._renew(now)
            # Twice as often as one becomes due, so that each is renewed after half of its lease at the latest.
            self._renew_at = now + RENEW_SECONDS / 2

    async def _tell(self) -> None:
        await self._in_order(self._shared.tell)

    async def _confirm(self) -> None:
        while await self._in_order(self._shared.confirm):
            pass

    async def _in_order(self, call: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        async with self._stored.order:
            return await self._within(PATIENT_SECONDS, call())

    async def _beat(self, seconds: float, subject: str = "") -> int:
        return await self._within(seconds, self._shared.beat(self._id, ALIVE_SECONDS, subject))

    async def _see_processes(self, count: int) -> None:
        """Takes note of how many processes there are. One that is missing may have had no time for a sign of life yet:
        counters that were emptied know only of those that came by since.
        """
        now, is_first = asyncio.get_running_loop().time(), not self._processes_at
        self._processes_at = self._processes_at or now
        if count < self._shares.processes and now - self._processes_at < ALIVE_SECONDS:
            return
        is_new = count != self._shares.processes or is_first
        self._shares.processes, self._processes_at = count, now
        if is_new and self._stores_all:
            await self._stored.put_processes(count)

    async def _remember_processes(self) -> None:
        """Reads how many processes there were when the shared counters last answered any of them. Once."""
        if self._remembering is None:
            self._remembering = asyncio.get_running_loop().create_task(self._read_processes())
        await asyncio.shield(self._remembering)

    async def _read_processes(self) -> None:
        with contextlib.suppress(CountersUnavailable):
            count = await self._within(PATIENT_SECONDS, self._stored.processes())
            if not self._processes_at:
                self._shares.processes = max(self._shares.processes, count)

    async def _probe(self, outage: Outage) -> None:
        """Looks whether a server answers, and returns to it when it has done so for a while."""
        now = asyncio.get_running_loop().time()
        try:
            if outage.return_at is None:
                await self._within(self._timeout, self._shared.reconnect(outage.subject))
                await self._beat(self._timeout, outage.subject)
            # A connection may answer only to be made: the second call shows what a request would wait.
            if count := await self._beat(self._timeout, outage.subject):
                await self._see_processes(count)
        except CountersUnavailable:
            outage.return_at = None
            return
        if outage.return_at is None:
            self._shared.compare_again(outage.subject)
            # Where all is refused meanwhile, no process has anything to hand over.
            outage.failures, outage.return_at = 0, now + (0.0 if self._refuses else RETURN_SECONDS)
        # What was spent meanwhile has to be known before they decide again.
        with contextlib.suppress(StoreUnavailable, CountersUnavailable):
            await self._stored.flush()
            await self._tell()
        if outage.return_at is not None and now >= outage.return_at:
            self._outages.end(outage)

    async def _renew(self, now: float) -> None:
        groups: dict[int, list[Reservation]] = {}
        for reservation, since in self._live.items():
            if now - since >= RENEW_SECONDS and not all(map(self._outages.is_away, reservation.counters)):
                # As much as has gone by, so that its lease is that of one made now.
                groups.setdefault(int(now - since), []).append(reservation)
        for seconds, group in groups.items():
            # In order with the settlements, which name the lease that they end: one that came to the counters before
            # the renewal would free nothing, and the renewal would reserve anew what is over.
            async with self._stored.order:
                # Others may have ended while this waited, and what has ended is not reserved again.
                live = [reservation for reservation in group if reservation in self._live]
                if live:
                    await self._within(PATIENT_SECONDS, self._shared.renew(live, seconds))
            for reservation in live:
                if reservation in self._live:
                    self._live[reservation] += seconds

    async def _stored_amount(self, counter: Counter, is_unseen: bool) -> int | None:
        loop = asyncio.get_running_loop()
        if is_unseen and loop.time() < self._ask_at:
            return None
        try:
            # With nothing to go by, a share of all that was ever granted would be granted again.
            return await self._within(PATIENT_SECONDS if is_unseen else self._timeout, self._load(counter))
        except CountersUnavailable:
            if is_unseen:
                self._ask_at = loop.time() + PATIENT_SECONDS
            return None

    async def _load(self, counter: Counter) -> int:
        try:
            return (await self._stored.load([counter])).get((counter.id, counter.window), 0)
        except StoreUnavailable as error:
            raise CountersUnavailable(str(error)) from error


def _subjects(settlements: Sequence[Settlement]) -> set[str]:
    return {counter.subject for settlement in settlements for counter in settlement.reservation.counters}


def _parts(settlements: Sequence[Settlement], is_meant: Callable[[Counter], bool]) -> list[Settlement]:
    """Returns what settlements say of some of their counters."""
    parts = []
    for settlement in settlements:
        reservation = settlement.reservation
        if counters := [counter for counter in reservation.counters if is_meant(counter)]:
            parts.append(replace(settlement, reservation=reservation.part(counters)))
    return parts
