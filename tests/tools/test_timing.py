"""What brew time tells of a net: what runs as one, in which layout, with which copies."""
from __future__ import annotations

import numpy as np
import pytest

import brew
from brew.kernels import onednn
from brew.proto import parse, pb
from brew.tools.timing import measure

# a shortcut that the second convolution can add in its own pass, and a layer that wants plain memory behind
NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 32 dim: 12 dim: 12 } } }
layer { name: "c1" type: "Convolution" bottom: "x" top: "c1" convolution_param { num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "c2" type: "Convolution" bottom: "c1" top: "c2" convolution_param { num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "b2" type: "BatchNorm" bottom: "c2" top: "c2" }
layer { name: "sum" type: "Eltwise" bottom: "c1" bottom: "c2" top: "sum" }
layer { name: "ip" type: "InnerProduct" bottom: "sum" top: "ip" inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.mark.skipif(onednn is None, reason="brew was built without oneDNN")
@pytest.mark.parametrize("phase, with_c2", [(brew.TRAIN, []), (brew.TEST, ["b2", "sum"])])
def test_says_what_runs_as_one_and_what_is_copied(phase: int, with_c2: list[str]) -> None:
    net = brew.Net(parse(NET, pb.NetParameter(), "net.prototxt"), phase, seed=1)
    net.blobs["x"].data[...] = np.random.default_rng(0).standard_normal(net.blobs["x"].shape)
    figures = measure(net, 2)
    rows = {row["name"]: row for row in figures["layers"]}
    assert rows["r1"]["runs_with"] == "c1" and [name for name in rows if rows[name]["runs_with"] == "c2"] == with_c2
    layout = rows["c1"]["layout"]
    assert layout.startswith("blocks of ") and rows["c1"]["copies"][0] == f"x to {layout}" and rows["c2"]["copies"] == []
    assert "sum to plain" in rows["ip"]["copies"] and rows["ip"]["layout"] == "plain"
    assert figures["memory_bytes"] > 0 and figures["total_ms"] == figures["forward_ms"] + figures["backward_ms"]
