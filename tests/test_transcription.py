"""Transcription: the texts of its form, the form as it is read, and a recording on its way to Cohere."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import tracemalloc
import wave
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cohere
import httpx
import hypothesis.strategies as st
import openai
import pytest
from hypothesis import given

from gateway.errors import CallerError
from gateway.http import multipart as forms
from gateway.http.multipart import Form
from support import transcripts
from support.app import CALLER_KEY, SERVER_KEY, Gateway, Harness, Response, demonstration, gateway_over, run_harness
from support.asgi_server import serve
from support.scripted_upstream import Request, json_answer
from support.waiting import WAIT_SECONDS
from translators.core.errors import InvalidField, UpstreamProtocolError
from translators.operations import transcription

MODEL = "cohere-transcribe-03-2026"
PATH = "/v1/audio/transcriptions"
HEARD = json_answer(200, {"text": "Good morning."})


def recording(seconds: float = 1.5) -> bytes:
    """Silence."""
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(bytes(int(8_000 * seconds) * 2))
    return data.getvalue()


WAV = recording()

# --- the texts ----------------------------------------------------------------------------------------------


def translated(fields: Mapping[str, Any], **settings: Any) -> transcription.TranscriptionTranslation:
    return transcription.request(json.dumps(fields).encode(), transcripts.context(**settings))


TEXTS = {"model": f"cohere/{MODEL}", "language": "en"}

TRANSLATED: tuple[tuple[dict[str, Any], dict[str, str], list[str]], ...] = (
    ({}, {}, []),
    ({"temperature": "0.2"}, {"temperature": "0.2"}, []),
    ({"temperature": "1.5"}, {"temperature": "1.0"}, ["temperature adjusted 1.5 -> 1.0"]),
    ({"language": "de-CH"}, {"language": "de"}, ["language adjusted de-CH -> de"]),
    ({"language": "tlh"}, {"language": "tlh"}, []),
    ({"language": "DE"}, {"language": "de"}, []),
    ({"prompt": "Names: Ada"}, {}, ["prompt ignored (Cohere takes none)"]),
    ({"chunking_strategy": "auto"}, {}, []),
    ({"keywords": ["Ada"]}, {}, ["keywords ignored (Cohere takes none)"]),
    ({"language": None, "languages": ["de"]}, {"language": "de"}, []),
    ({"languages": ["de", "fr"]}, {}, []),
    ({"timestamp_granularities": ["word"]}, {}, ["timestamp_granularities ignored (Cohere gives no timestamps)"]),
    ({"stream": "true"}, {}, ["stream emulated (the text in one piece)"]),
    ({"stream": "false"}, {}, []),
    ({"new": "x"}, {}, ["new ignored (not known to Cohere)"]),
)


@pytest.mark.parametrize(("fields", "expected", "notes"), TRANSLATED, ids=lambda value: json.dumps(value)[:40])
def test_texts(fields: dict[str, Any], expected: dict[str, str], notes: list[str]) -> None:
    call = translated(TEXTS | fields)
    assert dict(call.fields) == {"model": MODEL, "language": "en"} | expected
    assert [note.text for note in call.notes] == notes


def test_one_of_several_languages_must_be_named() -> None:
    with pytest.raises(InvalidField, match="Cohere wants the language"):
        translated({"model": MODEL, "languages": ["de", "fr"]})
    call = translated({"model": MODEL, "languages": ["de", "fr"]}, transcription_language="fr")
    assert "languages ignored (Cohere takes one language)" in [note.text for note in call.notes]


def test_the_usual_language() -> None:
    call = translated({"model": MODEL}, transcription_language="fr")
    assert dict(call.fields)["language"] == "fr"
    assert [note.text for note in call.notes] == ["language fr (setting transcription_language)"]
    assert dict(translated(TEXTS, transcription_language="fr").fields)["language"] == "en"


def test_what_the_operator_names_is_sent() -> None:
    call = translated({**TEXTS, "diarize": "yes"}, extra_upstream_fields=["diarize"])
    assert dict(call.fields)["diarize"] == "yes"
    call = translated({**TEXTS, "words": ["a", "b"]}, extra_upstream_fields=["words"])
    assert call.fields[-2:] == (("words[]", "a"), ("words[]", "b"))


REFUSED: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"model": None}, "model", "missing_required_parameter"),
    ({"language": None}, "language", "missing_required_parameter"),
    ({"response_format": "srt"}, "response_format", "unsupported_value"),
    ({"response_format": "verbose_json"}, "response_format", "unsupported_value"),
    ({"response_format": "diarized_json"}, "response_format", "unsupported_value"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"stream": "maybe"}, "stream", "invalid_type"),
    ({"language": ["a", "b"]}, "language", "invalid_type"),
)


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED, ids=lambda value: json.dumps(value)[:40])
def test_texts_that_are_refused(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidField) as caught:
        translated(TEXTS | fields)
    assert (caught.value.failure.param, caught.value.failure.code) == (param, code)


DEEP = b'{"text":"Hi","words":' + b"[" * 5000 + b"]" * 5000 + b"}"


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b"{}", b'{"text":5}', b"\xff", DEEP])
def test_an_answer_that_is_none(answer: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        translated(TEXTS).translate_response(answer)


# --- the form -----------------------------------------------------------------------------------------------

BOUNDARY = "b0undary"
Part = tuple[str, str | None, bytes]  # name, the file's name, what is in it


def encoded(parts: Sequence[Part]) -> bytes:
    pieces = []
    for name, filename, data in parts:
        file = f'; filename="{filename}"\r\ncontent-type: audio/wav' if filename is not None else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        pieces.append(head.encode() + data + b"\r\n")
    return b"".join(pieces) + f"--{BOUNDARY}--\r\n".encode()


class Cut:
    """A body that comes in these pieces: as `body.Pieces`."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self.over = False
        self.failure: CallerError | None = None

    def __aiter__(self) -> Cut:
        return self

    async def __anext__(self) -> bytes:
        if not self._pieces:
            self.over = True
            raise StopAsyncIteration
        return self._pieces.pop(0)


