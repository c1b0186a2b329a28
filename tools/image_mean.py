"""brew compute_image_mean: the mean of a database's pictures, as a mean file."""
from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from ..engine.errors import DataError, Position
from ..engine.files import check_writable, write_whole
from ..layers.database import open_database
from ..proto import brew_pb2 as pb
from .database import datum_to_array
from .log import log_to_stderr

log = logging.getLogger("brew")
BATCH = 64


def compute_image_mean(args: argparse.Namespace) -> int:
    """Compute as `brew compute_image_mean` was asked to. All records must have one size. Raises DataError."""
    if args.output:
        check_writable(args.output)
    log_to_stderr()
    database = open_database(args.database)
    total: np.ndarray | None = None
    for start in track(range(0, database.size, BATCH), "adding up", console=Console(stderr=True), transient=True):
        keys, records = database.read(np.arange(start, min(start + BATCH, database.size)), walk=True)
        for key, record in zip(keys, records):
            try:
                values = datum_to_array(pb.Datum.FromString(record))
            except (DataError, ValueError) as e:
                raise DataError(f"record {key.decode(errors='replace')!r}: {e}", Position(args.database)) from None
            if total is None:
                total = np.zeros(values.shape)
            if values.shape != total.shape:
                raise DataError(f"record {key.decode(errors='replace')!r} has the size {values.shape}, those before have {total.shape}", Position(args.database))
            total += values
    assert total is not None                               # an empty database is not opened
    mean = total / database.size
    if args.output:
        log.info("Write to %s", args.output)
        write_mean(args.output, mean)
    log.info("Number of channels: %d", len(mean))
    for c, plane in enumerate(mean):
        log.info("mean_value channel [%d]: %g", c, plane.mean())
    return 0


def write_mean(path: str | Path, mean: np.ndarray) -> None:
    """A mean file of an array (C, H, W), with the four axes of Caffe's first years."""
    channels, height, width = mean.shape
    write_whole(path, pb.BlobProto(num=1, channels=channels, height=height, width=width, data=mean.astype(np.float32).ravel()).SerializeToString())
