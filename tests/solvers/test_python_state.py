"""Layers written in Python resume: what they return goes into the snapshot, and comes back."""
from __future__ import annotations

import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import brew
from brew.engine.errors import SnapshotError
from brew.engine.layer import LAYERS
from brew.solvers import state_file

MODULE = """
import numpy as np
import brew

class Plain(brew.Layer):
    '''Batches of a table in an order that its own generator draws anew for every epoch.'''
    def setup(self, bottom, top):
        table = np.random.default_rng(0)
        self.items, self.labels = table.normal(size=(20, 6)).astype("f4"), table.integers(0, 3, 20)
        self.rng = np.random.default_rng(7)
        self.begin()
    def begin(self):
        self.order, self.next = self.rng.permutation(20), 0
    def reshape(self, bottom, top):
        top[0].reshape(6, 6)
        top[1].reshape(6)
    def forward(self, bottom, top):
        if self.next + 6 > 20:
            self.begin()
        rows = self.order[self.next:self.next + 6]
        self.next += 6
        top[0].data[...] = self.items[rows] + self.rng.normal(size=(6, 6)) * 0.1
        top[1].data[...] = self.labels[rows]

class Shuffled(Plain):
    def snapshot_state(self):
        return {"rng": self.rng.bit_generator.state, "order": self.order, "next": self.next}
    def restore_state(self, state):
        self.rng.bit_generator.state = state["rng"]
        self.order, self.next = state["order"], state["next"]

class Noise(brew.Layer):
    '''A layer with a bottom, and with a generator.'''
    def setup(self, bottom, top):
        self.rng = np.random.RandomState(1)
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data + self.rng.standard_normal(bottom[0].shape)
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff
    def snapshot_state(self):
        return self.rng.get_state()
    def restore_state(self, state):
        self.rng.set_state(state)

class Unsupported(Shuffled):
    def snapshot_state(self):
        return {"queue": [1, {2, 3}]}

class Refuses(Shuffled):
    def restore_state(self, state):
        self.order[:] = 0                          # half done
        super().restore_state(state)
        if self.next != 6:
            raise KeyError("worker")
"""
NET = """
layer { name: "data" type: "Python" top: "x" top: "t" python_param { module: "state_layers" layer: "DATA" } }
layer { name: "noise" type: "Python" bottom: "x" top: "n" python_param { module: "state_layers" layer: "Noise" } }
layer { name: "ip" type: "InnerProduct" bottom: "n" top: "y" inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "t" top: "loss" }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.05 momentum: 0.9 lr_policy: "fixed" test_iter: 2 test_interval: 5 average_loss: 2 display: 1
random_seed: 2 snapshot_prefix: "s" solver_mode: CPU """
FORMATS = pytest.mark.parametrize("end", ["", ".h5"], ids=["binary", "hdf5"])


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path())
    monkeypatch.syspath_prepend("")
    sys.modules.pop("state_layers", None)


def write(folder: Path, layer: str = "Shuffled", extra: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "state_layers.py").write_text(MODULE)
    (folder / "net.prototxt").write_text(NET.replace("DATA", layer))
    (folder / "solver.prototxt").write_text(SOLVER + extra)
    return folder


def solver(layer: str = "Shuffled", end: str = "", extra: str = "") -> brew.Solver:
    write(Path(), layer, extra + (" snapshot_format: HDF5" if end else ""))
    return brew.get_solver("solver.prototxt")


def result(s: brew.Solver) -> tuple[Any, ...]:
    return s.losses, [blob.data.tobytes() for blob in s.net.params["ip"]], [a.tobytes() for a in s.history], data_layer(s).order.tolist(), data_layer(s).next


def data_layer(s: brew.Solver, net: int = 0) -> Any:
    return s.nets[net].named_nodes["data"].user  # type: ignore[attr-defined]


@FORMATS
def test_a_resumed_python_data_layer_goes_on_where_it_was(end: str, device: str) -> None:
    whole = solver(end=end)
    whole.step(7)
    state = whole.snapshot()
    whole.step(9)
    resumed = solver(end=end)
    resumed.restore(state)
    assert resumed.iter == 7
    resumed.step(9)
    assert result(resumed) == result(whole)
    assert data_layer(resumed, 1).order.tolist() == data_layer(whole, 1).order.tolist() and data_layer(whole, 1).next > 0


@FORMATS
def test_kills_change_no_bit(end: str, tmp_path: Path) -> None:
    extra = "max_iter: 400 snapshot: 4" + (" snapshot_format: HDF5" if end else "")
    whole, killed = write(tmp_path / "whole", extra=extra), write(tmp_path / "killed", extra=extra)
    command = [sys.executable, "-m", "brew.tools.cli", "train", "-solver", "solver.prototxt", "-snapshot", "auto"]
    subprocess.run(command, cwd=whole, check=True, capture_output=True, timeout=120)
    rng = random.Random(1)
    for _ in range(3):
        before = len(list(killed.glob("*.solverstate*")))
        process = subprocess.Popen(command, cwd=killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(list(killed.glob("*.solverstate*"))) < before + 3 and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.01))
        assert process.poll() is None, "the training ended before it was killed"
        process.kill()
        process.wait()
    subprocess.run(command, cwd=killed, check=True, capture_output=True, timeout=120)
    states = [state_file.read(str(folder / f"s_iter_400.solverstate{end}"))[0] for folder in (whole, killed)]
    for state in states if end else []:
        state.ClearField("learned_net_sha256")                   # HDF5 stamps files with the time
    assert states[0] == states[1]
    assert len(states[0].layer) == 4 and all(layer.HasField("user") for layer in states[0].layer)