def read(pieces: Sequence[bytes], boundary: str = BOUNDARY) -> tuple[Form, bytes]:
    """The form, and the file in it."""
    headers = {b"content-type": f'multipart/form-data; boundary="{boundary}"'.encode()}
    form = Form(headers, Cut(pieces), "file")

    async def run() -> bytes:
        await form.to_the_file()
        return b"".join([piece async for piece in form.contents()])

    return form, asyncio.run(run())


NAMES = st.sampled_from(["model", "language", "prompt", "temperature", "x", "y"])
CONTENTS = st.binary(max_size=40) | st.sampled_from([b"\r\n--b0undar", b"\r\n--", b"\r", b"--b0undary--"])
TEXT = st.text(max_size=20).map(str.encode)


@given(st.dictionaries(NAMES, TEXT, max_size=4), CONTENTS, st.integers(0, 4), st.lists(st.integers(0, 600), max_size=8))
def test_a_form_is_read_alike_however_it_is_cut(
    texts: dict[str, bytes], data: bytes, position: int, cuts: list[int]
) -> None:
    data = data.replace(b"--b0undary", b"--b0undarx")
    parts: list[Part] = [(name, None, text) for name, text in texts.items()]
    position = min(position, len(parts))
    parts.insert(position, ("file", "a.wav", data))
    body = encoded(parts)
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    form, file = read([body[start:end] for start, end in zip(edges, edges[1:], strict=False)])
    assert file == data
    assert form.fields == {name: text.decode() for name, text in texts.items()}
    assert list(form.fields) == [name for name, _, _ in parts if name != "file"]
    assert form.file == forms.File("a.wav", "audio/wav")
    by_bytes, same = read([body[index : index + 1] for index in range(len(body))])
    assert (by_bytes.fields, same) == (form.fields, file)


