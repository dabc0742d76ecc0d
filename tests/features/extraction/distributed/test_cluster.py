"""Parts computed by a Dask cluster of real processes; the engine is the stand-in of tests/standin.py.

The long trials, dozens of kills, are in tests/torture/cluster.py.
"""

import errno
import json
import logging
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, assert_same_stores
from machines import Cable, Machines
from torture.store import child

from features import extract
from features.errors import ClusterError, RequestError, SourceError, StoreError
from features.extraction.distributed import spot_check
from features.extraction.distributed.compatibility import Fitness
from features.extraction.distributed.run import cut
from features.extraction.distributed.spot_check import SpotCheck
from features.extraction.distributed.worker import Looked, digest_batch
from features.extraction.forward import USUAL_LIMITS, PassLimits
from features.extraction.request import ExtractRequest, check_options
from features.extraction.run import run_pass
from features.images.contents import Content
from features.runtime.dask_cluster import _local_cluster, settle_unfit
from features.runtime.log import log

dask = pytest.importorskip("dask", reason="the extra dask is not installed")


def run(data, out, limits=USUAL_LIMITS, **options):
    """Extract in parts of five images."""
    parts = {"part_images": 5} if "cluster" in options else {}
    asked = ExtractRequest(str(data), out=out, **{"image_size": 32, "batch_size": 5, **parts, **options})
    return run_pass(asked, limits=limits)


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """A scheduler and two workers."""
    with Machines(tmp_path_factory.mktemp("dask")) as started:
        yield started.start_scheduler().start_worker("one").start_worker("two").wait_for_workers(2)


@pytest.fixture
def slow(tmp_path):
    """A scheduler and two workers that take a while for each batch."""
    (tmp_path / "dask").mkdir()
    with Machines(tmp_path / "dask", seconds=0.3) as started:
        yield started.start_scheduler().start_worker("one").start_worker("two").wait_for_workers(2)


