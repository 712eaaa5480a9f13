"""Responses in the background: worked on after their request was answered, whether or not anybody waits for them.

A `Run` is where such a call's answer goes (`streaming.ResponseSink`): into the storage. Nobody hears of an event
before it is stored, so whoever comes back, here or at another process, after a crash or not, finds the past that they
were told. Who hears of it is in `event_replay.py`. A process that dies leaves its runs to the others, which end them
when the lease is over (`maintenance.py`).
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from msgspec import Struct

from gateway.errors import CallerError, failure, failure_of
from gateway.observability.access_log import Log
from gateway.observability.record import RequestRecord
from gateway.pipeline.event_replay import follow
from gateway.pipeline.handler import RequestHandler
from gateway.pipeline.services import Services
from gateway.state.conversation_state import UNAVAILABLE
from gateway.store.errors import ConversationMissing, StoreError, StoreUnavailable
from gateway.store.responses import LIVE, Batches, StoredResponse
from translators.core.contracts import QueuedResponse, Stream, Translation
from translators.core.errors import CANCELLED, Failure

MOST_QUEUED = 1000
"""Responses that wait for others to end."""

MOST_BYTES = 512 * 1024 * 1024
"""Of the requests of all that have not ended, which are kept in memory; one is taken whatever its size."""

BATCH_SECONDS = 0.05
"""Between two transactions with the events of all runs: what comes meanwhile goes into one."""

MOST_AT_ONCE, FEWEST_OF_A_RUN = 2000, 10
"""Events that one transaction stores, in equal parts of all runs; but of no run fewer than so many."""

MOST_PENDING = 2000
"""Events of a run that wait to be stored before reading from Cohere pauses."""

MOST_REMEMBERED = 1000
"""Events of a run that followers in this process find in memory; older ones are read from the storage."""

LOOK_SECONDS = 1.0
"""How soon a cancellation at another process is noticed."""

CANCEL_SECONDS = 5.0
"""How long who cancels waits to see it done."""

POLL_SECONDS = 0.2

PATIENCE = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between the tries to store something while the storage is down."""

CLOSING_SHARE = 0.9
"""Of the time between SIGTERM and the end: what is left over is for telling followers how their response ended."""

STORING_SECONDS = 3.0
"""For storing what became of the runs that a shutdown ends."""

STOPPING = failure("not_ready", "The gateway is stopping")
STOPPED = failure("not_ready", "The gateway stopped before the response was complete")
BUSY = failure("background_full", "Too many responses are waiting in the background")


T = TypeVar("T")


class Begun(Struct, frozen=True):
    """A response that was accepted: as it stands, and the events to come where it is streamed."""

    body: bytes
    events: AsyncGenerator[Sequence[bytes], None] | None


