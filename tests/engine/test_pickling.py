"""Nets, solvers and blobs are pickled and copied as definition, weights and state, and go on with the same bits."""
from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import brew
import brew.pycaffe as caffe
from brew.engine.errors import NetError, SolverError
from brew.proto import parse, pb, read_net
from brew.solvers import layer_state
from brew.tools.database import write_database

WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x, pickle.HIGHEST_PROTOCOL)), "pickle 2": lambda x: pickle.loads(pickle.dumps(x, 2)), "deepcopy": copy.deepcopy, "copy": copy.copy}
STATES = '''
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv" convolution_param { num_output: 20 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" } layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "again" type: "Convolution" bottom: "x" top: "again" param { name: "shared" } convolution_param { num_output: 20 kernel_size: 3 pad: 1 bias_term: false weight_filler { type: "gaussian" } } }
layer { name: "twice" type: "Convolution" bottom: "x" top: "twice" param { name: "shared" } convolution_param { num_output: 20 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "sum" type: "Eltwise" bottom: "conv" bottom: "again" bottom: "twice" top: "sum" }
layer { name: "depth" type: "StochasticDepth" bottom: "sum" top: "depth" stochastic_depth_param { per_item: true } }
layer { name: "pool" type: "Pooling" bottom: "depth" top: "pool" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 } }
layer { name: "drop" type: "Dropout" bottom: "pool" top: "pool" }
layer { name: "steps" type: "Reshape" bottom: "pool" top: "steps" reshape_param { shape { dim: 2 dim: 2 dim: -1 } } }
layer { name: "cont" type: "DummyData" top: "cont" dummy_data_param { shape { dim: 2 dim: 2 } data_filler { type: "constant" value: 1 } } }
layer { name: "lstm" type: "LSTM" bottom: "steps" bottom: "cont" top: "h" recurrent_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "items" type: "Reshape" bottom: "h" top: "items" reshape_param { shape { dim: 4 dim: -1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "items" top: "y" inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "label" top: "loss" }'''
DATA = {
    "Data": 'type: "Data" transform_param { crop_size: 8 mirror: true scale: 0.01 } data_param { source: "db" batch_size: 4 shuffle: true }',
    "ImageData": 'type: "ImageData" transform_param { crop_size: 8 mirror: true scale: 0.01 } image_data_param { source: "images.txt" batch_size: 4 shuffle: true rand_skip: 3 }',
    "HDF5Data": 'type: "HDF5Data" hdf5_data_param { source: "h5.txt" batch_size: 4 shuffle: true }',
    "WindowData": 'type: "WindowData" transform_param { crop_size: 8 mirror: true scale: 0.01 } window_data_param { source: "windows.txt" batch_size: 4 fg_fraction: 0.5 }',
    "MemoryData": 'type: "MemoryData" memory_data_param { batch_size: 4 channels: 3 height: 8 width: 8 }',
    "DummyData": 'type: "DummyData" dummy_data_param { shape { dim: 4 dim: 3 dim: 8 dim: 8 } shape { dim: 4 } data_filler { type: "gaussian" } data_filler { type: "constant" value: 2 } }',
    "Python": 'type: "Python" python_param { module: "pickled_layers" layer: "Walk" }',
}
SOLVER = '''base_lr: 0.05 momentum: 0.9 weight_decay: 0.001 lr_policy: "multistep" gamma: 0.5 stepvalue: 3 stepvalue: 6 average_loss: 3 clip_gradients: 1
average_decay: 0.8 random_seed: 3 test_iter: 1 test_interval: 3 snapshot_prefix: "s" '''
LAYERS = """
import numpy as np
import brew
class Walk(brew.Layer):
    def setup(self, bottom, top):
        self.rng = np.random.default_rng(1)
    def reshape(self, bottom, top):
        top[0].reshape(4, 3, 8, 8)
        top[1].reshape(4)
    def forward(self, bottom, top):
        top[0].data[...] = self.rng.normal(size=(4, 3, 8, 8))
        top[1].data[...] = self.rng.integers(0, 4, 4)
    def snapshot_state(self):
        return self.rng.bit_generator.state
    def restore_state(self, state):
        self.rng.bit_generator.state = state
class Forgetful(brew.Layer):
    def reshape(self, bottom, top):
        top[0].reshape(4)
"""


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2
    import h5py
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 3, 10, 10), np.uint8)
    write_database(Path("db"), ((f"{i:04d}".encode(), pb.Datum(channels=3, height=10, width=10, data=x.tobytes(), label=i % 4)) for i, x in enumerate(images)))
    listed, windows = [], []
    for i, image in enumerate(images):
        cv2.imwrite(f"{i}.png", image.transpose(1, 2, 0))
        listed.append(f"{i}.png {i % 4}\n")
        windows.append(f"# {i}\n{i}.png\n3\n10\n10\n2\n{1 + i % 3} 0.9 0 0 8 8\n0 0.1 2 2 9 9\n")
    Path("images.txt").write_text("".join(listed))
    Path("windows.txt").write_text("".join(windows))
    with h5py.File("data.h5", "w") as file:
        file["x"], file["label"] = images[:, :, :8, :8].astype(np.float32) / 100, np.arange(20, dtype=np.float32) % 4
    Path("h5.txt").write_text("data.h5\n")
    Path("pickled_layers.py").write_text(LAYERS)
    monkeypatch.syspath_prepend("")
    sys.modules.pop("pickled_layers", None)


