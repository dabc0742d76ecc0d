"""Output that nobody reads to its end, and programs of the same name in the user's folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


def run_into_closed(stream, *arguments):
    """Run the command line with standard output or error going to a pipe that is closed; return exit status and the other."""
    reading, writing = os.pipe()
    os.close(reading)
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    command = [sys.executable, "-c", "import sys; from pipeline.cli.commands import main; sys.exit(main())", *arguments]
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "",
    }  # as users have it: argparse itself hides what fails as it writes
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, **{stream: writing, other: subprocess.PIPE})
    os.close(writing)
    return done.returncode, getattr(done, other)


@pytest.mark.parametrize(
    "arguments", [["inspect", "STORE"], ["inspect", "STORE", "--json"], ["--help"], ["compare", "--help"], []]
)
def test_a_reader_that_stops_ends_a_command_as_it_ends_others(tiny_store, arguments):
    status, told = run_into_closed("stdout", *(str(tiny_store) if each == "STORE" else each for each in arguments))
    assert status == 141 and "Traceback" not in told and "BrokenPipe" not in told
    assert all(line.startswith("next ") for line in told.splitlines())


def test_messages_that_nobody_reads_end_a_command_too(tiny_store):
    status, told = run_into_closed("stderr", "inspect", str(tiny_store))  # which says the next command last
    assert status == 141 and told.startswith("store ")
    assert run_into_closed("stderr", "inspect", "none.h5") == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", [["inspect", "STORE"], ["inspect", "STORE", "--json"]])
def test_output_on_a_full_disk_is_one_line(tiny_store, arguments):
    command = [sys.executable, "-m", "pipeline", *(str(tiny_store) if each == "STORE" else each for each in arguments)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        1, "error    standard output: No space left on device. Free some space and run the same command again.\n"
    )  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="closes a stream by a shell")
def test_closed_streams_are_not_a_file_of_ours_nor_an_error(tiny_store):
    command = [sys.executable, "-m", "pipeline", "inspect", str(tiny_store)]

    def run(closed):
        return subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *command], cwd=ROOT, capture_output=True, text=True
        )

    open_ = run("")
    assert (run(">&-").stdout, run(">&-").stderr, run(">&-").returncode) == ("", open_.stderr, 0)
    assert (run("2>&-").stdout, run("2>&-").stderr, run("2>&-").returncode) == (open_.stdout, "", 0)
    assert run("<&-").stdout == open_.stdout


def test_modules_of_ones_own_neither_break_the_console_script_nor_are_run(tiny_store, tmp_path):
    """It is started as pip's script starts it: the folder of the script comes first, not the current one."""
    for name in ("pipeline", "features"):
        (tmp_path / f"{name}.py").write_text("print('mine')\n")
    script = tmp_path / "bin/cached-features"
    script.parent.mkdir()
    script.write_text("import sys\nfrom pipeline.cli.commands import main\nsys.exit(main())\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), "train-head", str(tiny_store), "--head", "logistic", "--out", "r"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r/head.json").exists() and "mine" not in done.stdout
    assert "next     cached-features predict --run r IMAGES" in done.stderr


def test_a_process_with_tensorflow_ends_as_any_other():
    """TensorFlow is a stand-in, since what it frees at the end is left to the system."""
    code = (
        "import atexit, sys; sys.modules['tensorflow'] = sys; atexit.register(print, 'at exit');"
        "sys.argv = ['cached-features', *sys.argv[1:]]; from pipeline.__main__ import run; run()"
    )
    for arguments, status, told in (
        (["inspect", "none.h5"], 2, "at exit\n"),
        (["--version"], 0, "at exit\n"),
        (["predict"], 2, "at exit\n"),
    ):
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert (done.returncode, done.stdout[-len(told) :]) == (status, told)


def test_hints_name_the_console_script_however_it_was_started(tiny_store):
    command = [sys.executable, "-m", "pipeline", "inspect", str(tiny_store)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert f"next     cached-features compare --store {tiny_store}" in done.stderr


@pytest.mark.parametrize("hiding", ["features.py", "features/__init__.py"])
def test_a_features_of_ones_own_is_named_and_not_run(tmp_path, hiding):
    """Of ``python -m`` and of a script, the current folder comes before installed packages."""
    own = tmp_path / hiding
    own.parent.mkdir(exist_ok=True)
    own.write_text("print('mine')\nerrors = 1\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def python(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    done = python("-m", "pipeline", "--help")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and not done.stdout
    assert line.startswith(f"error    features must be the package that is installed beside {ROOT / 'pipeline'}")
    assert f"got {own}, which hides it." in line and line.endswith(
        "type cached-features in place of python -m pipeline"
    )
    done = python("-c", "import pipeline")
    assert f"ImportError: features must be the package that is installed beside {ROOT / 'pipeline'}" in done.stderr
    assert f"got {own}, which hides it." in done.stderr and "mine" not in done.stdout
    (tmp_path / "features").mkdir(exist_ok=True)
    own.unlink()  # a folder without __init__.py hides nothing
    assert python("-m", "pipeline", "--version").stdout.startswith("cached-features ")
