"""What `cohere-gateway check` looks at: one function for each subject, which yields findings with their remedies."""

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from gateway.auth.authenticator import server_keys
from gateway.auth.modes import Mode, mode_of
from gateway.errors import GatewayError
from gateway.ledger.writer import address_of
from gateway.observability import process_usage, telemetry
from gateway.settings import checks
from gateway.settings.origins import origins_of
from gateway.settings.schema import SettingError, Settings
from gateway.store.errors import StoreUnavailable
from gateway.store.reachability import RedisReachability, condition_of_database
from gateway.upstream.retry import seconds_of_date
from gateway.upstream.router import serves
from gateway.upstream.session import UpstreamSession
from translators.core.model_names import resolve

MAX_CLOCK_DIFFERENCE = 30.0
"""Seconds by which this machine's clock may differ from others' before it is worth a warning."""

FEW_FILES = 4096
"""File descriptors below which a busy gateway may refuse connections."""

EVICTING = frozenset(
    {"allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-random"}
)
"""Policies by which Redis forgets counters of limits when its memory is full."""

MODELS_PATH = "/v1/models?page_size=1000"


class Finding(Struct, frozen=True):
    """check: the subject. remedy: what to do; empty where nothing is to be done."""

    check: str
    status: Literal["ok", "warn", "fail"]
    message: str
    remedy: str = ""


def settings_refused(sentence: str) -> Finding:
    """Returns the finding for settings that cannot be used at all."""
    return Finding("settings", "fail", sentence, "docs/reference/settings.md has all settings")


async def examine(settings: Settings, offline: bool) -> list[Finding]:
    """Returns all findings. offline: nothing is connected to."""
    findings = [*_settings(settings), *_machine(settings), *_ledger(settings), *_telemetry(os.environ)]
    if offline:
        return findings
    for subject in (_database, _redis, _upstream, _named_upstreams):
        try:
            async for one in subject(settings):
                findings.append(one)
        except SettingError as error:
            # Said above where it is a contradiction; of a certificate only whoever needs it finds out.
            if (refused := settings_refused(str(error))) not in findings:
                findings.append(refused)
    return findings


def _settings(settings: Settings) -> Iterator[Finding]:
    try:
        mode = mode_of(settings)
    except SettingError as error:
        yield settings_refused(str(error))
        return
    yield Finding("settings", "ok", f"they can be used; callers: {mode.value}")
    yield from _origins(settings)
    for sentence in checks.warnings(settings):
        yield Finding("settings", "warn", sentence, "see docs/authentication.md")
    yield from (
        Finding("settings", "warn", text, remedy) for text, remedy, holds in _SURPRISES if holds(settings, mode)
    )


def _origins(settings: Settings) -> Iterator[Finding]:
    """Yields a finding for each place where settings are set, and one for each that is set twice."""
    origins = origins_of(settings)
    files: dict[str, list[str]] = {}
    for path, origin in origins.items():
        if origin.kind == "file":
            files.setdefault(origin.name, []).append(path)
        if origin.over:
            yield Finding("settings", "ok", f"{path} is set by {origin}, which wins over {', '.join(origin.over)}")
    for name, paths in files.items():
        yield Finding("settings", "ok", f"set in {name}: {', '.join(paths)}")
    variables = [f"{path} ({one.name})" for path, one in origins.items() if one.kind == "environment"]
    if variables:
        yield Finding("settings", "ok", f"set in the environment: {', '.join(variables)}")


def _is_sqlite(settings: Settings) -> bool:
    return settings.database_url.startswith("sqlite")


