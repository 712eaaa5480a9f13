"""Honest callers beside an attack: what do they notice of it?

`bystanders()` starts `cohere-gateway serve` as a process and, in another process, a hundred callers who read streams
that never end, and the Cohere that sends them. It is known when each event was sent, and so its delay. Newcomers, who
ask one short question each on a connection of their own, come one after another while somebody watches. The test
attacks from its own process and slows down neither. Requests of anybody else are relayed to an upstream that the
test may bring.

    with bystanders() as others:
        before = others.server.memory()
        with others.watch() as delays:
            attack(others.server.port)
        assert not delays.broken and not delays.refused and delays.longest_delay - delays.lateness < 0.5
        assert others.server.memory() - before < 50 << 20

This file is also the program of the second process. Its commands come on standard input, its answers are lines of JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

STREAMS = 100
INTERVAL = 0.1
"""Seconds between two events of one stream, and between two newcomers."""
TIMER = 0.005
"""Seconds after which the bystanders look at the clock, to know how late they are themselves."""
ASKS_LITTLE = 2_000
"""Bytes: more has no request of a bystander's."""
MARK = "a bystander's request"


# --- in the test's process ----------------------------------------------------------------------------------


@dataclass
class Delays:
    """What the bystanders noticed."""

    longest_delay: float = 0.0
    """Seconds from the sending of an event to its arrival, also of those that have not arrived yet."""
    events: int = 0
    """How many arrived."""
    broken: int = 0
    """Streams that have ended, though none should."""
    newcomers: int = 0
    """How many asked and have been answered."""
    longest_wait: float = 0.0
    """Seconds from a newcomer's first packet to its answer, also of the one who waits still."""
    refused: int = 0
    """Newcomers who got something else than an answer."""
    lateness: float = 0.0
    """Seconds by which a timer of the bystanders themselves was late: that much of a delay may be the machine's."""


class Bystanders:
    """The callers, and the gateway that they share with the test."""

    def __init__(self, server: Any, program: subprocess.Popen[str]) -> None:
        self.server = server
        """A `support.process.Process`."""
        self._program = program

    @contextmanager
    def watch(self) -> Iterator[Delays]:
        """Watch what happens inside the block; the result is filled in at its end."""
        delays = Delays()
        self._command("reset")
        try:
            yield delays
        finally:
            vars(delays).update(self._command("read"))

    def calm(self, seconds: float = 1.0) -> Delays:
        """Return what they notice while nobody attacks: what is usual on this machine now."""
        with self.watch() as delays:
            time.sleep(seconds)
        return delays

    def _command(self, *words: str) -> dict[str, Any]:
        return _ask(self._program, *words)


def _ask(program: subprocess.Popen[str], *words: str) -> dict[str, Any]:
    assert program.stdin is not None and program.stdout is not None
    print(*words, file=program.stdin, flush=True)
    answer = program.stdout.readline()
    assert answer, "the bystanders' process has ended"
    result: dict[str, Any] = json.loads(answer)
    assert "failure" not in result, result
    return result


