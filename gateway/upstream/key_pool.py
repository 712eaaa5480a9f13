"""The pool of the server's Cohere keys: which one serves the next call.

Pure but for the clock, which is passed in. A key's budget is counted by endpoint, for chat by model as well, in
minutes that begin with the first call. Until a response has shown what kind of key it is, the budget only decides which
key is taken; a key is passed over when Cohere said that it is used up, or when the setting `pool.kind` says so.
"""

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from gateway.cohere_methods import ELSE, METHODS
from gateway.settings.schema import PoolSettings
from gateway.upstream.key_mask import mask_of

WINDOW = 60.0
"""Seconds over which calls are counted."""

COOLDOWNS = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)
"""Seconds that a key cools down after the first 429 in a row, the second, and so on, where Cohere names no time."""

MAX_COOLDOWN = 600.0
"""Seconds that a key cools down at most, whatever Cohere, or a proxy before it, says: budgets are by the minute."""

PROBE_INTERVAL = 1.0
"""Seconds between two calls with a key whose cool-down is estimated, where nothing better is left."""

DISABLED_SECONDS = 600.0
"""Seconds until a disabled key is tried again: somebody may have paid."""

MAX_BUCKETS = 500
"""Buckets of one key: callers may name any model."""


class Budget(Struct, frozen=True):
    """Calls a minute (of embed: inputs). by_model: each model has its own."""

    trial: int
    production: int
    by_model: bool = False


def endpoint(path: str) -> str:
    """Returns the name in BUDGETS of one of Cohere's paths: `chat` for `/v2/chat`."""
    # Cohere's limits are by endpoint, whatever follows in the path (docs/cohere-api.md#rate-limits).
    return path.partition("?")[0].split("/", 3)[2] if path.count("/") > 1 else ""


BUDGETS: Mapping[str, Budget] = {
    endpoint(method.path): Budget(method.rate.trial, method.rate.production, method.group == "chat")
    for method in METHODS
    if method.rate is not ELSE and method.path.startswith(("/v1/", "/v2/"))
}
"""By the path's first part after the version."""

DEFAULT_BUDGET = Budget(ELSE.trial, ELSE.production)

TRIAL_BUDGET_MODELS = frozenset(
    {
        "command-a-plus-05-2026",
        "command-a-reasoning-08-2025",
        "command-a-translate-08-2025",
        "command-a-vision-07-2025",
    }
)
"""Models whose budget is a trial's for every key until Cohere's sales say otherwise."""

TRIAL_LIMIT_HEADER, TRIAL_REMAINING_HEADER = "x-trial-endpoint-call-limit", "x-trial-endpoint-call-remaining"


class Bucket:
    """One key's calls of one kind.

    limit, used: calls in the window that began at window_start. enforced: the key is passed over at its limit.
    cooldown_until: the key is passed over until then; estimated: Cohere has named no time. rejections: 429s in a row,
    the last of them at last_rejection. last_probe: when it was last lent during a cool-down.
    """

    __slots__ = (
        "cooldown_until",
        "enforced",
        "estimated",
        "last_probe",
        "last_rejection",
        "limit",
        "rejections",
        "used",
        "window_start",
    )

    def __init__(self, limit: int, enforced: bool, now: float) -> None:
        self.limit, self.enforced = limit, enforced
        self.used, self.window_start = 0, now
        self.cooldown_until, self.estimated = 0.0, False
        self.rejections = 0
        self.last_rejection = self.last_probe = -math.inf

    def free_at(self, now: float, weight: int) -> float:
        """Returns when it has budget for this weight; 0 for now."""
        if self.cooldown_until > now:
            return self.cooldown_until
        # A call that alone is heavier than the limit goes when nothing else is counted, or it never would.
        return self.window_start + WINDOW if self.enforced and self.used and self.used + weight > self.limit else 0.0

    def retry_at(self, longest: float) -> float:
        """Returns when a call that was rejected with it may have it again. longest: seconds, unless Cohere said so."""
        return min(self.cooldown_until, self.last_rejection + longest) if self.estimated else self.cooldown_until

    def probe_at(self, now: float) -> float:
        """Returns when it may be lent during a cool-down; never (infinity) where Cohere has named the time."""
        if not self.estimated or self.cooldown_until <= now:
            return math.inf
        return max(self.last_rejection, self.last_probe) + PROBE_INTERVAL


