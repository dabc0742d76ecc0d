"""The files of a run belong together."""

import shutil
import subprocess

import pytest

import pipeline
from features.errors import UnsafeFile
from pipeline.reports.run_results import load_run
from pipeline.runs.trained_run import load_trained


@pytest.fixture(scope="module")
def two(tiny_store, tmp_path_factory):
    """Two runs of heads of one kind, trained with other settings."""
    folder = tmp_path_factory.mktemp("two")
    for name, depth in (("one", 1), ("other", 3)):
        settings = {"max_depth": (depth,)}
        pipeline.train_head(tiny_store, "sklearn.tree.DecisionTreeClassifier", settings=settings, out=folder / name)
    return folder


def test_any_file_of_another_run_is_refused(two, tmp_path):
    names = ("head.json", "head.npz", "head.skops", "run.json", "predictions.npz", "SHA256SUMS")
    different = [name for name in names if (two / "one" / name).read_bytes() != (two / "other" / name).read_bytes()]
    assert {"head.skops", "run.json", "predictions.npz", "SHA256SUMS"} <= set(different)
    for name in different:
        mixed = shutil.copytree(two / "one", tmp_path / name)
        shutil.copy(two / "other" / name, mixed)
        with pytest.raises(UnsafeFile, match=r"must be the file that was written with its run; SHA256SUMS"):
            load_trained(mixed)
            load_run(mixed)


def test_one_changed_bit_is_refused(two, tmp_path):
    for name in ("head.json", "head.npz", "head.skops", "run.json", "predictions.npz"):
        changed = shutil.copytree(two / "one", tmp_path / name)
        data = bytearray((changed / name).read_bytes())
        data[len(data) // 2] ^= 1
        (changed / name).write_bytes(data)
        with pytest.raises(UnsafeFile, match="SHA256SUMS"):
            load_trained(changed)
            load_run(changed)


def test_the_list_is_as_other_programs_read_it(two):
    if shutil.which("sha256sum") is None:
        pytest.skip("needs sha256sum of GNU coreutils")
    told = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=two / "one", capture_output=True, text=True
    )
    assert told.returncode == 0 and "head.skops: OK" in told.stdout
    listed = {line.split(": ")[0] for line in told.stdout.splitlines()}
    assert listed == {path.name for path in (two / "one").iterdir()} - {"SHA256SUMS"}


def test_a_run_of_an_earlier_version_is_read(two, tmp_path):
    old = shutil.copytree(two / "one", tmp_path / "old")
    (old / "SHA256SUMS").unlink()
    assert load_trained(old).name == "sklearn.tree.DecisionTreeClassifier"
    (old / "SHA256SUMS").write_bytes(b"\xff")
    with pytest.raises(UnsafeFile, match="cannot be read"):
        load_trained(old)
