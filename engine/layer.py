"""The base of every layer, and the table of layer types."""
from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from ..proto import brew_pb2 as pb
from ..proto import forks
from .blob import Blob, BlobVec
from .context import active
from .errors import BrewError, NetError, WeightsError, fail, nearest, require
from .fillers import fill
from .memory import Memory
from .resources import check_memory
from .random import Random

LAYERS: dict[str, type[Layer]] = {}
L = TypeVar("L", bound="type[Layer]")


def register(*types: str) -> Callable[[L], L]:
    """Enter a class as the layer of these type strings. Each may have one class only."""
    def enter(cls: L) -> L:
        for name in types:
            if name in LAYERS:
                raise NetError(f'the layer type "{name}" is registered twice')
            LAYERS[name] = cls
        return cls
    return enter


def layer_class(param: pb.LayerParameter) -> type[Layer]:
    """The class for a layer's type. Raises NetError with the nearest known type, or the fork that has this one."""
    if param.type not in LAYERS and param.type in forks.TYPES:
        fail(param, f'the layer type "{param.type}" is known from {forks.TYPES[param.type]}, and is not built here', "type")
    if param.type not in LAYERS:
        fail(param, f'no layer type is called "{param.type}"{nearest(param.type, LAYERS)}\n  known types: {" ".join(sorted(LAYERS))}', "type")
    return LAYERS[param.type]


@dataclass(frozen=True)
class Arity:
    """How many blobs a layer takes or makes."""

    least: int
    most: int | None

    def allows(self, n: int) -> bool:
        return n >= self.least and (self.most is None or n <= self.most)

    def __str__(self) -> str:
        if self.most is None:
            return f"at least {self.least}"
        return str(self.least) if self.least == self.most else f"{self.least} to {self.most}"


def exactly(n: int) -> Arity:
    return Arity(n, n)


def between(least: int, most: int) -> Arity:
    return Arity(least, most)


def at_least(n: int) -> Arity:
    return Arity(n, None)


