"""THE TABLE OF PERMISSIONS: what a key may do, method by method of Cohere's, decided in one place for both doors.

Methods belong to groups (`gateway/cohere_methods.py`). A permission gives a group, or one method of it, a level:

    off     nothing
    read    methods that only read: list, get
    full    everything in the group

`permissions` of a key or a team is the name of a preset, or a map of levels by group or method, in which a method wins
over its group; what is not named keeps the default. None is what the team has. A key never exceeds its team: of both
the lower level counts. A path of Cohere's that no table knows needs the preset `all`.

`check` judges a value before it is stored. `access_of` makes an Access of a key and its team, and the functions that
follow it decide by that. Nothing here reads a body; what a body names is passed in.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from gateway.cohere_methods import METHODS, OTHER, Method
from gateway.errors import CallerError, failure
from gateway.virtual_keys import Rights
from translators.core.contracts import Policy
from translators.core.model_names import PREFIX, resolve
from translators.core.safety_modes import safety_rank

LEVELS = ("off", "read", "full")
"""The lowest first; a level counts by its place here."""

OFF, READ, FULL = range(3)

GROUPS: tuple[str, ...] = tuple(dict.fromkeys(method.group for method in METHODS))

READABLE = frozenset(method.group for method in METHODS if method.reads)
"""Groups in which `read` allows something."""

MODEL_GROUPS = ("chat", "embed", "rerank", "parse", "tokens", "transcription")

LEGACY = ("generate", "summarize")
"""Methods of `chat` that Cohere has retired."""

PRESETS: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "inference": {
        **dict.fromkeys(MODEL_GROUPS, "full"),
        **dict.fromkeys(LEGACY, "off"),
        "models": "read",
        "account": "read",
    },
    "read-only": dict.fromkeys(sorted(READABLE), "read"),
    "all": dict.fromkeys(GROUPS, "full"),
}
"""What is not named in a preset is off."""

ALL_MODELS = frozenset(("*", "all-proxy-models", "all-team-models"))
"""Words for no restriction, LiteLLM's among them. A team's restriction holds all the same."""

MAX_MODEL_NAME = 256
"""A longer name of a model matches no pattern."""

MinimumSafetyMode: TypeAlias = Literal["", "CONTEXTUAL", "STRICT"]

_METHODS: Mapping[str, Method] = {method.name: method for method in METHODS}


class PermissionsError(ValueError):
    """Permissions that mean nothing. field: of the record."""

    def __init__(self, message: str, field: str = "permissions") -> None:
        super().__init__(message)
        self.field = field


class Levels(Struct, frozen=True):
    """Levels by the name of a method. everything: unknown paths as well."""

    by_method: Mapping[str, int]
    everything: bool = False

    def of(self, method: Method) -> int:
        """Returns the level that counts for a method."""
        if method is OTHER:
            return FULL if self.everything else OFF
        return self.by_method[method.name]


class Access(Struct, frozen=True):
    """What one caller may do.

    team: levels of the key's team; None where it has none of its own. models: lists of patterns, each of which a model
    must match. safety_mode: the weakest that a chat may have; empty for none. aliases: names of models that mean others
    for this caller. subject: in sentences.
    """

    levels: Levels
    team: Levels | None = None
    models: tuple[tuple[str, ...], ...] = ()
    safety_mode: MinimumSafetyMode = ""
    aliases: Mapping[str, str] = {}
    subject: str = "this key"


def check(permissions: Any) -> None:
    """Raises PermissionsError for permissions that cannot be given, with a sentence that names those that can."""
    if permissions is None:
        return
    if isinstance(permissions, str):
        if permissions not in PRESETS:
            raise PermissionsError(f"there is no preset '{permissions}'; there are {', '.join(PRESETS)}")
        return
    if not isinstance(permissions, Mapping):
        raise PermissionsError("it must be the name of a preset, or a map of groups and methods to levels")
    for name, level in permissions.items():
        _check_level(name, level)


def _check_level(name: str, level: Any) -> None:
    if name not in GROUPS and name not in _METHODS:
        near = difflib.get_close_matches(str(name), [*GROUPS, *_METHODS], 1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise PermissionsError(
            f"there is no group or method '{name}'; {hint}Groups are {', '.join(GROUPS)}; methods are listed in the "
            "documents"
        )
    if level not in LEVELS:
        raise PermissionsError(f"'{level}' is no level for {name}: it is one of {', '.join(LEVELS)}")
    if level == "read":
        if name in GROUPS and name not in READABLE:
            raise PermissionsError(f"{name} has nothing to read, as its methods compute an answer: use full or off")
        if name not in GROUPS and not _METHODS[name].reads:
            raise PermissionsError(f"{name} is no method that reads: use full or off")


def levels_of(permissions: str | Mapping[str, str] | None, default: str) -> Levels:
    """Returns the levels that permissions give. default: the preset of what they do not name.

    What cannot be given is off: it may have been stored by another version.
    """
    if permissions is None:
        return _levels(default, ())
    if isinstance(permissions, str):
        return _levels(permissions if permissions in PRESETS else "none", ())
    return _levels(default, tuple(sorted(permissions.items())))


@lru_cache(maxsize=1024)
def _levels(preset: str, named: tuple[tuple[str, str], ...]) -> Levels:
    base, own = PRESETS[preset], dict(named)
    by_method = {}
    for method in METHODS:
        # What the record itself says goes before its preset, and in both a method before its group.
        levels = (own.get(method.name), own.get(method.group), base.get(method.name), base.get(method.group), "off")
        level = next(level for level in levels if level is not None)
        by_method[method.name] = LEVELS.index(level) if level in LEVELS else OFF
    # An unknown path may be anything, also what a map of levels has taken away: only `all` without a map has it.
    return Levels(by_method, preset == "all" and not named)


EVERYTHING = _levels("all", ())
UNLIMITED = Access(EVERYTHING)
"""Of callers without virtual keys, and of the master key."""

NO_CALLS = Access(_levels("none", ()), subject="the master key")
"""Of the master key where `master_may_call` is off."""


def access_of(key: Rights, team: Rights | None, default: str, policy: Policy) -> Access:
    """Returns what a key may do. default: the preset of what nobody has named. policy: resolves names of models."""
    own = key.permissions if key.permissions is not None or team is None else team.permissions
    of_team = levels_of(team.permissions, default) if team is not None and team.permissions is not None else None
    # A team's names mean what the team says: no alias of a key widens what its team may use.
    patterns = (
        patterns_of(key.models, with_aliases(policy, team, key)),
        patterns_of(team.models, with_aliases(policy, team)) if team is not None else (),
    )
    # Of both the stricter one holds: a key cannot lessen what binds its team.
    minimums = [one.safety_mode for one in (key, team) if one is not None and one.safety_mode is not None]
    minimum: MinimumSafetyMode = max(minimums, key=safety_rank) if minimums else ""
    aliases = aliases_of(team, key)
    return Access(levels_of(own, default), of_team, tuple(part for part in patterns if part), minimum, aliases)


def aliases_of(*records: Rights | None) -> dict[str, str]:
    """Returns the names of models that these records alone have. Of one that several have, the last record's holds."""
    return {name: model for one in records if one is not None for name, model in (one.aliases or {}).items()}


