// Bilinear resampling of plain planes, one thread per value that is written.
#include "reduce.h"
#include "resample.h"

extern "C" __global__ void resample_forward(const float* x, float* y, const ResampleShape* shape, long n) {
  const ResampleShape s = *shape;
  BREW_EACH(i, n) y[i] = resample(x, s, i);
}
extern "C" __global__ void resample_backward(const float* dy, float* dx, const ResampleShape* shape, long n) {
  const ResampleShape s = *shape;
  BREW_EACH(i, n) dx[i] = resample_grad(dy, s, i);
}
