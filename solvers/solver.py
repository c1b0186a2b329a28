"""Solver: trains a net. What all kinds have in common: iterations, tests, rates, clipping, decay, snapshots."""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite, sqrt
from pathlib import Path
from threading import get_ident
from time import perf_counter
from typing import Any, TypeVar

from ..engine.arena import Span
from ..engine.errors import BrewError, Position, SolverError, WeightsError, check_readable, nearest
from ..engine.exclusive import as_user_code, resting, using
from ..engine.held import Settled
from ..engine.held import settle as settle_arrays
from ..engine.net import Net
from ..engine.passes import merged_state
from ..engine.context import new_seed
from ..proto import brew_pb2 as pb
from ..proto import find_file, read_net, read_solver, settle_forks, to_text
from . import lr_policy, pickling, snapshot
from .interrupt import DONE, GRADIENTS, RESTORE, UPDATE, Entry, Undo, begin, interrupt_if_wished, refuse_within, settle
from .lr_policy import Plateau, advance, rate
from .output_means import OutputMeans

log = logging.getLogger("brew")
SOLVERS: dict[str, type[Solver]] = {}
S = TypeVar("S", bound="type[Solver]")
T = TypeVar("T", bound="Solver")


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


def loss_part(weight: float, value: float) -> str:
    """What a log line says after an output that is part of the loss."""
    return f" (* {weight:g} = {weight * value:g} loss)" if weight else ""


