"""The logger for messages about decisions that were made. To see them, attach a handler."""

from __future__ import annotations

import logging

log = logging.getLogger("cached_features")
