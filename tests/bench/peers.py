"""`make bench-peers`: what a request costs here and with other gateways, side by side, into docs/benchmarks.md.

Peers are installed into a folder outside the project, each at its newest version that the registry has: ferrogw (Go,
PyPI), LiteLLM (Python, PyPI), Portkey (TypeScript, npm); nginx relays bytes if the system has it. What cannot be had
is left out, and the document says why. All of it runs in a network namespace of its own, with nothing but a loopback
interface in it, because ferrogw listens on every interface that it finds.

Method: as `bench.py`. Short bursts take turns, every cycle in another order, on one upstream stand-in; a case's ratio
to the reference is made within each cycle, and what is shown is the median of the cycles. Cost is CPU time of the
server's whole process tree. Absolute figures depend on the machine, and on what else runs there.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/, as pytest and mypy have it

from bench import bench, load, samples
from bench.processes import Server, ServerFailed, free_port

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT, PICTURE = ROOT / "docs/benchmarks.md", ROOT / "docs/benchmarks.svg"
BEGIN, END = "<!-- measured: make bench-peers -->", "<!-- end of what was measured -->"
INSIDE = "BENCH_PEERS_INSIDE"
"""Set in the environment of the process that runs in the namespace."""

CASES = (
    load.Case("chat-c1", "whole chat, c=1", 1),
    load.Case("chat-c32", "whole chat, c=32", 32),
    load.Case("chat-c256", "whole chat, c=256", 256),
    load.Case("history-c32", "whole chat, 200 KB of history, c=32", 32, history_kb=200),
    load.Case("stream-c32", "stream of 100 deltas, c=32", 32, deltas=100),
    load.Case("embed-96", "96 embeddings of 1,024 floats, c=4", 4, inputs=96, encoding="float", dimensions=False),
    load.Case("embed-1", "one embedding of 1,024 floats, c=32", 32, inputs=1, encoding="float", dimensions=False),
    load.Case("rerank", "rerank of 20 documents, c=32", 32, documents=20),
)


Started = tuple[list[str], dict[str, str], dict[str, str]]
"""A server's command, its environment, and the files in its folder by their names."""


class Unavailable(Exception):
    """A peer cannot be had here. Its text says why."""


@dataclass
class Peer:
    """A server to measure.

    install: makes it available in a folder and returns its version. start: its command, environment and files by name,
    for a folder, its port and the upstream's. headers: lines that it wants. relays: it translates nothing.
    """

    name: str
    install: Callable[[Path], str]
    start: Callable[[Path, int, int], Started]
    headers: Callable[[int], str] = lambda upstream: ""
    relays: bool = False


@dataclass
class Measured:
    """What became of a peer. bursts: by case; refused: why a case was not measured."""

    peer: Peer
    version: str
    server: Server | None = None
    idle: float = 0.0
    loaded: float = 0.0
    bursts: dict[str, list[bench.Burst]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


# The peers --------------------------------------------------------------------------------------------------
def run(command: Sequence[str], cwd: Path) -> str:
    """Runs a step of an installation. Raises Unavailable."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=1_200, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}") from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        raise Unavailable(f"{Path(command[0]).name}: {last[0][:160]}")
    return done.stdout


def from_pypi(package: str, requirement: str) -> Callable[[Path], str]:
    """Returns what installs a package into a virtual environment of its own."""

    def install(home: Path) -> str:
        folder = home / package
        python = folder / "bin" / "python"
        if not python.exists():
            run([sys.executable, "-m", "venv", str(folder)], home)
        run([str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q", requirement], home)
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        return run([str(python), "-c", code], home).strip()

    return install


def portkey(home: Path) -> str:
    """Installs Portkey's gateway."""
    folder = home / "portkey"
    folder.mkdir(exist_ok=True)
    if not (folder / "package.json").exists():
        (folder / "package.json").write_text('{"private": true}')
    run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "@portkey-ai/gateway"], folder)
    package = folder / "node_modules" / "@portkey-ai" / "gateway" / "package.json"
    return str(json.loads(package.read_text())["version"])


def nginx(home: Path) -> str:
    """Finds the system's nginx."""
    command = shutil.which("nginx")
    if command is None:
        raise Unavailable("nginx is not installed")
    done = subprocess.run([command, "-v"], capture_output=True, text=True, check=False)
    return done.stderr.strip().rpartition("/")[2]


