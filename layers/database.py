"""Databases of records: LMDB, and LevelDB where plyvel is installed."""
from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import lmdb
import numpy as np

from ..engine import fork
from ..engine.errors import DataError, Position
from ..kernels import cpu

_open: WeakValueDictionary[tuple[str, int], lmdb.Environment] = WeakValueDictionary()
_opening = threading.Lock()


def open_once(folder: str) -> lmdb.Environment:
    """The LMDB environment of a folder: a process may open each only once, and several layers may read it."""
    path = os.path.realpath(folder)
    key = path, os.stat(os.path.join(path, "data.mdb")).st_ino
    with _opening:
        env = _open.get(key)
        if env is None:
            env = lmdb.open(path, readonly=True, lock=False, readahead=True, max_readers=512, max_spare_txns=4)
            whole, have = (env.info()["last_pgno"] + 1) * env.stat()["psize"], os.path.getsize(os.path.join(path, "data.mdb"))
            if have < whole:                                   # reading beyond the end of a mapped file kills the process
                raise DataError(f"the database is cut off: data.mdb has {have} bytes of {whole}", Position(folder))
            _open[key] = env
    return env


def _close_parents() -> None:
    """In a forked process: LMDB allows no environment to be used that the parent opened. Each Database opens its own
    again."""
    global _opening
    _opening = threading.Lock()
    for env in list(_open.values()):
        env.close()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_parents)


_levels: WeakValueDictionary[str, LevelDatabase] = WeakValueDictionary()


def is_encoded(record: bytes) -> bool:
    try:
        return bool(cpu.parse_datum(record)[4])
    except ValueError:
        return False


def open_database(folder: str) -> Database | LevelDatabase:
    """The database in a folder. Raises DataError."""
    if (Path(folder) / "data.mdb").exists():
        return Database(folder)
    if (Path(folder) / "CURRENT").exists():
        path = os.path.realpath(folder)                        # a process may open it once, and several layers may read it
        level = _levels.get(path)
        if level is None:
            level = _levels[path] = LevelDatabase(folder)
        return level
    raise DataError("there is no LMDB here (no data.mdb in the folder), nor a LevelDB\n  `brew data` makes databases", Position(folder))


class Database:
    """An LMDB opened for reading: records in the order of their keys."""

    def __init__(self, folder: str):
        self.folder, self.generation = folder, fork.generation
        try:
            self.env = open_once(folder)
            self.size = self.env.stat()["entries"]
            if not self.size:
                raise DataError("the database is empty", Position(folder))
        except lmdb.Error as e:
            ours = "\n  LMDB opens a database once in a process: call close() of the environment that this program opened it with"
            raise DataError(f"the database cannot be read: {e}{ours if 'already open' in str(e) else ''}", Position(folder)) from None
        self.keys: list[bytes] | None = None                   # all of them, in order; read when shuffling begins
        self.ends: dict[int, bytes] = {}                       # where walks ended: the key of the record after

    def _environment(self) -> lmdb.Environment:
        """The environment, in a forked process opened anew."""
        if self.generation != fork.generation:
            self.env, self.ends = open_once(self.folder), {}
            self.generation = fork.generation
        return self.env

    def first(self) -> tuple[tuple[bytes, bytes], bool]:
        """((key, record), whether it is encoded) of the first record."""
        try:
            with self._environment().begin() as txn, txn.cursor() as cursor:
                cursor.first()
                key, record = cursor.item()
        except lmdb.Error as e:
            raise DataError(f"the database cannot be read: {e}", Position(self.folder)) from None
        return (key, record), is_encoded(record)

    def read(self, places: np.ndarray, walk: bool) -> tuple[list[bytes], list[bytes]]:
        """(keys, records) at these places. walk: they follow each other, and one cursor steps through them."""
        keys: list[bytes] = []
        records: list[Any] = []
        try:
            env = self._environment()
            if not walk:
                if self.keys is None:
                    with env.begin() as txn, txn.cursor() as cursor:
                        self.keys = list(cursor.iternext(keys=True, values=False))
                with env.begin() as txn:
                    for place in places:
                        keys.append(self.keys[place])
                        records.append(txn.get(keys[-1]))
                return keys, records
            with env.begin() as txn, txn.cursor() as cursor:
                self._seek(cursor, int(places[0]))
                for place in places:
                    if place == 0:
                        cursor.first()
                    key, record = cursor.item()
                    keys.append(key)
                    records.append(record)
                    cursor.next()
                self.ends[(int(places[-1]) + 1) % self.size] = cursor.key()
        except (lmdb.Error, TypeError) as e:
            raise DataError(f"the database cannot be read after record {keys[-1].decode(errors='replace') if keys else '(none)'!r}: {e}", Position(self.folder)) from None
        return keys, records

    def _seek(self, cursor: lmdb.Cursor, place: int) -> None:
        """Stand on record number `place`: at once where the last walk ended there, else by stepping."""
        key = self.ends.pop(place, b"")
        if key and cursor.set_key(key):
            return
        cursor.first()
        for _ in range(place):
            cursor.next()


class LevelDatabase:
    """A LevelDB opened for reading, with what Database offers. It knows neither how many records it has nor where the
    n-th lies, so all keys are read when it is opened."""

    def __init__(self, folder: str):
        self.folder, self.generation = folder, fork.generation
        try:
            import plyvel
        except ImportError:
            raise DataError("this is a LevelDB, which plyvel reads: pip install 'brew[leveldb]'", Position(folder)) from None
        try:
            self.db: Any = plyvel.DB(os.path.realpath(folder), create_if_missing=False)      # its lock goes by the name
            self.keys = list(self.db.iterator(include_value=False))
        except (plyvel.Error, OSError) as e:
            raise DataError(f"the LevelDB cannot be opened: {e}\n  LevelDB lets one process at a time open it, and must be able to write beside it", Position(folder)) from None
        self.size = len(self.keys)
        if not self.size:
            raise DataError("the database is empty", Position(folder))

    def _in_its_process(self) -> None:
        if self.generation != fork.generation:
            raise DataError("this LevelDB was opened before the process was forked, and belongs to the parent\n  make the net in the child only, "
                            "start the child with multiprocessing's \"spawn\", or make an LMDB of it", Position(self.folder))

    def first(self) -> tuple[tuple[bytes, bytes], bool]:
        self._in_its_process()
        record = self.db.get(self.keys[0])
        return (self.keys[0], record), is_encoded(record)

    def read(self, places: np.ndarray, walk: bool) -> tuple[list[bytes], list[bytes]]:
        self._in_its_process()
        keys = [self.keys[place] for place in places]
        if not walk or (np.diff(places) != 1).any():
            return keys, [self.db.get(key) for key in keys]
        return keys, [record for _, record in zip(keys, self.db.iterator(start=keys[0], include_key=False))]
