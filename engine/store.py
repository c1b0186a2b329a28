"""Store: the copies of one array, on the devices, in the layouts and in the types in which somebody needed it."""
from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from .context import Context, active
from .device import Cpu
from .layout import PLAIN

FLOAT32, FLOAT16, BFLOAT16 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
INT32, UINT8 = np.dtype(np.int32), np.dtype(np.uint8)
DTYPES = (FLOAT32, FLOAT16, BFLOAT16, INT32, UINT8)
NO_INT = -2**31              # what stands for a float that no int32 holds, and for NaN


@dataclass(frozen=True, eq=False)
class Copy:
    """What identifies a copy: the device that it is on, its layout and its type (None: float32, as arithmetic takes
    it).

    There is one object for each, made by `copy_key`. A layout alone stands for the copy that nearly every call asks
    for, the CPU's in float32: nothing need be looked up for it.
    """

    device: str
    layout: Any
    dtype: np.dtype[Any] | None

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.dtype or ""), "GPU" if self.device == "gpu" else "") if part)


def copy_key(device: str, layout: Any, dtype: np.dtype[Any] | None) -> Any:
    """The key of a copy."""
    if device == "cpu" and dtype is None:
        return layout
    key = _keys.get((device, layout, dtype))
    return _keys.setdefault((device, layout, dtype), Copy(device, layout, dtype)) if key is None else key


_keys: dict[tuple[str, Any, np.dtype[Any] | None], Copy] = {}
GPU = copy_key("gpu", PLAIN, None)


def cast(xp: Any, values: Any, dtype: np.dtype[Any]) -> Any:
    """The values in another type. Floats lose what is behind the point; those that no int32 holds, and NaN, become
    NO_INT: what a processor makes of them differs between processors."""
    if dtype == INT32 and values.dtype.kind == "f":
        return xp.where(abs(values) < 2.0**31, values, NO_INT).astype(dtype)
    return values.astype(dtype)