_SURPRISES: tuple[tuple[str, str, Callable[[Settings, Mode], bool]], ...] = (
    (
        "open mode behind a proxy: whoever reaches the proxy spends your Cohere key",
        "set GATEWAY_MASTER_KEY (openssl rand -hex 32) and give each caller a key",
        # Behind a proxy the address is loopback, so nothing else would say it.
        lambda settings, mode: mode is Mode.OPEN and bool(settings.trusted_proxies or settings.allowed_hosts),
    ),
    (
        "open mode on an address that others reach: whoever does spends your Cohere key",
        "set GATEWAY_MASTER_KEY (openssl rand -hex 32) and give each caller a key",
        lambda settings, mode: mode is Mode.OPEN and not settings.loopback,
    ),
    (
        "no master key: callers have no keys, limits, budgets or permissions of their own",
        "set GATEWAY_MASTER_KEY (openssl rand -hex 32); docs/keys.md begins there",
        lambda settings, mode: mode in (Mode.OPEN, Mode.OWN_KEY) and not settings.master_key,
    ),
    (
        "demo mode: the embedded emulator answers, not Cohere",
        "set COHERE_API_KEY and leave --demo out",
        lambda settings, mode: settings.demo,
    ),
    (
        "SQLite, and a Redis for several machines: each machine has a database of its own, so keys, responses and the "
        "ledger differ between them",
        "set database_url to a PostgreSQL that all of them reach",
        lambda settings, mode: _is_sqlite(settings) and bool(settings.redis_url),
    ),
    (
        "SQLite in Kubernetes: a pod that is replaced loses its keys, responses and ledger, and pods do not share them",
        "set database_url to a PostgreSQL, or run one replica with a volume",
        # Kubernetes sets this variable in every container.
        lambda settings, mode: _is_sqlite(settings) and bool(os.environ.get("KUBERNETES_SERVICE_HOST")),
    ),
    (
        "cohere_base_url, or that of an upstream, is http to another host: the Cohere key travels in clear text",
        "use https",
        lambda settings, mode: any(
            url.startswith("http://") and urlsplit(url).hostname not in ("localhost", "127.0.0.1", "::1")
            for url in (settings.cohere_base_url, *(one.base_url for one in settings.upstreams.values()))
        ),
    ),
    (
        "/metrics is open to whoever reaches this address",
        "set metrics.token and leave metrics.public out",
        lambda settings, mode: settings.metrics.public and not settings.loopback,
    ),
    (
        "/metrics refuses everybody: the address is not loopback, and there is no token",
        "set metrics.token, and the same in Prometheus",
        lambda settings, mode: not settings.loopback and not settings.metrics.public and not settings.metrics.token,
    ),
    (
        "requests under a budget whose price is unknown are counted as free",
        "set their prices in [prices] and leave budgets.unknown_price at 'refuse'",
        lambda settings, mode: settings.budgets.unknown_price == "allow",
    ),
    (
        "nobody hears of spent budgets, disabled keys or a ledger that is behind",
        "set alerts.url and alerts.secret",
        # Not on loopback, where people try the gateway.
        lambda settings, mode: mode is Mode.VIRTUAL_KEYS and not settings.alerts.url and not settings.loopback,
    ),
    (
        "cache.store is 'memory' with several workers: each has a cache of its own",
        "set cache.store to 'redis'",
        lambda settings, mode: settings.cache.store == "memory" and settings.workers > 1,
    ),
)
"""Settings that can be used and may surprise: what it means, what to do, and when it holds."""


def _machine(settings: Settings) -> Iterator[Finding]:
    files, cores = process_usage.read().max_files, os.cpu_count() or 1
    if files < FEW_FILES:
        message = f"this process may open {files} files, and each connection is one"
        yield Finding("machine", "warn", message, "raise the limit: LimitNOFILE=65536 of systemd, or ulimit -n")
    if settings.workers > 2 * cores:
        message = f"{settings.workers} workers on {cores} cores take turns and memory"
        yield Finding("machine", "warn", message, f"set workers to {cores}")
    yield Finding("machine", "ok", f"{cores} cores, {files} file descriptors, {settings.workers} workers")


def _ledger(settings: Settings) -> Iterator[Finding]:
    try:
        _, spool = address_of(settings.database_url, settings.ledger.spool)
    except ValueError:
        return  # the database's finding says it
    # The directory is made when it is first needed, so what counts is the nearest one above it.
    parent = next((one for one in (spool, *spool.parents) if one.exists()), Path("/"))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        message = f"rows cannot be put aside in {spool}: it cannot be written"
        yield Finding("ledger", "fail", message, "set ledger.spool to a directory that this user may write")
        return
    waiting = list(spool.glob("*")) if spool.is_dir() else []
    if waiting:
        message = f"{len(waiting)} files with rows wait in {spool}"
        yield Finding("ledger", "warn", message, "they are written when the gateway runs and its database takes rows")
    else:
        yield Finding("ledger", "ok", f"rows are put aside in {spool} while the database is away")


