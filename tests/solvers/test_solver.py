"""What a solver does around its updates: nets, tests, log lines, callbacks, signals, weights, divergence."""
from __future__ import annotations

import logging
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

import brew
from brew.engine.errors import SolverError
from brew.proto import parse, pb

NET = """
layer { name: "data" type: "DummyData" top: "x" top: "t" dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 2 }
        data_filler { type: "gaussian" } data_filler { value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" loss_weight: 2 }
layer { name: "probe" type: "TanH" bottom: "y" top: "probe" include { stage: "probed" } }
"""


def solver(text: str = "") -> brew.SGDSolver:
    Path("net.prototxt").write_text(NET)
    base = 'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 6 display: 2 snapshot_after_train: false random_seed: 1 '
    return brew.get_solver(parse(base + text, pb.SolverParameter()))  # type: ignore[return-value]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records]


def test_log_lines_are_caffes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "brew"):
        s = solver("test_iter: 2 test_interval: 3")
        s.solve()
    text = lines(caplog)
    start = text.index("Solver scaffolding done.")
    assert text[start + 1].startswith("Solving ") and text[start + 2] == "Learning Rate Policy: fixed" and text[-1] == "Optimization Done."
    shown = [re.sub(r"[-+]?\d+\.?\d*(e-?\d+)?", "#", t) for t in text[start + 3:start + 8]]
    assert shown == ["Iteration #, Testing net (##)", "    Test net output ##: loss = # (* # = # loss)",
                     "Iteration # (# iter/s, #s/# iters), loss = #", "    Train net output ##: loss = # (* # = # loss)", "Iteration #, lr = #"]
    assert [t for t in text if "Testing net" in t] == [f"Iteration {i}, Testing net (#0)" for i in (0, 3, 6)]
    assert any(re.fullmatch(r"Iteration 6, loss = \S+", t) for t in text)


def test_the_loss_shown_is_a_mean_of_the_last(caplog: pytest.LogCaptureFixture) -> None:
    s = solver("average_loss: 3")
    s.step(5)
    losses = []
    t = solver()
    for _ in range(5):
        t.step(1)
        losses.append(t.losses[-1])
    assert s.smoothed_loss == pytest.approx(np.mean(losses[-3:]))


def test_first_test_can_be_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "brew"):
        solver("test_iter: 1 test_interval: 5 test_initialization: false").step(3)
    assert not [t for t in lines(caplog) if "Testing net" in t]


def test_several_files_of_weights_one_after_the_other() -> None:
    """Layers that both name have the last one's; test nets share them, and layers of one's own get theirs."""
    more = 'layer { name: "ip2" type: "InnerProduct" bottom: "y" top: "y2" inner_product_param { num_output: 2 } } layer { name: "unread" type: "Silence" bottom: "y2" }'
    for name, text, value in (("a", NET + more, 1), ("b", NET, 2)):
        net = brew.Net(parse(text, pb.NetParameter()), brew.TRAIN)
        for blobs in net.params.values():
            for blob in blobs:
                blob.data[...] = value
        net.save(f"{name}.caffemodel")
    s = brew.get_solver(parse(f'net_param {{ {NET} {more} }} test_iter: 1 test_interval: 1 base_lr: 0.01 lr_policy: "fixed" weights: "a.caffemodel, b.caffemodel"', pb.SolverParameter()))
    for net in s.nets:
        assert (net.params["ip"][0].data == 2).all() and (net.params["ip2"][0].data == 1).all()


def test_test_nets_share_the_weights_and_have_their_own_state() -> None:
    s = solver('test_iter: 1 test_iter: 1 test_interval: 5 test_state { stage: "probed" } test_state { }')
    assert ["probe" in n.layer_dict for n in (s.net, *s.test_nets)] == [False, True, False]
    s.step(2)
    assert (s.test_nets[0].params["ip"][0].data == s.net.params["ip"][0].data).all()


def test_callbacks_and_apply_update() -> None:
    s, calls = solver(), []
    s.add_callback(lambda: calls.append("start"), lambda: calls.append("ready"))
    s.step(2)
    assert calls == ["start", "ready"] * 2
    before = s.net.params["ip"][0].data.copy()
    s.net.params["ip"][0].diff[...] = 1
    s.apply_update()
    np.testing.assert_allclose(before - s.net.params["ip"][0].data, 0.01, rtol=1e-4)


