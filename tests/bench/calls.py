"""Instructions that whole calls take in the gateway, from the first byte of a request to the last of its answer.

    python tests/bench/calls.py                 of each kind of call, in the code of this project, by module
    python tests/bench/calls.py --functions     the same by function
    python tests/bench/calls.py --callgrind     instructions of the processor, of everything in the process (valgrind)

The gateway is the real one under uvicorn, with its ledger, metrics and log, in one process with the stand-in for Cohere
and a caller of one connection, so that the same code takes the same steps each time. Counted are the interpreter's
instructions (`instructions.py`); what other threads do is not. With `--callgrind` the stand-in and the caller are in
the number too; they are the same before and after a change.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/, as pytest and mypy have it
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import hypercorn.config

from bench import load, upstream
from gateway.app import create_app
from gateway.descriptors import AcceptLimit
from gateway.observability.access_log import Log
from gateway.server.idle_connections import close_idle
from gateway.server.uvicorn_server import loop_factory
from gateway.server.worker import configure, configure_interpreter, serve_application
from gateway.settings.schema import GlobalLimits, Settings

ROOT = Path(__file__).resolve().parents[2]

WITH_KEY = "whole chat with a key, limits and budgets"
"""The gateway issues keys, and the caller's has limits and a budget, as the gateway has."""

CASES = {
    "whole chat": load.Case("whole", "whole chat", 1),
    "stream of 100 deltas at once": load.Case("stream", "stream", 1, deltas=100),
    "96 embeddings of 1,024 floats": load.Case("embeddings", "embeddings", 1, inputs=96, encoding="float"),
    "one embedding of 1,024 floats": load.Case("embedding", "embedding", 1, inputs=1, encoding="float"),
    "whole chat, native": load.Case("native", "native", 1, native=True),
    WITH_KEY: load.Case("whole", "whole chat", 1),
}
GUARDED = ("whole chat", WITH_KEY, "stream of 100 deltas at once", "one embedding of 1,024 floats")
"""What `test_instructions.py` holds to what is recorded."""

MASTER_KEY = "sk-master-0123456789abcdefghijklmnopqrst"
MANY_OF_ALL: Mapping[str, Any] = {
    "rpm_limit": 10**8,
    "tpm_limit": 10**12,
    "max_budget": 1e6,
    "budget_duration": "30d",
}

WARM = 3
FEW, MANY = 50, 300
"""Calls of the two runs whose difference is counted. Under valgrind one takes a tenth of a second, or a whole one."""
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin"}
"""Of the processes whose instructions are counted: so they do the same."""

Counts = Counter[tuple[str, str]]
"""Instructions by module and function."""


async def _calls(case: load.Case, count: int, traced: Counts | None, with_key: bool) -> None:
    """Makes so many calls of a kind; `traced` gets what they take."""
    loop = asyncio.get_running_loop()
    stand_in = await loop.create_server(upstream.UpstreamSession, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{stand_in.sockets[0].getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "wb") as nowhere:
        database = f"sqlite:///{folder}/gateway.db"
        master_key = MASTER_KEY if with_key else ""
        settings = Settings(
            cohere_api_key=["bench"],
            cohere_base_url=address,
            database_url=database,
            server="uvicorn",
            master_key=master_key,
            global_limits=GlobalLimits(**MANY_OF_ALL) if with_key else GlobalLimits(),
        )
        application = create_app(settings, Log(out=nowhere))
        config = hypercorn.config.Config()
        configure(config, settings)
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        stop = asyncio.Event()
        limit = AcceptLimit(loop, lambda _: None, close_idle)
        server = loop.create_task(serve_application(application, listener, settings, config, stop.wait, limit))
        while not application.routes or not await _answers(port):
            await asyncio.sleep(0.05)
        client = load.Client(port, case)
        if with_key:
            key = await asyncio.to_thread(_create_key, port)
            client.request[0] = client.request[0].replace(b"Bearer bench", b"Bearer %b" % key.encode())
        await client.connect()
        configure_interpreter()
        for _ in range(WARM):
            await _call(client)
        before = sys.gettrace()
        if traced is not None:
            sys.settrace(_tracer(traced))
        for _ in range(count):
            await _call(client)
        sys.settrace(before)
        assert client.transport is not None
        client.transport.close()
        stop.set()
        await server
    stand_in.close()


def _create_key(port: int) -> str:
    """Returns a new key with every kind of limit, none of which is reached."""
    fields = {**MANY_OF_ALL, "max_parallel_requests": 1_000}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"authorization": f"Bearer {MASTER_KEY}", "content-type": "application/json"}
    connection.request("POST", "/key/generate", json.dumps(fields), headers)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return str(answer["key"])


async def _call(client: load.Client) -> None:
    client.done = asyncio.get_running_loop().create_future()
    client.start(load.Result(), lambda: False)
    await client.done


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _tracer(counts: Counts) -> Any:
    """Returns a function for `sys.settrace` that counts the instructions of this project's functions."""
    ours: dict[Any, tuple[str, str] | None] = {}

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if code not in ours:
            path = Path(code.co_filename)
            inside = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] not in ("tests", ".venv")
            ours[code] = (str(path.relative_to(ROOT)), code.co_qualname) if inside else None
        location = ours[code]
        if location is None:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False

        def count(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "opcode":
                counts[location] += 1
            return count

        return count

    return trace


def count(name: str) -> int:
    """Returns the interpreter's instructions of one call. They differ by half a percent, as numbers have digits."""
    return counts_of(name).total()


def counts_of(name: str) -> Counts:
    """Returns the same by module and function."""
    counts: Counts = Counter()
    _run(name, 1, counts)
    return counts


def _run(name: str, calls: int, traced: Counts | None = None) -> None:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_calls(CASES[name], calls, traced, name == WITH_KEY))


def processor_instructions(name: str) -> float:
    """Returns the processor's instructions of one call. What else the process does is in both runs, and drops out."""
    # Once without counting: the first process after a change compiles modules, and the second finds them compiled. That
    # would be in one run alone, and is more than the calls.
    subprocess.run([sys.executable, __file__, "--run", name, "1"], env=ENVIRONMENT, capture_output=True, check=True)
    few, many = (_collected(name, calls) for calls in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def _collected(name: str, calls: int) -> int:
    with tempfile.NamedTemporaryFile() as profile:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile.name}", sys.executable, __file__]
        done = subprocess.run(
            [*command, "--run", name, str(calls)], env=ENVIRONMENT, capture_output=True, text=True, check=True
        )
    match = re.search(r"Collected : (\d+)", done.stderr)
    assert match, done.stderr[-500:]
    return int(match[1])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Instructions of whole calls in the gateway.")
    parser.add_argument("--functions", action="store_true", help="by function, not by module")
    parser.add_argument("--callgrind", action="store_true", help="of the processor")
    parser.add_argument("--case", action="append", choices=CASES, help="only this kind of call; may be repeated")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.run:
        _run(wanted.run[0], int(wanted.run[1]))
        return
    for name in wanted.case or CASES:
        if wanted.callgrind:
            print(f"{name:<40}{processor_instructions(name):>12,.0f}", flush=True)
            continue
        counts = counts_of(name)
        print(f"{name:<60}{counts.total():>8}")
        locations: Counter[str] = Counter()
        for (module, function), number in counts.items():
            locations[f"{module} {function}" if wanted.functions else module] += number
        for location, number in locations.most_common(60):
            print(f"    {location:<90}{number:>8}")


if __name__ == "__main__":
    main()
