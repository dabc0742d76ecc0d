"""One page about a run: how good its heads are, where they fail, and what they were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from features import __version__
from features.errors import CachedFeaturesError, RequestError, UnsafeFile, called, command, counted, option
from features.options import as_list, takes
from features.runtime.atomic import written_whole
from features.runtime.log import log
from features.safefiles.json_files import read_json
from features.splits import SPLITS
from features.store.provenance import Provenance
from features.store.reader import FeatureStore

from ..evaluation.significance import NEEDS
from ..options import ReportOptions
from ..runs.plots import interval_of
from ..training.relabelling import FILE as CORRECTIONS
from ..training.request import Request
from ..training.splitting import split_anew
from ..training.studies.base_comparison import BASES
from ..training.summary import (
    FEW_GROUPS,
    compare_command,
    options_of,
    recommended,
    standing,
    tested_rows,
    told_cost,
    train_command,
)
from . import figures
from .analysis.bases import gather_bases
from .analysis.label_budget import newest_budget
from .analysis.label_issues import is_suspects, write_suspects
from .analysis.refitted_head import refit
from .page import is_report, render, render_bases, render_runs
from .pictures.gallery import COLOURS, POINTS, SYMBOLS, Gallery
from .pictures.shown import page_data
from .pictures.sprite import MOST
from .pictures.thumbnails import Thumbnails
from .run_results import Run, load_run, metric_of
from .side_by_side import SideBySide, compare_runs

_FEW = 300  # test images, below which the headline says that more splits tell more


@dataclass(frozen=True)
class WrittenReport:
    """The result of `report`.

    Attributes
    ----------
    path : Path
    bytes : int
        Size of the page.
    labels : Path or None
        The CSV table, beside the page, of all doubted labels; None if they are not known.
    left_out : dict of str to str
        What the page cannot show → why.
    runs : SideBySide, optional
        Of a page of several runs, what it shows.
    """

    path: Path
    bytes: int
    labels: Path | None
    left_out: dict[str, str]
    runs: SideBySide | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        labels = None if self.labels is None else str(self.labels)
        told = {"report": str(self.path), "bytes": self.bytes, "labels": labels, "left_out": self.left_out}
        return told if self.runs is None else {**told, **self.runs.to_json()}


@takes(ReportOptions)
def report(run: str | Path | Sequence[str | Path], **options: Unpack[ReportOptions]) -> WrittenReport:
    """Write one self-contained HTML page about a comparison or a trained head, or about several side by side.

    Parameters
    ----------
    run : path-like, or sequence of path-like
        A folder that ``compare``, ``compare_bases`` or ``train_head`` wrote. Of several, a table of each one's head to take, on the test images
        that all of them have.
    **options

    Returns
    -------
    written : WrittenReport
        An earlier report of this name and its table of doubted labels are replaced.

    Raises
    ------
    RequestError
        If the folder holds no such results, or `out` does not end in .html or is a file other than a report.

    Examples
    --------
    >>> pipeline.report("runs/photos-vgg16-compare").path   # doctest: +SKIP
    """
    out, points = options.get("out"), options.get("points", POINTS)
    if not 1 <= points <= MOST:
        raise RequestError(f"{called('points')} must be between 1 and {MOST}; got {points}. Leave it out for {POINTS}.")
    folders = [Path(each) for each in as_list(run)]
    if len(folders) > 1:
        return _report_runs(folders, out)
    if (folders[0] / BASES).is_file():
        return _report_bases(folders[0], out)
    opened = load_run(folders[0])
    path = Path(out) if out is not None else opened.folder / "report.html"
    labels = path.with_name(f"{path.stem}-doubted-labels.csv")
    _check_out(path, labels)
    page = gather(opened, points, folder=path.absolute().parent)
    html = render(page)
    with written_whole(path) as new:
        new.write_text(html, encoding="utf-8")
        labels.unlink(
            missing_ok=True
        )  # belongs to an earlier page: this one is without a table before it is beside another's
    known = "found" in page["suspects"]
    if known:
        write_suspects(labels, opened.predictions.rows, opened.predictions.splits[0], page["suspects"]["found"])
    left_out = {
        name: page[name]["why"]
        for name in ("attention", "map", "suspects", "near_copies", "closest")
        if "why" in page[name]
    }
    for name, why in left_out.items():
        log.info(f"omitted  {name}: {why}")
    if page["missing"]:
        log.info(
            f"omitted  {len(page['missing'])} thumbnails, such as {page['missing'][0][0]}: {page['missing'][0][1]}"
        )
    return WrittenReport(path, len(html.encode()), labels if known else None, left_out)


def _report_runs(folders: Sequence[Path], out: str | Path | None) -> WrittenReport:
    """Write the page of several runs, by default into the folder of the first."""
    path = Path(out) if out is not None else folders[0] / "report-runs.html"
    _check_out(path, path.with_suffix(".csv"))
    found = compare_runs([load_run(folder) for folder in folders])
    for row in found.rows:
        log.info(
            f"run      {row['run']}: {row['head']}, {found.metric.words} {row[found.metric.name]:.{found.metric.digits}f} on "
            f"{counted(found.shared, 'image')}"
        )
    html = render_runs(found)
    with written_whole(path) as new:
        new.write_text(html, encoding="utf-8")
    return WrittenReport(path, len(html.encode()), None, {}, found)


def _report_bases(folder: Path, out: str | Path | None) -> WrittenReport:
    """Write the page of a comparison of bases."""
    path = Path(out) if out is not None else folder / "report.html"
    _check_out(path, path.with_suffix(".csv"))
    html = render_bases(gather_bases(folder))
    with written_whole(path) as new:
        new.write_text(html, encoding="utf-8")
    return WrittenReport(path, len(html.encode()), None, {})


def _check_out(path: Path, labels: Path) -> None:
    """Refuse a name that is not a page's, or that would replace anything but a report."""
    if path.suffix != ".html":
        raise RequestError(
            f"{called('out')} must end in .html; got {path}. For instance: {option('out', 'report.html')}"
        )
    for each, is_ours in ((path, is_report), (labels, is_suspects)):
        if each.exists() and not is_ours(each):
            raise RequestError(
                f"{each} must be an earlier report to be replaced; it is something else. Choose another {called('out')}"
            )


