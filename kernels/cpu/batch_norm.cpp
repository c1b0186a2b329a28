// Batch normalisation, and the scale and bias of channels, on any layout.
// Sums over a channel are float along one plane of one image, or kPixels of it, and double beyond: exact enough, and the
// same for any number of threads, because the parts are added in their order.
#include "../include/neuron.h"
#include "cpu.h"

#include <cmath>
#include <type_traits>

namespace BREW_ISA {

constexpr long kChunk = 64;      // lanes summed at a time
constexpr long kPixels = 4096;   // of a lane, whose sum is a float
constexpr long kChains = 4;      // sums that take turns, for each addition waits for the one before

// row[l * K + k] += sum over a plane, the image n of block b, of the k-th of K functions f(element, lane), for the `width` lanes
// from l0.
template <class... F>
inline void plane_sums(const Grid& g, long n, long b, long l0, long width, double* row, const F&... f) {
  constexpr int K = sizeof...(F);
  const long first = (n * g.blocks + b) * g.spatial * g.lanes;
  if (g.lanes == 1) {
    int k = 0;
    const auto sum = [&](const auto& f) {
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (long s = 0; s < g.spatial; ++s) sum += f(first + s, 0);
      row[k++] += sum;
    };
    (sum(f), ...);
    return;
  }
  for (long s0 = 0; s0 < g.spatial; s0 += kPixels) {
    float sums[kChains][K][kChunk] = {};
    for (long s = s0; s < std::min(s0 + kPixels, g.spatial); ++s) {
      const long at = first + s * g.lanes + l0;
      auto& mine = sums[s % kChains];
#pragma omp simd
      for (long l = 0; l < width; ++l) {
        int k = 0;
        ((mine[k++][l] += f(at + l, l0 + l)), ...);
      }
    }
    for (const auto& chain : sums)
      for (long l = 0; l < width; ++l)
        for (int k = 0; k < K; ++k) row[l * K + k] += chain[k][l];
  }
}

// f(element, lane) for the `width` lanes from l0 of a plane.
template <class F>
inline void each_of_plane(const Grid& g, long n, long b, long l0, long width, const F& f) {
  const long first = (n * g.blocks + b) * g.spatial * g.lanes;
  if (g.lanes == 1) {
#pragma omp simd
    for (long s = 0; s < g.spatial; ++s) f(first + s, 0);
  } else {
    for (long s = 0; s < g.spatial; ++s) {
#pragma omp simd
      for (long l = l0; l < l0 + width; ++l) f(first + s * g.lanes + l, l);
    }
  }
}

// out[k][c] = sum over images and space of the k-th function, f(element, channel).
template <class... F>
void channel_sums(const Grid& g, double* out, F... shared) {
  constexpr int K = sizeof...(F);
  std::vector<double> rows((size_t)g.outer * g.channels * K);
#pragma omp parallel for collapse(2) if (g.size() > kGrain)
  for (long n = 0; n < g.outer; ++n)
    for (long b = 0; b < g.blocks; ++b) {
      const long used = g.lanes_of(b);
      for (long l0 = 0; l0 < used; l0 += kChunk)
        plane_sums(g, n, b, l0, std::min(kChunk, used - l0), rows.data() + (n * g.channels + b * g.lanes + l0) * K,
                   [f = shared, c = b * g.lanes](long i, long l) { return f(i, c + l); }...);
    }
  for (int k = 0; k < K; ++k)
    for (long c = 0; c < g.channels; ++c) {
      double sum = 0;
      for (long n = 0; n < g.outer; ++n) sum += rows[(n * g.channels + c) * K + k];
      out[k * g.channels + c] = sum;
    }
}

// Biased mean and variance of each channel. Each plane, or kPixels of it, is read twice while it is in the cache: its mean,
// and the squares around that; parts are merged in double by Chan, Golub and LeVeque 1979.
void moments(const Grid& g, const float* x, float* mean, float* var) {
  struct Part { double mean, squares; };
  std::vector<Part> rows((size_t)g.outer * g.channels, Part{0, 0});
  const auto merge = [](Part& a, double n, double mean, double squares, double m) {    // a has n values, the other m
    const double d = mean - a.mean;
    a.squares += squares + d * d * n * m / (n + m);
    a.mean += d * m / (n + m);
  };
#pragma omp parallel for collapse(2) if (g.size() > kGrain)
  for (long n = 0; n < g.outer; ++n)
    for (long b = 0; b < g.blocks; ++b) {
      const float* plane = x + (n * g.blocks + b) * g.spatial * g.lanes;
      Part* row = rows.data() + n * g.channels + b * g.lanes;
      const long used = g.lanes == 1 ? 1 : g.lanes_of(b);
      for (long s0 = 0; s0 < g.spatial; s0 += kPixels) {
        const long s1 = std::min(s0 + kPixels, g.spatial), m = s1 - s0;
        if (g.lanes == 1) {
          float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
          for (long s = s0; s < s1; ++s) sum += plane[s];
          const float average = sum / m;
#pragma omp simd reduction(+ : squares)
          for (long s = s0; s < s1; ++s) { const float d = plane[s] - average; squares += d * d; }
          merge(row[0], s0, average, squares, m);
          continue;
        }
        for (long l0 = 0; l0 < used; l0 += kChunk) {
          const long width = std::min(kChunk, used - l0);
          float sums[kChains][kChunk] = {}, squares[kChains][kChunk] = {}, average[kChunk];
          for (long s = s0; s < s1; ++s) {
            const float* v = plane + s * g.lanes + l0;
            float* mine = sums[s % kChains];
#pragma omp simd
            for (long l = 0; l < width; ++l) mine[l] += v[l];
          }
          for (long l = 0; l < width; ++l) average[l] = (sums[0][l] + sums[1][l] + sums[2][l] + sums[3][l]) / m;
          for (long s = s0; s < s1; ++s) {
            const float* v = plane + s * g.lanes + l0;
            float* mine = squares[s % kChains];
#pragma omp simd
            for (long l = 0; l < width; ++l) { const float d = v[l] - average[l]; mine[l] += d * d; }
          }
          for (long l = 0; l < width; ++l) merge(row[l0 + l], s0, average[l], squares[0][l] + squares[1][l] + squares[2][l] + squares[3][l], m);
        }
      }
    }
  for (long c = 0; c < g.channels; ++c) {
    Part all{0, 0};
    for (long n = 0; n < g.outer; ++n) merge(all, (double)n * g.spatial, rows[n * g.channels + c].mean, rows[n * g.channels + c].squares, g.spatial);
    mean[c] = (float)all.mean;
    var[c] = (float)(all.squares / ((double)g.outer * g.spatial));
  }
}

// f(element, channel) for every element that is no padding.
template <class F>
void each_of_channel(const Grid& g, F shared) {
#pragma omp parallel for collapse(2) if (g.size() > kGrain)
  for (long n = 0; n < g.outer; ++n)
    for (long b = 0; b < g.blocks; ++b) {
      const F f = shared;                          // see each() in cpu.h
      each_of_plane(g, n, b, 0, g.lanes_of(b), [=](long i, long l) { f(i, b * g.lanes + l); });
    }
}

// The gradients of y = h * scale + shift, then 0 where that is less if y is given, with h = (x - mean) * inverse by the
// batch's own moments: dx, and what is added to dscale and dshift. A thread takes some channels through all images, so that
// their planes are still in its cache when the sums over them are known; only where channels are few, threads share images.
struct Gradient {
  const Grid g;
  const float *y, *h, *dy, *scale, *inverse;
  float *dscale, *dshift, *dx;

