"""Writing LMDB databases of Datums, whole or not at all."""
from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import lmdb

from ..engine.errors import DataError, Position
from ..proto import brew_pb2 as pb

COMMIT = 1000                                             # records to a transaction, as Caffe's tools


def write_database(folder: Path, records: Iterable[tuple[bytes, pb.Datum]], size: int) -> int:
    """Write (key, Datum) pairs into a new LMDB at `folder`; returns how many. `size`: bytes of all values, roughly.

    It is written beside and renamed when it is whole.  Raises DataError; nothing is left behind then.
    """
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    count = 0
    try:
        aside.mkdir(parents=True)
        with lmdb.open(str(aside), map_size=2 * size + (64 << 20)) as env:
            txn = env.begin(write=True)
            for key, datum in records:
                txn.put(key, datum.SerializeToString(), append=True)
                count += 1
                if count % COMMIT == 0:
                    txn.commit()
                    txn = env.begin(write=True)
            txn.commit()
            env.sync(True)
        (aside / "lock.mdb").unlink(missing_ok=True)
        aside.replace(folder)
    except lmdb.Error as e:
        full = any(word in str(e) for word in ("No space", "MDB_MAP_FULL", "ENOSPC"))
        raise DataError(f"the database cannot be written after {count} records: {'the disk is full' if full else e}", Position(str(folder))) from None
    except OSError as e:
        raise DataError(f"the database cannot be written after {count} records: {e.strerror or e}", Position(str(folder))) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return count
