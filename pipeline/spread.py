"""Where functions run that a head calls many times: here one after the other, or on a cluster by joblib's Dask backend."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from joblib import Parallel, delayed, parallel_config
from threadpoolctl import threadpool_limits

from features.connection import open_client, scheduler_there

_lock = threading.RLock()


@contextmanager
def on_cluster(cluster: str | None, say: Callable[[str], None]) -> Iterator[None]:
    """Let `spread` run on a cluster; where it is None, here.

    Raises
    ------
    ClusterError
        If it cannot be reached, is lost, or a worker has other versions.
    """
    if cluster is None:
        yield
        return
    with open_client(cluster, say) as client, scheduler_there(client), parallel_config("dask", client=client):
        yield


def spread(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], ordered: bool = True) -> Iterator[Any]:
    """Yield what a function returns for each of some arguments, in their order or as they end."""
    how = "generator" if ordered else "generator_unordered"
    yield from Parallel(return_as=how)(delayed(_alone)(function, arguments) for arguments in calls)


def _alone(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a function, one at a time in a process however many threads Dask gives it, for memory; BLAS has them all."""
    with _lock, threadpool_limits(_threads()), parallel_config("threading"):
        return function(*arguments)


def _threads() -> int | None:
    """Return how many threads Dask gives this worker; None where this is none."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return int(get_worker().state.nthreads)
    except ValueError:
        return None
