"""Solver: trains a net. What all kinds have in common: iterations, tests, rates, clipping, decay, snapshots."""
from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from ..engine.arena import Bucket, Slot
from ..engine.context import new_seed
from ..engine.errors import BrewError, Position, SolverError, nearest
from ..engine.exclusive import as_user_code
from ..engine.held import Settled
from ..engine.held import settle as settle_arrays
from ..engine.net import Net
from ..engine.passes import merged_state
from ..proto import brew_pb2 as pb
from ..proto import read_solver, to_text
from . import layer_state, pickling, snapshot, testing
from .interrupt import DONE, GRADIENTS, RESTORE, UPDATE, Entry, begin, interrupt_if_wished, refuse_within, settle
from .iteration import Iteration
from .loss_scale import LossScale
from .lr_policy import Plateau, advance, rate
from .state import State, collect, prepare
from .testing import averaged, log_outputs
from .undo import Undo

log = logging.getLogger("brew")
SOLVERS: dict[str, type[Solver]] = {}
S = TypeVar("S", bound="type[Solver]")


def register(name: str) -> Callable[[S], S]:
    """Enter a class as the solver of this type."""
    def enter(cls: S) -> S:
        if name in SOLVERS:
            raise SolverError(f'the solver type "{name}" is registered twice')
        SOLVERS[name] = cls
        return cls
    return enter


def get_solver(source: str | Path | pb.SolverParameter, file: str = "") -> Solver:
    """The solver that a prototxt asks for by its `type`; of a message, `file` says where it was read. Raises SolverError."""
    param = source if isinstance(source, pb.SolverParameter) else read_solver(source)
    return solver_class(param, file or ("" if param is source else str(source)))(source, file)


def solver_class(param: pb.SolverParameter, file: str) -> type[Solver]:
    """The class for a solver's `type`. Raises SolverError with the nearest known type."""
    if param.type not in SOLVERS:
        raise SolverError(f'no solver is called "{param.type}"{nearest(param.type, SOLVERS)}'
                          f'\n  there are {", ".join(sorted(SOLVERS))}', Position(file) if file else None)
    return SOLVERS[param.type]


