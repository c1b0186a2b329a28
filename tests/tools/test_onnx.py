"""What `brew export` writes gives the same answers in ONNX Runtime."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import brew
from brew.proto import BrewError, parse, pb, read_net
from brew.tools.cli import main

onnxruntime = pytest.importorskip("onnxruntime")
from brew.tools.onnx_graph import build  # noqa: E402

MODELS = Path(__file__).resolve().parents[2] / "models"
# Nets without a deploy form: what their data layers make.
FED = {"char_lstm": {"chars": (64, 8), "cont": (64, 8), "next": (64, 8)}, "traffic_lstm": {"past": (4, 12, 207), "future": (4, 12, 207), "cont": (4, 12)},
       "mnist_siamese": {"pairs": (4, 2, 28, 28), "same": (4,)}, "mnist_autoencoder": {"data": (4, 1, 28, 28)},
       "finetune_tiny_imagenet": {"data": (2, 3, 64, 64), "label": (2,)},
       "word_lstm": {"words": (32, 8), "cont": (32, 8), "next": (32, 8)},
       **dict.fromkeys(["bibtex", "delicious", "rcv1", "tmc2007", "xc_synthetic"], {"value": (4, 6), "index": (4, 6), "label": (4, 3)})}
WHOLE = {"chars": 65, "words": 65, "next": 65, "cont": 2, "index": 500, "label": 22}   # inputs that are numbers below that
SAMPLED = {"xc_synthetic", "amazon_670k", "delicious_200k", "wiki_325k"}               # their output layer is LSHInnerProduct


def zoo_net(name: str) -> brew.Net:
    """A net of models/ in TEST with random weights, statistics such as training leaves, and random input."""
    if name not in FED:
        param = read_net(MODELS / name / "deploy.prototxt")
        param.layer[0].input_param.shape[0].dim[0] = 1
    else:
        whole = read_net(MODELS / name / "train_val.prototxt")
        param = pb.NetParameter(name=whole.name)
        fed = param.layer.add(name="fed", type="Input", top=list(FED[name]))
        for shape in FED[name].values():
            fed.input_param.shape.add(dim=shape)
        param.layer.extend(layer for layer in whole.layer if layer.bottom)
    net = brew.Net(param, brew.TEST, seed=1)
    rng = np.random.default_rng(0)
    for layer in net.layers:
        if layer.type == "BatchNorm":
            c = layer.blobs[0].shape
            for blob, values in zip(layer.blobs, (rng.uniform(-0.1, 0.1, c), rng.uniform(0.5, 1.5, c), 1.0)):
                blob.data[...] = values
    for blob in net.inputs:
        shape = net.blobs[blob].shape
        net.blobs[blob].data[...] = rng.integers(0, WHOLE[blob], shape) if blob in WHOLE else rng.standard_normal(shape)
    return net


def same_in_onnx_runtime(net: brew.Net, limit: float = 1e-4, any_batch: bool = False) -> list[str]:
    """Compare each output, to within `limit` of its largest value; returns the layers left out."""
    model, left_out = build(net, any_batch)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {i.name: net.blobs[i.name].data.copy() for i in session.get_inputs()}
    net.keep_values = True
    net.forward()
    names = [o.name for o in session.get_outputs() if o.name in net.blobs]
    assert names
    for name, found in zip(names, session.run(names, given)):
        expected = net.blobs[name].data
        assert found.shape == expected.shape and np.abs(found - expected).max() <= limit * max(np.abs(expected).max(), 1e-3), name
    return left_out


ZOO = sorted(folder.name for folder in MODELS.iterdir() if (folder / "train_val.prototxt").exists())


@pytest.mark.parametrize("name", [name for name in ZOO if name not in SAMPLED])
def test_a_zoo_net(name: str) -> None:
    same_in_onnx_runtime(zoo_net(name))


def test_a_sampled_layer_is_refused_by_name() -> None:
    with pytest.raises(BrewError, match='layer "out" .type "LSHInnerProduct"'):
        build(zoo_net("xc_synthetic"))


def layer_net(text: str, *shapes: tuple[int, ...]) -> brew.Net:
    inputs = " ".join(f'layer {{ name: "x{i}" type: "Input" top: "x{i}" input_param {{ shape {{ {" ".join(f"dim: {d}" for d in shape)} }} }} }}' for i, shape in enumerate(shapes))
    net = brew.Net(parse(inputs + " layer { name: \"y\" " + text + " }", pb.NetParameter()), brew.TEST)
    rng = np.random.default_rng(3)
    for blob in net.layers[-1].blobs:
        blob.data[...] = rng.uniform(0.1, 1, blob.shape)
    for name in net.inputs:
        net.blobs[name].data[...] = rng.uniform(-1, 1, net.blobs[name].shape)
    return net


IMAGE = (2, 6, 7, 9)
X, POSITIVE = 'bottom: "x0" top: "y"', 'power_param { scale: 0.4 shift: 1 power: 1.7 }'
LAYERS = {
    "convolution": (f'type: "Convolution" {X} convolution_param {{ num_output: 4 kernel_h: 3 kernel_w: 2 stride: 2 pad_h: 1 pad_w: 0 group: 2 }}', IMAGE),
    "dilated": (f'type: "Convolution" {X} convolution_param {{ num_output: 4 kernel_size: 3 dilation: 2 bias_term: false }}', IMAGE),
    "deconvolution": (f'type: "Deconvolution" {X} convolution_param {{ num_output: 4 kernel_size: 4 stride: 2 pad: 1 group: 2 }}', IMAGE),
    "depthwise": (f'type: "DepthwiseConvolution" {X} convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 }}', IMAGE),
    "separable": (f'type: "SeparableConvolution" {X} separable_convolution_param {{ num_output: 5 kernel_size: 3 pad: 1 activation: RELU }}', IMAGE),
    "inner product": (f'type: "InnerProduct" {X} inner_product_param {{ num_output: 4 }}', IMAGE),
    "transposed": (f'type: "InnerProduct" {X} inner_product_param {{ num_output: 4 transpose: true bias_term: false }}', IMAGE),
    "inner product of axis 2": (f'type: "InnerProduct" {X} inner_product_param {{ num_output: 4 axis: 2 }}', IMAGE),
    "pair": ('type: "InnerProduct" bottom: "x0" bottom: "x1" top: "y" inner_product_param { num_output: 4 input_dim: 7 }', (3, 5), (3, 5)),
    "transposed pair": ('type: "InnerProduct" bottom: "x0" bottom: "x1" top: "y" inner_product_param { num_output: 4 input_dim: 7 transpose: true bias_term: false }', (3, 5), (3, 5)),
    "max pooling": (f'type: "Pooling" {X} pooling_param {{ kernel_size: 3 stride: 2 pad: 1 }}', IMAGE),
    "max pooling over the edge": (f'type: "Pooling" {X} pooling_param {{ kernel_size: 2 stride: 3 }}', (2, 6, 8, 8)),
    "mean pooling": (f'type: "Pooling" {X} pooling_param {{ pool: AVE kernel_size: 3 stride: 2 pad: 1 }}', (2, 6, 8, 8)),
    "mean pooling over the edge": (f'type: "Pooling" {X} pooling_param {{ pool: AVE kernel_size: 3 stride: 2 }}', (2, 6, 8, 10)),
    "floor": (f'type: "Pooling" {X} pooling_param {{ pool: AVE kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR }}', (2, 6, 8, 10)),
    "global": (f'type: "Pooling" {X} pooling_param {{ pool: AVE global_pooling: true }}', IMAGE),
    "roi pooling": ('type: "ROIPooling" bottom: "x0" bottom: "x1" top: "y" roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.5 }', IMAGE, (3, 5)),
    "prior box": ('type: "PriorBox" bottom: "x0" bottom: "x1" top: "y" prior_box_param { min_size: 30 max_size: 60 aspect_ratio: 2 clip: true variance: 0.1 }', IMAGE, (2, 3, 70, 90)),
    "lrn": (f'type: "LRN" {X} lrn_param {{ local_size: 3 alpha: 0.5 beta: 0.6 k: 2 }}', IMAGE),
    "lrn within": (f'type: "LRN" {X} lrn_param {{ local_size: 3 alpha: 0.5 beta: 0.6 norm_region: WITHIN_CHANNEL }}', IMAGE),
    "batch norm": (f'type: "BatchNorm" {X} batch_norm_param {{ eps: 0.01 }}', IMAGE),
    "scale": (f'type: "Scale" {X} scale_param {{ bias_term: true }}', IMAGE),
    "scale of axes": (f'type: "Scale" {X} scale_param {{ axis: 2 num_axes: 2 bias_term: true }}', IMAGE),
    "scale by a blob": ('type: "Scale" bottom: "x0" bottom: "x1" top: "y" scale_param { axis: 0 }', IMAGE, (2, 6)),
    "bias": (f'type: "Bias" {X}', IMAGE),
    "normalize": (f'type: "Normalize" {X} norm_param {{ across_spatial: false channel_shared: false }}', IMAGE),
    "mvn": (f'type: "MVN" {X}', IMAGE), "mean only": (f'type: "MVN" {X} mvn_param {{ across_channels: true normalize_variance: false }}', IMAGE),
    "softmax": (f'type: "Softmax" {X}', IMAGE),
    "abs": (f'type: "AbsVal" {X}', IMAGE), "bnll": (f'type: "BNLL" {X}', IMAGE), "sigmoid": (f'type: "Sigmoid" {X}', IMAGE), "tanh": (f'type: "TanH" {X}', IMAGE),
    "relu": (f'type: "ReLU" {X} relu_param {{ negative_slope: 0.1 }}', IMAGE), "prelu": (f'type: "PReLU" {X}', IMAGE),
    "prelu shared": (f'type: "PReLU" {X} prelu_param {{ channel_shared: true }}', IMAGE), "elu": (f'type: "ELU" {X} elu_param {{ alpha: 0.7 }}', IMAGE),
    "swish": (f'type: "Swish" {X} swish_param {{ beta: 1.5 }}', IMAGE), "clip": (f'type: "Clip" {X} clip_param {{ min: -0.2 max: 0.3 }}', IMAGE), "relu6": (f'type: "ReLU6" {X}', IMAGE),
    "threshold": (f'type: "Threshold" {X} threshold_param {{ threshold: 0.2 }}', IMAGE), "power": (f'type: "Power" {X} {POSITIVE}', IMAGE),
    "exp": (f'type: "Exp" {X} exp_param {{ base: 2 scale: 0.5 shift: 1 }}', IMAGE), "log": (f'type: "Log" {X} log_param {{ base: 10 scale: 0.5 shift: 1 }}', IMAGE),
    "dropout": (f'type: "Dropout" {X}', IMAGE), "unscaled dropout": (f'type: "Dropout" {X} dropout_param {{ dropout_ratio: 0.3 scale_train: false }}', IMAGE), "stochastic depth": (f'type: "StochasticDepth" {X}', IMAGE),
    "sum": ('type: "Eltwise" bottom: "x0" bottom: "x1" top: "y" eltwise_param { coeff: 2 coeff: -1 }', IMAGE, IMAGE),
    "product": ('type: "Eltwise" bottom: "x0" bottom: "x1" bottom: "x2" top: "y" eltwise_param { operation: PROD }', IMAGE, IMAGE, IMAGE),
    "maximum": ('type: "Eltwise" bottom: "x0" bottom: "x1" top: "y" eltwise_param { operation: MAX }', IMAGE, IMAGE),
    "axpy": ('type: "Axpy" bottom: "x0" bottom: "x1" bottom: "x2" top: "y"', (2, 6), IMAGE, IMAGE),
    "concat": ('type: "Concat" bottom: "x0" bottom: "x1" top: "y" concat_param { axis: 2 }', IMAGE, (2, 6, 3, 9)),
    "slice": ('type: "Slice" bottom: "x0" top: "y" top: "z" slice_param { slice_point: 2 }', IMAGE),
    "crop": ('type: "Crop" bottom: "x0" bottom: "x1" top: "y" crop_param { offset: 1 offset: 2 }', IMAGE, (2, 6, 3, 4)),
    "flatten": (f'type: "Flatten" {X} flatten_param {{ axis: 2 }}', IMAGE), "reshape": (f'type: "Reshape" {X} reshape_param {{ shape {{ dim: 0 dim: -1 dim: 21 }} }}', IMAGE),
    "permute": (f'type: "Permute" {X} permute_param {{ order: 0 order: 2 order: 3 order: 1 }}', IMAGE), "tile": (f'type: "Tile" {X} tile_param {{ axis: 2 tiles: 3 }}', IMAGE),
    "shuffle": (f'type: "ShuffleChannel" {X} shuffle_channel_param {{ group: 2 }}', IMAGE), "reorg": (f'type: "Reorg" {X}', (2, 4, 6, 8)),
    "reorg back": (f'type: "Reorg" {X} reorg_param {{ reverse: true }}', (2, 8, 3, 4)), "reverse": (f'type: "Reverse" {X} reverse_param {{ axis: 2 }}', IMAGE),
    "padding": (f'type: "Padding" {X} padding_param {{ pad_beg: -1 pad_end: 2 }}', IMAGE), "interp": (f'type: "Interp" {X} interp_param {{ height: 13 width: 5 pad_beg: -1 }}', IMAGE),
    "reduction": (f'type: "Reduction" {X} reduction_param {{ axis: 2 coeff: 3 }}', IMAGE), "asum": (f'type: "Reduction" {X} reduction_param {{ operation: ASUM axis: 1 }}', IMAGE),
    "sumsq": (f'type: "Reduction" {X} reduction_param {{ operation: SUMSQ axis: 1 }}', IMAGE), "mean": (f'type: "Reduction" {X} reduction_param {{ operation: MEAN axis: 1 }}', IMAGE),
    "argmax": (f'type: "ArgMax" {X} argmax_param {{ top_k: 3 out_max_val: true }}', IMAGE), "argmax of an axis": (f'type: "ArgMax" {X} argmax_param {{ axis: 1 }}', IMAGE),
    "embed": (f'type: "Embed" {X} embed_param {{ input_dim: 2 num_output: 5 }}', (2, 3)),
    "lstm": ('type: "LSTM" bottom: "x0" bottom: "x1" bottom: "x2" top: "y" recurrent_param { num_output: 4 }', (3, 2, 5), (3, 2), (2, 3)),
    "lstm exposed": ('type: "LSTM" bottom: "x0" bottom: "x1" bottom: "x2" bottom: "x3" top: "y" top: "h" top: "c" recurrent_param { num_output: 4 expose_hidden: true }',
                     (3, 2, 5), (3, 2), (1, 2, 4), (1, 2, 4)),
    "rnn": ('type: "RNN" bottom: "x0" bottom: "x1" top: "y" recurrent_param { num_output: 4 }', (3, 2, 5), (3, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(name: str) -> None:
    text, *shapes = LAYERS[name]
    net = layer_net(text, *shapes)
    if name == "embed":
        net.blobs["x0"].data[...] = [[0, 1, 1], [1, 0, 1]]
    if name.endswith("pair"):
        net.blobs["x1"].data[...] = [[0, 6, 2, 2, -1], [3, 1, -1, -1, -1], [5, 4, 3, 2, 1]]
        net.blobs["x0"].data[...] *= net.blobs["x1"].data >= 0
    if name == "roi pooling":
        net.blobs["x1"].data[...] = [[0, 0, 0, 17, 13], [1, 4, 2, 15, 9], [1, 0, 6, 5, 13]]      # picture, left, top, right, bottom
    same_in_onnx_runtime(net, 1e-5)


def test_states_of_an_lstm_go_on_where_they_are_given() -> None:
    net = layer_net('type: "LSTM" bottom: "x0" bottom: "x1" top: "y" recurrent_param { num_output: 4 }', (3, 2, 5), (3, 2))
    net.blobs["x1"].data[...] = 1
    session = onnxruntime.InferenceSession(build(net)[0].SerializeToString(), providers=["CPUExecutionProvider"])
    given, states = {name: net.blobs[name].data.copy() for name in net.inputs}, {}
    for _ in range(3):
        net.forward()
        y, h, c = session.run(["y", "y_h", "y_c"], given | states)
        np.testing.assert_allclose(y, net.blobs["y"].data, rtol=1e-5)
        states = {"y_h_0": h, "y_c_0": c}


@pytest.mark.parametrize("name", ["squeezenet", "googlenet", "lenet"])
def test_any_batch(name: str) -> None:
    net = zoo_net(name)
    session = onnxruntime.InferenceSession(build(net, any_batch=True)[0].SerializeToString(), providers=["CPUExecutionProvider"])
    shape = (3, *net.blobs["data"].shape[1:])
    net.blobs["data"].reshape(*shape)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = net.forward(data=x)
    for output, found in zip(session.get_outputs(), session.run(None, {"data": x})):
        np.testing.assert_allclose(found, expected[output.name], rtol=1e-3, atol=1e-6)


def test_in_place_layers_losses_and_names() -> None:
    text = ('layer { name: "in" type: "Input" top: "x" top: "label" input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }'
            'layer { name: "r" type: "ReLU" bottom: "x" top: "x" } layer { name: "d" type: "Dropout" bottom: "x" top: "y" } layer { name: "s" type: "Sigmoid" bottom: "y" top: "y" }'
            'layer { name: "a" type: "AbsVal" bottom: "x" top: "z" } layer { name: "loss" type: "SoftmaxWithLoss" bottom: "z" bottom: "label" top: "loss" }')
    net = brew.Net(parse(text, pb.NetParameter()), brew.TEST)
    net.blobs["x"].data[...] = [[-1, 0, 1], [2, -2, 0]]
    given = net.blobs["x"].data.copy()
    model, left_out = build(net)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert left_out == ["loss"] and [i.name for i in session.get_inputs()] == ["x"] and sorted(o.name for o in session.get_outputs()) == ["y", "z"]
    y, z = session.run(["y", "z"], {"x": given})
    np.testing.assert_allclose(z, np.maximum(given, 0))
    np.testing.assert_allclose(y, 1 / (1 + np.exp(-np.maximum(given, 0))), rtol=1e-6)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = brew.Net(MODELS / "lenet" / "deploy.prototxt", brew.TEST)
    net.save("w.caffemodel")
    assert main(["export", "-model", str(MODELS / "lenet" / "deploy.prototxt"), "-weights", "w.caffemodel", "-output", "lenet.onnx", "-any_batch"]) == 0
    assert "inputs   data (N x 1 x 28 x 28)" in capsys.readouterr().out
    session = onnxruntime.InferenceSession("lenet.onnx", providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal(net.blobs["data"].shape).astype(np.float32)
    np.testing.assert_allclose(session.run(["prob"], {"data": x})[0], net.forward(data=x)["prob"], rtol=1e-4)
    Path("spp.prototxt").write_text('layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }\n'
                                    'layer { name: "spp" type: "SPP" bottom: "x" top: "y" spp_param { pyramid_height: 2 } }')
    assert main(["export", "-model", "spp.prototxt", "-output", "x.onnx"]) == 1
    error = capsys.readouterr().err
    assert "spp.prototxt:2" in error and "has no form in ONNX" in error and not Path("x.onnx").exists()
