"""The bystanders, who are there to notice attacks on others: do they notice?"""

from __future__ import annotations

import os
import signal
import time

import pytest

from support.bystanders import INTERVAL, bystanders
from support.process import awaited
from support.scripted_upstream import ScriptedUpstream, json_answer

FEW = 10


def test_a_server_that_stands_still_is_noticed() -> None:
    with bystanders(streams=FEW) as others:
        (worker,) = others.server.workers
        with others.watch() as delays:
            os.kill(worker, signal.SIGSTOP)
            time.sleep(1.0)
            os.kill(worker, signal.SIGCONT)
            time.sleep(0.5)
        assert delays.longest_delay > 1.0 - 2 * INTERVAL
        with others.watch() as delays:
            os.kill(worker, signal.SIGSTOP)
            time.sleep(1.0)
        assert delays.longest_delay > 1.0 - 2 * INTERVAL, "what has not arrived yet counts"
        os.kill(worker, signal.SIGCONT)


def test_a_server_that_dies_is_noticed() -> None:
    with bystanders(streams=FEW) as others:
        with others.watch() as delays:
            (worker,) = others.server.workers
            os.kill(worker, signal.SIGKILL)
            awaited(lambda: others.calm(0.1).broken == FEW)
        assert delays.broken == FEW


@pytest.mark.parametrize("status", [400, 503])
def test_other_requests_go_to_another_upstream(status: int) -> None:
    refusal = json_answer(status, {"message": "not today"})
    with (
        ScriptedUpstream(refusal).run_in_thread() as upstream,
        bystanders(streams=FEW, upstream=upstream.url, GATEWAY_RETRIES_COUNT="0") as others,
    ):
        assert f"HTTP/1.1 {status}".encode() in others.server.chat()
        assert [request.path for request in upstream.requests] == ["/v2/chat"]
        assert others.calm(0.5).broken == 0
