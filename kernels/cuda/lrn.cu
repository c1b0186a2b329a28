// Local response normalisation of plain (outer, channels, inner) arrays, one thread per element.
#include "lrn.h"
#include "reduce.h"

// The offsets, half open, of the channels around element i; they are `inner` apart.
struct Reach { long first, end; };
__device__ __forceinline__ Reach reach(long i, int channels, int inner, int size) {
  const int c = (int)(i / inner % channels), half = size / 2;
  const long zero = i - (long)c * inner;
  return {zero + (long)max(c - half, 0) * inner, zero + (long)min(c + half + 1, channels) * inner};
}

extern "C" __global__ void lrn_across_forward(const float* x, float* s, float* y, int channels, int inner, int size, float alpha, float beta, float k, long n) {
  BREW_EACH(i, n) {
    const Reach r = reach(i, channels, inner, size);
    float sum = 0;
    for (long j = r.first; j < r.end; j += inner) sum += x[j] * x[j];
    s[i] = k + alpha / size * sum;
    y[i] = lrn_value(x[i], s[i], beta);
  }
}
extern "C" __global__ void lrn_across_backward(const float* x, const float* s, const float* y, const float* dy, float* dx, int channels, int inner, int size, float alpha, float beta, long n) {
  BREW_EACH(i, n) {
    const Reach r = reach(i, channels, inner, size);
    float sum = 0;
    for (long j = r.first; j < r.end; j += inner) sum += lrn_ratio(y[j], s[j], dy[j]);
    dx[i] = lrn_grad(x[i], s[i], dy[i], sum, beta, 2 * alpha * beta / size);
  }
}

extern "C" __global__ void lrn_within_forward(const float* x, float* s, float* y, float alpha, float beta, long n) {
  BREW_EACH(i, n) { s[i] = 1 + alpha * s[i]; y[i] = lrn_value(x[i], s[i], beta); }
}
extern "C" __global__ void lrn_within_ratio(const float* y, const float* s, const float* dy, float* r, long n) {
  BREW_EACH(i, n) r[i] = lrn_ratio(y[i], s[i], dy[i]);
}
extern "C" __global__ void lrn_within_backward(const float* x, const float* s, const float* dy, const float* r, float* dx, float alpha, float beta, long n) {
  BREW_EACH(i, n) dx[i] = lrn_grad(x[i], s[i], dy[i], r[i], beta, 2 * alpha * beta);
}
