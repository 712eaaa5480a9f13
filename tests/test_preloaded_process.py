"""The processes that tests start: each who starts one gets that one."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import preloaded_process
from support.waiting import WAIT_SECONDS


@pytest.mark.skipif(not preloaded_process.AVAILABLE, reason="needs Linux")
def test_threads_that_start_processes_at_once_get_their_own(tmp_path: Path) -> None:
    def number_printed(number: int) -> tuple[int, int]:
        program = f"import os; print({number}, os.getpid())"
        process = preloaded_process.start(["-c", program], os.environ, tmp_path, ("json",))
        with process.stdout, process.stderr:
            printed, pid = process.stdout.read().split()
        assert process.wait(WAIT_SECONDS) == 0 and int(pid) == process.pid
        return number, int(printed)

    with ThreadPoolExecutor(8) as threads:
        pairs = list(threads.map(number_printed, range(24)))
    assert pairs == [(number, number) for number in range(24)]
