"""The parts of the emulator that can be tested without a server: tokens, vectors, patterns, instances, ranking."""

from __future__ import annotations

import base64
import copy
import random
import re
import struct
import time
from typing import Any

import jsonschema
import pytest

from gateway.emulator import (
    batches,
    classify,
    connectors,
    embed_jobs,
    embed_v1,
    finetuning,
    generate,
    parse,
    rerank,
    rerank_v1,
    routes,
    schema_instances,
    tokens,
    vectors,
)
from gateway.emulator.embed import embed
from gateway.emulator.errors import APIError
from gateway.emulator.extraction import MISSING, ValueExtractor, find_locations
from gateway.emulator.images import read_image
from gateway.emulator.model_catalog import ModelCatalog
from gateway.emulator.patterns import matching_text
from gateway.emulator.request import EmulatorState, Handler, Request
from gateway.emulator.schema_instances import InstanceBuilder, break_instance
from support.transcripts import LONG

# --- tokens -------------------------------------------------------------------------------------------------

TEXTS = [
    "",
    "Hello, world!",
    "  two  spaces\n\n\ttabs ",
    "Grüße aus Zürich, naïve café",
    "日本語のテキスト",
    "👩‍🚀🏳️‍🌈 e\u0301 \u200b \ufeff \x00 \x7f",
    "snake_case CamelCase __init__ 3.14159 1e-9 ½ ²",
    '<|endoftext|> {"a": [1, 2]} </s>',
    "incomprehensibilities" * 3,
]


@pytest.mark.parametrize("text", TEXTS)
def test_detokenize_is_the_inverse_of_tokenize(text: str) -> None:
    pieces = tokens.split(text)
    assert "".join(pieces) == text
    numbers = [tokens.token_id(piece) for piece in pieces]
    assert all(0 <= number < 2**53 for number in numbers)
    assert "".join(tokens.token_text(number) for number in numbers) == text


def test_any_text_survives() -> None:
    chance = random.Random(7)
    for _ in range(300):
        codes = [chance.choice([chance.randrange(32, 127), chance.randrange(0x110000)]) for _ in range(30)]
        text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
        assert "".join(tokens.token_text(tokens.token_id(piece)) for piece in tokens.split(text)) == text


@pytest.mark.parametrize("number", [0, 1, 7, 255, 2**62, 2**70, -1, 0x1FF])
def test_a_number_that_is_no_token(number: int) -> None:
    with pytest.raises(APIError, match="not in the vocabulary"):
        tokens.token_text(number)


# --- vectors ------------------------------------------------------------------------------------------------


def near(left: str, right: str) -> float:
    return vectors.similarity(vectors.text_vector(left, 1024, "s"), vectors.text_vector(right, 1024, "s"))


def test_similar_texts_are_near() -> None:
    question = "How do I reset my password?"
    assert near(question, "Resetting a forgotten password") > near(question, "The weather in Paris is sunny") + 0.1
    assert near("cats", "cat") > near("cats", "dogs")
    assert near(question, question) == pytest.approx(1, abs=1e-4)
    assert vectors.text_vector("", 8, "s") == vectors.text_vector("", 8, "s")


@pytest.mark.parametrize("model", ["embed-v4.0", "embed-english-light-v3.0"])
def test_all_formats_are_the_same_vector(model: str) -> None:
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    body = {"texts": ["Hello World"], "embedding_types": kinds[::-1]}
    result = embed(body, ModelCatalog().find(model)).body
    output = {kind: values[0] for kind, values in result["embeddings"].items()}
    size = len(output["float"])
    assert list(output) == kinds
    assert sum(value * value for value in output["float"]) == pytest.approx(1, abs=1e-4)
    unpacked = struct.unpack(f"<{size}f", base64.b64decode(output["base64"]))
    assert [struct.pack("f", value) for value in output["float"]] == [struct.pack("f", value) for value in unpacked]
    assert output["uint8"] == [value + 128 for value in output["int8"]]
    assert all(-128 <= value <= 127 for value in output["int8"])
    assert [value > 0 for value in output["int8"]] == [value > 0 for value in output["float"]]
    assert len(output["ubinary"]) == size // 8
    assert output["binary"] == [value - 128 for value in output["ubinary"]]
    bits = "".join(f"{byte:08b}" for byte in output["ubinary"])
    assert [bit == "1" for bit in bits] == [value > 0 for value in output["float"]]
    assert result["texts"] == (["Hello World"] if model == "embed-v4.0" else ["hello world"])


