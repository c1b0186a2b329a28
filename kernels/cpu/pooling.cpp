// Max and mean pooling on the CPU, on any layout: a plane is one (image, block of lanes).
#include "../include/pooling.h"

#include "../include/philox.h"

#include <cfloat>
#include <type_traits>

#include "cpu.h"

namespace BREW_ISA {

// The shape for an image and a result of these planes and lanes.
PoolShape pool_shape(const std::vector<int>& v, const Array& image, const Array& result, long planes, long lanes) {
  const PoolShape s{v.at(0), v.at(1), v.at(2), v.at(3), v.at(4), v.at(5), v.at(6), v.at(7), v.at(8), v.at(9)};
  check_axis(s.height, s.out_height, s.kernel_h, s.stride_h, s.pad_h, s.kernel_h);
  check_axis(s.width, s.out_width, s.kernel_w, s.stride_w, s.pad_w, s.kernel_w);
  require((long)s.height * s.width <= INT_MAX, "a plane has at most 2^31 - 1 pixels");
  sized(volume({planes, s.height, s.width, lanes}), image);
  sized(volume({planes, s.out_height, s.out_width, lanes}), result);
  return s;
}

constexpr int kStep = 16;          // lanes worked on at a time: one register of AVX-512, two of AVX2

// Lanes as one value (GCC's and Clang's vector types): left to itself the compiler kept the running maximum in memory,
// which took 2.6 ms where this takes 0.4 (100 x 32 x 32 x 32, kernel 3).
template <int n> struct Vector {
  typedef float Floats __attribute__((vector_size(4 * n)));
  typedef int Ints __attribute__((vector_size(4 * n)));
  static Floats all(float v) { return Floats{} + v; }
  static Ints all(int v) { return Ints{} + v; }
};
template <> struct Vector<1> {
  using Floats = float;
  using Ints = int;
  static float all(float v) { return v; }
  static int all(int v) { return v; }
};

// f(offset of the lanes, how many) for all lanes, with a constant number wherever that can be.
template <class F>
inline void by_lanes(long lanes, F f) {
  long l = 0;
  for (; l + kStep <= lanes; l += kStep) f(l, std::integral_constant<int, kStep>());
  if (lanes - l >= 8) { f(l, std::integral_constant<int, 8>()); l += 8; }
  if (lanes - l >= 4) { f(l, std::integral_constant<int, 4>()); l += 4; }
  for (; l < lanes; ++l) f(l, std::integral_constant<int, 1>());
}

// f(pixel) for every pixel of a window. Whole windows of 2 x 2 and 3 x 3, which nearly all are, go without loops: they took
// four times as long with them.
template <int k, class F>
inline void square(long width, const Window& w, F f) {
  const long first = w.top * width + w.left;
#pragma GCC unroll 3
  for (int h = 0; h < k; ++h)
#pragma GCC unroll 3
    for (int c = 0; c < k; ++c) f(first + h * width + c);
}
template <class F>
inline void each_pixel(long width, const Window& w, F f) {
  const int high = w.bottom - w.top, wide = w.right - w.left;
  if (high == 3 && wide == 3) return square<3>(width, w, f);
  if (high == 2 && wide == 2) return square<2>(width, w, f);
  for (int h = w.top; h < w.bottom; ++h)
    for (int c = w.left; c < w.right; ++c) f(h * width + c);
}

template <bool keep>               // keep: write the winners
void max_forward(const float* x, float* y, int* winner, long planes, long lanes, const PoolShape& s) {
  const long in = (long)s.height * s.width * lanes, out = (long)s.out_height * s.out_width * lanes;
#pragma omp parallel for collapse(2) if (planes * in > kGrain)
  for (long p = 0; p < planes; ++p)
    for (int row = 0; row < s.out_height; ++row)
      for (int col = 0; col < s.out_width; ++col) {
        const Window w = window_of(s, row, col);
        const long o = p * out + ((long)row * s.out_width + col) * lanes;
        by_lanes(lanes, [&](long l0, auto width) {
          constexpr int n = decltype(width)::value;
          using V = Vector<n>;
          typename V::Floats best = V::all(-FLT_MAX), v;
          typename V::Ints won = V::all(-1);
          const float* plane = x + p * in + l0;
          each_pixel(s.width, w, [&](long at) {
            std::memcpy(&v, plane + at * lanes, sizeof v);
            const auto more = v > best;
            best = more ? v : best;
            if (keep) won = more ? V::all((int)at) : won;
          });
          std::memcpy(y + o + l0, &best, sizeof best);
          if (keep) std::memcpy(winner + o + l0, &won, sizeof won);
        });
      }
}

void max_backward(const float* dy, const int* winner, float* dx, long planes, long lanes, const PoolShape& s) {
  const long in = (long)s.height * s.width * lanes, out = (long)s.out_height * s.out_width * lanes;
#pragma omp parallel for if (planes * in > kGrain)
  for (long p = 0; p < planes; ++p) {
    float* d = dx + p * in;
    std::memset(d, 0, in * sizeof(float));
    const std::uint32_t pixels = s.height * s.width;
    for (long o = 0; o < out; o += lanes)
      for (long l = 0; l < lanes; ++l) {
        const std::uint32_t at = winner[p * out + o + l];             // -1, a window without pixels, is the largest
        if (at < pixels) d[at * lanes + l] += dy[p * out + o + l];
      }
  }
}

void ave_forward(const float* x, float* y, long planes, long lanes, const PoolShape& s) {
  const long in = (long)s.height * s.width * lanes, out = (long)s.out_height * s.out_width * lanes;
#pragma omp parallel for collapse(2) if (planes * in > kGrain)
  for (long p = 0; p < planes; ++p)
    for (int row = 0; row < s.out_height; ++row)
      for (int col = 0; col < s.out_width; ++col) {
        const Window w = window_of(s, row, col);
        const long o = p * out + ((long)row * s.out_width + col) * lanes;
        by_lanes(lanes, [&](long l0, auto width) {
          constexpr int n = decltype(width)::value;
          typename Vector<n>::Floats sum = Vector<n>::all(0.0f), v;
          const float* plane = x + p * in + l0;
          each_pixel(s.width, w, [&](long at) {
            std::memcpy(&v, plane + at * lanes, sizeof v);
            sum += v;
          });
          sum = w.size > 0 ? sum / (float)w.size : sum;
          std::memcpy(y + o + l0, &sum, sizeof sum);
        });
      }
}

void ave_backward(const float* dy, float* dx, long planes, long lanes, const PoolShape& s) {
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

// f(plane of the image, window, output) for every output of plain planes.
template <class F>
void each_window(const float* x, long planes, const PoolShape& s, F f) {
  const long in = (long)s.height * s.width, out = (long)s.out_height * s.out_width;
#pragma omp parallel for if (planes * in > kGrain)
  for (long p = 0; p < planes; ++p)
    for (long o = 0; o < out; ++o) f(x + p * in, window_of(s, (int)(o / s.out_width), (int)(o % s.out_width)), p * out + o);
}

void bind_pooling(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  using Shape = std::vector<int>;
  m.def("max_pool_forward", [](const Array& x, Array& y, std::optional<Ints>& winner, long planes, long lanes, const Shape& shape) {
    const PoolShape s = pool_shape(shape, x, y, planes, lanes);
    if (winner) sized(y.size(), *winner);
    const float* a = x.data(); float* b = y.mutable_data(); int* w = winner ? winner->mutable_data() : nullptr; Release _;
    w ? max_forward<true>(a, b, w, planes, lanes, s) : max_forward<false>(a, b, w, planes, lanes, s);
  }, nc("x"), nc("y"), nc("winner"), py::arg("planes"), py::arg("lanes"), py::arg("shape"));
  m.def("max_pool_backward", [](const Array& dy, const Ints& winner, Array& dx, long planes, long lanes, const Shape& shape) {
    const PoolShape s = pool_shape(shape, dx, dy, planes, lanes);
    sized(dy.size(), winner);
    const float* a = dy.data(); float* b = dx.mutable_data(); const int* w = winner.data(); Release _;
    max_backward(a, w, b, planes, lanes, s);
  }, nc("dy"), nc("winner"), nc("dx"), py::arg("planes"), py::arg("lanes"), py::arg("shape"));
  m.def("stochastic_pool_train", [](const Array& x, Array& y, Ints& winner, std::uint64_t key, std::uint64_t stream, long planes, const Shape& shape) {
    const PoolShape s = pool_shape(shape, x, y, planes, 1);
    sized(y.size(), winner);
    const float* a = x.data(); float* b = y.mutable_data(); int* w = winner.mutable_data(); Release _;
    each_window(a, planes, s, [=](const float* plane, const Window& v, long o) {
      w[o] = stochastic_pick(plane, s, v, unit(word(o, stream, key)));
      b[o] = w[o] < 0 ? 0.0f : plane[w[o]];
    });
  }, nc("x"), nc("y"), nc("winner"), py::arg("key"), py::arg("stream"), py::arg("planes"), py::arg("shape"));
  m.def("stochastic_pool_test", [](const Array& x, Array& y, long planes, const Shape& shape) {
    const PoolShape s = pool_shape(shape, x, y, planes, 1);
    const float* a = x.data(); float* b = y.mutable_data(); Release _;
    each_window(a, planes, s, [=](const float* plane, const Window& v, long o) { b[o] = stochastic_mean(plane, s, v); });
  }, nc("x"), nc("y"), py::arg("planes"), py::arg("shape"));
  m.def("ave_pool_forward", [](const Array& x, Array& y, long planes, long lanes, const Shape& shape) {
    const PoolShape s = pool_shape(shape, x, y, planes, lanes);
    const float* a = x.data(); float* b = y.mutable_data(); Release _;
    ave_forward(a, b, planes, lanes, s);
  }, nc("x"), nc("y"), py::arg("planes"), py::arg("lanes"), py::arg("shape"));
  m.def("ave_pool_backward", [](const Array& dy, Array& dx, long planes, long lanes, const Shape& shape) {
    const PoolShape s = pool_shape(shape, dx, dy, planes, lanes);
    const float* a = dy.data(); float* b = dx.mutable_data(); Release _;
    ave_backward(a, b, planes, lanes, s);
  }, nc("dy"), nc("dx"), py::arg("planes"), py::arg("lanes"), py::arg("shape"));
}
}  // namespace BREW_ISA
