"""Damaged files of weights raise errors of brew, and change nothing."""
from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import brew
from brew.engine.errors import BrewError, WeightsError
from brew.proto import parse, pb

NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "y" top: "y" }
"""


def net() -> brew.Net:
    return brew.Net(parse(NET, pb.NetParameter()), brew.TRAIN)


def values(n: brew.Net) -> list[bytes]:
    return [blob.data.tobytes() for blobs in n.params.values() for blob in blobs]


@pytest.mark.parametrize("name", ["w.caffemodel", "w.caffemodel.h5"])
def test_whatever_is_damaged_the_error_names_the_file(name: str) -> None:
    """protobuf and h5py raise a dozen kinds of exceptions."""
    n, draw, refused = net(), random.Random(9), 0
    (n.save_hdf5 if name.endswith(".h5") else n.save)(name)
    data = Path(name).read_bytes()
    for _ in range(1000):
        damaged = bytearray(data)
        for _ in range(draw.choice([1, 1, 2, 5])):
            damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        Path(name).write_bytes(damaged)
        before = values(n)
        try:
            n.copy_from(name)
        except BrewError as e:
            assert re.match(re.escape(name), str(e)) and values(n) == before
            refused += 1
    assert refused > 200


def changed(change: Callable[[pb.BlobProto], object]) -> str:
    n = net()
    proto = n.to_proto()
    change(next(layer for layer in proto.layer if layer.name == "ip").blobs[0])
    Path("w.caffemodel").write_bytes(proto.SerializeToString())
    return "w.caffemodel"


@pytest.mark.parametrize("dims, message", [
    ([1] * 1300 + [6], "no array can have the 1301 axes of a blob"), ([-2, -3], "a blob of shape (-2, -3) has 6 values"),
    ([2**32, 2**32], f"a blob of shape ({2**32}, {2**32}) has 6 values"), ([6, 2**62, 2**62], f"a blob of shape (6, {2**62}, {2**62}) has 6 values"),
    ([3, 2], 'blob 0 of layer "ip" has the shape (3, 2) in the file and (2, 3) in the net')], ids=["axes", "negative", "overflow", "overflow to the count", "shape"])
def test_impossible_shapes(dims: list[int], message: str) -> None:
    with pytest.raises(WeightsError) as e:
        net().copy_from(changed(lambda blob: blob.shape.dim.__setitem__(slice(None), dims)))
    assert message in str(e.value) and str(e.value).startswith("w.caffemodel: ")


def test_an_empty_blob_of_huge_axes() -> None:
    def empty(blob: pb.BlobProto) -> None:
        blob.ClearField("data")
        blob.shape.dim[:] = [0, 2**62, 2**62]
    with pytest.raises(WeightsError, match='layer "ip": no array can have the 3 axes of a blob'):
        net().copy_from(changed(empty))


def spoil(change: Callable[[h5py.File], object]) -> str:
    n = net()
    n.save_hdf5("w.caffemodel.h5")
    with h5py.File("w.caffemodel.h5", "r+") as file:
        change(file)
    return "w.caffemodel.h5"


@pytest.mark.parametrize("change, message", [
    (lambda f: f["data/ip"].move("0", "-1"), 'layer "ip" has a blob -1 in the file and 2 blobs in the net'),
    (lambda f: f["data"].create_dataset("other", data=1.0), "this is no HDF5 caffemodel"), (lambda f: f["data/ip"].create_group("2"), "this is no HDF5 caffemodel"),
    (lambda f: f["data/ip"].create_dataset("2", data="text"), "this is no HDF5 caffemodel"), (lambda f: f.__delitem__("data"), "this is no HDF5 caffemodel"),
    (lambda f: f["data/ip"].create_dataset("2", (2**40,), "f4"), "these weights need 4096.0 GiB of memory"),
    (lambda f: f["data/ip"].create_dataset("2", data=np.zeros(2, "i4,f4")), "this is no HDF5 caffemodel")],
    ids=["negative number", "data for a layer", "group for a blob", "text", "no data", "huge", "records"])
def test_hdf5_files_of_other_contents(change: Callable[[h5py.File], object], message: str) -> None:
    n = net()
    before = values(n)
    with pytest.raises(WeightsError) as e:
        n.copy_from(spoil(change))
    assert message in str(e.value) and str(e.value).startswith("w.caffemodel.h5: ") and values(n) == before
    # While the exception is kept, as notebooks keep the last one, other threads read HDF5: h5py's lock is free.
    reader = threading.Thread(target=lambda: h5py.File("good.h5", "w").close(), daemon=True)
    reader.start()
    reader.join(20)
    assert not reader.is_alive()
