"""A mistake in Python is an exception, never an access outside of an array: the bindings of the compiled modules."""
from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from brew.engine.pool import Pool

HERE = Path(__file__).parent


def test_every_binding_refuses_arrays_that_are_too_short() -> None:
    """In a process of its own, for a binding that trusts a length ends it."""
    result = subprocess.run([sys.executable, str(HERE / "replay.py")], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


# Kernels that work in scratch of their own, with arrays whose scratch takes more than the 64 MB that the process may still have.
SCRATCH = {
    "softmax_forward": "x = A(2, 2, N); cpu.softmax_forward(x, x, 2, 2, N)",
    "softmax_backward": "x = A(2, 2, N); cpu.softmax_backward(x, x, x, 2, 2, N)",
    "lrn_across_backward": "x = A(2, 1, N); cpu.lrn_across_backward(x, x, x, x, x, 2, 1, N, 5, 1.0, 0.75)",
    "normalize_backward": "x = A(N // 2, 1, 2); cpu.normalize_backward(x, x, A(1), x, (N // 2, 1, 2, 1, 1))",
    "normalize_backward by channels": "x = A(N // 4, 4, 2); cpu.normalize_backward(x, x, A(4), x, (N // 4, 4, 2, 1, 4))",
    "suppress": "b = A(1, N, 4); cpu.suppress(b, np.zeros(1, np.int32), np.zeros((1, N), np.int32), 0.5, 1.0)",
    "ctc": "s = A(N, 1, 1); c = np.zeros(1, np.int32); cpu.ctc(s, np.zeros((1, 0), np.int32), c, c, A(1), A(N, 1, 1), A(1, 2, N, 1), 0)",
    "conv_backward_weights": "w = A(2, 1, N); x = A(1, 2, N); cpu.conv_backward_weights(x, A(1, 2, 1), w, None, 0.0, 1, 2, 2, 2, (1, N, 1, N, 1, 0, 1))",
    "gemm_nt": "cpu.gemm_nt(N // 8, 1, 8, A(N), A(8), A(N // 8), 0.0)",
    "channel_moments": "m = A(N // 4); cpu.channel_moments(A(N), m, m, 1.0, m, (4, N // 4, 1, 1, N // 4))",
}
MEMORY = """
import resource, sys
import numpy as np
from brew.kernels import cpu
N = 1 << 24
A = lambda *shape: np.ones(shape, np.float32)
cpu.set_threads(2)
z = A(1 << 16); cpu.relu_forward(z, z, 0.0)            # its threads exist
real = dict(vars(cpu))
def limited(function):
    def call(*args):
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 24), resource.RLIM_INFINITY))
        try:
            function(*args)
        except MemoryError:
            sys.exit(42)
        sys.exit(43)
    return call
class cpu:
    pass
for name, value in real.items():
    setattr(cpu, name, staticmethod(limited(value)) if callable(value) else value)
"""


@pytest.mark.skipif(sys.platform != "linux" or "ASAN_OPTIONS" in os.environ,
                    reason="limits memory as Linux does; AddressSanitizer takes all addresses")
@pytest.mark.parametrize("kernel", SCRATCH)
def test_out_of_memory_is_a_memory_error(kernel: str) -> None:
    result = subprocess.run([sys.executable, "-c", MEMORY + SCRATCH[kernel]], capture_output=True, text=True)
    assert result.returncode == 42, (result.returncode, result.stderr[-2000:])


class Piece:
    """Stands for a free array of 10 floats; while its length is looked at, `meanwhile` runs."""

    def __init__(self, meanwhile: Callable[[], None]):
        self.meanwhile: Callable[[], None] | None = meanwhile

    def __len__(self) -> int:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        return 10


def test_threads_share_a_pool() -> None:
    """While one thread chooses an array, another asks for one of that size: each gets its own."""
    pool, others = Pool(), list[Any]()
    thread = threading.Thread(target=lambda: others.append(pool.take(10)))

    def meanwhile() -> None:
        thread.start()
        thread.join(0.2)                                   # until it waits for its turn

    piece = Piece(meanwhile)
    pool.free = [piece]  # type: ignore[list-item]
    assert pool.take(10) is piece  # type: ignore[comparison-overlap]
    thread.join()
    assert len(others) == 1 and len(others[0]) == 10 and others[0] is not piece and not pool.free
