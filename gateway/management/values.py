"""The values of single fields: what they may be, and the sentence that is said of another one."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Struct

from gateway import durations
from gateway.auth.addresses import network_of
from gateway.auth.permissions import PermissionsError, is_pattern
from gateway.auth.permissions import check as check_permissions
from gateway.virtual_keys import PREFIX, BudgetWindow, ModelBudget
from translators.core.capabilities import EMBEDDERS
from translators.core.errors import InvalidField
from translators.core.model_names import PREFIX as MODEL_PREFIX
from translators.core.notes import Notes

# As `tables.MAX_NAME_LENGTH`: the database would have a longer one as a digest.
LONGEST_NAME = 255
"""Characters of a name, an alias or an id."""

LONGEST_END_USER = 256
"""Characters of an end user's id: as many as are read of the one that a request names (`http/attribution.py`)."""

MOST_ENTRIES = 500
"""Entries of a list or an object."""

LARGEST_METADATA = 16 * 1024
"""Bytes of metadata as JSON: every process keeps the records of all keys in memory."""

SHORTEST_SECRET = 24
"""Characters of a secret that was made elsewhere."""

Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]
EndUserId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=LONGEST_END_USER)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
Money: TypeAlias = Annotated[float, Meta(ge=0, le=1_000_000_000_000)]
Texts: TypeAlias = Annotated[list[Text], Meta(max_length=MOST_ENTRIES)]
Counts: TypeAlias = Annotated[dict[Text, Count], Meta(max_length=MOST_ENTRIES)]
References: TypeAlias = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=1024)]], Meta(max_length=MOST_ENTRIES)
]


