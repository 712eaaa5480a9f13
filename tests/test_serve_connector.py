"""Cohere's API in other homes: under a path, behind headers, certificates of one's own, a proxy."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.app import create_app
from gateway.settings.loading import load
from gateway.settings.schema import NamedUpstream, SettingError, Settings, UpstreamSettings
from support.app import SERVER_KEY, Gateway, answered, gateway_over, streamed
from support.certificates import Certificates, issued_in
from support.scripted_upstream import ScriptedUpstream


@contextmanager
def home(
    path: str = "", tls: ssl.SSLContext | None = None, **settings: Any
) -> Iterator[tuple[Gateway, ScriptedUpstream]]:
    with (
        ScriptedUpstream(answered(), tls=tls).run_in_thread() as upstream,
        gateway_over(
            load({"COHERE_BASE_URL": upstream.url + path}).cohere_base_url, cohere_api_key=[SERVER_KEY], **settings
        ) as gateway,
    ):
        yield gateway, upstream


# --- paths and headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "requested"),
    [
        ("", "/v2/chat"),
        ("/", "/v2/chat"),
        ("/v2", "/v2/chat"),
        ("/cohere", "/cohere/v2/chat"),
        ("/cohere/v1/", "/cohere/v2/chat"),
        ("/a/b-c/d", "/a/b-c/d/v2/chat"),
    ],
)
def test_a_path_before_the_api(path: str, requested: str) -> None:
    with home(path) as (gateway, upstream):
        assert gateway.chat().status == 200
        assert upstream.requests[0].path == requested


def test_headers_of_the_operators() -> None:
    headers = {"x-tenant": "blue", "X-Client-Name": "our gateway", "x_team": "1"}
    with home(upstream=UpstreamSettings(headers=headers)) as (gateway, upstream):
        assert gateway.chat().status == 200
        request = upstream.requests[0].headers
        assert (request["x-tenant"], request["x-client-name"], request["x_team"]) == (["blue"], ["our gateway"], ["1"])
        assert request["authorization"] == [f"Bearer {SERVER_KEY}"]


def test_headers_in_the_environment() -> None:
    settings = load({"GATEWAY_UPSTREAM_HEADERS": '{"x-tenant": "blue"}'})
    assert settings.upstream.headers == {"x-tenant": "blue"}
    with pytest.raises(SettingError, match="upstream.headers"):
        load({"GATEWAY_UPSTREAM_HEADERS": "x-tenant: blue"})


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"authorization": "Bearer x"}, "set by the gateway itself"),
        ({"Host": "x"}, "set by the gateway itself"),
        ({"x-a": "b\r\nx-c: d"}, "cannot be sent"),
        ({"x-a": "ü"}, "cannot be sent"),
        ({"x a": "b"}, "not the name of a header"),
        ({"x-\u00fc": "b"}, "not the name of a header"),
        ({"x-a\r\nx-b": "c"}, "not the name of a header"),
        ({"": "c"}, "not the name of a header"),
    ],
)
def test_headers_that_cannot_be(headers: dict[str, str], says: str) -> None:
    with pytest.raises(SettingError, match=says) as caught:
        create_app(Settings(upstream=UpstreamSettings(headers=headers)))
    assert "Bearer x" not in str(caught.value)


# --- certificates -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return issued_in(tmp_path_factory.mktemp("certificates"))


def test_an_authority_of_ones_own(certificates: Certificates) -> None:
    with home(tls=certificates.tls(), upstream=UpstreamSettings(ca_file=str(certificates.ca))) as (gateway, _):
        assert gateway.chat().status == 200


def test_without_it_nobody_is_trusted(certificates: Certificates) -> None:
    with home(tls=certificates.tls()) as (gateway, upstream):
        response = gateway.chat()
        assert (response.status, response.error["code"]) == (502, "upstream_unreachable")
        assert not upstream.requests


@pytest.mark.parametrize("files", ["two", "one"])
def test_a_client_certificate(certificates: Certificates, files: str) -> None:
    visible: dict[str, Any] = {"client_certificate": str(certificates.both)}
    if files == "two":
        visible = {"client_certificate": str(certificates.client), "client_key": str(certificates.client_key)}
    settings = UpstreamSettings(ca_file=str(certificates.ca), **visible)
    with home(tls=certificates.tls(asks_back=True), upstream=settings) as (gateway, _):
        assert gateway.chat().status == 200


def test_a_named_upstream_has_its_own_certificates(certificates: Certificates) -> None:
    """Neither those of the default upstream, nor are they used there."""
    named: dict[str, Any] = {"ca_file": str(certificates.ca), "client_certificate": str(certificates.both)}
    with (
        ScriptedUpstream(answered(), tls=certificates.tls(asks_back=True)).run_in_thread() as vault,
        ScriptedUpstream(answered(), tls=certificates.tls()).run_in_thread() as default,
    ):
        upstream = NamedUpstream(base_url=vault.url, api_key=["k"], models=["command-a-*"], **named)
        with gateway_over(default.url, cohere_api_key=[SERVER_KEY], upstreams={"vault": upstream}) as gateway:
            assert gateway.chat().status == 200
            response = gateway.chat(model="command-r7b-12-2024")
            assert (response.status, response.error["code"]) == (502, "upstream_unreachable")
            assert len(vault.requests) == 1 and not default.requests


def test_without_it_the_server_refuses(certificates: Certificates) -> None:
    settings = UpstreamSettings(ca_file=str(certificates.ca))
    with home(tls=certificates.tls(asks_back=True), upstream=settings) as (gateway, upstream):
        assert gateway.chat().status == 502
        assert not upstream.requests


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"ca_file": "nowhere.pem"}, "upstream.ca_file: nowhere.pem: No such file"),
        ({"ca_file": __file__}, r"upstream.ca_file: \S+: it cannot be used \(no certificate or crl found\)$"),
        ({"client_certificate": "nowhere.pem"}, "upstream.client_certificate: nowhere.pem: No such file"),
        ({"client_certificate": __file__}, r"upstream.client_certificate: \S+: it cannot be used \(\D+\)$"),
        (
            {"client_certificate": __file__, "client_key": "nowhere.pem"},
            "upstream.client_key: nowhere.pem: No such file",
        ),
        ({"client_key": "nowhere.pem"}, "upstream.client_certificate is missing"),
    ],
)
def test_files_that_cannot_be_used_are_reported_at_the_start(files: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        create_app(Settings(upstream=UpstreamSettings(**files)))


def test_streams_come_over_tls(certificates: Certificates) -> None:
    with (
        ScriptedUpstream(streamed(*["x" * 1_000] * 50), tls=certificates.tls()).run_in_thread() as upstream,
        gateway_over(
            upstream.url, cohere_api_key=[SERVER_KEY], upstream=UpstreamSettings(ca_file=str(certificates.ca))
        ) as gateway,
    ):
        assert gateway.chat(stream=True).text == "x" * 50_000


# --- proxies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exempt", [False, True])
def test_the_environments_proxy(exempt: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ScriptedUpstream(answered()).run_in_thread() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        if exempt:
            monkeypatch.setenv("no_proxy", "cohere.invalid")
        with gateway_over("http://cohere.invalid/api", cohere_api_key=[SERVER_KEY]) as gateway:
            response = gateway.chat()
        assert response.status == (502 if exempt else 200)
        requests = [request.path for request in proxy.requests]
        assert requests == ([] if exempt else ["http://cohere.invalid/api/v2/chat"])
