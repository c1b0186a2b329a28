"""An iteration in its parts: gradients added up, handed out in buckets, checked and scaled; and the state as a
value."""
from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import pytest

import brew
from brew.engine import arena as arenas
from brew.engine.arena import Bucket
from brew.engine.errors import SnapshotError, SolverError
from brew.proto import parse, pb
from brew.solvers import snapshot, state_file
from brew.solvers.loss_scale import DynamicLossScale, LossScale
from brew.solvers.state import State, prepare

NET = """
    layer { name: "in" type: "Input" top: "x" top: "label" input_param { shape { dim: %d dim: 3 dim: 6 dim: 6 } shape { dim: %d } } }
    layer { name: "conv" type: "Convolution" bottom: "x" top: "conv" convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }
    layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
    layer { name: "a" type: "InnerProduct" bottom: "conv" top: "a" inner_product_param { num_output: 20 weight_filler { type: "xavier" } } }
    layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" } inner_product_param { num_output: 20 weight_filler { type: "xavier" } } }
    layer { name: "c" type: "InnerProduct" bottom: "b" top: "c" param { name: "w" } inner_product_param { num_output: 20 } }
    layer { name: "d" type: "InnerProduct" bottom: "c" top: "d" param { lr_mult: 2 } inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "d" bottom: "label" top: "loss" %s }"""


def solver(batch: int = 8, more: str = "", loss: str = "") -> brew.Solver:
    param = parse(f'base_lr: 0.05 lr_policy: "fixed" random_seed: 4 {more}', pb.SolverParameter())
    parse(NET % (batch, batch, loss), param.net_param)
    return brew.get_solver(param)


def feed(s: brew.Solver, values: np.ndarray, labels: np.ndarray) -> None:
    s.net.blobs["x"].data[...], s.net.blobs["label"].data[...] = values, labels


def data(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 3, 6, 6)).astype(np.float32), rng.integers(0, 5, n)


def weights(s: brew.Solver) -> list[np.ndarray]:
    return [p.blob.data.copy() for p in s.net.learnable]


def test_gradients_of_small_batches_add_up_to_those_of_a_large_one() -> None:
    values, labels = data(24)
    large, small = solver(24), solver(8, "iter_size: 3")
    feed(large, values, labels)
    large.step(1)
    taken = iter(range(3))

    def next_part(i: int) -> None:
        if i == 0:
            k = next(taken)
            feed(small, values[8 * k:8 * k + 8], labels[8 * k:8 * k + 8])
    small.net.before_forward(next_part)
    small.step(1)
    for a, b in zip(weights(large), weights(small)):
        assert np.allclose(a, b, atol=1e-6)                    # sums in another order
    assert large.losses[0] == pytest.approx(small.losses[0], rel=1e-6)


@pytest.mark.parametrize("keep, debug", [(False, False), (True, False), (True, True)])
def test_buckets_come_when_their_gradients_are_complete(keep: bool, debug: bool, monkeypatch: pytest.MonkeyPatch,
                                                        device: str) -> None:
    monkeypatch.setattr(arenas, "BUCKET", 100)
    s = solver()
    buckets = s.arena.buckets
    assert len(buckets) >= 4 and sum(b.size for b in buckets) == len(s.arena.diff)
    assert [b.last for b in buckets] == sorted((b.last for b in buckets), reverse=True)
    owner = {slot.start: p.layer for p, slot in zip(s.net.learnable, s.arena.slots)}
    shared = next(b for b in buckets if any(owner[slot.start] == "b" and slot.size >= 400 for slot in b.slots))
    # c comes before it in backward, and adds to the same weights
    assert s.net.graph.names[shared.last] == "b"
    feed(s, *data(8))
    ran: list[int] = []
    seen: list[tuple[Bucket, bytes, int]] = []
    if debug:
        s.net.after_backward(ran.append)

    def look(bucket: Bucket) -> None:
        s.arena.bring_gradients(bucket.slots)
        seen.append((bucket, bytes(np.asarray(s.arena.diff[bucket.start:bucket.start + bucket.size])), len(ran)))
    s.net.clear_param_diffs()
    s.net.run_forward()
    s.net.run_backward(keep=keep, on_bucket=look)
    assert [bucket for bucket, _, _ in seen] == buckets
    whole = np.asarray(s.arena.open("diff"))
    for bucket, then, so_far in seen:
        assert then == whole[bucket.start:bucket.start + bucket.size].tobytes() and any(then)
        if debug:
            assert ran[so_far - 1] == bucket.last              # not later than it could


