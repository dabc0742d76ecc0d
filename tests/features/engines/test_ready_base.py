"""A ready base runs in a later process without TensorFlow, to the same bits; a damaged one is made again."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from features.backbones.keras_base import build_base, find_base
from features.engines import ready_base
from features.engines.frozen_graph import Frozen
from features.engines.ready_base import draw_probes, find_ready, keep_ready, make_ready
from features.engines.registry import ENGINES, is_installed
from features.engines.selection import make_checked
from features.errors import EngineError
from features.runtime.user_cache import cache_folder

HEAVY = ("tensorflow", "keras", "numba", "openvino", "sklearn", "matplotlib")
CHILD = f"""
import hashlib, json, sys
import numpy as np
from features.extraction.preparation import prepare
from features.extraction.request import FeatureOptions
model, engine = sys.argv[1:]
prepared = prepare(FeatureOptions(backbone=model, engine=engine, pool="none"), ())
checked = prepared.checked
images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
(found,) = checked.engine.run(images).values()
print(json.dumps({{
    "engine": prepared.engine.name, "parity": checked.parity, "on": checked.parity_on,
    "bits": hashlib.sha256(found.tobytes()).hexdigest(),
    "heavy": [name for name in {HEAVY!r} if name in sys.modules],
}}))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A file of the user's own model, which numba and OpenVINO can run."""
    with pytest.MonkeyPatch.context() as patch:
        from features.backbones.registry import BACKBONES, Backbone

        patch.setitem(BACKBONES, "tiny_chain", Backbone("tiny", "TinyChain", "pool6", 16, 16))
        path = tmp_path_factory.mktemp("own") / "own.keras"
        build_base("tiny_chain", ["-1"], 16).model.save(path)
    return path


def start(model, engine, home):
    """Start a process that makes the engine; its last line says what it did."""
    command, environment = [sys.executable, "-c", CHILD, str(model), engine], {"XDG_CACHE_HOME": str(home)}
    return subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(child):
    """Return what a child did."""
    out, errors = child.communicate()
    assert child.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize(("engine", "needs"), [("numba", []), ("openvino", ["openvino"]), ("auto", [])])
def test_a_later_process_imports_only_the_engine_and_gives_the_same_bits(model, engine, needs, tmp_path):
    if not all(map(is_installed, ("numba", "openvino"))):
        pytest.skip("an engine is not installed")
    both = [start(model, engine, tmp_path) for _ in range(2 if engine == "numba" else 1)]  # at once
    first = [finish(each) for each in both]
    again = finish(start(model, engine, tmp_path))
    assert {"tensorflow", "keras"} <= set(first[0]["heavy"]) and again["heavy"] == needs
    for each in first:
        assert {name: each[name] for name in ("engine", "parity", "on", "bits")} == {
            name: again[name] for name in ("engine", "parity", "on", "bits")
        }
    assert again["on"] == "probes" and 0 <= again["parity"] <= ENGINES[again["engine"]].allowed


@pytest.fixture
def frozen(model, tmp_path, monkeypatch):
    """The user's own model, and a cache for one test."""
    if not is_installed("numba"):
        pytest.skip("the extra numba is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    return Frozen(find_base(str(model), ["-1"], 16), 16, 5)


def test_what_is_kept_is_what_was_made(frozen):
    ready = make_ready("numba", frozen)
    assert find_ready("numba", frozen) is None
    keep_ready("numba", frozen, ready)
    found = find_ready("numba", frozen)
    for made, read in ((ready.parts, found.parts), (ready.expected, found.expected)):
        assert list(made) == list(read)
        for name, values in made.items():
            np.testing.assert_array_equal(values, read[name])
            assert values.dtype == read[name].dtype
    for other in (replace(frozen, pool="avg"), replace(frozen, base=replace(frozen.base, identity=None))):
        assert find_ready("numba", other) is None


AHEAD = """
import sys
from features.engines.winograd.loops import machine_code
machine_code._USUAL = (("add",),)
machine_code.compile_ahead()
if sys.argv[1] == "dies":
    machine_code._ahead[0].kill()
machine_code.compiled("add")
print("numba" in sys.modules)
"""


@pytest.mark.parametrize(("process", "compiled_here"), [("lives", False), ("dies", True)])
def test_loops_come_from_the_process_that_compiles_ahead_unless_it_dies(process, compiled_here, tmp_path):
    if not is_installed("numba"):
        pytest.skip("the extra numba is not installed")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", AHEAD, process], env=environment, capture_output=True, text=True)
    assert told.stdout.strip() == str(compiled_here), told.stderr


def test_a_damaged_ready_base_is_made_again(frozen):
    parity = make_checked("numba", frozen, lambda: None).parity
    (file,) = (cache_folder() / "ready").iterdir()
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    assert find_ready("numba", frozen) is None
    assert make_checked("numba", frozen, lambda: None).parity == parity
    assert find_ready("numba", frozen) is not None


def test_an_engine_that_fails_its_check_keeps_nothing(frozen, monkeypatch):
    monkeypatch.setitem(ENGINES, "numba", replace(ENGINES["numba"], allowed=1e-12))
    with pytest.raises(EngineError, match="features of numba must be within 1e-12"):
        make_checked("numba", frozen, lambda: None)
    assert find_ready("numba", frozen) is None


def test_a_base_that_was_built_is_described_without_building_it(frozen, model, monkeypatch):
    again = find_base(str(model), ["-1"], 16)
    assert (again.layers, again.kinds, again.weights, again.identity) == tuple(
        getattr(frozen.base, name) for name in ("layers", "kinds", "weights", "identity")
    )
    assert "model" not in vars(again) and again.model.count_params() == frozen.base.model.count_params()


def test_probes_differ_and_use_all_levels():
    images = draw_probes(224)
    assert images.shape == (ready_base.PROBES, 224, 224, 3) and images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == len(images)
    assert all(len(np.unique(image[..., colour])) > 200 for image in images for colour in range(3))
