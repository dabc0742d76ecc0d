"""``python -m pipeline``, and the console script."""

import atexit
import os
import sys
from typing import NoReturn

from .cli.commands import main


def run() -> NoReturn:
    """Run one command and end this process with its exit status."""
    status = main()
    if "tensorflow" in sys.modules:  # which takes more than a second to free what the system frees anyway
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
