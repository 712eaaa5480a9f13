"""Cohere's API in other homes: under a path, behind headers, certificates of one's own, a proxy."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.app import create_app
from gateway.settings.loading import load
from gateway.settings.schema import SettingError, Settings, UpstreamSettings
from support.app import SERVER_KEY, Gateway, answered, gateway_over, streamed
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
    headers = {"x-tenant": "blue", "X-Client-Name": "our gateway"}
    with home(upstream=UpstreamSettings(headers=headers)) as (gateway, upstream):
        assert gateway.chat().status == 200
        request = upstream.requests[0].headers
        assert (request["x-tenant"], request["x-client-name"]) == (["blue"], ["our gateway"])
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
        ({"x-a\r\nx-b": "c"}, "not the name of a header"),
        ({"": "c"}, "not the name of a header"),
    ],
)
def test_headers_that_cannot_be(headers: dict[str, str], says: str) -> None:
    with pytest.raises(SettingError, match=says) as caught:
        create_app(Settings(upstream=UpstreamSettings(headers=headers)))
    assert "Bearer x" not in str(caught.value)


# --- certificates -------------------------------------------------------------------------------------------


@dataclass
class Certificates:
    """Files of an authority nobody knows, of a server on 127.0.0.1, and of a client."""

    ca: Path
    server: Path
    client: Path
    client_key: Path
    both: Path

    def tls(self, *, asks_back: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        if asks_back:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(is_authority: bool) -> x509.KeyUsage:
    """What a key is for: an authority signs certificates, the others show who they are."""
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    now = datetime.datetime.now(datetime.UTC)
    authority = ec.generate_private_key(ec.SECP256R1())

    def issued(name: str, key: ec.EllipticCurvePrivateKey, is_authority: bool) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            # Python 3.13 and newer check certificates by the letter (RFC 5280 §4.2.1.1 to §4.2.1.3, §4.2.1.9).
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
            .add_extension(_usage(is_authority), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
        )
        return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def private(key: ec.EllipticCurvePrivateKey) -> bytes:
        return key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def file(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    server, client = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    visible = issued("client", client, False)
    return Certificates(
        file("ca.pem", issued("authority", authority, True)),
        file("server.pem", issued("server", server, False) + private(server)),
        file("client.pem", visible),
        file("client.key", private(client)),
        file("both.pem", visible + private(client)),
    )


def test_an_authority_of_ones_own(certificates: Certificates) -> None:
    with home(tls=certificates.tls(), upstream=UpstreamSettings(ca_file=str(certificates.ca))) as (gateway, _):
        assert gateway.chat().status == 200


def test_without_it_nobody_is_trusted(certificates: Certificates) -> None:
    with home(tls=certificates.tls()) as (gateway, upstream):
        seen = gateway.chat()
        assert (seen.status, seen.error["code"]) == (502, "upstream_unreachable")
        assert not upstream.requests


@pytest.mark.parametrize("files", ["two", "one"])
def test_a_client_certificate(certificates: Certificates, files: str) -> None:
    visible: dict[str, Any] = {"client_certificate": str(certificates.both)}
    if files == "two":
        visible = {"client_certificate": str(certificates.client), "client_key": str(certificates.client_key)}
    settings = UpstreamSettings(ca_file=str(certificates.ca), **visible)
    with home(tls=certificates.tls(asks_back=True), upstream=settings) as (gateway, _):
        assert gateway.chat().status == 200


def test_without_it_the_server_refuses(certificates: Certificates) -> None:
    settings = UpstreamSettings(ca_file=str(certificates.ca))
    with home(tls=certificates.tls(asks_back=True), upstream=settings) as (gateway, upstream):
        assert gateway.chat().status == 502
        assert not upstream.requests


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"ca_file": "nowhere.pem"}, "upstream.ca_file: nowhere.pem: No such file"),
        ({"ca_file": __file__}, "upstream.ca_file"),
        ({"client_certificate": "nowhere.pem"}, "upstream.client_certificate: nowhere.pem: No such file"),
        ({"client_certificate": __file__}, "upstream.client_certificate"),
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
            seen = gateway.chat()
        assert seen.status == (502 if exempt else 200)
        requests = [request.path for request in proxy.requests]
        assert requests == ([] if exempt else ["http://cohere.invalid/api/v2/chat"])
