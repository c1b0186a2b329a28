// Images to columns and back, and depthwise convolution: one thread per element of the result; weights: a block for each.
#include "im2col.h"
#include "reduce.h"

extern "C" __global__ void im2col(const float* image, float* columns, const ConvShape* shape, long n) {
  const ConvShape s = *shape;
  const long width = out_count(s);
  BREW_EACH(i, n) { const long at = pixel_of(s, i / width, i % width); columns[i] = at < 0 ? 0.0f : image[at]; }
}
extern "C" __global__ void col2im(const float* columns, float* image, const ConvShape* shape, long n) {
  const ConvShape s = *shape;
  BREW_EACH(i, n) image[i] = gather_pixel(s, columns, i);
}

// `each` filters for every channel: y (images, outputs, ...), x (images, channels, ...), w (outputs, kernel).
extern "C" __global__ void depthwise_forward(const float* x, const float* w, float* y, int outputs, int each, const ConvShape* shape, long n) {
  const ConvShape s = *shape;
  const long width = out_count(s), plane = in_count(s), kernel = kernel_count(s);
  BREW_EACH(i, n) { const long p = i / width; y[i] = depthwise_value(s, x + p / each * plane, w + p % outputs * kernel, i % width); }
}
extern "C" __global__ void depthwise_backward(const float* dy, const float* w, float* dx, int channels, int each, const ConvShape* shape, long n) {
  const ConvShape s = *shape;
  const long width = out_count(s), plane = in_count(s), kernel = kernel_count(s);
  BREW_EACH(i, n) { const long p = i / plane; dx[i] = depthwise_grad(s, dy + p * each * width, w + p % channels * each * kernel, each, i % plane); }
}
extern "C" __global__ void depthwise_weights(const float* x, const float* dy, float* dw, float beta, int images, int outputs, int each, const ConvShape* shape) {
  const ConvShape s = *shape;
  const long width = out_count(s), plane = in_count(s), kernel = kernel_count(s), output = blockIdx.x / kernel, k = blockIdx.x % kernel;
  float sum = 0;
  for (long i = threadIdx.x; i < images * width; i += blockDim.x) {
    const long image = i / width, at = pixel_of(s, k, i % width);
    if (at >= 0) sum += dy[(image * outputs + output) * width + i % width] * x[(image * (outputs / each) + output / each) * plane + at];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) dw[blockIdx.x] = (beta == 0 ? 0.0f : beta * dw[blockIdx.x]) + sum;
}
