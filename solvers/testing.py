"""Tests of a solver's nets: the means of their outputs over test_iter batches."""
from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ..engine.exclusive import using
from ..engine.held import Settled
from ..engine.net import Net
from .interrupt import interrupt_if_wished
from .iteration import Iteration
from .output_means import OutputMeans
from .undo import Undo

log = logging.getLogger("brew")


def test_all(solver: Iteration) -> None:
    """See Solver.test_all. What a test that fails has changed, it puts back."""
    undos = [Undo(net, users=True) for net in solver.test_nets]
    try:
        for i in range(len(solver.test_nets)):
            if not solver.stopped:
                with averaged(solver, solver.param.test_average):
                    test(solver, i)
    except BaseException:
        for undo in undos:
            undo.put_back()
        raise


def test(solver: Iteration, number: int) -> dict[str, list[float]]:
    """See Solver.test: a test that is not completed leaves its net where it began."""
    undo, whole = Undo(solver.test_nets[number], users=True), False
    try:
        means = _run(solver, number)
        whole = bool(means) or not solver.stopped
        return means
    finally:
        if not whole:
            undo.put_back()


def _run(solver: Iteration, number: int) -> dict[str, list[float]]:
    net, p = solver.test_nets[number], solver.param
    log.info("Iteration %d, Testing net (#%d)", solver.iter, number)
    outputs, total = OutputMeans(), 0.0
    for _ in range(p.test_iter[number]):
        interrupt_if_wished(solver)
        solver.obey()
        if solver.stopped:
            log.info("Test interrupted.")
            return {}
        total += net.run_forward()
        outputs.add(net.output_values())
    means = outputs.means()
    if p.test_compute_loss:
        log.info("Test loss: %g", total / p.test_iter[number])
    log_outputs(net, "Test", means)
    solver.tell("on_test", number, means)
    return means


@contextmanager
def averaged(solver: Iteration, wanted: bool = True) -> Iterator[None]:
    """Within, the weights are their moving average, if it is `wanted` and there is one already."""
    if not wanted or solver.average is None:
        yield
        return
    with using(solver.nets):
        with Settled(solver.nets):
            data = solver.arena.open("data")
            kept = data.copy()
            data[...] = solver.average
        try:
            yield
        finally:
            with Settled(solver.nets):
                solver.arena.open("data")[...] = kept


def loss_part(weight: float, value: float) -> str:
    """What a log line says after an output that is part of the loss."""
    return f" (* {weight:g} = {weight * value:g} loss)" if weight else ""


def log_outputs(net: Net, what: str, means: dict[str, list[float]] | None = None) -> None:
    """A line for each value of each output: its mean, or its present value."""
    weights, k = net.blob_loss_weights, 0
    for name, values in (net.output_values() if means is None else means).items():
        for value in values:
            log.info("    %s net output #%d: %s = %g%s", what, k, name, value, loss_part(weights[name], value))
            k += 1
