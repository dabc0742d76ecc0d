"""The commands about stores and bases."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import RequestError, command, counted, on_command_line, option
from features.runtime.log import log

from .answers import Answer
from .arguments.parser import PROGRAM
from .messages import messages_on_stderr

if TYPE_CHECKING:
    from features.extraction.verification import Check


_NAMED = 5  # skipped files that inspect names


def _extract(
    data: str, plan_only: bool = False, images: int | None = None, rate: float | None = None, **options: Any
) -> Answer:
    from features.extraction.cost import plan_cost
    from features.extraction.run import extract, format_skipped

    if plan_only:
        given: Any = {name: value for name, value in (("images", images), ("rate", rate)) if value is not None}
        cost = plan_cost(data, **options, **given)
        following = f"next     the same without --plan-only: {command('extract', data=data, **options)}"
        return Answer(cost.to_json(), f"{cost.hours[1]:.3g} h on one worker", (following,))
    if images is not None or rate is not None:
        raise RequestError(
            "--images and --rate must go with --plan-only; got them without. For fewer images: --limit N"
        )
    done = extract(data, **options)
    if done.skipped:
        log.info(
            f"skipped  {counted(len(done.skipped), 'file')}; the store lists them under /skipped. "
            f"Once they can be used: {option('retry_skipped', True)}"
        )
        for line in format_skipped(done.skipped):
            log.info(line)
    if done.stages is not None:
        busy = ", ".join(f"{name} {getattr(done.stages, name):.1f} s" for name in ("decode", "forward", "write"))
        log.info(f"pass     {busy}, side by side; {done.stages.limit} was the limit")
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in done.seconds.items())
    rate_seen = f" ({done.computed / done.seconds['pass']:.1f} images/s in the pass)" if done.computed else ""
    log.info(f"done     {counted(done.rows, 'row')}, {done.computed:,} computed{rate_seen}: {stages}")
    if done.computed and "group" not in options:
        _warn_of_alike(done.path)
    return Answer(done.to_json(), str(done.path), (f"next     {command('compare', store=done.path)}",))


def _warn_of_alike(store: Path) -> None:
    """Warn of images that come in series or, where none are found, of near-copies across the split."""
    from features.store.reader import FeatureStore

    from ..training.request import Request
    from ..training.splitting import warn_of_near_copies, warn_of_series

    with FeatureStore(store) as opened:
        if not warn_of_series(opened, Request(store)).found:
            warn_of_near_copies(opened, Request(store))


def _layers(backbone: str, image_size: int | None = None) -> Answer:
    import math

    from features.backbones.keras_base import list_layers
    from features.backbones.registry import LAST_MAP, find_backbone
    from features.pooling import KINDS

    shapes = list_layers(backbone, image_size)
    kinds = {name: KINDS[-len(shape)] if 0 < len(shape) <= len(KINDS) else "other" for name, shape in shapes.items()}
    lines = [f"{'layer':<40} {'shape':>18} {'kind':>7} {'bytes per image (float16)':>25}"]
    for name, shape in shapes.items():
        lines.append(f"{name:<40} {'x'.join(map(str, shape)):>18} {kinds[name]:>7} {2 * math.prod(shape):>25,}")
    base = find_backbone(backbone)
    default = base.layer
    if default == LAST_MAP:
        default = next((name for name in reversed(shapes) if len(shapes[name]) == 3), list(shapes)[-1])
    default = list(shapes)[int(default)] if default.lstrip("-").isdigit() else default
    kept: dict[str, Any] = {} if image_size is None else {"image_size": image_size}
    if not base.preprocess:  # an ONNX model that does not say it itself
        kept["preprocess"] = "PRESET"
    following = command("extract", data="SOURCE", backbone=backbone, layers=default, **kept)
    result = {"backbone": backbone, "default": default, "layers": shapes, "kinds": kinds}
    return Answer(result, "\n".join(lines), (f"next     {following}",))


def _inspect(store: str, upgrade: bool = False) -> Answer:
    import features
    from features.store.provenance import EARLIER
    from features.store.reader import FeatureStore

    if upgrade and not features.upgrade_store(store):
        log.info(f"format   {store} has the current format already; nothing to do")
    with FeatureStore(store) as opened:
        described = opened.describe()
    held, rows = {**EARLIER, **described["provenance"]}, described["rows"]
    lines = [
        f"store    {store}: {counted(sum(sum(each.values()) for each in rows.values()), 'row')}, {described['bytes'] / 1e6:.1f} MB, "
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
        lines.append(f"column   {name}: {counted(column['values'], 'different value')}, such as {examples}")
    skipped = described["skipped_files"]
    lines.append(f"skipped  {counted(len(skipped), 'file')}")
    lines += [f"         {each['path']}: {each['reason']}" for each in skipped[:_NAMED]]
    if len(skipped) > _NAMED:
        lines.append(f"         and {len(skipped) - _NAMED:,} more: {command('inspect', store)} --json")
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
    return Answer(described, "\n".join(lines), (f"next     {command('compare', store=store)}",))


def _verify(store: str, **options: Any) -> Answer:
    from dataclasses import asdict

    from features.errors import StoreError
    from features.runtime.child_process import ChildEnded, call_in_child

    try:
        checks = call_in_child(_judge, log.level, store, options)
    except ChildEnded as ended:
        raise StoreError(
            f"{store} must be read to its end; the process that read it ended {ended} before it was done. Delete it and extract it "
            f"again, or restore a copy."
        ) from ended
    failed = [check for check in checks if check.held is False]
    if failed:
        raise StoreError(f"{store} fails {len(failed)} of {len(checks)} checks. {failed[0].seen}")
    result = {"store": store, "checks": [asdict(check) for check in checks]}
    return Answer(result, f"{store} is sound", (f"next     {command('compare', store=store)}",))


def _judge(level: int, store: str, options: dict[str, Any]) -> list[Check]:
    """Check a store in a process of its own, since a damaged file can crash or end whoever reads it."""
    from features.extraction.verification import verify

    with messages_on_stderr(level), on_command_line(PROGRAM), contextlib.redirect_stdout(sys.stderr):
        return verify(store, **options)


COMMANDS: dict[str, Callable[..., Answer]] = {
    "extract": _extract,
    "layers": _layers,
    "inspect": _inspect,
    "verify": _verify,
}
