"""Engines on the tiny base: their features are TensorFlow's, a store keeps its engine, and none talks to anybody."""

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny as tiny_base
from conftest import ROOT, draw

from features import FeatureStore, extract
from features.backbones.keras_base import build_base
from features.engines.frozen_graph import Frozen
from features.engines.registry import CHOICES, ENGINES, EngineKind, current_engine, describe_engine, is_installed
from features.engines.selection import Checked, make_checked, pick_engine
from features.errors import EngineError, RequestError, StoreError
from features.extraction.verification import verify
from features.runtime.machine import cores
from features.store.provenance import CPU, Device
from pipeline.cli.arguments.parser import make_parser

INSTALLED = [name for name in ENGINES if is_installed(name)]
OF_KERAS = [name for name, kind in ENGINES.items() if "keras" in kind.runs]
OTHERS = [name for name in INSTALLED if name in OF_KERAS and name != "tensorflow"]
BATCH = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
# Lists what a process connects to, resolves and starts by a shell; the last line it prints is what it did and imported.
WATCH = """
import sys
seen = []
watched = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "os.system", "urllib.Request")
sys.addaudithook(lambda event, arguments: seen.append((event, str(arguments)[:200])) if event in watched else None)
"""


def need(name):
    """Skip where an engine is not installed."""
    if not is_installed(name):
        pytest.skip(f"the extra {name} is not installed")
    try:
        ENGINES[name].make(frozen())
    except EngineError as error:
        pytest.skip(f"{name}: {error}")


def frozen(pool="none", layers=("relu", "last")):
    """Freeze the tiny base; `relu` has successors."""
    return Frozen(build_base("tiny", layers, 16), 16, 5, pool)


def replaced(whole):
    """Return a base of which nothing is kept."""
    return replace(whole, base=replace(whole.base, identity=None))


def run(data, out, **options):
    """Extract with the tiny base."""
    return extract(str(data), out=out, **{"backbone": "tiny", "batch_size": 5, "dtype": "float32", **options})


@pytest.mark.parametrize("pool", ["none", "avg+max"])
@pytest.mark.parametrize("name", OF_KERAS)
def test_features_are_those_of_the_model(name, pool):
    need(name)
    found = ENGINES[name].make(frozen(pool)).run(BATCH)
    model = tiny_base.Tiny(None, False, (16, 16, 3))
    values = tiny_base.preprocess_input(BATCH.astype(np.float32))
    for layer in model.layers[1:]:
        values = np.asarray(layer(values))
        if layer.name in found:
            pooled = np.concatenate([values.mean((1, 2)), values.max((1, 2))], axis=1)
            expected = values if pool == "none" else pooled
            assert found[layer.name].shape == expected.shape and found[layer.name].dtype == np.float32
            rounding = 1e-4 if ENGINES[name].precision == "float32" else 2e-2 * np.abs(expected).max()
            np.testing.assert_allclose(found[layer.name], expected, rtol=1e-4, atol=rounding)
    assert list(found) == ["relu", "last"]


@pytest.mark.parametrize("name", OF_KERAS)
def test_an_images_features_depend_on_nothing_else_in_the_batch(name):
    need(name)
    engine, order = ENGINES[name].make(frozen()), [3, 1, 4, 0, 2]
    turned, straight = engine.run(BATCH[order]), engine.run(BATCH)
    for layer, values in straight.items():
        np.testing.assert_array_equal(turned[layer], values[order])


@pytest.mark.parametrize("name", OTHERS)
def test_each_engine_is_checked_against_tensorflow(name, monkeypatch):
    need(name)
    assert 0 < make_checked(name, frozen(), lambda: BATCH).parity <= ENGINES[name].allowed
    real = ENGINES[name].make

    class Wrong:
        def __init__(self, *given):
            self.real = real(*given)

        def run(self, images):
            return {
                layer: values * (1.001 + 3 * ENGINES[name].allowed) for layer, values in self.real.run(images).items()
            }

    monkeypatch.setitem(ENGINES, name, replace(ENGINES[name], make=Wrong))
    with pytest.raises(
        EngineError, match=rf"features of {name} must be within .* of those of tensorflow; .* engine=.tensorflow"
    ):
        make_checked(name, frozen(), lambda: BATCH)


