"""The gateway's command with a clock of a test's: Unix seconds that go on from what is in the file TEST_CLOCK."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def install(clock: Path) -> None:
    """Lets `time.time` return the file's seconds, and those that have passed since it was written."""

    def now() -> float:
        return float(clock.read_text()) + time.monotonic() - clock.stat().st_mtime_ns / 1e9 + offset

    # The file's own time is that of the wall clock.
    offset = time.time() - time.monotonic()
    time.time = now


if "TEST_CLOCK" in os.environ:  # also in a worker, which begins with this file as well
    install(Path(os.environ["TEST_CLOCK"]))

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from gateway.cli.main import main

    sys.exit(main())
