"""brew convert_imageset: a database of the pictures that a list names, as Caffe's tool of that name writes it."""
from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from ..engine.device import cores
from ..engine.errors import DataError, Position
from ..engine.context import new_seed
from ..engine.random import permutation
from ..layers.decode import decode_image
from ..layers.image_data import read_list
from ..proto import brew_pb2 as pb
from .database import DatabaseWriter

SAME = {"jpeg": "jpg"}                                    # endings that name one kind of file
AHEAD = 256                                               # records made while others are written


class BrokenImage(Exception):
    """A file that is no picture; the text says why."""


def make_datum(file: str, label: int, size: tuple[int, int] | None, gray: bool, encode: str | None) -> pb.Datum:
    """The record of a picture: raw (channels, height, width) in BGR, or with `encode` ("jpg", "png", ...; "": as the file's ending
    says) as a file. A file of that kind and no new `size` (width, height) is taken as it is. Raises BrokenImage.
    """
    try:
        data = Path(file).read_bytes()
    except OSError as e:
        raise BrokenImage(e.strerror or str(e)) from None
    ending = Path(file).suffix[1:].lower()
    encode = ending if encode == "" else encode
    if encode is not None and size is None and not gray and SAME.get(encode, encode) == SAME.get(ending, ending) and _whole(data):
        return pb.Datum(data=data, label=label, encoded=True)
    image = decode_image(data, cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR)
    if image is None:
        raise BrokenImage("no picture that OpenCV reads" if data else "an empty file")
    if size is not None:
        image = cv2.resize(image, size)
    if encode is not None:
        return pb.Datum(data=_encoded(image, encode, file), label=label, encoded=True)
    planes = b"".join(plane.tobytes() for plane in cv2.split(image))
    return pb.Datum(channels=1 if gray else 3, height=image.shape[0], width=image.shape[1], data=planes, label=label, encoded=False)


def _encoded(image: np.ndarray, kind: str, file: str) -> bytes:
    try:
        done, packed = cv2.imencode("." + kind, image)
    except cv2.error:
        done = False
    if not done:
        raise DataError(f'there is no way to encode "{kind}": give --encode_type jpg or png', Position(file))
    return packed.tobytes()


def _whole(data: bytes) -> bool:
    """Whether a JPEG or PNG begins and ends as such, which a download that was cut off does not. Others must be decoded to know."""
    return data[:3] == b"\xff\xd8\xff" and b"\xff\xd9" in data[-64:] or data[:8] == b"\x89PNG\r\n\x1a\n" and b"IEND" in data[-64:]


def convert_imageset(args: argparse.Namespace) -> int:
    """Convert as `brew convert_imageset` was asked to. Exit code 0, or 1 if pictures were broken: they are listed and left out."""
    if (args.resize_width > 0) != (args.resize_height > 0):
        raise DataError("resize_width and resize_height are given together or not at all")
    size = (args.resize_width, args.resize_height) if args.resize_width > 0 else None
    encode = args.encode_type.lower().lstrip(".") or ("" if args.encoded else None)
    if encode:
        _encoded(np.zeros((1, 1, 3), np.uint8), encode, args.list)
    DatabaseWriter.check([args.database], args.backend)
    lines = [(path, label) for path, label, _ in read_list(args.list)]
    if args.shuffle:
        seed = new_seed() if args.seed < 0 else args.seed
        lines = [lines[i] for i in permutation(seed, "convert_imageset", 0, len(lines))]
        print(f"shuffled with --seed {seed}", file=sys.stderr)
    cv2.setNumThreads(1)                                   # pictures are shared out, not their lines
    broken, length = [], None
    with DatabaseWriter(args.database, args.backend) as database:
        made = _in_order(lines, args.root, size, args.gray, encode, args.threads or cores())
        for i, result in enumerate(track(made, "converting", len(lines), console=Console(stderr=True), transient=True)):
            name = lines[i][0]
            if isinstance(result, BrokenImage):
                broken.append(f"{args.root}{name}: {result}")
                continue
            datum, record = result
            if args.check_size and not datum.encoded:
                length = len(datum.data) if length is None else length
                if len(datum.data) != length:
                    raise DataError(f"{datum.channels} x {datum.height} x {datum.width} values, where the pictures before have {length}", Position(args.root + name))
            database.put(f"{i:08d}_{name}".encode("utf-8", "surrogateescape"), record)
        if len(broken) == len(lines):
            raise DataError(f"none of the {len(lines)} pictures can be read; the first: {broken[0]}\n  the root folder is put before each path as it is: it ends with /", Position(args.list))
    for line in broken:
        print(f"left out: {line}", file=sys.stderr)
    print(f"{args.database}: {database.count} records" + (f"; {len(broken)} pictures are broken and left out" if broken else ""))
    return 1 if broken else 0


def _in_order(lines: list[tuple[str, int]], root: str, size: tuple[int, int] | None, gray: bool, encode: str | None, threads: int) -> Iterator[tuple[pb.Datum, bytes] | BrokenImage]:
    """The record of each line, also as bytes, or why there is none; made ahead by threads."""
    def make(name: str, label: int) -> tuple[pb.Datum, bytes] | BrokenImage:
        try:
            datum = make_datum(root + name, label, size, gray, encode)
            return datum, datum.SerializeToString()
        except BrokenImage as e:
            return e

    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[tuple[pb.Datum, bytes] | BrokenImage]] = deque()
        for line in lines:
            ahead.append(pool.submit(make, *line))
            if len(ahead) > AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
