"""Models of timm as bases: loaded by timm, exported once to ONNX into the per-user cache, and run from there, or by PyTorch itself."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RequestError, WeightsError, called, find_near, missing_extra, option
from ...pooling import tokens_before
from ...runtime.keras_runtime import import_torch
from ...runtime.log import log
from ...runtime.user_cache import recall, recall_bytes, remember, remember_bytes
from ...runtime.versions import own_source
from ...safefiles.onnx_files import import_onnx
from ...safefiles.regular_files import identify_file
from ..base import Base
from ..normalisation import Normalisation
from .description import Description, describe_model
from .onnx_base import make_base
from .timm_facts import PREFIX, find_facts

if TYPE_CHECKING:
    import onnx

# What timm's forward_features and forward_head return, the latter before the classifier.
FEATURES, POOLED = "features", "pooled"
_OPSET = 18
_MOST = 2 << 30  # bytes of exported models that are kept beside the newest


def build_timm(
    name: str, layers: Sequence[str], image_size: int, preprocess: str, weights: str, weights_sha256: str | None
) -> Base:
    """Return a model of timm as a base; see `features.backbones.keras_base.build_base`. `preprocess` is its own.

    Parameters
    ----------
    weights : str
        ``imagenet``: the model's own, from timm's cache or download. Else a file that timm reads: ``.safetensors``, or what PyTorch
        saved, of tensors alone.
    weights_sha256 : str, optional
        Over the values of the model as timm loads it for images of its own size; see `fingerprint`.

    Raises
    ------
    WeightsError
        If the weights cannot be found, do not fit, or have another SHA-256.
    RequestError
        If the model has no such layer, cannot be exported, or does not take images of this size.
    """
    described = describe_timm(name, image_size, weights)
    if weights_sha256 not in (None, described.sha256):
        raise WeightsError(
            f"weights of {name} must have SHA-256 {weights_sha256}; these have {described.sha256}. If they are the weights you want: "
            f"{option('weights_sha256', described.sha256)}"
        )
    origin = "timm's cache or download" if weights == "imagenet" else f"file {Path(weights).name}"
    normalisation = Normalisation.of(preprocess)
    base = make_base(described, lambda: _load(name, image_size, weights), layers, normalisation, origin)
    if not {*base.layers} <= {FEATURES, POOLED}:  # the others are tensors of the ONNX model alone
        return base
    module = functools.partial(_make_module, name, weights, described, list(base.layers), normalisation)
    assert base.identity is not None
    return replace(base, library="torch", module=module, identity={**base.identity, **_libraries()})


def describe_timm(name: str, side: int, weights: str = "imagenet") -> Description:
    """Return what a model is as an ONNX model for images of this side, which is exported if it was not before."""
    held = recall("timm", _key(name, side, weights))
    return _export(name, side, weights)[0] if held is None else Description.from_json(held)


def layers_of_timm(name: str, side: int) -> dict[str, tuple[int, ...]]:
    """Return layer → shape of its output for one image; needs no weights."""
    _, described = _convert(name, side, _create(name, side, None), "")
    return {layer: each.shape for layer, each in described.tensors.items()}


def recall_fingerprint(name: str, weights: str) -> str | None:
    """Return the SHA-256 of weights that were loaded before, and lie where they lay, else None."""
    try:
        found: str | None = recall("timm", _key(name, 0, weights))
    except WeightsError:
        return None
    return found


def _key(name: str, side: int, weights: str) -> dict[str, Any]:
    """Return what decides an exported model; a file counts as unchanged if its size, times and inode are."""
    identity: Any = weights
    if weights != "imagenet":
        try:
            identity = identify_file(weights)
        except OSError as error:
            raise WeightsError(
                f"{called('weights')} must be 'imagenet' or a file; {weights} is not there. {find_near(weights)}"
            ) from error
    return {"name": name, "side": side, "weights": identity, "source": own_source(), **_libraries()}


def _libraries() -> dict[str, str]:
    return {each: version(each) for each in ("timm", "torch")}


def _load(name: str, side: int, weights: str) -> onnx.ModelProto:
    """Return the exported model, from the cache if it is there."""
    onnx = import_onnx(f"running {name}")
    held = recall_bytes("timm-onnx", _key(name, side, weights))
    return onnx.ModelProto.FromString(held[:]) if held is not None else _export(name, side, weights)[1]


def _export(name: str, side: int, weights: str) -> tuple[Description, onnx.ModelProto]:
    """Export a model to ONNX, and keep it with what it is."""
    log.info(f"export   {name} from PyTorch to ONNX, once for this size and these weights; this takes up to a minute")
    key = _key(name, side, weights)
    model, sha256 = _load_model(name, side, weights)
    proto, described = _convert(name, side, model, sha256)
    if _key(name, side, weights) != key:
        raise WeightsError(f"{weights} must not change while it is used; it has changed. Start again.")
    remember_bytes("timm-onnx", key, [proto.SerializeToString()], _MOST)
    remember("timm", key, asdict(described))
    remember("timm", _key(name, 0, weights), sha256)
    return described, proto


def _load_model(name: str, side: int, weights: str) -> tuple[Any, str]:
    """Return a model for images of this side, and the SHA-256 of its weights, which is over the model for its own size."""
    model, own = _create(name, side, weights), find_facts(name).side
    return model, fingerprint(model if side == own else _create(name, own, weights))


def _create(name: str, side: int, weights: str | None) -> Any:
    """Return a model for images of this side; its values are random if `weights` is None.

    It keeps its classifier, since timm lets tensors be missing in weights for another one.
    """
    import_torch()
    import timm

    facts = find_facts(name)
    options: dict[str, Any] = {}
    if facts.fixed and side != facts.side:
        options["img_size"] = side
    if weights not in (None, "imagenet"):
        options["pretrained_cfg_overlay"] = {"file": str(weights)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of timm's names, which change
            model = timm.create_model(name.removeprefix(PREFIX), pretrained=weights is not None, **options)
    except AssertionError as error:  # how timm refuses sizes
        raise _refused_size(name, side, str(error)) from error
    except Exception as error:  # of timm, PyTorch and the hub: any class
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"weights of {name} must be there and fit; {'timm' if weights == 'imagenet' else weights}: {why}. Name a file of its "
            f"weights ({option('weights')}), or run once where timm can download them."
        ) from error
    return model.eval()


def _refused_size(name: str, side: int, why: str) -> RequestError:
    facts = find_facts(name)
    return RequestError(
        f"{called('image_size')} must be one that {name} takes; got {side} ({why[:160] or 'too small'}). Its own: "
        f"{option('image_size', facts.side)}"
    )


def fingerprint(model: Any) -> str:
    """Return the SHA-256 over name, type, shape and values of a module's state, in its order."""
    digest = hashlib.sha256()
    for name, values in model.state_dict().items():
        array = values.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype.str} {array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _convert(name: str, side: int, model: Any, sha256: str) -> tuple[onnx.ModelProto, Description]:
    """Return a module as an ONNX model of any batch, and what it is."""
    onnx = import_onnx(f"exporting {name}")
    if importlib.util.find_spec("onnxscript") is None:
        raise missing_extra("onnxscript", "torch", f"exporting {name}")
    import_torch()
    import torch

    images = torch.zeros(2, 3, side, side)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            program = torch.onnx.export(
                _both(model), (images,), input_names=["images"], output_names=[FEATURES, POOLED], opset_version=_OPSET,
                dynamic_shapes=({0: torch.export.Dim("n")},), dynamo=True, verbose=False,
            )  # fmt: skip
        data = program.model_proto.SerializeToString()
    except AssertionError as error:
        raise _refused_size(name, side, str(error)) from error
    except Exception as error:  # of PyTorch's exporter: any class
        why = _first_cause(error)
        raise RequestError(
            f"{name} must be a model that PyTorch can export to ONNX at {side} pixels; {why}. Take another."
        ) from error
    described = describe_model(onnx.ModelProto.FromString(data), sha256, side, name)
    _check_features(name, described, model)
    return onnx.ModelProto.FromString(data), described


def _first_cause(error: BaseException) -> str:
    """Return what went wrong first, in one line: PyTorch's exporter raises errors of its own about it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _both(model: Any) -> Any:
    """Return a module from images to features and pooled features, which are a layer where ONNX tells their shape."""
    import_torch()
    import torch

    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Any) -> tuple[Any, Any]:
            features = self.model.forward_features(images)
            return features, self.model.forward_head(features, pre_logits=True)

    return Both().eval()


def _make_module(
    name: str, weights: str, described: Description, layers: Sequence[str], normalisation: Normalisation, loaded: bool
) -> Any:
    """Return a module from RGB in 0..255 to `layers`, of `FEATURES` and `POOLED`; see `Base.module`."""
    import_torch()
    import torch

    if loaded:
        model, sha256 = _load_model(name, described.side, weights)
        if sha256 != described.sha256:
            raise WeightsError(
                f"weights of {name} must be those of the exported model, of SHA-256 {described.sha256}; got {sha256}. Name a file of "
                f"them: {option('weights')}"
            )
    else:
        model = _create(name, described.side, None)
    tensors = {layer: described.tensors[layer] for layer in layers}

    class Layers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            for each, values in zip(("factor", "summand"), normalisation.affine, strict=True):
                self.register_buffer(each, torch.tensor(values, dtype=torch.float32), persistent=False)

        def forward(self, images: Any) -> list[Any]:
            pixels = images * self.factor + self.summand
            found = {FEATURES: self.model.forward_features(pixels.permute(0, 3, 1, 2))}
            if POOLED in tensors:
                found[POOLED] = self.model.forward_head(found[FEATURES], pre_logits=True)
            return [
                found[layer].permute(0, 2, 3, 1) if each.kind == "map" and not each.channels_last else found[layer]
                for layer, each in tensors.items()
            ]

    return Layers().eval()


def _check_features(name: str, described: Description, model: Any) -> None:
    """Refuse a model whose features have no known kind, or whose tokens before the patches would be miscounted."""
    if FEATURES not in described.tensors:
        raise RequestError(f"{name} must give a map, tokens or a vector as its features; it does not. Take another.")
    features, before = described.tensors[FEATURES], getattr(model, "num_prefix_tokens", 0)
    if features.kind == "tokens" and tokens_before(features.shape[0]) != before:
        told, own = f"{before} other tokens can be told from them", find_facts(name).side
        if described.side == own:
            raise RequestError(
                f"{name} must give the tokens of a square of patches, of which {told}; it gives {features.shape[0]} in all. Take another."
            )
        raise RequestError(
            f"{called('image_size')} must give {name} so many patches that its {told}; got {described.side}, hence {features.shape[0]} "
            f"tokens in all. Take its own: {option('image_size', own)}"
        )
