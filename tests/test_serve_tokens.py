"""JSON Web Tokens in the place of keys: from a real server of signing keys, and every classic attack on them."""

from __future__ import annotations

import base64
import hmac
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.app import create_app
from gateway.auth import signing_keys
from gateway.settings.loading import load
from gateway.settings.schema import JwtClaims, JwtSettings, SettingError, Settings
from gateway.virtual_keys import Team
from support.app import CHAT, MASTER_KEY, A, Harness, Response, answered
from support.certificates import Certificates, issued_in
from support.process import awaited
from support.virtual_keys import key_of, run_keyed_harness, secret_of

ISSUER, AUDIENCE = "https://issuer.example", "cohere-gateway"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
ELSE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
HELLO = {"model": A, "messages": [{"role": "user", "content": "Hi"}]}
REFUSED = {
    "error": {
        "message": "The API key is not valid for this gateway",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_api_key",
    }
}


def public_pem(key: Any) -> bytes:
    return bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def described(key: Any, kid: str) -> dict[str, Any]:
    """A key as a set has it."""
    algorithm: Any = jwt.algorithms.OKPAlgorithm
    if isinstance(key, rsa.RSAPrivateKey):
        algorithm = jwt.algorithms.RSAAlgorithm
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = jwt.algorithms.ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"}


