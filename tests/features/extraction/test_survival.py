"""A store survives: full disks, second writers, missing parts, damage. The engine is a stand-in where files matter only.

The long versions, hundreds of kills and flips, are in tests/torture/store.py.
"""

import contextlib
import errno
import json
import math
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import standin
from conftest import ROOT, assert_same_stores, draw, draw_tree, rewrite
from PIL import Image, ImageFile

from features import FeatureStore
from features.errors import SourceError, StoreError
from features.extraction.forward import PassLimits
from features.extraction.request import ExtractRequest
from features.extraction.run import run_pass
from features.extraction.verification import verify
from features.images import contents
from features.images.bounds import MAX_PIXELS
from features.images.decoding import decode, read_bytes
from features.safefiles.hdf5 import filters_of
from features.store import parts, schema, writer_lock
from features.store.part_index import open_part, reading
from features.store.writer_lock import one_writer
from pipeline.cli.commands import main


def run(data, out, limits=None, **options):
    """Extract with small batches."""
    asked = ExtractRequest(str(data), out=out, **{"backbone": "tiny", "batch_size": 5, **options})
    return run_pass(asked, limits=limits or PassLimits())


run_in_small_parts = partial(run, limits=PassLimits(part_bytes=1))  # a part for each batch


def test_full_disk_is_a_clear_error_and_resuming_equals(tree, tmp_path, small_disk, stand_in):
    unforeseen = PassLimits(part_bytes=1, disk=math.inf)
    run_in_small_parts(tree, tmp_path / "whole.h5", dtype="float32", compression="none")
    filler = small_disk / "other"
    filler.write_bytes(bytes(100_000))
    with pytest.raises(StoreError, match=r"is full\. Free some space and run the same command"):
        run(tree, small_disk / "s.h5", unforeseen, dtype="float32", compression="none")
    assert not (small_disk / "s.h5").exists()
    kept = len(list((small_disk / "s.h5.parts").glob("part-*.h5")))
    assert kept
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=2m", small_disk], check=True)
    standin.calls.clear()
    run(tree, small_disk / "s.h5", unforeseen, dtype="float32", compression="none")
    assert_same_stores(tmp_path / "whole.h5", small_disk / "s.h5")
    assert len(standin.calls) <= 7 - kept


def test_disk_that_is_too_small_is_refused_before_the_pass(tree, small_disk, stand_in):
    (small_disk / "other").write_bytes(bytes(190_000))
    with pytest.raises(StoreError, match=r"or store less: pool=.avg"):
        run(tree, small_disk / "s.h5")
    assert not (small_disk / "s.h5.parts").exists()


def test_parts_that_stay_need_no_room_for_one_file_of_them(tree, tmp_path, stand_in):
    """Of 32 images with 3,072 bytes of features each."""
    some = PassLimits(disk=100_000)
    with pytest.raises(StoreError, match=r"on another disk, keep it in parts: layout='parts', or store less"):
        run(tree, tmp_path / "s.h5", some, pool="none")
    assert run(tree, tmp_path / "s.h5", some, layout="parts").rows == 32
    with FeatureStore(tmp_path / "s.h5") as store:
        assert store.made.spec.pool == "none"


def test_one_file_needs_room_for_each_copy_of_an_image(tree, tmp_path, stand_in):
    for number in range(32):
        shutil.copy(tree / "train/red/train000.png", tree / f"train/red/copy{number}.png")
    with pytest.raises(StoreError, match="the store and its parts need up to"):
        run(tree, tmp_path / "s.h5", PassLimits(disk=200_000), pool="none")


