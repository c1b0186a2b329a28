"""What brew train checks before it opens, builds or writes anything."""
from __future__ import annotations

import argparse
import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ..engine.errors import SnapshotError, WeightsError, check_readable
from ..engine.files import check_writable
from ..engine.context import dry_run
from ..engine.layer import layer_class
from ..layers.python import import_class
from ..proto import brew_pb2 as pb
from ..solvers.solver import solver_class
from .plot import new_figure
from .tensorboard import check_tensorboard

log = logging.getLogger("brew")


def rehearse(args: argparse.Namespace, param: pb.SolverParameter, prefix: str, state: str | None) -> None:
    """Raise what would stop the training before its first iteration: an extra that is not installed, a file or database
    that is missing, a layer that cannot be set up, weights that do not fit, a read-only folder. Changes nothing."""
    if args.plot:
        new_figure(1, 1, "-plot")
    if args.tensorboard:
        check_tensorboard(args.tensorboard)
    if state:
        check_readable(state, "this solverstate", WeightsError)
    try:
        check_writable(f"{prefix}_metrics.jsonl", f"{prefix}_curve.png", f"{prefix}.log")
    except SnapshotError as e:
        raise SnapshotError(f"{e}\n  snapshot_prefix must lie in a folder that exists and is writable") from None
    with silence():                                           # building says all of it again
        _build_dry(param, args.solver)
    gc.collect()                                              # closes databases, and frees what data layers have read


def _build_dry(param: pb.SolverParameter, file: str) -> None:
    solver = solver_class(param, file).declared(param, file)
    with dry_run():
        net, *tests = [solver.make_net(*declared) for declared in solver.declared_nets]
        if not net.unknown:                                   # else weights may belong to layers of unknown shape
            for path in solver.declared_weights:
                net.copy_from(path)
        for test in tests:
            test.share_with(net)
    for layer in (layer for each in (net, *tests) for layer in each.unknown if layer_class(layer).user_code):
        import_class(layer_class(layer)(layer, layer.phase))


@contextmanager
def silence() -> Iterator[None]:
    """No log lines and warnings from within."""
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
