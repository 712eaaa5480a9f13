"""The pass-through's own knowledge: Cohere's methods, native URLs, the alias's words, and what is counted.

What happens on the wire is in test_serve_passthrough.py.
"""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.cohere_methods import METHODS, OTHER, VERBS, agrees, find
from gateway.endpoints import usage_tail
from gateway.endpoints.passthrough_path import address_of
from gateway.endpoints.usage_tail import UsageTail
from gateway.errors import CallerError
from support import oracle
from support.app import USAGE, story, whole
from support.scripted_upstream import compact_json, transcript
from translators.answer.raw_usage import usage_totals
from translators.core.contracts import Policy, UsageBase
from translators.operations.passthrough import (
    count_pieces,
    has_two_readings,
    replace_removed_model,
    requested_model,
    rewrite_chat,
    rewrite_model,
    workload,
)

# --- the table of methods -----------------------------------------------------------------------------------


def an_example(path: str) -> str:
    """The path of a method with an id in it."""
    return re.sub(r"\{\w+\}", "some-id.1", path)


def test_no_two_methods_have_one_name_or_one_path() -> None:
    assert len({method.name for method in METHODS}) == len(METHODS)
    assert len({(method.verb, method.path) for method in METHODS}) == len(METHODS)


def test_groups_are_those_that_permissions_name() -> None:
    assert {method.group for method in METHODS} == {
        *("chat", "classify", "embed", "rerank", "parse", "tokens", "models", "transcription", "account"),
        *("datasets", "embed_jobs", "batches", "finetuning", "connectors"),
    }


@pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])
def test_a_method_is_found_by_its_own_path_and_with_a_slash_behind(method: Any) -> None:
    path = an_example(method.path)
    assert find(method.verb, path) is method
    assert find(method.verb, path + "/") is method
    assert agrees(method.verb, path, method)
    assert method.verb in VERBS


def test_what_takes_json_is_held_and_what_takes_files_is_not() -> None:
    forms = {method.name for method in METHODS if method.takes == "form"}
    assert forms == {"datasets.create", "audio.transcriptions.create", "compatibility.transcriptions"}
    for method in METHODS:
        if method.acts_on == "model" and "{" not in method.path:
            assert method.takes == "json", f"{method.name}: its model is in the body"
        assert f"{{{method.acts_on}}}" in method.path or "{" not in method.path


def test_every_operation_of_coheres_specification_is_in_the_table() -> None:
    assert [row for row in oracle.cohere_operations() if find(row[0], an_example(row[1])) is OTHER] == []


@pytest.mark.parametrize(
    ("verb", "path", "name"),
    [
        ("HEAD", "/v1/models", "models.list"),
        ("GET", "/v1/datasets/usage", "datasets.get_usage"),
        ("GET", "/v1/datasets/usages", "datasets.get"),
        ("POST", "/v2/batches/a:cancel", "batches.cancel"),
        ("GET", "/v2/batches/a:cancel", "batches.retrieve"),
        ("POST", "/v2/batches/:cancel", "other"),
        ("POST", "/v2/batches/a", "other"),
        ("GET", "/v1/models/a%2Fb", "models.get"),
        ("GET", "/v1/models/", "models.list"),
        ("GET", "/v1/models/a/b", "other"),
        ("GET", "/v1/chat", "other"),
        ("POST", "/v3/chat", "other"),
        ("POST", "/V2/chat", "other"),
        ("OPTIONS", "/v2/chat", "other"),
        ("GET", "/", "other"),
    ],
)
def test_a_path(verb: str, path: str, name: str) -> None:
    assert find(verb, path).name == name


@pytest.mark.parametrize(
    ("verb", "path", "well"),
    [
        ("GET", "/v1/models/a%2Fb", True),
        ("GET", "/v1/models/caf%C3%A9", True),
        ("POST", "/v2%2Fchat", False),
        ("POST", "/v2/ch%61t", False),
        ("POST", "/v2/batches/a%3Acancel", False),
        ("POST", "/v1/embed-jobs/a%2Fcancel", False),
        ("GET", "/v1/finetuning/finetuned-models/a%2Fevents", False),
        ("GET", "/v1/nothing%2Fhere", True),
        ("POST", "/v2/ch%2561t", False),
        ("POST", "/v2/chat;x=1", False),
        ("POST", "/v2;x/chat", False),
        ("POST", "/v2/chat%3Bx", False),
        ("GET", "/v1/datasets/usage;x", False),
        ("GET", "/v1/datasets/a;x", True),
        ("GET", "/v1/models/100%25", True),
    ],
)
def test_a_path_that_might_be_read_as_another_method_is_seen(verb: str, path: str, well: bool) -> None:
    assert agrees(verb, path, find(verb, path)) is well


