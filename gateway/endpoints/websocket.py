"""The endpoint of WebSockets: requests as messages in, events as messages out, and what belongs to one socket.

Requests of one lane (`stream_id`) are answered one after the other, lanes beside each other. What a socket may hold is
bounded: requests that wait, lanes, what is remembered, and the time that it may be idle. Who may open one is
`websocket_handshake.py`; what a request's answer is, `handler.py`.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct
from starlette.types import Message, Receive, Scope, Send

from gateway import cohere_methods
from gateway.errors import CallerError, CallerLeft, GatewayError, failure
from gateway.http import error_responses
from gateway.observability.record import RequestRecord, record_of
from gateway.pipeline.handler import RequestHandler, context_of
from gateway.pipeline.operations import WebSocketOperation
from gateway.pipeline.services import Services
from gateway.state.connection_state import ConnectionState, SocketTurn
from gateway.state.conversation_state import new_response_id
from translators.core.contracts import Stream, Translation
from translators.core.errors import Failure
from translators.operations import responses_websocket
from translators.operations.responses_websocket import ClientMessage

MOST_LANES = 8
"""That work at once on one socket."""

MOST_WAITING = 32
"""Requests of one socket that wait for their turn; together they may have as many bytes as one request may."""

SILENT, RESTARTS = 1000, 1012
"""Close codes (RFC 6455 §7.4.1, and the registry it made). Upon the second the official SDK connects again."""

METHOD = "WEBSOCKET"
"""What stands for the method in the log."""

NOT_TEXT = failure("bad_request", "Messages are JSON in text frames; this one is binary")
RESTARTING = failure("stopping", "The server restarts: connect again")
TOO_MANY_LANES = failure("too_many_lanes", f"This WebSocket answers in {MOST_LANES} streams at once, not in more")
TOO_MANY_WAIT = failure("too_many_waiting", "Too many requests wait on this WebSocket: read their answers first")


class WebSocketEndpoint:
    """A row of SOCKETS. `stopping` ends its sockets when what they are answering is told."""

    def __init__(self, operation: WebSocketOperation, services: Services, stopping: asyncio.Event) -> None:
        self.operation, self.services, self.stopping = operation, services, stopping
        self.method = cohere_methods.find("POST", operation.call.upstream)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves an accepted socket until its caller leaves, or has been silent too long, or the server stops."""
        socket = Socket(self, scope, receive, send)
        reading = asyncio.ensure_future(socket.read())
        stopping = asyncio.ensure_future(self._stopped(socket))
        try:
            await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await _close(send, RESTARTS, "the server restarts")
            elif not reading.result():
                await _close(send, SILENT, "no message for too long")
        except asyncio.CancelledError:
            await socket.leave()
            await _close(send, RESTARTS, "the server restarts")
            raise
        finally:
            stopping.cancel()
            reading.cancel()
            await socket.leave()

    async def _stopped(self, socket: "Socket") -> None:
        await self.stopping.wait()
        await socket.finish()


async def _close(send: Send, code: int, reason: str) -> None:
    await send({"type": "websocket.close", "code": code, "reason": reason})


class StreamQueue(Struct):
    """waiting: its requests that have not begun."""

    waiting: deque[ClientMessage]
    task: "asyncio.Task[None] | None" = None


