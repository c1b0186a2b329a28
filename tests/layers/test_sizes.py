"""Sizes that files name are believed only as far as the file holds as many values: no reader multiplies before it has checked."""
from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import h5py
import lmdb
import numpy as np
import pytest

import brew
from brew.engine.errors import BrewError, DataError, NetError, WeightsError
from brew.kernels import cpu
from brew.layers.decode import decode_image
from brew.proto import parse, pb, to_array
from brew.pycaffe.io import blobproto_to_array
from brew.tools.database import datum_to_array
from brew.tools.datasets import read_idx


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def datum(channels: int, height: int, width: int, data: bytes = b"") -> bytes:
    """A Datum whose extents may need more than 32 bits, and may be negative."""
    sizes = b"".join(bytes([tag]) + varint(v % 2**64) for tag, v in ((8, channels), (16, height), (24, width)))
    return sizes + b"\x22" + varint(len(data)) + data + b"\x28\x01"


# (channels, height, width, bytes of pixels), and products of 2^64, which is 0 in 64 bits, of 2^64 + 64, and of two negative numbers
DATUMS = [(4, 2**31, 2**31, 0), (1, 2**32, 2**32, 0), (2**32, 1, 2**32, 0), (2**62, 4, 1, 0), (1, 2**31, 2**31, 64), (3, (2**64 + 2) // 3, 32, 64), (-1, 8, 8, 64),
          (1, -8, -8, 64), (-1, -8, 8, 64), (0, 0, 0, 0), (0, 8, 8, 0), (1, 8, 8, 63), (1, 8, 8, 65), (1, 8, 8, 0)]


def write(records: list[bytes]) -> None:
    with lmdb.open("db", map_size=1 << 20) as env, env.begin(write=True) as txn:
        for i, record in enumerate(records):
            txn.put(b"%08d" % i, record)


def data_net(params: str, phase: int) -> brew.Net:
    return brew.Net(parse(f'layer {{ name: "d" type: "Data" top: "data" top: "label" data_param {{ source: "db" batch_size: 2 }} {params} }}', pb.NetParameter()), phase)


@pytest.mark.parametrize("params", ["", "transform_param { crop_size: 8 }", "transform_param { max_rotation_angle: 5 }"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("sizes", DATUMS, ids=str)
def test_a_record_must_hold_what_its_sizes_say(sizes: tuple[int, int, int, int], first: bool, params: str) -> None:
    """As the first record, whose sizes the batch takes, and among others."""
    *extents, length = sizes
    wrong, right = datum(*extents, bytes(length)), datum(1, 8, 8, bytes(64))
    write([wrong, wrong] if first else [right, right, right, wrong])
    with pytest.raises(DataError, match=f"record '0000000{0 if first else 3}' cannot be used"):
        net = data_net(params, brew.TRAIN)
        net.forward()
        net.forward()


@pytest.mark.parametrize("sizes", DATUMS, ids=str)
def test_the_kernel_refuses_it_too(sizes: tuple[int, int, int, int]) -> None:
    *extents, length = sizes
    out, crops, mean = np.zeros((1, 1, 8, 8), np.float32), np.zeros((1, 3), np.int32), np.zeros(0, np.float32)
    record = datum(*extents, bytes(length))
    assert cpu.transform_records([record], out, None, crops, 8, 8, mean, 1.0) == ([], [0])
    channels, height, width = extents
    if not (0 < channels < 9 and height >= 8 and width >= 8):
        return
    out = np.zeros((1, channels, 8, 8), np.float32)                   # sizes that the caller takes from the same record
    if channels * height * width < 2**63:
        assert cpu.transform_records([record], out, None, crops, height, width, mean, 1.0) == ([], [0])
    else:
        with pytest.raises(ValueError, match="more than 64 bits"):
            cpu.transform_records([record], out, None, crops, height, width, mean, 1.0)


@pytest.mark.parametrize("sizes", [(-1, 8, 8), (1, -8, -8), (-1, -8, 8), (2**31 - 1, 2**31 - 1, 4)], ids=str)
def test_a_datum_of_a_tool_must_hold_what_its_sizes_say(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match="holds 64 values"):
        datum_to_array(pb.Datum(channels=sizes[0], height=sizes[1], width=sizes[2], data=bytes(64)))


@pytest.mark.parametrize("shape, values", [((4, 2**31, 2**31), 0), ((2**32, 2**32), 0), ((-1, 8), 64), ((-8, -8), 64), ((-1, -8), 8), ((2**62, 4), 0), ((8, 8), 63)], ids=str)
def test_a_blob_of_a_file_must_hold_what_its_shape_says(shape: tuple[int, ...], values: int) -> None:
    blob = pb.BlobProto(shape=pb.BlobShape(dim=shape), data=[0] * values)
    with pytest.raises(WeightsError, match=f"has {values} values"):
        to_array(blob)
    with pytest.raises(ValueError):
        blobproto_to_array(blob)
    Path("mean.binaryproto").write_bytes(blob.SerializeToString())
    write([datum(1, 8, 8, bytes(64))])
    with pytest.raises(BrewError, match=f"has {values} values"):
        data_net('transform_param { mean_file: "mean.binaryproto" }', brew.TEST)


@pytest.mark.parametrize("legacy", [dict(num=1, channels=1, height=-8, width=-8), dict(num=-1, channels=1, height=8, width=8)], ids=str)
def test_old_sizes_of_a_blob_are_not_negative(legacy: dict[str, int]) -> None:
    blob = pb.BlobProto(data=[0] * 64, **legacy)
    for read, error in ((to_array, WeightsError), (blobproto_to_array, ValueError)):
        with pytest.raises(error, match="has 64 values"):
            read(blob)


@pytest.mark.parametrize("shape", [(2**31, 2**31, 4), (2**16,) * 4], ids=str)
def test_an_idx_file_must_hold_what_its_sizes_say(shape: tuple[int, ...]) -> None:
    data = b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    with pytest.raises(DataError, match="this IDX file should hold"):
        read_idx(data, "x")


def picture(width: int, height: int) -> bytes:
    """A PNG that is only a header and a few lines."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


@pytest.mark.parametrize("size", [(100000, 100000), (2**31 - 1, 2**31 - 1)], ids=str)
def test_a_picture_of_too_many_pixels_is_none(size: tuple[int, int]) -> None:
    assert decode_image(picture(*size), cv2.IMREAD_UNCHANGED) is None
    write([pb.Datum(data=picture(*size), encoded=True).SerializeToString()])
    with pytest.raises(DataError, match="holds no image that can be decoded"):
        data_net("", brew.TEST)
    Path("x.png").write_bytes(picture(*size))
    Path("list.txt").write_text("x.png 1\n")
    with pytest.raises(DataError, match="x.png is no image that can be read"):
        brew.Net(parse('layer { name: "d" type: "ImageData" top: "data" top: "label" image_data_param { source: "list.txt" } }', pb.NetParameter()), brew.TEST)
    with pytest.raises(BrewError, match="not a picture"):
        brew.pycaffe.io.load_image("x.png")


def test_a_small_hdf5_file_may_stand_for_too_many_zeros() -> None:
    with h5py.File("x.h5", "w") as file:
        file.create_dataset("data", (10, 2**45), np.float32, chunks=(1, 1024))
        file.create_group("weights")
    Path("list.txt").write_text("x.h5\n")
    with pytest.raises(NetError, match="needs 1310720.0 GiB of memory"):
        brew.Net(parse('layer { name: "d" type: "HDF5Data" top: "data" hdf5_data_param { source: "list.txt" batch_size: 1 } }', pb.NetParameter()), brew.TEST)
    with h5py.File("w.h5", "w") as file:
        file.create_dataset("data/ip/0", (2**25, 2**25), np.float32, chunks=(1, 1024))
    net = brew.Net(parse('layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } } '
                         'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2 } }', pb.NetParameter()), brew.TEST)
    with pytest.raises(WeightsError, match="w.h5: these weights need 4194304.0 GiB of memory"):
        net.copy_from("w.h5")
