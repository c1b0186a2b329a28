"""Contexts: trainings in one process, in threads, on different devices, do not disturb each other."""
from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

import brew
from brew.engine import context as contexts
from brew.engine.device import Cpu, Gpu
from brew.engine.errors import DeviceError, WeightsError
from brew.kernels import onednn
from brew.proto import parse, pb

NET = """
    layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
            shape { dim: 8 dim: 3 dim: 12 dim: 12 } shape { dim: 8 }
            data_filler { type: "gaussian" } data_filler { type: "constant" value: 2 } } }
    layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
            convolution_param { num_output: 16 kernel_size: 3 weight_filler { type: "xavier" } } }
    layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
    layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
    layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }
    layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
            inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }"""


def training(context: brew.Context, steps: int) -> list[bytes]:
    """The weights after so many steps, made and run in this context."""
    with context:
        solver = brew.get_solver(pb.SolverParameter(net_param=parse(NET, pb.NetParameter()), base_lr=0.01, momentum=0.9,
                                                    lr_policy="fixed", iter_size=2, clip_gradients=1))
    for _ in range(steps):                   # outside of the with block: the solver keeps its context
        solver.step(1)
    return [p.blob.data.tobytes() for p in solver.net.learnable]


def four(shim: ModuleType) -> list[Callable[[], brew.Context]]:
    """Makers of contexts that differ in device, engine, threads and seed."""
    def on_shim() -> brew.Context:
        return brew.Context(seed=3).with_device(Gpu(shim.ShimBackend(order=2)))
    return [lambda: brew.Context(threads=1, engine="onednn" if onednn else "caffe", seed=1),
            lambda: brew.Context(threads=2, engine="caffe", seed=2), on_shim,
            lambda: brew.Context(threads=3, engine="caffe", seed=1)]


def test_four_trainings_at_once_get_the_bits_of_four_alone(shim: ModuleType) -> None:
    makers, steps = four(shim), 6
    alone = [training(make(), steps) for make in makers]
    assert len({weights[0] for weights in alone}) >= 3           # the contexts do differ
    results: dict[int, list[bytes]] = {}
    start = threading.Barrier(4)

    def work(k: int) -> None:
        start.wait()
        results[k] = training(makers[k](), steps)
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[k] for k in range(4)] == alone


def test_two_devices_take_turns_in_one_thread(shim: ModuleType) -> None:
    """A net on a GPU and one on the CPU, step by step in turn, and one within a hook of the other."""
    def solvers() -> list[brew.Solver]:
        made = []
        for make in four(shim)[1:3]:
            with make():
                made.append(brew.get_solver(pb.SolverParameter(net_param=parse(NET, pb.NetParameter()), base_lr=0.01,
                                                               lr_policy="fixed")))
        return made
    expected = solvers()
    for solver in expected:
        solver.step(3)
    first, second = solvers()
    for _ in range(2):
        first.step(1)
        second.step(1)
    second.net.before_forward(lambda i: first.step(1) if i == 2 and first.iter < 3 else None)
    second.step(1)
    assert first.iter == 3
    for ours, theirs in zip((first, second), expected):
        assert [p.blob.data.tobytes() for p in ours.net.learnable] == [p.blob.data.tobytes()
                                                                       for p in theirs.net.learnable]


def test_what_a_layer_makes_while_it_runs_belongs_to_its_net(shim: ModuleType) -> None:
    """Memory for a batch of another size, made outside of the with block, after a net of another device has run."""
    others = brew.Net(parse(NET, pb.NetParameter()), brew.TRAIN)
    with four(shim)[2]() as context:
        net = brew.Net(parse(NET.replace("DummyData", "Input").replace("dummy_data_param", "input_param").replace(
            'data_filler { type: "gaussian" } data_filler { type: "constant" value: 2 }', ""), pb.NetParameter()), brew.TEST)
    others.forward()
    for name in ("data", "label"):
        net.blobs[name].reshape(5, *net.blobs[name].shape[1:])
    net.run_forward()
    store = net.nodes[-1].probabilities.store
    assert store.gpu and store.context is context and contexts.active() is context and net.blobs["ip"].shape == (5, 10)


def test_a_context_is_left_as_it_was_found() -> None:
    outside = contexts.current()
    with brew.Context(threads=1, seed=5) as inner:
        assert contexts.current() is inner and contexts.new_seed() == 5
        brew.set_random_seed(6)
        assert contexts.new_seed() == 6 and outside.seed != 6
        with inner, contexts.dry_run():
            assert contexts.current().dry and not contexts.current().imports
        assert not contexts.current().dry
        brew.set_threads(4)
        assert inner.cpu.threads == 4 and outside.cpu.threads != 4
    assert contexts.current() is outside and contexts.active() is outside


def test_a_thread_begins_with_the_default_context() -> None:
    found = []
    with brew.Context(seed=5):
        thread = threading.Thread(target=lambda: found.append(contexts.current()))
        thread.start()
        thread.join()
    assert found == [contexts.DEFAULT]


def test_nets_on_different_devices_do_not_share_weights(shim: ModuleType) -> None:
    nets = []
    for make in four(shim)[1:3]:
        with make():
            nets.append(brew.Net(parse(NET, pb.NetParameter()), brew.TRAIN))
    with pytest.raises(WeightsError, match='layer "conv" is on another device'):
        nets[0].share_with(nets[1])


@pytest.mark.parametrize("arguments, message", [
    ({"threads": 0}, "at least one thread, found 0"), ({"engine": "mkl"}, "the engine is onednn or caffe, found 'mkl'"),
    ({"gpu": 0}, "the GPU needs CuPy|GPU 0")])
def test_impossible_contexts(arguments: dict[str, object], message: str) -> None:
    if "gpu" in arguments:
        try:
            import cupy                      # type: ignore[import-not-found]  # noqa: F401
            pytest.skip("there may be a GPU")
        except ImportError:
            pass
    with pytest.raises(DeviceError, match=message):
        brew.Context(**arguments)            # type: ignore[arg-type]


def test_memory_of_a_context_is_its_own() -> None:
    one, other = brew.Context(), brew.Context()
    with one:
        net = brew.Net(parse(NET.replace("dim: 12", "dim: 48"), pb.NetParameter()), brew.TRAIN)
    net.run_forward(keep=False)
    net.run_backward(keep=False)
    assert one.pool.nbytes and not other.pool.nbytes
    assert isinstance(net.device, Cpu) and net.device is one.cpu and np.isfinite(net.blobs["loss"].data)
