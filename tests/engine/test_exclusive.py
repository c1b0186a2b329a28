"""One net runs in one thread at a time, and a second thread gets an error; nets side by side in threads give the same bits."""
from __future__ import annotations

import copy
import inspect
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import brew
import brew.pycaffe as caffe
from brew.engine import context as devices
from brew.engine.errors import NetError
from brew.engine.layout import laid_out
from brew.engine.memory import Memory
from brew.proto import parse, pb
from brew.solvers.solver import Solver

BUSY = 'the net "n" is in use by another thread\n  make a net for each thread; share_with() lets them have the same weights'
BODY = '''layer { name: "conv" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 32 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "c" top: "c" }
layer { name: "pool" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "p" top: "y" inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
'''
DEPLOY = 'name: "n" force_backward: true layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 8 dim: 16 dim: 14 dim: 14 } } }' + BODY
TRAIN = '''name: "n" layer { name: "in" type: "DummyData" top: "x" top: "label" dummy_data_param { shape { dim: 8 dim: 16 dim: 14 dim: 14 } shape { dim: 8 }
  data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 } } }''' + BODY + 'layer { name: "drop" type: "Dropout" bottom: "y" top: "y" } layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "label" top: "loss" }'
SOLVER = 'net: "train.prototxt" test_iter: 1 test_interval: 100 test_initialization: false base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" random_seed: 3 average_decay: 0.9 snapshot_prefix: "s"'
IMAGE = np.zeros((20, 20, 16), np.float32)


@pytest.fixture(autouse=True)
def files() -> None:
    Path("deploy.prototxt").write_text(DEPLOY)
    Path("train.prototxt").write_text(TRAIN)
    Path("solver.prototxt").write_text(SOLVER)
    net = brew.Net("deploy.prototxt")
    net.save("w.caffemodel")
    net.save_hdf5("w.caffemodel.h5")
    import cv2
    cv2.imwrite("i.png", np.zeros((20, 20, 3), np.uint8))


@contextmanager
def running(net: Any, run: Callable[[], object]) -> Iterator[None]:
    """Another thread is in the middle of `run`, within a layer of `net`."""
    layer, inside, go_on = net.layer_dict["pool"], threading.Event(), threading.Event()
    original = layer.forward

    def waits(*args: Any) -> None:
        inside.set()
        assert go_on.wait(60)
        original(*args)
    layer.forward = waits
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(run)
        try:
            assert inside.wait(60)
            yield
        finally:
            go_on.set()
            del layer.forward
            result.result()


# What a user may call of a net, with arguments
NET: dict[str, Callable[[Any], object]] = {
    "forward": lambda n: n.forward(), "backward": lambda n: n.backward(), "run_forward": lambda n: n.run_forward(),
    "run_backward": lambda n: n.run_backward(), "reshape": lambda n: n.reshape(), "settle": lambda n: n.settle(True),
    "copy_from": lambda n: n.copy_from("w.caffemodel"), "load_hdf5": lambda n: n.load_hdf5("w.caffemodel.h5"),
    "save": lambda n: n.save("s.caffemodel"), "save_hdf5": lambda n: n.save_hdf5("s.h5"), "to_proto": lambda n: n.to_proto(),
    "share_with": lambda n: n.share_with(brew.Net("deploy.prototxt")), "clear_param_diffs": lambda n: n.clear_param_diffs(),
    "clear_gradients": lambda n: n.clear_gradients(), "settled": lambda n: n.settled().__enter__(),
    "gather_parameters": lambda n: n.gather_parameters(), "output_values": lambda n: n.output_values(), "check_finite": lambda n: n.check_finite(np.nan),
    "scaled_losses": lambda n: n.scaled_losses(2).__enter__(),
}
PYCAFFE = NET | {
    "forward_all": lambda n: n.forward_all(x=np.zeros((9, 16, 14, 14))), "forward_backward_all": lambda n: n.forward_backward_all(x=np.zeros((9, 16, 14, 14)), y=np.zeros((9, 4))),
    "set_input_arrays": lambda n: n.set_input_arrays(np.zeros((8, 16, 14, 14), "f"), np.zeros(8, "f"))}
LOOKS: dict[str, Callable[[Any], object]] = {
    "pickle": pickle.dumps, "deepcopy": copy.deepcopy, "blob.data": lambda n: n.blobs["p"].data, "blob.diff": lambda n: n.blobs["p"].diff, "param.data": lambda n: n.params["ip"][0].data, "param.diff": lambda n: n.params["ip"][0].diff}
