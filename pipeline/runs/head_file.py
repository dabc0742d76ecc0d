"""A fitted head on disk: numbers as arrays and settings as JSON, so that loading one runs nothing.

``head.json`` says what the head is and ``head.npz`` holds its arrays. An estimator of scikit-learn's lies in ``head.skops``
beside them, of whose types only known ones are loaded; or, only where that is asked for, in ``head.joblib``, a pickle, which
can run any code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from features.errors import CachedFeaturesError, RequestError, UnsafeFile
from features.runtime.keras_runtime import import_keras
from features.safefiles.json_files import read_json
from features.safefiles.keras_files import check_config
from features.safefiles.npz import append_array, open_archive, read_arrays, save_arrays
from features.safefiles.trees import check_trees

from ..data.row_blocks import Matrix, whole_blocks
from ..heads.calibration import Sigmoids
from ..heads.dense.search import DenseHead
from ..heads.linear_head import LinearHead
from ..heads.registry import Classifier
from ..heads.sklearn_heads import ScaledEstimator
from ..heads.svm import Svm
from ..heads.voting import Member, Vote

# Beside the types that skops trusts by itself, NumPy's and scikit-learn's public ones: what trees and networks are
# made of. Each is numbers and no more.
TRUSTED = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
)
_DENSE_LAYERS = frozenset(
    ["InputLayer", "Activation", "BatchNormalization", "Dense", "Dropout", "LayerNormalization", "ReLU", "Rescaling"]
)


def save_head(head: Classifier, folder: Path, as_joblib: bool = False) -> str:
    """Save a fitted head.

    Parameters
    ----------
    head : Classifier
    folder : Path
    as_joblib : bool
        Pickle an estimator of scikit-learn's, instead of refusing one of types that are not known.

    Returns
    -------
    name : str
        The file that holds the head.

    Raises
    ------
    RequestError
        If its types are not known.
    """
    told, arrays, estimator = _describe(head)
    name = "head.npz"
    if estimator is not None:
        name = "head.joblib" if as_joblib else "head.skops"
        if as_joblib:
            joblib.dump(estimator, folder / name)
        else:
            _save_skops(estimator, folder / name)
    held = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
    save_arrays(folder / "head.npz", {"classes": head.classes_, **held})
    for name in arrays.keys() - held:  # support vectors that lie in the store
        blocks = (block for _, block in whole_blocks(arrays[name]))
        append_array(folder / "head.npz", name, arrays[name].shape, blocks)
    (folder / "head.json").write_text(json.dumps({**told, "file": name}), encoding="utf-8")
    return name


def _describe(head: Classifier) -> tuple[dict[str, Any], dict[str, Matrix], Any]:
    """Return what a head is as JSON, as arrays, and as an estimator of scikit-learn's, where it is one."""
    sigmoids = getattr(head, "sigmoids_", None)
    arrays: dict[str, Matrix] = {} if sigmoids is None else {"slopes": sigmoids.slopes, "offsets": sigmoids.offsets}
    if isinstance(head, LinearHead):
        return {"kind": "linear"}, {**arrays, "coefficients": head.coef_, "intercept": head.intercept_}, None
    if isinstance(head, Svm):
        arrays |= {"scale": head.scale_, "support": head.support_vectors_}
        arrays |= {"weights": head.weights_, "intercept": head.intercept_}
        return {"kind": "svm", "gamma": None if head.gamma_ is None else float(head.gamma_)}, arrays, None
    if isinstance(head, Vote):
        members = []
        for number, member in enumerate(head.members_):
            told, own, _ = _describe(member.head)
            members.append({**told, "first": member.first, "last": member.last})
            arrays |= {f"{number}.{name}": array for name, array in own.items()}
        return {"kind": "vote", "members": members}, arrays, None
    if isinstance(head, DenseHead):
        weights = {f"weights{number}": array for number, array in enumerate(head.model_.get_weights())}
        return {"kind": "dense", "model": head.model_.get_config()}, weights, None
    if isinstance(head, ScaledEstimator):
        return {"kind": "estimator"}, {**arrays, "scale": head.scale_}, head.estimator_
    raise TypeError(f"no way to save a {type(head).__name__}")


def _save_skops(estimator: Any, path: Path) -> None:
    import skops.io

    skops.io.dump(estimator, path)
    unknown = sorted(set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED))
    if unknown:
        raise RequestError(
            f"a head must be of types that can be loaded safely; {type(estimator).__name__} has {', '.join(unknown)}. "
            "Choose another head, or save it as a pickle, which you alone should load: --joblib"
        )