def gather(
    run: Run, points: int = POINTS, matrix_classes: int = figures.MATRIX_CLASSES, folder: Path | None = None
) -> dict[str, Any]:
    """Return all that the page shows.

    Parameters
    ----------
    run : Run
    points : int
        Images on the map at most.
    matrix_classes : int
        Classes of a confusion matrix at most.
    folder : Path, optional
        Where the page will lie; the run's folder if left out.
    """
    predictions, heads = run.predictions, run.heads
    made = Provenance.from_json(run.told["provenance"], str(run.folder))
    thumbnails = Thumbnails(Path(run.told["provenance"]["source"]["root"]), predictions.rows, made.spec.image_spec)
    gallery = Gallery(predictions, thumbnails, points)
    log.info(f"run      {run.folder}: {counted(len(heads), 'head')}, {counted(len(predictions.rows), 'image')}")
    names = [head["head"] for head in heads]
    shown = names.index(recommended(heads)["head"])
    from_store = _from_store(run, gallery, names, names[shown])
    data, sheets = page_data(
        predictions,
        names,
        from_store["map"].get("rows", []),
        from_store["suspects"].get("found", []),
        thumbnails,
        run.folder.absolute() if folder is None else folder,
    )
    head_charts = figures.head_charts(predictions, heads)
    page = {
        "data": {**data, "at": from_store["map"].get("at", {}), "curves": head_charts["by_class"]},
        "sheets": sheets,
        "title": Path(run.told["store"]).stem,
        "metric": run.metric,
        "leaderboard": figures.leaderboard(heads, run.metric),
        "verdict": _verdict(run),
        "commands": _commands(run, from_store["again"]),
        "judge": None if run.told.get("corrections") else train_command(run.told, corrections=CORRECTIONS),
        "shown": shown,
        "time": figures.time_chart(heads, run.metric),
        "curves": head_charts,
        "details": [
            {
                "head": head,
                "confusion": figures.confusion(predictions, head["head"], matrix_classes),
                "mistakes": gallery.mistakes(head["head"]),
            }
            for head in heads
        ],
        "classes": predictions.rows.class_names,
        "slices": figures.slice_rows(run.told["slices"], run.metric) if run.told.get("slices") else None,
        "point": figures.operating_point(run.told),
        "histories": _histories(run),
        "probe": _probe(run),
        "budget": newest_budget(run.folder, run.told["provenance"]["fingerprint"]),
        "trust": _trust(run),
        "corrections": run.told.get("corrections"),
        "copies": gallery.copies(),
        "provenance": _provenance(run),
        "counts": run.told["rows"],
        "n_test": len(predictions.probabilities[heads[0]["head"]][0]),
        "n_splits": len(predictions.splits),
        "group": heads[0].get("group"),
        "needs": NEEDS,
        "not_fitted": run.told.get("not_fitted", {}),  # earlier versions compared all heads or none
        "bounds": {"points": points, "colours": COLOURS, "symbols": SYMBOLS},
        "version": __version__,
        **from_store,
    }
    return {**page, "missing": sorted(thumbnails.missing.items())}