# What changes nothing that a run uses
FREE = {"before_forward", "after_forward", "before_backward", "after_backward", "param_name", "forget_shapes"}
SOLVERS: dict[str, Callable[[Any], object]] = {
    "step": lambda s: s.step(1), "solve": lambda s: s.solve(), "snapshot": lambda s: s.snapshot(), "restore": lambda s: s.restore("s_iter_0.solverstate"),
    "apply_update": lambda s: s.apply_update(), "test": lambda s: s.test(), "test_all": lambda s: s.test_all(), "load_weights": lambda s: s.load_weights("w.caffemodel"),
    "share_weights": lambda s: s.share_weights(brew.Net("deploy.prototxt")), "averaged": lambda s: s.averaged().__enter__(), "state": lambda s: s.state()}
SOLVERS_FREE = {"add_callback", "update", "constants", "parts", "net_class", "declared", "make_net", "obey", "tell"}


def methods(cls: type) -> set[str]:
    return {name for name, member in inspect.getmembers(cls) if not name.startswith("_") and callable(member)}


def test_the_tables_have_every_method() -> None:
    assert set(NET) == methods(brew.Net) - FREE
    assert set(PYCAFFE) == methods(caffe.Net) - FREE
    assert methods(caffe.Classifier) - methods(caffe.Net) == {"predict"}
    assert methods(caffe.Detector) - methods(caffe.Net) == {"detect_windows", "detect_selective_search", "crop", "configure_crop"}
    assert set(SOLVERS) == methods(Solver) - SOLVERS_FREE


def refused(call: Callable[[Any], object], of: Any) -> None:
    with pytest.raises(NetError) as e:
        call(of)
    assert str(e.value) == BUSY


@pytest.mark.parametrize("name", [*PYCAFFE, *LOOKS])
def test_a_net_that_runs_in_another_thread_is_refused(name: str) -> None:
    net = caffe.Net("deploy.prototxt", caffe.TEST)
    with running(net, net.forward):
        refused((PYCAFFE | LOOKS)[name], net)
        other = brew.Net("deploy.prototxt")
        refused(other.share_with, net)
        other.forward()
    net.forward()


@pytest.mark.parametrize("name", ["predict", "detect_windows"])
def test_classifiers_and_detectors_are_refused(name: str) -> None:
    net: Any = caffe.Classifier("deploy.prototxt", "w.caffemodel") if name == "predict" else caffe.Detector("deploy.prototxt", "w.caffemodel")
    call = (lambda: net.predict([IMAGE], False)) if name == "predict" else (lambda: net.forward_all(x=np.zeros((9, 16, 14, 14))))
    with running(net, call):
        refused(lambda n: n.predict([IMAGE], False) if name == "predict" else n.detect_windows([]), net)
    call()


@pytest.mark.parametrize("name", [*SOLVERS, "pickle", *(f"net: {name}" for name in [*NET, *LOOKS]), "test net"])
def test_a_solver_that_steps_in_another_thread_is_refused_with_its_nets(name: str) -> None:
    solver = brew.get_solver("solver.prototxt")
    solver.step(1)
    with running(solver.net, lambda: solver.step(2)):
        if name == "test net":
            refused(lambda s: s.test_nets[0].forward(), solver)
        else:
            calls, of = (SOLVERS | {"pickle": pickle.dumps}, solver) if "net: " not in name else (NET | LOOKS, solver.net)
            refused(calls[name.removeprefix("net: ")], of)
    assert solver.iter == 3


def test_a_solver_whose_net_runs_in_another_thread_is_refused() -> None:
    solver = brew.get_solver("solver.prototxt")
    for net in solver.nets:
        with running(net, net.forward):
            refused(lambda s: s.step(1), solver)
            refused(lambda s: s.restore("none"), solver)
    solver.step(1)


def test_looking_at_lost_values_runs_the_net_in_one_thread_only() -> None:
    net = brew.Net(parse(DEPLOY.replace("dim: 8", "dim: 64"), pb.NetParameter()))
    net.forward(x=np.ones((64, 16, 14, 14)))
    assert net.blobs["p"].value.store.is_given_up
    with running(net, lambda: net.blobs["p"].data):
        refused(lambda n: n.blobs["c"].data, net)
        refused(lambda n: n.forward(), net)
    assert net.blobs["p"].data.any()


