"""The load generator: raw asyncio connections that ask, await the end of the answer, check it, and ask again.

Raw, because a full HTTP client costs as much as the server it measures. It sends what a plain client sends
(no SDK headers): more headers would cost both sides alike and flatter the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/, as pytest and mypy have it

from bench import samples


class WrongAnswer(Exception):
    """The server answered something that is not the answer, so its speed means nothing."""


@dataclass(frozen=True)
class Case:
    """What is asked, and by how many at a time."""

    name: str
    title: str
    concurrency: int
    deltas: int = 0  # 0: a whole answer
    pace_ms: int = 0  # 0: the whole stream at once
    native: bool = False  # Cohere's own API, passed through
    inputs: int = 0  # more: texts to embed
    encoding: str = "base64"
    dimensions: bool = True
    responses: bool = False  # the Responses API, streamed
    store: bool = False
    documents: int = 0  # more: documents to rank
    history_kb: int = 0  # kilobytes of earlier turns
    headers: str = ""  # lines that some server wants, each with its line end
    at: str = ""  # another path than the gateway's
    target: float = 1.25

    @property
    def stream(self) -> bool:
        return self.deltas > 0

    @property
    def path(self) -> str:
        if self.at:
            return self.at
        if self.native:
            return "/cohere/v2/chat"
        if self.responses:
            return "/v1/responses"
        if self.documents:
            return "/v1/rerank"
        return "/v1/embeddings" if self.inputs else "/v1/chat/completions"

    def body(self, deltas: int, pace_ms: int) -> bytes:
        if self.inputs:
            return samples.embed_request(self.inputs, self.encoding, dimensions=self.dimensions)
        if self.documents:
            return samples.rerank_request(self.documents)
        if self.responses:
            return samples.responses_request(deltas=deltas, pace_ms=pace_ms, store=self.store)
        if self.native:
            return samples.cohere_request(stream=self.stream, deltas=deltas, pace_ms=pace_ms)
        return samples.openai_request(stream=self.stream, deltas=deltas, pace_ms=pace_ms, history_kb=self.history_kb)


@dataclass
class Result:
    """What one burst brought."""

    requests: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    reconnects: int = 0


class Client(asyncio.Protocol):
    """One keep-alive connection; asks until `again` says no."""

    def __init__(self, port: int, case: Case) -> None:
        self.port = port
        self.case = case
        self.result = Result()
        self.request = split_request(port, case, case.deltas, case.pace_ms)
        self.again: Callable[[], bool] = lambda: False
        self.done: asyncio.Future[None]
        self.transport: asyncio.Transport | None = None
        self.waiting = False
        self.buffer = bytearray()
        self.body_at = 0
        self.length = -1
        self.started = 0.0

    async def warm(self) -> None:
        """Connect, and ask once without counting, so that the burst begins with connections in use."""
        await self.connect()
        slow, self.request = self.request, split_request(self.port, self.case, 1, 0)
        self.ask()
        await self.done
        self.request = slow

    def start(self, result: Result, again: Callable[[], bool]) -> None:
        """From here on it counts."""
        self.result = result
        self.again = again
        self.ask()

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        self.done = loop.create_future()
        await loop.create_connection(lambda: self, "127.0.0.1", self.port)

    async def reconnect(self) -> None:
        """A server may close a connection that is idle."""
        done = self.done
        self.result.reconnects += 1
        try:
            await self.connect()
        except OSError as error:
            self.fail(error)
            return
        self.done = done
        self.ask()

    def ask(self) -> None:
        if self.transport is None:
            self.task = asyncio.ensure_future(self.reconnect())
            return
        self.buffer.clear()
        self.length = -1
        self.body_at = 0
        self.waiting = True
        self.started = perf_counter()
        self.transport.write((b"%012d" % next(_numbers)).join(self.request))

    def finish(self) -> None:
        """The answer is complete: check it, count it, go on."""
        self.waiting = False
        try:
            check(self.buffer, self.case)
        except WrongAnswer as wrong:
            self.fail(wrong)
            return
        self.result.requests += 1
        self.result.latencies.append(perf_counter() - self.started)
        if self.again():
            self.ask()
        else:
            self.done.set_result(None)

    def fail(self, reason: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(reason)

    # asyncio.Protocol ---------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.waiting:
            self.fail(WrongAnswer(f"the connection was lost after {bytes(self.buffer)[-200:]!r}"))

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer
        buffer += data
        if not self.body_at:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self.body_at = end + 4
            head = bytes(buffer[:end]).lower()
            at = head.find(b"\r\ncontent-length:")
            self.length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else -1
        if self.length >= 0:
            complete = len(buffer) >= self.body_at + self.length
        else:  # chunked; neither JSON nor these event streams contain a bare CR LF
            complete = buffer.endswith(b"\r\n0\r\n\r\n")
        if complete:
            self.finish()


_numbers = count(1)
_ID = re.compile(samples.COHERE_ID.replace("%012d", r"\d{12}").encode())


def split_request(port: int, case: Case, deltas: int, pace_ms: int) -> list[bytes]:
    """The bytes of a request before and after its number."""
    body = case.body(deltas, pace_ms)
    head = (
        f"POST {case.path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer bench\r\n"
        "content-type: application/json\r\naccept: */*\r\nuser-agent: bench\r\n"
        f"{case.headers}content-length: {len(body)}\r\n\r\n"
    )
    return (head.encode() + body).split(b"%012d" % 0)


def check(answer: bytearray, case: Case) -> None:
    """Cheap signs that the answer is right; `verify` looks properly, once."""
    if not answer.startswith(b"HTTP/1.1 200"):
        raise WrongAnswer(f"not a 200: {bytes(answer)[:600]!r}")
    if case.stream:
        bad = b'"error":{' in answer or b"event: response.failed" in answer
        if b"data: [DONE]" not in answer or b'"usage"' not in answer or bad:
            raise WrongAnswer(f"a stream without a good end: {bytes(answer)[-600:]!r}")
    elif (b'"results"' if case.documents else b'"usage"') not in answer:
        raise WrongAnswer(f"a completion without usage: {bytes(answer)[:600]!r}")


async def burst(port: int, case: Case, seconds: float, ready: Callable[[], None]) -> Result:
    """Ask for so many seconds, then wait for what is under way; `ready` is called just before the first."""
    clients = [Client(port, case) for _ in range(case.concurrency)]
    await asyncio.gather(*(client.warm() for client in clients))
    for client in clients:
        client.done = asyncio.get_running_loop().create_future()
    result = Result()
    ready()
    began = perf_counter()
    deadline = began + seconds

    def again() -> bool:
        return perf_counter() < deadline

    for position, client in enumerate(clients):
        # Streams that tick together would share their turns of the event loop, which real ones do not.
        delay = position * case.pace_ms / 1000 / len(clients)
        asyncio.get_running_loop().call_later(delay, client.start, result, again)
    await asyncio.gather(*(client.done for client in clients))
    result.seconds = perf_counter() - began
    for client in clients:
        if client.transport is not None:
            client.transport.close()
    return result


def verify(port: int, case: Case) -> None:
    """Ask once through a real client and look at every byte that matters."""
    deltas = min(case.deltas, 30)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"content-type": "application/json", "authorization": "Bearer bench"}
    headers |= dict(line.split(": ", 1) for line in case.headers.splitlines())
    connection.request("POST", case.path, case.body(deltas, case.pace_ms), headers)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    if response.status != 200:
        raise WrongAnswer(f"status {response.status}: {answer[:600]!r}")
    if case.documents:
        if [one["index"] for one in json.loads(answer)["results"]] != list(range(case.documents)):
            raise WrongAnswer(f"not the ranks of {case.documents} documents: {answer[:200]!r}")
        return
    if case.inputs:
        verify_vectors(json.loads(answer)["data"], case)
        return
    if case.native:
        # Byte for byte but for the id, of which every answer has its own.
        expected_bytes = b"".join(samples.cohere_events(deltas)) if case.stream else samples.cohere_answer()
        if _ID.sub(b"", answer) != _ID.sub(b"", expected_bytes):
            raise WrongAnswer(f"the bytes differ: {answer[:200]!r}")
        return
    if not case.stream:
        document = json.loads(answer)["choices"][0]["message"]["content"]
        expected = samples.ANSWER_TEXT
    else:
        lines = [line[6:] for line in answer.split(b"\n") if line.startswith(b"data: ")]
        if not lines or lines[-1].strip() != b"[DONE]":
            raise WrongAnswer(f"no [DONE] at the end: {answer[-600:]!r}")
        chunks = [json.loads(line) for line in lines[:-1]]
        if case.responses:
            verify_response(chunks, samples.text(deltas))
            return
        deltas_seen = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        document = "".join(delta.get("content") or "" for delta in deltas_seen)
        expected = samples.text(deltas)
    if document != expected:
        raise WrongAnswer(f"the text differs: {document[:200]!r}")


def verify_response(events: list[dict[str, Any]], expected: str) -> None:
    """Numbered without a gap, and the same words in the pieces and in the last event's response."""
    if [event["sequence_number"] for event in events] != list(range(len(events))):
        raise WrongAnswer("the events are not numbered without a gap")
    result = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    if not result == events[-1]["response"]["output"][0]["content"][0]["text"] == expected:
        raise WrongAnswer(f"the text differs: {result[:200]!r}")