def _from_store(run: Run, gallery: Gallery, ranked: Sequence[str], taken: str) -> dict[str, Any]:
    """Return what needs features: where the head looked, the map, likely label errors and near-duplicates."""
    names = ("attention", "map", "suspects", "near_copies", "closest")
    try:
        with FeatureStore(run.told["store"]) as store:
            asked = Request(store.path, **run.corrections)
            _check_same(store, run, asked)
            log.info("features a linear head is fitted again, which shows where it looked and which labels it doubts")
            head = refit(store, run.predictions, ranked, run.told["seed"], run.told["select"], run.corrections)
            layer = head.features.parts[0].layer
            first = asked.stored(store, 1)
            X = store.read(layer, "flatten" if store.kinds[layer] == "vector" else "avg", first)
            group = options_of(run.told).get("group")
            return {
                "again": split_anew(store, group) if group and len(run.predictions.splits) > 1 else None,
                "linear": _linear(run, head, taken),
                "attention": gallery.attention(store, head, first),
                "map": {**gallery.map(X, run.told["seed"]), "layer": layer},
                "suspects": gallery.suspects(head.out_of_fold),
                "near_copies": gallery.near_copies(store, asked),
                "closest": gallery.closest(X),
            }
    except CachedFeaturesError as error:
        return {"linear": None, "again": None, **{name: {"why": str(error)} for name in names}}


def _check_same(store: FeatureStore, run: Run, asked: Request) -> None:
    """Raise unless the store holds the run's rows and features."""
    rows, held = asked.rows(store), run.predictions.rows
    same = rows.paths == held.paths and np.array_equal(rows.sha256, held.sha256)
    if not same or store.provenance["fingerprint"] != run.told["provenance"]["fingerprint"]:
        raise RequestError(
            f"{store.path} has changed since the run: {len(rows)} images now, {len(held)} then. "
            "Run the same compare or train-head again."
        )


def _linear(run: Run, head: Any, taken: str) -> dict[str, Any]:
    """Return how well a refitted linear head agrees with the run."""
    kept = run.predictions.probabilities[head.name if head.of_run else taken][0]
    return {
        "name": head.name,
        "settings": head.settings,
        "of_run": head.of_run,
        "distance": float(np.abs(kept - head.probabilities).max()) if head.of_run else None,
        "agrees": float(np.mean(run.predictions.probabilities[taken][0].argmax(1) == head.probabilities.argmax(1))),
    }


def _verdict(run: Run) -> dict[str, Any]:
    best, of_earlier = run.heads[0], ("McNemar’s exact test", "the corrected resampled t test")
    taken = recommended(run.heads)
    rows, splits, group = run.predictions.rows, run.predictions.splits, run.predictions.group
    tested = int((splits == SPLITS["test"]).any(axis=0).sum())
    group = group if group in rows.columns else None  # earlier versions did not keep columns
    groups = min(each.n_units for each in tested_rows(rows, list(splits), group))
    return {
        "best": best,
        "taken": taken,
        "cost": told_cost(taken, run.metric),
        "tested": tested,
        "few": _draw_more(run) if tested < _FEW and len(splits) == 1 else None,
        "few_groups": groups if group is not None and groups < FEW_GROUPS else None,
        "metric": run.metric.words,
        "interval": interval_of(taken, run.metric.name),
        "same": [head["head"] for head in run.heads if standing(head) == "same"],
        "behind": [head["head"] for head in run.heads if standing(head) == "behind"],
        "test": run.told.get("test") or of_earlier[len(run.predictions.splits) > 1],
    }


