"""Where a net runs: the CPU with its threads and engine, or a GPU. Chosen here, and nowhere else."""
from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..kernels import cpu, onednn
from . import fork
from .errors import DeviceError

log = logging.getLogger("brew")
FEW_ROWS, LONG_ROWS = 128, 256           # where kernels/cpu/gemm_nt.cpp is faster than a general product (benchmarks/products.py)


def cores() -> int:
    """How many threads are worth having: OMP_NUM_THREADS, or the cores that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if given.isdigit() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def add_nothing(c: Any, beta: float) -> None:
    """c = beta c: a product whose inner extent is 0. oneDNN and gemm_nt.cpp return without writing then."""
    if beta != 1:
        c[...] = beta * c if beta else 0


class Cpu:
    """The CPU. `engine` says what `engine: DEFAULT` means: "onednn", or "caffe" for the portable im2col + GEMM."""

    name = "cpu"
    xp: Any = np
    kernels: Any = cpu

    def __init__(self) -> None:
        self.threads = cores()
        self.engine = os.environ.get("BREW_ENGINE", "onednn" if onednn else "caffe")
        if self.engine not in ("onednn", "caffe"):
            raise DeviceError(f"BREW_ENGINE is onednn or caffe, found {self.engine!r}")
        cpu.set_blas_threads(self.threads)

    @property
    def lanes(self) -> int:
        """Channels to a block in the layouts that convolutions like here; 1: plain."""
        return int(onednn.max_lanes()) if self.engine == "onednn" and onednn else 1

    def enter(self) -> None:
        """Make this thread's loops use this device's threads."""
        cpu.set_threads(self.threads)

    def synchronize(self) -> None:
        """Wait until everything asked for is done; on the CPU it is."""

    @staticmethod
    def empty(size: int, dtype: Any = np.float32) -> np.ndarray:
        """A flat array that begins on a cache line; its values are zero."""
        spare = 64 // np.dtype(dtype).itemsize
        raw = np.zeros(size + spare, dtype)
        start = -raw.ctypes.data % 64 // raw.itemsize
        return raw[start:start + size]

    def gemm(self, ta: bool, tb: bool, rows: int, cols: int, inner: int, a: np.ndarray, b: np.ndarray, c: np.ndarray, beta: float) -> None:
        """c = a b + beta c, row-major; a is (rows, inner), b (inner, cols), each stored transposed if ta, tb."""
        if not inner:
            add_nothing(c, beta)
            return
        if tb and not ta and rows <= FEW_ROWS and inner >= LONG_ROWS:
            cpu.gemm_nt(rows, cols, inner, a, b, c, beta)
            return
        (onednn if self.engine == "onednn" and onednn else cpu).gemm(ta, tb, rows, cols, inner, a, b, c, beta)


class Gpu:
    """A GPU by way of an array library and its run-time compiler: CuPy, or in tests a stand-in that runs on the CPU."""

    name = "gpu"
    engine = "cuda"
    lanes = 1

    def __init__(self, backend: Any) -> None:
        from ..kernels.gpu import Kernels
        self.backend, self.xp = backend, backend.xp
        self.kernels = Kernels(backend)
        self.generation = fork.generation

    def enter(self) -> None:
        if self.generation != fork.generation and self.xp is not np:
            raise DeviceError("this process was forked from one that uses the GPU, and CUDA cannot go on in it"
                              "\n  start processes with multiprocessing's \"spawn\", or use the GPU in the child only")
        self.backend.enter()

    def synchronize(self) -> None:
        self.backend.synchronize()

    def empty(self, size: int, dtype: Any = np.float32) -> Any:
        return self.xp.zeros(size, dtype)

    def gemm(self, ta: bool, tb: bool, rows: int, cols: int, inner: int, a: Any, b: Any, c: Any, beta: float) -> None:
        if not inner:
            add_nothing(c, beta)
            return
        self.backend.gemm(ta, tb, rows, cols, inner, a, b, c, beta)


_cpu = Cpu()
_default: Cpu | Gpu = _cpu       # where nets are built
_current: Cpu | Gpu = _cpu       # where memory is read and written now: the device of the net that runs
gpu_runs = False                 # whether _current is a GPU: memory asks at every read and write
_gpus: dict[int, Gpu] = {}
_gpu_id = 0
_warned = False                  # that there is no GPU


def default() -> Cpu | Gpu:
    """The device on which nets are built."""
    return _default


def current() -> Cpu | Gpu:
    """The device of the net that runs now."""
    return _current


def activate(device: Cpu | Gpu) -> None:
    """Run on this device: called by nets at the start of everything they do."""
    _run_on(device)
    device.enter()


def _run_on(device: Cpu | Gpu) -> None:
    global _current, gpu_runs
    _current, gpu_runs = device, isinstance(device, Gpu)


def cpu_device() -> Cpu:
    return _cpu


def set_mode_cpu() -> None:
    """Build nets for the CPU from now on."""
    global _default
    _default = _cpu
    _run_on(_cpu)


def set_device(device_id: int) -> None:
    """Choose which GPU set_mode_gpu() means. Raises DeviceError if there is no such GPU."""
    global _gpu_id
    _gpu_id = device_id
    if isinstance(_default, Gpu):
        set_mode_gpu()


def set_mode_gpu() -> None:
    """Build nets for the GPU from now on. Raises DeviceError where there is none; with BREW_NO_GPU=warn in the environment,
    nets are then built for the CPU, and one warning says so."""
    global _default
    if _gpu_id not in _gpus:
        from ..kernels.gpu import CupyBackend
        try:
            _gpus[_gpu_id] = Gpu(CupyBackend(_gpu_id))
        except ImportError as e:
            _without_gpu(f"the GPU needs CuPy: pip install 'brew[gpu]' ({e})")
            return
        except RuntimeError as e:
            _without_gpu(f"GPU {_gpu_id} cannot be used: {e}", other="cudaErrorInvalidDevice" in str(e))
            return
    _default = _gpus[_gpu_id]
    _run_on(_default)


def _without_gpu(why: str, other: bool = False) -> None:
    """Go on on the CPU if BREW_NO_GPU allows it and there is no `other` GPU."""
    global _warned
    wish = os.environ.get("BREW_NO_GPU") or "error"
    if wish not in ("error", "warn"):
        raise DeviceError(f"BREW_NO_GPU is error or warn, found {wish!r}")
    if wish == "error" or other:
        raise DeviceError(f"{why}\n  brew runs on the CPU without -gpu, with solver_mode: CPU, or where the environment has BREW_NO_GPU=warn") from None
    if not _warned:
        log.warning("%s; running on the CPU, as BREW_NO_GPU=warn allows", why)
    _warned = True
    set_mode_cpu()


def set_threads(n: int) -> None:
    """How many CPU threads brew uses; the same number gives the same bits. Affects nets built from now on."""
    if n < 1:
        raise DeviceError(f"brew runs on at least one thread, found {n}")
    _cpu.threads = n
    cpu.set_blas_threads(n)
    cpu.set_threads(n)


@contextmanager
def using(device: Cpu | Gpu, engine: str | None = None) -> Iterator[None]:
    """Build nets for `device` (and with `engine` as the CPU's default) within a with block."""
    global _default
    before, before_engine = _default, _cpu.engine
    _default = device
    _run_on(device)
    _cpu.engine = engine or before_engine
    try:
        yield
    finally:
        _default = before
        _run_on(before)
        _cpu.engine = before_engine
