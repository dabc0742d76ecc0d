"""A predictor gives what `predict` gives, from files and from memory, to many threads, and frees its base."""

import contextlib
import csv
import functools
import gc
import io
import json
import os
import pickle
import shutil
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
import pytest
import standin
from conftest import draw, draw_tree
from PIL import Image
from samples import provenance_of

import pipeline
from features import ConvFeatures, extract
from features.errors import RequestError, SourceError, StoreError, UnreadableImage
from features.images.contents import hash_files
from pipeline.cli.commands import main
from pipeline.deploy.prediction import images_below
from pipeline.deploy.shared_engine import _KEPT, SharedEngine
from pipeline.deploy.watching import watch_folder
from pipeline.reports.run_results import load_run


@pytest.fixture
def made(monkeypatch):
    """The engines that were made: the NumPy stand-in's, which lives as long as somebody refers to it."""
    engines = []

    class Engine(standin.StandInEngine):
        def __init__(self, frozen):
            super().__init__(frozen)
            engines.append(weakref.ref(self))

    for registry, name, row in standin.rows(replace(standin.ENGINE, make=Engine)):
        monkeypatch.setitem(registry, name, row)
    standin.calls.clear()
    _KEPT.clear()  # of tests before
    return engines


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A head trained on a store of 16 images, and beside them four new ones, of which one is turned and one grey."""
    monkeypatch.chdir(tmp_path)
    draw_tree(tmp_path / "photos", {"train": 4, "val": 2, "test": 2})
    extract("photos", backbone="tiny", out="s.h5", batch_size=4)
    pipeline.train_head("s.h5", "nearest-mean", out="run")
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(3):
        image = Image.open(draw(tmp_path / f"new/{number}.png", 100 + number, (20 + 40 * number, 20, 110)))
        image.save(tmp_path / f"new/{number}.png", **({"exif": exif} if number == 1 else {}))
    image.convert("L").save("new/grey.png")
    gc.collect()
    made.clear()
    standin.calls.clear()
    return tmp_path / "run"


def chances(predicted):
    """Return path → probabilities."""
    return {each.path: list(each.probabilities.values()) for each in predicted.predictions}


def test_images_in_memory_give_what_their_files_give(run):
    files = sorted(map(str, (run.parent / "new").iterdir()))
    expected = list(chances(pipeline.predict(run, "new")).values())
    opened = [Image.open(file) for file in files]
    arrays = [np.asarray(image) for image in opened]
    arrays[1] = np.rot90(arrays[1], -1)  # by Exif 2.3: row 0 is on the right

    def check(found, places, names=None):
        assert list(chances(found)) == (names or [f"images[{number}]" for number in range(len(places))])
        np.testing.assert_allclose(list(chances(found).values()), [expected[place] for place in places], atol=1e-12)

    with pipeline.Predictor(run) as predictor:
        check(predictor.predict(opened), range(4))
        check(predictor.predict(arrays), range(4))
        check(predictor.predict([*opened[:2], *arrays[2:]]), range(4))
        check(predictor.predict(opened[1]), [1])
        check(predictor.predict(arrays[1]), [1])
        check(predictor.predict(np.stack([arrays[0], arrays[2]])), [0, 2])
        check(predictor.predict([files[2], arrays[0], files[2]]), [2, 0], [files[2], "images[1]"])
    check(pipeline.predict(run, opened[0]), [0])


def test_stored_contents_are_read_and_a_closed_predictor_opens_again(run, made):
    predictor = pipeline.Predictor(run)
    for _ in range(2):
        first = predictor.predict("photos/test")
        assert (first.from_store, first.computed) == (4, 0) and not made  # no base is needed
        predictor.close()
    shutil.move("s.h5", "moved.h5")
    second = predictor.predict("photos/test")
    assert (second.from_store, second.computed) == (0, 4) and len(made) == 1
    for path, row in chances(first).items():
        np.testing.assert_allclose(row, chances(second)[path], atol=1e-6)


def test_a_file_that_goes_away_under_a_prediction_is_one_unusable_image(run, monkeypatch):
    def hashed(files, workers):
        keys = hash_files(files, workers)
        (run.parent / "new/1.png").unlink()
        return keys

    monkeypatch.setattr("pipeline.deploy.predictor.hash_files", hashed)
    found = pipeline.predict(run, "new")
    assert len(found.predictions) == 3 and [each["path"] for each in found.skipped] == ["new/1.png"]
    assert "1.png: cannot be read: No such file" in found.skipped[0]["reason"]


def test_a_store_that_was_moved_with_its_run_is_found(run, made, tmp_path):
    """By its path as seen from the run; the one at its old place comes first."""
    (tmp_path / "project/cache").mkdir(parents=True)
    (tmp_path / "project/runs").mkdir()
    os.chdir(tmp_path / "project")
    shutil.move("../s.h5", "cache/s.h5")
    pipeline.train_head("cache/s.h5", "nearest-mean", out="runs/a")
    pipeline.compare("cache/s.h5", ["nearest-mean", "majority"], out="runs/b")
    os.chdir(tmp_path)
    shutil.move("project", "elsewhere")
    moved = pipeline.predict("elsewhere/runs/a", "photos/test")
    assert (moved.from_store, moved.computed) == (4, 0) and not made
    assert load_run(tmp_path / "elsewhere/runs/b").told["store"] == str(tmp_path / "elsewhere/cache/s.h5")
    shutil.move("elsewhere/cache", "away")
    assert pipeline.predict("elsewhere/runs/a", "photos/test").computed == 4
    assert load_run(tmp_path / "elsewhere/runs/b").told["store"] == "cache/s.h5"


def test_a_run_whose_store_is_a_pipe_is_used_without_it(run, said):
    (run.parent / "s.h5").unlink()
    os.mkfifo("s.h5")
    assert pipeline.predict(run, "photos/test").computed == 4
    assert any("s.h5 must be a regular file; it is a pipe" in line for line in said)


def test_what_is_no_image_is_refused_or_told(run):
    (run.parent / "new/broken.png").write_bytes((run.parent / "new/0.png").read_bytes()[:200])
    with Image.open("new/broken.png") as broken, pipeline.Predictor(run) as predictor:
        for images, message in (
            (np.zeros((9, 9, 3), np.float32), r"images\[0\] must be uint8, .* got float32, \(9, 9, 3\)"),
            (np.zeros((9, 9, 4), np.uint8), r"got uint8, \(9, 9, 4\)"),
            (["new/0.png", 3], r"images\[1\] must be a path, a PIL.Image.Image or a uint8 array; got int"),
            (None, r"images\[0\] must be a path, .* got NoneType"),
            (np.array(3), r"images\[0\] must be uint8, .* got int64, \(\)"),
            ("", r"images\[0\] must be a path, .* got ''"),
            ([], r"images must be named; got none\. For example: pipeline\.predict\('RUN', 'photos/'\)"),
        ):
            with pytest.raises(RequestError, match=message):
                predictor.predict(images)
        with pytest.raises(SourceError, match=r"none of 1 is. The first is images\[0\]: broken: "):
            predictor.predict(broken)
        found = predictor.predict([PurePath("new/0.png"), "x" * 5000])
        assert len(found.predictions) == 1 and "File name too long" in found.skipped[-1]["reason"]
        found = predictor.predict(["new/0.png", broken, "gone.png"])
    assert [each["path"] for each in found.skipped] == ["images[1]", "gone.png"] and len(found.predictions) == 1
    with pytest.raises(RequestError, match=r"images must be a path or .*PIL.Image.Image.*; got 3"):
        pipeline.predict(run, 3)


def test_the_limit_of_pixels_is_the_callers(run, capsys):
    Image.new("RGB", (100, 50), "red").save("new/poster.png")
    skipped = pipeline.predict(run, "new", max_pixels=4999).skipped
    assert [(each["path"], each["reason"].split("; ")[0]) for each in skipped] == [
        ("new/poster.png", "100 x 50 pixels")
    ]
    assert not pipeline.predict(run, "new", max_pixels=5000).skipped
    assert main(["predict", str(run), "new/poster.png", "--max-pixels", "4999"]) == 2
    assert "If it is a photo: --max-pixels 5000" in capsys.readouterr().err
    with pipeline.Predictor(run, max_pixels=4999) as predictor, pytest.raises(UnreadableImage, match="max_pixels=5000"):
        predictor.examine((run.parent / "new/poster.png").read_bytes())
    with pytest.raises(SourceError, match="max_pixels=5000"):
        pipeline.label_next(run, "new/poster.png", max_pixels=4999, out="queue")
    for call in (pipeline.Predictor, lambda run, **given: pipeline.predict(run, "new", **given)):
        with pytest.raises(RequestError, match="max_pixels must be from 1 to"):
            call(run, max_pixels=0)


def test_many_threads_get_what_one_gets(run):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (60, 20, 24, 3), dtype=np.uint8)
    with pipeline.Predictor(run) as predictor:
        expected = list(chances(predictor.predict(images)).values())
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(predictor.predict, images))
    np.testing.assert_allclose([next(iter(chances(each).values())) for each in found], expected, atol=1e-12)


def in_a_fork(work):
    """Return what a function returns, or the message of the error that it raises, in a fork of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):  # the child must not go on with the tests
            signal.alarm(20)
            try:
                told = work()
            except RequestError as error:
                told = str(error)
            os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, encoding="utf-8") as answer:
        return answer.read()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_cannot_use_a_base_of_its_parent_and_says_so(run, monkeypatch):
    """It would wait for threads that it lacks, for ever. Whoever uses one first is as new: so this test forks once more."""
    monkeypatch.setattr("features.runtime.child_process._first_user", functools.cache(lambda _: os.getpid()))
    predictor, transformer = pipeline.Predictor(run), ConvFeatures("tiny", cache=None)

    def predict():
        return predictor.predict("new/0.png").predictions[0].class_name

    def transform():
        return str(transformer.transform(["new/0.png"]).shape)

    assert [in_a_fork(predict), in_a_fork(transform)] == [predict(), transform()]
    for work in (predict, transform, lambda: str(pipeline.predict(run, "new")), lambda: str(predictor.load())):
        assert "this one was forked from one that used it before. Start processes by multiprocessing" in in_a_fork(work)


