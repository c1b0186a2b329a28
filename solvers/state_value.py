"""Python values as messages: what layers written in Python add to a snapshot. Unlike pickle, decoding runs no code."""
from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..proto import brew_pb2 as pb

V = pb.StateValue
KINDS = "biufcSUmM"                      # numpy's dtype.kind of arrays whose elements are plain bytes
DEEPEST = 32                             # protobuf parses at most 100 nested messages
TYPES = "None, bool, int, float, str, bytes, numpy arrays and scalars, and lists, tuples and dicts of these"


def encode(value: Any, into: V, place: str, depth: int = 0) -> None:
    """Fill `into`. Types are exact, since decode() would return the base class of a subclass: raises TypeError, which names
    the place, for all others."""
    kind = type(value)
    if depth > DEEPEST:
        raise TypeError(f"{place} is nested more than {DEEPEST} deep")
    if value is None:
        into.kind = V.NONE
    elif kind is bool or kind is int:
        into.kind, into.data = V.BOOL if kind is bool else V.INT, int(value).to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    elif kind is float:
        into.kind, into.real = V.FLOAT, value
    elif kind is str:
        into.kind, into.data = V.STR, value.encode("utf-8", "surrogatepass")
    elif kind is bytes:
        into.kind, into.data = V.BYTES, value
    elif kind is list or kind is tuple:
        into.kind = V.LIST if kind is list else V.TUPLE
        for i, item in enumerate(value):
            encode(item, into.item.add(), f"{place}[{i}]", depth + 1)
    elif kind is dict:
        into.kind = V.DICT
        for key, item in value.items():
            encode(key, into.item.add(), f"the key {key!r} of {place}", depth + 1)
            encode(item, into.item.add(), f"{place}[{key!r}]", depth + 1)
    elif (kind is np.ndarray or isinstance(value, np.generic)) and value.dtype.kind in KINDS:
        into.kind, into.dtype, into.data = V.ARRAY if kind is np.ndarray else V.SCALAR, value.dtype.str, value.tobytes()
        into.dim.extend(value.shape)
    else:
        what = f"an array of dtype {value.dtype}" if kind is np.ndarray else f"of type {kind.__module__}.{kind.__qualname__}"
        raise TypeError(f"{place} is {what}; a state may hold {TYPES}")


def decode(value: V) -> Any:
    """The value that was encoded. Raises ValueError or TypeError if the message makes no sense."""
    kind = value.kind
    if kind == V.NONE:
        return None
    if kind == V.BOOL or kind == V.INT:
        number = int.from_bytes(value.data, "little", signed=True)
        return bool(number) if kind == V.BOOL else number
    if kind == V.FLOAT:
        return value.real
    if kind == V.STR:
        return value.data.decode("utf-8", "surrogatepass")
    if kind == V.BYTES:
        return value.data
    if kind in (V.ARRAY, V.SCALAR):
        dtype = np.dtype(value.dtype)
        if dtype.kind not in KINDS or dtype.itemsize * prod(value.dim) != len(value.data):
            raise ValueError(f"{len(value.data)} bytes are no array of shape {tuple(value.dim)} and dtype {dtype}")
        array = np.ndarray(tuple(value.dim), dtype, value.data)          # read-only: `data` is its buffer
        return array.copy() if kind == V.ARRAY else array[()]
    items = [decode(item) for item in value.item]
    if kind == V.DICT:
        return dict(zip(items[::2], items[1::2], strict=True))
    return items if kind == V.LIST else tuple(items)
