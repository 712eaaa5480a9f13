"""The bare relay: the least that is honestly an OpenAI gateway for Cohere; every target refers to it.

Starlette, Hypercorn (asyncio worker), aiohttp and msgspec as the gateway uses them; chat and the embedding of
texts, translated, and native chat as bytes that pass through. It translates the minimal fields, sends once per network
read, passes vectors on as they were written, and does nothing else: no keys, limits, log, metrics, retries, checks. It
is tuned like the gateway, so that the ratio
between them is the price of what the gateway does beyond this. Keep it free of project imports, and change it only
when Cohere's or OpenAI's wire format changes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import time
from typing import Any, Literal, cast

import aiohttp
import msgspec
from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.typing import Framework
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from yarl import URL


# What OpenAI's callers send ---------------------------------------------------------------------------------
class Function(msgspec.Struct, omit_defaults=True):
    """A tool's definition, or a call's name and arguments, or a piece of the arguments."""

    name: str | None = None
    description: str | None = None
    parameters: msgspec.Raw | None = None
    arguments: str | None = None


class Tool(msgspec.Struct, omit_defaults=True):
    """A tool, or a call to one; the same in both dialects, but for the index, which only chunks have."""

    function: Function | None = None
    index: int | None = None
    id: str | None = None
    type: str | None = None


class Message(msgspec.Struct, omit_defaults=True):
    """A turn of the conversation; the same shape in both dialects for what the relay takes."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[Tool] | None = None
    tool_call_id: str | None = None


class StreamOptions(msgspec.Struct):
    """What the caller wants of a stream."""

    include_usage: bool = False


class OpenAIRequest(msgspec.Struct):
    """The fields that the relay takes; msgspec skips the others."""

    model: str
    messages: list[Message]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | None = None


# What Cohere takes and answers ------------------------------------------------------------------------------
class CohereRequest(msgspec.Struct, omit_defaults=True):
    """POST /v2/chat."""

    model: str
    messages: list[Message]
    stream: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    p: float | None = None
    seed: int | None = None
    stop_sequences: list[str] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    tools: list[Tool] | None = None
    tool_choice: str | None = None


class Content(msgspec.Struct):
    """A block of an answer, or a piece of one."""

    text: str = ""
    thinking: str = ""


class Tokens(msgspec.Struct):
    """A pair of counts."""

    input_tokens: int = 0
    output_tokens: int = 0


class CohereUsage(msgspec.Struct):
    """What was processed."""

    tokens: Tokens = msgspec.field(default_factory=Tokens)
    cached_tokens: int = 0


class CohereMessage(msgspec.Struct):
    """The assistant's turn."""

    content: list[Content] = []
    tool_plan: str = ""
    tool_calls: list[Tool] | None = None


class CohereAnswer(msgspec.Struct):
    """A whole answer."""

    id: str
    message: CohereMessage
    finish_reason: str
    usage: CohereUsage = msgspec.field(default_factory=CohereUsage)


class PieceMessage(msgspec.Struct):
    """The inside of a stream event; Cohere sends single objects here, and empty lists at message-start."""

    content: Content | list[Content] | None = None
    tool_calls: Tool | list[Tool] | None = None
    tool_plan: str = ""


class Piece(msgspec.Struct):
    """The `delta` of a stream event."""

    message: PieceMessage | None = None
    finish_reason: str = ""
    usage: CohereUsage | None = None


class Event(msgspec.Struct):
    """Any stream event."""

    type: str
    id: str = ""
    index: int = 0
    delta: Piece | None = None


# What OpenAI's callers get ----------------------------------------------------------------------------------
class CachedTokens(msgspec.Struct):
    """Part of the usage."""

    cached_tokens: int


class Usage(msgspec.Struct):
    """OpenAI's counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


MaybeUsage = Usage | msgspec.UnsetType


class Answer(msgspec.Struct):
    """The assistant's turn in a whole completion."""

    role: str
    content: str | None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[Tool] | msgspec.UnsetType = msgspec.UNSET


