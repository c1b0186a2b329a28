// Rows of a matrix by their numbers: sparse inputs times weights, and the gradients of the rows that occur.
#include "cpu.h"

namespace BREW_ISA {

// The width of a pair: values (items, width) and the numbers of rows of w (rows, columns), which meet y (items, columns).
// Throws unless all of them fit.
static long pair_width(const Array& values, const Ints& index, const Array& w, const Array& y, long items, long columns) {
  require(items >= 0 && (items ? values.size() % items : values.size()) == 0, "the values have a part of an item");
  require(columns > 0 && w.size() % columns == 0, "the matrix has a part of a row");
  sized(values.size(), index);
  sized(volume({items, columns}), y);
  check_padded(index, w.size() / columns, "row");
  return items ? values.size() / items : 0;
}

void bind_sparse(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  // y[n] += sum over s of x[n, s] w[index[n, s]], in the order of s.
  m.def("rows_forward", [](const Array& x_, const Ints& index_, const Array& w_, Array& y_, long items, long columns) {
    const long width = pair_width(x_, index_, w_, y_, items, columns);
    const float *x = x_.data(), *w = w_.data();
    const int* index = index_.data();
    float* y = y_.mutable_data();
    Release _;
#pragma omp parallel for if (items * width * columns > kGrain)
    for (long n = 0; n < items; ++n)
      for (long s = 0; s < width; ++s) {
        const int row = index[n * width + s];
        if (row < 0) continue;
        const float v = x[n * width + s];
        const float* const from = w + (long)row * columns;
        float* const to = y + n * columns;
#pragma omp simd
        for (long c = 0; c < columns; ++c) to[c] += v * from[c];
      }
  }, nc("x"), nc("index"), nc("w"), nc("y"), py::arg("items"), py::arg("columns"));
  // dx[n, s] = dy[n] . w[index[n, s]]; 0 for padding.
  m.def("rows_backward", [](const Array& dy_, const Ints& index_, const Array& w_, Array& dx_, long items,
                            long columns) {
    const long width = pair_width(dx_, index_, w_, dy_, items, columns);
    const float *dy = dy_.data(), *w = w_.data();
    const int* index = index_.data();
    float* dx = dx_.mutable_data();
    Release _;
#pragma omp parallel for if (items * width * columns > kGrain)
    for (long i = 0; i < items * width; ++i) {
      float sum = 0;
      if (index[i] >= 0) {
        const float *const a = dy + i / width * columns, *const b = w + (long)index[i] * columns;
#pragma omp simd reduction(+ : sum)
        for (long c = 0; c < columns; ++c) sum += a[c] * b[c];
      }
      dx[i] = sum;
    }
  }, nc("dy"), nc("index"), nc("w"), nc("dx"), py::arg("items"), py::arg("columns"));
  // y[r] = sum over e in starts[r]..starts[r + 1] - 1 of scale[p] x[p / width], with p = order[e]; scale is None for 1.
  m.def("sum_rows", [](const Array& x_, const Optional& scale_, const Ints& order_, const Ints& starts_, Array& y_,
                       long width, long columns) {
    require(starts_.size() > 0 && width > 0 && columns > 0 && x_.size() % columns == 0,
            "sum_rows: x has a part of a row, or there is no start");
    const long rows = starts_.size() - 1, places = volume({x_.size() / columns, width});
    sized(volume({rows, columns}), y_);
    sized(places, scale_);
    check_indices(order_, places, "place");
    check_starts(starts_, order_.size());
    const float *x = x_.data(), *scale = pointer(scale_);
    const int *order = order_.data(), *starts = starts_.data();
    float* y = y_.mutable_data();
    Release _;
#pragma omp parallel for if (rows * columns > kGrain)
    for (long r = 0; r < rows; ++r) {
      float* const to = y + r * columns;
      std::fill(to, to + columns, 0.0f);
      for (long e = starts[r]; e < starts[r + 1]; ++e) {
        const float* const from = x + (long)order[e] / width * columns;
        const float v = scale ? scale[order[e]] : 1.0f;
#pragma omp simd
        for (long c = 0; c < columns; ++c) to[c] += v * from[c];
      }
    }
  }, nc("x"), nc("scale"), nc("order"), nc("starts"), nc("y"), py::arg("width"), py::arg("columns"));
}
}  // namespace BREW_ISA
