"""The bounds of a request's JSON that hold before anything parses it: keys, values, escaped characters.

What a parser needs grows with these, not with the bytes, and nobody else is served until it has ended. They are counted
in steps of a fraction of a millisecond, between which the event loop turns.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from gateway.errors import CallerError, failure
from gateway.settings.schema import Settings
from translators.core.json_size import MAX_ESCAPES, PIECE_BYTES, ValueCounter, rough_count


async def refuse_large(body: Sequence[bytes], settings: Settings) -> int:
    """Returns how many values a JSON text has, at most: a body with fewer bytes than the bounds costs nothing, and 0.

    body: its pieces. Raises CallerError (400) for more keys, values or escaped characters than any request has.
    """
    max_keys, max_values = settings.max_json_keys, settings.max_json_values
    size = len(body[0]) if len(body) == 1 else sum(map(len, body))
    if size <= max_keys and size <= max_values:
        return 0
    values = escapes = 0
    async for piece in _in_steps(body):
        values += rough_count(piece)
        escapes += piece.count(b"\\")
    if escapes > MAX_ESCAPES:
        raise _refusal(f"{MAX_ESCAPES} escaped characters")
    # The rough count is never too low (`json_size.py`), so what passes it need not be counted exactly.
    if values <= min(max_keys, max_values):  # each key stands before a value
        return values
    counter, keys = ValueCounter(), 0
    async for piece in _in_steps(body):
        keys += piece.count(b'":') - piece.count(b'\\":')  # not those of JSON that is quoted inside a text
        if keys > max_keys:
            raise _refusal(f"{max_keys} keys (the setting max_json_keys)")
        if counter.add(piece) > max_values:
            raise _refusal(f"{max_values} values (the setting max_json_values)")
    return counter.count


async def _in_steps(body: Sequence[bytes]) -> AsyncIterator[bytes]:
    """Yields a body in pieces of PIECE_BYTES at most. Between two of them the event loop turns."""
    for whole in body:
        for start in range(0, len(whole), PIECE_BYTES):
            yield whole[start : start + PIECE_BYTES] if len(whole) > PIECE_BYTES else whole
            await asyncio.sleep(0)


def _refusal(what: str) -> CallerError:
    return CallerError(failure("bad_request", f"The request's body has more than {what}"))
