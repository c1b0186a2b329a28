"""brew draw_net: a net as a picture, each layer with its shape, parameters and work."""
from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, prod
from pathlib import Path
from typing import Any

from ..engine.errors import NetError
from ..engine.files import check_writable, write_whole
from ..engine.context import dry_run
from ..engine.net import Net
from ..engine.passes import filter_layers
from ..proto import BrewError
from ..proto import brew_pb2 as pb
from ..proto import read_net, upgrade_net
from .summary import short

FORMATS = ("svg", "png", "pdf")
COLOURS = {"Convolution": "#dbe9f8", "Deconvolution": "#dbe9f8", "DepthwiseConvolution": "#dbe9f8", "SeparableConvolution": "#dbe9f8", "InnerProduct": "#e4dcf4",
           "Pooling": "#fbe8cf", "Data": "#e6e6e6", "Input": "#e6e6e6"}
FONT, LINE, PAD, GAP = 9.0, 12.0, 7.0, 26.0              # points


@dataclass(eq=False)
class Node:
    """A box: a layer and those that rewrite its tops in place. Boxes without lines are bends of long edges."""

    kind: str = ""
    lines: list[str] = field(default_factory=list)
    inputs: list[tuple[Node, str]] = field(default_factory=list)      # where from, and the blob
    rank: int = 0
    at: tuple[float, float] = (0.0, 0.0)
    reach: float = 0.0                                                # from its centre to where edges end: a bend passes its whole rank

    @property
    def width(self) -> float:
        return max((len(line) for line in self.lines), default=0) * 0.56 * FONT + 2 * PAD if self.lines else 4.0

    @property
    def height(self) -> float:
        return len(self.lines) * LINE + 2 * PAD if self.lines else 4.0


def draw(param: pb.NetParameter, direction: str = "TB", format: str = "svg", phase: int | None = None,
         rates: bool = False, python: bool = False) -> bytes:
    """The picture of a net, layers from top to bottom, or in the direction BT, LR or RL. phase: only its layers, else
    all; rates: also lr_mult and decay_mult of the parameters; python: import the modules of Python layers, which runs
    them, for their shapes. Raises NetError for a format that is not svg, png or pdf.
    """
    if format not in FORMATS:
        raise NetError(f'pictures of nets are {", ".join(FORMATS)}, found "{format}"')
    upgraded = pb.NetParameter()
    upgraded.CopyFrom(param)
    param = upgrade_net(upgraded)
    ranks, sideways = _ranks(_nodes(param, phase, rates, python)), direction.upper() in ("LR", "RL")
    size = _place(ranks, sideways)
    for node in (n for nodes in ranks for n in nodes if direction.upper() in ("RL", "BT")):     # the mirror image
        x, y = node.at
        node.at, node.reach = (size[0] - x, y) if sideways else (x, size[1] - y), -node.reach
    return _render(ranks, size, sideways, param.name, format)


def draw_net(args: argparse.Namespace) -> int:
    """Draw as `brew draw_net` was asked to."""
    phase = None if args.phase == "ALL" else pb.Phase.Value(args.phase)
    check_writable(args.picture)
    format = Path(args.picture).suffix[1:].lower() or "svg"
    write_whole(args.picture, draw(read_net(args.net), args.rankdir, format, phase, args.display_lrm, args.python))
    return 0


def _nodes(param: pb.NetParameter, phase: int | None, rates: bool, python: bool) -> list[Node]:
    kept = pb.NetParameter()
    kept.CopyFrom(param)
    if phase is not None:
        kept.state.MergeFrom(pb.NetState(phase=pb.Phase.Name(phase)))
        kept = filter_layers(kept)
    facts: dict[str, list[str]] = {}
    for one in (pb.TEST, pb.TRAIN) if phase is None else (phase,):
        facts.update(_facts(param, one, python))
    makers = {name: Node("Input", [name, "input"]) for name in param.input}
    nodes = list(makers.values())
    for layer in kept.layer:
        lr = [f"rates {', '.join(f'{p.lr_mult:g}/{p.decay_mult:g}' for p in layer.param)}"] if rates and layer.param else []
        if len(layer.bottom) == 1 and list(layer.bottom) == list(layer.top) and layer.bottom[0] in makers:
            makers[layer.bottom[0]].lines += [f"+ {layer.name} ({layer.type})", *lr]
            continue
        if not layer.bottom and layer.top and all(blob in makers for blob in layer.top):      # the same data for another phase
            if layer.name not in makers[layer.top[0]].lines:
                makers[layer.top[0]].lines.append(f"or {layer.name} ({layer.type})")
            continue
        node = Node(layer.type, [layer.name, " ".join([layer.type, *_parameters(layer)]), *facts.get(layer.name, []), *lr])
        for blob in layer.bottom:
            if blob not in makers:
                makers[blob] = Node("Input", [blob, "made by no layer here"])
                nodes.append(makers[blob])
            node.inputs.append((makers[blob], blob))
        makers.update(dict.fromkeys(layer.top, node))
        nodes.append(node)
    return nodes


