"""`make soak`: thousands of mixed requests, faults at random, and then: is anything left over?

A real server process over the emulator in another; callers who ask, stream, store, call tools, send nonsense and
leave. KINDS is what they do and what must come of it. After a time to warm up, and again at the end, when nobody asks
any more, the server's memory, open files and tasks are read; the exit status is 1 if they have grown, or if any answer
was not what its kind must get: a fault that looks like a success, or a success that fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/, as pytest and mypy have it

from bench.processes import LINUX, Server, ServerFailed, free_port

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODEL = "command-a-03-2025"
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
WARM = 0.25
"""The part of the time after which memory must not grow: until then caches, pools and imports fill."""
GROWTH, SPARE_MB = 0.05, 6.0
REQUEST_TIMEOUT = 30.0
"""Seconds for one request, far more than any setting below lets it take."""

# --- what callers do ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What came: the status (0 for a connection that ended without), and the body, complete or not."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Kind:
    """`weight` of all requests are like this. `leaves`: after so many bytes of the answer, or before any. `dribbles`:
    the request comes in pieces, with pauses. `sips`: so does the beginning of the answer. `follows`: what is sent once
    the answer's head is here.
    """

    name: str
    weight: int
    request: Callable[[random.Random], bytes]
    fits: Callable[[Answer], bool]
    leaves: Callable[[random.Random], int] | None = None
    dribbles: bool = False
    sips: bool = False
    follows: Callable[[random.Random], bytes] | None = None


def http(method: str, path: str, body: Any = None) -> bytes:
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer soak\r\nconnection: close\r\n"
    length = f"content-type: application/json\r\ncontent-length: {len(data)}\r\n" if data else ""
    return f"{head}{length}\r\n".encode() + data


def chat(chance: random.Random, **fields: Any) -> bytes:
    text = f"Tell me about {chance.random()} " + "and more " * chance.randrange(200)
    return http("POST", CHAT, {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields})


def responses(chance: random.Random, **fields: Any) -> bytes:
    return http("POST", RESPONSES, {"model": MODEL, "input": f"Hello {chance.random()}", "store": False, **fields})


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
FAULTS = (
    *(
        "status=500",
        "status=503",
        "status=401",
        "status=404",
        "status=498",
        "rate_minute",
        "rate_month",
        "html",
        "empty",
    ),
    *("invalid_tool_generation", "no_valid_response", "cut", "eof", "broken_json", "finish_error", "finish_timeout"),
    "stall_stream",
)
HARMLESS = ("unknown_event", "no_usage", "slow=0.002", "late=0.05")


def at_fault(chance: random.Random, faults: tuple[str, ...]) -> bytes:
    model = f"{MODEL}@{chance.choice(faults)}"
    stream = chance.random() < 0.5
    if chance.random() < 0.5:
        return http("POST", RESPONSES, {"model": model, "input": "Hi", "store": False, "stream": stream})
    return http("POST", CHAT, {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream})


def ok(answer: Answer) -> bool:
    """A success, and if it is a stream, a complete one."""
    streamed = answer.body.startswith((b"data:", b"event:"))
    whole = (
        answer.body.endswith(b"data: [DONE]\n\n") and b'"error":{' not in answer.body if streamed else bool(answer.body)
    )
    return answer.status == 200 and whole


def failed(answer: Answer) -> bool:
    """An error, and said to be one in whatever way it can be said; never a failure of the gateway's own."""
    if b"internal_error" in answer.body:
        return False
    if answer.status != 200:
        return answer.status >= 400 and b'"error"' in answer.body
    return b'"error":{' in answer.body or b"response.failed" in answer.body


def gone(answer: Answer) -> bool:
    """Nobody looked."""
    return answer.status in (0, 200) or answer.status >= 400


def refused(*statuses: int) -> Callable[[Answer], bool]:
    return lambda answer: answer.status in statuses and b'"error"' in answer.body


# --- what hostile callers do --------------------------------------------------------------------------------

