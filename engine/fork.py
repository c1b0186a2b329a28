"""fork(): the child has the memory of its parent and none of its threads, so that whoever waits for one of these waits
for ever.

OpenMP's idle threads are ended before a fork, and both processes start new ones with their next loop. Batches that
threads are making are waited for, because libraries (OpenCV, OpenMP, LMDB) may hold locks meanwhile. In the child,
`generation` tells prefetchers, databases and GPUs that what they hold is their parent's.
"""
from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..kernels import cpu

PATIENCE = 10.0                              # seconds that a fork waits for batches

generation = 0                               # the number of forks between the process that imported brew and this one
_change = threading.Condition()
_working = 0                                 # threads within undisturbed()
_forking = 0                                 # threads between the beginning and the end of a fork


@contextmanager
def undisturbed() -> Iterator[None]:
    """Work of a thread in the background that no fork may interrupt. It must not take locks that fork() takes, too."""
    global _working
    with _change:
        while _forking:
            _change.wait()
        _working += 1
    try:
        yield
    finally:
        with _change:
            _working -= 1
            _change.notify_all()


def _before() -> None:
    global _forking
    with _change:
        _forking += 1
        _change.wait_for(lambda: not _working, PATIENCE)
    cpu.release_threads()


def _in_parent() -> None:
    global _forking
    with _change:
        _forking -= 1
        _change.notify_all()


def _in_child() -> None:
    global generation, _change, _working, _forking
    generation += 1
    _change, _working, _forking = threading.Condition(), 0, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
