"""The plan of a pass: the rows of a source, the contents of their files, and whether a finished store has them already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from importlib.metadata import version

import numpy as np

from ..backbones.registry import find_sha256
from ..errors import RequestError, SourceError, called, counted, listed, option
from ..images.contents import Content, distinct_contents, hash_files
from ..images.survey import Survey
from ..runtime.log import log
from ..runtime.progress import Progress
from ..sources.folder import describe_left_out
from ..sources.lists.corrections import Corrections
from ..sources.load import keep_copies_together
from ..sources.source import Source, warn_of_like_names
from ..splits import SPLITS
from ..store.provenance import Provenance
from ..store.reader import FeatureStore, parts_folder
from ..store.schema import Rows, Skipped
from .request import ExtractRequest, asked_settings, with_held

_DELAY = 5  # seconds of reading files, after which progress is shown
_FEW = 0.1  # of a store's images, which may leave it without being asked for


@dataclass(frozen=True)
class Plan:
    """A source whose files have been hashed.

    Attributes
    ----------
    source : Source
    keys : tuple of bytes or str
        SHA-256 of each row's file, or the reason why the file cannot be read.
    contents : tuple of Content
        Distinct contents, in the order of their first rows.
    dropped : frozenset of bytes or str
        Keys of images that corrections drop.
    """

    source: Source
    keys: tuple[bytes | str, ...]
    contents: tuple[Content, ...]
    dropped: frozenset[bytes | str] = frozenset()

    def rows(self, views: int, reasons: Mapping[bytes, str]) -> tuple[Rows, list[Skipped]]:
        """Return the rows of the store, with the views of an image in consecutive rows, and the skipped files.

        Parameters
        ----------
        views : int
            Rows per image.
        reasons : mapping of bytes to str
            SHA-256 of contents to skip → reason.
        """
        source = self.source
        kept, skipped = [], [Skipped(*each) for each in source.rejected]
        for row, key in enumerate(self.keys):
            if isinstance(key, bytes) and key not in reasons:
                kept.append((row, key))
            elif isinstance(key, bytes):
                skipped.append(Skipped(source.paths[row], reasons[key], key))
            else:
                skipped.append(Skipped(source.paths[row], key))
        chosen = np.repeat(np.array([row for row, _ in kept], int), views)
        sha256 = np.frombuffer(b"".join(key for _, key in kept), np.uint8).reshape(-1, 32)
        rows = Rows(
            class_names=source.class_names,
            paths=tuple(source.paths[row] for row in chosen),
            labels=source.labels[chosen],
            splits=source.splits[chosen],
            strata=source.strata[chosen],
            views=np.tile(np.arange(views, dtype=np.uint8), len(kept)),
            sha256=np.repeat(sha256, views, axis=0),
            columns={name: tuple(values[row] for row in chosen) for name, values in source.columns.items()},
            learnt=np.array([source.paths[row] in source.learnt for row in chosen], np.uint8)
            if source.learnt
            else None,
        )
        return rows, sorted(skipped)

    @cached_property
    def copies(self) -> list[list[int]]:
        """The rows of each image that occurs more than once."""
        shared: dict[bytes, list[int]] = {}
        for row, key in enumerate(self.keys):
            if isinstance(key, bytes):
                shared.setdefault(key, []).append(row)
        return [rows for rows in shared.values() if len(rows) > 1]

    def describe(self) -> list[str]:
        """Return lines of text: the number of rows per split and class, and images that occur more than once."""
        source = self.source
        lines = [
            f"source   {source.kind}: {counted(len(source), 'image')} of {counted(len(source.class_names), 'class')} below {source.root}"
        ]
        lines += [f"         {note}" for note in source.notes]
        lines += describe_left_out(source.left_out)
        for split, classes in source.counts().items():
            counts = listed([f"{name} {count}" for name, count in classes.items()])
            lines.append(f"{split:<8} {sum(classes.values())}: {counts}")
        if self.copies:
            lines.append(f"copies   of {counted(len(self.copies), 'image')}, by content; each image is computed once")
        return lines

    def warnings(self) -> Iterator[str]:
        """Yield what is likely to be wrong: class names that look alike, and copies in more than one split or class."""
        source = self.source
        yield from warn_of_like_names(source.class_names)
        remedies = {
            "split": f"Figures of this split are too good: remove one of each, or draw splits: {option('repeats', 5)} of compare",
            "class": "At most one of the labels is right: remove the other files",
        }
        for what, values in (("split", source.splits), ("class", source.labels)):
            across = [rows for rows in self.copies if len(set(values[rows])) > 1]
            if across:
                example = ", ".join(source.paths[row] for row in across[0][:3])
                count = counted(len(across), "image")
                yield f"copies in more than one {what}: {count}, such as {example}. {remedies[what]}"


def make_plan(source: Source, workers: int, survey: Survey | None = None) -> Plan:
    """Hash a source's files with `workers` threads, surveying them; drawn splits then keep copies of an image together."""
    files = [source.file(row) for row in range(len(source))]
    with Progress(len(files), "files read", delay=_DELAY) as progress:
        keys = hash_files(files, workers, None if survey is None else survey.look, progress.update)
    return Plan(keep_copies_together(source, keys), tuple(keys), tuple(distinct_contents(files, keys)))


