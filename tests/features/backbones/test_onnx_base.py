"""An ONNX file is a base: its layers, layouts, preprocessing and runtimes, and what is refused. All without TensorFlow."""

import json
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import draw_tree

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

import onnx
import onnx_models
from onnx.reference import ReferenceEvaluator

from features import FeatureStore, extract
from features.backbones.keras_base import build_base, list_layers
from features.backbones.normalisation import PRESETS, Normalisation, make_normalisation
from features.backbones.onnx.description import PREPROCESS_KEY
from features.engines.frozen_graph import Frozen
from features.engines.registry import ENGINES, is_installed
from features.engines.runtimes import onnxruntime_engine
from features.engines.runtimes.onnx_graph import IMAGES, join_graph
from features.errors import EngineError, RequestError, UnsafeFile, WeightsError
from features.pooling import pool_maps, tokens_before
from features.store.provenance import Device
from pipeline import predict, train_head
from pipeline.cli.commands import main

ENGINES_OF_ONNX = [
    pytest.param(name, marks=pytest.mark.skipif(not is_installed(name), reason=f"{name} is not installed"))
    for name in ("onnxruntime", "openvino")
]
SIDE = 16


def images_of(count):
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def expected_of(model, images, tensors, channels_last=False):
    """Compute tensors by ONNX' own reference implementation, from pixels normalised as by ImageNet's numbers."""
    ready = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    ready = ready if channels_last else ready.transpose(0, 3, 1, 2)
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return ReferenceEvaluator(model).run(None, {"pixels": ready.astype(np.float32)})


def assert_close(found, expected, allowed=1e-5):
    assert np.linalg.norm(found - expected) <= allowed * np.linalg.norm(expected)


def test_a_gpu_that_cannot_be_used_is_an_error_and_not_the_cpu(tmp_path, monkeypatch):
    path = onnx_models.save(onnx_models.maps(), tmp_path / "own.onnx")
    frozen = Frozen(build_base(str(path), ["last"], SIDE, "none"), SIDE, 2)
    monkeypatch.setattr(onnxruntime_engine, "find_onnx_device", lambda: Device("gpu", "CUDA"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ONNX Runtime warns, and goes on with the CPU
        with pytest.raises(EngineError, match=r"cannot use the GPU that is here.*CUDA_VISIBLE_DEVICES=-1"):
            ENGINES["onnxruntime"].make(frozen)


def test_a_gpu_is_asked_for_whole_float32(tmp_path, monkeypatch):
    path, asked = onnx_models.save(onnx_models.maps(), tmp_path / "own.onnx"), []
    real = onnxruntime_engine.import_onnxruntime()

    def start(graph, options, providers):
        asked.extend(providers)
        return SimpleNamespace(get_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])

    runtime = SimpleNamespace(SessionOptions=real.SessionOptions, InferenceSession=start)
    monkeypatch.setattr(onnxruntime_engine, "find_onnx_device", lambda: Device("gpu", "CUDA"))
    monkeypatch.setattr(onnxruntime_engine, "import_onnxruntime", lambda: runtime)
    ENGINES["onnxruntime"].make(Frozen(build_base(str(path), ["last"], SIDE, "none"), SIDE, 2))
    assert asked == [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]


@pytest.mark.parametrize("engine", ENGINES_OF_ONNX)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("batch", "opset"), [("n", 17), (1, 11), (2, 18)])
def test_several_layers_in_one_pass_are_those_of_the_reference(tmp_path, engine, channels_last, batch, opset):
    model = onnx_models.maps(batch, channels_last=channels_last, opset=opset)
    path = onnx_models.save(model, tmp_path / "own.onnx")
    base = build_base(str(path), ["stem.relu", "last", "logits"], SIDE, "imagenet")
    assert base.layers == {"stem.relu": (7, 7, 4), "last": (3, 3, 6), "logits": (3,)}
    assert base.kinds == {"stem.relu": "map", "last": "map", "logits": "vector"}
    images = images_of(5)
    found = ENGINES[engine].make(Frozen(base, SIDE, 5)).run(images)
    for start in range(0, 4, 2 if batch == 2 else 1):
        rows = slice(start, start + (2 if batch == 2 else 1))
        stem, last, logits = expected_of(model, images[rows], ("/stem/relu", "last", "logits"), channels_last)
        assert_close(found["stem.relu"][rows], stem.transpose(0, 2, 3, 1))
        assert_close(found["last"][rows], last.transpose(0, 2, 3, 1))
        assert_close(found["logits"][rows], logits)


