"""Plots as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#888888"  # Okabe & Ito's palette, told apart by colour-blind readers


def plot_history(history: dict[str, list[float]], best_epoch: int, path: Path) -> None:
    """Draw learning curves: loss and accuracy by epoch, with the epoch whose weights were kept."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for curve, label, colour in ((name, "train", _BLUE), (f"val_{name}", "val", _ORANGE)):
            if curve in history:
                axes.plot(range(1, len(history[curve]) + 1), history[curve], color=colour, label=label)
        axes.axvline(best_epoch, color=_GREY, linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.set(xlabel="epoch", ylabel=name)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def plot_comparison(heads: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draw each head's test accuracy with its interval, the best on top."""
    figure = Figure(figsize=(8, 0.5 * len(heads) + 1.4), layout="constrained")
    axes = figure.subplots()
    for place, head in enumerate(heads):
        low, high = head["accuracy_interval"]
        colour = _GREY if head["head"] == "majority" else _BLUE
        axes.plot([low, high], [place, place], color=colour, linewidth=3, alpha=0.4, solid_capstyle="round")
        axes.plot(head["accuracy"], place, "o", color=colour)
        axes.annotate(
            f"{head['accuracy']:.3f}", (head["accuracy"], place), (0, 7), textcoords="offset points", ha="center"
        )
    axes.set_yticks(range(len(heads)), [head["head"] for head in heads])
    axes.set_ylim(len(heads) - 0.5, -0.7)
    axes.set(xlabel="test accuracy, with 95 % interval", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


def plot_curves(histories: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw the accuracy curves of some models side by side: train and val by epoch."""
    figure = Figure(figsize=(4.4 * max(1, len(histories)), 3.6), layout="constrained")
    panels = figure.subplots(1, max(1, len(histories)), sharey=True, squeeze=False)[0]
    for axes, (name, history) in zip(panels, histories.items(), strict=False):
        for curve, label, colour in (("accuracy", "train", _BLUE), ("val_accuracy", "val", _ORANGE)):
            axes.plot(range(1, len(history[curve]) + 1), history[curve], color=colour, label=label)
        axes.set(title=name, xlabel="epoch", ylabel="accuracy")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