def test_a_pickled_predictor_loads_its_run_again(run):
    predictor = pipeline.Predictor(run, max_pixels=100 * 100)
    expected = chances(predictor.predict("new"))
    again = pickle.loads(pickle.dumps(predictor))
    assert (
        again.engine is None and again.image_spec == predictor.image_spec and chances(again.predict("new")) == expected
    )


def test_bases_are_shared_kept_for_the_next_call_and_freed(run, made):
    one, other = pipeline.Predictor(run), pipeline.Predictor(run)
    for predictor in (one, other, one):
        predictor.load()
    assert one.engine is other.engine and len(made) == 1
    one.close()
    assert made[0]() is not None  # the other still uses it
    other.close()
    assert made[0]() is None
    for _ in range(3):
        pipeline.predict(run, "new")
    assert len(made) == 2 and made[1]() is not None
    extract("photos", backbone="tiny", out="other.h5", batch_size=4, dtype="float32")
    pipeline.train_head("other.h5", "nearest-mean", out="other")
    made.clear()
    pipeline.predict("other", "new")
    with pipeline.Predictor("other") as predictor:
        predictor.load()
        assert len(made) == 1  # that of the call before
    assert made[0]() is None


class Slow:
    """An engine that waits for `go`, and whose features are each image's first value; 255 becomes infinite."""

    def __init__(self):
        self.go, self.sizes, self.interrupt = threading.Event(), [], False

    def run(self, images):
        self.go.wait(10)
        if self.interrupt and len(self.sizes) == 1:
            self.interrupt = False
            raise KeyboardInterrupt
        self.sizes.append(int(np.count_nonzero(images[:, 0, 0, 0])))
        first = images[:, 0, 0, :1].astype(np.float32)
        return {"last": np.where(first == 255, np.inf, first)}