def test_smaller_sizes_are_prefixes_and_v5_shares_a_space() -> None:
    catalog = ModelCatalog()
    pro, fast = catalog.find("embed-v5.0-pro"), catalog.find("embed-v5.0-fast")
    large = embed({"texts": ["a text"]}, pro).body["embeddings"]["float"][0]
    small = embed({"texts": ["a text"], "output_dimension": 256}, fast).body["embeddings"]["float"][0]
    assert len(large) == 2048 and len(small) == 256
    scale = small[0] / large[0]
    assert small == pytest.approx([value * scale for value in large[:256]], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(("truncate", "same_as"), [("END", "one two"), ("START", " three four"), (None, "one two")])
def test_truncation(truncate: str | None, same_as: str) -> None:
    model = ModelCatalog().find("embed-v4.0")
    cut = embed({"texts": ["one two three four"], "max_tokens": 2, "truncate": truncate}, model)
    assert cut.body["embeddings"] == embed({"texts": [same_as]}, model).body["embeddings"]
    assert cut.body["meta"]["billed_units"] == {"input_tokens": 2, "image_tokens": 0}
    assert cut.tokens == 2


def test_image_units() -> None:
    url = "data:image/gif;base64," + base64.b64encode(b"GIF89a\x03\x00\x05\x00rest").decode()
    catalog = ModelCatalog()
    new = embed({"images": [url, url]}, catalog.find("embed-v4.0")).body
    assert new["images"] == [{"width": 3, "height": 5, "format": "image/gif", "bit_depth": 0}] * 2
    assert new["texts"] == [] and new["meta"]["billed_units"] == {"input_tokens": 0, "image_tokens": 518}
    old = embed({"images": [url]}, catalog.find("embed-english-v3.0")).body
    assert old["meta"]["billed_units"] == {"images": 1}
    mixed = embed(
        {"inputs": [{"content": [{"type": "text", "text": "a b"}, {"type": "image_url", "image_url": {"url": url}}]}]},
        catalog.find("embed-v5.0-fast"),
    )
    assert mixed.body["meta"]["billed_units"] == {"input_tokens": 2, "image_tokens": 259}


JPEG = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08\x00\x07\x00\x09\x03"
WEBP = b"RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x06\x00\x00"


@pytest.mark.parametrize(
    ("kind", "data", "size"), [("jpeg", JPEG, (9, 7)), ("webp", WEBP, (10, 7)), ("png", b"short", (0, 0))]
)
def test_image_sizes(kind: str, data: bytes, size: tuple[int, int]) -> None:
    image = read_image(f"data:image/{kind};base64,{base64.b64encode(data).decode()}")
    assert (image.width, image.height) == size


# --- rerank -------------------------------------------------------------------------------------------------

DOCUMENTS = ["Cats purr.", "Paris is the capital of France. It rains.", "The capital of Norway is Oslo.", "x"]


def ranked(**more: Any) -> list[dict[str, Any]]:
    body = {"query": "capital of France", "documents": DOCUMENTS, **more}
    results: list[dict[str, Any]] = rerank.rerank(body, ModelCatalog().find("rerank-v5.0-pro"))["results"]
    return results


def test_the_best_document_comes_first() -> None:
    results = ranked()
    scores = [result["relevance_score"] for result in results]
    assert [result["index"] for result in results[:2]] == [1, 2]
    assert scores == sorted(scores, reverse=True) and all(0 < score < 1 for score in scores)
    assert len(ranked(top_n=2)) == 2 and len(ranked(top_n=99)) == 4


def test_relevant_spans_point_into_the_document() -> None:
    best = ranked(relevant_spans={"mode": "enabled", "max_spans": 1, "threshold": 0.3})[0]
    span = best["relevant_spans"][0]
    assert DOCUMENTS[1][span["start"] : span["end"]] == "Paris is the capital of France."
    assert "relevant_spans" not in ranked(relevant_spans={"mode": "disabled"})[0]


@pytest.mark.parametrize(("count", "units"), [(1, 1), (100, 1), (101, 2)])
def test_search_units(count: int, units: int) -> None:
    body = {"query": "a", "documents": ["a"] * count}
    result = rerank.rerank(body, ModelCatalog().find("rerank-v3.5"))
    assert result["meta"]["billed_units"] == {"search_units": units}


# --- patterns and instances ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [r"[A-Z]{2}-\d{3}", r"^\+?\d+$", r"(foo|bar)baz", r"[^a-z]x?y*", r"\w+@\w+\.com", r"(?:ab){2,3}", "a.c", r"\[\]",
     r"[\w-]{8}", r"(|x)z", r"^[\u4e00-\u9fa5]{2}$"],
)  # fmt: skip
def test_an_example_fits_its_pattern(pattern: str) -> None:
    text = matching_text(pattern)
    assert text is not None and re.search(pattern, text)


