"""Files that are whole or not there: written aside, synced, renamed."""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .errors import Position, SnapshotError


def write_whole(path: str | Path, write: Callable[[Path], object] | bytes) -> None:
    """Write a file so that at no moment, whatever happens, `path` is half of it.

    `write` is its bytes, or writes them to the path it is given.  Raises SnapshotError; what was at `path` then stays.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if isinstance(write, bytes):
            aside.write_bytes(write)
        else:
            write(aside)
        _sync(aside)
        os.replace(aside, path)
        _sync(path.parent)
    except OSError as e:
        raise SnapshotError(f"cannot write: {e.strerror or e}", Position(str(path))) from None
    finally:
        aside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
