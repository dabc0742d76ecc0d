"""Checking that workers are fit for a pass: each loads its engine and computes the first images before it gets a part."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import option
from ...images.contents import Content
from ...runtime.dask_cluster import addresses, cluster_lost
from ..request import ExtractRequest
from .worker import Job, Looked, digest_batch, look

AGREE = 1e-3  # largest relative distance between the features of two machines, about the precision of float16
_LOOKS = 4  # images of the client's first batch that a worker decodes and computes


class Fitness:
    """Checks workers against the client's first batch, and records the fit ones.

    Parameters
    ----------
    client : distributed.Client
    job : Job
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
        Largest relative distance of a worker's features of the first image from those of the first worker.
    """

    def __init__(self, client: Any, job: Job, batch: np.ndarray, contents: Sequence[Content], unfit: set[str]):
        self._client, self._job, self._few = client, job, _few(contents, batch, job.options)
        expected = np.zeros_like(batch)
        expected[: len(self._few)] = batch[: len(self._few)]
        self._images = digest_batch(expected)
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
        """Return how a worker differs from the client or from the fit workers; empty if it does not."""
        if seen.images != self._images:
            return "it decodes the first images to different pixels. Install the client's build of Pillow there."
        for other, had in self.fit.items():
            if seen.device and seen.device == had.device and other != name:
                return (
                    f"it shares {seen.device} with {other}. Start one worker per GPU: features/README.md, More machines"
                )
        first = next(iter(self.fit.items()), None)
        if first is None:
            return ""
        apart = distance(first[1].features, seen.features)
        if apart > AGREE:
            return (
                f"features of the first image must agree between workers to {AGREE:.0e} (relative); those of {first[0]} are "
                f"{apart:.1e} away. Use machines of one kind, or another engine: {option('engine', 'tensorflow')}"
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


def distance(one: np.ndarray | None, other: np.ndarray | None) -> float:
    """Return the relative distance between two arrays of features; 0 if one of them is not there."""
    if one is None or other is None:
        return 0.0
    return float(np.linalg.norm(other - one)) / max(float(np.linalg.norm(one)), 1e-12)
