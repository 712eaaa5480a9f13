"""Embeddings without a server: the vocabulary, the division among calls, the laws, and both specifications."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.emulator.model_catalog import MODELS
from gateway.pipeline.cl100k_base import ORDINARY, SPECIAL, vocabulary
from support import golden, oracle
from support.golden import embeddings_call
from support.transcripts import property_of
from translators.core.capabilities import EMBEDDERS, RETIRED_EMBEDDERS, EmbeddingModel, embedding_model
from translators.core.errors import AnswerFailed, Failure, InvalidField, UpstreamProtocolError
from translators.core.field_table import Verdict
from translators.operations import embeddings
from translators.operations.embeddings_input import (
    MOST_IMAGE_BYTES,
    MOST_IN_A_CALL,
    MOST_INPUTS,
    Input,
    Visual,
    field_of,
    parts,
)

V4, V3, V5, NEW = "embed-v4.0", "embed-english-v3.0", "embed-v5.0-fast", "embed-v9.0"
PIXEL = "data:image/png;base64,iVBORw0KGgo="
PUBLISHED = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
"""SHA-256 of OpenAI's cl100k_base.tiktoken, as tiktoken's own source has it."""


# --- the vocabulary -----------------------------------------------------------------------------------------


def test_the_vocabulary_is_openais() -> None:
    lines = (base64.b64encode(token) + b" %d\n" % number for number, token in enumerate(vocabulary()[:ORDINARY]))
    assert hashlib.sha256(b"".join(lines)).hexdigest() == PUBLISHED


def test_special_tokens_are_words_and_gaps_are_empty() -> None:
    settings = vocabulary()
    assert len(settings) == 100_277
    assert {number: settings[number] for number in range(ORDINARY, len(settings)) if settings[number]} == SPECIAL


# --- what an input may be -----------------------------------------------------------------------------------

REFUSED: tuple[tuple[Any, str, str], ...] = (
    (5, "input", "invalid_type"),
    (True, "input", "invalid_type"),
    ("", "input", "empty_string"),
    ([], "input", "empty_array"),
    ([[]], "input[0]", "empty_array"),
    (["a"] * 7 + [""], "input[7]", "empty_string"),
    (["a", None], "input[1]", "invalid_type"),
    (["a", 1.5], "input[1]", "invalid_type"),
    (["a", True], "input[1]", "invalid_type"),
    (["a", 5], "input[1]", "invalid_type"),
    ([5, "a"], "input[1]", "invalid_type"),
    ([5, 1.5], "input[1]", "invalid_type"),
    ([[5], [5, "a"]], "input[1][1]", "invalid_type"),
    ([[5, {"text": "a"}]], "input[0][1]", "invalid_type"),
    ([[{"text": "a"}, 5]], "input[0][1]", "invalid_type"),
    ([[[5]]], "input[0][0]", "invalid_type"),
    ([-1], "input[0]", "invalid_value"),
    ([[9906], [1, 2, 100_277]], "input[1][2]", "invalid_value"),
    ([[100_261]], "input[0][0]", "invalid_value"),
    ([[10**30]], "input[0][0]", "invalid_value"),
    ([["a"]], "input[0][0]", "invalid_type"),
    (["a"] * (MOST_INPUTS + 1), "input", "array_above_max_length"),
    ([{}], "input[0]", "missing_required_parameter"),
    ({"text": ""}, "input.text", "empty_string"),
    ([{"text": 5}], "input[0].text", "invalid_type"),
    ([{"type": "text"}], "input[0].text", "missing_required_parameter"),
    ([{"type": "input_image", "text": "a"}], "input[0].image_url", "missing_required_parameter"),
    ([{"type": "input_audio"}], "input[0].type", "invalid_value"),
    ([{"image": {}}], "input[0].image.url", "missing_required_parameter"),
    ([{"image": "cat.png"}], "input[0].image", "invalid_value"),
    ([{"image": {"url": "https://example.com/cat.png"}}], "input[0].image.url", "invalid_value"),
    ([{"content": []}], "input[0].content", "empty_array"),
    ([{"content": [{"type": "text", "text": "a"}, {"text": ""}]}], "input[0].content[1].text", "empty_string"),
    ([[{"text": "a"}, {"image": "x"}]], "input[0][1].image", "invalid_value"),
)


@pytest.mark.parametrize(("value", "param", "code"), REFUSED, ids=[json.dumps(row[0])[:60] for row in REFUSED])
def test_an_input_that_is_none_is_refused_by_its_path(value: Any, param: str, code: str) -> None:
    with pytest.raises(InvalidField) as caught:
        embeddings_call({"model": V4, "input": value})
    result = caught.value.failure
    assert (result.status, result.param, result.code) == (400, param, code)
    assert result.message


FIELDS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"model": V4}, "input"),
    ({"input": "a"}, "model"),
    ({"model": "cohere/", "input": "a"}, "model"),
    ({"model": V4, "input": "a", "texts": ["a"]}, "texts"),
    ({"model": V4, "texts": "a"}, "texts"),
    ({"model": V4, "texts": ["a", ""]}, "texts[1]"),
    ({"model": V4, "images": ["a"]}, "images[0]"),
    ({"model": V4, "inputs": [{"content": [{"type": "text", "text": 5}]}]}, "inputs[0].content[0].text"),
    ({"model": V4, "input": "a", "encoding_format": "hex"}, "encoding_format"),
    ({"model": V4, "input": "a", "dimensions": 0}, "dimensions"),
    ({"model": V4, "input": "a", "dimensions": 7}, "dimensions"),
    ({"model": V4, "input": "a", "output_dimension": 7}, "output_dimension"),
    ({"model": V3, "input": "a", "dimensions": 1536}, "dimensions"),
    ({"model": V4, "input": "a", "input_type": "query"}, "input_type"),
    ({"model": V4, "input": "a", "embedding_types": ["float", "double"]}, "embedding_types[1]"),
    ({"model": V5, "input": "a", "embedding_types": ["float", "uint8"]}, "embedding_types[1]"),
    ({"model": V5, "input": "a", "embedding_types": ["ubinary"]}, "embedding_types[0]"),
    ({"model": V4, "input": "a", "truncate": "MIDDLE"}, "truncate"),
    ({"model": V4, "input": "a", "max_tokens": 0}, "max_tokens"),
)


@pytest.mark.parametrize(("request_", "param"), FIELDS, ids=[json.dumps(row[0])[:70] for row in FIELDS])
def test_a_field_that_is_wrong_is_refused_by_its_path(request_: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidField) as caught:
        embeddings_call(request_)
    assert (caught.value.failure.status, caught.value.failure.param) == (400, param)


@pytest.mark.parametrize("model", [*EMBEDDERS, NEW])
def test_every_type_that_a_model_gives_is_sent(model: str) -> None:
    types = [name for name in embedding_model(model).types if name != "base64"]
    call = embeddings_call({"model": model, "input": "a", "embedding_types": types})
    assert json.loads(call.bodies[0])["embedding_types"] == types


def test_a_type_that_a_model_lacks_is_passed_on_with_those_it_has() -> None:
    with pytest.raises(InvalidField, match=r"'embed-v5.0-pro' gives float, int8, binary, not uint8"):
        embeddings_call({"model": "embed-5-pro", "input": "a", "embedding_types": ["uint8"]})


@pytest.mark.parametrize("model", sorted(RETIRED_EMBEDDERS))
def test_a_removed_model_says_what_to_do(model: str) -> None:
    call = embeddings_call({"model": model, "input": "a"})
    refused = Failure(404, f"model '{model}' was removed.", code="model_not_found")
    assert call.caller_failure(refused).message == f"model '{model}' was removed. {embeddings.REMOVED}"
    other = embeddings_call({"model": V4, "input": "a"})
    assert other.caller_failure(refused) == refused


def test_a_whole_array_may_have_as_many_tokens_as_it_likes() -> None:
    call = embeddings_call({"model": V4, "input": [9906] * 8_191})
    assert json.loads(call.bodies[0])["texts"] == ["Hello" * 8_191]


def test_a_text_that_only_begins_like_an_image_is_a_text() -> None:
    for text in ("data:image/png is a prefix", "data:text/plain;base64,YQ=="):
        assert json.loads(embeddings_call({"model": V4, "input": text}).bodies[0])["texts"] == [text]
    assert json.loads(embeddings_call({"model": V4, "texts": [PIXEL]}).bodies[0])["texts"] == [PIXEL]


@pytest.mark.parametrize(
    ("image", "kind"),
    [("iVBORw0KGgo=", "png"), ("/9j/4AAQ", "jpeg"), ("R0lGODlh", "gif"), ("UklGRh4A", "webp")],
)
def test_an_image_without_its_prefix_gets_it(image: str, kind: str) -> None:
    for value in ({"image": image}, {"image": {"base64": image}}, {"type": "image_url", "image_url": {"url": image}}):
        request = json.loads(embeddings_call({"model": V4, "input": [value]}).bodies[0])
        assert (request["images"], request["input_type"]) == ([f"data:image/{kind};base64,{image}"], "image")


# --- the division among calls -------------------------------------------------------------------------------


def test_the_longest_list_is_divided_by_ninety_six() -> None:
    call = embeddings_call({"model": V4, "input": [f"text {number}" for number in range(MOST_INPUTS)]})
    requests = [json.loads(body)["texts"] for body in call.bodies]
    assert [len(texts) for texts in requests] == [MOST_IN_A_CALL] * 21 + [32]
    assert [text for texts in requests for text in texts] == [f"text {number}" for number in range(MOST_INPUTS)]


def test_images_are_divided_by_their_size() -> None:
    third = MOST_IMAGE_BYTES // 3
    images = [Visual("images", str(number), third) for number in range(4)]
    whole = Visual("images", "whole", MOST_IMAGE_BYTES + 1)
    result = parts(range(6), [*images, whole, images[0]], EmbeddingModel())
    assert [part.positions for part in result] == [[0, 1, 2], [3], [4], [5]]


def test_older_models_get_an_image_a_call() -> None:
    result = parts(range(3), [Visual("images", str(number), 1) for number in range(3)], EMBEDDERS[V3])
    assert [part.positions for part in result] == [[0], [1], [2]]


visual = st.builds(Visual, st.sampled_from(["images", "inputs"]), st.text(), st.integers(0, MOST_IMAGE_BYTES))
inputs = st.one_of(st.lists(st.text(), max_size=300), st.lists(st.one_of(st.text(), visual), max_size=300))


@property_of(150)
@given(inputs, st.booleans(), st.integers(1, 3))
def test_parts_hold_every_input_once_and_in_order(value: list[Input], fused: bool, apart: int) -> None:
    """apart: from one place to the next, where what lies between is in the cache."""
    positions = range(0, len(value) * apart, apart)
    result = parts(positions, value, EmbeddingModel(fused=fused))
    assert sorted(position for part in result for position in part.positions) == list(positions)
    assert [part.positions[0] for part in result] == sorted(part.positions[0] for part in result)
    for part in result:
        assert list(part.positions) == sorted(part.positions)
        of_part = [value[position // apart] for position in part.positions]
        assert list(part.values) == [one if isinstance(one, str) else one.value for one in of_part]
        assert {field_of(one) for one in of_part} == {part.field}
        assert len(part.values) <= MOST_IN_A_CALL
        size = sum(one.size for one in of_part if isinstance(one, Visual))
        assert size <= MOST_IMAGE_BYTES or len(part.values) == 1


# --- the law: in company as alone ---------------------------------------------------------------------------


def cohere(body: bytes, size: int = 4) -> bytes:
    """Cohere, as far as it goes here: a vector is made of the content, its field and the type of input."""
    request = json.loads(body)
    (field,) = {"texts", "images", "inputs"} & set(request)
    rows = [_numbers(json.dumps([field, request["input_type"], content]), size) for content in request[field]]
    created = {
        "float": rows,
        "base64": [_base64(row) for row in rows],
        "int8": [[int(n * 100) for n in row] for row in rows],
    }
    result = {name: created[name] for name in request["embedding_types"]}
    return json.dumps({"embeddings": result, "meta": {"billed_units": {"input_tokens": len(rows)}}}).encode()


def _numbers(text: str, size: int) -> list[float]:
    digest = hashlib.sha256(text.encode()).digest()
    return [(byte - 127) / 256 for byte in digest[:size]]


def _base64(row: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()


def embedded(request: dict[str, Any]) -> list[dict[str, Any]]:
    call = embeddings_call(request)
    answer = call.translate_response([cohere(body) for body in call.bodies])
    document = json.loads(answer.body)
    assert [one["index"] for one in document["data"]] == list(range(len(document["data"])))
    assert document["usage"]["total_tokens"] == answer.usage.prompt_tokens == len(document["data"])
    return [{key: value for key, value in one.items() if key != "index"} for one in document["data"]]


one_input = st.one_of(
    st.text(min_size=1, max_size=5),
    st.lists(st.integers(0, ORDINARY - 1), min_size=1, max_size=5),
    st.just(PIXEL),
    st.builds(lambda text: {"text": text, "image": PIXEL}, st.text(min_size=1, max_size=3)),
    st.builds(lambda text: [{"type": "text", "text": text}], st.text(min_size=1, max_size=3)),
    st.builds(lambda text: {"content": [{"type": "text", "text": text}, {"image": PIXEL}]}, st.text("ab", min_size=1)),
)


@property_of(80)
@given(
    st.lists(one_input, min_size=1, max_size=120),
    st.sampled_from([V5, NEW]),
    st.fixed_dictionaries(
        {},
        optional={
            "encoding_format": st.sampled_from(["float", "base64"]),
            "embedding_types": st.lists(st.sampled_from(["float", "int8", "base64"]), max_size=3),
            "input_type": st.sampled_from(["search_query", "image", "clustering"]),
        },
    ),
)
def test_any_list_of_inputs_comes_back_as_one_by_one(value: list[Any], model: str, rest: dict[str, Any]) -> None:
    together = embedded({"model": model, "input": value, **rest})
    assert together == [embedded({"model": model, "input": [one], **rest})[0] for one in value]


@property_of(80)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
def test_floats_are_packed_as_the_sdks_read_them(numbers: list[float]) -> None:
    call = embeddings_call({"model": V5, "input": "a", "encoding_format": "base64"})
    document = json.loads(call.translate_response([json.dumps({"embeddings": {"float": [numbers]}}).encode()]).body)
    packed = base64.b64decode(document["data"][0]["embedding"])
    assert list(struct.unpack(f"<{len(numbers)}f", packed)) == numbers


# --- what Cohere answers ------------------------------------------------------------------------------------


def test_numbers_are_passed_on_as_they_were_written() -> None:
    row = b"[0.10000000149011612,-1.0e-05, 1E2,0]"
    answer = embeddings_call({"model": V4, "input": "a"}).translate_response([b'{"embeddings":{"float":[%s]}}' % row])
    assert b'"embedding":' + row in answer.body


def test_base64_that_is_escaped_is_counted_without_its_escapes() -> None:
    result = '"AAAA\\u0050wAAgL4="'
    call = embeddings_call({"model": NEW, "input": "a", "encoding_format": "base64", "dimensions": 2})
    answer = call.translate_response([b'{"embeddings":{"base64":[%s]}}' % result.encode()])
    assert json.loads(answer.body)["data"][0]["embedding"] == "AAAAPwAAgL4="


BROKEN = (
    b"",
    b"<html>",
    b"[]",
    b"{}",
    b'{"embeddings":[[1,2]]}',
    b'{"embeddings":{}}',
    b'{"embeddings":{"float":null}}',
    b'{"embeddings":{"float":[]}}',
    b'{"embeddings":{"float":[null]}}',
    b'{"embeddings":{"float":[[]]}}',
    b'{"embeddings":{"float":["AAAA"]}}',
    b'{"embeddings":{"float":[[1],[2]]}}',
    b'{"embeddings":{"int8":[[1]]}}',
    b'{"embeddings":{"float":[[1]]',
)


@pytest.mark.parametrize("answer", BROKEN)
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_an_answer_without_the_vectors_is_none(answer: bytes, encoding: str) -> None:
    call = embeddings_call({"model": V5, "input": "a", "encoding_format": encoding})
    with pytest.raises(UpstreamProtocolError):
        call.translate_response([answer])


@pytest.mark.parametrize("row", [b"[null]", b'["a"]', b"[1e39]", b"[[1]]"])
def test_floats_that_cannot_be_packed_are_none(row: bytes) -> None:
    call = embeddings_call({"model": V5, "input": "a", "encoding_format": "base64"})
    with pytest.raises(UpstreamProtocolError):
        call.translate_response([b'{"embeddings":{"float":[%s]}}' % row])


@pytest.mark.parametrize("row", ['"AAAA"', '"AAAAPwAAgL4"', '""', '"AAAAPwAAgL4AAAA="', "null", "[1,2]", '"A\\qAA"'])
def test_base64_of_the_wrong_length_is_requested_as_floats(row: str) -> None:
    call = embeddings_call({"model": NEW, "input": "a", "encoding_format": "base64", "dimensions": 2})
    try:
        call.translate_response([b'{"embeddings":{"base64":[%s]}}' % row.encode()])
    except AnswerFailed as error:
        second = call.second_attempt(error.failure)
    except UpstreamProtocolError:
        assert row == '"A\\qAA"'  # no JSON at all
        return
    assert second is not None and second.second_attempt(Failure(502, "", second_attempt=True)) is None
    assert json.loads(second.bodies[0])["embedding_types"] == ["float"]
    document = json.loads(second.translate_response([b'{"embeddings":{"float":[[0.5,-0.25]]}}']).body)
    assert document["data"][0]["embedding"] == "AAAAPwAAgL4="


@pytest.mark.parametrize(
    ("failed", "helped"),
    [
        (Failure(400, "embedding_types must be one of float, int8, binary"), True),
        (Failure(422, "base64 is not supported for this model"), True),
        (Failure(400, "too many tokens"), False),
        (Failure(429, "base64"), False),
    ],
)
def test_base64_that_is_refused_is_requested_as_floats(failed: Failure, helped: bool) -> None:
    call = embeddings_call({"model": NEW, "input": "a", "encoding_format": "base64"})
    assert (call.second_attempt(failed) is not None) is helped
    assert embeddings_call({"model": NEW, "input": "a"}).second_attempt(failed) is None


def test_a_failure_names_the_callers_field() -> None:
    call = embeddings_call({"model": NEW, "input": "a", "dimensions": 5})
    failed = Failure(400, "no")
    assert call.caller_failure(failed).param is None
    for coheres, callers in (("texts", "input"), ("messages", "input"), ("output_dimension", "dimensions")):
        assert call.caller_failure(failed.at(coheres)).param == callers
    native = embeddings_call({"model": NEW, "texts": ["a"], "output_dimension": 5})
    for coheres in ("texts", "output_dimension"):
        assert native.caller_failure(failed.at(coheres)).param == coheres


# --- the specifications -------------------------------------------------------------------------------------


def _golden(name: str) -> list[Any]:
    return sorted((golden.ROOT / "embeddings").glob(f"*/{name}"))


@pytest.mark.parametrize("path", _golden("request.cohere.json"), ids=lambda path: path.parent.name)
def test_golden_requests_are_coheres(path: Any) -> None:
    body = json.loads(path.read_text(encoding="utf-8"))
    for one in body if isinstance(body, list) else [body]:
        oracle.cohere_request_validator("/v2/embed").check(one)


@pytest.mark.parametrize("path", _golden("response.openai.json"), ids=lambda path: path.parent.name)
def test_golden_answers_are_openais(path: Any) -> None:
    """OpenAI's document knows no base64, although its SDKs ask for nothing else: such vectors are unpacked first."""
    body = json.loads(path.read_text(encoding="utf-8"))
    for one in body["data"]:
        if isinstance(one["embedding"], str):
            packed = base64.b64decode(one["embedding"], validate=True)
            one["embedding"] = list(struct.unpack(f"<{len(packed) // 4}f", packed))
    oracle.openai_validator("CreateEmbeddingResponse").check(body)