def verify_vectors(data: list[dict[str, Any]], case: Case) -> None:
    """As many as there were texts, in order, and each as long as it should be."""
    if [one["index"] for one in data] != list(range(case.inputs)):
        raise WrongAnswer(f"{len(data)} vectors for {case.inputs} texts, or not in order")
    for one in data:
        vector = one["embedding"]
        length = len(vector) if case.encoding == "float" else len(base64.b64decode(vector, validate=True)) // 4
        if length != samples.DIMENSIONS:
            raise WrongAnswer(f"a vector of {length} numbers")


def main() -> None:
    """The command: one burst against a server that is already running."""
    parser = argparse.ArgumentParser(description="One burst on a gateway in front of the stand-in.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--deltas", type=int, default=0, help="stream so many deltas (0: whole)")
    parser.add_argument("--pace", type=int, default=0, help="milliseconds per delta (0: all at once)")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    case = Case("once", "once", options.concurrency, options.deltas, options.pace)
    verify(options.port, case)
    result = asyncio.run(burst(options.port, case, options.seconds, lambda: None))
    latencies = sorted(latency * 1000 for latency in result.latencies)
    p50, p99 = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
    print(
        f"{result.requests} requests in {result.seconds:.2f} s: {result.requests / result.seconds:.0f}/s, "
        f"{result.requests * options.deltas / result.seconds:.0f} events/s, "
        f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, {result.reconnects} reconnects"
    )


if __name__ == "__main__":
    main()
