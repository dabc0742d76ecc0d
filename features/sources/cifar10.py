"""CIFAR-10 through Keras: its cache, its download, written out once as image files that a source can read."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import SourceError, option
from ..runtime.atomic import written_whole
from ..runtime.user_cache import cache_folder
from .folder import read_folder
from .source import Source

# In the order of the set's labels (Krizhevsky 2009, "Learning multiple layers of features from tiny images").
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read_cifar10(load: Callable[[], Any] | None = None) -> Source:
    """Read the set as a folder ``{train,test}/<class>/<number>.png`` of the per-user cache, made on the first call.

    Parameters
    ----------
    load : callable, optional
        Returns ``(images, labels)`` of train and of test; Keras' ``cifar10.load_data`` if left out.

    Raises
    ------
    SourceError
        If Keras has the set neither in its cache nor by download.
    """
    return replace(read_folder(_folder(load)), kind="cifar10")


def _folder(load: Callable[[], Any] | None) -> Path:
    folder = cache_folder() / "cifar10"
    if folder.exists():
        return folder
    try:
        from keras import datasets

        train, test = (load or datasets.cifar10.load_data)()
    except Exception as error:  # Keras' get_file raises plain Exception when a host cannot be reached
        raise SourceError(
            f"CIFAR-10 cannot be had ({str(error).splitlines()[0][:120]}). Run once where Keras can download it (it keeps it in "
            f"~/.keras/datasets), or name a folder of the images: {option('data')}"
        ) from error
    try:
        with written_whole(folder, sync=False) as unfinished:  # of 60,000 files, that would take minutes
            _write(unfinished, {"train": train, "test": test})
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    return folder  # else another process was quicker, with the same files


def _write(folder: Path, sets: dict[str, Any]) -> None:
    for split, (images, labels) in sets.items():
        for name in CLASS_NAMES:
            (folder / split / name).mkdir(parents=True)
        for number, (image, label) in enumerate(zip(images, labels.ravel(), strict=True)):
            Image.fromarray(image).save(folder / split / CLASS_NAMES[label] / f"{number:05d}.png")
