"""Net: layers joined by blobs, built from a prototxt, run forward and backward."""
from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np

from ..proto import brew_pb2 as pb
from ..proto import read_net, settle_forks, strip_positions, to_text
from . import aside, context, pickling, weights
from .arena import Arena, Bucket
from .blob import Blob
from .build import build
from .device import Cpu, Gpu
from .errors import NetError, SolverError, WeightsError, check_readable, fail
from .exclusive import Use, alone, as_user_code, claim, exclusive, using
from .files import write_whole
from .held import Settled
from .layer import Layer, layer_class
from .passes import filter_layers, insert_splits, leave_out_unknown, left_out, merged_state
from .run import Run

log = logging.getLogger("brew")


class Net:
    """A net of layers, from a prototxt file or a NetParameter, for the current context (brew.Context): its device, its
    seed.

    phase, level, stages choose the layers, as NetStateRules say.  weights: caffemodel(s) to load.  Members are
    pycaffe's: blobs (name -> Blob), params (layer -> its blobs), layers, inputs, outputs, forward, backward, reshape,
    save, copy_from. Raises PrototxtError, NetError or ShapeError with file, line and layer.
    """

    def __init__(self, network: str | Path | pb.NetParameter, phase: Any = pb.TEST, level: int = 0,
                 stages: list[str] | None = None, weights: str | Path | None = None, seed: int | None = None):
        early = frozenset(vars(self))                          # what a subclass has set before
        self.file = "" if isinstance(network, pb.NetParameter) else str(network)
        param = network if isinstance(network, pb.NetParameter) else read_net(network)
        self.param = pb.NetParameter()
        self.param.CopyFrom(param)
        settle_forks(self.param)
        self.param.state.CopyFrom(merged_state(param.state, pb.NetState(phase=phase, level=level, stage=stages or [])))
        self.name, self.phase = param.name, phase
        self.context = context.current()
        self.seed = context.new_seed() if seed is None else seed
        if weights is not None:
            check_readable(weights, "this caffemodel", WeightsError)         # before the net is built and logged
        declared = insert_splits(filter_layers(self.param), left_out(self.param))
        self.unknown: list[pb.LayerParameter] = []             # left out of a dry run: they depend on Python layers
        if not self.context.imports:
            declared, self.unknown = leave_out_unknown(declared, lambda layer: layer_class(layer).user_code)
        self._build(declared, early)
        if weights is not None:
            self.copy_from(weights)

    def _build(self, chosen: pb.NetParameter, early: frozenset[str] = frozenset()) -> None:
        """Make the graph of the layers that were chosen, and what runs it."""
        self.context.activate()
        if log.isEnabledFor(logging.INFO):
            log.info("Initializing net from parameters: \n%s", to_text(self.param, weights=False))
        self.use = Use(self.name)
        self.graph = graph = build(chosen, {layer.name for layer in self.param.layer}, self.seed, self.context,
                                   self.phase)
        self.nodes, self.bottoms, self.tops = graph.nodes, graph.bottoms, graph.tops
        self.inputs, self.outputs, self.memory = graph.inputs, graph.outputs, graph.memory
        self.learnable = graph.parameters
        self.arena: Arena | None = None
        self.keep_blobs = True                                 # after a training step: read by the solver, which clears it for its own net
        keep = self.phase != pb.TEST or any(
            layer.reshape_always or layer.carried or layer.counter and layer.phase == pb.TRAIN for layer in graph.nodes)
        self.run = Run(graph, self.context, self.use, keep)
        claim(self.use, (*graph.blobs, *(blob for layer in graph.nodes for blob in layer.blobs)))
        self.own_members = frozenset((*vars(self), "unknown", "own_members")) - early      # others are the user's
        log.info("Network initialization done.")

    @property
    def device(self) -> Cpu | Gpu:
        """What the net runs on."""
        return self.context.device

    # ---------------------------------------------------------------------------------------------------- running

    @exclusive
    def reshape(self) -> None:
        """Pass changed input shapes through the net."""
        self.context.activate()
        self.run.reshape()

    def forget_shapes(self, i: int) -> None:
        """Make layer number i reshape before its next forward."""
        self.run.forget_shapes(i)

    @property
    def keep_values(self) -> bool:
        """Whether a run keeps every blob's values, as training must. In TEST, memory goes on to later blobs instead; a look at
        a blob that had to give it up runs the net once more and sets this, and so does a backward pass."""
        return self.run.keep_values

    @keep_values.setter
    def keep_values(self, keep: bool) -> None:
        self.run.keep_values = keep

    @property
    def fusions(self) -> dict[int, list[int]]:
        """{layer: those behind it} that run as one."""
        return self.run.fusions

    def run_forward(self, start: int = 0, end: int | None = None, debug: bool = False, keep: bool = True) -> float:
        """Layers start..end (both included) forward; returns the loss. Whole runs fuse layers; in TEST, and without `keep`, they
        give the memory of values on that neither another layer nor backward needs."""
        return self.run.forward(start, end, debug, keep)

    def run_backward(self, start: int | None = None, end: int = 0, debug: bool = False, keep: bool = True,
                     on_bucket: Callable[[Bucket], None] | None = None) -> None:
        """Layers start..end (start is the later one, both included) backward. Without `keep`, a whole run releases the
        memory of each blob's gradient after its last use. `on_bucket` is called with each of the arena's buckets as
        soon as its gradients are complete; those that no layer made, at the end."""
        buckets = self.arena.buckets if on_bucket is not None and self.arena is not None else ()
        self.run.backward(start, end, debug, keep, buckets, on_bucket)

    @contextmanager
    def scaled_losses(self, factor: float) -> Iterator[None]:
        """Around a backward pass: the gradients that losses send back are multiplied by this. Afterwards the losses' own
        gradients, which are their weights, are as they were."""
        with using([self]):
            weights = [blob.gradient for layer, top in zip(self.nodes, self.tops)
                       for blob, weight in zip(top, layer.loss_weights) if weight]
            kept = [gradient.read().copy() for gradient in weights]
            for gradient, values in zip(weights, kept):
                gradient.write()[...] = values * np.float32(factor)
            try:
                yield
            finally:
                for gradient, values in zip(weights, kept):
                    gradient.write()[...] = values

    @property
    def has_hooks(self) -> bool:
        """Whether functions are called before or after layers."""
        return any(self.run.hooks.values())

    @exclusive
    def output_values(self) -> dict[str, np.ndarray]:
        """The present values of each output, flat, in double precision."""
        blobs = self.blobs
        return {name: blobs[name].value.read().reshape(-1).astype("float64") for name in self.outputs}

    def settle(self, entering: bool) -> None:
        """Around every call of the user: what he holds of blobs is read before, and shows the results after."""
        self.run.settle(entering)

    def settled(self) -> Settled:
        """What every call of the user that changes values runs in."""
        return Settled((self,))

    @exclusive
    def gather_parameters(self) -> Arena:
        """Move the learnable parameters into one arena (once; solvers call it when the engine has chosen its layouts)."""
        if self.arena is None:
            self.arena = Arena(self.learnable, self.graph.last_uses())
        return self.arena

    @exclusive
    def clear_param_diffs(self) -> None:
        """Set the gradients of all parameters to zero."""
        with self.settled():
            self.clear_gradients()

    def clear_gradients(self) -> None:
        """clear_param_diffs within a step, which brings held arrays up to date at its end."""
        if self.use.owner != get_ident():
            alone(self, self.clear_gradients)
            return
        for p in self.learnable:
            p.blob.gradient.clear()

    @exclusive
    def check_finite(self, loss: float) -> None:
        """Raise SolverError naming the first layer that made something that is no number, if the loss is none."""
        if isfinite(loss):
            return
        for layer, names, top in zip(self.nodes, self.graph.top_ids, self.tops):
            for k, blob in enumerate(layer.blobs):
                if not bool(self.device.xp.isfinite(blob.value.read()).all()):
                    fail(layer.param, f"its parameter {k} holds values that are not finite; the loss is {loss}"
                         "\n  the update before this iteration diverged: lower base_lr, or set clip_gradients", error=SolverError)
            for number, blob in zip(names, top):
                if not blob.value.store.is_given_up and not bool(self.device.xp.isfinite(blob.value.read()).all()):
                    fail(layer.param, f'is the first whose result, blob "{self._blob_names[number]}", is not finite; the loss is {loss}'
                         "\n  lower base_lr, set clip_gradients, or look at the data it reads", error=SolverError)
        raise SolverError(f"the loss is {loss}, and every blob is finite: its sum overflows")

    def param_name(self, layer: int, index: int) -> str:
        """What logs call a parameter: its own name, or its number."""
        return self.graph.parameter_name(layer, index)

    # --------------------------------------------------------------------------------------------- pycaffe's members

    @property
    def blobs(self) -> OrderedDict[str, Blob]:
        """{name: Blob} in the order in which the layers make them, those of splits included."""
        return self.graph.named_blobs

    @property
    def params(self) -> OrderedDict[str, Sequence[Blob]]:
        """{layer: its parameters} of the layers that have any: weights first, then biases."""
        return OrderedDict((name, layer.blobs) for name, layer in zip(self._layer_names, self.nodes) if layer.blobs)

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """{blob: what its values are multiplied by in the loss}, 0 for blobs that are no part of it."""
        found = OrderedDict.fromkeys(self._blob_names, 0.0)
        for layer, ids in zip(self.nodes, self.graph.top_ids):
            found.update({self._blob_names[t]: w for t, w in zip(ids, layer.loss_weights) if w})
        return found

    @property
    def layers(self) -> list[Any]:
        """The layers in the order in which they run; of a Python layer, the user's own object. `nodes` are the engine's."""
        return [node.shown for node in self.nodes]

    @property
    def named_nodes(self) -> OrderedDict[str, Layer]:
        """{name: the engine's layer}."""
        return self.graph.named_nodes

    @property
    def layer_dict(self) -> OrderedDict[str, Any]:
        """{name: layer}, as in `layers`."""
        return OrderedDict(zip(self._layer_names, self.layers))

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """{layer: the names of its tops}."""
        return OrderedDict((name, self.graph.top_names(i)) for i, name in enumerate(self._layer_names))

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """{layer: the names of its bottoms}."""
        return OrderedDict((name, self.graph.bottom_names(i)) for i, name in enumerate(self._layer_names))

    # Names that pycaffe gives these lists; scripts use them.

    @property
    def _layer_names(self) -> Sequence[str]:
        return self.graph.names

    @property
    def _blob_names(self) -> Sequence[str]:
        return self.graph.blob_names

    @property
    def _blobs(self) -> Sequence[Blob]:
        return self.graph.blobs

    def __repr__(self) -> str:
        learned = sum(p.blob.count for p in self.learnable)
        return (f'<Net "{self.name}", {pb.Phase.Name(self.phase)}: {len(self.nodes)} layers, {learned:,} parameters, '
                f'{" ".join(self.inputs) or "data layers"} -> {" ".join(self.outputs)}>')

    def _layer_number(self, name: str) -> int:
        if name not in self._layer_names:
            raise NetError(f'the net has no layer "{name}"')
        return self._layer_names.index(name)

    @exclusive
    def forward(self, blobs: list[str] | None = None, start: str | None = None, end: str | None = None, **inputs: Any) -> dict[str, np.ndarray]:
        """Run the net (or its layers start..end) and return {output: values}, and the `blobs` named beside them.

        Keyword arguments give the inputs: all of them, each an array of the blob's shape.
        """
        names = set(self.top_names[end]) if end is not None else set(self.outputs)
        if inputs:
            if set(inputs) != set(self.inputs):
                raise NetError(f"the inputs of this net are {sorted(self.inputs)}, found {sorted(inputs)}")
            for name, values in inputs.items():
                blob, values = self.blobs[name], np.asarray(values)
                if values.shape != blob.shape and not (values.shape[:1] == blob.shape[:1] and values.size == blob.count):
                    raise NetError(f'input "{name}" has the shape {blob.shape}, found an array of shape {values.shape}')
                blob.data[...] = values.reshape(blob.shape)
        with self.settled():
            self.run_forward(0 if start is None else self._layer_number(start), None if end is None else self._layer_number(end))
        found = self.blobs
        return {name: found[name].data for name in names | set(blobs or [])}

    @exclusive
    def backward(self, diffs: list[str] | None = None, start: str | None = None, end: str | None = None, **top_diffs: Any) -> dict[str, np.ndarray]:
        """Run gradients from `start` (or the outputs) back to `end` (or the inputs): {input: gradient}, and `diffs` named.

        Keyword arguments give the gradients of outputs, each of the blob's shape.
        """
        names = set(self.bottom_names[end]) if end is not None else set(self.inputs)
        starts = set(self.top_names[start]) if start is not None else set(self.outputs)
        if top_diffs and set(top_diffs) != starts:
            raise NetError(f"gradients are needed for {sorted(starts)}, found {sorted(top_diffs)}")
        found = self.blobs
        for name, values in top_diffs.items():
            found[name].diff[...] = np.asarray(values).reshape(found[name].shape)
        with self.settled():
            self.run_backward(None if start is None else self._layer_number(start), 0 if end is None else self._layer_number(end))
        return {name: found[name].diff for name in names | set(diffs or [])}

    def _add_hook(self, when: str, function: Callable[[int], None]) -> None:
        self.run.hooks[when].append(as_user_code(function))

    def before_forward(self, f: Callable[[int], None]) -> None:
        """Call f(layer number) before each layer's forward."""
        self._add_hook("before_forward", f)

    def after_forward(self, f: Callable[[int], None]) -> None:
        """Call f(layer number) after each layer's forward."""
        self._add_hook("after_forward", f)

    def before_backward(self, f: Callable[[int], None]) -> None:
        """Call f(layer number) before each layer's backward."""
        self._add_hook("before_backward", f)

    def after_backward(self, f: Callable[[int], None]) -> None:
        """Call f(layer number) after each layer's backward."""
        self._add_hook("after_backward", f)

    # ------------------------------------------------------------------------------------------------------ weights

    def share_with(self, other: Net) -> None:
        """Use the parameters of the layers of `other` that have the same names. Arrays taken from this net's parameters before
        keep the old values, as in Caffe: take them anew. Raises WeightsError if shapes differ."""
        with using([self, other]):
            for i in weights.share(self.graph, other.graph):
                self.forget_shapes(i)

    @exclusive
    def copy_from(self, path: str | Path) -> None:
        """Load a caffemodel, binary or HDF5, layer by name. Raises WeightsError if shapes differ."""
        with self.settled():
            weights.load(self.graph, str(path))

    @exclusive
    def save(self, path: str | Path, with_diff: bool = False, dtype: str = "float32") -> None:
        """Write the net with its weights as a binary caffemodel, of half the size with dtype="float16" (which forks of
        Caffe and brew read). Raises WeightsError for weights that half precision does not hold."""
        if dtype not in ("float32", "float16"):
            raise WeightsError(f"weights are saved as float32 or float16, found {dtype!r}")
        size = sum(4 * p.blob.count for p in self.learnable)
        if size > aside.LARGEST and not with_diff and dtype == "float32":
            weights.save(self.to_proto(values=False), path, self.graph)
        else:
            write_whole(path, self.to_proto(with_diff, dtype == "float16").SerializeToString())

    @exclusive
    def save_hdf5(self, path: str | Path, with_diff: bool = False) -> None:
        """Write the weights as HDF5: /data/<layer>/<index>."""
        weights.save_hdf5(self.graph, str(path), with_diff)

    load_hdf5 = copy_from

    @exclusive
    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: see pickling.py."""
        self.context.activate()
        return {
            "param": self.param.SerializeToString(), "file": self.file, "phase": self.phase, "seed": self.seed,
            "keep_values": self.keep_values, "keep_blobs": self.keep_blobs,
            **pickling.state(self.graph), "more": pickling.added(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._rebuild(state)
        self._set_values(state)

    def _rebuild(self, state: dict[str, Any]) -> None:
        """Become the net of this state, for the current context; without its values."""
        self.file, self.phase, self.seed, self.context = state["file"], state["phase"], state["seed"], context.current()
        self.param = pb.NetParameter.FromString(state["param"])
        self.name = self.param.name
        self._build(insert_splits(filter_layers(self.param)))
        self.keep_values, self.keep_blobs = state["keep_values"], state["keep_blobs"]
        vars(self).update(state["more"])

    def _set_values(self, state: dict[str, Any]) -> None:
        pickling.set_values(self.graph, state, self.reshape)

    def __deepcopy__(self, memo: dict[int, Any]) -> Net:
        """A copy in the net's own context."""
        copy = memo[id(self)] = type(self).__new__(type(self))
        with self.context:
            copy.__setstate__(pickling.apart(self.__getstate__(), memo))
        return copy

    @exclusive
    def to_proto(self, with_diff: bool = False, half: bool = False, values: bool = True) -> pb.NetParameter:
        """The net as built, splits included, with its weights."""
        proto = pb.NetParameter(name=self.name)
        proto.layer.extend([layer.to_proto(with_diff, half, values) for layer in self.nodes])
        strip_positions(proto)
        return proto
