"""Makes a Dask worker use the stand-in of tests/standin.py: ``dask worker ADDRESS --preload tests/standin_worker.py``."""

import os
import time
from dataclasses import replace

import standin  # Dask puts this folder on the path

SLOW = float(os.environ.get("STANDIN_SECONDS", "0"))  # a batch
RIGHT = float(os.environ.get("STANDIN_RIGHT", "inf"))  # batches; in those that follow, channels are swapped


class Slow(standin.StandInEngine):
    """Takes its time, so that there is a moment to be killed at, and may go wrong."""

    def run(self, images):
        """See `features.engines.registry.Engine`."""
        time.sleep(SLOW)
        features = super().run(images)
        wrong = len(standin.calls) > RIGHT
        return {name: values[..., ::-1] if wrong else values for name, values in features.items()}


def dask_setup(worker):
    """Called by Dask as the worker starts."""
    standin.install(replace(standin.ENGINE, make=Slow))
