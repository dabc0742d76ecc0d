"""Choice of a head's settings: the most accurate on held-out rows."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Grid = dict[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Choice:
    """The chosen settings of a head.

    Attributes
    ----------
    settings : dict
        Name → value.
    tried : list of dict
        All settings that were tried, each with its ``accuracy`` on held-out rows.
    history : dict, optional
        Learning curves of heads that are trained by epochs: ``{name: [value of each epoch]}``.
    """

    settings: dict[str, Any]
    tried: list[dict[str, Any]]
    history: dict[str, list[float]] | None = None


def combinations(grid: Grid) -> list[dict[str, Any]]:
    """Return all combinations of a grid's values; the last name varies fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def describe_settings(chosen: Sequence[dict[str, Any]], tried: Sequence[dict[str, Any]]) -> str:
    """Return the settings with several tried values as text; of several choices, each value, the most frequent first."""
    told = []
    for name in chosen[0]:
        if len({each.get(name) for each in tried}) < 2:
            continue
        values = Counter(f"{each[name]:g}" if isinstance(each[name], float) else str(each[name]) for each in chosen)
        told.append(f"{name} {', '.join(value for value, _ in values.most_common())}")
    return "; ".join(told)


def best_of(settings: Sequence[dict[str, Any]], accuracies: Sequence[float]) -> Choice:
    """Choose the most accurate settings; among ties the middle one, away from the edges of a plateau."""
    equal = [each for each, accuracy in zip(settings, accuracies, strict=True) if accuracy == max(accuracies)]
    tried = [{**each, "accuracy": float(accuracy)} for each, accuracy in zip(settings, accuracies, strict=True)]
    return Choice(equal[len(equal) // 2], tried)
