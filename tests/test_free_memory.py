"""Memory that is free goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gateway.observability.process_usage import ProcessUsage
from gateway.server.free_memory import GROWTH_BYTES, FreeMemory, glibc_trim
from support.process import ROOT

PROGRAM = """
from gateway.observability import process_usage
from gateway.server.free_memory import FreeMemory, glibc_trim

memory = FreeMemory(glibc_trim())
small = [bytes(20_000) for _ in range(10_000)]
end = bytes(20_000)  # behind the others, so that glibc keeps them
taken = process_usage.read().resident_bytes
del small
memory.look()
print(taken - process_usage.read().resident_bytes)
"""


@pytest.mark.skipif(glibc_trim() is None, reason="another allocator")
def test_free_memory_goes_back_to_the_system() -> None:
    """In a process of its own: this one has much else that is free."""
    result = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(result.stdout) > 150 << 20


def test_nobody_looks_for_a_little() -> None:
    trims: list[int] = []
    resident = [100 << 20]
    memory = FreeMemory(lambda: trims.append(1), lambda: ProcessUsage(0.0, resident[0], 40, 1_000))
    resident[0] += GROWTH_BYTES - 1
    memory.look()
    assert not trims
    resident[0] += 1
    memory.look()
    assert trims
