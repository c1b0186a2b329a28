"""The errors of brew. Each says where (file:line:column), which rule, what was found and what to do."""
from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path


@dataclass(frozen=True)
class Position:
    """A place in a text file; line and column count from 1, 0 where unknown."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return ":".join([self.file, *(str(n) for n in (self.line, self.column) if n)])


class BrewError(RuntimeError):
    """What all errors of brew are (RuntimeErrors, as pycaffe's). The text is meant for the user: `position: rule and finding`, then hints, indented.

    `position` is None where no file is to blame.
    """

    def __init__(self, message: str, position: Position | None = None):
        super().__init__(f"{position}: {message}" if position else message)
        self.position = position


class PrototxtError(BrewError):
    """A prototxt that cannot be read, or that says something its schema does not allow."""


class WeightsError(BrewError):
    """A caffemodel, mean file or solverstate that cannot be read, or that does not fit the net."""


class NetError(BrewError):
    """A net that cannot be built as it is declared."""


class ShapeError(NetError):
    """Blobs whose shapes do not fit a layer."""


class DataError(BrewError):
    """A database, list, record or image that cannot be used."""


class SolverError(BrewError):
    """A solver that cannot run as it is declared, or a training that cannot go on."""


class SnapshotError(BrewError):
    """A snapshot that cannot be written or resumed from."""


class DeviceError(BrewError):
    """A device that is not there, or that a layer cannot run on."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint line for a misspelt `word`, or nothing: what `known` has that is close to it."""
    by_lower = {str(k).lower(): str(k) for k in known}
    close = get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return f'\n  did you mean "{by_lower[close[0]]}"?' if close else ""


def excerpt(line_text: str, position: Position, length: int) -> str:
    """The offending line with the offending part underlined, as two indented lines."""
    shown = line_text.replace("\t", " ").rstrip()
    return (f"\n{position.line:>5} | {shown}\n      | " + " " * (position.column - 1)
            + "^" * max(1, min(length, len(shown) - position.column + 1)))


def check_readable(path: str | Path, what: str, error: type[BrewError]) -> None:
    """Raise what read_bytes() would for a file that is missing or cannot be opened, without reading it."""
    try:
        if stat.S_ISREG(_kind(path)):                         # opening a pipe would take it from its reader
            open(path, "rb").close()
    except (OSError, ValueError) as e:                        # a name with a NUL is a ValueError
        raise _unreadable(path, what, error, e) from None


def read_bytes(path: str | Path, what: str, error: type[BrewError]) -> bytes:
    """The bytes of a file; raises `error` naming `what` it should have been if it cannot be read."""
    try:
        _kind(path)
        return Path(path).read_bytes()
    except (OSError, ValueError) as e:
        raise _unreadable(path, what, error, e) from None


def _kind(path: str | Path) -> int:
    """The mode of the file at `path`. Raises OSError for a folder, and for a device: /dev/zero never ends."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise OSError(errno.EINVAL, "Is a device")
    return mode


def _unreadable(path: str | Path, what: str, error: type[BrewError], e: Exception) -> BrewError:
    return error(f"cannot read {what}: {getattr(e, 'strerror', None) or e}", Position(str(path)))