# --- native URLs --------------------------------------------------------------------------------------------


def meant(raw: str, query: str = "") -> str:
    """The target that goes to Cohere, or why none does."""
    try:
        return address_of({"raw_path": raw.encode("latin-1"), "query_string": query.encode("latin-1")}).target
    except CallerError as error:
        return f"{error.failure.status} {error.failure.message}"


SPELLED = [
    ("/cohere/v2/chat", "/v2/chat"),
    ("/litellm/cohere/v2/chat", "/v2/chat"),
    ("/cohere/v1/v1/chat", "/v1/chat"),
    ("/cohere/v1/v2/chat", "/v2/chat"),
    ("/cohere/v2/v1/embed-jobs", "/v1/embed-jobs"),
    ("/cohere/v2/v2/chat", "/v2/chat"),
    ("/cohere/chat", "/v1/chat"),
    ("/cohere/embed", "/v1/embed"),
    ("/cohere/rerank/", "/v1/rerank/"),
    ("/litellm/cohere/rerank", "/v1/rerank"),
    ("/cohere/models", "/models"),
    ("/cohere/chats", "/chats"),
    ("/cohere/v1/chat/", "/v1/chat/"),
    ("/cohere//v2/chat", "/v2/chat"),
    ("/cohere/", "/"),
    ("/cohere/v1/v1", "/v1/v1"),
    ("/cohere/v1/models/v1", "/v1/models/v1"),
    ("/cohere/v1/models/a%2Fb", "/v1/models/a%2Fb"),
    ("/cohere/v1/models/a%2fb", "/v1/models/a%2fb"),
    ("/cohere/v1/models/caf%C3%A9%20x", "/v1/models/caf%C3%A9%20x"),
    ("/cohere/v1/models/100%25", "/v1/models/100%25"),
    ("/cohere/v1/models/bad%zz", "/v1/models/bad%zz"),
    ("/cohere/v2/batches/a:cancel", "/v2/batches/a:cancel"),
    ("/cohere/v1/datasets/..a", "/v1/datasets/..a"),
    ("/cohere/@evil.example/", "/@evil.example/"),
    ("/cohere/v1/datasets/a...", "/v1/datasets/a..."),
]


@pytest.mark.parametrize(("raw", "target"), SPELLED)
def test_a_url_and_what_goes_to_cohere(raw: str, target: str) -> None:
    assert meant(raw) == target
    assert meant(raw, "a=%2F..&b=//x?y") == f"{target}?a=%2F..&b=//x?y"


TRICKS = [
    "/cohere/..",
    "/cohere/.",
    "/cohere/v1/../x",
    "/cohere/v1/./x",
    "/cohere/%2e%2e/x",
    "/cohere/.%2E/x",
    "/cohere/v1/%252e%252e/x",
    "/cohere/v1/%25252e%25252e/x",
    "/cohere/v1/%2e%2e%2fx",
    "/cohere/v1%2f..%2fx",
    "/cohere/v1/..;/x",
    "/cohere/v1/..%3bx/x",
    "/cohere/v1/..\\x",
    "/cohere/v1/x%5c..%5cy",
    "/cohere/v1\\chat",
    "/cohere/v1//chat",
    "/cohere/v1/x%2f/y",
    "/cohere/http://evil.example/x",
    "/cohere/v1/chat%00",
    "/cohere/v1/%0d%0aevil:1",
    "/cohere/v1/%7f",
    "/cohere/v1/\x00",
    "/cohere/v1/a b",
    "/cohere/v1/caf\xe9",
    "/cohere/v1/x#y",
    "/cohere/v1/" + "%25" * 4 + "2525252e",
]


@pytest.mark.parametrize("raw", TRICKS)
def test_a_url_that_goes_nowhere(raw: str) -> None:
    assert meant(raw).startswith("400 The URL's path has ")