def _telemetry(environment: Mapping[str, str]) -> Iterator[Finding]:
    exported = telemetry.signals(environment)
    if not exported:
        return
    if not telemetry.is_installed():
        yield Finding("telemetry", "warn", telemetry.MISSING, "make install EXTRAS=otel")
        return
    yield Finding("telemetry", "ok", f"{', '.join(exported)} are exported by OTLP")


async def _database(settings: Settings) -> AsyncIterator[Finding]:
    parts = urlsplit(settings.database_url)
    # Without user and password, which a report may be sent around with.
    name = settings.database_url if _is_sqlite(settings) else f"{parts.hostname or 'localhost'}{parts.path}"
    try:
        condition = await condition_of_database(settings.database_url)
    except ValueError as error:
        yield Finding(
            "database", "fail", f"database_url: {error}", "write sqlite:///FILE or postgresql://USER@HOST/NAME"
        )
        return
    except StoreUnavailable as error:
        yield Finding("database", "fail", f"{name}: {error}", "is it running, and may this user connect?")
        return
    if condition.version == condition.newest:
        yield Finding("database", "ok", f"{name} answers, and has version {condition.version}")
    elif condition.version is None:
        yield Finding("database", "ok", f"{name} is empty; the gateway makes its tables when it starts")
    # Versions have four digits each, so texts compare as numbers do.
    elif condition.version < condition.newest:
        message = f"{name} has version {condition.version}, this gateway makes it {condition.newest} when it starts"
        yield Finding("database", "warn", message, "back it up; cohere-gateway db upgrade does it beforehand")
    else:
        message = f"{name} has version {condition.version}, and this gateway knows {condition.newest} only"
        yield Finding(
            "database", "fail", message, "a newer gateway has been here: install that one, or restore a backup"
        )
    if condition.clock is not None:
        yield _clock_finding("the database", condition.clock)


async def _redis(settings: Settings) -> AsyncIterator[Finding]:
    if not settings.redis_url:
        return
    try:
        redis = RedisReachability(settings.redis_url)
    except ValueError as error:
        yield Finding("redis", "fail", f"redis_url: {error}", "write redis://HOST:PORT/NUMBER")
        return
    try:
        if reason := await redis.condition():
            yield Finding("redis", "fail", reason, "is it running, and is the password right?")
            return
        described = await redis.describe()
        if described.eviction in EVICTING:
            message = f"Redis {described.version} forgets counters of limits when it is full ({described.eviction})"
            yield Finding("redis", "warn", message, "set maxmemory-policy noeviction, or a Redis of its own for limits")
        else:
            yield Finding("redis", "ok", f"Redis {described.version} answers")
    finally:
        await redis.stop()


async def _upstream(settings: Settings) -> AsyncIterator[Finding]:
    if settings.demo:
        return
    keys = server_keys(settings)
    session = UpstreamSession(settings.cohere_base_url, settings.timeouts, settings.upstream)
    await session.start()
    try:
        if not keys:
            yield await _reach(session, settings)
            return
        # Each key is asked for the models that it may use: that needs a valid key, and costs nothing.
        models: set[str] = set()
        for number, key in enumerate(keys, 1):
            name = f"key {number} of {len(keys)}"
            try:
                response = await session.open("GET", MODELS_PATH, None, False, key)
                body = await response.read_body()
            except GatewayError as error:
                yield Finding("cohere", "fail", f"{name}: {error.failure.message}", _REACH_REMEDY)
                # The other keys would meet the same network.
                return
            if response.status in (401, 403):
                message = f"Cohere refuses {name} ({response.status})"
                yield Finding(
                    "cohere", "fail", message, "replace it in COHERE_API_KEY: https://dashboard.cohere.com/api-keys"
                )
                continue
            if response.status != 200:
                message = f"{name}: Cohere answers {response.status} to a look at its models"
                yield Finding("cohere", "fail", message, "try again, and see https://status.cohere.com")
                continue
            listed = _names(body)
            models |= listed
            yield Finding("cohere", "ok", f"{name} is accepted, and may use {len(listed)} models")
            # One answer is enough: all keys are asked at the same place.
            if number == 1 and (seconds := seconds_of_date(response.header("date"))) is not None:
                yield _clock_finding("Cohere", seconds)
        if models:
            for finding in _models(settings, models):
                yield finding
    finally:
        await session.stop()


