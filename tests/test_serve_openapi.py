"""`/openapi.json`: it is a description, it is complete, and what is golden obeys it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from starlette.routing import Route

from gateway.app import create_app
from gateway.endpoints.health import LIVE_PATHS, READY_PATHS
from gateway.endpoints.openapi import OPEN, PATH, REQUIRED, document
from gateway.pipeline.cl100k_base import vocabulary
from gateway.pipeline.operations import TRANSLATE
from gateway.settings.schema import Settings
from support import golden
from support.app import A, Gateway, demonstration, gateway_over
from translators.core.contracts import Context, ResponseIdentity
from translators.core.errors import TranslationError

DESCRIPTION: dict[str, Any] = json.loads(document())
VERBS = {"get", "post", "put", "patch", "delete"}

OPERATIONS = [
    pytest.param(path, verb, result, id=f"{verb} {path}")
    for path, verbs in DESCRIPTION["paths"].items()
    for verb, result in verbs.items()
]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with demonstration() as result:
        yield result


def schemas(output: Any) -> Iterator[Any]:
    """Every schema in a description."""
    if isinstance(output, dict):
        if isinstance(output.get("schema"), dict):
            yield output["schema"]
        for value in output.values():
            yield from schemas(value)
    elif isinstance(output, list):
        for value in output:
            yield from schemas(value)


def validator(schema: Any) -> Draft202012Validator:
    """Checks against one schema of the description. Its references are looked up in the whole."""
    return Draft202012Validator({**schema, "components": DESCRIPTION["components"]})


def test_it_is_served_to_everybody() -> None:
    with gateway_over("http://127.0.0.1:1", master_key="m", cohere_api_key=["k"]) as locked:
        response = locked.ask("GET", PATH)
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    assert response.body == DESCRIPTION


@pytest.mark.parametrize(("path", "verb", "expected"), OPERATIONS)
def test_an_operation_is_properly_described(path: str, verb: str, expected: dict[str, Any]) -> None:
    """Source: OpenAPI 3.1.0, "Operation Object" and "Path Templating"."""
    assert verb in VERBS
    in_path = {one["name"] for one in expected.get("parameters", []) if one["in"] == "path"}
    assert in_path == set(re.findall(r"\{(\w+)\}", path))
    assert all(one["in"] in ("path", "query") for one in expected.get("parameters", []))
    assert all(one["required"] for one in expected.get("parameters", []) if one["in"] == "path")
    assert expected["responses"].keys() == {"200", "default"}
    for schema in schemas(expected):
        Draft202012Validator.check_schema(schema)
        list(validator(schema).iter_errors({"no": "matter"}))  # every reference is found


def test_paths_without_a_key_answer_what_is_described(gateway: Gateway) -> None:
    for path in OPEN:
        response = gateway.ask("GET", path, headers={})
        ((content_type, described),) = DESCRIPTION["paths"][path]["get"]["responses"]["200"]["content"].items()
        assert response.headers["content-type"].partition(";")[0] == content_type
        body = response.body if content_type == "application/json" else response.data.decode()
        validator(described["schema"]).validate(body)
        assert list(validator(described["schema"]).iter_errors({} if isinstance(body, dict) else 5))


SAMPLES = {"messages": [{"role": "user", "content": "x"}], "documents": ["a"]}


@pytest.mark.parametrize("name", TRANSLATE)
def test_required_fields_are_those_without_which_a_request_is_refused(name: str) -> None:
    body: dict[str, Any] = {}
    context = Context(ResponseIdentity(0, "0"), Settings().policy, vocabulary=vocabulary)
    missed: list[str | None] = []
    while len(missed) < 5:
        try:
            TRANSLATE[name](json.dumps(body).encode(), context)
            break
        except TranslationError as error:
            if error.failure.code != "missing_required_parameter":
                break
            missed.append(error.failure.param)
            body[str(error.failure.param)] = SAMPLES.get(str(error.failure.param), A)
    # An input of embeddings has other names as well.
    assert missed[: len(REQUIRED[name])] == list(REQUIRED[name])
    assert len(missed) == len(REQUIRED[name]) or name == "embeddings"


def test_names_of_operations_are_names() -> None:
    names = [result["operationId"] for path in DESCRIPTION["paths"].values() for result in path.values()]
    assert len(names) == len(set(names))


def test_every_component_is_a_schema_and_named_as_one() -> None:
    for name, schema in DESCRIPTION["components"]["schemas"].items():
        assert re.fullmatch(r"[a-zA-Z0-9._-]+", name)
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(("path", "verb", "expected"), OPERATIONS)
def test_what_is_described_is_served(gateway: Gateway, path: str, verb: str, expected: dict[str, Any]) -> None:
    """Whatever comes of a request with nothing in it: there is a route, and it takes the method."""
    response = gateway.ask(verb.upper(), re.sub(r"\{\w+\}", "x", path))
    assert response.status != 405
    if response.status == 404 and not path.startswith("/cohere/"):
        assert response.error["code"] != "unknown_url"
    assert gateway.log.line_of(response.headers["x-request-id"])["operation"] not in ("other", "native.other")


def test_what_is_served_is_described() -> None:
    """But for the aliases of other paths: all of Cohere's methods are told once, below `/cohere/`."""
    served = {
        (re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path), verb.lower())
        for route in create_app(Settings(demo=True)).routes
        if isinstance(route, Route) and not route.path.endswith("cohere/{path:path}")
        if route.path not in (*LIVE_PATHS[1:], *READY_PATHS[1:])
        for verb in route.methods or ()
        if verb != "HEAD"
    }
    result = {(path, verb) for path, verbs in DESCRIPTION["paths"].items() for verb in verbs}
    assert served == {one for one in result if not one[0].startswith("/cohere/")}


GOLDEN = [
    pytest.param(path, case, id=f"{kind} {case.name}")
    for kind, path in (
        ("chat", "/v1/chat/completions"),
        ("responses", "/v1/responses"),
        ("compaction", "/v1/responses/compact"),
        ("embeddings", "/v1/embeddings"),
    )
    for case in golden.cases(kind)
    if not (case / "error.json").exists()
]


@pytest.mark.parametrize(("path", "case"), GOLDEN)
def test_requests_and_responses_are_as_described(path: str, case: Path) -> None:
    result = DESCRIPTION["paths"][path]["post"]
    request = result["requestBody"]["content"]["application/json"]["schema"]
    validator(request).validate(json.loads((case / "request.openai.json").read_text()))
    answered = case / "response.openai.json"
    if answered.exists():
        answer = result["responses"]["200"]["content"]["application/json"]["schema"]
        validator(answer).validate(json.loads(answered.read_text()))


def test_what_is_of_another_type_is_not_as_described() -> None:
    result = DESCRIPTION["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]
    wrong = {"model": "a", "messages": [{"role": "user", "content": 5}]}
    assert not validator(result["schema"]).is_valid(wrong)
