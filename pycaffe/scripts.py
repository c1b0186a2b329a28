"""brew classify and detect, what Caffe's classify.py and detect.py do; and brew activations."""
from __future__ import annotations

import argparse
import csv
import io as streams
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from rich.console import Console
from rich.progress import track

from ..engine.errors import DataError, NetError, Position, check_readable, nearest, read_bytes
from ..engine.files import check_writable, write_whole
from ..proto import BrewError, read_binary, shape_of, to_array
from ..proto import brew_pb2 as pb
from ..tools.cli import choose_device
from ..tools.pictures import save_bars, save_picture, tiles
from . import io
from .classifier import Classifier, preprocessing
from .detector import Detector
from .pycaffe import TEST, Net

CHUNK = 16                                                # pictures held at a time


def classify(args: argparse.Namespace) -> int:
    """Write the probabilities (pictures, classes) as .npy, as `brew classify` was asked to; with labels, say the best five."""
    output = args.output if args.output.endswith(".npy") else f"{args.output}.npy"
    check_writable(output)
    settings = {"image_dims": _numbers(args.images_dim, int, "images_dim", 2), **_preprocessing(args)}
    source = Path(args.input)
    files: list[Any]
    if source.suffix == ".npy":
        files = list(_array(str(source)))
    elif source.is_dir():
        files = sorted(source.glob(f"*.{args.ext}"))
        if not files:
            raise DataError(f"there are no files *.{args.ext} in this folder: --ext says which", Position(args.input))
    else:
        check_readable(source, "this picture", DataError)
        files = [source]
    if not files:
        raise DataError("this array holds no pictures", Position(args.input))
    labels = [line.strip() for line in read_bytes(args.labels, "this list of labels", DataError).decode().splitlines()] if args.labels else []
    choose_device(args.gpu)
    classifier = Classifier(args.model_def, args.pretrained_model, **settings)
    classifier.keep_values = False                               # only the outputs are looked at
    found = []
    for start in track(range(0, len(files), CHUNK), "classifying", console=Console(stderr=True), transient=True):
        images = [file if isinstance(file, np.ndarray) else io.load_image(file) for file in files[start:start + CHUNK]]
        found.append(classifier.predict(images, not args.center_only))
    predictions = np.concatenate(found)
    for file, row in zip(files, predictions.reshape(len(files), -1)) if labels else ():
        print(f"---------- {file if not isinstance(file, np.ndarray) else 'array'} ----------")
        for k in np.argsort(-row)[:5]:
            print(f'{row[k]:.4f} - "{labels[k] if k < len(labels) else k}"')
    data = streams.BytesIO()
    np.save(data, predictions)
    write_whole(output, data.getvalue())
    print(f"{output}: {' x '.join(map(str, predictions.shape))}")
    return 0


def detect(args: argparse.Namespace) -> int:
    """Write the predictions of windows as .h5 or .csv, as `brew detect` was asked to. Raises BrewError."""
    if Path(args.output).suffix not in (".h5", ".csv"):
        raise DataError("the output is a .h5 or a .csv file", Position(args.output))
    check_writable(args.output)
    settings = _preprocessing(args)
    searches = args.crop_mode == "selective_search"
    pictures: Any = _lines(args.input) if searches else _windows(args.input)
    choose_device(args.gpu)
    detector = Detector(args.model_def, args.pretrained_model, context_pad=args.context_pad, **settings)
    detector.keep_values = False
    found = detector.detect_selective_search(pictures) if searches else detector.detect_windows(pictures)
    windows = np.array([f["window"] for f in found], float).reshape(-1, 4)
    predictions = np.array([f["prediction"] for f in found])
    names = [f["filename"] for f in found]
    save = _save_csv if args.output.endswith("csv") else _save_h5
    write_whole(args.output, lambda path: save(path, names, windows, predictions))
    print(f"{args.output}: {len(found)} windows")
    return 0


