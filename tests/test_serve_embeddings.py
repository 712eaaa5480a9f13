"""`POST /v1/embeddings` as its callers meet it: the SDK, LangChain, recorded answers, failures, what is measured."""

from __future__ import annotations

import hashlib
import io
import json
import math
import socket
import struct
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib._parsing import _embeddings as decoding
from pydantic import SecretStr

from gateway.cli import main
from gateway.emulator.model_catalog import MODELS
from gateway.pipeline.cl100k_base import ORDINARY, vocabulary
from gateway.pipeline.fan_out import MAX_CONCURRENT_PARTS
from gateway.settings.schema import CacheSettings, Models
from support import oracle
from support.app import CALLER_KEY, Gateway, Harness, Response, demonstration, gateway_over, run_harness
from support.recordings import Recording, each_recording
from support.scripted_upstream import Pause, Request, Script, ScriptedUpstream, json_answer
from support.transcripts import property_of
from support.waiting import WAIT_SECONDS

PATH = "/v1/embeddings"
V4, V3, V5 = "embed-v4.0", "embed-english-v3.0", "embed-v5.0-pro"
EMBEDDERS = [model.name for model in MODELS if "embed" in model.endpoints]
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAACAQMAAABIeJ9nAAAAA1BMVEX/AAAZ4gk3AAAADElEQVQI12NgYGAAAAAE"
    "AAEnNCcKAAAAAElFTkSuQmCC"
)


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    with run_harness() as result:
        yield result


def embed(gateway: Gateway, value: Any = "a", model: str = V4, **body: Any) -> Response:
    return gateway.ask("POST", PATH, {"model": model, "input": value, **body}, timeout=60)


def vectors(response: Response) -> list[list[float]]:
    assert response.status == 200, response
    assert [one["index"] for one in response.body["data"]] == list(range(len(response.body["data"])))
    return [one["embedding"] for one in response.body["data"]]


def floats(packed: str) -> list[float]:
    data = b64decode(packed, validate=True)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def numbered(request: Request) -> Script:
    """An upstream whose vectors are the numbers that the texts hold."""
    body = request.json()
    rows = [[float(text.split()[-1]), 0.5] for text in body["texts"]]
    created = {"float": rows, "base64": [b64encode(struct.pack("<2f", *row)).decode() for row in rows]}
    result = {name: created[name] for name in body["embedding_types"]}
    return json_answer(200, {"embeddings": result, "meta": {"billed_units": {"input_tokens": len(rows)}}})


def embed_requests(upstream: ScriptedUpstream) -> list[Request]:
    """Without the look at Cohere's models that a model unknown so far gives rise to."""
    return [request for request in upstream.requests if request.path == "/v2/embed"]


# --- the SDK ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_numpy", [True, False])
@pytest.mark.parametrize("model", EMBEDDERS)
def test_the_sdk_decodes_what_it_requested(
    demo: Gateway, sdk: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, model: str, with_numpy: bool
) -> None:
    """It asks for base64 unless told otherwise, and decodes it with numpy if that is there."""
    monkeypatch.setattr(decoding, "has_numpy", lambda: with_numpy)
    by_default = sdk.embeddings.create(model=f"cohere/{model}", input=["red apple", "blue sea"])
    as_floats = sdk.embeddings.create(model=model, input=["red apple", "blue sea"], encoding_format="float")
    assert (by_default.model, as_floats.model) == (f"cohere/{model}", model)
    assert by_default.usage == as_floats.usage and as_floats.usage.prompt_tokens > 0
    for packed, result in zip(by_default.data, as_floats.data, strict=True):
        assert len(result.embedding) == next(one.dimensions[0] for one in MODELS if one.name == model)
        assert packed.embedding == [float(numpy.float32(number)) for number in result.embedding]
        assert math.isclose(math.hypot(*packed.embedding), 1, rel_tol=1e-3)


def test_dimensions_are_the_models_own_or_chosen(sdk: openai.OpenAI) -> None:
    for dimensions in (256, 512, 1024, 1536):
        (one,) = sdk.embeddings.create(model=V4, input="a", dimensions=dimensions).data
        assert len(one.embedding) == dimensions
    assert len(sdk.embeddings.create(model=V3, input="a", dimensions=1024).data[0].embedding) == 1024
    for model, dimensions in ((V4, 1023), (V3, 512)):
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.embeddings.create(model=model, input="a", dimensions=dimensions)
        assert caught.value.param == "dimensions"


