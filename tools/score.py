"""brew test: the mean of a net's outputs over its test data."""
from __future__ import annotations

import argparse
import logging
from typing import Any

from ..engine.errors import NetError
from ..engine.net import Net
from ..proto import brew_pb2 as pb
from .cli import choose_device, stages
from .log import log_to_stderr

log = logging.getLogger("brew")


def score(args: argparse.Namespace) -> int:
    """Run `iterations` batches in phase TEST, log each output and the means, as `caffe test` does."""
    if not args.model:
        raise NetError("brew test needs -model, the net's prototxt")
    log_to_stderr()
    choose_device(args.gpu)
    net = Net(args.model, pb.TEST, level=args.level, stages=stages(args.stage), weights=args.weights or None)
    log.info("Running for %d iterations.", args.iterations)
    weights, total = net.blob_loss_weights, 0.0
    sums: dict[str, Any] = {}
    for batch in range(args.iterations):
        total += net.run_forward()
        for name in net.outputs:
            values = net.blobs[name].value.read().reshape(-1).astype("float64")
            sums[name] = sums.get(name, 0.0) + values
            for value in values:
                log.info("Batch %d, %s = %g", batch, name, float(value))
    log.info("Loss: %g", total / args.iterations)
    for name, values in sums.items():
        for value in _means(values, args.iterations):
            log.info("%s = %g%s", name, value, f" (* {weights[name]:g} = {weights[name] * value:g} loss)" if weights[name] else "")
    return 0


def _means(values: Any, n: int) -> list[float]:
    return [float(v) / n for v in values]