def wait_until(true, seconds=30):
    """Wait until a condition holds, and fail where it does not."""
    deadline = time.monotonic() + seconds
    while not (holds := true()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert holds


def after_parts(out, count, what):
    """Do something in a thread once a run has so many parts."""

    def wait():
        wait_until(lambda: len(list(Path(f"{out}.parts").glob("part-*.h5"))) >= count)
        what()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("layout", ["file", "parts"])
def test_a_store_made_by_a_cluster_is_that_of_one_machine(tree, tmp_path, stand_in, machines, layout):
    (tree / "train/red/broken.png").write_bytes(b"no image")
    shutil.copy(tree / "train/red/train001.png", tree / "test/blue/copy.png")
    options = {"views": 2, "augment": "hflip"}
    alone = run(tree, tmp_path / "one.h5", **options)
    done = run(tree, tmp_path / "many.h5", **options, cluster=machines.address, layout=layout)
    assert (done.rows, done.computed, done.skipped) == (alone.rows, alone.computed, alone.skipped)
    assert_same_stores(tmp_path / "one.h5", tmp_path / "many.h5")
    assert Path(f"{tmp_path}/many.h5.parts").exists() == (layout == "parts")
    assert run(tree, tmp_path / "many.h5", **options, cluster=machines.address, layout=layout).computed == 0


def test_a_cluster_of_this_machine_alone(tree, tmp_path, stand_in, monkeypatch):

    run(tree, tmp_path / "one.h5")
    with dask.config.set({"distributed.worker.preload": [str(ROOT / "tests/standin_worker.py")]}):
        run(tree, tmp_path / "many.h5", cluster="local:1")
    assert_same_stores(tmp_path / "one.h5", tmp_path / "many.h5")


def test_a_worker_that_dies_costs_its_parts_alone(tree, tmp_path, stand_in, slow):
    run(tree, tmp_path / "one.h5")
    thread = after_parts(tmp_path / "many.h5", 1, lambda: slow.kill("one"))
    run(tree, tmp_path / "many.h5", cluster=slow.address)
    thread.join()
    assert_same_stores(tmp_path / "one.h5", tmp_path / "many.h5")


def test_a_worker_that_is_cut_off_for_a_while_costs_time_alone(tree, tmp_path, stand_in):
    run(tree, tmp_path / "one.h5")
    (tmp_path / "dask").mkdir()
    try:
        cable = Cable()
    except PermissionError as error:
        pytest.skip(str(error))
    with closing(cable), Machines(tmp_path / "dask", seconds=0.1, host=cable.here) as machines:
        machines.start_scheduler().start_worker("far", before=cable.inside, host=cable.there)
        mend = threading.Timer(3, cable.mend)
        after_parts(tmp_path / "many.h5", 1, lambda: (cable.cut(), mend.start()))
        done = run(tree, tmp_path / "many.h5", cluster=machines.address)
        assert done.computed == 32 and mend.finished.is_set()  # there was no other worker
    assert_same_stores(tmp_path / "one.h5", tmp_path / "many.h5")


def test_a_scheduler_that_dies_is_an_error_and_the_same_command_goes_on(tree, tmp_path, stand_in, slow):
    run(tree, tmp_path / "one.h5")
    thread = after_parts(tmp_path / "many.h5", 1, slow.kill)
    with pytest.raises(ClusterError, match=r"scheduler .* is gone\. Start it again.*same command resumes"):
        run(tree, tmp_path / "many.h5", cluster=slow.address)
    thread.join()
    assert not (tmp_path / "many.h5").exists()
    slow.start_scheduler().start_worker("three")
    assert run(tree, tmp_path / "many.h5", cluster=slow.address).computed < 32
    assert_same_stores(tmp_path / "one.h5", tmp_path / "many.h5")


def test_a_client_that_dies_leaves_parts_that_the_next_one_takes_in(tree, tmp_path, stand_in, slow):
    run(tree, tmp_path / "one.h5")
    out, options = tmp_path / "many.h5", {"batch_size": 5, "part_images": 5, "cluster": slow.address}
    code = child(tree, out, image_size=32, **{name: options[name] for name in ("part_images", "cluster")})
    code[2] = code[2].replace("batch_size=8", "batch_size=5")
    client = subprocess.Popen(code, stdout=subprocess.DEVNULL)
    after_parts(out, 2, client.kill).join()
    client.wait()
    kept = len(list(Path(f"{out}.parts").glob("part-*.h5")))
    done = extract(str(tree), out=out, image_size=32, **options)
    assert kept and done.computed <= 32 - 5 * kept
    extract(str(tree), out=tmp_path / "two.h5", image_size=32, batch_size=5)
    assert_same_stores(tmp_path / "two.h5", out)
    assert not list(tmp_path.glob("many.h5.parts/run-*"))


@pytest.fixture
def other_pillow(tmp_path):
    """The environment of a worker that seems to have another Pillow."""
    told = tmp_path / "other/pillow-99.0.dist-info/METADATA"
    told.parent.mkdir(parents=True)
    told.write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 99.0\n")
    return {"PYTHONPATH": str(tmp_path / "other")}


def test_a_worker_with_other_versions_is_named_and_gets_no_part(
    tree, tmp_path, stand_in, machines, other_pillow, tiny_store, said
):
    from pipeline.training.comparison import compare

    run(tree, tmp_path / "one.h5")
    unfit = pytest.raises(ClusterError, match=r"worker tcp://127.* is not fit: it has pillow 99.0 instead of")
    with third_worker(machines, environment=other_pillow):
        with unfit:
            run(tree, tmp_path / "s.h5", cluster=machines.address)
        assert not list(tmp_path.glob("s.h5*"))
        without = {"cluster": machines.address, "skip_unfit": True}
        run(tree, tmp_path / "s.h5", **without)
        compare(tiny_store, ["majority", "logistic"], repeats=2, out=tmp_path / "c", **without)
    named = [line for line in said if "is skipped: it has pillow 99.0 instead of" in line]
    assert len(named) == 2 and all(line.startswith("warning  worker tcp://127") for line in named)
    assert sum("2 workers, 2 threads" in line for line in said) == 2
    assert_same_stores(tmp_path / "one.h5", tmp_path / "s.h5")


def test_a_worker_that_goes_wrong_after_its_first_check_is_named_and_its_part_made_again(
    tree, tmp_path, stand_in, machines, said
):
    run(tree, tmp_path / "one.h5", views=6, augment="dihedral")
    with third_worker(machines, environment={"STANDIN_RIGHT": "1"}):
        run(tree, tmp_path / "s.h5", cluster=machines.address, views=6, augment="dihedral", part_images=6)
    wrong = [line for line in said if "its part is wrong: features of" in line]
    assert wrong and all(
        re.search(r"failed on worker tcp://127.* the client computes to 1e-03 .* away", line) for line in wrong
    )
    assert len({re.search(r"worker (tcp://\S+):", line)[1] for line in wrong}) == 1
    assert_same_stores(tmp_path / "one.h5", tmp_path / "s.h5")


def test_a_part_that_the_client_cannot_read_is_no_fault_of_its_worker(monkeypatch):
    def refused(path):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(spot_check, "open_part", refused)
    check = SpotCheck(None, SimpleNamespace(spec=None), None)
    with pytest.raises(StoreError, match=r"part-1.h5 cannot be read .*Stale file handle.* nothing was removed"):
        check.fault(Path("part-1.h5"), [(Content(bytes(32), Path("x")), [0])])


def test_workers_that_join_late_are_looked_at_before_they_get_parts(tree, tmp_path, stand_in, slow, other_pillow, said):
    """Those of the start are stopped once others have joined: the rest of the parts is left to the one that is fit."""
    log.setLevel(logging.DEBUG)  # said by whom each part was computed

    def join():
        slow.start_worker("odd", environment=other_pillow).start_worker("late")
        deadline = time.monotonic() + 30
        while sum("is skipped" in line or "joined" in line for line in said) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        for name in ("one", "two"):
            slow.kill(name)

    thread = after_parts(tmp_path / "many.h5", 1, join)
    with dask.config.set({"cached-features.look": 0.1}):
        run(tree, tmp_path / "many.h5", cluster=slow.address, views=6, augment="dihedral", part_images=6)
    thread.join()
    computed_by = {line.split()[6].rstrip(",") for line in said if line.startswith("debug    part ")}
    (late,) = (line.split()[1] for line in said if line.endswith("joined and is fit"))
    (odd,) = (line.split()[2] for line in said if "is skipped: it has pillow 99.0" in line)
    assert late in computed_by and odd not in computed_by and len(computed_by) == 3
    run(tree, tmp_path / "one.h5", views=6, augment="dihedral")
    assert_same_stores(tmp_path / "one.h5", tmp_path / "many.h5")


@contextmanager
def third_worker(machines, **how):
    """Let a worker of another kind join for a while."""
    machines.start_worker("odd", **how)
    try:
        machines.wait_for_workers(3)
        yield
    finally:
        machines.kill("odd")


def test_a_worker_that_does_not_see_the_folder_is_named(tree, tmp_path, stand_in, machines):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("a file system of its own for a process is not permitted here")
    hide = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs tmpfs {tmp_path} && exec "$@"', "sh"]
    unfit = pytest.raises(ClusterError, match=r"does not see .*run-.*a file system that client and workers share")
    with third_worker(machines, before=hide), unfit:
        run(tree, tmp_path / "s.h5", cluster=machines.address)


def test_a_full_disk_is_reported_with_worker_and_part(tree, stand_in, machines, small_disk, tmp_path, said):
    unforeseen = PassLimits(disk=math.inf)
    options = {"dtype": "float32", "compression": "none", "cluster": machines.address}
    (small_disk / "other").write_bytes(bytes(100_000))
    with pytest.raises(ClusterError, match=r"part \d of 7 .* failed.* last (on )?worker tcp://.*is full\. Free some"):
        run(tree, small_disk / "s.h5", unforeseen, **options)
    assert any(line.startswith("warning  part ") and "failed on worker tcp://" in line for line in said)
    assert not (small_disk / "s.h5").exists()
    wait_until(lambda: not list(small_disk.glob("s.h5.parts/unfinished-*")))  # the other worker ends its part by itself
    (small_disk / "other").unlink()
    subprocess.run(["mount", "-o", "remount,size=2m", small_disk], check=True)
    run(tree, small_disk / "s.h5", unforeseen, **options)
    run(tree, tmp_path / "one.h5", dtype="float32", compression="none")
    assert_same_stores(tmp_path / "one.h5", small_disk / "s.h5")


def test_broken_files_stop_a_cluster_too(tree, tmp_path, stand_in, machines):
    for number in range(8):
        (tree / f"train/red/{number}.png").write_bytes(bytes([number]))
    with pytest.raises(SourceError, match="skipped files must be at most 5 of 40"):
        run(tree, tmp_path / "s.h5", cluster=machines.address)


def test_each_process_of_this_machine_gets_a_gpu(monkeypatch):
    """Without a GPU here: what processes are told is looked at, not what they compute."""
    import distributed

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with (
        _local_cluster(distributed, 2, gpus=2) as address,
        distributed.Client(address, set_as_default=False) as client,
    ):
        assert sorted(client.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()) == ["0", "1"]
    with pytest.raises(RequestError, match="local:N must be at most 2, one process per GPU"):
        _local_cluster(distributed, 3, gpus=2).__enter__()


BATCH = np.zeros((2, 4, 4, 3), np.uint8)
FIT = Looked("", "GPU 0 of a", digest_batch(BATCH), np.ones(4, np.float32))


def said_by_workers(told):
    """The check of workers whose results are made up: {address: Looked}."""
    client = SimpleNamespace(
        scheduler_info=lambda n_workers: {"workers": told},
        submit=lambda what, *rest, workers, **how: SimpleNamespace(status="finished", result=lambda: told[workers[0]]),
    )
    engine = SimpleNamespace(run=lambda batch: {"maps": np.ones((len(batch), 2, 2), np.float32)})
    return Fitness(client, SimpleNamespace(options=ExtractRequest("x")), engine, BATCH, [], set())


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ({"device": "GPU 0 of a"}, "shares GPU 0 of a with"),
        ({"images": "other"}, "decodes the first images to different pixels"),
        ({"features": np.full(4, 1.01, np.float32)}, "must be those that the client computes to 1e-03"),
        ({"features": np.full(4, np.nan, np.float32)}, "must be those that the client computes to 1e-03"),
        ({"why": "it lacks a thing."}, "it lacks a thing"),
    ],
)
def test_workers_that_see_other_things_are_refused_or_left_out(second, why, said):
    other = replace(FIT, **{"device": "GPU 1 of a", **second})
    fitness = said_by_workers({"tcp://a": FIT, "tcp://b": other, "tcp://c": replace(FIT, device="GPU 2 of a")})
    bad = fitness.check()
    assert bad.keys() == {"tcp://b"} and fitness.fit.keys() == {"tcp://a", "tcp://c"}
    with pytest.raises(ClusterError, match=f"worker tcp://b is not fit: .*{why}.*skip_unfit=True"):
        settle_unfit(bad, 2, False)
    with pytest.raises(ClusterError, match="worker tcp://b is not fit"):
        settle_unfit(bad, 0, True)  # nobody is left
    assert not said and settle_unfit(bad, 2, True) == {"tcp://b"}
    assert re.fullmatch(f"warning  worker tcp://b is skipped: .*{why}.*", said[0])


