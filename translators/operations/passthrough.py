"""Native requests and answers: the few fields that are read of them, and the few changes that are made.

Native traffic is passed on byte for byte (docs/native-api.md), and what is read here is read beside that. Two things
change a body: LiteLLM's path `/litellm/cohere/v2/chat`, whose published schema has fields and values that Cohere does
not have, and the operator's rules for models and safety modes.
"""

from collections.abc import Collection, Mapping
from typing import Any

from msgspec import DecodeError, Raw
from msgspec.json import Decoder, Encoder

from schemas.cohere.native import Counted, Inputs, NativeRequest, decode_inputs, decode_request
from translators.core.contracts import Policy, Workload
from translators.core.errors import Failure
from translators.core.model_names import SUCCESSORS, resolve_and_note
from translators.core.notes import Notes
from translators.core.safety_modes import safety_rank

RENAMED: Mapping[str, str] = {"log_probs": "logprobs", "strict_tool_choice": "strict_tools"}
"""A field of LiteLLM's schema -> Cohere's field."""

REWORDED: Mapping[tuple[str, str], str | None] = {("tool_choice", "AUTO"): None, ("safety_mode", "NONE"): "OFF"}
"""A field and a value of LiteLLM's schema -> Cohere's value, None where the field has to be left out."""

DATA_IMAGE, MAX_IMAGES = b'"data:image/', 200
"""The start of an image in a JSON body, and the most that are counted. Cohere takes 96 in a call."""

DOCUMENTS_PER_SEARCH = 100

MAX_OUTPUT_TOKENS = 10**9
"""What a larger `max_tokens` counts as. No answer is as long."""

NULL = Raw(b"null")
NO_TOOLS = frozenset((b"null", b"[]", b"[ ]"))
"""Values of `tools` that stand for no tools."""

PIECES = (b"content-delta", b"tool-plan-delta", b"tool-call-delta", b"text-generation", b"tool-calls-chunk")
"""Types of events with a piece of generated text, about a token each: those of version 2, then of version 1."""

_decode_fields = Decoder(dict[str, Raw]).decode
_decode_string = Decoder(str).decode
_encode = Encoder().encode


