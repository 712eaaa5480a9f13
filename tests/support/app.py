"""The gateway as callers meet it: on a real server, over an upstream that the test chooses, its log at hand.

`gateway_over(url)` serves it over any upstream, `run_harness()` over a scripted one, `demonstration()` over the
emulator. What comes back is a `Gateway`: `ask` and `chat` show an answer's bytes, `client` is the official
SDK, `log` what was written. Nothing of the inside is used but `create_app` and the settings.

The gateway logs, counts and stores after an answer's last byte has left. `log.lines`, `log.getvalue()`, `metrics()`
and `settle()` wait for that, `log.wait` and `log.line_of` also where a caller has left. With GATEWAY_TEST_LAG=0.1 in
the environment the gateway stands still for a moment after each answer, which fails the tests that do not wait.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import openai
from msgspec.structs import replace

from gateway.app import create_app
from gateway.descriptors import AcceptLimit
from gateway.emulator.app import create_emulator
from gateway.observability.access_log import Log
from gateway.pipeline.accepted_keys import PROOF_PATH
from gateway.server import uvicorn_server
from gateway.server.idle_connections import close_idle
from gateway.server.tls import Tls
from gateway.server.worker import configure, serve_application
from gateway.settings.schema import BreakerSettings, Models, Retries, Settings, Timeouts
from support import databases
from support.asgi_server import AfterTheAnswer, serve
from support.scripted_upstream import Script, ScriptedUpstream, event_stream, json_answer, transcript
from support.waiting import WAIT_SECONDS

SERVERS: tuple[Any, Any] = ("hypercorn", "uvicorn")

SERVER: Any = os.environ.get("GATEWAY_TEST_SERVER", "hypercorn")
"""What serves where a test does not say: the suite is run once on each (CONTRIBUTING.md)."""

CALLER_KEY = "caller-key-0001"
SERVER_KEY = "server-key-0002"
MASTER_KEY = "master-key-0003"

A, R7B, REASONING, VISION = (
    "command-a-03-2025",
    "command-r7b-12-2024",
    "command-a-reasoning-08-2025",
    "command-a-vision-07-2025",
)
CHAT = "/v1/chat/completions"
ONCE: Mapping[str, Any] = {"retries": Retries(count=0), "breaker": BreakerSettings(failures=0)}
Headers = Mapping[str, str] | list[tuple[str, str]]

# --- answers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Response:
    """An answer as bytes; header names in lower case."""

    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.data)

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object. AssertionError unless the body is exactly one, with its four keys."""
        assert self.headers["content-type"] == "application/json", self
        body = self.body
        assert list(body) == ["error"], self
        assert set(body["error"]) == {"message", "type", "param", "code"}, self
        return dict(body["error"])

    @property
    def frames(self) -> list[str]:
        """The `data` of every event of a stream, in order, [DONE] included."""
        text = self.data.decode()
        assert text.endswith("\n\n"), f"an event is not complete: {text[-200:]!r}"
        events = [frame for frame in text[:-2].split("\n\n") if not frame.startswith(":")]
        assert all(frame.startswith("data: ") and "\n" not in frame for frame in events), events
        return [frame.removeprefix("data: ") for frame in events]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The JSON of every event but [DONE]."""
        return [json.loads(frame) for frame in self.frames if frame != "[DONE]"]

    @property
    def text(self) -> str:
        """The content of all chunks, or of the whole answer."""
        if self.headers["content-type"].startswith("text/event-stream"):
            deltas = [choice["delta"] for chunk in self.chunks for choice in chunk.get("choices", ())]
            return "".join(delta.get("content") or "" for delta in deltas)
        return str(self.body["choices"][0]["message"]["content"])


class Written(io.BytesIO):
    """What the gateway logs: bytes, and the JSON lines in them as they come.

    `settle` waits until the lines of all answered requests are written; whoever looks at all lines waits by it.
    """

    def __init__(self, settle: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._settle = settle
        self._parsed: list[dict[str, Any]] = []
        self._parsed_bytes = 0

    def write(self, data: Any) -> int:
        with self._changed:
            count = super().write(data)
            self._changed.notify_all()
        return count

    def getvalue(self) -> bytes:
        self._settle()
        with self._changed:
            return super().getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        self._settle()
        return self._lines_so_far

    @property
    def _lines_so_far(self) -> list[dict[str, Any]]:
        # Each is parsed once: hundreds of tests of a module look for their line in what all of them have written.
        with self._changed:
            with self.getbuffer() as written:
                new = bytes(written[self._parsed_bytes :])
            whole = new[: new.rfind(b"\n") + 1]
            self._parsed += map(json.loads, whole.splitlines())
            self._parsed_bytes += len(whole)
            return [*self._parsed]

    def wait(self, wanted: Callable[[dict[str, Any]], bool], timeout: float = WAIT_SECONDS) -> dict[str, Any]:
        """The first line that is wanted: it is written after the answer's last byte, so it may still come."""
        results: list[dict[str, Any]] = []

        def there() -> bool:
            results[:] = [line for line in self._lines_so_far if wanted(line)]
            return bool(results)

        with self._changed:
            if not self._changed.wait_for(there, timeout):
                raise TimeoutError(f"no such line within {timeout} s; there are {self._lines_so_far}")
        return results[0]

    def line_of(self, request_id: str) -> dict[str, Any]:
        """The line of one request."""
        return self.wait(lambda line: line.get("request") == request_id)


