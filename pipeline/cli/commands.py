"""The command line. The code of a command is imported only when it runs, so ``--help`` answers at once."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from features.errors import CachedFeaturesError, RequestError, on_command_line
from features.runtime.atomic import errors_named
from features.runtime.log import log

from . import head_commands, run_commands, store_commands
from .answers import Answer
from .arguments.parser import PROGRAM, make_parser, read_arguments
from .messages import messages_on_stderr, printable, printable_json

_COMMANDS: dict[str, Callable[..., Answer | Iterator[Answer]]] = {
    **store_commands.COMMANDS,
    **head_commands.COMMANDS,
    **run_commands.COMMANDS,
}
_RESUMED = (
    "extract",
    "compare",
    "probe",
    "audit",
    "budget",
    "next",
    "lecture",
)  # commands that keep parts, fits or features as they go
_WRONG_PATH = (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)  # what to name another for
_BROKEN_PIPE = 128 + signal.SIGPIPE  # what a shell shows of a program that this signal ends


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: done; 1: the run failed; 2: the request was wrong; 130: interrupted; 141: whoever read its output, such as ``head``, has
    stopped reading.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed (``>&-``): its number must not become that of a file which we write
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # now, since what fails while Python ends cannot be caught
    except BrokenPipeError:
        _discard(sys.stdout, sys.stderr)
        return _BROKEN_PIPE


def _discard(*streams: TextIO) -> None:
    """Give up what streams still hold and cannot write; see Python's "Note on SIGPIPE"."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())


def _print(text: str, out: TextIO) -> None:
    try:
        with errors_named("standard output"):
            print(text, file=out, flush=True)
    except BrokenPipeError:
        raise
    except OSError:  # a full disk
        _discard(out)
        raise


def _run(arguments: Sequence[str] | None) -> int:
    with on_command_line(PROGRAM):
        try:
            options = read_arguments(arguments, PROGRAM)
        except RequestError as error:
            with messages_on_stderr(logging.INFO):
                log.error(str(error))
            return error.exit_status
    name = options.pop("command")
    if name is None:
        make_parser(PROGRAM).print_help()
        return 0
    run, as_json, level = _COMMANDS[name], options.pop("json"), options.pop("level")
    with messages_on_stderr(level), on_command_line(PROGRAM):
        try:
            out = sys.stdout
            with contextlib.redirect_stdout(sys.stderr):  # libraries print anywhere, but stdout is for results alone
                answer = run(**{name: value for name, value in options.items() if value is not None})
                for each in [answer] if isinstance(answer, Answer) else answer:
                    if as_json or each.text is not None:
                        _print(printable_json(each.result) if as_json else printable(each.text or ""), out)
                    for line in each.after:
                        log.info(line)
        except CachedFeaturesError as error:
            log.error(str(error))
            return error.exit_status
        except OSError as error:
            if error.filename is None:  # a bug, or a broken pipe
                raise
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "Free some space and run the same command again" if full else "Check the path and its permissions"
            log.error(f"{error.filename}: {error.strerror}. {remedy}.")
            return 2 if error.errno in _WRONG_PATH else 1
        except KeyboardInterrupt:
            resumes = name in _RESUMED or (name == "predict" and options.get("out") is not None)
            resumes = resumes and not options.get("replay")  # of `next`
            told = (
                "What is computed so far is kept; the same command resumes from there."
                if resumes
                else "Nothing of it is kept."
            )
            log.error(told, extra={"word": "stopped"})
            return 130
    return 0