def test_workers_that_agree_with_one_another_and_not_with_the_client_are_refused():
    far = replace(FIT, features=FIT.features * np.float32(1.01))
    fitness = said_by_workers({"tcp://a": far, "tcp://b": replace(far, device="GPU 1 of a")})
    assert fitness.check().keys() == {"tcp://a", "tcp://b"} and not fitness.fit


def test_parts_are_cut_by_what_is_lacking_alone():
    work = [(Content(bytes([number] * 32), Path("x")), [0, 1]) for number in range(100)]
    options = ExtractRequest("x", batch_size=8, views=2)
    assert [len(part) for part in cut(work, 1000, options)] == [100]
    assert [len(part) for part in cut(work, 1000, replace(options, part_images=50))] == [24, 24, 24, 24, 4]
    assert [len(part) for part in cut(work, 1 << 30, options)] == [4] * 25
    assert [each for part in cut(work, 1 << 30, options) for each in part] == work


@pytest.mark.parametrize("spec", ["local:0", "local:x", "localhost:8786", "tcp:8786", "8786"])
def test_what_is_no_cluster(spec):
    with pytest.raises(RequestError, match=r"cluster must be local:N.*got .*Start one: dask scheduler"):
        check_options(ExtractRequest("x", cluster=spec))


def test_nobody_there_and_no_workers(tree, tmp_path, stand_in, monkeypatch):
    monkeypatch.setitem(dask.config.config, "cached-features", {"connect": 0.5, "first-worker": 0.5})
    with pytest.raises(ClusterError, match=r"tcp://127.0.0.1:9 does not answer"):
        run(tree, tmp_path / "s.h5", cluster="tcp://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(ClusterError, match="does not answer"):
        run(tree, tmp_path / "s.h5", cluster=f"tcp://127.0.0.1:{mute.getsockname()[1]}")
    (tmp_path / "dask").mkdir()
    with Machines(tmp_path / "dask") as machines:
        machines.start_scheduler()
        with pytest.raises(ClusterError, match=r"has no workers\. Start some: dask worker"):
            run(tree, tmp_path / "s.h5", cluster=machines.address)


def test_without_dask_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RequestError, match=r"pip install -e '\.\[dask\]'"):
        check_options(ExtractRequest("x", cluster="local:2"))