def test_a_small_net_has_one_bucket() -> None:
    s = solver()
    assert len(s.arena.buckets) == 1 and [(x.lr_mult, x.decay_mult) for x in s.arena.spans] == [(1, 1), (2, 1)]


def test_what_a_reducer_does_to_gradients_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arenas, "BUCKET", 100)
    twice, faster = solver(more="iter_size: 2"), solver(more="iter_size: 2")
    faster.param.base_lr *= 2
    calls: list[Bucket] = []

    def reduce(bucket: Any) -> None:
        calls.append(bucket)
        twice.arena.diff[bucket.start:bucket.start + bucket.size] *= 2
    twice.reducer = reduce
    for s in (twice, faster):
        feed(s, *data(8))
        s.step(2)
    assert calls == 2 * twice.arena.buckets                    # once an iteration, after the last of its batches
    assert [w.tobytes() for w in weights(twice)] == [w.tobytes() for w in weights(faster)]


@pytest.mark.parametrize("loss", ["", "loss_weight: 0.5"])
@pytest.mark.parametrize("more", ["", "momentum: 0.9 weight_decay: 0.01 iter_size: 2", "clip_gradients: 0.1"])
def test_a_scale_that_is_a_power_of_two_changes_no_bit(more: str, loss: str, device: str) -> None:
    plain, scaled = solver(more=more, loss=loss), solver(more=more, loss=loss)
    scaled.loss_scale = LossScale(1024)
    for s in (plain, scaled):
        feed(s, *data(8))
        s.step(3)
    assert plain.losses == scaled.losses
    assert [w.tobytes() for w in weights(plain)] == [w.tobytes() for w in weights(scaled)]


def test_gradients_that_are_not_finite_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    s = solver(more="momentum: 0.9")
    s.loss_scale = DynamicLossScale(2.0**126, interval=3)
    feed(s, 1e3 * data(8)[0], data(8)[1])
    before = weights(s)
    with caplog.at_level(logging.INFO):
        s.step(1)
    assert s.iter == 1 and all(np.array_equal(a, b) for a, b in zip(before, weights(s)))
    assert not np.asarray(s.history[0]).any()
    assert s.loss_scale.factor == 2.0**125 and "the update is left out; the loss scale is" in caplog.text
    s.loss_scale.factor = 1.0
    feed(s, *data(8))
    s.step(3)
    assert s.loss_scale.factor == 2 and not np.array_equal(before[0], weights(s)[0])


def test_a_snapshot_and_a_copy_keep_the_scale() -> None:
    s = solver(more='snapshot_prefix: "s"')
    s.loss_scale = DynamicLossScale(8, interval=100)
    feed(s, *data(8))
    s.step(2)
    path, other, plain = s.snapshot(), solver(), solver()
    other.loss_scale = DynamicLossScale(2)
    other.restore(path)
    plain.restore(path)
    assert (other.loss_scale.factor, other.loss_scale.good) == (8, 2) and plain.loss_scale is None
    twin = copy.deepcopy(s)
    assert twin.loss_scale is not s.loss_scale and twin.loss_scale.good == 2
    for factor in (0, -2, np.inf, np.nan):
        with pytest.raises(SolverError, match=f"a loss scale must be a number above 0, found {factor:g}"):
            LossScale(factor)


@pytest.mark.parametrize("factor", [0, -2, np.nan, np.inf])
def test_a_damaged_scale_is_not_taken(factor: float) -> None:
    s = solver(more='snapshot_prefix: "s"')
    s.loss_scale = LossScale(8)
    path = s.snapshot()
    proto, _ = state_file.read(path)
    proto.loss_scale = factor
    state_file.write(path, proto)
    with pytest.raises(SnapshotError, match=f"it has loss_scale {float(factor)}"):
        s.restore(path)
    assert s.loss_scale.factor == 8