class Choice(msgspec.Struct):
    """The only choice of a whole completion."""

    index: int
    message: Answer
    finish_reason: str


class Completion(msgspec.Struct):
    """A whole completion."""

    id: str
    object: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Delta(msgspec.Struct, omit_defaults=True):
    """What a chunk adds."""

    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Tool] | None = None


class ChunkChoice(msgspec.Struct):
    """The only choice of a chunk."""

    index: int
    delta: Delta
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    """One event of a streamed completion."""

    id: str
    object: str
    created: int
    model: str
    choices: Sequence[ChunkChoice]
    usage: MaybeUsage = msgspec.UNSET


# Embeddings -------------------------------------------------------------------------------------------------
MOST_TEXTS = 96


class OpenAIEmbedRequest(msgspec.Struct):
    """The fields that the relay takes."""

    model: str
    input: list[str]
    dimensions: int | None = None
    encoding_format: str = "float"


class EmbedRequest(msgspec.Struct, omit_defaults=True):
    """POST /v2/embed."""

    model: str
    texts: list[str]
    embedding_types: list[str]
    input_type: str
    output_dimension: int | None = None


class BilledUnits(msgspec.Struct):
    """What it cost."""

    input_tokens: int = 0


class EmbedMeta(msgspec.Struct):
    """Beside the vectors."""

    billed_units: BilledUnits


class EmbedAnswer(msgspec.Struct):
    """The vectors by type, each left as it was written."""

    embeddings: dict[str, list[msgspec.Raw]]
    meta: EmbedMeta


class Embedding(msgspec.Struct):
    """One vector."""

    object: str
    index: int
    embedding: msgspec.Raw


