"""Hashes, tables and active sets against their formulas: collisions, who stays in a bucket, who is sampled."""
from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import brew
from brew.layers.lsh_probability import PAIRS, POINTS, winner_collisions
from brew.tools.gradient_check import one_layer_net

RNG = np.random.default_rng(0)


def layer(param: str, outputs: int = 200, inputs: int = 32, items: int = 4, labels: int = 0,
          seed: int = 1701) -> brew.Net:
    shapes = [(items, inputs)] + [(items, labels)] * (labels > 0)
    return one_layer_net('type: "LSHInnerProduct" top: "y" top: "u" '
                         'inner_product_param { num_output: %d weight_filler { type: "gaussian" } } '
                         "lsh_param { %s }" % (outputs, param), *shapes, seed=seed)


def hashes(net: brew.Net) -> object:
    return net.nodes[-1].sets.tables.hashes  # type: ignore[attr-defined]


def pairs(n: int, dim: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of length 1 with cosine rho."""
    x, z = RNG.standard_normal((2, n, dim))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    z -= (z * x).sum(1, keepdims=True) * x
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return x.astype(np.float32), (rho * x + np.sqrt(1 - rho * rho) * z).astype(np.float32)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
@pytest.mark.parametrize("kind, bits, inputs", [("SIMHASH", 1, 128), ("SIMHASH", 4, 128), ("SIMHASH", 3, 20),
                                                ("WTA", 1, 128), ("DWTA", 1, 128), ("DWTA", 2, 100)])
def test_hashes_collide_as_often_as_the_formula_says(kind: str, bits: int, inputs: int, rho: float) -> None:
    """300 pairs x 300 tables; the codes of a pair's tables are independent draws, its own p is that of its cosine."""
    h = hashes(layer(f"hash: {kind} num_hashes: {bits} num_tables: 300 num_samples: 2", inputs=inputs))
    x, y = pairs(300, inputs, rho)
    same = (h.codes(x, 0, 300) == h.codes(y, 0, 300)).mean()  # type: ignore[attr-defined]
    if kind == "SIMHASH":
        p = 1 - np.arccos(rho) / np.pi
    else:
        p = np.interp(rho, np.linspace(-1, 1, POINTS), winner_collisions(8))
    # winners within one vector share its finite number of values: a further 0.01 where they are few
    assert abs(same - p**bits) < 4 * np.sqrt(p**bits * (1 - p**bits) / 9000) + 0.012


def test_collisions_of_winners() -> None:
    """At rho 0 each of 8 places is as likely, at 1 winners are the same, at -1 the largest is the smallest."""
    p = winner_collisions(8)
    assert p[0] == 0 and p[-1] == 1 and abs(p[POINTS // 2] - 1 / 8) < 4 * np.sqrt(0.11 / PAIRS)
    assert (np.diff(p) > -0.002).all()


@pytest.mark.parametrize("kind", ["SIMHASH", "WTA", "DWTA"])
def test_hashes_do_not_depend_on_what_is_hashed_beside_them(kind: str, device: str) -> None:
    net = layer(f"hash: {kind} num_hashes: 3 num_tables: 45 num_samples: 2", inputs=40)
    h, xp = hashes(net), net.nodes[-1].device.xp
    x = RNG.standard_normal((53, 40)).astype(np.float32)
    x[RNG.random(x.shape) < 0.9] = 0                       # some bins are empty, and row 7 is whole
    x[7] = 0
    x[8] = -abs(x[8])
    whole = h.codes(xp.asarray(x), 0, 45)  # type: ignore[attr-defined]
    whole = whole.get() if hasattr(whole, "get") else whole
    assert whole.min() >= 0 and whole.max() < h.buckets  # type: ignore[attr-defined]
    for row in (0, 7, 8, 31, 52):
        for first, n in ((0, 45), (20, 7), (44, 1)):
            one = h.codes(xp.asarray(x[row:row + 1]), first, n)  # type: ignore[attr-defined]
            np.testing.assert_array_equal((one.get() if hasattr(one, "get") else one)[:, 0],
                                          whole[first:first + n, row])


@pytest.mark.parametrize("kind", ["SIMHASH", "WTA", "DWTA"])
def test_winners_and_signs_are_those_of_the_definition(kind: str) -> None:
    h = hashes(layer(f"hash: {kind} num_hashes: 2 num_tables: 9 num_samples: 2", inputs=24))
    x = RNG.standard_normal((5, 24)).astype(np.float32)
    codes, constants = h.codes(x, 0, 9), h.constants  # type: ignore[attr-defined]
    for t in range(9):
        for r in range(5):
            if kind == "SIMHASH":
                width, block = 64, t // 32
                matrix = np.array([[(-1) ** bin(i & j).count("1") for j in range(width)] for i in range(width)])
                v = matrix @ (np.pad(x[r].astype(np.float64), (0, width - 24)) * constants[0])
                for s in (1 + 2 * block, 2 + 2 * block):
                    v = matrix @ (v * constants[s])
                bits = [int(v[(t % 32) * 2 + k] > 0) for k in range(2)]
                assert codes[t, r] == bits[0] * 2 + bits[1]
            else:
                first, second = (int(x[r, constants[2 * t + k]].argmax()) for k in range(2))
                assert codes[t, r] == first * 8 + second


@pytest.mark.parametrize("policy", ["FIFO", "RESERVOIR"])
def test_buckets_hold_their_units(policy: str, device: str) -> None:
    """Whole where they fit; else as many as they may have, with FIFO the last."""
    net = layer(f"hash: SIMHASH num_hashes: 3 num_tables: 6 bucket_size: 30 bucket_policy: {policy} num_samples: 2",
                outputs=260)
    net.forward()
    tables = net.nodes[-1].sets.tables
    w = net.nodes[-1].blobs[0].value.read()
    codes, offsets, ids = ((a.get() if hasattr(a, "get") else a)
                           for a in (tables.hashes.codes(w, 0, 6), tables.offsets, tables.ids))
    full = 0
    for t in range(6):
        for b in range(8):
            members, held = np.flatnonzero(codes[t] == b), ids[t, offsets[t, b]:offsets[t, b + 1]]
            assert len(held) == min(len(members), 30) == len(set(held.tolist())) and set(held) <= set(members)
            full += len(members) > 30
            if policy == "FIFO":
                assert set(held) == set(members[-30:])
    assert full > 10


def test_a_reservoir_keeps_every_unit_as_often() -> None:
    """Chi-square over 400 tables, in each of which 20 of 100 units stay: 99 degrees of freedom, without replacement."""
    from brew.kernels import cpu
    codes, offsets, ids = np.zeros((400, 100), np.int32), np.empty((400, 2), np.int32), np.empty((400, 20), np.int32)
    cpu.fill_tables(codes, offsets, ids, 400, 0, 20, False, 5, 6)
    counts = np.bincount(ids.reshape(-1), minlength=100)
    chi = ((counts - 80) ** 2 / (80 * 0.8)).sum() * 99 / 100
    assert 61 < chi < 149                                  # 0.1 % beyond either end


def sets(net: brew.Net, x: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    net.blobs["b0"].data[...] = x
    if labels is not None:
        net.blobs["b1"].data[...] = labels
    net.forward()
    return net.blobs["u"].data.astype(int)


ALL = [(s, a) for s in ("VANILLA", "TOP_K", "THRESHOLD", "UNIFORM", "MIXED") for a in ("EXAMPLE", "BATCH")]


@pytest.mark.parametrize("sampling, active_set", ALL)
@pytest.mark.parametrize("kind, size", [("SIMHASH", 5), ("WTA", 2), ("DWTA", 2)])
def test_active_sets(kind: str, size: int, sampling: str, active_set: str, device: str) -> None:
    """Labels are in, and first where sets are the examples'; nobody twice; as many as were asked for; scores are
    products; and all devices choose the same units."""
    text = (f"hash: {kind} num_hashes: {size} num_tables: 10 num_samples: 40 sampling: {sampling} "
            f"active_set: {active_set} bucket_size: 9")
    net = layer(text, labels=3, items=6)
    x, labels = RNG.standard_normal((6, 32)).astype(np.float32), RNG.integers(-1, 200, (6, 3))
    labels[2] = -1
    labels[3] = labels[3, 0]
    units = sets(net, x, labels)
    assert units.shape == (6, 40)
    w, bias = (b.data for b in net.layers[-1].blobs)
    np.testing.assert_allclose(net.blobs["y"].data, np.take_along_axis(x @ w.T + bias, units, 1), atol=2e-5)
    for row, own in zip(units, labels):
        wanted = list(dict.fromkeys(own[own >= 0].tolist()))
        assert len(set(row.tolist())) == 40 and set(wanted) <= set(row.tolist())
        if active_set == "EXAMPLE":
            assert row[:len(wanted)].tolist() == wanted
        else:
            assert (np.diff(row) > 0).all() and (row == units[0]).all()
    if device == "shim":
        from brew.engine import context as devices
        with devices.using(devices.cpu_device()):
            np.testing.assert_array_equal(units, sets(layer(text, labels=3, items=6), x, labels))


def test_hits_come_from_the_buckets_of_the_example() -> None:
    """TOP_K: those in most buckets with it. THRESHOLD: only those in 3 at least; VANILLA: hits before uniform ones."""
    x = RNG.standard_normal((5, 32)).astype(np.float32)
    common = "hash: SIMHASH num_hashes: 2 num_tables: 12 bucket_size: 200 num_samples: 30 "
    counts = None
    for sampling in ("TOP_K", "THRESHOLD threshold: 6", "VANILLA"):
        net = layer(common + f"sampling: {sampling}", items=5)
        units = sets(net, x)
        h = net.nodes[-1].sets.tables.hashes
        counts = (h.codes(net.layers[-1].blobs[0].data, 0, 12)[:, None] == h.codes(x, 0, 12)[:, :, None]).sum(0)
        for n in range(5):
            got = counts[n, units[n]]
            if sampling == "TOP_K":
                assert sorted(got) == sorted(counts[n])[-30:]
            elif sampling == "VANILLA":
                assert (got > 0).all()
            else:
                enough = np.flatnonzero(counts[n] >= 6)
                assert set(units[n][:min(30, len(enough))]) <= set(enough)


def test_more_labels_than_samples_are_all_in() -> None:
    for active_set, width in (("EXAMPLE", 6), ("BATCH", 9)):
        net = layer(f"num_hashes: 2 num_tables: 4 num_samples: 4 active_set: {active_set}", labels=6, items=2)
        labels = np.array([[5, 9, 1, 190, 7, 3], [5, 9, 8, 11, 12, -1]])
        units = sets(net, np.ones((2, 32), np.float32), labels)
        assert units.shape == (2, width)
        assert set(units[1]) >= {5, 9, 8, 11, 12}
        if active_set == "EXAMPLE":
            assert units[0].tolist() == labels[0].tolist() and units[1].tolist() == [5, 9, 8, 11, 12, -1]
            assert net.blobs["y"].data[1, 5] == 0


def test_uniform_sets_are_uniform() -> None:
    """How often each of 50 units is drawn in 2,000 sets of 10: chi-square, 49 degrees of freedom."""
    units = sets(layer("sampling: UNIFORM num_samples: 10", outputs=50, items=2000), np.zeros((2000, 32), np.float32))
    counts = np.bincount(units.reshape(-1), minlength=50)
    chi = ((counts - 400) ** 2 / (400 * 0.8)).sum() * 49 / 50
    assert 22 < chi < 86


def test_sets_differ_between_iterations_and_repeat_with_their_seed() -> None:
    text, x = "num_hashes: 2 num_tables: 4 num_samples: 20", RNG.standard_normal((4, 32)).astype(np.float32)
    a, b, other = layer(text), layer(text), layer(text, seed=1)
    first, second = sets(a, x), sets(a, x)
    assert (first != second).any() and (sets(b, x) == first).all() and (sets(b, x) == second).all()
    assert (sets(other, x) != first).any()


def counted(sampling: str, active_set: str, kind: str, size: int, samples: int) -> tuple[float, float]:
    """(mean, standard error) over fresh tables of the sum of 1 / q over sampled units, over the number of units; labels
    aside."""
    x, labels, totals = pairs(3, 32, 0)[0], np.array([[3, 5], [8, -1], [-1, -1]]), []
    for seed in range(60):
        text = (f"hash: {kind} num_hashes: {size} num_tables: 8 num_samples: {samples} bucket_size: 300 "
                f"sampling: {sampling} active_set: {active_set}")
        plain, corrected = (layer(f"{text} log_q: {q}", outputs=300, labels=2, items=3, seed=seed)
                            for q in ("false", "true"))
        units, again = sets(plain, x, labels), sets(corrected, x, labels)
        assert (units == again).all()
        q = np.exp(plain.blobs["y"].data - corrected.blobs["y"].data)
        of_labels = np.array([[u in (labels if active_set == "BATCH" else own) for u in row]
                              for row, own in zip(units, labels)])
        assert (q[of_labels] == 1).all() and (q <= 1 + 1e-5).all()
        given = [len({u for u in (labels.reshape(-1) if active_set == "BATCH" else own) if u >= 0}) for own in labels]
        totals.append([(1 / row[~own]).sum() / (300 - n) for row, own, n in zip(q, of_labels, given)])
    return float(np.mean(totals)), float(np.std(totals) / np.sqrt(len(totals)))


@pytest.mark.parametrize("kind, size", [("SIMHASH", 6), ("DWTA", 3)])
@pytest.mark.parametrize("active_set", ["EXAMPLE", "BATCH"])
@pytest.mark.parametrize("sampling, near", [("UNIFORM", 1e-3), ("THRESHOLD threshold: 2", 0.02), ("MIXED", 0.02),
                                            ("VANILLA", 0.02)])
def test_log_q_is_the_probability_of_being_sampled(sampling: str, near: float, active_set: str, kind: str,
                                                   size: int) -> None:
    """A unit that is sampled with probability q counts 1 / q: the sum's mean is the number of units. `near`: what
    p(rho), known for Gaussian vectors only, adds to the error."""
    mean, error = counted(sampling, active_set, kind, size, 90)
    assert abs(mean - 1) < near + 4 * error, (mean, error)


@pytest.mark.parametrize("sampling", ["VANILLA", "MIXED"])
def test_sets_that_are_full_early_are_biased(sampling: str) -> None:
    """The last table is counted as looked at, and was not to its end: q is too high, units then count for
    less than one: 0.71 +- 0.03 here with VANILLA, 0.86 +- 0.01 with MIXED."""
    mean, error = counted(sampling, "EXAMPLE", "DWTA", 2, 24 if sampling == "VANILLA" else 48)
    assert 0.5 < mean - 4 * error and mean + 4 * error < 1, (mean, error)


def test_units_are_spread_over_tables_of_any_size() -> None:
    """One output, one input, few inputs."""
    for outputs, inputs, kind in ((1, 8, "DWTA"), (3, 2, "WTA"), (5, 3, "DWTA"), (7, 1, "SIMHASH"), (40, 6, "WTA")):
        net = layer(f"hash: {kind} num_hashes: 2 num_tables: 3 num_samples: {outputs}", outputs=outputs, inputs=inputs,
                    items=2)
        units = sets(net, RNG.standard_normal((2, inputs)).astype(np.float32))
        assert Counter(map(tuple, np.sort(units, 1).tolist())) == Counter({tuple(range(outputs)): 2})
