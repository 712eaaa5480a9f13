"""What virtual keys cost, with 100,000 of them: a request, memory, the start.

    request   authentication and the permission of method and model, in process, by 5,000 different keys in turn
    memory    of the directory, for each key
    start     from the database on disk to a directory that serves

`python tests/bench/keys.py` alone, or a part of `make bench`. The targets are those of the issue that asked for keys.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/, as pytest and mypy have it
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msgspec import Struct

from gateway.auth import permissions
from gateway.auth.authenticator import Authenticator
from gateway.auth.directory import KeyDirectory
from gateway.cohere_methods import named
from gateway.settings.schema import Settings
from gateway.store import keys
from gateway.store.keys import ChangedBy
from gateway.store.store import Store
from gateway.virtual_keys import Team, VirtualKey, digest_of
from translators.operations.stored_responses import end_interrupted

COUNT, CALLERS, ROUNDS = 100_000, 5_000, 6
MAX_MICROSECONDS, MAX_BYTES, MAX_START = 15.0, 1024, 2.0
MODEL = "command-a-03-2025"


class Costs(Struct):
    """microseconds: of a request. bytes: of memory for a key. start: seconds."""

    microseconds: float
    bytes: float
    start: float

    @property
    def met(self) -> bool:
        return self.microseconds <= MAX_MICROSECONDS and self.bytes <= MAX_BYTES and self.start <= MAX_START

    def lines(self) -> list[str]:
        """The figures beside their targets."""
        return [
            f"virtual keys, {COUNT:,} of them:",
            f"  authentication and permission  {self.microseconds:8.1f} us a request (at most {MAX_MICROSECONDS:.0f})",
            f"  memory                         {self.bytes:8.0f} bytes a key   (at most {MAX_BYTES})",
            f"  start                          {self.start:8.2f} s             (at most {MAX_START:.0f})",
        ]


def _secret(number: int) -> str:
    return f"sk-{number:08d}-{'x' * 32}"


def _record(number: int) -> VirtualKey:
    """A key as people make them: a name, a team, some rights and limits, a label or two."""
    secret = _secret(number)
    return VirtualKey(
        key_id=f"key_{number:016x}",
        digest=digest_of(secret),
        last_four=secret[-4:],
        key_alias=f"service-{number}",
        team_id=f"team_{number % 100}",
        models=("command-*", "embed-*"),
        permissions={"datasets": "read", "datasets.delete": "full"},
        rpm_limit=600,
        max_budget=25.0,
        budget_duration="30d",
        metadata={"owner": f"person-{number}"},
    )


async def _fill(url: str) -> None:
    store, by = Store(url, end_interrupted, timeout=60.0), ChangedBy("bench")
    await store.start()
    await store.write(lambda c: keys.insert(c, [Team(team_id=f"team_{number}") for number in range(100)], by, 1.0))
    for start in range(0, COUNT, 10_000):
        some = [_record(number) for number in range(start, start + 10_000)]
        await store.write(lambda c, some=some: keys.insert(c, some, by, 1.0))  # type: ignore[misc]
    await store.stop()


async def _start(url: str) -> tuple[KeyDirectory, Store, float]:
    store = Store(url, end_interrupted, timeout=60.0)

    async def opened() -> Store:
        await store.start()
        return store

    directory = KeyDirectory(opened, print)
    began = time.perf_counter()
    await directory.start()
    seconds = time.perf_counter() - began
    assert len(directory) == COUNT
    return directory, store, seconds


async def _microseconds(directory: KeyDirectory) -> float:
    settings = Settings(cohere_api_key=["co-key"], master_key="master-key-of-this-benchmark")
    authenticator, chat = Authenticator(settings, directory), named("v2.chat")
    step = COUNT // CALLERS
    requests = [
        [
            (b"host", b"localhost"),
            (b"user-agent", b"OpenAI/Python 3.57.0"),
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer " + _secret(number * step).encode()),
        ]
        for number in range(CALLERS)
    ]
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for headers in requests:
            principal = (await authenticator.authenticate(headers, "192.0.2.1")).principal
            permissions.require_method(principal.access, chat)
            permissions.require_model(principal.access, chat, MODEL)
        rounds.append((time.process_time() - began) / CALLERS * 1e6)
    return median(rounds)


async def _measure(url: str) -> Costs:
    await _fill(url)
    directory, store, seconds = await _start(url)
    microseconds = await _microseconds(directory)
    await directory.stop()
    await store.stop()
    del directory
    gc.collect()
    tracemalloc.start()
    directory, store, _ = await _start(url)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    await directory.stop()
    await store.stop()
    return Costs(microseconds, held / COUNT, seconds)


def measure() -> Costs:
    """Returns the figures of a database of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(f"sqlite:///{folder}/keys.sqlite3"))


if __name__ == "__main__":
    costs = measure()
    print("\n".join(costs.lines()))
    sys.exit(not costs.met)
