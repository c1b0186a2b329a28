"""Nets: which layers are there, what is shared, what runs backward, and what the user sees."""
from __future__ import annotations

import numpy as np
import pytest

import brew
from brew.engine.errors import NetError, ShapeError, WeightsError
from brew.proto import parse, pb


def net(text: str, phase: int = brew.TRAIN, file: str = "net.prototxt", **options: object) -> brew.Net:
    return brew.Net(parse(text, pb.NetParameter(), file), phase, seed=1, **options)  # type: ignore[arg-type]


def data(*shapes: tuple[int, ...]) -> str:
    return "".join(f'layer {{ name: "in{i}" type: "Input" top: "x{i}" input_param {{ shape {{ {" ".join(f"dim: {d}" for d in s)} }} }} }}\n' for i, s in enumerate(shapes))


IP = 'inner_product_param { num_output: %d weight_filler { type: "xavier" } }'


# --------------------------------------------------------------------------------------------------- which layers

RULES = [("include { phase: TRAIN }", [("TRAIN", 0, [])], [("TEST", 0, [])]), ("include { min_level: 2 }", [("TRAIN", 2, []), ("TEST", 9, [])], [("TRAIN", 1, [])]),
         ("include { max_level: 1 }", [("TRAIN", 1, [])], [("TRAIN", 2, [])]), ('include { stage: "a" stage: "b" }', [("TRAIN", 0, ["a", "b", "c"])], [("TRAIN", 0, ["a"])]),
         ('include { not_stage: "a" }', [("TRAIN", 0, ["b"])], [("TRAIN", 0, ["a", "b"])]), ('exclude { stage: "a" }', [("TRAIN", 0, [])], [("TRAIN", 0, ["a"])]),
         ('include { phase: TEST } include { stage: "a" }', [("TEST", 0, []), ("TRAIN", 0, ["a"])], [("TRAIN", 0, [])])]


@pytest.mark.parametrize("rule, kept, dropped", RULES)
def test_rules_choose_layers(rule: str, kept: list, dropped: list) -> None:  # type: ignore[type-arg]
    text = data((1, 2)) + f'layer {{ name: "r" type: "ReLU" bottom: "x0" top: "y" {rule} }}'
    for states, there in ((kept, True), (dropped, False)):
        for phase, level, stages in states:
            assert ("r" in net(text, pb.Phase.Value(phase), level=level, stages=stages).layer_dict) is there, (phase, level, stages)


def test_splits_have_caffes_names_and_carry_loss_weights() -> None:
    n = net(data((2, 3)) + 'layer { name: "a" type: "Flatten" bottom: "x0" top: "y" loss_weight: 2 } layer { name: "b" type: "ReLU" bottom: "y" top: "z" }')
    assert list(n.blobs) == ["x0", "y", "y_a_0_split_0", "y_a_0_split_1", "z"]
    assert n.blob_loss_weights["y_a_0_split_0"] == 2 and n.blob_loss_weights["y"] == 0 and n.bottom_names["b"] == ["y_a_0_split_1"]


def test_readers_of_a_blob_rewritten_in_place_read_the_new_one() -> None:
    n = net(data((2, 3)) + 'layer { name: "r" type: "ReLU" bottom: "x0" top: "x0" } layer { name: "a" type: "TanH" bottom: "x0" top: "a" } layer { name: "b" type: "TanH" bottom: "x0" top: "b" }')
    assert "x0_r_0_split" in n.layer_dict and n.outputs == ["a", "b"]


# -------------------------------------------------------------------------------------------------------- sharing

def shared(mode: str = "", second: int = 4, rates: tuple[str, str] = ("", "")) -> brew.Net:
    return net(data((2, 4)) + f'layer {{ name: "a" type: "InnerProduct" bottom: "x0" top: "a" param {{ name: "w" {rates[0]} }} {IP % 4} }}\n'
               f'layer {{ name: "b" type: "InnerProduct" bottom: "a" top: "b" param {{ name: "w" {mode} {rates[1]} }} {IP % second} }}')


def test_shared_parameters_are_one_blob_with_one_gradient() -> None:
    n = shared()
    assert n.params["a"][0] is n.params["b"][0] and n.params["a"][1] is not n.params["b"][1]
    assert [(p.layer, p.index) for p in n.learnable] == [("a", 0), ("a", 1), ("b", 1)]


