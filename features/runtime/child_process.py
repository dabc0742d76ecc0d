"""A call in a process of its own, which counts only if that process says that it is done; and forks, which lack threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from ..errors import RequestError

R = TypeVar("R")


class ChildEnded(Exception):
    """The process ended without an answer; the message says how."""


def refuse_forks(what: str) -> None:
    """Raise RequestError in a fork of the process that used `what` first: it would wait for ever for threads that it lacks."""
    if _first_user(what) != os.getpid():
        raise RequestError(
            f"{what} must be loaded by the process that uses it; this one was forked from one that used it before. "
            "Start processes by multiprocessing.get_context('spawn'), or before anything is computed."
        )


@cache
def _first_user(what: str) -> int:
    return os.getpid()


def call_in_child(function: Callable[..., R], *arguments: Any) -> R:
    """Return what a function returns in a new process.

    What native code does to a process, such as a crash on a damaged file or an exit with status 0, is an error here.

    Parameters
    ----------
    function : callable
        It, its arguments and what it returns or raises are pickled. It prints where this process prints.
    *arguments : object

    Raises
    ------
    ChildEnded
        If the process ended before it said what the function returned.
    Exception
        Whatever the function raises, with the other process's traceback as a note.
    """
    context = multiprocessing.get_context("spawn")  # a fork has this process's locks, but not its threads
    answers, told = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(told, function, arguments), daemon=True)
    child.start()
    told.close()  # the child's copy alone is open, so its end is seen
    try:
        done, answer = answers.recv()
    except EOFError:
        child.join()
        raise ChildEnded(_how(child.exitcode or 0)) from None
    finally:
        child.kill()  # after an answer it has nothing left to do
        child.join()
        answers.close()
    if done:
        return answer
    raise answer


def _answer(told: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the parent, which gets it too, ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer = True, function(*arguments)
    except Exception as error:
        error.add_note(traceback.format_exc())
        answer = False, error
    told.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _how(status: int) -> str:
    if status >= 0:
        return f"with exit status {status}"
    return f"by signal {-status} ({signal.strsignal(-status)})"
