"""The endpoint of forms with a file: the texts are translated, the file is sent on while it comes.

Cohere wants the file last, callers send it anywhere. Where all that must precede it has come first, nothing is kept;
else the file waits on disk until the form is whole. Which fields precede it is the operation's to say.
"""

import contextlib
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from typing import IO

import msgspec
from starlette.types import Receive, Scope, Send

from gateway import cohere_methods
from gateway.errors import GatewayError
from gateway.http import body, sse
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.multipart import File, Form
from gateway.http.responses import JSON_TYPE, STREAM_HEADERS, note_headers
from gateway.observability.record import RequestRecord, record_of
from gateway.pipeline.admission import Admission
from gateway.pipeline.handler import context_of
from gateway.pipeline.operations import UploadOperation, UploadTranslation
from gateway.pipeline.services import Services
from gateway.upstream.attempts import CallOptions
from gateway.upstream.response import ProxyRequest
from gateway.upstream.session import USER_AGENT
from translators.core.contracts import Context
from translators.core.errors import InvalidField
from translators.core.field_table import Verdict
from translators.core.model_names import with_deployment

IN_MEMORY = 256 * 1024
"""Bytes of a file that waits for its form which are kept off the disk."""

BLOCK = 64 * 1024

SENT_HEADERS = (("accept", "application/json"), ("accept-encoding", "identity"), ("user-agent", USER_AGENT))

PLAIN_TYPE = (b"content-type", b"text/plain; charset=utf-8")


class UploadEndpoint:
    """A row of UPLOADS as an ASGI application."""

    def __init__(self, operation: UploadOperation, services: Services) -> None:
        self._operation, self._services = operation, services
        self._method = cohere_methods.find("POST", operation.upstream)
        forwarded_fields = {row.name for row in operation.fields.rows if row.verdict is Verdict.SEND}
        self._before_the_file = forwarded_fields | set(operation.required_texts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, operation, record = self._services, self._operation, record_of(scope)
        record.operation, record.cohere_method = operation.name, self._method.name
        services.admission.permit(record, self._method)
        settings = services.settings
        # Before anything is read: who declares too much need not send it.
        body.refuse_declared(record.headers, settings.audio_limit)
        # Not listening yet: `Pieces` reads the body, and two readers would take each other's messages.
        async with DisconnectWatcher(receive, listening=False) as watcher, contextlib.AsyncExitStack() as stack:
            pieces = body.Pieces(receive, settings.audio_limit, settings.timeouts, watcher)
            form = Form(record.headers, pieces, operation.file)
            await form.to_the_file()
            if form.file is None:
                message = f"Missing required parameter: '{operation.file}'"
                raise InvalidField(operation.file, message, "missing_required_parameter")
            contents = form.contents()
            # One of them may still come behind the file, so the form is read to its end first.
            if not all(form.fields.get(name) for name in operation.required_texts):
                contents = _read(stack.enter_context(await _spooled(contents)))
            early = set(form.fields)
            context = context_of(services, record, seals=False)
            translation = self._translate(form, record, context, early)
            services.catalog.look_up(translation.model, record.principal)
            with await services.admission.admit(
                record, self._method, translation.workload, translation.notes
            ) as admission:
                response = await self._post(translation, form, form.file, contents, admission)
                # What stood behind the file has come by now. Cohere does not get it; it may still shape the answer.
                if early != set(form.fields):
                    translation = self._translate(form, record, context, early)
                    admission.set_notes(translation.notes)
            await self._respond(translation, response, record, send, watcher)

    def _translate(self, form: Form, record: RequestRecord, context: Context, early: set[str]) -> UploadTranslation:
        """Returns the translation of the form as far as it has come. Raises InvalidField.

        early: the fields that came in time to be sent. What came behind the file counts for the response alone.
        """
        late = [name for name in form.fields if name not in early and name in self._before_the_file]
        # An empty text is how a form leaves a field out.
        fields = {name: value for name, value in form.fields.items() if value and name not in late}
        request_body = msgspec.json.encode(fields)
        if record.deployment:
            request_body, record.replaced_model = with_deployment(request_body, record.deployment)
        translation = self._operation.translate(request_body, context)
        body.note_changes(record, translation.notes)
        for name in late:
            translation.notes.ignored(name, "it came after the file")
        for name in form.strange:
            translation.notes.ignored(name, "a file that nobody wants")
        return translation

    async def _post(
        self,
        translation: UploadTranslation,
        form: Form,
        file: File,
        contents: AsyncIterator[bytes],
        admission: Admission,
    ) -> bytes:
        """Returns Cohere's response to the form with its file. Raises GatewayError, TranslationError."""
        path = self._operation.upstream
        upload = Upload(form, translation.fields, file, self._operation.file, contents)
        headers = (("content-type", upload.content_type), *SENT_HEADERS)
        request = ProxyRequest("POST", path, headers, upload, upload.with_model)
        principal = admission.record.principal
        options = CallOptions.of(admission.record, translation.model)
        # Not repeatable: the file goes by once.
        async with self._services.upstream.forward(
            request, principal, path, repeatable=False, options=options
        ) as response:
            answer = await (await admission.accept(response)).read_body()
        admission.bill(translation.model, answer)
        return answer

    async def _respond(
        self,
        translation: UploadTranslation,
        response: bytes,
        record: RequestRecord,
        send: Send,
        watcher: DisconnectWatcher,
    ) -> None:
        transcript = translation.translate_response(response)
        # All that follows is one send.
        watcher.over()
        if transcript.documents:
            # Cohere's own answer is always whole (docs/cohere-api.md#transcription): all events leave at once.
            record.streamed = True
            record.first_byte = time.monotonic()
            headers = [*STREAM_HEADERS, *note_headers(translation.notes)]
            data = sse.encode(transcript.documents) + sse.DONE
        else:
            data = transcript.body
            content_type = PLAIN_TYPE if transcript.plain else JSON_TYPE
            headers = [content_type, (b"content-length", b"%d" % len(data)), *note_headers(translation.notes)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})


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
        # By chance, so that nobody can put it into their file.
        self._boundary = secrets.token_hex(16)
        self._complete = False
        self.content_type = f"multipart/form-data; boundary={self._boundary}"

    def with_model(self, model: str) -> "Upload":
        """Returns this form, which is not sent yet, with another name of the model."""
        self._fields = [(name, model if name == "model" else value) for name, value in self._fields]
        return self

    @property
    def complete(self) -> bool:
        return self._complete

    @property
    def failure(self) -> GatewayError | None:
        return self._form.failure

    async def __aiter__(self) -> AsyncIterator[bytes]:
        texts = b"".join(self._head(name) + b"\r\n" + value.encode() + b"\r\n" for name, value in self._fields)
        file = f'; filename="{_quoted(self._file.name or "audio")}"\r\ncontent-type: {self._file.content_type}'
        yield texts + self._head(self._part, file) + b"\r\n"
        async for piece in self._contents:
            yield piece
        # Before the last piece: only the connection of a complete request is used again
        # (`gateway/upstream/response.py`).
        self._complete = True
        yield f"\r\n--{self._boundary}--\r\n".encode()

    def _head(self, name: str, more: str = "") -> bytes:
        return f'--{self._boundary}\r\ncontent-disposition: form-data; name="{_quoted(name)}"{more}\r\n'.encode()


def _quoted(text: str) -> str:
    """Escapes a name in a part's head as browsers do it (the HTML standard, multipart form data)."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


async def _spooled(contents: AsyncIterator[bytes]) -> IO[bytes]:
    """Returns the file whole, at its beginning. It is no larger than the limit on the request that it came in."""
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
