"""What is asked of an extraction, as one frozen record made at the edge and passed whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ..backbones.normalisation import PRESETS, Normalisation, make_normalisation
from ..backbones.registry import PREPROCESS, check_request, find_backbone
from ..engines.batch_size import USUAL
from ..engines.registry import CHOICES, check_engine, is_installed, missing_engine
from ..errors import CachedFeaturesError, RequestError, called, command, find_near, must_be_one_of, option
from ..images.bounds import MAX_PIXELS
from ..images.image_spec import ALL_BITS, SMOOTH, ImageSpec
from ..images.views import check_views
from ..pooling import EXTRACT_POOLS
from ..runtime.dask_cluster import check_cluster
from ..runtime.machine import cores
from ..sources.folder import FolderOptions
from ..sources.lists.manifest import ListOptions
from ..sources.load import load_source, source_name
from ..sources.source import Source
from ..store.chunks import COMPRESSION
from ..store.parts import LAYOUTS
from ..store.provenance import ASKED, DTYPES, EARLIER, MAX_BATCH, MAX_IMAGE_SIZE, Augment, FeatureSpec, Provenance

COLOUR, BACKGROUND = "srgb", "white"  # the defaults of new features
_IMAGENET = "imagenet"
MAX_IMAGES = 1e15  # of an estimate, and per second; beyond it, arithmetic of floats overflows


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """What decides features, as it is asked for. Fields left None take the backbone's default.

    Attributes
    ----------
    backbone : str
        A key of ``BACKBONES``, ``FILE.keras``, ``FILE.onnx`` or ``timm:NAME``.
    layers : tuple of str
        Names or indices.
    pool : {'none', 'avg', 'max', 'avg+max', 'cls', 'cls+avg'}
        Pool before storing. Left out: what a store of this name has; else ``none``, or ``avg`` where whole maps would
        not fit into the free disk or into half of the memory.
    image_size : int
        Side in pixels.
    preprocess : str
        See `build_base`.
    mean, std, scale, channels : optional
        Instead of `preprocess`, for an ONNX model; see `make_normalisation`.
    resize : str
        A member of ``RESIZE_RULES``. If left out: that of a store with this name; else ``bilinear``, but what timm says of its models.
    decode : {'scaled', 'full'}
        A member of ``DECODE``. If left out: that of a store with this name; else ``scaled``, where `resize` allows it.
    colour, background, range, fit : str
        See `ImageSpec`. If left out: those of a store with this name; else ``srgb``, ``white``, the bits in use over the source,
        and ``stretch``, but ``crop`` for models of timm that are tested so.
    dtype : {'float16', 'float32'}
    engine : str
        What runs the base, one of ``CHOICES``. ``auto``: what a store of this name was made with; else the
        fastest of those that are installed and for this device, which are timed once.
    batch_size : int
        Images per batch. If left out: that of a store with this name; else 16 on a CPU, and on a GPU the fastest size.
    weights, weights_sha256 : str
        See `load_weights`.
    views : int
        Rows per image: the image itself and `views` - 1 augmented copies.
    augment : str
        A key of ``AUGMENT``: what the copies are.
    seed : int
        Decides the copies of ``lecture``, and splits that a source does not give.
    max_pixels : int
        See `ImageSpec`.
    """

    backbone: str = "vgg16"
    layers: tuple[str, ...] | None = None
    pool: str | None = None
    image_size: int | None = None
    preprocess: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    channels: str | None = None
    resize: str | None = None
    dtype: str = "float16"
    engine: str = "auto"
    batch_size: int | None = None
    weights: str = _IMAGENET
    weights_sha256: str | None = None
    views: int = 1
    augment: str = "none"
    seed: int = 0
    decode: str | None = None
    colour: str | None = None
    background: str | None = None
    range: str | None = None
    fit: str | None = None
    max_pixels: int = field(default=MAX_PIXELS, compare=False)

    @property
    def side(self) -> int:
        """Side of the images in pixels."""
        return find_backbone(self.backbone).image_size if self.image_size is None else self.image_size

    @property
    def image_spec(self) -> ImageSpec:
        """How files become pixels: as requested, or the default."""
        resize = self.resize or find_backbone(self.backbone).resize
        return ImageSpec(
            size=self.side,
            resize=resize,
            decode=self.decode or ("scaled" if resize in SMOOTH else "full"),
            colour=self.colour or COLOUR,
            background=self.background or BACKGROUND,
            range=self.range or ALL_BITS,
            fit=self.fit or find_backbone(self.backbone).fit,
            max_pixels=self.max_pixels,
        )

    @property
    def full_batch(self) -> int:
        """Images per batch: as requested, or the default until a better size has been found."""
        return self.batch_size or USUAL

    @property
    def asked_layers(self) -> tuple[str, ...]:
        """Layers as they are asked for, by name or index."""
        return tuple(self.layers or (find_backbone(self.backbone).layer,))

    @property
    def normalised(self) -> list[str]:
        """Those options of a `Normalisation` that are given."""
        return [name for name in ("mean", "std", "scale", "channels") if getattr(self, name) is not None]

    @property
    def preparation(self) -> str:
        """How images are preprocessed: a name, or a `Normalisation` as text."""
        if self.normalised:
            return str(make_normalisation(self.scale, self.mean, self.std, self.channels))
        return self.preprocess or find_backbone(self.backbone).preprocess


Options = TypeVar("Options", bound=FeatureOptions)


@dataclass(frozen=True)
class ExtractRequest(FeatureOptions):
    """An extraction: features of what, and how they are kept.

    Attributes
    ----------
    data : str
        See `load_source`.
    add : tuple of str
        CSV files whose images are added; see `load_source`.
    out : path-like
        Name of the store; ``cache/<source>-<backbone>.h5`` if left out.
    path_column, label_column, split_column, path_pattern : str, optional
        See `ListOptions`.
    label_pattern, follow_links : str, bool
        See `FolderOptions`.
    column : mapping of str to str
        Further columns that paths give, by name; see `load_source`.
    group : str, optional
        Column whose equal texts must stay in one split.
    limit : int
        A stratified subset of this many images.
    compression : str, optional
        A member of ``COMPRESSION``; what the store has, or ``gzip``, if left out. All but ``gzip`` and ``none`` need hdf5plugin,
        also to be read by others.
    layout : {'file', 'parts'}
        One file, or parts that stay with an index over them, for stores larger than one file should be.
    corrections : path-like, optional
        Table of corrected labels; see `Corrections`.
    corrections_test : bool
        Correct the images of test, too.
    retry_skipped : bool
        Try again files that could not be used before; see `retries`.
    drop : bool
        Let images that are not in the source any more leave an existing store, even if they are more than a tenth.
    max_skipped : float
        Stop once more than this fraction of the files could not be used.
    allow_missing_classes : bool
        Accept classes that have no readable image, or none in some split.
    workers : int
        Threads that read and decode.
    cluster : str, optional
        ``local:N``, so many processes on this machine, or the address of a Dask scheduler: who computes.
    skip_unfit : bool
        Go on without workers that are not fit, each of which is named, instead of refusing.
    part_images : int, optional
        Images per part on a cluster at most; 512 if left out.
    images, rate : int, float, optional
        For `plan_cost`: how many images like the source's, and images per second per worker, measured if left out.
    """

    data: str
    add: tuple[str, ...] = ()
    out: str | Path | None = None
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    path_pattern: str | None = None
    label_pattern: str | None = None
    follow_links: bool = False
    column: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None
    limit: int | None = None
    compression: str | None = None
    layout: str = "file"
    corrections: str | Path | None = None
    corrections_test: bool = False
    retry_skipped: bool = False
    drop: bool = False
    max_skipped: float | None = None
    allow_missing_classes: bool = False
    workers: int = field(default_factory=lambda: min(8, cores()))
    cluster: str | None = None
    skip_unfit: bool = False
    part_images: int | None = None
    images: int | None = None
    rate: float | None = None

    @classmethod
    def of(cls, data: str | Path, options: Mapping[str, Any]) -> ExtractRequest:
        """Return the request that a function's options make."""
        return cls(data=str(data), **options)

    @property
    def path(self) -> Path:
        """Where the store will be."""
        if self.out is not None:
            return Path(self.out)
        base = Path(self.backbone.replace(":", "-"))  # a model of timm has dots in its name, and no extension
        return (
            Path("cache")
            / f"{source_name(self.data)}-{base.stem if base.suffix in ('.keras', '.onnx') else base.name}.h5"
        )

    @property
    def retries(self) -> bool:
        """Whether skipped files are tried again: if asked for, or if larger images are read than usual."""
        return self.retry_skipped or self.max_pixels > MAX_PIXELS

    @property
    def told(self) -> dict[str, Any]:
        """Those options of `ASKED` that are given, as JSON."""
        usual = ExtractRequest(self.data)
        given = {name: getattr(self, name) for name in ASKED if getattr(self, name) != getattr(usual, name)}
        return {name: dict(value) if name == "column" else value for name, value in given.items()}

    def source(self) -> Source:
        """Read the labelled images; see `load_source`."""
        listed = ListOptions(self.path_column, self.label_column, self.split_column, self.path_pattern)
        folder = FolderOptions(self.follow_links, self.label_pattern)
        return load_source(
            self.data,
            self.seed,
            self.limit,
            self.allow_missing_classes,
            listed,
            self.column,
            self.group,
            folder,
            self.add,
        )


