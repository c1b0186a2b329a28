"""Row-sparse gradients: what every solver does with them, and what of a training must not change."""
from __future__ import annotations

import copy
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import brew
from brew.engine.errors import NetError, SolverError
from brew.engine.context import active
from brew.engine.gradient import RowSparse
from brew.engine.memory import ByColumns
from brew.engine.store import INT32
from brew.proto import parse, pb

SOLVERS = {"SGD": "momentum: 0.9", "Nesterov": "momentum: 0.9", "AdaGrad": "", "RMSProp": "rms_decay: 0.9",
           "RMSProp with momentum":
           "rms_decay: 0.9 momentum: 0.5", "AdaDelta": "momentum: 0.9 delta: 1e-6", "Adam": "momentum: 0.9", "AdamW": "momentum: 0.9",
           "LARS": "momentum: 0.9 trust_coefficient: 0.01"}
EMBED = """
    layer { name: "in" type: "Input" top: "index" top: "target" input_param { shape { dim: 6 dim: 2 } shape { dim: 6 dim: 2 dim: 4 } } }
    layer { name: "embed" type: "Embed" bottom: "index" top: "v"
            embed_param { %s input_dim: 9 num_output: 4 weight_filler { type: "gaussian" } bias_filler { type: "gaussian" } } }
    layer { name: "loss" type: "EuclideanLoss" bottom: "v" bottom: "target" top: "loss" }"""
OUTPUTS = """
    layer { name: "in" type: "Input" top: "x" top: "target" input_param { shape { dim: 6 dim: 5 } shape { dim: 6 dim: 7 } } }
    layer { name: "embed" type: "InnerProduct" bottom: "x" top: "v"
            inner_product_param { %s num_output: 7 weight_filler { type: "gaussian" } } }
    layer { name: "loss" type: "EuclideanLoss" bottom: "v" bottom: "target" top: "loss" }"""


def solver(net: str, kind: str = "SGD", more: str = "", sparse: bool = True) -> brew.Solver:
    text = f'type: "{kind.partition(" ")[0]}" base_lr: 0.1 lr_policy: "fixed" weight_decay: 0.01 random_seed: 3 {SOLVERS[kind]} {more}'
    param = parse(text, pb.SolverParameter())
    parse(net % ("sparse_gradient: true" if sparse else ""), param.net_param)
    return brew.get_solver(param)


def feed(s: brew.Solver, step: int, rows: Any = range(9)) -> None:
    rng = np.random.default_rng(step)
    for name, blob in s.net.blobs.items():
        if name == "index":
            index = rng.choice(list(rows), blob.shape)
            index.ravel()[:len(rows)] = list(rows)[:blob.count]        # every row
            blob.data[...] = index
        elif name in ("target", "x"):
            blob.data[...] = rng.standard_normal(blob.shape)


def weights(s: brew.Solver) -> list[np.ndarray]:
    return [p.blob.data.copy() for p in s.net.learnable]


