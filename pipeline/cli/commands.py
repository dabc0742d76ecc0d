"""The command line. The code of a command is imported only when it runs, so ``--help`` answers at once."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from features.errors import CachedFeaturesError, RequestError, command, listed, must_be_one_of, on_command_line
from features.options import ExtractOptions, flags_of
from features.runtime.log import log

from ..options import CompareOptions, ExportOptions, PredictOptions, TrainHeadOptions
from .messages import messages_on_stderr, printable, printable_json
from .parser import make_parser, read_arguments
from .signals import ended_by_signals

Answer = tuple[dict[str, Any], str | None]  # a result as JSON and as text; a command that goes on has many
_PROGRAM = "cached-features" if Path(sys.argv[0]).name == "cached-features" else "python -m pipeline"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done; 1 the run failed; 2 the request was wrong."""
    with on_command_line(_PROGRAM):
        try:
            options = read_arguments(arguments, _PROGRAM)
        except RequestError as error:
            with messages_on_stderr(logging.INFO):
                log.error(str(error))
            return error.exit_status
    name = options.pop("command")
    if name is None:
        make_parser(_PROGRAM).print_help()
        return 0
    run, as_json, level = _COMMANDS[name], options.pop("json"), options.pop("level")
    with messages_on_stderr(level), on_command_line(_PROGRAM):
        try:
            out = sys.stdout
            with contextlib.redirect_stdout(sys.stderr):  # libraries print anywhere, but stdout is for results alone
                answer = run(**{name: value for name, value in options.items() if value is not None})
                for result, text in [answer] if isinstance(answer, tuple) else answer:
                    if as_json or text is not None:
                        print(printable_json(result) if as_json else printable(text or ""), file=out, flush=True)
        except CachedFeaturesError as error:
            log.error(str(error))
            return error.exit_status
        except OSError as error:
            if error.filename is None:
                raise
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "Free some space and run the same command again" if full else "Check the path and its permissions"
            log.error(f"{error.filename}: {error.strerror}. {remedy}.")
            return 1
        except KeyboardInterrupt:
            resumes = name in _RESUMED or (name == "predict" and options.get("out") is not None)
            told = (
                "Committed work is kept; the same command resumes from there." if resumes else "Nothing of it is kept."
            )
            log.error(told, extra={"word": "stopped"})
            return 130
    return 0


_RESUMED = ("extract", "compare", "probe", "audit")  # commands that keep parts or fits as they go


def _kept(given: Mapping[str, Any], of: type) -> dict[str, Any]:
    """Return the given options that the next command also has, except for where results go."""
    own = flags_of(of).keys() - {"out", "overwrite"}
    return {name: value for name, value in given.items() if name in own}


def _extract(
    data: str, plan_only: bool = False, images: int | None = None, rate: float | None = None, **options: Any
) -> tuple[dict[str, Any], str]:
    from features.extraction.cost import plan_cost
    from features.extraction.run import extract, format_skipped

    if plan_only:
        given: Any = {name: value for name, value in (("images", images), ("rate", rate)) if value is not None}
        cost = plan_cost(data, **options, **given)
        log.info(f"next     the same without --plan-only: {command('extract', data=data, **options)}")
        return cost.to_json(), f"{cost.hours[1]:.3g} h on one worker"
    if images is not None or rate is not None:
        raise RequestError(
            "--images and --rate must go with --plan-only; got them without. For fewer images: --limit N"
        )
    done = extract(data, **options)
    if done.skipped:
        log.info(f"skipped  {len(done.skipped)} files; the store lists them under /skipped")
        for line in format_skipped(done.skipped):
            log.info(line)
    if done.stages is not None:
        busy = ", ".join(f"{name} {getattr(done.stages, name):.1f} s" for name in ("decode", "forward", "write"))
        log.info(f"pass     {busy}, side by side; {done.stages.limit} was the limit")
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in done.seconds.items())
    rate_seen = f" ({done.computed / done.seconds['pass']:.1f} images/s in the pass)" if done.computed else ""
    log.info(f"done     {done.rows} rows, {done.computed} computed{rate_seen}: {stages}")
    if done.computed and "group" not in options:
        _warn_of_alike(done.path)
    log.info(f"next     {command('compare', store=done.path)}")
    return done.to_json(), str(done.path)


