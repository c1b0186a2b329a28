// The solver's passes over the flat arena of parameters.
#include "update_steps.h"

#include <cmath>

#include "cpu.h"

namespace BREW_ISA {

constexpr long kPiece = 1 << 16;    // elements whose sum is one term of a norm: fixed, so threads do not change it

template <class F>
double pieces(long n, F f) {
  const long count = (n + kPiece - 1) / kPiece;
  std::vector<double> sums(count);
#pragma omp parallel for if (n > kGrain)
  for (long p = 0; p < count; ++p) {
    double s = 0;
#pragma omp simd reduction(+ : s)
    for (long i = p * kPiece; i < std::min(n, (p + 1) * kPiece); ++i) s += f(i);
    sums[p] = s;
  }
  double total = 0;
  for (double s : sums) total += s;
  return total;
}

void bind_update(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  m.def("sum_squares", [](const Array& x_) {
    const float* x = x_.data(); const long n = x_.size(); Release _;
    return pieces(n, [=](long i) { return (double)x[i] * x[i]; });
  }, nc("x"));
  // Each solver's update: see update_steps.h.
  m.def("sgd_update", [](Array& w_, Array& g_, Array& h_, float scale, float decay, bool l1, float rate, float momentum) {
    sized(w_.size(), g_, h_);
    float *w = w_.mutable_data(), *g = g_.mutable_data(), *h = h_.mutable_data(); const long n = w_.size(); Release _;
    const SgdUpdate step{scale, decay, l1, rate, momentum};
    each(n, [=](long i) { step(w, g, h, nullptr, i); });
  }, nc("w"), nc("g"), nc("h"), py::arg("scale"), py::arg("decay"), py::arg("l1"), py::arg("rate"), py::arg("momentum"));
  m.def("nesterov_update", [](Array& w_, Array& g_, Array& h_, float scale, float decay, bool l1, float rate, float momentum) {
    sized(w_.size(), g_, h_);
    float *w = w_.mutable_data(), *g = g_.mutable_data(), *h = h_.mutable_data(); const long n = w_.size(); Release _;
    each(n, [=](long i) { w[i] -= g[i] = nesterov_step(regularized(g[i], w[i], scale, decay, l1), h + i, rate, momentum); });
  }, nc("w"), nc("g"), nc("h"), py::arg("scale"), py::arg("decay"), py::arg("l1"), py::arg("rate"), py::arg("momentum"));
  m.def("adagrad_update", [](Array& w_, Array& g_, Array& h_, float scale, float decay, bool l1, float rate, float delta) {
    sized(w_.size(), g_, h_);
    float *w = w_.mutable_data(), *g = g_.mutable_data(), *h = h_.mutable_data(); const long n = w_.size(); Release _;
    const AdagradUpdate step{scale, decay, l1, rate, delta};
    each(n, [=](long i) { step(w, g, h, nullptr, i); });
  }, nc("w"), nc("g"), nc("h"), py::arg("scale"), py::arg("decay"), py::arg("l1"), py::arg("rate"), py::arg("delta"));
  m.def("rmsprop_update", [](Array& w_, Array& g_, Array& h_, float scale, float decay, bool l1, float rate, float rms_decay, float delta) {
    sized(w_.size(), g_, h_);
    float *w = w_.mutable_data(), *g = g_.mutable_data(), *h = h_.mutable_data(); const long n = w_.size(); Release _;
    each(n, [=](long i) { w[i] -= g[i] = rmsprop_step(regularized(g[i], w[i], scale, decay, l1), h + i, rate, rms_decay, delta); });
  }, nc("w"), nc("g"), nc("h"), py::arg("scale"), py::arg("decay"), py::arg("l1"), py::arg("rate"), py::arg("rms_decay"), py::arg("delta"));
  m.def("adadelta_update", [](Array& w_, Array& g_, Array& h_, Array& h2_, float scale, float decay, bool l1, float rate, float momentum, float delta) {
    sized(w_.size(), g_, h_, h2_);
    float *w = w_.mutable_data(), *g = g_.mutable_data(), *h = h_.mutable_data(), *h2 = h2_.mutable_data(); const long n = w_.size(); Release _;
    each(n, [=](long i) { w[i] -= g[i] = adadelta_step(regularized(g[i], w[i], scale, decay, l1), h + i, h2 + i, rate, momentum, delta); });
  }, nc("w"), nc("g"), nc("h"), nc("h2"), py::arg("scale"), py::arg("decay"), py::arg("l1"), py::arg("rate"), py::arg("momentum"), py::arg("delta"));
  m.def("adam_update", [](Array& w_, Array& g_, Array& h_, Array& h2_, float scale, float decay, bool l1, float rate, float momentum, float momentum2, float delta) {
    sized(w_.size(), g_, h_, h2_);
    float *w = w_.mutable_data(), *g = g_.mutable_data(), *h = h_.mutable_data(), *h2 = h2_.mutable_data(); const long n = w_.size(); Release _;
    const AdamUpdate step{scale, decay, l1, rate, momentum, momentum2, delta};
    each(n, [=](long i) { step(w, g, h, h2, i); });
  }, nc("w"), nc("g"), nc("h"), nc("h2"), py::arg("scale"), py::arg("decay"), py::arg("l1"), py::arg("rate"), py::arg("momentum"), py::arg("momentum2"), py::arg("delta"));
  m.def("rmsprop_momentum_update", [](Array& w_, Array& g_, Array& h_, Array& h2_, float scale, float decay, bool l1, float rate, float rms_decay, float momentum, float delta) {
    sized(w_.size(), g_, h_, h2_);
    float *w = w_.mutable_data(), *g = g_.mutable_data(), *h = h_.mutable_data(), *h2 = h2_.mutable_data(); const long n = w_.size(); Release _;
    each(n, [=](long i) { w[i] -= g[i] = rmsprop_momentum_step(regularized(g[i], w[i], scale, decay, l1), h + i, h2 + i, rate, rms_decay, momentum, delta); });
  }, nc("w"), nc("g"), nc("h"), nc("h2"), py::arg("scale"), py::arg("decay"), py::arg("l1"), py::arg("rate"), py::arg("rms_decay"), py::arg("momentum"), py::arg("delta"));
  m.def("adamw_update", [](Array& w_, Array& g_, Array& h_, Array& h2_, float scale, float decay, bool l1, float rate, float correction, float momentum, float momentum2, float delta) {
    sized(w_.size(), g_, h_, h2_);
    float *w = w_.mutable_data(), *g = g_.mutable_data(), *h = h_.mutable_data(), *h2 = h2_.mutable_data(); const long n = w_.size(); Release _;
    each(n, [=](long i) { w[i] -= g[i] = adamw_step(g[i] * scale, w[i], h + i, h2 + i, rate, correction, momentum, momentum2, delta, decay, l1); });
  }, nc("w"), nc("g"), nc("h"), nc("h2"), py::arg("scale"), py::arg("decay"), py::arg("l1"), py::arg("rate"), py::arg("correction"), py::arg("momentum"), py::arg("momentum2"), py::arg("delta"));
}
}  // namespace BREW_ISA
