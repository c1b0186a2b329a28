// Activations and dropout on the CPU, element by element: they do not care about the layout.
#include "../include/neuron.h"

#include "../include/philox.h"
#include "cpu.h"

namespace BREW_ISA {

// Four elements share one Philox block; kept where the word is at least `threshold` = ratio * 2^32. Words are drawn for
// kDraw blocks at a time, in a loop of their own that vectorises.
constexpr long kDraw = 64;
void dropout(const float* x, float* y, long n, std::uint64_t key, std::uint64_t stream, std::uint32_t threshold, float scale) {
  const long blocks = (n + 3) / 4;
#pragma omp parallel for if (n > kGrain / 4)
  for (long first = 0; first < blocks; first += kDraw) {
    unsigned w[4][kDraw];
#pragma omp simd
    for (long b = 0; b < kDraw; ++b) {
      const Words v = philox(first + b, stream, key);
      w[0][b] = v.x; w[1][b] = v.y; w[2][b] = v.z; w[3][b] = v.w;
    }
    for (long b = 0; b < std::min(kDraw, blocks - first); ++b)
      for (long i = (first + b) * 4, k = 0, end = std::min(n, i + 4); i < end; ++i, ++k) y[i] = w[k][b] >= threshold ? x[i] * scale : 0.0f;
  }
}

// The functions of neuron.h with three constants, all bound alike: NAME_forward and NAME_backward.
template <class F, class G>
void bind_function(py::module_& m, const std::string& name, F f, G df) {
  const auto nc = [](const char* arg) { return py::arg(arg).noconvert(); };
  m.def((name + "_forward").c_str(), [f](const Array& x, Array& y, float a, float b, float c) {
    sized(x.size(), y);
    const float* p = x.data(); float* q = y.mutable_data(); Release _;
    each(x.size(), [=](long i) { q[i] = f(p[i], a, b, c); });
  }, nc("x"), nc("y"), py::arg("a"), py::arg("b"), py::arg("c"));
  m.def((name + "_backward").c_str(), [df](const Array& x, const Array& y, const Array& dy, Array& dx, float a, float b, float c) {
    sized(x.size(), y, dy, dx);
    const float *p = x.data(), *q = y.data(), *d = dy.data(); float* r = dx.mutable_data(); Release _;
    each(x.size(), [=](long i) { r[i] = df(p[i], q[i], d[i], a, b, c); });
  }, nc("x"), nc("y"), nc("dy"), nc("dx"), py::arg("a"), py::arg("b"), py::arg("c"));
}
#define BREW_FUNCTION(name)                                                                                   \
  bind_function(m, #name, [](float x, float a, float b, float c) { return name(x, a, b, c); },                \
                [](float x, float y, float dy, float a, float b, float c) { return name##_grad(x, y, dy, a, b, c); })

void bind_neuron(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  BREW_FUNCTION(absval);
  BREW_FUNCTION(bnll);
  BREW_FUNCTION(clip);
  BREW_FUNCTION(elu);
  BREW_FUNCTION(exponential);
  BREW_FUNCTION(logarithm);
  BREW_FUNCTION(power);
  BREW_FUNCTION(swish);
  BREW_FUNCTION(threshold);
  m.def("relu_forward", [](const Array& x, Array& y, float slope) {
    sized(x.size(), y);
    const float* a = x.data(); float* b = y.mutable_data(); Release _;
    each(x.size(), [=](long i) { b[i] = relu(a[i], slope); });
  }, nc("x"), nc("y"), py::arg("slope"));
  m.def("relu_backward", [](const Array& y, const Array& dy, Array& dx, float slope) {
    sized(y.size(), dy, dx);
    const float *a = y.data(), *d = dy.data(); float* b = dx.mutable_data(); Release _;
    each(y.size(), [=](long i) { b[i] = relu_grad(a[i], d[i], slope); });
  }, nc("y"), nc("dy"), nc("dx"), py::arg("slope"));
  m.def("sigmoid_forward", [](const Array& x, Array& y) {
    sized(x.size(), y);
    const float* a = x.data(); float* b = y.mutable_data(); Release _;
    each(x.size(), [=](long i) { b[i] = sigmoid(a[i]); });
  }, nc("x"), nc("y"));
  m.def("sigmoid_backward", [](const Array& y, const Array& dy, Array& dx) {
    sized(y.size(), dy, dx);
    const float *a = y.data(), *d = dy.data(); float* b = dx.mutable_data(); Release _;
    each(y.size(), [=](long i) { b[i] = sigmoid_grad(a[i], d[i]); });
  }, nc("y"), nc("dy"), nc("dx"));
  m.def("tanh_forward", [](const Array& x, Array& y) {
    sized(x.size(), y);
    const float* a = x.data(); float* b = y.mutable_data(); Release _;
    each(x.size(), [=](long i) { b[i] = tanh_of(a[i]); });
  }, nc("x"), nc("y"));
  m.def("tanh_backward", [](const Array& y, const Array& dy, Array& dx) {
    sized(y.size(), dy, dx);
    const float *a = y.data(), *d = dy.data(); float* b = dx.mutable_data(); Release _;
    each(y.size(), [=](long i) { b[i] = tanh_grad(a[i], d[i]); });
  }, nc("y"), nc("dy"), nc("dx"));
  m.def("dropout", [](const Array& x, Array& y, std::uint64_t key, std::uint64_t stream, std::uint32_t threshold, float scale) {
    sized(x.size(), y);
    const float* a = x.data(); float* b = y.mutable_data(); const long n = x.size(); Release _;
    dropout(a, b, n, key, stream, threshold, scale);
  }, nc("x"), nc("y"), py::arg("key"), py::arg("stream"), py::arg("threshold"), py::arg("scale"));
}
}  // namespace BREW_ISA
