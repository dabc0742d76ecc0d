"""Which workers are fit for a pass: each loads its engine and looks at the first images before it gets a part."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .connection import cluster_lost, raise_unfit
from .errors import ClusterError
from .options import ExtractOptions
from .plan import Content
from .worker import Job, Looked, digest_batch, look

_AGREE = 1e-3  # relative; how far features of two workers may be apart, which is what float16 keeps
_LOOKS = 4  # images of the client's first batch that a worker decodes and computes


def check_workers(
    client: Any, job: Job, batch: np.ndarray, contents: Sequence[Content], say: Callable[[str], None]
) -> None:
    """Let each worker load its engine and look at the first images; raise if one is unfit."""
    few = _few(contents, batch, job.options)
    found = _looks(client, job, few)
    bad = {name: seen.why for name, seen in found.items() if seen.why}
    fit = {name: seen for name, seen in found.items() if name not in bad}
    expected = np.zeros_like(batch)
    expected[: len(few)] = batch[: len(few)]
    for name, seen in fit.items():
        if seen.images != digest_batch(expected):
            bad[name] = "it decodes the first images to other pixels. Install the client's build of Pillow there."
    holders = {seen.device: name for name, seen in fit.items()}
    for name, seen in fit.items():
        if seen.device and holders[seen.device] != name:
            bad[name] = (
                f"it shares {seen.device} with {holders[seen.device]}. Start one worker a GPU: README, More machines"
            )
    apart = _spread(fit)
    if apart > _AGREE:
        raise ClusterError(
            f"features of the first image must agree between workers to {_AGREE:.0e} (relative); they are {apart:.1e} "
            f"apart. Use machines of one kind, or another engine: --engine tensorflow"
        )
    raise_unfit(bad)
    say(f"workers  {len(fit)} are fit; features of the first image are at most {apart:.1e} apart (relative)")


def _looks(client: Any, job: Job, few: list[Content]) -> dict[str, Looked]:
    """Return what each worker sees, {address: Looked}; one that dies over it is unfit."""
    names = addresses(client)
    futures = {name: client.submit(look, job, few, workers=[name], pure=False, retries=0) for name in names}
    found: dict[str, Looked] = {}
    while len(found) < len(names):
        time.sleep(0.2)
        there = addresses(client)
        for name, future in futures.items():
            if future.status == "finished":
                found[name] = future.result()
            elif future.status in ("cancelled", "lost"):
                raise cluster_lost(client)
            elif future.status == "error":
                found[name] = Looked(f"{future.exception()!r}")
            elif name not in there:
                found[name] = Looked("it died while it loaded the base. See what it wrote; it may lack memory.")
    return found


def addresses(client: Any) -> list[str]:
    """Return the addresses of all workers that are there now."""
    return list(client.scheduler_info(n_workers=-1)["workers"])


def _few(contents: Sequence[Content], batch: np.ndarray, options: ExtractOptions) -> list[Content]:
    """Return the contents behind the first images of a batch."""
    few: list[Content] = []
    for content in contents:
        if len(few) == min(_LOOKS, len(batch)):
            break
        if not isinstance(content.image(options.side, options.resize), str):
            few.append(absolute(content))
    return few


def absolute(content: Content) -> Content:
    """Return a content whose file is found from anywhere: workers have folders of their own."""
    return replace(content, file=content.file.absolute())


def _spread(fit: dict[str, Looked]) -> float:
    """Return how far the features of workers are from those of the first one: relative, the largest."""
    features = [seen.features for seen in fit.values() if seen.features is not None]
    norm = max(float(np.linalg.norm(features[0])), 1e-12) if features else 1.0
    return max((float(np.linalg.norm(each - features[0])) / norm for each in features), default=0.0)