def extract_again(made: Provenance, out: Path, **options: Any) -> str | None:
    """Return the command that makes a store again with other options; None if its source is unknown.

    What it does not name, such as ``colour``, is as in the store that is there. Stores of earlier versions do not record `ASKED`.
    """
    if made.origin is None:
        return None
    spec, backbone = made.spec, made.backbone_file or made.spec.backbone
    usual, origin = ExtractRequest("", backbone=backbone), made.origin
    told: dict[str, Any] = {
        "group": origin.group,
        "limit": origin.limit,
        "seed": made.seed,
        "views": made.views,
        "augment": spec.augment.name,
        "dtype": spec.dtype,
        "weights": made.weights,
    }
    told = {name: value for name, value in told.items() if value != getattr(usual, name)}
    if "weights" in told:
        told["weights_sha256"] = spec.weights_sha256
    try:
        base = find_backbone(backbone)
    except CachedFeaturesError:  # the user's own model is not there any more
        base = None
    if base is None or spec.image_size != base.image_size:
        told["image_size"] = spec.image_size
    if base is None or spec.resize != base.resize:
        told["resize"] = spec.resize
    if base is None or made.layers_asked != (base.layer,):
        told["layers"] = made.layers_asked
    if base is None or spec.preprocess != base.preprocess:
        told |= _preprocessing(spec.preprocess, is_onnx=backbone.endswith(".onnx"))
    told |= {**origin.asked, **options}
    if "column" in told:
        told["column"] = {**origin.asked.get("column", {}), **told["column"]}
    added = [*origin.added, *told.pop("add", ())]
    return command("extract", data=origin.data, **({"add": added} if added else {}), backbone=backbone, out=out, **told)


