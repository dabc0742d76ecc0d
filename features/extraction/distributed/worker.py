"""Functions that run on a worker of a cluster: the fitness check, and computing one part on the shared file system."""

from __future__ import annotations

import hashlib
import os
import platform
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...engines.registry import Engine, describe_engine, is_installed, missing_engine
from ...errors import CachedFeaturesError, StoreError, called
from ...images.contents import Content
from ...runtime.keras_runtime import limit_threads
from ...runtime.progress import Progress
from ...runtime.versions import differences, installed_versions
from ...store.parts import Key, write_part
from ...store.provenance import FeatureSpec, Provenance
from ..forward import compute
from ..preparation import first_batch
from ..recompute import rebuild_engine
from ..request import ExtractRequest

Work = list[tuple[Content, list[int]]]

_lock = threading.Lock()  # one part at a time per process, however many threads Dask gives it
_engine: tuple[tuple[FeatureSpec, int], Engine] | None = None  # the last engine created, with its key


@dataclass(frozen=True)
class Job:
    """Data shared by all parts of one pass; it is sent with each task.

    Attributes
    ----------
    run : str
        Name of a file in `folder` that exists as long as the client's run is the latest.
    folder : Path
        Folder of the parts, on a file system that client and workers share.
    provenance : Provenance
        Of the store; it has everything an engine needs.
    options : ExtractRequest
    versions : dict of str to str
        The client's; see `installed_versions`.
    """

    run: str
    folder: Path
    provenance: Provenance
    options: ExtractRequest
    versions: dict[str, str]


@dataclass(frozen=True)
class Done:
    """A part that was written."""

    part: str
    worker: str
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A part that was not written, and why; an `unfit` worker gets no more parts."""

    worker: str
    why: str
    unfit: bool = False


@dataclass(frozen=True)
class Looked:
    """The result of a worker's check; `why` is the reason why it is unfit, empty if it is fit."""

    why: str = ""
    device: str = ""
    images: str = ""
    features: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


def look(job: Job, contents: list[Content]) -> Looked:
    """Load the engine and compute the first images, which are those of the client's first batch."""
    why = _unfit(job)
    if why:
        return Looked(why)
    try:
        batch = first_batch(contents, job.options)
        with _lock:
            first = first_features(_load(job), batch)
        return Looked("", _device(job), digest_batch(batch), first)
    except (CachedFeaturesError, OSError) as error:
        return Looked(str(error))


def first_features(engine: Engine, batch: np.ndarray) -> np.ndarray:
    """Return an engine's features of the first image of a batch, those of all layers in one vector."""
    return np.concatenate([each[0].ravel() for each in engine.run(batch).values()]).astype(np.float32)


def digest_batch(batch: np.ndarray) -> str:
    """Return the SHA-256 of a batch's pixels."""
    return hashlib.sha256(batch.tobytes()).hexdigest()


def compute_part(job: Job, work: Work) -> Done | Failed:
    """Compute some contents and write them atomically as one part."""
    start, worker = time.perf_counter(), _address()
    why = _unfit(job)
    if why:
        return Failed(worker, why, unfit=True)
    options = replace(job.options, workers=_threads(), max_skipped=1.0)  # the client limits the total of skipped files
    try:
        with _lock:
            sink = _OnePart(job)
            compute(work, len(work), _load(job), sink, options, Progress(0, "images"), limits=None)
        return Done(sink.part.name, worker, time.perf_counter() - start)
    except (CachedFeaturesError, OSError) as error:
        return Failed(worker, str(error))


class _OnePart:
    """The sink of a pass on a worker: writes one part, unless the client's run is over."""

    def __init__(self, job: Job):
        self._job, self.part, self.skipped = job, Path(), dict[bytes, str]()

    def append(self, features: dict[str, np.ndarray], keys: list[Key], skipped: list[tuple[bytes, str]]) -> None:
        if not (self._job.folder / self._job.run).exists():
            raise StoreError("the run that this part belongs to is over. Nothing needs to be done.")
        self.part = write_part(self._job.folder, self._job.provenance, features, keys, skipped)


def _unfit(job: Job) -> str:
    """Return why this worker is unfit for a job; empty if it is fit."""
    differs = differences(job.versions, installed_versions())
    if differs:
        return f"it has {differs}. Install the client's versions there and start it again."
    if not (job.folder / job.run).exists():
        return f"it does not see {job.folder / job.run}. Put {called('out')} on a file system that client and workers share."
    name = job.provenance.spec.engine.name
    if not is_installed(name):
        return str(missing_engine(name))
    return ""


def _load(job: Job) -> Engine:
    """Return the job's engine, which is created once per process."""
    global _engine
    spec = job.provenance.spec
    key = spec, job.provenance.batch_size
    if _engine is None or _engine[0] != key:
        if _engine is None:
            limit_threads(_threads())
        found = describe_engine(spec.engine.name)
        if found != spec.engine:
            raise StoreError(
                f"its engine is {found}; the client's is {spec.engine}. Run client and workers on the same kind of machine."
            )
        _engine = key, rebuild_engine(job.provenance)
    return _engine[1]


def _device(job: Job) -> str:
    """Return the GPU of this worker, which no other worker may share; empty if the engine runs on the CPU."""
    if job.provenance.spec.engine.device.kind != "gpu":
        return ""
    return f"GPU {os.environ.get('CUDA_VISIBLE_DEVICES', 'any')} of {platform.node()}"


def _address() -> str:
    from distributed import get_worker

    return str(get_worker().address)


def _threads() -> int:
    """Return how many threads Dask gives this worker."""
    from distributed import get_worker

    return int(get_worker().state.nthreads)