class PoolKey:
    """A key and what is known of it. The secret is never shown; a log may have `name`.

    number: its place in the setting, from 1. kind: the setting. trial, enforced: of new buckets. disabled_until: 0 for
    a key that is not disabled.
    """

    def __init__(self, secret: str, position: int, count: int, kind: str) -> None:
        self.secret, self.number = secret, position
        self.mask = mask_of(secret)
        self.kind = kind
        self.trial = kind == "trial"
        self.enforced = kind != "learned"
        # The hash tells two keys apart in a log without a part of either. Eight digits are too few to search for the
        # key.
        self.name = f"key {position} of {count} (sha256 {hashlib.sha256(secret.encode()).hexdigest()[:8]})"
        self.buckets: dict[str, Bucket] = {}
        self.disabled_until = 0.0

    def bucket(self, name: str, budget: Budget, trial_budget: bool, now: float) -> Bucket:
        """Returns the bucket of this name, its window moved to now. trial_budget: a trial's limit for any key."""
        bucket = self.buckets.get(name)
        if bucket is None:
            if len(self.buckets) >= MAX_BUCKETS:
                # Forgetting costs at worst a few calls that Cohere rejects. To keep the most used ones would need an
                # order that nobody else wants.
                self.buckets.clear()
            limit = budget.trial if self.trial or trial_budget else budget.production
            bucket = self.buckets[name] = Bucket(limit, self.enforced, now)
        elif now - bucket.window_start >= WINDOW:
            bucket.window_start, bucket.used = now, 0
        return bucket


class Lease(Struct):
    """A key lent to one call. since: when, by the pool's clock."""

    key: PoolKey
    bucket: Bucket
    since: float


class PoolKeyReport(Struct, frozen=True):
    """How a key is doing. seconds: until it is used again. used: calls in this minute. trial: it is a trial key."""

    number: int
    state: Literal["ready", "resting", "disabled"]
    seconds: float
    used: int
    trial: bool