def _warn_of_alike(store: Path) -> None:
    """Warn of images that come in series or, where none are found, of near-copies across the split."""
    from features.store.reader import FeatureStore

    from ..training.request import Request
    from ..training.splitting import warn_of_near_copies, warn_of_series

    with FeatureStore(store) as opened:
        if not warn_of_series(opened, Request(store)).found:
            warn_of_near_copies(opened, Request(store))


def _train_head(details: bool = False, **options: Any) -> tuple[dict[str, Any], str]:
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
        told = ", ".join(f"{each['name']} {each['coverage']:.3f}" for each in run.sets["test"]["by_class"])
        lines.append(
            f"sets  hold the true class of {run.sets['test']['coverage']:.4f} [{low:.3f}, {high:.3f}] of test images "
            f"({told}), with {run.sets['test']['mean_size']:.2f} classes on average"
        )
    lines.append(f"fitted in {run.fit_seconds:.2f} s")
    if details:
        lines += ["", _details(run.out, run.head, run.by_class)]
    log.info(f"next     {command('predict', 'IMAGES', run=run.out, **_kept(options, PredictOptions))}")
    return run.to_json(), "\n".join(lines)


def _details(folder: str, head: str, by_class: Sequence[Mapping[str, Any]]) -> str:
    from .details import format_details

    return format_details(folder, head, by_class)


