"""Prometheus itself: its checks of names, rules and alerts, and a real one that scrapes several workers.

It is Debian's package `prometheus`. Without it these tests are skipped, and in CI they fail.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.observability.metrics import Metrics
from support.app import Harness, answered, run_harness, streamed
from support.ports import free_port
from support.process import ROOT, process, reads_until, request_bytes
from support.waiting import WAIT_SECONDS

EXAMPLES = ROOT / "examples" / "observability"
RULES, ALERTS, DASHBOARD = EXAMPLES / "rules.yml", EXAMPLES / "alerts.yml", EXAMPLES / "dashboard.json"
OF_PROMETHEUS = frozenset({"up"})
"""Series that Prometheus makes itself."""


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        if os.environ.get("GATEWAY_TEST_REQUIRE_PROGRAMS"):
            pytest.fail(f"{name} is missing: apt-get install prometheus")
        pytest.skip(f"{name} is not installed")
    return path


def promtool(*arguments: str, text: bytes = b"") -> str:
    """What it says; an error fails."""
    command = [program("promtool"), *arguments]
    result = subprocess.run(command, input=text, capture_output=True, check=False)
    output = (result.stdout + result.stderr).decode()
    assert result.returncode == 0, output
    return output


# --- names ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    with run_harness() as one:
        one.chat_over(answered())
        one.chat_over(streamed(), stream=True)
        one.chat_over(answered(), temperature="hot", logit_bias={"1": 1})
        yield one


def test_promtool_finds_nothing_wrong_with_our_names(harness: Harness) -> None:
    harness.gateway.settle()
    text = harness.gateway.ask("GET", "/metrics", headers={}).data
    assert promtool("check", "metrics", text=text).strip() == ""


def metrics_of_ours() -> frozenset[str]:
    """The names of all series that /metrics may have."""
    metrics, names = Metrics(lambda model: True, ()), set()
    for collector in metrics.collectors:
        for family in collector.describe():
            kinds = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
            names |= {family.name + ending for ending in kinds[family.type]}
    return frozenset(names)


def recorded() -> frozenset[str]:
    return frozenset(rule["record"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"])


def expressions() -> Iterator[str]:
    """Every expression in the examples."""
    for file in (RULES, ALERTS):
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from (rule["expr"] for rule in group["rules"])
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def names_in(expression: str) -> set[str]:
    """The names of series in an expression: what stands before braces, brackets or the end of an operand."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\b(?:by|on|without|ignoring) ?\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}", "{}", bare)
    words = set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\w*\()", re.sub(r"\[[^]]*\]", "", bare)))
    return words - {"or", "and", "unless"} - set(re.findall(r"([a-z_]+) *\(", bare))


def test_every_metric_that_the_examples_name_exists() -> None:
    series = metrics_of_ours() | recorded() | OF_PROMETHEUS
    named = [(name, expression) for expression in expressions() for name in names_in(expression)]
    assert len(named) > 60
    assert not [(name, expression) for name, expression in named if name not in series]


def test_every_metric_of_ours_can_be_seen() -> None:
    named = {name for expression in expressions() for name in names_in(expression)}
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in metrics_of_ours()}
    metric_names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
    assert bare - metric_names == {"process_start_time_seconds"}, "what nobody looks at is not needed"


def test_labels_of_expressions_exist() -> None:
    assert 'operation!~"health|metrics"' in RULES.read_text()
    labels = {label for collector in Metrics(lambda model: True, ()).collectors for label in collector._labelnames}
    used = {
        label
        for expression in expressions()
        for selector in re.findall(r"\{([^}]*)\}", expression)
        for label in re.findall(r"([a-z_]+)\s*(?:=|!=|=~|!~)", selector)
    }
    assert used <= labels | {"job", "instance"}


def test_a_panel_has_a_place_of_its_own() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    positions = [tuple(panel["gridPos"][side] for side in "xywh") for panel in dashboard["panels"]]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(positions) > 30
    covered = [(column, line) for x, y, w, h in positions for column in range(x, x + w) for line in range(y, y + h)]
    assert len(covered) == len(set(covered)) and all(column < 24 for column, _ in covered)


# --- rules ----------------------------------------------------------------------------------------------------


def test_rules_and_alerts_are_valid_and_say_what_they_should() -> None:
    promtool("check", "config", str(EXAMPLES / "prometheus.yml"))
    promtool("test", "rules", str(ROOT / "tests" / "prometheus" / "rules_test.yml"))


# --- a real one -----------------------------------------------------------------------------------------------


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[Any]:
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=WAIT_SECONDS) as response:
            return list(json.load(response)["data"]["result"])

    def await_value(self, expression: str, value: float, seconds: float = 60.0) -> None:
        """Until an expression has this value."""
        deadline, result = time.monotonic() + seconds, []
        while time.monotonic() < deadline:
            try:
                result = self.query(expression)
            except OSError:
                result = []
            if [float(one["value"][1]) for one in result] == [value]:
                return
            time.sleep(0.2)
        raise AssertionError(f"{expression} is {result}, not {value}")


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes this target each second, with the rules of the examples."""
    configuration = yaml.safe_load((EXAMPLES / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(RULES), str(ALERTS)]
    configuration["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    port = free_port()
    command = [program("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    server = subprocess.Popen(command, env={**os.environ, "GOMAXPROCS": "1"})
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(WAIT_SECONDS)


def test_a_prometheus_that_scrapes_several_workers(tmp_path: Path) -> None:
    program("prometheus")
    with process("--demo", "--workers", "2") as gateway:
        gateway.settle(2)

        def ask(count: int) -> None:
            for number in range(count):
                with socket.create_connection(("127.0.0.1", gateway.port), timeout=WAIT_SECONDS) as connection:
                    connection.sendall(request_bytes(f"r{number}"))
                    reads_until(connection, b"usage")

        ask(4)
        with prometheus(f"127.0.0.1:{gateway.port}", tmp_path) as scraper:
            scraper.await_value("up", 1)
            scraper.await_value("sum(gateway_workers)", 2)
            scraper.await_value('sum(gateway_requests_total{operation="chat"})', 4)
            ask(4)  # a rate needs two scrapes with different values
            scraper.await_value('sum(gateway_requests_total{operation="chat"})', 8)
            scraper.await_value("count(process_resident_memory_bytes > 20000000)", 1)
            scraper.await_value("count(job:gateway_requests:rate5m > 0) > bool 0", 1)
            scraper.await_value("sum(ALERTS) or vector(0)", 0)
