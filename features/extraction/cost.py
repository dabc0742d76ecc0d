"""Cost estimate of a pass: parts, bytes and hours, from a few timed batches, without computing a store."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ..engines.registry import Engine
from ..errors import UnreadableImage, option
from ..images.contents import Content
from ..images.decoding import read_bytes
from ..options import PlanOptions, takes
from ..runtime.log import log
from ..runtime.machine import cores
from ..sources.source import Source
from ..store.parts import held_provenance
from .forward import rows_per_part
from .preparation import prepare
from .request import ExtractRequest, check_options

WORKERS = (1, 8, 64)
_BATCHES = 3  # timed, after a warm-up batch
_SAMPLE = 200  # files whose sizes are sampled


@dataclass(frozen=True)
class Cost:
    """The estimated cost of a pass.

    Attributes
    ----------
    images, rows : int
        Rows are images times views.
    rate : float
        Rows (images, each view counted) per second per worker.
    parts : int
    read_bytes, store_bytes : float
        Bytes of image files, and of features before compression.
    hours : dict of int to float
        Number of workers → hours of the pass, excluding the time to read and hash the source's files before it.
    file_system : dict of int to dict
        Number of workers → load that the shared file system must sustain: ``read`` and ``write``, bytes per second, and
        ``parts`` per second.
    """

    images: int
    rows: int
    rate: float
    parts: int
    read_bytes: float
    store_bytes: float
    hours: dict[int, float]
    file_system: dict[int, dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return asdict(self)

    def describe(self, layout: str) -> list[str]:
        """Return the estimate as lines of text for a store of this layout."""
        lines = [
            f"images   {self.images:,}; {self.rows:,} rows of features in {self.parts:,} parts",
            f"bytes    {_bytes(self.read_bytes)} of image files, read twice: to hash them and to compute; "
            f"{_bytes(self.store_bytes)} of features before compression"
            + ("" if layout == "parts" else ", and as much again while they become one file"),
            f"rate     {self.rate:.4g} images/s per worker",
        ]
        for workers, hours in self.hours.items():
            needs = self.file_system[workers]
            lines.append(
                f"workers  {workers}: {hours:,.3g} h; the file system must sustain {_bytes(needs['read'])}/s read, "
                f"{_bytes(needs['write'])}/s written, {needs['parts']:.3g} parts/s"
            )
        return lines


def time_engine(engine: Engine, batch: np.ndarray) -> float:
    """Return an engine's rate in images per second, from the fastest of a few batches after a warm-up."""
    engine.run(batch)
    seconds = []
    for _ in range(_BATCHES):
        start = time.perf_counter()
        engine.run(batch)
        seconds.append(time.perf_counter() - start)
    return len(batch) / min(seconds)


def estimate(source: Source, row_bytes: int, rate: float, options: ExtractRequest) -> Cost:
    """Return the cost of a pass over the source, or over `options.images` images like those of the source.

    Parameters
    ----------
    source : Source
    row_bytes : int
        Bytes of the features of one row.
    rate : float
        Images per second per worker.
    options : ExtractRequest
    """
    images = options.images or len(source)
    sample = [source.file(int(row)) for row in np.linspace(0, len(source) - 1, min(_SAMPLE, len(source)))]
    file_bytes = float(np.mean([file.stat().st_size for file in sample if file.exists()] or [0]))
    rows, part_rows = images * options.views, rows_per_part(row_bytes, options)
    per_second = {"read": rate / options.views * file_bytes, "write": rate * row_bytes, "parts": rate / part_rows}
    return Cost(
        images=images,
        rows=rows,
        rate=rate,
        parts=math.ceil(rows / part_rows),
        read_bytes=images * file_bytes,
        store_bytes=float(rows * row_bytes),
        hours={workers: rows / rate / workers / 3600 for workers in WORKERS},
        file_system={workers: {name: workers * value for name, value in per_second.items()} for workers in WORKERS},
    )


def log_cost(cost: Cost, options: ExtractRequest, measured: bool) -> None:
    """Log the cost of a pass, and the origin of the rate."""
    for line in cost.describe(options.layout):
        log.info(line)
    if measured:
        log.info(
            f"         measured on this machine, {cores()} cores, without decoding. For another machine: {option('rate')}"
        )


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    return ""


def _contents(source: Source) -> Iterator[Content]:
    """Yield the contents of a source, one file after the other; those that cannot be read are left out, as a pass does."""
    for file in map(source.file, range(len(source))):
        with contextlib.suppress(UnreadableImage):
            yield Content(hashlib.sha256(read_bytes(file)).digest(), file)


@takes(PlanOptions)
def plan_cost(data: str | Path, **options: Unpack[PlanOptions]) -> Cost:
    """Estimate the cost of `extract` on 1, 8 and 64 workers from a few timed batches, without creating a store.

    Parameters
    ----------
    data : str
        See `extract`.
    **options
        See `extract`. Further options: `images`, to estimate for that many images like those of the source, and `rate`,
        images per second per worker, to skip timing.

    Returns
    -------
    Cost

    Raises
    ------
    RequestError, SourceError, WeightsError, EngineError, StoreError
        See `extract`.
    """
    asked = ExtractRequest.of(data, options)
    check_options(asked)
    source = asked.source()
    held, images = held_provenance(asked.path), len(source)
    prepared, rate = prepare(asked, _contents(source), held, images=images, folder=asked.path.parent), asked.rate
    if rate is None:
        batch = prepared.batch
        log.info(f"engine   {prepared.engine}, batches of {len(batch)}")
        rate = time_engine(prepared.checked.engine, batch)
    cost = estimate(source, prepared.row_bytes, rate, prepared.options)
    log_cost(cost, asked, asked.rate is None)
    return cost
