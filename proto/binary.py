"""Binary protobuf files: caffemodels, means and solver states; lenient where forks use numbers for other things."""
from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from . import brew_pb2 as pb
from .errors import Position, WeightsError, read_bytes

M = TypeVar("M", bound=Message)
RAW = {pb.DOUBLE: "<f8", pb.FLOAT: "<f4", pb.FLOAT16: "<f2"}          # numpy's types of raw_data
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# What a layer must give: name, type, blobs (and what connects it, where it can be read).
V2_KEPT, V1_KEPT = {1: BYTES, 2: BYTES, 3: BYTES, 4: BYTES, 7: BYTES, 10: VARINT}, {4: BYTES, 5: VARINT, 6: BYTES, 2: BYTES, 3: BYTES, 1: BYTES}


def read_binary(path: str | Path, message: M, what: str) -> M:
    """Fill `message` from the binary file at `path`. Raises WeightsError if it is no whole `what`."""
    data = read_bytes(path, f"this {what}", WeightsError)
    try:
        message.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError, RecursionError):   # which one, depends on protobuf's implementation
        if not isinstance(message, pb.NetParameter):
            raise WeightsError(f"this is no {what}, or only the beginning of one ({len(data)} bytes)", Position(str(path))) from None
        message.Clear()
        _parse_leniently(data, message, str(path))
    if data and not message.ListFields():
        raise WeightsError(f"this is no {what}: nothing in it has a meaning", Position(str(path)))
    return message


def _parse_leniently(data: bytes, net: pb.NetParameter, path: str) -> None:
    """Read the layers one by one, and of each only name, type, connections and blobs if the rest does not parse."""
    whole = True
    try:
        for number, wire, start, end in _fields(data, 0, len(data)):
            if end > len(data):
                whole = False
                break
            chunk = data[start:end]
            if number == 1 and wire == BYTES:
                net.name = chunk.decode()
            elif number == 100 and wire == BYTES:
                _layer(chunk, net.layer.add(), V2_KEPT)
            elif number == 2 and wire == BYTES:
                _layer(chunk, net.layers.add(), V1_KEPT)
    except (DecodeError, UnicodeDecodeError):
        whole = False
    if not whole or not (net.layer or net.layers):
        last = [name for name in (*(x.name for x in net.layer), *(x.name for x in net.layers)) if name]
        raise WeightsError(f"this is no caffemodel, or only the beginning of one ({len(data)} bytes"
                           + (f'; it breaks off at layer "{last[-1]}")' if last else ")"), Position(path))


def _layer(chunk: bytes, layer: Message, kept: dict[int, int]) -> None:
    try:
        layer.ParseFromString(chunk)
        return
    except DecodeError:
        layer.Clear()
    fields = b""
    for number, wire, start, end in _fields(chunk, 0, len(chunk)):
        if kept.get(number) == wire:
            length = _varint(end - start) if wire == BYTES else b""
            fields += _varint(number << 3 | wire) + length + chunk[start:end]
    layer.ParseFromString(fields)


def _fields(data: bytes, at: int, end: int):    # type: ignore[no-untyped-def]
    """(number, wire type, start, end) of each field's value between two offsets. Stops where no field can begin."""
    while at < end:
        tag, at = _read_varint(data, at)
        wire = tag & 7
        start = at
        if wire == VARINT:
            _, at = _read_varint(data, at)
        elif wire in (FIXED64, FIXED32):
            at += 8 if wire == FIXED64 else 4
        elif wire == BYTES:
            length, start = _read_varint(data, at)
            at = start + length
        else:
            raise DecodeError(f"no wire type {wire}")
        yield tag >> 3, wire, start, at


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise DecodeError("the data end inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


# -------------------------------------------------------------------------------------------------------- BlobProto

def shape_of(proto: pb.BlobProto) -> tuple[int, ...]:
    """The shape a BlobProto has; files from before `shape` give four axes."""
    if any(proto.HasField(name) for name in ("num", "channels", "height", "width")):
        return proto.num, proto.channels, proto.height, proto.width
    return tuple(proto.shape.dim)


def _values(proto: pb.BlobProto, part: str) -> np.ndarray:
    """The flat values of "data" or "diff": float, double, or as NVIDIA's fork stores them."""
    if proto.HasField("aside") and part == "data":
        raise WeightsError("a blob's values lie in a file beside this one, which only nets and solvers read")
    raw, kind = getattr(proto, f"raw_{part}"), getattr(proto, f"raw_{part}_type")
    if not raw:
        return np.array(getattr(proto, f"double_{part}") or getattr(proto, part), dtype=np.float32)
    name = pb.Type.Name(kind) if proto.HasField(f"raw_{part}_type") else "unknown"
    if name == "unknown" or kind not in RAW:
        raise WeightsError(f"a blob has raw_{part} of the type {name}, and weights are FLOAT, FLOAT16 or DOUBLE")
    if len(raw) % np.dtype(RAW[kind]).itemsize:
        raise WeightsError(f"a blob has {len(raw)} bytes of raw_{part}, which are no whole number of {name}")
    return np.frombuffer(raw, RAW[kind]).astype(np.float32)


def to_array(proto: pb.BlobProto, diff: bool = False) -> np.ndarray:
    """The values of a BlobProto (or its diff) as a float32 array. Raises WeightsError if their number does not fit."""
    shape = shape_of(proto)
    array = _values(proto, "diff" if diff else "data")
    if any(d < 0 for d in shape) or array.size != prod(shape):
        raise WeightsError(f"a blob of shape {shape} has {array.size} values")
    try:
        return array.reshape(shape)
    except ValueError:                                    # too many axes, or an empty one beside ones too large for numpy
        raise WeightsError(f"no array can have the {len(shape)} axes of a blob") from None


def to_half(array: np.ndarray) -> pb.BlobProto:
    """A BlobProto of half-precision values, as NVIDIA's fork stores them. Raises WeightsError for values that do not
    fit."""
    with np.errstate(over="ignore"):
        half = np.asarray(array, np.float32).astype("<f2")
    if not np.isfinite(half[np.isfinite(array)]).all():
        raise WeightsError(f"a value of {np.abs(array).max():g} is too large for half precision, which ends at 65504")
    proto = pb.BlobProto(raw_data_type=pb.FLOAT16, raw_data=half.tobytes())
    proto.shape.dim[:] = array.shape
    proto.shape.SetInParent()
    return proto


def from_array(array: np.ndarray, proto: pb.BlobProto | None = None, diff: np.ndarray | None = None) -> pb.BlobProto:
    """A BlobProto (the given one, filled) with the shape and values of `array`, and `diff` beside them if given."""
    proto = pb.BlobProto() if proto is None else proto
    proto.shape.dim[:] = array.shape
    proto.shape.SetInParent()
    for number, values in ((5, array), (6, diff)):
        if values is not None and values.size:      # appending float by float takes 0.25 s a million; parsing, nothing
            packed = np.ascontiguousarray(values, "<f4").tobytes()
            proto.MergeFromString(_varint(number << 3 | BYTES) + _varint(len(packed)) + packed)
    return proto
