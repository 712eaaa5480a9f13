"""The endpoints of inspection: what this gateway is, how it is doing, what may be given to a key. They change nothing.

    /gateway/permissions  the groups and methods of the table of permissions, and the presets
    /gateway/models       models with their capabilities, aliases, successors and prices
    /gateway/status       keys, breakers, databases and load of the process that answers
    /gateway/settings     the settings in force, each with its origin and default; of a secret only whether there is one

The first two are for whoever may call; the others for whoever sees all reports.
"""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from starlette.types import Receive, Scope, Send

from gateway import __version__
from gateway.auth import permissions
from gateway.auth.modes import mode_of
from gateway.auth.permissions import may_use
from gateway.auth.principal import Principal
from gateway.cohere_methods import METHODS
from gateway.endpoints.reports import ALL_ONLY, own_key_id_of
from gateway.errors import CallerError
from gateway.http.responses import send_json
from gateway.ledger.prices import Prices
from gateway.observability.record import record_of
from gateway.pipeline.deprecated_models import READ_SECONDS
from gateway.pipeline.services import Services
from gateway.settings.origins import DEFAULT, origins_of
from gateway.settings.reference import described
from gateway.settings.schema import Settings
from translators.core.capabilities import CAPABILITIES, EMBEDDERS, RERANKERS, TRANSCRIBERS
from translators.core.model_names import SUCCESSORS, SYNONYMS
from translators.core.notes import Notes

SECRET_FIELDS = frozenset(
    ("cohere_api_key", "api_key", "master_key", "token", "secret", "headers", "body_key", "public_key", "key")
)
"""Names of settings, or of fields inside one, of which nothing is shown but that they are set."""

HIDDEN = "(set)"


class InspectionOperation(Struct, frozen=True):
    """A row. about_all: it is for those who see all reports."""

    name: str
    path: str
    does: str
    respond: Callable[[Services, Principal, Callable[[], list[str]]], Mapping[str, Any]]
    about_all: bool = False


def show_permissions(services: Services, principal: Principal, reasons: Callable[[], list[str]]) -> Mapping[str, Any]:
    """Returns what may be given to a key."""
    groups = [
        {
            "name": group,
            "readable": group in permissions.READABLE,
            "methods": [
                {"name": method.name, "reads": method.reads, "verb": method.verb, "path": method.path}
                for method in METHODS
                if method.group == group
            ],
        }
        for group in permissions.GROUPS
    ]
    default = "none" if services.settings.deny_by_default else "inference"
    return {"levels": permissions.LEVELS, "groups": groups, "presets": permissions.PRESETS, "default": default}


def show_models(services: Services, principal: Principal, reasons: Callable[[], list[str]]) -> Mapping[str, Any]:
    """Returns the models that this caller may use, as far as the gateway's tables know them.

    `deprecated` has those that Cohere deprecates, also such that no table knows; null until Cohere's list has been
    read, which begins now if it was not read today.
    """
    settings, catalog = services.settings, services.catalog
    prices = Prices(settings.prices, settings.policy)
    # Beside this request and not awaited: the page shows what is known, and more when it is loaded again.
    catalog.refresh(principal, READ_SECONDS)
    # The last two are sets, whose order is another one in each process.
    names = [*CAPABILITIES, *EMBEDDERS, *sorted(RERANKERS), *sorted(TRANSCRIBERS)]
    names += [name for name in prices.rows if name not in names]
    models = []
    for name in names:
        # Without a list of models a key may use every one, so the names need no look.
        if principal.access.models and not may_use(principal.access, name):
            continue
        price = prices.rows.get(name)
        capabilities = CAPABILITIES.get(name)
        embedder = EMBEDDERS.get(name)
        models.append(
            {
                "id": name,
                "kind": _kind(name),
                "capabilities": msgspec.to_builtins(capabilities) if capabilities is not None else None,
                "dimensions": embedder.sizes if embedder is not None else (),
                "deprecated": name in catalog.deprecated,
                "price": msgspec.to_builtins(price) if price is not None else None,
                "aliases": sorted(alias for alias, model in settings.models.aliases.items() if model == name),
                "synonyms": sorted(other for other, model in SYNONYMS.items() if model == name),
                "replaces": sorted(old for old, new in SUCCESSORS.items() if new == name),
                "fallbacks": settings.models.fallbacks.get(name, ()),
            }
        )
    deprecated = [name for name in sorted(catalog.deprecated) if may_use(principal.access, name)]
    return {
        "data": models,
        "deprecated": deprecated if catalog.is_read else None,
        "price_version": prices.version,
        "successors": settings.models.successors,
    }


def _kind(model: str) -> str:
    kinds = {"chat": CAPABILITIES, "embed": EMBEDDERS, "rerank": RERANKERS, "transcription": TRANSCRIBERS}
    return next((kind for kind, models in kinds.items() if model in models), "other")


