// Batch normalisation and channel scales of plain (outer, channels, spatial) arrays. Sums: one block per channel;
// the rest: one thread per element.
#include "reduce.h"

// The k-th element of a channel, k counting through all images.
__device__ __forceinline__ long element(long k, int channel, int channels, int spatial) {
  return (k / spatial * channels + channel) * spatial + k % spatial;
}

extern "C" __global__ void channel_moments(const float* x, float* mean, float* var, float eps, float* inverse, int outer, int channels, int spatial) {
  const int c = blockIdx.x;
  const long m = (long)outer * spatial;
  float sum = 0, squares = 0;
  for (long k = threadIdx.x; k < m; k += blockDim.x) sum += x[element(k, c, channels, spatial)];
  const float average = block_sum(sum) / m;
  for (long k = threadIdx.x; k < m; k += blockDim.x) { const float d = x[element(k, c, channels, spatial)] - average; squares += d * d; }
  const float variance = block_sum(squares) / m;
  if (threadIdx.x == 0) { mean[c] = average; var[c] = variance; inverse[c] = 1 / sqrtf(variance + eps); }
}

extern "C" __global__ void inverse_deviation(const float* var, float eps, float* inverse, long n) { BREW_EACH(c, n) inverse[c] = 1 / sqrtf(var[c] + eps); }

extern "C" __global__ void absorb_moments(const float* mean, const float* var, float unbiased, float fraction, float* means, float* vars, float* count, long n) {
  BREW_EACH(c, n) {
    means[c] = mean[c] + fraction * means[c];
    vars[c] = unbiased * var[c] + fraction * vars[c];
    if (c == 0) count[0] = 1 + fraction * count[0];
  }
}

extern "C" __global__ void normalize_forward(const float* x, const float* mean, const float* inverse, float* y, float* normal, int channels, int spatial, long n) {
  BREW_EACH(i, n) {
    const int c = (int)(i / spatial % channels);
    y[i] = (x[i] - mean[c]) * inverse[c];
    if (normal) normal[i] = y[i];
  }
}

extern "C" __global__ void normalize_backward(const float* y, const float* dy, const float* inverse, float* dx, int outer, int channels, int spatial) {
  const int c = blockIdx.x;
  const long m = (long)outer * spatial;
  float a = 0, b = 0;
  for (long k = threadIdx.x; k < m; k += blockDim.x) { const long i = element(k, c, channels, spatial); a += dy[i]; b += dy[i] * y[i]; }
  a = block_sum(a) / m;
  b = block_sum(b) / m;
  for (long k = threadIdx.x; k < m; k += blockDim.x) { const long i = element(k, c, channels, spatial); dx[i] = (dy[i] - a - b * y[i]) * inverse[c]; }
}

extern "C" __global__ void scale_forward(const float* x, const float* scale, const float* bias, float* y, int channels, int spatial, long n) {
  BREW_EACH(i, n) { const int c = (int)(i / spatial % channels); y[i] = (scale ? x[i] * scale[c] : x[i]) + (bias ? bias[c] : 0.0f); }
}

extern "C" __global__ void scale_gradients(const float* x, const float* dy, float* dscale, float* dbias, int outer, int channels, int spatial) {
  const int c = blockIdx.x;
  const long m = (long)outer * spatial;
  float a = 0, b = 0;
  for (long k = threadIdx.x; k < m; k += blockDim.x) { const long i = element(k, c, channels, spatial); a += dy[i]; if (x) b += dy[i] * x[i]; }
  a = block_sum(a);
  b = block_sum(b);
  if (threadIdx.x == 0) { if (dbias) dbias[c] += a; if (dscale) dscale[c] += b; }
}

// BatchNorm, Scale and perhaps ReLU in one pass; `normal` keeps the result before scale and shift, if it is given.
extern "C" __global__ void bn_forward(const float* x, const float* mean, const float* inverse, const float* scale, const float* shift, float* normal, float* y, int relu, int channels, int spatial, long n) {
  BREW_EACH(i, n) {
    const int c = (int)(i / spatial % channels);
    const float h = (x[i] - mean[c]) * inverse[c], v = h * scale[c] + shift[c];
    if (normal) normal[i] = h;
    y[i] = relu && v < 0 ? 0.0f : v;
  }
}
extern "C" __global__ void bn_backward(const float* y, const float* normal, const float* dy, const float* scale, const float* inverse, float* dscale, float* dshift, float* dx, int outer, int channels, int spatial) {
  const int c = blockIdx.x;
  const long m = (long)outer * spatial;
  float a = 0, b = 0;
  for (long k = threadIdx.x; k < m; k += blockDim.x) {
    const long i = element(k, c, channels, spatial);
    const float d = y && !(y[i] > 0) ? 0.0f : dy[i];
    a += d;
    b += d * normal[i];
  }
  a = block_sum(a);
  b = block_sum(b);
  if (threadIdx.x == 0) { if (dshift) dshift[c] += a; if (dscale) dscale[c] += b; }
  a /= m;
  b /= m;
  const float f = scale[c] * inverse[c];
  for (long k = threadIdx.x; k < m; k += blockDim.x) {
    const long i = element(k, c, channels, spatial);
    const float d = y && !(y[i] > 0) ? 0.0f : dy[i];
    dx[i] = (d - a - b * normal[i]) * f;
  }
}