@pytest.mark.parametrize("query", ["a=\r\nx", "a b", "a#b", "\x00", "\xe9"])
def test_a_query_that_goes_nowhere(query: str) -> None:
    assert meant("/cohere/v1/models", query).startswith("400 ")


@pytest.mark.parametrize("raw", ["/%63ohere/v1/models", "/cohere%2Fv1/models", "/litellm%2fcohere/v1/models"])
def test_a_prefix_that_is_encoded_is_no_prefix(raw: str) -> None:
    assert meant(raw) == "404 There is nothing at this URL"


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="?"), max_size=40))
def test_whatever_is_requested_stays_below_the_base_url(rest: str) -> None:
    target = meant(f"/cohere/{rest}")
    if not target.startswith("400 "):
        from yarl import URL

        url = URL("https://cohere.example/prefix" + target, encoded=True)
        assert (url.scheme, url.host, url.user) == ("https", "cohere.example", None)
        assert url.raw_path == "/prefix" + target and ".." not in url.path.split("/")
        # yarl's own reading of the same text, which resolves dot segments, must not get anywhere else
        assert URL("https://cohere.example/prefix" + target.replace("%", "%25")).path.startswith("/prefix/")


# --- requests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a","stream":true,"messages":[1,{}]}', ("a", True)),
        (b'{"message":"x"}', ("", False)),
        (b'{"model":["a"],"stream":"true"}', ("", False)),
        (b'{"model":null,"stream":null}', ("", False)),
        (b"[]", ("", False)),
        (b"no JSON", ("", False)),
        (b'{"model":"\xff"}', ("", False)),
        (b"[" * 10_000, ("", False)),
    ],
)
def test_what_is_read_of_a_request(body: bytes, expected: tuple[str, bool]) -> None:
    assert requested_model(body) == expected


ALIAS = [
    ('{"tool_choice":"AUTO","model":"a"}', '{"model":"a"}', "tool_choice AUTO left out"),
    ('{"safety_mode":"NONE"}', '{"safety_mode":"OFF"}', "safety_mode NONE sent as OFF"),
    ('{"log_probs":true,"k":1}', '{"k":1,"logprobs":true}', "log_probs sent as logprobs"),
    ('{"log_probs":true,"logprobs":false}', '{"logprobs":false}', "log_probs sent as logprobs"),
    (
        '{"strict_tool_choice":true,"tools":[1]}',
        '{"tools":[1],"strict_tools":true}',
        "strict_tool_choice sent as strict_tools",
    ),
    ('{"strict_tools":true,"tools":[]}', '{"tools":[]}', "strict_tools left out, as there are no tools"),
    (
        '{"strict_tool_choice":true}',
        "{}",
        "strict_tool_choice sent as strict_tools; strict_tools left out, as there are no tools",
    ),
    (
        '{"model":"command-r-plus","x":{"y": [1.0, "\\u00e9"]}}',
        '{"model":"command-r-plus-08-2024","x":{"y": [1.0, "\\u00e9"]}}',
        "model command-r-plus -> command-r-plus-08-2024",
    ),
    (
        '{"model":"cohere/command","tool_choice":"AUTO"}',
        '{"model":"command-r-08-2024"}',
        "tool_choice AUTO left out; model command -> command-r-08-2024",
    ),
    ('{"model":"cohere/command-a"}', '{"model":"command-a-03-2025"}', ""),
]


@pytest.mark.parametrize(("body", "expected", "notes"), ALIAS, ids=[row[2] for row in ALIAS])
def test_the_aliases_words(body: str, expected: str, notes: str) -> None:
    changed, result = rewrite_chat(body.encode(), Policy())
    assert (changed.decode(), result.header()) == (expected, notes)


@pytest.mark.parametrize(
    ("body", "expected", "notes"),
    [
        ('{"model":"cohere/embed-v4.0", "texts":[ 1]}', '{"model":"embed-v4.0","texts":[ 1]}', ""),
        ('{"model":"rerank-5-pro"}', '{"model":"rerank-v5.0-pro"}', ""),
        ('{"model":"ours"}', '{"model":"rerank-v3.5"}', "model ours -> rerank-v3.5"),
        ('{"model":"rerank-english-v2.0"}', '{"model":"rerank-v3.5"}', "model rerank-english-v2.0 -> rerank-v3.5"),
        ('{"tool_choice": "AUTO"}', '{"tool_choice": "AUTO"}', ""),
        ('{ "model" : "embed-v4.0"}', '{ "model" : "embed-v4.0"}', ""),
        ("no JSON", "no JSON", ""),
    ],
)
def test_the_aliases_models(body: str, expected: str, notes: str) -> None:
    changed, created = rewrite_model(body.encode(), Policy({"ours": "rerank-v3.5"}))
    assert (changed.decode(), created.header()) == (expected, notes)


