// The solver's passes over the flat arena of parameters.
#include "reduce.h"
#include "update.h"

// Each solver's update: w -= step, and the step replaces the gradient. h and h2 are its histories.
extern "C" __global__ void sgd_update(float* w, float* g, float* h, float scale, float decay, int l1, float rate, float momentum, long n) {
  BREW_EACH(i, n) w[i] -= g[i] = sgd_step(regularized(g[i], w[i], scale, decay, l1), h + i, rate, momentum);
}
extern "C" __global__ void nesterov_update(float* w, float* g, float* h, float scale, float decay, int l1, float rate, float momentum, long n) {
  BREW_EACH(i, n) w[i] -= g[i] = nesterov_step(regularized(g[i], w[i], scale, decay, l1), h + i, rate, momentum);
}
extern "C" __global__ void adagrad_update(float* w, float* g, float* h, float scale, float decay, int l1, float rate, float delta, long n) {
  BREW_EACH(i, n) w[i] -= g[i] = adagrad_step(regularized(g[i], w[i], scale, decay, l1), h + i, rate, delta);
}
extern "C" __global__ void rmsprop_update(float* w, float* g, float* h, float scale, float decay, int l1, float rate, float rms_decay, float delta, long n) {
  BREW_EACH(i, n) w[i] -= g[i] = rmsprop_step(regularized(g[i], w[i], scale, decay, l1), h + i, rate, rms_decay, delta);
}
extern "C" __global__ void adadelta_update(float* w, float* g, float* h, float* h2, float scale, float decay, int l1, float rate, float momentum, float delta, long n) {
  BREW_EACH(i, n) w[i] -= g[i] = adadelta_step(regularized(g[i], w[i], scale, decay, l1), h + i, h2 + i, rate, momentum, delta);
}
extern "C" __global__ void adam_update(float* w, float* g, float* h, float* h2, float scale, float decay, int l1, float rate, float momentum, float momentum2, float delta, long n) {
  BREW_EACH(i, n) w[i] -= g[i] = adam_step(regularized(g[i], w[i], scale, decay, l1), h + i, h2 + i, rate, momentum, momentum2, delta);
}
extern "C" __global__ void rmsprop_momentum_update(float* w, float* g, float* h, float* h2, float scale, float decay, int l1, float rate, float rms_decay, float momentum, float delta, long n) {
  BREW_EACH(i, n) w[i] -= g[i] = rmsprop_momentum_step(regularized(g[i], w[i], scale, decay, l1), h + i, h2 + i, rate, rms_decay, momentum, delta);
}
extern "C" __global__ void adamw_update(float* w, float* g, float* h, float* h2, float scale, float decay, int l1, float rate, float correction, float momentum, float momentum2, float delta, long n) {
  BREW_EACH(i, n) w[i] -= g[i] = adamw_step(g[i] * scale, w[i], h + i, h2 + i, rate, correction, momentum, momentum2, delta, decay, l1);
}
// One partial sum for each block.
extern "C" __global__ void sum_squares(const float* x, double* sums, long n) {
  double sum = 0;
  BREW_EACH(i, n) sum += (double)x[i] * x[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
