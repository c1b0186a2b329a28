"""The stand-in that runs CUDA sources on the CPU: it finds what a GPU would not forgive."""
from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

SUM = """
extern "C" __global__ void sum(const float* x, float* out, int n) {
  __shared__ float s[64];
  s[threadIdx.x] = threadIdx.x < n ? x[threadIdx.x] : 0.0f;
  BARRIER
  for (int o = 32; o > 0; o >>= 1) { if (threadIdx.x < o) s[threadIdx.x] += s[threadIdx.x + o]; BARRIER }
  if (threadIdx.x == 0) out[0] = s[0];
}"""


@pytest.mark.parametrize("order", [0, 1, 5])
def test_a_block_sums_with_barriers_in_any_thread_order(order: int, shim: ModuleType) -> None:
    x, out = np.arange(50, dtype=np.float32), np.zeros(1, np.float32)
    shim.RawModule(SUM.replace("BARRIER", "__syncthreads();"), order=order).get_function("sum")((1,), (64,), (x, out, np.int32(50)))
    assert out[0] == x.sum()


def test_a_missing_barrier_shows_in_some_order(shim: ModuleType) -> None:
    x, results = np.arange(50, dtype=np.float32), set()
    for order in (0, 1, 5):
        out = np.zeros(1, np.float32)
        shim.RawModule(SUM.replace("BARRIER", ""), order=order).get_function("sum")((1,), (64,), (x, out, np.int32(50)))
        results.add(float(out[0]))
    assert results != {float(x.sum())}


@pytest.mark.parametrize("argument", [50, np.int64(50), np.float32(50), np.zeros(1, np.float32)], ids=["int", "int64", "float32", "array"])
def test_an_argument_of_another_kind_is_refused(argument: object, shim: ModuleType) -> None:
    with pytest.raises(TypeError, match="argument 2"):
        shim.RawModule(SUM.replace("BARRIER", "__syncthreads();")).get_function("sum")((1,), (64,), (np.zeros(50, np.float32), np.zeros(1, np.float32), argument))
