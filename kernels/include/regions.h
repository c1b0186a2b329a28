// Geometry of region pooling for cpu/regions.cpp and cuda/regions.cu: which part of a feature map a bin of a region covers.
// A region is five floats: number of the image, then x1, y1, x2, y2 in pixels of the image. Any floats, NaN and infinity
// included, give parts within the feature map, and an amount of work that depends on the map's size only.
#pragma once
#include "both.h"

enum { kMostSamples = 1024 };                     // points of a bin's side, where they are given
struct RegionShape { int regions, channels, height, width, pooled_h, pooled_w, group, samples; };   // channels: of the top

struct Part { int from, to; };                    // pixels of one axis, half open
// A region along one axis: bin b covers from start + b * bin on.
struct Extent { float start, bin; };

// `most` may round up as a float: what is not below that is `most`. NaN is 0.
BREW_BOTH int clipped(float v, int most) { return !(v > 0) ? 0 : v >= (float)most ? most : (int)v; }

// Fast R-CNN (Girshick 2015): whole pixels, both ends included, at least one.
BREW_BOTH Extent roi_extent(float first, float last, float scale, int bins) {
  const float start = roundf(first * scale), end = roundf(last * scale);
  Extent e = {start, fmaxf(end - start + 1, 1.0f) / bins};
  return e;
}
BREW_BOTH Part roi_part(const Extent& e, int b, int size) {
  Part p = {clipped(floorf(b * e.bin) + e.start, size), clipped(ceilf((b + 1) * e.bin) + e.start, size)};
  return p;
}

// R-FCN (Dai et al. 2016): fractions of pixels, at least a tenth.
BREW_BOTH Extent psroi_extent(float first, float last, float scale, int bins) {
  const float start = roundf(first) * scale, end = (roundf(last) + 1) * scale;
  Extent e = {start, fmaxf(end - start, 0.1f) / bins};
  return e;
}
BREW_BOTH Part psroi_part(const Extent& e, int b, int size) {
  Part p = {clipped(floorf(b * e.bin + e.start), size), clipped(ceilf((b + 1) * e.bin + e.start), size)};
  return p;
}

// Mask R-CNN (He et al. 2017): no rounding, points between pixels.
BREW_BOTH Extent align_extent(float first, float last, float scale, int bins) {
  const float start = first * scale;
  Extent e = {start, fmaxf((last - first) * scale, 1.0f) / bins};
  return e;
}
// Points along a bin's side. Beyond 2^24 a float cannot count them.
BREW_BOTH int align_samples(const Extent& e, int samples) { return samples > 0 ? samples : clipped(ceilf(e.bin), 1 << 24); }
BREW_BOTH float align_at(const Extent& e, int b, int s, int n) { return e.start + b * e.bin + (s + 0.5f) * e.bin / n; }

// The points of bin b that may lie between two places. Only where they are many, they are looked for.
struct Points { int first, last; };              // half open
BREW_BOTH int first_point(const Extent& e, int b, int n, float at) {      // that does not lie before `at`; by bisection
  int low = 0, high = n;
  while (low < high) {
    const int s = low + (high - low) / 2;
    if (align_at(e, b, s, n) < at) low = s + 1; else high = s;
  }
  return low;
}
BREW_BOTH Points points_between(const Extent& e, int b, int n, int size, float from, float to) {
  Points p = {0, n};
  if (n / 2 <= size) return p;
  p.first = first_point(e, b, n, from);
  p.last = first_point(e, b, n, to);
  return p;
}
// Those on the feature map, or less than a pixel beyond.
BREW_BOTH Points points_inside(const Extent& e, int b, int n, int size) { return points_between(e, b, n, size, -1, size + 0.5f); }

// Where point s of n in bin b lies between pixels, for bilinear interpolation; nothing beyond a pixel from the edge.
struct Between { int low, high; float to_low, to_high; };
BREW_BOTH bool is_outside(const Between& p) { return p.to_low == 0 && p.to_high == 0; }
BREW_BOTH Between align_point(const Extent& e, int b, int s, int n, int size) {
  float at = align_at(e, b, s, n);
  Between p = {0, 0, 0.0f, 0.0f};
  if (!(at >= -1 && at <= size) || size == 0) return p;
  if (at < 0) at = 0;
  p.low = (int)at;
  if (p.low >= size - 1) { p.low = p.high = size - 1; p.to_low = 1; return p; }
  p.high = p.low + 1;
  p.to_high = at - p.low;
  p.to_low = 1 - p.to_high;
  return p;
}
// The weight of pixel `at` in the sum over a bin's points. Those beyond the edge count as points on it.
BREW_BOTH float align_weight(const Extent& e, int b, int n, int size, int at) {
  float sum = 0;
  const Points points = points_between(e, b, n, size, at - 1.0f, at + 1 < size ? at + 1.5f : size + 0.5f);
  for (int s = points.first; s < points.last; ++s) {
    const Between p = align_point(e, b, s, n, size);
    sum += (p.low == at ? p.to_low : 0.0f) + (p.high == at ? p.to_high : 0.0f);
  }
  return sum;
}

