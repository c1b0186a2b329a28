"""brew test: the mean of a net's outputs over its test data."""
from __future__ import annotations

import argparse
import logging

from ..engine.errors import NetError
from ..engine.net import Net
from ..proto import brew_pb2 as pb
from ..solvers.output_means import OutputMeans
from ..solvers.testing import loss_part
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
    weights, outputs, total = net.blob_loss_weights, OutputMeans(), 0.0
    for batch in range(args.iterations):
        total += net.run_forward()
        values = net.output_values()
        outputs.add(values)
        for name, array in values.items():
            for value in array:
                log.info("Batch %d, %s = %g", batch, name, float(value))
    log.info("Loss: %g", total / args.iterations)
    for name, means in outputs.means().items():
        for mean in means:
            log.info("%s = %g%s", name, mean, loss_part(weights[name], mean))
    return 0
