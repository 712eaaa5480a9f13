"""What keys, teams and end users of an answer have spent, which the ledger's database says.

`spend` is what was spent in the present window of `budget_duration`, as LiteLLM's programs take it when they compare it
with `max_budget`; of a window that is shorter than an hour, in the hours that it lies in. `total_spend` and
`model_spend` are what was spent in all.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from gateway.budget_windows import window_at
from gateway.store.key_lists import Connection, Spender, spent

Spenders: TypeAlias = Mapping[tuple[Spender, int], set[str]]
"""Ids, by what they are of and the time from which on their spend is wanted, in Unix seconds; 0 is all of it."""

Spent: TypeAlias = Mapping[tuple[Spender, int], Mapping[str, Mapping[str, int]]]
"""Nano-dollars by model, by id, by what the id is of and the time from which on."""

NANO_PER_DOLLAR = 10**9


def spenders(answer: Any, now: float) -> Spenders:
    """Returns the ids of all that an answer shows the spend of; nothing where it shows none. now: Unix seconds."""
    result: dict[tuple[Spender, int], set[str]] = {}
    for by, id, record in _records(answer):
        # A set, because the two are one for a budget that never begins anew.
        for since in {0, _window_start(record, now)}:
            result.setdefault((by, since), set()).add(id)
    return result


def read(connection: Connection, wanted: Spenders) -> Spent:
    """Returns what these have spent. connection: of the ledger's database."""
    return {(by, since): spent(connection, by, sorted(ids), since) for (by, since), ids in wanted.items()}


def fill_in(answer: Any, amounts: Spent | None, now: float) -> None:
    """Writes the amounts into an answer; None, which is unknown, where the ledger does not answer.

    now: as `spenders` got it.
    """
    for by, id, record in _records(answer):
        # None and not 0: a budget looks untouched where the ledger merely does not answer.
        by_model = None if amounts is None else amounts[by, 0].get(id, {})
        in_window = None if amounts is None else amounts[by, _window_start(record, now)].get(id, {})
        record["spend"], record["total_spend"] = _dollars(in_window), _dollars(by_model)
        if "model_spend" in record:
            # What is not known stays None.
            record["model_spend"] = by_model and {
                model: cost / NANO_PER_DOLLAR for model, cost in by_model.items() if model and cost
            }


def _dollars(by_model: Mapping[str, int] | None) -> float | None:
    return None if by_model is None else sum(by_model.values()) / NANO_PER_DOLLAR


def _window_start(record: Mapping[str, Any], now: float) -> int:
    return window_at(record.get("budget_duration"), now).start


def _records(answer: Any) -> Iterator[tuple[Spender, str, dict[str, Any]]]:
    """Yields the records of an answer, wherever they are in it."""
    if isinstance(answer, list):
        for element in answer:
            yield from _records(element)
    elif isinstance(answer, dict):
        if "spend" in answer:
            # The most particular first: a key has a `team_id` as well.
            by: Spender = "key_id" if "key_id" in answer else "team_id" if "team_id" in answer else "end_user"
            yield by, answer["user_id" if by == "end_user" else by], answer
        for name in ("info", "keys", "team_info", "teams", "data", "blocked_users", "unblocked_users"):
            yield from _records(answer.get(name))
