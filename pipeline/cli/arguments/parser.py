"""The command-line parser, built from the options that functions declare. ``--help`` imports nothing heavy."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from features._version import __version__
from features.errors import RequestError, must_be_one_of, no_option
from features.options import Flag, Layer, flags_of

from ...options import HEAD_NAMES
from .actions import Listed, Members, Named, Setting, one_or_several
from .command_list import COMMANDS, Command, flag_name

# Shown and told even where it was started as ``python -m pipeline``, since a pipeline.py in the current folder would hide that.
PROGRAM = "cached-features"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and that takes no shortened options: these may mean another one tomorrow."""

    def __init__(self, **settings: Any):
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise RequestError."""
        wrong = re.fullmatch(r"argument (\S+): invalid (.+) value: (.+)", message)
        if wrong:
            kind = _KINDS.get(wrong[2], wrong[2])
            message = f"{wrong[1]} must be {kind}; got {wrong[3]}"
        raise RequestError(f"{message.removeprefix('argument ')}. See {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices and action.option_strings:
            raise must_be_one_of(action.option_strings[0], action.choices, value)
        super()._check_value(action, value)


_KINDS = {"int": "a whole number", "float": "a number", "list of float": "numbers, separated by commas"}


_OF_ALL = ("--json", "--quiet", "--verbose", "--help")
_NAMES = {"--head": HEAD_NAMES, "--heads": ("all", *HEAD_NAMES), "--exclude": HEAD_NAMES}  # what a shell completes


def read_arguments(arguments: Sequence[str] | None, prog: str) -> dict[str, Any]:
    """Return name → value of all options, None if not given, and the command's name as ``command``.

    Raises
    ------
    RequestError
        If the command or the option does not exist; names the nearest one, or the command that has the option.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    names = [command.name for command in COMMANDS]
    first = next((word for word in words if not word.startswith("-")), None)
    if first is not None and first not in names:
        raise must_be_one_of("command", names, first, f"See {prog} --help")
    at = 0 if first is None else words.index(first)
    if set(words[:at]) <= {"--json", "--quiet", "--verbose"}:  # flags of all commands may come first
        words = [*words[at : at + 1], *words[:at], *words[at + 1 :]]
    parser = make_parser(prog)
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete  # the extra completion; only the shell sets this variable

        argcomplete.autocomplete(parser)
    options, unknown = parser.parse_known_args(words)
    command = next((each for each in COMMANDS if each.name == options.command), None)
    if command is not None and command.subject is not None:
        unknown = _take_subject(command, options, unknown, prog)
    for word in unknown:
        if command is not None and re.match("-[^0-9.]", word):
            known = {each.name: [*each.flags, *_OF_ALL] for each in COMMANDS}
            raise no_option(command.name, word.partition("=")[0], known, command.meant)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return vars(options)


def _take_subject(command: Command, options: argparse.Namespace, unknown: list[str], prog: str) -> list[str]:
    """Take the command's subject from its flag or from the first word without one; return the other words that are unknown.

    Raises
    ------
    RequestError
        If it is given twice or not at all.
    """
    subject = str(command.subject)
    given, bare = getattr(options, subject), [word for word in unknown if not word.startswith("-")]
    wrong = [word for word in unknown if word.startswith("-")]
    if given is None and hasattr(options, "images") and options.images:  # predict RUN IMAGES
        given, options.images = options.images[0], options.images[1:]
    elif given is None and bare:
        if command.name == "report":
            given, bare = bare, []
        elif command.name == "compare":
            given, bare = one_or_several(bare), []
        else:
            given, *bare = bare
    if command.name == "export" and bare and options.out is None:  # export RUN photos.onnx
        options.out, *bare = bare
    if given is None and not wrong:
        example = f"{prog} {command.example}"
        for name, value in vars(options).items():  # compare --heads logistic cache/photos.h5
            if isinstance(value, tuple) and len(value) > 1 and Path(str(value[-1])).exists():
                example = (
                    f"{value[-1]} was read as one of --{name}; put it first: {prog} {command.name} {value[-1]} ..."
                )
        raise RequestError(f"{command.name} must be given {_A[subject]}; got none. For example: {example}")
    setattr(options, subject, given)
    if bare and not wrong:
        raise RequestError(
            f"{command.name} must be given one {_A[subject].split()[-1]}, {given}, and else flags; got {' '.join(bare)}, too. "
            f"See {prog} {command.name} --help"
        )
    return wrong


_A = {"data": "a source", "store": "a store", "run": "a run"}


def make_parser(prog: str = PROGRAM) -> argparse.ArgumentParser:
    """Return the parser of all commands; it stores the command's name as ``command``, None if none is given."""
    parser = _Parser(
        prog=prog,
        description="Image classifiers from small labelled sets: cache a frozen base's features once, train heads in seconds.",
    )
    parser.add_argument("--version", action="version", version=f"cached-features {__version__}")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        _add(commands, command, prog)
    return parser


def _add(commands: Any, command: Command, prog: str) -> None:
    summary = command.summary
    added = commands.add_parser(
        command.name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example: {prog} {command.example}",
    )
    added.set_defaults(command=command.name, level=logging.INFO)
    for argument in command.arguments:
        _complete(added.add_argument(argument.name, **argument.settings))
    groups: dict[str, Any] = {"options": added}
    for name, (kind, flag) in flags_of(command.options).items():
        if flag.group not in groups:
            groups[flag.group] = added.add_argument_group(flag.group)
        _add_flag(groups[flag.group], name, kind, flag)
    told = added.add_argument_group("messages")
    told.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    quietly = told.add_mutually_exclusive_group()
    quietly.add_argument(
        "--quiet", action="store_const", const=logging.WARNING, dest="level", help="print warnings and errors alone"
    )
    quietly.add_argument(
        "--verbose",
        action="store_const",
        const=logging.DEBUG,
        dest="level",
        help="print more, with the time of each line",
    )


def _add_flag(group: Any, name: str, kind: Any, flag: Flag) -> None:
    """Add an option, parsed by its type. If it is not given it stays None, and the function decides."""
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    first = kinds[0]
    settings: dict[str, Any] = {"dest": name, "help": flag.help}
    if first is bool:
        settings |= {"action": "store_true", "default": None}
    elif typing.get_origin(first) is Literal:
        settings["choices"] = typing.get_args(first)
    elif first == Sequence[str | Path]:  # one at a time, since a path may hold commas and blanks
        settings |= {"action": "append", "metavar": flag.metavar}
    elif typing.get_origin(first) in (tuple, Sequence):
        member = typing.get_args(first)[0]
        members = Members(str if member == Layer else member)
        settings |= {"nargs": "+", "action": Listed, "type": members, "metavar": flag.metavar}
    elif typing.get_origin(first) is Mapping:
        action = Named if typing.get_args(first)[1] is str else Setting
        settings |= {"action": action, "metavar": flag.metavar}
    else:
        settings |= {"type": first, "metavar": flag.metavar}
    names = [flag_name(name, flag)] + ["--layers"] * (name == "layer")  # as extract calls it
    _complete(group.add_argument(*names, **settings))


def _complete(action: Any) -> None:
    """Let a shell complete the names that an option takes."""
    names = _NAMES.get(next(iter(action.option_strings), ""))
    if names is not None:
        action.completer = lambda **_: names