async def _named_upstreams(settings: Settings) -> AsyncIterator[Finding]:
    """Yields whether each named upstream takes its keys. A 404 will do: not every one has a list of models."""
    for name, upstream in settings.upstreams.items():
        table = f"upstreams.{name}"
        session = UpstreamSession(upstream.base_url, settings.timeouts, upstream, table)
        await session.start()
        try:
            for number, key in enumerate(upstream.api_key, 1):
                try:
                    response = await session.open("GET", MODELS_PATH, None, False, key)
                    # The status is all that counts.
                    response.close()
                except GatewayError as error:
                    yield Finding(table, "fail", error.failure.message, f"can this machine reach {table}.base_url?")
                    break
                which = f"key {number} of {len(upstream.api_key)}"
                status = response.status
                if status in (401, 403):
                    message = f"{which} is refused ({status})"
                    yield Finding(table, "fail", message, f"replace it in {checks.upstream_key_variable(name)}")
                elif status in (200, 404):
                    yield Finding(table, "ok", f"{which} is accepted")
                else:
                    yield Finding(table, "fail", f"{which}: the answer is {status}", "try again, or ask who runs it")
        finally:
            await session.stop()


_REACH_REMEDY = "can this machine reach cohere_base_url, and does it need a proxy (HTTPS_PROXY)?"


async def _reach(session: UpstreamSession, settings: Settings) -> Finding:
    """Returns whether something answers where Cohere should be; callers bring the keys."""
    host = urlsplit(settings.cohere_base_url).hostname
    try:
        # Over the session and not a connection of its own, so that proxies and certificates count.
        response = await session.open("GET", MODELS_PATH, None, False, "")
        response.close()
    except GatewayError as error:
        return Finding("cohere", "fail", f"{host} cannot be reached: {error.failure.message}", _REACH_REMEDY)
    return Finding("cohere", "ok", f"{host} can be reached; callers bring their own keys, which are not tried")


def _names(body: bytes) -> set[str]:
    try:
        return {str(one["name"]) for one in msgspec.json.decode(body)["models"]}
    # What answers there may be no Cohere.
    except (msgspec.DecodeError, KeyError, TypeError):
        return set()


def _models(settings: Settings, models: set[str]) -> Iterator[Finding]:
    """Yields the models that the settings name and Cohere does not list."""
    policy = settings.policy
    named = [(f"models.aliases '{alias}'", target) for alias, target in settings.models.aliases.items()]
    for model, fallbacks in settings.models.fallbacks.items():
        named += [(f"models.fallbacks of '{model}'", one) for one in fallbacks]
    missing = [
        (where, name)
        for where, name in named
        # By an alias of another alias, too. A named upstream may have models that Cohere does not list.
        if (model := resolve(name, policy)) not in models
        and not any(serves(upstream, model) for upstream in settings.upstreams.values())
    ]
    for where, name in missing:
        message = f"{where} leads to '{name}', which these keys cannot use"
        yield Finding("models", "fail", message, "curl .../v1/models shows what they can use")
    if named and not missing:
        yield Finding("models", "ok", f"all {len(named)} models that aliases and fallbacks name can be used")


def _clock_finding(whose: str, seconds: float) -> Finding:
    difference = time.time() - seconds
    if abs(difference) <= MAX_CLOCK_DIFFERENCE:
        return Finding("clock", "ok", f"it agrees with the clock of {whose}")
    message = f"this machine's clock is {abs(difference):.0f} s {'ahead of' if difference > 0 else 'behind'} {whose}'s"
    return Finding(
        "clock", "warn", message, "budgets, limits and tokens go by it: let NTP set it (timedatectl set-ntp true)"
    )
