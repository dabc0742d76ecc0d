"""The house is as small as it says: few rooms in a package, few floors, and imports that run down only."""

import ast
import graphlib
import subprocess
import sys

import pytest
from conftest import ROOT

grimp = pytest.importorskip("grimp", reason="the extra test is not installed")
pytest.importorskip("importlinter", reason="the extra test is not installed")

STAGES = ("features", "pipeline")
PACKAGES = [
    ".".join(path.parent.relative_to(ROOT).parts)
    for stage in STAGES
    for path in sorted((ROOT / stage).rglob("__init__.py"))
]
MOST_ROOMS, MOST_FLOORS = 10, 7
HEAVY = ("tensorflow", "keras")
SOURCES = [path for stage in STAGES for path in sorted((ROOT / stage).rglob("*.py"))]


@pytest.fixture(scope="module")
def graph():
    """What imports what, in functions too, but not for types alone."""
    return grimp.build_graph(*STAGES, exclude_type_checking_imports=True, cache_dir=None)


def rooms_of(package):
    """Return the rooms of a package; of a stage its packages, since the ground words beside them are for all."""
    folder = ROOT.joinpath(*package.split("."))
    packages = {f"{package}.{path.parent.name}" for path in folder.glob("*/__init__.py")}
    modules = {f"{package}.{path.stem}" for path in folder.glob("*.py")} - {f"{package}.__init__"}
    return packages if package in STAGES else packages | modules


def below(graph, rooms):
    """Return each room with the other rooms that something in it imports."""
    return {
        room: {
            other
            for other in rooms - {room}
            if graph.direct_import_exists(importer=room, imported=other, as_packages=True)
        }
        for room in rooms
    }


def count_floors(imported):
    """Return how many rooms the longest chain of imports goes through."""
    floors = {}
    for room in graphlib.TopologicalSorter(imported).static_order():
        floors[room] = 1 + max((floors[each] for each in imported[room]), default=0)
    return max(floors.values(), default=0)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_few_rooms_on_few_floors_and_no_circle(graph, package):
    rooms = rooms_of(package)
    assert len(rooms) <= MOST_ROOMS, sorted(rooms)
    assert count_floors(below(graph, rooms)) <= MOST_FLOORS


def test_floors_are_the_longest_chain_and_a_circle_is_an_error():
    assert count_floors({"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"c"}}) == 3
    with pytest.raises(graphlib.CycleError):
        count_floors({"a": {"b"}, "b": {"a"}})


def test_every_folder_of_source_is_a_package():
    for path in SOURCES:
        assert (path.parent / "__init__.py").exists(), path


def test_no_module_bears_the_name_of_a_function_in_it():
    """A module is a noun, a function a verb; and of two things of one name the import of one hides the other."""
    for path in SOURCES:
        nodes = ast.parse(path.read_text(encoding="utf-8")).body
        assert path.stem not in {node.name for node in nodes if isinstance(node, ast.FunctionDef)}, path


def test_a_package_says_in_one_sentence_what_it_is():
    for package in PACKAGES:
        source = ROOT.joinpath(*package.split("."), "__init__.py").read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(source)), package


def test_imports_obey_the_contracts():
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    child = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert child.returncode == 0, child.stdout + child.stderr


def test_tensorflow_is_imported_in_functions_only():
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in HEAVY for name in names), path
