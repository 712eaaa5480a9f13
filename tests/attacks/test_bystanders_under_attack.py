"""The short form of every attack: one round each against the real server, beside a hundred honest streams.

Whatever the machine does besides, no stream ends, newcomers are answered, and memory stays within its bound. How many
milliseconds they wait is measured by `tests/bench/under_attack.py` on a quiet machine, and by the processor's time of
each step in `test_event_loop.py`; here it is bounded loosely, by what the attacks took without their bounds: seconds.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from attacks.harness import Attack, AttackedGateway, attacked_gateway
from attacks.table import ATTACKS, OPEN, TIGHT

MAX_DELAY = 1.0
"""Seconds beyond what the bystanders were late themselves."""
INTERVAL = 0.5
"""Seconds between two events of a stream: of a hundred streams there is one every five milliseconds."""


TRIES = 4
"""Of each attack. What holds up the gateway does so each time, the machine does not."""


def troubles(gateway: AttackedGateway, attack: Attack) -> list[str]:
    for _ in range(TRIES):
        delays, sentences = (outcome := gateway.watch(attack)).delays, outcome.troubles
        if sentences or delays.longest_delay - delays.lateness <= MAX_DELAY:
            break
    else:
        sentences.append(
            f"an event came after {delays.longest_delay:.2f} s, {delays.lateness:.2f} s of it the machine's"
        )
    return [f"{attack.name}: {trouble}" for trouble in sentences]


@pytest.fixture
def gateway(request: pytest.FixtureRequest) -> Iterator[AttackedGateway]:
    environment, streams = request.param
    with attacked_gateway(environment, streams=streams, interval=INTERVAL) as gateway:
        yield gateway


@pytest.mark.parametrize("gateway", [(TIGHT, 100), (OPEN, 5)], ids=["own keys", "open"], indirect=True)
def test_bystanders_notice_nothing(gateway: AttackedGateway, request: pytest.FixtureRequest) -> None:
    """All in one test: a server and a hundred streams for each row would take minutes."""
    environment = OPEN if "open" in request.node.callspec.id else {}
    attacks = [attack for attack in ATTACKS if attack.environment == environment]
    assert not [trouble for attack in attacks for trouble in troubles(gateway, attack)]
    assert gateway.others.server.running