def definition(kind: str) -> pb.NetParameter:
    Path("net.prototxt").write_text(f'name: "n" layer {{ name: "data" top: "x" top: "label" {DATA[kind]} }}' + STATES)
    return read_net("net.prototxt")


def give_arrays(net: Any) -> None:
    if net.layers[0].type == "MemoryData":
        rng = np.random.default_rng(4)
        net.layers[0].set_input_arrays(rng.normal(size=(12, 3, 8, 8)), np.arange(12) % 4)


def make_solver(kind: str, extra: str = 'type: "Adam"', get: Any = brew.get_solver) -> Any:
    param = parse(SOLVER + extra, pb.SolverParameter())
    param.net_param.CopyFrom(definition(kind))
    solver = get(param)
    for net in solver.nets:
        give_arrays(net)
    return solver


def net_after(net: Any, runs: int) -> list[Any]:
    """What some runs, forward and backward, give, and leave in the parameters."""
    found = []
    for _ in range(runs):
        found += [net.forward()["loss"].tobytes()]
        net.backward()
    return found + [(b.data.tobytes(), b.diff.tobytes()) for blobs in net.params.values() for b in blobs]


def solver_after(solver: Any, steps: int) -> tuple[Any, ...]:
    solver.step(steps)
    return (solver.iter, solver.losses, solver.current_step, [b.data.tobytes() for net in solver.nets for blobs in net.params.values() for b in blobs],
            [h.tobytes() for h in solver.history], solver.average.tobytes(), [s.SerializeToString()
                    for s in layer_state.collect(solver.nets)])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", DATA)
def test_a_net_in_training_goes_on_with_the_same_bits(kind: str, way: str) -> None:
    check_net(kind, way)


def test_so_does_one_on_every_device(device: str) -> None:
    check_net("Data", "pickle")
    check_net("DummyData", "deepcopy")


def check_net(kind: str, way: str) -> None:
    net = brew.Net(definition(kind), brew.TRAIN)
    give_arrays(net)
    net_after(net, 2)
    other = WAYS[way](net)
    assert type(other) is brew.Net and other.seed == net.seed and other.file == net.file
    expected = net_after(net, 3)
    assert net_after(other, 3) == expected                       # nothing is shared: the original has gone on
    other.params["ip"][0].data[...] = 0
    assert net.params["ip"][0].data.any()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", DATA)
def test_a_solver_goes_on_with_the_same_bits(kind: str, way: str) -> None:
    check_solver(kind, way)


def test_solvers_do_so_on_every_device(device: str) -> None:
    check_solver("Data", "pickle")
    check_solver("DummyData", "deepcopy")


