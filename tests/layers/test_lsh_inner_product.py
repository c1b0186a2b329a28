"""LSHInnerProduct: the same numbers as InnerProduct, gradients, updates within backward, resumption, TEST, refusals."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import brew
from brew.engine import context as devices
from brew.kernels import cpu
from brew.layers import lsh_inner_product
from brew.proto import parse, pb
from brew.tools.gradient_check import check_gradient, one_layer_net

RNG = np.random.default_rng(0)
FILLERS = 'weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "gaussian" }'


def layer(param: str, *shapes: tuple[int, ...], outputs: int = 60, more: str = "", phase: int = brew.TRAIN,
          seed: int = 1701) -> brew.Net:
    return one_layer_net(f'type: "LSHInnerProduct" top: "y" top: "u" '
                         f'inner_product_param {{ num_output: {outputs} {FILLERS} {more} }} '
                         f"lsh_param {{ {param} }}", *shapes, phase=phase, seed=seed)


@pytest.mark.parametrize("active_set", ["EXAMPLE", "BATCH"])
def test_padding_has_no_gradient(active_set: str, device: str) -> None:
    """Of a pair; the units do not change where hashes compare values that are further apart than the check's step."""
    net = layer(f"hash: DWTA num_hashes: 1 num_tables: 4 num_samples: 20 active_set: {active_set}", (4, 10), (4, 10),
                (4, 3), more="input_dim: 12")
    net.blobs["b0"].data[...] = (RNG.permutation(40).reshape(4, 10) - 20) * 0.05 + 0.025
    net.blobs["b1"].data[...] = np.stack([RNG.permutation(12)[:10] for _ in range(4)])
    net.blobs["b1"].data[1, 7:], net.blobs["b0"].data[1, 7:] = -1, 0
    net.blobs["b2"].data[...] = RNG.integers(-1, 60, (4, 3))
    check_gradient(net, skip=(1, 2), counted=1)
    assert (net.blobs["b0"].diff[1, 7:] == 0).all() and net.blobs["b0"].diff[1, :7].any()


def test_a_pair_is_the_dense_input(device: str) -> None:
    param = "hash: DWTA num_hashes: 2 num_tables: 5 num_samples: 15"
    dense, sparse = layer(param, (3, 12)), layer(param, (3, 5), (3, 5), more="input_dim: 12")
    index = np.array([[0, 3, 11, 7, -1], [2, 2, -1, -1, 5], [-1] * 5])
    values = np.where(index >= 0, RNG.standard_normal((3, 5)), 0).astype(np.float32)
    whole = np.zeros((3, 12), np.float32)
    for n in range(3):
        for s in range(5):
            if index[n, s] >= 0:
                whole[n, index[n, s]] += values[n, s]
    dense.blobs["b0"].data[...], sparse.blobs["b0"].data[...], sparse.blobs["b1"].data[...] = whole, values, index
    dense.forward()
    sparse.forward()
    np.testing.assert_array_equal(dense.blobs["u"].data, sparse.blobs["u"].data)
    np.testing.assert_array_equal(dense.blobs["y"].data, sparse.blobs["y"].data)


SOLVER = """
    base_lr: 0.01 lr_policy: "step" gamma: 0.5 stepsize: 5 max_iter: 100 random_seed: 3 solver_mode: CPU %s
    net_param { force_backward: true
      layer { name: "x" type: "DummyData" top: "x"
              dummy_data_param { shape { dim: 6 dim: 9 } data_filler { type: "gaussian" } } }
      layer { name: "t" type: "DummyData" top: "t"
              dummy_data_param { shape { dim: 6 dim: %d } data_filler { type: "gaussian" } } }
      layer { name: "ip" type: "InnerProduct" bottom: "x" top: "h"
              inner_product_param { num_output: %d weight_filler { type: "xavier" } } }
      layer { name: "out" type: "%s" bottom: "h" top: "y" %s
              param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
              inner_product_param { num_output: 40 weight_filler { type: "gaussian" std: 0.5 } } %s }
      layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" } }"""
