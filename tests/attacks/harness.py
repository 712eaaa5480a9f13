"""An attack and those who must not notice it: the gateway in a process of its own, a hundred honest callers in another.

    with attacked_gateway(attack.environment) as gateway:
        outcome = gateway.watch(attack)
        assert not outcome.troubles

What attackers send is in `table.py`. Their questions to Cohere are answered by `cohere`, in this process, by the model
that they name.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.settings.schema import MemorySettings
from support.app import CHAT, SERVER, answered
from support.bystanders import INTERVAL, STREAMS, Bystanders, Delays, bystanders
from support.process import Process
from support.scripted_upstream import (
    Chunk,
    Head,
    Pause,
    Request,
    Script,
    ScriptedUpstream,
    Signal,
    event_stream,
    json_answer,
    transcript,
)
from support.waiting import WAIT_SECONDS

KEY = "attackers-key"
"""Cohere takes it, and every other key that is not MADE_UP."""
MADE_UP = "made-up"
"""The beginning of keys that Cohere refuses."""
ANSWER_TIMEOUT = 2 * WAIT_SECONDS
"""Seconds that an attacker waits for an answer."""
OVERHEAD = 150 << 20
"""Bytes that an attack may take besides: connections, and what the allocator keeps."""

# --- models that Cohere has, for attackers -----------------------------------------------------------------

MODEL = "command-a-03-2025"
SPACES, ENDLESS, SILENT, VECTORS = "command-a-spaces", "command-a-endless", "command-a-silent", "embed-v4.0"
BLANKS = 1_000_000
ENDLESS_PIECES, PIECE_EVENTS = 400, 200
DISOBEDIENT = json.dumps({"a": "a" * 40 + "!", "p1": ""})
"""An answer that misses most schemas, and on which a pattern backtracks that can."""
DELTA = {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "word "}}}}
BEGINNING = (
    {"type": "message-start", "id": "1", "delta": {"message": {"role": "assistant"}}},
    {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
)
PIECE = transcript(*[DELTA] * PIECE_EVENTS, done=False)
ENDLESS_STREAM = event_stream([transcript(*BEGINNING, done=False), *[PIECE] * ENDLESS_PIECES], ending=None)
ENDING = ({"type": "content-end", "index": 0}, {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}})
VECTOR = "[" + ",".join(["0.0123456"] * 1_536) + "]"


def a_stream(*texts: str) -> Script:
    """A stream of Cohere's with an answer in these pieces."""
    deltas = [{**DELTA, "delta": {"message": {"content": {"text": text}}}} for text in texts]
    return event_stream(transcript(*BEGINNING, *deltas, *ENDING))


def vectors(request: Request) -> Script:
    rows = ",".join([VECTOR] * len(request.json()["texts"]))
    return json_answer(200, b'{"id":"1","embeddings":{"float":[%b]},"meta":{}}' % rows.encode())


