"""brew plot_training_log: curves of one or several trainings over each other."""
from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..engine.errors import DataError, Position
from ..engine.files import check_writable, write_whole
from .metrics import read_metrics
from .parse_log import Row, parse
from .plot import new_figure, save_figure

FORMATS = ("png", "svg", "pdf", "html")
Curve = tuple[str, list[Any], list[Any]]      # name, x, y
# Caffe's chart types: (of the test or of training, what the name of its outputs holds, over what)
CHARTS: dict[int, tuple[str, str, str]] = {0: ("test", "acc", "NumIters"), 1: ("test", "acc", "Seconds"), 2: ("test", "loss", "NumIters"), 3: ("test", "loss", "Seconds"),
                                           4: ("train", "LearningRate", "NumIters"), 5: ("train", "LearningRate", "Seconds"), 6: ("train", "loss", "NumIters"), 7: ("train", "loss", "Seconds")}
AXES = {"NumIters": "iteration", "Seconds": "seconds", "LearningRate": "learning rate", "acc": "accuracy", "loss": "loss"}


def runs_of(path: str) -> dict[str, list[Row]]:
    """{"train": rows, "test": rows} of a log, or of a metrics file (.jsonl). Raises DataError."""
    if not path.endswith(".jsonl"):
        return dict(zip(("train", "test"), parse(path)))
    try:
        records = read_metrics(path)
    except OSError as e:
        raise DataError(e.strerror or str(e), Position(path)) from None
    train = [{"NumIters": r["iteration"], "Seconds": r["seconds"], "LearningRate": r["lr"], "loss": r["loss"]} for r in records if "loss" in r and "test" not in r]
    seconds: Callable[[int], float] = lambda i: max((row["Seconds"] for row in train if row["NumIters"] <= i), default=0.0)  # noqa: E731
    test = [{"NumIters": r["iteration"], "Seconds": seconds(r["iteration"]), **{k: v for k, v in r.items() if isinstance(v, float)}} for r in records if "test" in r]
    return {"train": train, "test": test}


def plot_training_log(args: argparse.Namespace) -> int:
    """Draw as `brew plot_training_log` was asked to. Raises DataError for a chart without anything to show."""
    kind = Path(args.picture).suffix[1:].lower()
    if kind not in FORMATS:
        raise DataError(f'a picture is {", ".join(FORMATS)}, found "{kind}"', Position(args.picture))
    if args.type not in CHARTS:
        raise DataError("a chart is " + ", ".join(f"{n} ({which} {AXES[what]} over {AXES[over]})" for n, (which, what, over) in CHARTS.items()))
    check_writable(args.picture)
    if kind == "html":
        _plotly()
    else:
        new_figure(1, 1)
    which, what, over = CHARTS[args.type]
    curves: list[Curve] = []
    for path in args.logs:
        rows = runs_of(path)[which]
        for name in dict.fromkeys(name for row in rows for name in row if what in name):
            points = [(row[over], row[name]) for row in rows if name in row]
            curves.append((f"{Path(path).stem}: {name}" if name != what or len(args.logs) == 1 else Path(path).stem, *map(list, zip(*points))))  # type: ignore[arg-type]
    if not curves:
        raise DataError(f"there is no {which} {AXES[what]} in {', '.join(args.logs)}")
    x_name, y_name = AXES[over], f"{which} {AXES[what]}"
    if kind == "html":
        write_whole(args.picture, _page(curves, x_name, y_name))
    else:
        save_figure(_figure(curves, x_name, y_name), args.picture)
    print(f"{args.picture}: {len(curves)} curves")
    return 0


def _figure(curves: list[Curve], x_name: str, y_name: str) -> Any:
    figure = new_figure(8, 4.5)
    axis = figure.add_subplot()
    for name, x, y in curves:
        axis.plot(x, y, label=name, linewidth=1.2, marker="." if len(x) < 60 else None)
    axis.set_xlabel(x_name)
    axis.set_ylabel(y_name)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def _plotly() -> Any:
    try:
        import plotly.graph_objects
    except ImportError:
        raise DataError("an interactive page needs plotly: pip install 'brew[plot]'") from None
    return plotly.graph_objects


def _page(curves: list[Curve], x_name: str, y_name: str) -> bytes:
    """A page that needs nothing else: values under the pointer, parts enlarged, curves shown and hidden, a linear or logarithmic axis."""
    plotly = _plotly()
    figure = plotly.Figure([plotly.Scatter(x=x, y=y, name=name, mode="lines+markers" if len(x) < 60 else "lines")
                            for name, x, y in curves])
    scales = [{"label": label, "method": "relayout", "args": [{"yaxis.type": label}]} for label in ("linear", "log")]
    figure.update_layout(xaxis_title=x_name, yaxis_title=y_name, hovermode="x unified", template="plotly_white", showlegend=True,
                         updatemenus=[{"buttons": scales, "type": "buttons", "direction": "right", "x": 0, "y": 1.12, "xanchor": "left"}])
    return str(figure.to_html(include_plotlyjs=True, default_height="96vh")).encode()
