"""Checking that workers are fit for a pass: each loads its engine and computes the first images before it gets a part."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...engines.registry import Engine
from ...errors import option
from ...images.contents import Content
from ...runtime.dask_cluster import addresses, cluster_lost
from ..request import ExtractRequest
from .worker import Job, Looked, digest_batch, first_features, look

AGREE = 1e-3  # largest relative distance between the features of two machines, about the precision of float16
_LOOKS = 4  # images of the client's first batch that a worker decodes and computes


class Fitness:
    """Checks workers against what the client makes of its first images, and records the fit ones.

    Parameters
    ----------
    client : distributed.Client
    job : Job
    engine : Engine
        The client's.
    batch : ndarray of shape (batch_size, image_size, image_size, 3), uint8
        The client's first batch.
    contents : sequence of Content
        The images of the batch.
    unfit : set of str
        Addresses of workers that need no check.

    Attributes
    ----------
    fit : dict of str to Looked
        Address of a fit worker → its result.
    apart : float
        Largest relative distance of a fit worker's features of the first image from the client's.
    """

    def __init__(
        self, client: Any, job: Job, engine: Engine, batch: np.ndarray, contents: Sequence[Content], unfit: set[str]
    ):
        self._client, self._job, self._few = client, job, _few(contents, batch, job.options)
        expected = np.zeros_like(batch)
        expected[: len(self._few)] = batch[: len(self._few)]
        self._images, self._features = digest_batch(expected), first_features(engine, expected)
        self.fit: dict[str, Looked] = {}
        self.apart = 0.0
        self._asked = unfit

    def ask(self, there: Sequence[str]) -> dict[str, Any]:
        """Submit the check to those of the given workers that have not had it; return address → future."""
        new = sorted(set(there) - self._asked)
        self._asked |= set(new)
        call = {"pure": False, "retries": 0}
        return {name: self._client.submit(look, self._job, self._few, workers=[name], **call) for name in new}

    def leave_out(self, name: str) -> None:
        """Treat a worker as unfit from now on."""
        self.fit.pop(name, None)

    def check(self) -> dict[str, str]:
        """Check all workers and return the unfit ones, {address: reason}; a worker that dies during the check is unfit."""
        futures, found = self.ask(addresses(self._client)), dict[str, str]()
        waiting = list(futures)
        while waiting:
            time.sleep(0.2)
            there = addresses(self._client)
            for name in list(waiting):
                future = futures[name]
                if future.status in ("cancelled", "lost"):
                    raise cluster_lost(self._client)
                if future.status in ("finished", "error"):
                    found[name] = self.judge(name, future)
                elif name not in there:
                    found[name] = "it died while loading the base. Check its log; it may lack memory."
                else:
                    continue
                waiting.remove(name)
        return {name: why for name, why in found.items() if why}

    def judge(self, name: str, future: Any) -> str:
        """Return why a checked worker is unfit; if it is fit, record it and return an empty string."""
        if future.status == "error":
            return f"{future.exception()!r}"
        seen = future.result()
        why = seen.why or self._differs(name, seen)
        if not why:
            self.fit[name] = seen
        return why

    def _differs(self, name: str, seen: Looked) -> str:
        """Return how a worker differs from the client, or which fit worker has its device; empty if it is fit."""
        if seen.images != self._images:
            return "it decodes the first images to different pixels. Install the client's build of Pillow there."
        for other, had in self.fit.items():
            if seen.device and seen.device == had.device and other != name:
                return (
                    f"it shares {seen.device} with {other}. Start one worker per GPU: features/README.md, More machines"
                )
        apart = distance(self._features, seen.features)
        if not apart <= AGREE:  # also of nan
            return (
                f"features of the first image must be those that the client computes to {AGREE:.0e} (relative); they are "
                f"{apart:.1e} away. Run client and workers on machines of one kind, or use another engine: "
                f"{option('engine', 'tensorflow')}"
            )
        self.apart = max(self.apart, apart)
        return ""


def _few(contents: Sequence[Content], batch: np.ndarray, options: ExtractRequest) -> list[Content]:
    """Return the contents behind the first images of a batch."""
    few: list[Content] = []
    for content in contents:
        if len(few) == min(_LOOKS, len(batch)):
            break
        if not isinstance(content.image(options.image_spec), str):
            few.append(absolute(content))
    return few


def absolute(content: Content) -> Content:
    """Return a content with an absolute path, since workers have other working directories."""
    return replace(content, file=content.file.absolute())


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the relative distance of features from others."""
    return float(np.linalg.norm(other - one)) / max(float(np.linalg.norm(one)), 1e-12)
