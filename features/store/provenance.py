"""Provenance of features: the settings that determine their values, informational fields, and the JSON form of both.

The program passes these dataclasses around. Only this module writes and parses their JSON and the human-readable texts in it,
such as ``numba 0.68.1, cpu, float32``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import UnsafeFile, WrongStore, option
from ..images.image_spec import ImageSpec
from ..pooling import EXTRACT_POOLS, KINDS

DTYPES = ("float16", "float32")
MAX_IMAGE_SIZE, MAX_BATCH, MAX_VIEWS = 4096, 4096, 256  # larger values in a request or file are treated as errors
_ENGINE = re.compile(r"(\S+) ([^,]+), (cpu|gpu)(?: (.+))?, (\w+)")
_AUGMENT = re.compile(r"(\w+)(?:, seed (-?\d+))?")


@dataclass(frozen=True)
class Device:
    """The device of an engine: its `kind`, ``cpu`` or ``gpu``, and the name of a GPU."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


CPU = Device("cpu")


@dataclass(frozen=True)
class EngineSpec:
    """The engine that ran the base.

    Attributes
    ----------
    name : str
        A key of ``ENGINES``.
    version : str
        Version of the engine's library.
    device : Device
    precision : {'float32', 'float16', 'bfloat16'}
    """

    name: str
    version: str
    device: Device
    precision: str

    @classmethod
    def parse(cls, text: str) -> EngineSpec:
        """Parse the output of `__str__`; raise ValueError if it is invalid."""
        match = _ENGINE.fullmatch(text)
        if match is None:
            raise ValueError(f"not an engine: {text[:80]!r}")
        name, version, kind, device, precision = match.groups()
        return cls(name, version, Device(kind, device or ""), precision)

    def __str__(self) -> str:
        return f"{self.name} {self.version}, {self.device}, {self.precision}"


@dataclass(frozen=True)
class Augment:
    """How an image's views are made: a key of ``AUGMENT``, and the seed of random views (``lecture``)."""

    name: str
    seed: int | None = None

    @classmethod
    def parse(cls, text: str) -> Augment:
        """Parse the output of `__str__`; raise ValueError if it is invalid."""
        match = _AUGMENT.fullmatch(text)
        if match is None:
            raise ValueError(f"not an augment: {text[:80]!r}")
        return cls(match[1], None if match[2] is None else int(match[2]))

    def __str__(self) -> str:
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"


@dataclass(frozen=True)
class FeatureSpec:
    """All settings that determine feature values. Features that differ in any field are never mixed.

    Attributes
    ----------
    backbone : str
        A key of ``BACKBONES``, or the name of a file ``*.keras``.
    layers : tuple of str
    weights_sha256 : str
    image_size : int
        Side in pixels.
    resize, preprocess : str
    pool : {'none', 'avg', 'max', 'avg+max', 'cls', 'cls+avg'}
        How maps were pooled before storing.
    augment : Augment
    dtype : {'float16', 'float32'}
    engine : EngineSpec
    decode, colour, background, range, fit : str
        See `ImageSpec`. Not recorded by earlier versions, which decoded in full, ignored profiles, dropped transparency, kept the
        highest eight bits and stretched.
    """

    backbone: str
    layers: tuple[str, ...]
    weights_sha256: str
    image_size: int
    resize: str
    preprocess: str
    pool: str
    augment: Augment
    dtype: str
    engine: EngineSpec
    decode: str = "full"
    colour: str = "ignored"
    background: str = "none"
    range: str = "16-bit"
    fit: str = "stretch"

    @property
    def image_spec(self) -> ImageSpec:
        """How files became pixels."""
        return ImageSpec(self.image_size, self.resize, self.decode, self.colour, self.background, self.range, self.fit)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict of the fields."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        return told | {"layers": list(self.layers), "augment": str(self.augment), "engine": str(self.engine)}

    @property
    def fingerprint(self) -> str:
        """The SHA-256 over the fields' JSON, as hexadecimal; without later fields that are as before they were recorded."""
        told = {name: value for name, value in self.to_json().items() if EARLIER.get(name) != value}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


# What holds of features that were made before a field was recorded.
EARLIER = {each.name: each.default for each in fields(FeatureSpec) if each.default is not MISSING}


