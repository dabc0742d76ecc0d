"""The way to a Dask cluster: one that is running, or one of processes on this machine; its workers are looked at first."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from ..errors import ClusterError, RequestError, called, counted, missing_extra, option
from .log import log
from .machine import cores
from .versions import differences, installed_versions

GO_ON = "Finished parts are kept: the same command resumes from them."
_PATIENCE = {"connect": 10.0, "first-worker": 30.0, "look": 2.0, "no-worker": 60.0}


def patience(what: str) -> float:
    """Return how many seconds to wait, as Dask's own configuration says under ``cached-features``.

    Parameters
    ----------
    what : {'connect', 'first-worker', 'look', 'no-worker'}
        Until a scheduler answers; until there is a worker; between looks at which workers there are; without any worker
        before a run ends. A slow cluster sets, say, ``DASK_CACHED_FEATURES__CONNECT=60``.
    """
    import dask

    return float(dask.config.get(f"cached-features.{what}", _PATIENCE[what]))


def check_cluster(spec: str | None, skip_unfit: bool = False) -> None:
    """Refuse a `spec` that is no address, and options that need a cluster where none is given.

    Raises
    ------
    RequestError
    """
    if spec is None:
        if skip_unfit:
            raise RequestError(
                f"{called('skip_unfit')} needs a cluster; got none. Leave it out, or name a cluster: {option('cluster')}"
            )
        return
    kind, _, rest = spec.partition(":")
    local = kind == "local" and rest.isdecimal() and int(rest) > 0
    if not local and not (kind in ("tcp", "tls", "ucx") and rest.startswith("//") and ":" in rest):
        raise RequestError(
            f"{called('cluster')} must be local:N, N processes on this machine, or a scheduler's address such as tcp://host:8786; "
            f"got {spec!r}. Start one: dask scheduler"
        )
    _import_distributed()


@contextmanager
def open_client(spec: str, gpus: int = 0, skip_unfit: bool = False) -> Iterator[tuple[Any, set[str]]]:
    """Yield a client of a cluster whose workers have this process's versions, and the addresses of those that have not.

    Parameters
    ----------
    spec : str
        ``local:N`` or a scheduler's address.
    gpus : int
        GPUs of this machine that the workers of ``local:N`` are to have, one each.
    skip_unfit : bool
        See `settle_unfit`.

    Yields
    ------
    client : distributed.Client
    unfit : set of str
        Empty unless `skip_unfit`.

    Raises
    ------
    ClusterError
        If nothing answers, there are no workers, or one of them differs; it is named.
    """
    distributed = _import_distributed()
    with contextlib.ExitStack() as stack:
        address = spec
        if spec.startswith("local:"):
            address = stack.enter_context(_local_cluster(distributed, int(spec.removeprefix("local:")), gpus))
        try:
            _hear(address)
            client = distributed.Client(address, timeout=patience("connect"), set_as_default=False)
        except OSError as error:
            raise ClusterError(
                f"{spec} does not answer within {patience('connect'):.0f} s. Start it: dask scheduler"
            ) from error
        stack.callback(client.close, 2)
        try:
            client.wait_for_workers(1, timeout=patience("first-worker"))
        except TimeoutError as error:
            raise ClusterError(f"{spec} has no workers. Start some: dask worker {address} --nthreads 1") from error
        yield client, _check_versions(client, skip_unfit)


def _hear(address: str) -> None:
    """Wait for a scheduler's first word: Dask's client would wait forever for one who takes a call and says nothing."""
    to = urlsplit(address)
    if to.scheme == "tcp":  # of the others the client speaks first
        with socket.create_connection((to.hostname, to.port), patience("connect")) as call:
            if not call.recv(1):
                raise ConnectionError(f"{address} hung up")


def settle_unfit(bad: dict[str, str], fit: int, skip: bool) -> set[str]:
    """Raise ClusterError if there are unfit workers, {address: why}; if others are fit, the unfit may be skipped, each by name.

    Parameters
    ----------
    bad : dict of str to str
    fit : int
        How many there are beside them.
    skip : bool
        Go on without them.
    """
    if bad and not (skip and fit):
        name = min(bad)
        others = f" So are {len(bad) - 1} more: {', '.join(sorted(bad)[1:6])}." if len(bad) > 1 else ""
        without = f" Or go on without: {option('skip_unfit', True)}" if fit else ""
        raise ClusterError(f"worker {name} is not fit: {bad[name]}{others}{without}")
    for name, why in sorted(bad.items()):
        log.warning(f"worker {name} is skipped: {why}")
    return set(bad)


def addresses(client: Any) -> list[str]:
    """Return the addresses of all workers that are there now."""
    return list(client.scheduler_info(n_workers=-1)["workers"])


def cluster_lost(client: Any) -> ClusterError:
    """Return the error for a scheduler that is gone."""
    return ClusterError(
        f"the scheduler {client.scheduler.address if client.scheduler else ''} is gone. Start it again. {GO_ON}"
    )


@contextmanager
def scheduler_there(client: Any) -> Iterator[None]:
    """Raise ClusterError where something fails because the scheduler is gone."""
    from distributed.comm.core import CommClosedError

    try:
        yield
    except (CommClosedError, CancelledError) as error:
        raise cluster_lost(client) from error
    except RuntimeError as error:
        if client.status == "running":
            raise
        raise cluster_lost(client) from error


def _check_versions(client: Any, skip_unfit: bool) -> set[str]:
    found = client.run(_describe, on_error="return")
    bad = {}
    for name, seen in found.items():
        if isinstance(seen, BaseException):
            bad[name] = f"it cannot tell its versions ({seen}). Install this program there."
        elif differs := differences(installed_versions(), seen[0]):
            bad[name] = f"it has {differs}. Install the client's versions there and start it again."
    unfit = settle_unfit(bad, len(found) - len(bad), skip_unfit)
    threads, has = Counter[str](), {}
    for name, worker in client.scheduler_info(n_workers=-1)["workers"].items():
        if name in found.keys() - unfit:
            _, node, has[node] = found[name]
            threads[node] += worker["nthreads"]
    log.info(
        f"cluster  {client.scheduler.address}: {counted(len(found) - len(unfit), 'worker')}, {counted(sum(threads.values()), 'thread')} on {counted(len(has), 'machine')}"
    )
    for node, count in threads.items():
        if count > has[node]:
            log.warning(f"{node} has {has[node]} cores and workers with {count} threads: they slow each other down")
    return unfit


def _describe() -> tuple[dict[str, str], str, int]:
    return installed_versions(), platform.node(), cores()


def _import_distributed() -> Any:
    try:
        import dask

        dask.config.set({"logging.distributed": "error"})  # what goes wrong is raised
        import distributed
    except ImportError as error:
        raise missing_extra("distributed", "dask", called("cluster")) from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    return distributed


@contextmanager
def _local_cluster(distributed: Any, count: int, gpus: int) -> Iterator[str]:
    """Start a scheduler and so many processes, each with its share of the cores or a GPU of its own."""
    if gpus and count > gpus:
        raise RequestError(f"local:N must be at most {gpus}, one process per GPU; got local:{count}. Use local:{gpus}")
    options = {
        "nthreads": max(1, cores() // count),
        "silence_logs": logging.CRITICAL,
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
        "host": "127.0.0.1",
    }
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name] or list(
        map(str, range(gpus))
    )
    workers = {
        number: {
            "cls": distributed.Nanny,
            "options": options | ({"env": {"CUDA_VISIBLE_DEVICES": visible[number]}} if gpus else {}),
        }
        for number in range(count)
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"dashboard": False, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1", "port": 0},
    }
    with distributed.SpecCluster(workers, scheduler, silence_logs=logging.CRITICAL) as cluster:
        yield cluster.scheduler_address
