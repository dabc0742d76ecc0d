"""The registry: name → a head's search, the settings to try, and the features it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier

from features.errors import RequestError, must_be_one_of, option

from ..data.scaling import SCALES
from .closed_form.models import Discriminants, Model, Ridge
from .closed_form.search import ClosedFormSearch
from .contract import Head, Settings
from .dense.search import DenseSearch
from .logistic.search import LogisticSearch
from .settings import CLASS_WEIGHTS, Grid
from .sklearn_heads import EstimatorSearch, NearestMean, Neighbours, find_estimator
from .svm.search import SvmSearch
from .svm.voting import VoteSearch

_EQUAL = ("none",)  # class weights: all rows count alike


def _estimator(make: Callable[..., Any], *, views: Literal["rows", "mean"] = "rows", **grid: tuple[Any, ...]) -> Head:
    """Return a scikit-learn classifier as a head; `grid` has values of its parameters and of ``scale``."""
    return Head(EstimatorSearch, grid, views=views, arguments={"make": make})


def _closed_form(model: type[Model], **grid: tuple[Any, ...]) -> Head:
    """Return a linear model as a head; `grid` has values of its setting and of ``scale``."""
    return Head(ClosedFormSearch, {**grid, "class_weight": _EQUAL}, linear=True, arguments={"model": model})


def _dense(
    units: str = "10", dropout: float = 0.0, rates: tuple[float, ...] = (1e-3,), optimizer: str = "rmsprop",
    batch_size: int = 20, epochs: int = 30, patience: int = 30, decays: tuple[float, ...] = (0.0,),
) -> Grid:  # fmt: skip
    """Return the settings of a Dense head; the defaults are the lecture's."""
    return {
        "units": (units,), "dropout": (dropout,), "learning_rate": rates, "weight_decay": decays,
        "class_weight": _EQUAL,
        "optimizer": (optimizer,), "batch_size": (batch_size,), "epochs": (epochs,), "patience": (patience,),
    }  # fmt: skip


_C = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
HEADS = {
    "dense": Head(DenseSearch, _dense(), pool="flatten"),
    "mlp": Head(DenseSearch, _dense("256", 0.5, (3e-4, 1e-3, 3e-3), "adam", 64, 100, 10, (0.0, 1.0))),
    "logistic": Head(
        LogisticSearch, {"scale": SCALES, "C": (*_C, 1000.0, 3000.0), "class_weight": _EQUAL}, linear=True
    ),
    "linear-svm": Head(SvmSearch, {"scale": SCALES, "C": _C, "class_weight": _EQUAL}, views="mean"),
    "rbf-svm": Head(
        SvmSearch, {"scale": SCALES, "gamma": (0.3, 1.0, 3.0), "C": _C, "class_weight": _EQUAL}, views="mean"
    ),
    "vote": Head(
        VoteSearch, {"scale": SCALES, "gamma": (0.3, 1.0, 3.0), "C": _C, "class_weight": _EQUAL}, views="mean"
    ),
    "ridge": _closed_form(Ridge, scale=SCALES, alpha=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)),
    "lda": _closed_form(Discriminants, shrinkage=(0.01, 0.03, 0.1, 0.3, 0.6)),
    "knn": _estimator(Neighbours, views="mean", n_neighbors=(1, 3, 5, 10, 20)),
    "nearest-mean": _estimator(NearestMean, scale=SCALES),
    "hist-gradient-boosting": _estimator(
        partial(HistGradientBoostingClassifier, early_stopping=False), views="mean", class_weight=_EQUAL
    ),
    "majority": _estimator(DummyClassifier),
}
# Kind in a head's file → the class that loads it. A file's contents select nothing else.
READ_AS = {made.kind: made for head in HEADS.values() for made in head.searcher.read_as}


def find_head(name: str, settings: Settings = MappingProxyType({})) -> Head:
    """Return a head from the registry, or one that wraps a scikit-learn classifier given by its dotted name.

    Parameters
    ----------
    name : str
    settings : dict of str to tuple
        Setting → values to try instead of the default ones. Settings that the head does not have are ignored.

    Raises
    ------
    RequestError
        If there is no such head, or a value is not allowed for its setting.
    """
    if name in HEADS:
        head = HEADS[name]
        given = {each: _values(each, head.grid[each], settings[each]) for each in settings if each in head.grid}
        return replace(head, grid={**head.grid, **given})
    if "." not in name:
        dotted = _dotted(name)
        if dotted is not None:
            raise RequestError(
                f"head must be one of {', '.join(HEADS)}; got {name!r}. scikit-learn's has the name {dotted}"
            )
        raise must_be_one_of("head", HEADS, name)
    make = find_estimator(name)
    given = {each: settings[each] for each in settings if each in make().get_params()}
    return Head(EstimatorSearch, given, arguments={"make": make})


def _dotted(name: str) -> str | None:
    """Return the dotted name of scikit-learn's classifier of this name, None if it has none."""
    from sklearn.utils import all_estimators

    for known, found in all_estimators("classifier"):
        if known.lower() == name.lower().replace("-", "").replace("_", ""):
            public = ".".join(part for part in found.__module__.split(".") if not part.startswith("_"))
            return f"{public}.{known}"
    return None


def expand_heads(names: Sequence[str]) -> list[str]:
    """Return each name once, with those of all heads of the registry in the place of ``all``."""
    return list(dict.fromkeys(each for name in names for each in (HEADS if name == "all" else (name,))))


def check_heads(names: Sequence[str], settings: Settings) -> None:
    """Refuse heads that do not exist, and settings that none of the heads has.

    Raises
    ------
    RequestError
        If a head or a setting does not exist.
    """
    known = {setting for name in names for setting in find_head(name, settings).grid}
    for setting in settings:
        if setting not in known:
            raise must_be_one_of(f"setting of {', '.join(names)}", known, setting, "Leave it out.")


def _values(name: str, usual: tuple[Any, ...], given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values given for a setting, converted to the setting's type."""
    kind = type(usual[0])
    if kind is str:
        given = tuple("none" if each is None else str(each) for each in given)
        allowed = {"scale": SCALES, "class_weight": CLASS_WEIGHTS}.get(name, given)
        for each in given:
            if each not in allowed:
                raise must_be_one_of(name, allowed, each)
        return given
    for each in given:
        is_number = isinstance(each, (int, kind)) and not isinstance(each, bool) and math.isfinite(each)
        if not is_number or each < 0 or (each == 0 and name not in ("dropout", "weight_decay")):
            raise RequestError(
                f"{name} must be {'a whole number' if kind is int else 'a number'} above 0; got {each!r}. "
                f"For example {option('settings', {name: usual})}"
            )
    return tuple(map(kind, given))