def requested_model(body: bytes) -> tuple[str, bool]:
    """Returns the model in a body, and whether a stream is requested; empty and False if it is no JSON object."""
    try:
        parsed = decode_request(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        parsed = NativeRequest()
    return parsed.model if isinstance(parsed.model, str) else "", parsed.stream is True


def alias_error(body: bytes, failure: Failure) -> bytes | None:
    """Adds OpenAI's `type` and `code` to an error body of Cohere's, as LiteLLM does; None if it is no object."""
    try:
        fields = _decode_fields(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return _encode({**fields, "type": failure.type, "code": failure.code})


def workload(model: str, body: bytes) -> Workload:
    """Estimates the workload of a native request. The bytes of images do not count as prompt."""
    try:
        parsed = decode_inputs(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        parsed = Inputs()
    images, image_bytes = _data_images(body)
    searches = max(1, -(-_length(parsed.documents) // DOCUMENTS_PER_SEARCH))
    inputs = max(1, sum(map(_length, (parsed.texts, parsed.images, parsed.inputs))))
    prompt_bytes, max_tokens = len(body) - image_bytes, _bound(parsed.max_tokens)
    return Workload(model, prompt_bytes, max_tokens, images=images, searches=searches, inputs=inputs)


def _length(value: Counted) -> int:
    return len(value) if isinstance(value, list) else 0


def _bound(value: Any) -> int | None:
    """Returns `max_tokens` of a body that nothing has validated; None for what bounds no answer.

    1.0 is a number, too, and one beyond every model's answer is cut. `True`, an int in Python, is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1:
        return None
    return int(min(value, MAX_OUTPUT_TOKENS))


def _data_images(body: bytes) -> tuple[int, int]:
    """Counts the images in a body that are data URIs, and their bytes."""
    # A search for bytes instead of parsing: nearly all of a large body is base64, which `find` skips quickly.
    images = size = 0
    start = body.find(DATA_IMAGE)
    while start >= 0 and images < MAX_IMAGES:
        end = body.find(b'"', start + 1)
        if end < 0:
            break
        images, size = images + 1, size + end - start
        start = body.find(DATA_IMAGE, end)
    return images, size


def rewrite_chat(body: bytes, policy: Policy) -> tuple[bytes, Notes]:
    """Translates a chat request of LiteLLM's schema into Cohere's. A body that needs no change is returned as it is."""
    notes = Notes()
    try:
        fields = _decode_fields(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return body, notes
    for name, upstream_name in RENAMED.items():
        if name in fields:
            value = fields.pop(name)
            fields.setdefault(upstream_name, value)
            notes.inform(name, f"{name} sent as {upstream_name}")
    for (name, value_text), upstream_value in REWORDED.items():
        if name in fields and _string(fields[name]) == value_text:
            if upstream_value is None:
                del fields[name]
                notes.inform(name, f"{name} {value_text} left out")
            else:
                fields[name] = Raw(_encode(upstream_value))
                notes.inform(name, f"{name} {value_text} sent as {upstream_value}")
    if "strict_tools" in fields and bytes(fields.get("tools", NULL)) in NO_TOOLS:
        # Cohere refuses `strict_tools` without tools.
        del fields["strict_tools"]
        notes.inform("strict_tools", "strict_tools left out, as there are no tools")
    model_changed = _set_model(fields, policy, notes)
    return (_encode(fields) if model_changed or len(notes) else body), notes


def rewrite_model(body: bytes, policy: Policy) -> tuple[bytes, Notes]:
    """Puts Cohere's id of the model into a request to LiteLLM's paths. Any other body is returned as it is."""
    notes = Notes()
    try:
        fields = _decode_fields(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return body, notes
    return (_encode(fields) if _set_model(fields, policy, notes) else body), notes


def spells_otherwise(body: bytes, names: Collection[str]) -> bool:
    """Returns whether a body has one of these fields in other letter case, or cannot be read.

    Cohere's server, written in Go, reads `Model` as `model`, and the later of both wins. A policy that looked at
    `model` alone could be passed by (docs/decisions.md#a-path-that-two-readers-could-read-differently-is-refused).
    """
    try:
        fields = _decode_fields(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return True
    return is_ambiguous(fields, names)


def is_ambiguous(fields: Collection[str], names: Collection[str]) -> bool:
    """Returns whether one of these names is among the fields in other letter case. names: in lower case."""
    return any(name.casefold() in names and name not in names for name in fields)


def raise_safety_mode(body: bytes, minimum: str, notes: Notes) -> bytes:
    """Puts the weakest permitted safety mode into a chat request that asks for a weaker one. Raises DecodeError."""
    fields = _decode_fields(body)
    # CONTEXTUAL is what Cohere uses for a request without the field.
    requested = fields.get("safety_mode", NULL)
    rank = safety_rank("CONTEXTUAL" if requested == NULL else _string(requested))
    if rank >= safety_rank(minimum):
        return body
    fields["safety_mode"] = Raw(_encode(minimum))
    notes.inform("safety_mode", f"safety_mode raised to {minimum}, the weakest that this key may ask for")
    return _encode(fields)


def replace_removed_model(body: bytes, model: str, policy: Policy) -> tuple[bytes, Notes]:
    """Puts a removed model's successor into a request. Any other body is returned as it is. model: the body's."""
    notes = Notes()
    if not policy.successors or model not in SUCCESSORS:
        return body, notes
    fields = _decode_fields(body)
    fields["model"] = Raw(_encode(SUCCESSORS[model]))
    notes.inform("model", f"model {model} -> {SUCCESSORS[model]}")
    return _encode(fields), notes


def replace_model(body: bytes, model: str) -> bytes:
    """Returns a request with this model. body: a JSON object."""
    fields = _decode_fields(body)
    fields["model"] = Raw(_encode(model))
    return _encode(fields)


def _set_model(fields: dict[str, Raw], policy: Policy, notes: Notes) -> bool:
    """Puts Cohere's id of the model into `fields`. Returns whether that changed them. Notes another model."""
    requested = _string(fields.get("model", Raw(b"")))
    if not requested:
        return False
    model = resolve_and_note(requested, policy, notes)
    if model != requested:
        fields["model"] = Raw(_encode(model))
    return model != requested


def _string(value: Raw) -> str:
    """Returns a field's string; empty if it is something else."""
    try:
        return _decode_string(value)
    except (DecodeError, UnicodeDecodeError):
        return ""


def count_pieces(captured: bytes) -> int:
    """Counts the pieces of generated text in a stream, or a part of one."""
    return sum(captured.count(b'"%b"' % kind) for kind in PIECES)