// Bin i of the top: its region, channel and place.
struct Bin { int region, channel, row, col; };
BREW_BOTH Bin bin_of(const RegionShape& s, long i) {
  Bin b;
  b.col = (int)(i % s.pooled_w);
  b.row = (int)(i / s.pooled_w % s.pooled_h);
  b.channel = (int)(i / s.pooled_w / s.pooled_h % s.channels);
  b.region = (int)(i / s.pooled_w / s.pooled_h / s.channels);
  return b;
}
// The bottom's channel that a bin of R-FCN's layer looks at.
BREW_BOTH int psroi_channel(const RegionShape& s, int channel, int row, int col) { return (channel * s.group + row) * s.group + col; }

BREW_BOTH void roi_pool(const float* x, const float* rois, float scale, const RegionShape& s, long i, float* y, int* winner) {
  const Bin b = bin_of(s, i);
  const float* r = rois + 5 * b.region;
  const Part h = roi_part(roi_extent(r[2], r[4], scale, s.pooled_h), b.row, s.height);
  const Part w = roi_part(roi_extent(r[1], r[3], scale, s.pooled_w), b.col, s.width);
  const float* plane = x + ((long)r[0] * s.channels + b.channel) * s.height * s.width;
  const bool empty = h.to <= h.from || w.to <= w.from;
  float best = empty ? 0.0f : -3.402823466e+38f;
  int won = -1;
  for (int row = h.from; row < h.to; ++row)
    for (int col = w.from; col < w.to; ++col)
      if (plane[row * s.width + col] > best) { won = row * s.width + col; best = plane[won]; }
  y[i] = best;
  winner[i] = won;
}

BREW_BOTH float psroi_pool(const float* x, const float* rois, float scale, const RegionShape& s, long i) {
  const Bin b = bin_of(s, i);
  const float* r = rois + 5 * b.region;
  const Part h = psroi_part(psroi_extent(r[2], r[4], scale, s.pooled_h), b.row, s.height);
  const Part w = psroi_part(psroi_extent(r[1], r[3], scale, s.pooled_w), b.col, s.width);
  const long channels = (long)s.channels * s.group * s.group;
  const float* plane = x + ((long)r[0] * channels + psroi_channel(s, b.channel, b.row, b.col)) * s.height * s.width;
  float sum = 0;
  for (int row = h.from; row < h.to; ++row)
    for (int col = w.from; col < w.to; ++col) sum += plane[row * s.width + col];
  const int size = (h.to - h.from) * (w.to - w.from);
  return h.to > h.from && w.to > w.from ? sum / size : 0.0f;
}

BREW_BOTH float roi_align(const float* x, const float* rois, float scale, const RegionShape& s, long i) {
  const Bin b = bin_of(s, i);
  const float* r = rois + 5 * b.region;
  const Extent eh = align_extent(r[2], r[4], scale, s.pooled_h), ew = align_extent(r[1], r[3], scale, s.pooled_w);
  const int nh = align_samples(eh, s.samples), nw = align_samples(ew, s.samples);
  const float* plane = x + ((long)r[0] * s.channels + b.channel) * s.height * s.width;
  float sum = 0;
  const Points rows = points_inside(eh, b.row, nh, s.height), cols = points_inside(ew, b.col, nw, s.width);
  for (int j = rows.first; j < rows.last; ++j) {
    const Between h = align_point(eh, b.row, j, nh, s.height);
    if (is_outside(h)) continue;
    const float *low = plane + h.low * s.width, *high = plane + h.high * s.width;
    for (int k = cols.first; k < cols.last; ++k) {
      const Between w = align_point(ew, b.col, k, nw, s.width);
      if (is_outside(w)) continue;
      sum += h.to_low * (w.to_low * low[w.low] + w.to_high * low[w.high]) + h.to_high * (w.to_low * high[w.low] + w.to_high * high[w.high]);
    }
  }
  return sum / ((float)nh * nw);
}