PREAMBLES = (
    b"",
    b"\r\n",
    b"For those who cannot read this.\r\n",
    b"--b0undaryx\r\n",
    b"--b0undary \r\n",
    b"--\r\n",
    b"\r" * 300,
)


@pytest.mark.parametrize("preamble", PREAMBLES, ids=repr)
def test_what_stands_around_a_form_means_nothing(preamble: bytes) -> None:
    """RFC 2046 §5.1.1: a preamble and an epilogue are not looked at."""
    if preamble.endswith(b"\r"):
        preamble += b"\n"
    body = preamble + encoded([("model", None, b"m"), ("file", "a.wav", b"x" * 100)]) + b"--b0undary\r\nepilogue"
    for pieces in ([body], [body[index : index + 1] for index in range(len(body))]):
        form, file = read(pieces)
        assert (form.fields, file) == ({"model": "m"}, b"x" * 100)


def test_a_form_with_a_preamble_is_served(harness: Harness) -> None:
    body = b"For those who cannot read this.\r\n" + encoded((*FIRST, FILE))
    response = harness.gateway.ask("POST", PATH, body, MULTIPART)
    assert (response.status, response.body) == (200, {"text": "Good morning."})
    assert at_cohere(harness)[0][-1] == ("file", WAV)


def test_lists_empty_texts_and_files_that_nobody_wants() -> None:
    form, file = read(
        [
            encoded(
                [
                    ("include[]", None, b"a"),
                    ("include[]", None, b"b"),
                    ("language", None, b""),
                    ("cover", "c.png", b"png" * 10_000),
                    ("file", "", b"sound"),
                ]
            )
        ]
    )
    assert (form.fields, form.strange, file) == ({"include": ["a", "b"], "language": ""}, ["cover"], b"sound")


@pytest.mark.parametrize("kind", [b"audio/wav\nx: y", b"audio/wav\x00", b"", "ä/b".encode()])
def test_a_content_type_that_would_break_a_head_is_none(kind: bytes) -> None:
    body = encoded([("file", "a", b"x")]).replace(b"audio/wav", kind)
    try:
        form, file = read([body])
    except CallerError as error:
        assert error.failure.status == 400
    else:
        assert (form.file, file) == (forms.File("a", "application/octet-stream"), b"x")


BROKEN: tuple[tuple[str, bytes, str | None], ...] = (
    ("nothing", b"", None),
    ("no boundary in it", b"hello", None),
    ("cut in a head", encoded([("file", "a", b"x")])[:40], None),
    ("cut in the file", encoded([("file", "a", b"x" * 100)])[:-40], None),
    ("no end", encoded([("model", None, b"x")])[:-8], None),
    ("a part without a name", b"--b0undary\r\ncontent-type: a/b\r\n\r\nx\r\n--b0undary--\r\n", None),
    ("a text twice", encoded([("model", None, b"a"), ("model", None, b"b")]), "model"),
    ("the file twice", encoded([("file", "a", b"a"), ("file", "b", b"b")]), "file"),
    ("no UTF-8", encoded([("model", None, b"\xff")]), None),
    ("too many fields", encoded([(f"f{index}", None, b"") for index in range(100)]), None),
    ("a text too long", encoded([("prompt", None, b"x" * (forms.MOST_TEXT + 1))]), None),
    ("heads without end", b"--b0undary\r\n" + b"x: y\r\n" * 1000, None),
)


