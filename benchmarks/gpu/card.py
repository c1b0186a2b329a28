"""Steps of first_run.py: the card and the versions of everything; kernels against numpy, and what calls cost."""
from __future__ import annotations

import argparse
import importlib.metadata
import platform
import subprocess
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Any

import numpy as np
from checks import check, gpu

from brew.engine import context as devices
from brew.kernels import cpu
from brew.tools.cli import main as brew_command

PACKAGES = ("numpy", "protobuf", "lmdb", "cupy-cuda13x", "cupy-cuda12x", "torch", "nvidia-cudnn-cu13")


def device(args: argparse.Namespace) -> bool:
    """The card, its driver and versions; brew device_query."""
    with suppress(OSError):
        query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm"
        subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], check=False)
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            print(f"{package} {importlib.metadata.version(package)}")
    print(f"Python {platform.python_version()}, {cpu.__name__}, {devices.cores()} threads")
    start = perf_counter()
    capability = gpu().backend.device.compute_capability
    print(f"importing CuPy and opening the GPU: {perf_counter() - start:.1f} s; compute capability {capability}")
    works = check("device_query -gpu all returns 0", brew_command(["device_query", "-gpu", "all"]) == 0)
    return check("device_query -gpu abc returns 1", brew_command(["device_query", "-gpu", "abc"]) == 1) and works


def kernels(args: argparse.Namespace) -> bool:
    """One ReLU and matrix products against numpy, and what calls cost."""
    on, rng = gpu(), np.random.default_rng(0)
    xp = on.xp
    x = rng.standard_normal(1_000_003, np.float32)
    y = xp.empty(x.size, np.float32)
    on.kernels.relu_forward(xp.asarray(x), y, 0.1)
    works = check("relu_forward gives numpy's bits", bool((y.get() == np.where(x > 0, x, np.float32(0.1) * x)).all()))
    for ta, tb, beta in ((False, False, 0.0), (True, False, 1.0), (False, True, 0.5), (True, True, 1.0)):
        error = gemm_error(on, rng, ta, tb, beta)         # TF32 would give 3e-4
        works &= check(f"gemm, transposed {ta} {tb}, beta {beta}", error < 1e-6, f"error {error:.1e}")
    costs(on, args.size)
    return works


def gemm_error(on: Any, rng: np.random.Generator, ta: bool, tb: bool, beta: float) -> float:
    """The relative error of a product, compared with float64."""
    rows, cols, inner = 67, 129, 345
    a, b, c = (rng.standard_normal(n, np.float32) for n in (rows * inner, inner * cols, rows * cols))
    left = a.reshape(inner, rows).T if ta else a.reshape(rows, inner)
    right = b.reshape(cols, inner).T if tb else b.reshape(inner, cols)
    expected = left.astype(float) @ right + beta * c.reshape(rows, cols)
    got = on.xp.asarray(c)
    on.gemm(ta, tb, rows, cols, inner, on.xp.asarray(a), on.xp.asarray(b), got, beta)
    return float(np.linalg.norm(got.get().reshape(rows, cols) - expected) / np.linalg.norm(expected))


def costs(on: Any, n: int) -> None:
    """Print what a launch, a product and a synchronising read cost from Python, and the rates of n x n arrays."""
    xp, k = on.xp, on.kernels

    def seconds(call: Callable[[], Any], times: int) -> float:
        call()
        on.synchronize()
        start = perf_counter()
        for _ in range(times):
            call()
        on.synchronize()
        return (perf_counter() - start) / times

    one, small = xp.zeros(1, np.float32), xp.zeros(64 * 64, np.float32)
    image, pixels = xp.ones((3, 224, 224), np.float32), np.ones((3, 224, 224), np.float32)
    for what, call in (
            ("a launch", lambda: k.relu_forward(one, one, 0.0)), ("a CuPy expression", lambda: one + one),
            ("gemm 64 x 64 x 64", lambda: on.gemm(False, False, 64, 64, 64, small, small, small, 0.0)),
            ("float() of a sum", lambda: float(one.sum())), ("an image to the card", lambda: image.set(pixels))):
        print(f"{what:20} {1e6 * seconds(call, 500):8.1f} us")
    a, b, c = (xp.ones(n * n, np.float32) for _ in range(3))
    t = seconds(lambda: on.gemm(False, False, n, n, n, a, b, c, 0.0), 10)
    print(f"gemm {n}^3: {1e-12 * 2 * n**3 / t:.1f} TFLOP/s")
    t = seconds(lambda: k.relu_forward(a, c, 0.0), 50)
    print(f"relu of {n * n:,d}: {1e-9 * 8 * n * n / t:.0f} GB/s read and written")