class EmbedUsage(msgspec.Struct):
    """OpenAI's counts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct):
    """All vectors."""

    object: str
    data: list[Embedding]
    model: str
    usage: EmbedUsage


FINISH = {"COMPLETE": "stop", "STOP_SEQUENCE": "stop", "MAX_TOKENS": "length", "TOOL_CALL": "tool_calls"}
TOOL_CHOICE = {"none": "NONE", "required": "REQUIRED"}

decode_request = msgspec.json.Decoder(OpenAIRequest).decode
decode_answer = msgspec.json.Decoder(CohereAnswer).decode
decode_embed_request = msgspec.json.Decoder(OpenAIEmbedRequest).decode
decode_embed_answer = msgspec.json.Decoder(EmbedAnswer).decode
decode_event = msgspec.json.Decoder(Event).decode
encode = msgspec.json.Encoder().encode


# The translation --------------------------------------------------------------------------------------------
def cohere_request(requested: OpenAIRequest) -> bytes:
    """Cohere's request for OpenAI's."""
    for message in requested.messages:
        if message.role == "developer":
            message.role = "system"
    stop = requested.stop
    return encode(
        CohereRequest(
            model=requested.model.removeprefix("cohere/"),
            messages=requested.messages,
            stream=requested.stream,
            max_tokens=requested.max_completion_tokens or requested.max_tokens,
            temperature=requested.temperature,
            p=requested.top_p,
            seed=requested.seed,
            stop_sequences=[stop] if isinstance(stop, str) else stop,
            frequency_penalty=requested.frequency_penalty,
            presence_penalty=requested.presence_penalty,
            tools=requested.tools,
            tool_choice=TOOL_CHOICE.get(requested.tool_choice or ""),
        )
    )


def completion(requested: OpenAIRequest, body: bytes) -> bytes:
    """OpenAI's completion for Cohere's whole answer."""
    answer = decode_answer(body)
    message = answer.message
    text = "".join([block.text for block in message.content])
    reasoning = message.tool_plan or "".join([block.thinking for block in message.content])
    return encode(
        Completion(
            id="chatcmpl-" + answer.id,
            object="chat.completion",
            created=int(time()),
            model=requested.model,
            choices=[
                Choice(
                    index=0,
                    message=Answer(
                        role="assistant",
                        content=text or None,
                        reasoning_content=reasoning or msgspec.UNSET,
                        tool_calls=message.tool_calls or msgspec.UNSET,
                    ),
                    finish_reason=FINISH.get(answer.finish_reason, "stop"),
                )
            ],
            usage=openai_usage(answer.usage),
        )
    )


def openai_usage(usage: CohereUsage) -> Usage:
    """OpenAI's counts for Cohere's."""
    tokens = usage.tokens
    return Usage(
        prompt_tokens=tokens.input_tokens,
        completion_tokens=tokens.output_tokens,
        total_tokens=tokens.input_tokens + tokens.output_tokens,
        prompt_tokens_details=CachedTokens(usage.cached_tokens),
    )


def embed_requests(requested: OpenAIEmbedRequest) -> list[bytes]:
    """Cohere's requests for OpenAI's: as many texts in each as Cohere takes."""
    model = requested.model.removeprefix("cohere/")
    pieces = [requested.input[start : start + MOST_TEXTS] for start in range(0, len(requested.input), MOST_TEXTS)]
    kinds = [requested.encoding_format]
    return [encode(EmbedRequest(model, texts, kinds, "search_document", requested.dimensions)) for texts in pieces]


def embedding_list(requested: OpenAIEmbedRequest, bodies: Sequence[bytes]) -> bytes:
    """OpenAI's list for Cohere's answers."""
    answers = [decode_embed_answer(body) for body in bodies]
    rows = [row for answer in answers for row in answer.embeddings[requested.encoding_format]]
    data = [Embedding("embedding", index, row) for index, row in enumerate(rows)]
    tokens = sum(answer.meta.billed_units.input_tokens for answer in answers)
    return encode(EmbeddingList("list", data, requested.model, EmbedUsage(tokens, tokens)))


class ChunkStream:
    """One streamed answer: bytes of Cohere's events in, bytes of OpenAI's chunks out."""

    def __init__(self, requested: OpenAIRequest) -> None:
        self.model = requested.model
        self.include_usage = requested.stream_options is not None and requested.stream_options.include_usage
        self.id = ""
        self.created = int(time())
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """All the chunks that one network read completes."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        out: list[bytes] = []
        for line in lines:
            if line.startswith(b"data: "):
                if line == b"data: [DONE]":
                    out.append(b"data: [DONE]\n\n")
                else:
                    self.event(decode_event(line[6:]), out)
        return b"".join(out)

    def event(self, event: Event, out: list[bytes]) -> None:
        """The chunks of one event."""
        kind = event.type
        delta = event.delta
        message = delta.message if delta is not None else None
        if kind == "content-delta" and message is not None and isinstance(message.content, Content):
            content = message.content
            if content.thinking:
                self.chunk(Delta(reasoning_content=content.thinking), None, out)
            else:
                self.chunk(Delta(content=content.text), None, out)
        elif kind == "message-start":
            self.id = "chatcmpl-" + event.id
            self.chunk(Delta(role="assistant", content=""), None, out)
        elif kind == "message-end" and delta is not None:
            self.chunk(Delta(), FINISH.get(delta.finish_reason, "stop"), out)
            if self.include_usage and delta.usage is not None:
                self.write((), openai_usage(delta.usage), out)
        elif kind == "tool-plan-delta" and message is not None:
            self.chunk(Delta(reasoning_content=message.tool_plan), None, out)
        elif kind in ("tool-call-start", "tool-call-delta") and message is not None:
            if isinstance(message.tool_calls, Tool):
                message.tool_calls.index = event.index
                self.chunk(Delta(tool_calls=[message.tool_calls]), None, out)

    def chunk(self, delta: Delta, finish_reason: str | None, out: list[bytes]) -> None:
        """One chunk with the only choice."""
        self.write((ChunkChoice(0, delta, finish_reason),), msgspec.UNSET, out)

    def write(self, choices: Sequence[ChunkChoice], usage: MaybeUsage, out: list[bytes]) -> None:
        """One chunk in its frame."""
        chunk = Chunk(self.id, "chat.completion.chunk", self.created, self.model, choices, usage)
        out.append(b"data: ")
        out.append(encode(chunk))
        out.append(b"\n\n")


