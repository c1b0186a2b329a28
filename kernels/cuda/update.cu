// The solver's passes over the flat arena of parameters.
#include "reduce.h"
#include "update.h"

extern "C" __global__ void sgd_update(float* w, float* g, float* h, float scale, float decay, int l1, float rate, float momentum, long n) {
  BREW_EACH(i, n) {
    g[i] = sgd_step(regularized(g[i], w[i], scale, decay, l1), h + i, rate, momentum);
    w[i] -= g[i];
  }
}
// One partial sum for each block.
extern "C" __global__ void sum_squares(const float* x, double* sums, long n) {
  double sum = 0;
  BREW_EACH(i, n) sum += (double)x[i] * x[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