NESTED = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/a0"}},
    "required": ["a"],
    "$defs": {
        **{f"a{level}": {"allOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(30)},
        "a30": {"type": "string"},
    },
}
PATTERN = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}, "required": ["a"]}
MANY_KEYS = b'{"model":"m","messages":[],' + b",".join(b'"%x":1' % number for number in range(200_000)) + b"}"
UPGRADE = (
    b"GET /v1/responses HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer soak\r\nupgrade: websocket\r\n"
    b"connection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
FRAGMENTS = b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 2_000
"""The beginning of a message, and fragments without a byte."""


def hostile_schema(chance: random.Random) -> bytes:
    wrapper = {"name": "x", "strict": True, "schema": chance.choice((NESTED, PATTERN))}
    return chat(chance, response_format={"type": "json_schema", "json_schema": wrapper}, stream=chance.random() < 0.5)


def flood(chance: random.Random) -> bytes:
    """Empty fragments, or frames that make no sense: the first has a reserved bit."""
    return FRAGMENTS if chance.random() < 0.5 else b"\xf1" + chance.randbytes(2_000)


def answered_somehow(answer: Answer) -> bool:
    return ok(answer) or failed(answer)


def closed(answer: Answer) -> bool:
    """The upgrade was granted, and the connection ended with a close frame."""
    return answer.status == 101 and b"\x88" in answer.body


STORED = http("GET", "/health/live").replace(b"connection: close\r\n", b"")
MANY = [{"role": "user", "content": "x" * 300_000}]
KINDS = (
    Kind("chat", 16, chat, ok),
    Kind("chat stream", 16, lambda chance: chat(chance, stream=True), ok),
    Kind("long chat", 1, lambda chance: http("POST", CHAT, {"model": MODEL, "messages": MANY, "max_tokens": 5}), ok),
    Kind("tools", 6, lambda chance: chat(chance, tools=[TOOL], stream=chance.random() < 0.5), ok),
    Kind("schema", 3, lambda chance: chat(chance, response_format=FORMAT), ok),
    Kind("two choices", 3, lambda chance: chat(chance, n=2, stream=chance.random() < 0.5), ok),
    Kind("response", 6, responses, ok),
    Kind("response stream", 6, lambda chance: responses(chance, stream=True), ok),
    Kind("stored response", 5, lambda chance: responses(chance, store=True, stream=chance.random() < 0.5), ok),
    Kind("models", 2, lambda chance: http("GET", "/v1/models"), ok),
    Kind("metrics", 1, lambda chance: http("GET", "/metrics"), ok),
    Kind("harmless", 4, lambda chance: at_fault(chance, HARMLESS), ok),
    Kind("fault", 16, lambda chance: at_fault(chance, FAULTS), failed),
    Kind("bad JSON", 3, lambda chance: http("POST", CHAT, b"{" + b"[" * chance.randrange(2_000)), refused(400)),
    Kind("bad field", 2, lambda chance: chat(chance, temperature="hot"), refused(400)),
    Kind("nowhere", 2, lambda chance: http("GET", f"/v1/{chance.random()}"), refused(404)),
    Kind("no response", 1, lambda chance: http("GET", f"{RESPONSES}/resp_{chance.randrange(10**9)}"), refused(404)),
    Kind("no HTTP", 2, lambda chance: chance.randbytes(200) + b"\r\n\r\n", lambda answer: answer.status in (0, 400)),
    Kind("keeps and leaves", 3, lambda chance: STORED, gone, lambda chance: 100),
    Kind("half a body", 2, lambda chance: chat(chance)[:-9], gone, lambda chance: 0),
    Kind("leaves", 5, lambda chance: chat(chance, stream=True), gone, lambda chance: chance.randrange(2_000)),
    Kind("leaves a silence", 3, lambda chance: at_fault(chance, ("stall", "stall_stream")), gone, lambda chance: 0),
    Kind("slow body", 3, chat, ok, dribbles=True),
    Kind("slow reader", 3, lambda chance: chat(chance, stream=True), ok, sips=True),
    Kind("reads nothing", 3, lambda chance: chat(chance, stream=True), gone, lambda chance: 1, sips=True),
    Kind("hostile schema", 3, hostile_schema, answered_somehow),
    Kind("huge JSON", 1, lambda chance: http("POST", CHAT, MANY_KEYS), refused(400)),
    Kind("flood", 2, lambda chance: UPGRADE, closed, follows=flood),
    Kind("early flood", 1, lambda chance: UPGRADE + flood(chance), lambda answer: answer.status == 400),
    Kind("leaves a store", 2, lambda chance: responses(chance, store=True, stream=True), gone, lambda chance: 300),
)

# --- asking -------------------------------------------------------------------------------------------------


async def request_for(port: int, kind: Kind, chance: random.Random) -> Answer:
    """One request over a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        await send(writer, kind, chance)
        if kind.follows is not None:
            received += await reader.readuntil(b"\r\n\r\n")
            writer.write(kind.follows(chance))
        if kind.sips:
            for _ in range(20):
                received += await reader.read(50)
                await asyncio.sleep(0.05)
        if kind.leaves is None:
            while some := await reader.read(65536):
                received += some
        elif enough := kind.leaves(chance):
            while len(received) < enough and (some := await reader.read(512)):
                received += some
        else:
            await asyncio.sleep(chance.random() * 0.05)
    except ConnectionError:
        pass
    finally:
        if chance.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1]) if head.startswith(b"HTTP/1.1 ") else 0
    return Answer(status, unchunked(body) if b"transfer-encoding: chunked" in head.lower() else body)


async def send(writer: asyncio.StreamWriter, kind: Kind, chance: random.Random) -> None:
    """Sends a request, at once or in pieces."""
    data = kind.request(chance)
    size = len(data) // 10 + 1 if kind.dribbles else len(data)
    for begin in range(0, len(data), size):
        writer.write(data[begin : begin + size])
        await writer.drain()
        await asyncio.sleep(0.1 if kind.dribbles else 0)


def unchunked(body: bytes) -> bytes:
    pieces: list[bytes] = []
    while True:
        size, _, body = body.partition(b"\r\n")
        if not size or not (length := int(size, 16)):
            return b"".join(pieces)
        pieces.append(body[:length])
        body = body[length + 2 :]


@dataclass
class UsageTail:
    """What was asked, and what went wrong."""

    kinds: Counter[str]
    wrong: list[str]

    @property
    def requests(self) -> int:
        return sum(self.kinds.values())


async def load(port: int, seconds: float, callers: int, chance: random.Random, tail: UsageTail) -> None:
    """So many callers, one request after another, until the time is over."""
    until = time.monotonic() + seconds
    weights = [kind.weight for kind in KINDS]

    async def caller() -> None:
        while time.monotonic() < until:
            (kind,) = chance.choices(KINDS, weights)
            try:
                answer = await asyncio.wait_for(request_for(port, kind, chance), REQUEST_TIMEOUT)
            except (TimeoutError, OSError) as error:
                tail.wrong.append(f"{kind.name}: {type(error).__name__} {error}")
            else:
                if not kind.fits(answer):
                    tail.wrong.append(f"{kind.name}: {answer.status} {answer.body[:60]!r} ... {answer.body[-200:]!r}")
            tail.kinds[kind.name] += 1

    await asyncio.gather(*(caller() for _ in range(callers)))


# --- what the server holds ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """While nobody asks anything."""

    megabytes: float
    files: int
    tasks: int

    def __str__(self) -> str:
        return f"{self.megabytes:8.1f} MB {self.files:6} files {self.tasks:6} tasks"


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
    return Held(server.rss(), files_of(worker), int(document.read_text()))


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
    return results


@contextlib.contextmanager
def servers(document: Path) -> Iterator[Server]:
    """The gateway over the emulator, each a process of its own."""
    command = [sys.executable, str(HERE / "watched.py"), str(document)]
    emulator_port, port = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "CO"))} | {
        "COHERE_API_KEY": "soak",
        "COHERE_BASE_URL": f"http://127.0.0.1:{emulator_port}",
        "GATEWAY_DATABASE_URL": f"sqlite:///{document.parent}/soak.sqlite3",
        "GATEWAY_LOG": "off",
        "GATEWAY_TIMEOUTS_BETWEEN_EVENTS": "1",
        # The model that answers 429 does so for ever: to wait for it as for Cohere would hold the callers up.
        "GATEWAY_RETRIES_MAX_BACKOFF": "1",
        "GATEWAY_POOL_QUEUE_TIMEOUT": "1",
    }
    with contextlib.ExitStack() as stack:
        emulator = Server(
            "emulator", emulator_port, [*command, "emulator", "--port", str(emulator_port)], ROOT, environment
        )
        stack.callback(emulator.stop)
        gateway = Server("gateway", port, [*command, "serve", "--port", str(port)], ROOT, environment)
        stack.callback(gateway.stop)
        emulator.wait_ready()
        gateway.wait_ready()
        yield gateway


def soak(seconds: float, callers: int, seed: int) -> int:
    """Prints what came of it; the exit status."""
    tail, chance = UsageTail(Counter(), []), random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder, "told")) as server:
        output = Path(folder, "told")

        def quiet(result: Held) -> bool:
            return result.tasks <= before.tasks

        asyncio.run(load(server.port, 0.2, 1, chance, tail))
        before = settled(server, output, lambda result: False, 0.5)
        print(f"{'before':>10} {before}")
        began, warm, after = time.monotonic(), before, before
        parts = 8
        for part in range(1, parts + 1):
            # What a part takes longer, for its last answers and to fall quiet, the others have less.
            left = max(began + seconds - time.monotonic(), 0) / (parts + 1 - part)
            asyncio.run(load(server.port, left, callers, chance, tail))
            after = settled(server, output, quiet, 10)
            if part <= parts * WARM:
                warm = after
            print(f"{time.monotonic() - began:8.0f} s {after}   {tail.requests} requests", flush=True)
        if server.process.poll() is not None:
            tail.wrong.append(f"the server is gone:\n{server.last_words()}")
    print(", ".join(f"{count} {name}" for name, count in tail.kinds.most_common()))
    troubles = grown(before, warm, after, callers)
    for trouble in troubles:
        print(f"not flat: {trouble}")
    for wrong in tail.wrong[:20]:
        print(f"wrong: {wrong}")
    print(f"{tail.requests} requests, {len(tail.wrong)} wrong, {'not flat' if troubles else 'flat'} (seed {seed})")
    return 1 if troubles or tail.wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="how long (default: 300)")
    parser.add_argument("--callers", type=int, default=32, help="how many at a time (default: 32)")
    parser.add_argument("--seed", type=int, default=None, help="to repeat a run's choices")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    return soak(arguments.seconds, arguments.callers, seed)


if __name__ == "__main__":
    sys.exit(main())
