"""The course of a training as JSON lines, one record each time it is displayed or tested."""
from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter
from typing import Any

from ..solvers.solver import Solver


class Metrics:
    """A watcher of a solver that writes `<snapshot prefix>_metrics.jsonl`.

    Records: {"iteration", "loss", "lr", "seconds"} and {"iteration", "test", output: value or list, ...}. A resumed
    training goes on where its snapshot was: records of iterations that are done again are dropped first.
    """

    def __init__(self, path: str, from_iteration: int):
        self.path, self.start = path, perf_counter()
        kept, self.before = 0, 0.0
        if from_iteration and Path(path).exists():
            kept, self.before = _before(path, from_iteration)
        self.file = open(path, "a", encoding="utf-8")
        self.file.truncate(kept)                             # in place: no crash can lose the records that are kept

    def _write(self, record: dict[str, Any]) -> None:
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def on_display(self, solver: Solver, loss: float) -> None:
        self._write({"iteration": solver.iter, "loss": solver.smoothed_loss, "lr": solver.lr,
                     "seconds": round(self.before + perf_counter() - self.start, 3)})

    def on_test(self, solver: Solver, number: int, means: dict[str, list[float]]) -> None:
        self._write({"iteration": solver.iter, "test": number, **{k: v[0] if len(v) == 1 else v for k, v in means.items()}})


def _before(path: str, iteration: int) -> tuple[int, float]:
    """(bytes, seconds) of the records of earlier iterations: records come in the order of their iterations."""
    size, seconds = 0, 0.0
    with open(path, "rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                break
            if record["iteration"] >= iteration or not line.endswith(b"\n"):
                break
            size, seconds = size + len(line), max(seconds, record.get("seconds", 0.0))
    return size, seconds


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a metrics file; a last line that a crash cut off is left out."""
    records = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