# Of a field that is not known nobody can say whether it would restrict, so it is refused.
class BudgetLimit(Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of `budget_limits`. reset_at: LiteLLM's, without effect, since windows lie on the calendar."""

    budget_duration: str
    max_budget: Money
    reset_at: Any = None


class ModelLimit(Struct, frozen=True, forbid_unknown_fields=True):
    """A value of `model_max_budget`: LiteLLM takes two names for either field."""

    budget_limit: Money | None = None
    time_period: str | None = None
    max_budget: Money | None = None
    budget_duration: str | None = None


def printable(name: str, value: Any, notes: Notes) -> Any:
    """Refuses control characters, line ends and the like in any text of a value. Lists become tuples."""
    for text in _texts(value):
        # These texts appear in log lines, headers and tables of a terminal, each of which a line break could forge.
        if not text.isprintable():
            raise InvalidField(name, f"'{name}' contains characters that cannot be printed")
    return tuple(value) if isinstance(value, list) else value


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, element in value.items():
            yield from _texts(key)
            yield from _texts(element)
    elif isinstance(value, list | tuple):
        for element in value:
            yield from _texts(element)


_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def alias(name: str, value: str, notes: Notes) -> str:
    """Refuses an alias that could be taken for a secret, a digest or an id: KEY may be any of them."""
    printable(name, value, notes)
    # Who names a key by any of these must not get another one.
    if value.startswith((PREFIX, "key_")) or _DIGEST.match(value):
        raise InvalidField(name, f"'{name}' looks like a secret, a digest or an id of a key, which it must not")
    return value


_SECRET = re.compile(rf"{PREFIX}[\x21-\x2d\x2f-\x7e]+\Z")


def secret(name: str, value: str, notes: Notes) -> str:
    """Refuses a secret that is short, or that a header or the check for JWTs would take for something else.

    The sentence does not repeat it.
    """
    # No dots: a text with two of them is read as a JSON Web Token.
    if not _SECRET.match(value):
        raise InvalidField(
            name, f"'{name}' must begin with '{PREFIX}' and have only visible ASCII characters, no dots among them"
        )
    if len(value) < SHORTEST_SECRET:
        raise InvalidField(name, f"'{name}' has {len(value)} characters, and needs {SHORTEST_SECRET} or more")
    return value


def duration(name: str, value: str, notes: Notes) -> str:
    """Refuses what is no duration. `-1` is LiteLLM's word for no end, and so is an empty text: both are empty here."""
    return "" if value in ("-1", "") else _duration(name, value, durations.MOST_SECONDS)


def budget_duration(name: str, value: str, notes: Notes) -> str:
    """Refuses what is no window of a budget."""
    return _duration(name, value, durations.MOST_BUDGET_SECONDS)


def _duration(name: str, value: str, most_seconds: int) -> str:
    try:
        return durations.check(value, most_seconds)
    except ValueError as error:
        raise InvalidField(name, f"Invalid '{name}': {error}") from error


def budget_limits(name: str, value: list[BudgetLimit], notes: Notes) -> tuple[BudgetWindow, ...]:
    """Refuses two budgets of the same duration, of which one could never be the tighter one by design."""
    seen: set[str] = set()
    windows = []
    for number, entry in enumerate(value):
        param = f"{name}[{number}].budget_duration"
        # Each in the order of the request, so that an error's index is the caller's.
        windows.append(BudgetWindow(budget_duration(param, entry.budget_duration, notes), entry.max_budget))
        if entry.budget_duration in seen:
            raise InvalidField(param, f"'{name}' has two budgets for {entry.budget_duration}")
        seen.add(entry.budget_duration)
        if entry.reset_at is not None:
            notes.ignored(f"{name}.reset_at", "windows lie on the UTC calendar")
    return tuple(windows)


def model_counts(name: str, value: Mapping[str, int], notes: Notes) -> dict[str, int]:
    """Refuses a limit for anything but one model."""
    printable(name, value, notes)
    _refuse_patterns(name, value)
    return dict(value)


def _refuse_patterns(name: str, models: Iterable[str]) -> None:
    """Refuses globs where one model is meant: what no model is called would limit nothing, and nobody would notice."""
    for model in models:
        if is_pattern(model):
            raise InvalidField(f"{name}.{model}", f"'{model}' is a pattern: '{name}' takes names of single models")


def model_max_budget(name: str, value: Mapping[str, ModelLimit], notes: Notes) -> dict[str, ModelBudget]:
    """Reads both spellings of LiteLLM's."""
    printable(name, list(value), notes)
    _refuse_patterns(name, value)
    budgets = {}
    for model, entry in value.items():
        # Compared with None, as a budget of 0 is one.
        limit = entry.budget_limit if entry.budget_limit is not None else entry.max_budget
        period = entry.time_period or entry.budget_duration
        if limit is None or period is None:
            missing = "budget_limit" if limit is None else "time_period"
            raise InvalidField(
                f"{name}.{model}.{missing}", f"Missing required parameter: '{missing}'", "missing_required_parameter"
            )
        budgets[model] = ModelBudget(limit, budget_duration(f"{name}.{model}.time_period", period, notes))
    return budgets


def budget_fallbacks(name: str, value: Mapping[str, list[str]], notes: Notes) -> dict[str, tuple[str, ...]]:
    """Refuses a model that falls back to itself, and an embedding model: no other one has its vectors."""
    printable(name, value, notes)
    for model, others in value.items():
        _refuse_patterns(name, (model, *others))
        # See docs/decisions.md#vectors-of-different-models-are-never-mixed.
        if model.removeprefix(MODEL_PREFIX) in EMBEDDERS:
            raise InvalidField(
                f"{name}.{model}", f"'{model}' makes embeddings, and no other model has the same vectors"
            )
        if model in others:
            raise InvalidField(f"{name}.{model}", f"'{model}' cannot be its own fallback")
    return {model: tuple(others) for model, others in value.items()}


ALL_TEAM_MODELS, ALL_MODELS, NO_MODELS = "all-team-models", "all-proxy-models", "no-default-models"


def models(name: str, value: list[str], notes: Notes) -> tuple[str, ...] | None:
    """Reads LiteLLM's words for all models, and for those of the team."""
    printable(name, value, notes)
    # As a list of no models it would look like the empty list, which means all of them.
    if NO_MODELS in value:
        raise InvalidField(name, f"'{NO_MODELS}' is not a model; to let a key call nothing, set permissions to 'none'")
    if ALL_TEAM_MODELS in value:
        return None
    return () if ALL_MODELS in value else tuple(value)


def addresses(name: str, value: list[str], notes: Notes) -> tuple[str, ...]:
    """Refuses what is neither an address nor a network."""
    for number, text in enumerate(value):
        try:
            network_of(text)
        except ValueError:
            raise InvalidField(
                f"{name}[{number}]", f"'{text[:60]}' is neither an IP address nor a network such as 10.0.0.0/8"
            ) from None
    return tuple(value)


def metadata(name: str, value: dict[str, Any], notes: Notes) -> dict[str, Any]:
    """Refuses more than every process should keep in memory."""
    size = len(msgspec.json.encode(value))
    if size > LARGEST_METADATA:
        raise InvalidField(name, f"'{name}' has {size} bytes, more than {LARGEST_METADATA}", "value_too_large")
    return value


def permissions(name: str, value: Any, notes: Notes) -> str | dict[str, str]:
    """Refuses a preset, a group, a method or a level that there is not; the sentence names those that there are."""
    try:
        check_permissions(value)
    except PermissionsError as error:
        raise InvalidField(name, f"Invalid '{name}': {error}") from error
    return value if isinstance(value, str) else dict(value)