# Options of `extract` that decide which rows there are and what is known of them, with the types of their values.
ASKED: dict[str, tuple[type, ...]] = {
    "path_column": (str,),
    "label_column": (str,),
    "split_column": (str,),
    "path_pattern": (str,),
    "label_pattern": (str,),
    "follow_links": (bool,),
    "column": (dict,),
    "corrections": (str,),
    "corrections_test": (bool,),
    "allow_missing_classes": (bool,),
    "max_skipped": (float, int),
    "max_pixels": (int,),
    "layout": (str,),
}


@dataclass(frozen=True)
class Origin:
    """The source of labelled images; see `Source`.

    Attributes
    ----------
    kind, data : str
        ``folder``, ``csv`` or a named set; and the requested source.
    root : str
        The folder to which paths of rows are relative.
    limit : int, optional
    notes : tuple of str
        Human-readable notes on how the rows were chosen.
    group : str, optional
        The column that names each row's group; a group stays in one split. Not recorded by earlier versions.
    added : tuple of str
        CSV files whose images were added. Not recorded by earlier versions.
    drawn : tuple of str
        Splits that the source did not give. Not recorded by earlier versions.
    asked : mapping of str to object
        Those options of `ASKED` that were given. Not recorded by earlier versions.
    """

    kind: str
    data: str
    root: str
    limit: int | None = None
    notes: tuple[str, ...] = ()
    group: str | None = None
    added: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Provenance:
    """A spec, and informational fields that do not determine feature values.

    Attributes
    ----------
    spec : FeatureSpec
    views : int
        Rows per image.
    seed : int
        Seed of splits that the source does not define, and of random views.
    batch_size : int
    weights, weights_origin : str
        ``imagenet`` or the requested file; and where the weights were found.
    layers_asked : tuple of str
        Requested names or indices.
    backbone_file : str, optional
        Path of the user's own model.
    compression : str
        A member of ``COMPRESSION``.
    origin : Origin, optional
        None for images without a source.
    versions : dict of str to str
        Library → version.
    parity : float, optional
        Relative distance of some features from those of the reference engine; None if there was no pass.
    parity_on : {'probes', 'batch'}, optional
        Of which features: of fixed images, or of the first batch. None for the reference engine itself; earlier versions, which
        always took the first batch, did not record it.
    kinds : dict of str to str
        Layer → kind as stored, a member of ``KINDS``. Not recorded in format 1.
    values : str, optional
        Digest of all values, independent of compression; see `digest_values`. Not recorded in format 1.
    """

    spec: FeatureSpec
    views: int
    seed: int
    batch_size: int
    weights: str
    weights_origin: str
    layers_asked: tuple[str, ...]
    backbone_file: str | None = None
    compression: str = "gzip"
    origin: Origin | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    parity: float | None = None
    parity_on: str | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    values: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict, as saved in a store."""
        origin = None if self.origin is None else asdict(self.origin)
        notes = [] if origin is None else list(origin.pop("notes"))
        if origin is not None:
            origin |= {name: list(origin[name]) for name in ("added", "drawn")}
        return {
            **self.spec.to_json(),
            "source": origin,
            "splits": notes,
            "views": self.views,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "weights": self.weights,
            "weights_origin": self.weights_origin,
            "layers_asked": list(self.layers_asked),
            "backbone_file": self.backbone_file,
            "compression": self.compression,
            "versions": dict(self.versions),
            "fingerprint": self.spec.fingerprint,
            "parity": self.parity,
            "parity_on": self.parity_on,
            "kinds": dict(self.kinds),
            "values": self.values,
        }

    @classmethod
    def from_json(cls, told: Any, where: str) -> Provenance:
        """Return the provenance that `to_json` wrote, in this or an earlier version.

        Parameters
        ----------
        told : Any
            From an untrusted file: types and ranges are checked here, names where they are looked up.
        where : str
            Description of the file, for messages.

        Raises
        ------
        UnsafeFile
            If it is not a valid provenance.
        """
        try:
            return cls(
                spec=_read_spec(told),
                views=_number(told, "views", MAX_VIEWS),
                seed=_take(told, "seed", int),
                batch_size=_number(told, "batch_size", MAX_BATCH),
                weights=_take(told, "weights", str),
                weights_origin=_take(told, "weights_origin", str),
                layers_asked=_texts(told, "layers_asked" if "layers_asked" in told else "layers"),
                backbone_file=_take(told, "backbone_file", str, type(None)) if "backbone_file" in told else None,
                compression=_take(told, "compression", str),
                origin=_read_origin(told),
                versions={str(name): str(each) for name, each in _take(told, "versions", dict).items()},
                parity=_take(told, "parity", float, int, type(None)) if "parity" in told else None,
                parity_on=_take(told, "parity_on", str, type(None)) if "parity_on" in told else None,
                kinds=_read_kinds(told) if "kinds" in told else {},
                values=_take(told, "values", str, type(None)) if "values" in told else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UnsafeFile(f"{where} must say how features were made; {error!r:.200}. Make it again.") from error


def check_same(held: FeatureSpec, asked: FeatureSpec, path: Path) -> None:
    """Raise WrongStore, naming the fields that differ, unless two specs are the same."""
    one, other = held.to_json(), asked.to_json()
    differ = [name for name in one if one[name] != other[name]]
    if differ:
        table = "; ".join(f"{name}: stored {_brief(one[name])}, requested {_brief(other[name])}" for name in differ)
        another = path.with_name(f"{path.stem}-2{path.suffix}")
        raise WrongStore(
            f"{path} was made with other settings. {table}. Extract to another file: {option('out', another)}"
        )


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _read_spec(told: Any) -> FeatureSpec:
    spec = FeatureSpec(
        backbone=_take(told, "backbone", str),
        layers=_texts(told, "layers"),
        weights_sha256=_take(told, "weights_sha256", str),
        image_size=_number(told, "image_size", MAX_IMAGE_SIZE),
        resize=_take(told, "resize", str),
        preprocess=_take(told, "preprocess", str),
        pool=_take(told, "pool", str),
        augment=Augment.parse(_take(told, "augment", str)),
        dtype=_take(told, "dtype", str),
        engine=EngineSpec.parse(_take(told, "engine", str)),
        **{name: _take(told, name, str) for name in EARLIER if name in told},
    )
    for name, value, known in (("pool", spec.pool, EXTRACT_POOLS), ("dtype", spec.dtype, DTYPES)):
        if value not in known:
            raise ValueError(f"{name} {value[:40]!r}")
    return spec


def _read_kinds(told: Any) -> dict[str, str]:
    kinds: dict[str, str] = _take(told, "kinds", dict)
    if not set(kinds.values()) <= set(KINDS):
        raise ValueError(f"kinds {kinds!r:.40}")
    return kinds


def _read_origin(told: Any) -> Origin | None:
    source = _take(told, "source", dict, type(None))
    if source is None:
        return None
    kind, data, root = (_take(source, name, str) for name in ("kind", "data", "root"))
    group = _take(source, "group", str, type(None)) if "group" in source else None
    added, drawn = (_texts(source, name) if name in source else () for name in ("added", "drawn"))
    asked = _read_asked(_take(source, "asked", dict)) if "asked" in source else {}
    limit = _take(source, "limit", int, type(None))
    return Origin(kind, data, root, limit, _texts(told, "splits"), group, added, drawn, asked)


def _read_asked(told: Any) -> dict[str, Any]:
    """Return the known options among those recorded; a later version may record more."""
    asked = {name: _take(told, name, *kinds) for name, kinds in ASKED.items() if name in told}
    if not all(isinstance(each, str) for each in asked.get("column", {}).values()):
        raise TypeError(f"column {asked['column']!r:.40}")
    return asked


def _take(told: Any, name: str, *kinds: type) -> Any:
    value = told[name]
    if type(value) not in kinds:  # a bool does not count as an int
        raise TypeError(f"{name} {value!r:.40}")
    return value


def _number(told: Any, name: str, largest: int) -> int:
    value: int = _take(told, name, int)
    if not 0 < value <= largest:
        raise ValueError(f"{name} {value!r:.40}")
    return value


def _texts(told: Any, name: str) -> tuple[str, ...]:
    values = _take(told, name, list)
    if not all(isinstance(each, str) for each in values):
        raise TypeError(f"{name} {values!r:.40}")
    return tuple(values)
