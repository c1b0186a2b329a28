"""brew extract_features: what blobs of a net hold for the pictures of its data layer, as databases."""
from __future__ import annotations

import argparse
from contextlib import ExitStack

import numpy as np
from rich.console import Console
from rich.progress import track

from ..engine.errors import NetError
from ..engine.layer import item_rows
from ..engine.net import Net
from ..proto import brew_pb2 as pb
from ..proto.errors import nearest
from .cli import choose_device
from .database import DatabaseWriter


def extract_features(args: argparse.Namespace) -> int:
    """Extract as `brew extract_features` was asked to: a Datum of float_data for each item, keys of ten digits. Raises NetError."""
    names, folders = args.blobs.split(","), args.databases.split(",")
    if len(names) != len(folders):
        raise NetError(f"there is one database for each blob: found {len(names)} blobs and {len(folders)} databases")
    if args.batches < 1:
        raise NetError(f"num_mini_batches must be at least 1, found {args.batches}")
    if args.device not in ("CPU", "GPU"):
        raise NetError(f'the device is CPU or GPU, found "{args.device}"')
    DatabaseWriter.check(folders, args.db_type)
    choose_device(args.device_id.removeprefix("DEVICE_ID=") if args.device == "GPU" else args.gpu)
    net = Net(args.net, pb.TEST, weights=args.weights)
    for name in names:
        if name not in net.blobs:
            raise NetError(f'the net has no blob "{name}"{nearest(name, net.blobs)}')
    net.keep_values = True                                 # the blobs are looked at after every batch
    count = [0] * len(names)
    with ExitStack() as stack:
        databases = [stack.enter_context(DatabaseWriter(folder, args.db_type)) for folder in folders]
        for _ in track(range(args.batches), "extracting", console=Console(stderr=True), transient=True):
            net.run_forward()
            for k, (name, database) in enumerate(zip(names, databases)):
                values = net.blobs[name].value.read()
                rows = np.asarray(values.get() if hasattr(values, "get") else values)
                rows = rows.reshape(item_rows(values.shape) if values.ndim else (1, 1))
                channels, height, width = (*values.shape[1:], 1, 1, 1)[:3] if values.ndim <= 4 else (rows.shape[1], 1, 1)
                for row in rows:
                    datum = pb.Datum(channels=channels, height=height, width=width)
                    datum.float_data.extend(row)
                    database.put(f"{count[k]:010d}".encode(), datum.SerializeToString())
                    count[k] += 1
    for name, folder, n in zip(names, folders, count):
        print(f"{folder}: {n} features of {name}")
    return 0
