"""Log lines in the format of Caffe's glog, on stderr, so that tools that parse Caffe's logs parse ours."""
from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path

LETTERS = {logging.DEBUG: "I", logging.INFO: "I", logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}


class GlogFormatter(logging.Formatter):
    """`I1121 06:47:03.123456  4711 solver.py:218] text`: level, month and day, time, thread, place."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%m%d %H:%M:%S", time.localtime(record.created))
        micro = int(record.created % 1 * 1e6)
        place = f"{Path(record.pathname).name}:{record.lineno}"
        return f"{LETTERS.get(record.levelno, 'I')}{stamp}.{micro:06d} {threading.get_native_id():5d} {place}] {record.getMessage()}"


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send the log of brew to stderr, from this level on, or from glog's GLOG_minloglevel (0 info, 1 warnings, 2 errors) if it is higher."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(GlogFormatter())
    least = os.environ.get("GLOG_minloglevel", "")
    handler.setLevel(max(level, {"1": logging.WARNING, "2": logging.ERROR, "3": logging.CRITICAL}.get(least, level)))
    _use([handler])


def log_to_file(path: str, on_screen: logging.Handler) -> None:
    """Send the whole log to a file, and what `on_screen` lets through to it."""
    file = logging.FileHandler(path, mode="a", encoding="utf-8")
    file.setFormatter(GlogFormatter())
    _use([file, on_screen])


def _use(handlers: list[logging.Handler]) -> None:
    logger = logging.getLogger("brew")
    logger.handlers[:] = handlers
    logger.setLevel(logging.INFO)
    logger.propagate = False