def _facts(param: pb.NetParameter, phase: int, python: bool) -> dict[str, list[str]]:
    """layer -> its shape, parameters and multiplications, or that they are unknown; {} if the net cannot be built."""
    try:
        with dry_run(python):
            net = Net(param, phase)
    except (BrewError, ImportError, OSError):
        return {}
    found = {layer.name: ["shape unknown"] for layer in net.unknown if layer.top}
    for layer, bottom, top in zip(net.nodes, net.bottoms, net.tops):
        shapes = " x ".join(map(str, top[0].shape)) if top else ""
        count, work = sum(prod(b.shape) for b in layer.blobs), layer.flops(bottom, top) // 2
        cost = ", ".join(part for part in (f"{short(count)} parameters" if count else "", f"{short(work)} MAC" if work else "") if part)
        found[layer.name] = [line for line in (shapes, cost) if line]
    return found


def _parameters(layer: pb.LayerParameter) -> list[str]:
    """Kernel, stride, pad and the like, as far as they are given."""
    if layer.type == "Pooling":
        p: Any = layer.pooling_param
        kind = pb.PoolingParameter.PoolMethod.Name(p.pool)
        return [kind, "global"] if p.global_pooling else [kind, *_window(p)]
    if layer.HasField("convolution_param"):
        return [*_window(layer.convolution_param), *([f"group {layer.convolution_param.group}"] if layer.convolution_param.group > 1 else [])]
    return [pb.EltwiseParameter.EltwiseOp.Name(layer.eltwise_param.operation)] if layer.type == "Eltwise" else []


def _window(p: Any) -> list[str]:
    def value(name: str, short: str) -> list[int]:
        given = getattr(p, name)
        values = ([given] if p.HasField(name) else []) if isinstance(given, int) else list(given)
        return values or ([getattr(p, f"{short}_h"), getattr(p, f"{short}_w")] if p.HasField(f"{short}_h") else [])
    kernel, stride, pad = value("kernel_size", "kernel"), value("stride", "stride"), value("pad", "pad")
    return [*(["x".join(map(str, kernel * 2 if len(kernel) == 1 else kernel))] if kernel else []),
            *([f"/{stride[0]}"] if stride and stride[0] > 1 else []), *([f"pad {pad[0]}"] if any(pad) else [])]


# -------------------------------------------------------------------------------------------------------------- layout


def _ranks(nodes: Sequence[Node]) -> list[list[Node]]:
    """Boxes by rank, each behind all that it reads; bends where an edge passes a rank; crossings few (barycentres, Sugiyama 1981)."""
    for node in nodes:                                       # they come in an order in which each is behind its inputs
        node.rank = 1 + max((source.rank for source, _ in node.inputs), default=-1)
    readers: dict[Node, list[Node]] = {}
    for node in nodes:
        for source, _ in node.inputs:
            readers.setdefault(source, []).append(node)
    for node in nodes:
        if not node.inputs and node in readers:
            node.rank = min(reader.rank for reader in readers[node]) - 1
    ranks: list[list[Node]] = [[] for _ in range(1 + max((node.rank for node in nodes), default=0))]
    for node in nodes:
        ranks[node.rank].append(node)
    for node in nodes:
        for k, (source, blob) in enumerate(node.inputs):
            for rank in range(source.rank + 1, node.rank):
                bend = Node(rank=rank, inputs=[(source, blob)])
                ranks[rank].append(bend)
                source = bend
            node.inputs[k] = (source, blob)
    outputs: dict[Node, list[Node]] = {}
    for rank_nodes in ranks:
        for node in rank_nodes:
            for source, _ in node.inputs:
                outputs.setdefault(source, []).append(node)
    for turn in range(8):
        down = turn % 2 == 0
        for rank_nodes, others in zip(ranks[1:] if down else ranks[-2::-1], ranks if down else ranks[:0:-1]):
            order = {node: i for i, node in enumerate(others)}
            own = {node: i for i, node in enumerate(rank_nodes)}

            def centre(node: Node) -> float:
                near = [order[n] for n in ([s for s, _ in node.inputs] if down else outputs.get(node, [])) if n in order]  # noqa: B023  (used at once)
                return sum(near) / len(near) if near else own[node] * len(order) / max(len(own), 1)  # noqa: B023
            rank_nodes.sort(key=centre)
    return ranks