def test_an_engine_of_another_library_is_held_against_the_first_of_that_library(monkeypatch):
    for name, value in (("theirs", 1.0), ("quick", 1.1)):
        engine = SimpleNamespace(run=lambda images, value=value: {"maps": np.full((len(images), 2), value)})
        kind = EngineKind(lambda frozen, engine=engine: engine, name, name, allowed=1e-3, runs="another")
        monkeypatch.setitem(ENGINES, name, kind)
    told = r"features of quick must be within 1e-03 \(relative\) of those of theirs; .* engine='theirs'"
    with pytest.raises(EngineError, match=told):
        make_checked("quick", SimpleNamespace(base=SimpleNamespace(library="another")), lambda: BATCH)


class Choosing:
    """What `pick_engine` makes, in order; engines in `refused` cannot run the base, and `rates` are their speeds."""

    def __init__(self, rates=(), refused=(), library="keras"):
        self.rates, self.refused, self.made = dict(rates), refused, []
        self.base = SimpleNamespace(image_size=224, base=SimpleNamespace(library=library))

    def pick(self, key, images=None, held=None):
        return pick_engine(
            held, self.base, {"weights_sha256": key}, self.make, images, lambda engine: self.rates[engine]
        )

    def make(self, name):
        self.made.append(name)
        if name in self.refused:
            raise EngineError(f"{name} cannot run this base. Use another") from EngineError(f"{name} cannot.")
        return Checked(name, 0.0, None)


@pytest.fixture
def installed(monkeypatch):
    """Say that all engines are installed, on a CPU."""
    for name, kind in list(ENGINES.items()):
        monkeypatch.setitem(ENGINES, name, replace(kind, module="numpy", device=lambda: CPU))


def test_auto_without_an_engine_names_a_package(installed, monkeypatch):
    for name, kind in list(ENGINES.items()):
        monkeypatch.setitem(ENGINES, name, replace(kind, module="not_there"))
    for images in (None, 10**9):
        with pytest.raises(RequestError, match="needs the package not_there, which is not installed"):
            Choosing().pick("none", images)


def test_auto_takes_the_usually_fastest_for_a_short_pass_and_times_no_other(installed, said):
    choosing = Choosing()
    assert [choosing.pick("short", images) for images in (None, 50, 50)] == ["numba"] * 3
    assert choosing.made == ["numba"]  # once, and remembered
    assert len(said) == 3 and all(line.startswith("chosen   numba: usually the fastest") for line in said)


def test_auto_takes_the_next_one_where_an_engine_cannot_run_the_base(installed, said):
    choosing = Choosing(refused=("numba",))
    assert [choosing.pick("depthwise"), choosing.pick("depthwise")] == ["openvino", "openvino"]
    assert choosing.made == ["numba", "openvino"]
    assert said[0] == said[1] == "chosen   openvino: numba cannot; only longer passes time engines"
    with pytest.raises(
        EngineError, match="must be able to run this base; numba cannot; openvino cannot; tensorflow cannot"
    ):
        Choosing(refused=tuple(ENGINES)).pick("none")
    with pytest.raises(EngineError, match=r"must be able to run this base; .*tensorflow cannot"):
        Choosing({}, refused=tuple(ENGINES)).pick("none of many", 10_000 * cores())


