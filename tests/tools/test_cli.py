"""The command line: what it prints, where results lie, exit codes, and that no error shows a traceback."""
from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import brew
from brew.engine.errors import DeviceError
from brew.engine.context import dry_run
from brew.proto import pb, read_net
from brew.tools.cli import main
from brew.tools.metrics import read_metrics

MODELS = Path(brew.layers.__file__).resolve().parents[1] / "models"
GLOG = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \w+\.py:\d+\] ")


def run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "brew.tools.cli", *args], cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The digits, trained as the README says."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "models").symlink_to(MODELS)
    assert run("data", "digits", cwd=folder).returncode == 0
    return folder, run("train", "-solver", "models/digits/solver.prototxt", cwd=folder)


def test_digits_are_learned(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, result = trained
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = read_metrics(folder / "data/digits/digits_metrics.jsonl")
    final = [r for r in metrics if "accuracy" in r][-1]
    assert final["iteration"] == 1000 and final["accuracy"] >= 0.97
    for kind, name in (("weights", "digits_iter_1000.caffemodel"), ("metrics", "digits_metrics.jsonl"), ("curve", "digits_curve.png")):
        assert re.search(rf"^{kind} +data/digits/{name}$", result.stdout, re.M) and (folder / "data/digits" / name).stat().st_size > 0


def test_the_log_is_caffes(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    lines = [line for line in trained[1].stderr.splitlines() if GLOG.match(line)]
    texts = [GLOG.sub("", line) for line in lines]
    order = ["Creating training net", "Network initialization done.", "Creating test (#0) net", "Solver scaffolding done.", "Starting Optimization", "Solving digits",
             "Learning Rate Policy: cosine", "Iteration 0, Testing net (#0)", "    Test net output #0: accuracy = ", "Iteration 0 (", "    Train net output #0: loss = ",
             "Iteration 0, lr = 0.05", "Snapshotting to binary proto file data/digits/digits_iter_500.caffemodel", "Iteration 1000, loss = ", "Optimization Done."]
    at = -1
    for text in order:
        at = next(i for i, t in enumerate(texts) if i > at and t.startswith(text))
    assert texts[-2:] == ["Optimization Done."] * 2


def test_caffes_own_parser_would_find_its_columns(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """The patterns of parse_log.py: iterations, outputs and rates in lines with a time."""
    text = trained[1].stderr
    assert len(re.findall(r"Iteration (\d+)[^\n]*loss = ", text)) >= 20
    assert len(re.findall(r"Test net output #(\d+): (\S+) = ([\.\deE+-]+)", text)) == 22 and len(re.findall(r"lr = ([\.\deE+-]+)", text)) == 20


def test_trained_weights_are_scored(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = trained
    result = run("test", "-model=models/digits/train_val.prototxt", "--weights", "data/digits/digits_iter_1000.caffemodel", "-iterations", "1", cwd=folder)
    accuracy = float(re.findall(r"\] accuracy = (\S+)", result.stderr)[-1])
    assert result.returncode == 0 and accuracy >= 0.97 and re.search(r"\] loss = \S+ \(\* 1 = \S+ loss\)", result.stderr)
    net = brew.Net(MODELS / "digits/deploy.prototxt", weights=folder / "data/digits/digits_iter_1000.caffemodel")
    from brew.tools.datasets import SETS
    images, labels = SETS["digits"].read(SETS["digits"], lambda _: b"", False)
    net.blobs["data"].reshape(*images.shape)
    assert (net.forward(data=images / 256)["prob"].argmax(1) == labels).mean() == pytest.approx(accuracy, abs=1e-4)


def test_time_measures_each_layer(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    result = run("time", "-model", "models/digits/train_val.prototxt", "-iterations", "3", "-json", "t.json", cwd=trained[0])
    figures = json.loads((trained[0] / "t.json").read_text())
    assert result.returncode == 0 and [layer["name"] for layer in figures["layers"]][:3] == ["data", "conv1", "relu1"]
    conv1, relu1 = figures["layers"][1:3]
    assert conv1["flops"] == 2 * 64 * 32 * 9 * 64 and figures["memory_bytes"] > 0
    assert relu1["runs_with"] == "conv1" and not conv1["runs_with"]
    assert re.search(r"     conv1\tforward: \S+ ms\.", result.stderr) and "Average Forward-Backward: " in result.stderr and "conv1" in result.stdout


def test_summary_counts(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    text = run("summary", "-model", "models/digits/train_val.prototxt", cwd=trained[0]).stdout
    assert "parameters  43,050" in text and re.search(r"conv2 +Convolution +conv2 +359 x 32 x 8 x 8 +9,248", text)


def test_draw_net_draws(tmp_path: Path) -> None:
    result = run("draw_net", str(MODELS / "squeezenet/deploy.prototxt"), "net.svg", "--rankdir", "LR", cwd=tmp_path)
    text = (tmp_path / "net.svg").read_text()
    assert result.returncode == 0 and all(part in text for part in ("fire2/squeeze1x1", "Convolution 3x3 /2", "+ relu_conv1 (ReLU)", "parameters"))
    for arguments, message in ((["nothing.prototxt", "a.svg"], "cannot read this NetParameter file"), ([str(MODELS / "lenet/deploy.prototxt"), "a.gif"], 'pictures of nets are svg, png, pdf, found "gif"'),
                               ([str(MODELS / "lenet/deploy.prototxt"), "no/folder/a.svg"], "No such file or directory")):
        result = run("draw_net", *arguments, cwd=tmp_path)
        assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr


ZOO = {"lenet": 431_080, "cifar10_quick": 145_578, "cifar10_full": 89_578, "digits": 43_050, "alexnet": 60_965_224, "caffenet": 60_965_224, "vgg16": 138_357_544,
       "googlenet": 6_998_552, "squeezenet": 1_235_496, "resnet50": 25_557_032, "mobilenet": 4_231_976, "xception": 22_855_952, "inception_v3": 23_834_568}


@pytest.mark.parametrize("name, parameters", ZOO.items())
def test_the_zoo_has_the_right_number_of_parameters(name: str, parameters: int) -> None:
    """As the papers count them: what is learned."""
    with dry_run():
        net = brew.Net(MODELS / name / "deploy.prototxt")
    assert sum(p.blob.count for p in net.learnable if p.lr_mult) == parameters
    assert net.blobs["prob"].count == (1000 if parameters > 500_000 else 10)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_what_is_trained_can_be_deployed(name: str) -> None:
    """train_val and deploy have the same layers with the same parameters, apart from GoogLeNet's auxiliary classifiers."""
    train = read_net(MODELS / name / "train_val.prototxt")
    data = [layer for layer in train.layer if layer.type == "Data"]
    crop = data[0].transform_param.crop_size
    deploy = read_net(MODELS / name / "deploy.prototxt")
    shape = [2, *deploy.layer[0].input_param.shape[0].dim[1:]]
    assert crop in (0, shape[2])
    rest = [layer for layer in train.layer if layer.type != "Data"]
    del train.layer[:]
    train.layer.add(name="data", type="Input", top=["data", "label"]).input_param.shape.extend([pb.BlobShape(dim=shape), pb.BlobShape(dim=[2])])
    train.layer.extend(rest)
    with dry_run():
        nets = brew.Net(train, brew.TRAIN), brew.Net(deploy, brew.TEST)
    shapes = [{name: [b.shape for b in blobs] for name, blobs in net.params.items()} for net in nets]
    more = {layer for layer in shapes[0] if layer not in shapes[1]}
    assert all(layer.startswith(("loss1/", "loss2/")) for layer in more) and bool(more) == (name == "googlenet")
    assert {layer: shapes[0][layer] for layer in shapes[1]} == shapes[1]
    if name == "googlenet":
        assert sum(p.blob.count for p in nets[0].learnable) == 13_378_280


@pytest.mark.parametrize("name", sorted({*ZOO, "char_lstm", "mnist_autoencoder", "mnist_siamese", "traffic_lstm"} - {"cifar10_quick", "cifar10_full"}))
def test_the_zoo_has_nothing_that_check_finds_without_the_data(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """cifar10's need their mean file, which is a problem where it is missing."""
    (tmp_path / "models").symlink_to(MODELS)
    monkeypatch.chdir(tmp_path)
    assert main(["check", "-solver", f"models/{name}/solver.prototxt"]) == 0, capsys.readouterr().err


def test_signals_snapshot_and_stop(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = trained
    text = (MODELS / "digits/solver.prototxt").read_text().replace("max_iter: 1000", "max_iter: 1000000").replace("snapshot: 500", "snapshot: 0").replace("data/digits/digits\"", "long\"")
    (folder / "long.prototxt").write_text(text)
    process = subprocess.Popen([sys.executable, "-m", "brew.tools.cli", "train", "-solver", "long.prototxt"], cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "Iteration 50," in line:
            break
    process.send_signal(signal.SIGHUP)
    for line in process.stderr:
        if "Snapshotting solver state" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Optimization stopped early." in err and "weights   long_iter_" in out
    assert len(list(folder.glob("long_iter_*.solverstate"))) == 2


# ------------------------------------------------------------------------------------------------------ bad input

def test_check_finds_everything_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    text = (MODELS / "lenet/deploy.prototxt").read_text()
    text = text.replace("kernel_size: 2 stride: 2", "kernal_size: 2 stride: 2", 1).replace('"ReLU"', '"Relu"').replace('bottom: "ip1" top: "ip2"', 'bottom: "ip9" top: "ip2"').replace("num_output: 50 kernel_size: 5", "num_output: 50 kernel_size: 99")
    Path("bad.prototxt").write_text(text)
    assert main(["check", "-model", "bad.prototxt"]) == 1
    out = capsys.readouterr()
    for part in ('PoolingParameter has no field "kernal_size"', 'no layer type is called "Relu"', 'reads blob "ip9"'):
        assert part in out.err
    assert out.out.endswith("bad.prototxt: 3 problems\n") and "must be given" not in out.err          # a consequence of the first


def test_check_passes_what_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-model", str(MODELS / "lenet/deploy.prototxt")]) == 0
    assert capsys.readouterr().out.endswith("deploy.prototxt: no problem found\n")


MISTAKES = """
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { crop_size: 8 } data_param { source: "not/here" batch_size: 2 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { use_global_stats: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "side" type: "InnerProduct" bottom: "conv" top: "side" inner_product_param { num_output: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_check_warns_of_what_is_rarely_meant(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.prototxt").write_text(MISTAKES)
    assert main(["check", "-model", "net.prototxt"]) == 0
    out = capsys.readouterr().out
    for text in ('net.prototxt:4:1: warning: layer "bn" (type "BatchNorm") is not followed by a Scale layer', 'net.prototxt:4:84: warning: layer "bn" (type "BatchNorm") uses its stored statistics in TRAIN',
                 'net.prototxt:6:1: warning: layer "side" (type "InnerProduct") learns nothing: no loss depends on it', 'makes blob "side", which nothing reads', "note: not/here: there is no LMDB here", "no problem found"):
        assert text in out


def test_check_needs_no_data_to_find_shapes_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.prototxt").write_text(MISTAKES.replace("kernel_size: 3", "kernel_size: 9"))
    assert main(["check", "-model", "net.prototxt"]) == 1
    assert "the kernel (9, 9) does not fit into the bottom's (8, 8)" in capsys.readouterr().err


@pytest.mark.parametrize("args, code, message", [
    (["train"], 2, "the following arguments are required"), (["tran"], 2, "did you mean train?"), (["train", "-solvr", "x"], 2, "brew train -help shows what there is"),
    (["train", "-solver", "nothing.prototxt"], 1, "brew: nothing.prototxt: cannot read this SolverParameter file: No such file or directory"),
    (["test", "-model", "nothing.prototxt"], 1, "cannot read this NetParameter file"), (["time", "-model", "x", "-iterations", "0"], 1, "-iterations must be at least 1"),
    (["train", "-solver", "s", "-snapshot", "a", "-weights", "b"], 1, "-snapshot resumes a training and -weights begins one"),
    (["data", "mnist", "--from", "nowhere"], 1, "nowhere: there is no train-images-idx3-ubyte.gz in this folder"), (["time", "-model", "x", "-gpu", "0"], 1, "brew: ")])
def test_errors_have_exit_codes_and_no_traceback(args: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        got = main(args)
    except SystemExit as e:
        got = int(e.code or 0)
    err = capsys.readouterr().err
    assert got == code and message in err and "Traceback" not in err


def test_a_solver_that_says_gpu_needs_one(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        brew.set_mode_gpu()
        pytest.skip("there is a GPU")
    except DeviceError:
        pass
    Path("net.prototxt").write_text((MODELS / "lenet/deploy.prototxt").read_text())
    Path("s.prototxt").write_text('net: "net.prototxt" base_lr: 1 lr_policy: "fixed" max_iter: 1 solver_mode: GPU')
    assert main(["train", "-solver", "s.prototxt"]) == 1
    assert "brew: s.prototxt: the solver says solver_mode: GPU" in capsys.readouterr().err


def test_diverging_training_ends_with_an_error_and_keeps_its_snapshots(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = trained
    text = (MODELS / "digits/solver.prototxt").read_text().replace("base_lr: 0.05", "base_lr: 1e6").replace("snapshot: 500", "snapshot: 1").replace("data/digits/digits\"", "diverged\"")
    (folder / "bad_solver.prototxt").write_text(text)
    result = run("train", "-solver", "bad_solver.prototxt", cwd=folder)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert re.search(r"^brew: models/digits/train_val.prototxt:\d+:1: layer \"\w+\" \(type \"\w+\"\): .*not finite", result.stderr, re.M)
    assert (folder / "diverged_iter_1.caffemodel").exists()


def test_a_killed_line_of_metrics_is_left_out() -> None:
    Path("m.jsonl").write_text('{"iteration": 0, "loss": 1}\n{"iteration": 1, "lo')
    assert read_metrics("m.jsonl") == [{"iteration": 0, "loss": 1}]
