"""What is installed is whole: a wheel has every package and template, and a change of any source file is noticed."""

import subprocess
import sys

import pytest
from conftest import ROOT, draw_tree

from features.runtime.versions import digest_code


def test_a_change_in_a_nested_file_changes_the_digest(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    nested = tmp_path / "a/b/c.py"
    nested.write_text("x = 1\n")
    first = digest_code(tmp_path)
    nested.write_text("x = 2\n")
    second = digest_code(tmp_path)
    nested.rename(tmp_path / "a/c.py")
    assert len({first, second, digest_code(tmp_path)}) == 3


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which a wheel of this project was installed, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = folder / "source"  # a copy: building leaves folders behind
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split("\n")
    if not any(tracked):
        pytest.skip("not a git checkout")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def test_a_wheel_has_every_package_and_runs(installed, tmp_path):
    """Away from the checkout, with the packages of this environment alone beside it."""

    def python(*arguments):
        command = [sys.executable, "-c", BARE, *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{installed}:{ROOT / 'tests'}",
        "XDG_CACHE_HOME": str(tmp_path),
    }
    environment |= {"CUDA_VISIBLE_DEVICES": "-1"}
    for stage in ("features", "pipeline"):
        below = {
            path.relative_to(ROOT)
            for path in (ROOT / stage).rglob("*")
            if path.suffix in (".py", ".html", ".css", ".js")
        }
        assert {path for path in below if not (installed / path).is_file()} == set()
    assert "extract" in python("--help")
    draw_tree(tmp_path / "photos")
    python("extract", "--data", "photos", "--backbone", "tiny", "--engine", "tensorflow", "--out", "s.h5")
    python("compare", "--store", "s.h5", "--heads", "logistic,majority")
    python("report", "--run", "runs/s-compare")
    assert (tmp_path / "runs/s-compare/report.html").stat().st_size > 10_000


# The tests' own base in place of one whose weights come from a hub.
BARE = """
import sys
import features
assert 'site' in features.__file__, features.__file__
from features.backbones.registry import BACKBONES, Backbone
BACKBONES["tiny"] = Backbone("tiny", "Tiny", "last", 16, 8)
from pipeline.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
