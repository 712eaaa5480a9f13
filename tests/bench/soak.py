"""`make soak`: a week in five minutes. Everything is on, everything happens, and then: is anything left over, or lost?

A real server process over the emulator in another, with virtual keys, limits, budgets, the ledger, the cache and
metrics, over PostgreSQL and Redis where they are there. Callers ask, stream, store, call tools, send nonsense, mean
harm, and leave (`soak_calls.py`: what they do and what must come of it). Meanwhile services go and come back, workers
are killed, settings are read again and keys are rotated (`soak_services.py`).

The exit status is 1 if
- an answer was not what its kind must get: a fault that looks like a success, or a success that fails. What was done to
  the gateway at that moment is an excuse for a failure, never for a wrong success;
- memory, open files, tasks or series of metrics have grown, when nobody asks any more;
- a complete answer has no row in the ledger, or two, or the rows do not cost what the answers said;
- the key on a budget has spent more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/, as pytest and mypy have it

from bench.processes import LINUX, Server, ServerFailed, free_port
from bench.soak_calls import KINDS, Answer, Kind, http, request_for
from bench.soak_services import (
    BUDGET,
    MASTER_KEY,
    MAX_CALL_COST,
    REDIS_AWAY,
    Installation,
    installation,
    is_shared,
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PARTS, PARTS_WITH_KILLS, WARM_PART = 8, 4, 5
"""Parts of the time. Until the warm one caches, pools and imports fill; after it memory must not grow. A worker that is
killed begins anew, so that none is in the second half.
"""
GROWTH, SPARE_MB, SPARE_SERIES = 0.05, 6.0, 60
REQUEST_TIMEOUT = 30.0
"""Seconds for one request, far more than any setting below lets it take."""
UNRECORDED = frozenset(
    (
        *("models", "metrics", "nowhere", "no HTTP", "audit", "usage", "console", "without permission"),
        *("flood", "early flood", "revoked key"),
    )
)
"""Kinds whose calls are no calls to Cohere, or more than one: the ledger has its own rules for them."""
LEDGER_SECONDS = 60.0
"""That the last rows may need until they are written."""
NANO = Decimal(10) ** 9


@dataclass
class Acknowledged:
    """A complete answer."""

    kind: str
    cost: str


@dataclass
class Results:
    """What was asked, and what came of it. excused: failures at a moment when something was done to the gateway."""

    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    excused: Counter[str] = field(default_factory=Counter)
    acknowledged: dict[str, Acknowledged] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        return sum(self.kinds.values())

    def add(self, kind: Kind, id: str, answer: Answer | None, trouble: str, excuses: Sequence[str]) -> None:
        """Takes down what came of a request. trouble: why there is no answer."""
        self.kinds[kind.name] += 1
        if answer is not None and answer.complete and kind.name not in UNRECORDED:
            self.acknowledged[id] = Acknowledged(kind.name, answer.cost)
        if answer is not None and kind.fits(answer):
            return
        success = answer is not None and answer.status == 200 and answer.complete and b'"error":{' not in answer.body
        if excuses and not success:
            self.excused[excuses[-1]] += 1
            return
        text = trouble if answer is None else f"{answer.status} {answer.body[:60]!r} ... {answer.body[-200:]!r}"
        self.wrong.append(f"{kind.name}: {text}")


async def load(soaked: Installation, seconds: float, callers: int, chance: random.Random, results: Results) -> None:
    """Has so many callers make one request after another, until the time is over."""
    until = time.monotonic() + seconds
    weights = [kind.weight for kind in KINDS]

    async def caller() -> None:
        while time.monotonic() < until:
            (kind,) = chance.choices(KINDS, weights)
            id, key, began = f"soak-{chance.getrandbits(64):x}", soaked.keys.secrets[kind.key], time.monotonic()
            answer, trouble = None, ""
            try:
                request = request_for(soaked.gateway.port, kind, key, id, chance)
                answer = await asyncio.wait_for(request, REQUEST_TIMEOUT)
            except (TimeoutError, OSError) as error:
                trouble = f"{type(error).__name__} {error}"
            results.add(kind, id, answer, trouble, soaked.excuses(began, time.monotonic()))

    await asyncio.gather(*(caller() for _ in range(callers)))


# --- what the server holds ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """While nobody asks anything."""

    megabytes: float
    files: int
    tasks: int
    series: int = 0

    def __str__(self) -> str:
        return f"{self.megabytes:8.1f} MB {self.files:6} files {self.tasks:6} tasks {self.series:6} series"


def held(server: Server, document: Path) -> Held:
    """Memory and files are the system's to tell, tasks the process's own (watched.py)."""
    document.unlink(missing_ok=True)
    worker = server.worker()
    os.kill(worker, signal.SIGUSR1)
    deadline = time.monotonic() + 10
    while not document.exists():
        if time.monotonic() > deadline or server.process.poll() is not None:
            raise ServerFailed(f"{server.name} tells nothing:\n{server.last_words()}")
        time.sleep(0.01)
    return Held(server.rss(), files_of(worker), int(document.read_text()), series_of(server.port))


def series_of(port: int) -> int:
    """Counts the series that the gateway shows."""
    scrape = Kind("metrics", 1, lambda chance: http("GET", "/metrics"), lambda answer: True)
    answer = asyncio.run(request_for(port, scrape, MASTER_KEY, "soak-metrics", random.Random(0)))
    return sum(not line.startswith(b"#") for line in answer.body.splitlines())


def files_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd")) if LINUX else 0


def settled(server: Server, document: Path, wanted: Callable[[Held], bool], seconds: float) -> Held:
    """What is held once it is as wanted, or when the time is over."""
    deadline = time.monotonic() + seconds
    while not wanted(result := held(server, document)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return result


def grown(before: Held, warm: Held, after: Held, callers: int) -> list[str]:
    """What is not flat. As many files more as there were callers are connections to Cohere that wait to be used."""
    results = []
    if after.megabytes > warm.megabytes * (1 + GROWTH) + SPARE_MB:
        results.append(f"memory: {warm.megabytes:.1f} -> {after.megabytes:.1f} MB")
    if after.files > before.files + callers + 10:
        results.append(f"open files: {before.files} -> {after.files}")
    if after.tasks > before.tasks:
        results.append(f"tasks: {before.tasks} -> {after.tasks}")
    if after.series > warm.series * (1 + GROWTH) + SPARE_SERIES:
        results.append(f"series: {warm.series} -> {after.series}")
    return results


# --- what the ledger has ------------------------------------------------------------------------------------


def ledger_troubles(soaked: Installation, results: Results) -> list[str]:
    """Returns where the ledger and the answers differ."""
    deadline = time.monotonic() + LEDGER_SECONDS
    while True:
        rows = soaked.database.rows()
        counts = Counter(id for id, _ in rows)
        lost = [id for id in results.acknowledged if not counts[id]]
        if not lost or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    troubles = [f"without a row: {results.acknowledged[id].kind} ({id})" for id in lost[:10]]
    doubled = [id for id, count in counts.items() if count > 1 and id.startswith("soak-")]
    troubles += [f"{counts[id]} rows: {id}" for id in doubled[:10]]
    costs = dict(rows)
    for id, answer in results.acknowledged.items():
        cost = costs.get(id)
        if answer.cost and id in costs and (cost is None or Decimal(answer.cost) * NANO != cost):
            troubles.append(f"{answer.kind} ({id}) said ${answer.cost}, its row {cost} nano-dollars")
    return troubles[:20]


def budget_troubles(soaked: Installation) -> list[str]:
    """Returns whether the key on a budget has spent more than it may.

    One call in flight may take it over its budget, and one more each time that Redis comes back without its counters.
    """
    (key,) = [key for key in soaked.list_keys() if key.get("key_alias") == "budget"]
    spent, losses = float(key["spend"]), sum(name == REDIS_AWAY for name, _, _ in soaked.done)
    most = BUDGET + MAX_CALL_COST * (1 + losses)
    return [f"the budget of ${BUDGET} has ${spent} spent"] if spent > most else []


# --- the run ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def servers(document: Path, more: Mapping[str, str]) -> Iterator[Server]:
    """The gateway over the emulator, each a process of its own. more: settings of the gateway's."""
    command = [sys.executable, str(HERE / "watched.py"), str(document)]
    emulator_port, port = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "CO"))} | {
        "COHERE_API_KEY": "soak",
        "COHERE_BASE_URL": f"http://127.0.0.1:{emulator_port}",
        "GATEWAY_LOG": "off",
        "GATEWAY_TIMEOUTS_BETWEEN_EVENTS": "2",
        # The model that answers 429 does so for ever: to wait for it as for Cohere would hold the callers up.
        "GATEWAY_RETRIES_MAX_BACKOFF": "1",
        "GATEWAY_POOL_QUEUE_TIMEOUT": "1",
    }
    with contextlib.ExitStack() as stack:
        emulator = Server(
            "emulator", emulator_port, [*command, "emulator", "--port", str(emulator_port)], ROOT, environment
        )
        stack.callback(emulator.stop)
        gateway = Server("gateway", port, [*command, "serve", "--port", str(port)], ROOT, {**environment, **more})
        stack.callback(gateway.stop)
        emulator.wait_ready()
        gateway.wait_ready()
        yield gateway