@pytest.mark.parametrize(("body", "param"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_what_is_no_form_is_a_400(body: bytes, param: str | None) -> None:
    with pytest.raises(CallerError) as caught:
        read([body])
    assert (caught.value.failure.status, caught.value.failure.param) == (400, param)


# --- served -------------------------------------------------------------------------------------------------

MULTIPART = {"authorization": f"Bearer {CALLER_KEY}", "content-type": f"multipart/form-data; boundary={BOUNDARY}"}
FIRST: tuple[Part, ...] = (("model", None, f"cohere/{MODEL}".encode()), ("language", None, b"en"))
FILE: Part = ("file", "a b.wav", WAV)


def send(gateway: Gateway, *parts: Part, path: str = PATH, headers: Mapping[str, str] | None = None) -> Response:
    return gateway.ask("POST", path, encoded(parts), MULTIPART | dict(headers or {}))


@pytest.fixture(scope="module")
def shared() -> Iterator[Harness]:
    with run_harness(audio_limit=1_000_000) as harness:
        yield harness


@pytest.fixture
def harness(shared: Harness) -> Harness:
    shared.respond_with(HEARD)
    return shared


def at_cohere(harness: Harness) -> tuple[list[tuple[str, bytes]], Request]:
    """The form that Cohere got, in its order."""
    (request,) = harness.upstream.requests
    kind = request.headers.first("content-type") or ""
    boundary = kind.partition("boundary=")[2].encode()
    assert kind.startswith("multipart/form-data") and request.body.endswith(b"--" + boundary + b"--\r\n")
    parts = []
    for part in request.body.split(b"--" + boundary)[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        name = head.decode().partition('name="')[2].partition('"')[0]
        parts.append((name, data[:-2]))
        if name == "file":
            assert 'filename="a b.wav"\r\ncontent-type: audio/wav' in head.decode()
    return parts, request


ORDERS: tuple[tuple[Part, ...], ...] = (
    (*FIRST, FILE),
    (FILE, *FIRST),
    (FIRST[0], FILE, FIRST[1]),
    (FIRST[1], FILE, FIRST[0]),
)


@pytest.mark.parametrize("parts", ORDERS, ids=lambda parts: " ".join(part[0] for part in parts))
def test_the_file_is_the_last_part_wherever_it_came(harness: Harness, parts: tuple[Part, ...]) -> None:
    response = send(harness.gateway, *parts)
    assert (response.status, response.body) == (200, {"text": "Good morning."})
    sent_body, request = at_cohere(harness)
    assert (request.method, request.path) == ("POST", "/v2/audio/transcriptions")
    assert request.headers.first("authorization") == f"Bearer {CALLER_KEY}"
    assert sent_body == [("model", MODEL.encode()), ("language", b"en"), ("file", WAV)]
    assert "x-gateway-notes" not in response.headers


def test_what_comes_behind_the_file_in_time_and_too_late(harness: Harness) -> None:
    late: tuple[Part, ...] = (("response_format", None, b"text"), ("temperature", None, b"0.5"))
    response = send(harness.gateway, FILE, *FIRST, *late)
    assert (response.data, "x-gateway-notes" in response.headers) == (b"Good morning.\n", False)
    assert ("temperature", b"0.5") in at_cohere(harness)[0]
    harness.respond_with(HEARD)
    long: Part = ("file", "a b.wav", bytes(500_000))
    late = (late[0], ("temperature", None, b"1.5"))  # not said to be adjusted, as it is not sent
    response = send(harness.gateway, *FIRST, long, *late)
    assert (response.status, response.data) == (200, b"Good morning.\n")
    assert at_cohere(harness)[0] == [("model", MODEL.encode()), ("language", b"en"), ("file", long[2])]
    assert response.headers["x-gateway-notes"] == "temperature ignored (it came after the file)"
    response = send(harness.gateway, *FIRST, long, *late, headers={"x-gateway-strict": "true"})
    assert (response.status, response.error["param"]) == (400, "temperature")


def test_a_second_file_is_left_out_and_noted(harness: Harness) -> None:
    response = send(harness.gateway, ("cover", "c.png", b"png"), *FIRST, FILE)
    assert (response.status, at_cohere(harness)[0][-1]) == (200, ("file", WAV))
    assert response.headers["x-gateway-notes"] == "cover ignored (a file that nobody wants)"


def test_names_that_would_break_a_head_are_escaped(harness: Harness) -> None:
    response = send(harness.gateway, *FIRST, ("file", r"a\"; name=\"model\r\n.wav", WAV))
    assert response.status == 200
    (request,) = harness.upstream.requests
    assert request.body.count(b'name="model"') == 1 and b"%22; name=%22model" in request.body


def test_the_shapes_of_the_answer(harness: Harness) -> None:
    plain = send(harness.gateway, *FIRST, ("response_format", None, b"text"), FILE)
    assert (plain.headers["content-type"], plain.data) == ("text/plain; charset=utf-8", b"Good morning.\n")
    result = send(harness.gateway, *FIRST, ("stream", None, b"true"), FILE)
    assert result.frames == [
        '{"type":"transcript.text.delta","delta":"Good morning."}',
        '{"type":"transcript.text.done","text":"Good morning."}',
        "[DONE]",
    ]


REFUSALS: tuple[tuple[str, tuple[Part, ...], str | None], ...] = (
    ("no file", FIRST, "file"),
    ("no model", (FIRST[1], FILE), "model"),
    ("no language", (FIRST[0], FILE), "language"),
    ("subtitles", (*FIRST, ("response_format", None, b"srt"), FILE), "response_format"),
    ("subtitles, said late", (*FIRST, FILE, ("response_format", None, b"srt")), "response_format"),
    ("two files", (*FIRST, FILE, FILE), "file"),
)


@pytest.mark.parametrize(("parts", "param"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_refused(harness: Harness, parts: tuple[Part, ...], param: str | None) -> None:
    response = send(harness.gateway, *parts)
    assert (response.status, response.error["type"], response.error["param"]) == (400, "invalid_request_error", param)


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", "audio/wav", ""])
def test_other_content_types(harness: Harness, kind: str) -> None:
    response = harness.gateway.ask("POST", PATH, b"{}", MULTIPART | {"content-type": kind})
    assert response.status == (400 if kind == "multipart/form-data" else 415)
    assert not harness.upstream.requests


def test_a_form_that_says_it_is_too_large_is_not_read(harness: Harness) -> None:
    response = harness.gateway.ask("POST", PATH, None, MULTIPART | {"content-length": "2000000"})
    assert (response.status, response.error["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("parts", [FIRST, ()], ids=["sent on", "kept"])
def test_a_form_that_is_too_large_is_given_up(harness: Harness, parts: tuple[Part, ...]) -> None:
    """In chunks, so that nothing says how much will come."""
    body = encoded([*parts, ("file", "a.wav", bytes(1_200_000)), *(() if parts else FIRST)])

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    with httpx.Client(trust_env=False, verify=False) as client:
        answer = client.post(harness.gateway.url + PATH, content=chunks(), headers=MULTIPART)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_a_form_that_ends_early_is_a_400(harness: Harness) -> None:
    response = harness.gateway.ask("POST", PATH, encoded([*FIRST, FILE])[:-200], MULTIPART)
    assert (response.status, response.error["code"]) == (400, "bad_request")
    response = harness.gateway.ask("POST", PATH, encoded([FILE, *FIRST])[:-200], MULTIPART)
    assert (response.status, response.error["code"]) == (400, "bad_request")


def test_coheres_error_is_passed_on_by_both_methods() -> None:
    refused = json_answer(401, {"message": "invalid api token"})
    with run_harness() as own:
        own.respond_with(refused)
        assert send(own.gateway, *FIRST, FILE).error["code"] == "invalid_api_key"
    with run_harness(cohere_api_key=[SERVER_KEY]) as served:
        served.respond_with(refused)
        assert send(served.gateway, *FIRST, FILE).error["code"] == "upstream_auth"


def test_a_caller_who_leaves_in_the_middle_is_no_failure_of_cohere(harness: Harness) -> None:
    body = encoded([*FIRST, ("file", "a.wav", bytes(500_000))])
    with socket.create_connection(harness.gateway.address, WAIT_SECONDS) as connection:
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nx-request-id: gone\r\ncontent-length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in MULTIPART.items())
        connection.sendall(head.encode() + b"\r\n" + body[:200_000])
    line = harness.gateway.log.line_of("gone")
    assert (line["status"], line["outcome"]) == (499, "client_closed")


def test_at_azure_the_deployment_is_the_model(harness: Harness) -> None:
    path = f"/openai/deployments/{MODEL}/audio/transcriptions?api-version=2024-10-21"
    assert send(harness.gateway, FIRST[1], FILE, path=path).status == 200
    assert at_cohere(harness)[0][0] == ("model", MODEL.encode())
    harness.respond_with(HEARD)
    response = send(harness.gateway, ("model", None, b"whisper"), FIRST[1], FILE, path=path)
    assert response.headers["x-gateway-notes"] == f"model whisper -> {MODEL} (the deployment in the URL)"


def test_memory_stays_bounded() -> None:
    """Twenty megabytes pass, and wait on disk, without ever being in memory together."""
    size = 20_000_000

    def chunks(parts: Sequence[Part]) -> Iterator[bytes]:
        head, _, tail = encoded(parts).partition(b"FILE")
        yield head
        for _ in range(size // 50_000):
            yield bytes(50_000)
        yield tail

    with Sink() as sink, gateway_over(sink.url) as gateway, httpx.Client(trust_env=False, verify=False) as client:
        for parts in ((*FIRST, ("file", "a.wav", b"FILE")), (("file", "a.wav", b"FILE"), *FIRST)):
            tracemalloc.start()
            answer = client.post(gateway.url + PATH, content=chunks(parts), headers=MULTIPART, timeout=60)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert answer.json() == {"text": "Good morning."}
            assert peak < 8_000_000, f"{peak} bytes at once"
    assert all(received > size for received in sink.received)


class Sink:
    """A Cohere that counts what it gets and keeps none of it."""

    def __init__(self) -> None:
        self.received: list[int] = []

    def __enter__(self) -> Sink:
        self._serving = serve(lambda: self._app)
        self.url = self._serving.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._serving.__exit__(*error)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        self.received.append(size)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"text":"Good morning."}'})


# --- the emulator and the SDKs ------------------------------------------------------------------------------


def test_openais_client(sdk: openai.OpenAI) -> None:
    response = sdk.audio.transcriptions.create(model=f"cohere/{MODEL}", language="en", file=("a.wav", WAV))
    assert response.text == "This is the Cohere emulator. It heard 1.5 seconds of sound (en)."
    plain = sdk.audio.transcriptions.create(model=MODEL, language="fr", file=("a.wav", WAV), response_format="text")
    assert str(plain).endswith("(fr).\n")
    events = list(sdk.audio.transcriptions.create(model=MODEL, language="en", file=("a.wav", WAV), stream=True))
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]
    with pytest.raises(openai.BadRequestError, match="flac, mp3"):
        sdk.audio.transcriptions.create(model=MODEL, language="en", file=("a.m4a", WAV))
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.audio.transcriptions.create(model=MODEL, file=("a.wav", WAV))
    assert caught.value.param == "language"
    with pytest.raises(openai.NotFoundError):
        sdk.audio.transcriptions.create(model="whisper-1", language="en", file=("a.wav", WAV))


def test_a_default_language() -> None:
    with demonstration(transcription_language="es") as gateway, gateway.client() as client:
        raw = client.audio.transcriptions.with_raw_response.create(model=MODEL, file=("a.wav", WAV))
        assert "(es)" in raw.parse().text
        assert raw.headers["x-gateway-notes"] == "language es (setting transcription_language)"


def test_coheres_client_against_the_emulator(demo: Gateway) -> None:
    with httpx.Client(trust_env=False, verify=False) as plain:
        client = cohere.ClientV2("any", base_url=demo.upstream, httpx_client=plain)
        response = client.audio.transcriptions.create(model=MODEL, language="en", file=("a.wav", WAV))
        assert "1.5 seconds" in response.text
