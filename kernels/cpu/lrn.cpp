// Local response normalisation on the CPU. Arrays are plain (outer, channels, inner).
#include "../include/lrn.h"

#include "cpu.h"

namespace BREW_ISA {

// Sums over a window of channels slide: add the channel that enters, take away the one that leaves. Rounding would
// pile up along many channels, so a row keeps its window's terms and every sum is made anew from at most `size` terms.
template <class F>
void window_sums(long channels, long inner, long size, F term, float* sums) {
  const long half = size / 2;
  for (long c = 0; c < channels; ++c) {
    float* out = sums + c * inner;
    std::memset(out, 0, inner * sizeof(float));
    for (long k = std::max(0L, c - half); k < std::min(channels, c + half + 1); ++k) {
#pragma omp simd
      for (long i = 0; i < inner; ++i) out[i] += term(k * inner + i);
    }
  }
}

void bind_lrn(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  // s = k + alpha / size * sum of squares over `size` channels;  y = x s^-beta
  m.def("lrn_across_forward", [](const Array& x_, Array& s_, Array& y_, long outer, long channels, long inner, long size,
                                 float alpha, float beta, float k) {
    sized(volume({outer, channels, inner}), x_, s_, y_);
    require(size > 0 && size <= INT_MAX, "LRN: local_size is above 0 and below 2^31");
    const float* x = x_.data(); float *s = s_.mutable_data(), *y = y_.mutable_data(); Release _;
    const long plane = channels * inner;
    const float share = alpha / size;
#pragma omp parallel for if (outer * plane > kGrain)
    for (long n = 0; n < outer; ++n) {
      const float* a = x + n * plane; float *b = s + n * plane, *c = y + n * plane;
      window_sums(channels, inner, size, [=](long i) { return a[i] * a[i]; }, b);
#pragma omp simd
      for (long i = 0; i < plane; ++i) { b[i] = k + share * b[i]; c[i] = lrn_value(a[i], b[i], beta); }
    }
  }, nc("x"), nc("s"), nc("y"), py::arg("outer"), py::arg("channels"), py::arg("inner"), py::arg("size"),
     py::arg("alpha"), py::arg("beta"), py::arg("k"));
  m.def("lrn_across_backward", [](const Array& x_, const Array& s_, const Array& y_, const Array& dy_, Array& dx_, long outer,
                                  long channels, long inner, long size, float alpha, float beta) {
    sized(volume({outer, channels, inner}), x_, s_, y_, dy_, dx_);
    require(size > 0 && size <= INT_MAX, "LRN: local_size is above 0 and below 2^31");
    const float *x = x_.data(), *s = s_.data(), *y = y_.data(), *dy = dy_.data(); float* dx = dx_.mutable_data(); Release _;
    const long plane = channels * inner;
    const float c = 2 * alpha * beta / size;
    const PerThread<float> scratch(2 * plane, outer * plane > kGrain);
#pragma omp parallel if (outer * plane > kGrain)
    {
      float *ratio = scratch.mine(), *sums = ratio + plane;
#pragma omp for
      for (long n = 0; n < outer; ++n) {
        const long o = n * plane;
#pragma omp simd
        for (long i = 0; i < plane; ++i) ratio[i] = lrn_ratio(y[o + i], s[o + i], dy[o + i]);
        window_sums(channels, inner, size, [=](long i) { return ratio[i]; }, sums);
#pragma omp simd
        for (long i = 0; i < plane; ++i) dx[o + i] = lrn_grad(x[o + i], s[o + i], dy[o + i], sums[i], beta, c);
      }
    }
  }, nc("x"), nc("s"), nc("y"), nc("dy"), nc("dx"), py::arg("outer"), py::arg("channels"), py::arg("inner"), py::arg("size"),
     py::arg("alpha"), py::arg("beta"));
  // The pieces of WITHIN_CHANNEL; mean pooling makes the windows. s comes in as the mean of squares, leaves as 1 + alpha s.
  m.def("lrn_within_forward", [](const Array& x_, Array& s_, Array& y_, float alpha, float beta) {
    sized(x_.size(), s_, y_);
    const float* x = x_.data(); float *s = s_.mutable_data(), *y = y_.mutable_data(); const long n = x_.size(); Release _;
    each(n, [=](long i) { s[i] = 1 + alpha * s[i]; y[i] = lrn_value(x[i], s[i], beta); });
  }, nc("x"), nc("s"), nc("y"), py::arg("alpha"), py::arg("beta"));
  m.def("lrn_within_ratio", [](const Array& y_, const Array& s_, const Array& dy_, Array& r_) {
    sized(y_.size(), s_, dy_, r_);
    const float *y = y_.data(), *s = s_.data(), *dy = dy_.data(); float* r = r_.mutable_data(); const long n = y_.size(); Release _;
    each(n, [=](long i) { r[i] = lrn_ratio(y[i], s[i], dy[i]); });
  }, nc("y"), nc("s"), nc("dy"), nc("r"));
  m.def("lrn_within_backward", [](const Array& x_, const Array& s_, const Array& dy_, const Array& r_, Array& dx_, float alpha, float beta) {
    sized(x_.size(), s_, dy_, r_, dx_);
    const float *x = x_.data(), *s = s_.data(), *dy = dy_.data(), *r = r_.data(); float* dx = dx_.mutable_data();
    const long n = x_.size(); const float c = 2 * alpha * beta; Release _;
    each(n, [=](long i) { dx[i] = lrn_grad(x[i], s[i], dy[i], r[i], beta, c); });
  }, nc("x"), nc("s"), nc("dy"), nc("r"), nc("dx"), py::arg("alpha"), py::arg("beta"));
}
}  // namespace BREW_ISA
