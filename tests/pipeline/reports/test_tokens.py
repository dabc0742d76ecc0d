"""Where a head looked, from a transformer's tokens: patches are put back on their grid."""

import numpy as np
import pytest
from conftest import draw_tree

from features import FeatureStore, extract
from pipeline import train_head
from pipeline.reports.analysis import class_activation
from pipeline.reports.build import gather
from pipeline.reports.run_results import load_run

REGISTERS = 4


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of a class token, four registers and 4 x 4 patches of each image."""
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    onnx_models = pytest.importorskip("onnx_models", reason="the extra onnx is not installed")
    folder = tmp_path_factory.mktemp("tokens")
    path = onnx_models.save(onnx_models.tokens(registers=REGISTERS), folder / "vit.onnx")
    return extract(str(draw_tree(folder / "photos")), backbone=str(path), preprocess="half", out=folder / "s.h5").path


@pytest.mark.parametrize("pool", ["avg", "avg+max"])
def test_patches_are_back_on_their_grid(store, tmp_path, monkeypatch, pool):
    seen, activation_maps = [], class_activation.activation_maps
    monkeypatch.setattr(
        class_activation, "activation_maps", lambda *given: seen.append(given) or activation_maps(*given)
    )
    train_head(store, head="logistic", pool=pool, out=tmp_path / "run")
    assert gather(load_run(tmp_path / "run"))["attention"]["groups"]
    ((maps, coef, read),) = seen
    assert read == pool and maps.shape[1:] == (4, 4, 8)
    with FeatureStore(store) as opened:
        patches = opened.dataset("normed")[:, 1 + REGISTERS :].reshape(-1, 4, 4, 8)
    assert all((np.abs(patches - one).max(axis=(1, 2, 3)) == 0).any() for one in maps)
    assert len(coef) == 8 * len(pool.split("+"))


@pytest.mark.parametrize("pool", ["cls", "cls+avg"])
def test_a_head_that_reads_the_class_token_is_not_shown(store, tmp_path, pool):
    train_head(store, head="logistic", pool=pool, out=tmp_path / "run")
    why = gather(load_run(tmp_path / "run"))["attention"]["why"]
    assert f"The head reads {pool} of the tokens of normed" in why
