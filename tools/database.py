"""Writing databases of Datums, LMDB or LevelDB, whole or not at all."""
from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import lmdb
import numpy as np

from ..engine.errors import DataError, Position, SnapshotError
from ..engine.files import check_folder
from ..layers.decode import decode_image
from ..proto import brew_pb2 as pb

COMMIT = 1000                                             # records to a transaction at most, as Caffe's tools
BUFFER = 1 << 20                                          # bytes: more of them no longer lie in the cache (10,000 raw pictures: 1 MB 3.7 s, 64 MB 5.5 s)


class DatabaseWriter:
    """A new database at `folder`, for a with statement: records go in by put(), and it gets its name when the block ends.

    It is written beside and renamed when it is whole.  Raises DataError, for a folder that exists, too; nothing is left behind then.
    """

    def __init__(self, folder: str | Path, backend: str = "lmdb"):
        self.folder = Path(folder)
        self.aside = self.folder.with_name(f".{self.folder.name}.part")
        self.count = 0
        self.pending: list[tuple[bytes, bytes]] = []
        self.bytes = 0
        self.check([folder], backend)
        shutil.rmtree(self.aside, ignore_errors=True)
        self.made = [parent for parent in self.folder.parents if not parent.exists()]      # from the inside out
        try:
            self.aside.parent.mkdir(parents=True, exist_ok=True)
            self.store: Any = _Lmdb(self.aside) if backend == "lmdb" else _LevelDb(self.aside)
        except (OSError, lmdb.Error) as e:
            self._fail(e)

    @staticmethod
    def check(folders: Sequence[str | Path], backend: str = "lmdb") -> None:
        """Raise DataError if databases cannot be made at these folders. Commands call it before anything else."""
        if backend not in ("lmdb", "leveldb"):
            raise DataError(f'a backend is lmdb or leveldb, found "{backend}"')
        if backend == "leveldb":
            _plyvel(folders[0])
        for folder in folders:
            if [Path(other).absolute() for other in folders].count(Path(folder).absolute()) > 1:
                raise DataError("two databases would be written here", Position(str(folder)))
            if Path(folder).exists():
                raise DataError("there is something here already; remove it, or write elsewhere", Position(str(folder)))
            try:
                check_folder(Path(folder).parent)
            except SnapshotError as e:
                raise DataError(f"the database cannot be written: {e}", Position(str(folder))) from None

    def put(self, key: bytes, value: bytes) -> None:
        """One more record. Keys must come in their order."""
        self.pending.append((key, value))
        self.bytes += len(value)
        if len(self.pending) >= COMMIT or self.bytes >= BUFFER:
            self._commit()

    def _commit(self) -> None:
        try:
            self.store.write(self.pending)
        except (OSError, lmdb.Error) as e:
            self._fail(e)
        self.count += len(self.pending)
        self.pending, self.bytes = [], 0

    def _fail(self, error: Exception) -> None:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space" in str(error)
        if "Input/output" in str(error):                     # LMDB's word for what the disk took only a part of
            full = shutil.disk_usage(self.aside.parent).free < 2 * max(self.bytes, BUFFER)
        self._clear()
        raise DataError(f"the database cannot be written after {self.count} records: {'the disk is full' if full else getattr(error, 'strerror', None) or error}", Position(str(self.folder))) from None

    def __enter__(self) -> DatabaseWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._commit()
            self.store.close()
            if kind is None:
                self.aside.replace(self.folder)
        except OSError as e:
            self._fail(e)
        finally:
            self._clear()

    def _clear(self) -> None:
        """Remove what is not a whole database, and the folders that were made for it."""
        shutil.rmtree(self.aside, ignore_errors=True)
        for parent in self.made if not self.folder.exists() else ():
            with suppress(OSError):                          # others may have written there
                parent.rmdir()


class _Lmdb:
    """Written without waiting for the disk before the end: it is whole or not there. Not through a writable map, where a page
    that the disk has no room for ends the process, and each costs a fault."""

    def __init__(self, folder: Path):
        folder.mkdir()
        self.folder, self.env = folder, lmdb.open(str(folder), map_size=1 << 28, sync=False)

    def write(self, records: list[tuple[bytes, bytes]]) -> None:
        while True:
            try:
                with self.env.begin(write=True) as txn:
                    for key, value in records:
                        txn.put(key, value, append=True)
                return
            except lmdb.MapFullError:
                self.env.set_mapsize(2 * self.env.info()["map_size"])

    def close(self) -> None:
        self.env.sync(True)
        self.env.close()
        (self.folder / "lock.mdb").unlink(missing_ok=True)


def _plyvel(folder: str | Path) -> Any:
    try:
        import plyvel
    except ImportError:
        raise DataError("a LevelDB is written by plyvel: pip install 'brew[leveldb]'", Position(str(folder))) from None
    return plyvel


class _LevelDb:
    def __init__(self, folder: Path):
        self.db: Any = _plyvel(folder).DB(str(folder), create_if_missing=True, error_if_exists=True)

    def write(self, records: list[tuple[bytes, bytes]]) -> None:
        with self.db.write_batch() as batch:
            for key, value in records:
                batch.put(key, value)

    def close(self) -> None:
        self.db.close()


def write_database(folder: Path, records: Iterable[tuple[bytes, pb.Datum]]) -> int:
    """Write (key, Datum) pairs into a new LMDB at `folder`; returns how many. Raises DataError."""
    with DatabaseWriter(folder) as database:
        for key, datum in records:
            database.put(key, datum.SerializeToString())
    return database.count


def datum_to_array(datum: pb.Datum) -> np.ndarray:
    """A record's values (C, H, W): bytes, or floats. An encoded picture is decoded, channels in the order BGR. Raises DataError."""
    if datum.encoded:
        image = decode_image(datum.data, cv2.IMREAD_UNCHANGED)
        if image is None:
            raise DataError("a Datum says that it is encoded, and is no picture that OpenCV reads")
        return image.reshape(*image.shape[:2], -1).transpose(2, 0, 1)
    values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data)
    if values.size != datum.channels * datum.height * datum.width or min(datum.channels, datum.height, datum.width) < 0:
        raise DataError(f"a Datum of {datum.channels} x {datum.height} x {datum.width} holds {values.size} values")
    return values.reshape(datum.channels, datum.height, datum.width)