@pytest.mark.parametrize("pattern", ["(", "(?=a)b", "[", "a{2"])
def test_a_pattern_beyond_us(pattern: str) -> None:
    created = matching_text(pattern)
    assert created is None or re.search(pattern, created)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+b", "(a|a)*b", "(?:a{1,50}){1,50}b", "(a?){40}a{40}", "a?" * 40 + "a" * 40, "a*a*a*a*b", "(.*a){20}b",
     r"(\w+\s?)*!", "((a*)*)*b", "(a|aa){40}c"],
)  # fmt: skip
def test_no_pattern_takes_long(pattern: str) -> None:
    schema = {"type": "object", "properties": {"v": {"type": "string", "pattern": pattern}}, "required": ["v"]}
    begun = time.process_time()
    for text in ("a" * 28, "a" * 6_000, "v=" + "a" * 200 + "!"):
        assert list(make(schema, text)) == ["v"]
    assert time.process_time() - begun < 5


def test_a_text_may_be_requested_to_be_long() -> None:
    assert matching_text("^[a-z]+$", 5) == "aaaaa" and matching_text("^[A-Z]{2,3}$", 5) == "AAA"
    assert matching_text("(a{9999}){9999}") is None
    assert matching_text(r"^(?<year>\d{4})$") == "1111"


def make(schema: Any, text: str = "", omit_optional: bool = False) -> Any:
    return InstanceBuilder(schema, ValueExtractor(text), omit_optional=omit_optional).build(schema)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"const": None}, None),
        ({"type": ["null", "integer"]}, 1),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "exclusiveMinimum": 5}, 6),
        ({"type": "number", "maximum": -2.5}, -2.5),
        ({"type": "integer", "multipleOf": 4, "minimum": 5}, 8),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"type": "string", "default": "d"}, "d"),
        ({"type": "string", "minLength": 6, "maxLength": 6}, "textxx"),
        ({"enum": [3, 4]}, 3),
        ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, True),
        ({"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "uniqueItems": True}, ["a", "b"]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3, "uniqueItems": True}, [1, 2, 4]),
        ({"type": "array", "prefixItems": [{"const": 1}, {"const": "b"}], "items": False}, [1, "b"]),
        ({"type": "array", "contains": {"const": 7}, "minContains": 2, "items": {"type": "integer"}}, [7, 7]),
        ({"type": "object", "minProperties": 2}, {"key1": "text", "key2": "text"}),
        ({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}}, "maxProperties": 1}, {"a": 1}),
        (
            {
                "type": "object",
                "properties": {"a": {"const": 1}, "b": {"const": 2}},
                "required": ["a"],
                "dependentRequired": {"a": ["b"]},
            },
            {"a": 1, "b": 2},
        ),
        ({"type": "string", "pattern": "^[A-Z]+$", "minLength": 3}, "AAA"),
        ({"allOf": [{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}]}, {"a": 1}),
        ({"allOf": [{"type": "string"}, {"minLength": 6}]}, "textxx"),
        # Neither a limit nor what lies between two is whole.
        ({"type": "integer", "minimum": 0.2, "maximum": 0.9}, 1),
        ({"$ref": "#"}, None),
        ({"$ref": "#/nowhere"}, "text"),
        ({}, "text"),
        (True, "text"),
    ],
)
def test_an_instance_of_a_schema(schema: Any, value: Any) -> None:
    assert make(schema) == value


