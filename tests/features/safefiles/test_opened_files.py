"""Every place that opens a file for reading is known, and is guarded or has a reason why it need not be."""

import ast
import errno
import os
import socket
from pathlib import Path

import pytest

from features.errors import UnsafeFile
from features.safefiles.regular_files import check_regular, hash_file, is_out_of_reach, read_first, read_whole

ROOT = Path(__file__).parents[3]

# Calls that read a file, by the end of their name.
OPENERS = {
    "open", "fdopen", "read_bytes", "read_text", "File", "ZipFile", "TarFile", "mmap", "memmap", "fromfile", "loadtxt", "genfromtxt",
    "open_memmap", "load_model", "load_weights", "read_model", "InferenceSession", "imread", "read_csv", "safe_open", "load_file",
    "np.load", "onnx.load", "json.load", "pickle.load", "joblib.load", "io.load", "sio.load", "torch.load", "saved_model.load", "yaml.load",
}  # fmt: skip
# Guarded readers of ours that share a name with those, and calls that read no file.
OURS = {
    "read_bytes",
    "load_weights",
    "place.open",
    "self.place.open",
    "archive.open",
    "webbrowser.open",
    "h5py.h5d.open",
}
WRITES = {"w", "wb", "wt", "x", "xb", "xb+", "a", "ab", "os.devnull"}  # modes, and where nothing is

OWN = "it is this program's, its installation's or the machine's own"
MADE = "this process has just made it"
CHECKED = "the same function has checked it"
CACHE = "the user's own cache; what is not as it was kept is a miss"
# File, function and call → why it may open what it opens.
KNOWN = {
    ("features/safefiles/regular_files.py", "_opened", "os.open"): "the guard itself",
    ("features/safefiles/regular_files.py", "_opened", "os.fdopen"): "the guard itself",
    ("features/safefiles/npz.py", "open_archive", "zipfile.ZipFile"): CHECKED,
    ("features/safefiles/npz.py", "read_arrays", "np.load"): CHECKED,
    (
        "features/safefiles/hdf5.py",
        "check_weights_file",
        "h5py.File",
    ): "the guard itself; _load_file has checked that it is a file",
    ("features/safefiles/hdf5.py", "little_memory", "_STATM.read_text"): OWN,
    ("features/safefiles/keras_files.py", "check_model_file", "h5py.File"): "a member of an archive that was checked",
    ("features/safefiles/onnx_files.py", "read_onnx", "path.read_bytes"): CHECKED,
    ("features/safefiles/onnx_files.py", "_check_fields", "open"): "read_onnx has checked that it is a regular file",
    ("features/safefiles/onnx_files.py", "_read_external", "open"): CHECKED,
    ("features/images/decoding.py", "read_bytes", "open"): CHECKED,
    ("features/images/formats.py", "_read_head", "open"): CHECKED,
    ("features/store/reader.py", "FeatureStore.__init__", "h5py.File"): CHECKED,
    ("features/store/part_index.py", "open_part", "h5py.File"): CHECKED,
    ("features/store/schema.py", "link", "h5py.File"): "open_part has checked all parts before they are indexed",
    ("features/store/writer_lock.py", "_take", "os.open"): "a lock, of which nothing is read",
    ("features/store/writer_lock.py", "_remove_left", "os.open"): "a new file, of which nothing is read",
    ("features/backbones/custom_model.py", "load_own", "keras.saving.load_model"): CHECKED,
    ("features/backbones/weights.py", "_load_file", "model.load_weights"): CHECKED,
    ("features/engines/runtimes/onnxruntime_engine.py", "ONNXRuntimeEngine.__init__", "runtime.InferenceSession"): MADE,
    ("features/engines/runtimes/openvino_engine.py", "OpenVINOEngine.__init__", "core.read_model"): MADE,
    ("features/engines/runtimes/openvino_engine.py", "OpenVINOEngine.convert", "_core().read_model"): MADE,
    ("features/engines/runtimes/openvino_engine.py", "OpenVINOEngine.convert", "np.fromfile"): MADE,
    ("features/runtime/atomic.py", "_locked_folder", "os.open"): "a folder, to lock it",
    ("features/runtime/atomic.py", "_sweep", "os.open"): "a folder, to lock it",
    ("features/runtime/atomic.py", "sync_path", "os.open"): "to sync it; nothing is read",
    ("features/runtime/machine.py", "_read", "path.read_text"): OWN,
    ("features/runtime/machine.py", "processor", "Path('/proc/cpuinfo').read_text"): OWN,
    ("features/runtime/versions.py", "digest_code", "path.read_bytes"): OWN,
    ("features/runtime/user_cache.py", "recall", "_note(what, key).read_text"): CACHE,
    ("features/runtime/user_cache.py", "recall_bytes", "open"): CACHE,
    ("features/runtime/user_cache.py", "recall_bytes", "mmap.mmap"): CACHE,
    ("features/sources/elpv.py", "read_elpv", "(root / 'labels.csv').read_text"): OWN,
    ("pipeline/deploy/exporting.py", "_name_tensors", "onnx.load"): MADE,
    ("pipeline/deploy/graphs/onnx_model.py", "_as_onnx", "onnx.load"): MADE,
    ("pipeline/deploy/parity.py", "open_model", "import_onnxruntime().InferenceSession"): MADE,
    ("pipeline/deploy/parity.py", "open_model", "keras.saving.load_model"): MADE,
    ("pipeline/deploy/parity.py", "open_model", "tf.saved_model.load"): MADE,
    ("pipeline/runs/folders.py", "ResultFolder._claim", "os.open"): "a lock, of which nothing is read",
    ("pipeline/runs/head_file.py", "_load_estimator", "joblib.load"): "the user has said that the pickle is their own",
    ("pipeline/runs/head_file.py", "_load_estimator", "skops.io.load"): CHECKED,
}


