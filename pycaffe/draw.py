"""caffe.draw: nets as pictures. The drawing is brew's own (brew draw_net) and needs matplotlib; a pydot graph needs pydot."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from ..engine.errors import NetError
from ..engine.files import write_whole
from ..engine.passes import filter_layers
from ..proto import brew_pb2 as pb
from ..tools.draw import COLOURS, draw


def draw_net(caffe_net: pb.NetParameter, rankdir: str, ext: str = "png", phase: int | None = None, display_lrm: bool = False) -> bytes:
    """The picture of a NetParameter as bytes: png, svg or pdf. rankdir: TB, BT, LR or RL; phase: only its layers; display_lrm: rates, too."""
    return draw(caffe_net, rankdir, ext, phase, display_lrm)


def draw_net_to_file(caffe_net: pb.NetParameter, filename: str | Path, rankdir: str = "LR", phase: int | None = None, display_lrm: bool = False) -> None:
    """Write the picture; the file's ending says which kind."""
    write_whole(filename, draw_net(caffe_net, rankdir, Path(filename).suffix.lstrip(".") or "png", phase, display_lrm))


def get_pydot_graph(caffe_net: pb.NetParameter, rankdir: str, label_edges: bool = True, phase: int | None = None, display_lrm: bool = False) -> Any:
    """The net as a pydot graph: a box for each layer, an octagon for each blob. Raises NetError without pydot."""
    try:
        import pydot
    except ImportError:
        raise NetError("a pydot graph needs pydot: pip install pydot (draw_net and draw_net_to_file do without)") from None
    kept = pb.NetParameter()
    kept.CopyFrom(caffe_net)
    if phase is not None:
        kept.state.MergeFrom(pb.NetState(phase=pb.Phase.Name(phase)))
        kept = filter_layers(kept)
    graph = pydot.Dot(kept.name or "Net", graph_type="digraph", rankdir=rankdir)
    for layer in kept.layer:
        node = f"{layer.name}_{layer.type}"
        rates = "\\nlr " + ", ".join(f"{p.lr_mult:g}" for p in layer.param) if display_lrm and layer.param else ""
        graph.add_node(pydot.Node(f'"{node}"', shape="record", style="filled", fillcolor=COLOURS.get(layer.type, "#ffffff"), label=f'"{layer.name}\\n({layer.type}){rates}"'))
        for blob in {*layer.bottom, *layer.top}:
            graph.add_node(pydot.Node(f'"{blob}_blob"', shape="octagon", label=f'"{blob}"'))
        outputs = layer.convolution_param.num_output or layer.inner_product_param.num_output
        for blob in layer.bottom:
            graph.add_edge(pydot.Edge(f'"{blob}_blob"', f'"{node}"'))
        for blob in layer.top:
            graph.add_edge(pydot.Edge(f'"{node}"', f'"{blob}_blob"', **({"label": str(outputs)} if label_edges and outputs else {})))
    return graph
