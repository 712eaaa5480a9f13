"""The endpoint of forms with a file: the texts are translated, the file is sent on while it comes.

Cohere wants the file last, callers send it anywhere. Where all that must precede it has come first, nothing is kept;
else the file waits on disk until the form is whole. No operation and no field is named here.
"""

import contextlib
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from typing import IO

import msgspec
from starlette.types import Receive, Scope, Send

from gateway.auth.principal import Principal
from gateway.errors import GatewayError
from gateway.http import body, path_aliases, sse
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.multipart import File, Form
from gateway.http.path_aliases import DEPLOYMENT, SAID
from gateway.http.responses import JSON_TYPE, STREAM_HEADERS, note_headers
from gateway.observability import record
from gateway.observability.record import RequestRecord
from gateway.pipeline.handler import accepted
from gateway.pipeline.operations import UploadOperation, UploadTranslation
from gateway.pipeline.services import Services
from gateway.upstream.response import ProxyRequest
from gateway.upstream.session import USER_AGENT
from translators.core.contracts import Context
from translators.core.errors import InvalidField
from translators.core.field_table import Verdict
from translators.core.model_names import addressed

IN_MEMORY = 256 * 1024
"""Bytes of a file that waits for its form which are kept off the disk."""

BLOCK = 64 * 1024

SENT_HEADERS = (("accept", "application/json"), ("accept-encoding", "identity"), ("user-agent", USER_AGENT))

PLAIN_TYPE = (b"content-type", b"text/plain; charset=utf-8")


class UploadEndpoint:
    """A row of UPLOADS as an ASGI application."""

    def __init__(self, operation: UploadOperation, services: Services) -> None:
        self._operation, self._services = operation, services
        sent = {row.name for row in operation.fields.rows if row.verdict is Verdict.SEND}
        self._before_the_file = sent | set(operation.needed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, operation, known = self._services, self._operation, record.of(scope)
        known.operation = operation.name
        limit = services.settings.audio_limit
        body.refuse_declared(scope, limit)
        async with DisconnectWatcher(receive, listening=False) as departure, contextlib.AsyncExitStack() as stack:
            pieces = body.Pieces(receive, limit, services.settings.timeouts.request_body, departure)
            form = Form(scope, pieces, operation.file)
            await form.to_the_file()
            context = services.context(scope)
            if form.file is None:
                message = f"Missing required parameter: '{operation.file}'"
                raise InvalidField(operation.file, message, "missing_required_parameter")
            contents = form.contents()
            if not all(form.fields.get(name) for name in operation.needed):
                contents = _read(stack.enter_context(await _spooled(contents)))
            early = set(form.fields)
            call = self._call(form, scope, context, early)
            services.catalogue.notice(call.model, scope["gateway.caller"])
            known.model = call.model
            answer = await self._asked(call, form, contents, scope["gateway.caller"], known)
            if early != set(form.fields):
                call = self._call(form, scope, context, early)
            await self._tell(call, answer, known, send, departure)

    def _call(self, form: Form, scope: Scope, context: Context, early: set[str]) -> UploadTranslation:
        """The call of the form as far as it has come. Raises InvalidField.

        early: the fields that came in time to be sent; what came behind the file counts for the answer alone.
        """
        late = [name for name in form.fields if name not in early and name in self._before_the_file]
        said = msgspec.json.encode({name: value for name, value in form.fields.items() if value and name not in late})
        if DEPLOYMENT in scope:
            said, scope[SAID] = addressed(said, scope[DEPLOYMENT])
        call = self._operation.request(said, context)
        path_aliases.tell(scope, call.notes)
        for name in late:
            call.notes.ignored(name, "it came after the file")
        for name in form.strange:
            call.notes.ignored(name, "a file that nobody wants")
        return call

    async def _asked(
        self,
        call: UploadTranslation,
        form: Form,
        contents: AsyncIterator[bytes],
        caller: Principal,
        known: RequestRecord,
    ) -> bytes:
        """Cohere's answer. Raises GatewayError, TranslationError."""
        assert form.file is not None
        upload = Upload(form, call.fields, form.file, self._operation.file, contents)
        known.upstream_began = time.monotonic()
        try:
            headers = (("content-type", upload.content_type), *SENT_HEADERS)
            passage = ProxyRequest("POST", self._operation.upstream, headers, upload)
            path = self._operation.upstream
            async with self._services.upstream.forward(passage, caller, path, call.model, repeatable=False) as reply:
                await accepted(reply, known, call.notes, caller)
                return await reply.whole()
        finally:
            known.upstream_ended = time.monotonic()

    async def _tell(
        self, call: UploadTranslation, answer: bytes, known: RequestRecord, send: Send, departure: DisconnectWatcher
    ) -> None:
        told = call.translate_response(answer)
        known.notes = len(call.notes)
        self._services.metrics.note(self._operation.name, call.notes)
        departure.over()
        if told.documents:
            known.streamed = True
            known.first_byte = time.monotonic()
            headers = [*STREAM_HEADERS, *note_headers(call.notes)]
            shown = sse.encode(told.documents) + sse.DONE
        else:
            kind = PLAIN_TYPE if told.plain else JSON_TYPE
            headers = [kind, (b"content-length", b"%d" % len(told.body)), *note_headers(call.notes)]
            shown = told.body
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": shown})


class Upload:
    """The form for Cohere, as `upstream.client.Upload`: the texts, then the file."""

    def __init__(
        self,
        form: Form,
        fields: Iterable[tuple[str, str]],
        file: File,
        part: str,
        contents: AsyncIterator[bytes],
    ) -> None:
        self._form, self._fields, self._file, self._part, self._contents = form, fields, file, part, contents
        self._boundary = secrets.token_hex(16)
        self._sent = False
        self.content_type = f"multipart/form-data; boundary={self._boundary}"

    @property
    def over(self) -> bool:
        return self._sent

    @property
    def failure(self) -> GatewayError | None:
        return self._form.failure

    async def __aiter__(self) -> AsyncIterator[bytes]:
        texts = b"".join(self._head(name) + b"\r\n" + value.encode() + b"\r\n" for name, value in self._fields)
        file = f'; filename="{_quoted(self._file.name or "audio")}"\r\ncontent-type: {self._file.content_type}'
        yield texts + self._head(self._part, file) + b"\r\n"
        async for piece in self._contents:
            yield piece
        self._sent = True
        yield f"\r\n--{self._boundary}--\r\n".encode()

    def _head(self, name: str, more: str = "") -> bytes:
        return f'--{self._boundary}\r\ncontent-disposition: form-data; name="{_quoted(name)}"{more}\r\n'.encode()


def _quoted(text: str) -> str:
    """A name in a part's head, escaped as browsers do it (the HTML standard, multipart form data)."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


async def _spooled(contents: AsyncIterator[bytes]) -> IO[bytes]:
    """The file whole, at its beginning. It is no larger than the limit on the request that it came in."""
    spool: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)
    try:
        async for piece in contents:
            spool.write(piece)
    except BaseException:
        spool.close()
        raise
    spool.seek(0)
    return spool


async def _read(spool: IO[bytes]) -> AsyncIterator[bytes]:
    while block := spool.read(BLOCK):
        yield block
