"""brew train: a solver from its prototxt, with signals, progress, metrics and a picture at the end."""
from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from ..engine import context
from ..engine.errors import DeviceError, Position, SolverError
from ..proto import brew_pb2 as pb
from ..proto import read_solver
from ..solvers import get_solver, snapshot
from ..solvers.declaration import prefix_of
from ..solvers.solver import Solver
from .cli import choose_device, stages
from .log import log_to_file, log_to_stderr
from .metrics import Metrics
from .plot import LivePlot, plot_curve
from .progress import ProgressDisplay
from .rehearsal import rehearse
from .tensorboard import TensorBoard

log = logging.getLogger("brew")


def train(args: argparse.Namespace) -> int:
    """Train as `brew train` was asked to; returns the exit code."""
    if args.snapshot and args.weights:
        raise SolverError("-snapshot resumes a training and -weights begins one: give one of them")
    param = read_solver(args.solver)
    param.train_state.level = args.level
    param.train_state.stage.extend(stages(args.stage))
    prefix = prefix_of(param, args.solver)
    state = snapshot.newest(prefix) if args.snapshot == "auto" else args.snapshot
    if args.weights:
        param.weights[:] = [args.weights]
    elif state:
        param.ClearField("weights")
    _choose_device(param, args)
    rehearse(args, param, prefix, state)
    console = Console(stderr=True)
    display = ProgressDisplay(console) if console.is_terminal else None
    if display:
        log_to_file(f"{prefix}.log", display)
    else:
        log_to_stderr()
    solver = get_solver(param, args.solver)
    if state:
        log.info("Resuming from %s", state)
        solver.restore(state)
    board = TensorBoard(args.tensorboard, solver) if args.tensorboard else None
    metrics = Metrics(f"{prefix}_metrics.jsonl", solver.iter)    # last, because it drops the metrics of the run before
    plot = LivePlot(metrics.path, f"{prefix}_curve.png") if args.plot else None
    solver.watchers = [metrics, *(watcher for watcher in (display, plot, board) if watcher)]
    solver.poll = _signals(args)
    log.info("Starting Optimization")
    if display:
        display.start(solver)
    try:
        solver.solve()
    finally:
        if display:
            display.stop()
        if board:
            board.close()
    if not solver.stopped:
        log.info("Optimization Done.")
    _say_where(solver, metrics.path, prefix)
    return 0


def _choose_device(param: pb.SolverParameter, args: argparse.Namespace) -> None:
    """-gpu, else what the solver says, else a GPU if there is one."""
    if args.gpu:
        choose_device(args.gpu)
    elif param.solver_mode == pb.SolverParameter.GPU:
        try:
            context.set_device(param.device_id)
            context.set_mode_gpu()
        except DeviceError as e:
            if param.HasField("solver_mode"):
                raise DeviceError(f"the solver says solver_mode: GPU: {e}", Position(args.solver)) from None


def _signals(args: argparse.Namespace) -> Any:
    """Handlers that only set flags; returns what the solver polls. SIGHUP is looked at first, as in Caffe."""
    wishes: dict[str, bool] = {}
    for name, effect in (("SIGHUP", args.sighup_effect), ("SIGINT", args.sigint_effect)):
        number = getattr(signal, name, None)
        if number is not None and effect != "none":
            wishes[name] = False

            def handler(*_: Any, name: str = name) -> None:
                wishes[name] = True
            signal.signal(number, handler)

    def poll() -> str:
        for name, effect in (("SIGHUP", args.sighup_effect), ("SIGINT", args.sigint_effect)):
            if wishes.get(name):
                wishes[name] = False
                return str(effect)
        return ""
    return poll


def _say_where(solver: Solver, metrics: str, prefix: str) -> None:
    """Tell where the results lie, and draw the curve."""
    end = ".h5" if solver.param.snapshot_format == pb.SolverParameter.HDF5 else ""
    model = Path(f"{prefix}_iter_{solver.iter}.caffemodel{end}")
    lines = [f"weights   {model}"] if model.exists() else []
    lines.append(f"metrics   {metrics}")
    picture = f"{prefix}_curve.png"
    lines.append(f"curve     {picture}" if plot_curve(metrics, picture) else "curve     not drawn: matplotlib is missing (pip install 'brew[plot]')")
    print("\n".join(lines), file=sys.stdout)
