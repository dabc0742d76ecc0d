"""Options of public functions: one place for an option's type, its help and its command-line flag."""

# Not postponed: the command line reads these annotations.
import contextlib
import functools
import inspect
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    ParamSpec,
    TypedDict,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from .errors import RequestError, called, no_option

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Flag:
    """How an option is explained and given on the command line.

    Attributes
    ----------
    help : str
        A phrase that includes the default.
    metavar : str, optional
        Placeholder for the value; None for choices and switches.
    group : str
        Heading under which the help lists the option.
    name : str, optional
        Name of the flag, if it differs from the option's.
    """

    help: str
    metavar: str | None = None
    group: str = "options"
    name: str | None = None


IMAGES, BASE, STORE, MACHINES = "images", "base", "store", "more machines"
Layer = str | int  # its name, or its index in the base's list
Pool = Literal["avg", "max", "avg+max", "cls", "cls+avg"]  # how maps or tokens become vectors, see `pooling`
ExtractPool = Literal["none", Pool]  # before they are stored
ReadPool = Literal["flatten", Pool]  # when stored features are read for a head


class ExtractOptions(TypedDict, total=False):
    """Options of `features.extract`."""

    add: Annotated[
        Sequence[str | Path],
        Flag("CSV file whose images are added to the source; may be repeated", "FILE.csv", IMAGES),
    ]
    path_column: Annotated[str | None, Flag("header of a CSV's paths (default path)", "NAME", IMAGES)]
    label_column: Annotated[str | None, Flag("header of a CSV's classes (default label)", "NAME", IMAGES)]
    split_column: Annotated[
        str | None, Flag("header of a CSV's splits (default split, where there is one)", "NAME", IMAGES)
    ]
    path_pattern: Annotated[
        str | None, Flag("what the path column means, such as 'train/{}.jpg' (default: the path)", "PATH", IMAGES)
    ]
    label_pattern: Annotated[
        str | None,
        Flag(
            "of a folder: the class is the first group of a regular expression, or all that it matches, in the path",
            "PATTERN",
            IMAGES,
        ),
    ]
    follow_links: Annotated[bool, Flag("follow links that lead out of the folder", group=IMAGES)]
    column: Annotated[
        Mapping[str, str],
        Flag(
            "keep a column that paths give: the first group of a regular expression, or all that it matches; may be repeated",
            "NAME=PATTERN",
            IMAGES,
        ),
    ]
    group: Annotated[
        str | None,
        Flag("column whose equal texts (a patient's images) must stay in one split (default: none)", "COLUMN", IMAGES),
    ]
    limit: Annotated[int | None, Flag("a stratified subset of N images", "N", IMAGES)]
    seed: Annotated[
        int,
        Flag("seed of splits that the source does not give, of --limit and --augment lecture (default 0)", "N", IMAGES),
    ]
    resize: Annotated[
        Literal["bilinear", "nearest", "box", "bicubic", "lanczos"] | None,
        Flag(
            "resize rule (default: as the store's; for a new one bilinear, antialiased, and of models of timm their own)",
            group=IMAGES,
        ),
    ]
    decode: Annotated[
        Literal["scaled", "full"] | None,
        Flag(
            "JPEGs of at least four times the asked side: decoded at a reduced size, which is faster, or in full (default: as "
            "the store's; scaled for a new one)",
            group=IMAGES,
        ),
    ]
    colour: Annotated[
        Literal["srgb", "ignored"] | None,
        Flag(
            "convert colours by a file's ICC profile to sRGB (default: as the store's; srgb for a new one)",
            group=IMAGES,
        ),
    ]
    background: Annotated[
        str | None,
        Flag(
            "what shows through transparent pixels: white, grey, black, #rrggbb, or none, which drops transparency (default: as the "
            "store's; white for a new one)",
            "COLOUR",
            IMAGES,
        ),
    ]
    range: Annotated[
        str | None,
        Flag(
            "which values of more than 8 bits become 0 to 255, such as 12-bit or 0:4095 (default: as the store's; the bits in use "
            "over the source for a new one)",
            "RANGE",
            IMAGES,
        ),
    ]
    fit: Annotated[
        str | None,
        Flag(
            "how an image becomes a square: stretch, crop (its middle, 0.875 of the shorter side; crop:0.9 for another share), or pad "
            "(whole between black; default: as the store's; for a new one stretch, or what timm says of its model)",
            "FIT",
            IMAGES,
        ),
    ]
    views: Annotated[int, Flag("rows per image: itself and N - 1 augmented copies (default 1)", "N", IMAGES)]
    augment: Annotated[
        Literal["none", "hflip", "dihedral", "lecture"], Flag("what the copies are (default none)", group=IMAGES)
    ]
    max_pixels: Annotated[
        int, Flag("skip larger images (default 250000000); if it is higher, skipped files are tried again", "N", IMAGES)
    ]
    max_skipped: Annotated[
        float | None,
        Flag(
            "stop when more files than this cannot be used (default 0.05, or 5 files if that is more)",
            "FRACTION",
            IMAGES,
        ),
    ]
    corrections: Annotated[
        str | Path | None,
        Flag(
            "change labels and drop images as a CSV of a report's page says (those of test only with --corrections-test)",
            "FILE",
            IMAGES,
        ),
    ]
    corrections_test: Annotated[bool, Flag("correct the images of test, too", group=IMAGES)]
    retry_skipped: Annotated[bool, Flag("try files again that could not be used before", group=IMAGES)]
    drop: Annotated[
        bool,
        Flag("let images that the source no longer has leave the store, even more than a tenth of them", group=IMAGES),
    ]
    allow_missing_classes: Annotated[bool, Flag("accept classes without a readable image in some split", group=IMAGES)]
    workers: Annotated[int, Flag("threads that read and decode (default: one per core, 8 at most)", "N", IMAGES)]
    backbone: Annotated[
        str | Path,
        Flag(
            "a name in features/README.md (default vgg16), a model of timm (timm:NAME), or one of your own: FILE.onnx or FILE.keras",
            "NAME",
            BASE,
        ),
    ]
    layers: Annotated[
        Sequence[Layer] | None, Flag("layers by name or index (default: the last feature map)", "L[,L]", BASE)
    ]
    image_size: Annotated[
        int | None, Flag("side of the square that images are resized to (default: the base's)", "PX", BASE)
    ]
    preprocess: Annotated[
        Literal["imagenet", "clip", "half", "rescale", "none"] | None,
        Flag(
            "the base's own, division by 255, or RGB as it is (default: the base's own; none for FILE.keras); for FILE.onnx: "
            "means and deviations of ImageNet or CLIP, -1 to 1 (half), 0 to 1 (rescale), or 0 to 255 (none)",
            group=BASE,
        ),
    ]
    mean: Annotated[
        tuple[float, ...] | None,
        Flag("for FILE.onnx, instead of a preset: mean of the scaled pixels (default 0)", "R[,G,B]", BASE),
    ]
    std: Annotated[tuple[float, ...] | None, Flag("the same: their standard deviation (default 1)", "R[,G,B]", BASE)]
    scale: Annotated[float | None, Flag("the same: what pixels are multiplied by first (default 1/255)", "S", BASE)]
    channels: Annotated[
        Literal["rgb", "bgr"] | None, Flag("the same: the model's order of channels (default rgb)", group=BASE)
    ]
    weights: Annotated[str | Path, Flag("file of weights instead of finding ImageNet's", "FILE", BASE)]
    weights_sha256: Annotated[str | None, Flag("accept weights with this SHA-256", "HEX", BASE)]
    engine: Annotated[
        str,
        Flag(
            "what runs the base: auto (default: the fastest of those that are installed and for this device) or a name "
            "in features/README.md",
            "NAME",
            BASE,
        ),
    ]
    batch_size: Annotated[int | None, Flag("images per batch (default 16; found by trial on a GPU)", "N", BASE)]
    out: Annotated[str | Path | None, Flag("the store (default cache/SOURCE-BACKBONE.h5)", "NAME.h5", STORE)]
    pool: Annotated[
        ExtractPool | None,
        Flag("pool maps over space before storing them (default none, if they fit)", group=STORE),
    ]
    dtype: Annotated[Literal["float16", "float32"], Flag("stored precision (default float16)", group=STORE)]
    compression: Annotated[
        Literal["gzip", "none", "lz4", "zstd"] | None,
        Flag(
            "compression of values (default: the store's, gzip for a new one; lz4 and zstd need hdf5plugin, also to be read)",
            group=STORE,
        ),
    ]
    layout: Annotated[
        Literal["file", "parts"],
        Flag("one file, or parts that stay with an index over them (default file)", group=STORE),
    ]
    cluster: Annotated[
        str | None,
        Flag("who computes: a Dask scheduler, tcp://host:8786, or local:N processes here", "WHERE", MACHINES),
    ]
    skip_unfit: Annotated[bool, Flag("go on without workers that are not fit; each is named", group=MACHINES)]
    part_images: Annotated[int | None, Flag("most images per part on a cluster (default 512)", "N", MACHINES)]


