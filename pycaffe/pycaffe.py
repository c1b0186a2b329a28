"""pycaffe's Net and solvers: brew's, with the members that only Caffe's scripts know, and every value kept where those look for it."""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .. import solvers
from ..engine import net as engine
from ..engine.errors import DeviceError, NetError, ShapeError
from ..engine.exclusive import exclusive
from ..proto import brew_pb2 as pb
from ..proto import read_solver
from ..solvers import adadelta, adagrad, adam, nesterov, rmsprop, sgd
from ..tools.log import log_to_stderr

log = logging.getLogger("brew")
TRAIN, TEST = 0, 1


class Net(engine.Net):
    """A net from a prototxt: Net(network_file, phase, level=0, stages=None, weights=None), or as long ago
    Net(network_file, weights_file, phase).

    All blobs keep their values after a forward pass, as in Caffe; keep_values = False releases their memory and is faster.
    Raises brew's errors, which are RuntimeErrors.
    """

    def __init__(self, network_file: str | Path | pb.NetParameter, phase: Any = None, level: Any = 0, stages: list[str] | None = None,
                 weights: str | Path | None = None, seed: int | None = None):
        if isinstance(phase, (str, Path)):
            log.warning("DEPRECATION WARNING - deprecated use of Python interface: use Net(%r, %s, weights=%r)", str(network_file), level, str(phase))
            phase, level, weights = level, 0, phase
        if phase not in (TRAIN, TEST):
            raise NetError(f"the phase is caffe.TRAIN or caffe.TEST, found {phase!r}")
        super().__init__(network_file, phase, level, stages, weights, seed)
        self.keep_values = True

    # Members of Caffe's extension module that scripts call, layers and blobs by number.

    @exclusive
    def _forward(self, start: int, end: int) -> float:
        """Layers start..end (both included) forward; returns the loss."""
        with self.settled():
            return self.run_forward(start, end)

    @exclusive
    def _backward(self, start: int, end: int) -> None:
        """Layers start..end (start is the later one, both included) backward."""
        with self.settled():
            self.run_backward(start, end)

    @property
    def _blob_loss_weights(self) -> list[float]:
        """blob_loss_weights in the order of `_blobs`."""
        return list(self.blob_loss_weights.values())

    def _bottom_ids(self, i: int) -> list[int]:
        """Which of `_blobs` layer number i reads."""
        return self.graph.bottom_ids[i]

    def _top_ids(self, i: int) -> list[int]:
        """Which of `_blobs` layer number i makes."""
        return self.graph.top_ids[i]

    def _batch(self, blobs: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
        """Parts of the arrays as long as a batch, the last one filled up with zeros."""
        return self._batches(blobs)

    def _set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        self.set_input_arrays(data, labels)

    @property
    def _inputs(self) -> list[int]:
        return [self._blob_names.index(name) for name in self.inputs]

    @property
    def _outputs(self) -> list[int]:
        return [self._blob_names.index(name) for name in self.outputs]

    @exclusive
    def forward_all(self, blobs: list[str] | None = None, **inputs: Any) -> dict[str, np.ndarray]:
        """forward() of inputs of any number of items, batch by batch; the last batch is filled up with zeros.

        Returns {output: values of all items}, and those of `blobs`.
        """
        found: dict[str, list[np.ndarray]] = {}
        for batch in self._batches(inputs):
            for name, values in self.forward(blobs, **batch).items():                # type: ignore[arg-type]
                found.setdefault(name, []).append(values.copy())
        return self._joined(found, inputs)

    @exclusive
    def forward_backward_all(self, blobs: list[str] | None = None, diffs: list[str] | None = None, **inputs: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """forward() and backward() batch by batch. Keyword arguments give the inputs, and the gradients of outputs.

        Returns ({blob: values}, {blob: gradients}) of all items.
        """
        values: dict[str, list[np.ndarray]] = {}
        gradients: dict[str, list[np.ndarray]] = {}
        given = {name: inputs[name] for name in self.inputs if name in inputs}
        top_diffs = {name: inputs[name] for name in inputs if name not in given}
        for batch, diff in zip(self._batches(given), self._batches(top_diffs, len(next(iter(given.values()))))):
            for found, made in ((values, self.forward(blobs, **batch)), (gradients, self.backward(diffs, **diff))):      # type: ignore[arg-type]
                for name, array in made.items():
                    found.setdefault(name, []).append(array.copy())
        return self._joined(values, given), self._joined(gradients, given)

    def _batches(self, inputs: dict[str, Any], items: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Parts of arrays as long as a batch, the last one filled up with zeros."""
        lengths = {len(values) for values in inputs.values()} or {items}
        if len(lengths) > 1:
            raise ShapeError(f"all inputs must have the same number of items, found {sorted(lengths)}")
        size = self.blobs[self.inputs[0]].shape[0] if self.inputs else self._blobs[0].shape[0]
        for start in range(0, lengths.pop(), size):
            batch = {}
            for name, values in inputs.items():
                part = np.asarray(values[start:start + size])
                batch[name] = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)]) if len(part) < size else part
            yield batch

    @staticmethod
    def _joined(found: dict[str, list[np.ndarray]], inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        items = len(next(iter(inputs.values())))
        return {name: np.concatenate(parts)[:items] if parts[0].ndim else np.array(parts) for name, parts in found.items()}

    @exclusive
    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Let the MemoryData layer, the first one, read these: data (N, C, H, W), labels (N), both float32; N is a multiple of its
        batch_size. They are taken as they are: transform_param is not applied."""
        layer = self.nodes[0]
        if layer.type != "MemoryData":
            raise NetError(f'set_input_arrays is for nets that begin with a MemoryData layer; this one begins with "{layer.name}" of type {layer.type}')
        for what, array in (("data", data), ("labels", labels)):
            if np.asarray(array).dtype != np.float32 or not np.asarray(array).flags.c_contiguous:
                raise NetError(f"the {what} must be a C-contiguous array of float32")
        layer.set_input_arrays(data, labels)                         # type: ignore[attr-defined]


class _Caffes:
    """What pycaffe's solvers have on top of brew's."""

    net_class = Net

    def __init__(self, solver_file: Any, file: str = ""):
        super().__init__(solver_file, file)                          # type: ignore[call-arg]
        self.net.keep_blobs = True                               # type: ignore[attr-defined]

    def add_callback(self, on_start: Any, on_gradients_ready: Callable[[], None] | None = None) -> None:
        """Call these at the start of each iteration, and when its gradients are there."""
        if on_gradients_ready is None:
            raise DeviceError("NCCL joins several GPUs, which brew does not train on yet")
        super().add_callback(on_start, on_gradients_ready)           # type: ignore[misc]


class SGDSolver(_Caffes, sgd.SGDSolver): ...
class NesterovSolver(_Caffes, nesterov.NesterovSolver): ...
class AdaGradSolver(_Caffes, adagrad.AdaGradSolver): ...
class RMSPropSolver(_Caffes, rmsprop.RMSPropSolver): ...
class AdaDeltaSolver(_Caffes, adadelta.AdaDeltaSolver): ...
class AdamSolver(_Caffes, adam.AdamSolver): ...


def get_solver(solver_file: str | Path | pb.SolverParameter) -> Any:
    """The solver that a prototxt asks for by its `type`. Raises SolverError."""
    param = solver_file if isinstance(solver_file, pb.SolverParameter) else read_solver(solver_file)
    known: dict[str, Any] = {cls.__name__.removesuffix("Solver"): cls for cls in (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver)}
    own = solvers.SOLVERS.get(param.type)
    if param.type not in known and own is not None:
        known[param.type] = _further_kind(own)                       # brew's, and those of users
    return known[param.type](solver_file) if param.type in known else solvers.get_solver(solver_file)


def _further_kind(own: type) -> Any:
    """The class of pycaffe for a class of brew's, as a member of this module, where pickle looks for it."""
    kind = globals().setdefault(own.__name__, type(own.__name__, (_Caffes, own), {"__module__": __name__}))
    return kind if isinstance(kind, type) and issubclass(kind, own) else type(own.__name__, (_Caffes, own), {})


def __getattr__(name: str) -> Any:
    for own in solvers.SOLVERS.values():
        if own.__name__ == name:
            return _further_kind(own)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Timer:
    """A stopwatch."""

    def __init__(self) -> None:
        self._start, self._elapsed = 0.0, 0.0

    def start(self) -> None:
        self._start = perf_counter()

    def stop(self) -> None:
        self._elapsed = perf_counter() - self._start

    @property
    def ms(self) -> float:
        """Milliseconds between start and stop."""
        return 1e3 * self._elapsed

    @property
    def us(self) -> float:
        return 1e6 * self._elapsed


class NCCL:
    """Joins several GPUs in Caffe. brew trains on one so far: making one raises DeviceError."""

    def __init__(self, solver: Any, uid: Any):
        raise DeviceError("NCCL joins several GPUs, which brew does not train on yet\n  has_nccl() says so: scripts that ask it run on one")

    @staticmethod
    def new_uid() -> bytes:
        """A name for a group of processes."""
        raise DeviceError("NCCL joins several GPUs, which brew does not train on yet")

    def bcast(self) -> None:
        """Send the solver's weights to the others."""


_solvers = {"count": 1, "rank": 0, "multiprocess": False}


def has_nccl() -> bool:
    return False


def solver_count() -> int:
    return int(_solvers["count"])


def solver_rank() -> int:
    return int(_solvers["rank"])


def set_solver_count(n: int) -> None:
    if n != 1:
        raise DeviceError(f"brew trains on one device, found a count of {n}")


def set_solver_rank(n: int) -> None:
    if n != 0:
        raise DeviceError(f"brew trains on one device, whose rank is 0, found {n}")


def set_multiprocess(multiprocess: bool) -> None:
    if multiprocess:
        raise DeviceError("brew trains in one process")


def init_log(level: int = 0, to_stderr: bool = False) -> None:
    """Show log lines on stderr, from this of glog's levels on: 0 info, 1 warnings, 2 errors."""
    log_to_stderr({0: logging.INFO, 1: logging.WARNING}.get(level, logging.ERROR))


def log_message(message: str) -> None:
    """Write a line to the log."""
    log.info("%s", message)