class Store:
    """The copies of one array of `size` values.

    Some of the copies are up to date: those that hold what was last written, and those made of it since. None of them
    is if all values are zero, or if the array was given up. Others keep their memory for the next time.
    """

    __slots__ = ("size", "context", "gpu", "version", "copies", "newest", "home", "exposed", "lent", "pooled", "lost",
                 "decode", "__weakref__")

    def __init__(self, size: int, context: Context | None = None):
        self.size = size
        self.context = context or active()
        self.gpu = self.context.device.name == "gpu"     # where layers read and write it
        self.version = 0                         # changes whenever somebody may have written
        self.copies: dict[Any, Any] = {}         # for this file alone, as the next five: others ask the methods
        self.newest: set[Any] = set()            # the keys of those up to date
        self.home: Any = PLAIN                   # the key last written
        self.exposed = False                     # the plain copy was handed to the user, who may look or write any time
        self.lent: dict[Any, Any] = {}           # which copies are the pool's, whole
        self.pooled = False                      # whether the next copies are to come from the pool
        self.lost: Callable[[], None] | None = None      # set when given up: called when somebody wants the values
        self.decode: Callable[[Any, Any, Any], None] | None = None   # (values in another type, floats to fill, kernels)

    # ---------------------------------------------------------------------------------------------------- its states

    def is_current(self, key: Any) -> bool:
        """Whether this copy is up to date."""
        return key in self.newest

    @property
    def is_zero(self) -> bool:
        """Whether nothing was written since the values were last cleared: all are zero and need not be read."""
        return not self.newest and self.lost is None

    @property
    def is_given_up(self) -> bool:
        """Whether its memory went to others, and nobody has written it since."""
        return self.lost is not None

    @property
    def current(self) -> frozenset[Any]:
        """The keys of the copies that are up to date."""
        return frozenset(self.newest)

    @property
    def layout(self) -> Any:
        """The layout that reading costs nothing in: the one last written, if it is up to date."""
        home = self.home
        return home if home in self.newest and home.__class__ is not Copy else PLAIN

    @property
    def nbytes(self) -> int:
        """Bytes that all copies take."""
        return sum(array.nbytes for array in self.copies.values())

    def is_looked_at(self) -> bool:
        """Whether the user still holds the plain copy or a part of it. This is the one place where that is found out:
        all views of numpy's refer to the array that owns the memory, so that somebody else holds one if there are more
        references to it than the ones known here. No view of it may therefore be kept elsewhere in the engine."""
        plain = self.copies.get(PLAIN) if self.exposed else None
        if plain is None:
            return False
        base = plain.base
        return base is None or sys.getrefcount(base) > 3       # plain itself, the name here, the argument

    # ------------------------------------------------------------------------------------------------------- copies

    def _new(self, key: Any) -> Any:
        if key.__class__ is Copy:
            dtype = key.dtype or FLOAT32
            return self.context.device.empty(self.size, dtype) if key.device == "gpu" else Cpu.empty(self.size, dtype)
        size = self.size if key is PLAIN else key.size
        if not self.pooled:
            return Cpu.empty(size)
        self.lent[key] = self.context.pool.take(size)
        if key is not PLAIN:
            key.clear_padding(self.lent[key][:size])
        return self.lent[key][:size]

    def read(self, key: Any) -> Any:
        """The up-to-date copy `key`, brought there if it is not. Nets that share weights may do so in several threads
        at once: a copy is seen by the others when it is complete."""
        if key in self.newest:
            return self.copies[key]
        if self.lost is not None:
            self.lost()
            return self.read(key)
        array = self.copies[key] if key in self.copies else self._new(key)
        if not self.newest:
            array[...] = 0
        elif key.__class__ is Copy and key.dtype is not None:
            self._convert(key, array)
        elif key is GPU:
            self._upload(array)
        elif key is PLAIN:
            self._to_plain(array)
        else:
            key.pack(self.read(PLAIN), array)
        self.copies[key] = array
        self.newest.add(key)
        return array

    def _to_plain(self, array: Any) -> None:
        floats = [key for key in self.newest if key.__class__ is not Copy or key.dtype is None]
        if GPU in floats:
            array[...] = _on_cpu(self.copies[GPU])
        elif floats:
            floats[0].unpack(self.copies[floats[0]], array)
        else:
            source = next(iter(self.newest))
            self._decode(_on_cpu(self.copies[source]), array, self.context.cpu.kernels)

    def _upload(self, array: Any) -> None:
        typed = next((key for key in self.newest if key.__class__ is Copy and key.dtype), None)
        if PLAIN not in self.newest and typed is not None and len(self.newest) == 1:      # few bytes travel
            self._decode(self.read(copy_key("gpu", PLAIN, typed.dtype)), array, self.context.device.kernels)
        else:
            _fill(array, self.read(PLAIN))

    def _convert(self, key: Copy, array: Any) -> None:
        """Fill the copy `key` of another type than float32."""
        dtype = key.dtype
        assert dtype is not None
        other = copy_key("cpu" if key.device == "gpu" else "gpu", key.layout, dtype)
        if other in self.newest:
            _fill(array, _on_cpu(self.copies[other]))
        elif key.device == "gpu":
            array[...] = cast(self.context.device.xp, self.read(GPU), dtype)
        else:
            array[...] = cast(np, self.read(key.layout), dtype)

    def _decode(self, values: Any, floats: Any, kernels: Any) -> None:
        if self.decode is None:
            floats[...] = values
        else:
            self.decode(values, floats, kernels)

    # ------------------------------------------------------------------------------------------------ changes of state

    def write(self, key: Any) -> Any:
        """The copy `key` for overwriting whole; the others are out of date from now on."""
        if key not in self.copies:
            self.copies[key] = self._new(key)
        if self.home is not key or len(self.newest) != 1 or key not in self.newest:
            self.newest = {key}
            self.home = key
        self.version += 1
        self.lost = None
        return self.copies[key]

    def update(self, key: Any) -> Any:
        """The copy `key` brought up to date, to be changed; the others are out of date from now on."""
        if key not in self.newest:
            self.read(key)
        if self.home is key and len(self.newest) == 1:             # as in every run but the first
            self.version += 1
            return self.copies[key]
        return self.write(key)

    def put(self, key: Any, array: Any, decode: Callable[[Any, Any, Any], None] | None = None) -> None:
        """Let `array` be the copy `key`, and the only one up to date. `decode` makes floats of values in another
        type."""
        self.copies[key], self.decode = array, decode
        self.lent.pop(key, None)
        self.write(key)

    def move_to(self, key: Any, array: Any) -> None:
        """Let the copy `key` be this array, a part of an arena, from now on; the values stay. Arrays that the user
        holds show them as long as he looks."""
        if self.newest:
            array[...] = self.read(key)
        if not self.is_looked_at():
            self.copies.clear()
        self.copies[key] = array
        self.newest, self.home = ({key} if self.newest else set()), key

    def clear(self) -> None:
        """Make all values zero, without touching memory until somebody reads them."""
        self.newest, self.lost = set(), None

    def take_from_pool(self) -> None:
        """Let the next copies come from the pool."""
        self.pooled = True

    def give_up(self, lost: Callable[[], None]) -> None:
        """Let others have the memory, unless the user holds the plain copy. Who wants the values again calls `lost`,
        which makes them or raises."""
        if self.exposed and self.is_looked_at():
            return
        for array in self.lent.values():
            self.context.pool.give(array)
        self.lent, self.copies, self.newest, self.pooled, self.lost = {}, {}, set(), True, lost

    def expose(self) -> np.ndarray:
        """The plain copy (flat) for the user, who may keep, read and write it."""
        plain: np.ndarray = self.read(PLAIN)
        self.write(PLAIN)
        self.exposed = True
        self.lent.pop(PLAIN, None)               # the user's now, not the pool's
        return plain

    def settle(self, entering: bool) -> None:
        """Before (entering) and after a run: a user who holds the plain copy may have written it, and will look at
        it."""
        if not self.exposed:
            return
        if not self.is_looked_at():
            self.exposed = False
        elif not entering:
            self.read(PLAIN)
        elif PLAIN in self.newest:
            self.write(PLAIN)

    def resized(self, size: int) -> Store:
        """A store of another size, with the values in plain order that fit, and with this one's buffer if it is large
        enough: the user sees the same one."""
        new = Store(size, self.context)
        if self.is_looked_at():
            self.read(PLAIN)
        if PLAIN in self.newest:
            self.lent.pop(PLAIN, None)
            new.copies[PLAIN] = _with_size(self.copies[PLAIN], size, size)
            new.newest, new.exposed = {PLAIN}, self.exposed
        return new

    def resize(self, size: int) -> None:
        """Become of another size and stay the same store, so that plans made for it stay valid. Values in plain order
        stay where they fit. Buffers that are too small grow by a quarter, those of layouts are made anew."""
        if self.is_looked_at():
            self.read(PLAIN)
        self.newest = {PLAIN} if PLAIN in self.newest else set()
        for key in list(self.copies):
            if key is PLAIN or key.__class__ is Copy:
                grown = _with_size(self.copies[key], size, size + size // 4)
                if key is PLAIN and grown.base is not self.copies[key].base and key in self.lent:
                    self.context.pool.give(self.lent.pop(key))
                self.copies[key] = grown
            else:
                del self.copies[key]
                if key in self.lent:
                    self.context.pool.give(self.lent.pop(key))
        self.size, self.lost, self.home = size, None, PLAIN


def _with_size(array: Any, size: int, room: int) -> Any:
    """The first `size` values of an array; if its buffer is smaller, in a new buffer of `room` values."""
    if array.size >= size:
        return array[:size]
    base = array.base
    if base is not None and base.ndim == 1 and base.dtype == array.dtype:
        start = (_address(array) - _address(base)) // array.itemsize
        if start + size <= base.size:
            return base[start:start + size]
    new = Cpu.empty(room, array.dtype) if isinstance(array, np.ndarray) else type(array)(room, array.dtype)
    new[:array.size] = array
    return new[:size]


def _address(array: Any) -> int:
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def _on_cpu(array: Any) -> Any:
    return array.get() if hasattr(array, "get") else array


def _fill(array: Any, values: np.ndarray) -> None:
    """Copy values to an array of a GPU, or of what stands in for one."""
    if hasattr(array, "set"):
        array.set(values)
    else:
        array[...] = values
