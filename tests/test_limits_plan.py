"""Which limits hold for the further calls of a request that is let in: fallbacks and second attempts."""

from __future__ import annotations

from gateway.auth.credentials import Credential
from gateway.auth.principal import Principal
from gateway.limits.plan import Plan, Plans
from gateway.settings.schema import GlobalLimits
from support.virtual_keys import key_of

A = "command-a-03-2025"


def plan() -> Plan:
    """Of a key with a limit of every kind: its own, and those of a model."""
    key = key_of(
        "a",
        rpm_limit=5,
        tpm_limit=100,
        max_parallel_requests=2,
        model_rpm_limit={A: 3},
        model_tpm_limit={A: 50},
    )
    plans = Plans(GlobalLimits(), lambda name: name, lambda: 1_000.0)
    return plans.plan(Principal("a", "a", False, Credential(), key=key), None, A)


def limits(another_model: bool) -> set[tuple[str, bool]]:
    """The unit of each limit, and whether it is that of a model."""
    return {(limit.counter.unit, bool(limit.model)) for limit in plan().further(another_model).limits}


def test_a_call_to_the_same_model_is_counted_already() -> None:
    assert limits(False) == {("tokens", False), ("tokens", True)}


def test_a_call_to_another_model_counts_among_its_requests() -> None:
    assert limits(True) == {("tokens", False), ("tokens", True), ("requests", True)}