SOLVERS = ['type: "SGD"', 'type: "SGD" momentum: 0.9 weight_decay: 0.01', 'type: "Adam" momentum: 0.9',
           'type: "AdaGrad" weight_decay: 0.01', 'type: "Nesterov" momentum: 0.9', 'type: "RMSProp" rms_decay: 0.9',
           'type: "AdamW" momentum: 0.9 weight_decay: 0.1']


def solver(text: str, param: str = "num_hashes: 1 num_tables: 3 num_samples: 12 rehash_interval: 4 rehash_growth: 1.5",
           hidden: int = 16, samples: int = 12) -> Any:
    kind, tops, lsh = ("LSHInnerProduct", 'top: "u"', f"lsh_param {{ {param} }}") if param else ("InnerProduct", "", "")
    return brew.get_solver(parse(SOLVER % (text, samples, hidden, kind, tops, lsh), pb.SolverParameter()))


def weights(s: Any) -> list[np.ndarray]:
    return [b.data.copy() for blobs in s.net.params.values() for b in blobs]


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(weights(a), weights(b)))


@pytest.mark.parametrize("text", SOLVERS[:4])
@pytest.mark.parametrize("active_set", ["EXAMPLE", "BATCH"])
def test_all_outputs_sampled_are_an_inner_product(text: str, active_set: str) -> None:
    """Twelve steps with every output in the set, against InnerProduct with sparse_gradient: they share the rules for
    rows."""
    param = f"num_hashes: 1 num_tables: 3 num_samples: 40 active_set: {active_set} rehash_interval: 4"
    lsh, plain = solver(text, param, samples=40), solver(text, "", samples=40)
    for name in ("ip", "out"):
        for a, b in zip(lsh.net.params[name], plain.net.params[name]):
            b.data[...] = a.data
    for _ in range(12):
        # one target for each unit: the set's order is its own
        lsh.net.forward()
        units = lsh.net.blobs["u"].data.astype(int)
        y = np.take_along_axis(lsh.net.blobs["y"].data, units.argsort(1), 1)
        for source in ("x", "t"):
            plain.net.blobs[source].data[...] = lsh.net.blobs[source].data
        plain.net.forward(start="ip")
        np.testing.assert_allclose(y, plain.net.blobs["y"].data, atol=1e-5)
        plain.net.blobs["t"].data[...] = np.take_along_axis(lsh.net.blobs["t"].data, units.argsort(1), 1)
        plain.net.forward(start="ip")
        for s in (lsh, plain):
            s.net.backward()
            s.apply_update()
            s.net.clear_param_diffs()
        for a, b in zip(weights(lsh), weights(plain)):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("text", SOLVERS)
@pytest.mark.parametrize("hidden", [16, 13])
@pytest.mark.parametrize("active_set", ["EXAMPLE", "BATCH"])
def test_updates_within_backward_have_the_same_bits(text: str, hidden: int, active_set: str) -> None:
    """clip_gradients, even if it never clips, makes the solver keep the gradients."""
    param = f"num_hashes: 1 num_tables: 3 num_samples: 12 rehash_interval: 4 active_set: {active_set}"
    fast, kept = solver(text, param, hidden), solver(text + " clip_gradients: 1e9", param, hidden)
    fast.step(11)
    kept.step(11)
    assert same(fast, kept)


def test_updates_run_within_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            if name.startswith("units_"):
                calls.append(name)
            return getattr(cpu, name)

    s = solver(SOLVERS[2])
    s.net.nodes[-2].products.k = Counting()
    s.step(2)
    assert calls == ["units_forward", "units_update"] * 2


@pytest.mark.parametrize("active_set", ["EXAMPLE", "BATCH"])
@pytest.mark.parametrize("kind", ["SIMHASH", "DWTA"])
def test_threads_do_not_change_the_bits(kind: str, active_set: str) -> None:
    found = []
    lsh = (f"lsh_param {{ hash: {kind} num_hashes: 2 num_tables: 20 num_samples: 700 rehash_interval: 2 "
           f"active_set: {active_set} }}")
    text = SOLVER % (SOLVERS[2], 700, 64, "LSHInnerProduct", 'top: "u"', lsh)
    text = text.replace("num_output: 40", "num_output: 3000").replace("dim: 6", "dim: 40")
    for threads in (1, 2, 3):
        cpu.set_threads(threads)
        try:
            s = brew.get_solver(parse(text, pb.SolverParameter()))
            s.step(5)
            found.append(weights(s))
        finally:
            cpu.set_threads(1)
    for other in found[1:]:
        for a, b in zip(found[0], other):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("iterations", [3, 4, 5, 8, 9])