@pytest.mark.parametrize("engine", ENGINES_OF_ONNX)
@pytest.mark.parametrize("opset", [17, 18])
def test_pooling_is_part_of_the_graph(tmp_path, engine, opset):
    path = onnx_models.save(onnx_models.maps(opset=opset), tmp_path / "own.onnx")
    base, images = build_base(str(path), ["last", "logits"], SIDE, "imagenet"), images_of(3)
    whole = ENGINES[engine].make(Frozen(base, SIDE, 3)).run(images)
    pooled = ENGINES[engine].make(Frozen(base, SIDE, 3, "avg+max")).run(images)
    assert_close(pooled["last"], np.concatenate([whole["last"].mean((1, 2)), whole["last"].max((1, 2))], axis=1))
    np.testing.assert_array_equal(pooled["logits"], whole["logits"])


@pytest.mark.parametrize("engine", ENGINES_OF_ONNX)
def test_tokens_are_a_layer(tmp_path, engine):
    model = onnx_models.tokens()
    path = onnx_models.save(model, tmp_path / "vit.onnx")
    base, images = build_base(str(path), ["normed"], SIDE, "imagenet"), images_of(2)
    assert (base.layers, base.kinds) == ({"normed": (17, 8)}, {"normed": "tokens"})
    (expected,) = expected_of(model, images, ["normed"])
    assert_close(ENGINES[engine].make(Frozen(base, SIDE, 2)).run(images)["normed"], expected)
    assert_close(ENGINES[engine].make(Frozen(base, SIDE, 2, "cls")).run(images)["normed"], expected[:, 0])
    both = np.hstack([expected[:, 0], expected[:, 1:].mean(axis=1)])
    assert_close(ENGINES[engine].make(Frozen(base, SIDE, 2, "cls+avg")).run(images)["normed"], both)


@pytest.mark.parametrize("registers", [0, 4])
def test_averages_are_over_patches_without_class_token_and_registers(tmp_path, registers):
    path = onnx_models.save(onnx_models.tokens(registers=registers), tmp_path / "vit.onnx")
    base, images = build_base(str(path), ["normed"], SIDE, "imagenet"), images_of(2)
    assert base.layers == {"normed": (17 + registers, 8)}
    whole = ENGINES["onnxruntime"].make(Frozen(base, SIDE, 2)).run(images)["normed"]
    pooled = ENGINES["onnxruntime"].make(Frozen(base, SIDE, 2, "avg+max")).run(images)["normed"]
    patches = whole[:, 1 + registers :]
    assert_close(pooled, np.hstack([patches.mean(axis=1), patches.max(axis=1)]))
    assert_close(pool_maps(whole, "cls+avg"), np.hstack([whole[:, 0], patches.mean(axis=1)]))


@pytest.mark.parametrize(("count", "before"), [(197, 1), (201, 5), (261, 5), (196, 0), (50, 1), (77, 13), (24, 8)])
def test_tokens_that_are_no_patches_are_counted(count, before):
    assert tokens_before(count) == before


def test_a_gpu_takes_whole_batches_at_once(tmp_path):
    path = onnx_models.save(onnx_models.maps(), tmp_path / "own.onnx")
    base, images = build_base(str(path), ["last"], SIDE, "none"), images_of(4)
    frozen = Frozen(base, SIDE, 4)
    import onnxruntime

    joined = join_graph(frozen, 4)
    (found,) = onnxruntime.InferenceSession(joined.graph).run(list(joined.outputs), {IMAGES: images})
    assert_close(found.reshape(4, 3, 3, 6), ENGINES["onnxruntime"].make(frozen).run(images)["last"])