class Socket:
    """One open socket."""

    def __init__(self, endpoint: WebSocketEndpoint, scope: Scope, receive: Receive, send: Send) -> None:
        self._operation, self._services, self._method = endpoint.operation, endpoint.services, endpoint.method
        self._receive, self._send = receive, send
        self._record = record_of(scope)
        self._recent = ConnectionState(self._services.state)
        self._lanes: dict[str, StreamQueue] = {}
        self._numbers = itertools.count(1)
        self._rested = time.monotonic()
        self._left = self._stopping = False

    async def read(self) -> bool:
        """Takes messages until the caller leaves: True. False when nothing was said for too long."""
        while (message := await self._message()) is not None:
            if message["type"] == "websocket.disconnect":
                self._left = True
                return True
            if message["type"] == "websocket.receive":
                await self._take(message.get("text"))
        return False

    async def finish(self) -> None:
        """What has begun, or waits, is answered; nothing more is taken."""
        self._stopping = True
        while tasks := [lane.task for lane in self._lanes.values() if lane.task is not None]:
            await asyncio.wait(tasks)

    async def leave(self) -> None:
        """What has not ended is given up, and with it the calls to Cohere."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _message(self) -> Message | None:
        patience = self._services.settings.timeouts.websocket_idle
        while True:
            try:
                async with asyncio.timeout(patience):
                    return await self._receive()
            except TimeoutError:
                if not self._lanes and time.monotonic() - self._rested >= patience:
                    return None

    async def _take(self, text: str | None) -> None:
        """A message gets its place in its lane; what is wrong with it is told when its turn comes."""
        asked = ClientMessage(failure=NOT_TEXT) if text is None else responses_websocket.parse_message(text)
        trouble = self._trouble(asked)
        if trouble is not None:
            await self._say(responses_websocket.error_message(trouble, asked.stream_id, {}))
            return
        lane = self._lanes.setdefault(asked.stream_id, StreamQueue(deque()))
        lane.waiting.append(asked)
        if lane.task is None:
            lane.task = asyncio.get_running_loop().create_task(self._run(asked.stream_id, lane))

    def _trouble(self, asked: ClientMessage) -> Failure | None:
        """Why a message cannot be taken now."""
        if self._stopping:
            return RESTARTING
        limit = self._services.settings.body_limit
        if len(asked.body) > limit:
            return failure("body_too_large", f"The message is larger than {limit} bytes")
        if asked.stream_id not in self._lanes and len(self._lanes) >= MOST_LANES:
            return TOO_MANY_LANES.at("stream_id")
        waiting = [len(one.body) for lane in self._lanes.values() for one in lane.waiting]
        if len(waiting) >= MOST_WAITING or sum(waiting) + len(asked.body) > limit:
            return TOO_MANY_WAIT
        return None

    async def _run(self, name: str, lane: StreamQueue) -> None:
        try:
            while lane.waiting:
                await self._serve(lane.waiting.popleft())
        finally:
            del self._lanes[name]
            self._rested = time.monotonic()

    async def _say(self, document: bytes) -> None:
        await self._send({"type": "websocket.send", "text": document.decode()})

    # --- one request ---------------------------------------------------------------------------------------

    async def _serve(self, asked: ClientMessage) -> None:
        """Answers a message, which is recorded like any request."""
        lifecycle = self._services.lifecycle
        record = lifecycle.begin_message(self._record, next(self._numbers), self._operation.call.name)
        turn = self._recent.turn()
        try:
            await self._answer(asked, record, turn)
            record.status = 200
        except asyncio.CancelledError as error:
            lifecycle.fail(record, CallerLeft() if self._left else error)
            raise
        except Exception as error:
            await self._failed(error, asked, record)
        finally:
            if record.error:
                turn.failed()
            lifecycle.finish(record)

    async def _answer(self, asked: ClientMessage, known: RequestRecord, turn: SocketTurn) -> None:
        if asked.failure is not None:
            raise CallerError(asked.failure)
        outlet = WebSocketSink(self._say, asked.stream_id, known)
        if asked.generate:
            handler = RequestHandler(self._operation.call, self._method, self._services, known, turn)
            await handler.respond(await handler.prepare(asked.body), outlet)
        else:
            await self._prepare(asked.body, outlet, known, turn)

    async def _prepare(self, body: bytes, outlet: "WebSocketSink", known: RequestRecord, turn: SocketTurn) -> None:
        """A response without an answer, to be continued: Cohere is not asked."""
        state_options, finished = self._operation.call.state_options, self._operation.call.finished_response
        assert state_options is not None and finished is not None, "what a WebSocket serves has state"
        response_id = new_response_id()
        recalled = await turn.recall(state_options(body, response_id), response_id, known.principal)
        prepared = self._operation.prepare(body, context_of(self._services, known, recalled))
        known.notes = len(prepared.notes)
        await turn.keep(recalled, known.principal, finished(prepared.final), prepared.final)
        outlet.notes = prepared.notes.header()
        await outlet.documents(prepared.events)

    async def _failed(self, error: Exception, asked: ClientMessage, known: RequestRecord) -> None:
        told = self._services.lifecycle.fail(known, error)
        if told is None:
            return
        known.status = told.status
        retry_after = error.retry_after if isinstance(error, GatewayError) else None
        headers = {name.decode(): value.decode("latin-1") for name, value in error_responses.headers(told, retry_after)}
        headers["x-request-id"] = known.request_id
        if known.trace_id:
            headers["x-cohere-trace-id"] = known.trace_id
        del headers["content-type"]
        await self._say(responses_websocket.error_message(told, asked.stream_id, headers))


class WebSocketSink:
    """A socket as the place where a call's answer goes: `streaming.ResponseSink`. Each document is a message."""

    def __init__(self, say: Callable[[bytes], Awaitable[None]], lane: str, known: RequestRecord) -> None:
        self.notes = ""
        self._say, self._lane, self._known = say, lane, known

    async def whole(self, call: Translation, answer: bytes) -> None:
        await self.begin(call)
        await self.documents([answer])

    async def begin(self, call: Translation) -> None:
        self._known.first_byte, self._known.response_started = time.monotonic(), True
        self.notes = call.notes.header() if len(call.notes) else ""

    async def documents(self, documents: Sequence[bytes]) -> None:
        for document in documents:
            await self._say(responses_websocket.event_message(document, self._lane, self.notes))
            self.notes = ""  # the first event has them

    async def end(self, documents: Sequence[bytes], stream: Stream) -> None:
        await self.documents(documents)
