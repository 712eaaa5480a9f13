"""THE LEDGER of a process: takes finished records, and writes their rows in groups, away from the requests' path.

`Ledger.record` makes the row of a record with its sentence, puts it into a queue and returns. A thread with an event
loop and a connection of its own writes what is in the queue in one transaction, `ledger.flush_seconds` after the first
row came. With `ledger.sync` the last byte of an answer waits for that, and nothing else does.

The row is made at once because the record is still in the processor's cache: that takes 10 microseconds, and 50 in a
thread that fights the event loop for the interpreter.

Where a row is, at any moment: in the queue; then, if the database took it, there; if the database did not, in the spool
file of this process (`spool.py`), from which it is written when the database is back; if the disk took it no more than
the database did, in memory. Only what does not fit there is lost, which a metric and the log say. What became of a
transaction that failed may be unknown, so its rows are looked for before they are written again.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import force_setattr, replace

from gateway import cohere_methods
from gateway.auth.principal import NOBODY
from gateway.ledger.bodies import BodySeal, body_text, decode_body, is_stored
from gateway.ledger.entry import LedgerEntry, decode_entry, encode_entry, entry_of, timestamp
from gateway.ledger.sentences import METHODS, sentence
from gateway.ledger.spool import Spool, SpoolFull
from gateway.ledger.sums import EndUserNames, sums_of
from gateway.observability.bodies import Bodies
from gateway.observability.record import RequestRecord
from gateway.settings.schema import LedgerSettings
from gateway.store import ledger as ledger_store
from gateway.store.database import Address, Database, Work
from gateway.store.errors import StoreError
from gateway.store.ledger import MICROSECONDS, StoredBody, StoredRow
from gateway.store.ledger_sums import DAY
from gateway.store.responses import InterruptedRun
from translators.core.errors import CANCELLED

Result = TypeVar("Result")

GROUP = 1000
"""Rows of one transaction, and of one read of a spool file."""

MAX_QUEUE = 20_000
"""Records that wait for the thread, and rows that neither database nor disk took."""

TIMEOUT = 10.0
"""Seconds that a transaction may take."""

READERS = 2
"""Reports that are read at one time; further ones wait."""

RETRY_SECONDS = 1.0
"""Between two attempts while the database is away."""

RETENTION_SECONDS = 3600.0
RETENTION_PAUSE = 0.05
"""Between two batches of rows that are deleted: others want to write, too."""

# For the transaction that is under way, for the one with what is left, and some more.
STOP_SECONDS = 2 * TIMEOUT + 5
"""How long the end of the process waits for the last rows."""

ROWS_PER_ADDRESS = 60
"""Rows a minute about calls from one address that nobody was let in for; further ones are counted in a metric."""

MAX_ADDRESSES = 10_000

# As `http/error_responses.py` has them, which is no lower layer than this one.
NATIVE_PREFIXES = ("/litellm/cohere/", "/cohere/")


class QueuedRow(Struct):
    """A row in the queue. now: the end of its call in monotonic seconds. bodies: those of the call, where it has any.

    done: waits for the row; whether the database or the disk has it. repeated: the row may be in the database already.
    """

    entry: LedgerEntry
    now: float
    bodies: Bodies | None = None
    done: asyncio.Future[bool] | None = None
    repeated: bool = False


class LedgerObserver(Protocol):
    """What an operator wants to see of a ledger. Called in any thread."""

    def on_rows(self, result: str, count: int) -> None:
        """Counts rows: `written`, `spooled`, `lost`, or `not_made` for too many strangers from one address."""
        ...

    def on_bodies(self, result: str, count: int) -> None:
        """Counts calls whose bodies were `stored`, or `lost` although they were to be stored."""
        ...

    def message(self, text: str) -> None:
        """Tells the operator."""
        ...


class Ledger:
    """The ledger, as `lifecycle.RecordSink`."""

    def __init__(
        self,
        settings: LedgerSettings,
        database_url: str,
        observer: LedgerObserver,
        body_seal: BodySeal | None = None,
    ) -> None:
        """database_url: of the gateway; see `address_of`. body_seal: None stores no bodies.

        Raises ValueError.
        """
        url, spool = address_of(database_url, settings.spool)
        self._settings, self._observer, self._body_seal = settings, observer, body_seal
        self._queue: deque[QueuedRow] = deque()
        self._writer = _Writer(settings, url, Spool(spool), observer, self._queue, body_seal)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reading = Database(url, TIMEOUT, READERS)
        self._flood = Flood()
        self._waking = False

    @property
    def url(self) -> str:
        """Of the database that has the rows."""
        return self._writer.url

    @property
    def sync(self) -> bool:
        """The last byte of an answer waits for its row."""
        return self._settings.sync

    @property
    def refusing(self) -> bool:
        """The database did not take the last rows, and calls are to be refused then."""
        return self._writer.failing and self._settings.on_failure == "refuse"

    def waiting_rows(self) -> int:
        """Returns the rows that are in memory only."""
        return len(self._queue) + len(self._writer.held)

    def lag(self, now: float) -> float:
        """Returns the age in seconds of the oldest row that is not in the database. now: in monotonic seconds."""
        try:
            # Not asked before whether there is one: the other thread may take it in between.
            oldest = self._queue[0].now
        except IndexError:
            oldest = now
        return max(now - min(oldest, self._writer.failing_since or now), 0.0)

    def condition(self) -> str:
        """Returns what is wrong, for readiness; empty if all is well."""
        return "the ledger's database does not take rows" if self._writer.failing else ""

    def start(self) -> None:
        """Starts the thread; needs the running loop of the requests."""
        self._loop = asyncio.get_running_loop()
        self._writer.start()

    async def stop(self) -> None:
        """Returns when all rows are in the database or in the spool file."""
        # In another thread, because those who wait for the last rows are told in this loop.
        await asyncio.to_thread(self._writer.stop, STOP_SECONDS)
        await self._reading.close()

    async def read(self, work: Work[Result]) -> Result:
        """Returns what is read of the ledger, for reports. Raises StoreUnavailable."""
        return await self._reading.read(work)

    async def find_body(self, id: str) -> Mapping[str, Any] | None:
        """Returns the bodies of the call whose row has this id, of 24 hex digits, as `body_text` wrote them.

        None where there are none, or none that can be opened. Raises StoreUnavailable.
        """
        if self._body_seal is None:
            return None
        stored = await self._reading.read(lambda connection: ledger_store.find_body(connection, id))
        # Retention is late: it comes by once an hour, and on PostgreSQL deletes whole days.
        if stored is None or stored.at < (time.time() - self._settings.body_days * DAY) * MICROSECONDS:
            return None
        text = self._body_seal.open(id, stored.body)
        return decode_body(text) if text is not None else None

    async def delete_body(self, id: str) -> bool:
        """Deletes the bodies of a call, also such that cannot be opened. Returns whether there were any.

        Raises StoreUnavailable.
        """
        return await self._reading.write(lambda connection: ledger_store.delete_body(connection, id))

    def record(self, record: RequestRecord, now: float) -> Awaitable[bool] | None:
        """Takes a finished record. Returns what is to be awaited before the answer's last byte, in sync mode.

        For a response in the background it is returned in any mode, and says whether the row is safe.
        """
        # Only for strangers: anybody can make refused calls, and each would be a row.
        if record.principal is NOBODY and not self._flood.admits(record.address, now):
            self._observer.on_rows("not_made", 1)
            return None
        # Counted as lost and not waited for: to hold up callers would turn a slow database into an outage.
        if len(self._queue) >= MAX_QUEUE:
            self._lose_row(record)
            return None
        try:
            entry = _entry(record, now, record.ended or time.time())
        except Exception as error:  # a bug, which is no reason to fail a call that has been answered
            self._observer.message(f"ledger: {type(error).__name__} while making a row")
            self._lose_row(record)
            return None
        queued = QueuedRow(entry, now, record.bodies)
        # A response in the background waits for its row in any mode: it is then taken out of the outbox.
        if (self._settings.sync or record.background) and self._loop is not None:
            queued.done = self._loop.create_future()
        # A deque's append and popleft are atomic, so the two threads need no lock.
        self._queue.append(queued)
        if not self._waking and self._loop is not None:
            self._waking = True
            # In sync mode a caller waits, so the row goes at once, with those that came in the same turn of the loop.
            self._loop.call_later(0 if self._settings.sync else self._settings.flush_seconds, self._wake)
        return queued.done

    def _lose_row(self, record: RequestRecord) -> None:
        self._observer.on_rows("lost", 1)
        if record.bodies is not None:
            record.bodies.discard()

    def row_in_advance(self, record: RequestRecord) -> bytes:
        """Returns the row of a call, for the case that this process does not live to write it."""
        return encode_entry(_entry(record, time.monotonic(), record.ended or time.time()))

    @staticmethod
    def row_of_interrupted(run: InterruptedRun) -> bytes | None:
        """Returns the row of a response in the background whose process did not live to end it."""
        entry = _decode(run.ledger_row) if run.ledger_row is not None else None
        return encode_entry(_interrupted(entry, run, int(time.time() * MICROSECONDS))) if entry is not None else None

    async def write_rows(self, rows: Sequence[bytes]) -> bool:
        """Writes rows that `row_in_advance` or `row_of_interrupted` made, if they are not there.

        Returns whether the database or the disk has them.
        """
        entries = [entry for row in rows if (entry := _decode(row)) is not None]
        # Who gave them keeps them and comes again. They are not to push out rows that are nowhere else.
        if self._loop is None or len(self._queue) + len(entries) > MAX_QUEUE:
            return False
        waiting = [
            QueuedRow(entry, time.monotonic(), done=self._loop.create_future(), repeated=True) for entry in entries
        ]
        self._queue += waiting
        self._writer.wake()
        return all(await asyncio.gather(*(one.done for one in waiting if one.done is not None)))

    def _wake(self) -> None:
        self._waking = False
        self._writer.wake()


class Flood:
    """Counts rows by address and minute."""

    def __init__(self, most: int = ROWS_PER_ADDRESS) -> None:
        self._most = most
        self._counts: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def admits(self, address: str, now: float) -> bool:
        """Returns whether one more row about this address is made. now: in seconds."""
        minute = int(now // 60)
        since, count = self._counts.get(address, (minute, 0))
        count = count + 1 if since == minute else 1
        self._counts[address] = minute, count
        if len(self._counts) > MAX_ADDRESSES:
            self._counts.popitem(last=False)
        return count <= self._most


def address_of(database_url: str, spool: str) -> tuple[str, Path]:
    """Returns the URL of the ledger's database and the directory of the spool. Raises ValueError.

    On PostgreSQL it is the gateway's own database, on SQLite a file beside the gateway's (`gateway/store/ledger.py`).
    """
    address = Address.of(database_url)
    if address.path is None:
        return database_url, Path(spool or "cohere-gateway-ledger-spool")
    path = address.path.with_name(f"{address.path.stem}-ledger{address.path.suffix}")
    url = address.url.set(database=str(path)).render_as_string(hide_password=False)
    return url, Path(spool) if spool else path.with_suffix(".spool")


class _Writer:
    """The thread's side of the ledger."""

    def __init__(
        self,
        settings: LedgerSettings,
        url: str,
        spool: Spool,
        observer: LedgerObserver,
        queue: deque[QueuedRow],
        body_seal: BodySeal | None,
    ) -> None:
        self.url, self._settings, self._spool, self._body_seal = url, settings, spool, body_seal
        self._observer, self._queue = observer, queue
        self._names = EndUserNames()
        self.held: deque[LedgerEntry] = deque()  # rows that neither the database nor the disk took
        self.failing_since = 0.0  # monotonic seconds; 0 while the database takes rows
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken: asyncio.Event | None = None
        self._ready = threading.Event()
        # A daemon, so that a thread that hangs in a database cannot keep the process alive; `stop` waits for it as long
        # as is right.
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    @property
    def failing(self) -> bool:
        return self.failing_since > 0

    @failing.setter
    def failing(self, failing: bool) -> None:
        self.failing_since = (self.failing_since or time.monotonic()) if failing else 0.0

    def start(self) -> None:
        self._thread.start()
        # `wake` needs the loop of the thread.
        self._ready.wait()

    def wake(self) -> None:
        """Wakes the writer, from any thread: there is something in the queue."""
        if self._loop is not None and self._woken is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing comes any more
                self._loop.call_soon_threadsafe(self._woken.set)

    def stop(self, seconds: float) -> None:
        self._stopping = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join(seconds)

    # --- in the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop, self._woken = asyncio.get_running_loop(), asyncio.Event()
        database = Database(self.url, TIMEOUT, 1)
        self._ready.set()
        retention_at = time.monotonic()
        try:
            # Rows of a process that died go first. They are older than all that come now.
            if self._spool.adopt():
                await self._recover(database)
            while not self._stopping:
                await self._wait(retention_at if database.is_open else None)
                await self._flush(database)
                # Only beside a database that takes rows: deleting is the least urgent.
                if not self.failing and time.monotonic() >= retention_at and database.is_open:
                    await self._delete_old(database)
                    retention_at = time.monotonic() + RETENTION_SECONDS
            # Once more: rows may have come after the last look at the queue.
            await self._flush(database)
        finally:
            self._spool.close()
            await database.close()

    async def _wait(self, retention_at: float | None) -> None:
        """Waits until it is woken, or has to try the database again, or old rows are to be deleted.

        retention_at: in monotonic seconds; None while the database has not been opened.
        """
        assert self._woken is not None
        seconds = None if retention_at is None else retention_at - time.monotonic()
        if self.failing:
            seconds = RETRY_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()

    async def _flush(self, database: Database) -> None:
        """Writes what is in the queue; what could not be written before goes first."""
        if self.failing:
            await self._recover(database)
        while self._queue:
            # They stay in the queue until something else has them: it is what `waiting_rows` and `lag` look at, and a
            # database may take its whole time over them.
            queued = [self._queue[index] for index in range(min(GROUP, len(self._queue)))]
            entries, bodies = self._entries(queued)
            repeated = {one.entry.id for one in queued if one.repeated}
            if self.failing:  # to try the database with each group would take its time limit each time
                self._lose(entries, bodies)
                written = False
            else:
                written = await self._write(database, entries, bodies, repeated)
            # What may be there already stays where it came from: a spool file does not tell it from other rows.
            safe = written or self._put_aside([entry for entry in entries if entry.id not in repeated])
            for _ in queued:
                self._queue.popleft()
            self._release(queued, written, safe)

    def _entries(self, queued: Sequence[QueuedRow]) -> tuple[list[LedgerEntry], list[StoredBody]]:
        """Returns these rows, and the bodies of those whose bodies are to be stored."""
        entries, stored = [], []
        for one in queued:
            entry, bodies = one.entry, one.bodies
            entries.append(entry)
            if bodies is not None:
                if self._body_seal is not None and is_stored(entry, bodies):
                    stored.append(StoredBody(entry.at, entry.id, self._body_seal.seal(entry.id, body_text(bodies))))
                    force_setattr(entry, "has_body", True)
                self._observer.on_bodies("lost", int(bodies.lost))
                bodies.discard()
        return entries, stored

    async def _write(
        self,
        database: Database,
        entries: Sequence[LedgerEntry],
        bodies: Sequence[StoredBody] = (),
        repeated: Collection[str] = (),
    ) -> bool:
        """Writes rows. repeated: ids of those that may be there, also with another time.

        Returns whether they are written. Bodies of rows that are not are lost: they would fill the room that the rows
        need.
        """
        try:
            await self._insert(database, entries, bodies=bodies, repeated_ids=repeated)
        except StoreError as error:
            if not self.failing:
                self._observer.message(f"ledger: rows cannot be written, and go to the spool file: {error}")
            self.failing = True
            self._lose(entries, bodies)
            return False
        except Exception as error:  # a row that the database refuses, which is a bug; the others of the group are none
            self._observer.message(f"ledger: {type(error).__name__} while writing rows")
            self._lose(entries, bodies)
            try:
                await self._insert_each(database, entries, repeated)
            except StoreError:
                self.failing = True
                return False
        return True

    async def _insert_each(
        self, database: Database, entries: Sequence[LedgerEntry], repeated: Collection[str] = ()
    ) -> None:
        """Writes rows one by one; those that cannot be written are lost. repeated: as in `_write`.

        Raises StoreUnavailable.
        """
        for entry in entries:
            try:
                await self._insert(database, [entry], repeated=True, repeated_ids=repeated)
            except StoreError:
                raise
            except Exception:
                self._observer.on_rows("lost", 1)

    async def _insert(
        self,
        database: Database,
        entries: Sequence[LedgerEntry],
        repeated: bool = False,
        bodies: Sequence[StoredBody] = (),
        repeated_ids: Collection[str] = (),
    ) -> None:
        """Writes rows, their sums and their bodies. repeated, repeated_ids: as `ledger_store.insert` has them.

        Raises StoreUnavailable.
        """
        rows = [stored_row(entry) for entry in entries]
        by_id = {entry.id: entry for entry in entries}
        count = await database.write(
            lambda connection: ledger_store.insert(
                connection,
                rows,
                # Of the new ones alone: what is there already is in the sums.
                lambda new: sums_of([by_id[row.id] for row in new], self._names),
                repeated,
                bodies,
                repeated_ids,
            )
        )
        self._observer.on_rows("written", count)
        self._observer.on_bodies("stored", len(bodies))

    def _lose(self, entries: Sequence[LedgerEntry], bodies: Sequence[StoredBody]) -> None:
        """Counts these bodies as lost; the rows no longer say that they are stored."""
        if bodies:
            self._observer.on_bodies("lost", len(bodies))
            for entry in entries:
                force_setattr(entry, "has_body", False)

    def _put_aside(self, entries: Sequence[LedgerEntry]) -> bool:
        """Keeps rows on the disk or, if it does not take them, in memory; the oldest are lost when that is full.

        Returns whether the disk has the rows.
        """
        try:
            self._spool.append([encode_entry(entry) for entry in entries])
            self._observer.on_rows("spooled", len(entries))
        except (OSError, SpoolFull) as error:
            self.held.extend(entries)
            lost = len(self.held) - MAX_QUEUE
            for _ in range(lost):
                self.held.popleft()
            if lost > 0:
                self._observer.on_rows("lost", lost)
                why = "the spool file is full" if isinstance(error, SpoolFull) else f"the spool: {error.strerror}"
                self._observer.message(f"ledger: {lost} rows are lost ({why})")
            return False
        return True

    async def _recover(self, database: Database) -> None:
        """Writes what was put aside, also by processes that are gone; gives up, for now, when that fails."""
        try:
            # Its own file first, then those of processes that are gone, one after the other.
            while not self._spool.empty or self._spool.adopt():
                for lines in self._spool.batches(GROUP):
                    entries = [entry for line in lines if (entry := _decode(line)) is not None]
                    await self._insert_again(database, entries)
                # Only now. Until then a process that dies leaves the whole file, and what is there already is skipped.
                self._spool.clear()
            while self.held:
                # They stay in their places until they are written, so that a failure loses none.
                group = [self.held[index] for index in range(min(GROUP, len(self.held)))]
                await self._insert_again(database, group)
                for _ in group:
                    self.held.popleft()
            if self.failing:
                self._observer.message("ledger: rows are written again")
            self.failing = False
        except StoreError as error:
            if not self.failing:
                self._observer.message(f"ledger: the rows of an earlier process cannot be written yet: {error}")
            self.failing = True

    async def _insert_again(self, database: Database, entries: Sequence[LedgerEntry]) -> None:
        """Writes rows that may be there already. Raises StoreUnavailable."""
        try:
            await self._insert(database, entries, repeated=True)
        except StoreError:
            raise
        except Exception as error:
            self._observer.message(f"ledger: {type(error).__name__} while writing rows again")
            await self._insert_each(database, entries)

    def _release(self, queued: Sequence[QueuedRow], written: bool, safe: bool) -> None:
        """Lets those go on who wait for these rows. written: the database has them; safe: it or the disk has those that
        were not there before.
        """
        for one in queued:
            if one.done is not None:
                with contextlib.suppress(RuntimeError):  # the requests' loop is closed
                    one.done.get_loop().call_soon_threadsafe(_set_done, one.done, written if one.repeated else safe)

    async def _delete_old(self, database: Database) -> None:
        # A body goes with its row at the latest.
        body_days = min(self._settings.body_days, self._settings.days or math.inf)
        try:
            await self._delete_batches(database, ledger_store.delete_old_bodies, body_days)
            if self._settings.days:
                await self._delete_batches(database, ledger_store.delete_old, self._settings.days)
        except StoreError as error:
            self._observer.message(f"ledger: old rows could not be deleted: {error}")

    async def _delete_batches(self, database: Database, delete_batch: Callable[[Any, int], bool], days: float) -> None:
        """Deletes what is so many days old; new rows are written in between. Raises StoreUnavailable."""
        before = int(time.time() - days * DAY)
        while not self._stopping and await database.write(lambda connection: delete_batch(connection, before)):
            if self._queue:
                await self._flush(database)
            await asyncio.sleep(RETENTION_PAUSE)