def ours(home: Path) -> str:
    """This checkout."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "this checkout"


def gateway(server: str, python: str = sys.executable, **settings: str) -> Callable[[Path, int, int], Started]:
    """Returns how this project is started. python: the interpreter, which takes this one's packages."""

    def start(home: Path, port: int, upstream: int) -> Started:
        env = {
            "COHERE_API_KEY": samples.COHERE_KEY,
            "COHERE_BASE_URL": f"http://127.0.0.1:{upstream}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), sysconfig.get_paths()["purelib"]]),
            "GATEWAY_SERVER": server,
            **settings,
        }
        return [python, "-m", "gateway", "serve", "--host", "127.0.0.1", "--port", str(port)], env, {}

    return start


def start_relay(home: Path, port: int, upstream: int) -> Started:
    command = [sys.executable, str(Path(__file__).with_name("relay.py")), "--port", str(port)]
    return [*command, "--upstream", f"http://127.0.0.1:{upstream}"], {}, {}


NGINX = """
daemon off; worker_processes 1; pid %(folder)s/nginx.pid; error_log stderr crit;
events { worker_connections 4096; }
http {
  access_log off; client_body_temp_path %(folder)s; proxy_temp_path %(folder)s; fastcgi_temp_path %(folder)s;
  uwsgi_temp_path %(folder)s; scgi_temp_path %(folder)s; keepalive_requests 1000000; client_max_body_size 64m;
  upstream cohere { server 127.0.0.1:%(upstream)d; keepalive 512; keepalive_requests 1000000; }
  server {
    listen 127.0.0.1:%(port)d backlog=2048;
    proxy_http_version 1.1; proxy_set_header connection ""; proxy_buffering off;
    location = /v1/chat/completions { proxy_pass http://cohere/v2/chat; }
    location / { return 404; }
  }
}
"""


def start_nginx(home: Path, port: int, upstream: int) -> Started:
    text = NGINX % {"folder": home, "port": port, "upstream": upstream}
    return ["nginx", "-p", str(home), "-c", str(home / "nginx.conf")], {}, {"nginx.conf": text}


def start_ferrogw(home: Path, port: int, upstream: int) -> Started:
    config = "apiVersion: v1\nstrategy:\n  mode: single\ntargets:\n  - virtual_key: cohere\n"
    env = {
        "COHERE_API_KEY": samples.COHERE_KEY,
        "COHERE_BASE_URL": f"http://127.0.0.1:{upstream}",
        "PORT": str(port),
        "GATEWAY_CONFIG": str(home / "config.yaml"),
        "MASTER_KEY": "bench-master-key-that-is-long-enough-0001",
        "ALLOW_UNAUTHENTICATED_PROXY": "true",
        "RATE_LIMIT_RPS": "0",
        "GOMAXPROCS": "1",
    }
    return [str(home.parent / "ferrogw" / "bin" / "ferrogw"), "serve"], env, {"config.yaml": config}


def start_portkey(home: Path, port: int, upstream: int) -> Started:
    script = home.parent / "portkey" / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    return ["node", str(script), "--headless", f"--port={port}"], {}, {}


LITELLM = """
model_list:
  - {model_name: command-a-03-2025, litellm_params: {model: cohere_chat/command-a-03-2025, api_key: bench,
     api_base: "http://127.0.0.1:%(upstream)d/v2/chat"}}
  - {model_name: embed-v4.0, litellm_params: {model: cohere/embed-v4.0, api_key: bench,
     api_base: "http://127.0.0.1:%(upstream)d/v2/embed"}}
  - {model_name: rerank-v4.0-fast, litellm_params: {model: cohere/rerank-v4.0-fast, api_key: bench,
     api_base: "http://127.0.0.1:%(upstream)d/v2/rerank"}}
"""


