"""A pass on many machines: the parts of a store as tasks of a Dask cluster, committed by the client.

Tasks contain file names and return part names; images and features stay on the shared file system. A part is written
atomically under a name that is a hash of its contents, so computing it twice costs only time.
"""

from __future__ import annotations

import contextlib
import math
import queue
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...engines.registry import Engine
from ...errors import ClusterError, counted
from ...images.contents import Content
from ...runtime.dask_cluster import GO_ON, addresses, cluster_lost, open_client, patience, scheduler_there, settle_unfit
from ...runtime.keras_runtime import count_gpus
from ...runtime.log import log
from ...runtime.progress import Progress
from ...runtime.versions import installed_versions
from ...store.parts import Parts
from ..forward import allowed_skips, rows_per_part, too_many_skipped
from ..request import ExtractRequest
from .compatibility import Fitness, absolute
from .spot_check import SpotCheck
from .worker import Done, Failed, Job, Work, compute_part

_ATTEMPTS = 3  # per part; also the failures after which a worker gets no more parts
_AHEAD = 2  # parts per worker, including the one being computed


@dataclass
class Task:
    """A part to be computed by a worker."""

    number: int
    work: Work
    attempts: int = 0
    avoid: set[str] = field(default_factory=set)  # workers that failed at it
    only: list[str] = field(default_factory=list)  # workers that may compute it
    moved: bool = False  # taken back because none of those workers is left
    future: Any = None

    @property
    def rows(self) -> int:
        """Number of rows: images, each view counted."""
        return sum(len(views) for _, views in self.work)


def cut(todo: Work, row_bytes: int, options: ExtractRequest) -> list[Work]:
    """Divide the work into parts of whole batches, in order; the division depends only on the arguments.

    Parameters
    ----------
    todo : list of (Content, list of int)
        See `find_work`.
    row_bytes : int
        Bytes of the features of one row.
    options : ExtractRequest
    """
    step = rows_per_part(row_bytes, options) // options.views
    return [todo[first : first + step] for first in range(0, len(todo), step)]


@contextmanager
def pass_on_cluster(
    parts: Parts, engine: Engine, batch: np.ndarray, contents: Sequence[Content], options: ExtractRequest
) -> Iterator[Callable[[list[Work], int], None]]:
    """Find workers fit for a pass, and yield ``run(works, total)``, which computes and adopts all parts.

    Parameters
    ----------
    parts : Parts
        The caller holds the writer lock.
    engine : Engine
        The client's, which computes an image of the first batch and a row of each part, too.
    batch : ndarray of shape (batch_size, image_size, image_size, 3), uint8
        The client's first batch, which workers must decode to the same pixels.
    contents : sequence of Content
        The images of the batch.
    options : ExtractRequest

    Raises
    ------
    ClusterError
        If there is no cluster, or a worker's versions, files or devices differ from the client's; the message names it.
    """
    folder = parts.folder.absolute()
    gpus = count_gpus() if parts.provenance.spec.engine.device.kind == "gpu" else 0
    with open_client(str(options.cluster), gpus, options.skip_unfit) as (client, unfit), scheduler_there(client):
        job = Job(f"run-{secrets.token_hex(8)}", folder, parts.provenance, options, installed_versions())
        (folder / job.run).touch()
        try:
            fitness = Fitness(client, job, engine, batch, contents, unfit)
            settle_unfit(fitness.check(), len(fitness.fit), options.skip_unfit)
            apart = f"features of the first image are at most {fitness.apart:.1e} from the client's (relative)"
            log.info(f"workers  {len(fitness.fit)} are fit; {apart}")
            check = SpotCheck(engine, parts.provenance, options.image_spec)
            yield lambda works, total: Run(client, job, parts, total, fitness, check).finish(works)
        finally:
            (folder / job.run).unlink(missing_ok=True)


