"""The examples of deployment: what they name exists, and real proxies pass a stream on as it comes.

nginx and Caddy are Debian's packages. Without nginx its tests are skipped, and in CI they fail; Caddy is tried where it
is.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.auth.modes import Mode, mode_of
from gateway.endpoints.health import DRAIN_PATH, LIVE_PATHS, READY_PATHS
from gateway.settings.loading import load
from gateway.settings.reference import described
from gateway.settings.schema import Settings
from support.app import SERVER_KEY, A, opened, piece, run_harness, start
from support.certificates import issued_in
from support.ports import free_port
from support.process import ROOT
from support.scripted_upstream import Pause, Signal, event_stream, transcript
from support.waiting import WAIT_SECONDS

DEPLOY = ROOT / "examples" / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KUBERNETES = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
UNIT = (DEPLOY / "cohere-gateway.service").read_text()
NGINX, CADDY = (DEPLOY / "nginx.conf").read_text(), (DEPLOY / "Caddyfile").read_text()
VARIABLES = {name for line in described() for name in line.environment}


@pytest.mark.parametrize("file", [path for path in sorted(DEPLOY.iterdir()) if path.suffix != ".dockerignore"], ids=str)
def test_a_file_says_what_it_is_and_what_was_not_tried(file: Path) -> None:
    head = file.read_text().partition("\n\n")[0]
    assert head.startswith("# ") and "Checked here: " in file.read_text()[:1500]


def test_every_setting_that_they_name_exists() -> None:
    for file in DEPLOY.iterdir():
        named = set(re.findall(r"\b(?:GATEWAY|COHERE)_[A-Z_]+\b", file.read_text()))
        assert named <= VARIABLES, file


# --- containers -----------------------------------------------------------------------------------------------


def environment_of_the_image() -> dict[str, str]:
    block = re.search(r"^ENV PATH=(?:.*\\\n)*.*", DOCKERFILE, re.MULTILINE)
    assert block
    pairs = re.findall(r"(\w+)=(\S+)", block[0])
    return {name: value for name, value in pairs if name.startswith("GATEWAY_")}


def test_the_image_starts_with_keys_only() -> None:
    image = environment_of_the_image()
    settings = load({**image, "COHERE_API_KEY": "x", "GATEWAY_MASTER_KEY": "m" * 32})
    assert mode_of(settings) is Mode.VIRTUAL_KEYS
    assert settings.database_url == "sqlite:////data/gateway.sqlite3"
    assert mode_of(load(image)) is Mode.OWN_KEY


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    sources = [
        word for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    ]
    assert len(sources) > 6
    for source in sources:
        assert (ROOT / source).exists()
        assert {f"!{source}", f"!{source.partition('/')[0]}/*.txt"} & {*ignored}, source
    assert re.search(r"^USER \d+:\d+$", DOCKERFILE, re.MULTILINE)


def test_compose_has_what_it_needs() -> None:
    services = COMPOSE["services"]
    gateway = services["gateway"]
    example_values = {name: name * 4 for name in gateway["environment"]} | {
        name: value for name, value in gateway["environment"].items() if "$" not in value
    }
    settings = load(
        {**environment_of_the_image(), **example_values, "GATEWAY_DATABASE_URL": "postgresql://gateway@postgres/x"}
    )
    assert settings.workers == 2 and settings.cache.store == "redis"
    assert gateway["read_only"] and gateway["cap_drop"] == ["ALL"]
    assert int(gateway["stop_grace_period"].rstrip("s")) > settings.timeouts.shutdown
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in COMPOSE["volumes"] or (DEPLOY / source).exists(), source
        assert {one["source"] for one in service.get("configs", ())} <= COMPOSE["configs"].keys()
        assert service.get("depends_on", {}).keys() <= services.keys()
    scrape = yaml.safe_load(COMPOSE["configs"]["prometheus"]["content"])
    assert scrape["scrape_configs"][0]["job_name"] == "cohere-gateway"


# --- Kubernetes -----------------------------------------------------------------------------------------------


def test_kubernetes_settings_can_be_used(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(KUBERNETES["ConfigMap"]["data"]["gateway.toml"])
    settings = load(KUBERNETES["Secret"]["stringData"], str(file))
    assert mode_of(settings) is Mode.VIRTUAL_KEYS and not settings.loopback
    pod = KUBERNETES["Deployment"]["spec"]["template"]["spec"]
    (gateway,) = pod["containers"]
    (wait,) = re.findall(r"time\.sleep\((\d+)\)", gateway["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pod["terminationGracePeriodSeconds"] >= settings.timeouts.shutdown + int(wait)
    assert gateway["ports"][0]["containerPort"] == settings.port
    assert any(settings.ledger.spool.startswith(one["mountPath"]) for one in gateway["volumeMounts"])


def test_kubernetes_asks_what_exists() -> None:
    (gateway,) = KUBERNETES["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert gateway["livenessProbe"]["httpGet"]["path"] in LIVE_PATHS
    assert gateway["readinessProbe"]["httpGet"]["path"] in READY_PATHS
    assert gateway["startupProbe"]["httpGet"]["path"] in READY_PATHS
    assert DRAIN_PATH in gateway["lifecycle"]["preStop"]["exec"]["command"][-1]
    compile(gateway["lifecycle"]["preStop"]["exec"]["command"][-1], "preStop", "exec")


def test_kubernetes_pods_are_restricted() -> None:
    spec = KUBERNETES["Deployment"]["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    for container in (*spec["initContainers"], *spec["containers"]):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
    labels = KUBERNETES["Deployment"]["spec"]["selector"]["matchLabels"]
    assert KUBERNETES["Service"]["spec"]["selector"] == labels
    assert KUBERNETES["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert KUBERNETES["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "cohere-gateway"


# --- systemd --------------------------------------------------------------------------------------------------


def test_the_unit_is_one(tmp_path: Path) -> None:
    seconds = re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    assert seconds and int(seconds[1]) > Settings().timeouts.shutdown
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    file = tmp_path / "cohere-gateway.service"
    file.write_text(re.sub(r"/srv/cohere-gateway/\S+", "/bin/true", UNIT))
    result = subprocess.run([analyze, "verify", str(file)], capture_output=True, text=True, check=False)
    assert "cohere-gateway.service" not in result.stderr, result.stderr


# --- proxies --------------------------------------------------------------------------------------------------


def program(name: str, required: bool) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/sbin")
    if path is None:
        if required and os.environ.get("GATEWAY_TEST_REQUIRE_PROGRAMS"):
            pytest.fail(f"{name} is missing: apt-get install nginx-light")
        pytest.skip(f"{name} is not installed")
    return path


@contextmanager
def running(command: list[str], port: int, environment: Mapping[str, str] = {}) -> Iterator[None]:
    """A proxy that listens on this port."""
    process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), WAIT_SECONDS).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, "the proxy did not start"
                time.sleep(0.02)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT_SECONDS)


@contextmanager
def nginx(gateway_port: int, folder: Path) -> Iterator[http.client.HTTPConnection]:
    port, certificates = free_port(), issued_in(folder)
    server = NGINX.replace("127.0.0.1:8080", f"127.0.0.1:{gateway_port}")
    server = server.replace("listen 443 ", f"listen 127.0.0.1:{port} ")
    server = re.sub(r"/etc/ssl/gateway\.(pem|key)", str(certificates.server), server)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{server}\n}}"
    )
    command = [program("nginx", True), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(file)]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    context = ssl.create_default_context(cafile=str(certificates.ca))
    with running(command, port):
        yield http.client.HTTPSConnection("127.0.0.1", port, timeout=WAIT_SECONDS, context=context)


@contextmanager
def caddy(gateway_port: int, folder: Path) -> Iterator[http.client.HTTPConnection]:
    port = free_port()
    text = CADDY.replace("127.0.0.1:8080", f"127.0.0.1:{gateway_port}")
    text = text.replace("gateway.example.com {", f"{{\n\tadmin off\n\tauto_https off\n}}\nhttp://127.0.0.1:{port} {{")
    file = folder / "Caddyfile"
    file.write_text(text)
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "GOMAXPROCS": "1"}
    command = [program("caddy", False), "run", "--config", str(file), "--adapter", "caddyfile"]
    with running(command, port, home):
        yield http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)


PROXIES: Mapping[str, Callable[[int, Path], Any]] = {"nginx": nginx, "caddy": caddy}


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_stream_comes_through_a_proxy_as_it_is_made(proxy: str, tmp_path: Path) -> None:
    """The second piece is made when the first one has arrived: buffered, neither ever would."""
    go_on = Signal()
    begun = transcript(start(), opened(), piece("first"), done=False)
    rest = transcript(piece(" second"), done=False)
    script = (*event_stream([begun], ending=None), Pause(go_on), *event_stream([rest])[1:])
    body = json.dumps({"model": A, "messages": [{"role": "user", "content": "Hi"}], "stream": True})
    headers = {"content-type": "application/json", "x-forwarded-for": "6.6.6.6"}
    with run_harness(cohere_api_key=[SERVER_KEY], allowed_hosts=["*"], trusted_proxies=["127.0.0.1"]) as harness:
        harness.respond_with(script)
        port = int(harness.gateway.url.rpartition(":")[2])
        with PROXIES[proxy](port, tmp_path) as connection:
            connection.request("POST", "/v1/chat/completions", body, headers)
            response = connection.getresponse()
            assert response.status == 200
            received = b""
            while b"first" not in received:
                received += response.read1(65536)
            assert b"second" not in received
            go_on.set()
            while some := response.read1(65536):
                received += some
            assert b"second" in received
            connection.close()
            for path in ("/metrics", "/health/drain"):
                connection.request("GET", path)
                http_response = connection.getresponse()
                assert http_response.status == 404
                http_response.read()
            connection.close()
