"""Weights that others trained with Caffe and published give their known accuracies."""
from __future__ import annotations

import gzip
from pathlib import Path

import cv2
import numpy as np
import pytest

import brew
from brew.proto import pb, read_binary, to_array
from brew.tools.datasets import SETS, _from_folder

pytestmark = pytest.mark.oracle


def test_set(name: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    spec = SETS[name]
    return spec.read(spec, lambda file: _from_folder(folder, file), False)


test_set.__test__ = False  # type: ignore[attr-defined]


def accuracy(net: brew.Net, images: np.ndarray, labels: np.ndarray, top: int = 1, batch: int = 100) -> float:
    net.blobs["data"].reshape(batch, *images.shape[1:])
    right = 0
    for at in range(0, len(images), batch):
        prob = next(iter(net.forward(data=images[at:at + batch]).values())).reshape(batch, -1)
        best = np.argsort(-prob, 1, kind="stable")[:, :top]
        right += int((best == labels[at:at + batch, None]).any(1).sum())
    return 100 * right / len(images)


@pytest.mark.parametrize("deploy, weights, expected", [
    ("lenet.prototxt", "lenet_iter_10000.caffemodel", 99.05), ("lenet_bvlc_v2.prototxt", "lenet_iter_10000_v2.caffemodel", 99.14)])
def test_lenet(deploy: str, weights: str, expected: float, shared: Path) -> None:
    images, labels = test_set("mnist", shared / "data/mnist")
    folder = shared / "data/caffemodels/lenet-mnist"
    net = brew.Net(folder / deploy, brew.TEST, weights=folder / weights)
    assert accuracy(net, images.astype(np.float32) / 256, labels) == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize("name, expected", [("quick", 73.5), ("full", 79.4)])
def test_cifar10(name: str, expected: float, shared: Path) -> None:
    images, labels = test_set("cifar10", shared / "data/cifar10")
    folder = shared / f"data/caffemodels/cifar10-{name}"
    weights = next(folder.glob("*.caffemodel"))
    net = brew.Net(folder / f"cifar10_{name}.prototxt", brew.TEST, weights=weights)
    mean = to_array(read_binary(folder / "mean.binaryproto", pb.BlobProto(), "mean file"))
    assert accuracy(net, images.astype(np.float32) - mean, labels) == pytest.approx(expected, abs=0.3)


def test_squeezenet(shared: Path, tmp_path: Path) -> None:
    folder, samples = shared / "data/caffemodels/squeezenet-deepcompression", shared / "data/imagenet-samples"
    weights = tmp_path / "squeezenet.caffemodel"
    weights.write_bytes(gzip.decompress((folder / "SqueezeNet_decoded.caffemodel.gz").read_bytes()))
    net = brew.Net(folder / "SqueezeNet_deploy.prototxt", brew.TEST, weights=weights)
    lines = [line.split() for line in (samples / "labels.txt").read_text().splitlines()]
    images = np.stack([centre_crop(cv2.imread(str(samples / "images" / name)), 227) for name, _ in lines])
    images = images.astype(np.float32).transpose(0, 3, 1, 2) - np.array([104, 117, 123], np.float32)[:, None, None]
    labels = np.array([int(label) for _, label in lines])
    net.blobs["data"].reshape(50, 3, 227, 227)
    top1, top5 = (accuracy(net, images, labels, top, 50) for top in (1, 5))
    assert (top1, top5) == (pytest.approx(61.5, abs=0.3), pytest.approx(83.1, abs=0.3))


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """The middle of an image whose shorter side is 256 pixels (most are; the others are resized)."""
    h, w = image.shape[:2]
    if min(h, w) != 256:
        image = cv2.resize(image, (round(w * 256 / min(h, w)), round(h * 256 / min(h, w))))
        h, w = image.shape[:2]
    top, left = (h - side) // 2, (w - side) // 2
    return image[top:top + side, left:left + side]
