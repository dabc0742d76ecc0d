"""Where functions run that a head calls many times: here one after the other, or on a cluster by joblib's Dask backend."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from joblib import Parallel, delayed, parallel_config
from threadpoolctl import threadpool_limits

from features.errors import ClusterError
from features.runtime.dask_cluster import addresses, open_client, scheduler_there
from features.runtime.versions import differences, installed_versions

_lock = threading.RLock()


@contextmanager
def on_cluster(cluster: str | None, skip_unfit: bool) -> Iterator[None]:
    """Let `spread` run on a cluster, without unfit workers where that is asked for; where it is None, here.

    Raises
    ------
    ClusterError
        If it cannot be reached, is lost, or a worker has other versions.
    """
    if cluster is None:
        yield
        return
    with open_client(cluster, skip_unfit=skip_unfit) as (client, unfit), scheduler_there(client):
        fit = {"workers": sorted(set(addresses(client)) - unfit)} if unfit else {}
        with parallel_config("dask", client=client, **fit):
            yield


def spread(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], ordered: bool = True) -> Iterator[Any]:
    """Yield what a function returns for each of some arguments, in their order or as they end."""
    how = "generator" if ordered else "generator_unordered"
    yield from Parallel(return_as=how)(
        delayed(_alone)(function, arguments, installed_versions()) for arguments in calls
    )


def _alone(function: Callable[..., Any], arguments: tuple[Any, ...], expected: dict[str, str]) -> Any:
    """Call a function, one at a time in a process however many threads Dask gives it, for memory; BLAS has them all."""
    worker = _worker()
    if differs := differences(expected, installed_versions()):  # one that joined after the others were looked at
        raise ClusterError(
            f"worker {worker.address} is not fit: it has {differs}. Stop it, and give the command again."
        )
    threads = None if worker is None else worker.state.nthreads
    with _lock, threadpool_limits(threads), parallel_config("threading"):
        return function(*arguments)


def _worker() -> Any:
    """Return the Dask worker that this is; None where it is none."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None
