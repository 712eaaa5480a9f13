"""All objects are looked at for garbage when few callers wait, or when garbage would take too much."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.observability.process_usage import ProcessUsage
from gateway.server import garbage_collection, worker
from gateway.server.garbage_collection import (
    BUSY_SECONDS,
    GROWTH_BYTES,
    LONGEST_SECONDS,
    QUIET_COLLECTIONS,
    QUIET_FILES,
    GarbageCollection,
)
from support.process import awaited, process

MB = 1 << 20
FILES, RESIDENT = 40, 200 * MB


class Node:
    """Something that is part of a cycle."""

    def __init__(self) -> None:
        self.itself = self


class Machine:
    """What the process uses, and the time."""

    def __init__(self) -> None:
        self.files, self.resident, self.now = FILES, RESIDENT, 1_000.0
        self.seconds: list[float] = []
        self.collection = GarbageCollection(self.seconds.append, self.usage, lambda: self.now)

    def usage(self) -> ProcessUsage:
        return ProcessUsage(0.0, self.resident, self.files, 1_000)

    def busy(self) -> None:
        self.files = FILES + QUIET_FILES + 1

    def collects_after(self, middle: int = 1) -> bool:
        """Returns whether old garbage goes at the next look, after so many collections of younger objects."""
        node = Node()
        gc.collect(1)  # it grows old
        reference = weakref.ref(node)
        del node
        for _ in range(middle - 1):
            gc.collect(1)
        assert reference() is not None
        self.collection.look()
        return reference() is None


@pytest.fixture
def machine() -> Iterator[Machine]:
    threshold = gc.get_threshold()
    gc.set_threshold(100_000, 1_000, 1_000)  # nothing by itself
    machine = Machine()
    loop = asyncio.new_event_loop()
    machine.collection.start(loop)
    yield machine
    machine.collection.stop()
    loop.close()
    gc.set_threshold(*threshold)


def test_a_quiet_worker_collects_now_and_then(machine: Machine) -> None:
    machine.files = FILES + QUIET_FILES
    assert not machine.collects_after(QUIET_COLLECTIONS - 1)
    assert machine.collects_after(1)
    assert not machine.collects_after(QUIET_COLLECTIONS - 1), "it counts anew"


def test_a_busy_worker_waits_for_a_quiet_moment(machine: Machine) -> None:
    machine.busy()
    assert not machine.collects_after(2 * QUIET_COLLECTIONS)
    machine.files = FILES
    assert machine.collects_after()


def test_a_busy_worker_collects_when_memory_has_grown_but_not_all_the_time(machine: Machine) -> None:
    machine.busy()
    machine.now += BUSY_SECONDS
    machine.resident += GROWTH_BYTES - 1
    assert not machine.collects_after()
    machine.resident += 1
    assert machine.collects_after()
    machine.resident += 2 * GROWTH_BYTES
    assert not machine.collects_after(), "a minute has not passed"
    machine.now += BUSY_SECONDS
    assert machine.collects_after()


def test_growth_counts_from_the_least_memory(machine: Machine) -> None:
    """Large bodies that have gone again make no room for garbage."""
    machine.busy()
    machine.now += BUSY_SECONDS
    machine.resident = 1_000 * MB
    assert machine.collects_after()
    machine.now += BUSY_SECONDS
    machine.resident = RESIDENT
    assert not machine.collects_after()
    machine.resident = RESIDENT + GROWTH_BYTES
    assert machine.collects_after()


def test_a_busy_worker_collects_once_in_an_hour(machine: Machine) -> None:
    machine.busy()
    machine.now += LONGEST_SECONDS - 1
    assert not machine.collects_after()
    machine.now += 1
    assert machine.collects_after()
    machine.now += LONGEST_SECONDS
    machine.collection.look()  # there was nothing
    assert len(machine.seconds) == 3, machine.seconds


def test_the_collector_does_not_look_at_all_objects_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[Any] = []
    monkeypatch.setattr(gc, "freeze", lambda: None)  # the tests' own objects may go again
    monkeypatch.setattr(gc, "set_threshold", lambda *threshold: set_to.append(threshold))
    monkeypatch.setattr(sys, "setswitchinterval", lambda seconds: None)
    worker.configure_interpreter()
    assert set_to == [(garbage_collection.YOUNG_OBJECTS, garbage_collection.MIDDLE_EVERY, garbage_collection.NEVER)]


def test_collections_are_measured() -> None:
    with process("--demo") as server:
        server.chat(messages=[{"role": "user", "content": "Hi"}] * 10_000)

        def measured() -> bool:
            return (
                re.search(rb"(?m)^gateway_garbage_collection_seconds_count [1-9]", server.get("/metrics")) is not None
            )

        awaited(measured)
