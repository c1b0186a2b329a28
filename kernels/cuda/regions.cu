// Region pooling: forward one thread per bin, backward one per pixel, which looks for the bins that saw it: nothing races.
#include "reduce.h"
#include "regions.h"

// The bins along an axis that may cover the pixels from `from` to `to`.
__device__ __forceinline__ Part bins_over(const Extent& e, float from, float to, int bins) {
  Part p = {clipped(floorf((from - e.start) / e.bin), bins), clipped(floorf((to - e.start) / e.bin) + 1, bins)};
  return p;
}

// Element i of the bottom: its image, channel and place.
struct Pixel { int image, channel, row, col; };
__device__ __forceinline__ Pixel pixel(const RegionShape& s, long channels, long i) {
  const long plane = i / s.width / s.height;
  Pixel p = {(int)(plane / channels), (int)(plane % channels), (int)(i / s.width % s.height), (int)(i % s.width)};
  return p;
}

extern "C" __global__ void roi_pool_forward(const float* x, const float* rois, float* y, int* winner, float scale, const RegionShape* shape, long n) {
  const RegionShape s = *shape;
  BREW_EACH(i, n) roi_pool(x, rois, scale, s, i, y, winner);
}
extern "C" __global__ void psroi_pool_forward(const float* x, const float* rois, float* y, float scale, const RegionShape* shape, long n) {
  const RegionShape s = *shape;
  BREW_EACH(i, n) y[i] = psroi_pool(x, rois, scale, s, i);
}
extern "C" __global__ void roi_align_forward(const float* x, const float* rois, float* y, float scale, const RegionShape* shape, long n) {
  const RegionShape s = *shape;
  BREW_EACH(i, n) y[i] = roi_align(x, rois, scale, s, i);
}

extern "C" __global__ void roi_pool_backward(const float* dy, const float* rois, const int* winner, float* dx, float scale, const RegionShape* shape, long n) {
  const RegionShape s = *shape;
  BREW_EACH(i, n) {
    const Pixel p = pixel(s, s.channels, i);
    const int here = p.row * s.width + p.col;
    float sum = 0;
    for (int r = 0; r < s.regions; ++r) {
      const float* box = rois + 5 * r;
      if ((int)box[0] != p.image) continue;
      const Part h = bins_over(roi_extent(box[2], box[4], scale, s.pooled_h), p.row - 1, p.row + 1, s.pooled_h);
      const Part w = bins_over(roi_extent(box[1], box[3], scale, s.pooled_w), p.col - 1, p.col + 1, s.pooled_w);
      const long first = ((long)r * s.channels + p.channel) * s.pooled_h * s.pooled_w;
      for (int a = h.from; a < h.to; ++a)
        for (int b = w.from; b < w.to; ++b)
          if (winner[first + a * s.pooled_w + b] == here) sum += dy[first + a * s.pooled_w + b];
    }
    dx[i] = sum;
  }
}

extern "C" __global__ void psroi_pool_backward(const float* dy, const float* rois, float* dx, float scale, const RegionShape* shape, long n) {
  const RegionShape s = *shape;
  BREW_EACH(i, n) {
    const Pixel p = pixel(s, (long)s.channels * s.group * s.group, i);
    const int b = p.channel % s.group, a = p.channel / s.group % s.group, top = p.channel / s.group / s.group;    // the only bin that sees it
    float sum = 0;
    for (int r = 0; r < s.regions; ++r) {
      const float* box = rois + 5 * r;
      if ((int)box[0] != p.image) continue;
      const Part h = psroi_part(psroi_extent(box[2], box[4], scale, s.pooled_h), a, s.height);
      const Part w = psroi_part(psroi_extent(box[1], box[3], scale, s.pooled_w), b, s.width);
      if (p.row >= h.from && p.row < h.to && p.col >= w.from && p.col < w.to)
        sum += dy[(((long)r * s.channels + top) * s.pooled_h + a) * s.pooled_w + b] / ((h.to - h.from) * (w.to - w.from));
    }
    dx[i] = sum;
  }
}

extern "C" __global__ void roi_align_backward(const float* dy, const float* rois, float* dx, float scale, const RegionShape* shape, long n) {
  const RegionShape s = *shape;
  BREW_EACH(i, n) {
    const Pixel p = pixel(s, s.channels, i);
    float sum = 0;
    for (int r = 0; r < s.regions; ++r) {
      const float* box = rois + 5 * r;
      if ((int)box[0] != p.image) continue;
      const Extent eh = align_extent(box[2], box[4], scale, s.pooled_h), ew = align_extent(box[1], box[3], scale, s.pooled_w);
      const int nh = align_samples(eh, s.samples), nw = align_samples(ew, s.samples);
      const Part h = bins_over(eh, p.row - 1, p.row + 1, s.pooled_h), w = bins_over(ew, p.col - 1, p.col + 1, s.pooled_w);
      const float* d = dy + ((long)r * s.channels + p.channel) * s.pooled_h * s.pooled_w;
      for (int a = h.from; a < h.to; ++a) {
        const float weight = align_weight(eh, a, nh, s.height, p.row) / ((float)nh * nw);
        if (weight == 0) continue;
        for (int b = w.from; b < w.to; ++b) sum += d[a * s.pooled_w + b] * weight * align_weight(ew, b, nw, s.width, p.col);
      }
    }
    dx[i] = sum;
  }
}
