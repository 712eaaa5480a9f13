"""What Cohere counted of an answer, read from its bytes: whole or the end of them, translated or passed through.

Money is counted here and nowhere else: whatever Cohere sent was billed, whether or not it can be made into an answer.
"""

import json

from msgspec import DecodeError, ValidationError, convert

from schemas.cohere.chat import Usage
from schemas.cohere.native import Ending, decode_answer
from translators.answer.usage import counts
from translators.core.contracts import UsageBase, UsageTotals

LAST_EVENTS = 4
"""How many of a stream's last lines are looked at: the last event, and a [DONE] after it."""

TAIL_BYTES = 64 * 1024
"""Bytes at the end of a long answer in which its counts are looked for first: vectors are not worth reading twice."""

_decode_prefix = json.JSONDecoder().raw_decode


def usage_of(body: bytes, base: UsageBase) -> UsageTotals:
    """Returns what Cohere counted of a whole answer, or of the event that ends a stream."""
    if len(body) > TAIL_BYTES:
        usage = usage_totals(body[-TAIL_BYTES:], False, base)
        if usage.billed:
            return usage
    return usage_totals(body, False, base)


def usage_totals(captured: bytes, streamed: bool, base: UsageBase) -> UsageTotals:
    """What Cohere counted of an answer, from all of it or from its end."""
    # v1 streams are JSON documents in lines, v2's are events whose data is one line.
    lines = captured.rstrip().rsplit(b"\n", LAST_EVENTS)[-LAST_EVENTS:] if streamed else [captured]
    for line in reversed(lines):
        document = line.removeprefix(b"data:").strip()
        if document[:1] == b"{" and (parsed := _whole(document)) is not None:
            usage, finish = parsed
            if usage is not None:
                return counts(usage, base).outcome(finish)
    return counts(_at_the_end(captured), base).outcome("")


def _whole(document: bytes) -> tuple[Usage | None, str] | None:
    """The counts in a whole document and the finish reason beside them; None of what is no whole document."""
    try:
        parsed = decode_answer(document)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return None
    ending = parsed.delta or parsed.response or Ending()
    usage = parsed.usage or parsed.meta or ending.usage or ending.meta
    return usage, parsed.finish_reason or ending.finish_reason or ""


def _at_the_end(captured: bytes) -> Usage | None:
    """The last counts in the end of a document that is too long to be kept whole.

    Inside a JSON string the quotes would be escaped, so no text of a caller's or a model's looks like this.
    """
    start = max(captured.rfind(b'"meta":{'), captured.rfind(b'"usage":{'))
    if start < 0:
        return None
    text = captured[captured.index(b"{", start) :].decode("utf-8", "replace")
    try:
        return convert(_decode_prefix(text)[0], Usage)
    except (ValueError, ValidationError, RecursionError):
        return None
