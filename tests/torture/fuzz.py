"""Damage real files in thousands of ways and read them: ``python tests/torture/fuzz.py --times 2000 --readers 'store; index'``.

Each reader runs in a process of its own, which may take 1 GB beyond what it has when it starts, and 60 s per file. Mutations are our
own and not those of a fuzzer led by coverage, such as Atheris: that follows Python alone, while what crashes is native code of HDF5
and image libraries, and seeds can be kept and repeated here.
"""

import argparse
import contextlib
import json
import logging
import math
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzzed_readers import READERS  # noqa: E402
from fuzzing import BAD, GOOD  # noqa: E402

MEMORY, SECONDS = 1 << 30, 60


def work(name, folder):
    """Answer the outcome of each seed on standard input; what libraries print goes to standard error."""
    from fuzzing import Trial

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3", ORT_DISABLE_TELEMETRY="1")
    warnings.simplefilter("ignore")
    logging.disable()
    trial = Trial(name, Path(folder))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        what = trial.damage(int(line))
        try:
            outcome, said = trial.read()
        except BaseException as error:  # such as SystemExit
            outcome, said = "traceback", "".join(traceback.format_exception_only(error))
        print(json.dumps([outcome, what, said[:400]]), file=answers, flush=True)


class Worker:
    """A process that reads; see `work`."""

    def __init__(self, name, folder, log):
        command = [sys.executable, __file__, "--work", name, str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
        )
        ready = self._process.stdout.readline()
        if ready != "ready\n":
            sys.exit(f"{name} does not read its own files: {ready}; see {log.name}")

    def ask(self, seed):
        """Return the outcome of a seed."""
        self._process.stdin.write(f"{seed}\n")
        ready, _, _ = select.select([self._process.stdout], [], [], SECONDS)
        line = self._process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        return "crash" if ready else "hang", "", f"status {self.end()}"

    def end(self):
        """End the process, which does so by itself at the end of its input; return its exit status."""
        try:
            self._process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        return self._process.returncode


def fuzz(name, seeds, place, seconds):
    """Return how often each outcome was seen, and print what is bad; after a crash or a hang, a new process goes on.

    Ctrl-C ends the reader at hand, not the others.
    """
    outcomes, worker, end = Counter(), None, time.monotonic() + seconds
    # Suppressed, so that the table has what was seen until then.
    with open(place / "log.txt", "a") as log, contextlib.suppress(KeyboardInterrupt):
        for seed in seeds:
            if time.monotonic() > end:
                break
            if worker is None:
                worker = Worker(name, place / f"from-{seed}", log)
            outcome, what, said = worker.ask(seed)
            outcomes[outcome] += 1
            if outcome in BAD:
                print(f"{name} {seed}: {outcome} by {what}: {said}", file=sys.stderr, flush=True)
            if outcome in ("crash", "hang"):
                worker.end()
                worker = None
    if worker is not None:
        worker.end()
    return outcomes


def main():
    """Fuzz the readers and print a table; exit with 1 if anything was bad."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=2000, help="mutations per reader")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--seconds", type=float, default=math.inf, help="at most, per reader")
    parser.add_argument("--readers", default="", help=f"of these, separated by semicolons: {'; '.join(READERS)}")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*options.work)
        return
    chosen = [name.strip() for name in options.readers.split(";") if name.strip()] or list(READERS)
    total = Counter()
    print(f"| reader | {' | '.join((*GOOD, *BAD))} | s |", flush=True)
    print("|---|" + "---|" * (len(GOOD) + len(BAD) + 1))
    for name in chosen:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as place:
            seeds = range(options.first, options.first + options.times)
            found = fuzz(name, seeds, Path(place), options.seconds)
        counts = " | ".join(str(found[each]) for each in (*GOOD, *BAD))
        print(f"| {name} | {counts} | {time.monotonic() - start:.0f} |", flush=True)
        total += found
    sys.exit(any(total[each] for each in BAD))


if __name__ == "__main__":
    main()