@pytest.fixture
def asked():
    """A function that asks an engine, shared by threads, for several images at once: what each gets, and the engine."""

    def ask(values, interrupt=False):
        slow = Slow()
        made = provenance_of({"last": (1,)}, "float32")
        shared = SharedEngine(replace(made, batch_size=4), slow)
        images = [np.full((1, 16, 16, 3), value, np.uint8) for value in values]
        with ThreadPoolExecutor(len(values)) as pool:
            found = []
            for image in images:  # one after the other, while the first is being computed
                found.append(pool.submit(shared.run, image))
                time.sleep(0.02)
            slow.interrupt = interrupt
            slow.go.set()
            return [each.exception() or each.result()["last"].item() for each in found], slow.sizes

    return ask


def test_what_comes_together_is_computed_together(asked):
    assert asked([1, 2, 3, 4, 5, 6]) == ([1, 2, 3, 4, 5, 6], [1, 4, 1])


def test_an_image_whose_features_are_refused_is_no_matter_of_the_others(asked):
    found, _ = asked([1, 2, 255, 4])
    assert isinstance(found[2], StoreError) and found[:2] + found[3:] == [1, 2, 4]


def test_an_interrupted_thread_leaves_the_others_their_turn(asked):
    found, sizes = asked([1, 2, 3, 4], interrupt=True)
    kinds = [type(each) for each in found]
    assert kinds[0] is float and kinds.count(KeyboardInterrupt) == 1 and sizes[1:] == [3]
    assert all(each in (1, 2, 3, 4) for each in found if isinstance(each, float))