@pytest.mark.parametrize(
    "items",
    [
        {"type": "boolean"},
        {"type": "number", "minimum": 0, "maximum": 0.5},
        {"type": "integer", "multipleOf": 5, "maximum": 10},
        {"type": "string", "maxLength": 4},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "object", "properties": {"id": {"type": "integer"}, "name": {"const": "x"}}, "required": ["id"]},
    ],
    ids=lambda items: items["type"],
)
def test_the_items_of_a_set_are_distinct(items: dict[str, Any]) -> None:
    count = 2 if items["type"] == "boolean" else 3
    schema = {"type": "array", "items": items, "minItems": count, "uniqueItems": True}
    for text in ("", "5 and 5 and 5"):
        jsonschema.validate(make(schema, text), schema)


@pytest.mark.parametrize(
    ("instance", "schema"),
    [
        ({"a": 1}, {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}),
        ({"a": 1}, {"type": "object", "properties": {"a": {"type": "integer"}}}),
        (1, {"type": "integer"}),
    ],
)
def test_a_broken_instance_misses_its_schema(instance: Any, schema: dict[str, Any]) -> None:
    jsonschema.validate(instance, schema)
    assert not jsonschema.Draft202012Validator(schema).is_valid(break_instance(instance, schema))


def test_a_schema_that_contains_itself_ends() -> None:
    node: dict[str, Any] = {
        "type": "object",
        "properties": {
            "value": {"type": "integer"},
            "next": {"$ref": "#"},
            "all": {"type": "array", "items": {"$ref": "#"}},
        },
        "required": ["value"],
    }
    assert make(node)["value"] == 1
    assert make(node | {"required": ["value", "next"]})["next"]["value"] == 1


def test_a_schema_of_too_many_steps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_instances, "MAX_STEPS", 20)
    assert make({"type": "array", "items": {"type": "integer"}, "minItems": 5}) == [1] * 5
    with pytest.raises(APIError, match="too complex"):
        make({"type": "array", "items": {"type": "integer"}, "minItems": 30})


def test_optional_fields_of_a_call_that_must_have_some() -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}}, "minProperties": 1}
    assert make(schema, omit_optional=True) == {"a": 1}


def test_any_value_below_the_depth_of_optional_fields() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": True}, "required": ["a"]}
    for _ in range(schema_instances.MAX_OPTIONAL_DEPTH):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    value = make(schema)
    while isinstance(value, dict):
        value = value["a"]
    assert value == "text"


def test_optional_fields_stay_away_from_a_call() -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer", "default": 1},
            "note": {"type": "string"},
        },
        "required": ["city"],
    }
    assert make(schema, "Weather in Paris?", omit_optional=True) == {"city": "Paris"}
    assert make(schema, "Weather in Paris in celsius, 3 days", omit_optional=True) == {
        "city": "Paris",
        "unit": "celsius",
        "days": 3,
    }


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("add 3 and 4", {"a": {"type": "integer"}, "b": {"type": "integer"}}, {"a": 3, "b": 4}),
        ("b=4, a=3", {"a": {"type": "integer"}, "b": {"type": "integer"}}, {"a": 3, "b": 4}),
        ("two plus five", {"a": {"type": "integer"}, "b": {"type": "integer"}}, {"a": 2, "b": 5}),
        ("5 -3", {"a": {"type": "integer"}, "b": {"type": "integer"}}, {"a": 5, "b": 3}),
        ("(5) -3", {"a": {"type": "integer"}, "b": {"type": "integer"}}, {"a": 5, "b": 3}),
        ("paint it, color: red", {"color": {"type": "string"}}, {"color": "red"}),
        ("5-3", {"a": {"type": "integer"}, "b": {"type": "integer"}}, {"a": 5, "b": 3}),
        ("at -3.5 degrees", {"t": {"type": "number"}}, {"t": -3.5}),
        ("sum of 1, 2 and 3", {"numbers": {"type": "array", "items": {"type": "integer"}}}, {"numbers": [1, 2, 3]}),
        ("mail to ada@example.com", {"email": {"type": "string"}}, {"email": "ada@example.com"}),
        ("on 2025-03-04", {"date": {"type": "string", "format": "date"}}, {"date": "2025-03-04"}),
        ("open https://a.example/b.", {"url": {"type": "string"}}, {"url": "https://a.example/b"}),
        ("enabled: false", {"enabled": {"type": "boolean"}}, {"enabled": False}),
        ("a user named Ada Lovelace", {"name": {"type": "string"}}, {"name": "Ada Lovelace"}),
    ],
)  # fmt: skip
def test_values_are_drawn_from_the_text(text: str, schema: dict[str, Any], value: Any) -> None:
    assert make({"type": "object", "properties": schema, "required": list(schema)}, text) == value


