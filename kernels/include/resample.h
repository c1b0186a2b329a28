// Bilinear resampling whose corners meet corners: row r of the top lies at r (in - 1) / (out - 1) in the bottom.
#pragma once
#include "both.h"

// The part of `height` x `width` pixels in the bottom's planes that is resampled, and the top's size.
struct ResampleShape { int plane_height, plane_width, top, left, height, width, out_height, out_width; };

BREW_BOTH float resample_step(int in, int out) { return out > 1 ? (float)(in - 1) / (out - 1) : 0.0f; }

struct Mix { int low, high; float share; };       // low (1 - share) + high share
BREW_BOTH Mix mix_at(int i, float step, int in) {
  const float at = i * step;
  Mix m;
  m.low = (int)at < in - 1 ? (int)at : in - 1;
  m.high = m.low < in - 1 ? m.low + 1 : m.low;
  m.share = m.high > m.low ? at - m.low : 0.0f;
  return m;
}
// How much of input pixel p goes into output i.
BREW_BOTH float share_of(int p, int i, float step, int in) {
  const Mix m = mix_at(i, step, in);
  return (m.low == p ? 1 - m.share : 0.0f) + (m.high == p ? m.share : 0.0f);
}
// The outputs that input pixel p may go into, from `first` to `last`.
struct Outputs { int first, last; };
BREW_BOTH Outputs outputs_of(int p, float step, int out) {
  Outputs o = {0, out - 1};
  if (step == 0) return o;
  const float first = floorf((p - 1) / step), last = ceilf((p + 1) / step);      // may be beyond all ints
  if (first > 0) o.first = first < out ? (int)first : out;
  if (last < out - 1) o.last = (int)last;
  return o;
}

BREW_BOTH float resample(const float* x, const ResampleShape& s, long i) {
  const Mix w = mix_at((int)(i % s.out_width), resample_step(s.width, s.out_width), s.width);
  const Mix h = mix_at((int)(i / s.out_width % s.out_height), resample_step(s.height, s.out_height), s.height);
  const float* corner = x + (i / s.out_width / s.out_height * s.plane_height + s.top) * s.plane_width + s.left;
  const float *low = corner + (long)h.low * s.plane_width, *high = corner + (long)h.high * s.plane_width;
  const float above = low[w.low] + w.share * (low[w.high] - low[w.low]), below = high[w.low] + w.share * (high[w.high] - high[w.low]);
  return above + h.share * (below - above);
}

// The gradient of pixel i of the bottom: what reached the top of it.
BREW_BOTH float resample_grad(const float* dy, const ResampleShape& s, long i) {
  const int col = (int)(i % s.plane_width) - s.left, row = (int)(i / s.plane_width % s.plane_height) - s.top;
  if (col < 0 || row < 0 || col >= s.width || row >= s.height) return 0;
  const float* plane = dy + i / s.plane_width / s.plane_height * s.out_height * s.out_width;
  const float step_h = resample_step(s.height, s.out_height), step_w = resample_step(s.width, s.out_width);
  const Outputs h = outputs_of(row, step_h, s.out_height), w = outputs_of(col, step_w, s.out_width);
  float sum = 0;
  for (int a = h.first; a <= h.last; ++a) {
    const float share = share_of(row, a, step_h, s.height);
    if (share == 0) continue;
    float line = 0;
    for (int b = w.first; b <= w.last; ++b) line += plane[(long)a * s.out_width + b] * share_of(col, b, step_w, s.width);
    sum += share * line;
  }
  return sum;
}
