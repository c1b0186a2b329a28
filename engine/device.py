"""The CPU with its threads and engine, and a GPU. Which of them a net runs on, its context says (context.py)."""
from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..kernels import cpu, onednn
from . import fork
from .errors import DeviceError

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

    def __init__(self, threads: int | None = None, engine: str | None = None) -> None:
        self.threads = cores() if threads is None else threads
        if self.threads < 1:
            raise DeviceError(f"brew runs on at least one thread, found {self.threads}")
        self.engine = engine or os.environ.get("BREW_ENGINE", "onednn" if onednn else "caffe")
        if self.engine not in ("onednn", "caffe"):
            raise DeviceError(f"{'the engine' if engine else 'BREW_ENGINE'} is onednn or caffe, found {self.engine!r}")

    @property
    def lanes(self) -> int:
        """Channels to a block in the layouts that convolutions like here; 1: plain."""
        return int(onednn.max_lanes()) if self.engine == "onednn" and onednn else 1

    def enter(self) -> None:
        """Make this thread's loops and matrix products use this device's threads."""
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
