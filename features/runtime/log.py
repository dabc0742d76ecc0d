"""The logger that tells what was decided; who wants to read it attaches a handler."""

from __future__ import annotations

import logging

log = logging.getLogger("cached_features")