def _set_done(done: asyncio.Future[bool], safe: bool) -> None:
    if not done.done():
        done.set_result(safe)


def _entry(record: RequestRecord, now: float, clock: float) -> LedgerEntry:
    """Returns the row of a record, with its sentence. now, clock: as in `entry_of`."""
    entry = entry_of(record, now, clock, _subject(record))
    team = record.principal.team if record.refused_key is None else record.refused_key.team
    name = (team.team_alias or team.team_id) if team is not None else ""
    # Nobody else has the row yet, and a copy of it would take as long as the sentence.
    force_setattr(entry, "sentence", sentence(entry, name, record.reason))
    return entry


def _interrupted(entry: LedgerEntry, run: InterruptedRun, at: int) -> LedgerEntry:
    """Returns the row of a background response whose process is gone. at: when that was noticed."""
    # Of a call that waited in the queue, Cohere never heard.
    cost = entry.cost_nanodollars if run.started else 0
    # The row in advance has the time at which the call began.
    ended = replace(entry, at=at, time=timestamp(at), total_ms=(at - entry.at) / 1000, cost_nanodollars=cost)
    if run.status == "cancelled":
        ended = replace(ended, status=CANCELLED.status, outcome="cancelled", error=None, fault=str(CANCELLED.fault))
        ended = replace(ended, sentence=sentence(ended))
    return ended


