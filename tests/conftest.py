"""Fixtures of the tests that talk to a running gateway. What they give is described in `support/app.py`.

The process that gives the tests out to others reads this file as well and runs none of them, so that what takes long
to import is imported where it is used.
"""

from __future__ import annotations

import asyncio
import gc
import marshal
import os
import signal
import sys
import threading
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import openai

    from support.app import Gateway

# Each client, and each gateway, loads the certificates that it trusts, which takes longer than most tests. Nobody here
# talks to a server that the system's authorities have signed.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "support" / "authority.pem")

# What a collection of fourteen thousand tests makes stays until the end. Until then the garbage collector would walk it
# in vain, and after it with each of its rounds.
gc.disable()

# Under nohup, or behind a shell's `&`, these are ignored, and so they would be by every process that a test starts. A
# handler is not passed on.
for number in (signal.SIGHUP, signal.SIGINT):
    if threading.current_thread() is threading.main_thread() and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


def pytest_configure(config: pytest.Config) -> None:
    """Chooses how properties are tried that say nothing else themselves."""
    if not config.getoption("numprocesses", None):
        from hypothesis import settings

        from support.transcripts import property_of

        settings.register_profile("the same every time", property_of())
        settings.load_profile("the same every time")
    elif sys.platform == "linux" and not config.getoption("cov_source", None):
        from support.forked_workers import Starter

        config.pluginmanager.register(Starter())


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, dict[str, Any], dict[str, Any]]:
    """Packs a report for its way to the process that counts them: xdist would write value by value, in Python."""
    report = yield
    return {"packed": marshal.dumps(report)}


@pytest.hookimpl(wrapper=True)
def pytest_report_from_serializable(data: dict[str, Any]) -> Generator[None, Any, Any]:
    data.update(marshal.loads(data.pop("packed")))
    return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files in an order of no meaning, and its reverse with GATEWAY_TEST_REVERSED=1.

    In the order of the alphabet those that compute come first and those that wait for servers last: the machine would
    be short of processors for the one half of the time and idle for the other. Reversed, it shows tests that need those
    before them.

    The files with a browser come first in any case. They take longest of all, and where one is divided between two
    workers, each starts a browser and a gateway.
    """
    reverse = os.environ.get("GATEWAY_TEST_REVERSED") == "1"
    items.sort(key=lambda item: zlib.crc32(item.path.name.encode()), reverse=reverse)
    with_browser = {item.path for item in items if "chromium" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in with_browser)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 20)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def dropped_templates() -> Iterator[None]:
    from support import databases

    yield
    asyncio.run(databases.drop_templates())


@pytest.fixture(scope="session")
def demo() -> Iterator[Gateway]:
    """The gateway over the emulator: one for all tests that leave no trace in it."""
    from support.app import demonstration

    with demonstration() as gateway:
        yield gateway


@pytest.fixture
def sdk(demo: Gateway) -> Iterator[openai.OpenAI]:
    """The official SDK on the demonstration."""
    with demo.client() as client:
        yield client