def test_coheres_own_fields_go_in_the_extra_body(sdk: openai.OpenAI) -> None:
    raw = sdk.embeddings.with_raw_response.create(
        model=V4,
        input="a",
        user="u-1",
        extra_body={"input_type": "search_query", "truncate": "NONE", "embedding_types": ["float", "int8", "ubinary"]},
    )
    (one,) = raw.parse().data
    beside: dict[str, list[float]] = (one.model_extra or {})["embeddings"]
    assert {name: len(row) for name, row in beside.items()} == {"float": 1536, "int8": 1536, "ubinary": 192}
    assert one.embedding == [float(numpy.float32(number)) for number in beside["float"]]
    assert raw.headers["x-gateway-notes"] == "user ignored (Cohere keeps no end-user ids)"


@pytest.mark.parametrize("kind", ["int8", "uint8", "binary", "ubinary"])
def test_one_other_type_is_the_embedding(sdk: openai.OpenAI, kind: str) -> None:
    (one,) = sdk.embeddings.create(model=V4, input="a", extra_body={"embedding_types": [kind]}).data
    assert one.embedding == (one.model_extra or {})["embeddings"][kind]
    assert all(number == int(number) for number in one.embedding)


def test_an_answer_is_what_openais_document_says(demo: Gateway) -> None:
    oracle.openai_validator("CreateEmbeddingResponse").check(embed(demo, ["a", "b"]).body)


# --- LangChain ----------------------------------------------------------------------------------------------