class KeyPool:
    """All keys of the server's."""

    def __init__(self, secrets: Sequence[str], settings: PoolSettings, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._keys: list[PoolKey] = []
        self.configure(secrets, settings)

    def configure(self, secrets: Sequence[str], settings: PoolSettings) -> None:
        """Takes over other keys. What is known of those that stay, stays, but that they were disabled."""
        # By the secret: a key that only moved in the setting keeps what is known of it, and one that was disabled gets
        # another chance, as the operator has just looked at it.
        old_keys = {key.secret: key for key in self._keys if key.kind == settings.kind}
        # Twice the same key is one key with one budget.
        secrets = list(dict.fromkeys(secrets))
        keys = [PoolKey(secret, position, len(secrets), settings.kind) for position, secret in enumerate(secrets, 1)]
        for key in keys:
            if old := old_keys.get(key.secret):
                key.buckets, key.trial, key.enforced = old.buckets, old.trial, old.enforced
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def disabled(self) -> int:
        """How many keys are disabled."""
        return sum(bool(key.disabled_until) for key in self._keys)

    def report(self) -> list[PoolKeyReport]:
        """Returns how each key is doing. No secret is in it."""
        now = self._clock()
        reports = []
        for key in self._keys:
            resting = max((bucket.cooldown_until for bucket in key.buckets.values()), default=0.0)
            until = max(resting, key.disabled_until)
            state: Literal["ready", "resting", "disabled"] = (
                "disabled" if key.disabled_until else "resting" if resting > now else "ready"
            )
            # A window is moved on only when its bucket is asked for: what has not been since then does not count.
            used = sum(bucket.used for bucket in key.buckets.values() if now - bucket.window_start < WINDOW)
            reports.append(PoolKeyReport(key.number, state, max(until - now, 0.0), used, key.trial))
        return reports

    def lease(
        self,
        path: str,
        model: str = "",
        weight: int = 1,
        excluded: Collection[PoolKey] = (),
        longest: float = math.inf,
    ) -> Lease | float:
        """Returns the key with the largest part of its budget left, or the seconds until there is one: infinity if
        there will be none.

        excluded: keys that were rejected in this request; longest: seconds after which it may have them again, unless
        Cohere asked for more. Where all others cool down, one whose cool-down is estimated is lent now and then: Cohere
        knows better. Of keys that are all disabled the one that has been so for longest is tried: there is nothing
        better, and it may work again.
        """
        now = self._clock()
        name = endpoint(path)
        budget = BUDGETS.get(name, DEFAULT_BUDGET)
        trial_budget = model in TRIAL_BUDGET_MODELS
        if budget.by_model:
            name = model
        best: tuple[PoolKey, Bucket] | None = None
        probe: Lease | None = None
        best_share, free_at, probe_at = -math.inf, math.inf, math.inf
        for key in self._keys:
            if key.disabled_until > now:
                continue
            bucket = key.bucket(name, budget, trial_budget, now)
            # Not by its cool-down alone: that may have ended meanwhile, and the request would try the same key twice
            # without a pause.
            if excluded and key in excluded:
                free_at = min(free_at, max(bucket.retry_at(longest), now))
            elif when := bucket.free_at(now, weight):
                free_at = min(free_at, when)
                if (when := bucket.probe_at(now)) < probe_at:
                    probe_at, probe = when, Lease(key, bucket, now)
            # The largest share and not the largest number, so that trial and production keys run out together.
            elif (share := (bucket.limit - bucket.used) / bucket.limit) > best_share:
                best_share, best = share, (key, bucket)
        if best is not None:
            return _charged(Lease(*best, now), weight)
        if probe is not None and probe_at <= now:
            probe.bucket.last_probe = now
            return _charged(probe, weight)
        if free_at < math.inf:
            return min(free_at, probe_at) - now
        # Only disabled keys come here: of any other it is known when it is free.
        disabled = [key for key in self._keys if key not in excluded]
        if not disabled:
            return math.inf
        key = min(disabled, key=lambda key: key.disabled_until)
        return _lend_disabled(key, key.bucket(name, budget, trial_budget, now), weight, now)

    def record_success(self, lease: Lease, limit: str, remaining: str) -> bool:
        """Takes down what a response says of its key. Returns whether the key was disabled till now.

        limit, remaining: its trial headers, empty where there are none.
        """
        key, bucket = lease.key, lease.bucket
        # Calls overlap: an answer to a call that began before the last 429 says nothing of what came after it.
        if lease.since >= bucket.last_rejection:
            bucket.rejections = 0
            if bucket.estimated:
                bucket.cooldown_until = 0.0
        # Only trial keys get these headers (docs/cohere-api.md#retries), so they tell the kind of a key whose setting
        # does not.
        if limit.isdecimal() and int(limit):
            key.trial = key.enforced = bucket.enforced = True
            bucket.limit = int(limit)
            if remaining.isdecimal():
                # Cohere's count takes the place of ours: the key may be used elsewhere, and by other workers.
                bucket.used = max(bucket.limit - int(remaining), 0)
        if not key.disabled_until:
            return False
        key.disabled_until = 0.0
        return True

    def cool_down(self, lease: Lease, seconds: float | None) -> None:
        """Passes a key over after a 429: for what Cohere says, else (None) for longer each time."""
        bucket, now = lease.bucket, self._clock()
        if seconds is not None:
            bucket.cooldown_until, bucket.estimated = now + min(seconds, MAX_COOLDOWN), False
        # Only the first of several; the pause grows with each wave of calls that is rejected, not with each call.
        elif bucket.cooldown_until <= now:
            # Calls that were under way together are rejected together: they count as one.
            bucket.cooldown_until = now + COOLDOWNS[min(bucket.rejections, len(COOLDOWNS) - 1)]
            bucket.estimated = True
            bucket.rejections += 1
        bucket.last_rejection = now

    def disable(self, lease: Lease) -> bool:
        """Passes a key over that Cohere refuses. Returns whether that is news."""
        key = lease.key
        news = not key.disabled_until
        key.disabled_until = self._clock() + DISABLED_SECONDS
        return news


def _lend_disabled(key: PoolKey, bucket: Bucket, weight: int, now: float) -> Lease | float:
    return bucket.cooldown_until - now if bucket.cooldown_until > now else _charged(Lease(key, bucket, now), weight)


def _charged(lease: Lease, weight: int) -> Lease:
    lease.bucket.used += weight
    return lease
