"""Solar cells from the PyPI package elpv-dataset, of which only the data is used."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from ..errors import missing_extra
from ..splits import Row
from .source import Source, make_source

_CELLS = 60  # per module


def read_elpv() -> Source:
    """Read the solar cells; splits are stratified by label and module type, as in the published benchmark.

    Defective means a defect probability above 0.5, as in Deitsch et al. 2019 (arXiv 1807.02894). Probability, module type and
    module are kept as columns; the module is inferred, see `_infer_modules`.

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
    modules = dict(zip(module_types, _infer_modules(list(module_types.values())), strict=True))
    columns = {"type": module_types, "probability": probabilities, "module": modules}
    note = "the column module is inferred from the order of the file list, which does not name modules"
    return make_source("elpv", root, rows, strata=module_types, columns=columns, notes=[note])


def _infer_modules(types: Sequence[str]) -> list[str]:
    """Return the number of each cell's module, as text, from the cells' module types in the order of the file list.

    Cells of a module stand together in the list. So each run of one type is cut into equal blocks of about 60 cells, the most
    frequent number of cells in a module. That gives 18 monocrystalline and 26 polycrystalline modules, as many as the set was
    cut from (Deitsch et al. 2019); a cell near the end of a block may still be its neighbour's.
    """
    modules: list[str] = []
    number = 0
    for _, run in groupby(types):
        cells = len(list(run))
        blocks = max(1, round(cells / _CELLS))
        modules += [f"{number + 1 + cell * blocks // cells:02d}" for cell in range(cells)]
        number += blocks
    return modules
