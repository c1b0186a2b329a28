"""A step that is interrupted happens whole, or not at all, or the solver says that its state is torn."""
from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import brew
from brew.engine.errors import SolverError
from brew.layers.prefetch import Prefetcher
from brew.layers.samplers import Sequential
from brew.proto import parse, pb
from brew.solvers import layer_state, snapshot
from brew.tools.database import write_database

# Every kind of state that an iteration changes: positions in data, random draws, statistics, states of sequences, tables
NETS = {
    "images": '''layer { name: "data" type: "Data" top: "x" top: "label" transform_param { crop_size: 8 mirror: true scale: 0.01 } data_param { source: "db" batch_size: 4 shuffle: true } }
        layer { name: "noise" type: "DummyData" top: "noise" dummy_data_param { shape { dim: 4 dim: 3 dim: 8 dim: 8 } data_filler { type: "gaussian" std: 0.1 } } }
        layer { name: "sum" type: "Eltwise" bottom: "x" bottom: "noise" top: "sum" }
        layer { name: "conv" type: "Convolution" bottom: "sum" top: "conv" convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
        layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" } layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
        layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
        layer { name: "depth" type: "StochasticDepth" bottom: "conv" top: "depth" stochastic_depth_param { survival: 0.5 per_item: true } }
        layer { name: "score" type: "Convolution" bottom: "depth" top: "score" convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } } }
        layer { name: "seg" type: "SegAccuracy" bottom: "score" bottom: "pixels" top: "seg" seg_accuracy_param { reset: false } }
        layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 } }
        layer { name: "psp" type: "BN" bottom: "pool" top: "psp" bn_param { momentum: 0.8 } }
        layer { name: "drop" type: "Dropout" bottom: "psp" top: "drop" }
        layer { name: "ip" type: "InnerProduct" bottom: "drop" top: "ip" inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }'''.replace('layer { name: "score"', '''
        layer { name: "pixels" type: "DummyData" top: "pixels" dummy_data_param { shape { dim: 4 dim: 1 dim: 8 dim: 8 } data_filler { type: "uniform" max: 3 } } } layer { name: "score"'''),
    "sequences": '''layer { name: "data" type: "DummyData" top: "x" top: "cont" top: "label" dummy_data_param { shape { dim: 3 dim: 2 dim: 4 } shape { dim: 3 dim: 2 } shape { dim: 3 dim: 2 dim: 5 }
          data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 } data_filler { type: "gaussian" } } }
        layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h" recurrent_param { num_output: 5 weight_filler { type: "xavier" } } }
        layer { name: "rnn" type: "RNN" bottom: "h" bottom: "cont" top: "r" recurrent_param { num_output: 5 weight_filler { type: "xavier" } } }
        layer { name: "loss" type: "EuclideanLoss" bottom: "r" bottom: "label" top: "loss" }'''}
SOLVER = '''net: "net.prototxt" test_iter: 2 test_interval: 3 base_lr: 0.05 momentum: 0.9 weight_decay: 0.001 lr_policy: "step" gamma: 0.5 stepsize: 2
average_loss: 5 display: 2 clip_gradients: 1 average_decay: 0.8 random_seed: 3 snapshot_prefix: "s" iter_size: 2 type: "Adam" momentum2: 0.99'''
AT, LAST = 3, 6                                  # the iteration that is interrupted (a test and a learning rate's step are due), and the end


class Stop(Exception):
    """What user code raises."""


