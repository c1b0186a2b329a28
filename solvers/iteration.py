"""An iteration in its parts: accumulate, reduce, check and clip, update, report."""
from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

import numpy as np

from ..engine.arena import Arena, Bucket, Slot, Span
from ..engine.exclusive import resting
from ..engine.gradient import RowSparse
from ..engine.net import Net
from .declaration import Declaration
from .interrupt import UPDATE
from .loss_scale import LossScale
from .lr_policy import Plateau, advance, rate

log = logging.getLogger("brew")


@dataclass(frozen=True)
class Rows(Span):
    """Rows of a parameter with a row-sparse gradient, as a span of their own: `arrays` are copies of their weights and
    histories, between them their gradients."""

    blob: Any
    arrays: Any


@dataclass(frozen=True)
class Grant:
    """A solver's leave to update the rows of one parameter within backward, as soon as their gradients are known: called
    with the gradient, once in each backward pass."""

    solver: Iteration
    slot: Slot
    rate: float

    def __call__(self, gradient: RowSparse) -> None:
        self._begin()
        self.solver._update_rows(self.slot, self.rate, 1.0, self._decay())
        gradient.clear()

    @property
    def kernel(self) -> str:
        """The kernel of this solver's update, for a layer that updates rows itself while it has them; "": it may not."""
        return self.solver.row_kernel

    def take(self) -> tuple[tuple[Any, ...], list[Any]]:
        """(the last arguments of that kernel, weights and histories (rows, columns)): from here on the layer does what
        a call would do."""
        self._begin()
        return self.solver.constants(self.rate, 1.0, self._decay()), self.solver._rows_of(self.slot)

    def _begin(self) -> None:
        self.solver.stage = UPDATE                        # from here on the iteration cannot be undone
        self.solver.arena.bring(self.slot)

    def _decay(self) -> float:
        return self.solver.param.weight_decay * self.slot.decay_mult