def test_auto_times_the_engines_where_the_pass_is_long_and_remembers_the_fastest(installed, said, monkeypatch):
    many, rates = 10_000 * cores(), {"tensorflow": 1.0, "openvino": 3.0, "numba": 2.0}
    choosing = Choosing(rates)
    assert [choosing.pick("long", images) for images in (many, many, many - 1, many)] == ["openvino"] * 2 + [
        "numba",
        "openvino",
    ]
    assert choosing.made == [
        "tensorflow",
        "openvino",
        "numba",
        "numba",
    ]  # timed once; then the one for the shorter pass
    assert said[0].startswith("timing   tensorflow, openvino, numba")
    assert said[1:4] == [
        f"         {name}: {rate} images/s" for name, rate in rates.items()
    ]  # as soon as each is timed
    assert "openvino 3.0" in said[4] and said[4] == said[5] == said[7]
    choosing.pick("others", many)
    for name, kind in list(ENGINES.items()):
        monkeypatch.setitem(ENGINES, name, replace(kind, module="h5py"))
    choosing.pick("long", many)
    assert len(choosing.made) == 4 + 3 + 3  # other weights; another version
    refusing = Choosing(rates, refused=("openvino",))
    assert refusing.pick("some cannot", many) == "numba"
    assert "warning  openvino cannot. It is skipped." in said


def test_auto_times_the_engines_of_a_gpu_once(installed, monkeypatch):
    for name, kind in list(ENGINES.items()):
        monkeypatch.setitem(ENGINES, name, replace(kind, device=lambda: Device("gpu", "X")))
    names = ["tensorflow", "tensorflow-xla", "tensorflow-f16", "tensorflow-f16-xla"]
    choosing = Choosing({name: number for number, name in enumerate(names)})
    assert [choosing.pick("gpu", 50), choosing.pick("gpu", 50)] == [names[-1]] * 2
    assert choosing.made == names


def test_auto_runs_pytorch_on_a_gpu_alone_and_for_its_own_bases_alone(installed, monkeypatch, said):
    assert Choosing(library="torch").pick("no gpu") == "openvino"
    names = [name for name in ENGINES if name.startswith("torch")]
    for name in names:  # on a GPU that ONNX Runtime cannot use
        monkeypatch.setitem(ENGINES, name, replace(ENGINES[name], device=lambda: Device("gpu", "X")))
    choosing = Choosing({name: number for number, name in enumerate(names)}, library="torch")
    assert (choosing.pick("gpu", 50), choosing.made) == ("torch-f16-compiled", names)
    assert Choosing(library="onnx").pick("a layer of the ONNX model alone", 50) == "openvino"
    with pytest.raises(EngineError, match=r"run this base; torch cannot; .*\. On the CPU: CUDA_VISIBLE_DEVICES=-1"):
        Choosing(refused=names, library="torch").pick("none", 50)
    assert "warning  torch cannot. It is skipped." in said


def test_auto_says_which_engine_would_be_faster_if_it_were_installed(installed, said, monkeypatch):
    monkeypatch.setitem(ENGINES, "numba", replace(ENGINES["numba"], module="not_installed"))
    assert Choosing().pick("bare") == "openvino"
    assert "faster for most bases" in said[1] and "pip install -e '.[numba]'" in said[1]


def test_a_store_of_an_engine_that_is_no_longer_there_is_read_and_not_extended():
    assert current_engine("mnn") == describe_engine("mnn").name == "tensorflow"
    with pytest.raises(RequestError, match=r"got mnn, which created this store .* no longer there\. .*out="):
        Choosing().pick("old", held="mnn")
    with pytest.raises(RequestError, match="engine must be one of"):
        current_engine("mm")


def test_an_engine_that_cannot_take_the_base_names_another(monkeypatch):
    def refuse(frozen):
        raise EngineError("X cannot run this base (why).")

    monkeypatch.setitem(ENGINES, "openvino", replace(ENGINES["openvino"], convert=refuse))
    with pytest.raises(EngineError, match=r"\(why\)\. Use another: engine=.tensorflow"):
        make_checked("openvino", replaced(frozen()), lambda: BATCH)


