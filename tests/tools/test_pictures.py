"""What a training and a net look like: interactive curves, TensorBoard's files, filters and activations."""
from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import brew
from brew.proto import parse, pb
from brew.tools.cli import main
from brew.tools.metrics import Metrics
from brew.tools.pictures import filter_tiles, tiles
from brew.tools.plot import LivePlot
from brew.tools.surgery import Model

MODELS = Path(__file__).resolve().parents[2] / "models"

SOLVER = """net_param {
  layer { name: "data" type: "DummyData" top: "x" top: "label"
          dummy_data_param { shape { dim: 8 dim: 3 dim: 5 dim: 5 } shape { dim: 8 } data_filler { type: "gaussian" } data_filler { type: "constant" } } }
  layer { name: "conv" type: "Convolution" bottom: "x" top: "conv" convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
  layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
  layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
  layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" } }
test_iter: 2 test_interval: 10 base_lr: 0.1 momentum: 0.9 lr_policy: "step" stepsize: 15 gamma: 0.1 display: 5 max_iter: 20 snapshot: 10 snapshot_prefix: "run" random_seed: 1
solver_mode: CPU
"""


def train(*arguments: str) -> None:
    result = subprocess.run([sys.executable, "-m", "brew.tools.cli", "train", "-solver", "solver.prototxt", *arguments], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


def test_a_page_of_curves(tmp_path: Path) -> None:
    for name, values in (("a", [2.5, 0.7]), ("b", [2.0, 0.1])):
        Path(f"{name}_metrics.jsonl").write_text("".join(json.dumps({"iteration": 100 * i, "loss": v, "lr": 0.1, "seconds": 1.0 * i}) + "\n" for i, v in enumerate(values)))
    assert main(["plot_training_log", "6", "loss.html", "a_metrics.jsonl", "b_metrics.jsonl"]) == 0
    page = Path("loss.html").read_text(encoding="utf-8")
    assert len(page) > 10**6                                 # the library is in the page
    call = page[page.rindex("Plotly.newPlot("):]
    curves = json.JSONDecoder().raw_decode(call[call.index("["):])[0]
    assert [(c["name"], c["y"]) for c in curves] == [("a_metrics", [2.5, 0.7]), ("b_metrics", [2.0, 0.1])]


def test_tensorboard_reads_what_a_training_writes(capsys: pytest.CaptureFixture[str]) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    Path("solver.prototxt").write_text(SOLVER)
    train("-tensorboard", "board")
    events = accumulator.EventAccumulator("board", size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    metrics = [json.loads(line) for line in Path("run_metrics.jsonl").read_text().splitlines()]
    assert [(e.step, pytest.approx(e.value, rel=1e-6)) for e in events.Scalars("train/loss")] == [(r["iteration"], r["loss"]) for r in metrics if "lr" in r]
    assert [e.value for e in events.Scalars("train/lr")] == pytest.approx([0.1, 0.1, 0.1, 0.01])
    assert [(e.step, pytest.approx(e.value, rel=1e-6)) for e in events.Scalars("test0/accuracy")] == [(r["iteration"], r["accuracy"]) for r in metrics if "test" in r]
    assert set(events.Tags()["histograms"]) == {f"{what}/{name}" for what in ("weights", "gradients") for name in ("conv/0", "conv/1", "ip/0", "ip/1")}
    first, *rest = events.Histograms("weights/ip/0")
    assert [e.step for e in (first, *rest)] == [0, 5, 10, 15] and first.histogram_value.num == 3 * 36
    bound = np.sqrt(3 / 36)                                  # of the xavier filler
    assert -bound <= first.histogram_value.min < first.histogram_value.max <= bound
    assert all(e.histogram_value.max > 0 for e in events.Histograms("gradients/ip/0"))
    train("-snapshot", "run_iter_10.solverstate", "-tensorboard", "board")
    events = accumulator.EventAccumulator("board")
    events.Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [0, 5, 10, 15]       # the second half is there once


def test_gradients_in_tensorboard_are_those_before_the_update() -> None:
    """The first histogram of the last layer's bias gradient: mean of softmax minus one-hot, which the same net gives by hand."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    Path("solver.prototxt").write_text(SOLVER.replace("test_interval: 10", "test_interval: 10 weight_decay: 10 clip_gradients: 1e-3"))
    train("-tensorboard", "board")
    solver = brew.get_solver("solver.prototxt")
    solver.net.run_forward()
    solver.net.run_backward()
    gradient = solver.net.params["ip"][1].diff
    events = accumulator.EventAccumulator("board", size_guidance={"histograms": 0})
    events.Reload()
    found = events.Histograms("gradients/ip/1")[0].histogram_value
    assert (found.min, found.max, found.sum_squares) == pytest.approx((gradient.min(), gradient.max(), (gradient**2).sum()), rel=1e-4)


def test_a_curve_that_grows_while_training(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("solver.prototxt").write_text(SOLVER)
    solver = brew.get_solver("solver.prototxt")
    solver.watchers = [Metrics("run_metrics.jsonl", 0), LivePlot("run_metrics.jsonl", "run_curve.png")]
    first = Path("run_curve.png").read_bytes()
    solver.watchers[1].took = 0.0                            # as if drawing cost nothing
    solver.step(1)
    assert Path("run_curve.png").read_bytes() != first and cv2.imread("run_curve.png") is not None

    now, drawn = [0.0], []
    monkeypatch.setattr("brew.tools.plot.perf_counter", lambda: now[0])
    monkeypatch.setattr("brew.tools.plot.plot_curve", lambda metrics, picture: (drawn.append(now[0]), now.append(now.pop() + 1), True)[-1])    # takes 1 s
    plot = LivePlot("run_metrics.jsonl", "run_curve.png")
    for _ in range(60):                                      # a display every second
        now[0] += 1
        plot.on_display(solver, 0.0)
    assert len(drawn) == 3 and drawn[2] - drawn[1] > 20


def test_tiles_stand_where_they_should() -> None:
    page = tiles(np.arange(6.0).reshape(6, 1, 1).repeat(32, 1).repeat(32, 2), 3)
    assert page.shape == (67, 100) and (page[::33] == 255).all()
    assert [page[1 + 33 * (k // 3), 1 + 33 * (k % 3)] for k in range(6)] == [0, 51, 102, 153, 204, 255]
    each = tiles(np.array([[[0, 1]], [[5, 7]]], float), 2, each=True)
    assert set(each[1, 1:33].tolist()) == {0, 255} and (each[1, 1:33] == each[1, 34:66]).all()
    colour = np.zeros((4, 3, 5, 5), np.float32)
    colour[0, 2] = 1                                         # the first filter looks for red, the last of B, G, R
    page = filter_tiles(colour, 64)
    assert page.shape[2] == 3 and page[5, 5].tolist() == [0, 0, 255] and page[5, 45].tolist() == [0, 0, 0]
    assert filter_tiles(np.random.default_rng(0).random((5, 2, 3, 3)), 4).shape == (4 * 34 + 1, 2 * 34 + 1)


def test_filters_of_a_caffemodel(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    Model(None, {"conv": [rng.standard_normal((6, 3, 5, 5)).astype(np.float32)], "ip": [rng.standard_normal((10, 20)).astype(np.float32)], "bias": [np.zeros(3, np.float32)]}).save(None, "w.caffemodel")
    assert main(["filters", "w.caffemodel", "conv", "conv.png"]) == 0 and "6 of 6 filters of 3 x 5 x 5" in capsys.readouterr().out
    bgr = cv2.imread("conv.png")
    assert main(["filters", "w.caffemodel", "conv", "rgb.png", "-rgb"]) == 0 and (cv2.imread("rgb.png") == bgr[..., ::-1]).all()
    assert main(["filters", "w.caffemodel", "ip", "ip.png"]) == 0 and cv2.imread("ip.png").shape == (10 * 9 + 1, 20 * 9 + 1, 3)
    capsys.readouterr()
    for words, message in ((["conw", "x.png"], 'did you mean "conv"'), (["bias", "x.png"], "shape (3,)"), (["conv", "x.abc"], "no picture can be written"), (["conv", "x"], "png and jpg can")):
        assert main(["filters", "w.caffemodel", *words]) == 1 and message in capsys.readouterr().err


def test_activations_of_an_image(capsys: pytest.CaptureFixture[str]) -> None:
    """A filter that sums up red answers where the image is red, and nowhere else."""
    text = ('layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 20 dim: 30 } } }'
            'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 2 kernel_size: 1 bias_term: false } }'
            'layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE global_pooling: true } }')
    red = np.zeros((2, 3, 1, 1), np.float32)
    red[1, 2] = 1                                            # channel 1 reads R of B, G, R
    Model(parse(text, pb.NetParameter()), {"conv": [red]}).save("net.prototxt", "w.caffemodel")
    image = np.zeros((20, 30, 3), np.uint8)
    image[4:8, 12:20, 2] = 200
    cv2.imwrite("image.png", image)
    common = ["--model_def", "net.prototxt", "--pretrained_model", "w.caffemodel"]
    assert main(["activations", "image.png", "conv", "conv.png", *common]) == 0
    assert re.search(r"channel +1  at most 200 \(row 4, column 12\)", capsys.readouterr().out)
    page = cv2.imread("conv.png")[..., 0]                    # two tiles of 20 x 30 pixels, enlarged twice
    np.testing.assert_array_equal(page[1:41:2, 62:122:2], np.where(image[..., 2] > 0, 255, 0))
    assert (page[1:41, 1:61] == 0).all()
    assert main(["activations", "image.png", "pool", "pool.png", *common]) == 0 and cv2.imread("pool.png") is not None
    capsys.readouterr()
    for words, message in ((["image.png", "conw", "x.png"], 'did you mean "conv"'), (["none.png", "conv", "x.png"], "none.png"),
                           (["image.png", "conv", "x.abc"], "no picture can be written"), (["image.png", "pool", "x.abc"], "no picture can be written")):
        assert main(["activations", *words, *common]) == 1 and message in capsys.readouterr().err
