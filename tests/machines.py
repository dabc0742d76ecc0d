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


class Cable:
    """A network of its own for some processes, joined to this one by a pair of virtual interfaces.

    Attributes
    ----------
    here, there : str
        Addresses of its ends.
    inside : list of str
        What to put before a command that is to run there.

    Raises
    ------
    PermissionError
        If this process may not make one.
    """

    def __init__(self):
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stderr=subprocess.DEVNULL)
        pid = self._holder.pid
        self.here, self.there = (f"10.213.{pid // 64 % 256}.{pid % 64 * 4 + end}" for end in (1, 2))
        self.inside = ["nsenter", "--net", f"--target={pid}"]
        networks = [Path(f"/proc/{process}/ns/net") for process in (pid, os.getpid())]
        while self._holder.poll() is None and networks[0].readlink() == networks[1].readlink():
            time.sleep(0.01)
        name = f"cf{pid}"
        try:
            self._ip("link", "add", name, "type", "veth", "peer", "name", "far", "netns", str(pid), inside=[])
            self._ip("addr", "add", f"{self.here}/30", "dev", name, inside=[])
            self._ip("link", "set", name, "up", inside=[])
            self._ip("addr", "add", f"{self.there}/30", "dev", "far")
            self._ip("link", "set", "lo", "up")
            self.mend()
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            raise PermissionError("networks of their own are not permitted here") from error

    def cut(self):
        """Take the link down: nothing passes, and nobody is told."""
        self._ip("link", "set", "far", "down")

    def mend(self):
        """Put the link up."""
        self._ip("link", "set", "far", "up")

    def close(self):
        """Take it all away."""
        self._holder.kill()
        self._holder.wait()

    def _ip(self, *command, inside=None):
        before = self.inside if inside is None else inside
        subprocess.run([*before, "ip", *command], check=True, capture_output=True)


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
    host : str
        Where the scheduler listens.
    """

    def __init__(self, folder, real=False, seconds=0.0, host="127.0.0.1", **environment):
        self.folder, self.host, self.port = folder, host, free_port()
        self.address = f"tcp://{host}:{self.port}"
        self.preload = [] if real else ["--preload", str(TESTS / "standin_worker.py")]
        self.environment = {**os.environ, **QUIET, "STANDIN_SECONDS": str(seconds), **environment}
        self.scheduler, self.workers = None, {}
        self.log = open(folder / "dask.log", "ab")  # noqa: SIM115 - closed by stop

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()

    def start_scheduler(self):
        """Start the scheduler, or start it again where it was."""
        self.scheduler = self._start("scheduler", "--host", self.host, "--port", str(self.port), "--no-dashboard")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                socket.create_connection((self.host, self.port), 1).close()
                return self
            except OSError:
                time.sleep(0.05)
        raise TimeoutError("no scheduler")

    def start_worker(self, name, environment=None, before=(), python=sys.executable, host=None):
        """Start a worker; `before` is put before its command, such as what gives it a file system of its own."""
        options = ["--name", name, "--nthreads", "1", "--no-dashboard", "--no-nanny", "--death-timeout", "20"]
        options += ["--local-directory", str(self.folder), "--host", host or self.host]
        self.workers[name] = self._start(
            "worker", self.address, *options, *self.preload, environment=environment, before=before, python=python
        )
        return self

    def wait_for_workers(self, count):
        """Wait until so many have joined."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=60)
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