def found():
    """Yield file, function and call of each place in both stages that opens a file for reading."""
    for path in sorted([*(ROOT / "features").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")]):
        name = path.relative_to(ROOT).as_posix()
        yield from ((name, function, call) for function, call in calls(ast.parse(path.read_text(encoding="utf-8"))))


def calls(tree, within=""):
    """Yield the function, with its class, and the name of each call that reads a file."""
    for node in ast.iter_child_nodes(tree):
        inner = within
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            inner = f"{within}.{node.name}".lstrip(".")
        elif isinstance(node, ast.Call) and reads(node):
            yield within, ast.unparse(node.func)
        yield from calls(node, inner)


def reads(call):
    """Return whether a call reads a file."""
    name = ast.unparse(call.func)
    if name in OURS or not OPENERS & {name.split(".")[-1], ".".join(name.split(".")[-2:])}:
        return False
    given = [*call.args, *(each.value for each in call.keywords)]
    told = {each.value if isinstance(each, ast.Constant) else ast.unparse(each) for each in given}
    return bool(given or name.endswith((".read_bytes", ".read_text"))) and not WRITES & told


def test_every_place_that_opens_a_file_is_known():
    places = set(found())
    assert len(places) > 20
    new, gone = sorted(places - KNOWN.keys()), sorted(KNOWN.keys() - places)
    assert not new, f"read these by safefiles.regular_files, or say here why not: {new}"
    assert not gone, f"take these out: {gone}"


@pytest.mark.parametrize(
    "line",
    [
        "open(path)", "open(path, 'rb')", "path.open('r')", "path.read_text()", "h5py.File(path)", "np.load(path, allow_pickle=False)",
        "json.load(open(path))", "Image.open(path)", "zipfile.ZipFile(path)", "joblib.load(path)", "sio.load(path)", "io.open(path)",
    ],
)  # fmt: skip
def test_a_new_place_is_found(line):
    tree = ast.parse(f"class C:\n    def f(self, path):\n        return {line}\n")
    assert {function for function, _ in calls(tree)} == {"C.f"}


@pytest.mark.parametrize(
    "line", ["open(path, 'w')", "path.open('xb')", "predictor.load()", "read_json(path)", "open()"]
)
def test_what_reads_no_file_is_not_found(line):
    assert not list(calls(ast.parse(line)))


def test_a_regular_file_is_read_up_to_its_size(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    check_regular(path)
    assert (read_whole(path), read_whole(path, 3), read_first(path, 2), read_first(path, 9)) == (
        b"abc",
        b"abc",
        b"ab",
        b"abc",
    )
    assert hash_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    for read in (read_whole, hash_file):
        with pytest.raises(UnsafeFile, match=r"f must have at most 2 bytes; it has 3\."):
            read(path, 2)
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "gone")


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(tmp_path)  # a socket's path must be short
        bound.bind("socket")
        for name in ("pipe", "socket", "/dev/zero", "/dev/stdin", tmp_path):
            for read in (check_regular, read_whole, hash_file, lambda path: read_first(path, 9)):
                if name == "/dev/stdin" and Path(name).is_file():
                    continue
                with pytest.raises(UnsafeFile, match="must be a regular file; it is a"):
                    read(name)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux")
def test_files_of_proc_are_not_read_beyond_what_they_say():
    """Those that say nothing of their size are empty; that of all memory says 128 TB."""
    assert read_whole("/proc/self/environ") == read_first("/proc/self/environ", 99) == b""
    if os.access("/proc/kcore", os.R_OK):
        with pytest.raises(UnsafeFile, match="must have at most"):
            read_whole("/proc/kcore")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), True),
        (KeyError("Unable to open object (file read failed: errno = 5, error message = 'Input/output error')"), True),
        (OSError("Unable to open file (truncated file: eof = 96)"), False),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), False),
        (OSError(errno.EINVAL, "Invalid argument"), False),  # of a damaged offset
        (ValueError("chunk 0 does not match its digest"), False),
        (None, False),
    ],
)
def test_what_the_system_could_not_read_is_told_from_damage(error, expected):
    assert is_out_of_reach(error) == expected
