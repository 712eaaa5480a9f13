"""Cohere's catalogue as OpenAI's list: prefix, aliases, pages, and what a missing model is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from support import transcripts
from translators.core.errors import InvalidField, UpstreamProtocolError
from translators.core.notes import Notes
from translators.operations.models import CREATED, OWNER, UnknownModel, features, list_models, next_page, retrieve_model

A = "command-a-03-2025"
FIRST = {
    "models": [
        {
            "name": A,
            "endpoints": ["chat", "generate"],
            "default_endpoints": ["chat"],
            "features": ["tools", "json_schema"],
            "context_length": 288000.0,
            "finetuned": False,
            "config": {"route": "internal"},
        },
        {"name": "command-r-plus-08-2024", "is_deprecated": True, "features": None, "default_endpoints": []},
    ],
    "next_page_token": "Mg==",
}
SECOND = {"models": [{"name": "embed-v4.0", "endpoints": ["embed"]}]}
PAGES = [json.dumps(page).encode() for page in (FIRST, SECOND)]


def everything(pages: Sequence[bytes] = PAGES, *requested: Any, **settings: Any) -> bytes:
    """The list as it is answered; `asked` are the objects of its query and body."""
    context = transcripts.context(**settings)
    return list_models(pages, "", [json.dumps(part).encode() for part in requested], context, Notes(context.strict))


def ids(*requested: Any, **settings: Any) -> list[str]:
    return [one["id"] for one in json.loads(everything(PAGES, *requested, **settings))["data"]]


def one(requested: str, **settings: Any) -> Any:
    return json.loads(retrieve_model(PAGES, requested, (), transcripts.context(**settings), Notes()))


def test_c141_all_models_under_their_prefix() -> None:
    assert ids() == [f"cohere/{A}", "cohere/command-r-plus-08-2024", "cohere/embed-v4.0"]


def test_aliases_are_listed_and_successors_are_not() -> None:
    aliases = {"gpt-4o": A, "old": "command-r-plus", "cohere/x": f"cohere/{A}", "dangling": "gone"}
    assert ids(aliases=aliases)[3:] == ["gpt-4o", "old", "cohere/x"]
    visible = json.loads(everything(aliases=aliases))["data"]
    assert [entry.get("alias_of") for entry in visible[2:]] == [
        None,
        f"cohere/{A}",
        "cohere/command-r-plus-08-2024",
        f"cohere/{A}",
    ]


@pytest.mark.parametrize(
    ("requested", "meant"),
    [
        (A, None),
        (f"cohere/{A}", None),
        ("gpt-4o", A),
        ("cohere/gpt-4o", A),
        ("command-r-plus", "command-r-plus-08-2024"),
        ("cohere/command-r-plus", "command-r-plus-08-2024"),
        ("embed-v4.0", None),
    ],
)
def test_one_model_under_the_name_it_was_requested(requested: str, meant: str | None) -> None:
    visible = one(requested, aliases={"gpt-4o": A})
    assert visible["id"] == requested and visible["object"] == "model"
    assert visible.get("alias_of") == (meant and f"cohere/{meant}")


@pytest.mark.parametrize("requested", ["nope", "cohere/nope", "", "cohere/", "COMMAND-A-03-2025"])
def test_c141_a_missing_model_is_a_404(requested: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        one(requested)
    failure = caught.value.failure
    assert (failure.status, failure.code, failure.param) == (404, "model_not_found", "model")
    assert failure.type == "invalid_request_error" and repr(requested) in failure.message


def test_a_successor_that_is_switched_off_is_missing() -> None:
    with pytest.raises(UnknownModel):
        one("command-r-plus", successors=False)


def test_what_a_model_object_has() -> None:
    assert one(A) == {
        "id": A,
        "created": CREATED,
        "object": "model",
        "owned_by": OWNER,
        "context_length": 288_000,
        "endpoints": ["chat", "generate"],
        "default_endpoints": ["chat"],
        "features": ["tools", "json_schema"],
        "finetuned": False,
        "deprecated": False,
    }
    assert one("command-r-plus-08-2024") == {
        "id": "command-r-plus-08-2024",
        "created": CREATED,
        "object": "model",
        "owned_by": OWNER,
        "endpoints": [],
        "finetuned": False,
        "deprecated": True,
    }


def test_the_date_is_a_constant() -> None:
    assert everything() == everything()
    assert CREATED < 1_800_000_000


def test_pages() -> None:
    assert [next_page(page) for page in PAGES] == ["Mg==", ""]
    assert next_page(b'{"next_page_token":null}') == ""
    assert everything([]) == b'{"data":[],"object":"list"}'


def test_what_models_can_do() -> None:
    assert features(PAGES) == {
        A: {"tools", "json_schema"},
        "command-r-plus-08-2024": frozenset(),
        "embed-v4.0": frozenset(),
    }


@pytest.mark.parametrize(
    "page", [b"", b"<html>", b"[]", b'{"models":5}', b'{"models":[{}]}', b'{"models":[{"name":5}]}', b"\xff"]
)
def test_a_page_that_cannot_be_read(page: bytes) -> None:
    for read in (lambda: next_page(page), lambda: everything([page]), lambda: features([page])):
        with pytest.raises(UpstreamProtocolError):
            read()


# --- filters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ({"endpoint": "embed"}, ["cohere/embed-v4.0"]),
        ({"endpoint": "chat"}, [f"cohere/{A}", "gpt-4o"]),
        ({"endpoint": "generate"}, [f"cohere/{A}", "gpt-4o"]),
        ({"endpoint": "generate", "default_only": False}, [f"cohere/{A}", "gpt-4o"]),
        ({"endpoint": "chat", "default_only": True}, [f"cohere/{A}", "gpt-4o"]),
        ({"endpoint": "chat", "default_only": "true"}, [f"cohere/{A}", "gpt-4o"]),
        ({"endpoint": "generate", "default_only": "1"}, []),
        ({"endpoint": "rerank"}, []),
        ({"endpoint": None, "default_only": "false"}, [f"cohere/{A}", "cohere/command-r-plus-08-2024", "gpt-4o"]),
    ],
    ids=json.dumps,
)
def test_filters(requested: dict[str, Any], expected: list[str]) -> None:
    result = ids(requested, aliases={"gpt-4o": A})
    assert [name for name in result if name != "cohere/embed-v4.0" or requested.get("endpoint")] == expected


def test_of_query_and_body_the_query_wins() -> None:
    assert ids({"endpoint": "chat"}, {"endpoint": "embed"}) == ["cohere/embed-v4.0"]
    assert ids({"endpoint": "generate", "default_only": True}, {"default_only": "false"}) == [f"cohere/{A}"]


@pytest.mark.parametrize(
    ("requested", "param", "code"),
    [
        ({"default_only": True}, "default_only", "missing_required_parameter"),
        ({"endpoint": "cats"}, "endpoint", "invalid_value"),
        ({"endpoint": 5}, "endpoint", "invalid_type"),
        ({"endpoint": "chat", "default_only": "maybe"}, "default_only", "invalid_type"),
    ],
)
def test_filters_that_mean_nothing(requested: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidField) as caught:
        ids(requested)
    assert (caught.value.failure.param, caught.value.failure.code) == (param, code)


def test_what_no_filter_is_called_is_noted() -> None:
    notes = Notes()
    list_models(PAGES, "", [b'{"limit": "3"}'], transcripts.context(), notes)
    assert [note.text for note in notes] == ["limit ignored (not known to Cohere)"]
