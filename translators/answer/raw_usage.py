"""Reads the usage of an answer from Cohere's bytes, whole or their end, whether translated or passed through.

Costs are based on this module alone: what Cohere sent was billed, even if it cannot be translated.
"""

import json

from msgspec import DecodeError, ValidationError, convert

from schemas.cohere.chat import Usage
from schemas.cohere.native import Ending, decode_answer
from translators.answer.usage import counts
from translators.core.contracts import UsageBase, UsageTotals

LAST_EVENTS = 4
"""Lines at the end of a stream that are searched: the last event, and a [DONE] after it."""

TAIL_BYTES = 64 * 1024
"""Bytes at the end of a long answer that are searched first. The rest is vectors, which take long to parse."""

_decode_prefix = json.JSONDecoder().raw_decode


def usage_of(body: bytes, base: UsageBase) -> UsageTotals:
    """Returns the usage of a whole answer, or of the event that ends a stream. base: `Policy.usage_base`."""
    if len(body) > TAIL_BYTES:
        # Usage stands behind the vectors. Should it ever not, the whole body is searched: slow, but right.
        usage = usage_totals(body[-TAIL_BYTES:], False, base)
        if usage.billed:
            return usage
    return usage_totals(body, False, base)


def usage_totals(captured: bytes, streamed: bool, base: UsageBase) -> UsageTotals:
    """Returns the usage of an answer. captured: all of it or its end. streamed: it consists of lines or events."""
    # v1 streams are JSON documents in lines, v2's are events whose data is one line.
    lines = captured.rstrip().rsplit(b"\n", LAST_EVENTS)[-LAST_EVENTS:] if streamed else [captured]
    # From the end: a stream's last document has the usage, and an earlier one may hold text that looks like it.
    for line in reversed(lines):
        document = line.removeprefix(b"data:").strip()
        if document[:1] == b"{" and (parsed := _usage_of_document(document)) is not None:
            usage, finish = parsed
            if usage is not None:
                return counts(usage, base).outcome(finish)
    return counts(_usage_at_end(captured), base).outcome("")


def _usage_of_document(document: bytes) -> tuple[Usage | None, str] | None:
    """Returns the usage and the finish reason of a document; None if it is no complete JSON document."""
    try:
        parsed = decode_answer(document)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return None
    # Version 2 has `usage` in the answer or in the last event's delta; version 1 has `meta`, in a stream in `response`.
    ending = parsed.delta or parsed.response or Ending()
    usage = parsed.usage or parsed.meta or ending.usage or ending.meta
    return usage, parsed.finish_reason or ending.finish_reason or ""


def _usage_at_end(captured: bytes) -> Usage | None:
    """Returns the last usage in the end of a document that is too long to keep as a whole."""
    # No text of a caller or a model can look like this: inside a JSON string its quotes are escaped.
    start = max(captured.rfind(b'"meta":{'), captured.rfind(b'"usage":{'))
    if start < 0:
        return None
    text = captured[captured.index(b"{", start) :].decode("utf-8", "replace")
    try:
        # `raw_decode` stops where the object ends. What follows is the rest of a document whose beginning is not there,
        # so no parser would take it.
        return convert(_decode_prefix(text)[0], Usage)
    except (ValueError, ValidationError, RecursionError):
        return None
