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


def get_pooling_types_dict() -> dict[int, str]:
    """{number: name} of the kinds of pooling."""
    p = pb.PoolingParameter
    return {number: p.PoolMethod.Name(number) for number in (p.MAX, p.AVE, p.STOCHASTIC)}


def get_layer_lr_mult(layer: pb.LayerParameter) -> list[float]:
    """The lr_mult of the parameters of a layer that says them or can have them."""
    given = [p.lr_mult for p in layer.param]
    return given + [1.0] * (2 - len(given)) if layer.type in ("Convolution", "Deconvolution", "InnerProduct") else given


def get_edge_label(layer: pb.LayerParameter) -> str:
    """What an edge from a layer says: how many outputs, or a batch's size; in quotes."""
    outputs = layer.convolution_param.num_output or layer.inner_product_param.num_output
    batch = layer.data_param.batch_size
    return str(outputs) if outputs else f"Batch {batch}" if batch else '""'


def choose_color_by_layertype(layertype: str) -> str:
    """The colour of a layer's box."""
    return COLOURS.get(layertype, "#ffffff")


def get_layer_label(layer: pb.LayerParameter, rankdir: str, display_lrm: bool = False) -> str:
    """What a layer's box says, in quotes: name, type, window; with display_lrm its rates. Lines are side by side if the
    net is drawn from top to bottom."""
    parts = [layer.name, f"({layer.type})"]
    if layer.type in ("Convolution", "Deconvolution"):
        p = layer.convolution_param
        window = [*p.kernel_size[:1], p.kernel_h][0], [*p.stride[:1], p.stride_h or 1][0], [*p.pad[:1], p.pad_h][0]
        parts.append("kernel size: {}, stride: {}, pad: {}".format(*window))
    elif layer.type == "Pooling":
        q = layer.pooling_param
        parts[1] = f"({get_pooling_types_dict()[q.pool]} {layer.type})"
        parts.append(f"kernel size: {q.kernel_size}, stride: {q.stride}, pad: {q.pad}")
    if display_lrm and get_layer_lr_mult(layer):
        parts.append("lr mult: " + ", ".join(f"{rate:g}" for rate in get_layer_lr_mult(layer)))
    return '"' + (" " if rankdir in ("TB", "BT") else "\\n").join(parts) + '"'


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
        graph.add_node(pydot.Node(f'"{node}"', shape="record", style="filled", label=get_layer_label(layer, rankdir, display_lrm),
                                  fillcolor=choose_color_by_layertype(layer.type)))
        for blob in {*layer.bottom, *layer.top}:
            graph.add_node(pydot.Node(f'"{blob}_blob"', shape="octagon", label=f'"{blob}"'))
        for blob in layer.bottom:
            graph.add_edge(pydot.Edge(f'"{blob}_blob"', f'"{node}"'))
        for blob in layer.top:
            label = {"label": get_edge_label(layer)} if label_edges else {}
            graph.add_edge(pydot.Edge(f'"{node}"', f'"{blob}_blob"', **label))
    return graph
