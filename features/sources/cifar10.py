"""CIFAR-10 from Keras' cache or download, written once as image files."""

from __future__ import annotations

import errno
import os
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
    """Read the set from ``{train,test}/<class>/<number>.png`` in the per-user cache, written on the first call.

    Parameters
    ----------
    load : callable, optional
        Returns ``(images, labels)`` of train and of test; by default, Keras' ``cifar10.load_data``.

    Raises
    ------
    SourceError
        If Keras neither has the set in its cache nor can download it.
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
            f"CIFAR-10 is not available ({str(error).splitlines()[0][:120]}). Run once where Keras can download it (it caches it in "
            f"~/.keras/datasets), or name a folder of the images: {option('data')}"
        ) from error
    try:
        with written_whole(folder, sync=False) as unfinished:
            _write(unfinished, {"train": train, "test": test})
            if hasattr(os, "sync"):  # not on Windows; all at once, since 60,000 files one by one would take minutes
                os.sync()
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    return folder  # otherwise another process wrote the same files first


def _write(folder: Path, sets: dict[str, Any]) -> None:
    for split, (images, labels) in sets.items():
        for name in CLASS_NAMES:
            (folder / split / name).mkdir(parents=True)
        for number, (image, label) in enumerate(zip(images, labels.ravel(), strict=True)):
            Image.fromarray(image).save(folder / split / CLASS_NAMES[label] / f"{number:05d}.png")