class Places:
    """Counts the places that a run passes; at number `stop`, counted from 0, `how` is called."""

    def __init__(self) -> None:
        self.passed = 0
        self.stop, self.how = -1, self.nothing
        self.names: list[str] = []

    @staticmethod
    def nothing() -> None: ...

    def pass_by(self, name: str) -> None:
        self.names.append(name)
        self.passed += 1
        if self.passed - 1 == self.stop:
            self.how()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self.pass_by(f"before {name}")
            result = function(*args, **named)
            self.pass_by(f"after {name}")
            return result
        return call

    def mark(self, solver: Any) -> None:
        """Everything that an iteration calls: layers, kernels of the update, and the user's own functions."""
        for which, net in enumerate(solver.nets):
            for layer in net.layers:
                for what in ("forward", "backward", "forward_fused", "backward_fused"):
                    setattr(layer, what, self.around(f"{what} {layer.name} of net {which}", getattr(layer, what)))
        solver.update = self.around("update", solver.update)
        solver.add_callback(lambda: self.pass_by("on_start"), lambda: self.pass_by("on_gradients_ready"))
        events = {event: lambda *_, event=event: self.pass_by(event) for event in ("on_display", "on_iteration", "on_test")}     # type: ignore[misc]
        solver.watchers.append(type("Watcher", (), events)())
        for event in events:
            setattr(type(solver.watchers[-1]), event, staticmethod(events[event]))

        def poll() -> str:
            self.pass_by("poll")
            return ""
        solver.poll = poll


@pytest.fixture(autouse=True)
def files() -> None:
    rng = np.random.default_rng(0)
    write_database(Path("db"), ((f"{i:04d}".encode(), pb.Datum(channels=3, height=10, width=10, data=rng.integers(0, 256, 300, np.uint8).tobytes(), label=i % 4)) for i in range(30)))


def make(kind: str = "images", extra: str = "", tests: bool = True) -> Any:
    Path("net.prototxt").write_text(NETS.get(kind, kind))
    return brew.get_solver(parse((SOLVER if tests else SOLVER.replace("test_iter: 2 test_interval: 3", "")) + extra, pb.SolverParameter()))


def state(solver: Any) -> tuple[Any, ...]:
    """All that later iterations depend on."""
    return (solver.iter, solver.losses, solver.current_step, [b.data.tobytes() for net in solver.nets for blobs in net.params.values() for b in blobs],
            [h.tobytes() for h in solver.history], solver.average.tobytes(), [s.SerializeToString()
                    for s in layer_state.collect(solver.nets)])


@pytest.fixture(scope="module")
def wholes() -> dict[str, Any]:
    return {}


def whole(kind: str, device: str, wholes: dict[str, Any]) -> list[Any]:
    """The states after each iteration of a training without interrupts."""
    if (kind, device) not in wholes:
        solver, states = make(kind), []
        for _ in range(LAST):
            solver.step(1)
            states.append(state(solver))
        wholes[kind, device] = states
    return wholes[kind, device]                                  # type: ignore[no-any-return]


def interrupted(kind: str, stop: int, how: Callable[[], None]) -> tuple[Any, str, Places]:
    """(solver, a snapshot of it, places) where iteration AT was interrupted at one place; checks that it was."""
    solver = make(kind)
    solver.step(AT)
    path, places = solver.snapshot(), Places()
    places.mark(solver)
    places.stop, places.how = stop, how
    return solver, path, places


def raises(error: type[BaseException]) -> Callable[[], None]:
    def how() -> None:
        raise error
    return how


def number_of_places(kind: str) -> list[str]:
    solver, _, places = interrupted(kind, -1, Places.nothing)
    solver.step(1)
    return places.names


@pytest.mark.parametrize("kind", NETS)
def test_an_exception_at_any_place_of_an_iteration(kind: str, device: str, wholes: dict[str, Any]) -> None:
    states, names = whole(kind, device, wholes), number_of_places(kind)
    torn = done = undone = 0
    for stop, name in enumerate(names):
        if device != "onednn" and stop % 5 and not name.endswith("update"):
            continue                                             # what goes back differs little between devices
        error = Stop if stop % 2 else KeyboardInterrupt          # from user code, too, this one is not Ctrl-C
        solver, path, places = interrupted(kind, stop, raises(error))
        with pytest.raises(error):
            solver.step(1)
        assert places.names[-1] == name and len(places.names) == stop + 1
        if name.endswith("update"):
            with pytest.raises(SolverError, match="the state of this solver is torn: the update of iteration 3 was interrupted"):
                solver.step(1)
            solver.restore(path)
            torn += 1
        elif solver.iter == AT + 1:
            assert name in ("poll", "on_display", "on_iteration") and state(solver) == states[AT], name
            done += 1
        else:
            undone += 1
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        solver.step(LAST - solver.iter)
        assert state(solver) == states[-1], name
    assert torn >= 2 and done >= 1 and undone >= 10