def with_aliases(policy: Policy, *records: Rights | None) -> Policy:
    """Returns the policy by which the names of models are meant that stand in a record, or come from its caller."""
    aliases = aliases_of(*records)
    return replace(policy, aliases={**policy.aliases, **aliases}) if aliases else policy


def patterns_of(models: Iterable[str] | None, policy: Policy) -> tuple[str, ...]:
    """Returns patterns of Cohere's names for models; empty where every model is allowed."""
    names = tuple(models or ())
    if not ALL_MODELS.isdisjoint(names):
        return ()
    return tuple(name.removeprefix(PREFIX) if is_pattern(name) else resolve(name, policy) for name in names)


def is_pattern(name: str) -> bool:
    """Tells whether a name of models is a glob, and not the name of one model."""
    return re.search(r"[*?\[]", name) is not None


# --- decisions ------------------------------------------------------------------------------------------------


def require_method(access: Access, method: Method) -> None:
    """Raises CallerError (403) unless a method may be called."""
    if access is UNLIMITED:
        return
    needed = READ if method.reads else FULL
    # Nobody knows where the body of such a path has its safety mode, so a weakest one could not be held.
    if method is OTHER and access.safety_mode:
        sentence = f"This path is no method that the gateway knows, and {access.subject} has a weakest safety mode"
        raise CallerError(failure("method_not_permitted", sentence))
    if access.levels.of(method) >= needed and (access.team is None or access.team.of(method) >= needed):
        return
    raise CallerError(failure("method_not_permitted", _refusal(access, method, needed)))


def _refusal(access: Access, method: Method, needed: int) -> str:
    own = access.levels.of(method)
    subject, level = (
        (access.subject, own) if own < needed else ("its team", access.team.of(method) if access.team else 0)
    )
    if method is OTHER:
        return f"This path is no method that the gateway knows: it needs the permissions 'all', {subject} has others"
    named = f"{method.group}: {LEVELS[needed]}"
    if method.name in LEGACY:
        named = f"{method.name}: {LEVELS[needed]}"
    return f"{method.name} is not permitted: it needs {named}, {subject} has {LEVELS[level]}"


def require_model(access: Access, method: Method, model: str) -> None:
    """Raises CallerError (403) unless a model may be used. model: Cohere's name, as it goes there; empty for none."""
    # An unknown path may name its model where nobody looks, so a request there without a name is refused.
    if not access.models or (not model and not method.names_model and method is not OTHER):
        return
    if not model:
        sentence = f"The body of {method.name} must name its model, as {access.subject} may not use every one"
        raise CallerError(failure("model_not_permitted", sentence).at("model"))
    if not may_use(access, model):
        sentence = f"The model {model[:MAX_MODEL_NAME]} is not permitted: {access.subject} may use {_allowed(access)}"
        raise CallerError(failure("model_not_permitted", sentence).at("model"))


def may_use(access: Access, model: str) -> bool:
    """Tells whether a model may be used. model: Cohere's name for it."""
    return all(_matches(patterns, model) for patterns in access.models)


def _allowed(access: Access) -> str:
    return " and ".join(", ".join(patterns[:20]) for patterns in access.models)


def _matches(patterns: tuple[str, ...], model: str) -> bool:
    # Before the cache, which keeps its arguments: callers choose these names.
    return len(model) <= MAX_MODEL_NAME and _matches_short(patterns, model)


@lru_cache(maxsize=4096)
def _matches_short(patterns: tuple[str, ...], model: str) -> bool:
    return any(fnmatchcase(model, pattern) for pattern in patterns)