def start_litellm(home: Path, port: int, upstream: int) -> Started:
    env = {
        "LITELLM_MASTER_KEY": "bench",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    command = [str(home.parent / "litellm" / "bin" / "litellm"), "--config", str(home / "litellm.yaml")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    return command, env, {"litellm.yaml": LITELLM % {"upstream": upstream}}


def portkey_headers(upstream: int) -> str:
    return f"x-portkey-provider: cohere\r\nx-portkey-custom-host: http://127.0.0.1:{upstream}\r\n"


REFERENCE = "this gateway, uvicorn"
PEERS = (
    Peer(REFERENCE, ours, gateway("uvicorn")),
    Peer("this gateway, Hypercorn", ours, gateway("hypercorn")),
    Peer("bare relay, Hypercorn", lambda home: importlib.metadata.version("hypercorn"), start_relay),
    Peer("nginx, bytes only", nginx, start_nginx, relays=True),
    Peer("ferrogw", from_pypi("ferrogw", "ferrogw"), start_ferrogw),
    Peer("Portkey", portkey, start_portkey, portkey_headers),
    Peer("LiteLLM", from_pypi("litellm", "litellm[proxy]"), start_litellm),
)


def with_python(python: str) -> Peer:
    """Returns this project under another interpreter of the same version. How one was built makes a difference."""
    version = run([python, "-c", "import platform; print(platform.python_version())"], ROOT).strip()
    if version.split(".")[:2] != platform.python_version().split(".")[:2]:
        raise Unavailable(f"{python} is Python {version}, and the packages are for {platform.python_version()}")
    return Peer(f"{REFERENCE}, the system's Python {version}", ours, gateway("uvicorn", python))


# The namespace ----------------------------------------------------------------------------------------------
def enter_namespace() -> int | None:
    """Runs this program again where there is no network but a loopback interface, and returns its status.

    None: this is that process, or no namespace can be made here.
    """
    if os.environ.get(INSIDE) or sys.platform != "linux" or shutil.which("unshare") is None:
        return None
    options = ["--net"] if os.geteuid() == 0 else ["--net", "--map-root-user"]
    if subprocess.run(["unshare", *options, "true"], capture_output=True, check=False).returncode:
        return None
    command = ["unshare", *options, sys.executable, *sys.argv]
    return subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False).returncode


def raise_loopback() -> None:
    """Switches the namespace's loopback interface on (netdevice(7): SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP)."""
    with socket.socket() as any_socket:
        request = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(any_socket, 0x8913, request))[1]
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", flags | 1))


# Measuring --------------------------------------------------------------------------------------------------
def start(one: Measured, home: Path, upstream: Server) -> None:
    """Starts a peer. Raises ServerFailed."""
    port = free_port()
    folder = home / f"run-{one.peer.name.replace(' ', '-').replace(',', '')}"
    folder.mkdir(exist_ok=True)
    command, env, files = one.peer.start(folder, port, upstream.port)
    for name, text in files.items():
        (folder / name).write_text(text)
    environment = {**bench.clean_environment(), "HOME": str(folder), **env}
    one.server = Server(one.peer.name, port, command, folder, environment)
    wait_for_port(one.server)


def wait_for_port(server: Server) -> None:
    """Waits until somebody listens: not every peer has a health check at the path of ours. Raises ServerFailed."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise ServerFailed(f"{server.name} ended with status {server.process.returncode}:\n{server.last_words()}")
        try:
            socket.create_connection(("127.0.0.1", server.port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise ServerFailed(f"{server.name} does not listen:\n{server.last_words()}")


def measure(
    sides: Sequence[Measured], cases: Sequence[load.Case], upstream: Server, cycles: int, seconds: float
) -> None:
    """Bursts in turns. A case that a peer cannot serve is left out for it, with the reason."""
    for case in cases:
        available: list[tuple[Measured, load.Case]] = []
        for one in sides:
            assert one.server is not None
            own = dataclasses.replace(case, headers=one.peer.headers(upstream.port))
            try:
                if not one.peer.relays:
                    load.verify(one.server.port, own)
                warm(one, own, seconds / 2)
                available.append((one, own))
            except (load.WrongAnswer, OSError, ValueError, KeyError, TypeError) as error:
                one.refused[case.name] = f"{type(error).__name__}: {error}"[:160]
        for cycle in range(cycles):
            shift = cycle % max(len(available), 1)
            for one, own in [*available[shift:], *available[:shift]]:
                one.bursts.setdefault(case.name, []).append(warm(one, own, seconds))
            bench.progress(f"{case.name}: cycle {cycle + 1} of {cycles}")


def warm(one: Measured, case: load.Case, seconds: float) -> bench.Burst:
    """One burst."""
    assert one.server is not None
    return bench.run_burst(bench.Side(one.server), case, seconds)


# The report -------------------------------------------------------------------------------------------------
def ratios(one: Measured, reference: Measured, case: load.Case) -> list[float]:
    """Returns the cost beside the reference's, cycle by cycle."""
    pairs = zip(one.bursts.get(case.name, ()), reference.bursts.get(case.name, ()), strict=False)
    return [mine.per(1) / theirs.per(1) for mine, theirs in pairs]


