"""The cache of Cohere's answers: which requests may use it, under which keys, and what makes an entry authentic.

Off unless the operator switches it on. Then requests with temperature 0 are answered from it, and those with a header
`x-gateway-cache-ttl: SECONDS`; `x-gateway-cache: bypass` skips it. `cf-aig-cache-ttl` and `cf-aig-skip-cache: true`
mean the same. An entry is Cohere's answer as it came, under a hash of the request as Cohere would get it: two spellings
of one request share an entry, and each is translated anew. Callers of different Cohere keys never share one: the owner
and the upstream are part of every key. Each entry carries a MAC made with that Cohere key: others who can write to the
cache can remove entries, and forge none.
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
CLOUDFLARE_TTL_HEADER, SKIP_HEADER = b"cf-aig-cache-ttl", b"cf-aig-skip-cache"
CACHE_HEADERS = frozenset({TTL_HEADER, CACHE_HEADER, CLOUDFLARE_TTL_HEADER, SKIP_HEADER})
MAX_SECONDS = 30 * 86_400
MAX_DIGITS = 9
"""Python refuses to parse numbers of thousands of digits."""

MAX_ENTRY_BYTES = 4 * 1024 * 1024
"""A larger answer is not cached."""

MAC_BYTES = 16

CACHE_LABEL = b"cohere-gateway response cache 1"

MISS, BYPASS = "miss", "bypass"

_decode_array = msgspec.json.Decoder(list[Raw]).decode


class Lookup(Struct):
    """One request's use of the cache. owner: a secret hash, of which its keys and MACs are made."""

    store: Cache
    owner: bytes
    seconds: float

    def key(self, path: str, index: int, body: bytes) -> bytes:
        """Returns the key of a request to Cohere. index: among equal bodies of a call, whose answers should differ."""
        # Zero bytes between the parts: neither a path nor a number contains one, so no two requests can be joined to
        # the same bytes.
        return hashlib.sha256(b"%b\0%b\0%d\0%b" % (self.owner, path.encode(), index, body)).digest()

    async def load(self, path: str, bodies: Sequence[bytes]) -> list[bytes] | None:
        """Returns the answers to all of these requests of one call; None if one is missing."""
        values = await self._get([self.key(path, index, body) for index, body in enumerate(bodies)])
        answers = [answer for answer in values if answer is not None]
        # All or nothing: with `n` choices, some cached and some new ones would cost a call and save none.
        return answers if len(answers) == len(bodies) else None

    async def save(self, path: str, bodies: Sequence[bytes], answers: Sequence[bytes]) -> None:
        """Stores the answers to all requests of one call, if none is too large."""
        if all(len(answer) <= MAX_ENTRY_BYTES for answer in answers):
            # Choices of one request are equal bodies. Without the number each would overwrite the last, and all answers
            # would be the same.
            numbered = enumerate(zip(bodies, answers, strict=True))
            await self._put([(self.key(path, index, body), answer) for index, (body, answer) in numbered])

    async def load_each(self, path: str, bodies: Sequence[bytes]) -> list[bytes | None]:
        """Returns the answer to each of these requests, which may be equal; None for a miss."""
        return await self._get([self.key(path, 0, body) for body in bodies])

    async def save_each(self, path: str, answers: Sequence[tuple[bytes, bytes]]) -> None:
        """Stores pairs of a request and its answer."""
        await self._put([(self.key(path, 0, body), answer) for body, answer in answers])

    async def _get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._verify(key, value) for key, value in zip(keys, await self.store.get(keys), strict=True)]

    async def _put(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        await self.store.put([(key, self._mac(key, answer) + answer) for key, answer in entries], self.seconds)

    def _verify(self, key: bytes, value: bytes | None) -> bytes | None:
        """Returns the answer in a value; None for a value that is damaged or forged."""
        if value is None:
            return None
        mac, answer = value[:MAC_BYTES], value[MAC_BYTES:]
        # A forged entry is a miss and no error: whoever can write to the cache must not be able to fail requests
        # either.
        return answer if hmac.compare_digest(mac, self._mac(key, answer)) else None

    def _mac(self, key: bytes, answer: bytes) -> bytes:
        # Keyed BLAKE2 is a MAC by itself.
        mac = hashlib.blake2b(key, key=self.owner, digest_size=MAC_BYTES)
        mac.update(answer)
        return mac.digest()


class Recording:
    """The events of a stream, collected as they pass; discarded when they grow too large."""

    def __init__(self) -> None:
        self._events: list[bytes] | None = []
        self._size = 0

    def add(self, events: Sequence[bytes]) -> None:
        """Appends JSON documents, and perhaps the sentinel that ends a stream."""
        if self._events is None:
            return
        self._size += sum(map(len, events))
        if self._size > MAX_ENTRY_BYTES:
            # Its memory goes at once: a stream that is too large to cache may still run for minutes.
            self._events = None
        else:
            self._events += events

    def to_json(self) -> bytes | None:
        """Returns all events as a JSON array, without the sentinel, which is not JSON; None if they were discarded."""
        if self._events is None:
            return None
        return b"[" + b",".join(event for event in self._events if event.startswith(b"{")) + b"]"


def split_recording(array: bytes) -> list[bytes]:
    """Returns the events of `Recording.to_json`."""
    return [bytes(event) for event in _decode_array(array)]


class ResponseCache:
    """The operator's cache, or none."""

    def __init__(self, settings: Settings, log: Log) -> None:
        """Raises SettingError for a bad URL of Redis, or none."""
        cache = settings.cache
        self._seconds = cache.seconds
        # The emulator's answers must never be served by a gateway at the real Cohere that shares its Redis.
        self._upstream = settings.cohere_base_url.encode() + (b" demo" if settings.demo else b"")
        self.store: Cache | None = None
        if cache.store == "memory":
            self.store = MemoryCache(cache.memory_bytes)
        elif cache.store == "redis":
            if not settings.redis_url:
                raise SettingError("cache.store: 'redis' needs redis_url as well")
            # Imported only where it is used: the client of Redis takes long to load.
            from gateway.store.redis_cache import RedisCache

            try:
                self.store = RedisCache(
                    settings.redis_url, lambda error: log.message(f"cache: {error}"), settings.redis_cluster
                )
            except ValueError as error:
                raise SettingError(f"redis_url: {error}") from error

    async def stop(self) -> None:
        """Frees memory and connections."""
        if self.store is not None:
            await self.store.stop()

    def owner(self, caller: Principal) -> bytes:
        """Returns the key of all that the cache holds for a caller.

        It depends on the server's Cohere key as well: two gateways at one Redis may have keys of two organisations.
        """
        key = authentication_key(caller, CACHE_LABEL)
        return hmac.digest(key, self._upstream + b"\0" + caller.owner.encode(), "sha256")

    def parse_headers(self, headers: Mapping[bytes, bytes]) -> tuple[str, float | None]:
        """Returns BYPASS or an empty string, and the time to live in seconds, None if no header has one.

        Raises CallerError (400) for other values.
        """
        directive = headers.get(CACHE_HEADER, b"").strip().lower()
        if directive not in (b"", BYPASS.encode()):
            raise CallerError(failure("bad_request", "The only value of the header x-gateway-cache is 'bypass'"))
        if not directive and headers.get(SKIP_HEADER, b"").strip().lower() == b"true":
            directive = BYPASS.encode()
        name = TTL_HEADER if TTL_HEADER in headers else CLOUDFLARE_TTL_HEADER
        seconds = headers.get(name, b"").strip()
        if not seconds:
            return directive.decode(), None
        if not seconds.isdigit() or len(seconds) > MAX_DIGITS or int(seconds) > MAX_SECONDS:
            message = f"The header {name.decode()} must be whole seconds, {MAX_SECONDS} at most"
            raise CallerError(failure("bad_request", message))
        return (directive.decode() if int(seconds) else BYPASS), float(seconds)

    def lookup(
        self, notes: Notes, repeatable: bool, caller: Principal, headers: Mapping[bytes, bytes]
    ) -> tuple[str, Lookup | None]:
        """Returns the value of `x-gateway-cache` for a miss, and the lookup; None for a call that is not cached.

        repeatable: the call is cached without a header. Raises CallerError, and InvalidField in strict mode.
        """
        directive, seconds = self.parse_headers(headers)
        if self.store is None:
            # Noted, not refused: a client that sets the header for all servers still gets its answer.
            if seconds:
                notes.ignored("x-gateway-cache-ttl", "the cache is off")
            return "", None
        if directive == BYPASS:
            return BYPASS, None
        if seconds is None and not repeatable:
            return "", None
        return MISS, Lookup(self.store, self.owner(caller), seconds or self._seconds)
