"""The curve of a training as a picture, from its metrics file."""
from __future__ import annotations

from pathlib import Path

from .metrics import read_metrics


def plot_curve(metrics: str | Path, picture: str | Path) -> bool:
    """Draw loss and test results over iterations into `picture` (PNG or SVG). False without matplotlib (extra [plot])."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    records = read_metrics(metrics)
    train, tests = [r for r in records if "loss" in r and "test" not in r], [r for r in records if "test" in r]
    outputs = sorted({k for r in tests for k, v in r.items() if k not in ("iteration", "test") and isinstance(v, float)})
    scores, losses = [k for k in outputs if "loss" not in k], [k for k in outputs if "loss" in k]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
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
        handles = tuple(a + b for a, b in zip(handles, right.get_legend_handles_labels()))  # type: ignore[assignment]
    axis.legend(*handles, loc="center right")
    axis.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)
    return True