@pytest.mark.parametrize("net", [EMBED, OUTPUTS], ids=["Embed", "InnerProduct"])
@pytest.mark.parametrize("kind", SOLVERS)
@pytest.mark.parametrize("more", ["", "clip_gradients: 0.5", "iter_size: 2", 'regularization_type: "L1"'])
def test_with_every_row_touched_it_is_the_dense_step(net: str, kind: str, more: str, device: str) -> None:
    pair = [solver(net, kind, more, sparse) for sparse in (True, False)]
    for step in range(4):
        for s in pair:
            feed(s, step)
            s.step(1)
    assert pair[0].arena.sparse and not pair[1].arena.sparse
    # sums of the same numbers in another order
    exact = not more.startswith(("clip", "iter_size")) and kind != "LARS"
    for ours, theirs in zip(*map(weights, pair)):
        if exact and net is EMBED:
            assert np.array_equal(ours, theirs)
        assert np.allclose(ours, theirs, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("kind", SOLVERS)
def test_rows_that_no_item_touched_stay(kind: str, device: str) -> None:
    """No decay, no momentum; and rows that come back go on with the histories that they had."""
    s = solver(EMBED, kind)
    feed(s, 0)
    s.step(1)
    before, history = weights(s)[0], [h.copy() for h in s.history]
    feed(s, 1, rows=(1, 4, 5))
    s.step(1)
    after = weights(s)[0]
    still = [0, 2, 3, 6, 7, 8]
    assert np.array_equal(after[still], before[still]) and (after[[1, 4, 5]] != before[[1, 4, 5]]).all()
    slot = s.arena.sparse[0]
    for old, new in zip(history, s.history):
        old, new = (np.array(a[slot.start:slot.start + slot.size].tolist()).reshape(9, 4) for a in (old, new))
        assert np.array_equal(old[still], new[still])


def test_adam_counts_iterations_and_not_touches() -> None:
    """torch.optim.SparseAdam's rule: moments decay for touched rows only, the bias correction is that of the step."""
    s = solver(EMBED, "Adam", "momentum2: 0.99")
    s.param.weight_decay = 0
    w = weights(s)[0].astype(np.float64)
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, rows in enumerate([(0, 1), (1, 2), (0, 8)], 1):
        feed(s, t, rows)
        index, target = s.net.blobs["index"].data.astype(int).copy(), s.net.blobs["target"].data.copy()
        bias = s.net.params["embed"][1].data.astype(np.float64)
        g = np.zeros_like(w)
        np.add.at(g, index.ravel(), ((w[index] + bias - target) / 6).reshape(-1, 4))
        hit = np.unique(index)
        m[hit] = 0.9 * m[hit] + 0.1 * g[hit]
        v[hit] = 0.99 * v[hit] + 0.01 * g[hit]**2
        s.step(1)
        w[hit] -= 0.1 * np.sqrt(1 - 0.99**t) / (1 - 0.9**t) * m[hit] / (np.sqrt(v[hit]) + 1e-8)
    assert np.allclose(weights(s)[0], w, atol=1e-5)


def test_clipping_counts_the_rows_that_are_there(caplog: pytest.LogCaptureFixture) -> None:
    s = solver(EMBED, more="clip_gradients: 0.01")
    feed(s, 0, rows=(2, 3))
    s.net.keep_blobs = True
    s.net.clear_param_diffs()
    s.net.run_forward()
    s.net.run_backward()
    norm = float(np.sqrt(sum((p.blob.diff.astype(np.float64)**2).sum() for p in s.net.learnable)))
    with caplog.at_level(logging.INFO):
        s.step(1)
    assert f"(L2 norm {norm:g} > 0.01)" in caplog.text


@pytest.mark.parametrize("kind", ["SGD", "Adam", "LARS"])
def test_granting_changes_no_bit(kind: str, device: str) -> None:
    pair = [solver(EMBED, kind), solver(EMBED, kind)]
    pair[1].net.keep_blobs = True                           # somebody may look at gradients
    for step in range(3):
        for s in pair:
            feed(s, step, rows=(1, 2, 7))
            s.step(1)
    assert pair[0].arena.sparse[0].blob.sparse.is_zero and not pair[1].arena.sparse[0].blob.sparse.is_zero
    assert [w.tobytes() for w in weights(pair[0])] == [w.tobytes() for w in weights(pair[1])]


def test_a_grant_ends_with_its_iteration() -> None:
    s = solver(EMBED)
    feed(s, 0)
    s.step(1)
    before = weights(s)
    s.net.clear_param_diffs()
    s.net.run_forward()
    s.net.run_backward()
    assert all(np.array_equal(a, b) for a, b in zip(before, weights(s))) and s.net.params["embed"][0].diff.any()


@pytest.mark.parametrize("what", ["iter_size", "clip", "callback", "hook", "reducer", "loss_scale"])
def test_what_forbids_granting(what: str) -> None:
    s = solver(EMBED, more={"iter_size": "iter_size: 2", "clip": "clip_gradients: 100"}.get(what, ""))
    seen: list[Any] = []
    if what == "callback":
        s.add_callback(lambda: None, lambda: seen.append(s.net.params["embed"][0].diff.any()))
    if what == "hook":
        s.net.after_backward(lambda i: seen.append(i))
    if what == "reducer":
        s.reducer = seen.append
    if what == "loss_scale":
        s.loss_scale = brew.solvers.loss_scale.LossScale(4)
    feed(s, 0)
    s.step(1)
    assert not s.arena.sparse[0].blob.sparse.is_zero and (what != "callback" or seen == [True])


def test_a_loss_that_is_not_finite_changes_nothing_although_updates_are_granted() -> None:
    s = solver(EMBED)
    feed(s, 0)
    s.net.blobs["target"].data[0, 0, 0] = np.inf
    before = weights(s)
    with pytest.raises(SolverError, match="not finite"):
        s.step(1)
    assert all(np.array_equal(a, b) for a, b in zip(before, weights(s))) and not s.torn


def test_an_exception_after_a_granted_update_leaves_the_solver_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    s = solver(EMBED)
    feed(s, 0)
    update = s._update_rows
    monkeypatch.setattr(s, "_update_rows", lambda *args: (update(*args), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        s.step(1)
    assert "update of iteration 0" in s.torn


@pytest.mark.parametrize("end", ["", "snapshot_format: HDF5"], ids=["binary", "hdf5"])
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_resume_bit_for_bit(kind: str, end: str) -> None:
    whole, half = (solver(EMBED, kind, f'snapshot_prefix: "s" {end}') for _ in range(2))
    for step in range(6):
        feed(whole, step, rows=(step, 4))
        whole.step(1)
        if step < 3:
            feed(half, step, rows=(step, 4))
            half.step(1)
    path, again = half.snapshot(), solver(EMBED, kind, f'snapshot_prefix: "t" {end}')
    again.restore(path)
    for step in range(3, 6):
        feed(again, step, rows=(step, 4))
        again.step(1)
    assert [w.tobytes() for w in weights(whole)] == [w.tobytes() for w in weights(again)]


def test_copies_take_the_gradient_along() -> None:
    s = solver(EMBED)
    s.net.keep_blobs = True
    feed(s, 0, rows=(2, 5))
    s.step(1)
    for other in (copy.deepcopy(s), pickle.loads(pickle.dumps(s))):
        mine, theirs = (x.net.params["embed"][0].sparse for x in (s, other))
        assert theirs is not mine
        assert np.array_equal(mine.rows, theirs.rows) and np.array_equal(mine.values, theirs.values)
        assert np.array_equal(other.net.params["embed"][0].diff, s.net.params["embed"][0].diff)
    one = copy.deepcopy(s.net.params["embed"][0])
    assert np.array_equal(one.diff, s.net.params["embed"][0].diff)


def test_debug_info_and_files_know_the_rows(caplog: pytest.LogCaptureFixture) -> None:
    s = solver(EMBED, more="debug_info: true display: 1 snapshot_diff: true")
    feed(s, 0, rows=(2, 5))
    with caplog.at_level(logging.INFO):
        s.step(1)
    magnitude = float(abs(s.net.params["embed"][0].diff).mean())
    assert f"[Update] Layer embed, param 0 data: {abs(weights(s)[0]).mean():g}; diff: {magnitude:g}" in caplog.text
    s.net.save("w.caffemodel", True)
    other = solver(EMBED)
    other.net.copy_from("w.caffemodel")
    layer = brew.proto.read_weights("w.caffemodel").layer[1]
    assert np.array_equal(np.array(layer.blobs[0].diff, np.float32).reshape(9, 4), s.net.params["embed"][0].diff)


def test_diff_of_rows_cannot_be_written() -> None:
    s = solver(EMBED)
    with pytest.raises(ValueError, match="read-only"):
        s.net.params["embed"][0].diff[...] = 1


def test_an_average_of_all_rows_is_refused() -> None:
    with pytest.raises(SolverError, match='average_decay is for dense gradients: layer "embed" has row-sparse ones'):
        solver(EMBED, more="average_decay: 0.9")


def test_the_arena_has_no_gradient_for_it() -> None:
    sparse, dense = solver(EMBED), solver(EMBED, sparse=False)
    assert len(dense.arena.diff) == len(sparse.arena.diff) + 48 and len(dense.history[0]) == len(sparse.history[0])


SHARED = """
    layer { name: "in" type: "Input" top: "index" top: "target" input_param { shape { dim: 6 dim: 2 } shape { dim: 6 dim: 2 dim: 4 } } }
    layer { name: "a" type: "Embed" bottom: "index" top: "v" param { name: "w" }
            embed_param { %s input_dim: 9 num_output: 4 bias_term: false weight_filler { type: "gaussian" } } }
    layer { name: "b" type: "Embed" bottom: "index" top: "u" param { name: "w" } embed_param { ONE input_dim: 9 num_output: 4 bias_term: false } }
    layer { name: "s" type: "Eltwise" bottom: "u" bottom: "v" top: "s" }
    layer { name: "loss" type: "EuclideanLoss" bottom: "s" bottom: "target" top: "loss" }"""


def test_two_layers_may_share_it_if_both_say_so() -> None:
    pair = [solver(SHARED.replace("ONE", one), sparse=bool(one)) for one in ("sparse_gradient: true", "")]
    for step in range(3):
        for s in pair:
            feed(s, step)
            s.step(1)
    assert np.allclose(weights(pair[0])[0], weights(pair[1])[0], atol=1e-6)
    with pytest.raises(NetError, match='shares "w" with layer "a", and only one of the two has row-sparse gradients'):
        solver(SHARED.replace("ONE", ""))


# ----------------------------------------------------------------------------------------------------- pairs of bottoms

PAIR = """
    layer { name: "in" type: "Input" top: "value" top: "index" top: "target"
            input_param { shape { dim: 6 dim: 4 } shape { dim: 6 dim: 4 } shape { dim: 6 dim: 3 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "value" bottom: "index" top: "y"
            inner_product_param { num_output: 3 input_dim: 11 %s weight_filler { type: "gaussian" } bias_filler { type: "gaussian" } } }
    layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "target" top: "loss" }"""
WHOLE = """
    layer { name: "in" type: "Input" top: "x" top: "target" input_param { shape { dim: 6 dim: 11 } shape { dim: 6 dim: 3 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
            inner_product_param { num_output: 3 %s weight_filler { type: "gaussian" } bias_filler { type: "gaussian" } } }
    layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "target" top: "loss" }"""


def batch(step: int, rows: int = 6, width: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values, indices, the same as whole rows), with padding and an index twice."""
    rng = np.random.default_rng(step)
    index = rng.integers(-1, 11, (rows, width))
    index[0, :2] = 5
    values = np.where(index >= 0, rng.standard_normal((rows, width)), 0).astype(np.float32)
    whole = np.zeros((rows, 11), np.float32)
    for n, s in np.ndindex(rows, width):
        if index[n, s] >= 0:
            whole[n, index[n, s]] += values[n, s]
    return values, index, whole


@pytest.mark.parametrize("transpose", ["", "transpose: true"])
def test_a_pair_is_an_inner_product_with_the_whole_rows(transpose: str, device: str) -> None:
    pair, whole = (parse(text % transpose, pb.NetParameter()) for text in (PAIR, WHOLE))
    nets = [brew.Net(net, brew.TRAIN, seed=1) for net in (pair, whole)]
    values, index, x = batch(0)
    nets[0].blobs["value"].data[...], nets[0].blobs["index"].data[...], nets[1].blobs["x"].data[...] = values, index, x
    target = np.random.default_rng(9).standard_normal((6, 3))
    for net in nets:
        net.blobs["target"].data[...] = target
        net.forward()
        net.backward()
    for a, b in zip(nets[0].params["ip"], nets[1].params["ip"]):
        assert np.array_equal(a.data, b.data) and np.allclose(a.diff, b.diff, atol=1e-6)
    assert np.allclose(nets[0].blobs["y"].data, nets[1].blobs["y"].data, atol=1e-6)
    sparse = nets[0].params["ip"][0].sparse
    assert isinstance(sparse, RowSparse) and sparse.axis == (0 if transpose else 1)
    assert sparse.rows.tolist() == np.unique(index[index >= 0]).tolist() and sparse.values.shape == (len(sparse.rows), 3)


def test_weights_of_a_pair_are_a_live_view_with_strides_and_go_between_types(tmp_path: Path) -> None:
    pair, whole = (brew.Net(parse(text % "", pb.NetParameter()), brew.TRAIN, seed=k) for k,
                   text in enumerate((PAIR, WHOLE)))
    w = pair.params["ip"][0]
    assert isinstance(w.value, ByColumns) and w.data.shape == (3, 11) and w.data.strides == (4, 12)
    w.data[1, 7] = 42
    assert w.value.columns()[7, 1] == 42
    for end, save in ((".caffemodel", "save"), (".h5", "save_hdf5")):
        getattr(pair, save)(f"pair{end}")
        whole.copy_from(f"pair{end}")
        assert np.array_equal(whole.params["ip"][0].data, w.data)
        getattr(whole, save)(f"whole{end}")
        w.data[...] = 0
        pair.copy_from(f"whole{end}")
        assert np.array_equal(whole.params["ip"][0].data, w.data) and w.data[1, 7] == 42
    other = pickle.loads(pickle.dumps(pair))
    assert np.array_equal(other.params["ip"][0].data, w.data) and other.params["ip"][0].data.strides == (4, 12)


def test_a_dense_net_may_share_the_weights_of_a_pair(device: str) -> None:
    s = brew.get_solver(pb.SolverParameter(net_param=parse(PAIR % "", pb.NetParameter()), base_lr=0.1,
                                           lr_policy="fixed"))
    whole = brew.Net(parse(WHOLE % "", pb.NetParameter()), brew.TEST)
    s.share_weights(whole)
    values, index, x = batch(1)
    for _ in range(2):
        s.net.blobs["value"].data[...], s.net.blobs["index"].data[...], whole.blobs["x"].data[...] = values, index, x
        s.net.forward()
        whole.forward()
        assert np.allclose(s.net.blobs["y"].data, whole.blobs["y"].data, atol=1e-6)
        s.step(1)


def test_a_pair_of_any_width_and_of_none() -> None:
    net = brew.Net(parse(PAIR % "", pb.NetParameter()), brew.TRAIN)
    for width in (1, 9, 0, 3):
        for name in ("value", "index"):
            net.blobs[name].reshape(6, width)
        values, index, x = batch(width, width=max(width, 2))
        net.blobs["value"].data[...], net.blobs["index"].data[...] = values[:, :width], index[:, :width]
        net.clear_param_diffs()
        net.forward()
        net.backward()
        assert net.params["ip"][0].diff.any() == bool((values[:, :width] != 0).any())


@pytest.mark.parametrize("text, message", [
    (PAIR % "sparse_gradient: false", "with input_dim, gradients of the weights are row-sparse"),
    (PAIR.replace('bottom: "index"', "") % "", "takes values and indices where input_dim is given, else one bottom; found 1"),
    (PAIR.replace("input_dim: 11", "") % "", "takes values and indices where input_dim is given, else one bottom; found 2"),
    (PAIR.replace("shape { dim: 6 dim: 4 } shape", "shape { dim: 6 dim: 5 } shape") % "", r"need one shape \(N, S\)"),
    (WHOLE % "sparse_gradient: true transpose: true", "transpose makes columns of them")])
def test_bad_pairs(text: str, message: str) -> None:
    with pytest.raises(NetError, match=message):
        brew.Net(parse(text, pb.NetParameter()), brew.TRAIN)


@pytest.mark.parametrize("wrong", [11, -2, np.nan])
def test_an_index_that_is_no_input(wrong: float) -> None:
    net = brew.Net(parse(PAIR % "", pb.NetParameter()), brew.TRAIN)
    net.blobs["index"].data[2, 1] = wrong
    with pytest.raises(brew.BrewError, match=f"an index must lie between 0 and 10, or be -1, found {wrong}"):
        net.forward()


def test_rows_are_grouped(device: str) -> None:
    group, array = active().device.kernels.group_rows, active().device.xp.asarray
    rows, order, starts = group(array(np.array([4, -1, 2, 4, 0, 2, -1], INT32)), 5)
    assert rows.tolist() == [0, 2, 4] and order.tolist() == [4, 2, 5, 0, 3] and starts.tolist() == [0, 1, 3, 5]
    for nothing in ([], [-1, -1]):
        rows, order, starts = group(array(np.array(nothing, INT32)), 5)
        assert not len(rows) and not len(order) and starts.tolist() == [0]
    for count in (3, 3000, 1 << 21, 1 << 30):              # one to three digits
        index = np.random.default_rng(count).integers(-1, count, 20000).astype(INT32)
        rows, order, starts = group(array(index), count)
        places = np.argsort(index, kind="stable")[(index < 0).sum():]
        assert order.tolist() == places.tolist() and rows.tolist() == sorted(set(index[index >= 0].tolist()))
        assert (index[places][starts[:-1].tolist()] == rows.tolist()).all() and starts.tolist()[-1] == len(places)
