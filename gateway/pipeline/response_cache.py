"""Which answers are kept for whoever asks the very same again, and under which key.

Off unless the operator switches it on. Then requests that ask for the likeliest answer (temperature 0) are answered
from it, and those that say `x-gateway-cache-ttl: SECONDS`; `x-gateway-cache: bypass` goes past it. What is kept is
Cohere's answer as it came, under a hash of the request as it was sent: two callers' spellings of one question meet,
and an answer is told anew for each of them. Callers never share: whose Cohere key it is, and which upstream, is part
of every key. What comes back from a store is believed only with the seal that it was given, made of that Cohere key:
whoever else can write there can make us forget, not make us say anything.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Raw, Struct

from gateway.auth.principal import Principal
from gateway.errors import CallerError, failure
from gateway.observability.access_log import Log
from gateway.settings.schema import SettingError, Settings
from gateway.state.encrypted_content import authentication_key
from gateway.store.memory_cache import Cache, MemoryCache
from translators.core.notes import Notes

TTL_HEADER, CACHE_HEADER = b"x-gateway-cache-ttl", b"x-gateway-cache"
CACHE_HEADERS = frozenset({TTL_HEADER, CACHE_HEADER})
MOST_SECONDS = 30 * 86_400
MOST_DIGITS = 9
"""Python reads no number of thousands of digits."""

LARGEST_ENTRY = 4 * 1024 * 1024
"""Bytes of an answer that is kept."""

SEAL_BYTES = 16

CACHE_LABEL = b"cohere-gateway response cache 1"

MISS, BYPASS = "miss", "bypass"

_events = msgspec.json.Decoder(list[Raw]).decode


class Lookup(Struct):
    """One request's use of the cache. owner: a hash of whose it is, which its keys and seals are made of."""

    store: Cache
    owner: bytes
    seconds: float

    def key(self, path: str, place: int, asked: bytes) -> bytes:
        """place: tells apart the same bodies of one request, whose answers should differ."""
        return hashlib.sha256(b"%b\0%b\0%d\0%b" % (self.owner, path.encode(), place, asked)).digest()

    async def pieces(self, path: str, bodies: Sequence[bytes]) -> list[bytes | None]:
        """What was kept for each of these requests, which may be the same."""
        return await self._get([self.key(path, 0, asked) for asked in bodies])

    async def keep_pieces(self, path: str, answers: Sequence[tuple[bytes, bytes]]) -> None:
        """Requests and their answers."""
        await self._put([(self.key(path, 0, asked), answer) for asked, answer in answers])

    async def find(self, path: str, bodies: Sequence[bytes]) -> list[bytes] | None:
        """What was kept for all of these requests of one call, or nothing."""
        found = await self._get([self.key(path, place, asked) for place, asked in enumerate(bodies)])
        answers = [answer for answer in found if answer is not None]
        return answers if len(answers) == len(bodies) else None

    async def keep(self, path: str, bodies: Sequence[bytes], answers: Sequence[bytes]) -> None:
        entries = [
            (self.key(path, place, asked), answer)
            for place, (asked, answer) in enumerate(zip(bodies, answers, strict=True))
        ]
        if all(len(answer) <= LARGEST_ENTRY for answer in answers):
            await self._put(entries)

    async def _get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._opened(key, kept) for key, kept in zip(keys, await self.store.get(keys), strict=True)]

    async def _put(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        await self.store.put([(key, self._seal(key, answer) + answer) for key, answer in entries], self.seconds)

    def _opened(self, key: bytes, kept: bytes | None) -> bytes | None:
        """What was sealed under this key; nothing where it is damaged or somebody else's work."""
        if kept is None:
            return None
        seal, answer = kept[:SEAL_BYTES], kept[SEAL_BYTES:]
        return answer if hmac.compare_digest(seal, self._seal(key, answer)) else None

    def _seal(self, key: bytes, answer: bytes) -> bytes:
        seal = hashlib.blake2b(key, key=self.owner, digest_size=SEAL_BYTES)
        seal.update(answer)
        return seal.digest()


class Recording:
    """A stream's events, written down as they pass; nothing when they grow too many."""

    def __init__(self) -> None:
        self._events: list[bytes] | None = []
        self._size = 0

    def add(self, events: Sequence[bytes]) -> None:
        if self._events is None:
            return
        self._size += sum(map(len, events))
        if self._size > LARGEST_ENTRY:
            self._events = None
        else:
            self._events += events

    def written(self) -> bytes | None:
        """As one JSON array. The sentinel after the last event is no JSON, and says nothing."""
        if self._events is None:
            return None
        return b"[" + b",".join(event for event in self._events if event.startswith(b"{")) + b"]"


def events(written: bytes) -> list[bytes]:
    """What `Recording.written` wrote."""
    return [bytes(event) for event in _events(written)]


class ResponseCache:
    """The operator's cache, or none."""

    def __init__(self, settings: Settings, log: Log) -> None:
        """Raises SettingError for a Redis that is none."""
        cache = settings.cache
        self._seconds = cache.seconds
        self._upstream = settings.cohere_base_url.encode() + (b" demo" if settings.demo else b"")
        self.store: Cache | None = None
        if cache.store == "memory":
            self.store = MemoryCache(cache.memory_bytes)
        elif cache.store == "redis":
            if not settings.redis_url:
                raise SettingError("cache.store: 'redis' needs redis_url as well")
            from gateway.store.redis_cache import RedisCache

            try:
                self.store = RedisCache(settings.redis_url, lambda error: log.trouble(f"cache: {error}"))
            except ValueError as error:
                raise SettingError(f"redis_url: {error}") from error

    async def stop(self) -> None:
        if self.store is not None:
            await self.store.stop()

    def owner(self, caller: Principal) -> bytes:
        """The key of all that the cache holds for a caller.

        It depends on the server's Cohere key as well: two gateways at one Redis may have keys of two organisations.
        """
        key = authentication_key(caller, CACHE_LABEL)
        return hmac.digest(key, self._upstream + b"\0" + caller.owner.encode(), "sha256")

    def wish(self, headers: Mapping[bytes, bytes]) -> tuple[str, float | None]:
        """What the caller says of the cache: bypass or nothing, and for how many seconds.

        Raises CallerError (400) for what cannot be meant.
        """
        how = headers.get(CACHE_HEADER, b"").strip().lower()
        if how not in (b"", BYPASS.encode()):
            raise CallerError(failure("bad_request", "The header x-gateway-cache can say 'bypass' only"))
        given = headers.get(TTL_HEADER, b"").strip()
        if not given:
            return how.decode(), None
        if not given.isdigit() or len(given) > MOST_DIGITS or int(given) > MOST_SECONDS:
            told = f"The header x-gateway-cache-ttl wants whole seconds, {MOST_SECONDS} at most"
            raise CallerError(failure("bad_request", told))
        return (how.decode() if int(given) else BYPASS), float(given)

    def lookup(
        self, notes: Notes, repeatable: bool, caller: Principal, headers: Mapping[bytes, bytes]
    ) -> tuple[str, Lookup | None]:
        """What `x-gateway-cache` will say if nothing is found, and the way to look; None for a call that is not kept.

        repeatable: it is kept without being asked to. Raises CallerError, and InvalidField in strict mode.
        """
        how, seconds = self.wish(headers)
        if self.store is None:
            if seconds:
                notes.ignored("x-gateway-cache-ttl", "the cache is off")
            return "", None
        if how == BYPASS:
            return BYPASS, None
        if seconds is None and not repeatable:
            return "", None
        return MISS, Lookup(self.store, self.owner(caller), seconds or self._seconds)
