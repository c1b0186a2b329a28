"""Old nets and solvers read as today's."""
from __future__ import annotations

import pytest

from brew.proto import PrototxtError, parse, pb, upgrade_net, upgrade_solver


def net(text: str) -> pb.NetParameter:
    return upgrade_net(parse(text, pb.NetParameter(), "f"), "f")


def test_v1_becomes_v2() -> None:
    layer = net("""layers { name: "c" type: CONVOLUTION bottom: "x" top: "y" blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0 param: "w"
                   blob_share_mode: PERMISSIVE convolution_param { num_output: 3 kernel_size: 5 } include { phase: TEST } loss_weight: 0.5 }""").layer[0]
    assert (layer.type, list(layer.bottom), list(layer.top), layer.convolution_param.num_output) == ("Convolution", ["x"], ["y"], 3)
    assert [(p.name, p.share_mode, p.lr_mult, p.decay_mult) for p in layer.param] == [("w", 1, 1, 1), ("", 0, 2, 0)]
    assert layer.include[0].phase == pb.TEST and list(layer.loss_weight) == [0.5] and layer.position.line == 1


@pytest.mark.parametrize("enum, name", [("SOFTMAX_LOSS", "SoftmaxWithLoss"), ("INNER_PRODUCT", "InnerProduct"), ("TANH", "TanH"), ("LRN", "LRN"), ("IM2COL", "Im2col"),
                                        ("HDF5_DATA", "HDF5Data"), ("SIGMOID_CROSS_ENTROPY_LOSS", "SigmoidCrossEntropyLoss"), ("ABSVAL", "AbsVal"), ("ARGMAX", "ArgMax")])
def test_v1_types(enum: str, name: str) -> None:
    assert net(f"layers {{ type: {enum} }}").layer[0].type == name


def test_v1_data_parameters_move() -> None:
    layer = net('layers { type: DATA data_param { source: "db" scale: 0.5 mean_file: "m" crop_size: 7 mirror: true batch_size: 3 } }').layer[0]
    t = layer.transform_param
    assert (t.scale, t.mean_file, t.crop_size, t.mirror) == (0.5, "m", 7, True) and not layer.data_param.HasField("scale") and layer.data_param.batch_size == 3


def test_v0_becomes_v2_and_padding_is_folded() -> None:
    result = net("""layers { layer { name: "pad" type: "padding" pad: 2 } bottom: "data" top: "padded" }
                    layers { layer { name: "conv" type: "conv" num_output: 8 kernelsize: 5 stride: 2 group: 2 biasterm: false blobs_lr: 1 weight_decay: 0.5
                                     weight_filler { type: "xavier" } } bottom: "padded" top: "conv" }
                    layers { layer { name: "pool" type: "pool" pool: AVE kernelsize: 3 stride: 2 } bottom: "conv" top: "pool" }
                    layers { layer { name: "lrn" type: "lrn" local_size: 3 alpha: 0.1 beta: 0.5 } bottom: "pool" top: "lrn" }
                    layers { layer { name: "d" type: "data" source: "db" batchsize: 4 cropsize: 9 meanfile: "m" } top: "z" }
                    layers { layer { name: "loss" type: "softmax_loss" } bottom: "lrn" bottom: "z" }""")
    conv, pool, lrn, data, loss = result.layer
    c = conv.convolution_param
    assert (conv.type, list(conv.bottom), list(c.pad), list(c.kernel_size), list(c.stride), c.group, c.bias_term, c.num_output) == ("Convolution", ["data"], [2], [5], [2], 2, False, 8)
    assert (conv.param[0].lr_mult, conv.param[0].decay_mult, c.weight_filler.type) == (1, 0.5, "xavier")
    assert (pool.pooling_param.pool, pool.pooling_param.kernel_size, pool.pooling_param.stride) == (1, 3, 2)
    assert (lrn.lrn_param.local_size, data.data_param.batch_size, data.transform_param.crop_size, data.transform_param.mean_file) == (3, 4, 9, "m")
    assert loss.type == "SoftmaxWithLoss"


def test_inputs_become_a_layer() -> None:
    dims = net('input: "a" input: "b" ' + " ".join(f"input_dim: {d}" for d in (1, 3, 5, 7, 2, 1, 1, 1))).layer[0]
    shapes = net('input: "a" input_shape { dim: 4 dim: 2 }').layer[0]
    assert (dims.name, dims.type, list(dims.top), [list(s.dim) for s in dims.input_param.shape]) == ("input", "Input", ["a", "b"], [[1, 3, 5, 7], [2, 1, 1, 1]])
    assert [list(s.dim) for s in shapes.input_param.shape] == [[4, 2]]
    assert not net('input: "a"').layer


def test_three_params_of_a_batch_norm_are_not_learned() -> None:
    layer = net('layer { type: "BatchNorm" param { lr_mult: 1 } param { lr_mult: 1 } param { lr_mult: 1 } }').layer[0]
    assert [(p.lr_mult, p.decay_mult) for p in layer.param] == [(0, 0)] * 3


def test_solver_type_becomes_type() -> None:
    assert upgrade_solver(parse("solver_type: ADAGRAD", pb.SolverParameter())).type == "AdaGrad"
    with pytest.raises(PrototxtError, match="f: type and its old form solver_type are both given; keep type"):
        upgrade_solver(parse('solver_type: ADAM type: "Adam"', pb.SolverParameter()), "f")


@pytest.mark.parametrize("text, rule", [
    ('layer { name: "a" } layers { name: "b" }', 'a net has either "layer" or "layers" (the form of 2014), not both'),
    ('layers { layer { name: "x" type: "convx" } }', 'layer "x" has the type "convx", which no net of 2013 has'),
    ('layers { layer { type: "padding" } bottom: "a" top: "b" } layers { layer { name: "r" type: "relu" } bottom: "b" top: "b" }', '"r" reads the padding "b"; only conv and pool layers may'),
    ('input: "a" input_dim: 1 input_dim: 2', "1 inputs need a shape each")])
def test_what_cannot_be_upgraded_is_refused(text: str, rule: str) -> None:
    with pytest.raises(PrototxtError) as e:
        net(text)
    assert rule in str(e.value)
