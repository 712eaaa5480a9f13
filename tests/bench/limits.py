"""What limits and budgets cost a request in process: CPU microseconds, the cheapest of several rounds.

    python tests/bench/limits.py

A request is admitted and settled, without HTTP and without a call. `nothing` is what the loop itself costs.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gateway.auth.credentials import Credential
from gateway.auth.principal import Principal
from gateway.cohere_methods import named
from gateway.ledger.prices import Prices
from gateway.limits.limiter import Limiter
from gateway.limits.process_counters import ProcessCounters
from gateway.limits.stored_budgets import StoredBudgets
from gateway.observability.alerts import Alerts
from gateway.observability.metrics import Metrics
from gateway.observability.record import RequestRecord
from gateway.settings.schema import GlobalLimits, Settings
from gateway.virtual_keys import Team, VirtualKey
from translators.core.contracts import UsageTotals, Workload

MODEL, ROUNDS, REQUESTS = "command-a-03-2025", 7, 20_000
MANY = 10**9

KEY = VirtualKey(
    key_id="k",
    digest="",
    rpm_limit=MANY,
    tpm_limit=MANY * 1000,
    max_parallel_requests=1000,
    max_budget=1e6,
    budget_duration="1mo",
)
TEAM = Team(team_id="t", rpm_limit=MANY, tpm_limit=MANY * 1000, max_budget=1e6, budget_duration="1d")
GATEWAY = GlobalLimits(MANY, MANY * 1000, 1000, 1e6, "1d")


class NoDatabase:
    """Stored budgets that are not stored."""

    def add(self, counters: object, amount: int) -> None: ...

    async def load(self, counters: object = None) -> Mapping[tuple[str, int], int]:
        return {}


def limiter(settings: GlobalLimits) -> Limiter:
    counters = ProcessCounters(cast(StoredBudgets, NoDatabase()), print)
    metrics, alerts = Metrics(lambda model: True, ()), Alerts("", "", print)
    return Limiter(Settings(global_limits=settings), counters, Prices(), lambda id: None, metrics, alerts)


async def microseconds(principal: Principal, limits: Limiter | None) -> float:
    method, workload, best = named("v2.chat"), Workload(MODEL, 2000, 500), float("inf")
    usage = UsageTotals("stop", 500, 100, {"input_tokens": 500, "output_tokens": 100})
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(REQUESTS):
            record = RequestRecord("r", "POST", "/", 0.0, principal=principal, model=MODEL)
            limited = await limits.reserve(record, method, workload) if limits is not None else None
            record.add_usage(usage, 1000, "version")
            if limits is not None and limited is not None:
                limits.settle(limited, record, False)
        best = min(best, time.process_time() - began)
    return best / REQUESTS * 1e6


def principal(**records: Any) -> Principal:
    return Principal("bench", "bench", False, Credential(), **records)


CASES: Mapping[str, tuple[Principal, Limiter | None]] = {
    "nothing": (principal(), None),
    "no limits": (principal(), limiter(GlobalLimits())),
    "requests of a key": (principal(key=VirtualKey(key_id="k", digest="", rpm_limit=MANY)), limiter(GlobalLimits())),
    "four limits of a key": (principal(key=KEY), limiter(GlobalLimits())),
    "and three of its team": (principal(key=KEY, team=TEAM), limiter(GlobalLimits())),
    "and four of the gateway": (principal(key=KEY, team=TEAM), limiter(GATEWAY)),
}


def report() -> str:
    """Returns a line for each case."""
    rows = [f"{name:26}{asyncio.run(microseconds(*case)):7.2f} us" for name, case in CASES.items()]
    return "\n".join(["limits and budgets of a request, in process (target: 15 us)", *rows])


if __name__ == "__main__":
    print(report())
