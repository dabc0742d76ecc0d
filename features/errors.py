"""The errors. Every message says what is wrong, why, and the remedy or the next command.

Messages name arguments when called from Python, and flags on the command line: `called`, `option` and `command` return flags
inside `on_command_line` and arguments elsewhere.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_program: str | None = None  # the program as typed; None when called from Python
_NEARLY_THE_SAME = 0.9  # difflib's ratio, as of layer and layers
_MEANT = 3  # names that begin as the one that was given
_LOOKED_AT = 1000  # names of a folder among which the one that was meant is looked for


class CachedFeaturesError(Exception):
    """Base of all errors that the command line prints as one line.

    Attributes
    ----------
    exit_status : int
        1: the run failed; 2: the request was wrong.
    """

    exit_status = 1


class RequestError(CachedFeaturesError, ValueError):
    """The request cannot be fulfilled as given."""

    exit_status = 2


class SourceError(RequestError):
    """The labelled images are missing, mislabelled or unreadable as a set."""


class WeightsError(CachedFeaturesError):
    """The weights cannot be obtained, or are not what they claim to be."""


class StoreError(CachedFeaturesError):
    """A feature store cannot be read or written, or is not the one that is needed."""


class WrongStore(RequestError, StoreError):
    """The feature store that is named is not there, is something else, or was made with other settings than the requested ones."""


class UnsafeFile(CachedFeaturesError):
    """A file could run code, refers outside itself, or claims to hold more than it does; none of it was used."""


class EngineError(CachedFeaturesError):
    """An engine cannot run a base, or its features differ too much from the reference engine's."""


class ClusterError(CachedFeaturesError):
    """A cluster cannot be reached, was lost, or has a worker that cannot do its part."""


class ParityError(CachedFeaturesError):
    """An exported model's predictions differ from the run's."""


class UnreadableImage(CachedFeaturesError):
    """A file is not a usable image; the message is the reason stored in ``/skipped``."""


class UnreadableNow(UnreadableImage):
    """A file cannot be read now, or there is no memory to decode it: nothing to be kept about its content."""


@contextlib.contextmanager
def on_command_line(program: str) -> Iterator[None]:
    """Let messages name this program's flags and commands while a command runs."""
    global _program
    before, _program = _program, program
    try:
        yield
    finally:
        _program = before


def called(name: str) -> str:
    """Return an option's name: ``image_size``, or ``--image-size`` on the command line."""
    if _program is None:
        return name
    if name == "settings":
        return "--set"
    return f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"


def option(name: str, value: Any = None) -> str:
    """Return how an option is given: ``image_size=96``, or ``--image-size 96`` on the command line.

    Parameters
    ----------
    name : str
        Name of the argument.
    value : object, optional
        True for a switch, a dict for the settings of a head, a list for a flag that is repeated, a tuple for members between commas. If
        left out, dots stand for it, or nothing.
    """
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, list) and _program is not None:
        return " ".join(option(name, each) for each in value)
    if _program is None:
        return f"{name}=..." if value is None else f"{name}={value!r}"
    flag = called(name)
    if isinstance(value, Mapping):
        given = (
            f"{name}={told if isinstance(told, str) else ','.join(map(str, told))}" for name, told in value.items()
        )
        return " ".join(f"{flag} {shlex.quote(each)}" for each in given)
    if value is None or value is True:
        return flag
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"{flag}{'=' if text.startswith('-') else ' '}{shlex.quote(text)}"  # --layers=-2,-1, so that -2,-1 is not read as a flag


def command(name: str, *arguments: str, **options: Any) -> str:
    """Return a call of a public function, ``pipeline.compare(store='s.h5')``, or the equivalent command."""
    if _program is not None:
        words = [option(each, value) for each, value in options.items()]
        return " ".join([_program, name, *words, *map(shlex.quote, arguments)])
    stage = "features" if name == "extract" else "pipeline"
    given = [option(each, value) for each, value in options.items()]
    return f"{stage}.{name.replace('-', '_')}({', '.join([*map(repr, arguments), *given])})"


