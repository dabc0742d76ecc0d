"""How the parser reads values: lists, pairs, and one store or several."""

from __future__ import annotations

import argparse
import re
from typing import Any


class Members:
    """Reads the members of a list that are separated by commas or blanks."""

    def __init__(self, kind: type):
        self.kind, self.__name__ = kind, f"list of {kind.__name__}"  # argparse names it in its error

    def __call__(self, text: str) -> tuple[Any, ...]:
        """Return the members of a text."""
        return tuple(self.kind(each) for each in re.split(r"[,\s]+", text) if each)


class Listed(argparse.Action):
    """Collects a list whose members are separated by commas or blanks."""

    def __call__(self, parser: Any, namespace: Any, given: Any, option: Any = None) -> None:
        """Take what was given; see `argparse.Action`."""
        held = getattr(namespace, self.dest) or ()
        setattr(namespace, self.dest, (*held, *(each for members in given for each in members)))


class Stores(argparse.Action):
    """Keeps one store as it is, and several as a list: a store's name may hold a comma."""

    def __call__(self, parser: Any, namespace: Any, given: Any, option: Any = None) -> None:
        """Take what was given; see `argparse.Action`."""
        held = getattr(namespace, self.dest) or []
        setattr(namespace, self.dest, one_or_several([*([held] if isinstance(held, str) else held), *given]))


def one_or_several(given: list[str]) -> str | list[str]:
    """Return the only one itself, or all."""
    return given[0] if len(given) == 1 else given


class Setting(argparse.Action):
    """Collects ``NAME=V,V`` into a dict of name to values: numbers if they parse as such, else strings."""

    def __call__(self, parser: Any, namespace: Any, given: Any, option: Any = None) -> None:
        """Take what was given; see `argparse.Action`."""
        name, equals, values = given.partition("=")
        if not (name and equals and values):
            parser.error(f"--set must be like C=1,10; got {given!r}")
        held = getattr(namespace, self.dest) or {}
        if name in held:
            parser.error(f"--set {name} must be given once; got it twice. Give its values together: --set {name}=V,V")
        setattr(namespace, self.dest, {**held, name: tuple(_value(each) for each in values.split(","))})


class Named(argparse.Action):
    """Collects ``NAME=TEXT`` into a dict."""

    def __call__(self, parser: Any, namespace: Any, given: Any, option: Any = None) -> None:
        """Take what was given; see `argparse.Action`."""
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