def _draw_more(run: Run) -> str:
    """Return the command that compares heads on more splits, in some of which every image is tested, also with corrected labels."""
    more: dict[str, Any] = {"corrections_test": True} if run.told.get("corrections") else {}
    return compare_command(run.told, repeats=5, **more)


def _commands(run: Run, again: str | None) -> list[str]:
    """Return the commands with which to use the head: a comparison keeps none, so the head to take is trained first."""
    if not run.told.get("heads"):
        return [command("predict", "IMAGES", run=run.folder)]
    folder = Path("runs") / f"{Path(run.told['store']).stem}-{recommended(run.heads)['head']}"
    made = [train_command(run.told), command("predict", "IMAGES", run=folder)]
    return made if again is None else [again, *made]


def _histories(run: Run) -> list[dict[str, Any]]:
    """Return the first split's learning curves of heads that train by epochs."""
    found = []
    for head in run.heads:
        told = run.predictions.told[head["head"]][0]
        if told["history"]:
            kept = int(told["settings"].get("epochs", len(told["history"]["loss"])))
            found.append({"head": head["head"], "charts": figures.history_charts(told["history"], kept)})
    return found


def _trust(run: Run) -> dict[str, Any] | None:
    """Return what a trained head knows of its own limits; comparisons, and runs of earlier versions, know nothing."""
    held = {name: run.told.get(name) for name in ("sets", "novelty")}
    return held if any(held.values()) else None


def _probe(run: Run) -> dict[str, Any] | None:
    """Return the newest layer probe beside the run that used the same features, if there is one."""
    fingerprint = run.told["provenance"]["fingerprint"]
    for path in sorted(run.folder.absolute().parent.glob("*/probe.json"), key=lambda p: -p.stat().st_mtime):
        told = read_json(path)
        try:
            if told["provenance"]["fingerprint"] == fingerprint:
                chart = figures.layer_chart(told["layers"], metric_of(told, path))
                return {"chart": chart, "take": told["take"], "repeats": told["repeats"], "folder": path.parent.name}
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UnsafeFile(f"{path} must be what probe writes; {error!r}. Run probe again, or delete it.") from error
    return None


def _provenance(run: Run) -> list[tuple[str, str]]:
    """Return the origin of the results: the run, its store, its images and its base; then everything else on record."""
    told = run.told
    held = {"run": str(run.folder), "store": told["store"], "settings chosen by": _choice_of_settings(run)}
    held |= {"seed of heads and folds": told["seed"], "splits of the run": "the store's own"}
    if len(run.predictions.splits) > 1:
        held["splits of the run"] = f"{len(run.predictions.splits)} drawn, stratified, seeds from {told['seed']}"
    first = ("source", "splits", "backbone", "layers", "pool", "image_size", "resize", "preprocess", "weights_origin")
    held |= {name: told["provenance"][name] for name in first}
    return [(name.replace("_", " "), _flat(value)) for name, value in {**held, **told["provenance"]}.items()]


def _choice_of_settings(run: Run) -> str:
    """Return how settings were chosen; heads that train by epochs look at val, whatever was asked for."""
    folds, look = "five-fold cross-validation", "a look at val"
    by_epochs = [head["head"] for head in run.heads if run.predictions.told[head["head"]][0]["history"]]
    if run.told["select"] == "val" or len(by_epochs) == len(run.heads):
        return look
    return f"{folds}; of {', '.join(by_epochs)} {look}" if by_epochs else folds


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_flat(each)}" for name, each in value.items() if each not in (None, []))
    return "; ".join(map(_flat, value)) if isinstance(value, list) else "–" if value is None else str(value)