def shell(*words: str | Path) -> str:
    """Return a command of the system, ``ls 'my photos'``, quoted for its shell."""
    return shlex.join(map(str, words))


def in_result(name: str) -> str:
    """Return where a field of a function's result is found: ``left_out of the result``, or ``--json`` on the command line."""
    return f"{name} of the result" if _program is None else "--json"


def no_option(
    of: str, name: str, known: Mapping[str, Collection[str]], meant: Mapping[str, str] | None = None
) -> RequestError:
    """Return the error for an unknown option of a function or command, with the function that has it or the nearest name.

    Parameters
    ----------
    of, name : str
    known : dict of str to collection of str
        Function or command → its options.
    meant : dict of str to str, optional
        Another name by which an option of this function is commonly asked for → the option.
    """
    meant = {**{each: each for each in known[of]}, **(meant or {})}
    begun = [each for each in meant if name.strip("-") and each.lstrip("-").startswith(name.lstrip("-"))]
    near = list(dict.fromkeys(meant[each] for each in begun or difflib.get_close_matches(name, list(meant), 1)))
    very_near = difflib.get_close_matches(name, near, 1, _NEARLY_THE_SAME)
    where = [each for each, options in known.items() if name in options]
    if where:
        hint = f"It belongs to {', '.join(where)}." + (f" Did you mean {very_near[0]}?" if very_near else "")
    else:
        hint = f"Did you mean {' or '.join(near[:_MEANT])}?" if near else f"It has {', '.join(known[of])}."
    return RequestError(f"{of} has no option {name}. {hint}")


def listed(texts: Collection[str], most: int = 20) -> str:
    """Return texts separated by commas; of more than `most`, the first of them and how many more there are."""
    shown = ", ".join(itertools.islice(texts, most))
    return shown if len(texts) <= most else f"{shown} and {len(texts) - most:,} more"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 image``, ``1,400 images``, ``2 classes``."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{count:,} {noun if count == 1 else plural}"


def must_be_one_of(what: str, allowed: Iterable[str], got: str, remedy: str = "") -> RequestError:
    """Return the error for a name outside a closed set, with the nearest name as the remedy."""
    names = sorted(allowed)
    begun = [name for name in names if got and name.startswith(got)][:_MEANT]
    near = max(names, key=lambda name: difflib.SequenceMatcher(None, got, name).ratio())
    meant = begun or difflib.get_close_matches(got, [near])
    hint = f"Did you mean {' or '.join(map(repr, meant))}?" if meant else remedy
    return RequestError(f"{what} must be one of {', '.join(names)}; got {got!r}. {hint}".rstrip())


def find_near(path: str | Path, remedy: str | None = None) -> str:
    """Return the remedy for a path that is not there: the nearest name that is, else `remedy`, by default to list its folder."""
    path = Path(path)
    missing = next((each for each in (path, *path.parents) if each.parent.is_dir()), path)
    with contextlib.suppress(OSError):
        names = {each.name for each in itertools.islice(missing.parent.iterdir(), _LOOKED_AT)} - {missing.name}
        for near in difflib.get_close_matches(missing.name, names, 1):
            meant = missing.with_name(near) / path.relative_to(missing)
            if meant.exists():
                return f"Did you mean {meant}?"
    return remedy or f"Check: {shell('ls', missing.parent)}"


def batch_too_large(device: str, count: int, side: int) -> EngineError:
    """Return the error for a batch of so many images of this side that does not fit into a device's memory."""
    return EngineError(
        f"a batch must fit into the memory of {device}; {count} images of {side} px do not. "
        f"Use smaller batches: {option('batch_size', max(1, count // 2))}"
    )


def missing_extra(package: str, extra: str, purpose: str) -> RequestError:
    """Return the error for an optional package that is not installed."""
    return RequestError(
        f"{purpose} needs the package {package}, which is not installed. Install it, from the folder of this program's source: "
        f"pip install -e '.[{extra}]'"
    )
