"""Solvers that Caffe does not have, weight by weight against their formulas; the plateau policy; averages of weights."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import brew
from brew.engine.errors import SolverError
from brew.proto import parse, pb

NET = """
layer { name: "data" type: "Input" top: "x" top: "t" input_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2 weight_filler { type: "xavier" } } param { } param { lr_mult: 2 decay_mult: 0 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
"""
RATE, M, M2, DELTA, DECAY, RMS = 0.05, 0.9, 0.99, 1e-6, 0.1, 0.8


def solver(text: str, phase_net: str = NET) -> brew.Solver:
    Path("net.prototxt").write_text(phase_net)
    base = f'net: "net.prototxt" base_lr: {RATE} max_iter: 100 snapshot_after_train: false random_seed: 1 snapshot_prefix: "run" '
    s = brew.get_solver(parse(base + ('' if "lr_policy" in text else 'lr_policy: "fixed" ') + text, pb.SolverParameter()))
    rng = np.random.default_rng(0)
    s.net.blobs["x"].data[...], s.net.blobs["t"].data[...] = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
    return s


def adamw(w: np.ndarray, g: np.ndarray, state: dict[str, np.ndarray], t: int, rate: float, decay: float) -> np.ndarray:
    m = state["m"] = M * state.get("m", 0) + (1 - M) * g
    v = state["v"] = M2 * state.get("v", 0) + (1 - M2) * g * g
    return w - rate * (np.sqrt(1 - M2**t) / (1 - M**t) * m / (np.sqrt(v) + DELTA) + decay * w)


def rmsprop(w: np.ndarray, g: np.ndarray, state: dict[str, np.ndarray], t: int, rate: float, decay: float) -> np.ndarray:
    g = g + decay * w
    h = state["h"] = RMS * state.get("h", 0) + (1 - RMS) * g * g
    s = state["s"] = M * state.get("s", 0) + rate * g / (np.sqrt(h) + DELTA)
    return w - s


def lars(w: np.ndarray, g: np.ndarray, state: dict[str, np.ndarray], t: int, rate: float, decay: float) -> np.ndarray:
    norm = np.linalg.norm
    if w.ndim > 1:
        rate = rate * 0.02 * norm(w) / (norm(g) + decay * norm(w))
    h = state["h"] = M * state.get("h", 0) + rate * (g + decay * w)
    return w - h


@pytest.mark.parametrize("text, formula", [
    (f'type: "AdamW" momentum: {M} momentum2: {M2} delta: {DELTA}', adamw), (f'type: "RMSProp" momentum: {M} rms_decay: {RMS} delta: {DELTA}', rmsprop),
    (f'type: "LARS" momentum: {M} trust_coefficient: 0.02', lars)], ids=["AdamW", "RMSProp with momentum", "LARS"])
def test_updates_follow_their_formulas(text: str, formula: object, device: str) -> None:
    s = solver(f"{text} weight_decay: {DECAY}")
    x, target = (s.net.blobs[name].data.astype(float) for name in "xt")
    w, b = (blob.data.astype(float) for blob in s.net.params["ip"])
    states: list[dict[str, np.ndarray]] = [{}, {}]
    for t in range(1, 6):
        d = (x @ w.T + b - target) / 4
        w, b = formula(w, d.T @ x, states[0], t, RATE, DECAY), formula(b, d.sum(0), states[1], t, 2 * RATE, 0.0)  # type: ignore[operator]
        s.step(1)
        np.testing.assert_allclose(s.net.params["ip"][0].data, w, rtol=1e-4)
        np.testing.assert_allclose(s.net.params["ip"][1].data, b, rtol=1e-4)


def test_plateau_lowers_the_rate_when_the_loss_stays() -> None:
    s = solver('lr_policy: "plateau" gamma: 0.1 plateau_winsize: 3 plateau_winsize: 2 momentum: 0')
    s.net.params["ip"][0].data[...] = 0
    s.net.blobs["x"].data[...] = 0                         # only the bias learns, and reaches its best soon
    rates = []
    for _ in range(300):
        s.step(1)
        rates.append(round(s.lr, 8))
    steps = [i for i in range(1, 300) if rates[i] != rates[i - 1]]
    assert [rates[i] for i in steps] == [0.005, 0.0005] and steps[1] >= steps[0] + 2 and rates[-1] == 0.0005


def test_plateau_counts_from_the_last_minimum() -> None:
    from brew.solvers.lr_policy import Plateau
    param, plateau, step, steps = pb.SolverParameter(plateau_winsize=[2, 3]), Plateau(), 0, []
    for i, loss in enumerate([5, 4, 4.5, 3, 3.1, 3.2, 3.3, 2, 2.1, 2.1, 2.1, 2.1]):
        step = plateau.advance(param, i, step, loss)
        steps.append(step)
    assert steps == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]


def test_the_average_follows_the_weights_and_tests_use_it(device: str) -> None:
    net = NET.replace('type: "Input"', 'type: "DummyData"').replace("input_param {", "dummy_data_param {").replace("dim: 2 } }", "dim: 2 } data_filler { value: 1 } }", 1)
    s = solver('average_decay: 0.75 test_average: true test_iter: 1 test_interval: 100 test_initialization: false momentum: 0.5', net)
    average = [blob.data.astype(float) for blob in s.net.params["ip"]]
    for _ in range(4):
        s.step(1)
        average = [0.75 * a + 0.25 * blob.data for a, blob in zip(average, s.net.params["ip"])]
    before = [blob.data.copy() for blob in s.net.params["ip"]]
    loss = s.test(0)["loss"][0]
    y = np.ones(3) @ average[0].T + average[1]
    assert loss == pytest.approx(float(((y - 1) ** 2).sum() / 2), rel=1e-4)
    assert all((blob.data == b).all() for blob, b in zip(s.net.params["ip"], before))
    s.snapshot()
    s.net.copy_from("run_iter_4_average.caffemodel")
    for blob, a in zip(s.net.params["ip"], average):
        np.testing.assert_allclose(blob.data, a, rtol=1e-5)


@pytest.mark.parametrize("text", ['type: "AdamW" momentum: 0.9 average_decay: 0.9', 'type: "RMSProp" momentum: 0.9 snapshot_format: HDF5 average_decay: 0.5', 'type: "LARS" momentum: 0.9',
                                  'lr_policy: "plateau" gamma: 0.5 plateau_winsize: 2 plateau_winsize: 2 plateau_winsize: 2 average_loss: 3'])
def test_resuming_changes_no_bit(text: str, device: str) -> None:
    whole, first, second = (solver(text) for _ in range(3))
    whole.step(12)
    first.step(5)
    second.restore(first.snapshot())
    second.step(7)
    for a, b in zip(whole.net.params["ip"], second.net.params["ip"]):
        assert (a.data == b.data).all()
    assert whole.lr == second.lr and whole.plateau.minimum == second.plateau.minimum
    if whole.average is not None:
        assert (whole.average == second.average).all()


@pytest.mark.parametrize("text, says", [("test_average: true", "test_average needs average_decay"), ("average_decay: 1", "average_decay must be at least 0 and less than 1, found 1"),
                                        ('lr_policy: "plateau" gamma: 0.1', 'lr_policy "plateau" needs plateau_winsize')])
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(SolverError, match=says):
        solver(text)