def test_a_text_of_a_form_that_nobody_looks_for() -> None:
    assert ValueExtractor("it took PT5M").extract("took", {"type": "string", "format": "duration"}) is MISSING


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("weather in San Francisco, CA?", ["San Francisco, CA"]),
        ("weather in Paris and Oslo", ["Paris", "Oslo"]),
        ("in San Francisco, CA and New York", ["San Francisco, CA", "New York"]),
        ("for Rio de Janeiro", ["Rio de Janeiro"]),
        ("nothing here", []),
    ],
)
def test_locations(text: str, expected: list[str]) -> None:
    assert find_locations(text) == expected


# --- by chance, but the same chance every time --------------------------------------------------------------


def random_schema(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema of the kinds that people write, with limits that can be kept."""
    low = chance.randint(-5, 5)
    plain: list[dict[str, Any]] = [
        {"type": "string"},
        {"type": "boolean"},
        {"type": "integer", "minimum": low, "maximum": low + chance.randint(0, 9)},
        {"type": "number", "exclusiveMinimum": low, "maximum": low + chance.random() + 0.1},
        {"type": "string", "enum": ["red", "Paris"]},
        {"const": chance.choice([1, "x", None, True])},
        {"type": ["integer", "null"]},
        {"type": "string", "pattern": chance.choice(["[a-z]{3}", r"^\d{4}-\d{2}$", "(foo|bar)+"])},
        {"type": "string", "minLength": 3, "maxLength": 5},
    ]
    if depth > 3 or chance.random() < 0.6:
        return chance.choice(plain)
    if chance.random() < 0.3:
        return {"anyOf": chance.sample([random_schema(chance, depth + 1), {"type": "null"}], 2)}
    if chance.random() < 0.5:
        least = chance.randint(0, 2)
        return {"type": "array", "items": random_schema(chance, depth + 1), "minItems": least, "maxItems": least + 1}
    names = chance.sample(["name", "city", "count", "email", "tags", "query", "date"], 3)
    properties = {name: random_schema(chance, depth + 1) for name in names}
    return {"type": "object", "properties": properties, "required": names[:2], "additionalProperties": False}


@pytest.mark.parametrize("text", ["", "Paris and Oslo, 3 days", 'Set "foo" to 7, 8.5 and -2, mail a@b.co, is_on: true'])
def test_any_instance_is_valid(text: str) -> None:
    chance = random.Random(11)
    for _ in range(300 if LONG else 60):
        schema = {"type": "object", "properties": {"a": random_schema(chance)}, "required": ["a"]}
        for omit_optional in (True, False):
            jsonschema.validate(make(schema, text, omit_optional), schema)


SEEDS: list[tuple[Handler, dict[str, Any]]] = [
    (routes.handle_chat, {
        "model": "command-r-08-2024", "messages": [{"role": "user", "content": "Paris, 3"}], "tools": [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {
            "type": "object", "properties": {"a": {"type": "string", "enum": ["x"]}}, "required": ["a"]}}}]}),
    (routes.handle_chat, {"model": "command-a-03-2025", "stream": True, "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "document", "document": {"data": {"a": "b"}}}]}]}),
    (routes.handle_chat, {
        "model": "command-a-03-2025", "messages": [{"role": "user", "content": "JSON"}], "response_format": {
        "type": "json_object", "schema": {"type": "object", "properties": {"a": {"type": "array", "items": {
            "type": "integer"}}}, "required": ["a"]}}}),
    (routes.handle_embed, {
        "model": "embed-v4.0", "texts": ["a"], "input_type": "search_query", "output_dimension": 256}),
    (routes.handle_rerank, {"model": "rerank-v5.0-pro", "query": "a", "documents": ["a"],
        "relevant_spans": {"mode": "enabled"}}),
    (routes.handle_tokenize, {"model": "command-a-03-2025", "text": "a"}),
    (routes.handle_detokenize, {"model": "command-a-03-2025", "tokens": [353]}),
    (routes.handle_chat_v1, {"message": "Weather in Oslo?", "tools": [
        {"name": "f", "description": "d", "parameter_definitions": {
            "city": {"type": "str", "description": "d", "required": True}}}], "tool_results": [
            {"call": {"name": "f", "parameters": {"city": "Oslo"}}, "outputs": [{"a": "b"}]}]}),
    (routes.handle_chat_v1, {"message": "a", "preamble": "b", "stream": True, "connectors": [{"id": "web-search"}],
        "conversation_id": "c", "documents": [{"id": "d", "text": "e"}], "citation_quality": "FAST"}),
    (routes.handle_chat_v1, {"message": "a", "prompt_truncation": "AUTO", "chat_history": [
        {"role": "USER", "message": "a"}, {"role": "SYSTEM", "message": "a"},
        {"role": "CHATBOT", "message": "b", "tool_calls": [{"name": "f", "parameters": {"a": 1}}]},
        {"role": "TOOL", "tool_results": [{"call": {"name": "f", "parameters": {"a": 1}}, "outputs": [{"a": "b"}]}]}]}),
    (embed_v1.handle, {"model": "embed-v4.0", "texts": ["a"], "input_type": "search_query",
        "embedding_types": ["int8"]}),
    (rerank_v1.handle, {"query": "a", "documents": ["a", {"text": "b", "title": "c"}], "rank_fields": ["title"],
        "return_documents": True, "top_n": 1, "max_chunks_per_doc": 1}),
    (classify.handle, {"inputs": ["a"], "examples": [
        {"text": "a", "label": "a"}, {"text": "b", "label": "a"}, {"text": "c", "label": "b"},
        {"text": "d", "label": "b"}]}),
    (generate.handle_generate, {
        "prompt": "a", "num_generations": 1, "return_likelihoods": "ALL", "stop_sequences": ["b"]}),
    (generate.handle_summarize, {"text": "The sea. " * 40, "length": "short", "format": "bullets"}),
    (parse.handle, {
        "model": "parse-v5.0", "document": {"type": "image_url", "image_url": "https://example.com/a.png"}}),
    (connectors.create, {"name": "a", "url": "https://example.com/", "excludes": ["a"], "oauth": {"client_id": "a"},
        "service_auth": {"type": "bearer", "token": "a"}}),
    (embed_jobs.create, {"model": "embed-v4.0", "dataset_id": "a", "input_type": "search_query",
        "embedding_types": ["int8"]}),
    (batches.create, {"name": "a", "input_dataset_id": "a", "model": "batch-embed-v4"}),
    (finetuning.create, {"name": "a", "settings": {"base_model": {"base_type": "BASE_TYPE_CHAT"}, "dataset_id": "a",
        "hyperparameters": {"train_epochs": 1, "learning_rate": 0.5}, "wandb": {"project": "a", "api_key": "b"}}}),
]  # fmt: skip
STRANGE: list[Any] = [
    *(None, 0, -1, 1.5, 2**70, True, "", "a", [], [None], ["a"], [{}], {}, {"a": None}, {"type": "object"}),
    *({"$ref": "#"}, {"enum": []}, {"anyOf": "x"}, {"pattern": "("}, ["string", "null"]),
]


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a body."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [position for key in keys for position in places_in(value[key])]


def test_no_body_is_too_strange() -> None:
    """Whatever stands where, the answer is an answer or a refusal."""
    chance = random.Random(13)
    emulator = EmulatorState(ModelCatalog(), lambda: 0.0, trial=False)
    for _ in range(6_000):
        handler, seed = chance.choice(SEEDS)
        body = copy.deepcopy(seed)
        for _ in range(chance.randint(1, 2)):
            container, key = chance.choice(places_in(body))
            container[key] = copy.deepcopy(chance.choice(STRANGE))
        try:
            handler(Request(emulator, body, {}, {}))
        except APIError as error:
            assert error.status in (400, 404, 422) and error.message