@pytest.mark.parametrize("rehash", ["FULL", "INCREMENTAL"])
@pytest.mark.parametrize("suffix", ["BINARYPROTO", "HDF5"])
def test_a_snapshot_goes_on_with_the_same_bits(iterations: int, rehash: str, suffix: str,
                                               working_directory: Path) -> None:
    """Rehashes are due at 1, 5, 11: stop before, at and after one."""
    param = f"num_hashes: 1 num_tables: 3 num_samples: 12 rehash_interval: 4 rehash_growth: 1.5 rehash: {rehash}"
    text = SOLVERS[2] + f' snapshot_prefix: "s" snapshot_format: {suffix}'
    whole, first, second = (solver(text, param) for _ in range(3))
    whole.step(14)
    first.step(iterations)
    first.snapshot()
    second.restore(f"s_iter_{iterations}.solverstate" + ".h5" * (suffix == "HDF5"))
    second.step(14 - iterations)
    assert same(whole, second)


def test_a_snapshot_of_other_tables_is_refused(working_directory: Path) -> None:
    first = solver('snapshot_prefix: "s"')
    first.step(2)
    first.snapshot()
    with pytest.raises(brew.BrewError, match="its tables are for another lsh_param"):
        solver("", "num_hashes: 1 num_tables: 5 num_samples: 12").restore("s_iter_2.solverstate")


def test_tables_are_made_anew_when_it_is_time() -> None:
    s = solver(SOLVERS[0])
    made = []
    for _ in range(20):
        s.step(1)
        made.append(s.net.nodes[-2].sets.tables.built)
    # 1, then after 4, 6, 9 iterations
    assert [i + 1 for i in range(20) if made[i] != (made[i - 1] if i else 0)] == [1, 5, 11, 20]


def buckets(tables: Any) -> list[list[set[int]]]:
    """The units of every bucket, those in the overlay included."""
    moved = np.zeros(tables.outputs, bool)
    if tables.moved is not None:
        moved = np.unpackbits(tables.moved, bitorder="little")[:tables.outputs].astype(bool)
    found = []
    for t in range(tables.hashes.tables):
        found.append([{int(i) for i in tables.ids[t, tables.offsets[t, b]:tables.offsets[t, b + 1]] if not moved[i]}
                      | set(tables.over_ids[t][tables.over_codes[t] == b].tolist())
                      for b in range(tables.hashes.buckets)])
    return found


def test_incremental_tables_are_those_of_the_present_weights() -> None:
    """Of a few moved units in the overlay, of many merged, and what is sampled is the same."""
    sizes = []
    for samples, steps in ((2, 3), (12, 3)):
        param = (f"num_hashes: 1 num_tables: 3 num_samples: {samples} rehash_interval: 1 rehash: INCREMENTAL "
                 "active_set: BATCH bucket_size: 40")
        s = solver('type: "SGD" momentum: 0.9', param, samples=samples)
        for _ in range(steps):
            s.step(1)
            sets = s.net.nodes[-2].sets
            sets.tables.move(s.net.params["out"][0].data, np.flatnonzero(sets.changed).astype(np.int32))
            sizes.append(len(sets.tables.rows))
            kept = buckets(sets.tables)
            fresh = sets.tables.__class__(sets.layer, sets.p, 40, 16)
            fresh.build(s.net.params["out"][0].data)
            assert kept == buckets(fresh)
    assert 0 < min(sizes[:3]) and 0 in sizes[3:]


