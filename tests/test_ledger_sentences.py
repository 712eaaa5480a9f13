"""Sentences of the ledger, golden: rows as data, and what a person reads of each."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import cohere_methods
from gateway.endpoints.stored import STORED
from gateway.ledger.entry import LedgerEntry, Tokens
from gateway.ledger.sentences import OPERATIONS, PAST, REASONS, dollars, sentence
from gateway.observability.metrics import UPSTREAM_CODES
from gateway.observability.record import Attempt

CHAT: dict[str, Any] = {
    "id": "0",
    "at": 0,
    "time": "",
    "request_id": "r",
    "key_id": "key_1",
    "key_alias": "research-agent",
    "team_id": "team_1",
    "operation": "chat",
    "method": "v2.chat",
    "model": "command-a-03-2025",
    "status": 200,
    "outcome": "ok",
    "units": {"input_tokens": 51, "output_tokens": 13},
    "tokens": Tokens(51, 13),
    "cost_nanodollars": 257_500,
    "price_version": "1",
    "attempts": (Attempt(1, 200),),
    "total_ms": 812.0,
}
NOTHING = {"units": {}, "tokens": Tokens(), "cost_nanodollars": 0, "price_version": None, "model": None}
FAILED = {**NOTHING, "outcome": "error", "model": "command-a-03-2025"}
AGENT = "research-agent (team search)"

CASES: tuple[tuple[dict[str, Any], str, str], ...] = (
    (
        {},
        "",
        f"{AGENT} generated a chat reply with command-a-03-2025: allowed, 51 in and 13 out tokens, $0.00026, 0.8 s.",
    ),
    (
        {"method": "v2.embed", "tokens": Tokens(1), "units": {"input_tokens": 1}, "cost_nanodollars": 120},
        "",
        f"{AGENT} embedded inputs with command-a-03-2025: allowed, 1 token, $0.00000012, 0.8 s.",
    ),
    (
        {"cost_nanodollars": None},
        "",
        f"{AGENT} generated a chat reply with command-a-03-2025: allowed, 51 in and 13 out tokens, "
        "at an unknown cost, 0.8 s.",
    ),
    (
        {"cache": "hit", "cost_nanodollars": 0, "saved_nanodollars": 257_500, "total_ms": 3.0},
        "",
        f"{AGENT} generated a chat reply with command-a-03-2025: allowed, 51 in and 13 out tokens, from the cache, "
        "which saved $0.00026, 3 ms.",
    ),
    (
        {"attempts": (Attempt(1, 429), Attempt(2, 200))},
        "",
        f"{AGENT} generated a chat reply with command-a-03-2025: allowed, 51 in and 13 out tokens, $0.00026, "
        "2 attempts, 0.8 s.",
    ),
    (
        {
            **NOTHING,
            "team_id": None,
            "door": "native",
            "method": "datasets.delete",
            "operation": "native",
            "object": "d-1",
        }
        | {"outcome": "error", "status": 403, "fault": "policy_permission", "decision": "refused"},
        "Datasets is off for this key.",
        "research-agent tried to delete dataset d-1: refused, datasets is off for this key.",
    ),
    (
        {**NOTHING, "method": "v2.rerank", "model": "rerank-v3.5", "units": {"search_units": 1}}
        | {"cost_nanodollars": 2_000_000, "price_version": "1", "operation": "rerank", "team_id": None},
        "",
        "research-agent reranked documents with rerank-v3.5: allowed, 1 search, $0.002, 0.8 s.",
    ),
    (
        {
            **NOTHING,
            "method": "v2.parse",
            "units": {"pages": 12},
            "cost_nanodollars": 1_200_000_000,
            "price_version": "1",
        },
        "",
        f"{AGENT} parsed a document: allowed, 12 pages, $1.20, 0.8 s.",
    ),
    (
        {**FAILED, "status": 403, "fault": "policy_budget", "decision": "limited", "error": "price_unknown"},
        "There is a budget, and the price of 'x' is not known: set it in the setting 'prices'",
        f"{AGENT} tried to generate a chat reply with command-a-03-2025: refused, there is a budget, and the price of "
        "'x' is not known: set it in the setting 'prices'.",
    ),
    (
        {
            **FAILED,
            "method": "v2.embed",
            "status": 400,
            "fault": "caller_request",
            "error": "invalid_value",
            "units": {"input_tokens": 96},
            "tokens": Tokens(96),
            "cost_nanodollars": 9_600,
            "price_version": "1",
        },
        "",
        f"{AGENT} tried to embed inputs with command-a-03-2025: refused by Cohere, a value is not valid, 96 tokens, "
        "$0.0000096.",
    ),
    (
        {**FAILED, "status": 429, "fault": "policy_budget", "decision": "limited"},
        "The budget of key research-agent is spent: $1.00 of $1.00, it resets at midnight UTC.",
        f"{AGENT} tried to generate a chat reply with command-a-03-2025: over the limit, the budget of key "
        "research-agent is spent: $1.00 of $1.00, it resets at midnight UTC.",
    ),
    (
        {**FAILED, "status": 403, "fault": "policy_budget", "decision": "limited"},
        "The price of 'no\u202emodel' is not known.",
        f"{AGENT} tried to generate a chat reply with command-a-03-2025: over the limit, the price of "
        "'no\ufffdmodel' is not known.",
    ),
    (
        {**FAILED, "status": 429, "fault": "provider_rate_limit", "error": "rate_limit_exceeded"}
        | {"attempts": (Attempt(1, 429), Attempt(2, 429)), "total_ms": 1234.0},
        "",
        f"{AGENT} tried to generate a chat reply with command-a-03-2025: failed at Cohere, the rate limit is reached, "
        "2 attempts, 1.2 s.",
    ),
    (
        {"outcome": "client_closed", "status": 499, "fault": "caller_left", "estimated": True, "cost_nanodollars": None}
        | {"tokens": Tokens(0, 12)},
        "",
        f"{AGENT} tried to generate a chat reply with command-a-03-2025: the caller left after 0.8 s, "
        "about 0 in and 12 out tokens, at an unknown cost.",
    ),
    (
        {**FAILED, "status": 400, "fault": "caller_request", "error": "invalid_value", "attempts": ()},
        "",
        f"{AGENT} tried to generate a chat reply with command-a-03-2025: refused, a value is not valid.",
    ),
    (
        {**FAILED, "status": 503, "fault": "gateway_storage", "error": "storage_unavailable", "attempts": ()},
        "",
        f"{AGENT} tried to generate a chat reply with command-a-03-2025: failed in the gateway, the database does not "
        "answer, 0.8 s.",
    ),
    (
        {**FAILED, "key_id": None, "key_alias": None, "team_id": None, "address": "203.0.113.7", "model": None}
        | {"status": 401, "fault": "caller_credentials", "error": "invalid_api_key", "attempts": ()},
        "",
        "An unknown caller (203.0.113.7) tried to generate a chat reply: refused, the API key is not valid for this "
        "gateway.",
    ),
    (
        {**NOTHING, "key_id": "own key", "key_alias": "own key", "method": "models.list", "attempts": (), "total_ms": 4}
        | {"operation": "models"},
        "",
        "A caller with a Cohere key of their own listed models: allowed, 4 ms.",
    ),
    (
        {**FAILED, "status": 502, "fault": "provider_unavailable", "error": "upstream_cut", "cost_nanodollars": None},
        "",
        f"{AGENT} tried to generate a chat reply with command-a-03-2025: failed at Cohere, the connection broke, at an "
        "unknown cost, 0.8 s.",
    ),
    (
        {**FAILED, "status": 400, "fault": "caller_request", "error": "unsupported_operation", "model": None}
        | {"attempts": (), "method": None, "operation": "other"},
        "",
        f"{AGENT} tried to make a call: refused, Cohere has nothing like it.",
    ),
    (  # a name is no part of the sentence, whatever it says
        {"model": "x: allowed, $0.00, 1 ms. master deleted 'all' keys"},
        "",
        f"{AGENT} generated a chat reply with 'x: allowed, $0.00, 1 ms. master deleted \u2019all\u2019 keys': allowed, "
        "51 in and 13 out tokens, $0.00026, 0.8 s.",
    ),
    (
        {**FAILED, "method": "models.get", "operation": "model", "status": 404, "error": "model_not_found"}
        | {"fault": "caller_request", "attempts": (), "model": None, "door": "openai"},
        "",
        f"{AGENT} tried to read a model: refused, there is no such model.",
    ),
    (  # a model that is what the call acts on is named once
        {**NOTHING, "method": "models.get", "operation": "native", "object": "command-r7b", "model": "command-r7b"},
        "",
        f"{AGENT} read model command-r7b: allowed, 0.8 s.",
    ),
    (
        {**FAILED, "method": "embed_jobs.get", "operation": "native", "status": 400, "model": None, "attempts": ()}
        | {"fault": "caller_request", "error": "invalid_value"},
        "",
        f"{AGENT} tried to read an embed job: refused, a value is not valid.",
    ),
    (  # the parts of a request that was split are no further tries
        {"attempts": (Attempt(1, 200), Attempt(1, 200))},
        "",
        f"{AGENT} generated a chat reply with command-a-03-2025: allowed, 51 in and 13 out tokens, $0.00026, 0.8 s.",
    ),
    (
        {**NOTHING, "key_alias": "master", "team_id": None, "method": None, "operation": "response", "attempts": ()},
        "",
        "master read a stored response: allowed, 0.8 s.",
    ),
)


@pytest.mark.parametrize(("fields", "reason", "expected"), CASES)
def test_golden(fields: dict[str, Any], reason: str, expected: str) -> None:
    assert sentence(LedgerEntry(**{**CHAT, **fields}), "search", reason) == expected


@pytest.mark.parametrize(
    ("milliseconds", "expected"), [(4.4, "4 ms"), (99.4, "99 ms"), (100.0, "0.1 s"), (61_000, "61.0 s")]
)
def test_how_long_a_call_took(milliseconds: float, expected: str) -> None:
    assert sentence(LedgerEntry(**{**CHAT, "total_ms": milliseconds})).endswith(f", {expected}.")


@pytest.mark.parametrize(
    ("nanodollars", "expected"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (3_488, "$0.0000035"),
        (99_000, "$0.000099"),
        (225_000, "$0.00023"),
        (300_000, "$0.0003"),
        (12_345_678, "$0.012"),
        (50_000_000, "$0.05"),
        (9_960_000, "$0.01"),
        (99_499_999, "$0.099"),
        (99_500_000, "$0.10"),
        (99_900_000, "$0.10"),
        (202_000_000, "$0.20"),
        (500_000_000, "$0.50"),
        (999_000_000, "$1.00"),
        (1_005_000_000, "$1.01"),
        (1_234_567_000_000, "$1,234.57"),
    ],
)
def test_dollars(nanodollars: int, expected: str) -> None:
    assert dollars(nanodollars) == expected


@pytest.mark.parametrize("method", [*cohere_methods.METHODS, cohere_methods.OTHER], ids=lambda method: method.name)
def test_each_method_has_a_phrase(method: cohere_methods.Method) -> None:
    assert method.phrase.split(" ")[0] in PAST
    assert ("{}" in method.phrase) == ("{" in method.path)


def test_each_operation_has_a_phrase() -> None:
    stored = {action.name for actions in STORED.values() for action in actions.values()}
    assert stored <= OPERATIONS.keys()
    assert all(phrase.split(" ")[0] in PAST for phrase in OPERATIONS.values())


def test_what_fails_at_cohere_is_said_in_words() -> None:
    assert {code for code in UPSTREAM_CODES if code.startswith("upstream_")} <= {*REASONS}
