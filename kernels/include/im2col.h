// Geometry of convolution for cpu/convolution.cpp and cuda/im2col.cu: which pixel meets which kernel element where.
#pragma once
#include "both.h"

enum { kMaxAxes = 6 };
struct ConvAxis { int in, out, kernel, stride, pad, dilation; };
struct ConvShape { int axes; ConvAxis axis[kMaxAxes]; };

BREW_BOTH long kernel_count(const ConvShape& s) { long n = 1; for (int a = 0; a < s.axes; ++a) n *= s.axis[a].kernel; return n; }
BREW_BOTH long out_count(const ConvShape& s) { long n = 1; for (int a = 0; a < s.axes; ++a) n *= s.axis[a].out; return n; }
BREW_BOTH long in_count(const ConvShape& s) { long n = 1; for (int a = 0; a < s.axes; ++a) n *= s.axis[a].in; return n; }

// The offset in a (C, spatial...) image of what row `row` (channel, kernel element) of the columns sees at output
// position `out`; -1 in the padding.
BREW_BOTH long pixel_of(const ConvShape& s, long row, long out) {
  long at = 0, step = 1;
  for (int a = s.axes - 1; a >= 0; --a) {
    const ConvAxis& x = s.axis[a];
    const long i = out % x.out * x.stride - x.pad + row % x.kernel * x.dilation;
    if (i < 0 || i >= x.in) return -1;
    at += i * step;
    step *= x.in;
    out /= x.out;
    row /= x.kernel;
  }
  return row * step + at;       // what is left of row is the channel
}

// The output that sees pixel `pixel` of a plane through kernel element `element`; -1 if there is none.
BREW_BOTH long output_of(const ConvShape& s, long element, long pixel) {
  long out = 0, step = 1;
  for (int a = s.axes - 1; a >= 0; --a) {
    const ConvAxis& x = s.axis[a];
    const long i = pixel % x.in + x.pad - element % x.kernel * x.dilation;
    if (i < 0 || i % x.stride || i / x.stride >= x.out) return -1;
    out += i / x.stride * step;
    step *= x.out;
    pixel /= x.in;
    element /= x.kernel;
  }
  return out;
}

// The sum of what the columns hold for one pixel: the other direction of im2col, without races.
BREW_BOTH float gather_pixel(const ConvShape& s, const float* columns, long pixel) {
  const long width = out_count(s), kernel = kernel_count(s), plane = in_count(s);
  const long channel = pixel / plane;
  float sum = 0;
  for (long k = 0; k < kernel; ++k) {
    const long out = output_of(s, k, pixel % plane);
    if (out >= 0) sum += columns[(channel * kernel + k) * width + out];
  }
  return sum;
}

// Depthwise convolution: `each` filters for every channel, none of which sees another channel. x, w and y are those of
// one plane and one filter.
BREW_BOTH float depthwise_value(const ConvShape& s, const float* x, const float* w, long out) {
  const long kernel = kernel_count(s);
  float sum = 0;
  for (long k = 0; k < kernel; ++k) {
    const long at = pixel_of(s, k, out);
    if (at >= 0) sum += w[k] * x[at];
  }
  return sum;
}
// dy and w begin with the channel's first output.
BREW_BOTH float depthwise_grad(const ConvShape& s, const float* dy, const float* w, int each, long pixel) {
  const long kernel = kernel_count(s), width = out_count(s);
  float sum = 0;
  for (long k = 0; k < kernel; ++k) {
    const long out = output_of(s, k, pixel);
    for (int m = 0; m < each && out >= 0; ++m) sum += w[m * kernel + k] * dy[m * width + out];
  }
  return sum;
}