def tables(sides: Sequence[Measured], cases: Sequence[load.Case]) -> list[str]:
    """The ratios, the figures behind them, and latency."""
    reference = next(one for one in sides if one.peer.name == REFERENCE)
    lines = ["CPU for each request, as a ratio to this gateway under uvicorn: median [least-most] of the cycles.", ""]
    head = ["", *(case.title for case in cases)]
    lines += [row(head), row(["---"] * len(head))]
    for one in sides:
        cells = []
        for case in cases:
            values = ratios(one, reference, case)
            cells.append(f"{median(values):.2f} [{min(values):.2f}-{max(values):.2f}]" if values else "not measured")
        lines.append(row([f"{one.peer.name} {one.version}", *cells]))
    lines += [
        "",
        "CPU and latency (p50/p99) of each request, medians of the cycles, and memory in MB.",
        "",
    ]
    head = ["", *(case.title for case in cases), "after start", "after the load"]
    lines += [row(head), row(["---"] * len(head))]
    for one in sides:
        cells = []
        for case in cases:
            bursts = one.bursts.get(case.name)
            cells.append(figures(bursts) if bursts else "")
        lines.append(row([one.peer.name, *cells, f"{one.idle:.0f}", f"{one.loaded:.0f}"]))
    return lines


def figures(bursts: Sequence[bench.Burst]) -> str:
    latencies = [sorted(latency * 1000 for latency in burst.result.latencies) for burst in bursts]
    middle, late = (median(bench.at(one, share) for one in latencies) for share in (0.5, 0.99))
    return f"{median(burst.per(1) for burst in bursts):.0f} µs, {middle:.1f}/{late:.1f} ms"


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def picture(sides: Sequence[Measured], cases: Sequence[load.Case]) -> str:
    """Bars of the ratios, on a logarithmic scale from 1/64 to 64: one group for each case."""
    reference = next(one for one in sides if one.peer.name == REFERENCE)
    colors = ("#1f6feb", "#388bfd", "#79b8ff", "#8b949e", "#c9d1d9", "#2da44e", "#bf8700", "#cf222e")
    left, width, height, gap = 230, 560, 11, 16
    parts: list[str] = []
    top = 44
    for case in cases:
        parts.append(f'<text x="{left - 8}" y="{top + 10}" text-anchor="end" font-weight="bold">{case.title}</text>')
        for one, color in zip(sides, colors, strict=False):
            values = ratios(one, reference, case)
            if values:
                value = median(values)
                x = left + width * (math.log2(min(max(value, 1 / 64), 64)) + 6) / 12
                middle = left + width / 2
                parts.append(
                    f'<rect x="{min(x, middle):.1f}" y="{top}" width="{max(abs(x - middle), 1):.1f}" '
                    f'height="{height - 2}" fill="{color}"><title>{one.peer.name}: {value:.2f}</title></rect>'
                    f'<text x="{max(x, middle) + 4:.1f}" y="{top + 8}" font-size="9">{one.peer.name} {value:.2f}</text>'
                )
                top += height
        top += gap
    marks = ""
    for power in range(-6, 7, 2):
        x, label = left + width * (power + 6) / 12, f"{2**power}" if power >= 0 else f"1/{2**-power}"
        marks += f'<line x1="{x:.0f}" y1="30" x2="{x:.0f}" y2="{top}" stroke="#d0d7de"/>'
        marks += f'<text x="{x:.0f}" y="24" text-anchor="middle">{label}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 {top + 10}" font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="#ffffff"/><text x="{left}" y="12">CPU for each request, this gateway '
        f"under uvicorn = 1 (less is better)</text>{marks}{''.join(parts)}</svg>\n"
    )


