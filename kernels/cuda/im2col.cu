// Images to columns and back, one thread per element of the result.
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
