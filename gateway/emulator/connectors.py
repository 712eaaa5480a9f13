"""/v1/connectors: searches that clients register, and what /v1/chat finds through them.

Nothing is called: a connector "finds" one document that says so. Deprecated at Cohere, but still in its
specification. Source: docs/cohere-api.md#version-1.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from gateway.emulator import validation
from gateway.emulator.errors import invalid_request, require_object
from gateway.emulator.repository import Repository, format_time, limit_and_offset, short_id
from gateway.emulator.request import ORGANIZATION_ID, Request, Response
from gateway.emulator.validation import Check

DEFAULT_LIMIT = 30
BUILT_IN = ("web-search",)
SNIPPET = "This document comes from the Cohere emulator, which searches nothing and calls no connector."


def _non_empty(name: str, value: Any, page: str) -> None:
    validation.string(name, value, page)
    if not value.strip():
        raise invalid_request(f"{name} must not be empty.")  # guessed


def _url(name: str, value: Any, page: str) -> None:
    validation.string(name, value, page)
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise invalid_request(f"{name} must be a valid URL.")  # guessed


OAUTH_FIELDS: dict[str, Check] = {
    "client_id": validation.string,
    "client_secret": validation.string,
    "authorize_url": _url,
    "token_url": _url,
    "scope": validation.string,
}
SERVICE_AUTH_FIELDS: dict[str, Check] = {
    "type": validation.one_of("bearer", "basic", "noscheme"),
    "token": validation.string,
}
FIELDS: dict[str, Check] = {
    "name": _non_empty,
    "description": validation.string,
    "url": _url,
    "excludes": validation.strings,
    "oauth": validation.nested(OAUTH_FIELDS),
    "active": validation.boolean,
    "continue_on_failure": validation.boolean,
    "service_auth": validation.nested(SERVICE_AUTH_FIELDS),
}


class Connector(msgspec.Struct, kw_only=True):
    """A registered search. Its secrets are not stored."""

    id: str
    name: str
    url: str
    created: float
    updated: float
    description: str | None = None
    excludes: list[str] = []
    oauth: dict[str, Any] | None = None
    has_service_auth: bool = False
    active: bool = True
    continue_on_failure: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns the connector in Cohere's format."""
        body: dict[str, Any] = {"id": self.id, "organization_id": ORGANIZATION_ID, "name": self.name}
        if self.description is not None:
            body["description"] = self.description
        body |= {"url": self.url, "created_at": format_time(self.created), "updated_at": format_time(self.updated)}
        body |= {"excludes": self.excludes}
        if self.oauth is not None:
            body |= {"auth_type": "oauth", "oauth": self.oauth, "auth_status": "valid"}
        elif self.has_service_auth:
            body |= {"auth_type": "service_auth", "auth_status": "valid"}
        return body | {"active": self.active, "continue_on_failure": self.continue_on_failure}


class SearchResult(msgspec.Struct, frozen=True):
    """The queries of a chat turn, the result of each connector, and the documents by id."""

    queries: list[dict[str, Any]]
    results: list[dict[str, Any]]
    documents: dict[str, dict[str, Any]]


def create(request: Request) -> Response:
    """Handles POST /v1/connectors."""
    body = _checked_body(request)
    for field in ("name", "url"):
        if not body.get(field):
            raise invalid_request(f"{field} is required.")  # guessed
    now = request.emulator.clock()
    connector = Connector(
        id=short_id(body["name"]),
        name=body["name"],
        url=body["url"],
        description=body.get("description"),
        created=now,
        updated=now,
    )
    _apply(connector, body)
    request.emulator.repository(Connector).add(connector.id, connector)
    return Response(body={"connector": connector.to_json()}, headers=request.unknown_field_warning(FIELDS))


def list_all(request: Request) -> Response:
    """Handles GET /v1/connectors, newest first."""
    connectors = list(request.emulator.repository(Connector).newest_first())
    page = limit_and_offset(connectors, request.query, DEFAULT_LIMIT)
    return Response(body={"connectors": [connector.to_json() for connector in page], "total_count": len(connectors)})


