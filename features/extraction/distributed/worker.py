"""What runs on a worker of a cluster: a look at itself, and contents → one part on the shared file system."""

from __future__ import annotations

import hashlib
import os
import platform
import threading
import time
from dataclasses import dataclass, replace
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

_lock = threading.Lock()  # one part at a time in a process, however many threads Dask gives it
_engine: tuple[tuple[FeatureSpec, int], Engine] | None = None  # the one that was made last, and for what


@dataclass(frozen=True)
class Job:
    """What all parts of one pass have in common; it goes along with each of them.

    Attributes
    ----------
    run : str
        Name of a file among the parts that is there while the client's run is the latest.
    folder : Path
        Where parts lie, on a file system that client and workers share.
    provenance : Provenance
        Of the store; it says all that an engine needs.
    options : ExtractRequest
    versions : dict of str to str
        The client's; see `features.runtime.versions.versions`.
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
    """A part that was not written, and why; of a worker that is unfit no other will be."""

    worker: str
    why: str
    unfit: bool = False


@dataclass(frozen=True)
class Looked:
    """What a worker found before any work; `why` it is unfit is empty where it is fit."""

    why: str = ""
    device: str = ""
    images: str = ""
    features: np.ndarray | None = None


def look(job: Job, contents: list[Content]) -> Looked:
    """Load the engine, and tell how this worker sees the first images, which are the client's first batch."""
    why = _unfit(job)
    if why:
        return Looked(why)
    try:
        batch = first_batch(contents, job.options)
        with _lock:
            values = _load(job).run(batch)
        first = np.concatenate([each[0].ravel() for each in values.values()])
        return Looked("", _device(job), digest_batch(batch), first.astype(np.float32))
    except (CachedFeaturesError, OSError) as error:
        return Looked(str(error))


def digest_batch(batch: np.ndarray) -> str:
    """Return the SHA-256 of a batch's pixels."""
    return hashlib.sha256(batch.tobytes()).hexdigest()


def compute_part(job: Job, work: Work) -> Done | Failed:
    """Compute some contents and write them as one part, which then is there whole or not at all."""
    start, worker = time.perf_counter(), _address()
    why = _unfit(job)
    if why:
        return Failed(worker, why, unfit=True)
    options = replace(job.options, workers=_threads(), max_skipped=1.0)  # the client counts what is skipped in all
    try:
        with _lock:
            sink = _OnePart(job)
            compute(work, len(work), _load(job), sink, options, Progress(0, "images"), limits=None)
        return Done(sink.part.name, worker, time.perf_counter() - start)
    except (CachedFeaturesError, OSError) as error:
        return Failed(worker, str(error))


class _OnePart:
    """What a pass on a worker appends to: one part, unless the client's run is over."""

    def __init__(self, job: Job):
        self._job, self.part, self.skipped = job, Path(), dict[bytes, str]()

    def append(self, features: dict[str, np.ndarray], keys: list[Key], skipped: list[tuple[bytes, str]]) -> None:
        if not (self._job.folder / self._job.run).exists():
            raise StoreError("the run that this part was for is over. Nothing is to be done.")
        self.part = write_part(self._job.folder, self._job.provenance, features, keys, skipped)


def _unfit(job: Job) -> str:
    """Return why this worker may not work for a job, nothing if it may."""
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
    """Return the job's engine, which is made once per process."""
    global _engine
    spec = job.provenance.spec
    key = spec, job.provenance.batch_size
    if _engine is None or _engine[0] != key:
        if _engine is None:
            limit_threads(_threads())
        found = describe_engine(spec.engine.name)
        if found != spec.engine:
            raise StoreError(
                f"its engine is {found}; the client's is {spec.engine}. Run client and workers on machines of one kind."
            )
        _engine = key, rebuild_engine(job.provenance)
    return _engine[1]


def _device(job: Job) -> str:
    """Return what no two workers may share: a GPU of a machine; empty where the engine runs on the CPU."""
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