def test_losses_are_as_they_were_outside_of_the_backward_pass() -> None:
    """What a program writes to a loss's gradient counts, and its own passes are not scaled."""
    scaled, plain = solver(), solver()
    scaled.loss_scale = LossScale(4096)
    for s in (scaled, plain):
        feed(s, *data(8))
        s.net.blobs["loss"].diff[...] = 0.7
        s.step(1)
        assert float(s.net.blobs["loss"].diff) == np.float32(0.7)
        s.net.clear_param_diffs()
        s.net.forward()
        s.net.backward()
        s.apply_update()
    assert [w.tobytes() for w in weights(scaled)] == [w.tobytes() for w in weights(plain)]


def test_a_scale_that_is_taken_away_within_an_iteration_is_divided_out() -> None:
    scaled, plain = solver(), solver()
    scaled.loss_scale = LossScale(64)
    scaled.add_callback(lambda: None, lambda: setattr(scaled, "loss_scale", None))
    for s in (scaled, plain):
        feed(s, *data(8))
        s.step(2)
    assert [w.tobytes() for w in weights(scaled)] == [w.tobytes() for w in weights(plain)]


def test_an_update_that_is_left_out_moves_no_average() -> None:
    s = solver(more="average_decay: 0.5")
    feed(s, *data(8))
    s.step(2)
    before = np.asarray(s.average).copy()
    s.loss_scale = LossScale(2.0**126)
    feed(s, 1e3 * data(8)[0], data(8)[1])
    s.step(1)
    assert np.array_equal(before, np.asarray(s.average))


def test_a_state_is_a_value() -> None:
    s = solver(more="momentum: 0.9")
    feed(s, *data(8))
    s.step(2)
    state = s.state()
    assert isinstance(state, State) and state.iter == 2 and len(state.history) == len(s.net.learnable)
    assert [h.shape for h in state.history] == [p.blob.shape for p in s.net.learnable]
    s.net.save("w.caffemodel")
    kept, history = weights(s), [np.asarray(h).copy() for h in s.history]
    state = copy.deepcopy(state)
    s.step(3)
    prepare(s, state, "w.caffemodel", "here")()
    assert s.iter == 2 and all(np.array_equal(a, b) for a, b in zip(kept, weights(s)))
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(history, s.history))


@pytest.mark.parametrize("change, message", [
    ({"history": []}, "the state has 0 histories; this solver and net need 9"),
    ({"current_step": 9}, "it has current_step 9 at iter 2"),
    ({"history": [np.zeros(3, np.float32)] * 9}, r"a history has the shape \(3,\)")])
def test_a_state_that_does_not_fit_changes_nothing(change: dict[str, Any], message: str) -> None:
    s = solver(more="momentum: 0.9")
    feed(s, *data(8))
    s.step(2)
    s.net.save("w.caffemodel")
    state = s.state()
    for name, value in change.items():
        setattr(state, name, value)
    s.step(1)
    before = weights(s)
    with pytest.raises(SnapshotError, match=message):
        prepare(s, state, "w.caffemodel", "here")
    assert s.iter == 3 and all(np.array_equal(a, b) for a, b in zip(before, weights(s)))


def test_snapshots_know_no_solver() -> None:
    with open("m.caffemodel", "wb") as file:
        file.write(b"weights")

    def write(path: str) -> None:
        with open(path, "wb") as file:
            file.write(b"weights")
    state = State(5, 1, 7, [0.5, 0.25], history=[np.arange(6, dtype=np.float32).reshape(2, 3)])
    for hdf5 in (False, True):
        path = snapshot.save(state, "p", hdf5, write)
        found, model = snapshot.load(path)
        assert model == f"p_iter_5.caffemodel{'.h5' if hdf5 else ''}"
        assert np.array_equal(found.history[0], state.history[0])
        assert (found.iter, found.current_step, found.seed, found.losses) == (5, 1, 7, [0.5, 0.25])


def test_the_reducer_of_a_failing_step_leaves_it_undone() -> None:
    s = solver()
    feed(s, *data(8))

    def fail(bucket: Any) -> None:
        raise SolverError("the network is down")
    s.reducer = fail
    before = weights(s)
    with pytest.raises(SolverError, match="the network is down"):
        s.step(1)
    s.reducer = None
    assert s.iter == 0 and not s.torn and all(np.array_equal(a, b) for a, b in zip(before, weights(s)))
    s.step(1)