def soak(seconds: float, callers: int, seed: int, shared: bool) -> int:
    """Prints what came of it. Returns the exit status."""
    results, chance = Results(), random.Random(seed)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        output = folder / "tasks"
        soaked = stack.enter_context(installation(folder, shared, lambda more: servers(output, more)))
        before, warm, after = run_parts(soaked, output, seconds, callers, chance, results)
        if soaked.gateway.process.poll() is not None:
            results.wrong.append(f"the server is gone:\n{soaked.gateway.last_words()}")
        troubles = [f"not flat: {trouble}" for trouble in grown(before, warm, after, callers)]
        troubles += [f"ledger: {trouble}" for trouble in ledger_troubles(soaked, results)]
        troubles += [f"budget: {trouble}" for trouble in budget_troubles(soaked)]
    print(", ".join(f"{count} {name}" for name, count in results.kinds.most_common()))
    print("done to it: " + (", ".join(f"{n} {name}" for name, n in Counter(d[0] for d in soaked.done).items()) or "-"))
    print("failed meanwhile: " + (", ".join(f"{n} ({name})" for name, n in results.excused.items()) or "none"))
    print("\n".join([*troubles, *(f"wrong: {wrong}" for wrong in results.wrong[:20])]))
    acknowledged = len(results.acknowledged)
    print(
        f"{results.requests} requests, {acknowledged} with their row, {len(results.wrong)} wrong, "
        f"{'not all well' if troubles else 'flat'} (seed {seed})"
    )
    return 1 if troubles or results.wrong else 0


