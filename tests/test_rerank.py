"""Rerank: what Cohere is asked, documents with fields as texts, and an answer that both dialects' clients read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cohere
import httpx
import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from gateway.cli import main
from gateway.settings.schema import CacheSettings
from support import oracle, transcripts
from support.app import Gateway, Harness, run_harness
from support.scripted_upstream import json_answer
from translators.core.errors import InvalidField, UpstreamProtocolError
from translators.operations import rerank
from translators.operations.rerank_text import text_of

MODEL = "rerank-v3.5"
PARIS, ROME = "Paris is the capital of France.", "Rome is the capital of Italy."
QUERY = "What is the capital of France?"


def translated(body: Mapping[str, Any] | bytes, **settings: Any) -> rerank.RerankTranslation:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return rerank.request(data, transcripts.context(**settings))


def cohere_request(**fields: Any) -> tuple[dict[str, Any], list[str]]:
    """What Cohere is sent, and the notes."""
    call = translated({"model": MODEL, "query": QUERY, "documents": [PARIS], **fields})
    return json.loads(call.bodies[0]), [note.text for note in call.notes]


def refused(**fields: Any) -> tuple[str | None, str | None]:
    with pytest.raises(InvalidField) as caught:
        cohere_request(**fields)
    return caught.value.failure.param, caught.value.failure.code


# --- what is asked ------------------------------------------------------------------------------------------


def test_texts_go_as_they_are() -> None:
    request, notes = cohere_request(documents=[PARIS, ROME], top_n=3, max_tokens_per_doc=100)
    assert request == {
        "model": MODEL,
        "query": QUERY,
        "documents": [PARIS, ROME],
        "top_n": 3,
        "max_tokens_per_doc": 100,
    }
    assert notes == []


def test_the_model_is_resolved() -> None:
    request, notes = cohere_request(model=f"cohere/{MODEL}")
    assert (request["model"], notes) == (MODEL, [])
    call = translated({"model": "best", "query": QUERY, "documents": [PARIS]}, aliases={"best": MODEL})
    assert call.model == MODEL
    assert [note.text for note in call.notes] == [f"model best -> {MODEL}"]


OBJECTS = (
    ({"text": PARIS, "id": 7, "metadata": {"a": 1}}, None, PARIS),
    ({"title": "France", "capital": "Paris"}, None, "title: France\ncapital: Paris"),
    ({"title": "France", "text": PARIS}, ["title"], "title: France"),
    ({"title": "France", "text": PARIS}, ["text", "gone", "title"], f"text: {PARIS}\ntitle: France"),
    ({"text": "", "title": "France"}, None, 'text: ""\ntitle: France'),
    ({"text": 5, "title": "France"}, None, "text: 5\ntitle: France"),
    (PARIS, ["title"], PARIS),
)


@pytest.mark.parametrize(("document", "fields", "text"), OBJECTS)
def test_objects_become_texts(document: Any, fields: list[str] | None, text: str) -> None:
    request, notes = cohere_request(documents=[document], **({"rank_fields": fields} if fields else {}))
    assert request["documents"] == [text]
    assert "rank_fields" not in request
    assert notes == (
        ["documents emulated (objects ranked as text)"]
        if isinstance(document, dict)
        else ["rank_fields ignored (the documents are texts)"]
    )


def test_what_other_dialects_say_besides() -> None:
    request, notes = cohere_request(
        return_documents=True, max_chunks_per_doc=10, truncation=True, user="u", priority=2000
    )
    assert set(request) == {"model", "query", "documents", "priority"} and request["priority"] == 999
    assert notes == [
        "max_chunks_per_doc ignored (`max_tokens_per_doc` truncates documents)",
        "user ignored (Cohere keeps no end-user ids)",
        "priority adjusted 2000 -> 999",
        "return_documents emulated (added by the gateway)",
    ]


def test_what_the_operator_names_is_sent() -> None:
    body = {"model": MODEL, "query": QUERY, "documents": [PARIS], "new": [1.50]}
    call = translated(body, extra_upstream_fields=["new"])
    assert json.loads(call.bodies[0])["new"] == [1.5]


REFUSED: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"model": None}, "model", "missing_required_parameter"),
    ({"model": ""}, "model", "empty_string"),
    ({"query": None}, "query", "missing_required_parameter"),
    ({"query": " \n"}, "query", "empty_string"),
    ({"query": ["a"]}, "query", "invalid_type"),
    ({"documents": None}, "documents", "missing_required_parameter"),
    ({"documents": []}, "documents", "empty_array"),
    ({"documents": "a"}, "documents", "invalid_type"),
    ({"documents": [PARIS, ""]}, "documents[1]", "empty_string"),
    ({"documents": [PARIS, {}]}, "documents[1]", "empty_string"),
    ({"documents": [PARIS, {"text": ""}]}, "documents[1]", "empty_string"),
    ({"documents": [PARIS, 5]}, "documents[1]", "invalid_type"),
    ({"documents": [{"image": "data:image/png;base64,AA=="}]}, "documents[0].image", "unsupported_value"),
    ({"documents": [{"title": "a"}], "rank_fields": ["text"]}, "documents[0]", "empty_string"),
    ({"rank_fields": []}, "rank_fields", "empty_array"),
    ({"top_n": 0}, "top_n", "invalid_value"),
    ({"top_n": "3"}, "top_n", "invalid_type"),
    ({"max_tokens_per_doc": -1}, "max_tokens_per_doc", "invalid_value"),
)


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED, ids=lambda value: json.dumps(value)[:40])
def test_what_cannot_be_ranked_is_refused_by_its_path(fields: dict[str, Any], param: str, code: str) -> None:
    assert refused(**fields) == (param, code)


def test_strict_mode_refuses_what_is_ignored_and_takes_what_is_emulated() -> None:
    body = {"model": MODEL, "query": QUERY, "documents": [{"a": "b"}], "return_documents": True}
    assert translated(body, strict=True).returned
    with pytest.raises(InvalidField, match="user"):
        translated(body | {"user": "u"}, strict=True)


def test_cohere_defines_all_that_is_sent() -> None:
    validator = oracle.cohere_request_validator("/v2/rerank")
    for document, fields, _ in OBJECTS:
        validator.check(
            cohere_request(documents=[document, PARIS], rank_fields=fields, top_n=1, max_tokens_per_doc=5)[0]
        )


# --- documents as texts -------------------------------------------------------------------------------------

READABLE = st.text(st.characters(categories=("L", "N", "P", "S", "Zs"), include_characters="\n"), max_size=30)
SCALARS = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | READABLE
FLAT = st.lists(SCALARS, max_size=3) | st.dictionaries(READABLE, SCALARS, max_size=3)
VALUES = SCALARS | FLAT | st.lists(SCALARS | FLAT, max_size=3) | st.dictionaries(READABLE, SCALARS | FLAT, max_size=3)


@given(st.dictionaries(READABLE, VALUES, min_size=1, max_size=4))
@example({"a": "b\n"})
@example({"a": ["b\n", {"c": "d\n\ne\n"}], "f": "g"})
def test_the_text_is_yaml_that_means_the_document(document: dict[str, Any]) -> None:
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(text_of(document)) == document


def test_long_texts_keep_their_lines() -> None:
    assert text_of({"title": "A: B", "body": "one\n\ntwo", "tags": ["x", {"z": 1}], "on": True}) == (
        'title: "A: B"\nbody: |-\n  one\n\n  two\ntags:\n  - x\n  - z: 1\n"on": true'
    )


# --- what comes back ----------------------------------------------------------------------------------------

META = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
RANKING = {
    "id": "r1",
    "results": [{"index": 1, "relevance_score": 0.54594}, {"index": 0, "relevance_score": 1e-7}],
    "meta": META,
}
DOCUMENTS = [{"text": ROME, "n": 1}, PARIS]


def response_of(ranking: Any = RANKING, **fields: Any) -> dict[str, Any]:
    call = translated({"model": f"cohere/{MODEL}", "query": QUERY, "documents": DOCUMENTS, **fields})
    data = ranking if isinstance(ranking, bytes) else json.dumps(ranking).encode()
    document: dict[str, Any] = json.loads(call.translate_response([data]).body)
    return document


def test_both_dialects_in_one_answer() -> None:
    assert response_of() == {
        "id": "r1",
        "model": f"cohere/{MODEL}",
        "results": RANKING["results"],
        "meta": META,
        "usage": {"prompt_tokens": 0, "total_tokens": 0, "search_units": 1},
        "object": "list",
    }


def test_documents_come_back_as_they_were_sent() -> None:
    assert [result["document"] for result in response_of(return_documents=True)["results"]] == [
        {"text": PARIS},
        DOCUMENTS[0],
    ]
    assert all("document" not in result for result in response_of(return_documents=False)["results"])


def test_scores_are_passed_on_as_they_were_written() -> None:
    call = translated({"model": MODEL, "query": QUERY, "documents": [PARIS]})
    body = call.translate_response([b'{"results":[{"index":0,"relevance_score":0.028374104}],"meta":null}']).body
    assert b'"relevance_score":0.028374104' in body and b'"meta":null' in body


def test_tokens_where_cohere_counts_them_and_spans_where_it_finds_them() -> None:
    spans = [{"start": 0, "end": 5, "score": 0.5}]
    ranking = {
        "results": [{"index": 0, "relevance_score": 0.5, "relevant_spans": spans}],
        "meta": {"billed_units": {"input_tokens": 12.0}, "tokens": {"input_tokens": 15}},
    }
    result = response_of(ranking)
    assert result["usage"] == {"prompt_tokens": 15, "total_tokens": 15}
    assert result["results"][0]["relevant_spans"] == spans
    assert result["id"].startswith("rerank-")
    call = translated({"model": MODEL, "query": QUERY, "documents": DOCUMENTS}, usage_base="billed_units")
    outcome = call.translate_response([json.dumps(ranking).encode()]).usage
    assert (outcome.prompt_tokens, outcome.billed) == (12, {"input_tokens": 12.0})


@pytest.mark.parametrize(
    "ranking",
    [
        *(b"", b"<html>", b"[]", b"{}", b"\xff", b'{"results":[{}]}', b'{"results":[],"meta":5}'),
        b'{"results":[],"meta":' + b"[" * 5000 + b"]" * 5000 + b"}",
        *(b'{"results":[{"index":2,"relevance_score":1}]}', b'{"results":[{"index":-1,"relevance_score":1}]}'),
    ],
)
def test_a_ranking_that_is_none(ranking: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        response_of(ranking)


# --- served -------------------------------------------------------------------------------------------------


def body(**fields: Any) -> dict[str, Any]:
    return {"model": f"cohere/{MODEL}", "query": QUERY, "documents": [{"text": ROME}, PARIS], **fields}


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_ranked_by_the_emulator(demo: Gateway, path: str) -> None:
    response = demo.ask("POST", path, body(top_n=1, return_documents=True))
    assert response.status == 200
    assert [result["index"] for result in response.body["results"]] == [1]
    assert response.body["results"][0]["document"] == {"text": PARIS}
    assert "objects ranked as text" in response.headers["x-gateway-notes"]


def test_errors_have_openais_shape_and_the_path(demo: Gateway) -> None:
    response = demo.ask("POST", "/v1/rerank", body(documents=[PARIS, ""]))
    assert (response.status, response.error["param"]) == (400, "documents[1]")
    response = demo.ask("POST", "/v1/rerank", body(model="cohere/none"))
    assert (response.status, response.error["code"]) == (404, "model_not_found")


@pytest.fixture
def plain_http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, verify=False) as client:
        yield client


def test_coheres_own_client(demo: Gateway, plain_http: httpx.Client) -> None:
    client = cohere.ClientV2("any", base_url=demo.url, httpx_client=plain_http)
    ranking = client.rerank(model=MODEL, query=QUERY, documents=[ROME, PARIS], top_n=1)
    assert [result.index for result in ranking.results] == [1]
    assert ranking.meta and ranking.meta.billed_units and ranking.meta.billed_units.search_units == 1


def test_coheres_client_of_version_1(demo: Gateway, plain_http: httpx.Client) -> None:
    """It sends objects, and reads the documents of the answer."""
    client = cohere.Client("any", base_url=demo.url, httpx_client=plain_http)
    ranking = client.rerank(
        model=MODEL,
        query=QUERY,
        documents=[{"text": ROME}, {"text": PARIS}],
        return_documents=True,
        rank_fields=["text"],
    )
    assert ranking.results[0].document is not None
    assert ranking.results[0].document.text == PARIS


@pytest.fixture
def harness() -> Iterator[Harness]:
    with run_harness() as harness:
        yield harness


def test_cohere_is_called_once_and_its_error_passed_on(harness: Harness) -> None:
    harness.respond_with(json_answer(200, RANKING))
    assert harness.gateway.ask("POST", "/v1/rerank", body()).status == 200
    (request,) = harness.upstream.requests
    assert (request.method, request.path) == ("POST", "/v2/rerank")
    assert json.loads(request.body)["documents"] == [ROME, PARIS]
    harness.respond_with(json_answer(400, {"message": "invalid request: query must not be empty"}))
    response = harness.gateway.ask("POST", "/v1/rerank", body())
    assert (response.status, response.error["type"]) == (400, "invalid_request_error")


def test_the_same_ranking_comes_from_the_cache() -> None:
    with run_harness(cache=CacheSettings(store="memory")) as harness:
        harness.respond_with(json_answer(200, RANKING))
        first = harness.gateway.ask("POST", "/v1/rerank", body())
        harness.gateway.settle()  # an answer goes to its caller first and to the cache then
        second = harness.gateway.ask("POST", "/v1/rerank", body())
        assert [response.headers["x-gateway-cache"] for response in (first, second)] == ["miss", "hit"]
        answers = [first.body, second.body]
        assert [answer["usage"].pop("cost") for answer in answers] == [0.002, 0]
        assert answers[0] == answers[1] and len(harness.upstream.requests) == 1


def test_the_command_prints_what_would_be_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps(body()))
    assert main.main(["translate", "rerank", str(file)]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["documents"] == [ROME, PARIS]
    assert printed.err == "note: documents emulated (objects ranked as text)\n"
