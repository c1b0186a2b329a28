"""The product with few rows, whose blocks, ends and depths all have code of their own."""
from __future__ import annotations

import numpy as np
import pytest

from brew.engine import context as device
from brew.kernels import cpu


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 11, 32, 100, 128])
@pytest.mark.parametrize("cols, inner", [(1, 256), (2, 257), (7, 300), (64, 5000), (301, 1027)])
def test_values_and_bits(rows: int, cols: int, inner: int) -> None:
    """Within what single precision leaves of the sums' terms; the same bits on any number of threads."""
    rng = np.random.default_rng(rows * cols)
    a, b = rng.standard_normal((rows, inner), np.float32), rng.standard_normal((cols, inner), np.float32)
    start = rng.standard_normal((rows, cols), np.float32)
    expected = a.astype(np.float64) @ b.T.astype(np.float64)
    bound = 1e-6 * np.abs(a).astype(np.float64) @ np.abs(b).T.astype(np.float64)
    for beta in (0.0, 1.0, 0.5):
        c = np.full_like(start, np.nan) if beta == 0 else start.copy()
        cpu.gemm_nt(rows, cols, inner, a, b, c, beta)
        assert (np.abs(c - expected - (beta * start if beta else 0)) <= bound).all()
    found = []
    for threads in (1, 2, 3):
        cpu.set_threads(threads)
        c = np.empty_like(start)
        cpu.gemm_nt(rows, cols, inner, a, b, c, 0.0)
        found.append(c.tobytes())
    device.cpu_device().enter()                              # its own number again
    assert len(set(found)) == 1


def test_nan_of_a_neighbour_stays_out() -> None:
    """No value beyond a row's end is read into its sums."""
    rows, cols, inner = 3, 5, 261
    a, b = np.ones((rows, inner), np.float32), np.ones((cols, inner), np.float32)
    b[2] = np.nan
    c = np.empty((rows, cols), np.float32)
    cpu.gemm_nt(rows, cols, inner, a, b, c, 0.0)
    assert np.isnan(c[:, 2]).all() and (np.delete(c, 2, 1) == inner).all()
    with pytest.raises(ValueError, match="other sizes"):
        cpu.gemm_nt(rows, cols, inner + 1, a, b, c, 0.0)
