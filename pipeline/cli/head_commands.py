"""The commands that train heads on a store and show what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from features.errors import RequestError, command, must_be_one_of
from features.options import ExtractOptions
from features.runtime.log import log

from ..options import CompareOptions, PredictOptions, keep_options
from .answers import Answer


def _train_head(details: bool = False, **options: Any) -> Answer:
    from ..training.fit import train_head

    run = train_head(**options)
    text = repr(run)
    if details:
        text += f"\n\n{_details(run.out, run.head, run.by_class)}"
    following = command("predict", "IMAGES", run=run.out, **keep_options(options, PredictOptions))
    return Answer(run.to_json(), text, (f"next     {following}",))


def _details(folder: str, head: str, by_class: Sequence[Mapping[str, Any]]) -> str:
    from .details import format_details

    return format_details(folder, head, by_class)


def _compare(sort: str | None = None, details: bool = False, **options: Any) -> Answer:
    from features.store.reader import FeatureStore

    from ..evaluation.metrics import find_metric
    from ..training.comparison import compare
    from ..training.comparison_table import SORTS, format_table
    from ..training.splitting import split_anew
    from ..training.summary import told_cost, train_command

    stores = stores_of(options["store"])
    if len(stores) > 1:
        return _compare_bases(sort, details, **{**options, "store": stores})
    if sort is not None and sort not in SORTS:  # before anything is fitted
        raise must_be_one_of("--sort", SORTS, sort)
    comparison = compare(**options)
    best, taken = comparison.best["head"], comparison.recommended["head"]
    commands, after = [train_command(comparison.to_json()), command("report", run=comparison.out)], []
    if comparison.repeats > 1 and "group" in options:
        with FeatureStore(comparison.store) as store:
            again = split_anew(store, options["group"])
        if again is not None:
            commands.insert(0, again)
            after.append(
                f"split    {comparison.store} breaks groups of {options['group']}, which a head to be used must not: the next command splits it "
                "anew, with the options of its features as they were, and computes nothing (splits that the source gives must be changed there)"
            )
    after += [f"{'' if number else 'next':<8} {each}" for number, each in enumerate(commands)]
    if taken != best:
        told = f"take     {taken}, the simplest and quickest head that is not distinguishable from {best}, the best"
        cost = told_cost(comparison.recommended, find_metric(comparison.metric))
        after.insert(0, f"{told}; {cost}" if cost else told)
    table = format_table(comparison.to_json(), sort)
    if details:
        table += f"\n\n{_details(comparison.out, taken, comparison.recommended['by_class'])}"
    return Answer(comparison.to_json(), table, tuple(after))


def stores_of(given: str | list[str]) -> list[str]:
    """Return the stores that were named, separated by blanks or commas; a comma in the name of a file is none."""
    named = [given] if isinstance(given, str) else given
    split = ([each] if Path(each).exists() else each.split(",") for each in named)
    return [each for those in split for each in those if each]


def _compare_bases(sort: str | None, details: bool, store: list[str], **options: Any) -> Answer:
    from ..training.studies.base_comparison import compare_bases

    given = {"--sort": sort, "--details": details, "--exclude": options.pop("exclude", None)}
    for flag, value in given.items():
        if value:
            raise RequestError(f"{flag} must go with one store; got several. Leave it out.")
    found = compare_bases(store, **options)
    after = [f"next     {command('report', run=found.out)}"]
    if found.next_command is not None:
        after.append(f"         {found.next_command}")
    return Answer(found.to_json(), repr(found), tuple(after))


def _probe(**options: Any) -> Answer:
    from ..training.studies.layer_probe import probe

    probed = probe(**options)
    kept = {**keep_options(options, CompareOptions), "layer": probed.take}
    return Answer(probed.to_json(), repr(probed), (f"next     {command('compare', store=probed.store, **kept)}",))


def _audit(**options: Any) -> Answer:
    from ..leakage.split_audit import audit

    audited = audit(**options)
    kept = keep_options(options, CompareOptions)
    if audited.group is not None:
        kept = {"group": audited.group, **kept}
    following = command("compare", store=audited.store, **{**kept, "repeats": 5})
    return Answer(audited.to_json(), repr(audited), (f"next     {following}",))


def _budget(**options: Any) -> Answer:
    from ..labelling.label_budget import budget

    found = budget(**options)
    following = command("compare", store=found.store, **keep_options(options, CompareOptions))
    return Answer(found.to_json(), repr(found), (f"next     {following}",))


def _lecture(**options: Any) -> Answer:
    from ..training.studies.lecture_models import format_lecture, lecture

    results = lecture(**options)
    kept = keep_options(options, ExtractOptions)
    following = command("extract", data=results["data"], backbone="vgg16", **kept)
    return Answer(results, format_lecture(results), (f"next     {following}",))


def _report(open: bool = False, **options: Any) -> Answer:
    import webbrowser

    from ..reports.build import report

    written = report(**options)
    log.info(f"written  {written.path}, {written.bytes / 1e3:,.0f} kB. Open it in a browser; it needs nothing else")
    if written.labels is not None:
        log.info(f"         {written.labels}, all doubted labels")
    if open and not webbrowser.open(written.path.absolute().as_uri()):
        log.warning(f"no browser could be started; open {written.path} yourself")
    return Answer(written.to_json(), str(written.path))


COMMANDS: dict[str, Callable[..., Answer]] = {
    "train-head": _train_head,
    "compare": _compare,
    "probe": _probe,
    "audit": _audit,
    "budget": _budget,
    "lecture": _lecture,
    "report": _report,
}
