"""Python values in snapshots come back as they were, or are refused by name."""
from __future__ import annotations

import random
import sys
from collections import Counter, OrderedDict, deque, namedtuple
from typing import Any

import numpy as np
import pytest

from brew.proto import pb
from brew.solvers.state_value import decode, encode


def there_and_back(value: Any) -> Any:
    message = pb.StateValue()
    encode(value, message, "state")
    again = pb.StateValue()
    again.ParseFromString(message.SerializeToString())
    return decode(again)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))                  # the order, too
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return bool(a == b) or a != a and b != b


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 127, 128, -128, -129, 2**63, -2**63, 2**128 + 1, -2**200, 0.0, -0.0, 1e-320, float("inf"), float("nan"), "", "é\0\U0001F600", "\udc80",
    b"", b"\0\xff", [], (), {}, [[]], ((), [{}]), {"a": 1, 2: "b", None: [], (1, "x"): 0.5, b"k": True, 1.5: None}, {"z": 1, "a": 2},
    *(np.arange(6).reshape(2, 3).astype(kind) for kind in ("?", "i1", "u1", "<i2", ">i2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16", "M8[s]", "m8[ms]")),
    np.array(["abc", "d\u00e9"]), np.array([b"ab", b"c"]), np.zeros((0, 3)), np.zeros(()), np.array([""]), np.arange(6)[::2], np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.float32(1.5), np.int64(-1), np.bool_(True), np.str_("s"), np.datetime64("2020-01-01"), np.array([np.nan, np.inf]),
    random.Random(3).getstate(), *(kind(3).state for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64)),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: repr(v)[:40].encode("ascii", "replace").decode())
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert same(there_and_back(value), value)
    assert same(there_and_back({"in": [value, (value,)]}), {"in": [value, (value,)]})


def test_arrays_come_back_writable_and_apart() -> None:
    array = np.arange(3)
    first, second = there_and_back([array, array])
    first[0] = 9
    assert second[0] == 0 and array[0] == 0


Point = namedtuple("Point", "x y")
TYPES = "a state may hold None, bool, int, float, str, bytes, numpy arrays and scalars, and lists, tuples and dicts of these"
REFUSED: dict[str, tuple[Any, str]] = {
    "an object": (object(), f"state is of type builtins.object; {TYPES}"),
    "a set": ({"a": [1, {2}]}, f"state['a'][1] is of type builtins.set; {TYPES}"),
    "a deque": ([deque()], f"state[0] is of type collections.deque; {TYPES}"),
    "a generator": ({"rng": np.random.default_rng(0)}, f"state['rng'] is of type numpy.random._generator.Generator; {TYPES}"),
    "an ordered dict": (OrderedDict(), f"state is of type collections.OrderedDict; {TYPES}"),
    "a counter": (Counter(), f"state is of type collections.Counter; {TYPES}"),
    "a named tuple": (Point(1, 2), f"state is of type {Point.__module__}.Point; {TYPES}"),
    "a complex number": (1j, f"state is of type builtins.complex; {TYPES}"),
    "a function": ((len,), f"state[0] is of type builtins.builtin_function_or_method; {TYPES}"),
    "a key": ({"a": {frozenset(): 1}}, f"the key frozenset() of state['a'] is of type builtins.frozenset; {TYPES}"),
    "an array of objects": ({"x": np.array([None])}, f"state['x'] is an array of dtype object; {TYPES}"),
    "a record array": (np.zeros(2, "i4,f4"), f"state is an array of dtype [('f0', '<i4'), ('f1', '<f4')]; {TYPES}"),
    "a masked array": (np.ma.zeros(2), f"state is of type {np.ma.MaskedArray.__module__}.MaskedArray; {TYPES}"),
}


@pytest.mark.parametrize("value, message", REFUSED.values(), ids=REFUSED.keys())
def test_other_types_are_refused_by_place(value: Any, message: str) -> None:
    with pytest.raises(TypeError) as e:
        encode(value, pb.StateValue(), "state")
    assert str(e.value) == message


def test_a_list_in_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError, match=r"^state(\[0\])+ is nested more than 32 deep$"):
        encode(loop, pb.StateValue(), "state")
    deep: Any = 1
    for _ in range(32):
        deep = [deep]
    assert same(there_and_back(deep), deep)


MALFORMED = {
    "an array of pointers": pb.StateValue(kind=pb.StateValue.ARRAY, dtype="O", data=b"x" * 8, dim=[1]),
    "a record of pointers": pb.StateValue(kind=pb.StateValue.ARRAY, dtype="O,i4", data=b"x" * 12, dim=[1]),
    "too few bytes": pb.StateValue(kind=pb.StateValue.ARRAY, dtype="<f4", data=b"x" * 8, dim=[3]),
    "a negative shape": pb.StateValue(kind=pb.StateValue.ARRAY, dtype="<f4", data=b"x" * 16, dim=[-2, -2]),
    "no dtype of numpy": pb.StateValue(kind=pb.StateValue.ARRAY, dtype="what", data=b"", dim=[0]),
    "no UTF-8": pb.StateValue(kind=pb.StateValue.STR, data=b"\xff"),
    "a key without a value": pb.StateValue(kind=pb.StateValue.DICT, item=[pb.StateValue(kind=pb.StateValue.NONE)]),
    "a list as key": pb.StateValue(kind=pb.StateValue.DICT, item=[pb.StateValue(kind=pb.StateValue.LIST), pb.StateValue(kind=pb.StateValue.NONE)]),
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED.keys())
def test_messages_that_make_no_sense_raise(message: pb.StateValue) -> None:
    with pytest.raises((TypeError, ValueError)):
        decode(message)


def test_the_byte_order_is_kept() -> None:
    assert there_and_back(np.arange(2, dtype=">i4" if sys.byteorder == "little" else "<i4")).dtype.byteorder in "<>"