def cohere(silence: Signal) -> Callable[[Request], Script]:
    """What Cohere answers to attackers. silence: ends the silence of the model that says nothing."""

    def script(request: Request) -> Script:
        if MADE_UP in request.headers["authorization"][0]:
            return json_answer(401, {"message": "invalid api token"})
        if request.method == "GET":
            return json_answer(200, {"models": []})
        if request.path == "/v2/embed":
            return vectors(request)
        model = re.search(rb'"model": ?"([^"]+)"', request.body)
        streams = re.search(rb'"stream": ?true', request.body) is not None
        match model[1].decode() if model else "":
            case str(name) if name == SPACES:
                return a_stream(*[" " * 1_000] * (BLANKS // 1_000)) if streams else answered(" " * BLANKS)
            case str(name) if name == ENDLESS:
                return ENDLESS_STREAM
            case str(name) if name == SILENT:
                return (Pause(silence), Head(500), Chunk(b"{}"))
        return a_stream("Hi") if streams else answered(DISOBEDIENT)

    return script


# --- what an attacker has ----------------------------------------------------------------------------------


@dataclass
class Target:
    """The gateway, as those see it who attack it.

    seconds: how long the attack lasts; 0 is the short form, of one small round.
    """

    server: Process
    worker: int
    seconds: float = 0.0

    def count(self, long: int, short: int) -> int:
        """One of the two, by the form."""
        return long if self.seconds else short

    @contextlib.contextmanager
    def connection(self) -> Iterator[socket.socket]:
        """A connection of the attacker's, which is reset in the end if anything is unread."""
        with socket.create_connection(("127.0.0.1", self.server.port), ANSWER_TIMEOUT) as connection:
            yield connection

    def ask(self, data: bytes) -> str:
        """The status of the answer to these bytes."""
        with self.connection() as connection:
            with contextlib.suppress(OSError):  # the answer may come before all was sent
                connection.sendall(data)
            return status(connection)

    def post(self, body: bytes, path: str = CHAT, key: str = KEY, headers: Mapping[str, str] | None = None) -> str:
        """The status of the answer to this body."""
        return self.ask(head(path, key, len(body), headers) + body)

    def on_websocket(self, frames: bytes, key: str = KEY, extensions: str = "") -> str:
        """The code with which a WebSocket is closed on which these frames come; "closed" without one."""
        with self.connection() as connection:
            connection.sendall(upgrade(key, extensions))
            granted = until(connection, b"\r\n\r\n")
            if not granted.startswith(b"HTTP/1.1 101"):
                return granted[9:12].decode()
            received = granted.partition(b"\r\n\r\n")[2]
            sender = threading.Thread(target=self._send, args=(connection, frames))
            sender.start()
            with contextlib.suppress(OSError):
                while some := connection.recv(1 << 16):
                    received += some
            sender.join()
        return close_code(received)

    def _send(self, connection: socket.socket, frames: bytes) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(frames)

    def hold(self, seconds: float = 0.0) -> None:
        """Wait as long as the attack lasts, at least so many seconds."""
        time.sleep(max(seconds, self.seconds))


def head(
    path: str, key: str = KEY, length: int = 0, headers: Mapping[str, str] | None = None, *, method: str = "POST"
) -> bytes:
    """The head of a request."""
    lines = {"host": "localhost", "authorization": f"Bearer {key}", "connection": "close"}
    if method == "POST":
        lines |= {"content-type": "application/json", "content-length": str(length)}
    text = "".join(f"{name}: {value}\r\n" for name, value in {**lines, **(headers or {})}.items())
    return f"{method} {path} HTTP/1.1\r\n{text}\r\n".encode()


def upgrade(key: str = KEY, extensions: str = "") -> bytes:
    """The request that opens a WebSocket."""
    headers = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    headers["sec-websocket-key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    if extensions:
        headers["sec-websocket-extensions"] = extensions
    return head("/v1/responses", key, headers=headers, method="GET")


def until(connection: socket.socket, end: bytes) -> bytes:
    received = b""
    while end not in received and (some := connection.recv(1 << 16)):
        received += some
    return received


def status(connection: socket.socket) -> str:
    """Read an answer as far as it comes and return its status; "unanswered" without one."""
    begin = b""
    with contextlib.suppress(OSError):
        while some := connection.recv(1 << 18):
            begin = begin or some
    return begin[9:12].decode() if begin.startswith(b"HTTP/1.1 ") else "unanswered"


def frame(opcode: int, payload: bytes = b"", first: int = 0x80) -> bytes:
    """A frame of a WebSocket with a mask of zeros. first: the flags of its first byte."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
    if size > 65_535:
        length = b"\xff" + struct.pack("!Q", size)
    return bytes([first | opcode]) + length + bytes(4) + payload


def close_code(received: bytes) -> str:
    """The code in the close frame among the frames of a server."""
    while len(received) >= 2:
        size, begin = received[1] & 0x7F, 2
        if size == 126:
            size, begin = int.from_bytes(received[2:4]), 4
        elif size == 127:
            size, begin = int.from_bytes(received[2:10]), 10
        if received[0] & 0x0F == 8:
            return str(int.from_bytes(received[begin : begin + 2]))
        received = received[begin + size :]
    return "closed"


# --- the table's rows, and what came of them ---------------------------------------------------------------


@dataclass(frozen=True)
class Attack:
    """One way to do harm.

    sends: what comes over the wire, for the table. bound: the setting or the fixed bound that meets it. gets: what
    attackers may get, one of these each time. script: one round, which returns what each of its requests got.
    environment: settings without which a bound would be far away; all other settings are the defaults. newcomers:
    honest callers without a connection are served all the while, too. attackers: at the same time, in the long form.
    """

    name: str
    kind: str
    sends: str
    bound: str
    gets: frozenset[str]
    script: Callable[[Target], Iterator[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    newcomers: bool = True
    attackers: int = 4


@dataclass
class Outcome:
    """What came of an attack. Bytes of all processes of the gateway; answers: how often attackers got what."""

    attack: Attack
    delays: Delays
    max_growth: int
    before: int
    peak: int
    after: int
    answers: Counter[str]
    rounds: int

    @property
    def growth(self) -> int:
        """Bytes at the peak beyond those before."""
        return self.peak - self.before

    @property
    def troubles(self) -> list[str]:
        """What must not be, whatever else the machine does: failures of others, growth, wrong answers."""
        sentences = []
        if self.delays.broken:
            sentences.append(f"{self.delays.broken} streams of others were cut")
        if self.delays.refused and self.attack.newcomers:
            sentences.append(f"{self.delays.refused} newcomers got no answer")
        if self.growth > self.max_growth:
            sentences.append(f"{self.growth >> 20} MB were taken")
        if wrong := set(self.answers) - self.attack.gets:
            sentences.append(f"the attackers got {wrong}")
        return sentences


class AttackedGateway:
    """The gateway and the bystanders, for any number of attacks."""

    def __init__(self, others: Bystanders, max_bytes: int) -> None:
        """max_bytes: the setting `memory.max_bytes`. What is made of bodies and answers takes about as much again."""
        self.others, self._max_growth = others, 2 * max_bytes + OVERHEAD
        (self.worker,) = others.server.workers

    def watch(self, attack: Attack, seconds: float = 0.0) -> Outcome:
        """Attack for so many seconds, at least one round, and return what the bystanders noticed of it.

        The short form, of no seconds, has one attacker, the long one as many as the row says. Raises what a script
        raises.
        """
        target = Target(self.others.server, self.worker, seconds)
        answers: Counter[str] = Counter()
        before, own = self.others.server.memory(), memory(self.worker)
        reset_peak(self.worker)
        deadline = time.monotonic() + seconds
        count = attack.attackers if seconds else 1

        def attacker(_: int) -> int:
            rounds = 0
            while not rounds or time.monotonic() < deadline:
                answers.update(attack.script(target))
                rounds += 1
            return rounds

        with self.others.watch() as delays, ThreadPoolExecutor(count) as attackers:
            rounds = sum(attackers.map(attacker, range(count)))
        peak = before + max(memory(self.worker, "VmHWM") - own, 0)
        after = self.others.server.memory()
        return Outcome(attack, delays, self._max_growth, before, max(peak, after), after, answers, rounds)


def memory(pid: int, name: str = "VmRSS") -> int:
    """Resident bytes of one process: now, or VmHWM, the most since `reset_peak`."""
    match = re.search(rf"{name}:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def reset_peak(pid: int) -> None:
    """Have Linux count the most memory of a process from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@contextlib.contextmanager
def attacked_gateway(
    environment: Mapping[str, str], server: str = SERVER, streams: int = STREAMS, interval: float = INTERVAL
) -> Iterator[AttackedGateway]:
    """Serve honest callers, who bring keys of their own, as attackers do.

    server: what serves HTTP. streams, interval: as `bystanders` has them.
    """
    silence = Signal()
    own_keys = "COHERE_API_KEY" not in environment
    environment = {"GATEWAY_SERVER": server, **environment}
    try:
        with (
            ScriptedUpstream(cohere(silence)).run_in_thread() as upstream,
            bystanders(
                upstream=upstream.url, streams=streams, interval=interval, own_keys=own_keys, **environment
            ) as others,
        ):
            yield AttackedGateway(others, int(environment.get("GATEWAY_MEMORY_MAX_BYTES", MemorySettings().max_bytes)))
            silence.set()
    finally:
        silence.set()


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def body_of(**fields: Any) -> bytes:
    """A chat of one message with more fields."""
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()
