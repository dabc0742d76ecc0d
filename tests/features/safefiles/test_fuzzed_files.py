"""Harmed files, each with what a reader must make of it: an error of ours, a miss, or the same values. `make fuzz` tries thousands."""

import warnings

import pytest
from fuzzed_readers import IMAGES, READERS
from fuzzing import GOOD, Trial

SEEDS = range(5)
_LIKE_OTHERS = (
    "rbf-svm",
    "knn",
    "results",
    "run, ",
    "hist-gradient",
    ".weights.h5",
    "weights .h5",
    "weights .keras",
)  # which take long to make


def without_start(data):
    """As a zip file, whose table then says that members begin before the file does."""
    return data[40:]


def without_heap(data):
    """Of Keras' HDF5: names of a group are in a heap that is none."""
    return data.replace(b"HEAP", b"HAEP")


def without_text(data):
    """Of protobuf: a name that is no UTF-8."""
    return data.replace(b"conv1_1", b"conv1\xff1")


def without_bracket(data):
    """Of NumPy's header: a shape that does not end, of which its tokenizer speaks."""
    assert b"), }" in data
    return data.replace(b"), }", b"(, }", 1)


def two_gigabytes_stored(data):
    """Of a zip archive: its table says that a member takes 2 GB, of which so many values are not there."""
    at = data.index(b"PK\x01\x02")
    return data[: at + 20] + b"\xff\xff\xff\x7f" + data[at + 24 :]


def free_space_of_nothing(data):
    """Of HDF5's heap of texts: its free space is 0 bytes long, over which HDF5 steps for ever."""
    at = data.index(b"GCOL") + 16
    return data[:at] + bytes(16) + data[at + 16 :]


def other_byte_in_the_middle(data):
    half = len(data) // 2
    return data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]


# What the fuzzer found, as a kind: reader, file, harm.
FOUND = [
    *[("run of a stranger, logistic", f"run/{name}.npz", without_start) for name in ("head", "novelty")],
    ("run of a stranger, hist-gradient-boosting", "run/head.skops", other_byte_in_the_middle),
    ("results of a stranger", "run/predictions.npz", without_bracket),
    ("weights .onnx", "weights.onnx", without_text),
    ("weights .keras", "w.keras", other_byte_in_the_middle),
    ("weights .weights.h5", "w.weights.h5", without_heap),
    ("weights .h5", "w.h5", free_space_of_nothing),
    ("model .keras", "own.keras", two_gigabytes_stored),
]


@pytest.fixture
def trial(tmp_path):
    """Return a reader's trial; what libraries warn of in its files is not what is tried here."""

    def make(name):
        if name == "image.heic":
            pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
        if name == "image.dcm":
            pytest.importorskip("pydicom", reason="the extra dicom is not installed")
        if name.endswith(".onnx") or name == "ready base":
            pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
        return Trial(name, tmp_path / "files")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield make


@pytest.mark.parametrize("name", [name for name in READERS if not any(each in name for each in _LIKE_OTHERS)])
def test_a_harmed_file_is_an_error_of_ours_or_does_no_harm(trial, name):
    tried = trial(name)
    for seed in SEEDS:
        what = tried.damage(seed)
        outcome, said = tried.read()
        assert outcome in GOOD, (seed, what, outcome, said)


@pytest.mark.parametrize(("name", "file", "harm"), FOUND)
def test_what_was_found_is_an_error_of_ours(trial, name, file, harm):
    tried = trial(name)
    (tried.folder / file).write_bytes(harm((tried.folder / file).read_bytes()))
    outcome, said = tried.read()
    assert outcome == "reported" and file.rpartition("/")[2] in said, said


def test_every_format_of_images_is_tried():
    from features.images.decoding import FORMATS

    endings = {name.rpartition(".")[2] for name in IMAGES}
    assert endings == {"jpg", "png", "gif", "bmp", "webp", "tif", "avif", "jp2", "heic", "dcm"} and len(FORMATS) == 8