def test_heads_fitted_on_a_cluster_are_those_of_one_machine(tiny_store, tmp_path, machines, said):
    from pipeline.training.comparison import compare
    from pipeline.training.studies.layer_probe import probe

    heads = ["logistic", "knn", "sklearn.naive_bayes.GaussianNB"]
    alone = compare(tiny_store, heads, repeats=2, out=tmp_path / "alone/c")
    spread = compare(tiny_store, heads, repeats=2, out=tmp_path / "spread/c", cluster=machines.address)
    one, two = np.load(tmp_path / "alone/c/predictions.npz"), np.load(tmp_path / "spread/c/predictions.npz")
    assert one.files == two.files
    for name in set(one.files) - {"told"}:  # which tells seconds
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    assert [each["accuracies"] for each in alone.heads] == [each["accuracies"] for each in spread.heads]
    compare(tiny_store, heads[:2], repeats=2, out=tmp_path / "spread/d", cluster="tcp://127.0.0.1:9")
    assert any("4 of 4 fits are from earlier runs" in line for line in said)  # nobody is asked for what is kept
    layers = [
        {**each, "fit_seconds": 0, "predict_seconds": 0}
        for where in ({"cluster": machines.address}, {})
        for each in probe(tiny_store, repeats=2, out=tmp_path / f"{len(where)}/p", **where).layers
    ]
    assert layers[0] == layers[1]