def test_the_same_thread_may_come_back() -> None:
    """From hooks, callbacks and layers in Python; and threads that these start may look at blobs."""
    solver = brew.get_solver("solver.prototxt")
    seen: list[Any] = []
    with ThreadPoolExecutor(1) as pool:
        def look() -> None:
            seen.append(pool.submit(lambda: solver.net.params["ip"][0].data.copy()).result())
            refused(lambda net: pool.submit(net.forward).result(), solver.net)
            solver.net.blobs["p"].data.copy()
            solver.net.save("in.caffemodel")
            solver.test()
        solver.add_callback(look, look)
        solver.net.after_forward(lambda i: seen.append(pool.submit(lambda: solver.net.blobs["label"].data.copy()).result()))
        solver.watchers = [type("Watcher", (), {"on_iteration": lambda self, solver, loss: look()})()]
        solver.step(2)
    assert len(seen) == 6 + 2 * len(solver.net.layers)


def test_threads_of_a_layer_in_python_may_look_at_its_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_threads.py").write_text("""
from concurrent.futures import ThreadPoolExecutor
import brew
class Doubler(brew.Layer):
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        def one(i):
            top[0].data[i] = 2 * bottom[0].data[i]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, range(len(bottom[0].data))))
""")
    monkeypatch.syspath_prepend("")
    net = brew.Net(parse('layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 50 } } }'
                         'layer { name: "l" type: "Python" bottom: "x" top: "y" python_param { module: "own_threads" layer: "Doubler" } }', pb.NetParameter()))
    sys.modules.pop("own_threads")
    assert (net.forward(x=np.arange(50))["y"] == 2 * np.arange(50)).all()


# --------------------------------------------------------------------------------------------------- nets side by side

def side_by_side(works: list[Callable[[], Any]]) -> list[Any]:
    """The results of all, each in a thread, begun together."""
    begin = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> Any:
        begin.wait(60)
        return work()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)                                  # threads take turns as often as they can
    try:
        with ThreadPoolExecutor(len(works)) as pool:
            return [future.result() for future in [pool.submit(run, work) for work in works]]
    finally:
        sys.setswitchinterval(before)


def test_nets_that_share_weights_give_the_same_bits_in_threads(device: str) -> None:
    images = np.random.default_rng(0).normal(size=(6, 8, 16, 14, 14))
    alone = brew.Net("deploy.prototxt", weights="w.caffemodel")
    expected = [alone.forward(x=x)["y"].tobytes() for x in images]
    for _ in range(5):
        first = brew.Net("deploy.prototxt", weights="w.caffemodel")
        nets = [first, brew.Net("deploy.prototxt"), brew.Net("deploy.prototxt", weights="w.caffemodel")]
        nets[1].share_with(first)                                # whose weights are first read in several threads at once
        for found in side_by_side([lambda net=net: [net.forward(x=x)["y"].tobytes() for x in images] for net in nets]):     # type: ignore[misc]
            assert found == expected


def test_solvers_give_the_same_bits_in_threads(device: str, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(lambda threads=devices.cpu_device().threads: brew.set_threads(threads))      # type: ignore[misc]
    brew.set_threads(1)
    def train(seed: int) -> Callable[[], Any]:
        solver = brew.get_solver(parse(SOLVER.replace("random_seed: 3", f"random_seed: {seed}"), pb.SolverParameter()))

        def work() -> Any:
            solver.step(6)
            return solver.losses, [b.data.tobytes() for blobs in solver.net.params.values() for b in blobs]
        return work
    assert side_by_side([train(3), train(4)]) == [train(3)(), train(4)()]


def test_a_copy_is_seen_when_it_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nets that share weights and read them at once for the first time: neither gets the copy that the other has yet to fill."""
    memory = Memory((1, 3, 2))
    memory.write()[...] = np.arange(6).reshape(1, 3, 2)
    layout, main = laid_out((1, 3, 2), 0), threading.get_ident()
    allocating, allocate, packing, pack = (threading.Event() for _ in range(4))

    class Slow(type(layout)):                                    # type: ignore[misc]
        def pack(self, plain: np.ndarray, out: np.ndarray) -> None:
            if threading.get_ident() != main:
                packing.set()
                assert pack.wait(60)
            layout.pack(plain, out)

    def empty(size: int) -> np.ndarray:
        if threading.get_ident() != main:
            allocating.set()
            assert allocate.wait(60)
        return np.zeros(size, np.float32)
    monkeypatch.setattr(devices.Cpu, "empty", staticmethod(empty))
    slow, right = Slow(layout.grid), [0, 2, 4, 1, 3, 5]
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: memory.read(slow).tolist())
        assert allocating.wait(60) and memory.read(slow).tolist() == right
        allocate.set()
        assert packing.wait(60) and memory.read(slow).tolist() == right
        pack.set()
        assert other.result() == memory.read(slow).tolist() == right
