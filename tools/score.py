"""brew test: the mean of a net's outputs over its test data."""
from __future__ import annotations

import argparse
import logging
from typing import Any

from ..engine.errors import NetError
from ..engine.net import Net
from ..proto import brew_pb2 as pb
from ..solvers.solver import loss_part
from .cli import choose_device, stages
from .log import log_to_stderr

log = logging.getLogger("brew")


def score(args: argparse.Namespace) -> int:
    """Run `iterations` batches in phase TEST, log each output and the means, as `caffe test` does."""
    if not args.model:
        raise NetError("brew test needs -model, the net's prototxt")
    if args.iterations < 1:
        raise NetError("-iterations must be at least 1")
    log_to_stderr()
    choose_device(args.gpu)
    net = Net(args.model, pb.TEST, level=args.level, stages=stages(args.stage), weights=args.weights or None)
    log.info("Running for %d iterations.", args.iterations)
    weights, total = net.blob_loss_weights, 0.0
    sums: dict[str, Any] = {}
    for batch in range(args.iterations):
        total += net.run_forward()
        for name, values in net.output_values().items():
            sums[name] = sums.get(name, 0.0) + values
            for value in values:
                log.info("Batch %d, %s = %g", batch, name, float(value))
    log.info("Loss: %g", total / args.iterations)
    for name, values in sums.items():
        for value in values / args.iterations:
            log.info("%s = %g%s", name, float(value), loss_part(weights[name], float(value)))
    return 0