class Layer:
    """A node of the net. A layer of its own fills in: bottoms and tops, setup, reshape, forward, backward.

    setup(bottom, top)       once: read and check parameters, make `self.blobs` (with add_blob).
    reshape(bottom, top)     whenever a bottom's shape has changed: give the tops their shapes.
    forward(bottom, top)     fill the tops' values.
    backward(top, propagate_down, bottom)   add to the parameters' gradients, overwrite those of the bottoms that are asked for.

    The same body serves both devices: `bottom[0].value.read()` gives an array of the net's device, and `self.k` has the
    kernels for it (kernels.cpu or kernels.gpu, same names and arguments).
    """

    type = ""
    bottoms: Arity = exactly(1)
    tops: Arity = exactly(1)
    as_many_tops = False                 # one top for every bottom
    is_loss = False                      # its first top has a loss weight of 1 unless the net says otherwise
    in_place = True                      # may write its top over its bottom
    reads_values = True                  # False: its tops depend on the bottoms' shapes only, and gradients end here
    reshape_always = False               # reshape() before every forward, as layers written by users expect
    # names of blobs that it wants to see after each forward pass of the whole net: see observe()
    observes: Sequence[str] = ()
    counter = ""                         # the attribute that counts its forwards, if the next one depends on it; snapshots keep it
    carried: Sequence[Memory] = ()       # states that it takes from one batch to the next; snapshots keep them, too
    owns: Sequence[int] = ()             # the numbers of its parameters that no layer before it has
    statistics: Sequence[int] = ()       # the numbers of its parameters that forward itself changes; their lr_mult is 0
    given: Sequence[str] = ()            # attributes with what the program handed over; copies of the net get them
    bound = ""                           # why copies of a net with this layer are impossible
    hidden_counter = ""                  # the attribute that counts forwards which change state that cannot be put back
    private_blobs: Sequence[Blob] = ()           # blobs of its own, between its parts, that nobody needs between its calls
    backward_uses: Sequence[str] = ("bottom", "top")     # whose values backward needs: see backward_reads
    needs_sign = False                   # of those values, backward needs only which are positive
    keeps_sign = False                   # in place, it changes no value that has a gradient from positive to not, or back
    writes_all = True                    # every run writes all of its results; False: those of a run before may remain
    runs_backward = True                 # whether the net will call backward(), as far as it has planned
    per_channel = False                  # forward is x * scale + shift for each channel, whatever x is: see affine()
    optional_blobs = 0                   # so many of its last parameters may be missing in a file of weights
    devices: tuple[str, ...] = ("cpu", "gpu")
    parts: dict[str, float] | None = None      # where not None, the seconds that parts took, by their names: see part()
    user_code = False                    # its shapes are known only after importing a module of the user

    def __init__(self, param: pb.LayerParameter, phase: int = pb.TRAIN, seed: int = 0):
        self.param, self.phase, self.seed = param, phase, seed
        self.type, self.name = param.type, param.name
        self.context = active()
        self.device = self.context.device
        # shapes only: parameters are not filled, engines not made (brew check, brew summary)
        self.dry = self.context.dry
        self.k: Any = self.device.kernels
        self.blobs: BlobVec = BlobVec()
        self.loss_weights: list[float] = []
        self.weighted: list[tuple[int, ...]] = []        # the shapes of the tops that the weights were written for
        self.param_specs: list[pb.ParamSpec] = []
        self.param_propagate_down: list[bool] = []
        self.before = Memory()               # see remember()
        require(self.device.name in self.devices, param, f"this layer cannot run on the {self.device.name.upper()}", "type")

    @property
    def shown(self) -> Any:
        """What users see of the layer: itself, or their own object."""
        return self

    # ------------------------------------------------------------------------------------------ what a layer fills in

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None: ...
    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None: ...
    def forward(self, bottom: list[Blob], top: list[Blob]) -> None: ...
    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None: ...

    def may_force_backward(self, bottom: int) -> bool:
        """Whether force_backward asks for the gradient of this bottom: not for labels and the like."""
        return True

    def backward_reads(self, bottom: list[Blob], top: list[Blob]) -> Sequence[Blob]:
        """The blobs whose values (or their layout) backward uses, by default those that `backward_uses` names. In training the
        memory of all others may be released, and a layer in place may overwrite them."""
        return [*(bottom if "bottom" in self.backward_uses else ()), *(top if "top" in self.backward_uses else ()), *self.private_blobs]

    def keeper(self) -> Any:
        """An object whose snapshot_state() returns what the next forward depends on besides `counter` and `carried`, and whose
        restore_state(state) takes it back; None if there is nothing."""
        return None

    def observe(self, results: Mapping[str, np.ndarray]) -> None:
        """Called after each forward pass of the whole net with copies of the blobs that it `observes`."""

    @property
    def stream(self) -> bool:
        """Whether it reads what cannot be read again."""
        return False

    def mark(self) -> None:
        """Called when an iteration begins: nobody goes back to before it any more."""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of a part of its work, where somebody asks for it (brew time)."""
        if self.parts is None:
            yield
            return
        self.device.synchronize()
        start = perf_counter()
        yield
        self.device.synchronize()
        self.parts[name] = self.parts.get(name, 0.0) + perf_counter() - start

    def forgets(self) -> bool:
        """Whether the next forward may depend on something that snapshots cannot keep."""
        return False

    def flops(self, bottom: list[Blob], top: list[Blob]) -> int:
        """Multiplications and additions of one forward pass; 0 for layers that only move data or are too cheap to count."""
        return 0

    def table_bytes(self) -> int:
        """Bytes of the tables that it keeps besides its blobs."""
        return 0

    fuses_backward = False               # has backward_fused, too

    def can_fuse(self, following: Sequence[Layer]) -> bool:
        """Whether this layer can do the work of those behind it in one pass of its own: layers that rewrite its top in place
        and, where values need not be kept, one that joins it with other blobs, and those that rewrite the result in place."""
        return False

    def forward_fused(self, bottom: list[Blob], top: list[Blob], following: Sequence[Any]) -> None:
        """forward() of this layer and of those behind it. Their own backward() must go on working. `bottom` has this layer's
        bottoms and then those that are joined; `top` is the top of the last."""

    def backward_fused(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob], following: Sequence[Any]) -> None:
        """backward() of those behind it and of this layer, after forward_fused() or after each one's own forward()."""

    def affine(self) -> tuple[Any, Any]:
        """Of a layer that is `per_channel`: (scale, shift) (C) at present, so that a layer before it can take them over."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------ what a layer is given

    def add_blob(self, shape: tuple[int, ...], filler: pb.FillerParameter | None = None,
                 sparse_axis: int | None = None) -> Blob:
        """A further parameter: with the values that the LayerParameter brings, else filled (zeros without a filler).
        With `sparse_axis`, its gradient is row-sparse and that axis of the matrix counts the rows."""
        index = len(self.blobs)
        blob = Blob(shape)
        if sparse_axis is not None:
            blob.make_sparse(sparse_axis)
        if self.dry:
            self.blobs.append(blob)
            return blob
        check_memory(self.param, 4 * blob.count, f"parameter {index} of shape {shape}")
        if index < len(self.param.blobs):
            blob.load(self.param.blobs[index], f'blob {index} of layer "{self.name}"')
        elif filler is not None:
            values = fill(shape, filler, Random(self.seed, f"{self.name}/filler{index}"), self.param)
            blob.value.assign(values)
        self.blobs.append(blob)
        return blob

    def remember(self, x: Any, layout: Any, shape: tuple[int, ...]) -> None:
        """Keep a copy of an array of that shape that will be written over in place, as `self.before`, for backward."""
        if self.before.shape != shape:
            self.before = Memory(shape)
        self.before.write(layout)[...] = x

    def axis(self, index: int, axes: int, field: str = "") -> int:
        """`index` counted from the front, for a blob of so many axes. Raises NetError if there is no such axis."""
        require(-axes <= index < axes, self.param, f"there is no axis {index}: the blob has {axes} axes", field)
        return index % axes

    def items(self, blob: Blob) -> int:
        """How many items a bottom has, the extent of its axis 0. Raises NetError for a scalar."""
        require(blob.shape, self.param, "needs items, axis 0; the bottom is a scalar", "bottom")
        return blob.shape[0]

    def require(self, condition: object, message: str, field: str = "", error: builtins.type[BrewError] = NetError) -> None:
        """Raise NetError about this layer, at the line of `field` ("pooling_param.pad"), unless `condition` holds."""
        require(condition, self.param, message, field, error)

    # ------------------------------------------------------------------------------------------------------- for the net

    def __getstate__(self) -> object:
        raise NetError(f'layer "{self.name}" cannot be pickled or copied by itself: '
                       "pickle or copy the net that it is a part of")

    def check_counts(self, bottoms: int, tops: int) -> None:
        for what, arity, n in (("bottom", self.bottoms, bottoms), ("top", self.tops, tops)):
            self.require(arity.allows(n), f"takes {arity} {what} blob{'s' if arity.most != 1 else ''}, found {n}", what)
        if self.as_many_tops:
            self.require(bottoms == tops, f"makes one top for every bottom, found {bottoms} bottoms and {tops} tops", "top")
        weights = list(self.param.loss_weight)
        self.require(len(weights) in (0, tops), f"loss_weight is given once for each of the {tops} tops or not at all, found {len(weights)}", "loss_weight")

    def set_loss_weights(self, top: list[Blob]) -> None:
        """The loss weight of a top lives in its gradient, where backward finds it."""
        given = list(self.param.loss_weight)
        self.loss_weights = given or [1.0 if self.is_loss and i == 0 else 0.0 for i in range(len(top))]
        for blob, weight in zip(top, self.loss_weights):
            if weight:
                blob.gradient.write()[...] = np.float32(weight)
        self.weighted = [blob.shape for blob in top]

    def loss(self, top: list[Blob]) -> float:
        """The weighted sum of the tops that have a loss weight."""
        if [blob.shape for blob in top] != self.weighted:        # a batch with more items, or after one without any
            self.set_loss_weights(top)
        return sum(float((blob.value.read() * blob.gradient.read()).sum()) for blob, w in zip(top, self.loss_weights) if w)

    def to_proto(self, with_diff: bool = False, half: bool = False, values: bool = True) -> pb.LayerParameter:
        """The LayerParameter with the blobs' present values; see Blob.save."""
        param = pb.LayerParameter()
        param.CopyFrom(self.param)
        param.ClearField("blobs")
        param.ClearField("position")
        try:
            param.blobs.extend([blob.save(with_diff, half) for blob in self.blobs if values])
        except WeightsError as e:
            fail(self.param, str(e), error=WeightsError)
        return param