class PlanOptions(ExtractOptions, total=False):
    """Options of `features.plan_cost`."""

    images: Annotated[int | None, Flag("with --plan-only: for N images like those of the source", "N", MACHINES)]
    rate: Annotated[float | None, Flag("with --plan-only: images/s per worker (default: measured here)", "R", MACHINES)]


def flags_of(options: type) -> dict[str, tuple[Any, Flag]]:
    """Return the type and the flag of each option that a TypedDict declares."""
    hints = get_type_hints(options, include_extras=True)
    return {name: (hint.__origin__, hint.__metadata__[0]) for name, hint in hints.items()}


# Function → its options; stage two adds its own.
OPTIONS_OF: dict[str, type] = {"extract": ExtractOptions, "plan_cost": PlanOptions}


def takes(options: type) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a public function whose options a TypedDict declares.

    An unknown name raises RequestError with the nearest option, or the function that has this one. A value whose type does not
    match the annotation raises RequestError, too; see `typed`. The options are listed in the function's docstring.
    """
    flags = flags_of(options)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        own = [name for name, each in signature.parameters.items() if each.kind is not each.VAR_KEYWORD]

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in flags and name not in own:
                    known = {each: list(flags_of(declared)) for each, declared in OPTIONS_OF.items()}
                    raise no_option(function.__name__, name, known | {function.__name__: [*own, *flags]})
            given = signature.bind(*args, **kwargs).arguments
            kinds = get_type_hints(function) | {name: kind for name, (kind, _) in flags.items()}
            given |= given.pop("options", {})
            return cast(Any, function)(**{name: typed(name, kinds[name], value) for name, value in given.items()})

        listed = "\n".join(
            f"    {name} : {_type_name(kind)}\n        {_sentence(flag)}" for name, (kind, flag) in flags.items()
        )
        checked.__doc__ = (function.__doc__ or "").replace("    **options\n", f"{listed}\n", 1)
        return checked

    return decorate


def typed(name: str, kind: Any, value: Any) -> Any:
    """Return an option's value converted to the option's type.

    NumPy numbers become Python numbers, which JSON can represent; paths become strings, and lists become tuples. A lone value where a
    list is meant is a list of one.

    Parameters
    ----------
    name : str
        Name of the option.
    kind : type
        Its annotation. Whether a value is one of a Literal's choices is checked where the option is used.
    value : object

    Raises
    ------
    RequestError
        If the value has the wrong type, or is an empty string or list.
    """
    try:
        return _taken(kind, value)
    except _OtherType:
        remedy = " Leave it out." if isinstance(value, str | list | tuple) and not value else ""
        raise RequestError(f"{called(name)} must be {_in_words(kind)}; got {value!r}.{remedy}") from None


def as_list(value: Any, split: bool = False) -> Any:
    """Return what stands for a list: a lone string, path or number as a list of itself; others as they are.

    Parameters
    ----------
    value : object
    split : bool
        Cut a string at commas and blanks, as the command line does.
    """
    if isinstance(value, str):
        return (re.split(r"[,\s]+", value.strip()) if split else [value]) if value.strip() else []
    return [value] if isinstance(value, os.PathLike | int | float) else value


class _OtherType(Exception):
    """A value does not have the option's type."""


