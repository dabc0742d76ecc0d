"""Preparation of a pass: base, graph, engine and provenance from the request and the first images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, Protocol

import numpy as np

from ..backbones.base import Base
from ..backbones.keras_base import find_base
from ..backbones.registry import find_backbone
from ..engines.batch_size import pick_batch_size
from ..engines.frozen_graph import Frozen
from ..engines.registry import ENGINES, Engine, check_engine, describe_engine, is_installed, missing_engine
from ..engines.selection import Checked, begin_engine, make_checked, pick_engine
from ..errors import option
from ..images.image_spec import ImageSpec
from ..pooling import check_pool, pools_of
from ..runtime.log import log
from ..runtime.machine import memory_limit
from ..store.atomic_file import free_space
from ..store.provenance import EngineSpec, FeatureSpec, Provenance
from .request import ExtractRequest, FeatureOptions, Options, asked_settings


class Decodable(Protocol):
    """An image that can be decoded, such as a `Content` or `Pixels`."""

    @property
    def sha256(self) -> bytes:
        """Key of its content."""
        ...

    def image(self, spec: ImageSpec) -> np.ndarray | str:
        """See `Content.image`."""
        ...


@dataclass(frozen=True)
class Prepared(Generic[Options]):
    """Everything a pass needs. Expensive parts are created on first use and kept.

    Attributes
    ----------
    options : FeatureOptions
        The request, with pooling and batch size filled in.
    base : Base
    graph : Frozen
        The base for batches of this size.
    contents : iterable of Content
        The images of the first batch.
    images : int, optional
        How many images there are; None if unknown.
    held : EngineSpec, optional
        The engine that computed the features that already exist.
    told : dict
        Fields of `Provenance` that follow neither from the options nor from the base.
    made : dict
        The last engine that was created, by name: one at a time, since an engine takes much memory.
    """

    options: Options
    base: Base
    graph: Frozen
    contents: Iterable[Decodable]
    images: int | None = None
    held: EngineSpec | None = None
    told: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Checked] = field(default_factory=dict, repr=False)

    @cached_property
    def batch(self) -> np.ndarray:
        """The first images, (batch_size, image_size, image_size, 3), uint8."""
        return first_batch(self.contents, self.options)

    @cached_property
    def engine(self) -> EngineSpec:
        """The engine to use; see `pick_engine` on ``auto``.

        Raises
        ------
        RequestError
            If the engine of existing features is not installed.
        """
        held = None if self.held is None else self.held.name
        asked = self.options.engine
        if asked != "auto":
            return describe_engine(asked)
        images = None if self.images is None else self.images * self.options.views
        return describe_engine(pick_engine(held, self.graph, _key(self.options, self.base), self._make, images))

    @property
    def checked(self) -> Checked:
        """The engine, created and compared with the reference."""
        return self._make(self.engine.name)

    def _make(self, name: str) -> Checked:
        if name not in self.made:
            self.made.clear()
            self.made[name] = make_checked(name, self.graph, lambda: self.batch)
        return self.made[name]

    def make_engine(self) -> Engine:
        """Return the requested engine, compared with the reference where that takes no second engine."""
        name = self.options.engine
        if not is_installed(name):
            raise missing_engine(name)
        return ENGINES[name].make(self.graph) if ENGINES[name].convert is None else self._make(name).engine

    @cached_property
    def provenance(self) -> Provenance:
        """The provenance of the features to be computed."""
        asked, base = self.options, self.base
        own = find_backbone(asked.backbone).own
        return Provenance(
            spec=FeatureSpec(
                **asked_settings(asked),
                layers=tuple(base.layers),
                weights_sha256=base.weights.sha256,
                pool=asked.pool or "none",
                engine=self.engine,
            ),
            views=asked.views,
            seed=asked.seed,
            batch_size=asked.full_batch,
            weights=asked.weights if asked.weights == "imagenet" else str(Path(asked.weights).resolve()),
            weights_origin=base.weights.origin,
            layers_asked=asked.asked_layers,
            backbone_file=str(Path(asked.backbone).resolve()) if own else None,
            kinds=self.graph.kinds,
            versions={name: version(name) for name in ("numpy", "h5py", "pillow", "keras", "tensorflow")},
            **self.told,
        )

    @property
    def row_bytes(self) -> int:
        """Bytes of the features of one row, before compression."""
        values = sum(math.prod(shape) for shape in self.graph.layers.values())
        return values * np.dtype(self.options.dtype).itemsize


def prepare(
    options: Options,
    contents: Iterable[Decodable],
    held: Provenance | None = None,
    *,
    images: int | None = None,
    folder: Path | None = None,
    memory: float | None = None,
    disk: float | None = None,
    pick_batch: Callable[[str, Frozen, Any], int] = pick_batch_size,
    **told: Any,
) -> Prepared[Options]:
    """Build the requested base, and decide what the request leaves open.

    Parameters
    ----------
    options : FeatureOptions
    contents : iterable of Content
        The first images, or all of them.
    held : Provenance, optional
        Provenance of existing features that will be extended; it fills in what the request leaves out.
    images : int, optional
        How many images there are; if left out, as many as `contents` has, if these have a length.
    folder : Path, optional
        Folder for the features. Maps that would not fit there or in memory are pooled; None keeps whole maps.
    memory, disk : float, optional
        Bytes of memory, and free bytes for the features; by default, those of this machine.
    pick_batch : callable
        See `pick_batch_size`.
    **told
        Fields of `Provenance`: ``origin``, ``compression``, ``parity``.

    Raises
    ------
    RequestError
        If the base has no such layer, or an option is not allowed for it.
    WeightsError
        If the weights cannot be found or have another SHA-256.
    """
    if images is None and isinstance(contents, Sized):
        images = len(contents)
    begin_engine(options.engine, find_backbone(options.backbone).library)
    base = find_base(
        options.backbone,
        options.asked_layers,
        options.side,
        options.preparation,
        options.weights,
        options.weights_sha256,
    )
    check_engine(options.engine, base.library, f"the layers {', '.join(base.layers)} of {options.backbone}")
    if options.pool is not None and "cls" in pools_of(options.pool):
        for layer, kind in base.kinds.items():
            check_pool(options.pool, kind, base.layers[layer], layer)
    if options.pool is None:
        pool = held.spec.pool if held else _pick_pool(options, base, images, folder, memory, disk)
        options = replace(options, pool=pool)
    graph = Frozen(base, options.side, options.full_batch, options.pool or "none")
    if options.batch_size is None:
        size = held.batch_size if held else pick_batch(options.engine, graph, _key(options, base))
        graph = graph if size == options.full_batch else graph.of_batch(size)
        options = replace(options, batch_size=size)
    return Prepared(options, base, graph, contents, images, held.spec.engine if held else None, told)


def first_batch(contents: Iterable[Decodable], options: FeatureOptions) -> np.ndarray:
    """Return the first batch of readable images, padded with zeros, (batch_size, image_size, image_size, 3), uint8."""
    batch = np.zeros((options.full_batch, options.side, options.side, 3), np.uint8)
    decoded = (content.image(options.image_spec) for content in contents)
    readable = (image for image in decoded if not isinstance(image, str))
    for place, image in zip(batch, readable, strict=False):
        place[:] = image
    return batch


def _key(options: FeatureOptions, base: Base) -> dict[str, Any]:
    """Return the JSON-serialisable settings that determine how fast each engine runs a base."""
    return {
        "weights_sha256": base.weights.sha256,
        "layers": list(base.layers),
        "image_size": options.side,
        "preprocess": options.preparation,
    }


def _pick_pool(
    options: FeatureOptions,
    base: Base,
    images: int | None,
    folder: Path | None,
    memory: float | None,
    disk: float | None,
) -> str:
    """Return ``none`` if whole maps fit on disk and into memory, otherwise ``avg``."""
    if folder is None or images is None:
        return "none"
    values = sum(math.prod(shape) for shape in base.layers.values()) * images * options.views
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
    free, memory = free_space(there) if disk is None else disk, memory_limit() if memory is None else memory
    kept = isinstance(options, ExtractRequest) and options.layout == "parts"  # else parts and one file of them
    on_disk, in_memory = (1 if kept else 2) * values * np.dtype(options.dtype).itemsize, 4 * values
    if on_disk <= free and in_memory <= memory / 2:
        return "none"
    log.info(
        f"pool     avg: whole maps would take up to {on_disk / 1e9:.1f} GB on disk ({free / 1e9:.1f} GB free) and "
        f"{in_memory / 1e9:.1f} GB of memory as a matrix ({memory / 1e9:.1f} GB in total). To store them anyway: {option('pool', 'none')}"
    )
    return "avg"