def run_parts(
    soaked: Installation, output: Path, seconds: float, callers: int, chance: random.Random, results: Results
) -> tuple[Held, Held, Held]:
    """Lets callers at the gateway, and events happen. Returns what it holds before, when it is warm, and after."""

    def quiet(result: Held) -> bool:
        return result.tasks <= before.tasks

    asyncio.run(load(soaked, 0.2, 1, chance, results))
    before = settled(soaked.gateway, output, lambda result: False, 0.5)
    print(f"{'before':>10} {before}")
    began, warm, after = time.monotonic(), before, before
    for part in range(1, PARTS + 1):
        # What a part takes longer, for its last answers and to fall quiet, the others have less.
        left = max(began + seconds - time.monotonic(), 0) / (PARTS + 1 - part)
        over = threading.Event()
        kills = part <= PARTS_WITH_KILLS
        events = threading.Thread(target=soaked.run_events, args=(left, min(left / 6, 12.0), kills, over))
        if part < PARTS:  # after the last one the gateway is to be as it was
            events.start()
        asyncio.run(load(soaked, left, callers, chance, results))
        over.set()
        if part < PARTS:
            events.join()
        after = settled(soaked.gateway, output, quiet, 10)
        if part <= WARM_PART:
            warm = after
        print(f"{time.monotonic() - began:8.0f} s {after}   {results.requests} requests", flush=True)
    return before, warm, after


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="how long (default: 300)")
    parser.add_argument("--callers", type=int, default=32, help="how many at a time (default: 32)")
    parser.add_argument("--seed", type=int, default=None, help="to repeat a run's choices")
    parser.add_argument(
        "--shared",
        action=argparse.BooleanOptionalAction,
        help="over PostgreSQL and Redis, or over SQLite alone (default: what is there)",
    )
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    return soak(arguments.seconds, arguments.callers, seed, is_shared(arguments.shared))


if __name__ == "__main__":
    sys.exit(main())
