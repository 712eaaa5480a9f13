"""The pool of the server's Cohere keys: which one serves the next call.

Pure but for the clock, which is passed in. A key's budget is counted by endpoint, for chat by model as well, in
minutes that begin with the first call. Until an answer has told what kind of key it is, the budget only decides which
key is taken; a key is passed over when Cohere said that it is spent, or when the setting `pool.kind` says so.
"""

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec import Struct

from gateway.cohere_methods import ELSE, METHODS
from gateway.settings.schema import PoolSettings
from translators.core.errors import Failure

MINUTE = 60.0

COOLING = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)
"""Seconds that a key rests after the first 429 in a row, the second, and so on, where Cohere names no time."""

LONGEST_REST = 600.0
"""Seconds that a key rests at most, whatever Cohere, or somebody on the way, says: budgets are by the minute."""

PROBES = 1.0
"""Seconds between two calls with a key that rests for a time of our own guess, where nothing better is left."""

PARKED = 600.0
"""Seconds until a parked key is tried again: somebody may have paid."""

MOST_BUCKETS = 500
"""Of one key: callers may name any model."""


class Budget(Struct, frozen=True):
    """Calls a minute (of embed: inputs). by_model: each model has its own."""

    trial: int
    production: int
    by_model: bool = False


def endpoint(path: str) -> str:
    """The name in BUDGETS of one of Cohere's paths: `chat` for `/v2/chat`."""
    return path.partition("?")[0].split("/", 3)[2] if path.count("/") > 1 else ""


BUDGETS: Mapping[str, Budget] = {
    endpoint(method.path): Budget(method.rate.trial, method.rate.production, method.group == "chat")
    for method in METHODS
    if method.rate is not ELSE and method.path.startswith(("/v1/", "/v2/"))
}
"""By the path's first part after the version."""

OTHERS = Budget(ELSE.trial, ELSE.production)

LIMITED = frozenset(
    {
        "command-a-plus-05-2026",
        "command-a-reasoning-08-2025",
        "command-a-translate-08-2025",
        "command-a-vision-07-2025",
    }
)
"""Models whose budget is a trial's for every key until Cohere's sales say otherwise."""

TRIAL_LIMIT, TRIAL_REMAINING = "x-trial-endpoint-call-limit", "x-trial-endpoint-call-remaining"


class Bucket:
    """One key's calls of one kind."""

    __slots__ = ("began", "guessed", "held", "limit", "probed", "rests", "strikes", "struck", "used")

    def __init__(self, limit: int, held: bool, now: float) -> None:
        self.limit, self.held = limit, held
        self.used, self.began = 0, now
        self.rests = 0.0
        """Until when it is passed over."""
        self.guessed = False
        """That is our guess: Cohere has named no time."""
        self.strikes = 0
        self.struck = self.probed = -math.inf
        """When the last one was, and when it was last lent while it rests."""

    def free(self, now: float, weight: int) -> float:
        """When it has budget left; 0 for now."""
        if self.rests > now:
            return self.rests
        return self.began + MINUTE if self.held and self.used and self.used + weight > self.limit else 0.0

    def free_again(self, longest: float) -> float:
        """When its rest is over, for who was refused with it."""
        return min(self.rests, self.struck + longest) if self.guessed else self.rests

    def next_probe(self, now: float) -> float:
        """When it may be lent although it rests; never, where that is not our guess."""
        return max(self.struck, self.probed) + PROBES if self.guessed and self.rests > now else math.inf


class PoolKey:
    """A key and what is known of it. Never shown: `name` is what a log may have."""

    def __init__(self, secret: str, position: int, count: int, kind: str) -> None:
        self.secret = secret
        self.kind = kind
        self.trial = kind == "trial"
        self.held = kind != "learned"
        self.name = f"key {position} of {count} (sha256 {hashlib.sha256(secret.encode()).hexdigest()[:8]})"
        self.buckets: dict[str, Bucket] = {}
        self.parked = 0.0
        """Until when, 0 for not at all."""
        self.why: Failure | None = None

    def bucket(self, name: str, budget: Budget, limited: bool, now: float) -> Bucket:
        found = self.buckets.get(name)
        if found is None:
            if len(self.buckets) >= MOST_BUCKETS:
                self.buckets.clear()
            limit = budget.trial if self.trial or limited else budget.production
            found = self.buckets[name] = Bucket(limit, self.held, now)
        elif now - found.began >= MINUTE:
            found.began, found.used = now, 0
        return found


