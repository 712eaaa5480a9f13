"""docs/scaling.md: its tests exist, and the simulation that its figures come from does what simulations should."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest

from bench.fleet import BUSY, ROUND_TRIP, Costs, Setup, capacity, line_through, measure, report, simulate
from support.process import ROOT
from support.redis_server import redis_process

COSTS = Costs((100e-6, 20e-6), (50e-6, 10e-6))
KEYS = Setup(1, ("key",))


def test_every_row_names_tests_that_exist() -> None:
    text = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    table = text[text.index("## When a part is down") :]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    tests = "\n".join(path.read_text(encoding="utf-8") for path in Path(ROOT, "tests").glob("test_*.py"))
    for row in rows:
        names = re.findall(r"`(test_\w+)`", row)
        assert names, f"nothing shows it: {row}"
        assert not [name for name in names if f"def {name}(" not in tests], row


def test_a_fleet_that_is_not_busy_waits_for_the_network_and_one_script() -> None:
    result = simulate(KEYS, COSTS, 50.0, 100, 8.0)
    assert result.percentile(0.5) == pytest.approx(ROUND_TRIP + 180e-6)
    assert result.busy < 0.05


def test_at_its_capacity_the_busiest_node_is_as_busy_as_it_may_be() -> None:
    assert capacity(KEYS, COSTS) == pytest.approx(BUSY / (180e-6 + 90e-6))
    for setup in (KEYS, Setup(3, ("key", "team"))):
        result = simulate(setup, COSTS, capacity(setup, COSTS), 100, 1.5)
        assert result.busy == pytest.approx(BUSY, rel=0.15)
    beyond = simulate(KEYS, COSTS, 2 * capacity(KEYS, COSTS), 100, 1.5)
    assert beyond.percentile(0.99) > 0.05, "longer than a request waits"


def test_nodes_move_the_bottleneck_but_for_limits_of_the_gateway() -> None:
    spread = [capacity(Setup(nodes, ("key", "team")), COSTS) for nodes in (1, 3, 6)]
    assert spread[1] > 1.7 * spread[0] and spread[2] > 1.8 * spread[1]
    everybody = [capacity(Setup(nodes, ("key", "team", "gateway")), COSTS) for nodes in (3, 6, 60)]
    assert everybody[2] < 1.8 * everybody[0], "one node has the gateway's counters, however many there are"


def test_costs_are_measured_on_a_real_redis() -> None:
    with redis_process() as server:
        began = time.monotonic()
        costs = asyncio.run(measure(server, rounds=15))
        seconds = time.monotonic() - began
    for kind in (costs.admission, costs.settlement):
        assert 0 < costs.of(kind, 4) <= costs.of(kind, 11) < seconds / 15, "it works for each of them, and on one core"
    assert "one Redis, limits of keys" in report(COSTS, 10, 1.2)


def test_a_line_through_points() -> None:
    assert line_through([(1, 3.0), (2, 5.0), (3, 7.0)]) == pytest.approx((1.0, 2.0))
