"""Caffe's programs under their own names, and the shell scripts of its examples that call them."""
from __future__ import annotations

import gzip
import os
import struct
import subprocess
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

import brew
from brew.proto import from_array, pb
from brew.tools.cli import main
from brew.tools.commands import as_switches
from brew.tools.wrappers import MARK, PROGRAMS

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def records(folder: Path) -> dict[str, pb.Datum]:
    with lmdb.open(str(folder), readonly=True, lock=False) as env, env.begin() as txn:
        return {key.decode(): pb.Datum.FromString(value) for key, value in txn.cursor()}


def idx(path: str, array: np.ndarray, packed: bool = False) -> None:
    data = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(gzip.compress(data) if packed else data)


def digits(n: int, where: str = ".", packed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of 28 x 28 with a bright stripe whose row is the label."""
    labels = np.arange(n) % 10
    pixels = RNG.integers(0, 60, (n, 28, 28))
    pixels[np.arange(n)[:, None], (2 * labels + 3)[:, None] + np.arange(2)] = 240
    for name, array in (("images-idx3-ubyte", pixels), ("labels-idx1-ubyte", labels)):
        idx(f"{where}-{name}" + ".gz" * packed, array, packed)
    return pixels.astype(np.uint8), labels


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_convert_mnist_data(packed: bool, backend: str) -> None:
    if backend == "leveldb":
        pytest.importorskip("plyvel")
    pixels, labels = digits(23, "t", packed)
    end = ".gz" * packed
    assert main(["convert_mnist_data", f"t-images-idx3-ubyte{end}", f"t-labels-idx1-ubyte{end}", "db", f"--backend={backend}"]) == 0
    if backend == "lmdb":
        assert list(records(Path("db"))) == [f"{i:08d}" for i in range(23)]
    text = 'layer { name: "d" type: "Data" top: "x" top: "y" data_param { source: "db" batch_size: 23 } }'
    net = brew.Net(brew.proto.parse(text, pb.NetParameter()))
    out = net.forward()
    np.testing.assert_array_equal(out["x"][:, 0], pixels)
    np.testing.assert_array_equal(out["y"], labels)


def test_convert_mnist_siamese_data(capsys: pytest.CaptureFixture[str]) -> None:
    pixels, labels = digits(40, "t")
    words = ["convert_mnist_siamese_data", "t-images-idx3-ubyte", "t-labels-idx1-ubyte"]
    assert main([*words, "a", "--seed=5"]) == 0 and main([*words, "b", "--seed", "5"]) == 0 and main([*words, "c"]) == 0
    assert "drawn with --seed 5" in capsys.readouterr().err
    a = records(Path("a"))
    assert a == records(Path("b")) != records(Path("c")) and len(a) == 40
    where = {image.tobytes(): label for image, label in zip(pixels, labels)}
    pairs = [(where[d.data[:784]], where[d.data[784:]], d.label) for d in a.values()]
    assert all(same == (x == y) for x, y, same in pairs) and {d.channels for d in a.values()} == {2} and 0 < sum(p[2] for p in pairs) < 20


def cifar(where: str, n: int = 4) -> dict[str, np.ndarray]:
    Path(where).mkdir(parents=True, exist_ok=True)
    found = {}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        found[name] = RNG.integers(0, 255, (n, 3073), dtype=np.uint8)
        found[name][:, 0] %= 10
        Path(where, f"{name}.bin").write_bytes(found[name].tobytes())
    return found


def test_convert_cifar_data(capsys: pytest.CaptureFixture[str]) -> None:
    batches = cifar("in")
    assert main(["convert_cifar_data", "in", "out", "lmdb"]) == 0
    train, test = (records(Path(f"out/cifar10_{part}_lmdb")) for part in ("train", "test"))
    assert list(train) == [f"{i:05d}" for i in range(20)] and len(test) == 4
    for i, datum in enumerate(train.values()):
        row = batches[f"data_batch_{i // 4 + 1}"][i % 4]
        assert datum.label == row[0] and datum.data == row[1:].tobytes() and (datum.channels, datum.height, datum.width) == (3, 32, 32)
    Path("in/test_batch.bin").write_bytes(b"123")
    assert main(["convert_cifar_data", "in", "other", "lmdb"]) == 1 and not Path("other").exists()
    assert "in/test_batch.bin: a CIFAR-10 batch has 3073 bytes a record" in capsys.readouterr().err


def deploy(channels: int = 3) -> None:
    Path("deploy.prototxt").write_text(f"""name: "tiny" layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 10 dim: {channels} dim: 6 dim: 8 }} }} }}
        layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param {{ num_output: 7 weight_filler {{ type: "gaussian" std: 0.01 }} }} }}
        layer {{ name: "prob" type: "Softmax" bottom: "ip" top: "prob" }}""")
    brew.Net("deploy.prototxt", seed=2).save("net.caffemodel")
    Path("mean.binaryproto").write_bytes(from_array(RNG.uniform(90, 120, (1, channels, 9, 9)).astype(np.float32)).SerializeToString())
    Path("labels.txt").write_text("".join(f"n{k:08d} kind {k}\n" for k in range(7)))


@pytest.mark.parametrize("channels", [1, 3])
def test_classification(channels: int, capsys: pytest.CaptureFixture[str]) -> None:
    deploy(channels)
    pixels = RNG.integers(0, 255, (20, 30, 3), dtype=np.uint8)
    cv2.imwrite("image.png", pixels)
    assert main(["classification", "deploy.prototxt", "net.caffemodel", "mean.binaryproto", "labels.txt", "image.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    net = brew.Net("deploy.prototxt", weights="net.caffemodel")
    image = cv2.imread("image.png", cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
    mean = np.array(pb.BlobProto.FromString(Path("mean.binaryproto").read_bytes()).data).reshape(channels, -1).mean(1)
    x = cv2.resize(image, (8, 6)).reshape(6, 8, channels).astype(np.float32) - mean
    net.blobs["data"].reshape(1, channels, 6, 8)
    scores = net.forward(data=x.transpose(2, 0, 1)[None])["prob"][0]
    best = np.argsort(-scores)[:5]
    assert lines == ["---------- Prediction for image.png ----------", *(f'{scores[k]:.4f} - "n{k:08d} kind {k}"' for k in best)]
    Path("labels.txt").write_text("one\n")
    assert main(["classification", "deploy.prototxt", "net.caffemodel", "mean.binaryproto", "labels.txt", "image.png"]) == 1
    assert "there are 1 labels, and the output has 7 values" in capsys.readouterr().err


def test_flags_of_glog_are_taken() -> None:
    words = ["train", "--logtostderr=1", "-alsologtostderr", "--stderrthreshold=2", "--v=1", "--nolog_prefix", "-solver", "s", "--log_dir=/tmp", "--vmodule=a=1"]
    assert as_switches(words) == ["train", "-solver", "s"] and as_switches(["-version", "-verbose", "--gray=0"]) == ["-version", "-verbose"]


# ------------------------------------------------------------------------------------------------- names and shell scripts

def test_wrappers_are_written_once_and_hide_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install-tools", "caffe/build/tools"]) == 0 and main(["install-tools", "caffe/build"]) == 0
    found = {str(p.relative_to("caffe/build")) for p in Path("caffe/build").rglob("*") if p.is_file()}
    assert found == {f"{place}{end}" for place in PROGRAMS for end in ("", ".bin")}
    Path("caffe/build/tools/caffe").write_text("#!/bin/sh\necho mine\n")
    before = {p: p.read_text() for p in Path("caffe/build").rglob("*") if p.is_file()}
    assert main(["install-tools", "caffe/build"]) == 1 and "caffe/build/tools/caffe: a file that brew did not make" in capsys.readouterr().err
    assert before == {p: p.read_text() for p in Path("caffe/build").rglob("*") if p.is_file()} and MARK in before[Path("caffe/build/tools/caffe.bin")]


CREATE_MNIST = """#!/usr/bin/env sh
# Makes databases of the digits.
set -e
EXAMPLE=examples/mnist
DATA=data/mnist
BUILD=build/examples/mnist
BACKEND="lmdb"
echo "Creating ${BACKEND}..."
rm -rf $EXAMPLE/mnist_train_${BACKEND}
rm -rf $EXAMPLE/mnist_test_${BACKEND}
$BUILD/convert_mnist_data.bin $DATA/train-images-idx3-ubyte $DATA/train-labels-idx1-ubyte $EXAMPLE/mnist_train_${BACKEND} --backend=${BACKEND}
$BUILD/convert_mnist_data.bin $DATA/t10k-images-idx3-ubyte $DATA/t10k-labels-idx1-ubyte $EXAMPLE/mnist_test_${BACKEND} --backend=${BACKEND}
echo "Done."
"""
TRAIN_LENET = """#!/usr/bin/env sh
set -e
GLOG_logtostderr=1 ./build/tools/caffe train --solver=examples/mnist/solver.prototxt --alsologtostderr $@
"""
RESUME = """#!/usr/bin/env sh
set -e
./build/tools/caffe train --solver=examples/mnist/longer.prototxt --snapshot=examples/mnist/lenet_iter_60.solverstate $@
TOOLS=./build/tools
$TOOLS/caffe.bin test -model examples/mnist/net.prototxt -weights=examples/mnist/lenet_iter_80.caffemodel -iterations 5
$TOOLS/caffe time --model=examples/mnist/net.prototxt --iterations=2 --phase=TEST
"""
CREATE_IMAGENET = """#!/usr/bin/env sh
set -e
EXAMPLE=examples/imagenet
DATA=data/ilsvrc12
TOOLS=build/tools
TRAIN_DATA_ROOT=pictures/
RESIZE=true
if $RESIZE; then
  RESIZE_HEIGHT=32
  RESIZE_WIDTH=32
