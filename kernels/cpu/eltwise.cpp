// Sums, products and maxima of arrays of one shape.
#include "../include/neuron.h"

#include "cpu.h"

namespace BREW_ISA {

void bind_eltwise(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  m.def("linear", [](const Array& x, float a, Array& y, float b) {      // y = a x + b y; b == 0: y is not read
    sized(x.size(), y);
    const float* p = x.data(); float* q = y.mutable_data(); Release _;
    if (b == 0) each(x.size(), [=](long i) { q[i] = a * p[i]; });
    else each(x.size(), [=](long i) { q[i] = a * p[i] + b * q[i]; });
  }, nc("x"), py::arg("a"), nc("y"), py::arg("b"));
  m.def("add", [](const Array& x, float a, const Array& z, float b, Array& y, bool cut) {      // y = a x + b z, or 0 where that is less and `cut`
    sized(x.size(), z, y);
    const float *p = x.data(), *q = z.data(); float* r = y.mutable_data(); Release _;
    if (cut) each(x.size(), [=](long i) { r[i] = relu(a * p[i] + b * q[i], 0.0f); });
    else each(x.size(), [=](long i) { r[i] = a * p[i] + b * q[i]; });
  }, nc("x"), py::arg("a"), nc("z"), py::arg("b"), nc("y"), py::arg("cut"));
  m.def("add_backward", [](const Optional& y_, const Array& dy, float a, Array& dx, float b, Array& dz) {      // y only if it was cut
    sized(dy.size(), y_, dx, dz);
    const float *y = pointer(y_), *d = dy.data(); float *p = dx.mutable_data(), *q = dz.mutable_data(); Release _;
    if (y) each(dy.size(), [=](long i) { const float g = relu_grad(y[i], d[i], 0.0f); p[i] = a * g; q[i] = b * g; });
    else each(dy.size(), [=](long i) { const float g = d[i]; p[i] = a * g; q[i] = b * g; });
  }, nc("y"), nc("dy"), py::arg("a"), nc("dx"), py::arg("b"), nc("dz"));
  m.def("multiply", [](const Array& x, const Array& y, Array& z) {
    sized(x.size(), y, z);
    const float *p = x.data(), *q = y.data(); float* r = z.mutable_data(); Release _;
    each(x.size(), [=](long i) { r[i] = p[i] * q[i]; });
  }, nc("x"), nc("y"), nc("z"));
  m.def("divide", [](const Array& x, const Array& y, Array& z) {
    sized(x.size(), y, z);
    const float *p = x.data(), *q = y.data(); float* r = z.mutable_data(); Release _;
    each(x.size(), [=](long i) { r[i] = p[i] / q[i]; });
  }, nc("x"), nc("y"), nc("z"));
  // y = max(y, x), and who won. Among the first two a tie goes to the second, later ones must be larger (Caffe).
  m.def("maximum", [](const Array& x, Array& y, Ints& winner, int index) {
    sized(x.size(), y, winner);
    const float* p = x.data(); float* q = y.mutable_data(); int* w = winner.mutable_data(); Release _;
    if (index == 0) each(x.size(), [=](long i) { q[i] = p[i]; w[i] = 0; });
    else each(x.size(), [=](long i) {
      const bool wins = index == 1 ? !(q[i] > p[i]) : p[i] > q[i];
      q[i] = wins ? p[i] : q[i]; w[i] = wins ? index : w[i];
    });
  }, nc("x"), nc("y"), nc("winner"), py::arg("index"));
  // y[index[n]] += x[n], row by row and in the order of n.
  m.def("add_rows", [](const Array& x, const Ints& index, Array& y, long columns) {
    sized(volume({index.size(), columns}), x);
    if (columns == 0) return;                          // rows without values: nothing to add
    require(y.size() % columns == 0, "add_rows: y has a part of a row");
    check_indices(index, y.size() / columns, "row");
    const float* p = x.data(); const int* rows = index.data(); float* q = y.mutable_data(); const long n = index.size(); Release _;
#pragma omp parallel if (n * columns > kGrain)
    {
      const long threads = omp_get_num_threads(), t = omp_get_thread_num();
      for (long i = 0; i < n; ++i)
        for (long c = columns * t / threads; c < columns * (t + 1) / threads; ++c) q[rows[i] * columns + c] += p[i * columns + c];
    }
  }, nc("x"), nc("index"), nc("y"), py::arg("columns"));
  m.def("maximum_backward", [](const Array& dy, const Ints& winner, int index, Array& dx) {
    sized(dy.size(), winner, dx);
    const float* p = dy.data(); const int* w = winner.data(); float* q = dx.mutable_data(); Release _;
    each(dy.size(), [=](long i) { q[i] = w[i] == index ? p[i] : 0.0f; });
  }, nc("dy"), nc("winner"), py::arg("index"), nc("dx"));
  // Of `outer` rows each, columns at..at + n of x into columns to..to + n of y.
  m.def("copy_rows", [](const Array& x_, Array& y_, long outer, long n, long at, long to) {
    const float* x = x_.data(); float* y = y_.mutable_data();
    require(outer >= 0 && n >= 0 && at >= 0 && to >= 0, "copy_rows: a negative extent");
    const long from = outer ? x_.size() / outer : 0, width = outer ? y_.size() / outer : 0, pieces = (n + kGrain - 1) / kGrain;
    sized(outer * from, x_);
    sized(outer * width, y_);
    if (at > from || n > from - at || to > width || n > width - to) throw std::out_of_range("copy_rows: the columns are not there");
    Release _;
#pragma omp parallel for collapse(2) if (outer * n > kGrain)
    for (long r = 0; r < outer; ++r)
      for (long p = 0; p < pieces; ++p) {
        const long first = p * kGrain, count = std::min(n - first, kGrain);
        std::memcpy(y + r * width + to + first, x + r * from + at + first, count * sizeof(float));
      }
  }, nc("x"), nc("y"), py::arg("outer"), py::arg("n"), py::arg("at"), py::arg("to"));
}
}  // namespace BREW_ISA
