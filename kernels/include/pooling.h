// Geometry of pooling for cpu/pooling.cpp and cuda/pooling.cu: which pixels a window covers.
#pragma once
#include "both.h"

struct PoolShape {
  int height, width, out_height, out_width;       // pixels
  int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
};

struct Window {
  int top, bottom, left, right;                   // pixels of the image, half open; empty if bottom <= top
  long size;                                      // what AVE divides by: padding counts, what lies beyond it does not
};

BREW_BOTH Window window_of(const PoolShape& s, int row, int col) {
  Window w;
  w.top = row * s.stride_h - s.pad_h;
  w.left = col * s.stride_w - s.pad_w;
  w.bottom = w.top + s.kernel_h;
  w.right = w.left + s.kernel_w;
  if (w.bottom > s.height + s.pad_h) w.bottom = s.height + s.pad_h;
  if (w.right > s.width + s.pad_w) w.right = s.width + s.pad_w;
  w.size = (long)(w.bottom - w.top) * (w.right - w.left);
  if (w.bottom > s.height) w.bottom = s.height;
  if (w.right > s.width) w.right = s.width;
  if (w.top < 0) w.top = 0;
  if (w.left < 0) w.left = 0;
  return w;
}

// Stochastic pooling (Zeiler and Fergus 2013) of values that are not negative. In training, the first pixel at which the
// running sum reaches the share u in (0, 1] of the whole is taken; -1 where the window has no pixels.
BREW_BOTH int stochastic_pick(const float* plane, const PoolShape& s, const Window& w, float u) {
  float sum = 0;
  for (int h = w.top; h < w.bottom; ++h)
    for (int c = w.left; c < w.right; ++c) sum += plane[h * s.width + c];
  const float goal = u * sum;
  float reached = 0;
  int last = -1;
  for (int h = w.top; h < w.bottom; ++h)
    for (int c = w.left; c < w.right; ++c) {
      last = h * s.width + c;
      reached += plane[last];
      if (reached >= goal) return last;
    }
  return last;
}

// In testing, the mean of the values, each weighted by itself.
BREW_BOTH float stochastic_mean(const float* plane, const PoolShape& s, const Window& w) {
  float sum = 0, squares = 0;
  for (int h = w.top; h < w.bottom; ++h)
    for (int c = w.left; c < w.right; ++c) {
      const float v = plane[h * s.width + c];
      sum += v;
      squares += v * v;
    }
  return sum > 0 ? squares / sum : 0.0f;
}
