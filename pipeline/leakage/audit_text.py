"""An audit in words and tables: what was found, what it does to a head's figures, and what to do."""

from __future__ import annotations

from typing import Any

from features.errors import command, counted

from ..evaluation.metrics import METRICS, Metric, find_metric
from ..evaluation.significance import with_interval

_MANY = 3  # heads whose figures are told in words; of more, the table tells


def format_audit(audited: dict[str, Any]) -> str:
    """Return an audit as Markdown: what was found and what to do in sentences, then the figures."""
    metric, told = find_metric(audited["metric"]), [*_clusters(audited["counts"]), *_sides(audited["counts"])]
    if audited["counts"]["test_images_exposed"]:
        told += [_without(head, parts, metric) for head, parts in list(audited["figures"].items())[:_MANY]]
    if audited["optimism"] is not None:
        told.append(_flattery(audited["optimism"], audited["head"], metric))
    lines = [*told, _advice(audited), "", *_figure_lines(audited["figures"])]
    if audited["optimism"] is not None:
        lines += ["", *_optimism_lines(audited["optimism"], audited["head"])]
    return "\n".join(lines)


def _clusters(counts: dict[str, int]) -> list[str]:
    """Say how many clusters there are, and of what."""
    n = counts["clusters"]
    if not n:
        return [f"No image has a near-copy among the {counts['images']:,} images."]
    largest = f", the largest {counts['largest']}" if n > 1 else ""
    lines = [
        f"{counted(n, 'cluster')} of near-copies with {counts['images_in_clusters']:,} of "
        f"{counts['images']:,} images{largest}: re-encoded or resized files, crops, mirror images, "
        f"frames of a burst."
    ]
    if counts["with_byte_copies"]:
        lines.append(f"In {counted(counts['with_byte_copies'], 'cluster')}, a file occurs more than once.")
    if counts["across_labels"]:
        lines.append(
            f"In {counted(counts['across_labels'], 'cluster')}, images have different labels, not all of which can be right: see "
            f"clusters.csv."
        )
    return lines


def _sides(counts: dict[str, int]) -> list[str]:
    """Say how many clusters and test images stand on two sides of the split."""
    if not counts["across_splits"]:
        return ["None stands on two sides of the split."] if counts["clusters"] else []
    exposed, tested = counts["test_images_exposed"], counts["test_images"]
    return [
        f"On two sides of the split: {counted(counts['across_splits'], 'cluster')}. {exposed:,} of {counted(tested, 'test image')} "
        f"{'has' if exposed == 1 else 'have'} a near-copy in train or val."
    ]


def _without(head: str, parts: dict[str, Any], metric: Metric) -> str:
    """Say a head's figure on all test images, and on those without a near-copy in training."""
    every, without = parts["all"][metric.name], parts["without"]
    if without is None or without[metric.name] is None or every is None:
        return f"Without such images, {metric.words} of {head} on test is not defined."
    return (
        f"Without such images, {metric.words} of {head} on test is {without[metric.name]:.{metric.digits}f}; with them, "
        f"{every:.{metric.digits}f}."
    )


def _flattery(optimism: dict[str, Any], head: str, metric: Metric) -> str:
    """Say how much better a head looks in folds drawn image by image than in folds of whole groups."""
    held = optimism.get(metric.name, {"grouped": None, "interval": None})
    if held["grouped"] is None or held["interval"] is None:
        return f"How far {metric.words} of {head} would fall on groups that it has not seen is not defined."
    low, high = held["interval"]
    beyond = "beyond" if low > 0 or high < 0 else "within"
    return (
        f"On groups ({optimism['group']}) that it has not seen, {metric.words} of {head} is {held['grouped']:.{metric.digits}f}, not "
        f"{held['random']:.{metric.digits}f} as image by image: a difference of {with_interval(held['difference'], held['interval'])}, "
        f"{beyond} what chance gives."
    )


def _advice(audited: dict[str, Any]) -> str:
    """Say what to do next."""
    group = audited["group"]
    if group is None:
        return "The split needs no change for near-copies."
    asked = command("compare", store=audited["store"], group=group, repeats=5)
    return f"For figures of images unlike those learned from, keep {group} on one side: {asked}"


def _figure_lines(figures: dict[str, dict[str, Any]]) -> list[str]:
    shown = [each for each in METRICS if each.in_table]
    lines = [
        f"| head | test images | number | {' | '.join(each.title for each in shown)} |",
        f"|{'---|' * (3 + len(shown))}",
    ]
    titles = {"all": "all", "without": "without near-copies in training", "exposed": "with near-copies in training"}
    for head, parts in figures.items():
        for name, title in titles.items():
            held = parts[name]
            if held is not None and not (name == "without" and parts["exposed"] is None):
                told = " | ".join(with_interval(held[each.name], held["intervals"].get(each.name)) for each in shown)
                lines.append(f"| {head} | {title} | {held['images']} | {told} |")
    return lines


def _optimism_lines(optimism: dict[str, Any], head: str) -> list[str]:
    lines = [
        f"{head}, {optimism['folds']} folds drawn image by image, and keeping {optimism['groups']} groups "
        f"({optimism['group']}) whole:",
        "",
        "| metric | image by image | whole groups | difference [95 %] |",
        "|---|---|---|---|",
    ]
    for each in METRICS:
        if each.in_table and each.name in optimism:
            held = optimism[each.name]
            difference = with_interval(held["difference"], held["interval"])
            lines.append(f"| {each.title} | {held['random']:.3f} | {held['grouped']:.3f} | {difference} |")
    return lines