class Issuer:
    """A server of signing keys, which counts how often it is asked, and can do worse than answer.

    moved_to: answers with a redirect there. dripping: sends a byte at a time and never ends.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.keys: list[dict[str, Any]] = [described(RSA, "rsa"), described(EC, "ec"), described(ED, "ed")]
        self.status, self.requests = 200, 0
        self.moved_to, self.padding, self.length, self.dripping = "", 0, 0, False
        self.closed = threading.Event()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.requests += 1
                content = json.dumps({"keys": issuer.keys}).encode() + b" " * issuer.padding
                self.send_response(302 if issuer.moved_to else issuer.status)
                if issuer.moved_to:
                    self.send_header("location", issuer.moved_to)
                self.send_header("content-length", str(issuer.length or len(content)))
                self.end_headers()
                try:
                    while issuer.dripping and not issuer.closed.wait(0.01):
                        self.wfile.write(b" ")
                    self.wfile.write(content)
                except OSError:
                    pass  # the gateway has left

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_address[1]}/keys.json"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.closed.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def issuer(tls: ssl.SSLContext | None = None) -> Iterator[Issuer]:
    server = Issuer(tls)
    try:
        yield server
    finally:
        server.close()


def token(key: Any = RSA, kid: str | None = "rsa", headers: Mapping[str, Any] | None = None, **claims: Any) -> str:
    """A token that is good unless the claims say otherwise; a claim that is None is left out."""
    values = {"sub": "somebody", "iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 600, **claims}
    algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "EdDSA" if key is ED else "ES256"
    named = {"kid": kid} if kid is not None else {}
    payload = {name: value for name, value in values.items() if value is not None}
    return jwt.encode(payload, key, algorithm, {**named, **(headers or {})})


def permitting(value: Any) -> dict[str, Any]:
    """The claim with the permissions: its name has dots, as those of many providers have."""
    return {"https://gateway.example/permissions": value}


def encoded(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: Mapping[str, Any], key: bytes | None, **claims: Any) -> str:
    """A token that is put together by hand: with an HMAC over this key, or no signature."""
    values = {"sub": "somebody", "iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 600, **claims}
    signed = f"{encoded({'typ': 'JWT', **header})}.{encoded(values)}"
    signature = hmac.digest(key, signed.encode(), "sha256") if key is not None else b""
    return f"{signed}.{encoded(signature)}"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Harness, Issuer]]:
    claims = JwtClaims("org.team", "preferred_username", "roles", "https://gateway.example/permissions", "models")
    records = (
        Team(team_id="search", models=("command-a-*",)),
        Team(team_id="shut", blocked=True),
        Team(team_id="readers", permissions="read-only"),
        key_of("usual"),
    )
    with issuer() as keys:
        settings = JwtSettings(keys.url, audience=AUDIENCE, issuer=ISSUER, leeway=5, claims=claims)
        with run_keyed_harness(*records, jwt=settings) as (harness, _):
            harness.respond_with(answered())
            yield harness, keys


def call(harness: Harness, secret: str, path: str = CHAT, body: Any = HELLO) -> Response:
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    return harness.gateway.ask("POST", path, body, headers)


@pytest.mark.parametrize(("key", "kid"), [(RSA, "rsa"), (EC, "ec"), (ED, "ed")], ids=["RS256", "ES256", "EdDSA"])
def test_a_token_is_as_good_as_a_key(served: tuple[Harness, Issuer], key: Any, kid: str) -> None:
    harness, _ = served
    signed = token(key, kid)
    for path in (CHAT, "/cohere/v2/chat", "/litellm/cohere/v2/chat"):
        harness.respond_with(answered())
        response = call(harness, signed, path)
        assert response.status == 200, response
        assert harness.upstream.requests[-1].headers["authorization"] == ["Bearer server-key-0002"]
        assert harness.gateway.log.line_of(response.headers["x-request-id"])["caller"] == "jwt:somebody"
    assert call(harness, secret_of("usual"), "/litellm/cohere/v2/chat").status == 200


BAD: Mapping[str, Any] = {
    "expired": lambda: token(exp=time.time() - 60),
    "expires never": lambda: token(exp=None),
    "no subject": lambda: token(sub=None),
    "empty subject": lambda: token(sub=""),
    "subject of another type": lambda: token(sub=7),
    "subject with a line end": lambda: token(sub="a\nb"),
    "not valid yet": lambda: token(nbf=time.time() + 600),
    "another audience": lambda: token(aud="somebody-else"),
    "no audience": lambda: token(aud=None),
    "another issuer": lambda: token(iss="https://evil.example"),
    "no issuer": lambda: token(iss=None),
    "an unknown team": lambda: token(org={"team": "nobody"}),
    "a team that is no text": lambda: token(org={"team": ["search"]}),
    "permissions that there are not": lambda: token(**permitting({"data": "full"})),
    "permissions of another type": lambda: token(**permitting(7)),
    "models of another type": lambda: token(models={"a": 1}),
    "somebody else's key": lambda: token(ELSE),
    "an unknown key id": lambda: token(ELSE, "unknown"),
    "no key id": lambda: token(kid=None),
    "another key's id": lambda: token(RSA, "ec"),
    "algorithm none": lambda: forged({"alg": "none", "kid": "rsa"}, None),
    "algorithm NonE": lambda: forged({"alg": "NonE", "kid": "rsa"}, None),
    "no algorithm": lambda: forged({"kid": "rsa"}, None),
    "HS256 with the public key": lambda: forged({"alg": "HS256", "kid": "rsa"}, public_pem(RSA)),
    "HS256 with the modulus": lambda: forged({"alg": "HS256", "kid": "rsa"}, described(RSA, "rsa")["n"].encode()),
    "HS256 with nothing": lambda: forged({"alg": "HS256", "kid": "rsa"}, b""),
    "RS256 without a signature": lambda: forged({"alg": "RS256", "kid": "rsa"}, None),
    "its own key in the head": lambda: token(ELSE, None, {"jwk": described(ELSE, "x")}),
    "its own key beside a known id": lambda: token(RSA, "rsa", {"jwk": described(ELSE, "x")}),
    "its own set of keys": lambda: token(ELSE, "x", {"jku": "https://evil.example/keys.json"}),
    "its own certificate": lambda: token(ELSE, "rsa", {"x5u": "https://evil.example/x.pem"}),
    "a critical extension": lambda: token(headers={"crit": ["exp"], "exp": 1}),
    "a path for an id": lambda: token(ELSE, "../../../../dev/null"),
    "an id of another type": lambda: forged({"alg": "RS256", "kid": ["rsa"]}, b"x"),
    "a payload that is a list": lambda: jwt.api_jws.encode(b"[]", RSA, "RS256", {"kid": "rsa"}),
    "changed after it was signed": lambda: token()[:-8] + "AAAAAAAA",
    "another payload": lambda: ".".join([token().split(".")[0], encoded({"sub": "admin"}), token().split(".")[2]]),
    "too long": lambda: token(filler="x" * 20_000),
    "dots and nothing else": lambda: "..",
    "no base64": lambda: "!.!.!",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_says_nothing_of_why(served: tuple[Harness, Issuer], name: str) -> None:
    harness, _ = served
    harness.respond_with(answered())
    response = call(harness, BAD[name]())
    assert (response.status, response.body) == (401, REFUSED), response
    assert not harness.upstream.exchanges


def test_unknown_key_ids_cost_one_request_a_minute(served: tuple[Harness, Issuer]) -> None:
    harness, keys = served
    call(harness, token(ELSE, "first"))
    before = keys.requests
    for number in range(30):
        assert call(harness, token(ELSE, f"id-{number}")).status == 401
    assert keys.requests <= before + 1
    assert call(harness, token()).status == 200


def test_claims_decide_what_a_token_may_do(served: tuple[Harness, Issuer]) -> None:
    harness, _ = served
    harness.respond_with(answered())
    small = {**HELLO, "model": "command-r7b-12-2024"}
    for secret, body, expected in (
        (token(org={"team": "search"}), HELLO, 200),
        (token(org={"team": "search"}), small, 403),
        (token(org={"team": "search"}, models=["*"]), small, 403),
        (token(models=["command-r7b-*"]), HELLO, 403),
        (token(models="command-r7b-* command-a-*"), HELLO, 200),
        (token(org={"team": "readers"}), HELLO, 403),
        (token(org={"team": "readers"}, **permitting("all")), HELLO, 403),
        (token(**permitting({"chat": "off"})), HELLO, 403),
        (token(**permitting("read-only")), HELLO, 403),
        (token(roles="viewer"), HELLO, 403),
        (token(roles="emperor"), HELLO, 200),
        (token(org={"team": "shut"}), HELLO, 403),
        (token(org="no object"), HELLO, 200),
    ):
        assert call(harness, secret, body=body).status == expected, jwt.decode(
            secret, options={"verify_signature": False}
        )


def test_usage_is_counted_under_the_user_that_a_claim_names(served: tuple[Harness, Issuer]) -> None:
    harness, _ = served
    harness.respond_with(answered())
    answer = call(harness, token(sub="17", preferred_username="ada@example.com", org={"team": "search"}))
    master = {"authorization": f"Bearer {MASTER_KEY}"}
    address = f"/audit?id={answer.headers['x-gateway-log-id']}"
    awaited(lambda: bool(harness.gateway.ask("GET", address, None, master).body["data"]))
    (row,) = harness.gateway.ask("GET", address, None, master).body["data"]
    names = [row[name] for name in ("key_id", "user_id", "team_id")]
    assert names == ["jwt:17", "ada@example.com", "search"]
    usage = harness.gateway.ask("GET", "/usage?by=user&user=ada@example.com", None, master).body
    assert [(one["user"], one["calls"]) for one in usage["data"]] == [("ada@example.com", 1)]


def test_what_a_token_stores_is_its_subjects(served: tuple[Harness, Issuer]) -> None:
    harness, _ = served
    harness.respond_with(answered())
    stored = call(harness, token(sub="a"), "/v1/responses", {"model": A, "input": "Hi"}).body["id"]
    for secret, status in ((token(sub="a", jti="2"), 200), (token(sub="b"), 404), (secret_of("usual"), 404)):
        headers = {"authorization": f"Bearer {secret}"}
        assert harness.gateway.ask("GET", f"/v1/responses/{stored}", None, headers).status == status


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return issued_in(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_changed_signing_key_is_taken_over(
    scheme: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing_keys, "RELOAD_SECONDS", 0.0)
    tls, ca_file = (certificates.tls(), str(certificates.ca)) if scheme == "https" else (None, "")
    with issuer(tls) as keys, run_keyed_harness(jwt=JwtSettings(keys.url, ca_file=ca_file)) as (harness, _):
        harness.respond_with(answered())
        new = token(ELSE, "new", aud=None)
        assert call(harness, new).status == 401
        keys.keys.append(described(ELSE, "new"))
        assert call(harness, new).status == 200
        old = token(aud=None)
        assert call(harness, old).status == 200
        keys.keys = [described(ELSE, "newest")]
        assert call(harness, token(ELSE, "newest", aud=None)).status == 200
        assert call(harness, old).status == 401, "a token that was checked by a key that is gone is checked again"
        keys.status = 500
        assert call(harness, token(RSA, "other", aud=None)).status == 401
        assert call(harness, token(ELSE, "newest", aud=None)).status == 200, "the last set that could be read counts"


def _is_moved(keys: Issuer, elsewhere: str) -> None:
    keys.moved_to = elsewhere


def _is_large(keys: Issuer, elsewhere: str) -> None:
    keys.padding = signing_keys.LARGEST_SET


def _is_cut(keys: Issuer, elsewhere: str) -> None:
    keys.length = 100_000


def _never_ends(keys: Issuer, elsewhere: str) -> None:
    keys.dripping, keys.length = True, 100_000


@pytest.mark.parametrize(
    ("misbehaves", "text"),
    [
        (_is_moved, "status 302"),
        (_is_large, "ValueError: the set is too large"),
        (_is_cut, "IncompleteRead"),
        (_never_ends, "TimeoutError"),
    ],
)
def test_a_set_of_keys_that_cannot_be_had(
    misbehaves: Callable[[Issuer, str], None], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway starts, refuses tokens, says why in its log, and takes the set when it is there again."""
    monkeypatch.setattr(signing_keys, "RELOAD_SECONDS", 0.0)
    monkeypatch.setattr(signing_keys, "TOTAL_SECONDS", 0.2)
    monkeypatch.setattr(signing_keys, "TIMEOUT_SECONDS", 1.0)
    with issuer() as keys, issuer() as elsewhere:
        misbehaves(keys, elsewhere.url)
        with run_keyed_harness(key_of("usual"), jwt=JwtSettings(keys.url)) as (harness, _):
            harness.respond_with(answered())
            signed = token(aud=None)
            assert call(harness, signed).body == REFUSED
            assert call(harness, secret_of("usual")).status == 200, "keys do not depend on it"
            assert any(text in line.get("message", "") for line in harness.gateway.log.lines)
            assert elsewhere.requests == 0, "whoever may redirect would name the keys that are trusted"
            keys.moved_to, keys.padding, keys.length, keys.dripping = "", 0, 0, False
            assert call(harness, signed).status == 200