def test_strict_sharing_needs_one_shape_and_permissive_one_count() -> None:
    with pytest.raises(NetError) as e:
        shared(second=2)
    assert str(e.value).startswith('net.prototxt:3:1: layer "b" (type "InnerProduct"): shares "w" with layer "a", whose shape is (4, 4); it needs (2, 4)')
    with pytest.raises(NetError, match="which has 16 values; it needs 8"):
        shared("share_mode: PERMISSIVE", 2)


def test_rates_of_shared_parameters_must_agree() -> None:
    assert shared(rates=("", "lr_mult: 3")).learnable[0].lr_mult == 3
    with pytest.raises(NetError, match='shares "w" with layer "a" and gives another lr_mult'):
        shared(rates=("lr_mult: 2", "lr_mult: 3"))


# ------------------------------------------------------------------------------------------------------- backward

CHAIN = data((2, 4), (2,)) + f"""
layer {{ name: "a" type: "InnerProduct" bottom: "x0" top: "a" PARAM {IP % 4} }}
layer {{ name: "b" type: "InnerProduct" bottom: "a" top: "b" DOWN {IP % 3} }}
layer {{ name: "side" type: "InnerProduct" bottom: "a" top: "side" {IP % 2} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "b" bottom: "x1" top: "loss" }}"""


@pytest.mark.parametrize("param, down, expected", [
    ("", "", {"a": True, "b": True, "side": False, "loss": True}),
    ("param { lr_mult: 0 } param { lr_mult: 0 }", "", {"a": False, "b": True, "side": False, "loss": True}),
    ("", "propagate_down: false", {"a": False, "b": True, "side": False, "loss": True})])
def test_backward_runs_where_a_loss_asks_and_something_learns(param: str, down: str, expected: dict[str, bool]) -> None:
    n = net(CHAIN.replace("PARAM", param).replace("DOWN", down))
    assert {name: run for name, run in zip(n._layer_names, n.graph.runs) if name in expected} == expected


def test_force_backward_gives_every_blob_but_labels_a_gradient() -> None:
    n = net("force_backward: true " + CHAIN.replace("PARAM", "").replace("DOWN", ""))
    n.blobs["x0"].data[...] = np.random.default_rng(0).standard_normal((2, 4))
    n.forward()
    n.backward()
    assert np.abs(n.blobs["x0"].diff).sum() > 0 and np.abs(n.blobs["x1"].diff).sum() == 0


# ------------------------------------------------------------------------------------------- what the user holds

CONV = data((2, 3, 8, 8)) + 'layer { name: "c" type: "Convolution" bottom: "x0" top: "c" convolution_param { num_output: 32 kernel_size: 3 weight_filler { type: "xavier" } } }\n' \
    'layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 2 stride: 2 } }'


def test_views_are_live(device: str) -> None:
    n = net(CONV)
    x, c, w = n.blobs["x0"].data, n.blobs["c"].data, n.params["c"][0].data
    x[...] = np.random.default_rng(0).standard_normal(x.shape)
    first = n.forward()["p"].copy()
    before = c.copy()
    assert np.abs(before).max() > 0                      # a view from before shows the results
    w *= 2                                                # and a held parameter is read again
    second = n.forward()["p"]
    np.testing.assert_allclose(second, 2 * first, rtol=1e-5)
    np.testing.assert_allclose(c, 2 * before, rtol=1e-5)


def test_memory_outlives_the_net() -> None:
    n = net(CONV)
    n.blobs["x0"].data[...] = 1
    views = [n.forward()["p"], n.params["c"][0].data]
    copies = [v.copy() for v in views]
    del n
    assert all((v == c).all() for v, c in zip(views, copies))


def test_forward_and_backward_run_parts() -> None:
    n = net(CONV)
    n.blobs["x0"].data[...] = 1
    whole = n.forward()["p"].copy()
    assert set(n.forward(end="c")) == {"c"}
    n.blobs["c"].data[...] = 0
    assert (n.forward(start="p")["p"] == 0).all() and (whole != 0).any()
    assert set(n.forward(blobs=["c"])) == {"p", "c"}


def test_reshape_goes_through_the_net(device: str) -> None:
    n = net(CONV)
    n.blobs["x0"].reshape(5, 3, 12, 10)
    n.reshape()
    assert n.blobs["p"].shape == (5, 32, 5, 4)
    n.blobs["x0"].data[...] = 1
    assert n.forward()["p"].shape == (5, 32, 5, 4)