@pytest.mark.parametrize(
    ("model", "served"),
    [
        ("command-r-plus", "command-r-plus-08-2024"),
        ("rerank-multilingual-v2.0", "rerank-v3.5"),
        ("cohere/command-r", None),
        ("command-a", None),
        ("ours", None),
        ("embed-english-v2.0", None),
    ],
)
def test_only_a_removed_model_is_replaced(model: str, served: str | None) -> None:
    body = f'{{ "model": "{model}"}}'.encode()
    changed, notes = replace_removed_model(body, model, Policy({"ours": "rerank-v3.5"}))
    assert changed == (body if served is None else f'{{"model":"{served}"}}'.encode())
    assert notes.header() == (f"model {model} -> {served}" if served else "")
    assert replace_removed_model(body, model, Policy(successors=False))[0] == body


@pytest.mark.parametrize(
    "body",
    [
        '{ "model" : "command-a-03-2025",\n "tool_choice": "REQUIRED", "safety_mode": "STRICT"}',
        '{"tool_choice": {"AUTO": 1}, "safety_mode": null, "model": 7}',
        '{"messages": [{"tool_choice": "AUTO", "safety_mode": "NONE", "log_probs": 1}]}',
        "[1]",
        "no JSON",
        "",
    ],
)
def test_a_request_that_needs_no_change_is_left_as_it_is(body: str) -> None:
    changed, result = rewrite_chat(body.encode(), Policy())
    assert changed.decode() == body and not result


# --- answers ------------------------------------------------------------------------------------------------

META = {"api_version": {"version": "1"}, "billed_units": {"input_tokens": 4, "output_tokens": 2}}
UNITS = {"input_tokens": 4, "output_tokens": 2}
V1_END = {
    "is_finished": True,
    "event_type": "stream-end",
    "finish_reason": "COMPLETE",
    "response": {"text": "Hi", "meta": META},
}
V1_STREAM = b"".join(
    compact_json(line) + b"\n"
    for line in (
        {"is_finished": False, "event_type": "stream-start", "generation_id": "g"},
        {
            "is_finished": False,
            "event_type": "text-generation",
            "text": 'Hi "meta":{"billed_units":{"input_tokens":9}}',
        },
        V1_END,
    )
)
V2_STREAM = transcript(*story("Hi", ' "usage":{"billed_units":{"input_tokens":9}}'))
SEARCHES = {"results": [], "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}}

COUNTED: list[tuple[str, bytes, bool, tuple[int, int, dict[str, int]]]] = [
    ("v2 chat", compact_json(whole()), False, (70, 3, UNITS)),
    ("v2 stream", V2_STREAM, True, (70, 3, UNITS)),
    ("v2 stream without [DONE]", transcript(*story(), done=False), True, (70, 3, UNITS)),
    ("v2 stream, CRLF", V2_STREAM.replace(b"\n", b"\r\n"), True, (70, 3, UNITS)),
    ("v1 chat", compact_json({"text": "Hi", "meta": META}), False, (4, 2, UNITS)),
    ("v1 chat, written over lines", json.dumps({"text": "Hi", "meta": META}, indent=2).encode(), False, (4, 2, UNITS)),
    ("v1 stream", V1_STREAM, True, (4, 2, UNITS)),
    ("v1 stream as events", transcript({**V1_END, "type": "stream-end"}, done=False), True, (4, 2, UNITS)),
    ("embed", compact_json({"embeddings": [[0.5]], "meta": {"billed_units": {"input_tokens": 7}}}), False,
     (7, 0, {"input_tokens": 7})),
    ("rerank", compact_json(SEARCHES), False, (0, 0, {"search_units": 1})),
    ("the end of a long answer", compact_json({"embeddings": [0.5] * 50, "meta": META})[80:], False, (4, 2, UNITS)),
    ("the end of a long last event", compact_json(V1_END)[40:], True, (4, 2, UNITS)),
    ("no counts", b'{"message":"no"}', False, (0, 0, {})),
    ("no JSON", b"<html>", False, (0, 0, {})),
    ("counts of a wrong type", b'{"usage":{"tokens":"many"},"meta":[]}', False, (0, 0, {})),
    ("nothing", b"", True, (0, 0, {})),
    ("a stream that was cut", V2_STREAM[: V2_STREAM.index(b"message-end")], True, (0, 0, {})),
    ("half of the last counts", compact_json({"meta": META})[:-9][3:], False, (0, 0, {})),
]  # fmt: skip


@pytest.mark.parametrize(("name", "stored", "streamed", "expected"), COUNTED, ids=[row[0] for row in COUNTED])
def test_what_is_counted(name: str, stored: bytes, streamed: bool, expected: tuple[int, int, dict[str, int]]) -> None:
    outcome = usage_totals(stored, streamed, UsageBase.TOKENS)
    assert (outcome.prompt_tokens, outcome.completion_tokens, dict(outcome.billed)) == expected


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (V2_STREAM, 2),
        (V1_STREAM, 1),
        (transcript(*story('say "content-delta"', "x")), 2),
        (b"", 0),
        (b"data: nonsense", 0),
    ],
)
def test_the_pieces_of_an_answer_are_counted(stream: bytes, expected: int) -> None:
    assert count_pieces(stream) == expected


