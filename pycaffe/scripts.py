"""brew classify and detect: what Caffe's classify.py and detect.py do."""
from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from rich.console import Console
from rich.progress import track

from ..engine.errors import DataError, Position, read_bytes
from ..proto import BrewError
from ..proto import brew_pb2 as pb
from ..tools.cli import choose_device
from . import io
from .classifier import Classifier
from .detector import Detector

CHUNK = 16                                                # pictures held at a time


def classify(args: argparse.Namespace) -> int:
    """Write the probabilities (pictures, classes) as .npy, as `brew classify` was asked to; with labels, say the best five."""
    choose_device(args.gpu)
    classifier = Classifier(args.model_def, args.pretrained_model, image_dims=_numbers(args.images_dim, int, "images_dim", 2), **_preprocessing(args))
    source = Path(args.input)
    files: list[Any]
    if source.suffix == ".npy":
        files = list(_array(str(source)))
    elif source.is_dir():
        files = sorted(source.glob(f"*.{args.ext}"))
        if not files:
            raise DataError(f"there are no files *.{args.ext} in this folder: --ext says which", Position(args.input))
    else:
        files = [source]
    labels = [line.strip() for line in read_bytes(args.labels, "this list of labels", DataError).decode().splitlines()] if args.labels else []
    found = []
    for start in track(range(0, len(files), CHUNK), "classifying", console=Console(stderr=True), transient=True):
        images = [file if isinstance(file, np.ndarray) else io.load_image(file) for file in files[start:start + CHUNK]]
        found.append(classifier.predict(images, not args.center_only))
    predictions = np.concatenate(found)
    for file, row in zip(files, predictions.reshape(len(files), -1)) if labels else ():
        print(f"---------- {file if not isinstance(file, np.ndarray) else 'array'} ----------")
        for k in np.argsort(-row)[:5]:
            print(f'{row[k]:.4f} - "{labels[k] if k < len(labels) else k}"')
    _save(args.output, lambda path: np.save(path, predictions))
    print(f"{args.output}: {' x '.join(map(str, predictions.shape))}")
    return 0


def detect(args: argparse.Namespace) -> int:
    """Write the predictions of windows as .h5 or .csv, as `brew detect` was asked to. Raises BrewError."""
    choose_device(args.gpu)
    if Path(args.output).suffix not in (".h5", ".csv"):
        raise DataError("the output is a .h5 or a .csv file", Position(args.output))
    detector = Detector(args.model_def, args.pretrained_model, context_pad=args.context_pad, **_preprocessing(args))
    if args.crop_mode == "selective_search":
        names = [line.strip() for line in read_bytes(args.input, "this list of pictures", DataError).decode().splitlines() if line.strip()]
        found = detector.detect_selective_search(names)
    else:
        found = detector.detect_windows(_windows(args.input))
    windows = np.array([f["window"] for f in found], float).reshape(-1, 4)
    predictions = np.array([f["prediction"] for f in found])
    names = [f["filename"] for f in found]
    _save(args.output, lambda path: (_save_csv if args.output.endswith("csv") else _save_h5)(path, names, windows, predictions))
    print(f"{args.output}: {len(found)} windows")
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


def _save_csv(path: str, names: list[str], windows: np.ndarray, predictions: np.ndarray) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["filename", *(f"class{k}" for k in range(predictions.shape[-1] if predictions.size else 0)), "ymin", "xmin", "ymax", "xmax"])
        writer.writerows([name, *prediction, *window] for name, prediction, window in zip(names, predictions, windows))


def _save_h5(path: str, names: list[str], windows: np.ndarray, predictions: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["filename"], file["window"], file["prediction"] = np.array(names, dtype=h5py.string_dtype()), windows, predictions


def _save(path: str, write: Any) -> None:
    try:
        write(path)
    except OSError as e:
        raise DataError(f"cannot be written: {e.strerror or e}", Position(path)) from None


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
            blob = pb.BlobProto()
            try:
                blob.ParseFromString(read_bytes(args.mean_file, "this mean file", DataError))
                mean = io.blobproto_to_array(blob)[0].mean((1, 2))
            except Exception as e:
                raise DataError(f"this is neither .npy nor a mean file: {e}", Position(args.mean_file)) from None
    return {"mean": mean, "input_scale": args.input_scale, "raw_scale": args.raw_scale,
            "channel_swap": _numbers(args.channel_swap, int, "channel_swap") if args.channel_swap else None}
