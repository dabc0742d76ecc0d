"""Imports run one way, as the README's map of the code says."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A module imports only from floors below its own.
FEATURES = [
    {"_version"},
    {"errors", "splits", "cache", "runtime", "versions", "lanes", "toomcook"},
    {"pooling", "progress", "views", "diskfile", "writer", "layout", "cifar10", "manifest", "elpv", "connection"},
    {"jsontext", "archive", "ownvalues", "vectors", "layergraph"},
    {"index", "layerreader", "products", "tiles", "maploops"},
    {"images", "sources", "weights", "store", "kerasfile", "convolution"},
    {"parts", "plan", "ownmodel", "converted", "network"},
    {"backbones"},
    {"frozen"},
    {"tensorflow_engine", "openvino_engine", "mnn_engine", "numba_engine"},
    {"engines"},
    {"batchsize"},
    {"options"},
    {"forward", "provenance"},
    {"embed"},
    {"worker", "verify"},
    {"fitness"},
    {"cluster"},
    {"extract"},
    {"transformer", "cost"},
]
PIPELINE = [
    {
        "arguments",
        "choice",
        "place",
        "spread",
        "recipe",
        "plots",
        "evaluate",
        "bootstrap",
        "predictions",
        "charts",
        "curves",
        "suspects",
        "embedding",
        "thumbnails",
        "attention",
        "page",
        "trees",
    },
    {"stream"},
    {"scaling", "gram"},
    {"sample", "bank", "rotation"},
    {"newton"},
    {"platt"},
    {"linearhead"},
    {"linear", "kernel", "estimators", "dense"},
    {"vote"},
    {"heads"},
    {"headfile", "reading", "runs", "headlayers", "pillowresize"},
    {"trained"},
    {"onemodel"},
    {"request", "history"},
    {"matrix"},
    {"train", "predict", "export"},
    {"fits"},
    {"compare"},
    {"refit", "figures"},
    {"gallery"},
    {"probe", "lecture", "report"},
]


def imports(path, package):
    """Return (names of this package's modules, all other modules) that a file imports."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            own |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module)
        elif isinstance(node, ast.Import):
            others |= {alias.name for alias in node.names}
    return own, others


@pytest.mark.parametrize(("package", "floors"), [("features", FEATURES), ("pipeline", PIPELINE)])
def test_every_module_imports_only_from_below(package, floors):
    below: set[str] = set()
    for floor in floors:
        for name in floor:
            own, _ = imports(ROOT / package / f"{name}.py", package)
            assert own <= below, f"{package}/{name}.py imports {sorted(own - below)}"
        below |= floor
    modules = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__", "__main__"}
    assert modules == below


def test_features_never_imports_pipeline():
    for path in (ROOT / "features").glob("*.py"):
        assert not any(name.split(".")[0] == "pipeline" for name in imports(path, "features")[1]), path


def test_tensorflow_is_imported_in_functions_only():
    for path in [*ROOT.glob("features/*.py"), *ROOT.glob("pipeline/*.py")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in ("tensorflow", "keras") for name in names), path