else
  RESIZE_HEIGHT=0
  RESIZE_WIDTH=0
fi
if [ ! -d "$TRAIN_DATA_ROOT" ]; then
  echo "Error: TRAIN_DATA_ROOT is not a path to a directory: $TRAIN_DATA_ROOT"
  exit 1
fi
GLOG_logtostderr=1 $TOOLS/convert_imageset --resize_height=$RESIZE_HEIGHT --resize_width=$RESIZE_WIDTH --shuffle \\
    $TRAIN_DATA_ROOT $DATA/train.txt $EXAMPLE/ilsvrc12_train_lmdb
$TOOLS/compute_image_mean $EXAMPLE/ilsvrc12_train_lmdb $DATA/imagenet_mean.binaryproto
$TOOLS/upgrade_net_proto_text $EXAMPLE/old.prototxt $EXAMPLE/new.prototxt
echo "Done."
"""
CREATE_CIFAR = """#!/usr/bin/env sh
set -e
EXAMPLE=examples/cifar10
DATA=data/cifar10
DBTYPE=lmdb
rm -rf $EXAMPLE/cifar10_train_$DBTYPE $EXAMPLE/cifar10_test_$DBTYPE
./build/examples/cifar10/convert_cifar_data.bin $DATA $EXAMPLE $DBTYPE
./build/tools/compute_image_mean -backend=$DBTYPE $EXAMPLE/cifar10_train_$DBTYPE $EXAMPLE/mean.binaryproto
./build/examples/siamese/convert_mnist_siamese_data.bin data/mnist/t10k-images-idx3-ubyte data/mnist/t10k-labels-idx1-ubyte $EXAMPLE/siamese
./build/examples/cpp_classification/classification.bin deploy.prototxt net.caffemodel mean.binaryproto labels.txt pictures/0.png
"""
SOLVER = """net: "examples/mnist/net.prototxt" test_iter: 5 test_interval: 30 base_lr: 0.01 momentum: 0.9 lr_policy: "inv" gamma: 0.0001 power: 0.75
display: 20 max_iter: 60 snapshot: 60 snapshot_prefix: "examples/mnist/lenet" solver_mode: CPU random_seed: 1
"""
NET = """name: "LeNet"
layer { name: "mnist" type: "Data" top: "data" top: "label" include { phase: TRAIN } transform_param { scale: 0.00390625 }
        data_param { source: "examples/mnist/mnist_train_lmdb" batch_size: 20 backend: LMDB } }
