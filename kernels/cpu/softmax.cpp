// Softmax and its cross entropy. Arrays are plain (outer, classes, inner).
#include "../include/elementary.h"
#include "../include/softmax.h"

#include <cmath>

#include "cpu.h"

namespace BREW_ISA {

void softmax_row(const float* a, float* b, long classes) {
  float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
  for (long c = 0; c < classes; ++c) most = most < a[c] ? a[c] : most;
#pragma omp simd reduction(+ : sum)
  for (long c = 0; c < classes; ++c) { const float e = exp_of(a[c] - most); b[c] = e; sum += e; }
  const float share = 1 / sum;
#pragma omp simd
  for (long c = 0; c < classes; ++c) b[c] *= share;
}

void bind_softmax(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  m.def("softmax_forward", [](const Array& x_, Array& y_, long outer, long classes, long inner) {
    sized(volume({outer, classes, inner}), x_, y_);
    const float* x = x_.data(); float* y = y_.mutable_data(); Release _;
    const long plane = classes * inner;
    if (inner == 1) {                                  // rows of scores: the classes lie side by side
#pragma omp parallel for if (outer * plane > kGrain)
      for (long n = 0; n < outer; ++n) softmax_row(x + n * plane, y + n * plane, classes);
      return;
    }
    const PerThread<float> scratch(2 * inner, outer * plane > kGrain);
#pragma omp parallel if (outer * plane > kGrain)
    {
      float *most = scratch.mine(), *sum = most + inner;
#pragma omp for
      for (long n = 0; n < outer; ++n) {
        const float* a = x + n * plane; float* b = y + n * plane;
        std::fill(most, most + inner, -INFINITY);
        std::fill(sum, sum + inner, 0.0f);
        for (long c = 0; c < classes; ++c)
          for (long i = 0; i < inner; ++i) most[i] = std::max(most[i], a[c * inner + i]);
        for (long c = 0; c < classes; ++c)
          for (long i = 0; i < inner; ++i) sum[i] += b[c * inner + i] = exp_of(a[c * inner + i] - most[i]);
        for (long c = 0; c < classes; ++c)
          for (long i = 0; i < inner; ++i) b[c * inner + i] /= sum[i];
      }
    }
  }, nc("x"), nc("y"), py::arg("outer"), py::arg("classes"), py::arg("inner"));
  m.def("softmax_backward", [](const Array& y_, const Array& dy_, Array& dx_, long outer, long classes, long inner) {
    sized(volume({outer, classes, inner}), y_, dy_, dx_);
    const float *y = y_.data(), *dy = dy_.data(); float* dx = dx_.mutable_data(); Release _;
    const long plane = classes * inner;
    const PerThread<float> scratch(inner, outer * plane > kGrain);
#pragma omp parallel if (outer * plane > kGrain)
    {
      float* dot = scratch.mine();
#pragma omp for
      for (long n = 0; n < outer; ++n) {
        const long o = n * plane;
        std::fill(dot, dot + inner, 0.0f);
        for (long c = 0; c < classes; ++c) {
#pragma omp simd
          for (long i = 0; i < inner; ++i) dot[i] += y[o + c * inner + i] * dy[o + c * inner + i];
        }
        for (long c = 0; c < classes; ++c) {
#pragma omp simd
          for (long i = 0; i < inner; ++i) { const long k = o + c * inner + i; dx[k] = y[k] * (dy[k] - dot[i]); }
        }
      }
    }
  }, nc("y"), nc("dy"), nc("dx"), py::arg("outer"), py::arg("classes"), py::arg("inner"));
  // Fills each position's loss (0 where ignored); returns (positions that counted, first position with a label out of range or -1).
  m.def("cross_entropy_forward", [](const Array& p_, const Array& label_, Array& each_, long outer, long classes, long inner, bool has_ignore, int ignore, float smoothing) {
    sized(volume({outer, classes, inner}), p_);
    sized(volume({outer, inner}), label_, each_);
    const float *p = p_.data(), *label = label_.data(); float* loss = each_.mutable_data();
    long counted = 0, bad = -1;
    { Release _;
      for (long n = 0; n < outer && bad < 0; ++n)
        for (long i = 0; i < inner; ++i) {
          const float value = label[n * inner + i];
          const long c = class_of(value);
          loss[n * inner + i] = 0;
          if (has_ignore && c == ignore) continue;
          if (!is_class(value, classes)) { bad = n * inner + i; break; }
          loss[n * inner + i] = cross_entropy(p + n * classes * inner + i, inner, (int)c, (int)classes, smoothing);
          ++counted;
        } }
    return py::make_tuple(counted, bad);
  }, nc("p"), nc("label"), nc("each"), py::arg("outer"), py::arg("classes"), py::arg("inner"), py::arg("has_ignore"), py::arg("ignore"), py::arg("smoothing"));
  // dx = (p - target) * weight, 0 where ignored; `weights` are the positions' own, or none. Returns the first position with a
  // label out of range, or -1: labels may have changed since forward.
  m.def("cross_entropy_backward", [](const Array& p_, const Array& label_, const Optional& weights_, Array& dx_, long outer, long classes, long inner,
                                     bool has_ignore, int ignore, float smoothing, float weight) {
    sized(volume({outer, classes, inner}), p_, dx_);
    sized(volume({outer, inner}), label_, weights_);
    const float *p = p_.data(), *label = label_.data(), *weights = pointer(weights_);
    float* dx = dx_.mutable_data(); Release _;
    const long plane = classes * inner;
    long bad = outer * inner;
#pragma omp parallel for reduction(min : bad) if (outer * plane > kGrain)
    for (long n = 0; n < outer; ++n) {
      const float even = smoothing / classes;
      for (long c = 0; c < classes; ++c)
        for (long i = 0; i < inner; ++i) {
          const long k = n * plane + c * inner + i;
          dx[k] = (p[k] - even) * (weights ? weights[n * inner + i] * weight : weight);
        }
      for (long i = 0; i < inner; ++i) {
        const long c = class_of(label[n * inner + i]);
        if (has_ignore && c == ignore) for (long j = 0; j < classes; ++j) dx[n * plane + j * inner + i] = 0;
        else if (c < 0 || c >= classes) bad = std::min(bad, n * inner + i);
        else dx[n * plane + c * inner + i] -= (1 - smoothing) * (weights ? weights[n * inner + i] * weight : weight);
      }
    }
    return bad < outer * inner ? bad : -1;
  }, nc("p"), nc("label"), nc("weights"), nc("dx"), py::arg("outer"), py::arg("classes"), py::arg("inner"), py::arg("has_ignore"),
     py::arg("ignore"), py::arg("smoothing"), py::arg("weight"));
}
}  // namespace BREW_ISA
