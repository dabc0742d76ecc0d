"""A call in a process of its own counts only if that process says that it is done."""

import ctypes
import os
import signal

import pytest

from features.errors import StoreError
from features.runtime.child_process import ChildEnded, call_in_child
from pipeline.cli import store_commands
from pipeline.cli.commands import main


def add(one, other):
    return one + other, os.getpid()


def fail(text):
    raise StoreError(text)


def be_killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def end_as_if_done(*_):
    ctypes.CDLL(None).exit(0)  # as a decompressor did on a damaged chunk


def test_a_call_returns_and_raises_what_the_function_does():
    found, process = call_in_child(add, 2, 3)
    assert found == 5 and process != os.getpid()
    with pytest.raises(StoreError, match="no store") as raised:
        call_in_child(fail, "no store")
    assert "in fail" in raised.value.__notes__[0]


@pytest.mark.parametrize(
    ("end", "how"), [(be_killed, r"by signal 9 \(Killed\)"), (end_as_if_done, "with exit status 0")]
)
def test_a_process_that_ends_without_an_answer_is_an_error(end, how):
    with pytest.raises(ChildEnded, match=how):
        call_in_child(end)


@pytest.mark.parametrize(("end", "how"), [(be_killed, "by signal 9 (Killed)"), (end_as_if_done, "with exit status 0")])
def test_verify_is_no_success_if_its_process_ends_before_it_is_done(tmp_path, monkeypatch, capfd, end, how):
    monkeypatch.setattr(store_commands, "_judge", end)
    assert main(["verify", str(tmp_path / "s.h5")]) == 1
    told = capfd.readouterr()
    assert told.out == "" and len(told.err.splitlines()) == 1
    assert (
        f"s.h5 must be read to its end; the process that read it ended {how} before it was done. Delete it" in told.err
    )
