"""What a terminal shows while training: one live line, with tests and snapshots above it."""
from __future__ import annotations

import logging
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..solvers.solver import Solver


class ProgressDisplay(logging.Handler):
    """A watcher of a solver, and a log handler for what must not be missed: warnings and errors."""

    def __init__(self, console: Console):
        super().__init__(logging.WARNING)
        self.console = console
        self.progress = Progress(TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
                                 TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[state]}"), console=console)
        self.task: Any = None
        self.shown = self.began = perf_counter()
        self.first = 0

    def start(self, solver: Solver) -> None:
        self.task = self.progress.add_task(solver.net.name or "training", total=solver.param.max_iter, completed=solver.iter, rate="", state="")
        self.first, self.began = solver.iter, perf_counter()
        self.progress.start()

    def stop(self) -> None:
        self.progress.stop()

    def on_iteration(self, solver: Solver, loss: float) -> None:
        now = perf_counter()
        if now - self.shown < 0.1 and solver.iter + 1 < solver.param.max_iter:
            return
        self.shown = now
        rate = (solver.iter + 1 - self.first) / max(now - self.began, 1e-9)
        self.progress.update(self.task, completed=solver.iter + 1, rate=f"{rate:.1f} it/s", state=f"loss {solver.smoothed_loss:.4g}  lr {solver.lr:.3g}")

    on_display = on_iteration

    def on_test(self, solver: Solver, number: int, means: dict[str, list[float]]) -> None:
        values = "  ".join(f"{name} {values[0]:.4g}" for name, values in means.items() if len(values) == 1)
        self.progress.console.print(f"iteration {solver.iter:>6}  test #{number}  {values}")

    def on_snapshot(self, solver: Solver, path: str) -> None:
        self.progress.console.print(f"iteration {solver.iter:>6}  snapshot {path}", style="dim")

    def emit(self, record: logging.LogRecord) -> None:
        self.progress.console.print(record.getMessage(), style="yellow", markup=False, highlight=False)