def test_the_base_of_usage_is_obeyed() -> None:
    billed = usage_totals(compact_json(whole()), False, UsageBase("billed_units"))
    assert (billed.prompt_tokens, billed.completion_tokens) == (4, 2)


def test_how_an_answer_ended_is_seen() -> None:
    assert (
        usage_totals(compact_json(whole(finish="ERROR", usage=USAGE)), False, UsageBase.TOKENS).finish_reason == "ERROR"
    )
    assert usage_totals(V2_STREAM, True, UsageBase.TOKENS).finish_reason == "COMPLETE"


@given(st.lists(st.integers(0, 400), max_size=40))
def test_a_usage_tail_holds_the_end_however_it_is_cut(cuts: list[int]) -> None:
    text = bytes(range(32, 127)) * 8
    stored = UsageTail(False)
    position = 0
    for cut in cuts:
        stored.feed(text[position : position + cut])
        position += cut
    stored.feed(text[position:])
    assert stored.tail() == text


@pytest.mark.parametrize("compressed", [False, True])
def test_a_usage_tail_does_not_grow(compressed: bool) -> None:
    data = compact_json({"embeddings": [number / 7 for number in range(200_000)], "meta": META})
    request = gzip.compress(data) if compressed else data
    stored = UsageTail(compressed)
    for position in range(0, len(request), 60_000):
        stored.feed(request[position : position + 60_000])
        assert sum(map(len, stored._blocks)) <= usage_tail.TAIL_BYTES + 256 * 1024
    assert data.endswith(stored.tail()) and len(stored.tail()) >= usage_tail.TAIL_BYTES
    assert usage_totals(stored.tail(), False, UsageBase.TOKENS).prompt_tokens == 4


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(usage_tail.MAX_DECOMPRESSED_BYTES + 1_000_000), 9)
    stored = UsageTail(True)
    stored.feed(bomb)
    stored.feed(bomb)
    assert stored.tail() == b""


def test_what_cannot_be_unpacked_counts_nothing() -> None:
    stored = UsageTail(True)
    stored.feed(b"no gzip at all")
    stored.feed(gzip.compress(b"{}"))
    assert stored.tail() == b""


IMAGE = "data:image/png;base64," + "A" * 100_000

