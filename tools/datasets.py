"""brew data: databases and mean files of well-known data sets, from their standard files."""
from __future__ import annotations

import gzip
import hashlib
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import numpy as np

from ..engine.errors import DataError, Position, read_bytes
from ..engine.files import check_folder
from ..engine.random import permutation
from ..layers.decode import decode_image
from ..proto import brew_pb2 as pb
from .database import write_database
from .image_mean import write_mean
from .download import download, free_space

Samples = tuple[np.ndarray, np.ndarray]                   # images (n, C, H, W) uint8, labels (n)


@dataclass(frozen=True)
class DataSet:
    """A data set: how to read its two parts, and where its files come from."""

    read: Callable[[DataSet, Callable[[str], bytes], bool], Samples]   # (set, reader of files, train?) -> samples
    keys: str                                             # format of the record's key from its number
    url: str = ""                                         # folder of the files, or of the archive that holds them
    archive: str = ""
    archive_md5: str = ""
    files: dict[str, str] = field(default_factory=dict)   # name -> MD5 of its contents, unpacked


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


# ------------------------------------------------------------------------------------------------------------ formats

def unpack_gzip(data: bytes, name: str) -> bytes:
    """The contents of a gzip file. Raises DataError if it is cut off or damaged."""
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as e:
        raise DataError(f"this gzip file is damaged or cut off: {e}", Position(name)) from None


def read_idx(data: bytes, name: str) -> np.ndarray:
    """The array of an IDX file of bytes (yann.lecun.com/exdb/mnist): 0 0 8 axes, the extents, the values."""
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise DataError("this is no IDX file of bytes", Position(name))
    axes = data[3]
    shape = struct.unpack_from(f">{axes}I", data, 4) if len(data) >= 4 + 4 * axes else ()
    if len(data) != 4 + 4 * axes + prod(shape) or not shape:
        raise DataError(f"this IDX file should hold {shape} values; it has {len(data)} bytes", Position(name))
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _idx_pair(spec: DataSet, fetch: Callable[[str], bytes], train: bool) -> Samples:
    images, labels = (n for n in spec.files if ("train" in n) == train)
    arrays = []
    for name in (images, labels):
        data = unpack_gzip(fetch(name), name)
        if spec.files[name] and _md5(data) != spec.files[name]:
            raise DataError(f"its contents have the MD5 {_md5(data)}; they should have {spec.files[name]}", Position(name))
        arrays.append(read_idx(data, name))
    if len(arrays[0]) != len(arrays[1]):
        raise DataError(f"there are {len(arrays[0])} images and {len(arrays[1])} labels", Position(images))
    return arrays[0][:, None], arrays[1]


def _emnist(spec: DataSet, fetch: Callable[[str], bytes], train: bool) -> Samples:
    """EMNIST's images lie on their side and its letters count from 1: set upright, and a is 0."""
    images, labels = _idx_pair(spec, fetch, train)
    return np.ascontiguousarray(images.swapaxes(2, 3)), labels - 1


def _pairs(spec: DataSet, fetch: Callable[[str], bytes], train: bool) -> Samples:
    """Pairs of images as two channels, label 1 where both show the same class: each image with one drawn at random."""
    images, labels = _idx_pair(spec, fetch, train)
    other = permutation(0, "pairs", int(train), len(labels))
    return np.concatenate([images, images[other]], axis=1), (labels == labels[other]).astype(np.uint8)


def read_cifar(data: bytes, name: str) -> Samples:
    """(n, 3, 32, 32) and (n) of a binary batch of CIFAR-10: records of a label and 3072 bytes of RGB planes. Raises DataError."""
    if not data or len(data) % 3073:
        raise DataError(f"a CIFAR-10 batch has 3073 bytes a record; {len(data)} bytes are no whole number of them", Position(name))
    rows = np.frombuffer(data, np.uint8).reshape(-1, 3073)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]


