"""Memory given on from blob to blob: the same results, and what was given up can be had or is asked for by name."""
from __future__ import annotations

import gc
from pathlib import Path
from weakref import ref

import numpy as np
import pytest

import brew
from brew.engine.errors import NetError
from brew.engine.context import DEFAULT
from brew.engine.pool import Pool
from brew.proto import parse, pb

MODELS = Path(__file__).resolve().parents[2] / "models"

# two branches that join again, an in-place chain, a reshape that shares its memory, and blobs large enough to be pooled
NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 dim: 24 dim: 24 } } }
layer { name: "c1" type: "Convolution" bottom: "x" top: "c1" convolution_param { num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "c2" type: "Convolution" bottom: "c1" top: "c2" convolution_param { num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "b2" type: "BatchNorm" bottom: "c2" top: "c2" }
layer { name: "s2" type: "Scale" bottom: "c2" top: "c2" scale_param { bias_term: true } }
layer { name: "c3" type: "Convolution" bottom: "c1" top: "c3" convolution_param { num_output: 16 kernel_size: 1 weight_filler { type: "msra" } } }
layer { name: "sum" type: "Eltwise" bottom: "c2" bottom: "c3" top: "sum" }
layer { name: "c4" type: "Convolution" bottom: "sum" top: "c4" convolution_param { num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "flat" type: "Flatten" bottom: "c4" top: "flat" }
layer { name: "tanh" type: "TanH" bottom: "flat" top: "t" }
layer { name: "ip" type: "InnerProduct" bottom: "t" top: "ip" inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
LOSS = """
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 4 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def net(text: str = NET, phase: int = brew.TEST) -> brew.Net:
    n = brew.Net(parse(text, pb.NetParameter(), "net.prototxt"), phase, seed=1)
    n.blobs["x"].data[...] = np.random.default_rng(0).standard_normal(n.blobs["x"].shape)
    return n


def solver(keep: bool) -> brew.solvers.Solver:
    param = pb.SolverParameter(base_lr=0.01, lr_policy="fixed", momentum=0.9, random_seed=1)
    parse(NET + LOSS, param.net_param, "net.prototxt")
    s = brew.get_solver(param)
    s.net.keep_blobs = keep
    s.net.blobs["x"].data[...] = np.random.default_rng(0).standard_normal(s.net.blobs["x"].shape)
    s.net.blobs["label"].data[...] = [0, 1, 2, 3]
    return s


def memory(n: brew.Net) -> tuple[int, int]:
    """(bytes that values take now, bytes if each blob had its own)."""
    stores = {id(b.value.store): b.value.store for b in n.blobs.values()}.values()
    return sum(s.nbytes for s in stores) + DEFAULT.pool.nbytes, 4 * sum(s.size for s in stores)


def test_a_request_gets_the_smallest_array_that_serves_and_makes_room_otherwise() -> None:
    pool = Pool()
    small, large = pool.take(100), pool.take(200)
    pool.give(large)
    pool.give(small)
    assert pool.take(90) is small and pool.take(90) is large and not pool.free
    pool.give(small)
    pool.give(large)
    assert pool.take(250).size == 250 and pool.free == []


def test_in_test_memory_is_reused_and_results_stay(device: str) -> None:
    keeping, reusing = net(), net()
    keeping.keep_values = True
    expected = keeping.forward()["ip"].copy()
    for _ in range(3):
        assert np.array_equal(reusing.forward()["ip"], expected)
    if device == "cpu":
        DEFAULT.pool.clear()
        assert memory(reusing)[0] < 0.3 * memory(reusing)[1]
    assert not reusing.keep_values
    for name in ("c1", "sum", "t"):                     # a look brings it back, with all others
        assert np.array_equal(reusing.blobs[name].data, keeping.blobs[name].data)
    assert reusing.keep_values and np.array_equal(reusing.forward()["ip"], expected)


def test_a_view_that_the_user_holds_stays_live() -> None:
    n = net()
    view = n.blobs["c1"].data
    first = n.forward()["ip"].copy()
    seen = view.copy()
    n.blobs["x"].data[...] *= 2
    assert not np.array_equal(n.forward()["ip"], first) and not np.array_equal(view, seen) and not n.keep_values


def test_a_new_shape_makes_a_new_plan() -> None:
    n, big = net(), net()
    n.forward()
    for m in (n, big):
        m.blobs["x"].reshape(2, 3, 24, 24)
        m.blobs["x"].data[...] = np.random.default_rng(1).standard_normal((2, 3, 24, 24))
    big.keep_values = True
    assert np.array_equal(n.forward()["ip"], big.forward()["ip"]) and n.forward()["ip"].shape == (2, 5)


@pytest.mark.parametrize("partial", [False, True])
def test_backward_after_a_run_that_kept_nothing(partial: bool) -> None:
    keeping, reusing = net(NET + LOSS + "force_backward: true"), net(NET + LOSS + "force_backward: true")
    keeping.keep_values = True
    for n in (keeping, reusing):
        n.forward()
        n.backward(end="c2") if partial else n.backward()
    for name in ("c2", "c4"):
        assert np.array_equal(reusing.params[name][0].diff, keeping.params[name][0].diff) and reusing.params[name][0].diff.any()


def test_partial_runs_find_what_they_start_from() -> None:
    keeping, reusing = net(), net()
    keeping.keep_values = True
    for n in (keeping, reusing):
        n.forward()
    assert np.array_equal(reusing.forward(start="c4")["ip"], keeping.forward(start="c4")["ip"])


def test_training_reuses_gradients_and_stays_the_same(device: str) -> None:
    keeping, reusing = solver(True), solver(False)
    for s in (keeping, reusing):
        s.step(4)
    for mine, theirs in zip(reusing.net.learnable, keeping.net.learnable):
        assert np.array_equal(mine.blob.data, theirs.blob.data)
    assert keeping.net.blobs["c1"].diff.any() and reusing.net.blobs["ip"].diff.any()      # small ones are kept
    for look in (lambda: reusing.net.blobs["c1"].diff, lambda: reusing.net.blobs["c2"].data):     # BatchNorm and the sum need no values of c2
        with pytest.raises(NetError, match="keep_blobs = True"):
            look()
    assert reusing.net.blobs["c1"].data.any()
    reusing.net.keep_blobs = True
    for s in (keeping, reusing):
        s.step(1)
    assert np.array_equal(reusing.net.blobs["c1"].diff, keeping.net.blobs["c1"].diff)
    assert np.array_equal(reusing.net.blobs["c2"].data, keeping.net.blobs["c2"].data)


def test_a_gradient_that_the_user_holds_is_kept() -> None:
    held, keeping = solver(False), solver(True)
    view = held.net.blobs["c1"].diff
    for s in (held, keeping):
        s.step(2)
    assert view.any() and np.array_equal(view, keeping.net.blobs["c1"].diff)


def test_frozen_layers_cost_neither_backward_nor_memory() -> None:
    """With all but the last layer frozen: no gradients, no histories, and values that nobody needs again are given on."""
    frozen = NET
    for name in ("c1", "c2", "s2", "c3", "c4"):
        frozen = frozen.replace(f'name: "{name}"', f'name: "{name}" param {{ lr_mult: 0 }} param {{ lr_mult: 0 }}')
    param = pb.SolverParameter(base_lr=0.1, lr_policy="fixed", momentum=0.9, weight_decay=0.1, random_seed=1, clip_gradients=1, snapshot_prefix="frozen", max_iter=4)
    parse(frozen + LOSS, param.net_param, "net.prototxt")
    s = brew.get_solver(param)
    n = s.net
    x = np.random.default_rng(0).standard_normal(n.blobs["x"].shape)
    n.blobs["x"].data[...], n.blobs["label"].data[...] = x, [0, 1, 2, 3]
    before = [p.blob.data.copy() for p in n.learnable]
    s.step(2)
    assert [layer.name for layer in n.layers if layer.runs_backward and layer.type != "Split"] == ["ip", "loss"]
    ip = sum(p.blob.count for p in n.learnable if p.layer == "ip")
    assert ip <= len(s.arena.diff) == len(s.history[0]) < ip + 64 < len(s.arena.data)
    assert [p.layer for p, values in zip(n.learnable, before) if (p.blob.data != values).any()] == ["b2"] * 3 + ["ip"] * 2      # b2: statistics
    for name in ("c1", "c2", "c3"):
        with pytest.raises(NetError, match="keep_blobs = True"):
            n.blobs[name].data
    state = s.snapshot()
    s.step(2)
    other = brew.get_solver(param)
    other.net.blobs["x"].data[...], other.net.blobs["label"].data[...] = x, [0, 1, 2, 3]
    other.restore(state)
    other.step(2)
    assert all((a.blob.data == b.blob.data).all() for a, b in zip(n.learnable, other.net.learnable))


def test_resnet50_needs_a_fifth_of_the_memory_of_its_blobs() -> None:
    DEFAULT.pool.clear()
    n = brew.Net(MODELS / "resnet50" / "deploy.prototxt", brew.TEST, seed=1)
    n.forward()
    used, unshared = memory(n)
    assert used < 0.2 * unshared                        # 15.6 % on both engines' layouts


def test_a_net_frees_its_memory_as_soon_as_nobody_holds_it() -> None:
    gc.disable()
    try:
        n, s = net(), solver(False)
        n.forward()
        s.step(2)
        blob, gone = n.blobs["sum"], [ref(n), ref(s), ref(s.net)]
        del n, s
        assert [r() for r in gone] == [None] * 3
        with pytest.raises(NetError, match="the net of this blob is gone"):
            blob.data
    finally:
        gc.enable()
