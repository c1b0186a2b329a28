"""Runs CUDA kernel sources on the CPU: a stand-in for CuPy's RawModule and a backend for brew's Gpu device.

A source is compiled by g++ against cudashim.h, where a block's threads are fibers. Arguments are checked for size and
kind, as CuPy does not; `order` runs a block's threads in another order, which shows missing barriers.
"""
from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CACHE = HERE.parent / ".shim-cache"
DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s*)?([\w:<>]+)\s+(\w+)\s*\[\s*\]\s*;")
# Kernels by their names, and those that the macro BREW_FUNCTION makes.
KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(')
CUDA_HEADER = re.compile(r"^\s*#\s*include\s*<(cuda_fp16|cuda_bf16|math_constants|cooperative_groups)\.h>.*$", re.M)
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-shared", "-pthread", "-ffp-contract=off", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-w"]
ONE_AT_A_TIME = threading.Lock()                 # a kernel's grid is the process's, as in a stream kernels follow each other
POINTER = -8                                     # the codes of cushim::sizes: bytes, times 1000 for floating point


class RawModule:
    """The kernels of a CUDA source, compiled for the CPU and kept in tests/.shim-cache."""

    def __init__(self, code: str, includes: tuple[str, ...] = (), order: int = 0):
        names = [n for n in KERNEL.findall(code) if "#" not in n] + [f"{name}_{d}" for name in re.findall(r"^BREW_FUNCTION\((\w+)\)", code, re.M) for d in ("forward", "backward")]
        source = '#include "cudashim.h"\n#line 1 "kernel.cu"\n' + CUDA_HEADER.sub("", DYNAMIC.sub(r"\1* \2=(\1*)cushim::dyn();", code))
        source += "\n" + "\n".join(f"CUSHIM_EXPORT({name})" for name in names) + '\nextern "C" const char* cushim_err(){return cushim::errmsg;}\n'
        headers = b"".join(f.read_bytes() for folder in (str(HERE), *includes) for f in sorted(Path(folder).glob("*.h")))
        library = CACHE / f"{hashlib.sha256(source.encode() + headers).hexdigest()[:16]}.so"
        if not library.exists():
            CACHE.mkdir(exist_ok=True)
            part = Path(f"{library}.{os.getpid()}.part")      # tests may run in several processes
            command = ["g++", *FLAGS, f"-I{HERE}", *(f"-I{i}" for i in includes), "-x", "c++", "-", "-o", str(part)]
            result = subprocess.run(command, input=source, text=True, capture_output=True)
            if result.returncode:
                raise RuntimeError(result.stderr)
            part.replace(library)
        self.library, self.order = ctypes.CDLL(str(library)), order
        self.library.cushim_err.restype = ctypes.c_char_p

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(self.library, name, self.order)


class RawKernel:
    def __init__(self, library: ctypes.CDLL, name: str, order: int):
        self.library, self.name, self.order = library, name, order
        self.function = getattr(library, f"cushim_{name}")
        codes = (ctypes.c_int * 128)()
        getattr(library, f"cushim_sizes_{name}")(codes)
        self.params = list(codes[:list(codes).index(0)])

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], shared_mem: int = 0) -> None:
        if len(args) != len(self.params):
            raise TypeError(f"{self.name}: {len(args)} arguments for {len(self.params)} parameters")
        kept = [self._pointer(i, a, p) for i, (a, p) in enumerate(zip(args, self.params))]
        pointers = (ctypes.c_void_p * len(kept))(*(ctypes.addressof(k) for k in kept))
        extents = [(ctypes.c_uint * 3)(*(list(e) + [1, 1])[:3]) for e in (grid, block)]
        with ONE_AT_A_TIME:
            failed = self.function(*extents, ctypes.c_size_t(shared_mem), pointers, 1, self.order)
        if failed:
            raise RuntimeError(f"{self.name}: {self.library.cushim_err().decode()}")

    def _pointer(self, i: int, arg: Any, code: int) -> Any:
        """A ctypes object that holds the argument's bytes."""
        if isinstance(arg, np.ndarray) or arg is None:
            if code != POINTER:
                raise TypeError(f"{self.name}: argument {i} is an array, the parameter is none")
            if arg is not None and not arg.flags.c_contiguous:
                raise TypeError(f"{self.name}: argument {i} is not contiguous")
            return ctypes.c_void_p(0 if arg is None else arg.ctypes.data)
        if not isinstance(arg, np.generic) or arg.dtype.itemsize * (1000 if arg.dtype.kind == "f" else 1) != code:
            raise TypeError(f"{self.name}: argument {i} ({arg!r}) does not match the parameter (code {code})")
        return ctypes.create_string_buffer(arg.tobytes(), arg.dtype.itemsize)


class ShimBackend:
    """What kernels.gpu.CupyBackend is on a GPU: numpy arrays as device memory, kernels through the shim."""

    xp = np

    def __init__(self, order: int = 0):
        self.order = order

    def enter(self) -> None: ...
    def synchronize(self) -> None: ...

    def module(self, path: str) -> RawModule:
        from brew.kernels.gpu import CUDA, INCLUDE
        return RawModule(Path(path).read_text(), (str(INCLUDE), str(CUDA), str(Path(path).parent)), self.order)

    def gemm(self, ta: bool, tb: bool, rows: int, cols: int, inner: int, a: Any, b: Any, c: Any, beta: float) -> None:
        a = a.reshape(inner, rows).T if ta else a.reshape(rows, inner)
        b = b.reshape(cols, inner).T if tb else b.reshape(inner, cols)
        c = c.reshape(rows, cols)
        c[...] = a @ b + (beta * c if beta else 0)
