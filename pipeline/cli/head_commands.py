"""The commands that train heads on a store and show what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from features.errors import RequestError, command, listed, must_be_one_of
from features.options import ExtractOptions
from features.runtime.log import log

from ..options import CompareOptions, PredictOptions, TrainHeadOptions
from .answers import Answer, keep_options


def _train_head(details: bool = False, **options: Any) -> Answer:
    from ..evaluation.decisions.operating_point import OperatingPoint
    from ..heads.settings import describe_settings
    from ..training.fit import train_head

    run = train_head(**options)
    chosen = describe_settings([run.settings], run.tried)
    lines = [f"{run.head}: {chosen}" if chosen else run.head]
    for split, scores in (("val", run.val), ("test", run.test)):
        intervals = run.intervals if split == "test" else {}
        told = ", ".join(_score(name, value, intervals.get(name)) for name, value in scores.items())
        lines.append(f"{split:<5} {told}")
    if run.operating_point is not None:
        point = OperatingPoint(**run.operating_point)
        intervals = point.test["intervals"]
        told = ", ".join(_score(name, point.test[name], ends) for name, ends in intervals.items())
        lines.append(f"{point}\ntest  {told}")
    if run.sets is not None:
        low, high = run.sets["test"]["interval"]
        told = listed([f"{each['name']} {each['coverage']:.3f}" for each in run.sets["test"]["by_class"]])
        lines.append(
            f"sets  hold the true class of {run.sets['test']['coverage']:.4f} [{low:.3f}, {high:.3f}] of test images "
            f"({told}), with {run.sets['test']['mean_size']:.2f} classes on average"
        )
    lines.append(f"fitted in {run.fit_seconds:.2f} s")
    if details:
        lines += ["", _details(run.out, run.head, run.by_class)]
    log.info(f"next     {command('predict', 'IMAGES', run=run.out, **keep_options(options, PredictOptions))}")
    return run.to_json(), "\n".join(lines)


def _details(folder: str, head: str, by_class: Sequence[Mapping[str, Any]]) -> str:
    from .details import format_details

    return format_details(folder, head, by_class)


def _score(name: str, value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return f"{name} -"
    return f"{name} {value:.4f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _compare(sort: str | None = None, details: bool = False, **options: Any) -> Answer:
    from ..heads.registry import find_head
    from ..training.comparison import compare
    from ..training.comparison_table import SORTS, format_table

    stores = stores_of(options["store"])
    if len(stores) > 1:
        return _compare_bases(sort, details, **{**options, "store": stores})
    if sort is not None and sort not in SORTS:  # before anything is fitted
        raise must_be_one_of("--sort", SORTS, sort)
    comparison = compare(**options)
    best, taken = comparison.best["head"], comparison.recommended["head"]
    kept = keep_options(options, TrainHeadOptions)
    if "settings" in kept:  # settings of other heads would be refused
        kept["settings"] = {name: tried for name, tried in kept["settings"].items() if name in find_head(taken).grid}
    if taken != best:
        log.info(f"take     {taken}, the simplest and quickest head that is not distinguishable from {best}, the best")
    log.info(f"next     {command('train-head', store=comparison.store, head=taken, **kept)}")
    log.info(f"         {command('report', run=comparison.out)}")
    table = format_table(comparison.to_json(), sort)
    if details:
        table += f"\n\n{_details(comparison.out, best, comparison.best['by_class'])}"
    return comparison.to_json(), table


def stores_of(given: str | list[str]) -> list[str]:
    """Return the stores that were named, separated by blanks or commas; a comma in the name of a file is none."""
    named = [given] if isinstance(given, str) else given
    split = ([each] if Path(each).exists() else each.split(",") for each in named)
    return [each for those in split for each in those if each]


def _compare_bases(sort: str | None, details: bool, store: list[str], **options: Any) -> Answer:
    from ..training.studies.base_comparison import compare_bases, format_bases

    given = {"--sort": sort, "--details": details, "--exclude": options.pop("exclude", None)}
    for flag, value in given.items():
        if value:
            raise RequestError(f"{flag} must go with one store; got several. Leave it out.")
    found = compare_bases(store, **options)
    log.info(f"next     {command('report', run=found.out)}")
    if found.take in found.stores:
        log.info(
            f"         {command('compare', store=found.stores[found.take], **keep_options(options, CompareOptions))}"
        )
    return found.to_json(), format_bases(found)


def _probe(**options: Any) -> Answer:
    from ..training.studies.layer_probe import format_probe, probe

    probed = probe(**options)
    kept = {**keep_options(options, CompareOptions), "layer": probed.take}
    log.info(f"next     {command('compare', store=probed.store, **kept)}")
    return probed.to_json(), format_probe(probed.to_json())


def _audit(**options: Any) -> Answer:
    from features.splits import NEAR_COPIES

    from ..leakage.split_audit import audit, format_audit

    audited = audit(**options)
    kept = keep_options(options, CompareOptions)
    if audited.counts["across_splits"]:
        kept = {"group": NEAR_COPIES, **kept}
    log.info(f"next     {command('compare', store=audited.store, **{**kept, 'repeats': 5})}")
    return audited.to_json(), format_audit(audited.to_json())


def _budget(**options: Any) -> Answer:
    from ..labelling.label_budget import budget, format_budget

    found = budget(**options)
    log.info(f"next     {command('compare', store=found.store, **keep_options(options, CompareOptions))}")
    return found.to_json(), format_budget(found.to_json())


def _lecture(**options: Any) -> Answer:
    from ..training.studies.lecture_models import format_lecture, lecture

    results = lecture(**options)
    kept = keep_options(options, ExtractOptions)
    log.info(f"next     {command('extract', data=results['data'], backbone='vgg16', **kept)}")
    return results, format_lecture(results)


def _report(open: bool = False, **options: Any) -> Answer:
    import webbrowser

    from ..reports.build import report

    written = report(**options)
    log.info(f"written  {written.path}, {written.bytes / 1e6:.1f} MB. Open it in a browser; it needs nothing else")
    if written.labels is not None:
        log.info(f"         {written.labels}, all doubted labels")
    if open and not webbrowser.open(written.path.absolute().as_uri()):
        log.warning(f"no browser could be started; open {written.path} yourself")
    return written.to_json(), str(written.path)


COMMANDS: dict[str, Callable[..., Answer]] = {
    "train-head": _train_head,
    "compare": _compare,
    "probe": _probe,
    "audit": _audit,
    "budget": _budget,
    "lecture": _lecture,
    "report": _report,
}