@pytest.mark.parametrize("head", ["logistic", "dense", "sklearn.naive_bayes.GaussianNB"])
def test_a_head_is_trained_on_a_worker_as_it_is_here(tiny_store, tmp_path, machines, head):
    from pipeline.training.fit import train_head

    settings = {"epochs": (3,)} if head == "dense" else {}
    runs = [
        train_head(tiny_store, head, out=tmp_path / f"{len(where)}", settings=settings, **where)
        for where in ({}, {"cluster": machines.address})
    ]
    here, there = (replace(run, fit_seconds=0, predict_seconds=0, out="") for run in runs)
    assert here == there
    one, two = (np.load(f"{run.out}/head.npz") for run in runs)
    assert one.files == two.files
    for name in one.files:
        np.testing.assert_array_equal(one[name], two[name])
    with pytest.raises(RequestError, match="cluster must be local:N"):
        train_head(tiny_store, head, out=tmp_path / "r", cluster="here")
    assert not (tmp_path / "r").exists()


def test_the_cost_of_a_pass_by_hand(tree, stand_in, capsys):
    from pipeline.cli.commands import main

    command = [
        "extract",
        "--data",
        str(tree),
        "--image-size",
        "32",
        "--plan-only",
        "--images",
        "1000000",
        "--rate",
        "10",
    ]
    assert main([*command, "--json", "--views", "2", "--augment", "hflip"]) == 0
    cost = json.loads(capsys.readouterr().out)
    row_bytes = 4 * 4 * 96 * 2  # the stand-in's maps in float16
    assert (cost["rows"], cost["parts"], cost["store_bytes"]) == (2_000_000, 3907, 2e6 * row_bytes)
    assert cost["hours"] == {"1": 2e5 / 3600, "8": 2e5 / 3600 / 8, "64": 2e5 / 3600 / 64}
    assert cost["file_system"]["8"]["write"] == 80 * row_bytes
    size = np.mean([file.stat().st_size for file in tree.rglob("*.png")])
    assert cost["file_system"]["8"]["read"] == pytest.approx(40 * size)
    assert not Path("cache").exists() or not list(Path("cache").glob(f"{tree.name}-*"))


@pytest.mark.parametrize("option", [{"images": 5}, {"rate": 1.0}, {"part_images": 8}, {"skip_unfit": True}])
def test_options_of_other_commands_are_refused(tree, tmp_path, option):
    with pytest.raises(RequestError, match=r"needs a cluster|has no option"):
        extract(str(tree), out=tmp_path / "s.h5", **option)
