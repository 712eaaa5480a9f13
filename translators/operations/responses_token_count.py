"""`POST /v1/responses/input_tokens`: counts the tokens of a request with Cohere's tokenizer.

The texts are those of the chat request that Cohere would receive: messages, thoughts, calls, results, documents and
tool definitions. Two things are missing in the count, because the tokenizer cannot count them: what Cohere's prompt
template adds, and images. Source: docs/cohere-api.md#tokens.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from schemas.cohere import tokens as cohere
from translators.core.errors import UpstreamProtocolError

MOST_CHARACTERS = 65_536
"""Cohere's limit on the text of one tokenizer request."""

_decode = msgspec.json.decode
_encode = msgspec.json.Encoder().encode


class _Counted(Struct, frozen=True, tag_field="object", tag="response.input_tokens"):
    input_tokens: int


def tokenize_requests(body: bytes) -> list[bytes]:
    """Returns as few tokenizer requests as its limit allows. body: a chat request for Cohere."""
    chat: dict[str, Any] = _decode(body)
    text = "\n".join(text for text in _texts(chat) if text)
    return [_encode(cohere.TokenizeRequest(piece, chat["model"])) for piece in _pieces(text)]


def token_count(answers: Sequence[bytes]) -> bytes:
    """Translates the tokenizer's answers into OpenAI's count. Raises UpstreamProtocolError."""
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
    """Yields the text in pieces that the tokenizer takes, cut before a space or line break where there is one."""
    # Tokens begin with their space, so a cut there changes the sum hardly or not at all; one inside a word adds tokens.
    start = 0
    while start < len(text):
        end = start + MOST_CHARACTERS
        if end < len(text):
            # Not further back than half a piece, so that a text full of early spaces makes no more pieces than twice.
            middle = start + MOST_CHARACTERS // 2
            blank = max(text.rfind(" ", middle, end), text.rfind("\n", middle, end))
            end = blank if blank > 0 else end
        yield text[start:end]
        start = end
