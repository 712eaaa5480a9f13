"""`POST /v1/responses/input_tokens`: the texts of a request as Cohere's tokenizer takes them, and their count.

The texts are those of the request that Cohere would be sent: messages, thoughts, calls, results, documents and tool
definitions. What Cohere's own template adds around them, and images, no tokenizer of Cohere's can count.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from schemas.cohere import tokens as cohere
from translators.core.errors import UpstreamProtocolError

MOST_CHARACTERS = 65_536
"""Cohere's own limit on a text."""

_decode = msgspec.json.decode
_encode = msgspec.json.Encoder().encode


class _Counted(Struct, frozen=True, tag_field="object", tag="response.input_tokens"):
    input_tokens: int


def tokenize_requests(body: bytes) -> list[bytes]:
    """The tokenizer's requests for the body of a chat request of Cohere's: as few as its limit allows."""
    chat: dict[str, Any] = _decode(body)
    text = "\n".join(text for text in _texts(chat) if text)
    return [_encode(cohere.TokenizeRequest(piece, chat["model"])) for piece in _pieces(text)]


def token_count(answers: Sequence[bytes]) -> bytes:
    """The tokenizer's answers as OpenAI's count. Raises UpstreamProtocolError."""
    try:
        total = sum(len(cohere.decode_answer(answer).tokens) for answer in answers)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError("Cohere's tokenizer answered with something else than tokens") from error
    return _encode(_Counted(total))


def _texts(chat: dict[str, Any]) -> Iterator[str]:
    for message in chat["messages"]:
        content = message.get("content", "")
        yield from [content] if isinstance(content, str) else map(_part, content)
        yield message.get("tool_plan", "")
        for call in message.get("tool_calls", ()):
            yield f"{call['function']['name']} {call['function']['arguments']}"
    for value in (*chat.get("tools", ()), *chat.get("documents", ())):
        yield value if isinstance(value, str) else _encode(value).decode()


def _part(part: dict[str, Any]) -> str:
    if "document" in part:
        return _encode(part["document"]).decode()
    return str(part.get("text") or part.get("thinking") or "")


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces of the tokenizer's size, cut before a blank where there is one: tokens begin there."""
    start = 0
    while start < len(text):
        end = start + MOST_CHARACTERS
        if end < len(text):
            middle = start + MOST_CHARACTERS // 2
            blank = max(text.rfind(" ", middle, end), text.rfind("\n", middle, end))
            end = blank if blank > 0 else end
        yield text[start:end]
        start = end
