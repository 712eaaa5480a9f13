"""THE DIRECTORY of keys, teams and end users that a process decides by: in memory, a moment behind the database.

    find       a key by the digest of its secret, without a look at the database
    look_up    the same for a digest that `find` does not know: the key may have been made a moment ago, elsewhere
    refused    a key that `find` refuses although it is known
    refresh    loads what has changed; call it after a change of your own, and the next request obeys it
    teams, end_users    records by id

Records are immutable, and only `refresh` puts them here, in the order of their revisions and one load at a time. So
nothing that a request holds can ever come back here, and a revoked key stays revoked. The database is asked for its
revision every second (POLL_SECONDS) by each process; a change is noticed everywhere within that time, sooner where the
database or Redis announces it. While the database is away, what was loaded goes on serving, and `degraded` says so.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import msgspec

from gateway.auth.sessions import ENDED
from gateway.errors import CallerError, failure
from gateway.store import keys
from gateway.store.errors import StoreError
from gateway.store.key_announcements import Announcements
from gateway.store.store import Store
from gateway.virtual_keys import EndUser, PackedKey, Records, Team, VirtualKey, unpacked

POLL_SECONDS = 1.0
"""Between two looks at the revision."""

LOOK_SECONDS = 1.0
"""A digest that was not found is looked for again after so long."""

MAX_LOOKS = 100
"""Unknown digests that a process looks for in a second; further ones are refused without a look."""

UNPACKED_KEYS = 8192
"""Keys that are at hand as records; the others are kept as they are stored, in a third of the memory."""

APPLIED_AT_ONCE = 2000
"""Changed keys that are taken over before others have their turn."""

REFUSED_DIGESTS = 10_000
"""Digests that are remembered as unknown, each for LOOK_SECONDS."""

UNAVAILABLE = failure("no_storage", "The keys could not be loaded yet: the database does not answer")


class _UnpackedKeys(Mapping[str, VirtualKey]):
    """Packed keys as records."""

    def __init__(self, packed: Mapping[str, bytes]) -> None:
        self._packed = packed

    def __getitem__(self, key_id: str) -> VirtualKey:
        return unpacked(self._packed[key_id])

    def __contains__(self, key_id: object) -> bool:
        # The one of Mapping would decode the key for it.
        return key_id in self._packed

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


class KeyDirectory:
    """The directory of one process."""

    def __init__(
        self,
        open_store: Callable[[], Awaitable[Store]],
        message: Callable[[str], None],
        announcements: Sequence[Announcements] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """open_store: returns the storage, once it was opened. message: writes to the log. clock: Unix seconds."""
        self._open_store, self._message, self._now = open_store, message, clock
        self._announcements = announcements
        # Ids of keys by the digests of their secrets, and by the digest of the last one that was rotated out.
        self._by_digest: dict[str, str] = {}
        self._replaced: dict[str, str] = {}
        self._packed: dict[str, bytes] = {}
        self._unpacked: dict[str, VirtualKey] = {}
        self._teams: dict[str, Team] = {}
        self._end_users: dict[str, EndUser] = {}
        # Below 0 before the first load, since that of an empty database is 0.
        self.revision = -1
        self._loading: asyncio.Task[None] | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self._refused: OrderedDict[str, float] = OrderedDict()
        self._looks, self._looks_since = 0, 0.0
        # Looks under way, by the digest that they are for.
        self._looking: dict[str, asyncio.Task[None]] = {}
        self.degraded = ""

    def __len__(self) -> int:
        """Returns the number of keys."""
        return len(self._packed)

    @property
    def keys(self) -> Mapping[str, VirtualKey]:
        """Keys by their id, expired ones too. To go through all of them takes as long as decoding them."""
        return _UnpackedKeys(self._packed)

    def key_id_of(self, name: str) -> str | None:
        """Returns the id of the key with this id, digest or alias, expired ones too; None where there is none."""
        if name in self._packed:
            return name
        if (key_id := self._by_digest.get(name)) is not None:
            return key_id
        # Only keys whose JSON contains the alias are decoded: to decode a hundred thousand would hold up everybody.
        alias = msgspec.json.encode(name)
        return next(
            (id for id, body in self._packed.items() if alias in body and unpacked(body).key_alias == name), None
        )

    @property
    def teams(self) -> Mapping[str, Team]:
        """Teams by their id."""
        return self._teams

    @property
    def end_users(self) -> Mapping[str, EndUser]:
        """End users by their id. Only those of whom something was recorded are here."""
        return self._end_users

    async def start(self) -> None:
        """Loads everything, or gives up for now, and begins to look for changes."""
        await self._try_to_load()
        self.watch()

    def watch(self) -> None:
        """Begins to look for changes, unless that was done before. Needs the running loop."""
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(one.listen(self._news.set)) for one in self._announcements]
            self._tasks.append(loop.create_task(self._poll()))

    async def stop(self) -> None:
        """Ends looking for changes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def find(self, digest: str) -> VirtualKey | None:
        """Returns the key of this digest; None for an unknown, a deleted or an expired one."""
        key_id = self._by_digest.get(digest)
        key = self.current(key_id) if key_id is not None else None
        if key is None:
            return None
        # The digest of before a rotation still leads here, until its grace period is over.
        if key.digest != digest and not self._is_accepted(key, digest):
            return None
        return key

    def current(self, key_id: str) -> VirtualKey | None:
        """Returns the newest version of a key; None for an unknown, a deleted or an expired one."""
        key = self._newest(key_id)
        return None if key is None or self.has_expired(key) else key

    def refused(self, digest: str) -> VirtualKey | None:
        """Returns the key of a digest that is not accepted: it has expired, or its secret was rotated out."""
        key_id = self._by_digest.get(digest) or self._replaced.get(digest)
        return self._newest(key_id) if key_id is not None else None

    def has_expired(self, key: VirtualKey) -> bool:
        """Returns whether a key is too old to be used."""
        return key.expires is not None and key.expires <= self._now()

    def _newest(self, key_id: str) -> VirtualKey | None:
        key = self._unpacked.get(key_id)
        if key is None:
            body = self._packed.get(key_id)
            if body is None:
                return None
            if len(self._unpacked) >= UNPACKED_KEYS:
                # What is unpacked is only a cache of what is packed, so all of it may go.
                self._unpacked.clear()
            key = self._unpacked[key_id] = unpacked(body)
        return key

    async def look_up(self, digest: str) -> VirtualKey | None:
        """Returns the key of a digest that `find` does not know, if the database has one.

        A digest is looked for once in LOOK_SECONDS, and MAX_LOOKS of them in a second; beyond that there is none.
        Raises CallerError (503) if nothing could be loaded since the start.
        """
        if (look := self._looking.get(digest)) is None:
            if not self._may_look(digest):
                return None
            look = self._looking[digest] = asyncio.get_running_loop().create_task(self._try_to_load())
            look.add_done_callback(lambda _: self._looking.pop(digest, None))
        # Calls that come at once with a new key all wait for the look that finds it.
        await asyncio.shield(look)
        if self.revision < 0:
            raise CallerError(UNAVAILABLE)
        return self.find(digest)

    async def refresh(self) -> None:
        """Takes over a change that this process has made, and tells the others. Raises StoreUnavailable."""
        # The change of this process first, for which its caller waits. What the others hear they look up themselves.
        await self._load_changes()
        for one in self._announcements:
            await one.publish()

    # --- loading --------------------------------------------------------------------------------------------

    async def _load_changes(self) -> None:
        """Loads what has been changed before this call. Raises StoreUnavailable."""
        # A load that runs already may have read before the change: whoever comes now shares the one after it.
        # Shared, so that a thousand unknown keys are one query.
        if self._loading is not None:
            if self._waiting is None:
                self._waiting = asyncio.get_running_loop().create_task(self._load_after(self._loading))
            await asyncio.shield(self._waiting)
            return
        self._loading = self._start_loading()
        # A caller who leaves must not end what others wait for.
        await asyncio.shield(self._loading)

    def _start_loading(self) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._load())
        task.add_done_callback(self._finish_loading)
        return task

    def _finish_loading(self, task: asyncio.Task[None]) -> None:
        if self._loading is task:
            self._loading = None
        if not task.cancelled():
            task.exception()  # retrieved, also where nobody waits any longer

    async def _load_after(self, running: asyncio.Task[None]) -> None:
        await asyncio.wait({running})
        self._waiting = None
        self._loading = self._start_loading()
        await asyncio.shield(self._loading)

    async def _load(self) -> None:
        store = await self._open_store()
        if self.revision < 0:
            await self._apply(await store.read(keys.load_all))
        else:
            revision = self.revision
            changed = await store.read(lambda connection: keys.changes_since(connection, revision))
            if changed is not None:
                await self._apply(changed)

    async def _apply(self, records: Records) -> None:
        for number, key in enumerate(records.keys):
            self._replace_key(key)
            if number % APPLIED_AT_ONCE == APPLIED_AT_ONCE - 1:
                # A first load of a hundred thousand keys would otherwise hold up every request.
                await asyncio.sleep(0)
        for team in records.teams:
            if team.deleted_at is None:
                self._teams[team.team_id] = team
            else:
                self._teams.pop(team.team_id, None)
        for end_user in records.end_users:
            if end_user.deleted_at is None:
                self._end_users[end_user.user_id] = end_user
            else:
                self._end_users.pop(end_user.user_id, None)
        for id, ends_at in records.ended_sessions:
            ENDED.add(id, ends_at)
        # Last: a load that ends before this is done again from the old revision.
        self.revision = records.revision

    def _replace_key(self, key: PackedKey) -> None:
        old = self._packed.pop(key.key_id, None)
        self._unpacked.pop(key.key_id, None)
        if old is not None:
            # The digests of the old version, too, or a rotated secret would go on being found.
            packed = PackedKey.of(old)
            for digest in packed.digests:
                self._by_digest.pop(digest, None)
            self._replaced.pop(packed.replaced, None)
        if not key.is_deleted:
            self._packed[key.key_id] = key.body
            for digest in key.digests:
                self._by_digest[digest] = key.key_id
            if key.replaced:
                self._replaced[key.replaced] = key.key_id

    async def _try_to_load(self) -> None:
        try:
            await self._load_changes()
        except StoreError as error:
            if not self.degraded:
                # Once, and not each second.
                self._message(f"keys: {error}")
            self.degraded = "the database of keys does not answer: changes of keys are not noticed"
        else:
            self.degraded = ""

    async def _poll(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._news.wait()
            self._news.clear()
            try:
                await self._try_to_load()
            except Exception as error:  # a bug: the next look may do better, and a poll that has ended revokes nothing
                self._message(f"keys: the changes could not be loaded: {type(error).__name__}")

    # --- unknown digests ------------------------------------------------------------------------------------

    def _may_look(self, digest: str) -> bool:
        now = time.monotonic()
        if self._refused.get(digest, 0.0) > now:
            return False
        if now - self._looks_since >= 1.0:
            self._looks, self._looks_since = 0, now
        if self._looks >= MAX_LOOKS:
            return False
        self._looks += 1
        # Before the look, so that many calls with one wrong key ask the database once.
        self._refused[digest] = now + LOOK_SECONDS
        # A digest that comes again counts from now on, so that the first one is the oldest.
        self._refused.move_to_end(digest)
        if len(self._refused) > REFUSED_DIGESTS:
            self._refused.popitem(last=False)
        return True

    def _is_accepted(self, key: VirtualKey, digest: str) -> bool:
        """Returns whether a digest of before a rotation is still accepted."""
        now = self._now()
        return any(one.digest == digest and one.valid_until > now for one in key.previous)
