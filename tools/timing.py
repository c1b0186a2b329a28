"""brew time: how long each layer takes, forward and backward."""
from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..engine.errors import NetError
from ..engine.net import Net
from ..proto import brew_pb2 as pb
from .cli import choose_device, stages
from .log import log_to_stderr

log = logging.getLogger("brew")


def timing(args: argparse.Namespace) -> int:
    """Measure as `brew time` was asked to. Every layer runs forward and backward, needed or not, as in `caffe time`."""
    if not args.model:
        raise NetError("brew time needs -model, the net's prototxt")
    if args.iterations < 1:
        raise NetError("-iterations must be at least 1")
    choose_device(args.gpu)
    net = Net(args.model, pb.Phase.Value(args.phase), level=args.level, stages=stages(args.stage))
    net.run_forward()                                      # first runs allocate and choose
    net.run_backward()
    figures = measure(net, args.iterations)
    log_to_stderr()
    _log(figures, args.iterations)
    _show(figures, net)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)
    return 0


def measure(net: Net, iterations: int) -> dict[str, Any]:
    """Median milliseconds: of each layer alone, and of whole runs, where layers may be fused."""
    wait = net.device.synchronize

    def clock(work: Callable[[], object]) -> float:
        start = perf_counter()
        work()
        wait()
        return 1e3 * (perf_counter() - start)

    n = len(net.layers)
    forward: list[list[float]] = [[] for _ in range(n)]
    backward: list[list[float]] = [[] for _ in range(n)]
    whole: list[tuple[float, float]] = []
    for _ in range(iterations):
        for i in range(n):
            forward[i].append(clock(lambda: net.run_forward(i, i)))
        for i in reversed(range(n)):
            backward[i].append(clock(lambda: net.run_backward(i, i)))
        net.clear_param_diffs()
        whole.append((clock(net.run_forward), clock(net.run_backward)))
    layers = []
    for i, layer in enumerate(net.layers):
        flops = layer.flops(net.bottoms[i], net.tops[i])
        f, b = median(forward[i]), median(backward[i])
        layers.append({"name": layer.name, "type": layer.type, "forward_ms": f, "backward_ms": b, "flops": flops,
                       "gflops": flops / f / 1e6 if f else 0.0, "fused": i in net.fusions or any(i in chain for chain in net.fusions.values()),
                       "engine": ", ".join(_kernels(layer)), "layout": _layout(net, i)})
    memories = {id(m.store): sum(a.nbytes for a in m.store.copies.values())
                for blob in [*net._blobs, *(p.blob for p in net.learnable)] for m in (blob.value, blob.gradient)}
    return {"net": net.name, "phase": "TRAIN" if net.phase == pb.TRAIN else "TEST", "device": net.device.name, "iterations": iterations,
            "threads": getattr(net.device, "threads", 0), "layers": layers, "forward_ms": median(f for f, _ in whole),
            "backward_ms": median(b for _, b in whole), "total_ms": median(f + b for f, b in whole), "memory_bytes": sum(memories.values())}


def _kernels(layer: Any) -> list[str]:
    variant = getattr(getattr(layer, "engine", None), "main", None)
    return list(variant.primitive.kernels[:1]) if variant else []


def _layout(net: Net, i: int) -> str:
    layout = net.tops[i][0].value.layout if net.tops[i] else None
    return "plain" if layout is None else "channels last" if layout.grid[1] == 1 else f"blocks of {layout.lanes}"


def _log(figures: dict[str, Any], iterations: int) -> None:
    log.info("Average time per layer: ")
    for layer in figures["layers"]:
        log.info("%10s\tforward: %g ms.", layer["name"], layer["forward_ms"])
        log.info("%10s\tbackward: %g ms.", layer["name"], layer["backward_ms"])
    log.info("Average Forward pass: %g ms.", figures["forward_ms"])
    log.info("Average Backward pass: %g ms.", figures["backward_ms"])
    log.info("Average Forward-Backward: %g ms.", figures["total_ms"])
    log.info("Total Time: %g ms.", figures["total_ms"] * iterations)


def _show(figures: dict[str, Any], net: Net) -> None:
    table = Table(box=box.SIMPLE, title=f"{net.name}, {figures['phase']}, {figures['device']}: median of {figures['iterations']} runs", title_justify="left")
    for name in ("layer", "type", "forward ms", "backward ms", "share", "GFLOP/s", "layout", "kernel"):
        table.add_column(name, justify="left" if name in ("layer", "type", "layout", "kernel") else "right")
    total = sum(row["forward_ms"] + row["backward_ms"] for row in figures["layers"]) or 1.0
    for row in figures["layers"]:
        both = row["forward_ms"] + row["backward_ms"]
        table.add_row(row["name"], row["type"], f"{row['forward_ms']:.3f}", f"{row['backward_ms']:.3f}", f"{both / total:.1%}",
                      f"{row['gflops']:.1f}" if row["flops"] else "", row["layout"] + (", fused" if row["fused"] else ""), row["engine"])
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    print(f"forward {figures['forward_ms']:.3f} ms, backward {figures['backward_ms']:.3f} ms, together {figures['total_ms']:.3f} ms "
          f"(fused layers run as one there); memory {figures['memory_bytes'] / 2**20:.1f} MiB")