class Solver:
    """Trains `net` and tests `test_nets`, as a SolverParameter says; members are pycaffe's.

    A solver of its own gives `histories` (arrays of the arena's size that it keeps) and update(span, rate, scale, decay), which
    is called for each part of the arena that learns alike; with `by_parameter`, for each parameter's Slot.
    """

    histories = 0
    by_parameter = False
    takes_momentum = True
    net_class = Net

    def __init__(self, source: str | Path | pb.SolverParameter, file: str = ""):
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
        net, *test_nets = [self.make_net(*declared) for declared in self.declared_nets]
        net.keep_blobs = False
        self._assemble(net, test_nets)
        for path in self.declared_weights:
            self.load_weights(path)
        log.info("Solver scaffolding done.")

    def _assemble(self, net: Net, test_nets: list[Net]) -> None:
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

    def __getstate__(self) -> dict[str, Any]:
        with Entry(self):
            refuse_within(self, "pickle")
            return pickling.state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        pickling.revive(self, state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Solver:
        return pickling.deep_copy(self, memo)

    # ----------------------------------------------------------------------------------------------------- building

    @classmethod
    def declared(cls: type[T], source: str | Path | pb.SolverParameter, file: str = "") -> T:
        """A solver that has read and checked its prototxt and the files that it names, and has built nothing."""
        solver = cls.__new__(cls)
        solver._declare(source, file)
        solver.seed = 0
        return solver

    def _declare(self, source: str | Path | pb.SolverParameter, file: str) -> None:
        self.file = file if isinstance(source, pb.SolverParameter) else str(source)
        self.param = pb.SolverParameter()
        self.param.CopyFrom(source if isinstance(source, pb.SolverParameter) else read_solver(source))
        settle_forks(self.param, self.file)
        self._check()
        tests = [(net, state, pb.TEST, f"test (#{i})") for i, (net, state) in enumerate(self._test_nets())]
        self.declared_nets = [(self._train_net(), self.param.train_state, pb.TRAIN, "training"), *tests]
        names = [name.strip() for text in self.param.weights for name in text.split(",")]
        self.declared_weights = [find_file(name, self.file) for name in names]
        for path in self.declared_weights:
            check_readable(path, "this caffemodel", WeightsError)

    def _fail(self, message: str) -> None:
        raise SolverError(message, Position(self.file) if self.file else None)

    def _check(self) -> None:
        p = self.param
        lr_policy.check(p, self.file)
        if p.average_loss < 1:
            self._fail(f"average_loss must be at least 1, found {p.average_loss}")
        if p.iter_size < 1:
            self._fail(f"iter_size must be at least 1, found {p.iter_size}")
        if p.weight_decay and p.regularization_type not in ("L1", "L2"):
            self._fail(f'regularization_type is L1 or L2, found "{p.regularization_type}"')
        if not 0 <= p.average_decay < 1:
            self._fail(f"average_decay must be at least 0 and less than 1, found {p.average_decay:g}")
        if p.test_average and not p.average_decay:
            self._fail("test_average needs average_decay, which keeps the average")
        if p.momentum and not self.takes_momentum:
            self._fail(f'momentum must be 0 for type "{p.type}", found {p.momentum:g}')
        self.prefix = snapshot.prefix_of(p, self.file)
        if p.snapshot:
            snapshot.check_writable(self.prefix)

    def _train_net(self) -> pb.NetParameter:
        p = self.param
        given = [name for name in ("net", "net_param", "train_net", "train_net_param") if p.HasField(name)]
        if len(given) != 1:
            self._fail(f"exactly one of net, net_param, train_net and train_net_param says what to train; found {', '.join(given) or 'none'}")
        return self._read(getattr(p, given[0]))

    def _read(self, net: Any) -> pb.NetParameter:
        return net if isinstance(net, pb.NetParameter) else read_net(find_file(net, self.file))

    def _test_nets(self) -> list[tuple[pb.NetParameter, pb.NetState]]:
        p = self.param
        nets = [*p.test_net_param, *p.test_net]
        generic = p.net_param if p.HasField("net_param") else p.net
        more = len(p.test_iter) - len(nets)
        if more < 0 or (more and not generic):
            self._fail(f"test_iter is given for each test net: there are {len(p.test_iter)} test_iter and {len(nets)} test nets")
        nets += [generic] * more
        if len(p.test_state) not in (0, len(nets)):
            self._fail(f"test_state is given for each of the {len(nets)} test nets or not at all, found {len(p.test_state)}")
        if nets and p.test_interval <= 0:
            self._fail("test_interval must be more than 0 where there is a test net")
        return [(self._read(net), p.test_state[i] if p.test_state else pb.NetState()) for i, net in enumerate(nets)]

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

    @property
    def nets(self) -> list[Net]:
        """The train net and the test nets."""
        return [self.net, *self.test_nets]

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
                loss = 0.0
                for _ in range(p.iter_size):
                    loss += self.net.run_forward(debug=debug, keep=self.net.keep_blobs)
                    self.net.run_backward(debug=debug, keep=self.net.keep_blobs)
                loss /= p.iter_size
                if not isfinite(loss):
                    self.net.check_finite(loss)
                self.losses = [*self.losses, loss][-p.average_loss:]
                if show:
                    now = perf_counter()
                    done, seconds = self.iter - start, now - since
                    log.info("Iteration %d (%g iter/s, %gs/%d iters), loss = %g", self.iter, done / seconds if done else 0, seconds, p.display, self.smoothed_loss)
                    self._log_outputs(self.net, "Train")
                    start, since = self.iter, now
                self._call_back(1)
                self.stage = UPDATE
                self._apply_update(show, debug)
                self.stage = DONE
                if self.watchers:
                    self._tell("on_display" if show else "on_iteration", loss)
                self.iter, self.stage = self.iter_begun + 1, ""
            except BaseException:
                settle(self)
                raise
            self._obey()
            if p.snapshot and self.iter % p.snapshot == 0:
                self.snapshot()
            if self.stopped:
                break
            if self.interrupts:
                interrupt_if_wished(self)

    @property
    def smoothed_loss(self) -> float:
        """The mean of the last average_loss losses."""
        return sum(self.losses) / len(self.losses) if self.losses else 0.0

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

    def _apply_update(self, show: bool = False, debug: bool = False) -> None:
        p = self.param
        if p.lr_policy == "plateau":
            step = self.plateau.advance(p, self.iter, self.current_step, self.smoothed_loss)
        else:
            step = advance(p, self.iter, self.current_step)
        if step != self.current_step:
            self.current_step = step
            log.info("%s Status: Iteration %d, step = %d", "Plateau" if p.lr_policy == "plateau" else "MultiStep", self.iter, step)
        base = rate(p, self.iter, step)
        if show:
            log.info("Iteration %d, lr = %g", self.iter, base)
        data, diff = self.arena.open("data", frozen=bool(p.average_decay)), self.arena.open("diff")
        if p.average_decay and self.average is None:
            self.average = data.copy()
        scale = 1.0 / p.iter_size
        if p.clip_gradients >= 0:
            norm = sqrt(self.kernels.sum_squares(diff))
            if norm > p.clip_gradients:
                scale *= p.clip_gradients / norm
                log.info("Gradient clipping: scaling down gradients (L2 norm %g > %g) by scale factor %g", norm, p.clip_gradients, p.clip_gradients / norm)
        for span in self.arena.slots if self.by_parameter else self.arena.spans:
            if span.lr_mult:
                self.update(span, base * span.lr_mult, scale, p.weight_decay * span.decay_mult)
        if p.average_decay:
            self.kernels.linear(data, 1 - p.average_decay, self.average, p.average_decay)
        if debug:
            for owner in self.net.learnable:
                log.info("    [Update] Layer %s, param %s data: %g; diff: %g", owner.layer, owner.index,
                         float(abs(owner.blob.value.read()).mean()), float(abs(owner.blob.gradient.read()).mean()))

    def update(self, span: Span, rate: float, scale: float, decay: float) -> None:
        """Change a part of the arena by its gradients: what each kind of solver is."""

    def parts(self, span: Span) -> list[Any]:
        """The weights, gradients and histories in a part of the arena, for a kernel."""
        return [self.arena.part(array, span) for array in (self.arena.data, self.arena.diff, *self.history)]

    @property
    def kernels(self) -> Any:
        """The kernels of the device that the nets run on."""
        return self.net.device.kernels

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
            if p.display and self.iter % p.display == 0:
                undo = Undo(self.net, users=True)        # the loss line reads a batch that is no part of the training
                try:
                    log.info("Iteration %d, loss = %g", self.iter, self.net.run_forward())
                finally:
                    undo.put_back()
            if p.test_interval and self.iter % p.test_interval == 0:
                self.test_all()
        log.info("Optimization Done.")

    def _obey(self) -> None:
        wish = self.poll()
        if wish == "snapshot":
            self.snapshot()
        elif wish == "stop":
            self.stopped = True

    # ------------------------------------------------------------------------------------------------------- testing

    def test_all(self) -> None:
        """Run every test net and log the mean of its outputs."""
        with Entry(self):
            undos = [Undo(net, users=True) for net in self.test_nets]
            try:
                for i in range(len(self.test_nets)):
                    if not self.stopped:
                        with self.averaged(self.param.test_average):
                            self._whole_test(i)
            except BaseException:
                for undo in undos:
                    undo.put_back()
                raise

    def test(self, number: int = 0) -> dict[str, list[float]]:
        """Run one test net test_iter times; returns, and logs, the mean of each output's elements. With test_average the
        net has the average of the weights meanwhile. A test that is interrupted begins anew with the same data."""
        with Entry(self), self._settled(), self.averaged(self.param.test_average):
            return self._whole_test(number)

    def _whole_test(self, number: int) -> dict[str, list[float]]:
        undo, whole = Undo(self.test_nets[number], users=True), False
        try:
            means = self._test(number)
            whole = bool(means) or not self.stopped
            return means
        finally:
            if not whole:
                undo.put_back()

    @contextmanager
    def averaged(self, wanted: bool = True) -> Iterator[None]:
        """Within, the weights are their moving average, if it is `wanted` and there is one already."""
        if not wanted or self.average is None:
            yield
            return
        with using(self.nets):
            with self._settled():
                data = self.arena.open("data")
                kept = data.copy()
                data[...] = self.average
            try:
                yield
            finally:
                with self._settled():
                    self.arena.open("data")[...] = kept

    def _test(self, number: int) -> dict[str, list[float]]:
        net, p = self.test_nets[number], self.param
        log.info("Iteration %d, Testing net (#%d)", self.iter, number)
        outputs, total = OutputMeans(), 0.0
        for _ in range(p.test_iter[number]):
            interrupt_if_wished(self)
            self._obey()
            if self.stopped:
                log.info("Test interrupted.")
                return {}
            total += net.run_forward()
            outputs.add(net.output_values())
        means = outputs.means()
        if p.test_compute_loss:
            log.info("Test loss: %g", total / p.test_iter[number])
        self._log_outputs(net, "Test", means)
        self._tell("on_test", number, means)
        return means

    def _log_outputs(self, net: Net, what: str, means: dict[str, list[float]] | None = None) -> None:
        weights, k = net.blob_loss_weights, 0
        for name, values in (net.output_values() if means is None else means).items():
            for value in values:
                log.info("    %s net output #%d: %s = %g%s", what, k, name, value, loss_part(weights[name], value))
                k += 1

    def _tell(self, event: str, *args: Any) -> None:
        with resting():
            for watcher in self.watchers:
                if hasattr(watcher, event):
                    getattr(watcher, event)(self, *args)

    # ----------------------------------------------------------------------------------------------------- snapshots

    def snapshot(self) -> str:
        """Write a caffemodel and a solverstate; returns the state's path. Raises SnapshotError. Not within an
        iteration, except by watchers: the update is done then, and the state is that of the next iteration."""
        with Entry(self):
            refuse_within(self, "snapshot()", GRADIENTS, UPDATE, RESTORE)
            ahead = self.stage == DONE
            self.iter += ahead
            try:
                path = snapshot.save(self)
            finally:
                self.iter -= ahead
            self._tell("on_snapshot", path)
            return path

    def restore(self, path: str) -> None:
        """Go on from a solverstate, exactly where it was written. Raises SnapshotError or WeightsError. Mends a torn
        state."""
        with Entry(self, torn=True), self._settled():
            refuse_within(self, "restore()")
            self.stage = RESTORE
            try:
                snapshot.restore(self, path)
            except BrewError:                             # nothing has changed
                self.stage = ""
                raise
            self.stage = self.torn = ""
            self.tested_at = -1

    def add_callback(self, on_start: Callable[[], None], on_gradients_ready: Callable[[], None]) -> None:
        """Call on_start() before each iteration's forward and on_gradients_ready() before its update."""
        self.callbacks.append((as_user_code(on_start), as_user_code(on_gradients_ready)))

    def share_weights(self, net: Net) -> None:
        """Let `net` use the weights that this solver trains."""
        net.share_with(self.net)
