"""Scripts of Caffe's users, run as `import caffe`: nets, Python layers and solvers."""
from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import brew

brew.install_as_caffe()

import caffe  # type: ignore[import-not-found]  # noqa: E402
from caffe import layers as L  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))                     # simple_layers

TRAIN_NET = """
name: "small" force_backward: true
layer { type: "DummyData" name: "data" top: "data" top: "label"
        dummy_data_param { num: 5 channels: 2 height: 3 width: 4 num: 5 channels: 1 height: 1 width: 1
                           data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" } } }
layer { type: "Convolution" name: "conv" bottom: "data" top: "conv"
        convolution_param { num_output: 11 kernel_size: 2 pad: 3 weight_filler { type: "gaussian" std: 1 } bias_filler { type: "constant" value: 2 } }
        param { decay_mult: 1 } param { decay_mult: 0 } }
layer { type: "InnerProduct" name: "ip" bottom: "conv" top: "ip_blob"
        inner_product_param { num_output: 13 weight_filler { type: "gaussian" std: 2.5 } bias_filler { type: "constant" value: -3 } } }
layer { type: "SoftmaxWithLoss" name: "loss" bottom: "ip_blob" bottom: "label" top: "loss" }
"""


@pytest.fixture
def net_file(tmp_path: Path) -> str:
    (tmp_path / "net.prototxt").write_text(TRAIN_NET)
    return str(tmp_path / "net.prototxt")


def write(folder: Path, text: str) -> str:
    path = folder / "other.prototxt"
    path.write_text(text)
    return str(path)


# ------------------------------------------------------------------------------------------------------------------ nets


def test_names_of_a_net(net_file: str) -> None:
    net = caffe.Net(net_file, caffe.TRAIN)
    assert net.inputs == [] and net.outputs == ["loss"] and list(net._layer_names) == ["data", "conv", "ip", "loss"]
    assert net.top_names == OrderedDict([("data", ["data", "label"]), ("conv", ["conv"]), ("ip", ["ip_blob"]), ("loss", ["loss"])])
    assert net.bottom_names == OrderedDict([("data", []), ("conv", ["data"]), ("ip", ["conv"]), ("loss", ["ip_blob", "label"])])
    assert [layer.type for layer in net.layers] == ["DummyData", "Convolution", "InnerProduct", "SoftmaxWithLoss"]
    assert net.layer_dict["conv"] is net.layers[1] and list(net.params) == ["conv", "ip"] and net.blob_loss_weights["loss"] == 1
    blob = net.blobs["data"]
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count) == (5, 2, 3, 4, 120)


def test_layers_of_a_part_and_views_that_stay_live(net_file: str) -> None:
    net = caffe.Net(net_file, caffe.TRAIN)
    conv, ip = net.blobs["conv"], net.blobs["ip_blob"]
    conv.data[:] = np.random.default_rng(0).integers(0, 2, conv.data.shape)
    held = ip.data
    assert "ip_blob" in net.forward(start="ip", end="ip")
    weights, bias = (blob.data for blob in net.params["ip"])
    np.testing.assert_allclose(held, conv.data.reshape(5, -1) @ weights.T + bias, rtol=1e-3, atol=1e-3)
    ip.diff[:] = np.random.default_rng(1).integers(0, 2, ip.diff.shape)
    assert "conv" in net.backward(start="ip", end="ip")
    np.testing.assert_allclose(conv.diff.reshape(5, -1), ip.diff @ weights, rtol=1e-3, atol=1e-3)
    net.clear_param_diffs()
    assert not any(blob.diff.any() for blobs in net.params.values() for blob in blobs)
    net.forward()
    before = net.blobs["conv"].data.copy()
    net.params["conv"][0].data[...] *= 2
    assert (net.blobs["conv"].data == before).all(), "a look at a blob shows the last run's values, whatever changed since"


def test_memory_outlives_the_net(net_file: str) -> None:
    net = caffe.Net(net_file, caffe.TRAIN)
    net.forward()
    net.backward()
    blobs = [*net.blobs.values(), *(blob for blobs in net.params.values() for blob in blobs)]
    del net
    assert np.isfinite(sum(blob.data.sum() + blob.diff.sum() for blob in blobs))


