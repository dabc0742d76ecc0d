"""Stage two: train heads on a feature store, compare them, and use them."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

_found = find_spec("features")  # without running it
if _found is None or not _found.origin or Path(_found.origin).parents[1] != Path(__file__).parents[1]:
    _hidden = (
        f"features must be the package that is installed beside {Path(__file__).parent}; got "
        f"{_found and (_found.origin or next(iter(_found.submodule_search_locations or ()), None))}, which hides it. "
        "Rename that, or type cached-features in place of python -m pipeline"
    )
    if sys.argv[:1] == ["-m"]:  # python -m pipeline
        sys.exit(f"error    {_hidden}")
    raise ImportError(_hidden)

from . import options as options  # noqa: E402  # an option that is given to the wrong function is told its own

if TYPE_CHECKING:
    from .cli.serving.server import serve
    from .deploy.exporting import export
    from .deploy.predictor import Predictor, predict
    from .labelling.label_budget import budget
    from .labelling.label_queue import label_next
    from .labelling.replayed_queue import replay_queue
    from .leakage.split_audit import audit
    from .reports.build import report
    from .runs.plots import plot
    from .training.comparison import compare
    from .training.fit import train_head
    from .training.studies.base_comparison import compare_bases
    from .training.studies.layer_probe import probe

__all__ = [
    "Predictor",
    "audit",
    "budget",
    "compare",
    "compare_bases",
    "export",
    "label_next",
    "plot",
    "predict",
    "probe",
    "replay_queue",
    "report",
    "serve",
    "train_head",
]
_WHERE = {
    "audit": "leakage.split_audit",
    "budget": "labelling.label_budget",
    "Predictor": "deploy.predictor",
    "compare": "training.comparison",
    "compare_bases": "training.studies.base_comparison",
    "export": "deploy.exporting",
    "label_next": "labelling.label_queue",
    "replay_queue": "labelling.replayed_queue",
    "plot": "runs.plots",
    "predict": "deploy.predictor",
    "probe": "training.studies.layer_probe",
    "report": "reports.build",
    "serve": "cli.serving.server",
    "train_head": "training.fit",
}


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `python -m pipeline --help` does not wait for scikit-learn.
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