def _decode(line: bytes) -> LedgerEntry | None:
    """Returns a row of a spool file; None for a line that is none, as a disk that was full may leave it."""
    try:
        return decode_entry(line)
    except msgspec.DecodeError:
        return None


def stored_row(entry: LedgerEntry) -> StoredRow:
    """Returns a row as the database has it."""
    return StoredRow(
        entry.at,
        entry.id,
        entry.request_id,
        entry.key_id,
        entry.team_id,
        entry.user_id,
        entry.end_user,
        entry.method,
        entry.model,
        entry.status,
        entry.fault,
        entry.cost_nanodollars,
        entry.total_ms,
        entry.sentence,
        encode_entry(entry),
        ledger_store.labels_of(entry.tags, entry.metadata) if entry.tags or entry.metadata else None,
    )


def _subject(record: RequestRecord) -> str | None:
    """Returns the id of what a native request acts on."""
    if record.door != "native" or not record.cohere_method:
        return None
    for prefix in NATIVE_PREFIXES:
        if record.path.startswith(prefix):
            method = METHODS.get(record.cohere_method, cohere_methods.OTHER)
            subject = cohere_methods.subject(method, record.path.removeprefix(prefix.rstrip("/")))
            # A caller may have written anything there, and it stands in the sentence.
            return subject if subject is None or subject.isprintable() else None
    return None
