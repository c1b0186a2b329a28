"""Net: layers joined by blobs, built from a prototxt, run forward and backward."""
from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np

from ..proto import brew_pb2 as pb
from ..proto import read_net, settle_forks, strip_positions, to_text
from . import device, pickling, weights
from .arena import Arena
from .blob import Blob
from .debug_info import log_backward, log_forward
from .errors import NetError, SolverError, WeightsError, check_readable, fail
from .exclusive import Use, alone, as_user_code, claim, exclusive, using
from .held import Settled
from .layer import Layer, layer_class
from .memory import Store, weakly
from .passes import filter_layers, insert_splits, leave_out_unknown, left_out, merged_state, plan_backward
from .plan import Step, backward_steps, forward_steps, plan_fusion, single_step
from .random import new_seed
from .resources import check_memory
from .rewrites import check_rewrites, find_rewrites
from .shape_watch import ShapeWatch
from .sharing import share_parameters

log = logging.getLogger("brew")


class Net:
    """A net of layers, from a prototxt file or a NetParameter, for the current device.

    phase, level, stages choose the layers, as NetStateRules say.  weights: caffemodel(s) to load.  Members are pycaffe's:
    blobs (name -> Blob), params (layer -> its blobs), layers, inputs, outputs, forward, backward, reshape, save, copy_from.
    Raises PrototxtError, NetError or ShapeError with file, line and layer.
    """

    def __init__(self, network: str | Path | pb.NetParameter, phase: Any = pb.TEST, level: int = 0,
                 stages: list[str] | None = None, weights: str | Path | None = None, seed: int | None = None):
        self.file = "" if isinstance(network, pb.NetParameter) else str(network)
        param = network if isinstance(network, pb.NetParameter) else read_net(network)
        self.param = pb.NetParameter()
        self.param.CopyFrom(param)
        settle_forks(self.param)
        self.param.state.CopyFrom(merged_state(param.state, pb.NetState(phase=phase, level=level, stage=stages or [])))
        self.name, self.phase = param.name, phase
        self.device = device.default()
        self.seed = new_seed() if seed is None else seed
        if weights is not None:
            check_readable(weights, "this caffemodel", WeightsError)         # before the net is built and logged
        declared = insert_splits(filter_layers(self.param), left_out(self.param))
        self.unknown: list[pb.LayerParameter] = []             # left out of a dry run: they depend on Python layers
        if not Layer.imports:
            declared, self.unknown = leave_out_unknown(declared, lambda layer: layer_class(layer).user_code)
        self._build(declared)
        if weights is not None:
            self.copy_from(weights)

    # ---------------------------------------------------------------------------------------------------- building

    def _build(self, param: pb.NetParameter) -> None:
        device.activate(self.device)
        self.use = Use(self.name)
        self.nodes: list[Layer] = []
        self._layer_names: list[str] = []
        self._blobs: list[Blob] = []
        self._blob_names: list[str] = []
        self.bottom_ids: list[list[int]] = []
        self.top_ids: list[list[int]] = []
        numbers: dict[str, int] = {}
        stores: set[int] = set()                               # that `held` counts
        held = 0                                               # bytes of values
        memory = 0                                             # as Caffe counts it, layers in place included
        if log.isEnabledFor(logging.INFO):
            log.info("Initializing net from parameters: \n%s", to_text(self.param, weights=False))
        for p in param.layer:
            log.info("Creating Layer %s", p.name)
            layer = layer_class(p)(p, p.phase, self.seed)
            bottoms = [numbers[name] for name in p.bottom]
            tops = []
            for i, name in enumerate(p.top):
                in_place = i < len(p.bottom) and p.bottom[i] == name
                if in_place:
                    layer.require(layer.in_place, "cannot write its top over its bottom: give the top another name", f"top[{i}]")
                    tops.append(numbers[name])
                else:
                    tops.append(self._add_blob(name, numbers))
                log.info("%s -> %s%s", p.name, name, " (in-place)" if in_place else "")
            if layer.is_loss and not tops:                     # a loss may leave its top unnamed
                tops.append(self._add_blob("(automatic)", numbers))
            bottom, top = [self._blobs[b] for b in bottoms], [self._blobs[t] for t in tops]
            layer.check_counts(len(bottom), len(top))
            try:
                layer.setup(bottom, top)
                layer.reshape(bottom, top)
            except MemoryError:
                fail(p, "there is not enough memory for its parameters")
            layer.set_loss_weights(top)
            layer.param_specs = self._param_specs(layer)
            log.info("Setting up %s", p.name)
            for blob, weight in zip(top, layer.loss_weights):
                memory += 4 * blob.count
                log.info("Top shape: %s (%d)", " ".join(map(str, blob.shape)), blob.count)
                if weight:
                    log.info("    with loss weight %g", weight)
            log.info("Memory required for data: %d", memory)
            held += sum(4 * blob.count for blob in top if id(blob.value.store) not in stores)
            stores.update(id(blob.value.store) for blob in top)
            if not Layer.dry and self.phase == pb.TRAIN:       # all values are kept; gradients take turns
                check_memory(p, held, "the net up to here")
            elif not Layer.dry:
                check_memory(p, 4 * sum(blob.count for blob in {*bottom, *top}), "this layer, with what it reads and makes,")
            self.nodes.append(layer)
            self._layer_names.append(p.name)
            self.bottom_ids.append(bottoms)
            self.top_ids.append(tops)
        self.bottoms = [[self._blobs[b] for b in ids] for ids in self.bottom_ids]
        self.tops = [[self._blobs[b] for b in ids] for ids in self.top_ids]
        self.memory = memory
        self._run_backward, self._down = plan_backward(self.nodes, self.bottom_ids, self.top_ids, len(self._blobs), self.param.force_backward)
        for layer, need in zip(self.nodes, self._run_backward):
            layer.runs_backward = need
            log.info("%s %s backward computation.", layer.name, "needs" if need else "does not need")
        check_rewrites(self.nodes, self.bottoms, self.tops)
        self.rewrites = find_rewrites(self.nodes, self.bottoms, self.tops, self._run_backward)
        for r in self.rewrites:
            log.info("%s overwrites what the backward pass of %s needs: a copy is kept", self._layer_names[r.by], self._layer_names[r.reader])
        self._name_ends(param)
        self.learnable = share_parameters(self.nodes, self._layer_names)
        self.arena: Arena | None = None
        self._shapes: list[Any] = [self._shapes_of(i) for i in range(len(self.nodes))]
        self._watch = ShapeWatch(self.nodes, self.bottoms, self.tops)
        self._forward_steps: dict[bool, list[Step]] = {}       # by whether memory is released
        self._backward_steps: dict[bool, list[Step]] = {}
        self._released: list[Store] = []                       # gradients that the last backward pass released
        self.fusions: dict[int, list[int]] = {}
        self.keep_blobs = True                                 # after a training step: read by the solver, which clears it for its own net
        self._look_test, self._look_training = weakly(self._restore_values), weakly(self._not_kept)
        self._steps = [single_step(self, i) for i in range(len(self.nodes))]
        self._keep_values = True
        self.keep_values = self.phase != pb.TEST or any(layer.reshape_always or layer.carried or layer.counter and layer.phase == pb.TRAIN for layer in self.nodes)
        self._hooks: dict[str, list[Callable[[int], None]]] = {k: [] for k in ("before_forward", "after_forward", "before_backward", "after_backward")}
        claim(self)
        log.info("Network initialization done.")

    def _add_blob(self, name: str, numbers: dict[str, int]) -> int:
        numbers[name] = len(self._blobs)
        self._blobs.append(Blob())
        self._blob_names.append(name)
        return numbers[name]

    def _param_specs(self, layer: Layer) -> list[pb.ParamSpec]:
        given = list(layer.param.param)
        layer.require(len(given) <= len(layer.blobs), f"has {len(layer.blobs)} parameters and {len(given)} param specifications", "param")
        return given + [pb.ParamSpec() for _ in range(len(layer.blobs) - len(given))]

    def _name_ends(self, param: pb.NetParameter) -> None:
        made: dict[str, None] = {}
        for p, ids in zip(param.layer, self.top_ids):
            for name in p.bottom:
                made.pop(name, None)
            made.update(dict.fromkeys(self._blob_names[t] for t in ids))
        self.outputs = sorted(made)
        self.inputs = [name for p in param.layer if p.type == "Input" for name in p.top]
        for name in self.outputs:
            log.info("This network produces output %s", name)

    # ---------------------------------------------------------------------------------------------------- running

    def _shapes_of(self, i: int) -> tuple[tuple[int, ...], ...]:
        return tuple([b.shape for b in self.bottoms[i]])

    def _reshape(self, i: int) -> None:
        """Reshape layer i if its bottoms have changed, or it wants that always."""
        shapes = self._shapes_of(i)
        if shapes == self._shapes[i] and not self.nodes[i].reshape_always:
            return
        before = [top.value.store for top in self.tops[i]]
        self.nodes[i].reshape(self.bottoms[i], self.tops[i])
        if shapes != self._shapes[i] or any(top.value.store is not store for top, store in zip(self.tops[i], before)):
            self._forward_steps, self._backward_steps = {}, {}
        self._shapes[i] = shapes

    def forget_shapes(self, i: int) -> None:
        """Make layer number i reshape before its next forward."""
        self._shapes[i] = self._watch.known = None

    @exclusive
    def reshape(self) -> None:
        """Pass changed input shapes through the net."""
        device.activate(self.device)
        for i in range(len(self.nodes)):
            self._reshape(i)

    @property
    def keep_values(self) -> bool:
        """Whether a run keeps every blob's values, as training must. In TEST, memory goes on to later blobs instead; a look at
        a blob that had to give it up runs the net once more and sets this, and so does a backward pass."""
        return self._keep_values

    @keep_values.setter
    def keep_values(self, keep: bool) -> None:
        self._keep_values, self._forward_steps = keep, {}
        for layer, runs in zip(self.nodes, self._run_backward):
            layer.runs_backward = runs and keep
        self.fusions = plan_fusion(self.nodes, self.bottom_ids, self.top_ids, hide=not keep)
        self._backward_steps = {}

    @exclusive
    def _restore_values(self, last: int | None = None) -> None:
        """Compute again what the last run released, up to layer number `last`, and keep all values from now on."""
        self.keep_values = True
        whole = last is None or last == len(self.nodes) - 1
        steps = self._whole_forward() if whole else self._steps[:last + 1]      # type: ignore[operator]
        self._run([step for step in steps if self.bottoms[step.first] and self.tops[step.last]])

    def _not_kept(self) -> None:
        raise NetError("this blob was not kept: in training, memory goes on to others as soon as nothing needs it any more"
                       "\n  set solver.net.keep_blobs = True before the step to look at values and gradients after it")

    def _whole_forward(self, keep: bool = True) -> list[Step]:
        release = not (keep and self.keep_values)
        if release not in self._forward_steps:
            if release:
                self.reshape()
            self._forward_steps[release] = forward_steps(self, self._run_backward if self.keep_values else [False] * len(self.nodes), release)
        return self._forward_steps[release]

    def run_forward(self, start: int = 0, end: int | None = None, debug: bool = False, keep: bool = True) -> float:
        """Layers start..end (both included) forward; returns the loss. Whole runs fuse layers; in TEST, and without `keep`, they
        give the memory of values on that neither another layer nor backward needs."""
        if self.use.owner != get_ident():
            return float(alone(self, self.run_forward, start, end, debug, keep))
        device.activate(self.device)
        if Blob.changed is not self._watch.known:
            self._watch.before_forward(self.forget_shapes)
        end = len(self.nodes) - 1 if end is None else end
        if start == 0 and end == len(self.nodes) - 1 and not debug and not any(self._hooks.values()):
            return self._run(self._whole_forward(keep))
        return self._run(self._steps[start:end + 1], debug)

    def _run(self, steps: list[Step], debug: bool = False) -> float:
        loss = 0.0
        for step in steps:
            i = step.first
            if step.hidden and any(blob.value.store.exposed and blob.value.store.looked_at() for blob in step.hidden):
                loss += self._run(self._steps[i:step.last + 1])      # somebody wants to see what would not be made
                continue
            layer, bottom, top = self.nodes[i], self.bottoms[i], self.tops[i]
            if self._hooks["before_forward"]:
                self._call_hooks("before_forward", i)
            if Blob.changed is not self._watch.known or layer.reshape_always:
                for k in range(i, step.last + 1):
                    self._reshape(k)
            if step.saves and self._keep_values:
                for rewrite in step.saves:
                    rewrite.keep()
            if step.following:
                layer.forward_fused(step.bottom, step.top, step.following)
            else:
                layer.forward(bottom, top)
            for blob in step.hidden:
                blob.value.store.give_up(self._look_test)
            if any(layer.loss_weights):
                loss += layer.loss(top)
            if self._hooks["after_forward"]:
                self._call_hooks("after_forward", i)
            if debug:
                log_forward(self, i)
            if step.done and self._forward_steps.get(True) is steps:       # no shape has changed since the plan was made
                for store in step.done:
                    store.give_up(self._look_training if self.keep_values else self._look_test)
        if Blob.changed is not self._watch.known:
            self._watch.note(steps)
        return loss

    def run_backward(self, start: int | None = None, end: int = 0, debug: bool = False, keep: bool = True) -> None:
        """Layers start..end (start is the later one, both included) backward. Without `keep`, a whole run releases the memory
        of each blob's gradient after its last use."""
        if self.use.owner != get_ident():
            alone(self, self.run_backward, start, end, debug, keep)
            return
        device.activate(self.device)
        start = len(self.nodes) - 1 if start is None else start
        if not self.keep_values:
            self._restore_values(start)
        self._forget_gradients(start)
        if start == len(self.nodes) - 1 and end == 0 and not debug and not any(self._hooks.values()):
            if keep not in self._backward_steps:
                self._backward_steps[keep] = backward_steps(self, self._run_backward, self._down, release=not keep)
            steps = self._backward_steps[keep]
            if not keep:
                self._released = [store for step in steps for store in step.done]
        else:
            steps = [self._steps[i] for i in range(start, end - 1, -1) if self._run_backward[i]]
        if Blob.changed is not self._watch.known:
            self._watch.before_backward(steps)
        for step in steps:
            i = step.first
            if self._hooks["before_backward"]:
                self._call_hooks("before_backward", i)
            if step.following:
                self.nodes[i].backward_fused(step.back_top, self._down[i], step.back_bottom, step.following)
            else:
                self.nodes[i].backward(step.back_top, self._down[i], step.back_bottom)
            if self._hooks["after_backward"]:
                self._call_hooks("after_backward", i)
            if debug:
                log_backward(self, i)
            for store in step.done:
                store.give_up(self._look_training)

    def _forget_gradients(self, start: int) -> None:
        """Make the gradients zero that an earlier pass released: not every layer sends one back. Those from which this pass
        starts must be there."""
        if self._released:
            given = {id(top.gradient.store) for top in self.tops[start]}
            for store in self._released:
                if store.lost is not None and id(store) not in given:
                    store.clear()
            self._released = []

    @exclusive
    def output_values(self) -> dict[str, np.ndarray]:
        """The present values of each output, flat, in double precision."""
        blobs = self.blobs
        return {name: blobs[name].value.read().reshape(-1).astype("float64") for name in self.outputs}

    def settle(self, entering: bool) -> None:
        """Around every call of the user: what he holds of blobs is read before, and shows the results after."""
        if self.use.owner != get_ident():
            alone(self, self.settle, entering)
            return
        if entering:
            device.activate(self.device)
        for blobs in (self._blobs, *(layer.blobs for layer in self.nodes)):
            for blob in blobs:
                if blob.value.store.exposed:
                    blob.value.settle(entering)
                if blob.gradient.store.exposed:
                    blob.gradient.settle(entering)

    def settled(self) -> Settled:
        """What every call of the user that changes values runs in."""
        return Settled((self,))

    def _call_hooks(self, when: str, i: int) -> None:
        """Hooks may look at arrays taken earlier, and write to them."""
        self.settle(entering=False)
        for hook in self._hooks[when]:
            hook(i)
        self.settle(entering=True)

    @exclusive
    def gather_parameters(self) -> Arena:
        """Move the learnable parameters into one arena (once; solvers call it when the engine has chosen its layouts)."""
        if self.arena is None:
            self.arena = Arena(self.learnable)
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
            p.blob.gradient.store.clear()

    @exclusive
    def check_finite(self, loss: float) -> None:
        """Raise SolverError naming the first layer that made something that is no number, if the loss is none."""
        if isfinite(loss):
            return
        for layer, names, top in zip(self.nodes, self.top_ids, self.tops):
            for k, blob in enumerate(layer.blobs):
                if not bool(self.device.xp.isfinite(blob.value.read()).all()):
                    fail(layer.param, f"its parameter {k} holds values that are not finite; the loss is {loss}"
                         "\n  the update before this iteration diverged: lower base_lr, or set clip_gradients", error=SolverError)
            for number, blob in zip(names, top):
                if blob.value.store.lost is None and not bool(self.device.xp.isfinite(blob.value.read()).all()):
                    fail(layer.param, f'is the first whose result, blob "{self._blob_names[number]}", is not finite; the loss is {loss}'
                         "\n  lower base_lr, set clip_gradients, or look at the data it reads", error=SolverError)
        raise SolverError(f"the loss is {loss}, and every blob is finite: its sum overflows")

    def param_name(self, layer: int, index: int) -> str:
        """What logs call a parameter: its own name, or its number."""
        return self.nodes[layer].param_specs[index].name or str(index)

    # --------------------------------------------------------------------------------------------- pycaffe's members

    @property
    def blobs(self) -> OrderedDict[str, Blob]:
        """{name: Blob} in the order in which the layers make them, those of splits included."""
        return OrderedDict(zip(self._blob_names, self._blobs))

    @property
    def params(self) -> OrderedDict[str, Sequence[Blob]]:
        """{layer: its parameters} of the layers that have any: weights first, then biases."""
        return OrderedDict((name, layer.blobs) for name, layer in zip(self._layer_names, self.nodes) if layer.blobs)

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """{blob: what its values are multiplied by in the loss}, 0 for blobs that are no part of it."""
        found = OrderedDict.fromkeys(self._blob_names, 0.0)
        for layer, ids in zip(self.nodes, self.top_ids):
            found.update({self._blob_names[t]: w for t, w in zip(ids, layer.loss_weights) if w})
        return found

    @property
    def layers(self) -> list[Any]:
        """The layers in the order in which they run; of a Python layer, the user's own object. `nodes` are the engine's."""
        return [node.shown for node in self.nodes]

    @property
    def named_nodes(self) -> OrderedDict[str, Layer]:
        """{name: the engine's layer}."""
        return OrderedDict(zip(self._layer_names, self.nodes))

    @property
    def layer_dict(self) -> OrderedDict[str, Any]:
        """{name: layer}, as in `layers`."""
        return OrderedDict(zip(self._layer_names, self.layers))

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """{layer: the names of its tops}."""
        return OrderedDict((n, [self._blob_names[b] for b in ids]) for n, ids in zip(self._layer_names, self.top_ids))

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """{layer: the names of its bottoms}."""
        return OrderedDict((n, [self._blob_names[b] for b in ids]) for n, ids in zip(self._layer_names, self.bottom_ids))

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
        self._hooks[when].append(as_user_code(function))

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
            weights.share(self, other)

    @exclusive
    def copy_from(self, path: str | Path) -> None:
        """Load a caffemodel, binary or HDF5, layer by name. Raises WeightsError if shapes differ."""
        with self.settled():
            weights.load(self, str(path))

    @exclusive
    def save(self, path: str | Path, with_diff: bool = False) -> None:
        """Write the net with its weights as a binary caffemodel."""
        weights.save(self, str(path), with_diff)

    @exclusive
    def save_hdf5(self, path: str | Path, with_diff: bool = False) -> None:
        """Write the weights as HDF5: /data/<layer>/<index>."""
        weights.save_hdf5(self, str(path), with_diff)

    load_hdf5 = copy_from

    @exclusive
    def __getstate__(self) -> dict[str, Any]:
        return pickling.state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        pickling.revive(self, state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Net:
        return pickling.deep_copy(self, memo)

    @exclusive
    def to_proto(self, with_diff: bool = False) -> pb.NetParameter:
        """The net as built, splits included, with its weights."""
        proto = pb.NetParameter(name=self.name)
        proto.layer.extend([layer.to_proto(with_diff) for layer in self.nodes])
        strip_positions(proto)
        return proto