class Background:
    """The runs of this process, with one writer and one timer for all of them."""

    def __init__(self, services: Services, log: Log) -> None:
        self.services, self.log = services, log
        self.places = asyncio.Semaphore(services.settings.max_background_responses)
        self._runs: dict[str, Run] = {}
        self._timer: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._deadline: float | None = None

    async def begin(self, handler: RequestHandler, call: Translation) -> Begun:
        """Stores a call as queued, and works on it from now on. Raises CallerError (503), before Cohere is paid."""
        if self._deadline is not None:
            raise CallerError(STOPPING)
        runs = self._runs.values()
        size = sum(run.size for run in runs)
        if len(runs) >= self.services.settings.max_background_responses + MOST_QUEUED or size > MOST_BYTES:
            raise CallerError(BUSY)
        assert handler.operation.queued_response is not None, "rows that remember know how to begin"
        queued = handler.operation.queued_response(call)
        run = Run(self, handler, call, queued)
        try:
            await run.store(queued)
        except StoreUnavailable as error:
            self.services.state.trouble(error)
            raise CallerError(UNAVAILABLE) from error
        run.begin_record()
        self._runs[run.id] = run
        run.task = asyncio.get_running_loop().create_task(run.work())
        run.task.add_done_callback(lambda _: self._over(run))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().create_task(self._look_after_all())
        return Begun(queued.queued, self.follow(handler.record.principal.owner, run.id, -1) if call.streamed else None)

    def follow(self, owner: str, id: str, after: int) -> AsyncGenerator[Sequence[bytes], None]:
        """The events of a response that were numbered above `after`, and those to come."""
        quiet = self.services.settings.stream_keep_alive or math.inf
        return follow(self.services.state.store, owner, id, after, quiet, self._runs.get(id))

    async def cancel(self, owner: str, id: str) -> None:
        """Returns when the response has ended, or after a while all the same. Raises StoreUnavailable."""
        store = self.services.state.store
        if not await store.request_cancel(owner, id):
            return
        run = self._runs.get(id)
        if run is not None:
            run.stop(CANCELLED)
            await asyncio.wait({run.task}, timeout=CANCEL_SECONDS)
            return
        until = time.monotonic() + CANCEL_SECONDS
        while (found := await store.get(owner, id)) is not None and found.status in LIVE and time.monotonic() < until:
            await asyncio.sleep(POLL_SECONDS)

    def stop_one(self, id: str) -> None:
        """Nobody wants this response any more; whatever comes of it is not stored."""
        if id in self._runs:
            self._runs[id].stop(CANCELLED)

    # --- the end of the process -----------------------------------------------------------------------------

    def close(self, grace: float) -> None:
        """The process ends in so many seconds: what is not complete by then has failed."""
        seconds = grace * CLOSING_SHARE
        if self._deadline is None or self._deadline > time.monotonic() + seconds:
            self._deadline = time.monotonic() + seconds
            asyncio.get_running_loop().call_later(seconds, self._stop_all)

    async def stop(self) -> None:
        """Waits for the runs to end by themselves, then stops them; returns when all have ended or been given up."""
        self.close(self.services.settings.timeouts.shutdown)
        assert self._deadline is not None
        await self._wait(max(self._deadline - time.monotonic(), 0))
        self._stop_all()
        await self._wait(STORING_SECONDS)
        for run in self._runs.values():
            run.task.cancel()  # the storage does not answer; another process will say what became of it
        for task in (self._timer, self._writer):
            if task is not None:
                task.cancel()

    async def _wait(self, seconds: float) -> None:
        if tasks := {run.task for run in self._runs.values()}:
            await asyncio.wait(tasks, timeout=seconds)

    def _stop_all(self) -> None:
        for run in self._runs.values():
            run.stop(STOPPED)

    def _over(self, run: "Run") -> None:
        del self._runs[run.id]
        self.services.lifecycle.finish(run.known)

    # --- the storage ----------------------------------------------------------------------------------------

    async def insist(self, write: Callable[[], Awaitable[T]]) -> T:
        """The result of a write, which is tried again while the storage is down. Raises StoreUnavailable in the end."""
        for pause in PATIENCE:
            try:
                return await write()
            except StoreUnavailable as error:
                self.services.state.trouble(error)
                await asyncio.sleep(pause)
        return await write()

    def write(self) -> None:
        """A run has events to be stored."""
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        """Stores what is pending, of all runs together, again and again until nothing is."""
        store = self.services.state.store
        while batches := self._batches():
            try:
                gone = await self.insist(partial(store.append_events, batches))
            except StoreUnavailable as error:
                self.services.state.trouble(error)
                self._give_up(batches, failure_of(CallerError(UNAVAILABLE)))
            except Exception as error:
                told = failure_of(error)
                self.log.failure("in the background", error, told)
                self._give_up(batches, told)
            else:
                self._give_up(gone, CANCELLED)
                for id, (number, events) in batches.items():
                    if id in self._runs and id not in gone:
                        self._runs[id].told(number, events)
            await asyncio.sleep(BATCH_SECONDS)
        self._writer = None

    def _batches(self) -> Batches:
        runs = self._runs.values()
        part = max(MOST_AT_ONCE // max(len(runs), 1), FEWEST_OF_A_RUN)
        return {run.id: batch for run in runs if (batch := run.batch(part)) is not None}

    def _give_up(self, ids: Iterable[str], why: Failure) -> None:
        for run in [self._runs[id] for id in ids if id in self._runs]:
            run.stop(why)

    # --- the timer ------------------------------------------------------------------------------------------

    async def _look_after_all(self) -> None:
        """Renews the leases, and finds what was cancelled elsewhere, deleted, or given up for lost."""
        store = self.services.state.store
        renewed = 0.0
        while self._runs:
            await asyncio.sleep(LOOK_SECONDS)
            ids = list(self._runs)
            try:
                now = time.monotonic()
                if now - renewed >= store.lease / 3:
                    await store.renew(ids)
                    renewed = now
                for id in await store.cancelled(ids):
                    self.stop_one(id)
            except StoreError as error:
                self.services.state.trouble(error)
            except Exception as error:  # a bug; without this timer all runs would lose their leases
                self.log.trouble(f"background: {type(error).__name__} while looking after what is under way")
        self._timer = None


class Run:
    """One response in the background: `streaming.ResponseSink`. `task` works on it."""

    task: asyncio.Task[None]
    known: RequestRecord

    def __init__(
        self, background: Background, handler: RequestHandler, call: Translation, queued: QueuedResponse
    ) -> None:
        self._background, self._handler, self._call = background, handler, call
        self._memory, self._store = background.services.state, background.services.state.store
        self._begun, self._streamed = queued.in_progress, call.streamed
        self.size = sum(map(len, call.bodies))
        recalled = handler.loaded
        assert recalled is not None
        self.id, self._recalled = recalled.response_id, recalled
        request = handler.record
        request.operation, request.model, request.notes = "response_background", call.model, len(call.notes)
        handler.save = None
        self.over = False
        self.news = asyncio.Event()
        self._ending: Failure | None = None  # why it was stopped
        self._telling = False
        self._final: bytes | None = None
        # Events that are stored, the newest of them, from the number `_first` on; and those that will be.
        self._stored: list[bytes] = []
        self._first = 0
        self._pending: list[bytes] = []

    def begin_record(self) -> None:
        """Opens its own record: the request is answered and counted by itself, what the response costs is here."""
        handler = self._handler
        self.known = self._background.services.lifecycle.begin_background(handler.record, handler.operation.name)
        self.known.model, self.known.streamed = self._call.model, self._call.streamed
        handler.record = self.known

    async def store(self, queued: QueuedResponse) -> None:
        """As queued. Raises StoreUnavailable."""
        response, _ = self._row(queued.queued)
        events = queued.events if self._streamed else ()
        await (await self._memory.open()).begin(response, events)
        self._stored += events

    def since(self, after: int) -> Sequence[bytes] | None:
        """The events numbered above `after` that are stored; None if they are not all in memory."""
        index = after + 1 - self._first
        return self._stored[index:] if index >= 0 else None

    def stop(self, why: Failure) -> None:
        """Ends it like this, unless its end is known."""
        if self._ending is None and self._final is None and not self.over:
            self._ending = why
            self.task.cancel()

    # --- the work -------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """From queued to its end, however that comes."""
        known = self.known
        try:
            await self._work()
        except asyncio.CancelledError:
            known.error = "shutdown"
            raise
        except StoreUnavailable as error:
            self._memory.trouble(error)
            self._background.log.trouble(f"storage: what became of response {self.id} was not stored")
            known.error = "storage_unavailable"
        except Exception as error:
            self._background.log.failure(known.request_id, error, failure_of(error))
            known.error = "internal_error"
        finally:
            self.over = True
            self._tell()
            known.status = known.status or (500 if known.error else 200)
            known.outcome = known.outcome or ("error" if known.error else "ok")

    async def _work(self) -> None:
        try:
            async with self._background.places:
                response, _ = self._row(self._begun)
                if await self._background.insist(partial(self._store.advance, response)):
                    await self._handler.respond(self._call, self)
                else:
                    self.known.outcome, self.known.status = "cancelled", CANCELLED.status
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._ending is None or task is None or task.uncancel():
                raise
            await self._end(self._ending)
        except StoreUnavailable:
            raise
        except Exception as error:
            told = failure_of(error)
            self._background.log.failure(self.known.request_id, error, told)
            await self._end(told)

    async def _end(self, why: Failure) -> None:
        """Before the answer is complete: what there is of it is kept, with what it came to."""
        if self._final is None:
            stream = self._handler.stream
            if stream is None or not self._telling:
                stream = self._call.stream()
            self._pending += stream.end(why)
            self._final = stream.final()
            self.known.status = why.status
            if why is CANCELLED:
                self.known.outcome = "cancelled"
            else:
                self.known.error = why.code or why.type
        await self._finish()

    # --- where the answer goes ------------------------------------------------------------------------------

    async def whole(self, call: Translation, answer: bytes) -> None:
        self._final = answer
        await self._finish()

    async def begin(self, call: Translation) -> None:
        self._telling = True
        self.known.first_byte = time.monotonic()

    async def documents(self, documents: Sequence[bytes]) -> None:
        self._pending += documents
        self._background.write()
        while len(self._pending) > MOST_PENDING:
            await self.news.wait()

    async def end(self, documents: Sequence[bytes], stream: Stream) -> None:
        self._pending += documents
        self._final = stream.final()
        await self._finish()

    # --- the storage ----------------------------------------------------------------------------------------

    def batch(self, most: int) -> tuple[int, Sequence[bytes]] | None:
        """The next events to be stored, with the number of the first. None once its end is to be stored with them."""
        if not self._pending or self._final is not None or self._ending is not None:
            return None
        return self._first + len(self._stored), self._pending[:most]

    def told(self, number: int, events: Sequence[bytes]) -> None:
        """These are stored: whoever follows may have them."""
        # What was stored twice, by the writer and with the end of the run, is told once.
        events = events[self._first + len(self._stored) - number :]
        del self._pending[: len(events)]
        self._stored += events
        if len(self._stored) > 2 * MOST_REMEMBERED:
            self._first += len(self._stored) - MOST_REMEMBERED
            del self._stored[:-MOST_REMEMBERED]
        self._tell()

    async def _finish(self) -> None:
        """The complete response, its last events, and what it adds to its conversation. Raises StoreUnavailable."""
        assert self._final is not None
        response, items = self._row(self._final)
        # Perhaps the writer is at some of these, too: storing an event twice does no harm.
        events = list(self._pending) if self._streamed else []
        number = self._first + len(self._stored)
        try:
            kept = await self._background.insist(partial(self._store.advance, response, items, number, events))
        except ConversationMissing:
            # Deleted meanwhile: the response stays, as those do that were in it before.
            kept = await self._background.insist(partial(self._store.advance, response, (), number, events))
        if kept:
            self.told(number, events)

    def _tell(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()
        if self.over:
            self.news.set()

    def _row(self, body: bytes) -> tuple[StoredResponse, list[tuple[str, bytes]]]:
        kept = self._handler.operation.finished_response
        assert kept is not None
        return self._memory.as_stored(self._recalled, self._handler.record.principal, kept(body), body)