@pytest.fixture
def tiktoken_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tiktoken downloads its table unless it lies in its cache; ours is the same (`test_embeddings.py`)."""
    lines = (b64encode(token) + b" %d\n" % position for position, token in enumerate(vocabulary()[:ORDINARY]))
    url = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
    (tmp_path / hashlib.sha1(url.encode()).hexdigest()).write_bytes(b"".join(lines))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))


TEXTS = ["Hello, world!", "naïve 😀 café", "  two  spaces\n\n", "<|endoftext|> as words", "中文字符", "word " * 400]


def test_langchain_with_its_defaults(demo: Gateway, tiktoken_table: None) -> None:
    """It sends arrays of tokens, and asks for base64: the vectors are those of the texts."""
    from langchain_openai import OpenAIEmbeddings

    with openai.DefaultHttpxClient(trust_env=False) as http_client:
        langchain = OpenAIEmbeddings(
            model=V4, base_url=f"{demo.url}/v1", api_key=SecretStr(demo.key), http_client=http_client, max_retries=0
        )
        result = langchain.embed_documents(TEXTS)
        one = langchain.embed_query(TEXTS[1])
    expected = vectors(embed(demo, TEXTS))
    assert result == [[float(numpy.float32(number)) for number in row] for row in expected]
    assert one == result[1]


def test_tokens_are_the_text_they_were(tiktoken_table: None, harness: Harness) -> None:
    import tiktoken

    encoding = tiktoken.get_encoding("cl100k_base")
    harness.respond_with(json_answer(200, {"embeddings": {"float": [[1, 2]] * len(TEXTS)}}))
    response = embed(harness.gateway, [encoding.encode_ordinary(text) for text in TEXTS])
    assert harness.upstream.requests[-1].json()["texts"] == TEXTS
    assert response.headers["x-gateway-notes"] == "input emulated (tokens read as cl100k_base text)"
    special = encoding.encode("<|fim_prefix|>a<|endoftext|>", allowed_special="all")
    harness.respond_with(json_answer(200, {"embeddings": {"float": [[1, 2]]}}))
    assert embed(harness.gateway, special).status == 200
    assert harness.upstream.requests[-1].json()["texts"] == ["<|fim_prefix|>a<|endoftext|>"]


# --- recorded answers ---------------------------------------------------------------------------------------


@each_recording("/v2/embed", status=200)
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_a_recorded_answer(harness: Harness, recording: Recording, encoding: Any) -> None:
    """Floats arrive as they were recorded. Asked for base64, this Cohere has none, and they are packed here."""
    harness.respond_with(json_answer(200, recording.json(), recording.headers))
    provided = recording.request.body
    with harness.gateway.client() as sdk:
        response = sdk.embeddings.create(
            model=provided["model"],
            input=provided["texts"],
            encoding_format=encoding,
            extra_body={key: provided[key] for key in ("input_type", "truncate", "max_tokens", "output_dimension")},
        )
    request = {key: value for key, value in provided.items() if value is not None}
    assert harness.upstream.requests[0].json() == {**request, "embedding_types": [encoding]}
    expected = recording.json()["embeddings"]["float"]
    data = [floats(one.embedding) if isinstance(one.embedding, str) else one.embedding for one in response.data]
    if encoding == "base64":
        assert len(harness.upstream.requests) == 2
        expected = [[float(numpy.float32(number)) for number in row] for row in expected]
    assert data == expected
    assert response.usage.prompt_tokens == recording.json()["meta"]["billed_units"]["input_tokens"]


@each_recording("/v2/embed", status=404)
def test_a_recorded_refusal(harness: Harness, recording: Recording) -> None:
    harness.respond_with(json_answer(404, recording.json(), recording.headers))
    with harness.gateway.client() as sdk, pytest.raises(openai.NotFoundError) as caught:
        sdk.embeddings.create(model=recording.request.body["model"], input=recording.request.body["texts"])
    assert caught.value.code == "model_not_found"
    assert recording.json()["message"] in str(caught.value)


# --- many inputs --------------------------------------------------------------------------------------------


def test_the_longest_list_comes_back_in_order() -> None:
    under_way: list[int] = []

    def respond(request: Request) -> Script:
        if request.path != "/v2/embed":
            return json_answer(404, {"message": "no such path"})
        under_way.append(sum(not exchange.finished.is_set() for exchange in upstream.exchanges))
        # The first parts answer last.
        return Pause(0.2 if len(under_way) < 4 else 0.02), *numbered(request)

    with ScriptedUpstream(respond).run_in_thread() as upstream, gateway_over(upstream.url) as gateway:
        http_response = embed(gateway, [f"text {number}" for number in range(2_048)], "embed-v9.0")
        assert [row[0] for row in vectors(http_response)] == list(range(2_048))
        assert http_response.body["usage"] == {
            "prompt_tokens": 2048,
            "total_tokens": 2048,
            "billed_units": {"input_tokens": 2048},
        }
        assert sorted(len(request.json()["texts"]) for request in embed_requests(upstream)) == [32] + [96] * 21
        assert 1 < max(under_way) <= MAX_CONCURRENT_PARTS
        with gateway.client() as sdk:
            response = sdk.embeddings.create(model="embed-v9.0", input=[f"text {number}" for number in range(200)])
        assert [one.embedding[0] for one in response.data] == list(range(200))


kinds = st.sampled_from(["text", "tokens", "image", "both"])


@property_of(15)
@given(value=st.lists(kinds, min_size=1, max_size=130), model=st.sampled_from([V4, V3]))
def test_any_list_comes_back_as_one_by_one(demo: Gateway, value: Sequence[str], model: str) -> None:
    results: list[Any] = []
    for position, kind in enumerate(value):
        text = f"word{position % 7} here"
        both = {"text": text, "image": PIXEL} if model == V4 else {"text": text}
        results.append({"text": text, "tokens": [9906, 1000 + position % 7], "image": PIXEL, "both": both}[kind])
    together = vectors(embed(demo, results, model))
    alone: dict[str, list[float]] = {}
    for one, row in zip(results, together, strict=True):
        key = json.dumps([model, one])
        if key not in alone:
            (alone[key],) = vectors(embed(demo, [one], model))
        assert row == alone[key]


# --- failures -----------------------------------------------------------------------------------------------


def failing(*failures: tuple[int, int, float]) -> Any:
    """An upstream that refuses some parts: (number of the part, status, seconds until then); 200 is only late."""

    def respond(request: Request) -> Script:
        part = int(request.json()["texts"][0].split()[-1]) // 96
        for number, status, seconds in failures:
            if part == number:
                if status == 200:
                    return Pause(seconds), *numbered(request)
                headers = {"retry-after": str(number)} if status == 429 else {}
                return Pause(seconds), *json_answer(status, {"message": f"part {number} failed"}, headers)
        return Pause(0.05), *numbered(request)

    return respond


def test_one_failed_part_fails_the_whole() -> None:
    texts = [f"text {number}" for number in range(2_048)]
    with (
        ScriptedUpstream(failing((0, 200, 0.7), (1, 429, 0.0))).run_in_thread() as upstream,
        gateway_over(upstream.url) as gateway,
    ):
        response = embed(gateway, texts)
        assert (response.status, response.error["code"]) == (429, "rate_limit_exceeded")
        assert (response.error["message"], response.headers["retry-after"]) == ("part 1 failed", "1")
        assert len(upstream.requests) <= 2 * MAX_CONCURRENT_PARTS, "what comes after a failure is not asked any more"
        line = gateway.log.line_of(response.headers["x-request-id"])
        assert line["error"] == "rate_limit_exceeded"
        assert line.get("prompt_tokens", 0) <= 96 * MAX_CONCURRENT_PARTS, "parts that were answered are paid for"


@pytest.mark.parametrize(
    "failures",
    [
        ((1, 400, 0.2), (3, 429, 0.0)),
        ((1, 400, 0.0), (3, 429, 0.2)),
        ((1, 400, 0.1), (2, 503, 0.0), (3, 429, 0.05), (20, 500, 0.0)),
    ],
)
def test_of_several_failures_the_first_in_order_is_reported(failures: Any) -> None:
    texts = [f"text {number}" for number in range(400)]
    with ScriptedUpstream(failing(*failures)).run_in_thread() as upstream, gateway_over(upstream.url) as gateway:
        response = embed(gateway, texts)
        assert (response.status, response.error["message"]) == (400, "part 1 failed")


def test_a_failure_names_the_callers_field(demo: Gateway) -> None:
    response = embed(demo, ["a", "word " * 200_000], truncate="NONE")
    assert (response.status, response.error["code"], response.error["param"]) == (
        400,
        "context_length_exceeded",
        "input",
    )


def test_base64_that_is_refused_is_requested_as_floats(harness: Harness) -> None:
    for first in (
        json_answer(400, {"message": "invalid request: embedding_types must be one of float, int8, binary"}),
        json_answer(200, {"embeddings": {"base64": ["AAAAPw=="]}}),
    ):
        harness.respond_with(first, json_answer(200, {"embeddings": {"float": [[0.5] * 256]}}))
        response = embed(harness.gateway, "a", encoding_format="base64", dimensions=256)
        assert floats(response.body["data"][0]["embedding"]) == [0.5] * 256
        requests = [request.json()["embedding_types"] for request in harness.upstream.requests]
        assert requests == [["base64"], ["float"]]
        assert "asked again for floats" in response.headers["x-gateway-notes"]


def test_what_is_in_the_cache_is_not_sent_again_as_floats() -> None:
    quarter, half = (b64encode(struct.pack("<256f", *[number] * 256)).decode() for number in (0.25, 0.5))
    with run_harness(cache=CacheSettings(store="memory")) as harness:
        fields: dict[str, Any] = {"encoding_format": "base64", "dimensions": 256}
        harness.respond_with(json_answer(200, {"embeddings": {"base64": [quarter]}}))
        embed(harness.gateway, ["a"], **fields)
        refusal = json_answer(400, {"message": "invalid request: embedding_types must be one of float"})
        harness.respond_with(refusal, json_answer(200, {"embeddings": {"float": [[0.5] * 256]}}))
        response = embed(harness.gateway, ["a", "b"], **fields)
        assert [one["embedding"] for one in response.body["data"]] == [quarter, half]
        assert [request.json()["texts"] for request in harness.upstream.requests] == [["b"], ["b"]]
        for note in ("1 of 2 inputs from the cache", "asked again for floats"):
            assert note in response.headers["x-gateway-notes"]


def test_a_second_failure_is_reported(harness: Harness) -> None:
    bad = json_answer(200, {"embeddings": {"base64": ["AAAAPw=="]}})
    harness.respond_with(bad, json_answer(429, {"message": "slow down"}, {"retry-after": "7"}))
    response = embed(harness.gateway, "a", encoding_format="base64", dimensions=256)
    assert (response.status, response.error["message"], response.headers["retry-after"]) == (429, "slow down", "7")


def test_a_broken_answer_is_no_success(harness: Harness) -> None:
    bodies: tuple[Any, ...] = (b"<html>", b'{"embeddings":{"float":[[1,2]', {"embeddings": {"float": []}})
    for body in bodies:
        harness.respond_with(json_answer(200, body))
        response = embed(harness.gateway)
        assert (response.status, response.error["code"]) == (502, "upstream_protocol_error")


def test_a_caller_leaves_and_all_calls_are_closed() -> None:
    slow = Pause(30), *json_answer(200, {})
    with ScriptedUpstream(slow).run_in_thread() as upstream, gateway_over(upstream.url, key=CALLER_KEY) as gateway:
        body = json.dumps({"model": V4, "input": [f"text {number}" for number in range(300)]}).encode()
        with socket.create_connection(gateway.address, WAIT_SECONDS) as connection:
            head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {CALLER_KEY}\r\n"
            connection.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
            _until(lambda: len(upstream.exchanges) == 4)
        for exchange in upstream.exchanges:
            exchange.closed.wait_in_thread()
        assert gateway.log.wait(lambda line: line.get("operation") == "embeddings")["outcome"] == "client_closed"


def _until(done: Any, seconds: float = WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        ({"model": V4, "input": ["a"] * 7 + [""]}, 400, "input[7]"),
        ({"model": V4, "input": [[9906], [9906], [9906], [9906] * 7 + [200_000]]}, 400, "input[3][7]"),
        ({"model": V4, "input": ["a"] * 2_049}, 400, "input"),
        ({"model": "no-such-model", "input": "a"}, 404, None),
    ],
)
def test_a_wrong_request_is_refused_by_its_path(demo: Gateway, body: Any, status: int, param: str | None) -> None:
    response = demo.ask("POST", PATH, body)
    assert (response.status, response.error["param"]) == (status, param)


# --- what is measured, and what is set ----------------------------------------------------------------------


def test_it_is_logged_and_counted() -> None:
    with demonstration() as gateway:
        response = embed(gateway, ["one two", "three"], user="u")
        line = gateway.log.line_of(response.headers["x-request-id"])
        tokens = response.body["usage"]["prompt_tokens"]
        assert tokens > 0
        assert {key: line[key] for key in ("operation", "model", "status", "prompt_tokens", "notes")} == {
            "operation": "embeddings",
            "model": V4,
            "status": 200,
            "prompt_tokens": tokens,
            "notes": 1,
        }
        assert line["cohere_trace"] == response.headers["x-cohere-trace-id"]
        series = gateway.metrics()
        labels = f'operation="embeddings",model="{V4}"'
        assert series[f'gateway_requests_total{{model="{V4}",operation="embeddings",outcome="ok",status="200"}}'] == 1
        assert series[f'gateway_tokens_total{{direction="input",model="{V4}",operation="embeddings"}}'] == tokens, (
            labels
        )
        assert series['gateway_request_notes_total{field="user",kind="ignored",operation="embeddings"}'] == 1


def test_the_operator_chooses_what_texts_are_for(harness: Harness) -> None:
    with gateway_over(harness.upstream.url, key=CALLER_KEY, embed_input_type="clustering") as gateway:
        for value, request in ((None, "clustering"), ("search_query", "search_query")):
            harness.respond_with(json_answer(200, {"embeddings": {"float": [[1, 2]]}}))
            assert embed(gateway, "a", input_type=value).status == 200
            assert harness.upstream.requests[-1].json()["input_type"] == request


def test_an_alias_names_an_embedding_model(harness: Harness) -> None:
    aliases = Models(aliases={"text-embedding-3-small": V4})
    with gateway_over(harness.upstream.url, key=CALLER_KEY, models=aliases) as gateway:
        harness.respond_with(json_answer(200, {"embeddings": {"float": [[1, 2]]}}))
        response = embed(gateway, "a", "text-embedding-3-small")
    assert response.body["model"] == "text-embedding-3-small"
    assert harness.upstream.requests[-1].json()["model"] == V4


def test_translate_shows_every_part(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    request = {"model": V4, "input": [[9906, 1917], *(f"text {number}" for number in range(96))]}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(request).encode())))
    assert main.main(["translate", "embeddings"]) == 0
    output = capsys.readouterr()
    first, second = map(json.loads, output.out.splitlines())
    assert (first["texts"][0], len(first["texts"]), second["texts"]) == ("Hello world", 96, ["text 95"])
    assert output.err == "note: input emulated (tokens read as cl100k_base text)\n"
