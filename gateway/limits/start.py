"""Which counters the settings ask for, and the limiter over them.

With `redis_url` Redis counts; else PostgreSQL, where it is the database; else SQLite, for several workers of one
machine; else the memory of the one process that there is.
"""

from functools import partial

from gateway.auth.directory import KeyDirectory
from gateway.ledger.prices import Prices
from gateway.limits.limiter import Limiter
from gateway.limits.process_counters import LimiterCounters, ProcessCounters
from gateway.limits.shared_counters import SharedCounters
from gateway.limits.stored_budgets import StoredBudgets
from gateway.observability.access_log import Log
from gateway.observability.alerts import Alerts
from gateway.observability.metrics import Metrics
from gateway.settings.schema import SettingError, Settings
from gateway.store.database import Database
from gateway.store.sql_counters import SqlCounters

DATABASE_SECONDS = 5.0
"""For a transaction in which budgets are stored or read."""

COUNTING_SECONDS = 2.0
"""That a request may wait at least for a database that counts. For Redis the setting `limits.timeout` says how long."""

REDIS_SECONDS = 1.0
"""For a connection to Redis, and for each answer, where `limits.timeout` does not say more."""

CONNECTIONS = 4


def create_limiter(settings: Settings, directory: KeyDirectory, metrics: Metrics, log: Log, alerts: Alerts) -> Limiter:
    """Returns the limiter. Raises SettingError for a bad URL of Redis or the database, or a bad duration."""
    counters = _counters(settings, metrics, log, alerts)
    return Limiter(
        settings,
        counters,
        Prices(settings.prices, settings.policy),
        lambda id: directory.end_users.get(id),
        metrics,
        alerts,
    )


def _counters(settings: Settings, metrics: Metrics, log: Log, alerts: Alerts) -> LimiterCounters:
    def failed(error: Exception) -> None:
        log.message(f"limits: the spent budgets could not be stored or read: {error}")

    def changed(reason: str) -> None:
        metrics.limits_degraded.set(bool(reason))
        log.message(reason or "limits: the shared counters answer again")
        if reason:
            alerts.raise_alert("limits_degraded", "limits", reason)

    database = partial(Database, settings.database_url, DATABASE_SECONDS, CONNECTIONS, durable=False)
    stored = StoredBudgets(database(), failed, remembers=bool(settings.redis_url))
    limits = settings.limits
    shared = partial(
        SharedCounters,
        stored=stored,
        refuses=limits.on_failure == "refuse",
        on_change=changed,
        workers=settings.workers,
    )
    if settings.redis_url:
        # Imported here: to load the client of Redis is slow.
        from gateway.store.redis_cluster_counters import RedisClusterCounters
        from gateway.store.redis_counters import RedisCounters

        kind = RedisClusterCounters if settings.redis_cluster else RedisCounters
        try:
            # No less than a request may wait, or the connection would give up before it.
            redis = kind(settings.redis_url, stored, timeout=max(REDIS_SECONDS, limits.timeout))
        except ValueError as error:
            raise SettingError(f"redis_url: {error}") from error
        return shared(redis, timeout=limits.timeout, stores_all=True)
    if database().is_postgresql or settings.workers > 1:
        seconds = max(limits.timeout, COUNTING_SECONDS)
        counting = Database(settings.database_url, seconds, CONNECTIONS, durable=False)
        return shared(SqlCounters(counting), timeout=seconds, stores_all=False)
    return ProcessCounters(stored, failed)
