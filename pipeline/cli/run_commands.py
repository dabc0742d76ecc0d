"""The commands that use a trained head."""

from __future__ import annotations

import glob
import itertools
import json
import os
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from features.errors import RequestError, command, counted, find_near, listed, shell
from features.runtime.log import log

from ..options import ExportOptions, keep_options
from .answers import Answer
from .signals import ended_by_signals


def _predict(watch: str | None = None, out: str | None = None, **options: Any) -> Answer | Iterator[Answer]:
    from ..deploy.prediction import format_predictions
    from ..deploy.predictor import predict

    if watch is None or options.get("images"):
        _check_images("predict", options)
    if watch is not None and out is not None:
        raise RequestError("--out and --watch must go apart; got both. To keep what --watch prints: > FILE.csv")
    if watch is not None:
        return _watch(watch, **options)
    if out is not None:
        return _predict_to(out, **options)
    predicted = predict(**options)
    for each in predicted.skipped:
        log.info(f"skipped  {each['path']}: {each['reason']}")
    log.info(f"done     {counted(len(predicted.predictions), 'image')} predicted, {len(predicted.skipped)} skipped")
    return Answer(predicted.to_json(), format_predictions(predicted), (_then_export(predicted.run, options),))


def _then_export(run: str, options: Mapping[str, Any]) -> str:
    """Return the line that says what comes after predictions."""
    return f"next     {command('export', run=run, out=_model_of(run), **keep_options(options, ExportOptions))}"


def _model_of(run: str) -> str:
    """Return the name of a model as which a run can be exported; a base that is ONNX can be nothing else."""
    from features.backbones.registry import format_of

    from ..runs.folders import read_run

    return f"model.{format_of(read_run(run)['provenance']['backbone'])}"


def _check_images(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a command without images, or with files that are not there, before anything is loaded."""
    run, images = options["run"], options.get("images")
    is_run = (Path(run) / "run.json").is_file()
    if not images and Path(run).exists() and not is_run:
        raise RequestError(
            f"images must be named after the run; got {run} alone. Put a run before it: {command(name, 'RUN', run)}"
        )
    if not images:
        raise RequestError(f"images must be named; got none. For example: {command(name, 'photos/', run=run)}")
    tables = [each for each in images if each.lower().endswith((".csv", ".tsv", ".txt")) and Path(each).is_file()]
    if tables and name == "predict":
        listed_by = f"cut -d, -f1 {shlex.quote(tables[0])} | tail -n +2 | {command(name, '-', run=run)}"
        raise RequestError(
            f"images must be images; got {tables[0]}, a table. Paths come one a line on standard input, such as those of its first "
            f"column: {listed_by}"
        )
    absent = [each for each in images if each != "-" and not glob.has_magic(each) and not os.path.lexists(each)]
    if absent and is_run:
        check, whole = find_near(absent[0]), " ".join(images)
        if len(images) > 1 and os.path.lexists(whole):
            check = f'A name with blanks needs quotes: {shlex.quote(whole)}, or for make IMAGES="{shlex.quote(whole)}"'
        raise RequestError(f"images must be files that are there; got {listed(absent, 3)}. {check}")


def _predict_to(out: str, images: Sequence[str], **options: Any) -> Answer:
    """Write predictions to a file as they are computed."""
    from ..deploy.prediction_file import predict_to
    from ..deploy.predictor import Predictor
    from ..deploy.rated_images import tell_of_head

    with Predictor(**options) as predictor:
        tell_of_head(predictor.trained)
        written = predict_to(out, images, predictor)
    for each in written.skipped:
        log.info(f"skipped  {each['path']}: {each['reason']}")
    log.info(f"done     {counted(written.predicted, 'image')} predicted, {len(written.skipped)} skipped")
    return Answer(written.to_json(), written.path, (_then_export(options["run"], options),))


def _watch(folder: str, images: Sequence[str], **options: Any) -> Iterator[Answer]:
    """Answer with one image at a time: first those that are given, then those that appear, until a signal ends it."""
    from ..deploy.prediction import Given, find_images, format_predictions
    from ..deploy.prediction_file import in_blocks
    from ..deploy.predictor import Predictor
    from ..deploy.watching import watch_folder

    stop, predicted, skipped, left = threading.Event(), 0, 0, 0
    appearing = watch_folder(folder, stop)
    named = [find_images(images)] if images else []
    with Predictor(**options) as predictor, ended_by_signals(stop):
        predictor.load()
        log.info(f"watch    {folder}: what appears there is classified. Ctrl-C ends it")
        batches: Iterator[dict[str, Given]] = itertools.chain(
            named, ({str(file): file for file in files} for files in appearing)
        )
        for block in (block for some in batches for block in in_blocks(some, predictor.trained.made.batch_size)):
            if stop.is_set():
                left += len(block)
                continue
            found = predictor.classify(block, bar=False).predicted
            for each in found.predictions:
                yield Answer(
                    each.to_json(), format_predictions(replace(found, predictions=[each]), header=not predicted)
                )
                predicted += 1
            for unusable in found.skipped:
                log.info(f"skipped  {unusable['path']}: {unusable['reason']}")
                yield Answer(unusable, None)
                skipped += 1
    if left:
        log.warning(
            f"{counted(left, 'image')} that had appeared are not predicted. Name them, or {folder}, beside --watch."
        )
    log.info(f"done     {counted(predicted, 'image')} predicted, {skipped} skipped")


def _next(replay: bool = False, **options: Any) -> Answer:
    own = {name: options.pop(name) for name in ("draws", "seed") if name in options}
    if replay:
        if len(options.keys() - {"run"} - ({"images"} if not options.get("images") else set())):
            raise RequestError(
                "--replay must stand with --run, --draws and --seed alone; got more. Leave the others out."
            )
        from ..labelling.replayed_queue import replay_queue

        replayed = replay_queue(options["run"], **own)
        return Answer(replayed.to_json(), replayed.words)
    if own:
        raise RequestError(f"--{next(iter(own))} must go with --replay; got it without. Leave it out.")
    from ..labelling.label_queue import format_queue, label_next

    _check_images("next", options)
    queue = label_next(**options)
    for path, reason in queue.skipped:
        log.info(f"skipped  {path}: {reason}")
    after = (
        f"next     open {queue.out}/queue.html, label the images, and save {queue.labels} here; this computes these alone:",
        f"         {queue.adding}",
    )
    return Answer(queue.to_json(), format_queue(queue.to_json()), after)


def _export(**options: Any) -> Answer:
    from ..deploy.exporting import export

    if "out" not in options:
        example = command("export", options["run"], _model_of(options["run"]))
        raise RequestError(f"--out must be the model's name; got none. For example: {example}")
    exported = export(**options)
    load = {
        "keras": "import keras; keras.saving.load_model",
        "onnx": "import onnxruntime; onnxruntime.InferenceSession",
        "savedmodel": "import tensorflow; tensorflow.saved_model.load",
    }
    code = f"{load[exported.format]}({json.dumps(str(exported.path), ensure_ascii=False)})"  # as Python writes it, too
    return Answer(exported.to_json(), str(exported.path), (f"next     {shell('python', '-c', code)}",))


def _serve(**options: Any) -> Answer:
    from .serving.server import serve

    serve(**options)
    return Answer({"run": options["run"]}, None)


COMMANDS: dict[str, Callable[..., Answer | Iterator[Answer]]] = {
    "predict": _predict,
    "next": _next,
    "export": _export,
    "serve": _serve,
}