def _of_upstreams(reports: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Returns the reports of all upstreams, each with its upstream where there are several."""
    return [{**one, "upstream": name} if name else one for name, report in reports.items() for one in report]


def show_status(services: Services, principal: Principal, reasons: Callable[[], list[str]]) -> Mapping[str, Any]:
    """Returns how this process is doing."""
    settings, resources = services.settings, services.upstream.all_resources()
    limiters = [one.limiter for one in resources.values()]
    conditions = reasons()
    return {
        "version": __version__,
        "mode": mode_of(settings).value,
        "demo": settings.demo,
        "upstream": "the embedded emulator" if settings.demo else without_secrets(settings.cohere_base_url),
        "upstreams": {name: without_secrets(upstream.base_url) for name, upstream in settings.upstreams.items()},
        "state": "degraded" if conditions else "ready",
        "reasons": conditions,
        "workers": settings.workers,
        "calls": {
            "in_flight": sum(limiter.in_use for limiter in limiters),
            "waiting": sum(limiter.waiting for limiter in limiters),
            "most": settings.concurrency.max_in_flight,
        },
        "cohere_keys": _of_upstreams({name: msgspec.to_builtins(one.pool.report()) for name, one in resources.items()}),
        "breakers": _of_upstreams({name: one.breakers.report() for name, one in resources.items()}),
        # Its kind alone: the whole address may have a password in it.
        "database": urlsplit(settings.database_url).scheme,
        "redis": bool(settings.redis_url),
        "cache": settings.cache.store,
        "time": time.time(),
    }


def show_settings(services: Services, principal: Principal, reasons: Callable[[], list[str]]) -> Mapping[str, Any]:
    """Returns the settings in force, and where each comes from.

    `is_default` says that a value is that which it has where nobody sets it.
    """
    default, data = Settings(), []
    origins = origins_of(services.settings)
    for line in described():
        value = _value(services.settings, line.path)
        is_default = value == _value(default, line.path)
        data.append(
            {
                "name": line.path,
                "value": _redact(line.path, value),
                "is_default": is_default,
                "origin": origins.get(line.path, DEFAULT),
                "default": line.default,
                "environment": line.environment,
                "about": line.text,
            }
        )
    return {"data": data}


def _value(settings: Settings, path: str) -> Any:
    value: Any = settings
    for name in path.split("."):
        value = getattr(value, FIELDS.get(name, name))
    return msgspec.to_builtins(value)


FIELDS: Mapping[str, str] = {"global": "global_limits"}
"""Names in the file that are no names of Python's."""


def _redact(path: str, value: Any) -> Any:
    """Returns a value without what is secret in it, at any depth."""
    if path.rpartition(".")[2] in SECRET_FIELDS:
        # An empty one is shown as it is. That nothing is set is no secret, and often what an operator is looking for.
        return HIDDEN if value else value
    if isinstance(value, dict):
        return {name: _redact(str(name), inner) for name, inner in value.items()}
    # Without a name: what is secret in an element has a name of its own, or is in a URL.
    if isinstance(value, list):
        return [_redact("", inner) for inner in value]
    if isinstance(value, str) and "://" in value:
        return without_secrets(value)
    return value


def without_secrets(address: str) -> str:
    """Returns an address without the name and password in it, and without its query, which may hold others."""
    scheme, _, rest = address.partition("://")
    authority, slash, path = re.split("[?#]", rest, maxsplit=1)[0].partition("/")
    hidden = "...@" if "@" in authority else ""
    # After the last `@`, as a password that nobody has encoded may contain one.
    return f"{scheme}://{hidden}{authority.rpartition('@')[2]}{slash}{path}"


INSPECTIONS: tuple[InspectionOperation, ...] = (
    InspectionOperation(
        "gateway_permissions", "/gateway/permissions", "groups, methods and presets of permissions", show_permissions
    ),
    InspectionOperation("gateway_models", "/gateway/models", "models, what they can do, and prices", show_models),
    InspectionOperation("gateway_status", "/gateway/status", "keys, breakers, stores and load", show_status, True),
    InspectionOperation("gateway_settings", "/gateway/settings", "the settings in force", show_settings, True),
)


class InspectionEndpoint:
    """A row of INSPECTIONS. reasons: what is wrong although callers are served."""

    def __init__(self, operation: InspectionOperation, services: Services, reasons: Callable[[], list[str]]) -> None:
        self._operation, self._services, self._reasons = operation, services, reasons

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, record, operation = self._services, record_of(scope), self._operation
        record.operation, record.door, record.has_row = operation.name, "management", False
        # An id means that the caller sees this one key alone; None, that they see everything.
        if operation.about_all and own_key_id_of(record.principal, services.settings) is not None:
            raise CallerError(ALL_ONLY)
        answer = operation.respond(services, record.principal, self._reasons)
        await send_json(send, msgspec.json.encode(answer), Notes())