def test_layers_are_listed_with_their_kinds_and_the_last_map_is_the_default(tmp_path, capsys):
    path = onnx_models.save(onnx_models.maps(side="s"), tmp_path / "own.onnx")
    assert main(["layers", str(path), "--image-size", "16", "--json"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["default"] == "last" and said.err.splitlines()[-1].endswith(" --preprocess PRESET")
    assert (told["layers"]["last"], told["kinds"]["last"], told["kinds"]["flat"]) == ([3, 3, 6], "map", "vector")
    assert list_layers(str(path))["last"] == (55, 55, 6)  # 224 pixels, where a model takes any


def test_a_file_goes_through_every_command_without_tensorflow(tmp_path):
    data, path = draw_tree(tmp_path / "photos"), onnx_models.save(onnx_models.maps(), tmp_path / "own.onnx")
    options = {"mean": (0.5,), "std": (0.5, 0.25, 0.5), "channels": "bgr", "layers": ("last", "flat")}
    done = extract(str(data), backbone=str(path), out=tmp_path / "s.h5", dtype="float32", **options)
    with FeatureStore(done.path) as store:
        spec = store.made.spec
        assert spec.layers == ("last", "flat")
        assert spec.preprocess == "scale=0.00392156862745098 mean=0.5,0.5,0.5 std=0.5,0.25,0.5 channels=bgr"
        assert_close(store.read("flat"), store.read("last", pool="avg"))
    assert extract(str(data), backbone=str(path), out=tmp_path / "s.h5", dtype="float32", **options).computed == 0
    train_head(done.path, head="logistic", layer="last", out=tmp_path / "run")
    of_store = predict(tmp_path / "run", data / "test").predictions
    (tmp_path / "s.h5").unlink()
    for before, after in zip(of_store, predict(tmp_path / "run", data / "test").predictions, strict=True):
        assert before.probabilities == pytest.approx(after.probabilities, abs=1e-5)
    moved = path.rename(tmp_path / "moved.onnx")
    assert predict(tmp_path / "run", data / "test", weights=moved).computed == 8
    onnx_models.save(onnx_models.maps(opset=18), moved)
    with pytest.raises(WeightsError, match="must have SHA-256"):
        build_base(str(moved), ["last"], SIDE, "half", weights_sha256=spec.weights_sha256)
    child = "import sys; from pipeline.cli.commands import main; status = main(sys.argv[1:]); print([name for name in sys.modules if name in ('tensorflow', 'keras')]); sys.exit(status)"
    asked = ["extract", "--data", data, "--backbone", moved, "--preprocess", "half", "--out", tmp_path / "n.h5"]
    done = subprocess.run([sys.executable, "-c", child, *map(str, asked)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr


def test_a_model_may_say_its_preprocessing_itself(tmp_path):
    silent = onnx_models.save(onnx_models.maps(), tmp_path / "silent.onnx")
    saying = onnx_models.save(onnx_models.maps(told={PREPROCESS_KEY: "clip"}), tmp_path / "saying.onnx")
    data = draw_tree(tmp_path / "photos")
    with pytest.raises(
        RequestError, match=r"preprocess must be said for .* one of imagenet, clip, half, rescale, none"
    ):
        extract(str(data), backbone=str(silent), out=tmp_path / "s.h5")
    with FeatureStore(extract(str(data), backbone=str(saying), out=tmp_path / "s.h5").path) as store:
        assert store.made.spec.preprocess == "clip"


def test_values_beside_the_file_count(tmp_path):
    one = onnx_models.save(onnx_models.maps(), tmp_path / "one.onnx")
    apart = {"save_as_external_data": True, "location": "values.bin", "size_threshold": 0}
    two = onnx_models.save(onnx_models.maps(), tmp_path / "two.onnx", **apart)
    images, found = images_of(2), {}
    for path in (one, two):
        base = build_base(str(path), ["last"], SIDE, "half")
        found[path] = base.weights.sha256, ENGINES["onnxruntime"].make(Frozen(base, SIDE, 2)).run(images)["last"]
    np.testing.assert_array_equal(found[one][1], found[two][1])
    held = (tmp_path / "values.bin").read_bytes()
    (tmp_path / "values.bin").write_bytes(bytes([held[0] ^ 1]) + held[1:])
    assert build_base(str(two), ["last"], SIDE, "half").weights.sha256 != found[two][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preprocess": "half", "mean": (0.5,)}, "mean must not go with preprocess"),
        ({"mean": (0.5, 0.5)}, "mean must be one or three numbers; got 0.5,0.5"),
        ({"std": (0.0,)}, "std must be one or three positive numbers"),
        ({"scale": -1.0}, "scale must be above 0; got -1.0"),
        ({"preprocess": "half", "image_size": 32}, "image_size must be 16 for own.onnx; got 32"),
        ({"preprocess": "half", "engine": "tensorflow"}, "engine must be auto or one of onnxruntime, openvino"),
        (
            {"preprocess": "half", "engine": "torch"},
            "engine must be auto or one of onnxruntime, .* for .*; got torch. Leave",
        ),
        ({"preprocess": "half", "layers": ("lost",)}, "layer must be one of .* Did you mean 'last'"),
        ({"preprocess": "half", "weights": "other.h5"}, "weights must be left out"),
    ],
)
def test_wrong_requests_are_refused(tmp_path, options, message):
    path, data = onnx_models.save(onnx_models.maps(), tmp_path / "own.onnx"), draw_tree(tmp_path / "photos")
    with pytest.raises(RequestError, match=message):
        extract(str(data), backbone=str(path), out=tmp_path / "s.h5", **options)


def test_a_normalisation_is_an_affine_function_and_its_own_text():
    pixels = np.arange(24, dtype=np.float64).reshape(2, 4, 3)
    made = make_normalisation(0.5, (1, 2, 3), (4, 5, 6), "bgr")
    np.testing.assert_allclose(made(pixels), (pixels[..., ::-1] * 0.5 - [1, 2, 3]) / [4, 5, 6])
    for each in [made, *PRESETS.values()]:
        assert Normalisation.of(str(each)) == each
    np.testing.assert_allclose(PRESETS["half"](np.array([0.0, 127.5, 255.0])), [-1, 0, 1], atol=1e-12)


def edited(model, change):
    change(model)
    return model


def circle(model):
    model.graph.node[0].input[0] = "logits"


def claim(model):
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([10**6, 10**6])


def fill(model):
    """Compute a tensor of 10^12 values from a shape that is only 16 bytes."""
    size = onnx.numpy_helper.from_array(np.array([10**6, 10**6]), "size")
    model.graph.initializer.append(size)
    model.graph.node.append(onnx.helper.make_node("ConstantOfShape", ["size"], ["huge"]))


def refer(location):
    def change(model):
        onnx.external_data_helper.set_external_data(model.graph.initializer[0], location, 0, 432)
        model.graph.initializer[0].ClearField("raw_data")

    return change


def name_operator(domain, kind):
    def change(model):
        model.graph.node[1].domain, model.graph.node[1].op_type = domain, kind
        if domain:
            model.opset_import.append(onnx.helper.make_opsetid(domain, 1))

    return change


def loop(model):
    body = onnx.helper.make_graph([], "body", [], [])
    model.graph.node.append(onnx.helper.make_node("Loop", [], ["looped"], body=body))


HOSTILE = {
    "circle": (circle, "runs in a circle"),
    "claim": (claim, "claims values of 4,000,000,000,000 bytes"),
    "fill": (fill, "at most 134,217,728 values; 'huge' would have 1,000,000,000,000"),
    "parent": (refer("../secret"), "outside its folder, in '../secret'"),
    "absolute": (refer("/etc/passwd"), "outside its folder"),
    "link": (refer("link.bin"), "not a regular file"),
    "custom": (name_operator("evil.com", "Run"), "needs the operator 'evil.com::Run'"),
    "unknown": (name_operator("", "Rune"), "needs the operator 'Rune' of opset 17"),
    "loop": (loop, "branches or loops"),
}


@pytest.fixture
def hostile(tmp_path):
    """A folder with a file of each kind."""
    for name, (change, _) in HOSTILE.items():
        (tmp_path / f"{name}.onnx").write_bytes(edited(onnx_models.maps(), change).SerializeToString())
    (tmp_path / "link.bin").symlink_to("/etc/hosts")
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "cut.onnx").write_bytes(onnx_models.maps().SerializeToString()[:-40])
    with open(tmp_path / "zeros.onnx", "wb") as file:
        file.truncate(2**31 - 1)
    with open(tmp_path / "longer.onnx", "wb") as file:
        file.truncate(2**31 + 1)
    return tmp_path


@pytest.mark.parametrize("name", [*HOSTILE, "text", "cut", "zeros", "longer"])
def test_hostile_files_are_refused_in_one_line(hostile, name):
    message = HOSTILE[name][1] if name in HOSTILE else "longer.onnx has 2,147|is not an ONNX model"
    with pytest.raises(UnsafeFile, match=message) as caught:
        build_base(str(hostile / f"{name}.onnx"), ["last"], SIDE, "half")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_hostile_files_take_less_than_a_gigabyte(hostile):
    child = """
import sys
from features.backbones.registry import find_backbone
from features.errors import UnsafeFile
for path in sys.argv[1:]:
    try:
        find_backbone(path)
    except UnsafeFile:
        continue
    sys.exit(path)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])  # ru_maxrss would count the parent
"""
    files = sorted(map(str, hostile.glob("*.onnx")))
    done = subprocess.run([sys.executable, "-c", child, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1_000_000  # kB


@pytest.mark.parametrize("shape", [("n", 1, 16, 16), ("n", 3, 16, 24), ("n", 3, 16), (0, 3, 16, 16)])
def test_a_model_must_take_square_rgb_images(tmp_path, shape):
    node = onnx.helper.make_node("Relu", ["pixels"], ["last"])
    path = onnx_models.save(onnx_models.model_of([node], [], shape, "last"), tmp_path / "own.onnx")
    with pytest.raises(RequestError, match="must take RGB images alone"):
        build_base(str(path), ["last"], SIDE, "half")