class Run:
    """One client's run of a pass: submits parts, adopts finished ones, and moves failed ones to other workers.

    Parameters
    ----------
    client : distributed.Client
    job : Job
    parts : Parts
    total : int
        Contents of the plan, to which the limit on skipped files refers.
    fitness : Fitness
        Only fit workers get parts; workers that join are checked first.
    check : SpotCheck
        Each part is checked before it is adopted.
    """

    def __init__(self, client: Any, job: Job, parts: Parts, total: int, fitness: Fitness, check: SpotCheck):
        self.client, self.job, self.parts, self.total = client, job, parts, total
        self.fitness, self.check = fitness, check
        self.failures: Counter[str] = Counter()  # by worker
        self.seconds = 0.0  # of all workers
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._running: dict[str, Task] = {}
        self._looking: dict[str, tuple[str, Any]] = {}  # workers that joined, by the key of their check
        self._there: list[str] = []
        self._seen: list[str] = []  # the last workers seen
        self._last_failure = ""
        self._tick, self._patience = patience("look"), patience("no-worker")
        self._last_looked = self._last_seen = -math.inf

    def finish(self, works: Iterable[Work]) -> None:
        """Have all parts computed, and adopt each of them."""
        tasks = [
            Task(number, [(absolute(content), views) for content, views in work]) for number, work in enumerate(works)
        ]
        waiting, self._count = iter(tasks), len(tasks)
        before, allowed = set(self.parts.skipped), allowed_skips(self.total, self.job.options)
        with Progress(sum(task.rows for task in tasks), "images") as progress, contextlib.ExitStack() as stack:
            stack.callback(self._cancel)
            self._fill(waiting)
            while self._running:
                task = self._next()
                if task is None:
                    continue
                progress.update(task.rows)
                reasons = [reason for key, reason in self.parts.skipped.items() if key not in before]
                if len(reasons) > allowed:
                    raise too_many_skipped(reasons, self.total, allowed)
                self._fill(waiting)

    def _fill(self, waiting: Iterator[Task]) -> None:
        """Submit parts until each worker has enough."""
        depth = max(1, _AHEAD * len(self._workers()))
        while len(self._running) < depth and (task := next(waiting, None)):
            self._submit(task)

    def _workers(self) -> list[str]:
        """Return the addresses of workers that may get parts; the list is refreshed periodically."""
        now = time.monotonic()
        if now - self._last_looked > self._tick:
            there, self._last_looked = addresses(self.client), now
            for name, future in self.fitness.ask(there).items():
                self._looking[future.key] = name, future
                future.add_done_callback(self._ended.put)
            self._there = [name for name in there if name in self._fit]
            if self._there:
                self._last_seen, self._seen = now, self._there
        return self._there

    @property
    def _fit(self) -> set[str]:
        """Workers that are fit and have not failed too often, whether or not they are connected."""
        failed = {name for name, count in self.failures.items() if count >= _ATTEMPTS}
        return self.fitness.fit.keys() - failed

    def _joined(self, name: str, future: Any) -> None:
        """Accept or exclude a worker that joined and has been checked."""
        if future.status in ("cancelled", "lost"):
            return
        why = self.fitness.judge(name, future)
        if why:
            log.warning(f"worker {name} is skipped: {why}")
        else:
            log.info(f"workers  {name} joined and is fit")

    def _submit(self, task: Task) -> None:
        there = [name for name in self._workers() if name in self._fit] or list(self._fit)
        if not there:
            raise ClusterError(
                f"no worker is left to compute {self._name(task)}: {len(self.failures)} failed, last {self._last_failure} "
                f"{GO_ON}"
            )
        task.only = [name for name in there if name not in task.avoid] or there
        key = f"part-{task.number}-{self.job.run}-{task.attempts}-{secrets.token_hex(2)}"
        future = self.client.submit(compute_part, self.job, task.work, key=key, pure=False, workers=task.only)
        self._running[key], task.future = task, future
        future.add_done_callback(self._ended.put)

    def _next(self) -> Task | None:
        """Handle the next event; return the task if its part was adopted, else None."""
        try:
            future = self._ended.get(timeout=self._tick)
        except queue.Empty:
            self._look_after_workers()
            return None
        if future.key in self._looking:
            self._joined(*self._looking.pop(future.key))
            return None
        task = self._running.pop(future.key)
        if future.status == "cancelled" and task.moved:
            task.moved = False
            self._submit(task)
            return None
        if future.status == "error":
            raise self._died(task, future)
        try:
            result = future.result()
        except (
            OSError,
            CancelledError,
        ):  # raised by Dask itself; errors on a worker arrive as Failed or as status "error"
            self._lost(task)
            return None
        if isinstance(result, Done):
            part = self.parts.folder / result.part
            fault = self.check.fault(part, task.work)
            if not fault:
                self._adopt(task, result)
                return task
            part.unlink(missing_ok=True)
            result = Failed(result.worker, f"its part is wrong: {fault}.", unfit=True)
        self._failed(task, result)
        return None

    def _adopt(self, task: Task, done: Done) -> None:
        self.parts.adopt(self.parts.folder / done.part)
        log.debug(f"part     {task.number + 1} of {self._count} by {done.worker}, {done.seconds:.1f} s")
        self.seconds += done.seconds

    def _failed(self, task: Task, failed: Failed) -> None:
        """Log the failure and give the part to another worker, unless it has failed too often."""
        self._last_failure = f"worker {failed.worker}: {failed.why}"
        log.warning(f"{self._name(task)} failed on {self._last_failure}")
        if failed.unfit:
            self.fitness.leave_out(failed.worker)
        else:
            self.failures[failed.worker] += 1
            task.attempts += 1
            task.avoid.add(failed.worker)
        if task.attempts >= _ATTEMPTS:
            raise ClusterError(f"{self._name(task)} failed {task.attempts} times, last on {self._last_failure} {GO_ON}")
        self._submit(task)

    def _lost(self, task: Task) -> None:
        """Resubmit a part whose result was lost with its worker, or raise if the scheduler is gone."""
        task.attempts += 1
        if self.client.status != "running" or task.attempts >= _ATTEMPTS:
            raise cluster_lost(self.client)
        self._submit(task)

    def _died(self, task: Task, future: Any) -> ClusterError:
        from distributed.scheduler import KilledWorker

        error = future.exception()
        if isinstance(error, KilledWorker):
            return ClusterError(
                f"{self._name(task)} killed {error.allowed_failures + 1} workers, last {error.last_worker.address}. "
                f"Check that worker's log; it may lack memory. {GO_ON}"
            )
        return ClusterError(f"{self._name(task)} failed: {type(error).__name__}: {error}. {GO_ON}")

    def _name(self, task: Task) -> str:
        return (
            f"part {task.number + 1} of {self._count} ({counted(len(task.work), 'image')} from {task.work[0][0].file})"
        )

    def _look_after_workers(self) -> None:
        """Detect that the scheduler, all workers, or all workers that may compute a part are gone."""
        if self.client.status != "running":
            raise cluster_lost(self.client)
        there = set(self._workers())
        if time.monotonic() - self._last_seen > self._patience:
            raise ClusterError(
                f"the cluster has had no fit workers for {self._patience:.0f} s; the last {'was' if len(self._seen) == 1 else 'were'} "
                f"{', '.join(self._seen[:5])}. Start some: dask worker {self.client.scheduler.address}. {GO_ON}"
            )
        for task in self._running.values():
            if there and not there & set(task.only) and not task.moved:
                task.moved = True
                task.future.cancel()

    def _cancel(self) -> None:
        """Cancel all parts; those being computed finish by themselves."""
        if self._running and self.client.status == "running":
            looks = [future for _, future in self._looking.values()]
            self.client.cancel([task.future for task in self._running.values()] + looks)
