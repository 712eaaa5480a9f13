"""Honest callers beside an attack: what do they notice of it?

`bystanders()` starts `cohere-gateway serve` as a process and, in another process, a hundred callers who read streams
that never end, and the Cohere that sends them. Each event says when it was sent, so that its delay is known; the test
attacks from its own process and slows down neither. Requests of anybody else are relayed to an upstream that the
test may bring.

    with bystanders() as others:
        before = others.server.memory()
        with others.watch() as delays:
            attack(others.server.port)
        assert not delays.broken and delays.longest_delay < 0.5
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
"""Seconds between two events of one stream."""
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
    *arguments: str, streams: int = STREAMS, upstream: str | None = None, **environment: str
) -> Iterator[Bystanders]:
    """Serve so many streams, all of which flow when this begins.

    arguments, environment: of `cohere-gateway serve`. upstream: the URL that other requests to Cohere go to; without
    it they get a short answer.
    """
    from support.process import process  # not for the program, which would load all of the gateway

    program = subprocess.Popen(
        [sys.executable, str(Path(__file__)), str(streams), *([upstream] if upstream else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        try:
            url = _ask(program, "url")["url"]
            with process(*arguments, COHERE_API_KEY="server-key", COHERE_BASE_URL=url, **environment) as server:
                _ask(program, "begin", str(server.port))
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

    def __init__(self, streams: int) -> None:
        self.streams = [Stream() for _ in range(streams)]
        self.reset()

    def reset(self) -> None:
        """Begin anew: events on the way count from now."""
        self.events, self.longest = 0, 0.0
        now = time.monotonic()
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
        return Delays(max(self.longest, *waiting, 0.0), self.events, broken)


class Caller(asyncio.Protocol):
    """A caller who asks for one stream and reads it."""

    def __init__(self, watch: Watch, index: int, flows: asyncio.Event) -> None:
        self._watch, self._index, self._flows = watch, index, flows
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        message = {"role": "user", "content": f"{MARK} {self._index}"}
        body = json.dumps({"model": "command-a-03-2025", "messages": [message], "stream": True}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        head += f"authorization: Bearer bystander-{self._index}\r\n"
        transport.write(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

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
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            if mark := re.search(rf"{MARK} (\d+)".encode(), body):
                await _flow(writer, watch.streams[int(mark[1])], int(mark[1]), watch)
            elif elsewhere is not None:
                await _relay(head + body, reader, writer, elsewhere)
                return
            elif re.search(rb'"stream": *true', body):
                writer.write(STREAM + START + CONTENT + text("Hi") + END)
            else:
                length_line = b"content-length: %d" % len(WHOLE)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%s\r\n\r\n" % length_line + WHOLE)
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def _flow(writer: asyncio.StreamWriter, stream: Stream, index: int, watch: Watch) -> None:
    writer.write(STREAM + START + CONTENT)
    await asyncio.sleep(INTERVAL * index / len(watch.streams))  # not all at the same moment
    while not writer.is_closing():
        watch.sends(stream)
        writer.write(text(f"{index}:{stream.number - 1} "))
        await asyncio.sleep(INTERVAL)


async def _relay(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, elsewhere: str) -> None:
    parts = urlsplit(elsewhere)
    other_reader, other_writer = await asyncio.open_connection(parts.hostname, parts.port)

    async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()

    other_writer.write(request)
    ways = [asyncio.create_task(pass_on(reader, other_writer)), asyncio.create_task(pass_on(other_reader, writer))]
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    for direction in ways:
        direction.cancel()
    await asyncio.gather(*ways, return_exceptions=True)
    other_writer.close()


async def main(streams: int, elsewhere: str | None) -> None:
    """Obey the commands on standard input until it ends."""
    watch = Watch(streams)
    server = await asyncio.start_server(
        lambda reader, writer: serve(reader, writer, watch, elsewhere), "127.0.0.1", 0, limit=1 << 26
    )
    loop = asyncio.get_running_loop()
    while words := (await loop.run_in_executor(None, sys.stdin.readline)).split():
        answer: dict[str, Any] = {}
        match words:
            case ["url"]:
                answer = {"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}
            case ["begin", port]:
                flows = [asyncio.Event() for _ in range(streams)]
                for index, one in enumerate(flows):
                    await loop.create_connection(lambda i=index, f=one: Caller(watch, i, f), "127.0.0.1", int(port))  # type: ignore[misc]
                try:
                    async with asyncio.timeout(60):
                        for one in flows:
                            await one.wait()
                except TimeoutError:
                    answer = {"failure": f"of {streams} streams {sum(one.is_set() for one in flows)} flow"}
            case ["reset"]:
                watch.reset()
            case ["read"]:
                answer = vars(watch.read())
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