def test_a_disk_without_a_free_byte_is_a_clear_error_and_nothing_is_left(tree, small_disk, stand_in):
    with contextlib.suppress(OSError), open(small_disk / "other", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    with pytest.raises(StoreError, match=r"the disk of .*s.h5.parts is full\. Free some space"):
        run(tree, small_disk / "s.h5", PassLimits(part_bytes=1, disk=math.inf))
    assert [path.name for path in small_disk.iterdir()] == ["other"]


def test_second_writer_is_told_who_holds_the_store(tree, tmp_path, stand_in):
    code = (
        "import sys, pathlib; from features.store.writer_lock import one_writer\n"
        "with one_writer(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    folder = tmp_path / "s.h5.parts"
    root = ROOT
    holder = subprocess.Popen(
        [sys.executable, "-c", code, folder], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(
        StoreError, match=rf"locked by process {holder.pid} on {socket.gethostname()} since 20.*kill {holder.pid}"
    ):
        run(tree, tmp_path / "s.h5")
    holder.kill()
    holder.communicate()
    run(tree, tmp_path / "s.h5")


def test_file_system_without_locks_says_so_and_still_has_one_writer(tmp_path, monkeypatch, said):
    def no_locks(handle):
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr(writer_lock, "flock", no_locks)
    folder = tmp_path / "s.h5.parts"
    with one_writer(folder):
        assert "without locks" in said[0]
        with (
            pytest.raises(StoreError, match=r"if that process is dead: rm .*writer.json"),
            one_writer(folder),
        ):
            pass
    assert not folder.exists()
    folder.mkdir()
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    ).stdout
    (folder / "writer.json").write_text(
        json.dumps({"process": int(dead), "host": socket.gethostname(), "since": "then"})
    )
    with one_writer(folder):
        pass


def test_a_synced_drive_that_cannot_lock_sync_or_tell_its_space_holds_the_same_store(
    tree, tmp_path, monkeypatch, stand_in, said
):
    """What drives that are mounted by FUSE answer, which hosted notebooks use."""
    run(tree, tmp_path / "local.h5")

    def cannot(error):
        def refuse(handle):
            raise OSError(error, os.strerror(error))

        return refuse

    monkeypatch.setattr(writer_lock, "flock", cannot(errno.ENOTSUP))
    monkeypatch.setattr(os, "fsync", cannot(errno.EINVAL))
    run(tree, tmp_path / "drive.h5", PassLimits(disk=math.inf))  # as `free_space` has it of such a drive
    assert any("without locks" in line for line in said) and any("does not report" in line for line in said)
    assert_same_stores(tmp_path / "local.h5", tmp_path / "drive.h5")
    monkeypatch.setattr(os, "fsync", cannot(errno.EIO))  # no promise refused, but data lost
    with pytest.raises(
        StoreError, match=r"cannot be written: Input/output error\. Fix that and run the same command again"
    ):
        run(tree, tmp_path / "broken.h5")
    assert not (tmp_path / "broken.h5").exists()


def test_parts_with_an_index_read_like_one_file(tree, tmp_path, monkeypatch, stand_in):
    (tree / "train/red/copy.png").write_bytes((tree / "test/blue/test001.png").read_bytes())
    run_in_small_parts(tree, tmp_path / "one.h5")
    run_in_small_parts(tree, tmp_path / "many.h5", layout="parts")
    parts = sorted((tmp_path / "many.h5.parts").glob("part-*.h5"))
    assert len(parts) == 7
    monkeypatch.chdir("/")  # parts are found from anywhere
    assert_same_stores(tmp_path / "one.h5", tmp_path / "many.h5")
    with FeatureStore(tmp_path / "many.h5") as many, FeatureStore(tmp_path / "one.h5") as one:
        np.testing.assert_array_equal(many.read(rows=np.array([3, 30, 9])), one.read(rows=np.array([3, 30, 9])))
    draw(tree / "train/blue/aaa.png", 5)
    assert run_in_small_parts(tree, tmp_path / "many.h5", layout="parts").computed == 1
    run_in_small_parts(tree, tmp_path / "one.h5")
    assert_same_stores(tmp_path / "one.h5", tmp_path / "many.h5")
    with pytest.raises(StoreError, match="layout cannot become parts"):
        draw(tree / "train/blue/bbb.png", 6)
        run_in_small_parts(tree, tmp_path / "one.h5", layout="parts")


def test_more_parts_than_files_may_be_open_are_all_read(tree, tmp_path, monkeypatch, stand_in):
    """HDF5 itself gives zeros for those that it cannot open."""
    run_in_small_parts(tree, tmp_path / "one.h5", batch_size=1)
    run_in_small_parts(tree, tmp_path / "many.h5", batch_size=1, layout="parts")
    monkeypatch.setattr("features.store.part_index._OPEN_FILES", 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with FeatureStore(tmp_path / "many.h5") as many, FeatureStore(tmp_path / "one.h5") as one:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 8, hard))
            found = many.read()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(many.parts) == 32
        np.testing.assert_array_equal(found, one.read())


def test_part_that_goes_away_under_a_reader_is_an_error_not_zeros(tree, tmp_path, stand_in):
    run_in_small_parts(tree, tmp_path / "s.h5", layout="parts")
    with FeatureStore(tmp_path / "s.h5") as reader:
        run_in_small_parts(tree, tmp_path / "s.h5")  # becomes one file; its parts are removed
        with pytest.raises(StoreError, match="lacks its part"):
            reader.read()


def test_compression_of_a_store_that_is_there_is_changed_when_asked(tree, tmp_path, stand_in):
    run(tree, tmp_path / "s.h5")
    assert run(tree, tmp_path / "s.h5", compression="none").computed == 0
    assert filters(tmp_path / "s.h5") == ()
    assert (
        run(tree, tmp_path / "s.h5").computed == 0 and filters(tmp_path / "s.h5") == ()
    )  # stays where none is asked for


def test_parts_are_packed_anew_when_another_compression_is_asked_for(tree, tmp_path, stand_in):
    run_in_small_parts(tree, tmp_path / "p.h5", layout="parts")
    run(tree, tmp_path / "none.h5", compression="none")
    assert run(tree, tmp_path / "p.h5", layout="parts", compression="none").computed == 0
    assert_same_stores(tmp_path / "p.h5", tmp_path / "none.h5")
    parts = list((tmp_path / "p.h5.parts").glob("part-*.h5"))
    assert len(parts) == 7 and {filters(part) for part in parts} == {()}


def filters(path):
    with h5py.File(path) as file:
        return filters_of(file["features/maps"])


def test_broken_files_that_are_gone_count_no_more(tree, tmp_path, stand_in):
    for number in range(5):
        (tree / f"train/red/{number}.jpg").write_bytes(bytes([number]))
    run(tree, tmp_path / "s.h5")
    for number in range(5):
        (tree / f"train/red/{number}.jpg").write_bytes(bytes([number + 10]))
    assert len(run(tree, tmp_path / "s.h5").skipped) == 5


def test_missing_or_damaged_part_is_an_error_at_open(tree, tmp_path, stand_in):
    run_in_small_parts(tree, tmp_path / "s.h5", layout="parts")
    part = sorted((tmp_path / "s.h5.parts").glob("part-*.h5"))[3]
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    with pytest.raises(StoreError, match=rf"{part.name} is damaged"):
        FeatureStore(tmp_path / "s.h5")
    part.unlink()
    with pytest.raises(StoreError, match=rf"lacks its part .*{part.name}"):
        FeatureStore(tmp_path / "s.h5")
    absent = pytest.raises(StoreError, match=rf"{part.name} is not there, and holds rows of its store\. Restore it")
    with absent, reading(part), open_part(part):
        pass


@pytest.mark.parametrize("compression", ["lz4", "zstd", "gzip", "none"])
def test_every_compression_gives_the_same_values(tree, tmp_path, stand_in, compression):
    run(tree, tmp_path / "none.h5", compression="none")
    run(tree, tmp_path / "s.h5", compression=compression)
    assert_same_stores(tmp_path / "none.h5", tmp_path / "s.h5")
    code = f"import h5py; print(h5py.File({str(tmp_path / 's.h5')!r})['features/maps'][0].sum() > 0)"
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (plain.returncode == 0) == (compression in ("gzip", "none"))


def test_copies_and_grown_sources_cost_forward_passes_for_new_contents_only(tree, tmp_path, stand_in):
    run(tree, tmp_path / "s.h5", batch_size=1)
    assert len(standin.calls) == 32
    standin.calls.clear()
    for number in range(3):
        draw(tree / f"train/red/new{number}.png", 2000 + number)
        (tree / f"val/red/copy{number}.png").write_bytes((tree / "train/red/new0.png").read_bytes())
    run(tree, tmp_path / "s.h5", batch_size=1)
    assert len(standin.calls) == 3


def test_a_file_that_fails_for_a_moment_during_the_pass_is_not_skipped_for_good(tree, tmp_path, stand_in, monkeypatch):
    file = tree / "val/red/odd.png"
    Image.new("RGB", (30, 31), "red").save(file)
    reads, load = [], ImageFile.ImageFile.load

    def read(path):
        reads.extend([path] if path == file else [])
        return read_bytes(tmp_path / "gone" if path == file and len(reads) == 2 else path)  # the first is for the hash

    def lacking_memory(image):
        if image.size == (30, 31):
            raise MemoryError
        return load(image)

    monkeypatch.setattr(contents, "read_bytes", read)
    with pytest.raises(
        SourceError, match=r"odd\.png: cannot be read: No such file or directory\. Run the same command"
    ):
        run(tree, tmp_path / "s.h5")
    with (
        monkeypatch.context() as patch,
        pytest.raises(SourceError, match=r"odd\.png: no memory to decode it\. Run the"),
    ):
        patch.setattr(ImageFile.ImageFile, "load", lacking_memory)
        run(tree, tmp_path / "s.h5")
    done = run(tree, tmp_path / "s.h5")
    assert (done.rows, done.skipped) == (33, [])


def test_skipped_files_are_remembered_and_retried_when_asked(tree, tmp_path, stand_in, monkeypatch, capsys):
    (tree / "train/red/odd.png").write_bytes(b"not yet readable")
    run(tree, tmp_path / "s.h5")
    assert main(["extract", str(tree), "--out", str(tmp_path / "s.h5"), "--backbone", "tiny"]) == 0
    assert "under /skipped. Once they can be used: --retry-skipped" in capsys.readouterr().err
    monkeypatch.setattr(
        "features.images.contents.decode",
        lambda data, *rest: np.zeros((16, 16, 3), np.uint8) if data[:3] == b"not" else decode(data, *rest),
    )
    assert (run(tree, tmp_path / "s.h5").rows, run(tree, tmp_path / "s.h5", retry_skipped=True).rows) == (32, 33)


def test_another_limit_of_pixels_is_no_other_store(tree, tmp_path, stand_in):
    """A lower one leaves what is stored; what it skipped is tried again when asked, or by a limit above the usual one."""
    Image.new("RGB", (100, 50), "red").save(tree / "train/red/poster.png")
    skipped = run(tree, tmp_path / "s.h5", max_pixels=4999).skipped
    assert [each.reason.split("; ")[0] for each in skipped] == ["100 x 50 pixels"]
    before = len(standin.calls)
    done = run(tree, tmp_path / "s.h5", max_pixels=MAX_PIXELS + 1)
    assert (done.rows, done.computed, len(standin.calls) - before) == (33, 1, 1)
    draw(tree / "train/red/new.png", 2000)
    done = run(tree, tmp_path / "s.h5", max_pixels=4999)
    assert (done.rows, done.computed, done.skipped) == (34, 1, [])
    with FeatureStore(tmp_path / "s.h5") as store:
        assert "train/red/poster.png" in store.rows.paths


def test_verify_computes_no_rows_of_images_above_the_limit(tree, tmp_path):
    run(tree, tmp_path / "s.h5")
    seen = verify(tmp_path / "s.h5", max_pixels=10)[2]
    assert seen.held is None and "max_pixels=" in seen.seen


def test_verify_counts_files_and_computes_the_rows_that_can_be_read(tree, tmp_path, stand_in):
    run(tree, tmp_path / "s.h5", views=2, augment="hflip")
    (tree / "train/red/train000.png").unlink()
    _, source, computed = verify(tmp_path / "s.h5", rows=64)
    assert source.seen.startswith("1 of 32 files changed or are gone, such as train/red/train000.png")
    assert computed.held and computed.seen.startswith("62 rows computed again")
    assert (
        "; 2 rows without a readable image, such as train/red/train000.png (cannot be read: No such file"
        in computed.seen
    )


def test_verify_says_of_a_store_that_cannot_be_read_no_damage(tree, tmp_path, stand_in, monkeypatch):
    def fails(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    run(tree, tmp_path / "s.h5")
    monkeypatch.setattr(os, "pread", fails)
    values = verify(tmp_path / "s.h5", rows=0)[0]
    assert values.held is False and "cannot be read ([Errno 5] Input/output error). It may be whole" in values.seen


def test_verify_a_sound_store(tree, tmp_path):
    run(tree, tmp_path / "s.h5")
    checks = verify(tmp_path / "s.h5")
    assert [(check.name, check.held) for check in checks] == [("values", True), ("source", True), ("computed", True)]
    assert "differ by at most 0.0e+00" in checks[2].seen


@pytest.mark.parametrize(
    "change",
    [
        lambda values, held: (values[::-1], held),  # rows swapped
        lambda values, held: (values, {**held, "preprocess": "rescale"}),
        lambda values, held: (values, {**held, "resize": "nearest"}),
        lambda values, held: (values * np.float16(1.01), held),
        lambda values, held: (values, {**held, "weights_sha256": "0" * 64}),
    ],
    ids=["swapped", "preprocess", "resize", "scaled", "weights"],
)
def test_verify_finds_what_checksums_cannot(tree, tmp_path, change):
    run(tree, tmp_path / "s.h5")
    checks = verify(rewrite(tmp_path / "s.h5", change))
    assert [check.held for check in checks] == [True, True, False]


def test_verify_finds_values_that_are_not_finite_and_labels_of_no_class_do_not_open(tree, tmp_path):
    """With right checksums, as a stranger's program may write them."""
    run(tree, tmp_path / "s.h5")
    for value in (np.nan, np.inf):
        changed = rewrite(
            tmp_path / "s.h5", lambda values, held, v=value: (np.where(values == values.max(), v, values), held)
        )
        (checked,) = verify(changed, rows=0)[:1]
        assert checked.held is False and "or finite values, such as last" in checked.seen
    for label in (-1, 2, 2**30):
        path = Path(shutil.copy(tmp_path / "s.h5", tmp_path / "labels.h5"))
        with h5py.File(path, "a") as file:
            labels = file["rows/label"][()]
            labels[3] = label
            file["rows/label"][...] = labels
            schema.write_attributes(file, json.loads(file.attrs["provenance"]))
        with pytest.raises(StoreError, match="rows/label must be from 0 to 1"):
            verify(path)


def test_verify_reports_damage_and_changed_files(tree, tmp_path, stand_in, capfd):
    run(tree, tmp_path / "s.h5")
    draw(tree / "train/red/train000.png", 77)
    with h5py.File(tmp_path / "s.h5") as file:
        where = file["features/maps"].id.get_chunk_info(0).byte_offset + 20
    data = bytearray((tmp_path / "s.h5").read_bytes())
    data[where] ^= 4
    (tmp_path / "s.h5").write_bytes(data)
    assert main(["verify", str(tmp_path / "s.h5"), "--rows", "0"]) == 1
    told = capfd.readouterr().err
    assert (
        "rows without the right checksum" in told and "1 of 32 files changed" in told and "fails 2 of 3 checks" in told
    )
    shutil.move(tree, tmp_path / "away")
    assert verify(tmp_path / "s.h5", rows=0)[1].held is None


def test_readers_go_on_while_a_writer_extends_the_store(tree, tmp_path, stand_in):
    run(tree, tmp_path / "s.h5")
    with FeatureStore(tmp_path / "s.h5") as reader:
        before = reader.read()
        draw(tree / "train/red/aaa.png", 3)
        run(tree, tmp_path / "s.h5")
        np.testing.assert_array_equal(reader.read(), before)
    with FeatureStore(tmp_path / "s.h5") as reader:
        assert len(reader) == 33


def test_hostile_folder_end_to_end(shared, tmp_path, stand_in, monkeypatch):
    subprocess.run([sys.executable, shared / "hostile/make_extra.py", tmp_path], check=True)
    subprocess.run(["mkfifo", tmp_path / "images/training_set/dogs/pipe.jpg"], check=True)
    monkeypatch.chdir(tmp_path / "images/training_set/dogs")  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.png")
    with pytest.raises(SourceError, match="every class must be in every split"):
        run(tmp_path / "images", tmp_path / "s.h5")
    with pytest.raises(SourceError, match="skipped files must be at most"):
        run(tmp_path / "images", tmp_path / "s.h5", allow_missing_classes=True)
    done = run(tmp_path / "images", tmp_path / "s.h5", allow_missing_classes=True, max_skipped=0.5, retry_skipped=True)
    expected = json.loads((shared / "hostile/expected.json").read_text(encoding="utf-8"))
    with FeatureStore(tmp_path / "s.h5") as store:
        rows, skipped = set(store.rows.paths), {each.path for each in store.skipped}
    for entry in expected:
        path = entry["path"].removeprefix("images/")
        outcome = "ok" if path in rows else "quarantine" if path in skipped else "ignore"
        assert outcome in entry.get("acceptable", [entry["outcome"]]), path
    assert {"training_set/dogs/pipe.jpg", "training_set/dogs/socket.png"} < skipped
    assert all(each.reason for each in done.skipped)


def test_one_flip_anywhere_is_reported_or_harmless(tree, tmp_path, stand_in):
    """A small sample of what tests/torture/store.py does a thousand times."""
    from torture.store import flip_bit, outcomes_of

    run(draw_tree(tmp_path / "few", {"train": 2, "val": 1, "test": 1}), tmp_path / "s.h5")
    outcomes = outcomes_of(tmp_path / "s.h5", flip_bit, 60, seed=1)
    assert outcomes["silent"] == 0 and outcomes["crashed"] == 0 and outcomes["reported"] > 20, outcomes


def test_torture_names_its_trials():
    helped = subprocess.run(
        [sys.executable, "tests/torture/store.py", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert re.search(r"\{.*kills.*flips.*disk.*memory.*readers.*\}", helped.stdout)


@pytest.mark.parametrize(("slow", "limit"), [("decode", "decode"), ("append", "write")])
def test_the_summary_names_the_stage_that_set_the_pace(tree, tmp_path, stand_in, monkeypatch, slow, limit):
    owner = parts.Parts if slow == "append" else contents
    real = getattr(owner, slow)
    monkeypatch.setattr(owner, slow, lambda *arguments: time.sleep(0.05) or real(*arguments))
    stages = run_in_small_parts(tree, tmp_path / "s.h5", workers=1).stages
    assert stages.limit == limit and stages.decode > 0 and stages.forward > 0 and stages.write > 0
    assert run_in_small_parts(tree, tmp_path / "s.h5").stages is None  # nothing to compute
