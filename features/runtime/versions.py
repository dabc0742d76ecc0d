"""What must match on two machines for their numbers to match: library versions and this program's own source."""

from __future__ import annotations

import functools
import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .._version import __version__

# A library that the client lacks may be installed on a worker; it is not used there.
_PACKAGES = (
    "numpy", "scipy", "scikit-learn", "h5py", "hdf5plugin", "pillow", "keras", "tensorflow", "openvino", "numba",
    "llvmlite", "onnx", "onnxruntime", "joblib", "dask", "distributed",
    "torch", "timm",
)  # fmt: skip


@functools.cache
def installed_versions() -> dict[str, str]:
    """Return library → version in this process; ``none`` if it is not installed."""
    found = {"Python": platform.python_version(), "cached-features": __version__}
    return found | {name: _version(name) for name in _PACKAGES} | {"source": own_source()[:12]}


def differences(here: dict[str, str], there: dict[str, str]) -> str:
    """Return in words how another process's versions differ from this one's; an empty string if they do not."""
    return ", ".join(
        f"{name} {there.get(name, 'none')} instead of {value}"
        for name, value in here.items()
        if value != "none" and there.get(name) != value
    )


@functools.cache
def own_source() -> str:
    """Return the SHA-256 of this program's own source, both stages."""
    stage = Path(__file__).parents[1]
    return digest_code(stage, stage.parent / "pipeline")


def digest_code(*folders: Path) -> str:
    """Return the SHA-256 of the Python source below some folders, which identifies the version of the code.

    It covers each file's path within its folder, so moving a file changes the digest, too.
    """
    source = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            source.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
            source.update(path.read_bytes())
    return source.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
