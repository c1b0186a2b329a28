"""Blob: a named array with its gradient, as layers and users see it."""
from __future__ import annotations

from collections.abc import Collection
from math import prod
from typing import Any, TypeVar, cast

import numpy as np

from ..proto import brew_pb2 as pb
from ..proto import from_array, shape_of, to_array, to_half
from .errors import ShapeError, WeightsError
from .exclusive import Use
from .gradient import Dense, RowSparse
from .memory import ByColumns, Memory

MAX_AXES, MAX_COUNT = 32, 2**31 - 1


def address(array: Any) -> int:
    """Where an array of the GPU begins. Raises AttributeError for one that is not there."""
    return int(array.__cuda_array_interface__["data"][0])


M = TypeVar("M", bound=Memory)


def resized(memory: M, shape: tuple[int, ...], varies: bool) -> M:
    """A memory for another shape, with the values that fit; the same one if the shape is one that `varies`."""
    if varies and memory.owner:
        memory.store.resize(prod(shape))
        memory.shape = shape
        return memory
    new = type(memory)(shape, memory.store.resized(prod(shape)))
    new.owner = True
    return new


class Blob:
    """An array of float32 and its gradient, both allocated when first touched.

    Layers use `value` and `gradient` (Memory: any device, any layout). Users use `data` and `diff`: live numpy views.
    """

    changed: object = object()               # another one whenever any blob's shape has changed; see ShapeWatch
    users: tuple[Use, ...] = ()          # of the nets that the blob belongs to
    variable: Collection[int] = ()       # axes whose extent changes from batch to batch: the blob keeps its memory then

    def __init__(self, shape: tuple[int, ...] = ()):
        self.shape: tuple[int, ...] = ()
        self.value: Memory = Memory(())
        self.gradient = Dense(())
        self.reshape(*shape)

    def reshape(self, *shape: int) -> None:
        """Give the blob another shape; values stay where they fit in plain order. Arrays taken before keep their old shape, and
        if the blob has grown, the old values: take them anew. Raises ShapeError for an impossible shape."""
        shape = tuple(int(d) for d in shape)
        if shape == self.shape and self.value.store.size == prod(shape):
            return
        if len(shape) > MAX_AXES or any(not 0 <= d <= MAX_COUNT for d in shape) or prod(shape) > MAX_COUNT:
            raise ShapeError(f"no blob can have the shape {shape}: at most {MAX_AXES} axes, none negative, {MAX_COUNT} values in all")
        varies = self.varies_between(self.shape, shape)
        self.shape = shape
        self.value = resized(self.value, shape, varies)
        if self.sparse is not None:
            self.make_sparse(self.sparse.axis)
        else:
            self.gradient = resized(self.gradient, shape, varies)
        Blob.changed = object()

    def make_sparse(self, axis: int) -> None:
        """Let the gradient of this matrix be row-sparse; `axis` counts the rows, which lie in one piece each."""
        self.gradient = cast(Any, RowSparse(self.shape, axis))
        if axis == 1 and not isinstance(self.value, ByColumns):
            self.value = ByColumns(self.shape)

    @property
    def sparse(self) -> RowSparse | None:
        """The gradient, if it is row-sparse."""
        gradient: object = self.gradient
        return gradient if isinstance(gradient, RowSparse) else None

    def varies_between(self, before: tuple[int, ...], now: tuple[int, ...]) -> bool:
        """Whether two shapes differ along axes only that are declared variable."""
        return bool(self.variable) and len(before) == len(now) and all(
            a == b or axis in self.variable for axis, (a, b) in enumerate(zip(before, now)))

    def share_value(self, other: Blob) -> None:
        """Let this blob's values be those of `other` (same count), under this blob's shape."""
        if self.value.store is not other.value.store:
            self.value = Memory(self.shape, other.value.store)

    def share_gradient(self, other: Blob) -> None:
        """Let this blob's gradient be that of `other` (same count)."""
        if self.gradient.store is not other.gradient.store:
            self.gradient = Dense(self.shape, other.gradient.store)

    # ------------------------------------------------------------------------------------------- pycaffe's members

    @property
    def data(self) -> np.ndarray:
        """The values, shape `shape`: a live view, to read and to write. Raises NetError while another thread runs the
        net."""
        for use in self.users:
            use.check()
        return self.value.expose()

    @property
    def diff(self) -> np.ndarray:
        """The gradient, shape `shape`: a live view, to read and to write; of a row-sparse gradient a copy, to read."""
        for use in self.users:
            use.check()
        return self.gradient.diff()

    @property
    def _gpu_data_ptr(self) -> int:
        """The address of the values in the GPU's memory; AttributeError elsewhere, as in pycaffe built without one."""
        return address(self.value.read())

    @property
    def _gpu_diff_ptr(self) -> int:
        """The address of the gradient in the GPU's memory."""
        return address(self.gradient.read())

    @property
    def count(self) -> int:
        """How many values there are."""
        return prod(self.shape)

    def _legacy(self, axis: int) -> int:
        if len(self.shape) > 4:
            raise ShapeError(f"num, channels, height and width are for blobs of at most 4 axes; this one has {len(self.shape)}")
        return self.shape[axis] if axis < len(self.shape) else 1

    num = property(lambda self: self._legacy(0), doc="The first of at most 4 axes; missing axes count 1. Raises ShapeError for more.")
    channels = property(lambda self: self._legacy(1), doc="The second of at most 4 axes.")
    height = property(lambda self: self._legacy(2), doc="The third of at most 4 axes.")
    width = property(lambda self: self._legacy(3), doc="The fourth of at most 4 axes.")

    def __repr__(self) -> str:
        return f"Blob({' '.join(str(d) for d in self.shape)} ({self.count}))"

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: shape, values and gradient, in plain order. A copy belongs to no net."""
        parts = [None if part.is_zero else part.plain().ravel().copy() for part in (self.value, self.gradient)]
        return {"shape": self.shape, "parts": parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["shape"])                              # type: ignore[misc]
        for memory, values in zip((self.value, self.gradient), state["parts"]):
            if values is not None:
                memory.assign(values)

    # ------------------------------------------------------------------------------------------------------- files

    def load(self, proto: pb.BlobProto, what: str) -> None:
        """Take the values of a BlobProto of the same shape; a file's four axes match from the right, missing ones being 1.

        Raises WeightsError that names `what` if the shapes differ.
        """
        self.load_array(to_array(proto), shape_of(proto), what)
        if proto.diff or proto.double_diff or proto.raw_diff:
            self.gradient.assign(to_array(proto, diff=True))

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether `shape` is this blob's, or its four-axes form."""
        return tuple(shape) in (self.shape, (1,) * (4 - len(self.shape)) + self.shape)

    def load_array(self, array: np.ndarray, shape: tuple[int, ...], what: str) -> None:
        """Take the values of `array`, whose `shape` must be this blob's (or its four-axes form)."""
        if not self.fits(shape):
            raise WeightsError(f"{what} has the shape {shape} in the file and {self.shape} in the net")
        self.value.assign(array)

    def save(self, with_diff: bool = False, half: bool = False) -> pb.BlobProto:
        """A BlobProto of the values, and of the gradient if asked. `half`: of half-precision values, as NVIDIA's fork
        stores them; raises WeightsError for values that do not fit."""
        if half:
            return to_half(self.value.plain())
        return from_array(self.value.plain(), diff=self.gradient.plain() if with_diff else None)


class BlobVec(list[Blob]):
    """The parameters of a layer, as pycaffe has them."""

    def add_blob(self, *shape: int) -> Blob:
        """Append a parameter of this shape, zeros to begin with."""
        self.append(Blob(shape))
        return self[-1]
