"""Which settings of a head are taken: the most accurate on rows that it was not fitted on."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Grid = dict[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Choice:
    """A head's settings as chosen.

    Attributes
    ----------
    settings : dict
        Name → value.
    tried : list of dict
        All settings that were tried, each with its ``accuracy`` on rows that it was not fitted on.
    history : dict, optional
        Learning curves, of heads that train by epochs: ``{name: [value of each epoch]}``.
    """

    settings: dict[str, Any]
    tried: list[dict[str, Any]]
    history: dict[str, list[float]] | None = None


def combinations(grid: Grid) -> list[dict[str, Any]]:
    """Return all settings of a grid; the last name varies fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def describe_settings(chosen: Sequence[dict[str, Any]], tried: Sequence[dict[str, Any]]) -> str:
    """Return the settings that were searched, for people; chosen several times, each value, the most frequent first."""
    told = []
    for name in chosen[0]:
        if len({each.get(name) for each in tried}) < 2:
            continue
        values = Counter(f"{each[name]:g}" if isinstance(each[name], float) else str(each[name]) for each in chosen)
        told.append(f"{name} {', '.join(value for value, _ in values.most_common())}")
    return "; ".join(told)


def best_of(settings: Sequence[dict[str, Any]], accuracies: Sequence[float]) -> Choice:
    """Choose the most accurate settings; of equals the middle one, away from the cliffs at either end of a plateau."""
    equal = [each for each, accuracy in zip(settings, accuracies, strict=True) if accuracy == max(accuracies)]
    tried = [{**each, "accuracy": float(accuracy)} for each, accuracy in zip(settings, accuracies, strict=True)]
    return Choice(equal[len(equal) // 2], tried)