def test_debug_info_tells_magnitudes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "brew"):
        solver("debug_info: true").step(1)
    text = "\n".join(lines(caplog))
    for part in ("[Forward] Layer ip, top blob y data: ", "[Forward] Layer ip, param blob 0 data: ", "[Backward] Layer loss, bottom blob y diff: ",
                 "[Backward] Layer ip, param blob 1 diff: ", "[Update] Layer ip, param 0 data: "):
        assert f"    {part}" in text


@pytest.mark.parametrize("wish, iterations, stopped", [("stop", 3, True), ("snapshot", 6, False)])
def test_a_signal_is_obeyed_after_the_update(wish: str, iterations: int, stopped: bool) -> None:
    s, asked = solver('snapshot_prefix: "s"'), iter(["", "", wish])
    s.poll = lambda: next(asked, "")
    s.solve()
    assert (s.iter, s.stopped) == (iterations, stopped)
    assert Path("s_iter_3.solverstate").exists() is (wish == "snapshot")


def test_clipping_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "brew"):
        solver("clip_gradients: 0.001").step(1)
    assert [t for t in lines(caplog) if re.fullmatch(r"Gradient clipping: scaling down gradients \(L2 norm \S+ > 0.001\) by scale factor \S+", t)]


def test_a_diverging_training_names_the_first_layer(device: str) -> None:
    s = solver("momentum: 1e30")
    with np.errstate(all="ignore"), pytest.raises(SolverError) as e:
        s.step(9)
    assert re.search(r'layer "(ip|loss)" \(type "\w+"\): (its parameter \d holds values that are not finite|is the first whose result, blob "\w+", is not finite); the loss is (inf|nan)', str(e.value))


@pytest.mark.parametrize("text, message", [
    ('train_net: "net.prototxt"', "exactly one of net, net_param, train_net and train_net_param says what to train; found net, train_net"),
    ("test_iter: 1", "test_interval must be more than 0 where there is a test net"),
    ('test_net: "a" test_net: "b" test_iter: 1 test_interval: 1', "test_iter is given for each test net: there are 1 test_iter and 2 test nets"),
    ("average_loss: 0", "average_loss must be at least 1, found 0"), ("iter_size: 0", "iter_size must be at least 1, found 0"),
    ('weight_decay: 1 regularization_type: "L3"', 'regularization_type is L1 or L2, found "L3"'),
    ('snapshot: 1 snapshot_prefix: "no/such/folder/x"', "no/such/folder/x: snapshots cannot be written here: No such file or directory"),
    ('type: "AdaGrad" momentum: 0.9', 'momentum must be 0 for type "AdaGrad", found 0.9'), ('type: "RMSProp" rms_decay: 1', "rms_decay must be at least 0 and less than 1, found 1"),
    ('type: "SDG"', 'no solver is called "SDG"\n  did you mean "SGD"?')])
def test_a_bad_solver_is_refused(text: str, message: str) -> None:
    with pytest.raises(brew.BrewError) as e:
        solver(text)
    assert message in str(e.value)


def test_paths_are_seen_from_here_and_then_from_the_solvers_file() -> None:
    Path("far").mkdir()
    Path("far/net.prototxt").write_text(NET)
    Path("far/solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 1')
    assert brew.SGDSolver("far/solver.prototxt").net.params


VARYING = """
layer { name: "data" type: "HDF5Data" top: "x" top: "keep" hdf5_data_param { source: "list.txt" batch_size: 2 } }
layer { name: "filter" type: "Filter" bottom: "x" bottom: "keep" top: "kept" }
layer { name: "sum" type: "Reduction" bottom: "x" top: "sum" }
"""


def test_outputs_of_varying_length_have_no_mean(caplog: pytest.LogCaptureFixture) -> None:
    with h5py.File("data.h5", "w") as f:
        f["x"], f["keep"] = np.arange(8, dtype=np.float32), np.array([1, 0, 1, 1, 0, 0, 1, 0], np.float32)
    Path("list.txt").write_text("data.h5\n")
    Path("varying.prototxt").write_text(VARYING)
    s = solver('test_net: "varying.prototxt" test_iter: 4 test_iter: 1 test_interval: 9')
    with caplog.at_level(logging.INFO, "brew"):
        assert s.test(0) == {"sum": [7.0]}                     # (1 + 5 + 9 + 13) / 4
    warnings = [t for t in lines(caplog) if "has no mean" in t]
    assert warnings == ['Output "kept" had 1 values in one batch and has 2 in another: it has no mean']