@pytest.mark.parametrize("block", [7, 8192])
def test_test_gives_the_best_units(block: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a full sort; ties (units 3, 10 and 41 have the same weights) go to the lower unit; labels do not
    matter."""
    monkeypatch.setattr(lsh_inner_product, "BLOCK", block)
    net = layer("num_samples: 5 test_top_k: 9", (5, 12), (5, 3), phase=brew.TEST)
    w, bias = net.layers[-1].blobs
    w.data[[10, 41]] = w.data[3]
    bias.data[[3, 10, 41]] = 4
    x = RNG.standard_normal((5, 12)).astype(np.float32)
    net.blobs["b0"].data[...] = x
    answers = []
    for labels in (-1, 3):
        net.blobs["b1"].data[...] = labels
        net.forward()
        answers.append((net.blobs["y"].data.copy(), net.blobs["u"].data.copy()))
    scores = x @ w.data.T + bias.data
    scores[:, [10, 41]] = scores[:, [3]]
    order = np.argsort(-scores, 1, kind="stable")[:, :9]
    for y, u in answers:
        np.testing.assert_array_equal(u, order)
        np.testing.assert_allclose(y, np.take_along_axis(scores, order, 1), atol=1e-5)


def test_test_without_top_k_gives_all_scores(device: str) -> None:
    net = layer("num_samples: 5", (5, 12), phase=brew.TEST)
    net.blobs["b0"].data[...] = x = RNG.standard_normal((5, 12)).astype(np.float32)
    net.forward()
    w, bias = (b.data for b in net.layers[-1].blobs)
    np.testing.assert_allclose(net.blobs["y"].data, x @ w.T + bias, atol=1e-5)
    assert (net.blobs["u"].data == np.arange(60)).all()


def test_sampled_test_looks_at_units_of_the_tables(device: str) -> None:
    """Those of the example's buckets, best first; made anew when weights have changed, and the same every time."""
    param = "hash: SIMHASH num_hashes: 2 num_tables: 3 num_samples: 40 test: SAMPLED"
    net = layer(param + " test_top_k: 4", (5, 12), phase=brew.TEST)
    for change in (0, 1):
        w, bias = net.layers[-1].blobs
        w.data[...] += change * RNG.standard_normal(w.shape)
        net.blobs["b0"].data[...] = x = RNG.standard_normal((5, 12)).astype(np.float32)
        net.forward()
        first = net.blobs["u"].data.copy()
        net.forward()
        np.testing.assert_array_equal(first, net.blobs["u"].data)
        h, xp = net.nodes[-1].sets.tables.hashes, net.nodes[-1].device.xp
        mine, theirs = (a.get() if hasattr(a, "get") else a
                        for a in (h.codes(xp.asarray(x), 0, 3), h.codes(xp.asarray(w.data.copy()), 0, 3)))
        scores = x @ w.data.T + bias.data
        for n in range(5):
            met = np.flatnonzero((mine[:, n, None] == theirs).any(0))
            want = sorted(met, key=lambda u: (-scores[n, u], u))[:4]
            assert first[n].tolist() == want + [-1] * (4 - len(want))


def test_weights_go_to_inner_product_and_back(working_directory: Path) -> None:
    lsh = layer("num_samples: 5", (5, 12))
    lsh.save("w.caffemodel")
    plain = one_layer_net('type: "InnerProduct" top: "y" inner_product_param { num_output: 60 }', (5, 12))
    plain.copy_from("w.caffemodel")
    for a, b in zip(lsh.layers[-1].blobs, plain.layers[-1].blobs):
        np.testing.assert_array_equal(a.data, b.data)
        b.data[...] *= 2
    plain.save("v.caffemodel")
    lsh.copy_from("v.caffemodel")
    for a, b in zip(lsh.layers[-1].blobs, plain.layers[-1].blobs):
        np.testing.assert_array_equal(a.data, b.data)


REFUSED = [
    ("", "num_samples must be given"),
    ("num_samples: 5 log_q: true sampling: TOP_K", "log_q is not known for TOP_K"),
    ("num_samples: 5 rehash_growth: 0.5", "rehash_growth must be 1 or more"),
    ("num_samples: 5 rehash_interval: 0", "rehash_interval must be more than 0"),
    ("num_samples: 5 num_hashes: 9", "num_hashes: 9 makes numbers of buckets of 27 bits with DWTA"),
    ("num_samples: 5 num_tables: 0", "threshold must lie|num_tables"),
    ("num_samples: 5 hash: SIMHASH num_hashes: 0", "of 0 bits"),
    ("num_samples: 5 bucket_size: 0", "bucket_size must be more than 0"),
    ("num_samples: 5 threshold: 51", "threshold must lie between 1 and num_tables, 50"),
    ("num_samples: 5 test_top_k: 61", "test_top_k is 61, and there are 60"),
]


@pytest.mark.parametrize("param, message", REFUSED)
def test_wrong_parameters_are_refused(param: str, message: str) -> None:
    with pytest.raises(brew.BrewError, match=message):
        layer(param, (5, 12))


def test_constant_weights_are_refused() -> None:
    with pytest.raises(brew.BrewError, match="constant weights have the same hashes"):
        one_layer_net('type: "LSHInnerProduct" top: "y" top: "u" '
                      'inner_product_param { num_output: 5 weight_filler { type: "constant" value: 1 } } '
                      "lsh_param { num_samples: 2 }", (2, 8))
    net = layer("num_samples: 5", (5, 12))
    net.layers[-1].blobs[0].data[...] = 1
    with pytest.raises(brew.BrewError, match="all rows of the weights have the same hashes"):
        net.forward()


def test_wrong_bottoms_are_refused() -> None:
    for value in (60, -2, np.nan):
        net = layer("num_samples: 5", (5, 12), (5, 2))
        net.blobs["b1"].data[3, 1] = value
        with pytest.raises(brew.BrewError, match="a label must lie between 0 and 59, or be -1 for none"):
            net.forward()
    with pytest.raises(brew.BrewError, match="there are 5 items, and labels of the shape"):
        layer("num_samples: 5", (5, 12), (4, 2))
    with pytest.raises(brew.BrewError, match="values and indices need one shape"):
        layer("num_samples: 5", (5, 12), (5, 2), more="input_dim: 9")


def test_a_stack_of_sparse_layers_learns(device: str) -> None:
    """The top of one is the pair that the next reads; the label's unit comes to score above the others."""
    if device in ("portable", "gpu"):
        pytest.skip("the same code as on oneDNN")
    net = brew.Net(parse("""force_backward: true
      layer { name: "in" type: "Input" top: "x" top: "label"
              input_param { shape { dim: 4 dim: 6 } shape { dim: 4 dim: 1 } } }
      layer { name: "a" type: "LSHInnerProduct" bottom: "x" top: "v" top: "i"
              inner_product_param { num_output: 50 weight_filler { type: "gaussian" std: 0.5 } }
              lsh_param { num_hashes: 1 num_tables: 4 num_samples: 20 } }
      layer { name: "r" type: "ReLU" bottom: "v" top: "v" }
      layer { name: "b" type: "LSHInnerProduct" bottom: "v" bottom: "i" bottom: "label" top: "y" top: "u"
              inner_product_param { num_output: 30 input_dim: 50 weight_filler { type: "gaussian" std: 0.5 } }
              lsh_param { num_hashes: 1 num_tables: 4 num_samples: 10 } }""", pb.NetParameter()), brew.TRAIN, seed=1)
    with devices.using(net.context.device):
        net.blobs["x"].data[...] = RNG.standard_normal((4, 6))
        net.blobs["label"].data[...] = np.arange(4)[:, None] * 7
        margins = []
        for _ in range(60):
            net.forward()
            y = net.blobs["y"].data
            e = np.exp(y - y.max(1, keepdims=True))
            d = e / e.sum(1, keepdims=True)
            d[:, 0] -= 1
            margins.append(float((y[:, 0] - y[:, 1:].max(1)).mean()))
            net.blobs["y"].diff[...] = d
            net.clear_param_diffs()
            net.backward()
            for blobs in net.params.values():
                for b in blobs:
                    b.data[...] -= 0.1 * b.diff
        assert np.mean(margins[-5:]) > 1 > np.mean(margins[:5])