def check_solver(kind: str, way: str, **more: Any) -> None:
    solver = make_solver(kind, **more)
    solver.step(4)
    other = WAYS[way](solver)
    assert type(other) is type(solver) and other.iter == 4 and other.net.keep_blobs == solver.net.keep_blobs
    expected = solver_after(solver, 4)
    assert solver_after(other, 4) == expected
    assert other.test() == solver.test() and other.net is not solver.net
    resumed = make_solver(kind, **more)                          # and its snapshots are those of the original
    resumed.restore(other.snapshot())
    assert solver_after(resumed, 2) == solver_after(solver, 2)


@pytest.mark.parametrize("get", [brew.get_solver, caffe.get_solver])
@pytest.mark.parametrize("kind", sorted(brew.SOLVERS))
def test_every_kind_of_solver(kind: str, get: Any) -> None:
    momentum = "" if brew.SOLVERS[kind].takes_momentum else "momentum: 0"
    param = parse(SOLVER.replace("momentum: 0.9", momentum) + f'type: "{kind}"', pb.SolverParameter())
    param.net_param.CopyFrom(definition("DummyData"))
    solver = get(param)
    solver.step(2)
    other = pickle.loads(pickle.dumps(solver))
    assert type(other) is type(solver) and other.net.keep_blobs == (get is caffe.get_solver)
    assert solver_after(other, 2) == solver_after(solver, 2)


def test_another_process_goes_on_with_the_same_bits() -> None:
    net, solver = brew.Net(definition("Data"), brew.TRAIN), make_solver("ImageData")
    net_after(net, 1)
    solver.step(2)
    Path("pickled").write_bytes(pickle.dumps((net, solver)))
    Path("net.prototxt").unlink()                                # the definition comes along
    script = f"""
import pickle, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import brew
from test_pickling import net_after, solver_after
brew.set_threads({brew.engine.context.cpu_device().threads})
net, solver = pickle.load(open("pickled", "rb"))
pickle.dump((net_after(net, 2), solver_after(solver, 3)), open("results", "wb"))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
    assert pickle.loads(Path("results").read_bytes()) == (net_after(net, 2), solver_after(solver, 3))


def test_a_deployed_net_keeps_its_shape_and_inputs() -> None:
    text = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }' + STATES.partition('layer { name: "again"')[0]
    net = brew.Net(parse(text, pb.NetParameter()), brew.TEST)
    net.blobs["x"].reshape(5, 3, 9, 7)
    net.blobs["x"].data[...] = np.random.default_rng(0).normal(size=(5, 3, 9, 7))
    y = net.forward()["conv"].copy()
    for way in WAYS.values():
        other = way(net)
        assert other.blobs["x"].data.tobytes() == net.blobs["x"].data.tobytes() and other.phase == brew.TEST
        assert other.forward()["conv"].tobytes() == y.tobytes() and not other.keep_values


def test_states_of_sequences_keep_their_shape() -> None:
    net = brew.Net(parse('''layer { name: "in" type: "Input" top: "x" top: "cont" input_param { shape { dim: 2 dim: 1 dim: 3 } shape { dim: 2 dim: 1 } } }
        layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h" recurrent_param { num_output: 5 weight_filler { type: "xavier" } } }''', pb.NetParameter()))
    net.blobs["x"].reshape(2, 4, 3)
    net.blobs["cont"].reshape(2, 4)
    x, cont = np.random.default_rng(0).normal(size=(2, 4, 3)), np.ones((2, 4))
    net.forward(x=x, cont=cont)
    copies = [way(net) for way in WAYS.values()]
    expected = net.forward(x=x, cont=cont)["h"].tobytes()
    for other in copies:
        assert other.blobs["h"].shape == (2, 4, 5) and other.forward(x=x, cont=cont)["h"].tobytes() == expected


class MyNet(brew.Net):
    """A user's, with members."""

    names = ["a"]

    def __init__(self, *args: Any, **named: Any) -> None:
        self.early = 1
        super().__init__(*args, **named)
        self.late = 2


class MySolver(brew.SGDSolver):
    """A user's, with members."""

    def __init__(self, *args: Any, **named: Any) -> None:
        self.early = 1
        super().__init__(*args, **named)
        self.late = 2