class Solver(Iteration):
    """Trains `net` and tests `test_nets`, as a SolverParameter says; members are pycaffe's.

    A solver of its own gives `histories` (arrays of the arena's size that it keeps) and update(span, rate, scale, decay), which
    is called for each part of the arena that learns alike; with `by_parameter`, for each parameter's Slot.
    """

    net_class = Net

    def __init__(self, source: str | Path | pb.SolverParameter, file: str = ""):
        early = frozenset(vars(self))                     # what a subclass has set before
        self._declare(source, file)
        p = self.param
        self.seed = p.random_seed if p.random_seed >= 0 else new_seed()
        log.info("Initializing solver from parameters: \n%s", to_text(p, weights=False))
        if p.random_seed < 0:
            log.info("random_seed: %d (chosen now; set it to repeat this run)", self.seed)
        self.iter = self.current_step = 0
        self.losses: list[float] = []                     # the last average_loss losses
        self.l1 = p.regularization_type == "L1"
        self.plateau = Plateau()
        self.stopped = False
        self.tested_at = -1                               # the iteration whose tests are done
        self.loss_scale: LossScale | None = None          # see loss_scale.py
        net, *test_nets = [self.make_net(*declared) for declared in self.declared_nets]
        net.keep_blobs = False
        self._assemble(net, test_nets, early)
        for path in self.declared_weights:
            self.load_weights(path)
        log.info("Solver scaffolding done.")

    def _assemble(self, net: Net, test_nets: list[Net], early: frozenset[str] = frozenset()) -> None:
        """Join the nets, and make what training needs beside them."""
        self.net, self.test_nets = net, test_nets
        for other in test_nets:
            other.share_with(net)
        self.arena = net.gather_parameters()
        self.history = [self.arena.zeros() for _ in range(self.histories)]
        self.average: Any = None                          # of the weights, an array like the arena's, from the first update on
        self.torn = ""                                    # why the state is not whole, if it is not: see step() and restore()
        self.entered, self.interrupts, self.stage = False, 0, ""
        self.undo, self.iter_begun, self.losses_before = Undo(net), self.iter, self.losses
        self.callbacks: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self.watchers: list[Any] = []                     # objects with on_display, on_test, on_iteration, on_snapshot (any of them)
        self.poll: Callable[[], str] = lambda: ""         # "", "snapshot" or "stop": what a signal asked for
        self.scaled = 1.0
        self.reducer: Callable[[Bucket | Slot], None] | None = None      # see _reduce
        if self.param.average_decay and self.arena.sparse:
            owner = next(p for p in net.learnable if p.sparse and p.lr_mult)
            self._fail(f'average_decay is for dense gradients: layer "{owner.layer}" has row-sparse ones, and an average of all its rows '
                       "would take a pass over all of them in each iteration")
        self.own_members = frozenset((*vars(self), "own_members")) - early      # others are the user's

    def __getstate__(self) -> dict[str, Any]:
        with Entry(self):
            refuse_within(self, "pickle")
            return pickling.state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        pickling.revive(self, state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Solver:
        return pickling.deep_copy(self, self.__getstate__(), memo)

    # ----------------------------------------------------------------------------------------------------- building

    def make_net(self, param: pb.NetParameter, state: pb.NetState, phase: int, what: str) -> Net:
        """Build one of `declared_nets`."""
        log.info("Creating %s net", what)
        merged = merged_state(param.state, state)
        net = pb.NetParameter()
        net.CopyFrom(param)
        net.state.CopyFrom(merged)
        phase = state.phase if state.HasField("phase") else param.state.phase if param.state.HasField("phase") else phase
        return self.net_class(net, phase, level=merged.level, seed=self.seed)

    def load_weights(self, path: str) -> None:
        """Copy a caffemodel into the train net, which the test nets share; their own layers get theirs."""
        log.info("Finetuning from %s", path)
        self.net.copy_from(path)

    # ------------------------------------------------------------------------------------------------------ training

    def step(self, n: int) -> None:
        """n iterations: forward, backward, update; tests, log lines and snapshots when they are due.

        Ctrl-C raises KeyboardInterrupt at the end of the iteration, a second one at once. An iteration that an
        exception ends is undone, so that the next step() repeats it, or completed; within the update that is
        impossible, and `torn` says so.
        """
        with Entry(self), self._settled():
            if self.stage:
                refuse_within(self, "step()")
            self._step(n)

    def _settled(self) -> Settled:
        return Settled(self.nets)

    def _step(self, n: int) -> None:
        p, last, since, start = self.param, self.iter + n, perf_counter(), self.iter
        while self.iter < last:
            self.net.clear_gradients()
            if p.test_interval and self.iter % p.test_interval == 0 and (self.iter > 0 or p.test_initialization) and self.tested_at != self.iter:
                self.test_all()
                if self.stopped:
                    break
                self.tested_at = self.iter                # not again if the iteration is interrupted and repeated
                interrupt_if_wished(self)
            self._call_back(0)
            show = p.display > 0 and self.iter % p.display == 0
            debug = show and (p.debug_info or self.net.param.debug_info)
            begin(self)
            try:
                loss = self._accumulate(debug)
                self.losses = [*self.losses, loss][-p.average_loss:]
                if show:
                    now = perf_counter()
                    done, seconds = self.iter - start, now - since
                    log.info("Iteration %d (%g iter/s, %gs/%d iters), loss = %g", self.iter, done / seconds if done else 0, seconds, p.display, self.smoothed_loss)
                    log_outputs(self.net, "Train")
                    start, since = self.iter, now
                self._call_back(1)
                self.stage = UPDATE
                self._apply_update(show, debug)
                self.stage = DONE
                if self.watchers:
                    self.tell("on_display" if show else "on_iteration", loss)
                self.iter, self.stage = self.iter_begun + 1, ""
            except BaseException:
                settle(self)
                raise
            self.obey()
            if p.snapshot and self.iter % p.snapshot == 0:
                self.snapshot()
            if self.stopped:
                break
            if self.interrupts:
                interrupt_if_wished(self)

    @property
    def lr(self) -> float:
        """The learning rate of the coming iteration."""
        return rate(self.param, self.iter, advance(self.param, self.iter, self.current_step))

    def _call_back(self, which: int) -> None:
        """Callbacks may look at arrays taken earlier, and write to them."""
        if self.callbacks:
            settle_arrays(self.nets, entering=False)
            for callback in self.callbacks:
                callback[which]()
            settle_arrays(self.nets, entering=True)

    def apply_update(self) -> None:
        """Change the weights by their gradients: clip, normalise by iter_size, decay, step. The iteration does not count up."""
        with Entry(self), self._settled():
            within, self.stage = self.stage, UPDATE
            self._apply_update()
            self.stage = within and UPDATE                # an iteration that has updated cannot be undone

    def solve(self, resume_file: str | None = None) -> None:
        """Train up to max_iter, from a solverstate if one is given."""
        with Entry(self, torn=bool(resume_file)):
            self._solve(resume_file)

    def _solve(self, resume_file: str | None) -> None:
        p = self.param
        refuse_within(self, "solve()")
        log.info("Solving %s", self.net.name)
        log.info("Learning Rate Policy: %s", p.lr_policy)
        self.stopped = False
        if resume_file:
            self.restore(resume_file)
        self.step(max(p.max_iter - self.iter, 0))
        if p.snapshot_after_train and (not p.snapshot or self.iter % p.snapshot):
            self.snapshot()
        if self.stopped:
            log.info("Optimization stopped early.")
            return
        with self._settled():
            if p.display and self.iter % p.display == 0 and not any(layer.stream for layer in self.net.nodes):
                undo = Undo(self.net, users=True)        # the loss line reads a batch that is no part of the training
                try:
                    log.info("Iteration %d, loss = %g", self.iter, self.net.run_forward())
                finally:
                    undo.put_back()
            if p.test_interval and self.iter % p.test_interval == 0:
                self.test_all()
        log.info("Optimization Done.")

    # ------------------------------------------------------------------------------------------------------- testing

    def test_all(self) -> None:
        """Run every test net and log the mean of its outputs."""
        with Entry(self):
            testing.test_all(self)

    def test(self, number: int = 0) -> dict[str, list[float]]:
        """Run one test net test_iter times; returns, and logs, the mean of each output's elements. With test_average the
        net has the average of the weights meanwhile. A test that is interrupted begins anew with the same data."""
        with Entry(self), self._settled(), averaged(self, self.param.test_average):
            return testing.test(self, number)

    def averaged(self, wanted: bool = True) -> AbstractContextManager[None]:
        """Within, the weights are their moving average, if it is `wanted` and there is one already."""
        return averaged(self, wanted)

    # ----------------------------------------------------------------------------------------------------- snapshots

    def state(self) -> State:
        """All that the next iteration depends on beside the weights, as a value."""
        with Entry(self):
            return collect(self)

    def snapshot(self) -> str:
        """Write a caffemodel and a solverstate; returns the state's path. Raises SnapshotError. Not within an
        iteration, except by watchers: the update is done then, and the state is that of the next iteration."""
        with Entry(self):
            refuse_within(self, "snapshot()", GRADIENTS, UPDATE, RESTORE)
            ahead = self.stage == DONE
            self.iter += ahead
            try:
                path = self._snapshot()
            finally:
                self.iter -= ahead
            self.tell("on_snapshot", path)
            return path

    def _snapshot(self) -> str:
        p, net = self.param, self.net
        hdf5 = p.snapshot_format == pb.SolverParameter.HDF5
        layer_state.warn_of_forgetting(self)
        state = collect(self)                             # before any file: a layer may refuse

        def weights(path: str) -> None:
            (net.save_hdf5 if hdf5 else net.save)(path, p.snapshot_diff)

        def average(path: str) -> None:
            with averaged(self):
                (net.save_hdf5 if hdf5 else net.save)(path)
        return snapshot.save(state, self.prefix, hdf5, weights, None if self.average is None else average)

    def restore(self, path: str) -> None:
        """Go on from a solverstate, exactly where it was written. Raises SnapshotError or WeightsError. Mends a torn
        state."""
        with Entry(self, torn=True), self._settled():
            refuse_within(self, "restore()")
            self.stage = RESTORE
            try:
                state, model = snapshot.load(path)
                prepare(self, state, model, path)()
            except BrewError:                             # nothing has changed
                self.stage = ""
                raise
            self.stage = self.torn = ""
            self.tested_at = -1
            log.info("Restored iteration %d from %s", state.iter, path)

    def add_callback(self, on_start: Callable[[], None], on_gradients_ready: Callable[[], None]) -> None:
        """Call on_start() before each iteration's forward and on_gradients_ready() before its update."""
        self.callbacks.append((as_user_code(on_start), as_user_code(on_gradients_ready)))

    def share_weights(self, net: Net) -> None:
        """Let `net` use the weights that this solver trains."""
        net.share_with(self.net)