  struct Unit { long block, lane, width; };
  struct Factors { float mean[kChunk], slope[kChunk], factor[kChunk]; };

  void sums(const Unit& u, long n, double* row) const {
    const float *y = this->y, *h = this->h, *dy = this->dy;
    const auto add = [&](auto passed) { plane_sums(g, n, u.block, u.lane, u.width, row, [=](long i, long) { return passed(i); }, [=](long i, long) { return passed(i) * h[i]; }); };
    if (y) add([=](long i) { return relu_grad(y[i], dy[i], 0); });
    else add([=](long i) { return dy[i]; });
  }

  // From each image's sums; they are added in their order, whoever made them.
  Factors factors(const Unit& u, const double* rows) const {
    Factors f;
    const double share = 1.0 / ((double)g.outer * g.spatial);
    for (long l = 0; l < u.width; ++l) {
      const long c = u.block * g.lanes + u.lane + l;
      double a = 0, b = 0;
      for (long n = 0; n < g.outer; ++n) { a += rows[(n * kChunk + l) * 2]; b += rows[(n * kChunk + l) * 2 + 1]; }
      if (dshift) dshift[c] += (float)a;
      if (dscale) dscale[c] += (float)b;
      f.mean[l] = (float)(a * share);
      f.slope[l] = (float)(b * share);
      f.factor[l] = scale ? scale[c] * inverse[c] : inverse[c];
    }
    return f;
  }

