// Products of items with the rows that each of them chose, and the best of many scores.
#include "reduce.h"

// y[place] = x[item] . w[row] + bias[row] for entries (place, row); a warp for each.
extern "C" __global__ void units_forward(const float* x, const float* w, const float* bias, const int* rows,
                                         const int* order, const int* row_of, float* y, int width, int columns,
                                         int entries) {
  const int lane = threadIdx.x & 31, warps = blockDim.x >> 5;
  for (long e = (long)blockIdx.x * warps + (threadIdx.x >> 5); e < entries; e += (long)gridDim.x * warps) {
    const int row = rows[row_of[e]];
    const float *const a = x + (long)(order[e] / width) * columns, *const b = w + (long)row * columns;
    float sum = 0;
    for (int i = lane; i < columns; i += 32) sum += a[i] * b[i];
    for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    if (lane == 0) y[order[e]] = sum + (bias ? bias[row] : 0.0f);
  }
}

extern "C" __global__ void row_squares(const float* w, const int* rows, float* y, int columns, int count) {
  const int lane = threadIdx.x & 31, warps = blockDim.x >> 5;
  for (long r = (long)blockIdx.x * warps + (threadIdx.x >> 5); r < count; r += (long)gridDim.x * warps) {
    const float* const b = w + (long)rows[r] * columns;
    float sum = 0;
    for (int i = lane; i < columns; i += 32) sum += b[i] * b[i];
    for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    if (lane == 0) y[r] = sum;
  }
}

// One round of a selection, a block for each item: the best of old (k) and scores (n) that comes after the one before.
// The highest comes first, of equal ones the lower unit; a place that is left has the unit -1.
extern "C" __global__ void next_best(const float* scores, const float* old, const int* old_unit, float* best, int* unit,
                                     int n, int k, int first, int round) {
  __shared__ float tops[256];
  __shared__ int units[256];
  const long item = blockIdx.x;
  const float before = round ? best[item * k + round - 1] : 0;
  const int before_unit = round ? unit[item * k + round - 1] : -1;
  float top = 0;
  int own = -1;
  if (!round || before_unit >= 0)
    for (int i = threadIdx.x; i < n + k; i += blockDim.x) {
      const float v = i < n ? scores[item * n + i] : old[item * k + i - n];
      const int u = i < n ? first + i : old_unit[item * k + i - n];
      if (u < 0 || v != v || (round && !(v < before || (v == before && u > before_unit)))) continue;
      if (own < 0 || v > top || (v == top && u < own)) { top = v; own = u; }
    }
  tops[threadIdx.x] = top;
  units[threadIdx.x] = own;
  __syncthreads();
  for (int o = blockDim.x / 2; o > 0; o >>= 1) {
    if (threadIdx.x < o) {
      const float v = tops[threadIdx.x + o];
      const int u = units[threadIdx.x + o];
      if (u >= 0 && (units[threadIdx.x] < 0 || v > tops[threadIdx.x]
                     || (v == tops[threadIdx.x] && u < units[threadIdx.x]))) {
        tops[threadIdx.x] = v;
        units[threadIdx.x] = u;
      }
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    if (units[0] >= 0) best[item * k + round] = tops[0];
    unit[item * k + round] = units[0];
  }
}
