"""Every recorded layer case of Caffe: tops, gradients, and parameters afterwards, on every device."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import brew
from brew.proto import read_net

pytestmark = pytest.mark.oracle
FOLDER = Path(__file__).resolve().parents[3] / "shared/oracle"
CASES = sorted(p.stem for p in (FOLDER / "layers").glob("*.npz"))
TOLERANCE = 1e-4               # relative to the largest value
# Caffe gives exposed initial states a gradient of zero; brew gives them theirs (tests/layers/test_recurrent.py).
OURS_IS_MORE = {("lstm_exposed", "bottom_diff", "2"), ("lstm_exposed", "bottom_diff", "3"), ("rnn_exposed", "bottom_diff", "2")}


def difference(ours: np.ndarray, caffes: np.ndarray) -> float:
    assert ours.shape == caffes.shape
    return float(np.abs(ours.astype(np.float64) - caffes).max(initial=0) / max(np.abs(caffes).max(initial=0), 1e-8))


def known(case: str) -> bool:
    return all(layer.type in brew.LAYERS for layer in read_net(FOLDER / "layers" / f"{case}.prototxt").layer)


def test_every_case_is_here(shared: Path) -> None:
    """Every recorded case is of a type that is built."""
    built = [case for case in CASES if known(case)]
    assert len(built) == len(CASES) == 155


@pytest.mark.parametrize("case", [c for c in CASES if known(c)])
def test_agrees_with_caffe(case: str, device: str, shared: Path) -> None:
    recorded = np.load(FOLDER / "layers" / f"{case}.npz")
    net = brew.Net(FOLDER / "layers" / f"{case}.prototxt", brew.TRAIN if str(recorded["phase"]) == "TRAIN" else brew.TEST)
    number = net._layer_names.index("l")
    bottoms, tops, blobs = net.bottoms[number], net.tops[number], net.layers[number].blobs
    place = {"bottom": lambda i: bottoms[i].data, "param": lambda i: blobs[i].data, "top_diff": lambda i: tops[i].diff,
             "top": lambda i: tops[i].data, "bottom_diff": lambda i: bottoms[i].diff, "param_diff": lambda i: blobs[i].diff,
             "param_after": lambda i: blobs[i].data}
    entries = [(*key.split(":"), recorded[key]) for key in recorded.files if ":" in key]
    for kind, i, values in entries:
        if kind in ("bottom", "param"):
            place[kind](int(i))[...] = values
    net.forward(start="l", end="l")           # some cases have a layer before it, so that it has a gradient to give
    got = {(k, i): place[k](int(i)).copy() for k, i, _ in entries if k == "top"}
    if any(kind in ("bottom_diff", "param_diff") for kind, *_ in entries):
        for kind, i, values in entries:
            if kind == "top_diff":
                place[kind](int(i))[...] = values
        net.clear_param_diffs()
        net.backward(start="l", end="l")
    for kind, i, values in entries:
        if kind in ("bottom_diff", "param_diff", "param_after"):
            got[kind, i] = place[kind](int(i))
    for kind, i, values in entries:
        if (kind, i) in got and (case, kind, i) not in OURS_IS_MORE:
            assert difference(got[kind, i], values) <= TOLERANCE, f"{kind}:{i}"


def test_lenet_forward_and_backward(device: str, shared: Path) -> None:
    recorded = np.load(FOLDER / "nets/lenet_force_backward.values.npz")
    net = brew.Net(FOLDER / "nets/lenet_force_backward.prototxt", brew.TEST, weights=FOLDER / "nets/lenet.caffemodel")
    net.forward(data=recorded["input"])
    values = {name: blob.data.copy() for name, blob in net.blobs.items()}
    net.clear_param_diffs()
    net.backward(prob=recorded["prob_diff_seed"])
    for key in recorded.files:
        kind, _, name = key.partition(":")
        if kind == "blob":
            assert difference(values[name], recorded[key]) <= TOLERANCE, key
        elif kind == "blob_diff":
            assert difference(net.blobs[name].diff, recorded[key]) <= TOLERANCE, key
        elif kind == "param_diff":
            layer, _, i = name.partition(":")
            assert difference(net.params[layer][int(i)].diff, recorded[key]) <= TOLERANCE, key
