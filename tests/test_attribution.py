"""For whom and for what a request is made: what of body and headers gets into its record, and how much of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gateway.errors import CallerError
from gateway.http.attribution import (
    MAX_END_USER,
    MAX_METADATA,
    MAX_TAG,
    MAX_TAGS,
    MAX_VALUE,
    attribute_body,
    attribute_headers,
)
from gateway.observability.record import RequestRecord
from support import transcripts
from translators.core.contracts import Workload
from translators.operations import chat, embeddings, rerank, responses

A = "command-a-03-2025"
HELLO = [{"role": "user", "content": "Hello"}]


def attributed(headers: Mapping[str, str], workload: Workload | None = None) -> RequestRecord:
    encoded = {name.encode(): value.encode() for name, value in headers.items()}
    record = RequestRecord("r", "POST", "/", 0.0, encoded)
    attribute_headers(record)
    if workload is not None:
        attribute_body(record, workload)
    return record


def cloudflare(**fields: Any) -> dict[str, str]:
    return {"cf-aig-metadata": json.dumps(fields)}


def workload_of(**fields: Any) -> Workload:
    return chat.request(json.dumps({"model": A, "messages": HELLO, **fields}).encode(), transcripts.context()).workload


# body, headers, end user: each line has one less of those that go before
END_USERS: tuple[tuple[dict[str, Any], dict[str, str], str], ...] = (
    (
        {"user": "one", "safety_identifier": "two"},
        {"x-litellm-end-user-id": "three", **cloudflare(user="four")},
        "one",
    ),
    ({"safety_identifier": "two"}, {"x-litellm-end-user-id": "three", **cloudflare(user="four")}, "two"),
    ({}, {"x-litellm-end-user-id": "three", **cloudflare(user="four")}, "three"),
    ({}, {"x-litellm-customer-id": "three", **cloudflare(user="four")}, "three"),
    ({}, cloudflare(user="four"), "four"),
    ({}, cloudflare(user=4), "4"),
    ({}, cloudflare(user=None), ""),
    ({}, {}, ""),
)


@pytest.mark.parametrize(("body", "headers", "expected"), END_USERS)
def test_an_end_user_is_named_by_the_first_who_does(
    body: dict[str, Any], headers: dict[str, str], expected: str
) -> None:
    assert attributed(headers, workload_of(**body)).end_user == expected


def test_tags_come_from_everywhere_once() -> None:
    headers = {"x-litellm-tags": "b, c,,c", **cloudflare(tags="d,b", team="search")}
    record = attributed(headers, workload_of(metadata={"tags": ["a", 7, "b"], "team": "body", "run": 12, "none": None}))
    assert record.tags == ("a", "b", "c", "d")
    assert record.metadata == {"team": "body", "run": "12"}


REQUESTS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "chat": (chat.request, {"messages": HELLO}),
    "responses": (responses.request, {"input": "Hello"}),
    "embeddings": (embeddings.request, {"input": "Hello"}),
    "rerank": (rerank.request, {"query": "q", "documents": ["d"]}),
}


@pytest.mark.parametrize("operation", REQUESTS)
def test_every_operation_passes_it_on(operation: str) -> None:
    request, fields = REQUESTS[operation]
    body = {"model": A, **fields, "user": "ada", "metadata": {"run": "12"}}
    translation: Any = request(json.dumps(body).encode(), transcripts.context())
    record = attributed({}, translation.workload)
    assert (record.end_user, record.metadata) == ("ada", {"run": "12"})


def test_all_of_it_has_bounds() -> None:
    many = {f"key {number}": "v" * 9_999 for number in range(1_000)}
    headers = {"x-litellm-tags": ",".join(f"{number}{'t' * 500}" for number in range(100))}
    record = attributed(headers, Workload(A, end_user="u" * 9_999 + "\0", metadata=json.dumps(many).encode()))
    assert (len(record.end_user), len(record.tags), len(record.metadata)) == (MAX_END_USER, MAX_TAGS, MAX_METADATA)
    assert all(len(tag) == MAX_TAG for tag in record.tags)
    assert all(len(value) == MAX_VALUE for value in record.metadata.values())
    assert workload_of(metadata={"a": "v" * 20_000}).metadata == b"", "so large a field is not even looked at"


@pytest.mark.parametrize("metadata", [b"[]", b"7", b'"a"', b"null", b"{", b""])
def test_metadata_that_is_no_object_says_nothing(metadata: bytes) -> None:
    record = attributed({}, Workload(A, metadata=metadata))
    assert (record.tags, record.metadata) == ((), {})


@pytest.mark.parametrize("value", ["[]", "{", "a=b", "\xff"])
def test_a_header_that_is_no_object_is_refused(value: str) -> None:
    with pytest.raises(CallerError, match="cf-aig-metadata must be a JSON object"):
        attributed({"cf-aig-metadata": value})