def test_the_loss_line_at_the_end_takes_nothing_from_the_training() -> None:
    extra = "max_iter: 7"
    whole = solver(extra=extra)
    whole.solve()
    apart = solver(extra=extra)
    apart.step(7)
    assert data_layer(whole).next == data_layer(apart).next and result(whole) == result(apart)


def test_a_state_of_another_type_is_refused_by_layer_and_place() -> None:
    s = solver("Unsupported")
    s.step(1)
    with pytest.raises(SnapshotError) as e:
        s.snapshot()
    assert str(e.value) == ('net.prototxt:2:93: layer "data" (type "Python"): snapshot_state() must return values that a snapshot can hold: '
                            "state['queue'][1] is of type builtins.set; a state may hold None, bool, int, float, str, bytes, numpy arrays and scalars, "
                            "and lists, tuples and dicts of these")
    assert not list(Path().glob("s_iter_*"))                     # not half a snapshot


def test_a_layer_that_refuses_its_state_changes_nothing() -> None:
    s = solver("Refuses")
    s.step(2)
    state = s.snapshot()
    other = solver("Refuses")
    other.step(1)
    before = users(other), result(other)
    with pytest.raises(SnapshotError) as e:
        other.restore(state)
    assert str(e.value) == """s_iter_2.solverstate: layer "data": restore_state() raised KeyError: 'worker'"""
    assert isinstance(e.value.__cause__, KeyError)
    assert (users(other), result(other), other.iter) == (*before, 1)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_layers_before_the_one_that_refuses_get_their_states_back(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    s = solver()
    s.step(2)
    state = s.snapshot()
    other = solver()
    other.step(1)
    before = users(other), result(other)
    last, tries = other.test_nets[0].named_nodes["noise"].user, []  # type: ignore[attr-defined]

    def refuse(state: Any) -> None:
        tries.append(state)
        if len(tries) == 1:
            raise error("now")
    monkeypatch.setattr(last, "restore_state", refuse)
    with pytest.raises(SnapshotError if error is ValueError else error):
        other.restore(state)
    assert len(tries) == 2 and (users(other), result(other), other.iter) == (*before, 1)


def users(s: brew.Solver) -> str:
    """The states of all layers that users wrote."""
    return repr([layer.snapshot_state() for net in s.nets for layer in net.layers if layer.type == "Python"])  # type: ignore[attr-defined]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


def test_layers_that_forget_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    s = solver("Plain")
    s.step(1)
    s.snapshot()
    s.step(1)
    s.snapshot()
    assert warnings(caplog) == ['a resumed training will restart these Python layers from the beginning: "data"\n  to keep their position in snapshots, '
                                "define snapshot_state() and restore_state(state); see docs/layers/python.md"]
    caplog.clear()
    s = solver("Shuffled")
    s.snapshot()
    assert not warnings(caplog)


def test_a_snapshot_without_a_state_of_the_layer_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    s = solver("Plain")
    s.step(2)
    state = s.snapshot()
    caplog.clear()
    solver("Shuffled").restore(state)
    assert warnings(caplog) == ['the snapshot holds no state for layer "data", which keeps its present one'] * 2
    caplog.clear()
    s = solver("Shuffled")
    s.step(1)
    state = s.snapshot()
    solver("Plain").restore(state)
    assert warnings(caplog) == ['layer "data" has no restore_state(), and the snapshot holds a state for it'] * 2


@pytest.mark.parametrize("method", ["snapshot_state", "restore_state"])
def test_half_of_the_protocol_is_an_error(method: str) -> None:
    with pytest.raises(TypeError) as e:
        type("Half", (brew.Layer,), {method: lambda self: None})
    assert str(e.value) == "Half must define both snapshot_state() and restore_state(state), or neither"


def test_the_example_of_the_documentation_works() -> None:
    text = LAYERS["Python"].__doc__ or ""
    code = textwrap.dedent(text[text.index("        class Shuffled"):text.index("    snapshot_state() returns")])
    names: dict[str, Any] = {"brew": brew, "np": np}
    exec(code, names)                                            # noqa: S102
    layer, other = names["Shuffled"](), names["Shuffled"]()
    layer.setup([], [])
    other.setup([], [])
    layer.rng.random(5)
    layer.next = 3
    other.restore_state(layer.snapshot_state())
    assert other.next == 3 and other.rng.random() == layer.rng.random()
