"""What a solver's prototxt declares, read and checked before anything is built."""
from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ..engine.errors import Position, SnapshotError, SolverError, WeightsError, check_readable
from ..engine.net import Net
from ..proto import brew_pb2 as pb
from ..proto import find_file, read_net, read_solver, settle_forks
from . import lr_policy
from .undo import Undo

log = logging.getLogger("brew")
D = TypeVar("D", bound="Declaration")


class Declaration:
    """The base of every solver: its parameters, the nets and the weights that they name, and where snapshots go."""

    takes_momentum = True
    seed: int
    # What a solver has beside it once it is built; see Solver.
    net: Net
    test_nets: list[Net]
    iter: int
    iter_begun: int
    losses: list[float]
    losses_before: list[float]
    stage: str
    torn: str
    stopped: bool
    entered: bool
    interrupts: int
    undo: Undo

    @property
    def nets(self) -> list[Net]:
        """The train net and the test nets."""
        return [self.net, *self.test_nets]

    @classmethod
    def declared(cls: type[D], source: str | Path | pb.SolverParameter, file: str = "") -> D:
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

    def _fail(self, message: str) -> NoReturn:
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
        self.prefix = prefix_of(p, self.file)
        if p.snapshot:
            check_writable(self.prefix)

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


def prefix_of(param: pb.SolverParameter, file: str) -> str:
    """What snapshots' names begin with: snapshot_prefix, or the solver's file without its ending; in a folder, its
    name."""
    stem = Path(file).with_suffix("") if file else Path("brew")
    prefix = Path(param.snapshot_prefix) if param.snapshot_prefix else stem
    return str(prefix / stem.name) if param.snapshot_prefix and prefix.is_dir() else param.snapshot_prefix or str(stem)


def check_writable(prefix: str) -> None:
    """Raise SnapshotError unless files with this prefix can be written."""
    probe = Path(f"{prefix}.probe")
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as e:
        raise SnapshotError(f"snapshots cannot be written here: {e.strerror}\n  snapshot_prefix must lie in a folder that exists and is writable", Position(prefix)) from None
