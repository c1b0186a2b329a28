"""BatchNorm with the Scale and the ReLU behind it: as one pass, one after the other, and written out of place, all the same."""
from __future__ import annotations

import numpy as np
import pytest

import brew
from brew.engine.errors import NetError
from brew.proto import parse, pb

RNG = np.random.default_rng(6)
SHAPE = (4, 20, 5, 3)
X, DY = RNG.normal(size=SHAPE).astype(np.float32) * 2 + 1, RNG.normal(size=SHAPE).astype(np.float32)
SCALE, SHIFT = RNG.uniform(0.5, 2, 20), RNG.normal(size=20)


def net(bn_top: str, scale_top: str, relu: bool, more: str = "", phase: int = pb.TRAIN) -> brew.Net:
    """x -> (a convolution, so that a layout is chosen) -> BatchNorm -> Scale -> ReLU in place."""
    text = f"""force_backward: true layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ {" ".join(f"dim: {d}" for d in SHAPE)} }} }} }}
        layer {{ name: "conv" type: "Convolution" bottom: "x" top: "c" convolution_param {{ num_output: 20 kernel_size: 1 bias_term: false weight_filler {{ type: "xavier" }} }} }}
        layer {{ name: "bn" type: "BatchNorm" bottom: "c" top: "{bn_top}" {more} }}
        layer {{ name: "scale" type: "Scale" bottom: "{bn_top}" top: "{scale_top}" scale_param {{ bias_term: true }} }}
        {f'layer {{ name: "relu" type: "ReLU" bottom: "{scale_top}" top: "{scale_top}" }}' if relu else ''}"""
    n = brew.Net(parse(text, pb.NetParameter()), phase, seed=3)
    n.params["scale"][0].data[...], n.params["scale"][1].data[...] = SCALE, SHIFT
    n.params["bn"][0].data[...], n.params["bn"][1].data[...], n.params["bn"][2].data[...] = 3 * SHIFT, 6 * SCALE, 3
    return n


def run(n: brew.Net, top: str, forward: str = "whole", backward: str = "whole") -> dict[str, np.ndarray]:
    n.blobs["x"].data[...] = X
    for name in n._layer_names[1:] if forward == "apart" else [None]:
        n.forward(start=name, end=name)
    n.blobs[top].diff[...] = DY
    n.clear_param_diffs()
    for name in reversed(n._layer_names[1:]) if backward == "apart" else [None]:
        n.backward(start=name, end=name)
    found = {"y": n.blobs[top].data, "dx": n.blobs["x"].diff, **{f"{k}{i}": b.diff for k in ("conv", "scale") for i, b in enumerate(n.params[k])},
             **{f"bn{i}": b.data for i, b in enumerate(n.params["bn"])}}
    return {name: values.copy() for name, values in found.items()}


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("more", ["", "batch_norm_param { use_global_stats: true }"])
def test_one_pass_and_three_give_the_same(relu: bool, more: str, device: str) -> None:
    apart = run(net("b", "y", relu, more), "y", "apart", "apart")
    for bn_top, top in (("c", "c"), ("b", "b"), ("b", "y")):
        for forward in ("whole", "apart"):
            for backward in ("whole", "apart"):
                n = net(bn_top, top, relu, more)
                assert (2 in n.fusions) == (bn_top == top) and n.fusions.get(2, [3, 4][:1 + relu]) == [3, 4][:1 + relu]
                for name, values in run(n, top, forward, backward).items():
                    np.testing.assert_allclose(values, apart[name], rtol=1e-4, atol=1e-4, err_msg=f"{name}, {bn_top} to {top}, forward {forward}, backward {backward}")


def test_in_test_the_three_are_one_multiplication(device: str) -> None:
    n = net("c", "c", True, phase=pb.TEST)
    n.blobs["x"].data[...] = X
    n.forward(end="conv")
    c = n.blobs["c"].data.copy()
    n.forward()
    s, t, mean, variance = (v[:, None, None] for v in (SCALE, SHIFT, SHIFT, 2 * SCALE))
    np.testing.assert_allclose(n.blobs["c"].data, np.maximum((c - mean) / np.sqrt(variance + 1e-5) * s + t, 0), rtol=1e-4, atol=1e-4)


def test_moments_are_those_of_numpy_on_any_scale(device: str) -> None:
    """Values far from zero, many and few to a channel: sums in single precision alone would lose the variance."""
    for shape in ((3, 5, 200, 150), (6000, 3), (2, 20, 1, 1), (1, 17, 3, 3)):
        x = (1000 + RNG.normal(size=shape)).astype(np.float32)
        text = f'layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ {" ".join(f"dim: {d}" for d in shape)} }} }} }} layer {{ name: "bn" type: "BatchNorm" bottom: "x" top: "y" }}'
        n = brew.Net(parse(text, pb.NetParameter()), brew.TRAIN)
        n.blobs["x"].data[...] = x
        n.forward()
        axes, m = tuple(i for i in range(len(shape)) if i != 1), x.size // shape[1]
        np.testing.assert_allclose(n.params["bn"][0].data, x.astype(float).mean(axes), rtol=1e-6)
        np.testing.assert_allclose(n.params["bn"][1].data, x.astype(float).var(axes) * m / (m - 1), rtol=2e-3 if device in ("shim", "gpu") else 1e-4)


@pytest.mark.parametrize("param, nvidia, fine", [
    ("param { lr_mult: 1 }", True, True), ("param { lr_mult: 1 } param { lr_mult: 1 } param { lr_mult: 1 }", True, True), ("param { lr_mult: 0 }", True, True),
    ("param { lr_mult: 1 }", False, False), ("param { lr_mult: 0 }", False, True)])
def test_rates_of_statistics(param: str, nvidia: bool, fine: bool, caplog: pytest.LogCaptureFixture) -> None:
    """NVIDIA's fork, which scale_filler and the like say it is, sets them to 0 itself: one warning."""
    mode = "batch_norm_param { scale_filler { value: 1 } bias_filler { value: 0 } }" if nvidia else ""
    text = f"""layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 dim: 2 dim: 2 }} }} }}
               layer {{ name: "bn" type: "BatchNorm" bottom: "x" top: "y" {param} {mode} }}"""
    if not fine:
        with pytest.raises(NetError, match="its blobs are statistics: their lr_mult must be 0"):
            brew.Net(parse(text, pb.NetParameter()), pb.TRAIN)
        return
    n = brew.Net(parse(text, pb.NetParameter()), pb.TRAIN)
    assert [p.lr_mult for p in n.learnable] == [0, 0, 0, 1, 1][:5 if nvidia else 3]
    assert caplog.text.count("their lr_mult is 0, whatever param says") == ("lr_mult: 1" in param)
