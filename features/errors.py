"""What can go wrong. Every message says what, why, and the next command or remedy.

A remedy names arguments to whoever calls from Python, and flags to whoever typed a command: `option` and `command` give
either, as `on_command_line` was entered or not.
"""

from __future__ import annotations

import contextlib
import difflib
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_program: str | None = None  # what was typed; None where Python is the caller


class CachedFeaturesError(Exception):
    """Base of all errors that the command line prints as one line.

    Attributes
    ----------
    exit_status : int
        1: the run failed; 2: the request was wrong.
    """

    exit_status = 1


class RequestError(CachedFeaturesError, ValueError):
    """What was asked for cannot be done as asked."""

    exit_status = 2


class SourceError(RequestError):
    """The labelled images are missing, mislabelled or unreadable as a set."""


class WeightsError(CachedFeaturesError):
    """The weights cannot be had, or are not the ones they are said to be."""


class StoreError(CachedFeaturesError):
    """A feature store cannot be read, written or matched to the request."""


class UnsafeFile(CachedFeaturesError):
    """A file could run code, reaches outside itself, or claims more than it holds; nothing of it was used."""


class EngineError(CachedFeaturesError):
    """An engine cannot run a base, or its features are not TensorFlow's."""


class ClusterError(CachedFeaturesError):
    """A cluster cannot be reached, was lost, or has a worker that cannot do its part."""


class ParityError(CachedFeaturesError):
    """An exported model does not give what the run gives."""


class UnreadableImage(CachedFeaturesError):
    """One file is no usable image; its message is the reason kept in ``/skipped``."""


@contextlib.contextmanager
def on_command_line(program: str) -> Iterator[None]:
    """Let remedies name flags, and commands of this program, while a command runs."""
    global _program
    before, _program = _program, program
    try:
        yield
    finally:
        _program = before


def option(name: str, value: Any = None) -> str:
    """Return how an option is given: ``image_size=96``, or ``--image-size 96`` on the command line.

    Parameters
    ----------
    name : str
        Of the argument.
    value : object, optional
        True for a switch, a dict for the settings of a head; dots stand for it, or nothing, if left out.
    """
    if isinstance(value, Path):
        value = str(value)
    if _program is None:
        return f"{name}=..." if value is None else f"{name}={value!r}"
    if isinstance(value, tuple):
        value = ",".join(value)
    if isinstance(value, Mapping):
        return " ".join(f"--set {setting}={','.join(map(str, values))}" for setting, values in value.items())
    flag = f"--{name.replace('_', '-')}"
    return flag if value is None or value is True else f"{flag} {shlex.quote(str(value))}"


def command(name: str, *arguments: str, **options: Any) -> str:
    """Return how a public function is called: ``pipeline.compare(store='s.h5')``, or as a command."""
    if _program is not None:
        words = [option(each, value) for each, value in options.items()]
        return " ".join([_program, name, *words, *arguments])
    stage = "features" if name == "extract" else "pipeline"
    given = [option(each, value) for each, value in options.items()]
    return f"{stage}.{name.replace('-', '_')}({', '.join([*map(repr, arguments), *given])})"


def closest(name: str, names: Iterable[str]) -> str | None:
    """Return the name that a misspelt one is nearest to, if one is near."""
    near = difflib.get_close_matches(name, list(names), 1)
    return near[0] if near else None


def must_be_one_of(what: str, allowed: Iterable[str], got: str, remedy: str = "") -> RequestError:
    """Return the error for a name outside a closed set, with the nearest name as the remedy."""
    names = sorted(allowed)
    near = max(names, key=lambda name: difflib.SequenceMatcher(None, got, name).ratio())
    hint = f"Did you mean {near!r}?" if difflib.get_close_matches(got, [near]) else remedy
    return RequestError(f"{what} must be one of {', '.join(names)}; got {got!r}. {hint}".rstrip())


def missing_extra(package: str, extra: str, purpose: str) -> RequestError:
    """Return the error for an optional package that is not installed."""
    return RequestError(
        f"{purpose} needs the package {package}, which is not installed. Install it: pip install 'cached-features[{extra}]'"
    )