class Steps:
    """A `threading.Event` whose waits do one thing after the other."""

    def __init__(self, *steps):
        self.steps = list(steps)

    def wait(self, seconds):
        assert seconds >= 0.5
        if not self.steps:
            return True
        self.steps.pop(0)()
        return False


def test_only_whole_new_files_are_yielded_each_once(tmp_path):
    (tmp_path / "there.jpg").write_bytes(b"before")

    def write(name, data):
        return lambda: (tmp_path / name).write_bytes(data)

    def nothing():
        pass

    (tmp_path / "deep").mkdir()
    steps = Steps(
        write("a.jpg", b"x"), write("a.jpg", b"xx"), write("a.jpg", b"xxx"), nothing, nothing,  # whole in the fourth
        write("deep/b.PNG", b"x"), write("empty.jpg", b""), write(".hidden.jpg", b"x"), write("notes.txt", b"x"), nothing,
        write("there.jpg", b"after"), nothing, (tmp_path / "a.jpg").unlink, write("a.jpg", b"xxx"), nothing, nothing,
    )  # fmt: skip
    found = [[str(file.relative_to(tmp_path)) for file in files] for files in watch_folder(tmp_path, steps)]
    assert found == [["a.jpg"], ["deep/b.PNG"], ["there.jpg"], ["a.jpg"]]
    with pytest.raises(RequestError, match=r"watch must be a folder; got .*gone. Create it: mkdir"):
        watch_folder(tmp_path / "gone", steps)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_watches_until_it_is_interrupted(run, capsys, as_json):
    folder = run.parent / "incoming"
    folder.mkdir()
    shutil.copy("new/0.png", folder / "old.png")

    def computed(count):
        """Wait until the engine has run so often."""
        for _ in range(300):
            if len(standin.calls) >= count:
                return
            time.sleep(0.1)

    def arrive():
        computed(2)  # the first image, black, and the one that was named
        (folder / "broken.jpg").write_bytes(b"no image")
        shutil.copy("photos/test/red/test000.png", folder / "stored.png")
        shutil.copy("new/1.png", folder / "computed.png")
        computed(3)
        os.kill(os.getpid(), signal.SIGINT)

    before, arriving = signal.getsignal(signal.SIGINT), threading.Thread(target=arrive)
    arriving.start()
    assert main(["predict", "--run", "run", "--watch", "incoming", "new/2.png", *(["--json"] if as_json else [])]) == 0
    arriving.join()
    told = capsys.readouterr()
    expected = pipeline.predict("run", ["new/2.png", "incoming/computed.png", "incoming/stored.png"])
    if as_json:
        lines = {each["path"]: each for each in map(json.loads, told.out.splitlines())}
        assert "no image" in lines.pop("incoming/broken.jpg")["reason"]
        classes = {path: each["class"] for path, each in lines.items()}
    else:
        lines = list(csv.DictReader(io.StringIO(told.out)))
        classes = {each["path"]: each["class"] for each in lines}
        assert list(lines[0]) == expected.columns
    assert len(lines) == 3 and classes == {each.path: each.class_name for each in expected.predictions}
    assert "done     3 images predicted, 1 skipped" in told.err and "skipped  incoming/broken.jpg: no image" in told.err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_watch_goes_on_whatever_goes_away_or_has_a_special_name(run, capsys, monkeypatch):
    """Files that go away between the look and their reading, one of which could be a pattern, and one that could be standard input."""
    Path("incoming").mkdir()
    shutil.copy("new/0.png", "incoming/-")

    def appear(folder, stop):
        yield [Path("photo[1].jpg"), Path("-"), Path("gone.jpg")]
        stop.set()

    monkeypatch.setattr("pipeline.deploy.watching.watch_folder", appear)
    monkeypatch.chdir("incoming")
    monkeypatch.setattr("sys.stdin", io.StringIO("photo[1].jpg\n"))
    assert main(["predict", "--run", "../run", "--watch", ".", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["path"], "cannot be read: No such file" in each.get("reason", "")) for each in told] == [
        ("-", False), ("photo[1].jpg", True), ("gone.jpg", True),
    ]  # fmt: skip