# body, and of the estimate: tokens at most, images, searches, inputs
WORKLOADS: tuple[tuple[Any, tuple[int | None, int, int, int]], ...] = (
    ({"messages": [], "max_tokens": 7}, (7, 0, 1, 1)),
    ({"messages": [], "max_tokens": "many"}, (None, 0, 1, 1)),
    ({"messages": [], "max_tokens": True}, (None, 0, 1, 1)),
    ({"messages": [], "max_tokens": 0}, (None, 0, 1, 1)),
    ({"messages": [], "max_tokens": -5}, (None, 0, 1, 1)),
    ({"messages": [], "max_tokens": 0.5}, (None, 0, 1, 1)),
    ({"messages": [], "max_tokens": 7.0}, (7, 0, 1, 1)),
    ({"messages": [], "max_tokens": 1e300}, (10**9, 0, 1, 1)),
    ({"messages": [], "max_tokens": 2 * 10**12}, (10**9, 0, 1, 1)),
    ({"messages": [], "max_tokens": 10**30}, (10**9, 0, 1, 1)),
    ({"messages": [], "max_tokens": 7, "texts": 5, "images": {"a": 1}, "documents": True}, (7, 0, 1, 1)),
    ({"query": "q", "documents": ["d"] * 101, "texts": "none", "inputs": 10**30}, (None, 0, 2, 1)),
    ({"messages": [{"content": [{"image_url": {"url": IMAGE}}, {"image_url": {"url": IMAGE}}]}]}, (None, 2, 1, 1)),
    ({"images": [IMAGE]}, (None, 1, 1, 1)),
    ({"texts": ["a"] * 96, "images": [IMAGE]}, (None, 1, 1, 97)),
    ({"inputs": [{"content": []}] * 3}, (None, 0, 1, 3)),
    ({"texts": 5}, (None, 0, 1, 1)),
    ({"query": "q", "documents": ["d"] * 101}, (None, 0, 2, 1)),
    ({"documents": "none"}, (None, 0, 1, 1)),
    ({"max_tokens": 1, "MAX_TOKENS": 4_000}, (4_000, 0, 1, 1)),
    ({"max_tokens": 1, "Max_Tokens": None}, (None, 0, 1, 1)),
    ({"maxTokens": 4_000, "max_tokens": 1}, (1, 0, 1, 1)),
    ({"Documents": ["d"] * 101, "TEXTS": ["a"] * 3, "texts": ["a"]}, (None, 0, 2, 3)),
    ({"prompt": "p", "max_tokens": 10, "num_generations": 5}, (50, 0, 1, 1)),
    ({"prompt": "p", "num_generations": 10**9}, (None, 0, 1, 1)),
    ([], (None, 0, 1, 1)),
)


@pytest.mark.parametrize(("body", "expected"), WORKLOADS)
def test_what_a_native_request_asks_of_cohere_is_estimated(
    body: Any, expected: tuple[int | None, int, int, int]
) -> None:
    result = workload("m", compact_json(body))
    assert (result.max_tokens, result.images, result.searches, result.inputs) == expected
    assert result.prompt_bytes < 1_000


TWICE = (
    b'{"max_tokens": 4000, "documents": [], "max_tokens": 1}',
    b'{"max_tokens": 1, "max_tokens": 4000}',
    b'{"max_tokens": 4000, "max_to\\u006bens": 1, "prompt": "\\ud83d\\ude00", "seed": 123456789012345678901234567890}',
    '{"max_tokens": 1, "max_to\u212aens": 4000}'.encode(),
)
"""Bodies of which a reader may take either number. Go folds the Kelvin sign to a k."""


@pytest.mark.parametrize("body", TWICE)
def test_of_a_field_that_is_there_twice_the_most_counts(body: bytes) -> None:
    assert workload("m", body).max_tokens == 4_000


def test_long_documents_count_as_several() -> None:
    assert workload("m", compact_json({"query": "q", "documents": ["d" * 2_000] * 51})).searches == 2


def test_several_generations_are_as_many_calls() -> None:
    body = b'{"prompt": "Hello", "num_generations": 3}'
    assert (result := workload("m", body)).calls == 3 and result.prompt_bytes == 3 * len(body)


@pytest.mark.parametrize(
    ("body", "either"),
    [
        (b'{"model": "a", "tools": [{"model": "b"}]}', False),
        (b'{"model": "a", "messages": ["\\"model\\": \\"model\\": \\u0041"]}', False),
        (b'{"model": "a", "model": "b"}', True),
        (b'{"model": "a", "model": "a"}', True),
        (b'{"mo\\u0064el": "a", "model": "b"}', True),
        (b'{"model": "a", "MODEL": "b"}', True),
        (b'{"model": "a", "text": "\\ud800"}', True),
        (b'{"model": "a", "tools": [{"model": 1, "model": ' + b"9" * 5_000 + b"}]}", False),
    ],
)
def test_a_body_that_two_readers_may_read_differently(body: bytes, either: bool) -> None:
    assert has_two_readings(body, ("model",)) is either


def test_an_image_that_has_no_end_is_no_image() -> None:
    assert workload("m", b'{"a": "data:image/png').images == 0