@pytest.mark.parametrize("name", OTHERS)
def test_a_store_keeps_its_engine(tree, tmp_path, name, monkeypatch):
    need(name)
    run(tree, tmp_path / "s.h5", engine=name)
    with FeatureStore(tmp_path / "s.h5") as store:
        assert store.made.spec.engine == describe_engine(name)
        assert 0 < store.made.parity <= ENGINES[name].allowed
    draw(tree / "train/red/added.png", 1001)
    with pytest.raises(StoreError, match=f"engine: stored {name} .*, requested tensorflow .*out="):
        run(tree, tmp_path / "s.h5", engine="tensorflow")
    with monkeypatch.context() as patch:
        patch.setitem(ENGINES, name, replace(ENGINES[name], module="not_installed"))
        with pytest.raises(RequestError, match=rf"{name}, which created this store .* '\.\[{name.split('-')[0]}\]'"):
            run(tree, tmp_path / "s.h5")
        assert [check.held for check in verify(tmp_path / "s.h5")][2] is None
    assert run(tree, tmp_path / "s.h5").computed == 1
    with FeatureStore(tmp_path / "s.h5") as store:
        assert store.made.spec.engine == describe_engine(name)
    assert [check.held for check in verify(tmp_path / "s.h5")] == [True, True, True]


def test_an_engine_that_is_not_installed_is_refused_before_any_work(tree, tmp_path, monkeypatch):
    monkeypatch.setitem(ENGINES, "numba", replace(ENGINES["numba"], module="not_installed"))
    with pytest.raises(RequestError, match=r"the engine numba needs the package .*'\.\[numba\]'"):
        run(tmp_path / "no-such-folder", tmp_path / "s.h5", engine="numba")
    with pytest.raises(RequestError, match=r"engine must be one of auto, .*; got 'numb'. Did you mean 'numba'"):
        run(tmp_path / "no-such-folder", tmp_path / "s.h5", engine="numb")


@pytest.mark.parametrize("name", [name for name in OTHERS if ENGINES[name].module != "tensorflow"])
def test_engines_report_to_nobody(name, tmp_path):
    need(name)
    build_base("tiny_chain", ["-1"], 16).model.save(tmp_path / "tiny.keras")
    code = f"""{WATCH}
import numpy as np
from features.backbones.keras_base import build_base
from features.engines.registry import ENGINES
from features.engines.frozen_graph import Frozen
images = np.zeros((2, 16, 16, 3), np.uint8)
ENGINES[{name!r}].make(Frozen(build_base({str(tmp_path / "tiny.keras")!r}, ["-1"], 16), 16, 2)).run(images)
talkers = ("openvino.tools.ovc", "openvino_telemetry")
print(seen, [name for name in sys.modules if name.startswith(talkers)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[] []"], done.stdout + done.stderr


@pytest.mark.parametrize("name", OTHERS)
def test_signals_arrive_after_engines_are_freed_in_any_order(name, tmp_path):
    need(name)
    build_base("tiny_chain", ["-1"], 16).model.save(tmp_path / "tiny.keras")
    code = f"""
import gc, os, signal
from features.backbones.keras_base import build_base
from features.engines.registry import ENGINES
from features.engines.frozen_graph import Frozen
base = build_base({str(tmp_path / "tiny.keras")!r}, ["-1"], 16)
engines = [ENGINES[{name!r}].make(Frozen(base, 16, 2)) for _ in range(2)]
while engines:
    del engines[0]
    gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("arrived", flush=True))
os.kill(os.getpid(), signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["arrived"]), done.stderr


def test_onnx_runtime_reports_to_nobody(tmp_path):
    """Its native code reports; where it does, it first writes a number for this machine below the user's cache."""
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "relu.onnx")
    code = """
from features.engines.runtimes.onnxruntime_engine import import_onnxruntime
import_onnxruntime().InferenceSession("relu.onnx", providers=["CPUExecutionProvider"])
"""
    allowed = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home/.cache"), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PATH": os.environ["PATH"], **allowed}, check=True)
    assert not (tmp_path / "home").exists()


def test_the_command_line_offers_every_engine():
    parser = make_parser()
    for name in CHOICES:
        assert parser.parse_args(["extract", "--data", "x", "--engine", name]).engine == name
