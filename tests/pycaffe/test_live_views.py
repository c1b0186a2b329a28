"""Arrays taken from blobs earlier show what every later call of the user made, and what is written to them counts."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import brew
import brew.pycaffe as caffe
from brew.proto import parse, pb

# A convolution whose weights and blobs the engine keeps in its own layouts, and parameters of every kind.
NET = """force_backward: true
layer { name: "in" type: "Input" top: "x" top: "label" input_param { shape { dim: 4 dim: 16 dim: 8 dim: 8 } shape { dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 32 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "relu" type: "ReLU" bottom: "c" top: "c" }
layer { name: "conv2" type: "Convolution" bottom: "c" top: "d" convolution_param { num_output: 32 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "ip" type: "InnerProduct" bottom: "d" top: "ip" inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


class Subject:
    """A solver and its net, after a step, with everything else that calls take."""

    def __init__(self, folder: Path):
        (folder / "net.prototxt").write_text(NET)
        param = pb.SolverParameter(net="net.prototxt", base_lr=0.05, lr_policy="fixed", momentum=0.9, random_seed=1, average_decay=0.5, test_iter=[1], test_interval=100,
                                   test_initialization=False, snapshot_prefix=str(folder / "s"), snapshot_after_train=False, max_iter=3)
        (folder / "solver.prototxt").write_text(str(param))
        self.solver = caffe.get_solver("solver.prototxt")
        self.net = self.solver.net
        rng = np.random.default_rng(0)
        for net in self.solver.nets:
            net.blobs["x"].data[...] = rng.standard_normal(net.blobs["x"].shape)
            net.blobs["label"].data[...] = [0, 1, 2, 1]
        self.state = self.solver.snapshot()
        self.solver.step(2)
        self.other = caffe.Net("net.prototxt", caffe.TRAIN, seed=5)
        self.other.save("other.caffemodel")
        self.other.save_hdf5("other.h5")

    def averaged(self) -> None:
        """Leaves with the average as the weights: what is held is compared within, too."""
        held = self.net.params["conv"][0].data
        before = held.copy()
        with self.solver.averaged():
            assert not np.array_equal(held, before) and np.array_equal(held, self.net.params["conv"][0].data)
        assert np.array_equal(held, before)

    def hooks(self) -> None:
        """Within hooks and callbacks, arrays are live, and writing to them counts."""
        conv, d, w = self.net.blobs["c"].data, self.net.blobs["d"].data, self.net.params["ip"][0].diff
        seen: list[Any] = []
        self.net.after_forward(lambda i: seen.append((i, conv.copy(), d.copy())))
        self.solver.add_callback(lambda: None, lambda: w.__setitem__(..., 0))
        weights = self.net.params["ip"][0].data.copy()
        self.solver.history[0][...] = 0
        self.solver.step(1)
        self.net.run.hooks["after_forward"].clear()
        self.solver.callbacks.clear()
        names = list(self.net._layer_names)
        assert np.array_equal(seen[names.index("relu")][1], self.net.blobs["c"].data) and not np.array_equal(seen[names.index("conv")][1], seen[names.index("relu")][1])
        assert np.array_equal(seen[names.index("conv2")][2], self.net.blobs["d"].data)
        assert np.array_equal(self.net.params["ip"][0].data, weights)                      # its gradient was set to zero


CALLS: dict[str, Callable[[Subject], Any]] = {
    "forward": lambda s: s.net.forward(),
    "forward of a part": lambda s: s.net.forward(start="conv2", end="ip"),
    "forward with inputs": lambda s: s.net.forward(x=np.ones((4, 16, 8, 8)), label=np.zeros(4)),
    "forward_all": lambda s: s.net.forward_all(x=np.ones((8, 16, 8, 8)), label=np.zeros(8)),
    "backward": lambda s: s.net.backward(),
    "backward of a part": lambda s: s.net.backward(start="ip", end="conv2"),
    "forward_backward_all": lambda s: s.net.forward_backward_all(x=np.ones((4, 16, 8, 8)), label=np.zeros(4)),
    "clear_param_diffs": lambda s: s.net.clear_param_diffs(),
    "copy_from": lambda s: s.net.copy_from("other.caffemodel"),
    "load_hdf5": lambda s: s.net.load_hdf5("other.h5"),
    "load_weights": lambda s: s.solver.load_weights("other.caffemodel"),
    "reshape": lambda s: s.net.reshape(),
    "a blob's reshape to less": lambda s: s.net.blobs["x"].reshape(2, 16, 8, 8),
    "step": lambda s: s.solver.step(1),
    "solve": lambda s: s.solver.solve(),
    "test": lambda s: s.solver.test(0),
    "test_all": lambda s: s.solver.test_all(),
    "restore": lambda s: s.solver.restore(s.state),
    "snapshot": lambda s: s.solver.snapshot(),
    "apply_update": lambda s: s.solver.apply_update(),
    "averaged": lambda s: s.averaged(),
    "hooks": lambda s: s.hooks(),
    "share_weights": lambda s: s.solver.share_weights(s.other),
    "save": lambda s: s.net.save("saved.caffemodel"),
}


def arrays(net: caffe.Net) -> dict[str, np.ndarray]:
    found = {}
    for name, blob in net.blobs.items():
        found[f"{name} data"], found[f"{name} diff"] = blob.data, blob.diff
    for name, blobs in net.params.items():
        for k, blob in enumerate(blobs):
            found[f"{name}[{k}] data"], found[f"{name}[{k}] diff"] = blob.data, blob.diff
    return found


@pytest.mark.parametrize("call", CALLS)
def test_what_is_held_shows_what_a_call_made(call: str, working_directory: Path, device: str) -> None:
    subject = Subject(working_directory)
    for net in subject.solver.nets:
        net.forward()
        net.backward()
    held = [arrays(net) for net in subject.solver.nets]
    CALLS[call](subject)
    shown = [{name: view.copy() for name, view in views.items()} for views in held]     # before asking again brings anything up to date
    for net, views in zip(subject.solver.nets, shown):
        for name, fresh in arrays(net).items():
            view = views[name]
            if call == "a blob's reshape to less" and name.startswith("x "):
                view = view[:len(fresh)]
            assert np.array_equal(view, fresh), name


@pytest.mark.parametrize("call", CALLS)
def test_calls_with_views_held_do_what_they_do_without(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Also where one of the arrays was written to before: the call sees it."""
    results = []
    for hold in (True, False):
        folder = tmp_path / str(hold)
        folder.mkdir()
        monkeypatch.chdir(folder)
        subject = Subject(folder)
        subject.net.forward()
        subject.net.backward()
        held = arrays(subject.net) if hold else {}
        (held["ip[0] data"] if hold else subject.net.params["ip"][0].data)[0] = 0.25
        (held["ip[0] diff"] if hold else subject.net.params["ip"][0].diff)[1] = 0.5
        CALLS[call](subject)
        results.append({name: array.copy() for name, array in arrays(subject.net).items()})
        held.clear()
    for name in results[0]:
        assert np.array_equal(results[0][name], results[1][name]), name


def test_every_public_call_of_nets_and_solvers_stands_in_the_table() -> None:
    """A new method that changes values must be added there, or here with the reason why it changes none."""
    other = {"add_callback", "after_forward", "after_backward", "before_forward", "before_backward",        # "hooks"
             # read only
             "check_finite", "output_values", "param_name", "save_hdf5", "to_proto", "update", "constants", "parts", "state",
             "forget_shapes", "run_forward", "run_backward", "settle", "settled", "gather_parameters", "clear_gradients", "scaled_losses", "obey", "tell",    # inside of other calls
             "declared", "make_net",                                                                        # make new ones
             "share_with", "set_input_arrays"}                                                              # documented: arrays are to be taken anew; the data are read by forward
    names = {n for cls in (caffe.Net, caffe.SGDSolver) for n in dir(cls) if not n.startswith("_") and callable(getattr(cls, n)) and not isinstance(getattr(cls, n), type)}
    covered = {call.split(" ")[0] for call in CALLS}
    assert names - other - covered == set() and "take them anew" in (caffe.Net.share_with.__doc__ or "")


LAYER = """
import numpy as np
import brew
class Holds(brew.Layer):
    '''Takes the arrays of its bottom and top once, in setup; parameters move when a solver is built.'''
    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        top[0].reshape(*bottom[0].shape)
        self.x, self.y, self.dx, self.dy = bottom[0].data, top[0].data, bottom[0].diff, top[0].diff
        self.blobs[0].data[...] = 2
    def reshape(self, bottom, top):
        pass
    def forward(self, bottom, top):
        self.y[...] = self.blobs[0].data * self.x
    def backward(self, top, propagate_down, bottom):
        self.dx[...] = self.blobs[0].data * self.dy
        self.blobs[0].diff[...] += (self.dy * self.x).sum()
"""


def test_a_user_s_layer_may_keep_the_arrays_of_its_blobs(working_directory: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    (working_directory / "holds.py").write_text(LAYER)
    monkeypatch.syspath_prepend(str(working_directory))
    weights = []
    for layer in ('type: "Python" bottom: "c" top: "h" python_param { module: "holds" layer: "Holds" }',
                  'type: "Scale" bottom: "c" top: "h" scale_param { axis: 0 num_axes: 0 filler { value: 2 } }'):
        param = pb.SolverParameter(base_lr=0.01, lr_policy="fixed", random_seed=1)
        parse(NET.replace('layer { name: "conv2" type: "Convolution" bottom: "c"', f'layer {{ name: "h" {layer} }} layer {{ name: "conv2" type: "Convolution" bottom: "h"'), param.net_param)
        solver = brew.get_solver(param)
        solver.net.blobs["x"].data[...] = np.random.default_rng(0).standard_normal((4, 16, 8, 8))
        solver.step(3)
        weights.append([blob.data.ravel().copy() for name in ("conv", "h", "conv2", "ip") for blob in solver.net.params[name]])
    for a, b in zip(*weights):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