def _taken(kind: Any, value: Any) -> Any:
    """Return a value converted to a type; see `typed`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        for each in parts:
            with contextlib.suppress(_OtherType):
                taken = _taken(each, value)
                return str(taken) if kind == Layer else taken  # as on the command line
    elif origin is Mapping:
        if isinstance(value, Mapping):
            return {_taken(parts[0], each): _taken(parts[1], held) for each, held in value.items()}
    elif origin in (tuple, Sequence):
        value = as_list(value, split=parts[0] in (str, Layer))
        if isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping) and len(value):
            return tuple(_taken(parts[0], each) for each in value)
    elif origin is Iterable:
        if isinstance(value, Iterable):
            return value
    elif isinstance(kind, type) and kind is not Any and kind not in _WORDS and isinstance(value, kind):
        return value
    else:
        return _taken_single(kind, value)
    raise _OtherType


def _taken_single(kind: Any, value: Any) -> Any:
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # NumPy's scalars, without importing NumPy
        value = value.item()
    if kind is Path and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind is Any or (kind is NoneType and value is None):
        return value
    wanted: Any = {int: int, float: (int, float), bool: bool}.get(kind, str)
    is_flag = isinstance(value, bool)
    if kind in (NoneType, Path) or not isinstance(value, wanted) or is_flag != (kind is bool) or value == "":
        raise _OtherType
    return value


_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", Path: "a path"}


def _in_words(kind: Any) -> str:
    """Return a type in words, without None, which only means that an option is left out."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        words = [_in_words(each) for each in parts if each is not NoneType and not (each is str and Path in parts)]
        return " or ".join(words)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, parts))
    if origin is Mapping:
        return (
            "a dict of strings, such as {'patient': 'p[0-9]+'}"
            if parts[1] is str
            else "a dict of lists, such as {'C': (1, 10)}"
        )
    if origin is not None and len(get_args(parts[0])) > 2:  # of what it may be alone, too
        return "a list of these"
    if origin is not None:
        return "a list of " + " or ".join(f"{each.removeprefix('a ')}s" for each in _in_words(parts[0]).split(" or "))
    return _WORDS.get(kind) or f"a {kind.__module__}.{kind.__qualname__}"


def _sentence(flag: Flag) -> str:
    """Return a flag's help as a sentence that names arguments instead of flags."""
    text = re.sub(r"--([a-z][a-z-]*)", lambda found: found[1].replace("-", "_"), flag.help)
    return f"{text[0].upper()}{text[1:]}."


def _type_name(kind: Any) -> str:
    """Return a type as numpydoc writes it: choices in braces, and ``optional`` if it may be None."""
    if get_origin(kind) in (Union, UnionType):
        *names, last = (_type_name(each) for each in get_args(kind) if each is not NoneType)
        return (" or ".join([", ".join(names), last]) if names else last) + (
            ", optional" if NoneType in get_args(kind) else ""
        )
    if get_origin(kind) is Literal:
        return "{" + ", ".join(map(repr, get_args(kind))) + "}"
    return (
        kind.__name__ if get_origin(kind) is None else str(kind).replace("typing.", "").replace("collections.abc.", "")
    )
