"""Solar cells from the PyPI package elpv-dataset, of which only the data is used."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..errors import missing_extra
from ..splits import Row
from .source import Source, make_source


def read_elpv() -> Source:
    """Read the solar cells; splits are stratified by label and module type, as in the published benchmark.

    Defective means a defect probability above 0.5, as in Deitsch et al. 2019 (arXiv 1807.02894). Probability and
    module type are kept as columns.

    Raises
    ------
    RequestError
        If the package is not installed.
    """
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise missing_extra("elpv-dataset", "demo", "the source elpv")
    root = Path(spec.submodule_search_locations[0]) / "data"
    rows: list[Row] = []
    module_types, probabilities = {}, {}
    for line in (root / "labels.csv").read_text(encoding="utf-8").splitlines():
        path, probability, module_type = line.split()
        rows.append((path, "defective" if float(probability) > 0.5 else "functional", None))
        module_types[path], probabilities[path] = module_type, probability
    columns = {"type": module_types, "probability": probabilities}
    return make_source("elpv", root, rows, strata=module_types, columns=columns)
