"""Plots, as figures that a notebook shows and that are written as PNG files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from features.errors import RequestError
from features.options import typed
from features.safefiles.json_files import MAX_BYTES, read_json
from features.safefiles.regular_files import read_whole

from ..evaluation.metrics import find_metric
from ..options import METRIC
from .folders import how_to_make

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#888888"  # Okabe & Ito's palette, told apart by colour-blind readers


class Plot(Figure):
    """A Matplotlib figure that notebooks show although pyplot, which keeps figures until they are closed, is not used."""

    def __init__(self, width: float, height: float):
        super().__init__(figsize=(width, height), dpi=120, layout="constrained")

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def plot(run: str | Path) -> Figure:
    """Draw a run: the heads of a comparison with their intervals, or the learning curves of a Dense head.

    Parameters
    ----------
    run : path-like
        A folder that ``compare`` or ``train_head`` wrote.

    Returns
    -------
    figure : matplotlib.figure.Figure
        A notebook shows it; ``figure.savefig("name.svg")`` writes it.

    Raises
    ------
    RequestError
        If the folder holds neither.

    Examples
    --------
    >>> pipeline.plot("runs/photos-vgg16-compare")   # doctest: +SKIP
    """
    folder = Path(typed("run", str | Path, run))
    if (folder / "compare.json").is_file():
        return plot_comparison(read_json(folder / "compare.json"))
    if (folder / "history.csv").is_file():
        epochs = list(csv.DictReader(io.StringIO(read_whole(folder / "history.csv", MAX_BYTES).decode(), newline="")))
        history = {name: [float(epoch[name]) for epoch in epochs] for name in epochs[0] if name != "epoch"}
        return plot_history(history, read_json(folder / "run.json")["settings"]["epochs"])
    raise RequestError(
        f"run must be the folder of a comparison, or of a head that learns by epochs (dense, mlp); got {folder}. "
        f"{how_to_make(folder, 'compare')}"
    )


def plot_history(history: dict[str, list[float]], best_epoch: int) -> Plot:
    """Draw learning curves: loss and accuracy by epoch, with the epoch whose weights were kept."""
    figure = Plot(9, 3.6)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        _draw_curves(axes, history, name)
        axes.axvline(best_epoch, color=_GREY, linestyle=":", label=f"chosen: epoch {best_epoch}")
        axes.legend(frameon=False)
    return figure


def plot_curves(histories: dict[str, dict[str, list[float]]]) -> Plot:
    """Draw the accuracy curves of some models side by side: train and val by epoch."""
    figure = Plot(4.4 * max(1, len(histories)), 3.6)
    panels = figure.subplots(1, max(1, len(histories)), sharey=True, squeeze=False)[0]
    for axes, (name, history) in zip(panels, histories.items(), strict=False):
        _draw_curves(axes, history, "accuracy")
        axes.set_title(name)
        axes.legend(frameon=False)
    return figure


def _draw_curves(axes: Axes, history: dict[str, list[float]], name: str) -> None:
    for curve, label, colour in ((name, "train", _BLUE), (f"val_{name}", "val", _ORANGE)):
        if curve in history:
            axes.plot(range(1, len(history[curve]) + 1), history[curve], color=colour, label=label)
    axes.set(xlabel="epoch", ylabel=name)
    axes.spines[["top", "right"]].set_visible(False)


def plot_comparison(comparison: dict[str, Any]) -> Plot:
    """Draw what ``compare`` returned; see `plot_intervals`."""
    n_test, repeats = sum(comparison["rows"]["test"].values()), comparison["repeats"]
    title = f"{Path(comparison['store']).stem}: {n_test} test rows, {repeats} split(s)"
    return plot_intervals(comparison["heads"], title, comparison.get("metric", METRIC))  # earlier versions knew one


def interval_of(head: dict[str, Any], metric: str) -> Sequence[float] | None:
    """Return the interval of a head's metric, None if it has none."""
    found = head["intervals"].get(metric)
    return found or (head["accuracy_interval"] if metric == "accuracy" else None)  # of repeats in earlier versions


def plot_intervals(heads: list[dict[str, Any]], title: str, metric: str) -> Plot:
    """Draw each head's test metric with its interval, the best on top; heads whose metric is undefined are left out."""
    figure = Plot(8, 0.5 * len(heads) + 1.4)
    axes = figure.subplots()
    heads = [head for head in heads if head[metric] is not None]
    for place, head in enumerate(heads):
        low, high = interval_of(head, metric) or (head[metric],) * 2
        colour = _GREY if head["head"] == "majority" else _BLUE
        axes.plot([low, high], [place, place], color=colour, linewidth=3, alpha=0.4, solid_capstyle="round")
        axes.plot(head[metric], place, "o", color=colour)
        axes.annotate(f"{head[metric]:.3f}", (head[metric], place), (0, 7), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(heads)), [head["head"] for head in heads])
    axes.set_ylim(len(heads) - 0.5, -0.7)
    known = any(interval_of(head, metric) for head in heads)
    named = f"test {find_metric(metric).words}{', with 95 % interval' if known else ''}"
    axes.set(xlabel=named, title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    return figure
