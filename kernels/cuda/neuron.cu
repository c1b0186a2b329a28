// Activations and dropout, one thread per element (dropout: per four, which share a Philox block).
#include "neuron.h"
#include "philox.h"
#include "reduce.h"

extern "C" __global__ void relu_forward(const float* x, float* y, float slope, long n) { BREW_EACH(i, n) y[i] = relu(x[i], slope); }
extern "C" __global__ void relu_backward(const float* y, const float* dy, float* dx, float slope, long n) { BREW_EACH(i, n) dx[i] = relu_grad(y[i], dy[i], slope); }
extern "C" __global__ void sigmoid_forward(const float* x, float* y, long n) { BREW_EACH(i, n) y[i] = sigmoid(x[i]); }
extern "C" __global__ void sigmoid_backward(const float* y, const float* dy, float* dx, long n) { BREW_EACH(i, n) dx[i] = sigmoid_grad(y[i], dy[i]); }
extern "C" __global__ void tanh_forward(const float* x, float* y, long n) { BREW_EACH(i, n) y[i] = tanhf(x[i]); }
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
