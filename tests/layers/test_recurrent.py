"""LSTM, RNN and LSTMUnit: their equations, states that go on, and gradients through time."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import brew
from brew.proto import parse, pb
from brew.tools.gradient_check import check_gradient, one_layer_net

T, N, I, S, H = 4, 3, 5, 2, 3
FILL = 'weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "gaussian" std: 0.5 }'
CONT = np.array([[0, 1, 0], [1, 1, 1], [1, 0, 1], [1, 1, 1]], np.float32)


def make(kind: str, static: bool = False, exposed: bool = False, steps: int = T) -> brew.Net:
    states = {"LSTM": 2, "RNN": 1}[kind] if exposed else 0
    tops = " ".join(f'top: "y{i}"' for i in range(1 + states))
    shapes = [(steps, N, I), (steps, N)] + [(N, S)] * static + [(1, N, H)] * states
    return one_layer_net(f'type: "{kind}" {tops} recurrent_param {{ num_output: {H} {FILL} expose_hidden: {str(exposed).lower()} }}', *shapes)


def fill(net: brew.Net, cont: np.ndarray = CONT) -> None:
    rng = np.random.default_rng(0)
    for i, blob in enumerate(net.bottoms[-1]):
        blob.data[...] = cont if i == 1 else rng.standard_normal(blob.shape)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("exposed", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_gradients_go_back_through_time_and_to_the_first_states(kind: str, exposed: bool, static: bool, device: str) -> None:
    net = make(kind, static, exposed)
    fill(net)
    check_gradient(net, skip=(1,), counted=1)


def test_an_lstm_unit_has_the_gradient_of_its_function(device: str) -> None:
    net = one_layer_net('type: "LSTMUnit" top: "c" top: "h"', (1, N, H), (1, N, 4 * H), (1, N))
    rng = np.random.default_rng(0)
    for i, blob in enumerate(net.bottoms[-1]):
        blob.data[...] = [[1, 0, 1]] if i == 2 else rng.standard_normal(blob.shape)
    check_gradient(net, skip=(2,))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_an_lstm_follows_its_equations(device: str) -> None:
    net = make("LSTM")
    fill(net)
    w, b, r = (blob.data.astype(np.float64) for blob in net.params["l"])
    h = c = np.zeros((N, H))
    for t, y in enumerate(net.forward()["y0"]):
        keep = CONT[t][:, None]
        i, f, o, g = np.split(net.blobs["b0"].data[t] @ w.T + b + (keep * h) @ r.T, 4, axis=1)
        c = keep * sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(y, h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_states_go_on_from_batch_to_batch(kind: str, device: str) -> None:
    long, short = make(kind), make(kind, steps=2)
    fill(long)
    for a, b in zip(long.params["l"], short.params["l"]):
        b.data[...] = a.data
    whole, x = long.forward()["y0"].copy(), long.blobs["b0"].data
    parts = [short.forward(b0=x[t:t + 2], b1=CONT[t:t + 2])["y0"].copy() for t in (0, 2)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5, atol=1e-6)


def test_a_snapshot_holds_the_states(device: str, working_directory: Path) -> None:
    text = f"""layer {{ name: "d" type: "DummyData" top: "x" top: "cont" top: "t" dummy_data_param {{ shape {{ dim: 4 dim: 3 dim: 5 }} shape {{ dim: 4 dim: 3 }}
        shape {{ dim: 4 dim: 3 dim: 3 }} data_filler {{ type: "gaussian" }} data_filler {{ value: 1 }} data_filler {{ type: "gaussian" }} }} }}
        layer {{ name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "y" recurrent_param {{ num_output: 3 {FILL} }} }}
        layer {{ name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" }}"""
    param = pb.SolverParameter(net_param=parse(text, pb.NetParameter()), base_lr=0.1, lr_policy="fixed", max_iter=9, snapshot_prefix="s", random_seed=1)
    first, second = brew.get_solver(param), brew.get_solver(param)
    first.step(3)
    second.restore(first.snapshot())
    first.step(3)
    second.step(3)
    assert first.losses == second.losses