def test_inputs_are_checked() -> None:
    n = net(CONV)
    with pytest.raises(NetError, match=r"the inputs of this net are \['x0'\], found \['x'\]"):
        n.forward(x=np.zeros((2, 3, 8, 8)))
    with pytest.raises(NetError, match=r'input "x0" has the shape \(2, 3, 8, 8\), found an array of shape \(2, 3, 9, 8\)'):
        n.forward(x0=np.zeros((2, 3, 9, 8)))


def test_hooks_see_every_layer_unfused() -> None:
    n = net(data((2, 3, 8, 8)) + CONV.split("\n")[1] + ' layer { name: "r" type: "ReLU" bottom: "c" top: "c" }')
    seen: list[int] = []
    n.before_forward(seen.append)
    n.forward()
    assert seen == [0, 1, 2]


# -------------------------------------------------------------------------------------------------------- weights

@pytest.mark.parametrize("save, name", [("save", "w.caffemodel"), ("save_hdf5", "w.caffemodel.h5")])
def test_weights_go_to_files_and_back(save: str, name: str, device: str) -> None:
    a, b = net(CONV), brew.Net(parse(CONV, pb.NetParameter()), brew.TEST, seed=2)
    assert (a.params["c"][0].data != b.params["c"][0].data).any()
    getattr(a, save)(name)
    b.copy_from(name)
    for mine, his in zip(a.params["c"], b.params["c"]):
        assert (mine.data == his.data).all()


def test_logs_of_nets_and_solvers_hold_no_weights(caplog: pytest.LogCaptureFixture) -> None:
    trained = net(CONV).to_proto()
    with caplog.at_level("INFO", "brew"):
        brew.Net(trained, brew.TRAIN)
        brew.get_solver(pb.SolverParameter(net_param=trained, base_lr=0.1, lr_policy="fixed"))
    text = "".join(record.getMessage() for record in caplog.records)
    assert 'name: "c"' in text and "solver from parameters" in text and "blobs {" not in text and trained.layer[1].blobs


def test_weights_that_do_not_fit_are_refused_and_nothing_changes() -> None:
    a, b = net(CONV), net(CONV.replace("num_output: 32", "num_output: 16"))
    a.save("w.caffemodel")
    before = b.params["c"][0].data.copy()
    with pytest.raises(WeightsError) as e:
        b.copy_from("w.caffemodel")
    assert str(e.value) == ('w.caffemodel: blob 0 of layer "c" has the shape (32, 3, 3, 3) in the file and (16, 3, 3, 3) in the net\n'
                            '  blob 1 of layer "c" has the shape (32,) in the file and (16,) in the net\n  to train a layer anew, give that of the net another name')
    assert (b.params["c"][0].data == before).all()


def test_the_log_lists_what_became_of_each_layer(caplog: pytest.LogCaptureFixture) -> None:
    net(CONV).save("w.caffemodel")
    more = f'layer {{ name: "ip_new" type: "InnerProduct" bottom: "x0" top: "z" {IP % 2} }}'
    with caplog.at_level("INFO", logger="brew"):
        net(CONV + more).copy_from("w.caffemodel")
    assert "Weights from w.caffemodel:\n    copied   c       32 x 3 x 3 x 3, 32\n    new      ip_new  2 x 192, 2" in caplog.text
    net(CONV + more).save("more.caffemodel")
    with caplog.at_level("INFO", logger="brew"):
        net(CONV).copy_from("more.caffemodel")
    assert "ignored  ip_new  not in this net" in caplog.text and "Ignoring source layer ip_new" in caplog.text


def test_weights_of_another_net_are_refused() -> None:
    net(CONV).save("w.caffemodel")
    other = net(data((2, 4)) + f'layer {{ name: "ip" type: "InnerProduct" bottom: "x0" top: "y" {IP % 2} }}')
    with pytest.raises(WeightsError, match="w.caffemodel: no layer of this file has weights for this net\n  layers of the file: in0 c p\n  layers of the net: ip"):
        other.copy_from("w.caffemodel")


def test_shared_weights_follow(device: str) -> None:
    a, b = net(CONV), net(CONV.replace("dim: 2", "dim: 4", 1))
    b.share_with(a)
    a.params["c"][0].data[...] = 0
    a.params["c"][1].data[...] = 7
    assert (b.forward()["p"] == 7).all()


# ------------------------------------------------------------------------------------------------------ bad nets