class Iteration(Declaration):
    """What a solver does between two values of `iter`."""

    histories = 0
    kernel = ""                              # of an update whose last arguments are constants(): see update()
    by_parameter = False
    arena: Arena
    history: list[Any]
    average: Any
    plateau: Plateau
    current_step: int
    l1: bool
    callbacks: list[tuple[Callable[[], None], Callable[[], None]]]
    watchers: list[Any]                      # objects with on_display, on_test, on_iteration, on_snapshot (any of them)
    poll: Callable[[], str]                  # "", "snapshot" or "stop": what a signal asked for
    reducer: Callable[[Bucket | Slot], None] | None
    loss_scale: LossScale | None
    scaled: float                            # by what the losses of the present gradients were multiplied

    @property
    def smoothed_loss(self) -> float:
        """The mean of the last average_loss losses."""
        return sum(self.losses) / len(self.losses) if self.losses else 0.0

    def _accumulate(self, debug: bool) -> float:
        """The gradients of iter_size batches, added up, and the mean of their losses."""
        net, p, loss = self.net, self.param, 0.0
        self.scaled = 1.0
        if self.arena.sparse and self._may_grant(debug):
            return self._accumulate_granted()
        for i in range(p.iter_size):
            loss += net.run.forward(0, None, debug, net.keep_blobs)
            if self.loss_scale is not None:
                self.scaled = self.loss_scale.factor
                with net.scaled_losses(self.scaled):
                    self._backward(i, debug)
            else:
                self._backward(i, debug)
        if self.reducer is not None:
            for slot in self.arena.sparse:
                self.reducer(slot)
        loss /= p.iter_size
        if not isfinite(loss):
            net.check_finite(loss)
        return loss

    def _backward(self, batch: int, debug: bool) -> None:
        """The backward pass of this one of an iteration's batches; in that of the last, gradients are complete."""
        if self.reducer is None or batch < self.param.iter_size - 1:
            self.net.run.backward(None, 0, debug, self.net.keep_blobs)
        else:
            self.net.run_backward(debug=debug, keep=self.net.keep_blobs, on_bucket=self._reduce)

    def _reduce(self, bucket: Bucket) -> None:
        """Hand a bucket of gradients to `reducer`, which sums them over devices, while backward goes on with the layers
        before. It gets each bucket of the arena once an iteration, then the slots of row-sparse parameters; nothing
        here has one."""
        assert self.reducer is not None
        self.arena.bring_gradients(bucket.slots)
        self.reducer(bucket)

    def _apply_update(self, show: bool = False, debug: bool = False) -> None:
        p, step = self.param, self._advance()
        if step != self.current_step:
            self.current_step = step
            log.info("%s Status: Iteration %d, step = %d", "Plateau" if p.lr_policy == "plateau" else "MultiStep",
                     self.iter, step)
        base = rate(p, self.iter, step)
        if show:
            log.info("Iteration %d, lr = %g", self.iter, base)
        data, diff = self.arena.open("data", frozen=bool(p.average_decay)), self.arena.open("diff")
        if p.average_decay and self.average is None:
            self.average = data.copy()
        scale = self._check_and_clip(diff)
        if scale is not None:
            self._update_all(base, scale)
        self.scaled = 1.0
        if p.average_decay and scale is not None:
            self.kernels.linear(data, 1 - p.average_decay, self.average, p.average_decay)
        if debug:
            self._report()

    def _advance(self) -> int:
        """The learning rate's step in this iteration."""
        if self.param.lr_policy == "plateau":
            return self.plateau.advance(self.param, self.iter, self.current_step, self.smoothed_loss)
        return advance(self.param, self.iter, self.current_step)

    def _check_and_clip(self, diff: Any) -> float | None:
        """What the update multiplies gradients by; None: they are not finite, and the update is left out."""
        p, scale = self.param, 1.0 / self.param.iter_size
        if self.scaled != 1:
            scale /= self.scaled
        if self.loss_scale is None and p.clip_gradients < 0:
            return scale
        squares = self.kernels.sum_squares(diff)
        for slot in self.arena.sparse:
            gradient = slot.blob.sparse
            squares += self.kernels.sum_squares(gradient.values) if gradient and not gradient.is_zero else 0.0
        norm = sqrt(squares) / self.scaled if squares >= 0 else squares
        if self.loss_scale is not None:
            finite = isfinite(norm)
            self.loss_scale.report(finite)
            if not finite:
                log.info("Gradients are not finite: the update is left out; the loss scale is %g from now on",
                         self.loss_scale.factor)
                return None
        if norm > p.clip_gradients >= 0:
            scale *= p.clip_gradients / norm
            log.info("Gradient clipping: scaling down gradients (L2 norm %g > %g) by scale factor %g", norm,
                     p.clip_gradients, p.clip_gradients / norm)
        return scale

    def _update_all(self, base: float, scale: float) -> None:
        """Change what learns: the arena's spans (or slots), then the rows that were touched."""
        decay = self.param.weight_decay
        for span in self.arena.learning if self.by_parameter else self.arena.spans:
            self.update(span, base * span.lr_mult, scale, decay * span.decay_mult)
        for slot in self.arena.sparse:
            self._update_rows(slot, base * slot.lr_mult, scale, decay * slot.decay_mult)

    def _rows_of(self, slot: Slot) -> list[Any]:
        """The weights and histories (rows, columns) of a parameter with a row-sparse gradient."""
        rows = slot.blob.shape[slot.blob.sparse.axis]            # type: ignore[union-attr]
        return [self.arena.part(array, slot).reshape(rows, -1) for array in (self.arena.data, *self.history)]

    def _update_rows(self, slot: Slot, rate: float, scale: float, decay: float) -> None:
        """Change the rows that have a gradient, by the same arithmetic as all others: the rest of the parameter, its
        momentum, moments and decay stay as they are, and nothing is caught up later (as in torch.optim.SparseAdam)."""
        gradient = slot.blob.sparse
        if gradient is None or gradient.is_zero:
            return
        shape, n = gradient.values.shape, gradient.values.size
        weights, *histories = self._rows_of(slot)
        if self.row_kernel and shape[1] % 16 == 0:         # else the ends of rows would be rounded in another way
            gradient.values = np.ascontiguousarray(gradient.values)
            self.kernels.update_rows(weights, *(histories + [None])[:2], gradient.rows, gradient.values, shape[1], self.row_kernel,
                                     self.constants(rate, scale, decay))
            return
        parts = []
        for values in (weights[gradient.rows], gradient.values, *(array[gradient.rows] for array in histories)):
            # as long as a slot: loops have the same remainders
            parts.append(self.net.device.empty(-(-n // 16) * 16))
            parts[-1][:n] = values.reshape(-1)
        self.update(Rows(0, n, slot.lr_mult, slot.decay_mult, slot.blob, parts), rate, scale, decay)
        for array, changed in zip((weights, gradient.values, *histories), parts):
            array[... if array is gradient.values else gradient.rows] = changed[:n].reshape(shape)

    def _may_grant(self, debug: bool) -> bool:
        """Whether layers may update the rows of row-sparse parameters within backward: nobody can tell then, and their
        gradients are never held."""
        p = self.param
        return (p.iter_size == 1 and p.clip_gradients < 0 and self.reducer is None and self.loss_scale is None
                and p.lr_policy != "plateau" and not debug and not self.callbacks and not self.net.keep_blobs
                and not self.net.has_hooks and not any(getattr(w, "reads_gradients", False) for w in self.watchers))

    def _accumulate_granted(self) -> float:
        """_accumulate, with rows updated as soon as their gradients are known. What several layers share is left to the
        update, as the last one's gradients are still to come."""
        net, p = self.net, self.param
        loss = net.run.forward(0, None, False, False)
        if not isfinite(loss):                            # before weights are changed
            net.check_finite(loss)
        base = rate(p, self.iter, advance(p, self.iter, self.current_step))
        alone = {id(owner.blob) for owner in net.learnable if owner.readers == 1}

        gradients = [(slot, slot.blob.sparse) for slot in self.arena.sparse if id(slot.blob) in alone]
        try:
            for slot, gradient in gradients:
                gradient.grant = Grant(self, slot, base * slot.lr_mult)        # type: ignore[union-attr]
            net.run.backward(None, 0, False, False)
        finally:
            for _, gradient in gradients:
                gradient.grant = None                                  # type: ignore[union-attr]
        return loss

    def _report(self) -> None:
        for owner in self.net.learnable:
            log.info("    [Update] Layer %s, param %s data: %g; diff: %g", owner.layer, owner.index,
                     owner.blob.value.magnitude(), owner.blob.gradient.magnitude())

    def update(self, span: Span, rate: float, scale: float, decay: float) -> None:
        """Change a part of the arena by its gradients: what each kind of solver is, by its `kernel` or by a method."""
        getattr(self.kernels, self.kernel)(*self.parts(span), *self.constants(rate, scale, decay))

    def constants(self, rate: float, scale: float, decay: float) -> tuple[Any, ...]:
        """The last arguments of `kernel`, behind the weights, gradients and histories."""
        raise NotImplementedError

    def parts(self, span: Span) -> list[Any]:
        """The weights, gradients and histories in a part of the arena, for a kernel."""
        if isinstance(span, Rows):
            return list(span.arrays)
        return [self.arena.part(array, span) for array in (self.arena.data, self.arena.diff, *self.history)]

    @property
    def row_kernel(self) -> str:
        """The kernel of this update, if rows may also be updated where they lie; "": they may not."""
        return self.kernel if type(self).update is Iteration.update and self.kernel in getattr(self.kernels, "FUSED_UPDATES", ()) else ""

    @property
    def kernels(self) -> Any:
        """The kernels of the device that the nets run on."""
        return self.net.device.kernels

    def tell(self, event: str, *args: Any) -> None:
        """Call this method of the watchers that have it."""
        with resting():
            for watcher in self.watchers:
                if hasattr(watcher, event):
                    getattr(watcher, event)(self, *args)

    def obey(self) -> None:
        """Do what `poll` says."""
        wish = self.poll()
        if wish == "snapshot":
            self.snapshot()
        elif wish == "stop":
            self.stopped = True

    def _assemble(self, net: Net, test_nets: list[Net]) -> None:
        """See Solver."""
        raise NotImplementedError

    def snapshot(self) -> str:
        """See Solver."""
        raise NotImplementedError