def correct(plan: Plan, corrections: Corrections, of_test: bool) -> Plan:
    """Return a plan with corrected labels, and without dropped images; those of test only if told.

    Splits stay those of all images as they were labelled.
    """
    source, none = plan.source, bytes(32)  # of files that cannot be read
    sha256 = np.frombuffer(b"".join(key if isinstance(key, bytes) else none for key in plan.keys), np.uint8)
    protected = (source.splits == SPLITS["test"]) & (not of_test)
    found = corrections.apply(source.class_names, source.labels, sha256.reshape(-1, 32), protected)
    rows = np.flatnonzero(found.kept).tolist()
    log.info(
        f"labels   {found.changed} changed, {counted(len(plan.keys) - len(rows), 'image')} dropped, {found.spared} of test left as they are, "
        f"{found.unknown} not in the source, by {corrections.path}"
    )
    corrected = replace(
        source,
        paths=tuple(source.paths[row] for row in rows),
        labels=found.labels[rows],
        splits=source.splits[rows],
        strata=found.strata(source.labels, source.strata)[rows],
        columns={name: tuple(texts[row] for row in rows) for name, texts in source.columns.items()},
    )
    keys = [plan.keys[row] for row in rows]
    left = set(keys)
    contents = tuple(each for each in plan.contents if each.sha256 in left)
    return Plan(corrected, tuple(keys), contents, frozenset(plan.keys) - left)


def check_classes(plan: Plan, options: ExtractRequest) -> None:
    """Raise SourceError if a class has no readable image; fast, since it stops at the first readable one."""
    source, files = plan.source, {content.sha256: content for content in plan.contents}
    for label, name in enumerate(source.class_names):
        reasons = []
        for row in np.flatnonzero(source.labels == label):
            key = plan.keys[row]
            image = key if isinstance(key, str) else files[key].image(options.image_spec)
            if not isinstance(image, str):
                break
            reasons.append(f"{source.paths[row]}: {image}")
        else:
            raise SourceError(
                f"every class must have a readable image; all {len(reasons)} of {name!r} are broken ({reasons[0]}). "
                f"Repair them, remove the class, or accept it: {option('allow_missing_classes', True)}"
            )


def check_left(plan: Plan, options: ExtractRequest) -> None:
    """Tell which images of an existing store are not in the source any more; more than a tenth must be asked for.

    Those that corrections drop are asked for, and were told.

    Raises
    ------
    RequestError
        If more than a tenth would leave the store and `options` do not say ``drop``.
    """
    if not options.path.exists():
        return
    with FeatureStore(options.path) as store:
        held, origin = store.rows.images(), store.made.origin
    kept = {*plan.keys, *plan.dropped}
    left = [path for path, sha256 in zip(held.paths, held.sha256, strict=True) if sha256.tobytes() not in kept]
    if not left:
        return
    told = f"{len(left):,} of the {len(held):,} images of {options.path} are not in {options.data}, or have changed, such as {left[0]}"
    missing = [] if origin is None else [each for each in origin.added if each not in options.add]
    if missing:
        told += f" (it was made with {option('add', missing)})"
    if len(left) > len(held) * _FEW and not options.drop:
        raise RequestError(
            f"{called('out')} must keep nine of ten images that it holds, unless told otherwise; {told}. Complete the source, choose "
            f"another {called('out')}, or let them go: {option('drop', True)}"
        )
    log.info(f"dropped  {told}; their features leave the store")


def find_finished(options: ExtractRequest, plan: Plan) -> tuple[Rows, list[Skipped], Provenance] | None:
    """Return rows, skipped files and provenance of a store that is complete and matches the request, else None.

    The source's files have been hashed for the plan. Weights count as unchanged if the size, times and inode of their file
    are unchanged since they were last loaded and hashed.
    """
    if not options.path.exists() or (options.layout == "file" and parts_folder(options.path).exists()):
        return None
    with FeatureStore(options.path) as store:
        held = store.made
        if not _has_settings(held, options):
            return None
        reasons = {each.sha256: each.reason for each in store.skipped if each.sha256}
        rows, skipped = plan.rows(options.views, {} if options.retries else reasons)
        return (rows, skipped, held) if is_current(store, options, rows, skipped) else None


def is_current(store: FeatureStore, options: ExtractRequest, rows: Rows, skipped: list[Skipped]) -> bool:
    """Return whether a store holds exactly these rows, by this group, in the requested compression and layout."""
    same = all(np.array_equal(getattr(store.rows, each.name), getattr(rows, each.name)) for each in fields(Rows))
    packed = options.compression in (None, store.made.compression)
    grouped = store.made.origin is None or store.made.origin.group == options.group
    return (
        same
        and grouped
        and store.skipped == skipped
        and packed
        and options.layout == ("parts" if store.parts else "file")
    )


def _has_settings(held: Provenance, options: ExtractRequest) -> bool:
    """Return whether a store has the requested settings; False if that cannot be determined without TensorFlow."""
    spec, sha256 = held.spec, find_sha256(options.backbone, options.weights)
    options = with_held(options, spec)
    # A layer index means the same layer only as long as Keras builds the same list of layers.
    indexed = held.layers_asked == options.asked_layers and held.versions.get("keras") == version("keras")
    return (
        all(getattr(spec, name) == value for name, value in asked_settings(options).items())
        and (indexed or spec.layers == options.asked_layers)
        and sha256 == spec.weights_sha256
        and options.weights_sha256 in (None, sha256)
        and options.pool in (None, spec.pool)
        and options.engine in ("auto", spec.engine.name)
    )
