"""What an operating point is chosen for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from features.errors import RequestError, called, must_be_one_of, option
from features.runtime.log import log

from ...options import Threshold

DECIDED = get_args(Threshold)
WAYS = ("threshold", "cost", "sensitivity", "specificity")  # options that ask for an operating point


@dataclass(frozen=True)
class Aim:
    """What an operating point is chosen for.

    Attributes
    ----------
    way : {'threshold', 'cost', 'sensitivity', 'specificity'}
        Which option asked for it.
    positive : str
        The class whose probability is compared with the threshold.
    metric : str or None
        With ``threshold``: the metric, of `DECIDED`.
    value : float or None
        With ``cost``: the cost of a miss, a positive image that is predicted as the other class, in units of the cost of a
        false alarm, the opposite mistake. With the last two: the share that is asked for.
    """

    way: str
    positive: str
    metric: str | None = None
    value: float | None = None

    def __str__(self) -> str:
        return f"{self.metric}" if self.way == "threshold" else f"{self.way} {self.value:g}"

    @classmethod
    def of(cls, options: Mapping[str, Any], class_names: Sequence[str], labels: np.ndarray) -> Aim | None:
        """Return the aim that options ask for, or None.

        Parameters
        ----------
        options : mapping
            Of ``train_head``.
        class_names : sequence of str
        labels : ndarray of shape (n_images,), int
            Of train and val: by default, their rarer class is the positive one, at equal numbers the second.

        Raises
        ------
        RequestError
            If options contradict each other, there are not two classes, or a value is not allowed.
        """
        given = [name for name in WAYS if options.get(name) is not None]
        positive = options.get("positive")
        if not given:
            if positive is not None:
                raise RequestError(
                    f"{called('positive')} must come with {' or '.join(map(called, WAYS))}; got it alone. Leave it out."
                )
            return None
        if len(given) > 1:
            raise RequestError(
                f"an operating point must be chosen for one thing; got {' and '.join(map(called, given))}. Leave out all but one."
            )
        (way,) = given
        if len(class_names) != 2:
            raise RequestError(
                f"{called(way)} must be left out unless there are two classes; got {len(class_names)}: {', '.join(class_names)}."
            )
        if way == "cost":
            if positive is not None:
                raise RequestError(
                    f"{called('positive')} must be left out with {called('cost')}, whose first class is the positive one; "
                    f"got {positive!r}."
                )
            return cls(way, *_read_cost(options[way], class_names))
        if positive is None:
            numbers = np.bincount(labels, minlength=2)
            positive = class_names[0 if numbers[0] < numbers[1] else 1]
            rarer = "the rarer class" if numbers[0] != numbers[1] else "one of two equally frequent classes"
            log.info(f"positive {positive}, {rarer} of train and val. To choose: {option('positive', 'CLASS')}")
        if positive not in class_names:
            raise must_be_one_of(called("positive"), class_names, positive)
        if way == "threshold":
            if options[way] not in DECIDED:
                remedy = f"It is chosen by that metric; for a share of your own: {option('sensitivity', 0.95)}"
                raise must_be_one_of(called(way), DECIDED, options[way], remedy)
            return cls(way, positive, options[way])
        if not 0 < options[way] < 1:
            raise RequestError(
                f"{called(way)} must be between 0 and 1; got {options[way]}. For example {option(way, 0.95)}"
            )
        return cls(way, positive, value=float(options[way]))


def _read_cost(text: str, class_names: Sequence[str]) -> tuple[str, None, float]:
    """Return the class whose misses cost, and how much, from ``defective:functional=10``."""
    one, other = class_names
    for miss, instead in ((one, other), (other, one)):
        number = text.removeprefix(f"{miss}:{instead}=")
        if number != text:
            try:
                cost = float(number)
            except ValueError:
                break
            if math.isfinite(cost) and cost > 0:
                return miss, None, cost
    raise RequestError(
        f"{called('cost')} must be CLASS:OTHER=NUMBER above 0, where an image of CLASS that is predicted as OTHER costs as much as NUMBER "
        f"of the opposite mistakes, and CLASS and OTHER are {one} and {other}; got {text!r}. For example {option('cost', f'{one}:{other}=10')}"
    )