def _score(name: str, value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return f"{name} -"
    return f"{name} {value:.4f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _compare(sort: str | None = None, details: bool = False, **options: Any) -> tuple[dict[str, Any], str]:
    from ..heads.registry import find_head
    from ..training.comparison import SORTS, compare, format_table

    if "," in str(options["store"]):
        return _compare_bases(sort, details, **options)
    if sort is not None and sort not in SORTS:  # before anything is fitted
        raise must_be_one_of("--sort", SORTS, sort)
    comparison = compare(**options)
    best, taken = comparison.best["head"], comparison.recommended["head"]
    kept = _kept(options, TrainHeadOptions)
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


def _compare_bases(sort: str | None, details: bool, store: str, **options: Any) -> tuple[dict[str, Any], str]:
    from ..training.studies.base_comparison import compare_bases, format_bases

    given = {"--sort": sort, "--details": details, "--exclude": options.pop("exclude", None)}
    for flag, value in given.items():
        if value:
            raise RequestError(f"{flag} must go with one store; got several. Leave it out.")
    stores = [each for each in store.split(",") if each]
    found = compare_bases(stores, **options)
    if found.take in found.stores:
        log.info(f"next     {command('compare', store=found.stores[found.take], **_kept(options, CompareOptions))}")
    return found.to_json(), format_bases(found)


def _probe(**options: Any) -> tuple[dict[str, Any], str]:
    from ..training.studies.layer_probe import format_probe, probe

    probed = probe(**options)
    kept = {**_kept(options, CompareOptions), "layer": probed.take}
    log.info(f"next     {command('compare', store=probed.store, **kept)}")
    return probed.to_json(), format_probe(probed.to_json())


def _audit(**options: Any) -> tuple[dict[str, Any], str]:
    from features.splits import NEAR_COPIES

    from ..leakage.split_audit import audit, format_audit

    audited = audit(**options)
    kept = _kept(options, CompareOptions)
    if audited.counts["across_splits"]:
        kept = {"group": NEAR_COPIES, **kept}
    log.info(f"next     {command('compare', store=audited.store, **{**kept, 'repeats': 5})}")
    return audited.to_json(), format_audit(audited.to_json())


def _budget(**options: Any) -> tuple[dict[str, Any], str]:
    from ..labelling.label_budget import budget, format_budget

    found = budget(**options)
    log.info(f"next     {command('compare', store=found.store, **_kept(options, CompareOptions))}")
    return found.to_json(), format_budget(found.to_json())


def _report(open: bool = False, **options: Any) -> tuple[dict[str, Any], str]:
    import webbrowser

    from ..reports.build import report

    written = report(**options)
    log.info(f"written  {written.path}, {written.bytes / 1e6:.1f} MB. Open it in a browser; it needs nothing else")
    if written.labels is not None:
        log.info(f"         {written.labels}, all doubted labels")
    if open and not webbrowser.open(written.path.absolute().as_uri()):
        log.warning(f"no browser could be started; open {written.path} yourself")
    return written.to_json(), str(written.path)


def _layers(backbone: str, image_size: int | None = None) -> tuple[dict[str, Any], str]:
    import math

    from features.backbones.keras_base import list_layers
    from features.backbones.registry import LAST_MAP, find_backbone
    from features.pooling import KINDS

    shapes = list_layers(backbone, image_size)
    kinds = {name: KINDS[-len(shape)] if 0 < len(shape) <= len(KINDS) else "other" for name, shape in shapes.items()}
    lines = [f"{'layer':<40} {'shape':>18} {'kind':>7} {'bytes per image (float16)':>25}"]
    for name, shape in shapes.items():
        lines.append(f"{name:<40} {'x'.join(map(str, shape)):>18} {kinds[name]:>7} {2 * math.prod(shape):>25,}")
    default = find_backbone(backbone).layer
    if default == LAST_MAP:
        default = next((name for name in reversed(shapes) if len(shapes[name]) == 3), list(shapes)[-1])
    default = list(shapes)[int(default)] if default.lstrip("-").isdigit() else default
    kept = {} if image_size is None else {"image_size": image_size}
    log.info(f"next     {command('extract', data='SOURCE', backbone=backbone, layers=default, **kept)}")
    return {"backbone": backbone, "default": default, "layers": shapes, "kinds": kinds}, "\n".join(lines)


def _lecture(**options: Any) -> tuple[dict[str, Any], str]:
    from ..training.studies.lecture_models import format_lecture, lecture

    results = lecture(**options)
    kept = _kept(options, ExtractOptions)
    log.info(f"next     {command('extract', data=results['data'], backbone='vgg16', **kept)}")
    return results, format_lecture(results)


def _predict(watch: str | None = None, out: str | None = None, **options: Any) -> Answer | Iterator[Answer]:
    from ..deploy.prediction import format_predictions
    from ..deploy.predictor import predict

    if watch is not None and out is not None:
        raise RequestError("--out and --watch must go apart; got both. To keep what --watch prints: > FILE.csv")
    if watch is not None:
        return _watch(watch, **options)
    if out is not None:
        return _predict_to(out, **options)
    predicted = predict(**options)
    for each in predicted.skipped:
        log.info(f"skipped  {each['path']}: {each['reason']}")
    log.info(f"done     {len(predicted.predictions)} images predicted, {len(predicted.skipped)} skipped")
    kept = _kept(options, ExportOptions)
    log.info(f"next     {command('export', run=predicted.run, out='model.keras', **kept)}")
    return predicted.to_json(), format_predictions(predicted)


def _predict_to(out: str, images: Sequence[str], **options: Any) -> Answer:
    """Write predictions to a file as they are computed."""
    from ..deploy.prediction_file import predict_to
    from ..deploy.predictor import Predictor

    with Predictor(**options) as predictor:
        log.info(
            f"head     {predictor.trained.name} of {predictor.trained.folder}, classes {listed(predictor.class_names)}"
        )
        written = predict_to(out, images, predictor)
    for each in written.skipped:
        log.info(f"skipped  {each['path']}: {each['reason']}")
    log.info(f"done     {written.predicted} images predicted, {len(written.skipped)} skipped")
    return written.to_json(), written.path


def _watch(folder: str, images: Sequence[str], **options: Any) -> Iterator[Answer]:
    """Answer with one image at a time: first those that are given, then those that appear, until a signal ends it."""
    from ..deploy.prediction import find_images, format_predictions
    from ..deploy.predictor import Predictor
    from ..deploy.watching import watch_folder

    stop, predicted, skipped = threading.Event(), 0, 0
    appearing = watch_folder(folder, stop)
    with Predictor(**options) as predictor, ended_by_signals(stop):
        predictor.load()
        log.info(f"watch    {folder}: what appears there is classified. Ctrl-C ends it")
        batches: Iterator[Sequence[str | Path]] = itertools.chain([images] if images else [], appearing)
        for some in batches:
            found = predictor.classify(find_images(some))
            for each in found.predictions:
                yield each.to_json(), format_predictions(replace(found, predictions=[each]), header=not predicted)
                predicted += 1
            for unusable in found.skipped:
                log.info(f"skipped  {unusable['path']}: {unusable['reason']}")
                yield unusable, None
                skipped += 1
    log.info(f"done     {predicted} images predicted, {skipped} skipped")


def _next(replay: bool = False, **options: Any) -> tuple[dict[str, Any], str]:
    own = {name: options.pop(name) for name in ("draws", "seed") if name in options}
    if replay:
        if len(options.keys() - {"run"} - ({"images"} if not options.get("images") else set())):
            raise RequestError(
                "--replay must stand with --run, --draws and --seed alone; got more. Leave the others out."
            )
        from ..labelling.replayed_queue import replay_queue

        replayed = replay_queue(options["run"], **own)
        return replayed.to_json(), replayed.words
    if own:
        raise RequestError(f"--{next(iter(own))} must go with --replay; got it without. Leave it out.")
    from ..labelling.label_queue import format_queue, label_next

    queue = label_next(**options)
    for path, reason in queue.skipped:
        log.info(f"skipped  {path}: {reason}")
    log.info(f"next     open {queue.out}/queue.html, label the images, and save labels.csv beside them; then")
    log.info(f"         {command('extract', data='labels.csv')}")
    return queue.to_json(), format_queue(queue.to_json())


def _export(**options: Any) -> tuple[dict[str, Any], str]:
    from ..deploy.exporting import export

    exported = export(**options)
    load = {
        "keras": "import keras; keras.saving.load_model",
        "onnx": "import onnxruntime; onnxruntime.InferenceSession",
        "savedmodel": "import tensorflow; tensorflow.saved_model.load",
    }
    log.info(f"next     python -c \"{load[exported.format]}('{exported.path}')\"")
    return exported.to_json(), str(exported.path)


def _serve(**options: Any) -> tuple[dict[str, Any], None]:
    from .serving.server import serve

    serve(**options)
    return {"run": options["run"]}, None


def _verify(store: str, **options: Any) -> tuple[dict[str, Any], str]:
    from dataclasses import asdict

    from features.errors import StoreError
    from features.extraction.verification import verify

    checks = verify(store, **options)
    failed = [check for check in checks if check.held is False]
    if failed:
        raise StoreError(f"{store} fails {len(failed)} of {len(checks)} checks. {failed[0].seen}")
    log.info(f"next     {command('compare', store=store)}")
    return {"store": store, "checks": [asdict(check) for check in checks]}, f"{store} is sound"


def _inspect(store: str, upgrade: bool = False) -> tuple[dict[str, Any], str]:
    import features
    from features.store.provenance import EARLIER
    from features.store.reader import FeatureStore

    if upgrade and not features.upgrade_store(store):
        log.info(f"format   {store} has the current format already; nothing to do")
    with FeatureStore(store) as opened:
        described = opened.describe()
    log.info(f"next     {command('compare', store=store)}")
    held, rows = {**EARLIER, **described["provenance"]}, described["rows"]
    lines = [
        f"store    {store}: {sum(sum(each.values()) for each in rows.values())} rows, {described['bytes'] / 1e6:.1f} MB, "
        f"format {described['format_version']}, compression {held['compression']}"
    ]
    for name, layer in described["layers"].items():
        lines.append(f"layer    {name}: {'x'.join(map(str, layer['shape']))} {layer['dtype']}, {layer['kind']}")
    for split, classes in rows.items():
        lines.append(
            f"{split:<8} {sum(classes.values())}: " + ", ".join(f"{name} {count}" for name, count in classes.items())
        )
    for name, column in described["columns"].items():
        examples = ", ".join(repr(text[:40]) for text in column["examples"])
        lines.append(f"column   {name}: {column['values']} different values, such as {examples}")
    lines.append(f"skipped  {described['skipped']} files")
    told = (
        "source",
        "backbone",
        "weights_origin",
        "weights_sha256",
        "image_size",
        "resize",
        *EARLIER,
        "preprocess",
        "engine",
    )
    lines += [f"{name:<14} {held[name]}" for name in told]
    return described, "\n".join(lines)


_COMMANDS: dict[str, Callable[..., Answer | Iterator[Answer]]] = {
    "extract": _extract,
    "train-head": _train_head,
    "compare": _compare,
    "probe": _probe,
    "audit": _audit,
    "budget": _budget,
    "report": _report,
    "lecture": _lecture,
    "layers": _layers,
    "predict": _predict,
    "next": _next,
    "export": _export,
    "serve": _serve,
    "inspect": _inspect,
    "verify": _verify,
}
