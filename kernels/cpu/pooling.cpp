// Max and mean pooling on the CPU, on any layout: a plane is one (image, block of lanes).
#include "../include/pooling.h"

#include <cfloat>

#include "cpu.h"

namespace BREW_ISA {

PoolShape pool_shape(const std::vector<int>& v) {
  return {v.at(0), v.at(1), v.at(2), v.at(3), v.at(4), v.at(5), v.at(6), v.at(7), v.at(8), v.at(9)};
}

// `lanes` is a constant where it is 16 or 8 or 1, so that the inner loop is a vector.
template <int kLanes>
void max_forward(const float* x, float* y, int* winner, long planes, long lanes_, const PoolShape& s) {
  const long lanes = kLanes ? kLanes : lanes_;
  const long in = (long)s.height * s.width * lanes, out = (long)s.out_height * s.out_width * lanes;
#pragma omp parallel for collapse(2) if (planes * in > kGrain)
  for (long p = 0; p < planes; ++p)
    for (int row = 0; row < s.out_height; ++row)
      for (int col = 0; col < s.out_width; ++col) {
        const Window w = window_of(s, row, col);
        const long o = p * out + ((long)row * s.out_width + col) * lanes;
        float* best = y + o;
        int* won = winner + o;
        for (long l = 0; l < lanes; ++l) { best[l] = -FLT_MAX; won[l] = -1; }
        for (int h = w.top; h < w.bottom; ++h)
          for (int c = w.left; c < w.right; ++c) {
            const int at = h * s.width + c;
            const float* v = x + p * in + (long)at * lanes;
#pragma omp simd
            for (long l = 0; l < lanes; ++l) {
              const bool more = v[l] > best[l];
              best[l] = more ? v[l] : best[l];
              won[l] = more ? at : won[l];
            }
          }
      }
}

void max_backward(const float* dy, const int* winner, float* dx, long planes, long lanes, const PoolShape& s) {
  const long in = (long)s.height * s.width * lanes, out = (long)s.out_height * s.out_width * lanes;
#pragma omp parallel for if (planes * in > kGrain)
  for (long p = 0; p < planes; ++p) {
    float* d = dx + p * in;
    std::memset(d, 0, in * sizeof(float));
    for (long o = 0; o < out; o += lanes)
      for (long l = 0; l < lanes; ++l) {
        const int at = winner[p * out + o + l];
        if (at >= 0) d[at * lanes + l] += dy[p * out + o + l];
      }
  }
}

template <int kLanes>
void ave_forward(const float* x, float* y, long planes, long lanes_, const PoolShape& s) {
  const long lanes = kLanes ? kLanes : lanes_;
  const long in = (long)s.height * s.width * lanes, out = (long)s.out_height * s.out_width * lanes;
#pragma omp parallel for collapse(2) if (planes * in > kGrain)
  for (long p = 0; p < planes; ++p)
    for (int row = 0; row < s.out_height; ++row)
      for (int col = 0; col < s.out_width; ++col) {
        const Window w = window_of(s, row, col);
        float* sum = y + p * out + ((long)row * s.out_width + col) * lanes;
        for (long l = 0; l < lanes; ++l) sum[l] = 0;
        for (int h = w.top; h < w.bottom; ++h)
          for (int c = w.left; c < w.right; ++c) {
            const float* v = x + p * in + ((long)h * s.width + c) * lanes;
#pragma omp simd
            for (long l = 0; l < lanes; ++l) sum[l] += v[l];
          }
        if (w.size > 0) for (long l = 0; l < lanes; ++l) sum[l] /= w.size;
      }
}

template <int kLanes>
void ave_backward(const float* dy, float* dx, long planes, long lanes_, const PoolShape& s) {
  const long lanes = kLanes ? kLanes : lanes_;
  const long in = (long)s.height * s.width * lanes, out = (long)s.out_height * s.out_width * lanes;
#pragma omp parallel for if (planes * in > kGrain)
  for (long p = 0; p < planes; ++p) {
    std::memset(dx + p * in, 0, in * sizeof(float));
    for (int row = 0; row < s.out_height; ++row)
      for (int col = 0; col < s.out_width; ++col) {
        const Window w = window_of(s, row, col);
        const float* d = dy + p * out + ((long)row * s.out_width + col) * lanes;
        const float share = w.size > 0 ? 1.0f / w.size : 0.0f;
        for (int h = w.top; h < w.bottom; ++h)
          for (int c = w.left; c < w.right; ++c) {
            float* v = dx + p * in + ((long)h * s.width + c) * lanes;
#pragma omp simd
            for (long l = 0; l < lanes; ++l) v[l] += d[l] * share;
          }
      }
  }
}

void bind_pooling(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  using Shape = std::vector<int>;
  m.def("max_pool_forward", [](const Array& x, Array& y, Ints& winner, long planes, long lanes, const Shape& shape) {
    const PoolShape s = pool_shape(shape);
    const float* a = x.data(); float* b = y.mutable_data(); int* w = winner.mutable_data(); Release _;
    auto run = lanes == 16 ? max_forward<16> : lanes == 8 ? max_forward<8> : lanes == 1 ? max_forward<1> : max_forward<0>;
    run(a, b, w, planes, lanes, s);
  }, nc("x"), nc("y"), nc("winner"), py::arg("planes"), py::arg("lanes"), py::arg("shape"));
  m.def("max_pool_backward", [](const Array& dy, const Ints& winner, Array& dx, long planes, long lanes, const Shape& shape) {
    const PoolShape s = pool_shape(shape);
    const float* a = dy.data(); float* b = dx.mutable_data(); const int* w = winner.data(); Release _;
    max_backward(a, w, b, planes, lanes, s);
  }, nc("dy"), nc("winner"), nc("dx"), py::arg("planes"), py::arg("lanes"), py::arg("shape"));
  m.def("ave_pool_forward", [](const Array& x, Array& y, long planes, long lanes, const Shape& shape) {
    const PoolShape s = pool_shape(shape);
    const float* a = x.data(); float* b = y.mutable_data(); Release _;
    auto run = lanes == 16 ? ave_forward<16> : lanes == 8 ? ave_forward<8> : lanes == 1 ? ave_forward<1> : ave_forward<0>;
    run(a, b, planes, lanes, s);
  }, nc("x"), nc("y"), py::arg("planes"), py::arg("lanes"), py::arg("shape"));
  m.def("ave_pool_backward", [](const Array& dy, Array& dx, long planes, long lanes, const Shape& shape) {
    const PoolShape s = pool_shape(shape);
    const float* a = dy.data(); float* b = dx.mutable_data(); Release _;
    auto run = lanes == 16 ? ave_backward<16> : lanes == 8 ? ave_backward<8> : lanes == 1 ? ave_backward<1> : ave_backward<0>;
    run(a, b, planes, lanes, s);
  }, nc("dy"), nc("dx"), py::arg("planes"), py::arg("lanes"), py::arg("shape"));
}
}  // namespace BREW_ISA