def get(request: Request) -> Response:
    """Handles GET /v1/connectors/{id}."""
    return Response(body={"connector": _find(request).to_json()})


def update(request: Request) -> Response:
    """Handles PATCH /v1/connectors/{id}."""
    connector = _find(request)
    _apply(connector, _checked_body(request))
    connector.updated = request.emulator.clock()
    return Response(body={"connector": connector.to_json()}, headers=request.unknown_field_warning(FIELDS))


def delete(request: Request) -> Response:
    """Handles DELETE /v1/connectors/{id}."""
    identity = request.path_params["id"]
    request.emulator.repository(Connector).remove(identity, _not_found(identity))
    return Response(body={})


def authorize(request: Request) -> Response:
    """Handles POST /v1/connectors/{id}/oauth/authorize."""
    connector = _find(request)
    if connector.oauth is None:
        raise invalid_request(f"connector '{connector.id}' is not configured for oauth.")  # guessed
    url = str(connector.oauth.get("authorize_url") or connector.url)
    client_id = quote(str(connector.oauth.get("client_id", "")), safe="")
    state = quote(request.query.get("after_token_redirect", ""), safe="")
    separator = "&" if "?" in url else "?"
    query = f"client_id={client_id}&response_type=code&state={state}"
    return Response(body={"redirect_url": f"{url}{separator}{query}"})


def search(body: Mapping[str, Any], text: str, registered: Repository[Connector]) -> SearchResult | None:
    """Returns what the connectors of a chat request find, or None for a request that does not search.

    Raises a 404 for an unknown connector that must not fail.
    """
    entries = body.get("connectors") or []
    for entry in entries:
        require_object("connectors", entry)
        validation.string("id", entry.get("id"), "chat")
    # Queries alone are asked for without connectors, too.
    if not entries and not body.get("search_queries_only"):
        return None
    query = {"text": text or "nothing", "generation_id": str(uuid.uuid4())}
    result = SearchResult([query], [], {})
    if not body.get("search_queries_only"):
        for entry in entries:
            _search_one(result, query, entry, registered)
    return result


def _search_one(
    result: SearchResult, query: dict[str, Any], entry: Mapping[str, Any], registered: Repository[Connector]
) -> None:
    identity = entry["id"]
    connector = registered.items.get(identity)
    entry_result: dict[str, Any] = {"search_query": query, "connector": {"id": identity}, "document_ids": []}
    result.results.append(entry_result)
    if connector is None and identity not in BUILT_IN:
        # Raises the 404, as there is no such connector.
        if not entry.get("continue_on_failure"):
            registered.get(identity, _not_found(identity))
        entry_result |= {"error_message": _not_found(identity), "continue_on_failure": True}
        return
    document = {
        "id": f"{identity}_0",
        "title": f"Emulated search: {query['text']}",
        "snippet": SNIPPET,
        "url": connector.url if connector else "https://example.com/",
    }
    result.documents[document["id"]] = document
    entry_result["document_ids"] = [document["id"]]


def _checked_body(request: Request) -> dict[str, Any]:
    body = {name: value for name, value in request.body.items() if name in FIELDS}
    validation.fields(body, FIELDS, "connectors")
    return body


def _apply(connector: Connector, body: Mapping[str, Any]) -> None:
    """Changes what the body mentions. Null changes nothing."""
    for field in ("name", "url", "excludes", "active", "continue_on_failure"):
        if body.get(field) is not None:
            setattr(connector, field, body[field])
    if body.get("oauth") is not None:
        # Without the client's secret.
        oauth = {name: body["oauth"].get(name) or "" for name in ("client_id", "authorize_url", "token_url")}
        connector.oauth = oauth | ({"scope": body["oauth"]["scope"]} if body["oauth"].get("scope") else {})
    if body.get("service_auth") is not None:
        connector.has_service_auth = True


def _find(request: Request) -> Connector:
    identity = request.path_params["id"]
    return request.emulator.repository(Connector).get(identity, _not_found(identity))


def _not_found(identity: str) -> str:
    return f"connector '{identity}' not found."
