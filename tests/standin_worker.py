"""Makes a Dask worker use the stand-in of tests/standin.py: ``dask worker ADDRESS --preload tests/standin_worker.py``."""

import os
import time

import standin  # Dask puts this folder on the path

import features.extraction.distributed.worker

SLOW = float(os.environ.get("STANDIN_SECONDS", "0"))  # a batch


class Slow(standin.StandInEngine):
    """Takes its time, so that there is a moment to be killed at."""

    def run(self, images):
        """See `features.engines.registry.Engine`."""
        time.sleep(SLOW)
        return super().run(images)


def dask_setup(worker):
    """Called by Dask as the worker starts."""
    features.extraction.distributed.worker.is_installed = lambda name: True
    features.extraction.distributed.worker.describe_engine = lambda name: standin.StandInEngine.name
    features.extraction.distributed.worker.limit_threads = lambda count: None
    features.extraction.distributed.worker.rebuild_engine = lambda held: Slow()
