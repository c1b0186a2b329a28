// Region pooling on the CPU. Backward goes through the regions once for each channel, which one thread has to itself.
#include "../include/regions.h"

#include "cpu.h"

namespace BREW_ISA {

// The shape for a feature map, regions and a result. `deep`: channels of the map for each of the result's, group * group or 1.
RegionShape region_shape(const std::vector<int>& v, bool deep, const Array& map, const Array& regions, const Array& result) {
  const RegionShape s{v.at(0), v.at(1), v.at(2), v.at(3), v.at(4), v.at(5), v.at(6), v.at(7)};
  require(s.group > 0 && volume({s.pooled_h, s.pooled_w}) <= INT_MAX && volume({s.height, s.width}) <= INT_MAX, "a region has at most 2^31 - 1 bins");
  require(s.samples <= kMostSamples, "a bin has too many points");
  require(!deep || (s.pooled_h <= s.group && s.pooled_w <= s.group), "each bin needs channels");
  const long image = volume({s.channels, deep ? s.group : 1, deep ? s.group : 1, s.height, s.width});
  const long images = image ? map.size() / image : INT_MAX;
  sized(image ? volume({images, image}) : 0, map);
  sized(volume({s.regions, 5}), regions);
  sized(volume({s.regions, s.channels, s.pooled_h, s.pooled_w}), result);
  const float* at = regions.data();
  for (long r = 0; r < s.regions; ++r)
    if (!(at[5 * r] >= 0 && at[5 * r] < images)) throw std::out_of_range("region " + std::to_string(r) + " is of no image");
  return s;
}

long bins(const RegionShape& s) { return (long)s.regions * s.channels * s.pooled_h * s.pooled_w; }

// f(region, channel of the top, the first bin of both) for all, channels by threads; dx is zero before.
template <class F>
void each_region(float* dx, long size, const RegionShape& s, F f) {
  std::memset(dx, 0, size * sizeof(float));
#pragma omp parallel for if (bins(s) > kGrain / 8)
  for (int c = 0; c < s.channels; ++c)
    for (int r = 0; r < s.regions; ++r) f(r, c, ((long)r * s.channels + c) * s.pooled_h * s.pooled_w);
}

void align_backward(const float* dy, const float* rois, float* dx, long size, float scale, const RegionShape& s) {
  each_region(dx, size, s, [=](int region, int c, long first) {
    const float* r = rois + 5 * region;
    const Extent eh = align_extent(r[2], r[4], scale, s.pooled_h), ew = align_extent(r[1], r[3], scale, s.pooled_w);
    const int nh = align_samples(eh, s.samples), nw = align_samples(ew, s.samples);
    float* plane = dx + ((long)r[0] * s.channels + c) * s.height * s.width;
    for (int row = 0; row < s.pooled_h; ++row)
      for (int col = 0; col < s.pooled_w; ++col) {
        const float d = dy[first + row * s.pooled_w + col] / ((float)nh * nw);
        const Points rows = points_inside(eh, row, nh, s.height), cols = points_inside(ew, col, nw, s.width);
        for (int j = rows.first; j < rows.last; ++j) {
          const Between h = align_point(eh, row, j, nh, s.height);
          if (is_outside(h)) continue;
          float *low = plane + h.low * s.width, *high = plane + h.high * s.width;
          for (int k = cols.first; k < cols.last; ++k) {
            const Between w = align_point(ew, col, k, nw, s.width);
            if (is_outside(w)) continue;
            low[w.low] += d * h.to_low * w.to_low;
            low[w.high] += d * h.to_low * w.to_high;
            high[w.low] += d * h.to_high * w.to_low;
            high[w.high] += d * h.to_high * w.to_high;
          }
        }
      }
  });
}

void psroi_backward(const float* dy, const float* rois, float* dx, long size, float scale, const RegionShape& s) {
  each_region(dx, size, s, [=](int region, int c, long first) {
    const float* r = rois + 5 * region;
    const Extent eh = psroi_extent(r[2], r[4], scale, s.pooled_h), ew = psroi_extent(r[1], r[3], scale, s.pooled_w);
    const long channels = (long)s.channels * s.group * s.group;
    for (int row = 0; row < s.pooled_h; ++row)
      for (int col = 0; col < s.pooled_w; ++col) {
        const Part h = psroi_part(eh, row, s.height), w = psroi_part(ew, col, s.width);
        if (h.to <= h.from || w.to <= w.from) continue;
        const float d = dy[first + row * s.pooled_w + col] / ((h.to - h.from) * (w.to - w.from));
        float* plane = dx + ((long)r[0] * channels + psroi_channel(s, c, row, col)) * s.height * s.width;
        for (int y = h.from; y < h.to; ++y)
          for (int x = w.from; x < w.to; ++x) plane[y * s.width + x] += d;
      }
  });
}

void bind_regions(py::module_& m) {
  m.attr("most_samples") = (int)kMostSamples;
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  using Shape = std::vector<int>;
  m.def("roi_pool_forward", [](const Array& x_, const Array& rois_, Array& y_, Ints& winner_, float scale, const Shape& shape) {
    const RegionShape s = region_shape(shape, false, x_, rois_, y_);
    sized(y_.size(), winner_);
    const float *x = x_.data(), *rois = rois_.data(); float* y = y_.mutable_data(); int* winner = winner_.mutable_data(); Release _;
#pragma omp parallel for if (bins(s) > kGrain / 8)
    for (long i = 0; i < bins(s); ++i) roi_pool(x, rois, scale, s, i, y, winner);
  }, nc("x"), nc("rois"), nc("y"), nc("winner"), py::arg("scale"), py::arg("shape"));
  m.def("roi_pool_backward", [](const Array& dy_, const Array& rois_, const Ints& winner_, Array& dx_, float, const Shape& shape) {
    const RegionShape s = region_shape(shape, false, dx_, rois_, dy_);
    sized(dy_.size(), winner_);
    const float *dy = dy_.data(), *rois = rois_.data(); const int* winner = winner_.data(); float* dx = dx_.mutable_data(); const long n = dx_.size(); Release _;
    each_region(dx, n, s, [=](int region, int c, long first) {
      float* plane = dx + ((long)rois[5 * region] * s.channels + c) * s.height * s.width;
      const std::uint32_t pixels = s.height * s.width;
      for (long i = first; i < first + s.pooled_h * s.pooled_w; ++i)
        if ((std::uint32_t)winner[i] < pixels) plane[winner[i]] += dy[i];      // -1: an empty bin
    });
  }, nc("dy"), nc("rois"), nc("winner"), nc("dx"), py::arg("scale"), py::arg("shape"));
  m.def("psroi_pool_forward", [](const Array& x_, const Array& rois_, Array& y_, float scale, const Shape& shape) {
    const RegionShape s = region_shape(shape, true, x_, rois_, y_);
    const float *x = x_.data(), *rois = rois_.data(); float* y = y_.mutable_data(); Release _;
#pragma omp parallel for if (bins(s) > kGrain / 8)
    for (long i = 0; i < bins(s); ++i) y[i] = psroi_pool(x, rois, scale, s, i);
  }, nc("x"), nc("rois"), nc("y"), py::arg("scale"), py::arg("shape"));
  m.def("psroi_pool_backward", [](const Array& dy_, const Array& rois_, Array& dx_, float scale, const Shape& shape) {
    const RegionShape s = region_shape(shape, true, dx_, rois_, dy_);
    const float *dy = dy_.data(), *rois = rois_.data(); float* dx = dx_.mutable_data(); const long n = dx_.size(); Release _;
    psroi_backward(dy, rois, dx, n, scale, s);
  }, nc("dy"), nc("rois"), nc("dx"), py::arg("scale"), py::arg("shape"));
  m.def("roi_align_forward", [](const Array& x_, const Array& rois_, Array& y_, float scale, const Shape& shape) {
    const RegionShape s = region_shape(shape, false, x_, rois_, y_);
    const float *x = x_.data(), *rois = rois_.data(); float* y = y_.mutable_data(); Release _;
#pragma omp parallel for if (bins(s) > kGrain / 8)
    for (long i = 0; i < bins(s); ++i) y[i] = roi_align(x, rois, scale, s, i);
  }, nc("x"), nc("rois"), nc("y"), py::arg("scale"), py::arg("shape"));
  m.def("roi_align_backward", [](const Array& dy_, const Array& rois_, Array& dx_, float scale, const Shape& shape) {
    const RegionShape s = region_shape(shape, false, dx_, rois_, dy_);
    const float *dy = dy_.data(), *rois = rois_.data(); float* dx = dx_.mutable_data(); const long n = dx_.size(); Release _;
    align_backward(dy, rois, dx, n, scale, s);
  }, nc("dy"), nc("rois"), nc("dx"), py::arg("scale"), py::arg("shape"));
}
}  // namespace BREW_ISA