def _cifar(spec: DataSet, fetch: Callable[[str], bytes], train: bool) -> Samples:
    """The binary batches (label, then 3072 bytes of RGB planes), or packs of JPEGs of the same names."""
    names = [n for n in spec.files if ("test" in n) != train]
    images, labels = [], []
    for name in names:
        data = fetch(name)
        if name.endswith(".jpegs.gz") or data[:2] == b"\x1f\x8b":
            part = list(_jpeg_pack(unpack_gzip(data, name), name))
            images.append(np.stack([image for _, image in part]))
            labels.append(np.array([label for label, _ in part], np.uint8))
            continue
        pixels, numbers = read_cifar(data, name)
        images.append(pixels)
        labels.append(numbers)
    return np.concatenate(images), np.concatenate(labels)


def _jpeg_pack(data: bytes, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """(label, RGB planes) of each record: label u8, length u16 little-endian, JPEG bytes."""
    import cv2
    at = 0
    while at < len(data):
        if at + 3 > len(data):
            raise DataError("the pack ends inside a record", Position(name))
        label, length = struct.unpack_from("<BH", data, at)
        jpeg = data[at + 3:at + 3 + length]
        image = decode_image(jpeg, cv2.IMREAD_COLOR) if len(jpeg) == length else None
        if image is None:
            raise DataError(f"the record at byte {at} holds no image that can be decoded", Position(name))
        yield label, image[:, :, ::-1].transpose(2, 0, 1)
        at += 3 + length


def _packs(spec: DataSet, fetch: Callable[[str], bytes], train: bool) -> Samples:
    """One pack of JPEGs for each part; channels in the order BGR, as nets of ImageNet have them."""
    name = next(n for n in spec.files if ("train" in n) == train)
    labels, images = zip(*_jpeg_pack(unpack_gzip(fetch(name), name), name))
    return np.stack(images)[:, ::-1], np.array(labels, np.uint8)


def _digits(spec: DataSet, fetch: Callable[[str], bytes], train: bool) -> Samples:
    """scikit-learn's 1797 handwritten digits (8 x 8, UCI "Optical recognition of handwritten digits"): four fifths to train."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("the digits come with scikit-learn: pip install 'brew[examples]'") from None
    bunch = load_digits()
    order = permutation(0, "digits", 0, len(bunch.target))
    chosen = order[len(order) // 5:] if train else order[:len(order) // 5]
    images = np.clip(bunch.images * 16, 0, 255).astype(np.uint8)          # 0..16 becomes 0..255
    return images[chosen][:, None], bunch.target[chosen].astype(np.uint8)


def _idx_files(prefix: str, *sums: str) -> dict[str, str]:
    kinds = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return {f"{prefix}{k}-ubyte.gz": s for k, s in zip(kinds, sums)}


MNIST = DataSet(_idx_pair, "{:08d}", "https://ossci-datasets.s3.amazonaws.com/mnist/", files=_idx_files(
    "", "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624", "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"))

SETS = {
    "digits": DataSet(_digits, "{:08d}"),
    "mnist": MNIST,
    "mnist-siamese": replace(MNIST, read=_pairs),
    "fashion-mnist": DataSet(_idx_pair, "{:08d}", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", files=_idx_files(
        "", "f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9", "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965")),
    "emnist-letters": DataSet(_emnist, "{:08d}", "https://biometrics.nist.gov/cs_links/EMNIST/", "gzip.zip", "58c8d27c78d21e728a6bc7b3cc06412e", {
        "emnist-letters-train-images-idx3-ubyte.gz": "6b7a6cdb4e8ae8838780bb5aeda8ab2a",
        "emnist-letters-train-labels-idx1-ubyte.gz": "49ecae16ee4c7ab14dcf3e8d8c39090b",
        "emnist-letters-test-images-idx3-ubyte.gz": "811ee95d607652077616dbaaea581e1d",
        "emnist-letters-test-labels-idx1-ubyte.gz": "dd1687ca8200da91c0dfd6321518806d"}),
    # part of Tiny ImageNet (Le and Yang, 2015: 64 x 64, 200 classes), as packs of JPEGs that are not published: --from names their folder
    "tiny-imagenet-subset": DataSet(_packs, "{:08d}", files={"train.jpegs.gz": "", "val.jpegs.gz": ""}),
    "cifar10": DataSet(_cifar, "{:05d}", "https://www.cs.toronto.edu/~kriz/", "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d13530",
                       {f"{name}.bin": "" for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")}),
}


# ----------------------------------------------------------------------------------------------------------- building

def build(name: str, folder: str = "", source: str = "", url: str = "", spec: DataSet | None = None) -> int:
    """Make FOLDER/NAME_train_lmdb, FOLDER/NAME_test_lmdb and FOLDER/mean.binaryproto; returns the exit code 0.

    source: a folder with the standard files, instead of downloading them.  url: another place to download from.
    Databases that are there are kept.  Raises DataError; nothing half-written is left behind.
    """
    spec = spec or SETS[name]
    target = Path(folder or f"data/{name}")
    stem = name.replace("-", "_")
    fetch = _reader(spec, target, source, url)
    mean = target / "mean.binaryproto"
    databases = {part: target / f"{stem}_{part}_lmdb" for part in ("train", "test")}
    missing = [part for part in databases if not databases[part].exists() or part == "train" and not mean.exists()]
    if missing:
        check_folder(target)
    if source and len(missing) == len(databases):
        for file in spec.files:                           # all of them, before a database is made of the first
            _in_folder(Path(source), file)
    for part, database in databases.items():
        if part not in missing:
            print(f"{database} is there already")
            continue
        images, labels = spec.read(spec, fetch, part == "train")
        need = images.size + 200 * len(images)
        if free_space(target) < need:
            raise DataError(f"the database needs {need >> 20} MiB, and {free_space(target) >> 20} MiB are free", Position(str(target)))
        if not database.exists():
            target.mkdir(parents=True, exist_ok=True)
            count = write_database(database, _records(spec, images, labels))
            print(f"{database}: {count} images of {' x '.join(map(str, images.shape[1:]))}")
        if part == "train":
            write_mean(mean, images.mean(0, dtype=np.float64))
            print(f"{mean}: the mean of the training images")
    return 0


def _records(spec: DataSet, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[bytes, pb.Datum]]:
    _, channels, height, width = images.shape
    for i, (image, label) in enumerate(zip(images, labels)):
        yield spec.keys.format(i).encode(), pb.Datum(channels=channels, height=height, width=width, data=image.tobytes(), label=int(label))


def _reader(spec: DataSet, target: Path, source: str, url: str) -> Callable[[str], bytes]:
    """A function from a file's name to its bytes: from `source`, or downloaded beside the databases."""
    if source:
        return lambda name: _from_folder(Path(source), name)
    if spec.files and not (url or spec.url):
        raise DataError("these files are published nowhere: --from names the folder that they are in")
    base = (url or spec.url).rstrip("/") + "/"
    if not spec.archive:
        return lambda name: download(base + name, target / "downloads" / name).read_bytes()
    return lambda name: _from_archive(download(base + spec.archive, target / "downloads" / spec.archive, spec.archive_md5), name)


def _from_folder(folder: Path, name: str) -> bytes:
    """The bytes of a standard file, packed again if it was unpacked."""
    path = _in_folder(folder, name)
    data = read_bytes(path, "this file", DataError)
    return gzip.compress(data, 0) if path.name == name.removesuffix(".gz") != name else data


def _in_folder(folder: Path, name: str) -> Path:
    """A standard file, perhaps unpacked (no .gz) or, for CIFAR-10, a pack of JPEGs instead of a .bin batch."""
    for place in (name, name.removesuffix(".gz"), name.replace(".bin", ".jpegs.gz"), f"cifar-10-batches-bin/{name}"):
        if (folder / place).is_file():
            return folder / place
    raise DataError(f"there is no {name} in this folder", Position(str(folder)))


def _from_archive(archive: Path, name: str) -> bytes:
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as z:
                return z.read(next(n for n in z.namelist() if n.endswith(name)))
        with tarfile.open(archive) as t:
            member = t.extractfile(next(m for m in t.getmembers() if m.name.endswith(name)))
            return member.read() if member else b""
    except (StopIteration, zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as e:
        raise DataError(f"there is no whole {name} in this archive: {e}", Position(str(archive))) from None