def _place(ranks: list[list[Node]], sideways: bool) -> tuple[float, float]:
    """Give each node its `at`, (x, y) of its centre in points from the upper left; returns the size of the picture."""
    def breadth(node: Node) -> float:
        return node.height if sideways else node.width

    place: dict[Node, float] = {}
    for nodes in ranks:
        edge = 0.0
        for node in nodes:
            place[node] = edge + breadth(node) / 2
            edge += breadth(node) + GAP / 2
    near: dict[Node, list[Node]] = {}
    for nodes in ranks:
        for node in nodes:
            for source, _ in node.inputs:
                near.setdefault(node, []).append(source)
                near.setdefault(source, []).append(node)
    def packed(nodes: Sequence[Node], wanted: Sequence[float], step: int) -> list[float]:
        """As near to `wanted` as room allows for boxes that are pushed one way: 1 or -1."""
        found, edge = [], -inf
        for node, x in list(zip(nodes, wanted))[::step]:
            half = breadth(node) / 2
            edge = max(step * x - half, edge) + 2 * half + GAP / 2
            found.append(step * (edge - half - GAP / 2))
        return found[::step]

    for _ in range(24):                                      # each goes to the mean of its neighbours, as far as there is room
        for nodes in ranks:
            wanted = [sum(place[n] for n in near[node]) / len(near[node]) if near.get(node) else place[node] for node in nodes]
            for node, a, b in zip(nodes, packed(nodes, wanted, 1), packed(nodes, wanted, -1)):
                place[node] = (a + b) / 2
    low = min((place[node] - breadth(node) / 2 for nodes in ranks for node in nodes), default=0.0)
    high = max((place[node] + breadth(node) / 2 for nodes in ranks for node in nodes), default=0.0)
    along = GAP
    for nodes in ranks:
        depth = max((node.width if sideways else node.height for node in nodes), default=0.0)
        for node in nodes:
            across = place[node] - low + GAP
            node.at = (along + depth / 2, across) if sideways else (across, along + depth / 2)
            node.reach = (node.width if sideways else node.height) / 2 if node.lines else depth / 2
        along += depth + GAP
    return (along, high - low + 2 * GAP) if sideways else (high - low + 2 * GAP, along)


def _render(ranks: list[list[Node]], size: tuple[float, float], sideways: bool, title: str, format: str) -> bytes:
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.patches import FancyBboxPatch
    except ImportError:
        raise NetError("drawing needs matplotlib: pip install 'brew[plot]'") from None
    width, height = size[0], size[1] + LINE
    dpi = min(110.0, 60000 * 72 / max(width, height))         # no picture may have more pixels along a side
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "brew"}):
        figure = Figure(figsize=(width / 72, height / 72), dpi=dpi)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.axis("off")
        axes.text(PAD, LINE, title, fontsize=FONT + 2, fontweight="bold")
        for node in (n for nodes in ranks for n in nodes):
            x, y = node.at
            for source, _ in node.inputs:
                (a, b), (c, d) = source.at, node.at
                start, end = ((a + source.reach, b), (c - node.reach, d)) if sideways else ((a, b + source.reach), (c, d - node.reach))
                axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>" if node.lines else "-", "color": "#777777", "lw": 0.8, "shrinkA": 0, "shrinkB": 0})
            if not node.lines:
                dx, dy = (node.reach, 0.0) if sideways else (0.0, node.reach)
                axes.plot([x - dx, x + dx], [y - dy, y + dy], color="#777777", lw=0.8)
            else:
                colour = COLOURS.get(node.kind, "#f8dcdc" if "Loss" in node.kind else "#e6e6e6" if node.kind.endswith("Data") else "#ffffff")
                axes.add_patch(FancyBboxPatch((x - node.width / 2 + 2, y - node.height / 2 + 2), node.width - 4, node.height - 4, boxstyle="round,pad=2", fc=colour, ec="#555555", lw=0.8))
                for i, line in enumerate(node.lines):
                    axes.text(x, y - node.height / 2 + PAD + LINE * (i + 0.5), line, ha="center", va="center", fontsize=FONT, fontweight="bold" if i == 0 else "normal")
        out = io.BytesIO()
        figure.savefig(out, format=format, metadata={"Date": None} if format == "svg" else None)
    return out.getvalue()
