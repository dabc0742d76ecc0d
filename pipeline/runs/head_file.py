"""A fitted head on disk, as arrays and JSON settings, so that loading it runs no code.

``head.json`` describes the head and ``head.npz`` holds its arrays. A scikit-learn estimator is saved as ``head.skops``, from
which only known types are loaded, or, on request, as ``head.joblib``, a pickle, which can run any code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import CachedFeaturesError, RequestError, UnsafeFile, option
from features.safefiles.json_files import read_json
from features.safefiles.npz import append_array, open_archive, read_arrays, reading_archive, save_arrays
from features.safefiles.trees import check_trees

from ..data.row_blocks import whole_blocks
from ..heads.contract import Classifier, Saved
from ..heads.linear_head import LinearHead
from .checksums import check_sums
from .folders import how_to_make

ESTIMATORS = ("head.joblib", "head.skops")
# Types of trees and networks, and our own, in addition to the public types of NumPy and scikit-learn that skops trusts by itself. Each
# contains only numbers.
TRUSTED = (
    "pipeline.heads.sklearn_heads.Neighbours",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
)


def save_head(head: Classifier, folder: Path, as_joblib: bool = False) -> str:
    """Save a fitted head.

    Parameters
    ----------
    head : Classifier
    folder : Path
    as_joblib : bool
        Pickle a scikit-learn estimator, which allows unknown types.

    Returns
    -------
    name : str
        The file that holds the head.

    Raises
    ------
    RequestError
        If the estimator has unknown types and is not pickled.
    """
    saved, name = head.to_saved(), "head.npz"
    if saved.estimator is not None:
        name = "head.joblib" if as_joblib else "head.skops"
        if as_joblib:
            import joblib

            joblib.dump(saved.estimator, folder / name)
        else:
            _save_skops(saved.estimator, folder / name)
    held = {each: array for each, array in saved.arrays.items() if isinstance(array, np.ndarray)}
    save_arrays(folder / "head.npz", {"classes": head.classes_, **held})
    for each in saved.arrays.keys() - held:  # support vectors that are in the store
        array = saved.arrays[each]
        append_array(folder / "head.npz", each, array.shape, (block for _, block in whole_blocks(array)))
    told = {"kind": head.kind, **saved.told, "file": name}
    (folder / "head.json").write_text(json.dumps(told), encoding="utf-8")
    return name


def _save_skops(estimator: Any, path: Path) -> None:
    import skops.io

    skops.io.dump(estimator, path)
    unknown = sorted(set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED))
    if unknown:
        raise RequestError(
            f"a head must be of types that can be loaded safely; {type(estimator).__name__} has {', '.join(unknown)}. "
            f"Choose another head, or save it as a pickle, which only you should load: {option('joblib', True)}"
        )


def load_head(folder: str | Path, allow_joblib: bool = False) -> Classifier:
    """Load the head of a run without running code from its files.

    Parameters
    ----------
    folder : path-like
        A folder written by ``train_head``.
    allow_joblib : bool
        Also load a head that was saved as a pickle, which can run any code. Only for your own runs.

    Raises
    ------
    RequestError
        If the folder has no head, or its head is a pickle and `allow_joblib` is false.
    UnsafeFile
        If a file is damaged or has unknown types.
    """
    folder = Path(folder)
    if not (folder / "head.json").is_file():
        raise RequestError(f"{folder} holds no trained head. {how_to_make(folder)}")
    check_sums(folder, *ESTIMATORS, "head.npz", "head.json")
    told, arrays = read_json(folder / "head.json"), read_arrays(folder / "head.npz")
    try:
        kind, classes = _find_kind(told["kind"]), arrays.pop("classes")
        if classes.ndim != 1 or classes.dtype.kind not in "iu" or len(classes) < 2 or (np.diff(classes) <= 0).any():
            raise ValueError("classes must be rising integers")
        estimator = _load_estimator(told["file"], folder, allow_joblib) if kind.has_estimator else None
        return kind.from_saved(classes, Saved(told, arrays, estimator, folder / "head.json"))
    except CachedFeaturesError:
        raise
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        raise UnsafeFile(f"the head in {folder} is damaged ({reason}). Train it again.") from error


def _find_kind(name: Any) -> type[Classifier]:
    """Return the class that loads a kind of head; the most usual one is found without importing scikit-learn."""
    if name == LinearHead.kind:
        return LinearHead
    from ..heads.registry import READ_AS

    if name not in READ_AS:
        raise ValueError(f"no head of the kind {str(name)[:40]!r}")
    return READ_AS[name]


def _load_estimator(name: str, folder: Path, allow_joblib: bool) -> Any:
    if name == "head.joblib":
        if not allow_joblib:
            raise RequestError(
                f"the head of {folder} must be loadable without running code; head.joblib is a pickle, which can run any code. "
                f"If the run is your own, use {option('joblib', True)}"
            )
        import joblib

        return joblib.load(folder / name)
    if name != "head.skops":
        raise ValueError(f"a head in {str(name)[:40]!r}")
    import skops.io
    from skops.io.exceptions import UnsupportedTypeException, UntrustedTypesFoundException

    with open_archive(folder / name):
        pass
    try:
        with reading_archive(folder / name):
            estimator = skops.io.load(folder / name, trusted=list(TRUSTED))
    except (UntrustedTypesFoundException, UnsupportedTypeException, RecursionError) as error:
        raise UnsafeFile(
            f"{folder / name} must contain only known types; {str(error)[:200]}. Train the head again, or save it with {option('joblib', True)}"
        ) from error
    check_trees(estimator)
    return estimator