BAD = [
    ('layer { name: "r" type: "Relu" bottom: "x0" top: "y" }', '2:19: layer "r" (type "Relu"): no layer type is called "Relu"\n  did you mean "ReLU"?'),
    ('layer { name: "r" type: "ReLU" bottom: "x" top: "y" }', '2:32: layer "r" (type "ReLU"): reads blob "x" (bottom 0), which no layer above it makes\n  blobs made so far: x0\n  did you mean "x0"?'),
    ('layer { name: "r" type: "ReLU" bottom: "x0" top: "y" }\nlayer { name: "s" type: "TanH" bottom: "x0" top: "y" }', '3:45: layer "s" (type "TanH"): makes blob "y", which layer "r" above makes too'),
    ('layer { name: "r" type: "ReLU" top: "y" }', 'layer "r" (type "ReLU"): takes 1 bottom blob, found 0'),
    ('layer { name: "c" type: "Concat" bottom: "x0" top: "x0" }', 'layer "c" (type "Concat"): cannot write its top over its bottom: give the top another name'),
    ('layer { name: "a" type: "ReLU" bottom: "x0" top: "a" } layer { name: "b" type: "ReLU" bottom: "x0" top: "x0" }', 'layer "b" (type "ReLU"): rewrites blob "x0" in place, which another bottom reads as it was'),
    ('layer { name: "c" type: "Convolution" bottom: "x0" top: "y" convolution_param { num_output: 2 kernel_size: 9 } }', "the kernel (9, 9) does not fit into the bottom's (8, 8) with pad (0, 0)"),
    ('layer { name: "c" type: "Convolution" bottom: "x0" top: "y" convolution_param { num_output: 2 kernel_size: 3 group: 2 } }', "2:110: layer \"c\" (type \"Convolution\"): group 2 must divide the number of channels, which is 3"),
    ('layer { name: "p" type: "Pooling" bottom: "x0" top: "y" pooling_param { kernel_size: 2 pad: 2 } }', "2:88: layer \"p\" (type \"Pooling\"): pad must be smaller than the kernel, found pad (2, 2) and kernel (2, 2)"),
    ('layer { name: "i" type: "InnerProduct" bottom: "x0" top: "y" }', "num_output must be given, and be more than 0"),
    ('layer { name: "i" type: "InnerProduct" bottom: "x0" top: "y" inner_product_param { num_output: 2 weight_filler { type: "xavir" } } }', 'no filler is called "xavir"; there are bilinear'),
    ('layer { name: "r" type: "Reduction" bottom: "x0" top: "r" reduction_param { axis: 1 } } layer { name: "l" type: "SoftmaxWithLoss" bottom: "x0" bottom: "r" }', "the scores (2, 3, 8, 8) have 128 positions; there are 2 labels"),
    ('layer { name: "r" type: "Reshape" bottom: "x0" top: "y" reshape_param { shape { dim: 5 dim: -1 } } }', "384 values do not divide into (5, -1)"),
    ('layer { name: "r" type: "ReLU" bottom: "x0" top: "y" include { phase: TRAIN } exclude { phase: TEST } }', "has either include or exclude rules, not both"),
    ('layer { name: "r" type: "ReLU" bottom: "x0" top: "y" param { lr_mult: 1 } }', "has 0 parameters and 1 param specifications"),
    ('layer { name: "r" type: "ReLU" bottom: "x0" top: "y" loss_weight: 1 loss_weight: 2 }', "loss_weight is given once for each of the 1 tops or not at all, found 2"),
    ('layer { name: "i" type: "InnerProduct" bottom: "x0" top: "y" inner_product_param { num_output: 2000000000 } }', "no blob can have the shape (2000000000, 192)"),
    ('layer { name: "i" type: "InnerProduct" bottom: "x0" top: "y" inner_product_param { num_output: 10000000 weight_filler { type: "xavier" } } }', "parameter 0 of shape (10000000, 192) needs 7.2 GiB of memory, and 2.0 GiB are available"),
    ('layer { name: "big" type: "DummyData" top: "b" dummy_data_param { shape { dim: 20000 dim: 30000 } } }', "needs 2.2 GiB of memory, and 2.0 GiB are available"),
]


@pytest.mark.parametrize("layers, message", BAD)
def test_a_bad_net_says_where_and_what(layers: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr("brew.engine.resources.available_memory", lambda: 2 << 30)
    with open("net.prototxt", "w") as file:
        file.write(data((2, 3, 8, 8)) + layers)
    with pytest.raises((NetError, ShapeError)) as e:
        brew.Net("net.prototxt", brew.TEST)
    assert message in str(e.value)