def test_saving_and_loading(net_file: str, tmp_path: Path) -> None:
    net = caffe.Net(net_file, caffe.TRAIN)
    for name, load in (("w.caffemodel", lambda f: caffe.Net(net_file, caffe.TEST, weights=f)), ("w.caffemodel", lambda f: caffe.Net(net_file, f, caffe.TEST)),
                       ("w.h5", lambda f: caffe.Net(net_file, caffe.TEST, weights=f))):
        file = str(tmp_path / name)
        net.save_hdf5(file) if name.endswith("h5") else net.save(file)
        other = load(file)
        assert all((a.data == b.data).all() for key in net.params for a, b in zip(net.params[key], other.params[key]))
    with pytest.raises(RuntimeError, match="nothing.prototxt"):
        caffe.Net("nothing.prototxt", caffe.TEST)
    with pytest.raises(RuntimeError, match="phase is caffe.TRAIN or caffe.TEST"):
        caffe.Net(net_file)


def test_hooks_get_layer_numbers(net_file: str) -> None:
    net, seen = caffe.Net(net_file, caffe.TRAIN), []
    for when in ("before_forward", "after_forward", "before_backward", "after_backward"):
        getattr(net, when)(lambda i, when=when: seen.append((when, i)))
    net.forward()
    net.backward()
    assert [i for when, i in seen if when == "after_forward"] == [0, 1, 2, 3] and ("before_backward", 3) in seen


def test_all_items_batch_by_batch(tmp_path: Path) -> None:
    spec = caffe.NetSpec()
    spec.data = L.Input(shape=dict(dim=[4, 3]))
    spec.ip = L.InnerProduct(spec.data, num_output=2, weight_filler=dict(type="gaussian", std=1))
    file = write(tmp_path, "force_backward: true\n" + str(spec.to_proto()))
    net, x = caffe.Net(file, caffe.TEST), np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)
    w = net.params["ip"][0].data
    np.testing.assert_allclose(net.forward_all(data=x)["ip"], x @ w.T, rtol=1e-5, atol=1e-6)
    dy = np.random.default_rng(1).standard_normal((10, 2)).astype(np.float32)
    out, diffs = net.forward_backward_all(data=x, ip=dy)
    np.testing.assert_allclose(out["ip"], x @ w.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(diffs["data"], dy @ w, rtol=1e-5, atol=1e-6)


def test_arrays_for_memory_data(tmp_path: Path) -> None:
    net = caffe.Net(write(tmp_path, 'layer { name: "d" type: "MemoryData" top: "x" top: "y" memory_data_param { batch_size: 2 channels: 1 height: 2 width: 2 } }'), caffe.TEST)
    data = np.arange(16, dtype=np.float32).reshape(4, 1, 2, 2)
    net.set_input_arrays(data, np.arange(4, dtype=np.float32))
    net.forward()
    assert (net.forward()["x"] == data[2:]).all() and (net.blobs["y"].data == [2, 3]).all()
    with pytest.raises(RuntimeError, match="C-contiguous array of float32"):
        net.set_input_arrays(data.astype(float), np.arange(4, dtype=np.float32))


@pytest.mark.parametrize("arguments, kept", [({"level": 0}, ["always", "from0"]), ({"level": 1}, ["always", "from0", "from1"]), ({"stages": ["A"]}, ["always", "from0", "A"])])
def test_levels_and_stages(arguments: dict[str, Any], kept: list[str], tmp_path: Path) -> None:
    text = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 } } }'
    for name, rule in (("always", ""), ("from0", "include { min_level: 0 }"), ("from1", "include { min_level: 1 }"), ("A", 'include { stage: "A" }')):
        text += f'\nlayer {{ name: "{name}" type: "InnerProduct" bottom: "data" top: "{name}" inner_product_param {{ num_output: 1 }} {rule} }}'
    assert [name for name in caffe.Net(write(tmp_path, text), caffe.TEST, **arguments).blobs if "data" not in name] == kept


# -------------------------------------------------------------------------------------------------------------- Python layers


def python_layer(name: str, more: str = "") -> str:
    return f'layer {{ type: "Python" name: "layer" bottom: "data" top: "top" python_param {{ module: "simple_layers" layer: "{name}" {more} }} }}'


INPUT = 'force_backward: true\nlayer { name: "in" type: "Input" top: "data" input_param { shape { dim: 10 dim: 9 dim: 8 } } }\n'


