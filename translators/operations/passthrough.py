"""Native requests and answers: what little is read of them, and the one request that is changed.

Native traffic is carried byte for byte. What is read here is read on the side. Only where programs written for
another gateway's `/litellm/cohere/v2/chat` call, whose published schema has words that Cohere has not, those words
are put into Cohere's.
"""

from collections.abc import Collection, Mapping

from msgspec import DecodeError, Raw
from msgspec.json import Decoder, Encoder

from schemas.cohere.native import Inputs, NativeRequest, decode_inputs, decode_request
from translators.core.contracts import Policy, Workload
from translators.core.errors import Failure
from translators.core.model_names import SUCCESSORS, resolve_and_note
from translators.core.notes import Notes
from translators.core.safety_modes import safety_rank

RENAMED: Mapping[str, str] = {"log_probs": "logprobs", "strict_tool_choice": "strict_tools"}
"""The alias's name of a field -> Cohere's."""

REWORDED: Mapping[tuple[str, str], str | None] = {("tool_choice", "AUTO"): None, ("safety_mode", "NONE"): "OFF"}
"""A field and the alias's word for it -> Cohere's word, or None for what Cohere does when nothing is said."""

DATA_IMAGE, MAX_IMAGES = b'"data:image/', 200
"""How an image in a JSON body begins, and how many are looked for. Cohere takes 96 in a call."""

DOCUMENTS_PER_SEARCH = 100

NULL = Raw(b"null")
NO_TOOLS = frozenset((b"null", b"[]", b"[ ]"))
"""What `tools` is where there are none."""

PIECES = (b"content-delta", b"tool-plan-delta", b"tool-call-delta", b"text-generation", b"tool-calls-chunk")
"""Types of events that bring a piece of an answer, about a token each: v2's and v1's."""

_decode_fields = Decoder(dict[str, Raw]).decode
_decode_word = Decoder(str).decode
_encode = Encoder().encode


def requested_model(body: bytes) -> tuple[str, bool]:
    """The model that a body names, and whether it wants a stream; nothing of a body that is no JSON object."""
    try:
        parsed = decode_request(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        parsed = NativeRequest()
    return parsed.model if isinstance(parsed.model, str) else "", parsed.stream is True


def alias_error(body: bytes, failure: Failure) -> bytes | None:
    """Adds OpenAI's `type` and `code` to an error body of Cohere's, as the alias has them; None if it is no object."""
    try:
        fields = _decode_fields(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return _encode({**fields, "type": failure.type, "code": failure.code})


def count_inputs(body: bytes) -> int:
    """How many inputs a body has that Cohere would count; 1 where that cannot be told."""
    try:
        parsed = decode_inputs(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return 1
    return max(1, sum(len(several or ()) for several in (parsed.texts, parsed.images, parsed.inputs)))


def workload(model: str, body: bytes) -> Workload:
    """An estimate of what a native request asks of Cohere. Images are no text, whatever their bytes."""
    try:
        parsed = decode_inputs(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        parsed = Inputs()
    images, image_bytes = _data_images(body)
    bound = parsed.max_tokens if type(parsed.max_tokens) is int and parsed.max_tokens >= 0 else None
    searches = max(1, -(-len(parsed.documents or ()) // DOCUMENTS_PER_SEARCH))
    return Workload(model, len(body) - image_bytes, bound, images=images, searches=searches)


def _data_images(body: bytes) -> tuple[int, int]:
    """Counts the images in a body that are data URIs, and their bytes."""
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
    """A chat request to the alias in Cohere's words. A body that needs no change is returned as it is."""
    notes = Notes()
    try:
        fields = _decode_fields(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return body, notes
    for name, meant in RENAMED.items():
        if name in fields:
            value = fields.pop(name)
            fields.setdefault(meant, value)
            notes.inform(name, f"{name} sent as {meant}")
    for (name, word), meant_word in REWORDED.items():
        if name in fields and _word(fields[name]) == word:
            if meant_word is None:
                del fields[name]
                notes.inform(name, f"{name} {word} left out")
            else:
                fields[name] = Raw(_encode(meant_word))
                notes.inform(name, f"{name} {word} sent as {meant_word}")
    if "strict_tools" in fields and bytes(fields.get("tools", NULL)) in NO_TOOLS:
        # Cohere refuses the one without the other.
        del fields["strict_tools"]
        notes.inform("strict_tools", "strict_tools left out, as there are no tools")
    served = _put_model(fields, policy, notes)
    return (_encode(fields) if served or len(notes) else body), notes


def rewrite_model(body: bytes, policy: Policy) -> tuple[bytes, Notes]:
    """Puts Cohere's id of the model into a request to the alias. A body that needs no change is returned as it is."""
    notes = Notes()
    try:
        fields = _decode_fields(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return body, notes
    return (_encode(fields) if _put_model(fields, policy, notes) else body), notes


def spells_otherwise(body: bytes, names: Collection[str]) -> bool:
    """Whether a body has one of these fields in another spelling too, or cannot be read.

    Cohere's server, written in Go, takes `Model` for `model`, and the later of both.
    """
    try:
        fields = _decode_fields(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return True
    return is_ambiguous(fields, names)


def is_ambiguous(fields: Collection[str], names: Collection[str]) -> bool:
    """Whether one of these names is among the fields in another spelling."""
    return any(name.casefold() in names and name not in names for name in fields)


def raise_safety_mode(body: bytes, minimum: str, notes: Notes) -> bytes:
    """Puts the weakest permitted safety mode into a chat request that asks for a weaker one. Raises DecodeError."""
    fields = _decode_fields(body)
    requested = fields.get("safety_mode", NULL)
    rank = safety_rank("CONTEXTUAL" if requested == NULL else _word(requested))
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


def _put_model(fields: dict[str, Raw], policy: Policy, notes: Notes) -> bool:
    """Returns whether the model is written otherwise at Cohere; noted where it is another model."""
    requested = _word(fields.get("model", Raw(b"")))
    if not requested:
        return False
    model = resolve_and_note(requested, policy, notes)
    if model != requested:
        fields["model"] = Raw(_encode(model))
    return model != requested


def _word(value: Raw) -> str:
    """A field's text; empty if it is none."""
    try:
        return _decode_word(value)
    except (DecodeError, UnicodeDecodeError):
        return ""


def count_pieces(captured: bytes) -> int:
    """How many pieces of an answer there are in a stream, or a part of one."""
    return sum(captured.count(b'"%b"' % kind) for kind in PIECES)
