"""No secret can be reached from a request: its scope, the record of it, the principal behind it."""

from __future__ import annotations

import gc
import types
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import ref

import pytest
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from gateway.auth import credentials
from gateway.http import middleware
from gateway.memory_budget import UNLIMITED, Gathering
from gateway.settings.schema import Settings
from gateway.state.encrypted_content import SUMMARY, TextBudget, seal_of
from support.app import CALLER_KEY, CHAT, MASTER_KEY, SERVER_KEY, A, answered, run_harness, streamed
from support.principals import principal_of
from support.scripted_upstream import json_answer

SECRETS = (CALLER_KEY, SERVER_KEY, MASTER_KEY)
OF_THE_APPLICATION = ("app", "router", "endpoint", "state", "extensions")
"""What the server and the router put into every scope. It is the same for all requests, and leads to the settings."""


def reachable(root: object) -> Iterator[tuple[str, str]]:
    """Every text that attributes, containers and closures lead to, with the way there. Modules, classes and globals of
    functions are not followed: they lead to the whole process.
    """
    visited: list[object] = []
    identities: set[int] = set()
    waiting: list[tuple[str, object]] = [("", root)]
    while waiting:
        direction, value = waiting.pop()
        if id(value) in identities or isinstance(value, type | types.ModuleType):
            continue
        identities.add(id(value))
        visited.append(value)  # so that no identity is used again meanwhile
        if isinstance(value, bytes | bytearray):
            yield direction, bytes(value).decode("latin-1")
        elif isinstance(value, str):
            yield direction, value
        else:
            waiting += [(f"{direction}{name}", inner) for name, inner in inside(value)]


def inside(value: object) -> Iterator[tuple[str, object]]:
    """What a value holds, each with the way from it."""
    if isinstance(value, Mapping):
        for number, (key, inner) in enumerate(value.items()):
            yield f"<key {number}>", key
            yield f"[{key!r}]", inner
    elif isinstance(value, list | tuple | set | frozenset):
        for number, inner in enumerate(value):
            yield f"[{number}]", inner
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
    elif isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            yield f"<closure {name}>", cell.cell_contents
        yield ".__defaults__", value.__defaults__
    else:
        names = [*getattr(value, "__dict__", ()), *getattr(value, "__struct_fields__", ())]
        for base in type(value).__mro__:
            slots = base.__dict__.get("__slots__", ())
            names += [slots] if isinstance(slots, str) else slots
        for name in names:
            if name != "__weakref__" and hasattr(value, name):
                yield f".{name}", getattr(value, name)


def ways_to_secrets(root: object) -> list[str]:
    return [
        f"{direction}: {text[:80]!r}"
        for direction, text in reachable(root)
        if any(secret in text for secret in SECRETS)
    ]


def test_a_secret_is_seen() -> None:
    def closure() -> str:
        return SERVER_KEY

    class Slotted:
        __slots__ = ("key",)

        def __init__(self) -> None:
            self.key = (CALLER_KEY,)

    slotted = Slotted()
    holder = [lambda: (closure, slotted), Settings(master_key=MASTER_KEY), {b"bearer " + CALLER_KEY.encode(): 1}]
    secret = SERVER_KEY
    assert len(ways_to_secrets([*holder, lambda: secret])) == 4


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer {}"},
        {"authorization": "{}", "x-api-key": "{}", "api-key": "{}"},
    ],
    ids=["one header", "all headers"],
)
@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({}, CALLER_KEY),
        ({"cohere_api_key": [SERVER_KEY]}, CALLER_KEY),
        ({"cohere_api_key": [SERVER_KEY], "master_key": MASTER_KEY}, MASTER_KEY),
    ],
    ids=["own key", "open", "virtual keys"],
)
def test_no_secret_is_reachable_from_a_request(
    settings: dict[str, Any], key: str, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    leaks: dict[str, list[str]] = {}
    route = Router.__call__

    async def looking(router: Router, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await route(router, scope, receive, send)

        def look() -> None:
            request = {name: value for name, value in scope.items() if name not in OF_THE_APPLICATION}
            leaks.setdefault(scope["path"], []).extend(ways_to_secrets(request))

        async def looking_send(message: Any) -> None:
            look()
            await send(message)

        look()
        await route(router, scope, receive, looking_send)
        look()

    monkeypatch.setattr(Router, "__call__", looking)
    monkeypatch.setattr(middleware, "fixed_endpoints", lambda router: {})  # so that each path takes the router
    sent_body = {name: value.format(key) for name, value in headers.items()}
    with run_harness(**settings) as harness:
        for path, script, body in (
            (CHAT, answered(), {"model": A, "messages": [{"role": "user", "content": "Hi"}]}),
            (CHAT, streamed(), {"model": A, "messages": [{"role": "user", "content": "Hi"}], "stream": True}),
            ("/v1/responses", answered(), {"model": A, "input": "Hi", "include": ["reasoning.encrypted_content"]}),
            ("/cohere/v2/chat", answered(), {"model": A, "messages": []}),
            ("/v1/embeddings", json_answer(400, {"message": "no"}), {"model": "embed-v4.0", "input": ["a"]}),
        ):
            harness.respond_with(script)
            harness.gateway.ask("POST", path, body, sent_body | {"content-type": "application/json"})
            assert len(harness.upstream.exchanges) == 1, path
    assert set(leaks) == {CHAT, "/v1/responses", "/cohere/v2/chat", "/v1/embeddings"}
    assert not any(leaks.values()), leaks


@pytest.mark.parametrize("kind", ["thought", "summary"])
def test_no_key_is_reachable_from_a_seal(kind: str) -> None:
    principal = principal_of(Settings(), CALLER_KEY)
    seal = seal_of(principal, SUMMARY) if kind == "summary" else seal_of(principal)
    seal.open(seal.seal("text"), TextBudget(100, Gathering(UNLIMITED)))
    assert not ways_to_secrets([principal, seal, seal.seal, repr(principal)])


def test_keys_are_forgotten_with_their_handle() -> None:
    credential = credentials.store([CALLER_KEY])
    assert credentials.cohere_keys(credential) == (CALLER_KEY,)
    handle, before = ref(credential), len(credentials._cohere_keys)
    del credential
    gc.collect()
    assert handle() is None and len(credentials._cohere_keys) < before