@contextmanager
def bystanders(
    *arguments: str,
    streams: int = STREAMS,
    interval: float = INTERVAL,
    upstream: str | None = None,
    own_keys: bool = False,
    **environment: str,
) -> Iterator[Bystanders]:
    """Serve so many streams, all of which flow when this begins.

    arguments, environment: of `cohere-gateway serve`. interval: seconds between two events of one stream. upstream:
    the URL that other requests to Cohere go to; without it they get a short answer. own_keys: callers bring the keys
    that Cohere is called with, else the server has one.
    """
    from support.process import process  # not for the program, which would load all of the gateway

    program = subprocess.Popen(
        [sys.executable, str(Path(__file__)), str(streams), str(interval), *([upstream] if upstream else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        try:
            url = _ask(program, "url")["url"]
            if not own_keys:
                environment = {"COHERE_API_KEY": "server-key", **environment}
            with process(*arguments, COHERE_BASE_URL=url, **environment) as server:
                _ask(program, "begin", str(server.port), *(["prove"] if own_keys else []))
                yield Bystanders(server, program)
        finally:
            program.kill()


# --- the program --------------------------------------------------------------------------------------------

NUMBER = re.compile(rb'"content":"(\d+):(\d+) "')
"""In the text of an event: the stream and the event."""


class Stream:
    """One stream: which events were sent when, until they arrive."""

    def __init__(self) -> None:
        self.on_the_way: deque[tuple[int, float]] = deque()
        self.number = 0
        self.broken = False


class Watch:
    """All streams, and what was noticed since the last `reset`."""

    def __init__(self, streams: int, interval: float) -> None:
        self.interval = interval
        self.tasks: set[asyncio.Task[None]] = set()
        """Those that answer as Cohere. The loop itself would let go of them while they wait."""
        self.streams = [Stream() for _ in range(streams)]
        self.reset()

    def reset(self) -> None:
        """Begin anew: events on the way count from now."""
        self.events, self.longest = 0, 0.0
        self.newcomers, self.refused, self.longest_wait, self.lateness = 0, 0, 0.0, 0.0
        self.waits_since = now = time.monotonic()
        for stream in self.streams:
            stream.on_the_way = deque((number, now) for number, _ in stream.on_the_way)

    def sends(self, stream: Stream) -> None:
        """Note that the next event is sent."""
        stream.on_the_way.append((stream.number, time.monotonic()))
        stream.number += 1

    def arrived(self, stream: Stream, number: int) -> None:
        """Note that an event has arrived."""
        while stream.on_the_way and stream.on_the_way[0][0] <= number:
            self.longest = max(self.longest, time.monotonic() - stream.on_the_way.popleft()[1])
        self.events += 1

    def read(self) -> Delays:
        """Return what was noticed."""
        now = time.monotonic()
        waiting = (now - stream.on_the_way[0][1] for stream in self.streams if stream.on_the_way)
        broken = sum(stream.broken for stream in self.streams)
        longest_wait = max(self.longest_wait, now - self.waits_since)
        longest = max(self.longest, *waiting, 0.0)
        return Delays(longest, self.events, broken, self.newcomers, longest_wait, self.refused, self.lateness)

    async def time_itself(self) -> None:
        """Note how late this process is, without end."""
        while True:
            due = time.monotonic() + TIMER
            await asyncio.sleep(TIMER)
            self.lateness = max(self.lateness, time.monotonic() - due)

    async def send_newcomers(self, port: int) -> None:
        """Have one newcomer after the other ask, until cancelled."""
        while True:
            self.waits_since = time.monotonic()
            try:
                answered = await ask_once(port, "newcomer")
            except OSError:
                answered = False
            self.longest_wait = max(self.longest_wait, time.monotonic() - self.waits_since)
            self.newcomers += answered
            self.refused += not answered
            self.waits_since = float("inf")
            await asyncio.sleep(INTERVAL)


async def ask_once(port: int, key: str) -> bool:
    """Ask a short question, on a new connection, and return whether there was an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(f"{MARK} and short", key, "connection: close\r\n"))
    received = await reader.read()
    writer.close()
    return received.startswith(b"HTTP/1.1 200 ") and b'"finish_reason":"stop"' in received


def request(text: str, key: str, headers: str = "", **fields: Any) -> bytes:
    """Return a request for a chat."""
    message = {"role": "user", "content": text}
    body = json.dumps({"model": "command-a-03-2025", "messages": [message], **fields}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n{headers}"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


class Caller(asyncio.Protocol):
    """A caller who asks for one stream and reads it."""

    def __init__(self, watch: Watch, index: int, flows: asyncio.Event) -> None:
        self._watch, self._index, self._flows = watch, index, flows
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(request(f"{MARK} {self._index}", f"bystander-{self._index}", stream=True))

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = 0
        for result in NUMBER.finditer(self._received):
            end = result.end()
            self._watch.arrived(self._watch.streams[int(result[1])], int(result[2]))
            self._flows.set()
        self._received = self._received[end:][-4096:]

    def connection_lost(self, error: Exception | None) -> None:
        self._watch.streams[self._index].broken = True


def event(kind: str, delta: dict[str, Any], **more: Any) -> bytes:
    """Return an event of Cohere's as an HTTP chunk."""
    data = b"event: %s\ndata: %s\n\n" % (kind.encode(), json.dumps({"type": kind, **more, "delta": delta}).encode())
    return b"%x\r\n%s\r\n" % (len(data), data)


START = event("message-start", {"message": {"role": "assistant", "content": []}}, id="1")
CONTENT = event("content-start", {"message": {"content": {"type": "text", "text": ""}}}, index=0)
END = event("content-end", {}, index=0) + event("message-end", {"finish_reason": "COMPLETE"}) + b"0\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WHOLE = json.dumps(
    {
        "id": "1",
        "finish_reason": "COMPLETE",
        "message": {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
    }
).encode()


def text(value: str) -> bytes:
    """Return the event of a piece of text."""
    return event("content-delta", {"message": {"content": {"text": value}}}, index=0)


async def serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: Watch, elsewhere: str | None
) -> None:
    """Answer as Cohere on one connection: to bystanders a stream that never ends."""
    task = asyncio.current_task()
    assert task is not None
    watch.tasks.add(task)
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            mark = re.search(rf"{MARK} (\d+|and short)".encode(), body) if len(body) < ASKS_LITTLE else None
            if mark and mark[1].isdigit():
                await _flow(writer, watch.streams[int(mark[1])], int(mark[1]), watch)
            elif elsewhere is not None and not mark:
                await _relay(head + body, writer, elsewhere)
            elif re.search(rb'"stream": *true', body):
                writer.write(STREAM + START + CONTENT + text("Hi") + END)
            else:
                length_line = b"content-length: %d" % len(WHOLE)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%s\r\n\r\n" % length_line + WHOLE)
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        watch.tasks.discard(task)
        writer.close()


async def _flow(writer: asyncio.StreamWriter, stream: Stream, index: int, watch: Watch) -> None:
    writer.write(STREAM + START + CONTENT)
    await asyncio.sleep(watch.interval * index / len(watch.streams))  # not all at the same moment
    while not writer.is_closing():
        watch.sends(stream)
        writer.write(text(f"{index}:{stream.number - 1} "))
        await asyncio.sleep(watch.interval)


async def _relay(request: bytes, writer: asyncio.StreamWriter, elsewhere: str) -> None:
    """Pass on one request and its answer. What follows on the connection may be a bystander's.

    Raises IncompleteReadError where the answer breaks off.
    """
    parts = urlsplit(elsewhere)
    reader, other_writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 26)
    try:
        other_writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        if length := re.search(rb"(?i)\r\ncontent-length: *(\d+)", head):
            writer.write(await reader.readexactly(int(length[1])))
            return
        size = 1
        while size and not writer.is_closing():
            line = await reader.readuntil(b"\r\n")
            size = int(line, 16)
            writer.write(line + await reader.readexactly(size + 2))
            await writer.drain()
    finally:
        other_writer.close()


async def main(streams: int, interval: float, elsewhere: str | None) -> None:
    """Obey the commands on standard input until it ends."""
    watch = Watch(streams, interval)
    server = await asyncio.start_server(
        lambda reader, writer: serve(reader, writer, watch, elsewhere), "127.0.0.1", 0, limit=1 << 26
    )
    loop = asyncio.get_running_loop()
    port = 0
    newcomers: asyncio.Task[None] | None = None
    timer = loop.create_task(watch.time_itself())
    while words := (await loop.run_in_executor(None, sys.stdin.readline)).split():
        answer: dict[str, Any] = {}
        match words:
            case ["url"]:
                answer = {"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}
            case ["begin", number, *prove]:
                port = int(number)
                if prove:  # Cohere's first answer shows the gateway that a key is good
                    await asyncio.gather(*(ask_once(port, f"bystander-{index}") for index in range(streams)))
                flows = [asyncio.Event() for _ in range(streams)]
                for index, one in enumerate(flows):
                    await loop.create_connection(lambda i=index, f=one: Caller(watch, i, f), "127.0.0.1", port)  # type: ignore[misc]
                try:
                    async with asyncio.timeout(60):
                        for one in flows:
                            await one.wait()
                except TimeoutError:
                    answer = {"failure": f"of {streams} streams {sum(one.is_set() for one in flows)} flow"}
            case ["reset"]:
                watch.reset()
                newcomers = loop.create_task(watch.send_newcomers(port))
            case ["read"]:
                answer = vars(watch.read())
                if newcomers is not None:
                    newcomers.cancel()
        print(json.dumps(answer), flush=True)
    timer.cancel()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None))