@pytest.mark.parametrize("kind", NETS)
def test_ctrl_c_at_any_place_of_an_iteration_waits_for_its_end(kind: str, wholes: dict[str, Any]) -> None:
    states, names = whole(kind, "onednn", wholes), number_of_places(kind)
    for stop, name in enumerate(names):
        solver, _, places = interrupted(kind, stop, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            solver.step(3)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if "net 1" in name or name in ("on_test", "poll") and solver.iter == AT:       # a test ends after a batch
            assert solver.iter == AT
        else:
            assert state(solver) == states[AT], name
        solver.step(LAST - solver.iter)
        assert state(solver) == states[-1], name


def test_a_second_ctrl_c_does_not_wait(wholes: dict[str, Any]) -> None:
    states, names = whole("images", "onednn", wholes), number_of_places("images")

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    for stop, name in enumerate(names):
        solver, path, places = interrupted("images", stop, twice)
        with pytest.raises(KeyboardInterrupt):
            solver.step(3)
        assert len(places.names) == stop + 1
        if name.endswith("update"):
            for call in (lambda: solver.step(1), solver.solve, solver.snapshot, solver.apply_update, solver.test, solver.test_all):
                with pytest.raises(SolverError) as e:
                    call()
                assert str(e.value) == ('the state of this solver is torn: the update of iteration 3 was interrupted\n  restore() a snapshot or make a new solver; '
                                        'solver.torn = "" goes on with what there is')
            solver.restore(path)
        solver.step(LAST - solver.iter)
        assert state(solver) == states[-1], name


def test_ctrl_c_between_iterations_and_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a snapshot and a restore it waits for the end; a handler of the user's own is left alone; threads have none."""
    def press(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
    solver = make()
    solver.step(2)
    solver.watchers = [type("Watcher", (), {"on_snapshot": press})()]
    with pytest.raises(KeyboardInterrupt):
        solver.snapshot()
    assert solver.iter == 2 and Path("s_iter_2.solverstate").exists()
    solver.watchers = []
    before = state(solver)
    solver.step(1)
    copied = snapshot.weights.copy                               # the first of what restore() changes
    monkeypatch.setattr(snapshot.weights, "copy", lambda plan: (press(), copied(plan)))
    with pytest.raises(KeyboardInterrupt):
        solver.restore("s_iter_2.solverstate")
    assert state(solver) == before and not solver.torn
    calls: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:
        solver.add_callback(press, press)
        solver.step(2)
        assert len(calls) == 4 and solver.iter == 4
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    solver.callbacks.clear()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(solver.step, 1).result()
    assert solver.iter == 5


def test_a_restore_that_is_interrupted_leaves_the_solver_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    solver = make()
    solver.step(2)
    path = solver.snapshot()
    with monkeypatch.context() as patched:
        patched.setattr(snapshot.weights, "copy", lambda plan: raises(Stop)())
        with pytest.raises(Stop):
            solver.restore(path)
    with pytest.raises(SolverError, match=r"the state of this solver is torn: restore\(\) was interrupted"):
        solver.step(1)
    solver.restore(path)
    solver.step(1)
    with pytest.raises(brew.BrewError):
        solver.restore("nothing.solverstate")                    # nothing has changed
    solver.step(1)


LAYERS = """
import brew
class Data(brew.Layer):
    def setup(self, bottom, top):
        self.batch = 0
    def reshape(self, bottom, top):
        top[0].reshape(2, 3)
    def forward(self, bottom, top):
        self.batch += 1
        top[0].data[...] = self.batch
class Through(brew.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(1)
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        self.blobs[0].data[0] += 1
        top[0].data[...] = bottom[0].data
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff
"""
PYTHON = '''DATA layer { name: "through" type: "Python" bottom: "x" top: "t" param { lr_mult: 0 } python_param { module: "py_layers" layer: "Through" } }
layer { name: "ip" type: "InnerProduct" bottom: "t" top: "y" inner_product_param { num_output: 3 weight_filler { type: "xavier" } } } layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "x" top: "loss" }'''


@pytest.fixture
def python_net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    Path("py_layers.py").write_text(LAYERS)
    monkeypatch.syspath_prepend("")
    yield lambda data: make(PYTHON.replace("DATA", data), tests=False)
    sys.modules.pop("py_layers", None)


def test_a_layer_in_python_that_reads_data_cannot_go_back(python_net: Callable[[str], Any]) -> None:
    solver = python_net('layer { name: "data" type: "Python" top: "x" python_param { module: "py_layers" layer: "Data" } }')
    solver.step(2)
    path = solver.snapshot()
    remove = raises(Stop)
    solver.add_callback(remove, remove)
    with pytest.raises(Stop):
        solver.step(1)                                           # before the layer has run: nothing has happened
    solver.callbacks.clear()
    solver.step(1)
    solver.add_callback(lambda: None, remove)
    with pytest.raises(Stop):
        solver.step(1)
    solver.callbacks.clear()
    with pytest.raises(SolverError) as e:
        solver.step(1)
    assert str(e.value) == ('the state of this solver is torn: iteration 3 was interrupted, and layer "data" (type "Python") cannot go back to the batch it began with'
                            '\n  restore() a snapshot or make a new solver; solver.torn = "" goes on with what there is')
    solver.torn = ""
    solver.step(1)
    assert solver.iter == 4
    solver.restore(path)
    solver.step(1)
    assert solver.iter == 3


def test_what_a_layer_in_python_counts_in_its_parameters_goes_back(python_net: Callable[[str], Any]) -> None:
    solver = python_net('layer { name: "data" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: "gaussian" } } }')
    solver.step(2)
    assert solver.net.params["through"][0].data[0] == 2 * 2      # iter_size: 2
    solver.add_callback(lambda: None, raises(Stop))
    with pytest.raises(Stop):
        solver.step(1)
    assert solver.net.params["through"][0].data[0] == 4 and not solver.torn


def test_what_cannot_be_called_within_an_iteration_says_so() -> None:
    solver = make()
    solver.step(1)
    path = solver.snapshot()
    wrong: list[str] = []

    def call(*_: object) -> None:
        for what in (lambda: solver.step(1), solver.solve, lambda: solver.restore(path)):
            with pytest.raises(SolverError) as e:
                what()
            wrong.append(str(e.value))
    solver.add_callback(lambda: None, call)
    solver.watchers = [type("Watcher", (), {"on_iteration": call, "on_display": call})()]
    solver.step(1)
    assert wrong == [f"{what}() was called within iteration 1: call it between steps" for what in ("step", "solve", "restore")] * 2 and solver.iter == 2


def test_a_snapshot_by_a_watcher_is_of_the_iteration_that_is_done() -> None:
    solver, paths, messages = make(), [], []
    solver.watchers = [type("Watcher", (), {"on_iteration": lambda self, s, loss: paths.append(s.snapshot())})()]
    solver.step(2)                                               # one displays, one does not
    after, solver.watchers = state(solver), []
    assert paths == ["s_iter_2.solverstate"] and solver.iter == 2
    again = make()
    again.restore(paths[0])
    assert state(again) == after

    def early() -> None:
        with pytest.raises(SolverError) as e:
            solver.snapshot()
        messages.append(str(e.value))
    solver.add_callback(lambda: None, early)
    solver.step(1)
    assert messages == ["snapshot() was called within iteration 2: call it between steps"]


def test_apply_update_by_hand_that_is_interrupted() -> None:
    solver = make()
    solver.step(1)
    update = solver.update
    solver.update = lambda *_: raises(Stop)()
    with pytest.raises(Stop):
        solver.apply_update()
    solver.update = update
    with pytest.raises(SolverError, match="torn: the update of iteration 1 was interrupted"):
        solver.apply_update()
    solver.torn = ""
    solver.apply_update()
    solver.step(1)


def test_the_last_loss_line_of_solve_changes_nothing(wholes: dict[str, Any]) -> None:
    """Not even BatchNorm's statistics, and not if it is interrupted."""
    states = whole("images", "onednn", wholes)
    solver = make("images", f" max_iter: {AT - 1} snapshot_after_train: false")
    solver.solve()
    assert state(solver) == states[AT - 2]
    places = Places()
    places.mark(solver)
    places.stop, places.how = 8, raises(Stop)
    with pytest.raises(Stop):
        solver.solve()
    assert places.names[0] == "before forward data of net 0" and state(solver) == states[AT - 2]
    solver.step(LAST - solver.iter)
    assert state(solver) == states[-1]


def test_a_test_that_poll_stops_begins_anew() -> None:
    first, second = make(), make()
    wishes = iter(["", "stop"])
    first.poll = lambda: next(wishes, "")
    first.step(1)
    assert first.stopped and first.iter == 0
    first.stopped = False
    first.step(2)
    second.step(2)
    assert state(first) == state(second)


def test_batches_keep_their_numbers_whatever_is_raised() -> None:
    broken = {2}

    def make_batch(number: int) -> int:
        if number in broken:
            raise Stop
        return number
    for depth in (1, 4):
        broken.add(2)
        p = Prefetcher(Sequential(100, 1), lambda number, _: make_batch(number), depth)
        assert [p.next(), p.next()] == [0, 1]
        for _ in range(3):
            with pytest.raises(Stop):
                p.next()
        broken.clear()
        assert [p.next() for _ in range(4)] == [2, 3, 4, 5]
        hold = threading.Event()
        p.seek(9)
        p.make = lambda number, _: hold.wait(60) and number
        p.late = type("Late", (int,), {"__iadd__": lambda self, other: signal.raise_signal(signal.SIGINT)})()     # as if while it waits
        with pytest.raises(KeyboardInterrupt):
            p.next()
        hold.set()
        p.late = 0
        assert [p.next() for _ in range(3)] == [9, 10, 11]
        p.close()


# --------------------------------------------------------------------------------------------------------------- nets

FUSED = '''force_backward: true layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 16 dim: 24 dim: 24 } } }
layer { name: "c1" type: "Convolution" bottom: "x" top: "c1" convolution_param { num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "b1" type: "BatchNorm" bottom: "c1" top: "c1" batch_norm_param { use_global_stats: GLOBAL } } layer { name: "s1" type: "Scale" bottom: "c1" top: "c1" scale_param { bias_term: true } } layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "c2" type: "Convolution" bottom: "c1" top: "c2" convolution_param { num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Eltwise" bottom: "c2" bottom: "c1" top: "sum" } layer { name: "r2" type: "ReLU" bottom: "sum" top: "sum" }
layer { name: "pool" type: "Pooling" bottom: "sum" top: "p" pooling_param { kernel_size: 2 stride: 2 } } layer { name: "lrn" type: "LRN" bottom: "p" top: "l" }
layer { name: "ip" type: "InnerProduct" bottom: "l" top: "y" inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }'''


@pytest.mark.parametrize("phase", [brew.TRAIN, brew.TEST])
def test_a_net_that_was_interrupted_anywhere_runs_again(phase: int, device: str) -> None:
    x = np.random.default_rng(0).normal(size=(4, 16, 24, 24)).astype(np.float32)

    def run(net: Any) -> list[bytes]:
        net.clear_param_diffs()
        found = [net.forward(x=x)["y"].tobytes()]
        if phase == brew.TRAIN:                                  # in TEST a backward pass ends fusion, and with it these bits
            found.append(net.backward(y=np.ones((4, 4)))["x"].tobytes())
        return found + [b.diff.tobytes() for blobs in net.params.values() for b in blobs]

    def make_net() -> tuple[Any, Places]:
        net, places = brew.Net(parse(FUSED.replace("GLOBAL", str(phase == brew.TEST).lower()), pb.NetParameter()), phase, seed=1), Places()
        for layer in net.layers:
            for what in ("forward", "backward", "forward_fused", "backward_fused", "reshape"):
                setattr(layer, what, places.around(f"{what} {layer.name}", getattr(layer, what)))
        return net, places
    net, places = make_net()
    expected, names = run(net), places.names
    assert any("forward_fused" in name for name in names)
    for stop, name in enumerate(names):
        net, places = make_net()
        places.stop, places.how = stop, raises(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            run(net)
        assert run(net) == expected, name