  void result(const Unit& u, long n, const Factors& f) const {
    const float *y = this->y, *h = this->h, *dy = this->dy, *mean = f.mean - u.lane, *slope = f.slope - u.lane, *factor = f.factor - u.lane;
    float* dx = this->dx;
    const auto put = [&](auto passed) { each_of_plane(g, n, u.block, u.lane, u.width, [=](long i, long l) { dx[i] = (passed(i) - mean[l] - slope[l] * h[i]) * factor[l]; }); };
    if (y) put([=](long i) { return relu_grad(y[i], dy[i], 0); });
    else put([=](long i) { return dy[i]; });
  }

  void run() const {
    const long chunk = g.blocks > 1 ? kChunk : std::min(kChunk, std::max(16L, g.lanes / 4));
    std::vector<Unit> units;
    for (long b = 0; b < g.blocks; ++b)
      for (long l = 0; l < g.lanes_of(b); l += chunk) units.push_back({b, l, std::min(chunk, g.lanes_of(b) - l)});
    const long many = (long)units.size();
    const auto all = [&](const Unit& u, double* rows, bool share) {
      std::fill(rows, rows + g.outer * kChunk * 2, 0);
#pragma omp parallel for if (share)
      for (long n = 0; n < g.outer; ++n) sums(u, n, rows + n * kChunk * 2);
      const Factors f = factors(u, rows);
#pragma omp parallel for if (share)
      for (long n = 0; n < g.outer; ++n) result(u, n, f);
    };
    const bool by_unit = g.size() > kGrain && many >= omp_get_max_threads();
    const PerThread<double> scratch(g.outer * kChunk * 2, by_unit);
    if (by_unit) {
#pragma omp parallel for
      for (long k = 0; k < many; ++k) all(units[k], scratch.mine(), false);
    } else {
      for (const Unit& u : units) all(u, scratch.mine(), g.size() > kGrain);
    }
  }
};

void bind_batch_norm(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  using Shape = std::vector<long>;
  const auto invert = [](const float* var, float eps, float* inverse, long n) { each(n, [=](long c) { inverse[c] = 1 / std::sqrt(var[c] + eps); }); };
  // Mean and variance of each channel, and 1 / sqrt(variance + eps).
  m.def("channel_moments", [invert](const Array& x_, Array& mean_, Array& var_, float eps, Array& inverse_, const Shape& shape) {
    const Grid g = grid(shape);
    sized(g.size(), x_);
    sized(g.channels, mean_, var_, inverse_);
    const float* x = x_.data(); float *mean = mean_.mutable_data(), *var = var_.mutable_data(), *inverse = inverse_.mutable_data(); Release _;
    moments(g, x, mean, var);
    invert(var, eps, inverse, g.channels);
  }, nc("x"), nc("mean"), nc("var"), py::arg("eps"), nc("inverse"), py::arg("grid"));
  m.def("inverse_deviation", [invert](const Array& var_, float eps, Array& inverse_) {
    sized(var_.size(), inverse_);
    invert(var_.data(), eps, inverse_.mutable_data(), var_.size());
  }, nc("var"), py::arg("eps"), nc("inverse"));
  // Stored sums of statistics, each of which keeps `fraction` of itself and takes a batch's; `unbiased` times its variance.
  m.def("absorb_moments", [](const Array& mean_, const Array& var_, float unbiased, float fraction, Array& means_, Array& vars_, Array& count_) {
    sized(mean_.size(), var_, means_, vars_);
    sized(1, count_);
    const float *mean = mean_.data(), *var = var_.data(); float *means = means_.mutable_data(), *vars = vars_.mutable_data(), *count = count_.mutable_data();
    for (long c = 0, n = mean_.size(); c < n; ++c) {
      means[c] = mean[c] + fraction * means[c];
      vars[c] = unbiased * var[c] + fraction * vars[c];
    }
    count[0] = 1 + fraction * count[0];
  }, nc("mean"), nc("var"), py::arg("unbiased"), py::arg("fraction"), nc("means"), nc("vars"), nc("count"));
  // BatchNorm, Scale and perhaps ReLU in one pass: h = (x - mean) * inverse, kept in `normal` if it is given, and
  // y = h * scale + shift, or 0 where that is less and `relu`.
  m.def("bn_forward", [](const Array& x_, const Array& mean_, const Array& inverse_, const Array& scale_, const Array& shift_, Optional& normal_, Array& y_, bool relu, const Shape& shape) {
    const Grid g = grid(shape);
    sized(g.size(), x_, normal_, y_);
    sized(g.channels, mean_, inverse_, scale_, shift_);
    const float *x = x_.data(), *mean = mean_.data(), *inv = inverse_.data(), *scale = scale_.data(), *shift = shift_.data(); float* y = y_.mutable_data();
    float* normal = mutable_pointer(normal_); Release _;
    const auto run = [&](auto keep, auto cut) {
      each_of_channel(g, [=](long i, long c) {
        const float h = (x[i] - mean[c]) * inv[c], v = h * scale[c] + shift[c];
        if constexpr (decltype(keep)::value) normal[i] = h;
        y[i] = decltype(cut)::value && v < 0 ? 0.0f : v;
      });
    };
    using Yes = std::true_type; using No = std::false_type;
    if (normal) relu ? run(Yes(), Yes()) : run(Yes(), No());
    else relu ? run(No(), Yes()) : run(No(), No());
  }, nc("x"), nc("mean"), nc("inverse"), nc("scale"), nc("shift"), nc("normal"), nc("y"), py::arg("relu"), py::arg("grid"));
  // The gradients of bn_forward with the batch's own moments; y only if there was a ReLU. dscale and dshift are added to.
  m.def("bn_backward", [](const Optional& y_, const Array& normal_, const Array& dy_, const Array& scale_, const Array& inverse_, Optional& dscale_, Optional& dshift_, Array& dx_, const Shape& shape) {
    const Grid g = grid(shape);
    sized(g.size(), y_, normal_, dy_, dx_);
    sized(g.channels, scale_, inverse_, dscale_, dshift_);
    const Gradient gradient{g, pointer(y_), normal_.data(), dy_.data(), scale_.data(), inverse_.data(), mutable_pointer(dscale_), mutable_pointer(dshift_), dx_.mutable_data()};
    Release _;
    gradient.run();
  }, nc("y"), nc("normal"), nc("dy"), nc("scale"), nc("inverse"), nc("dscale"), nc("dshift"), nc("dx"), py::arg("grid"));
  // (x - mean) * inverse, also kept in `normal` if it is given.
  m.def("normalize_forward", [](const Array& x_, const Array& mean_, const Array& inverse_, Array& y_, Optional& normal_, const Shape& shape) {
    const Grid g = grid(shape);
    sized(g.size(), x_, y_, normal_);
    sized(g.channels, mean_, inverse_);
    const float *x = x_.data(), *mean = mean_.data(), *inv = inverse_.data(); float* y = y_.mutable_data();
    float* normal = mutable_pointer(normal_); Release _;
    if (normal) each_of_channel(g, [=](long i, long c) { normal[i] = y[i] = (x[i] - mean[c]) * inv[c]; });
    else each_of_channel(g, [=](long i, long c) { y[i] = (x[i] - mean[c]) * inv[c]; });
  }, nc("x"), nc("mean"), nc("inverse"), nc("y"), nc("normal"), py::arg("grid"));
  // dx = (dy - mean(dy) - mean(dy y) y) * inverse
  m.def("normalize_backward", [](const Array& y_, const Array& dy_, const Array& inverse_, Array& dx_, const Shape& shape) {
    const Grid g = grid(shape);
    sized(g.size(), y_, dy_, dx_);
    sized(g.channels, inverse_);
    const Gradient gradient{g, nullptr, y_.data(), dy_.data(), nullptr, inverse_.data(), nullptr, nullptr, dx_.mutable_data()};
    Release _;
    gradient.run();
  }, nc("y"), nc("dy"), nc("inverse"), nc("dx"), py::arg("grid"));
  // The learned slopes of PReLU, one for each channel.
  m.def("prelu_forward", [](const Array& x_, const Array& slope_, Array& y_, const Shape& shape) {
    const Grid g = grid(shape);
    sized(g.size(), x_, y_);
    sized(g.channels, slope_);
    const float *x = x_.data(), *slope = slope_.data(); float* y = y_.mutable_data(); Release _;
    each_of_channel(g, [=](long i, long c) { y[i] = prelu(x[i], slope[c]); });
  }, nc("x"), nc("slope"), nc("y"), py::arg("grid"));
  m.def("prelu_backward", [](const Array& x_, const Array& slope_, const Array& dy_, Array& dx_, const Shape& shape) {
    const Grid g = grid(shape);
    sized(g.size(), x_, dy_, dx_);
    sized(g.channels, slope_);
    const float *x = x_.data(), *slope = slope_.data(), *dy = dy_.data(); float* dx = dx_.mutable_data(); Release _;
    each_of_channel(g, [=](long i, long c) { dx[i] = prelu_grad(x[i], dy[i], slope[c]); });
  }, nc("x"), nc("slope"), nc("dy"), nc("dx"), py::arg("grid"));
  m.def("prelu_slopes", [](const Array& x_, const Array& dy_, Array& dslope_, const Shape& shape) {
    const Grid g = grid(shape);
    sized(g.size(), x_, dy_);
    sized(g.channels, dslope_);
    const float *x = x_.data(), *dy = dy_.data(); float* dslope = dslope_.mutable_data(); Release _;
    std::vector<double> sums(g.channels);
    channel_sums(g, sums.data(), [=](long i, long) { return x[i] > 0 ? 0.0f : dy[i] * x[i]; });
    for (long c = 0; c < g.channels; ++c) dslope[c] += (float)sums[c];
  }, nc("x"), nc("dy"), nc("dslope"), py::arg("grid"));
  // y = x * scale + bias; one of them may be absent
  m.def("scale_forward", [](const Array& x_, const Optional& scale_, const Optional& bias_, Array& y_, const Shape& shape) {
    const Grid g = grid(shape);
    sized(g.size(), x_, y_);
    sized(g.channels, scale_, bias_);
    require(scale_ || bias_, "scale_forward takes a scale, a bias or both");
    const float *x = x_.data(), *s = pointer(scale_), *b = pointer(bias_); float* y = y_.mutable_data(); Release _;
    if (s && b) each_of_channel(g, [=](long i, long c) { y[i] = x[i] * s[c] + b[c]; });
    else if (s) each_of_channel(g, [=](long i, long c) { y[i] = x[i] * s[c]; });
    else each_of_channel(g, [=](long i, long c) { y[i] = x[i] + b[c]; });
  }, nc("x"), nc("scale"), nc("bias"), nc("y"), py::arg("grid"));
  // dscale += sum of dy x, dbias += sum of dy; either may be absent
  m.def("scale_gradients", [](const Optional& x_, const Array& dy_, Optional& dscale_, Optional& dbias_, const Shape& shape) {
    const Grid g = grid(shape);
    sized(g.size(), x_, dy_);
    sized(g.channels, dscale_, dbias_);
    require(x_ || !dscale_, "the gradient of a scale needs x");
    const float *dy = dy_.data(), *x = dscale_ ? pointer(x_) : nullptr;
    float *ds = mutable_pointer(dscale_), *db = mutable_pointer(dbias_); Release _;
    std::vector<double> sums(2 * g.channels);
    if (x) channel_sums(g, sums.data(), [=](long i, long) { return dy[i]; }, [=](long i, long) { return dy[i] * x[i]; });
    else channel_sums(g, sums.data(), [=](long i, long) { return dy[i]; });
    for (long c = 0; c < g.channels; ++c) {
      if (db) db[c] += (float)sums[c];
      if (ds) ds[c] += (float)sums[g.channels + c];
    }
  }, nc("x"), nc("dy"), nc("dscale"), nc("dbias"), py::arg("grid"));
}
}  // namespace BREW_ISA
