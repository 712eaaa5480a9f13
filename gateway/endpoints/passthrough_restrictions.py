"""What a key's restrictions do to the body of a native request, which otherwise goes on byte for byte.

A body that cannot be read here, or that Cohere may read otherwise, is refused where something is decided by it.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping

from gateway.auth.permissions import Access
from gateway.cohere_methods import Method
from gateway.errors import CallerError, failure
from gateway.http.multipart import Form
from gateway.observability.record import RequestRecord
from translators.core.errors import Failure
from translators.core.notes import Notes
from translators.operations import passthrough

FIELDS = ("model", "safety_mode")

PIECE_BYTES = 64 * 1024
"""Of a form that is read at once."""

IN_FORMS = ("transcription",)
"""Groups whose model is a text in a form beside a file."""

WITH_SAFETY_MODE = ("v2.chat", "chat")
"""Methods whose body says which safety mode is wanted."""

BATCH = "batches.create"
"""Its requests are in a file at Cohere, and so are the safety modes that they ask for."""

EMBEDDING_BATCH = ("embed", "batch-embed")
"""What the models of a batch begin with that has no chats in it."""

UNREADABLE = failure(
    "bad_request",
    "The body must be a JSON object, not compressed, with 'model' and 'safety_mode' in small letters and once: the API "
    "key is restricted in these",
)

UNROUTABLE = failure(
    "bad_request",
    "The body must be a JSON object, not compressed, with 'model' in small letters and once: it is routed by that",
)

UNCOUNTABLE = failure(
    "bad_request",
    "The body must be a JSON object, not compressed, with 'model' in small letters and once: limits or budgets depend "
    "on it",
)

UNCLEAR_FORM = failure("bad_request", "The form must name its model once, in a text called 'model'").at("model")


def needs_form(access: Access, method: Method, model_decides: bool) -> bool:
    """Tells whether the form of a request must be read before it is passed on, for the model in it."""
    return (model_decides or bool(access.models)) and method.group in IN_FORMS


def require_model_in_sight(json_body: bytes | None, record: RequestRecord, otherwise: Failure) -> None:
    """Raises CallerError (400) for a body of whose model something depends, and that cannot be read for certain."""
    if json_body is not None:
        if b"content-encoding" in record.headers or passthrough.has_two_readings(json_body, ("model",)):
            raise CallerError(otherwise)


async def model_in_form(headers: Mapping[bytes, bytes], content: bytes) -> str:
    """Returns the model that a whole form names; empty for none. Raises CallerError (400, 415) for an unclear form."""

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), PIECE_BYTES):
            yield content[start : start + PIECE_BYTES]
            await asyncio.sleep(0)  # others are served between two pieces

    form = Form(headers, pieces(), "file")
    await form.to_the_file()
    async for _ in form.contents():  # to the end: a second `model` behind the file is refused
        pass
    model = form.fields.get("model", "")
    # A list is `model[]`, a file is in `strange`, and `Model` may be what Cohere reads.
    if not isinstance(model, str) or "model" in form.strange or passthrough.is_ambiguous(form.fields, FIELDS):
        raise CallerError(UNCLEAR_FORM)
    return model


def restrict(
    access: Access, method: Method, json_body: bytes | None, record: RequestRecord, notes: Notes
) -> bytes | None:
    """Returns the body to send. Raises CallerError: 400 for one that cannot be judged, 403 for one that may not go."""
    minimum = access.safety_mode if method.group == "chat" or method.name == BATCH else ""
    if not access.models and not minimum:
        return json_body
    if json_body is not None:
        if b"content-encoding" in record.headers or passthrough.has_two_readings(json_body, FIELDS):
            raise CallerError(UNREADABLE)
    if not minimum:
        return json_body
    if method.name in WITH_SAFETY_MODE:
        return passthrough.raise_safety_mode(json_body or b"{}", minimum, notes)
    if method.name == BATCH:
        if not record.model.startswith(EMBEDDING_BATCH):
            sentence = (
                f"{method.name} is not permitted: the gateway does not read the file that has its safety modes, and "
                f"{access.subject} may use none below {minimum}; a batch of an embedding model has none"
            )
            raise CallerError(failure("method_not_permitted", sentence))
        return json_body
    # CONTEXTUAL is what Cohere uses where nothing is asked for (`raise_safety_mode`). A method that cannot ask for
    # less needs to be refused only where STRICT is the least.
    if minimum == "STRICT":
        sentence = f"{method.name} is not permitted: it has no safety mode, and {access.subject} may only use STRICT"
        raise CallerError(failure("method_not_permitted", sentence))
    return json_body