def _preprocessing(preprocess: str, is_onnx: bool) -> dict[str, Any]:
    """Return the options that ask for this preprocessing of a base; none for a base that has only its own."""
    if preprocess in (PRESETS if is_onnx else PREPROCESS):
        return {"preprocess": preprocess}
    return Normalisation.of(preprocess).options if is_onnx else {}


def with_held(options: Options, held: FeatureSpec | None) -> Options:
    """Return a request that takes what it leaves open about images from features that exist."""
    if held is None:
        return options
    left = {name: getattr(held, name) for name in ("resize", *EARLIER) if getattr(options, name) is None}
    if options.resize not in (None, held.resize):  # decoding goes with the rule; another rule is refused later
        left.pop("decode", None)
    return replace(options, **left)


def asked_settings(options: FeatureOptions) -> dict[str, Any]:
    """Return those fields of `FeatureSpec` that the request alone decides."""
    images = options.image_spec
    return {
        "backbone": Path(options.backbone).name,
        "image_size": images.size,
        "resize": images.resize,
        "decode": images.decode,
        "colour": images.colour,
        "background": images.background,
        "range": images.range,
        "fit": images.fit,
        "preprocess": options.preparation,
        "augment": Augment(options.augment, options.seed if options.augment == "lecture" else None),
        "dtype": options.dtype,
    }


