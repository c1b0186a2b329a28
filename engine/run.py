"""Run: a graph's forward and backward passes, by plans that are made when they are first needed."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import get_ident

from .arena import Bucket
from .blob import MAX_AXES, Blob
from .context import Context
from .debug_info import log_backward, log_forward
from .errors import NetError
from .exclusive import Use, alone, exclusive
from .graph import Graph
from .memory import weakly
from .plan import Step, backward_steps, forward_steps, plan_fusion, single_step
from .shape_watch import ShapeWatch
from .store import Store

HOOKS = ("before_forward", "after_forward", "before_backward", "after_backward")


class Run:
    """Runs a net. One thread at a time does so, as its `use` says.

    Whole passes go through the steps of a plan, which fuse layers and give memory on; single layers, hooks and
    debug_info take a step for each layer.
    """

    def __init__(self, graph: Graph, context: Context, use: Use, keep_values: bool):
        self.graph, self.context, self.use = graph, context, use
        self.nodes, self.bottoms, self.tops = graph.nodes, graph.bottoms, graph.tops
        self.shapes: list[tuple[tuple[int, ...], ...] | None] = [self._shapes_of(i) for i in range(len(graph.nodes))]
        self.watch = ShapeWatch(graph.nodes, graph.bottoms, graph.tops)
        self.hooks: dict[str, list[Callable[[int], None]]] = {when: [] for when in HOOKS}
        self.steps = [single_step(graph, i) for i in range(len(graph.nodes))]
        self.forward_steps: dict[bool, list[Step]] = {}        # by whether memory is released
        self.backward_steps: dict[bool, list[Step]] = {}
        self.plans = 0                                         # how many were made so far
        self.released: list[Store] = []                        # gradients that the last backward pass released
        self.fusions: dict[int, list[int]] = {}
        self.look_test, self.look_training = weakly(self.restore_values), weakly(self._not_kept)
        self._keep_values = True
        self.keep_values = keep_values

    # --------------------------------------------------------------------------------------------------------- shapes

    def _shapes_of(self, i: int) -> tuple[tuple[int, ...], ...]:
        return tuple([b.shape for b in self.bottoms[i]])

    def _reshape(self, i: int) -> None:
        """Reshape layer i if its bottoms have changed, or it wants that always. Plans stay valid if only axes declared
        variable have changed: blobs then keep their memory."""
        shapes, before = self._shapes_of(i), self.shapes[i]
        if shapes == before and not self.nodes[i].reshape_always:
            return
        varies = shapes != before and before is not None and all(
            blob.shape == old or blob.varies_between(old, blob.shape) for blob, old in zip(self.bottoms[i], before))
        stores = [top.value.store for top in self.tops[i]]
        for top in self.tops[i] if varies else ():
            top.variable = range(MAX_AXES)                     # as the axes of its bottoms
        self.nodes[i].reshape(self.bottoms[i], self.tops[i])
        same = all(top.value.store is store for top, store in zip(self.tops[i], stores))
        if not same or shapes != before and not varies:
            self.forward_steps, self.backward_steps = {}, {}
        self.shapes[i] = shapes

    def forget_shapes(self, i: int) -> None:
        """Make layer number i reshape before its next forward."""
        self.shapes[i] = self.watch.known = None

    def reshape(self) -> None:
        """Pass changed input shapes through the net."""
        for i in range(len(self.nodes)):
            self._reshape(i)

    # ---------------------------------------------------------------------------------------------------------- plans

    @property
    def keep_values(self) -> bool:
        """Whether a run keeps every blob's values, as training must. In TEST, memory goes on to later blobs instead; a
        look at a blob that had to give it up runs the net once more and sets this, and so does a backward pass."""
        return self._keep_values

    @keep_values.setter
    def keep_values(self, keep: bool) -> None:
        self._keep_values = keep
        for layer, runs in zip(self.nodes, self.graph.runs):
            layer.runs_backward = runs and keep
        self.fusions = plan_fusion(self.graph, hide=not keep)
        self.forward_steps, self.backward_steps = {}, {}

    @exclusive
    def restore_values(self, last: int | None = None) -> None:
        """Compute again what the last run released, up to layer number `last`, and keep all values from now on."""
        self.keep_values = True
        whole = last is None or last == len(self.nodes) - 1
        steps = self._whole_forward() if whole else self.steps[:last + 1]      # type: ignore[operator]
        self._run([step for step in steps if self.bottoms[step.first] and self.tops[step.last]])

    def _not_kept(self) -> None:
        raise NetError("this blob was not kept: in training, memory goes on to others as soon as nothing needs it any more"
                       "\n  set solver.net.keep_blobs = True before the step to look at values and gradients after it")

    def _whole_forward(self, keep: bool = True) -> list[Step]:
        release = not (keep and self._keep_values)
        if release not in self.forward_steps:
            if release:
                self.reshape()
            runs = self.graph.runs if self._keep_values else [False] * len(self.nodes)
            self.forward_steps[release] = forward_steps(self.graph, self.fusions, runs, release)
            self.plans += 1
        return self.forward_steps[release]

    # -------------------------------------------------------------------------------------------------------- forward

    def forward(self, start: int, end: int | None, debug: bool, keep: bool) -> float:
        """See Net.run_forward."""
        if self.use.owner != get_ident():
            return float(alone(self, self.forward, start, end, debug, keep))
        self.context.activate()
        if Blob.changed is not self.watch.known:
            self.watch.before_forward(self.forget_shapes)
        end = len(self.nodes) - 1 if end is None else end
        whole = start == 0 and end == len(self.nodes) - 1
        plain = whole and not debug and not any(self.hooks.values())
        loss = self._run(self._whole_forward(keep) if plain else self.steps[start:end + 1], debug)
        if whole and self.graph.observers:
            for layer, blobs in self.graph.observers:
                layer.observe({name: blob.value.plain().copy() for name, blob in blobs.items()})
        return loss

    def _run(self, steps: list[Step], debug: bool = False) -> float:
        loss, hooks = 0.0, self.hooks
        for step in steps:
            i = step.first
            if step.hidden and any(blob.value.store.exposed and blob.value.store.is_looked_at()
                                   for blob in step.hidden):
                loss += self._run(self.steps[i:step.last + 1])       # somebody wants to see what would not be made
                continue
            layer, bottom, top = self.nodes[i], self.bottoms[i], self.tops[i]
            if hooks["before_forward"]:
                self._call_hooks("before_forward", i)
            if Blob.changed is not self.watch.known or layer.reshape_always:
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
                blob.value.store.give_up(self.look_test)
            if any(layer.loss_weights):
                loss += layer.loss(top)
            if hooks["after_forward"]:
                self._call_hooks("after_forward", i)
            if debug:
                log_forward(self.graph, i)
            if step.done and self.forward_steps.get(True) is steps:       # no shape has changed since the plan was made
                for store in step.done:
                    store.give_up(self.look_training if self._keep_values else self.look_test)
        if Blob.changed is not self.watch.known:
            self.watch.note(steps)
        return loss

    # ------------------------------------------------------------------------------------------------------- backward

    def backward(self, start: int | None, end: int, debug: bool, keep: bool, buckets: Sequence[Bucket] = (),
                 on_bucket: Callable[[Bucket], None] | None = None) -> None:
        """See Net.run_backward."""
        if self.use.owner != get_ident():
            alone(self, self.backward, start, end, debug, keep, buckets, on_bucket)
            return
        waiting = list(buckets)
        self.context.activate()
        start = len(self.nodes) - 1 if start is None else start
        if not self._keep_values:
            self.restore_values(start)
        self._forget_gradients(start)
        steps = self._backward_plan(start, end, debug, keep)
        if Blob.changed is not self.watch.known:
            self.watch.before_backward(steps)
        down, hooks = self.graph.down, self.hooks
        for step in steps:
            i = step.first
            if hooks["before_backward"]:
                self._call_hooks("before_backward", i)
            if step.following:
                self.nodes[i].backward_fused(step.back_top, down[i], step.back_bottom, step.following)
            else:
                self.nodes[i].backward(step.back_top, down[i], step.back_bottom)
            if hooks["after_backward"]:
                self._call_hooks("after_backward", i)
            if debug:
                log_backward(self.graph, i)
            for store in step.done:
                store.give_up(self.look_training)
            while waiting and waiting[0].last >= i:
                on_bucket(waiting.pop(0))                      # type: ignore[misc]
        for bucket in waiting:
            on_bucket(bucket)                                  # type: ignore[misc]

    def _backward_plan(self, start: int, end: int, debug: bool, keep: bool) -> list[Step]:
        if start != len(self.nodes) - 1 or end or debug or any(self.hooks.values()):
            return [self.steps[i] for i in range(start, end - 1, -1) if self.graph.runs[i]]
        if keep not in self.backward_steps:
            self.backward_steps[keep] = backward_steps(self.graph, self.fusions, release=not keep)
            self.plans += 1
        steps = self.backward_steps[keep]
        if not keep:
            self.released = [store for step in steps for store in step.done]
        return steps

    def _forget_gradients(self, start: int) -> None:
        """Make the gradients zero that an earlier pass released: not every layer sends one back. Those from which this
        pass starts must be there."""
        if self.released:
            given = {id(top.gradient.store) for top in self.tops[start]}
            for store in self.released:
                if store.is_given_up and id(store) not in given:
                    store.clear()
            self.released = []

    # --------------------------------------------------------------------------------------------------- what users
    # hold

    def settle(self, entering: bool) -> None:
        """See Net.settle."""
        if self.use.owner != get_ident():
            alone(self, self.settle, entering)
            return
        if entering:
            self.context.activate()
        for blobs in (self.graph.blobs, *(layer.blobs for layer in self.nodes)):
            for blob in blobs:
                if blob.value.store.exposed:
                    blob.value.settle(entering)
                if blob.gradient.store.exposed:
                    blob.gradient.settle(entering)

    def _call_hooks(self, when: str, i: int) -> None:
        """Hooks may look at arrays taken earlier, and write to them."""
        self.settle(entering=False)
        for hook in self.hooks[when]:
            hook(i)
        self.settle(entering=True)
