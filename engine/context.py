"""What nets and solvers are built for and run in: a device, its engine and threads, memory, a seed.

A net keeps the context that it was built in, and takes it up whenever it runs, in whatever thread. So trainings in
several threads, on different devices, do not disturb each other. Scripts that name none share one, DEFAULT, which
set_mode_gpu() and its like change.
"""
from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from threading import Lock
from typing import Any

from .device import Cpu, Gpu
from .errors import DeviceError
from .pool import Pool

log = logging.getLogger("brew")


class Context:
    """Where nets are built and run, and what they take their seed from.

        with brew.Context(threads=1, seed=7):
            solver = brew.get_solver("solver.prototxt")      # keeps this context, also outside of the with block

    gpu      the number of a GPU; None: the CPU.         threads   of the CPU; default: all that the process may use.
    engine   what `engine: DEFAULT` means on the CPU: "onednn", or "caffe" for im2col and a matrix product.
    seed     of nets and solvers that are given none; None: a new one for each.
    rank     which of `ranks` parts of the training data the data layers read, for training on several devices.

    Raises DeviceError for a GPU or an engine that is not there.
    """

    def __init__(self, gpu: int | None = None, threads: int | None = None, engine: str | None = None,
                 seed: int | None = None, rank: int = 0, ranks: int = 1):
        if not 0 <= rank < ranks:
            raise DeviceError(f"of {ranks} ranks, one lies between 0 and {ranks - 1}; found {rank}")
        self.rank, self.ranks = rank, ranks
        self.cpu = Cpu(threads, engine)
        self.device: Cpu | Gpu = self.cpu if gpu is None else open_gpu(gpu)
        self.pool = Pool()
        self.seed = seed
        self.gpu_id = gpu or 0                   # the GPU that set_mode_gpu() means
        self.dry = False                         # nets are for their shapes only: see dry_run()
        self.imports = True                      # whether modules of users may be imported to know the shapes

    def __enter__(self) -> Context:
        _entered.set((*_entered.get(), self))
        self.activate()
        return self

    def __exit__(self, *_: object) -> None:
        _entered.set(_entered.get()[:-1])
        current().activate()

    def __deepcopy__(self, memo: dict[int, Any]) -> Context:
        return self                              # a copy of a net runs in the same

    def activate(self) -> None:
        """Let this thread's memory, loops and kernels be those of this context: nets call it whenever they begin to
        run."""
        if _active.get() is not self:
            _active.set(self)
        self.device.enter()

    def with_device(self, device: Cpu | Gpu, engine: str | None = None) -> Context:
        """A context for another device (or the CPU with another engine) and otherwise like this one."""
        other = copy(self)
        if isinstance(device, Cpu):
            device = Cpu(device.threads, engine or device.engine)
            other.cpu = device
        other.device = device
        return other

    def set_threads(self, n: int) -> None:
        """How many CPU threads the nets of this context use."""
        if n < 1:
            raise DeviceError(f"brew runs on at least one thread, found {n}")
        self.cpu.threads = n
        self.device.enter()


DEFAULT = Context()
# new threads begin with DEFAULT
_entered: ContextVar[tuple[Context, ...]] = ContextVar("entered", default=(DEFAULT,))
_active: ContextVar[Context] = ContextVar("active", default=DEFAULT)
_gpus: dict[int, Gpu] = {}                       # those that are open: a process opens each once
_opening = Lock()


def current() -> Context:
    """The context that nets are built in: of the innermost with block, else DEFAULT."""
    return _entered.get()[-1]


def active() -> Context:
    """The context of the net that runs in this thread, or ran last."""
    return _active.get()


def open_gpu(number: int) -> Gpu:
    """The GPU of this number. Raises DeviceError if it cannot be used."""
    with _opening:
        if number not in _gpus:
            from ..kernels.gpu import CupyBackend
            try:
                _gpus[number] = Gpu(CupyBackend(number))
            except ImportError as e:
                raise NoGpu(f"the GPU needs CuPy: pip install 'brew[gpu]' ({e})") from None
            except RuntimeError as e:
                why = f"GPU {number} cannot be used: {e}"
                raise (DeviceError(why + WITHOUT) if "cudaErrorInvalidDevice" in str(e) else NoGpu(why)) from None
        return _gpus[number]


WITHOUT = ("\n  brew runs on the CPU without -gpu, with solver_mode: CPU, "
           "or where the environment has BREW_NO_GPU=warn")
_warned: list[str] = []                          # that there is no GPU


class NoGpu(DeviceError):
    """There is no GPU at all: BREW_NO_GPU may allow the CPU in its place. `why` is the reason alone."""

    def __init__(self, why: str):
        super().__init__(why + WITHOUT)
        self.why = why


# ------------------------------------------------------------------------------------------ for scripts, as in pycaffe

def set_mode_cpu() -> None:
    """Build nets for the CPU from now on."""
    context = current()
    context.device = context.cpu
    context.activate()


def set_device(device_id: int) -> None:
    """Choose which GPU set_mode_gpu() means. Raises DeviceError if there is no such GPU."""
    context = current()
    context.gpu_id = device_id
    if isinstance(context.device, Gpu):
        set_mode_gpu()


def set_mode_gpu() -> None:
    """Build nets for the GPU from now on. Raises DeviceError where there is none; with BREW_NO_GPU=warn in the
    environment, nets are then built for the CPU, and one warning says so."""
    context = current()
    try:
        context.device = open_gpu(context.gpu_id)
        context.activate()
    except NoGpu as e:
        wish = os.environ.get("BREW_NO_GPU") or "error"
        if wish not in ("error", "warn"):
            raise DeviceError(f"BREW_NO_GPU is error or warn, found {wish!r}") from None
        if wish == "error":
            raise
        if not _warned:
            log.warning("%s; running on the CPU, as BREW_NO_GPU=warn allows", e.why)
            _warned.append(e.why)
        set_mode_cpu()


def set_threads(n: int) -> None:
    """How many CPU threads brew uses; the same number gives the same bits. Affects nets built from now on."""
    current().set_threads(n)


def set_random_seed(seed: int) -> None:
    """Let nets and solvers that are given no seed of their own take this one, from now on."""
    current().seed = seed


def new_seed() -> int:
    """The seed of a run that was given none: the context's, else a new one."""
    seed = current().seed
    return int.from_bytes(os.urandom(4), "little") if seed is None else seed


def cpu_device() -> Cpu:
    """The CPU of the current context."""
    return current().cpu


# --------------------------------------------------------------------------------------------------- for with blocks

def using(device: Cpu | Gpu, engine: str | None = None) -> Context:
    """A context to build nets for `device` (and with `engine` as the CPU's default) within a with block."""
    return current().with_device(device, engine)


@contextmanager
def dry_run(python: bool = False) -> Iterator[None]:
    """Nets built within are for their shapes only: they cannot run. Python layers, and the layers that depend on them,
    are left out (`net.unknown`) unless `python` allows importing their modules, which runs them."""
    context = copy(current())
    context.dry, context.imports = True, python
    with context:
        yield
