"""Background responses: worked on after their request was answered, whether or not anybody waits for them.

A `Run` is the sink of such a call (`streaming.ResponseSink`): it writes the response to the storage. No reader gets an
event before it is stored, so whoever comes back, here or at another process, after a crash or not, finds the events
that they had before. Readers are served by `event_replay.py`. The runs of a process that dies are ended by the others
when their lease is over (`maintenance.py`).
"""

import asyncio
import contextlib
import math
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from gateway.errors import CallerError, UpstreamError, failure, failure_of
from gateway.observability.access_log import Log
from gateway.observability.record import RequestRecord
from gateway.pipeline.event_replay import replay
from gateway.pipeline.handler import RequestHandler
from gateway.pipeline.services import Services
from gateway.settings.schema import ConcurrencySettings
from gateway.state.conversation_state import UNAVAILABLE
from gateway.store.errors import ConversationMissing, StoreError, StoreUnavailable
from gateway.store.responses import LIVE, Batches, StoredResponse
from gateway.upstream.concurrency import ConcurrencyLimiter
from translators.core.contracts import QueuedResponse, Stream, Translation
from translators.core.errors import CANCELLED, Failure
from translators.core.faults import Fault
from translators.core.notes import Notes
from translators.operations import responses_answer, stored_responses

MAX_QUEUED = 1000
"""Responses that wait for others to end."""

MAX_REQUEST_BYTES = 512 * 1024 * 1024
"""Of the requests of all runs, which are in memory until they end. A single one is taken whatever its size."""

MAX_CALLER_REQUEST_BYTES = 128 * 1024 * 1024
"""Of the requests of one caller's runs, likewise."""

BATCH_SECONDS = 0.05
"""Between two transactions with the events of all runs: events that come meanwhile go into one."""

BATCH_EVENTS, MIN_RUN_EVENTS = 2000, 10
"""Events that one transaction stores, shared equally by all runs; but of no run fewer than MIN_RUN_EVENTS."""

MAX_PENDING_EVENTS = 2000
"""Events of a run that wait to be stored before reading from Cohere pauses."""

MAX_MEMORY_EVENTS = 1000
"""Events of a run that readers in this process find in memory; older ones are read from the storage."""

CHECK_SECONDS = 1.0
"""How soon a cancellation at another process is noticed."""

CANCEL_WAIT_SECONDS = 5.0
"""How long a cancel request waits for the response to end."""

POLL_SECONDS = 0.2

QUEUE_SECONDS = 10.0**8
"""A queued response waits as long as it must."""

