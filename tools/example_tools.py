"""The programs that lie beside Caffe's examples: databases of MNIST, of pairs of its digits and of CIFAR-10 from any files
of their formats, and the classification of one picture."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ..engine.errors import DataError, NetError, Position, check_readable, read_bytes
from ..engine.net import Net
from ..engine.context import new_seed
from ..engine.random import words
from ..layers.decode import decode_image
from ..proto import brew_pb2 as pb
from ..proto import read_binary, shape_of, to_array
from .cli import choose_device
from .database import DatabaseWriter
from .datasets import read_cifar, read_idx, unpack_gzip

BEST = 5


def _write(folder: str | Path, backend: str, records: Iterator[tuple[str, pb.Datum]]) -> None:
    with DatabaseWriter(folder, backend) as database:
        for key, datum in records:
            database.put(key.encode(), datum.SerializeToString())
    print(f"{folder}: {database.count} records")


def _unpacked(path: str) -> bytes:
    data = read_bytes(path, "this data file", DataError)
    return unpack_gzip(data, path) if data[:2] == b"\x1f\x8b" else data


def _digits(images: str, labels: str) -> tuple[np.ndarray, np.ndarray]:
    """(n, height, width) and (n) of two IDX files, packed or not. Raises DataError."""
    pixels, numbers = read_idx(_unpacked(images), images), read_idx(_unpacked(labels), labels)
    if pixels.ndim != 3:
        raise DataError(f"images have three axes (n, height, width), found {pixels.ndim}", Position(images))
    if numbers.ndim != 1 or len(numbers) != len(pixels):
        raise DataError(f"there are {len(pixels)} images, and the labels have the shape {numbers.shape}",
                        Position(labels))
    if not len(pixels):
        raise DataError("there are no images", Position(images))
    return pixels, numbers


def convert_mnist_data(args: argparse.Namespace) -> int:
    """A database of digits, as Caffe's examples/mnist makes it: keys of eight figures, (1, height, width) bytes."""
    DatabaseWriter.check([args.database], args.backend)
    pixels, labels = _digits(args.images, args.labels)
    _write(args.database, args.backend, (
        (f"{i:08d}", pb.Datum(channels=1, height=image.shape[0], width=image.shape[1], data=image.tobytes(),
                              label=int(label)))
        for i, (image, label) in enumerate(zip(pixels, labels))))
    return 0


def convert_mnist_siamese_data(args: argparse.Namespace) -> int:
    """As many pairs as there are digits, both drawn by chance, as channels of one record; label 1 if they are the same
    digit."""
    DatabaseWriter.check([args.database], args.backend)
    pixels, labels = _digits(args.images, args.labels)
    seed = new_seed() if args.seed < 0 else args.seed
    print(f"drawn with --seed {seed}", file=sys.stderr)
    pairs = words(seed, "convert_mnist_siamese_data", 0, 2 * len(pixels)).reshape(-1, 2) % np.uint32(len(pixels))
    _write(args.database, args.backend, (
        (f"{i:08d}", pb.Datum(channels=2, height=pixels.shape[1], width=pixels.shape[2], data=pixels[pair].tobytes(),
                              label=int(labels[pair[0]] == labels[pair[1]])))
        for i, pair in enumerate(pairs)))
    return 0


def convert_cifar_data(args: argparse.Namespace) -> int:
    """cifar10_train_DB and cifar10_test_DB of the five data_batch_N.bin and test_batch.bin in a folder."""
    places = {part: Path(args.output) / f"cifar10_{part}_{args.db_type}" for part in ("train", "test")}
    DatabaseWriter.check(list(places.values()), args.db_type)
    parts = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
    read = {}
    for part, names in parts.items():                        # both, before either is written
        paths = [str(Path(args.input) / name) for name in names]
        images, labels = zip(*(read_cifar(_unpacked(path), path) for path in paths))
        read[part] = np.concatenate(images), np.concatenate(labels)
    for part, (pixels, numbers) in read.items():
        _write(places[part], args.db_type, (
            (f"{i:05d}", pb.Datum(channels=3, height=32, width=32, data=image.tobytes(), label=int(label)))
            for i, (image, label) in enumerate(zip(pixels, numbers))))
    return 0


def classification(args: argparse.Namespace) -> int:
    """Print the five best classes of a picture, as Caffe's examples/cpp_classification: the picture is resized to the
    net's input, and each channel's mean over the mean file is subtracted. Raises BrewError."""
    labels = read_bytes(args.labels, "this list of labels", DataError).decode(errors="replace").splitlines()
    check_readable(args.image, "this image", DataError)
    choose_device(args.gpu)
    net = Net(args.model, pb.TEST, weights=args.weights)
    if len(net.inputs) != 1 or len(net.outputs) != 1:
        raise NetError(f"classification needs a net with one input and one output; this one has {len(net.inputs)} and "
                       f"{len(net.outputs)}", Position(args.model))
    blob = net.blobs[net.inputs[0]]
    if len(blob.shape) != 4 or blob.shape[1] not in (1, 3):
        raise NetError(f"the input must be a gray or a colour image (N, 1 or 3, H, W); its shape is {blob.shape}",
                       Position(args.model))
    blob.reshape(1, *blob.shape[1:])
    channels, height, width = blob.shape[1:]
    mean = read_binary(args.mean, pb.BlobProto(), "mean file")
    planes = to_array(mean).reshape(shape_of(mean)[-3:])
    if len(planes) != channels:
        raise NetError(f"the mean file has {len(planes)} channels, the net's input {channels}", Position(args.mean))
    kind = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    image = decode_image(read_bytes(args.image, "this image", DataError), kind)
    if image is None:
        raise DataError("this is no picture that OpenCV reads", Position(args.image))
    pixels = cv2.resize(image, (width, height)).reshape(height, width, channels).astype(np.float32)
    values = (pixels - planes.mean((1, 2))).transpose(2, 0, 1)[None]
    scores = net.forward(**{net.inputs[0]: values})[net.outputs[0]].ravel()
    if len(labels) != len(scores):
        raise NetError(f"there are {len(labels)} labels, and the output has {len(scores)} values",
                       Position(args.labels))
    print(f"---------- Prediction for {args.image} ----------")
    for k in np.argsort(-scores, kind="stable")[:BEST]:
        print(f'{scores[k]:.4f} - "{labels[k]}"')
    return 0
