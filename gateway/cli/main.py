"""Where the command line begins. Imports nothing until it runs: worker processes import this module, too.

Exit status: 0 done, 1 failed, 2 wrong use; errors are one line on standard error.
"""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status."""
    from gateway.cli.root import run

    return run(arguments)
