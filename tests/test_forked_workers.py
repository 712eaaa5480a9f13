"""Workers that are forked: the tests are collected once, and what a worker reports is as from one of xdist's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import preloaded_process

if not preloaded_process.AVAILABLE:
    pytest.skip("workers are forked on Linux only", allow_module_level=True)

CONFTEST = """
from support.forked_workers import Starter

def pytest_configure(config):
    if config.getoption("numprocesses", None):
        config.pluginmanager.register(Starter())
"""

TESTS = """
import os
from pathlib import Path

import pytest

with open("imported", "a") as file:
    file.write("once ")

@pytest.mark.parametrize("number", range(8))
def test_passes(number, tmp_path, worker_id, capfd):
    os.write(1, b"raw %d" % number)
    assert capfd.readouterr().out == f"raw {number}"
    assert f"popen-{worker_id}" in str(tmp_path)
    assert os.environ["PYTEST_XDIST_WORKER"] == worker_id
    assert os.read(0, 1) == b""
    Path(f"process-{os.getpid()}").write_text(str(os.getppid()))

@pytest.mark.parametrize("number", range(2))
def test_fails(number):
    os.write(2, b"of the failure %d" % number)
    assert not number + 1

def test_is_skipped():
    pytest.skip("for a reason")

def test_ends_its_worker():
    os._exit(3)
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_inside.py").write_text(TESTS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTEST"))}
    environment |= {"PYTHONPATH": str(Path(__file__).parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-n2", "--dist=worksteal", "-rfEs", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_workers_are_forks_of_the_process_that_collects(tmp_path):
    result = run(tmp_path)
    assert result.returncode == 1, result
    assert "3 failed, 8 passed, 1 skipped" in result.stdout
    assert "crashed while running 'test_inside.py::test_ends_its_worker'" in result.stdout
    assert "test_inside.py:25: for a reason" in result.stdout
    for number in range(2):
        assert f"- Captured stderr call -----------------------------\nof the failure {number}\n" in result.stdout
    assert (tmp_path / "imported").read_text() == "once "
    parents = [path.read_text() for path in tmp_path.glob("process-*")]
    assert len(parents) >= 2 and len(set(parents)) == 1


def test_a_long_path_of_the_folder_of_temporary_files_leaves_xdists_own_workers(tmp_path, monkeypatch):
    """A path of a socket has at most 107 characters."""
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    result = run(tmp_path)
    assert "3 failed, 8 passed, 1 skipped" in result.stdout
    assert (tmp_path / "imported").read_text() != "once "


def test_what_cannot_be_collected_ends_the_run(tmp_path):
    result = run(tmp_path, "absent.py")
    assert result.returncode == 4, result
    assert "file or directory not found: absent.py" in result.stderr
