"""Names of result folders, which two commands may want at once."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT

from features.errors import RequestError
from pipeline.runs.folders import ResultFolder


def write(folder, text="{}"):
    with folder.written() as unfinished:
        (unfinished / "run.json").write_text(text)


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_names_that_are_left_out_are_counted_on_from_those_in_use():
    """As of three commands that begin at once: none of them finds, at its end, that another took its name."""
    with ThreadPoolExecutor(3) as pool:
        barrier = threading.Barrier(3)

        def run(_):
            barrier.wait()
            folder = ResultFolder(None, "s-logistic", False)
            barrier.wait()
            write(folder, folder.path.name)
            return folder.path

        paths = sorted(pool.map(run, range(3)))
    assert [path.name for path in paths] == ["s-logistic", "s-logistic-2", "s-logistic-3"]
    assert [path.joinpath("run.json").read_text() for path in paths] == [path.name for path in paths]
    assert ResultFolder(None, "s-logistic", False).path.name == "s-logistic-4"
    assert sorted(os.listdir("runs")) == [path.name for path in paths]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_name_that_another_process_is_writing_is_refused_at_once(tmp_path, overwrite):
    code = "from pipeline.runs.folders import ResultFolder; it = ResultFolder('r', '', False); print('has it', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as other:
        assert other.stdout.readline() == b"has it\n"
        with pytest.raises(
            RequestError, match=r"^r must not be in use; another command is writing it\. Wait for it, or"
        ):
            ResultFolder("r", "", overwrite)
        other.kill()
    write(ResultFolder("r", "", overwrite))
    assert sorted(os.listdir()) == ["r"]


def test_a_name_is_free_again_after_a_failure():
    def fail():
        folder = ResultFolder("r", "", False)
        with folder.written():
            raise ValueError

    with pytest.raises(ValueError) as kept:  # as a notebook keeps the last error, with all that its frames hold
        fail()
    write(ResultFolder("r", "", False))
    assert kept.traceback and os.listdir() == ["r"]
    with pytest.raises(RequestError, match="out must be a new folder; r exists"):
        ResultFolder("r", "", False)
    write(ResultFolder("r", "", True), "new")
    (tmp := ResultFolder("other", "", True).path).mkdir()
    with pytest.raises(RequestError, match="other must be an earlier run to be replaced; it is something else"):
        ResultFolder(tmp, "", True)
