"""brew train -tensorboard: the course of a training, and its weights and gradients, as TensorBoard's event files."""
from __future__ import annotations

from typing import Any

from ..engine.errors import Position, SolverError
from ..engine.files import check_folder
from ..solvers.solver import Solver

BINS = 64


def check_tensorboard(folder: str) -> Any:
    """The class that writes event files. Raises SolverError if it is not installed, SnapshotError if the folder cannot
    be written. Changes nothing."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise SolverError("-tensorboard needs tensorboardX: pip install 'brew[tensorboard]'") from None
    check_folder(folder)
    return SummaryWriter


class TensorBoard:
    """A watcher of a solver. At each display: loss, learning rate, and histograms of every parameter and its gradient (before clipping and
    weight decay); at each test: its results. A resumed training goes on in the same folder; what lies after its snapshot is dropped.

    Raises SolverError without tensorboardX (extra [tensorboard]), or for a folder that cannot be written.
    """

    reads_gradients = True                   # so that they are kept

    def __init__(self, folder: str, solver: Solver):
        try:
            writer = check_tensorboard(folder)
            self.writer: Any = writer(folder, purge_step=solver.iter or None, filename_suffix=f".{solver.iter}")
        except OSError as e:
            raise SolverError(f"cannot be written: {e.strerror or e}", Position(folder)) from None
        self.solver = solver
        solver.add_callback(lambda: None, self._on_gradients)

    def _on_gradients(self) -> None:
        p = self.solver.param
        if not p.display or self.solver.iter % p.display:
            return
        for parameter in self.solver.net.learnable:
            name = f"{parameter.layer}/{parameter.index}"
            self.writer.add_histogram(f"weights/{name}", parameter.blob.value.plain().ravel(), self.solver.iter,
                                      bins=BINS)
            self.writer.add_histogram(f"gradients/{name}", parameter.blob.gradient.plain().ravel() / p.iter_size,
                                      self.solver.iter, bins=BINS)

    def on_display(self, solver: Solver, loss: float) -> None:
        self.writer.add_scalar("train/loss", solver.smoothed_loss, solver.iter)
        self.writer.add_scalar("train/lr", solver.lr, solver.iter)
        self.writer.flush()

    def on_test(self, solver: Solver, number: int, means: dict[str, list[float]]) -> None:
        for name, values in means.items():
            for k, value in enumerate(values):
                self.writer.add_scalar(f"test{number}/{name}" + (f"/{k}" if len(values) > 1 else ""), value, solver.iter)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
