// Sums over the threads of a block. Every thread of the block must call it, and every thread gets the sum.
#pragma once

template <class T>
__device__ __forceinline__ T block_sum(T v) {
  __shared__ T parts[32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  if (lane == 0) parts[warp] = v;
  __syncthreads();
  T sum = 0;
  for (int i = 0; i < warps; ++i) sum += parts[i];
  __syncthreads();                                // parts may be used again at once
  return sum;
}

// A thread's elements: i = its number, then steps of the whole grid.
#define BREW_EACH(i, n) for (long i = (long)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (long)blockDim.x * gridDim.x)