@property_of(150)
@given(
    st.lists(one_input, min_size=1, max_size=5),
    st.sampled_from([*EMBEDDERS, NEW]),
    st.fixed_dictionaries(
        {},
        optional={
            "dimensions": st.sampled_from([None, 256, 384, 1024, 2048]),
            "truncate": st.sampled_from(["NONE", "START", "END", None]),
            "max_tokens": st.integers(1, 9_000),
            "priority": st.integers(-5, 5_000),
            "embedding_types": st.lists(st.sampled_from(["float", "ubinary", "base64"])),
            "input_type": st.sampled_from(["classification", "image", None]),
            "user": st.text(max_size=3),
            "frobnicate": st.just(1),
        },
    ),
)
def test_requests_are_coheres(value: list[Any], model: str, rest: dict[str, Any]) -> None:
    """What any request comes to is a request of Cohere's, or a 400 that names its field."""
    request = {"model": model, "input": value, **rest}
    try:
        call = embeddings_call(request)
    except InvalidField as error:
        assert error.failure.status == 400
        assert error.failure.param and error.failure.param.split(".")[0].split("[")[0] in request
        return
    for body in call.bodies:
        oracle.cohere_request_validator("/v2/embed").check(json.loads(body))


def test_every_field_of_both_has_a_row() -> None:
    rows = embeddings.TABLE.rows
    assert oracle.openai_schema_properties("CreateEmbeddingRequest") <= {row.name for row in rows}
    request = {row.to for row in rows if row.verdict is Verdict.SEND}
    read = {row.name for row in rows if row.verdict is Verdict.READ}
    assert oracle.cohere_request_properties("/v2/embed") <= request | read


def test_every_row_that_does_not_send_says_why() -> None:
    for row in embeddings.TABLE.rows:
        assert row.why or row.verdict is Verdict.SEND


def test_embedders_are_the_emulators() -> None:
    """Two tables of one truth: where they differ, one is wrong."""
    offered = {model.name: model for model in MODELS if "embed" in model.endpoints}
    assert set(EMBEDDERS) <= set(offered)
    for name, supported in EMBEDDERS.items():
        assert (supported.sizes, supported.fused) == (offered[name].dimensions, offered[name].multimodal)
