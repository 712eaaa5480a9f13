"""The command `cohere-gateway` in a process that tells how many tasks it has: upon SIGUSR1 it writes it to a file.

    python watched.py FILE serve --port 9000

The product needs no such window, so it has none: this one is looked through by the soak alone.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gateway.cli.main import main

FILE = "WATCHED_FILE"


def tell(file: Path) -> None:
    """Garbage that only waits to be collected is no leak; a file that is moved into place is read whole or not."""
    gc.collect()
    written = file.with_suffix(".new")
    written.write_text(str(len(asyncio.all_tasks())))
    os.replace(written, file)


if __name__ == "__main__":
    os.environ[FILE] = sys.argv[1]
    sys.argv = ["cohere-gateway", *sys.argv[2:]]
# The handler runs in the main thread, in the middle of the loop that it asks about. Workers import this file, too.
signal.signal(signal.SIGUSR1, lambda number, frame: tell(Path(os.environ[FILE])))
if __name__ == "__main__":
    sys.exit(main())
