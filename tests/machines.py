"""A cluster of real processes on loopback: a scheduler and workers, each of which can be killed like a machine."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parent
QUIET = {"DASK_LOGGING__DISTRIBUTED": "error", "CUDA_VISIBLE_DEVICES": "-1"}


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


class Machines:
    """A scheduler and workers of one thread each; those of the stand-in are at work at once.

    Parameters
    ----------
    folder : Path
        For what Dask itself writes.
    real : bool
        Workers load the real base.
    seconds : float
        What a batch of the stand-in takes.
    """

    def __init__(self, folder, real=False, seconds=0.0):
        self.folder, self.port = folder, free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.preload = [] if real else ["--preload", str(TESTS / "standin_worker.py")]
        self.environment = {**os.environ, **QUIET, "STANDIN_SECONDS": str(seconds)}
        self.scheduler, self.workers = None, {}
        self.log = open(folder / "dask.log", "ab")  # noqa: SIM115 - closed by stop

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()

    def start_scheduler(self):
        """Start the scheduler, or start it again where it was."""
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                time.sleep(0.05)
        raise TimeoutError("no scheduler")

    def start_worker(self, name, environment=None, before=(), python=sys.executable):
        """Start a worker; `before` is put before its command, such as what gives it a file system of its own."""
        options = ["--name", name, "--nthreads", "1", "--no-dashboard", "--no-nanny", "--death-timeout", "20"]
        options += ["--local-directory", str(self.folder), "--host", "127.0.0.1"]
        self.workers[name] = self._start(
            "worker", self.address, *options, *self.preload, environment=environment, before=before, python=python
        )
        return self

    def kill(self, name=None):
        """Kill a worker, or the scheduler where there is no name, as a power cut would."""
        process = self.workers.pop(name) if name else self.scheduler
        if not name:
            self.scheduler = None
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self):
        """Kill everything that is left."""
        for name in list(self.workers):
            self.kill(name)
        if self.scheduler is not None:
            self.kill()
        self.log.close()

    def _start(self, what, *options, environment=None, before=(), python=sys.executable):
        command = [*before, python, "-m", "dask", what, *options]
        return subprocess.Popen(
            command, stdout=self.log, stderr=self.log, env=self.environment | (environment or {}), start_new_session=True,
            cwd=TESTS.parent,
        )  # fmt: skip
