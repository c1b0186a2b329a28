"""brew summary: a net's layers with shapes, parameters, work and memory, without running it."""
from __future__ import annotations

import argparse
from rich import box
from rich.console import Console
from rich.table import Table

from ..engine.context import dry_run
from ..engine.errors import NetError
from ..engine.graph import Graph
from ..engine.layer import layer_class
from ..engine.net import Net
from ..proto import brew_pb2 as pb
from .cli import stages


def summary(args: argparse.Namespace) -> int:
    """Print the table for `brew summary`."""
    if not args.model:
        raise NetError("brew summary needs -model, the net's prototxt")
    with dry_run(args.python):
        net = Net(args.model, pb.Phase.Value(args.phase), level=args.level, stages=stages(args.stage))
    graph = net.graph
    table = Table(box=box.SIMPLE, title=f"{net.name} ({args.phase})", title_justify="left")
    for name, justify in (("layer", "left"), ("type", "left"), ("top", "left"), ("shape", "left"), ("parameters", "right"), ("MACs", "right"), ("memory", "right")):
        table.add_column(name, justify=justify, no_wrap=name in ("shape", "parameters", "MACs", "memory"))  # type: ignore[arg-type]
    for i, (layer, bottom, top) in enumerate(zip(graph.nodes, graph.bottoms, graph.tops)):
        parameters = sum(b.count for b in layer.blobs)
        shapes = "\n".join(" x ".join(map(str, b.shape)) or "scalar" for b in top)
        own = sum(b.count for b in top if not any(b is x for x in bottom))
        table.add_row(layer.name, layer.type, "\n".join(graph.top_names(i)), shapes,
                      f"{parameters:,}" if parameters else "",
                      short(layer.flops(bottom, top) // 2), _bytes(4 * own) if own else "")
    for param in net.unknown:
        if param.type != "Split":
            shapes = "\n".join("unknown" for _ in param.top)
            table.add_row(param.name, param.type, "\n".join(param.top), shapes, "unknown", "unknown", "unknown")
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    owned = sum(p.blob.count for p in graph.parameters)
    macs = sum(layer.flops(b, t) for layer, b, t in zip(graph.nodes, graph.bottoms, graph.tops)) // 2
    if net.unknown:
        imported = [layer.name for layer in net.unknown if layer_class(layer).user_code]
        print(f"unknown     the layers listed last: they depend on the Python layer{'s' if len(imported) > 1 else ''} "
              f"{', '.join(imported)}, not imported (-python imports)\n            the figures below leave them out")
    print(f"parameters  {owned:,} ({_bytes(4 * owned)})")
    items = _batch(graph)
    print(f"MACs        {macs:,} for the batch of {items}" + (f", {short(macs // items)} for each item" if items > 1 else ""))
    train, tables = args.phase == "TRAIN", sum(layer.table_bytes() for layer in graph.nodes)
    print(f"memory      {'at most ' if train else ''}{_bytes(graph.memory * (2 if train else 1))} for blobs{' and their gradients, which take turns' if train else ''}, "
          f"{_bytes(4 * owned * (3 if train else 1))} for parameters{', gradients and history' if train else ''}" + (f", {_bytes(tables)} for tables" if tables else ""))
    return 0


def _batch(graph: Graph) -> int:
    return next((b.shape[0] for top in graph.tops for b in top if b.shape), 1)


def short(n: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return str(n) if n else ""


def _bytes(n: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} B"