def channels_view(shape: tuple[int, ...], first: int, last: int) -> tuple[int, int, int]:
    """(outer, dim, inner): the axes first..last-1 of a shape as one, those before and after as one each."""
    return prod(shape[:first]), prod(shape[first:last]), prod(shape[last:])


def item_rows(shape: tuple[int, ...]) -> tuple[int, int]:
    """(N, values of an item) of an (N, ...) shape: numpy cannot tell the second from an array without items."""
    return shape[0], prod(shape[1:])


def pair(layer: Layer, message: Any, field: str, both: str, height: str, width: str, default: int | None) -> tuple[int, int]:
    """(height, width) from a field for both or from one for each. Giving both forms, or half of one, is an error."""
    each = [message.HasField(height), message.HasField(width)]
    layer.require(not (message.HasField(both) and any(each)), f"{both} excludes {height} and {width}", f"{field}.{both}")
    if any(each):
        layer.require(all(each) or default is not None, f"{height} and {width} go together", f"{field}.{height if each[0] else width}")
        return (getattr(message, height) if each[0] else default or 0, getattr(message, width) if each[1] else default or 0)
    if message.HasField(both):
        return getattr(message, both), getattr(message, both)
    layer.require(default is not None, f"{both} (or {height} and {width}) must be given", field)
    return default or 0, default or 0
