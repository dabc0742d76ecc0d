"""What decided the numbers of a store, and whether a finished store is what is asked for, found out without TensorFlow."""

from __future__ import annotations

from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..backbones.keras_base import Base
from ..backbones.weights import recall_sha256
from ..sources.source import Source
from ..store.reader import FeatureStore, fingerprint, parts_folder
from ..store.schema import Rows, Skipped
from .options import ExtractRequest
from .plan import Plan


def make_provenance(options: ExtractRequest, source: Source, base: Base, engine: str) -> dict[str, Any]:
    """Return what is kept in a store about how it was made, as JSON can carry it."""
    made = {
        **asked_settings(options),
        "source": {
            "kind": source.kind,
            "data": options.data,
            "root": str(source.root.resolve()),
            "limit": options.limit,
        },
        "splits": list(source.notes),
        "seed": options.seed,
        "backbone_file": str(Path(options.backbone).resolve()) if options.backbone.endswith(".keras") else None,
        "layers": list(base.layers),
        "layers_asked": list(options.asked_layers),
        "weights": options.weights if options.weights == "imagenet" else str(Path(options.weights).resolve()),
        "weights_origin": base.weights.origin,
        "weights_sha256": base.weights.sha256,
        "pool": options.pool,
        "views": options.views,
        "engine": engine,
        "batch_size": options.full_batch,
        "compression": options.compression,
        "versions": {name: version(name) for name in ("numpy", "h5py", "pillow", "keras", "tensorflow")},
    }
    return {**made, "fingerprint": fingerprint(made)}


def asked_settings(options: ExtractRequest) -> dict[str, Any]:
    """Return what the request alone says of the fields that decide feature values."""
    return {
        "backbone": Path(options.backbone).name,
        "image_size": options.side,
        "resize": options.resize,
        "preprocess": options.preparation,
        "augment": f"lecture, seed {options.seed}" if options.augment == "lecture" else options.augment,
        "dtype": options.dtype,
    }


def find_finished(options: ExtractRequest, plan: Plan) -> tuple[Rows, list[Skipped], dict[str, Any]] | None:
    """Return rows, skipped files and provenance of a store that is whole and all that is asked for, else None.

    Files of the source were read and hashed for the plan. Weights count as those that were loaded and hashed before if
    the file they come from has kept its size, times and inode.
    """
    if not options.path.exists() or (options.layout == "file" and parts_folder(options.path).exists()):
        return None
    with FeatureStore(options.path) as store:
        held = store.provenance
        if not _has_settings(held, options):
            return None
        reasons = {each.sha256: each.reason for each in store.skipped if each.sha256}
        rows, skipped = plan.rows(options.views, {} if options.retry_skipped else reasons)
        return (rows, skipped, held) if is_current(store, options, rows, skipped) else None


def is_current(store: FeatureStore, options: ExtractRequest, rows: Rows, skipped: list[Skipped]) -> bool:
    """Tell whether a store holds exactly these rows, kept as asked."""
    same = all(np.array_equal(getattr(store.rows, each.name), getattr(rows, each.name)) for each in fields(Rows))
    kept = (store.provenance["compression"], "parts" if store.parts else "file")
    return same and store.skipped == skipped and kept == (options.compression, options.layout)


def _has_settings(held: dict[str, Any], options: ExtractRequest) -> bool:
    """Tell whether a store's settings are those asked for; one that cannot be told without TensorFlow is not."""
    sha256 = recall_sha256(options.backbone, options.weights)
    # An index among the layers says the same only while Keras builds the same list of them.
    indexed = held.get("layers_asked") == list(options.asked_layers) and held["versions"]["keras"] == version("keras")
    return (
        all(held.get(name) == value for name, value in asked_settings(options).items())
        and (indexed or held["layers"] == list(options.asked_layers))
        and sha256 == held["weights_sha256"]
        and options.weights_sha256 in (None, sha256)
        and options.pool in (None, held["pool"])
        and options.engine in ("auto", held["engine"].split()[0])
    )