def write(sides: Sequence[Measured], missing: Sequence[str], cases: Sequence[load.Case], how: str) -> None:
    """Puts what was measured into the document."""
    refused = [
        f"{one.peer.name}, {case.title}: {one.refused[case.name]}"
        for one in sides
        for case in cases
        if case.name in one.refused
    ]
    lines = [how, "", *tables(sides, cases), "", "![CPU for each request](benchmarks.svg)"]
    if missing or refused:
        lines += ["", "Not measured:", "", *(f"- {escape(text)}" for text in [*missing, *refused])]
    text = DOCUMENT.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{chr(10).join(lines)}\n\n{END}{after}", encoding="utf-8")
    PICTURE.write_text(picture(sides, cases), encoding="utf-8")


def escape(text: str) -> str:
    """Returns somebody's words as one line of Markdown."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def machine() -> str:
    model = platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), model)
    return (
        f"{os.cpu_count()} CPUs ({model}), {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="This gateway beside others, into docs/benchmarks.md.")
    parser.add_argument("--cycles", type=int, default=8, help="bursts per case and peer")
    parser.add_argument("--seconds", type=float, default=0.6, help="length of a burst")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this case")
    parser.add_argument("--without", action="append", default=[], metavar="PEER", help="leave a peer out, by its name")
    parser.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / f"gateway-peers-{os.getuid()}")
    parser.add_argument("--python", help="measure this gateway under this interpreter as well")
    parser.add_argument("--print", action="store_true", help="print the tables, and leave the document as it is")
    return parser.parse_args()


def install(peers: Sequence[Peer], home: Path) -> dict[str, str]:
    """Installs what can be had. Returns versions by name; of what cannot, the reason with an exclamation mark."""
    versions = {}
    for peer in peers:
        print(f"installing {peer.name} ...", flush=True)
        try:
            versions[peer.name] = peer.install(home)
        except Unavailable as error:
            versions[peer.name] = f"!{error}"
    return versions


def run_all(
    peers: Sequence[Peer],
    versions: dict[str, str],
    missing: list[str],
    wanted: argparse.Namespace,
    cases: Sequence[load.Case],
) -> list[Measured]:
    """Starts the peers, measures them and stops them. Adds to `missing` those that do not start, with the reason."""
    sides: list[Measured] = []
    upstream = bench.start_upstream(wanted.home)
    try:
        upstream.wait_ready()
        for peer in peers:
            if peer.name == "ferrogw" and not os.environ.get(INSIDE):
                missing.append("ferrogw: it listens on every interface, and no network namespace can be made here")
                continue
            one = Measured(peer, versions[peer.name])
            try:
                start(one, wanted.home, upstream)
                sides.append(one)
            except ServerFailed as error:
                missing.append(str(error))
                if one.server is not None:
                    one.server.stop()
        for one in sides:
            assert one.server is not None
            one.idle = one.server.rss()
        measure(sides, cases, upstream, wanted.cycles, wanted.seconds)
        for one in sides:
            assert one.server is not None
            one.loaded = one.server.rss()
    finally:
        for one in sides:
            if one.server is not None:
                one.server.stop()
        upstream.stop()
    return sides


def main() -> int:
    """The command."""
    wanted = options()
    home: Path = wanted.home
    home.mkdir(parents=True, exist_ok=True)
    versions_file = home / "versions.json"
    peers = [peer for peer in PEERS if peer.name not in wanted.without]
    if wanted.python:
        peers.insert(1, with_python(wanted.python))
    if not os.environ.get(INSIDE):
        versions_file.write_text(json.dumps(install(peers, home)))
        status = enter_namespace()
        if status is not None:
            return status
    else:
        raise_loopback()
    versions = json.loads(versions_file.read_text())
    missing = [f"{name}: {version[1:]}" for name, version in versions.items() if version.startswith("!")]
    cases = [case for case in CASES if wanted.case is None or case.name in wanted.case]
    before = os.getloadavg()[0]
    available = [peer for peer in peers if not versions[peer.name].startswith("!")]
    sides = run_all(available, versions, missing, wanted, cases)
    how = (
        f"{wanted.cycles} cycles of bursts of {wanted.seconds} s, on {machine()}; load average before "
        f"{before:.1f}, at the end {os.getloadavg()[0]:.1f}."
    )
    if wanted.print:
        refused = [f"{one.peer.name}: {one.refused}" for one in sides if one.refused]
        print("\n".join([how, "", *tables(sides, cases), "", *missing, *refused]))
    else:
        write(sides, missing, cases, how)
        print(f"written: {DOCUMENT.relative_to(ROOT)}, {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