def test_a_folder_that_goes_away_while_it_is_looked_through_is_passed_over(run, monkeypatch):
    """As one of a program that unpacks or syncs does."""
    shutil.copytree("new", "new/b")
    real = os.scandir

    def scandir(place):
        if Path(str(place)).name == "b":
            Path(place).rename("gone")
        return real(place)

    monkeypatch.setattr("os.scandir", scandir)
    assert sorted(map(str, images_below(Path("new")))) == ["new/0.png", "new/1.png", "new/2.png", "new/grey.png"]


def test_a_signal_ends_a_watch_after_a_block_and_says_what_is_left(run, capsys, monkeypatch):
    files = [Path(draw(run.parent / f"many/{number:03}.png", 300 + number, (number, 20, 110))) for number in range(100)]

    def appear(folder, stop):
        stop.set()
        yield files

    monkeypatch.setattr("pipeline.deploy.watching.watch_folder", appear)
    assert main(["predict", "--run", "run", "new/0.png", "--watch", "new"]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2
    assert "warning  100 images that had appeared are not predicted. Name them, or new, beside --watch." in told.err
    monkeypatch.setattr("pipeline.deploy.watching.watch_folder", lambda folder, stop: iter([files]))
    real, sizes = pipeline.Predictor.classify, []

    def classify(predictor, given, *arguments, **options):
        sizes.append(len(given))
        return real(predictor, given, *arguments, **options)

    monkeypatch.setattr("pipeline.deploy.predictor.Predictor.classify", classify)
    assert main(["predict", "--run", "run", "--watch", "new"]) == 0
    assert sizes == [64, 36] and len(capsys.readouterr().out.splitlines()) == 101


def test_the_command_needs_images_or_a_folder(run, capsys):
    assert main(["predict", "--run", "run"]) == 2 and "images must be named; got none" in capsys.readouterr().err
    assert main(["predict", "--run", "run", "--watch", "gone"]) == 2
    assert "--watch must be a folder; got gone. Create it: mkdir -p gone" in capsys.readouterr().err