class Lease(Struct):
    """A key lent to one call, and since when."""

    key: PoolKey
    bucket: Bucket
    since: float


def _lent(lease: Lease, weight: int) -> Lease:
    lease.bucket.used += weight
    return lease


class Pool:
    """All keys of the server's."""

    def __init__(self, secrets: Sequence[str], settings: PoolSettings, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._keys: list[PoolKey] = []
        self.configure(secrets, settings)

    def configure(self, secrets: Sequence[str], settings: PoolSettings) -> None:
        """Other keys; what is known of those that stay, stays, but that they were parked."""
        known = {key.secret: key for key in self._keys if key.kind == settings.kind}
        secrets = list(dict.fromkeys(secrets))
        keys = [PoolKey(secret, place, len(secrets), settings.kind) for place, secret in enumerate(secrets, 1)]
        for key in keys:
            if old := known.get(key.secret):
                key.buckets, key.trial, key.held = old.buckets, old.trial, old.held
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def parked(self) -> int:
        """How many keys are parked."""
        return sum(bool(key.parked) for key in self._keys)

    def take(
        self,
        path: str,
        model: str = "",
        weight: int = 1,
        passed: Collection[PoolKey] = (),
        longest: float = math.inf,
    ) -> Lease | float | None:
        """The key with the largest part of its budget left; seconds until there is one; None if there will be none.

        passed: keys that this request has tried in vain; longest: seconds after which it may have them again, unless
        Cohere says more. Where all others rest, one that does so for a time of our own guess is lent now and then:
        Cohere knows better. Of keys that are all parked the one that has been so for
        longest is tried: there is nothing better, and it may have been mended.
        """
        now = self._clock()
        name = endpoint(path)
        budget = BUDGETS.get(name, OTHERS)
        limited = model in LIMITED
        if budget.by_model:
            name = model
        best: PoolKey | None = None
        best_bucket: Bucket | None = None
        best_left, soonest, resort = -math.inf, math.inf, None
        probe, probed = math.inf, None
        for key in self._keys:
            if key.parked > now:
                if key not in passed and (resort is None or key.parked < resort.parked):
                    resort = key
                continue
            bucket = key.bucket(name, budget, limited, now)
            if passed and key in passed:
                soonest = min(soonest, max(bucket.free_again(longest), now))
            elif free := bucket.free(now, weight):
                soonest = min(soonest, free)
                if (tried := bucket.next_probe(now)) < probe:
                    probe, probed = tried, Lease(key, bucket, now)
            elif (left := (bucket.limit - bucket.used) / bucket.limit) > best_left:
                best, best_bucket, best_left = key, bucket, left
        if best is not None and best_bucket is not None:
            return _lent(Lease(best, best_bucket, now), weight)
        if probed is not None and probe <= now:
            probed.bucket.probed = now
            return _lent(probed, weight)
        if soonest < math.inf or resort is None:
            return min(soonest, probe) - now if soonest < math.inf else None
        last = resort.bucket(name, budget, limited, now)
        return last.rests - now if last.rests > now else _lent(Lease(resort, last, now), weight)

    def succeeded(self, lease: Lease, limit: str, remaining: str) -> bool:
        """What an answer's trial headers teach; empty where there are none. True if the key was parked till now."""
        key, bucket = lease.key, lease.bucket
        if lease.since >= bucket.struck:
            # What was under way before the last 429 says nothing of what is left now.
            bucket.strikes = 0
            if bucket.guessed:
                bucket.rests = 0.0
        if limit.isdecimal() and int(limit):
            key.trial = key.held = bucket.held = True
            bucket.limit = int(limit)
            if remaining.isdecimal():
                bucket.used = max(bucket.limit - int(remaining), 0)
        if not key.parked:
            return False
        key.parked, key.why = 0.0, None
        return True

    def cools(self, lease: Lease, told: float | None) -> None:
        """A 429: the key rests for what Cohere says, else for longer each time."""
        bucket, now = lease.bucket, self._clock()
        if told is not None:
            bucket.rests, bucket.guessed = now + min(told, LONGEST_REST), False
        elif bucket.rests <= now:
            # Calls that were under way together are refused together: one strike for all.
            bucket.rests, bucket.guessed = now + COOLING[min(bucket.strikes, len(COOLING) - 1)], True
            bucket.strikes += 1
        bucket.struck = now

    def park(self, lease: Lease, why: Failure) -> bool:
        """False if it was parked already."""
        key = lease.key
        new = not key.parked
        key.parked, key.why = self._clock() + PARKED, why
        return new