class _AtOnce(Log):
    """Writes each line at once: a test that looks for one need not wait for others to come together."""

    def request(self, *settings: Any) -> None:
        super().request(*settings)
        self.flush()


# --- the gateway --------------------------------------------------------------------------------------------


@dataclass
class Gateway:
    """A running gateway and its caller."""

    url: str
    upstream: str
    log: Written
    key: str = CALLER_KEY
    loops: list[asyncio.AbstractEventLoop] = field(default_factory=list)
    settle: Callable[[], None] = lambda: None
    """Waits until each answered request is over: its line written, its counts in the metrics."""
    database_url: str = ""

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)

    def ask(
        self, method: str, path: str, body: Any = None, headers: Headers | None = None, timeout: float = WAIT_SECONDS
    ) -> Response:
        """One request over a connection of its own. `headers` replace the bearer key and the content type."""
        connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        values = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in (values if headers is None else dict(headers)).items():
                connection.putheader(name, value)
            if data is not None:
                connection.putheader("content-length", str(len(data)))
            connection.endheaders(data)
            response = connection.getresponse()
            return Response(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def post(self, body: Any, headers: Mapping[str, str] | None = None, timeout: float = WAIT_SECONDS) -> Response:
        """A chat request; `headers` are added to the usual ones."""
        usual = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        return self.ask("POST", CHAT, body, usual | dict(headers or {}), timeout)

    def chat(self, content: Any = "Hello", headers: Mapping[str, str] | None = None, **fields: Any) -> Response:
        """One user turn, unless `messages` say otherwise."""
        return self.post({"model": A, "messages": [{"role": "user", "content": content}], **fields}, headers)

    def metrics(self) -> dict[str, float]:
        """`/metrics` by series: `name{labels}` as written there. All answered requests are counted."""
        self.settle()
        text = self.ask("GET", "/metrics", headers={}).data.decode()
        rows = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {series: float(value) for series, _, value in rows}

    def tasks(self) -> int:
        """How many tasks the server has."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return asyncio.run_coroutine_threadsafe(count(), self.loops[0]).result(WAIT_SECONDS)

    @contextmanager
    def client(self, key: str | None = None, **options: Any) -> Iterator[openai.OpenAI]:
        """The official SDK, without retries of its own."""
        values: dict[str, Any] = {
            "base_url": f"{self.url}/v1",
            "api_key": key or self.key,
            "max_retries": 0,
            "timeout": WAIT_SECONDS,
        }
        with openai.DefaultHttpxClient(trust_env=False, verify=False) as http_client:  # loading certificates is slow
            yield openai.OpenAI(**(values | options), http_client=http_client)


@contextmanager
def gateway_over(
    upstream: str, /, *, key: str = CALLER_KEY, graceful_timeout: float = 2.0, **settings: Any
) -> Iterator[Gateway]:
    """The gateway in front of an upstream, in the mode that the settings ask for.

    Unless the settings say so, nothing is asked twice and no breaker opens: a test sees each failure as it is.
    """
    applications: list[AfterTheAnswer] = []

    def settle() -> None:
        for application in applications:
            application.wait()

    log = Written(settle)
    loops: list[asyncio.AbstractEventLoop] = []
    with tempfile.TemporaryDirectory() as folder:
        values = {**ONCE, "database_url": databases.sqlite(folder), "server": SERVER, **settings}
        documented = Settings(cohere_base_url=upstream, **values)
        if not documented.database_url.startswith("sqlite") and not documented.ledger.spool:
            # Beside no file, it would be where the tests were started.
            documented = replace(documented, ledger=replace(documented.ledger, spool=f"{folder}/spool"))

        def app() -> Any:
            loops.append(asyncio.get_running_loop())
            applications.append(AfterTheAnswer(create_app(documented, _AtOnce(True, log))))
            return applications[0]

        async def run(app: Any, listener: socket.socket, config: Any, stopped: Callable[[], Any]) -> None:
            limit = AcceptLimit(asyncio.get_running_loop(), lambda _: None, close_idle)
            tls = Tls(documented.tls) if documented.tls.certificate else None
            await serve_application(app, listener, documented, config, stopped, limit, tls)

        loop_factory = uvicorn_server.loop_factory() if documented.server == "uvicorn" else None
        with serve(
            app,
            configure=lambda config: configure(config, documented),
            run=run,
            loop_factory=loop_factory,
            graceful_timeout=graceful_timeout,
        ) as url:
            yield Gateway(url, upstream, log, key, loops, settle, documented.database_url)


@contextmanager
def emulator() -> Iterator[str]:
    """The emulator's base URL."""
    with serve(create_emulator, configure=lambda config: configure(config, None)) as url:
        yield url


@contextmanager
def demonstration(**settings: Any) -> Iterator[Gateway]:
    """The gateway in demo mode over the emulator."""
    with emulator() as upstream, gateway_over(upstream, demo=True, **settings) as gateway:
        yield gateway


# --- the gateway over a script ------------------------------------------------------------------------------


@dataclass
class Harness:
    """A gateway over a scripted upstream whose script each test sets."""

    gateway: Gateway
    upstream: ScriptedUpstream
    scripts: list[Script] = field(default_factory=list)

    def respond_with(self, *scripts: Script) -> None:
        """What answers the next requests, one script each; the last one answers all that follow."""
        self.scripts[:] = scripts
        self.upstream.exchanges.clear()

    def chat_over(self, script: Script, content: Any = "Hello", **fields: Any) -> Response:
        """A chat request that is answered by this script."""
        self.respond_with(script)
        return self.gateway.chat(content, **fields)


@contextmanager
def run_harness(*, key: str = CALLER_KEY, timeouts: Timeouts | None = None, **settings: Any) -> Iterator[Harness]:
    """A gateway over a scripted upstream. Without settings the caller brings a Cohere key of their own."""
    scripts: list[Script] = []

    def next_script(request: Any) -> Script:
        if request.path == PROOF_PATH:
            return json_answer(200, {"models": []})  # the caller's key is good
        return scripts.pop(0) if len(scripts) > 1 else scripts[0]

    # No list of models is kept, so that each request for it has its own script.
    values = {"models": Models(cache_seconds=0), **settings, "timeouts": timeouts or Timeouts()}
    with (
        ScriptedUpstream(next_script).run_in_thread() as upstream,
        gateway_over(upstream.url, key=key, **values) as gateway,
    ):
        yield Harness(gateway, upstream, scripts)


# --- what Cohere would say ----------------------------------------------------------------------------------

USAGE = {
    "billed_units": {"input_tokens": 4, "output_tokens": 2},
    "tokens": {"input_tokens": 70, "output_tokens": 3},
    "cached_tokens": 16,
}
IDENTITY = "0b5c7b64-1f0e-4a2d-9d6f-2b2f5f1f7a11"


def whole(text: str = "Hi there.", *, finish: str = "COMPLETE", usage: Any = USAGE, **message: Any) -> dict[str, Any]:
    """A whole answer of Cohere's."""
    content = {"role": "assistant", "content": [{"type": "text", "text": text}], **message}
    return {"id": IDENTITY, "finish_reason": finish, "message": content, "usage": usage}


def start() -> dict[str, Any]:
    message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    return {"id": IDENTITY, "type": "message-start", "delta": {"message": message}}


def opened() -> dict[str, Any]:
    return {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}}


def piece(text: str) -> dict[str, Any]:
    return {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": text}}}}


def end(finish: str = "COMPLETE", usage: Any = USAGE, **more: Any) -> dict[str, Any]:
    return {"type": "message-end", "delta": {"finish_reason": finish, "usage": usage, **more}}


CLOSED: dict[str, Any] = {"type": "content-end", "index": 0}


def story(*pieces: str, ending: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The events of an answer in words."""
    texts = [piece(text) for text in pieces or ("Hi", " there.")]
    return [start(), opened(), *texts, CLOSED, dict(ending or end())]


def streamed(*pieces: str) -> Script:
    """A proper stream of an answer in words."""
    return event_stream(transcript(*story(*pieces)))


def answered(text: str = "Hi there.", **more: Any) -> Script:
    """A proper whole answer in words."""
    return json_answer(200, whole(text, **more))
