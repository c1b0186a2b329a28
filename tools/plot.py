"""Figures as pictures; and the curve of a training, from its metrics file: at the end, or live."""
from __future__ import annotations

import io
from pathlib import Path
from time import perf_counter
from typing import Any

from ..engine.errors import DataError, Position
from ..engine.files import write_whole
from ..solvers.solver import Solver
from .metrics import read_metrics


def new_figure(width: float, height: float, what: str = "drawing") -> Any:
    """An empty figure, in inches. Raises DataError, which says `what` needs it, without matplotlib (extra [plot])."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DataError(f"{what} needs matplotlib: pip install 'brew[plot]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure, whole or not at all, as the kind of picture that the name ends with. Raises DataError, SnapshotError."""
    out, kind = io.BytesIO(), Path(path).suffix[1:].lower()
    try:
        figure.savefig(out, format=kind, dpi=120)
    except ValueError:
        raise DataError(f'no picture can be written as ".{kind}"; png and svg can', Position(str(path))) from None
    write_whole(path, out.getvalue())


def plot_curve(metrics: str | Path, picture: str | Path) -> bool:
    """Draw loss and test results over iterations into `picture` (a PNG), which is always a whole one. False without matplotlib
    (extra [plot])."""
    try:
        figure = new_figure(8, 4.5)
    except DataError:
        return False
    records = read_metrics(metrics)
    train, tests = [r for r in records if "loss" in r and "test" not in r], [r for r in records if "test" in r]
    outputs = sorted({k for r in tests for k, v in r.items() if k not in ("iteration", "test") and isinstance(v, float)})
    scores, losses = [k for k in outputs if "loss" not in k], [k for k in outputs if "loss" in k]
    axis = figure.add_subplot()
    axis.plot([r["iteration"] for r in train], [r["loss"] for r in train], color="0.6", linewidth=1, label="train loss")
    for name in losses:
        axis.plot([r["iteration"] for r in tests], [r[name] for r in tests], color="tab:red", marker=".", label=f"test {name}")
    positive = [r["loss"] for r in train if r["loss"] > 0]
    if positive and max(positive) > 20 * min(positive):
        axis.set_yscale("log")
    axis.set_xlabel("iteration")
    axis.set_ylabel("loss")
    handles = axis.get_legend_handles_labels()
    if scores:
        right = axis.twinx()
        for name, color in zip(scores, ("tab:blue", "tab:green", "tab:purple", "tab:orange") * len(scores)):
            right.plot([r["iteration"] for r in tests], [r[name] for r in tests], color=color, marker=".", label=f"test {name}")
        right.set_ylabel(", ".join(scores))
        handles = tuple(a + b for a, b in zip(handles, right.get_legend_handles_labels()))
    if handles[0]:
        axis.legend(*handles, loc="center right")
    axis.grid(alpha=0.3)
    save_figure(figure, picture)
    return True


class LivePlot:
    """A watcher of a solver, behind Metrics, that keeps `picture` up to date; drawing takes at most a twentieth of the time."""

    def __init__(self, metrics: str, picture: str):
        self.metrics, self.picture = metrics, picture
        self.took = self.drawn = 0.0                         # seconds, and when
        self._draw()

    def _draw(self) -> None:
        start = perf_counter()
        plot_curve(self.metrics, self.picture)
        self.drawn = perf_counter()
        self.took = self.drawn - start

    def on_display(self, solver: Solver, loss: float) -> None:
        if perf_counter() - self.drawn > 20 * self.took:
            self._draw()

    def on_test(self, solver: Solver, number: int, means: dict[str, list[float]]) -> None:
        self.on_display(solver, 0.0)
