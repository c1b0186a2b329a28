"""brew compute_image_mean: the mean of a database's pictures, as a mean file."""
from __future__ import annotations

import argparse
import logging

import numpy as np
from rich.console import Console
from rich.progress import track

from ..engine.errors import DataError, Position
from ..engine.files import write_whole
from ..layers.database import open_database
from ..proto import brew_pb2 as pb
from .database import datum_to_array
from .log import log_to_stderr

log = logging.getLogger("brew")
BATCH = 64


def compute_image_mean(args: argparse.Namespace) -> int:
    """Compute as `brew compute_image_mean` was asked to. All records must have one size. Raises DataError."""
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
    channels, height, width = mean.shape
    if args.output:
        blob = pb.BlobProto(num=1, channels=channels, height=height, width=width)
        blob.data.extend(mean.astype(np.float32).ravel())
        log.info("Write to %s", args.output)
        write_whole(args.output, blob.SerializeToString())
    log.info("Number of channels: %d", channels)
    for c in range(channels):
        log.info("mean_value channel [%d]: %g", c, mean[c].mean())
    return 0
