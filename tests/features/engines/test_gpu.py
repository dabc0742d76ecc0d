"""What a GPU changes, with the CPU standing in for one: precision, batches and what `auto` takes. Its pace is not seen here."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from conftest import draw
from test_engines import BATCH, frozen

from features import FeatureStore
from features.engines.batch_size import find_batch_size, pick_batch_size
from features.engines.registry import ENGINES
from features.engines.selection import make_checked, pick_engine
from features.errors import EngineError
from features.extraction.preparation import prepare
from features.extraction.request import ExtractRequest
from features.extraction.run import run_pass
from features.store.provenance import Device


@pytest.fixture
def gpu(monkeypatch):
    """Say that TensorFlow's device is a GPU."""
    device = Device("gpu", "stand-in")
    for name, kind in list(ENGINES.items()):
        if kind.module == "tensorflow":
            make = partial(kind.make, device=device)
            monkeypatch.setitem(ENGINES, name, replace(kind, make=make, device=lambda: device))


def test_layers_compute_in_half_precision_and_the_model_stays_as_it_was(gpu):
    whole = frozen()
    assert 1e-5 < make_checked("tensorflow-f16", whole, lambda: BATCH).parity <= ENGINES["tensorflow-f16"].allowed
    nodes = whole.of_precision("float16").function.graph.as_graph_def().node
    kinds = {node.attr["T"].type for node in nodes if node.op in ("Conv2D", "FusedBatchNormV3", "Relu")}
    assert kinds == {19}  # DT_HALF
    assert {layer.compute_dtype for layer in whole.base.model.layers} == {"float32"}


def test_half_precision_needs_a_gpu():
    with pytest.raises(EngineError, match=r"float16 only on a GPU\. Use another: engine=.tensorflow"):
        make_checked("tensorflow-f16", frozen(), lambda: BATCH)


def test_auto_leaves_out_a_precision_that_the_base_does_not_bear(gpu, monkeypatch, said):
    monkeypatch.setitem(ENGINES, "tensorflow-f16", replace(ENGINES["tensorflow-f16"], allowed=1e-9))
    whole, tried = frozen(), []

    def make(name):
        tried.append(name)
        return make_checked(name, whole, lambda: BATCH)

    for name in ("tensorflow-xla", "tensorflow-f16-xla"):
        monkeypatch.setitem(ENGINES, name, replace(ENGINES[name], auto_on=()))
    assert pick_engine(None, whole, {"of": "this test"}, make) == "tensorflow"
    assert tried == ["tensorflow", "tensorflow-f16"]
    assert said[2].startswith(
        "warning  features of tensorflow-f16 must be within 1e-09 (relative) of those of tensorflow"
    )


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ({16: 100}, 16),  # 32 do not fit
        ({16: 100, 32: 104}, 16),
        ({16: 100, 32: 150, 64: 200, 128: 201}, 64),
        ({16: 100, 32: 110, 64: 121, 128: 150}, 64),  # as far as it may go
    ],
)
def test_a_batch_is_doubled_while_that_gains(rates, best):
    def rate(count):
        if count not in rates:
            raise EngineError("out of memory")
        return rates[count]

    assert find_batch_size(rate, 64) == best


def test_a_store_keeps_the_batch_that_was_found(gpu, tree, tmp_path):
    tried = []
    pick = partial(pick_batch_size, rate=lambda name, of: tried.append(of.batch_size) or of.batch_size, largest=32)

    def extract(out, engine="auto"):
        asked = ExtractRequest(str(tree), out=tmp_path / out, backbone="tiny", dtype="float32", engine=engine)
        return run_pass(asked, prepare=partial(prepare, pick_batch=pick))

    extract("s.h5", engine="tensorflow")
    draw(tree / "train/red/added.png", 1001)
    assert extract("s.h5").computed == 1
    extract("other.h5", engine="tensorflow")
    assert tried == [16, 32]  # once, and remembered
    for name in ("s.h5", "other.h5"):
        with FeatureStore(tmp_path / name) as store:
            assert store.made.batch_size == 32
            assert store.made.spec.engine.device == Device("gpu", "stand-in")


def test_a_batch_that_does_not_fit_is_one_line_with_the_remedy(gpu):
    engine = ENGINES["tensorflow"].make(frozen())

    def full(images):
        raise engine._tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    engine._function = full
    with pytest.raises(EngineError, match=r"memory of gpu stand-in; 5 images of 16 px do not\. .*batch_size=2"):
        engine.run(np.zeros((5, 16, 16, 3), np.uint8))
