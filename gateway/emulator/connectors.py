"""/v1/connectors: searches that callers register, and what /v1/chat finds through them.

Nothing is called: a connector "finds" one document that says so. Deprecated at Cohere, still in its
specification. Source: docs/cohere-api.md#version-1.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from gateway.emulator import validation
from gateway.emulator.refusals import invalid, wrong_type
from gateway.emulator.repository import Shelf, moment, short_id, window
from gateway.emulator.request import ORGANIZATION, Reply, Request, warnings
from gateway.emulator.validation import Check

DEFAULT_LIMIT = 30
BUILT_IN = ("web-search",)
SNIPPET = "This document comes from the Cohere emulator, which searches nothing and calls no connector."


def _text(name: str, value: Any, page: str) -> None:
    validation.string(name, value, page)
    if not value.strip():
        raise invalid(f"{name} must not be empty.")  # guessed


def _address(name: str, value: Any, page: str) -> None:
    validation.string(name, value, page)
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise invalid(f"{name} must be a valid URL.")  # guessed


OAUTH: dict[str, Check] = {
    "client_id": validation.string,
    "client_secret": validation.string,
    "authorize_url": _address,
    "token_url": _address,
    "scope": validation.string,
}
SERVICE: dict[str, Check] = {"type": validation.one_of("bearer", "basic", "noscheme"), "token": validation.string}
FIELDS: dict[str, Check] = {
    "name": _text,
    "description": validation.string,
    "url": _address,
    "excludes": validation.strings,
    "oauth": lambda name, value, page: validation.fields(value, OAUTH, page, name),
    "active": validation.boolean,
    "continue_on_failure": validation.boolean,
    "service_auth": lambda name, value, page: validation.fields(value, SERVICE, page, name),
}


class Connector(msgspec.Struct, kw_only=True):
    """A registered search. Its secrets are not kept."""

    id: str
    name: str
    url: str
    created: float
    updated: float
    description: str | None = None
    excludes: list[str] = []
    oauth: dict[str, Any] | None = None
    service: bool = False
    active: bool = True
    continue_on_failure: bool = False

    def described(self) -> dict[str, Any]:
        """The connector as Cohere shows it."""
        told: dict[str, Any] = {"id": self.id, "organization_id": ORGANIZATION, "name": self.name}
        if self.description is not None:
            told["description"] = self.description
        told |= {"url": self.url, "created_at": moment(self.created), "updated_at": moment(self.updated)}
        told |= {"excludes": self.excludes}
        if self.oauth is not None:
            told |= {"auth_type": "oauth", "oauth": self.oauth, "auth_status": "valid"}
        elif self.service:
            told |= {"auth_type": "service_auth", "auth_status": "valid"}
        return told | {"active": self.active, "continue_on_failure": self.continue_on_failure}


class Search(msgspec.Struct, frozen=True):
    """What a chat turn looked for, where, and what came back."""

    queries: list[dict[str, Any]]
    results: list[dict[str, Any]]
    documents: dict[str, dict[str, Any]]


def create(request: Request) -> Reply:
    """POST /v1/connectors."""
    body = _checked(request)
    for field in ("name", "url"):
        if not body.get(field):
            raise invalid(f"{field} is required.")  # guessed
    now = request.emulator.clock()
    connector = Connector(
        id=short_id(body["name"]),
        name=body["name"],
        url=body["url"],
        description=body.get("description"),
        created=now,
        updated=now,
    )
    _change(connector, body)
    request.emulator.shelf(Connector).put(connector.id, connector)
    return Reply(body={"connector": connector.described()}, headers=warnings(request.body, FIELDS))


def listing(request: Request) -> Reply:
    """GET /v1/connectors, newest first."""
    found = list(request.emulator.shelf(Connector).newest())
    shown = [connector.described() for connector in window(found, request.query, DEFAULT_LIMIT)]
    return Reply(body={"connectors": shown, "total_count": len(found)})


def get(request: Request) -> Reply:
    """GET /v1/connectors/{id}."""
    return Reply(body={"connector": _named(request).described()})


def update(request: Request) -> Reply:
    """PATCH /v1/connectors/{id}."""
    connector = _named(request)
    _change(connector, _checked(request))
    connector.updated = request.emulator.clock()
    return Reply(body={"connector": connector.described()}, headers=warnings(request.body, FIELDS))


def delete(request: Request) -> Reply:
    """DELETE /v1/connectors/{id}."""
    identity = request.path["id"]
    request.emulator.shelf(Connector).take(identity, _absent(identity))
    return Reply(body={})


def authorize(request: Request) -> Reply:
    """POST /v1/connectors/{id}/oauth/authorize."""
    connector = _named(request)
    if connector.oauth is None:
        raise invalid(f"connector '{connector.id}' is not configured for oauth.")  # guessed
    address = str(connector.oauth.get("authorize_url") or connector.url)
    back = quote(request.query.get("after_token_redirect", ""), safe="")
    joint = "&" if "?" in address else "?"
    asked = f"client_id={quote(str(connector.oauth.get('client_id', '')), safe='')}&response_type=code&state={back}"
    return Reply(body={"redirect_url": f"{address}{joint}{asked}"})


def search(body: Mapping[str, Any], query: str, known: Shelf[Connector]) -> Search | None:
    """What the connectors of a chat request find; None when it does not search."""
    asked = body.get("connectors") or []
    for connector in asked:
        if not isinstance(connector, dict):
            raise wrong_type("connectors", connector, "Object", "chat")
        validation.string("id", connector.get("id"), "chat")
    if not asked and not body.get("search_queries_only"):
        return None
    queried = {"text": query or "nothing", "generation_id": str(uuid.uuid4())}
    search = Search([queried], [], {})
    if body.get("search_queries_only"):
        return search
    for connector in asked:
        _find(search, queried, connector, known)
    return search


def _find(search: Search, query: dict[str, Any], asked: Mapping[str, Any], known: Shelf[Connector]) -> None:
    name = asked["id"]
    registered = known.things.get(name)
    result: dict[str, Any] = {"search_query": query, "connector": {"id": name}, "document_ids": []}
    search.results.append(result)
    if registered is None and name not in BUILT_IN:
        if not asked.get("continue_on_failure"):
            known.get(name, _absent(name))
        result |= {"error_message": _absent(name), "continue_on_failure": True}
        return
    document = {
        "id": f"{name}_0",
        "title": f"Emulated search: {query['text']}",
        "snippet": SNIPPET,
        "url": registered.url if registered else "https://example.com/",
    }
    search.documents[document["id"]] = document
    result["document_ids"] = [document["id"]]


def _checked(request: Request) -> dict[str, Any]:
    body = {name: value for name, value in request.body.items() if name in FIELDS}
    validation.fields(body, FIELDS, "connectors")
    return body


def _change(connector: Connector, body: Mapping[str, Any]) -> None:
    """What a request says about a connector; null says nothing."""
    for field in ("name", "url", "excludes", "active", "continue_on_failure"):
        if body.get(field) is not None:
            setattr(connector, field, body[field])
    if body.get("oauth") is not None:
        told = {name: body["oauth"].get(name) or "" for name in ("client_id", "authorize_url", "token_url")}
        connector.oauth = told | ({"scope": body["oauth"]["scope"]} if body["oauth"].get("scope") else {})
    if body.get("service_auth") is not None:
        connector.service = True


def _named(request: Request) -> Connector:
    identity = request.path["id"]
    return request.emulator.shelf(Connector).get(identity, _absent(identity))


def _absent(identity: str) -> str:
    return f"connector '{identity}' not found."
