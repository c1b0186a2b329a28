// Max and mean pooling of plain planes: forward one thread per window, backward one per pixel, so that nothing races.
#include "philox.h"
#include "pooling.h"
#include "reduce.h"

struct Spot { long plane; int row, col; };
__device__ __forceinline__ Spot spot(long i, int height, int width) {
  Spot s;
  s.col = (int)(i % width);
  s.row = (int)(i / width % height);
  s.plane = i / width / height;
  return s;
}

// The windows, half open, that can cover a pixel.
__device__ __forceinline__ Window windows_over(const PoolShape& s, int row, int col) {
  Window w;
  const int r = row + s.pad_h, c = col + s.pad_w;
  w.top = r < s.kernel_h ? 0 : (r - s.kernel_h) / s.stride_h + 1;
  w.left = c < s.kernel_w ? 0 : (c - s.kernel_w) / s.stride_w + 1;
  w.bottom = min(r / s.stride_h + 1, s.out_height);
  w.right = min(c / s.stride_w + 1, s.out_width);
  w.size = 0;
  return w;
}

extern "C" __global__ void max_pool_forward(const float* x, float* y, int* winner, const PoolShape* shape, long n) {
  const PoolShape s = *shape;
  BREW_EACH(i, n) {
    const Spot o = spot(i, s.out_height, s.out_width);
    const Window w = window_of(s, o.row, o.col);
    const float* plane = x + o.plane * s.height * s.width;
    float best = -3.402823466e+38f;
    int won = -1;
    for (int h = w.top; h < w.bottom; ++h)
      for (int c = w.left; c < w.right; ++c)
        if (plane[h * s.width + c] > best) { won = h * s.width + c; best = plane[won]; }
    y[i] = best;
    if (winner) winner[i] = won;
  }
}

extern "C" __global__ void max_pool_backward(const float* dy, const int* winner, float* dx, const PoolShape* shape, long n) {
  const PoolShape s = *shape;
  BREW_EACH(i, n) {
    const Spot p = spot(i, s.height, s.width);
    const Window w = windows_over(s, p.row, p.col);
    const long first = p.plane * s.out_height * s.out_width;
    const int here = p.row * s.width + p.col;
    float sum = 0;
    for (int h = w.top; h < w.bottom; ++h)
      for (int c = w.left; c < w.right; ++c) {
        const long o = first + h * s.out_width + c;
        if (winner[o] == here) sum += dy[o];
      }
    dx[i] = sum;
  }
}

extern "C" __global__ void ave_pool_forward(const float* x, float* y, const PoolShape* shape, long n) {
  const PoolShape s = *shape;
  BREW_EACH(i, n) {
    const Spot o = spot(i, s.out_height, s.out_width);
    const Window w = window_of(s, o.row, o.col);
    const float* plane = x + o.plane * s.height * s.width;
    float sum = 0;
    for (int h = w.top; h < w.bottom; ++h)
      for (int c = w.left; c < w.right; ++c) sum += plane[h * s.width + c];
    y[i] = w.size > 0 ? sum / w.size : 0.0f;
  }
}

extern "C" __global__ void ave_pool_backward(const float* dy, float* dx, const PoolShape* shape, long n) {
  const PoolShape s = *shape;
  BREW_EACH(i, n) {
    const Spot p = spot(i, s.height, s.width);
    const Window over = windows_over(s, p.row, p.col);
    const float* plane = dy + p.plane * s.out_height * s.out_width;
    float sum = 0;
    for (int h = over.top; h < over.bottom; ++h)
      for (int c = over.left; c < over.right; ++c) {
        const Window w = window_of(s, h, c);
        if (w.size > 0) sum += plane[h * s.out_width + c] / w.size;
      }
    dx[i] = sum;
  }
}

extern "C" __global__ void stochastic_pool_train(const float* x, float* y, int* winner, unsigned long long key, unsigned long long stream, const PoolShape* shape, long n) {
  const PoolShape s = *shape;
  BREW_EACH(i, n) {
    const Spot o = spot(i, s.out_height, s.out_width);
    const float* plane = x + o.plane * s.height * s.width;
    winner[i] = stochastic_pick(plane, s, window_of(s, o.row, o.col), unit(word(i, stream, key)));
    y[i] = winner[i] < 0 ? 0.0f : plane[winner[i]];
  }
}

extern "C" __global__ void stochastic_pool_test(const float* x, float* y, const PoolShape* shape, long n) {
  const PoolShape s = *shape;
  BREW_EACH(i, n) {
    const Spot o = spot(i, s.out_height, s.out_width);
    y[i] = stochastic_mean(x + o.plane * s.height * s.width, s, window_of(s, o.row, o.col));
  }
}
