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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from features._version import __version__
from features.errors import RequestError, must_be_one_of, no_option
from features.options import ExtractOptions, Flag, PlanOptions, flags_of

from ..options import (
    HEAD_NAMES,
    AuditOptions,
    BudgetOptions,
    CompareOptions,
    ExportOptions,
    LectureOptions,
    NextOptions,
    PredictOptions,
    ProbeOptions,
    ReplayOptions,
    ReportOptions,
    ServeOptions,
    TrainHeadOptions,
)

# Shown and told even where it was started as ``python -m pipeline``, since a pipeline.py in the current folder would hide that.
PROGRAM = "cached-features"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

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


class _Members:
    """Reads the members of a list that are separated by commas or blanks."""

    def __init__(self, kind: type):
        self.kind, self.__name__ = kind, f"list of {kind.__name__}"  # argparse names it in its error

    def __call__(self, text: str) -> tuple[Any, ...]:
        return tuple(self.kind(each) for each in re.split(r"[,\s]+", text) if each)


class _Listed(argparse.Action):
    """Collects a list whose members are separated by commas or blanks."""

    def __call__(self, parser: Any, namespace: Any, given: Any, option: Any = None) -> None:
        held = getattr(namespace, self.dest) or ()
        setattr(namespace, self.dest, (*held, *(each for members in given for each in members)))


class _Stores(argparse.Action):
    """Keeps one store as it is, and several as a list: a store's name may hold a comma."""

    def __call__(self, parser: Any, namespace: Any, given: Any, option: Any = None) -> None:
        held = getattr(namespace, self.dest) or []
        setattr(namespace, self.dest, _one_or_several([*([held] if isinstance(held, str) else held), *given]))


def _one_or_several(given: list[str]) -> str | list[str]:
    return given[0] if len(given) == 1 else given


class _Nothing(typing.TypedDict):
    """For commands without options."""


class _Next(NextOptions, ReplayOptions):
    """Of a queue, and of its replay."""