def test_keys_of_a_server_that_nobody_vouches_for(certificates: Certificates) -> None:
    with issuer(certificates.tls()) as keys, run_keyed_harness(jwt=JwtSettings(keys.url)) as (harness, _):
        harness.respond_with(answered())
        assert call(harness, token(aud=None)).body == REFUSED
        assert keys.requests == 0
        assert any("CERTIFICATE_VERIFY_FAILED" in line.get("message", "") for line in harness.gateway.log.lines)


@pytest.mark.parametrize("file", ["nowhere.pem", __file__])
def test_a_file_of_certificates_that_is_none_is_said_at_the_start(file: str) -> None:
    settings = Settings(
        cohere_api_key=["k"], master_key=MASTER_KEY, jwt=JwtSettings("https://issuer.example/keys", ca_file=file)
    )
    with pytest.raises(SettingError, match=r"jwt\.ca_file: "):
        create_app(settings)


@pytest.mark.parametrize(
    ("jwks", "text"),
    [("http://issuer.example/keys", "use https"), ("keys.json", "only an https address has certificates")],
)
def test_where_keys_cannot_come_from(jwks: str, text: str) -> None:
    environment = {"COHERE_API_KEY": "k", "GATEWAY_MASTER_KEY": MASTER_KEY, "GATEWAY_JWT_JWKS": jwks}
    with pytest.raises(SettingError, match=text):
        load({**environment, "GATEWAY_JWT_CA_FILE": "ca.pem"})


@pytest.mark.parametrize("kind", ["file of keys", "file with a key", "key"])
def test_keys_without_a_server(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "keys"
    if kind == "file of keys":
        file.write_text(json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}, described(RSA, "rsa")]}))
        settings = JwtSettings(str(file))
    else:
        file.write_bytes(public_pem(RSA))
        settings = JwtSettings(public_key=str(file) if kind == "file with a key" else public_pem(RSA).decode())
    with run_keyed_harness(jwt=settings, master_key="") as (harness, _):
        harness.respond_with(answered())
        assert call(harness, token(aud=None)).status == 200
        assert call(harness, token(ELSE, aud=None)).status == 401
        assert call(harness, forged({"alg": "HS256", "kid": "shared"}, b"secret")).status == 401
