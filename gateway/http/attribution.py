"""For whom and for what a request is made, as callers say it: the end user, tags, metadata. It is for the ledger.

An end user is named by, in this order: the body's `user`, its `safety_identifier`, the header `x-litellm-end-user-id`,
`user` in the header `cf-aig-metadata`. Tags are those of the body's `metadata.tags`, of `x-litellm-tags` and of
`cf-aig-metadata`. Everything is cut to the bounds below: a caller may write there what they like.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.errors import CallerError, failure
from gateway.observability.record import RequestRecord
from translators.core.contracts import Workload

END_USER_HEADERS = (b"x-litellm-end-user-id", b"x-litellm-customer-id")
TAGS_HEADER, METADATA_HEADER = b"x-litellm-tags", b"cf-aig-metadata"
ATTRIBUTION_HEADERS = frozenset((*END_USER_HEADERS, TAGS_HEADER, METADATA_HEADER))

MAX_END_USER, MAX_TAGS, MAX_TAG = 256, 20, 100
MAX_METADATA, MAX_KEY, MAX_VALUE = 16, 64, 512
"""Keys of metadata, characters of each, and characters of a value: OpenAI's bounds."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


def attribute_headers(record: RequestRecord) -> None:
    """Takes over what the headers say. Raises CallerError where `cf-aig-metadata` is no JSON object."""
    headers = record.headers
    if ATTRIBUTION_HEADERS.isdisjoint(headers):
        return
    metadata: Mapping[str, Any] = {}
    if METADATA_HEADER in headers:
        try:
            metadata = _decode(headers[METADATA_HEADER])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CallerError(failure("bad_request", "The header cf-aig-metadata must be a JSON object")) from error
    named = next((headers[name] for name in END_USER_HEADERS if name in headers), b"").decode("utf-8", "replace")
    user = metadata.get("user")
    record.end_user = _cut(named or (_text(user) if user is not None else ""), MAX_END_USER)
    tags = headers.get(TAGS_HEADER, b"").decode("utf-8", "replace").split(",")
    record.tags = _tags((*tags, *_tag_list(metadata.get("tags"))))
    record.metadata = _metadata(metadata)


def attribute_body(record: RequestRecord, workload: Workload) -> None:
    """Takes over what the body says, which goes before the headers. Metadata that is no object says nothing."""
    if workload.end_user:
        record.end_user = _cut(workload.end_user, MAX_END_USER)
    if not workload.metadata:
        return
    try:
        metadata = _decode(workload.metadata)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    record.tags = _tags((*_tag_list(metadata.get("tags")), *record.tags))
    # The body's come first, and so are the last to be cut off by the bound.
    others = {key: value for key, value in record.metadata.items() if key not in metadata}
    record.metadata = _metadata({**metadata, **others})


def _tag_list(value: Any) -> list[str]:
    """Returns the tags in a value: a list of them, or a text with commas between them."""
    if isinstance(value, str):
        return value.split(",")
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _tags(several: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tag for one in several if (tag := _cut(one.strip(), MAX_TAG))))[:MAX_TAGS]


def _metadata(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns what is neither tags nor null, as texts."""
    pairs = [(key, value) for key, value in values.items() if key != "tags" and value is not None][:MAX_METADATA]
    return {_cut(key, MAX_KEY): _cut(_text(value), MAX_VALUE) for key, value in pairs}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _encode(value).decode()


def _cut(text: str, length: int) -> str:
    """Returns the beginning of a text. A NUL is left out: PostgreSQL's texts have none."""
    return text[:length].replace("\x00", "")
