"""The logger for messages about what was decided. To read them, attach a handler."""

from __future__ import annotations

import logging

log = logging.getLogger("cached_features")
