"""The endpoint of WebSockets: requests come as messages, and their events leave as messages.

Requests of one stream (`stream_id`) are answered one after the other, streams beside each other. A socket has limits:
for streams, for requests that wait, for the responses that it holds, and for the time that it may be idle. Who may
open one is decided in `websocket_handshake.py`; the answers are made in `handler.py`.
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
from gateway.http.body import note_changes, replace_halves
from gateway.http.json_bounds import refuse_large
from gateway.memory_budget import HELD
from gateway.observability.record import DISCONNECT_FAILURE, RequestRecord, record_of
from gateway.pipeline.handler import RequestHandler, context_of
from gateway.pipeline.operations import WebSocketOperation
from gateway.pipeline.services import Services
from gateway.state.connection_state import ConnectionState, SocketTurn
from gateway.state.conversation_state import new_response_id
from translators.core.contracts import Stream, Translation
from translators.core.errors import Failure
from translators.operations import responses_websocket
from translators.operations.responses_websocket import ClientMessage

MAX_STREAMS = 8
"""Streams of one socket that are answered at once."""

MAX_WAITING = 32
"""Requests of one socket that wait for their turn; together they may have as many bytes as one request."""

NORMAL_CLOSURE, SERVICE_RESTART = 1000, 1012
"""Close codes (RFC 6455 §7.4.1, and IANA's registry). Upon the second the official SDK connects again."""

METHOD = "WEBSOCKET"
"""The method in the log."""

NOT_TEXT = failure("bad_request", "Messages are JSON in text frames; this one is binary")
RESTARTING = failure("stopping", "The server is restarting: connect again")
TOO_MANY_STREAMS = failure("too_many_lanes", f"A WebSocket can have {MAX_STREAMS} streams at the same time")
TOO_MANY_WAITING = failure("too_many_waiting", "Too many requests are queued on this WebSocket: read the answers first")


class WebSocketEndpoint:
    """A row of SOCKETS. stopping: once it is set, each socket closes when its requests are answered."""

    def __init__(self, operation: WebSocketOperation, services: Services, stopping: asyncio.Event) -> None:
        self.operation, self.services, self.stopping = operation, services, stopping
        self.method = cohere_methods.find("POST", operation.call.upstream)

    def permit(self, request: RequestRecord) -> None:
        """Makes sure that the caller may call what this socket is for. Raises CallerError (403)."""
        self.services.admission.permit(request, self.method)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves an accepted socket until its caller leaves, has been idle for too long, or the server stops."""
        socket = Socket(self, scope, receive, send)
        reading = asyncio.ensure_future(socket.read())
        stopping = asyncio.ensure_future(self._stopped(socket))
        try:
            # Whichever ends first: a server that stops must not wait for an idle socket, nor a closed one for the
            # server.
            await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await _close(send, SERVICE_RESTART, "the server restarts")
            elif not reading.result():
                await _close(send, NORMAL_CLOSURE, "no message for too long")
        except asyncio.CancelledError:
            await socket.leave()
            await _close(send, SERVICE_RESTART, "the server restarts")
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


class QueuedMessage(Struct):
    """held: the bytes that the connection's memory counts for it. replaced_halves: as in the record of a request."""

    message: ClientMessage
    held: int
    replaced_halves: bool


class StreamQueue(Struct):
    """The requests of one stream. waiting: those that have not begun. task: answers them, in order."""

    waiting: deque[QueuedMessage]
    task: "asyncio.Task[None] | None" = None


class Socket:
    """One open socket."""

    def __init__(self, endpoint: WebSocketEndpoint, scope: Scope, receive: Receive, send: Send) -> None:
        self._operation, self._services, self._method = endpoint.operation, endpoint.services, endpoint.method
        self._receive, self._send = receive, send
        self._record = record_of(scope)
        self._state = ConnectionState(self._services.state, self._record.memory)
        self._queues: dict[str, StreamQueue] = {}
        self._numbers = itertools.count(1)
        self._idle_since = time.monotonic()
        self._left = self._stopping = False
        self._closed_for: Failure | None = None  # what the caller sent, if that ended the connection

    async def read(self) -> bool:
        """Takes messages until the caller leaves. Returns False if the socket was idle for too long."""
        while (message := await self._message()) is not None:
            if message["type"] == "websocket.disconnect":
                self._left = True
                self._closed_for = message.get(DISCONNECT_FAILURE)
                if self._closed_for is not None:
                    self._fail(self._record, self._closed_for)
                return True
            if message["type"] == "websocket.receive":
                await self._enqueue(message.get("text"), message.get(HELD, 0))
        return False

    async def finish(self) -> None:
        """Takes no more requests; returns when all are answered."""
        self._stopping = True
        while tasks := [queue.task for queue in self._queues.values() if queue.task is not None]:
            await asyncio.wait(tasks)

    async def leave(self) -> None:
        """Cancels all requests, and with them the calls to Cohere."""
        tasks = [queue.task for queue in self._queues.values() if queue.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _message(self) -> Message | None:
        """Returns the next ASGI message; None if the socket was idle for too long."""
        timeout = self._services.settings.timeouts.websocket_idle
        while True:
            try:
                async with asyncio.timeout(timeout):
                    return await self._receive()
            except TimeoutError:
                # A socket whose answers are under way is not idle, however long its caller has had nothing to say.
                if not self._queues and time.monotonic() - self._idle_since >= timeout:
                    return None

    async def _enqueue(self, text: str | None, held: int) -> None:
        """Puts a message into the queue of its stream. An error in the message is sent when its turn comes.

        held: bytes that are counted for it, until it is answered or refused.
        """
        # Parsed here and not in its turn, since the message itself says which stream it belongs to.
        message, replaced = await self._parse(text) if text is not None else (ClientMessage(failure=NOT_TEXT), False)
        refusal = self._refusal(message)
        if refusal is not None:
            self._record.memory.release(held)
            await self._send_text(responses_websocket.error_message(refusal, message.stream_id, {}))
            return
        queue = self._queues.setdefault(message.stream_id, StreamQueue(deque()))
        queue.waiting.append(QueuedMessage(message, held, replaced))
        if queue.task is None:
            queue.task = asyncio.get_running_loop().create_task(self._run(message.stream_id, queue))

    async def _parse(self, text: str) -> tuple[ClientMessage, bool]:
        """Reads a message, and tells whether halves of surrogate pairs were replaced in it.

        What is wrong with it becomes its `failure`.
        """
        services, parse = self._services, responses_websocket.parse_message
        encoded, is_large = text.encode(), len(text) > services.offload.min_bytes
        try:
            # Before anything parses it: a few bytes of JSON can become many times as much memory.
            if is_large:
                await refuse_large((encoded,), services.settings)
            whole = await replace_halves(encoded)
            text, replaced = (text, False) if whole is encoded else (whole.decode(), True)
            if not is_large:
                return parse(text), replaced
            return await services.offload.run(self._record.principal, len(text), parse, text), replaced
        except CallerError as error:
            return ClientMessage(failure=error.failure), False

    def _refusal(self, message: ClientMessage) -> Failure | None:
        """Returns why a message cannot be taken now; None if it can."""
        if self._stopping:
            return RESTARTING
        limit = self._services.settings.body_limit
        if len(message.body) > limit:
            return failure("body_too_large", f"The message is larger than {limit} bytes")
        if message.stream_id not in self._queues and len(self._queues) >= MAX_STREAMS:
            return TOO_MANY_STREAMS.at("stream_id")
        # Together they may be as large as one body: a caller who does not read cannot fill the memory with messages.
        waiting = [len(one.message.body) for queue in self._queues.values() for one in queue.waiting]
        if len(waiting) >= MAX_WAITING or sum(waiting) + len(message.body) > limit:
            return TOO_MANY_WAITING
        return None

    async def _run(self, stream_id: str, queue: StreamQueue) -> None:
        try:
            while queue.waiting:
                queued = queue.waiting.popleft()
                try:
                    await self._serve(queued.message, queued.replaced_halves)
                finally:
                    self._record.memory.release(queued.held)
        finally:
            # A stream exists as long as its requests, so that the names which callers choose are not collected.
            del self._queues[stream_id]
            self._idle_since = time.monotonic()

    async def _send_text(self, document: bytes) -> None:
        await self._send({"type": "websocket.send", "text": document.decode()})

    # --- one request ---------------------------------------------------------------------------------------

    async def _serve(self, message: ClientMessage, replaced_halves: bool) -> None:
        """Answers a message, which is recorded like any request."""
        lifecycle = self._services.lifecycle
        request = lifecycle.begin_message(self._record, next(self._numbers), self._operation.call.name)
        request.cohere_method, request.bytes_received = self._method.name, len(message.body)
        request.replaced_halves = replaced_halves
        if request.bodies is not None:
            request.bodies.add_request(message.body)
            request.bodies.response.type = "application/x-ndjson"
        turn = self._state.turn()
        held: list[bytes] | None = [] if lifecycle.holds_last_byte else None
        try:
            await self._answer(message, request, turn, held)
            request.status = 200
        except asyncio.CancelledError as error:
            if self._closed_for is not None:
                self._fail(request, self._closed_for)
            else:
                lifecycle.fail(request, CallerLeft() if self._left else error)
            raise
        except Exception as error:
            await self._send_error(error, message, request)
        finally:
            if request.error:
                turn.fail()
            recorded = lifecycle.finish(request)
        # The caller must not have the last byte before the row is stored, or a crash could lose what was delivered.
        if recorded is not None:
            await recorded
        for text in held or ():
            await self._send_text(text)

    async def _answer(
        self, message: ClientMessage, request: RequestRecord, turn: SocketTurn, held: list[bytes] | None
    ) -> None:
        # The key may have been revoked, or may do less, since the socket was opened.
        request.identify(self._services.authenticator.renew(request.principal, request.address))
        self._services.admission.permit(request, self._method)
        if message.failure is not None:
            raise CallerError(message.failure)
        if message.reply:
            await self._send_text(message.reply)
            return
        sink = WebSocketSink(self._send_text, message.stream_id, request, held)
        if message.generate:
            handler = RequestHandler(self._operation.call, self._method, self._services, request, turn)
            await handler.respond(await handler.prepare(message.body), sink)
        else:
            await self._prepare(message.body, sink, request, turn)

    async def _prepare(self, body: bytes, sink: "WebSocketSink", request: RequestRecord, turn: SocketTurn) -> None:
        """Sends a response without an answer, to be continued: Cohere is not called."""
        state_options, finished_response = self._operation.call.state_options, self._operation.call.finished_response
        assert state_options is not None and finished_response is not None, "operations on sockets have state"
        response_id = new_response_id()
        offload = self._services.offload
        options = await offload.run(request.principal, len(body), state_options, body, response_id)
        loaded = await turn.load(options, response_id, request.principal)
        if loaded.options.store:
            await self._services.accepted_keys.ensure(request.principal)
        context = context_of(self._services, request, loaded)
        size = len(body) + loaded.size
        prepared = await offload.run(request.principal, size, self._operation.prepare, body, context)
        note_changes(request, prepared.notes)
        request.set_notes(prepared.notes)
        await turn.save(loaded, request.principal, finished_response(prepared.final), prepared.final)
        sink.notes = prepared.notes.header()
        await sink.documents(prepared.events)

    def _fail(self, record: RequestRecord, why: Failure) -> None:
        """Records what the connection was closed for. It then has a row of its own, like a request that is refused."""
        self._services.lifecycle.fail(record, CallerError(why))
        record.status, record.has_row = why.status, True

    async def _send_error(self, error: Exception, message: ClientMessage, request: RequestRecord) -> None:
        failed = self._services.lifecycle.fail(request, error)
        if failed is None:
            return
        request.status = failed.status
        retry_after = error.retry_after if isinstance(error, GatewayError) else None
        raw_headers = error_responses.headers(failed, retry_after)
        headers = {name.decode(): value.decode("latin-1") for name, value in raw_headers}
        headers["x-request-id"] = request.request_id
        if request.trace_id:
            headers["x-cohere-trace-id"] = request.trace_id
        # The error is part of a message here, and has no body of its own.
        del headers["content-type"]
        await self._send_text(responses_websocket.error_message(failed, message.stream_id, headers))


class WebSocketSink:
    """A socket as `streaming.ResponseSink`. Each document is a message.

    held: takes the last message in the place of the socket, where it is to wait.
    """

    def __init__(
        self,
        send_text: Callable[[bytes], Awaitable[None]],
        stream_id: str,
        request: RequestRecord,
        held: list[bytes] | None = None,
    ) -> None:
        self.notes, self._held = "", held
        self._send_text, self._stream_id, self._record = send_text, stream_id, request

    committed = False

    def commit_after(self, seconds: float, translation: Translation) -> None:
        """Does nothing: nobody waits for a head on a WebSocket."""

    async def whole(self, call: Translation, answer: bytes) -> None:
        await self.begin(call)
        await self._finish([answer])

    async def begin(self, call: Translation) -> None:
        # A WebSocket has no head: its first message is where the response begins.
        self._record.first_byte, self._record.response_started = time.monotonic(), True
        self.notes = call.notes.header() if len(call.notes) else ""

    async def documents(self, documents: Sequence[bytes]) -> None:
        for document in documents:
            self._count(document)
            await self._send_text(responses_websocket.event_message(document, self._stream_id, self.notes))
            self.notes = ""  # the first event carries them

    async def end(self, documents: Sequence[bytes], stream: Stream) -> None:
        await self._finish(documents)

    def _count(self, document: bytes) -> None:
        self._record.bytes_sent += len(document)
        if self._record.bodies is not None:
            self._record.bodies.add_response(document + b"\n")

    async def _finish(self, documents: Sequence[bytes]) -> None:
        if self._held is None:
            await self.documents(documents)
            return
        await self.documents(documents[:-1])
        for document in documents[-1:]:
            self._count(document)
            self._held.append(responses_websocket.event_message(document, self._stream_id, self.notes))