def test_subclasses_keep_what_they_are() -> None:
    net = MyNet(definition("DummyData"), brew.TRAIN)
    net.labels = {"cat": 1}                                      # type: ignore[attr-defined]
    for way in WAYS.values():
        other = way(net)
        assert type(other) is MyNet and other.labels == {"cat": 1} and other.names == ["a"] and (other.early, other.late) == (1, 2)
    assert copy.deepcopy(net).labels is not net.labels           # type: ignore[attr-defined]
    solver = make_solver("DummyData", "", MySolver)
    for way in WAYS.values():
        other = way(solver)
        assert type(other) is MySolver and (other.early, other.late) == (1, 2) and set(vars(other)) == set(vars(solver))
    Path("deploy.prototxt").write_text('layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }'
                                       'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }')
    brew.Net("deploy.prototxt").save("w.caffemodel")
    images = [np.random.default_rng(0).random((9, 9, 3)).astype(np.float32)]
    classifier = caffe.Classifier("deploy.prototxt", "w.caffemodel", mean=np.ones(3), channel_swap=(2, 1, 0))
    for way in WAYS.values():
        assert way(classifier).predict(images).tobytes() == classifier.predict(images).tobytes()
    caffe_net = caffe.Net("deploy.prototxt", caffe.TEST)
    assert type(pickle.loads(pickle.dumps(caffe_net))) is caffe.Net and pickle.loads(pickle.dumps(caffe_net)).keep_values


def test_blobs_are_pickled_as_values() -> None:
    net = brew.Net(definition("DummyData"), brew.TRAIN)
    net_after(net, 1)
    for blob in (net.params["conv"][0], net.blobs["sum"], net.blobs["loss"], brew.Blob((2, 3)), brew.Blob()):
        for way in WAYS.values():
            other = way(blob)
            assert type(other) is brew.Blob and other.shape == blob.shape and not other.users
            assert other.data.tobytes() == blob.data.tobytes() and other.diff.tobytes() == blob.diff.tobytes()
            other.data[...] = 7
            assert not (blob.data == 7).any()


@pytest.mark.parametrize("layer, reason", [
    ('name: "l" type: "HDF5Output" bottom: "x" bottom: "label" hdf5_output_param { file_name: "out.h5" }', "it writes a file, which a copy would begin anew"),
    ('name: "l" type: "Python" top: "p" python_param { module: "pickled_layers" layer: "Forgetful" }',
     "its position in its data is unknown\n  define snapshot_state() and restore_state(state); see docs/layers/python.md")])
def test_nets_that_cannot_be_copied_say_why(layer: str, reason: str) -> None:
    Path("bad.prototxt").write_text(f'layer {{ name: "data" top: "x" top: "label" {DATA["DummyData"]} }}\nlayer {{ {layer} }}')
    net = brew.Net("bad.prototxt", brew.TRAIN)
    for way in WAYS.values():
        with pytest.raises(NetError) as e:
            way(net)
        assert str(e.value).partition(": layer")[0].startswith("bad.prototxt:2:") and str(e.value).endswith(f": a net with this layer cannot be pickled or copied: {reason}")
    net.forward()


def test_layers_and_solvers_within_a_step_say_what_to_do() -> None:
    net = brew.Net(definition("DummyData"), brew.TRAIN)
    for way in WAYS.values():
        with pytest.raises(NetError) as e:
            way(net.layer_dict["conv"])
        assert str(e.value) == 'layer "conv" cannot be pickled or copied by itself: pickle or copy the net that it is a part of'
    solver, messages = make_solver("DummyData"), []

    def pickled() -> None:
        with pytest.raises(SolverError) as e:
            pickle.dumps(solver)
        messages.append(str(e.value))
    solver.add_callback(lambda: None, pickled)
    solver.step(1)
    assert messages == ["pickle was called within iteration 0: call it between steps"]
    solver.torn = "a test says so"
    with pytest.raises(SolverError, match="the state of this solver is torn: a test says so"):
        pickle.dumps(solver)