def check_features(options: FeatureOptions) -> None:
    """Refuse features that can be refused before any image is read."""
    _check_base(options)
    check_request(options.backbone, options.side, options.preparation)
    options.image_spec.check()
    if options.dtype not in DTYPES:
        raise must_be_one_of(called("dtype"), DTYPES, options.dtype)
    if options.engine not in CHOICES:
        raise must_be_one_of(called("engine"), CHOICES, options.engine)
    check_engine(options.engine, find_backbone(options.backbone).library, options.backbone)
    if options.engine != "auto" and not is_installed(options.engine):
        raise missing_engine(options.engine)
    if options.pool is not None and options.pool not in EXTRACT_POOLS:
        raise must_be_one_of(called("pool"), EXTRACT_POOLS, options.pool)
    check_views(options.views, options.augment)
    if options.side > MAX_IMAGE_SIZE:
        raise RequestError(
            f"{called('image_size')} must be at most {MAX_IMAGE_SIZE}; got {options.side}. Leave it out for the base's own."
        )
    if options.batch_size is not None and not 1 <= options.batch_size <= MAX_BATCH:
        bounds = "at least 1" if options.batch_size < 1 else f"at most {MAX_BATCH}"
        raise RequestError(
            f"{called('batch_size')} must be {bounds}; got {options.batch_size}. Leave it out for what is usual."
        )


def _check_base(options: FeatureOptions) -> None:
    """Refuse options of an ONNX model's preprocessing for other bases, and beside a preset."""
    given = options.normalised
    backbone = find_backbone(options.backbone)
    if given and not (backbone.own and backbone.library == "onnx"):
        raise RequestError(
            f"{called(given[0])} must be left out for {options.backbone}, whose preprocessing is known; it is for FILE.onnx. Leave it out."
        )
    if given and options.preprocess is not None:
        raise RequestError(
            f"{called(given[0])} must not go with {called('preprocess')}, which says the same; got both. Leave one of them out."
        )
    if not backbone.own and options.weights != _IMAGENET and not Path(options.weights).is_file():
        # now, since a finished store needs none
        raise RequestError(
            f"{called('weights')} must be a file; got {options.weights}. {find_near(options.weights, 'Leave it out for those of ImageNet.')}"
        )


def check_options(options: ExtractRequest) -> None:
    """Refuse what can be refused before any file is read."""
    check_features(options)
    if options.compression not in (None, *COMPRESSION):
        raise must_be_one_of(called("compression"), COMPRESSION, options.compression)
    if options.layout not in LAYOUTS:
        raise must_be_one_of(called("layout"), LAYOUTS, options.layout)
    if options.layout == "parts" and any(0xDC80 <= ord(letter) <= 0xDCFF for letter in options.path.name):
        raise RequestError(
            f"{called('out')} must have a name in UTF-8 if the layout is parts, since the index holds it; "
            f"got {os.fsencode(options.path.name)!r}. Use {option('out', 'cache/features.h5')}"
        )
    if options.path.suffix != ".h5":
        proper = option("out", options.path.with_suffix(".h5"))
        raise RequestError(f"{called('out')} must end in .h5; got {options.path}. Use {proper}")
    if options.workers < 1:
        raise RequestError(
            f"{called('workers')} must be at least 1; got {options.workers}. Leave it out for one per core, 8 at most."
        )
    if options.part_images is not None and options.part_images < 1:
        raise RequestError(
            f"{called('part_images')} must be at least 1; got {options.part_images}. Leave it out for 512."
        )
    for name, value in (("images", options.images), ("rate", options.rate)):
        if value is not None and not 0 < value <= MAX_IMAGES:
            raise RequestError(
                f"{called(name)} must be above 0 and at most {MAX_IMAGES:.0e}; got {value!s:.20}. "
                "Leave it out: it is what the source has, or measured."
            )
    check_cluster(options.cluster, options.skip_unfit)
    if options.max_skipped is not None and not 0 <= options.max_skipped <= 1:
        raise RequestError(
            f"{called('max_skipped')} must be between 0 and 1; got {options.max_skipped}. Leave it out for 0.05."
        )
