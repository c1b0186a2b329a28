"""What a net has learned, as pictures: a layer's filters, and what an image lights up."""
from __future__ import annotations

import argparse
from math import ceil, sqrt
from pathlib import Path

import cv2
import numpy as np

from ..engine.errors import DataError, Position, WeightsError, nearest
from ..engine.files import check_writable, write_whole
from ..engine.weights import read
from .plot import new_figure, save_figure

SIDE = 32                                                    # pixels that a tile has at least
PAPER = 255


def tiles(images: np.ndarray, columns: int, each: bool = False) -> np.ndarray:
    """Many small images (N, h, w) or (N, h, w, 3) as one of bytes, row by row, with lines of white between; the least value of all is
    black and the largest white, or with `each` those of every image. Small ones are shown enlarged."""
    axes = tuple(range(1 if each else 0, images.ndim))
    low, high = images.min(axes, keepdims=True), images.max(axes, keepdims=True)
    shades = ((images - low) * (255 / np.maximum(high - low, 1e-20))).round().astype(np.uint8)
    zoom = max(1, ceil(SIDE / max(images.shape[1:3]))) if max(images.shape[1:3]) > 1 else 8
    shades = shades.repeat(zoom, 1).repeat(zoom, 2)
    rows, (h, w) = ceil(len(images) / columns), shades.shape[1:3]
    page = np.full((rows * (h + 1) + 1, columns * (w + 1) + 1, *shades.shape[3:]), PAPER, np.uint8)
    for k, tile in enumerate(shades):
        y, x = k // columns * (h + 1) + 1, k % columns * (w + 1) + 1
        page[y:y + h, x:x + w] = tile
    return page


def check_picture(path: str) -> None:
    """Raise DataError, SnapshotError unless save_picture() can write this. Changes nothing."""
    _encoded(path, np.zeros((1, 1), np.uint8))
    check_writable(path)


def save_picture(path: str, page: np.ndarray) -> None:
    """Write (H, W) or (H, W, 3), BGR, as the kind of picture that the name ends with."""
    write_whole(path, _encoded(path, page))


def _encoded(path: str, page: np.ndarray) -> bytes:
    try:
        done, data = cv2.imencode(Path(path).suffix, page)
    except cv2.error:
        done = False
    if not done:
        raise DataError(f'no picture can be written as "{Path(path).suffix}"; png and jpg can', Position(path))
    return data.tobytes()


def save_bars(path: str, values: np.ndarray, name: str) -> None:
    """Draw a vector: its values in their order, and how many there are of each size. Raises DataError without matplotlib."""
    figure = new_figure(8, 5)
    above, below = figure.subplots(2, 1)
    above.vlines(np.arange(len(values)), 0, values, linewidth=max(0.6, min(6, 400 / len(values))))
    above.set_xlabel(f"channel of {name}")
    below.hist(values, bins=min(100, max(10, len(values) // 4)))
    below.set_xlabel("value")
    save_figure(figure, path)


def filter_tiles(weights: np.ndarray, limit: int, each: bool = False) -> np.ndarray:
    """A picture of filters (outputs, inputs, h, w), as many as `limit`: in colour, in a square, where there are three inputs, taken
    as B, G, R; else a row for each filter, with a tile for each input, and a matrix (outputs, inputs) as it is."""
    weights = weights.reshape(*weights.shape[:2], *(weights.shape[2:] or (1, 1)))
    filters = weights[:limit]
    if filters.shape[1] == 3:
        return tiles(filters.transpose(0, 2, 3, 1), ceil(sqrt(len(filters))), each)
    if filters.shape[1] == 1:
        return tiles(filters[:, 0], ceil(sqrt(len(filters))), each)
    filters = filters[:, :limit]
    return tiles(filters.reshape(-1, *filters.shape[2:]), filters.shape[1], each)


def filters(args: argparse.Namespace) -> int:
    """Draw as `brew filters` was asked to. Raises BrewError."""
    check_picture(args.picture)
    stored = {name: blobs for name, blobs in read(args.weights).items() if blobs}
    if args.layer not in stored:
        raise WeightsError(f'this file has no weights of a layer "{args.layer}"{nearest(args.layer, stored)}\n  layers: {", ".join(stored)}', Position(args.weights))
    array, shape = stored[args.layer][0]
    weights = array.reshape(shape if len(shape) != 4 or shape[:2] != (1, 1) else shape[2:])        # old files have matrices as (1, 1, outputs, inputs)
    if weights.ndim not in (2, 4):
        raise WeightsError(f'layer "{args.layer}" has weights of shape {shape}; those of an InnerProduct or of a Convolution over images can be drawn', Position(args.weights))
    page = filter_tiles(weights, args.count, args.each)
    save_picture(args.picture, page[..., ::-1] if args.rgb and page.ndim == 3 else page)
    print(f"{args.picture}: {min(args.count, len(weights))} of {len(weights)} filters of {' x '.join(map(str, weights.shape[1:]))}, values from {weights.min():.4g} to {weights.max():.4g}")
    return 0