def load_head(folder: str | Path, allow_joblib: bool = False) -> Classifier:
    """Load the head of a run; nothing in it is run.

    Parameters
    ----------
    folder : path-like
        What ``train_head`` made.
    allow_joblib : bool
        Load a head that was saved as a pickle, which can run any code: for your own runs.

    Raises
    ------
    RequestError
        If there is none, or it is a pickle and that is not asked for.
    UnsafeFile
        If a file is not what it should be.
    """
    folder = Path(folder)
    if not (folder / "head.json").is_file():
        raise RequestError(f"{folder} holds no trained head. Train one: python -m pipeline train-head --store STORE.h5")
    told, arrays = read_json(folder / "head.json"), read_arrays(folder / "head.npz")
    try:
        return _build(told, arrays, folder, allow_joblib)
    except CachedFeaturesError:
        raise
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        raise UnsafeFile(f"the head in {folder} is damaged ({reason}). Train it again.") from error


def _build(told: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path, allow_joblib: bool) -> Classifier:
    kind, classes = told["kind"], arrays["classes"]
    if classes.ndim != 1 or classes.dtype.kind not in "iu" or len(classes) < 2 or (np.diff(classes) <= 0).any():
        raise ValueError("classes must be rising integers")
    sigmoids = Sigmoids(arrays["slopes"], arrays["offsets"]) if "slopes" in arrays else None
    if kind == "linear":
        coefficients, intercept = arrays["coefficients"], arrays["intercept"]
        columns = 1 if len(classes) == 2 else len(classes)
        if coefficients.ndim != 2 or intercept.shape != (columns,) or coefficients.shape[1] != columns:
            raise ValueError("coefficients and classes must be of one number")
        return LinearHead(classes, coefficients, intercept, sigmoids)
    if kind == "svm" and sigmoids is not None:
        support, weights, intercept = (arrays[name] for name in ("support", "weights", "intercept"))
        return Svm(classes, arrays["scale"], told["gamma"], support, weights, intercept, sigmoids)
    if kind == "vote" and told["members"]:
        return Vote(
            classes, [_build_member(each, arrays, number, folder) for number, each in enumerate(told["members"])]
        )
    if kind == "dense":
        return _build_dense(told["model"], arrays, classes, folder)
    if kind == "estimator":
        return ScaledEstimator(_load_estimator(told["file"], folder, allow_joblib), arrays["scale"], sigmoids)
    raise ValueError(f"no head of the kind {str(kind)[:40]!r}")


def _build_member(told: dict[str, Any], arrays: dict[str, np.ndarray], number: int, folder: Path) -> Member:
    own = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{number}.")}
    head = _build(told, {**own, "classes": arrays["classes"]}, folder, allow_joblib=False)
    if not isinstance(head, LinearHead | Svm):
        raise ValueError("a member must be an SVM")
    return Member(head, int(told["first"]), int(told["last"]))


def _build_dense(config: dict[str, Any], arrays: dict[str, np.ndarray], classes: np.ndarray, folder: Path) -> DenseHead:
    """Build a Keras model of layers on a list, once it is known that its weights are as large as it claims."""
    check_config(config, folder / "head.json", _DENSE_LAYERS)
    weights = [arrays[f"weights{number}"] for number in range(len(arrays) - 1)]
    lengths = {length for array in weights for length in array.shape}
    for layer in config["layers"]:
        claimed = [layer["config"].get("units"), *(layer["config"].get("batch_shape") or ())]
        if not {each for each in claimed if each is not None} <= lengths:
            raise ValueError(f"a layer claims {claimed}, which its weights do not have")
    model = import_keras().Sequential.from_config(config)
    model.set_weights(weights)
    return DenseHead(model, classes)


def _load_estimator(name: str, folder: Path, allow_joblib: bool) -> Any:
    if name == "head.joblib":
        if not allow_joblib:
            raise RequestError(
                f"the head of {folder} must be loadable without running code; head.joblib is a pickle, which can run any. "
                "If it is your own: --joblib"
            )
        return joblib.load(folder / name)
    if name != "head.skops":
        raise ValueError(f"a head in {str(name)[:40]!r}")
    import skops.io
    from skops.io.exceptions import (
        UnsupportedTypeException,
        UntrustedTypesFoundException,
    )

    with open_archive(folder / name):
        pass
    try:
        estimator = skops.io.load(folder / name, trusted=list(TRUSTED))
    except (UntrustedTypesFoundException, UnsupportedTypeException, RecursionError) as error:
        raise UnsafeFile(
            f"{folder / name} must hold known types; {str(error)[:200]}. Train the head again, or save it by --joblib"
        ) from error
    check_trees(estimator)
    return estimator
