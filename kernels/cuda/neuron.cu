// Activations and dropout, one thread per element (dropout: per four, which share a Philox block).
#include "neuron.h"
#include "philox.h"
#include "reduce.h"

extern "C" __global__ void relu_forward(const float* x, float* y, float slope, long n) { BREW_EACH(i, n) y[i] = relu(x[i], slope); }
extern "C" __global__ void relu_backward(const float* y, const float* dy, float* dx, float slope, long n) { BREW_EACH(i, n) dx[i] = relu_grad(y[i], dy[i], slope); }
extern "C" __global__ void sigmoid_forward(const float* x, float* y, long n) { BREW_EACH(i, n) y[i] = sigmoid(x[i]); }
extern "C" __global__ void sigmoid_backward(const float* y, const float* dy, float* dx, long n) { BREW_EACH(i, n) dx[i] = sigmoid_grad(y[i], dy[i]); }
extern "C" __global__ void tanh_forward(const float* x, float* y, long n) { BREW_EACH(i, n) y[i] = tanh_of(x[i]); }
extern "C" __global__ void tanh_backward(const float* y, const float* dy, float* dx, long n) { BREW_EACH(i, n) dx[i] = tanh_grad(y[i], dy[i]); }

extern "C" __global__ void dropout(const float* x, float* y, unsigned long long key, unsigned long long stream, unsigned threshold, float scale, long n) {
  BREW_EACH(block, (n + 3) / 4) {
    const Words w = philox(block, stream, key);
    const unsigned words[4] = {w.x, w.y, w.z, w.w};
    for (int k = 0; k < 4; ++k) {
      const long i = block * 4 + k;
      if (i < n) y[i] = words[k] >= threshold ? x[i] * scale : 0.0f;
    }
  }
}

// The functions with three constants, all alike: NAME_forward and NAME_backward.
#define BREW_FUNCTION(name)                                                                                                  \
  extern "C" __global__ void name##_forward(const float* x, float* y, float a, float b, float c, long n) {                   \
    BREW_EACH(i, n) y[i] = name(x[i], a, b, c);                                                                              \
  }                                                                                                                          \
  extern "C" __global__ void name##_backward(const float* x, const float* y, const float* dy, float* dx, float a, float b, float c, long n) { \
    BREW_EACH(i, n) dx[i] = name##_grad(x[i], y[i], dy[i], a, b, c);                                                         \
  }
BREW_FUNCTION(absval)
BREW_FUNCTION(bnll)
BREW_FUNCTION(clip)
BREW_FUNCTION(elu)
BREW_FUNCTION(exponential)
BREW_FUNCTION(logarithm)
BREW_FUNCTION(power)
BREW_FUNCTION(swish)
BREW_FUNCTION(threshold)

// One slope for each channel of plain (outer, channels, spatial) arrays; channels is 1 where all share one.
extern "C" __global__ void prelu_forward(const float* x, const float* slope, float* y, int channels, int spatial, long n) {
  BREW_EACH(i, n) y[i] = prelu(x[i], slope[i / spatial % channels]);
}
extern "C" __global__ void prelu_backward(const float* x, const float* slope, const float* dy, float* dx, int channels, int spatial, long n) {
  BREW_EACH(i, n) dx[i] = prelu_grad(x[i], dy[i], slope[i / spatial % channels]);
}
extern "C" __global__ void prelu_slopes(const float* x, const float* dy, float* dslope, int outer, int channels, int spatial) {
  const int c = blockIdx.x;
  const long m = (long)outer * spatial;
  float sum = 0;
  for (long k = threadIdx.x; k < m; k += blockDim.x) {
    const long i = (k / spatial * channels + c) * spatial + k % spatial;
    sum += x[i] > 0 ? 0.0f : dy[i] * x[i];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) dslope[c] += sum;
}