def activations(args: argparse.Namespace) -> int:
    """Draw what a blob holds for an image, as `brew activations` was asked to: a tile for each channel, or a bar for each value."""
    check_writable(args.picture)
    check_readable(args.image, "this image", DataError)
    settings = _preprocessing(args)
    choose_device(args.gpu)
    net = Net(args.model_def, TEST, weights=args.pretrained_model)
    net.keep_values = True
    name = net.inputs[0]
    if args.blob not in net.blobs:
        raise NetError(f'the net has no blob "{args.blob}"{nearest(args.blob, net.blobs)}\n  blobs: {", ".join(b for b in net.blobs if "_split_" not in b)}')
    net.blobs[name].reshape(1, *net.blobs[name].shape[1:])
    transformer, size = preprocessing(net, **settings)
    image = io.load_image(args.image, color=net.blobs[name].shape[1] == 3)
    net.blobs[name].data[...] = transformer.preprocess(name, io.resize_image(image, size))
    net.forward()
    values = net.blobs[args.blob].data[0]
    planes = values.reshape(len(values), *(values.shape[1:] or (1, 1)))
    if planes.ndim != 3:
        raise NetError(f'blob "{args.blob}" has the shape {net.blobs[args.blob].shape}; images and vectors can be drawn')
    if planes.shape[1:] == (1, 1):
        save_bars(args.picture, planes.ravel(), args.blob)
    else:
        save_picture(args.picture, tiles(planes, ceil(sqrt(len(planes))), args.each))
    peaks = planes.max((1, 2))
    for channel in np.argsort(-peaks, kind="stable")[:5]:
        place = np.unravel_index(planes[channel].argmax(), planes.shape[1:])
        print(f"channel {channel:4}  at most {peaks[channel]:.4g}" + (f" (row {place[0]}, column {place[1]})" if planes.shape[1:] != (1, 1) else ""))
    print(f"{args.picture}: {' x '.join(map(str, values.shape))}")
    return 0


def _windows(path: str) -> list[tuple[str, np.ndarray]]:
    """[(picture, its windows)] of a table with the columns filename, ymin, xmin, ymax, xmax."""
    rows = csv.DictReader(read_bytes(path, "this table of windows", DataError).decode().splitlines(), skipinitialspace=True)
    columns = ("ymin", "xmin", "ymax", "xmax")
    if not {"filename", *columns} <= set(rows.fieldnames or ()):
        raise DataError(f"the columns filename, {', '.join(columns)} are needed, found {', '.join(rows.fieldnames or ()) or 'none'}", Position(path, 1))
    found: dict[str, list[list[float]]] = {}
    for row in rows:
        try:
            found.setdefault(row["filename"], []).append([float(row[c]) for c in columns])
        except (TypeError, ValueError):
            raise DataError(f"four numbers are needed, found {', '.join(str(row[c]) for c in columns)}", Position(path, rows.line_num)) from None
    return [(name, np.array(windows)) for name, windows in found.items()]


def _save_csv(path: Path, names: list[str], windows: np.ndarray, predictions: np.ndarray) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["filename", *(f"class{k}" for k in range(predictions.shape[-1] if predictions.size else 0)), "ymin", "xmin", "ymax", "xmax"])
        writer.writerows([name, *prediction, *window] for name, prediction, window in zip(names, predictions, windows))


def _save_h5(path: Path, names: list[str], windows: np.ndarray, predictions: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["filename"], file["window"], file["prediction"] = np.array(names, dtype=h5py.string_dtype()), windows, predictions


def _lines(path: str) -> list[str]:
    lines = read_bytes(path, "this list of pictures", DataError).decode(errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _array(path: str) -> np.ndarray:
    try:
        return np.asarray(np.load(path))
    except (OSError, ValueError) as e:
        raise DataError(f"cannot be read as a .npy file: {e}", Position(path)) from None


def _numbers(text: str, kind: type, name: str, count: int = 0) -> list[Any]:
    try:
        values = [kind(v) for v in text.split(",")]
    except ValueError:
        values = []
    if not values or count and len(values) != count:
        raise BrewError(f"--{name} takes {count or 'some'} numbers with commas between, found {text!r}")
    return values


def _preprocessing(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of Classifier and Detector."""
    mean = None
    if args.mean_file:
        if args.mean_file.endswith(".npy"):
            mean = _array(args.mean_file)
            mean = mean.mean((1, 2)) if mean.ndim == 3 else mean      # as Caffe's scripts: one value for each channel
        else:
            blob = read_binary(args.mean_file, pb.BlobProto(), "mean file")
            mean = to_array(blob).reshape(shape_of(blob)[-3:]).mean((1, 2))
    return {"mean": mean, "input_scale": args.input_scale, "raw_scale": args.raw_scale,
            "channel_swap": _numbers(args.channel_swap, int, "channel_swap") if args.channel_swap else None}
