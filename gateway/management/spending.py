"""What keys, teams and end users of an answer have spent, which the ledger's database says."""

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.store.key_lists import Connection, Spender, spent

Spent = Mapping[Spender, Mapping[str, Mapping[str, int]]]
"""Nano-dollars by model, by id, by what the id is of."""

NANO_PER_DOLLAR = 10**9


def spenders(answer: Any) -> dict[Spender, set[str]]:
    """Returns the ids of all that an answer shows the spend of; nothing where it shows none."""
    result: dict[Spender, set[str]] = {}
    for by, id, _ in _records(answer):
        result.setdefault(by, set()).add(id)
    return result


def read(connection: Connection, wanted: Mapping[Spender, set[str]]) -> Spent:
    """Returns what these have spent. connection: of the ledger's database."""
    return {by: spent(connection, by, sorted(ids)) for by, ids in wanted.items()}


def fill_in(answer: Any, amounts: Spent | None) -> None:
    """Writes the amounts into an answer; None, which is unknown, where the ledger does not answer."""
    for by, id, record in _records(answer):
        # None and not 0: a budget looks untouched where the ledger merely does not answer.
        by_model = None if amounts is None else amounts[by].get(id, {})
        record["spend"] = None if by_model is None else sum(by_model.values()) / NANO_PER_DOLLAR
        if "total_spend" in record:
            record["total_spend"] = record["spend"]
        if "model_spend" in record:
            record["model_spend"] = by_model and {
                model: cost / NANO_PER_DOLLAR for model, cost in by_model.items() if model and cost
            }


def _records(answer: Any) -> Iterator[tuple[Spender, str, dict[str, Any]]]:
    """Yields the records of an answer, wherever they are in it."""
    if isinstance(answer, list):
        for element in answer:
            yield from _records(element)
    elif isinstance(answer, dict):
        if "spend" in answer:
            by: Spender = "key_id" if "key_id" in answer else "team_id" if "team_id" in answer else "end_user"
            yield by, answer["user_id" if by == "end_user" else by], answer
        for name in ("info", "keys", "team_info", "teams", "data", "blocked_users", "unblocked_users"):
            yield from _records(answer.get(name))
