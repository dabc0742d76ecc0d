"""The commands of the command line, with their arguments and help."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from features.options import ExtractOptions, Flag, PlanOptions, flags_of

from ...options import (
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
from .actions import Listed, Members, Stores


class _Nothing(typing.TypedDict):
    """For commands without options."""


class _Next(NextOptions, ReplayOptions):
    """Of a queue, and of its replay."""


@dataclass(frozen=True)
class Argument:
    """What a command takes in addition to a function's options.

    Attributes
    ----------
    name : str
    settings : mapping
        Of argparse.
    meant : tuple of str
        Other names by which it is commonly asked for, which an error answers with its own.
    """

    name: str
    settings: Mapping[str, Any]
    meant: tuple[str, ...] = ()


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
        options = [flag_name(name, flag) for name, (_, flag) in flags_of(self.options).items()]
        return [each.name for each in self.arguments if each.name.startswith("-")] + options

    @property
    def meant(self) -> dict[str, str]:
        """Another name by which a flag is commonly asked for → the flag."""
        return {name: each.name for each in self.arguments for name in each.meant}


def _argument(
    name: str, help: str, metavar: str | None = None, meant: tuple[str, ...] = (), **settings: Any
) -> Argument:
    return Argument(name, {"help": help, **({"metavar": metavar} if metavar else {}), **settings}, meant)


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
    action=Stores,
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
                           "all|A[,B]", nargs="+", action=Listed, type=Members(str)),
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
        (_STORE, _argument("--heads", "which heads (default logistic)", "A[,B]", nargs="+", action=Listed, type=Members(str))),
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
         _argument("-n", "how many images (default 50)", "N", type=int,
                   meant=("--count", "--number", "--num", "--images", "--limit", "--size", "--top", "--max")),
         _argument("--replay", "instead, tell on the run's own store how many labels the queue would have saved", action="store_true")),
        _Next,
    ),
    Command(
        "export", "make one model of base and head, from pixels to probabilities",
        "export --run runs/photos-vgg16-logistic --out photos.keras",
        (_RUN, _argument("--out", "NAME.keras, NAME.onnx, or a folder for TensorFlow's SavedModel; also after the run", "NAME")),
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


def flag_name(name: str, flag: Flag) -> str:
    """Return an option's flag as it is typed."""
    return f"--{flag.name or name.replace('_', '-')}"