STORE_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses between the attempts to store something while the storage is down."""

CLOSING_SHARE = 0.9
"""Of the time between SIGTERM and the end: the rest is for readers, who are still to hear how their response ended."""

STORING_SECONDS = 3.0
"""For storing the runs that a shutdown ends."""

STOPPING = failure("not_ready", "The gateway is stopping")
STOPPED = failure("not_ready", "The gateway stopped before the response was complete")
CALLER_BUSY = failure("background_share", "Too many of your background responses have not ended: wait for some of them")
BUSY = failure("background_full", "Too many responses are waiting in the background")


T = TypeVar("T")


class Accepted(Struct, frozen=True):
    """A response that was accepted.

    body: the response object now. events: those to come, if it is streamed. notes: on the translation that was let in.
    """

    body: bytes
    events: AsyncGenerator[Sequence[bytes], None] | None
    notes: Notes


class Background:
    """The runs of this process, with one writer and one timer for all of them."""

    def __init__(self, services: Services, log: Log) -> None:
        self.services, self.log = services, log
        # Callers take turns: nobody waits behind all that somebody else has queued. `begin` limits the queue.
        limit, share = services.settings.max_background_responses, services.settings.concurrency.caller_share
        self.slots = ConcurrencyLimiter(ConcurrencySettings(limit, sys.maxsize, QUEUE_SECONDS, share))
        self._runs: dict[str, Run] = {}
        self._starting: list[tuple[str, int]] = []
        """The owners of the runs that are being started, and the bytes of their requests."""
        self._timer: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._rows: dict[str, asyncio.Future[bool]] = {}
        """Responses that have ended. Their rows are in the storage until they are safe in the ledger."""
        self._deadline: float | None = None

    async def begin(self, handler: RequestHandler, call: Translation) -> Accepted:
        """Admits a call, stores it as queued and starts to work on it. What it reserves is held from now on.

        Raises CallerError (403, 429, 503), before Cohere is paid, and UpstreamError for a key that Cohere does not
        accept.
        """
        owner, size = handler.record.principal.owner, sum(map(len, call.bodies))
        # First, because it costs nothing: a caller over their share should not cause work.
        self._ensure_capacity(owner)
        # From here on, or requests that come at the same time would all find room.
        starting = owner, size
        self._starting.append(starting)
        try:
            return await self._start(handler, call)
        finally:
            self._starting.remove(starting)

    async def _start(self, handler: RequestHandler, call: Translation) -> Accepted:
        # Nobody waits for the response, so a wrong key would fail unseen, and its request would be stored until then.
        await self.services.accepted_keys.ensure(handler.record.principal)
        assert handler.operation.queued_response is not None, "operations with state can run in the background"
        call = await handler.admit_ahead(call)
        try:
            queued = handler.operation.queued_response(call)
            run = Run(self, handler, call, queued)
            await run.store(queued)
        except StoreUnavailable as error:
            handler.give_back()
            self.services.state.log_failure(error)
            raise CallerError(UNAVAILABLE) from error
        except BaseException:
            handler.give_back()
            raise
        # Only now: until the response is stored, the request's own record tells what happened to it.
        run.begin_record()
        self._runs[run.id] = run
        run.task = asyncio.get_running_loop().create_task(run.work())
        run.task.add_done_callback(lambda _: self._remove(run))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().create_task(self._check_all())
        events = self.replay(handler.record.principal.owner, run.id, -1) if call.streamed else None
        return Accepted(queued.queued, events, call.notes)

    def _ensure_capacity(self, owner: str) -> None:
        if self._deadline is not None:
            raise CallerError(STOPPING)
        settings = self.services.settings
        runs = [*self._starting, *((run.owner, run.size) for run in self._runs.values())]
        own_sizes = [size for one, size in runs if one == owner]
        if len(own_sizes) >= settings.max_background_responses_per_caller or sum(own_sizes) > MAX_CALLER_REQUEST_BYTES:
            raise CallerError(CALLER_BUSY)
        size = sum(size for _, size in runs)
        if len(runs) >= settings.max_background_responses + MAX_QUEUED or size > MAX_REQUEST_BYTES:
            raise CallerError(BUSY)

    def replay(self, owner: str, id: str, after: int) -> AsyncGenerator[Sequence[bytes], None]:
        """Returns the events of a response that are numbered above `after`, and those to come."""
        keep_alive = self.services.settings.stream_keep_alive or math.inf
        return replay(self.services.state.store, owner, id, after, keep_alive, self._runs.get(id))

    async def cancel(self, owner: str, id: str) -> None:
        """Returns when the response has ended, or after a while all the same. Raises StoreUnavailable."""
        store = self.services.state.store
        if not await store.request_cancel(owner, id):
            return
        run = self._runs.get(id)
        if run is not None:
            run.stop(CANCELLED)
            await asyncio.wait({run.task}, timeout=CANCEL_WAIT_SECONDS)
            return
        deadline = time.monotonic() + CANCEL_WAIT_SECONDS
        while time.monotonic() < deadline:
            response = await store.get(owner, id)
            if response is None or response.status not in LIVE:
                return
            await asyncio.sleep(POLL_SECONDS)

    def stop_one(self, id: str) -> None:
        """Ends the run of a response that was deleted or cancelled, if it is here."""
        if id in self._runs:
            self._runs[id].stop(CANCELLED)

    # --- the end of the process -----------------------------------------------------------------------------

    def close(self, grace: float) -> None:
        """Takes no more responses; those that are not complete shortly before `grace` seconds have passed fail."""
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
            run.task.cancel()  # the storage does not answer; another process will end the response
        for task in (self._timer, self._writer):
            if task is not None:
                task.cancel()

    async def remove_rows(self) -> None:
        """Removes the rows that the ledger has taken since `stop`. Another process would look for them in vain."""
        if self._rows:
            await asyncio.wait(self._rows.values(), timeout=STORING_SECONDS)
            with contextlib.suppress(StoreError):
                await self._remove_rows()

    async def _wait(self, seconds: float) -> None:
        if tasks := {run.task for run in self._runs.values()}:
            await asyncio.wait(tasks, timeout=seconds)

    def _stop_all(self) -> None:
        for run in self._runs.values():
            run.stop(STOPPED)

    def _remove(self, run: "Run") -> None:
        del self._runs[run.id]
        stored = self.services.lifecycle.finish(run.record)
        if stored is not None:
            self._rows[run.id] = asyncio.ensure_future(stored)

    # --- the storage ----------------------------------------------------------------------------------------

    async def retry(self, write: Callable[[], Awaitable[T]]) -> T:
        """Returns the result of a write, which is tried again while the storage is down.

        Raises StoreUnavailable after the last attempt.
        """
        for pause in STORE_RETRY_SECONDS:
            try:
                return await write()
            except StoreUnavailable as error:
                self.services.state.log_failure(error)
                await asyncio.sleep(pause)
        return await write()

    def wake_writer(self) -> None:
        """Tells the writer that a run has events to be stored."""
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_all())

    async def _write_all(self) -> None:
        """Stores the pending events of all runs together, until there are none."""
        store = self.services.state.store
        while batches := self._batches():
            try:
                inactive = await self.retry(partial(store.append_events, batches))
            except StoreUnavailable as error:
                self.services.state.log_failure(error)
                self._stop_some(batches, failure_of(CallerError(UNAVAILABLE)))
            except Exception as error:
                why = failure_of(error)
                self.log.failure("in the background", error, why)
                self._stop_some(batches, why)
            else:
                self._stop_some(inactive, CANCELLED)
                for id, (number, events) in batches.items():
                    if id in self._runs and id not in inactive:
                        self._runs[id].publish(number, events)
            await asyncio.sleep(BATCH_SECONDS)
        self._writer = None

    def _batches(self) -> Batches:
        runs = self._runs.values()
        share = max(BATCH_EVENTS // max(len(runs), 1), MIN_RUN_EVENTS)
        return {run.id: batch for run in runs if (batch := run.batch(share)) is not None}

    def _stop_some(self, ids: Iterable[str], why: Failure) -> None:
        for run in [self._runs[id] for id in ids if id in self._runs]:
            run.stop(why)

    # --- the timer ------------------------------------------------------------------------------------------

    async def _check_all(self) -> None:
        """Renews the leases, stops what was cancelled elsewhere, deleted, or ended as interrupted, and tidies up."""
        store = self.services.state.store
        renewed = 0.0
        while self._runs or self._rows:
            await asyncio.sleep(CHECK_SECONDS)
            ids = list(self._runs)
            try:
                now = time.monotonic()
                if now - renewed >= store.lease / 3:
                    await store.renew(ids)
                    renewed = now
                for id in await store.inactive(ids) if ids else ():
                    self.stop_one(id)
                await self._remove_rows()
            except StoreError as error:
                self.services.state.log_failure(error)
            except Exception as error:  # a bug; without this timer all runs would lose their leases
                self.log.message(f"background: {type(error).__name__} while renewing leases")
        self._timer = None

    async def _remove_rows(self) -> None:
        """Removes the rows that the ledger has from the storage. Raises StoreUnavailable."""
        written = {id: not row.cancelled() and row.result() for id, row in self._rows.items() if row.done()}
        for id in written:
            del self._rows[id]
        # One that is not safe stays for whoever can write it.
        if safe := [id for id, is_safe in written.items() if is_safe]:
            await self.services.state.store.remove_ledger_rows(safe)


class Run:
    """One background response: `streaming.ResponseSink`, and `event_replay.LocalRun`. `task` works on it."""

    task: asyncio.Task[None]
    record: RequestRecord

    def __init__(
        self, background: Background, handler: RequestHandler, call: Translation, queued: QueuedResponse
    ) -> None:
        self._background, self._handler, self._call = background, handler, call
        self._lifecycle = background.services.lifecycle
        self._state, self._store = background.services.state, background.services.state.store
        self._in_progress, self._streamed = queued.in_progress, call.streamed
        self.size, self.owner = sum(map(len, call.bodies)), handler.record.principal.owner
        loaded = handler.loaded
        assert loaded is not None
        self.id, self._loaded = loaded.response_id, loaded
        request = handler.record
        request.operation, request.model = "response_background", call.model
        request.requested_model = call.workload.requested_model
        request.set_notes(call.notes)
        handler.saves = False  # the sink stores the response
        self.ended = False
        self.changed = asyncio.Event()
        self._stop_reason: Failure | None = None
        self._failure: Failure | None = None  # in which the stream ended
        self._stream_begun = False
        self._refused = False  # Cohere refused the request: its contents are not stored
        self._final: bytes | None = None  # the response object, once it is complete
        # The newest stored events, from the number `_first` on, and those that are not stored yet.
        self._stored: list[bytes] = []
        self._first = 0
        self._pending: list[bytes] = []

    def begin_record(self) -> None:
        """Opens the record of the response, which has its cost. The request is answered, and counted, by itself."""
        handler = self._handler
        self.record = self._background.services.lifecycle.begin_background(handler.record, handler.operation.name)
        self.record.model, self.record.streamed = self._call.model, self._call.streamed
        handler.record = self.record

    async def store(self, queued: QueuedResponse) -> None:
        """Stores the response as queued. Raises StoreUnavailable."""
        row, _ = self._row(queued.queued)
        events = queued.events if self._streamed else ()
        handler = self._handler
        ledger_row = self._lifecycle.row_in_advance(handler.record, handler.operation.name, STOPPED)
        await (await self._state.open()).begin(row, events, ledger_row)
        self._stored += events

    def since(self, after: int) -> Sequence[bytes] | None:
        """Returns the stored events numbered above `after`; None if they are not all in memory."""
        index = after + 1 - self._first
        return self._stored[index:] if index >= 0 else None

    def stop(self, why: Failure) -> None:
        """Ends the response with this failure, unless it is complete."""
        if self._stop_reason is None and self._final is None and not self.ended:
            self._stop_reason = why
            self.task.cancel()

    # --- the work -------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Takes the response from queued to its end, whatever that is."""
        record = self.record
        try:
            await self._work()
        except asyncio.CancelledError:
            record.error, record.fault = "shutdown", Fault.GATEWAY_SHUTDOWN
            raise
        except StoreUnavailable as error:
            self._state.log_failure(error)
            self._background.log.message(f"storage: the end of response {self.id} was not stored")
            record.error, record.fault = "storage_unavailable", Fault.GATEWAY_STORAGE
        except Exception as error:
            self._background.log.failure(record.request_id, error, failure_of(error))
            record.error, record.fault = "internal_error", Fault.GATEWAY_INTERNAL
        finally:
            self._handler.give_back()
            self.ended = True
            self._notify()
            if record.bodies is not None and self._final is not None:
                record.bodies.response.type = "application/json"
                record.bodies.add_response(self._final)
            record.end_background()

    async def _work(self) -> None:
        try:
            async with self._slot():
                row, _ = self._row(self._in_progress)
                if await self._background.retry(partial(self._store.update, row)):
                    await self._handler.respond(self._call, self)
                else:
                    self.record.outcome, self.record.status = "cancelled", CANCELLED.status
                    self.record.fault = CANCELLED.fault
                    await self._replace_row(self._lifecycle.row_of_end(self.record, None))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._stop_reason is None or task is None or task.uncancel():
                raise
            await self._fail(self._stop_reason)
        except StoreUnavailable:
            raise
        except Exception as error:
            why = failure_of(error)
            self._background.log.failure(self.record.request_id, error, why)
            self._refused = isinstance(error, UpstreamError) and why.status < 500 and not self._stream_begun
            await self._fail(why)

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """Waits for the caller's turn."""
        await self._background.slots.acquire(self.owner)
        try:
            yield
        finally:
            self._background.slots.release(self.owner)

    async def _fail(self, why: Failure) -> None:
        """Stores what there is of the response, ended by this failure."""
        if self._final is None:
            stream = self._handler.stream
            if stream is None or not self._stream_begun:
                stream = self._call.stream()
            self._pending += stream.end(why)
            self._final = stream.final()
            self.record.status = why.status
            if why is CANCELLED:
                self.record.outcome, self.record.fault = "cancelled", why.fault
            else:
                self.record.fail(why)
        await self._finish()

    # --- the sink -------------------------------------------------------------------------------------------

    committed = False

    def commit_after(self, seconds: float, translation: Translation) -> None:
        """Does nothing: nobody waits for a head."""

    async def whole(self, call: Translation, answer: bytes) -> None:
        self._final = answer
        await self._finish()

    async def begin(self, call: Translation) -> None:
        self._stream_begun = True
        self.record.first_byte = time.monotonic()

    async def documents(self, documents: Sequence[bytes]) -> None:
        # Not sent to any reader before it is stored
        # (docs/decisions.md#no-event-of-a-background-response-before-it-is-stored).
        self._pending += documents
        self._background.wake_writer()
        # Cohere is held up by not being read. Otherwise a storage that is down would fill the memory.
        while len(self._pending) > MAX_PENDING_EVENTS:
            await self.changed.wait()

    async def end(self, documents: Sequence[bytes], stream: Stream) -> None:
        self._pending += documents
        self._final, self._failure = stream.final(), stream.failure
        await self._finish()

    # --- the storage ----------------------------------------------------------------------------------------

    def batch(self, limit: int) -> tuple[int, Sequence[bytes]] | None:
        """Returns the next events to be stored and the first one's number; None if they are stored with the end."""
        if not self._pending or self._final is not None or self._stop_reason is not None:
            return None
        return self._first + len(self._stored), self._pending[:limit]

    def publish(self, number: int, events: Sequence[bytes]) -> None:
        """Gives stored events to the readers. number: of the first."""
        # Events that both the writer and the end of the run have stored are published once.
        events = events[self._first + len(self._stored) - number :]
        del self._pending[: len(events)]
        self._stored += events
        if len(self._stored) > 2 * MAX_MEMORY_EVENTS:
            self._first += len(self._stored) - MAX_MEMORY_EVENTS
            del self._stored[:-MAX_MEMORY_EVENTS]
        self._notify()

    async def _finish(self) -> None:
        """Stores the complete response, its last events, and its items in its conversation. Raises StoreUnavailable."""
        assert self._final is not None
        if self._refused:
            await self._finish_refused(self._final)
            return
        row, items = self._row(self._final)
        # The writer may be storing some of these at this moment; an event that is stored twice does no harm.
        events = list(self._pending) if self._streamed else []
        number = self._first + len(self._stored)
        try:
            await self._store_end(row, items, number, events)
        # Deleting a conversation is no reason to lose an answer that was paid for.
        except ConversationMissing:
            # It was deleted meanwhile. The response stays, as do the earlier responses of that conversation.
            await self._store_end(row, (), number, events)

    async def _finish_refused(self, final: bytes) -> None:
        """Stores that the response failed, without the contents of its request: those of its events go as well."""
        body = stored_responses.without_request(final)
        row = replace(self._row(body)[0], items=b"[]")
        number = self._first + len(self._stored)
        events = [responses_answer.last_event(row.status, body, number)] if self._streamed else []
        await self._store_end(row, (), number, events, discard_events=True)

    async def _store_end(
        self,
        row: StoredResponse,
        items: Sequence[tuple[str, bytes]],
        number: int,
        events: Sequence[bytes],
        discard_events: bool = False,
    ) -> None:
        """Stores the end of the response and, with it, the row of its call. number: of the first event.

        Raises ConversationMissing, StoreUnavailable.
        """
        ledger_row = self._lifecycle.row_of_end(self.record, self._failure)
        update = partial(self._store.update, row, items, number, events, discard_events, ledger_row)
        if await self._background.retry(update):
            self.publish(number, events)
        else:
            await self._replace_row(ledger_row)

    async def _replace_row(self, ledger_row: bytes | None) -> None:
        """Makes the ledger's row that of this process, if somebody else has ended the response.

        A process that took this one for gone has written a row. Raises StoreUnavailable.
        """
        if ledger_row is not None:
            replace_row = partial(self._store.replace_ledger_row, self.id, ledger_row)
            self.record.has_row = await self._background.retry(replace_row)

    def _notify(self) -> None:
        # Replaced before it is set: a reader that wakes up finds the next event to wait for, and cannot miss one
        # between the two.
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()
        if self.ended:
            self.changed.set()

    def _row(self, body: bytes) -> tuple[StoredResponse, list[tuple[str, bytes]]]:
        finished = self._handler.operation.finished_response
        assert finished is not None
        return self._state.to_row(self._loaded, self._handler.record.principal, finished(body), body)