@dataclass(frozen=True)
class Argument:
    """What a command takes in addition to a function's options."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Command:
    """One command: its arguments and its help."""

    name: str
    summary: str
    example: str
    arguments: tuple[Argument, ...]
    options: type = _Nothing

    @property
    def subject(self) -> str | None:
        """The argument that a command is about, which may also be the first word after it, without its flag."""
        return next((each.name[2:] for each in self.arguments if each in SUBJECTS), None)

    @property
    def flags(self) -> list[str]:
        """Its flags as they are typed."""
        options = [_flag_name(name, flag) for name, (_, flag) in flags_of(self.options).items()]
        return [each.name for each in self.arguments] + options


def _argument(name: str, help: str, metavar: str | None = None, **settings: Any) -> Argument:
    return Argument(name, {"help": help, **({"metavar": metavar} if metavar else {}), **settings})


_DATA = _argument(
    "--data",
    "folder (split/class/file or class/file), CSV (path,label[,split]), elpv or cifar10; also as the first argument",
    "SOURCE",
)
_STORE = _argument("--store", "a finished feature store; also as the first argument", "STORE.h5")
_STORES = _argument(
    "--store",
    "a finished feature store, or several of the same images to compare bases; also as the first argument",
    "STORE.h5[,STORE.h5]",
    nargs="+",
    action=_Stores,
)
_RUN = _argument("--run", "the folder of a trained head; also as the first argument", "RUN")
_RESULTS = _argument(
    "--run",
    "what compare or train-head wrote; also as the first argument; given several times, these runs are shown side by side",
    "FOLDER",
    action="append",
)
SUBJECTS = (_DATA, _STORE, _STORES, _RUN, _RESULTS)
_DETAILS = _argument("--details", "print the confusion matrix and figures of each class", action="store_true")
_SIZE = flags_of(ExtractOptions)["image_size"][1].help
_PLAN_ONLY = _argument(
    "--plan-only", "say what the pass would cost on 1, 8 and 64 workers, without computing a store", action="store_true"
)

COMMANDS = (
    Command(
        "extract", "run a frozen base once over labelled images and keep its features",
        "extract --data photos --backbone vgg16 --out cache/photos.h5", (_DATA, _PLAN_ONLY), PlanOptions,
    ),
    Command(
        "train-head", "train one head on a store and save the run",
        "train-head --store cache/elpv-vgg16.h5 --head logistic",
        (_STORE, _argument(
            "--head", "a name in pipeline/README.md, or a scikit-learn classifier's dotted name (default logistic)", "NAME"
        ), _DETAILS),
        TrainHeadOptions,
    ),
    Command(
        "compare", "train many heads on the same rows and compare them",
        "compare --store cache/elpv-vgg16.h5 --heads logistic,rbf-svm --repeats 5",
        (_STORES, _argument("--heads", f"which heads (default all): {', '.join(HEAD_NAMES)}, or scikit-learn classifiers' dotted names",
                           "all|A[,B]", nargs="+", action=_Listed, type=_Members(str)),
         _argument("--sort", "order the printed table by head, a metric, fit_seconds or predict_seconds (default: by rank)", "COLUMN"),
         _DETAILS), CompareOptions,
    ),
    Command(
        "probe", "show accuracy layer by layer, and which layer to take",
        "probe --store cache/elpv-layers.h5 --repeats 5", (_STORE,), ProbeOptions,
    ),
    Command(
        "audit", "find near-copies across the split, and measure how optimistic it is",
        "audit --store cache/elpv-vgg16.h5 --group module", (_STORE,), AuditOptions,
    ),
    Command(
        "budget", "tell what more labelled images of the same kind would bring",
        "budget --store cache/elpv-vgg16.h5 --heads logistic,rbf-svm",
        (_STORE, _argument("--heads", "which heads (default logistic)", "A[,B]", nargs="+", action=_Listed, type=_Members(str))),
        BudgetOptions,
    ),
    Command(
        "report", "write one self-contained HTML page about a comparison or a trained head",
        "report --run runs/elpv-vgg16-compare",
        (_RESULTS, _argument("--open", "then open the page in a browser", action="store_true")), ReportOptions,
    ),
    Command(
        "predict", "classify new images with a trained head",
        "predict --run runs/photos-vgg16-logistic photos/new 'more/*.jpg'",
        (_RUN, _argument("images", "files, folders, patterns, or - for a list of paths on standard input", "IMAGES", nargs="*"),
         _argument("--watch", "then classify each image that appears below this folder, until Ctrl-C", "FOLDER"),
         _argument("--out", "write the rows to a new file as they are computed; after a kill the same command goes on", "FILE.csv")),
        PredictOptions,
    ),
    Command(
        "next", "choose the images that are most worth labelling, and write a page on which to label them",
        "next --run runs/photos-vgg16-logistic unlabelled -n 50",
        (_RUN, _argument("images", "files, folders and patterns", "IMAGES", nargs="*"),
         _argument("-n", "how many images (default 50)", "N", type=int),
         _argument("--replay", "instead, tell on the run's own store how many labels the queue would have saved", action="store_true")),
        _Next,
    ),
    Command(
        "export", "make one model of base and head, from pixels to probabilities",
        "export --run runs/photos-vgg16-logistic --out photos.keras",
        (_RUN, _argument("--out", "NAME.keras, NAME.onnx, or a folder for TensorFlow's SavedModel", "NAME", required=True)),
        ExportOptions,
    ),
    Command(
        "serve", "serve a page on which photos are dropped, and predictions as JSON",
        "serve --run runs/photos-vgg16-logistic", (_RUN,), ServeOptions,
    ),
    Command(
        "lecture", "run the lecture's models as they were, and corrected", "lecture --data photos", (_DATA,), LectureOptions
    ),
    Command(
        "layers", "list a backbone's layers, their shapes and bytes per image", "layers vgg16 --image-size 96",
        (_argument("backbone", "see extract --backbone", "NAME"), _argument("--image-size", _SIZE, "PX", type=int)),
    ),
    Command(
        "inspect", "show what a store holds", "inspect cache/elpv-vgg16.h5",
        (_argument("store", "a feature store", "STORE.h5"),
         _argument("--upgrade", "first rewrite a store of an earlier format in the current one", action="store_true")),
    ),
    Command(
        "verify", "check a store: its checksums, its source, and some recomputed rows",
        "verify cache/elpv-vgg16.h5 --rows 32",
        (_argument("store", "a feature store", "STORE.h5"),
         _argument("--rows", "random rows to compute again (default 16; 0: none)", "N", type=int),
         _argument("--seed", "seed of the choice of rows (default 0)", "N", type=int),
         _argument("--max-pixels", "compute no rows of larger images (default 250000000)", "N", type=int)),
    ),
)  # fmt: skip
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
        if word.startswith("--") and options.command is not None:
            known = {each.name: [*each.flags, *_OF_ALL] for each in COMMANDS}
            raise no_option(options.command, word.partition("=")[0], known)
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
            given, bare = _one_or_several(bare), []
        else:
            given, *bare = bare
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
    elif typing.get_origin(first) in (tuple, Sequence):
        members = _Members(typing.get_args(first)[0])
        settings |= {"nargs": "+", "action": _Listed, "type": members, "metavar": flag.metavar}
    elif typing.get_origin(first) is Mapping:
        action = _Named if typing.get_args(first)[1] is str else _Setting
        settings |= {"action": action, "metavar": flag.metavar}
    else:
        settings |= {"type": first, "metavar": flag.metavar}
    _complete(group.add_argument(_flag_name(name, flag), **settings))


def _complete(action: Any) -> None:
    """Let a shell complete the names that an option takes."""
    names = _NAMES.get(next(iter(action.option_strings), ""))
    if names is not None:
        action.completer = lambda **_: names


def _flag_name(name: str, flag: Flag) -> str:
    return f"--{flag.name or name.replace('_', '-')}"


class _Setting(argparse.Action):
    """Collects ``NAME=V,V`` into a dict of name to values: numbers if they parse as such, else strings."""

    def __call__(self, parser: Any, namespace: Any, given: Any, option: Any = None) -> None:
        name, equals, values = given.partition("=")
        if not (name and equals and values):
            parser.error(f"--set must be like C=1,10; got {given!r}")
        held = getattr(namespace, self.dest) or {}
        if name in held:
            parser.error(f"--set {name} must be given once; got it twice. Give its values together: --set {name}=V,V")
        setattr(namespace, self.dest, {**held, name: tuple(_value(each) for each in values.split(","))})


class _Named(argparse.Action):
    """Collects ``NAME=TEXT`` into a dict."""

    def __call__(self, parser: Any, namespace: Any, given: Any, option: Any = None) -> None:
        name, equals, text = given.partition("=")
        held = getattr(namespace, self.dest) or {}
        if not (name and equals and text) or name in held:
            parser.error(f"{option} must be like {self.metavar}, once for each name; got {given!r}")
        setattr(namespace, self.dest, {**held, name: text})


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"True": True, "False": False, "None": None}.get(text, text)
