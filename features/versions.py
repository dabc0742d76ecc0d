"""What must be equal on two machines for their numbers to be: versions of libraries and this program's own source."""

from __future__ import annotations

import functools
import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import features

# Those that are not installed on the client may be on a worker: they are not used.
_PACKAGES = (
    "numpy", "scipy", "scikit-learn", "h5py", "hdf5plugin", "pillow", "keras", "tensorflow", "openvino", "mnn", "joblib",
    "dask", "distributed",
)  # fmt: skip


@functools.cache
def versions() -> dict[str, str]:
    """Return this process's versions by name; ``none`` of what is not installed."""
    own = Path(features.__file__).parent
    found = {"Python": platform.python_version(), "cached-features": features.__version__}
    return (
        found
        | {name: _version(name) for name in _PACKAGES}
        | {"source": digest_code(own, own.parent / "pipeline")[:12]}
    )


def differences(here: dict[str, str], there: dict[str, str]) -> str:
    """Return in words what another process has otherwise than this one; nothing if all is equal."""
    return ", ".join(
        f"{name} {there.get(name, 'none')} instead of {value}"
        for name, value in here.items()
        if value != "none" and there.get(name) != value
    )


def digest_code(*folders: Path) -> str:
    """Return the SHA-256 of the Python source in some folders, so that what it computes can be told from another's."""
    source = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.glob("*.py")):
            source.update(path.read_bytes())
    return source.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