layer { name: "mnist" type: "Data" top: "data" top: "label" include { phase: TEST } transform_param { scale: 0.00390625 }
        data_param { source: "examples/mnist/mnist_test_lmdb" batch_size: 10 backend: LMDB } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def shell(text: str) -> subprocess.CompletedProcess[str]:
    Path("script.sh").write_text(text)
    return subprocess.run(["sh", "script.sh"], capture_output=True, text=True, timeout=300, env={**os.environ})


def test_caffes_example_scripts_run_from_its_root() -> None:
    assert main(["install-tools", "build"]) == 0
    for where in ("examples/mnist", "examples/imagenet", "examples/cifar10", "data/ilsvrc12", "data/mnist", "pictures"):
        Path(where).mkdir(parents=True)
    digits(200, "data/mnist/train"), digits(50, "data/mnist/t10k")
    Path("examples/mnist/solver.prototxt").write_text(SOLVER)
    Path("examples/mnist/longer.prototxt").write_text(SOLVER.replace("max_iter: 60", "max_iter: 80"))
    Path("examples/mnist/net.prototxt").write_text(NET)
    found = shell(CREATE_MNIST)
    assert found.returncode == 0 and found.stdout.endswith("Done.\n"), found.stderr
    found = shell(TRAIN_LENET)
    assert found.returncode == 0 and "Iteration 60, Testing net (#0)" in found.stderr and "Optimization Done." in found.stderr, found.stderr
    found = shell(RESUME)
    assert found.returncode == 0 and Path("examples/mnist/lenet_iter_80.solverstate").exists(), found.stderr
    assert "] accuracy = 1\n" in found.stderr and "Restored iteration 60" in found.stderr
    for i in range(4):
        cv2.imwrite(f"pictures/{i}.png", RNG.integers(0, 255, (40, 50, 3), dtype=np.uint8))
    Path("data/ilsvrc12/train.txt").write_text("".join(f"{i}.png {i}\n" for i in range(4)))
    Path("examples/imagenet/old.prototxt").write_text('layers { name: "r" type: RELU bottom: "x" top: "y" }')
    found = shell(CREATE_IMAGENET)
    assert found.returncode == 0 and len(records(Path("examples/imagenet/ilsvrc12_train_lmdb"))) == 4, found.stderr
    assert pb.BlobProto.FromString(Path("data/ilsvrc12/imagenet_mean.binaryproto").read_bytes()).channels == 3
    assert 'type: "ReLU"' in Path("examples/imagenet/new.prototxt").read_text()
    cifar("data/cifar10"), deploy()
    found = shell(CREATE_CIFAR)
    assert found.returncode == 0 and len(records(Path("examples/cifar10/siamese"))) == 50, found.stderr
    assert Path("examples/cifar10/mean.binaryproto").exists() and "Prediction for pictures/0.png" in found.stdout
