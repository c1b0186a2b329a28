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
from ..engine.files import check_writable, write_whole
from ..engine.layout import PLAIN
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
    if args.json:
        check_writable(args.json)
    choose_device(args.gpu)
    net = Net(args.model, pb.Phase.Value(args.phase), level=args.level, stages=stages(args.stage))
    figures = measure(net, args.iterations)
    log_to_stderr()
    _log(figures, args.iterations)
    _show(figures, net)
    if args.json:
        write_whole(args.json, json.dumps(figures, indent=1).encode())
    return 0


def measure(net: Net, iterations: int) -> dict[str, Any]:
    """Median milliseconds of whole runs and of each layer alone; what runs as one; which kernels, layouts and copies."""
    runs_with = {k: net.nodes[first].name for first, chain in net.fusions.items() for k in chain}
    forward_ms, backward_ms, memory = _whole_runs(net, iterations)
    layers = []
    for i, (layer, f, b, copies) in enumerate(zip(net.nodes, *_alone(net, iterations))):
        flops = layer.flops(net.bottoms[i], net.tops[i])
        layers.append({"name": layer.name, "type": layer.type, "forward_ms": f, "backward_ms": b, "flops": flops,
                       "gflops": flops / f / 1e6 if f else 0.0, "runs_with": runs_with.get(i, ""), "kernel": getattr(getattr(layer, "engine", None), "kernel", ""),
                       "layout": _layout_name(net.tops[i][0].value.layout) if net.tops[i] else "", "copies": copies,
                       "parts_ms": {name: 1e3 * seconds / iterations for name, seconds in (layer.parts or {}).items()}})
    return {"net": net.name, "phase": "TRAIN" if net.phase == pb.TRAIN else "TEST", "device": net.device.name, "iterations": iterations,
            "threads": getattr(net.device, "threads", 0), "layers": layers, "forward_ms": forward_ms,
            "backward_ms": backward_ms, "total_ms": forward_ms + backward_ms, "memory_bytes": memory}


def _clock(net: Net, work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    net.device.synchronize()
    return 1e3 * (perf_counter() - start)


def _whole_runs(net: Net, iterations: int) -> tuple[float, float, int]:
    """Milliseconds forward and backward, layers fused and memory reused as when it trains or, in TEST, is used; its bytes."""
    training = net.phase == pb.TRAIN

    def forward() -> None:
        _renew_inputs(net)
        net.run_forward(keep=not training)

    def backward() -> None:
        net.clear_param_diffs()
        net.run_backward(keep=not training)

    forward()                                                  # first runs allocate and choose
    if training:
        backward()
        forward_ms, backward_ms = (median(times) for times in zip(*[(_clock(net, forward), _clock(net, backward)) for _ in range(iterations)]))
        return forward_ms, backward_ms, _memory(net)
    forward_ms, memory = median(_clock(net, forward) for _ in range(iterations)), _memory(net)
    backward()                                                 # from here on all values are kept
    return forward_ms, median(_clock(net, backward) for _ in range(iterations)), memory


def _alone(net: Net, iterations: int) -> tuple[list[float], list[float], list[list[str]]]:
    """Milliseconds of each layer forward and backward, and the copies it makes."""
    everything = range(len(net.nodes))
    net.keep_values = True
    net.run_forward()
    net.run_backward()
    _renew_inputs(net)
    copies = [_copies(net, i, net.run_forward) for i in everything]
    for i in reversed(everything):
        copies[i] += _copies(net, i, net.run_backward)
    forward: list[list[float]] = [[] for _ in everything]
    backward: list[list[float]] = [[] for _ in everything]
    for layer in net.nodes:
        layer.parts = {}
    for _ in range(iterations):
        _renew_inputs(net)
        net.clear_param_diffs()
        for i in everything:
            forward[i].append(_clock(net, lambda: net.run_forward(i, i)))
        for i in reversed(everything):
            backward[i].append(_clock(net, lambda: net.run_backward(i, i)))
    return [median(times) for times in forward], [median(times) for times in backward], copies


def _renew_inputs(net: Net) -> None:
    """Let inputs count as written, as they are for every batch, so that what layers make of them is made again."""
    for name in net.inputs:
        net.blobs[name].value.update()


def _memory(net: Net) -> int:
    """Bytes that the net's blobs hold, and those that they gave up for each other."""
    stores = {id(m.store): m.store for blob in [*net.blobs.values(), *(p.blob for p in net.learnable)] for m in (blob.value, blob.gradient)}
    return sum(store.nbytes for store in stores.values()) + net.context.pool.nbytes


def _copies(net: Net, i: int, run: Callable[[int, int], object]) -> list[str]:
    """Which blobs layer i copies to another layout, or to the GPU, in a run of it."""
    parts = [(name, getattr(net.blobs[name], part).store) for name in dict.fromkeys([*net.bottom_names[net.nodes[i].name], *net.top_names[net.nodes[i].name]])
             for part in ("value", "gradient")]
    before = [store.current for _, store in parts]
    run(i, i)
    return [f"{name} to {_layout_name(layout)}" for (name, store), had in zip(parts, before)
            if had and had < store.current for layout in store.current - had]


def _layout_name(layout: Any) -> str:
    return "plain" if layout is PLAIN else str(layout)


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
    for name in ("layer", "type", "forward ms", "backward ms", "share", "GFLOP/s", "layout", "kernel", "runs with", "copies"):
        table.add_column(name, justify="right" if name in ("forward ms", "backward ms", "share", "GFLOP/s") else "left")
    total = sum(row["forward_ms"] + row["backward_ms"] for row in figures["layers"]) or 1.0
    for row in figures["layers"]:
        both = row["forward_ms"] + row["backward_ms"]
        table.add_row(row["name"], row["type"], f"{row['forward_ms']:.3f}", f"{row['backward_ms']:.3f}", f"{both / total:.1%}",
                      f"{row['gflops']:.1f}" if row["flops"] else "", row["layout"], row["kernel"], row["runs_with"], ", ".join(row["copies"]))
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    for row in figures["layers"]:
        if row["parts_ms"]:
            print(f"{row['name']}: " + ", ".join(f"{name} {ms:.3f} ms" for name, ms in row["parts_ms"].items()))
    print("Each layer alone; in whole runs those that name another run in its pass, and blobs in between are not made. Copies are of blobs to other layouts.")
    print(f"whole runs: forward {figures['forward_ms']:.3f} ms, backward {figures['backward_ms']:.3f} ms, together {figures['total_ms']:.3f} ms; "
          f"memory {figures['memory_bytes'] / 2**20:.1f} MiB")