# The server -------------------------------------------------------------------------------------------------
class UpstreamSession:
    """The one session."""

    def __init__(self, upstream: str) -> None:
        self.base = upstream.rstrip("/")
        self.session: aiohttp.ClientSession

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """One session for all, without a connection limit of its own; no cookies between callers."""
        headers = {
            "authorization": "Bearer " + os.environ.get("COHERE_API_KEY", "bench"),
            "content-type": "application/json",
        }
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), headers=headers
        )
        async with self.session:
            yield


class Embeddings:
    """POST /v1/embeddings as a plain ASGI endpoint."""

    def __init__(self, upstream: UpstreamSession) -> None:
        self.upstream, self.url = upstream, URL(upstream.base + "/v2/embed")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = decode_embed_request(await read_body(receive))
        answers = await asyncio.gather(*map(self.answer, embed_requests(request)))
        await whole(send, 200, embedding_list(request, answers))

    async def answer(self, body: bytes) -> bytes:
        """Cohere's, to one part of the texts."""
        async with self.upstream.session.post(self.url, data=body) as response:
            response.raise_for_status()
            return await response.read()


class Chat:
    """POST /v1/chat/completions as a plain ASGI endpoint."""

    def __init__(self, upstream: UpstreamSession) -> None:
        self.upstream, self.url = upstream, URL(upstream.base + "/v2/chat")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = decode_request(await read_body(receive))
        async with self.upstream.session.post(self.url, data=cohere_request(request)) as response:
            if response.status != 200:
                await whole(send, response.status, await response.read())
            elif request.stream:
                await self.stream(request, response, send)
            else:
                await whole(send, 200, completion(request, await response.read()))

    async def stream(self, requested: OpenAIRequest, response: aiohttp.ClientResponse, send: Send) -> None:
        """One send per network read."""
        chunks = ChunkStream(requested)
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for data in response.content.iter_any():
            if body := chunks.feed(data):
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Native:
    """POST /cohere/v2/chat, passed through: the body there, the status, the headers and the body back."""

    def __init__(self, upstream: UpstreamSession) -> None:
        self.upstream, self.url = upstream, URL(upstream.base + "/v2/chat")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        async with self.upstream.session.post(self.url, data=body, auto_decompress=False) as response:
            headers = [pair for pair in response.raw_headers if pair[0].lower() not in HOP_BY_HOP]
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            async for data in response.content.iter_any():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


HOP_BY_HOP = (b"connection", b"transfer-encoding")


async def read_body(receive: Receive) -> bytes:
    """The whole request body."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
    return body


async def whole(send: Send, status: int, body: bytes) -> None:
    """A whole JSON answer."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def application(upstream: str) -> Starlette:
    """The relay as a Starlette application."""
    session = UpstreamSession(upstream)
    routes = [
        Route("/v1/chat/completions", Chat(session), methods=["POST"]),
        Route("/cohere/v2/chat", Native(session), methods=["POST"]),
        Route("/v1/embeddings", Embeddings(session), methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=session.lifespan)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="The bare relay that the benchmarks compare with.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="base URL, such as http://127.0.0.1:9000")
    options = parser.parse_args()
    config = Config()
    config.bind = [f"127.0.0.1:{options.port}"]
    config.backlog = 2048
    config.keep_alive_max_requests = 1_000_000_000
    config.errorlog = None
    # A cast, because Starlette and Hypercorn spell the same ASGI types differently.
    app = cast(Framework, application(options.upstream))
    asyncio.run(serve(app, config, mode="asgi"))


if __name__ == "__main__":
    main()