def test_python_layers(tmp_path: Path) -> None:
    net = caffe.Net(write(tmp_path, INPUT + python_layer("Tenfold")), caffe.TRAIN)
    net.blobs["data"].data[...] = 2
    net.blobs["top"].diff[...] = 3
    assert (net.forward()["top"] == 20).all() and (net.backward()["data"] == 30).all()
    net.blobs["data"].reshape(4, 4, 4, 4)
    net.forward()
    assert all(blob.data.shape == (4, 4, 4, 4) for blob in net.blobs.values())
    with pytest.raises(KeyError, match="nothing works here"):
        caffe.Net(write(tmp_path, INPUT + python_layer("Broken")), caffe.TEST)


def test_parameters_of_python_layers(tmp_path: Path) -> None:
    file = write(tmp_path, INPUT + python_layer("Counting", 'param_str: "0"'))
    net = caffe.Net(file, caffe.TRAIN)
    net.forward()
    net.backward()
    layer = net.layers[list(net._layer_names).index("layer")]
    assert layer.blobs[0].data[0] == 0 and layer.blobs[0].diff[0] == 1
    layer.blobs[0].data[0] += layer.blobs[0].diff[0]
    net.save(str(tmp_path / "w.caffemodel"))
    layer.blobs[0].data[0] = -1
    net.copy_from(str(tmp_path / "w.caffemodel"))
    assert layer.blobs[0].data[0] == 1
    other = caffe.Net(file, caffe.TRAIN)
    other.share_with(net)
    assert other.layers[-1].blobs[0].data[0] == 1
    for phase in (caffe.TRAIN, caffe.TEST):
        assert (caffe.Net(file, phase).forward()["top"] == phase).all()


# -------------------------------------------------------------------------------------------------------------------- solvers


def solver_file(folder: Path, net_file: str, more: str = "") -> str:
    path = folder / "solver.prototxt"
    path.write_text(f'net: "{net_file}" test_iter: 10 test_interval: 10 base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "inv" gamma: 0.0001 '
                    f'power: 0.75 display: 100 max_iter: 100 snapshot_after_train: false snapshot_prefix: "{folder}/model" solver_mode: CPU {more}')
    return str(path)


def test_solvers(net_file: str, tmp_path: Path) -> None:
    solver = caffe.SGDSolver(solver_file(tmp_path, net_file))
    assert type(solver.net) is caffe.Net and type(caffe.get_solver(solver_file(tmp_path, net_file, 'type: "Adam"'))) is caffe.AdamSolver
    solver.net.blobs["label"].data[...] = 1
    assert solver.iter == 0 and solver.param.max_iter == 100 and solver.lr == pytest.approx(0.01)
    data = solver.net.layers[1].blobs[0].data[...]
    data[...] = 0
    solver.net.layers[1].blobs[0].diff[...] = 1
    solver.apply_update()
    np.testing.assert_allclose(data, -0.01, rtol=1e-6)
    calls: list[str] = []
    solver.add_callback(lambda: calls.append("start"), lambda: calls.append("ready"))
    solver.step(2)
    assert calls == ["start", "ready"] * 2 and solver.net.blobs["conv"].diff.any() and solver.net.blobs["conv"].data.any()
    solver.solve()
    assert solver.iter == 100
    solver.snapshot()
    assert sorted(p.name for p in tmp_path.glob("model_iter_100.*")) == ["model_iter_100.caffemodel", "model_iter_100.solverstate"]
    other = caffe.SGDSolver(solver_file(tmp_path, net_file))
    other.restore(str(tmp_path / "model_iter_100.solverstate"))
    assert other.iter == 100 and (other.net.params["ip"][0].data == solver.net.params["ip"][0].data).all()
    nets = [solver.net, *solver.test_nets]
    del solver
    assert np.isfinite(sum(b.data.sum() + b.diff.sum() for net in nets for b in net.blobs.values()))


def test_modes_counts_and_logs() -> None:
    caffe.set_mode_cpu()
    caffe.set_random_seed(3)
    assert caffe.solver_count() == 1 and caffe.solver_rank() == 0 and not caffe.has_nccl() and {"Data", "Convolution", "InnerProduct"} <= set(caffe.layer_type_list())
    for use in (lambda: caffe.NCCL.new_uid(), lambda: caffe.set_solver_count(2), lambda: caffe.set_solver_rank(1), lambda: caffe.set_multiprocess(True)):
        with pytest.raises(RuntimeError, match="brew trains|NCCL joins"):
            use()
    caffe.set_solver_count(1)
    caffe.set_multiprocess(False)
    timer = caffe.Timer()
    timer.start()
    timer.stop()
    assert timer.ms >= 0 and caffe.TRAIN == 0 and caffe.TEST == 1 and caffe.__version__
    caffe.log("a line")
