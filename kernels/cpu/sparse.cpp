// Rows of a matrix by their numbers: sparse inputs times weights, and the gradients of the rows that occur.
#include "cpu.h"

namespace BREW_ISA {

namespace {
constexpr long kPieces = 16;       // of what is sorted

// Entries (key, place) sorted by their keys, equal ones in the order of their places, by `digits` of 11 bits.
void sort_entries(std::vector<std::uint64_t>& entries, int digits) {
  constexpr int kBits = 11, kDigits = 1 << kBits;
  const long n = (long)entries.size();
  std::vector<std::uint64_t> other(n);
  std::vector<long> counts(kPieces * kDigits);
  for (int pass = 0; pass < digits; ++pass) {
    const int shift = 32 + pass * kBits;
    std::fill(counts.begin(), counts.end(), 0);
    const std::uint64_t* const from = entries.data();
    std::uint64_t* const to = other.data();
    long* const count = counts.data();
#pragma omp parallel for if (n > kGrain)
    for (long p = 0; p < kPieces; ++p)
      for (long i = n * p / kPieces; i < n * (p + 1) / kPieces; ++i)
        ++count[p * kDigits + (from[i] >> shift & (kDigits - 1))];
    long sum = 0;
    for (int d = 0; d < kDigits; ++d)
      for (long p = 0; p < kPieces; ++p) {
        const long c = count[p * kDigits + d];
        count[p * kDigits + d] = sum;
        sum += c;
      }
#pragma omp parallel for if (n > kGrain)
    for (long p = 0; p < kPieces; ++p)
      for (long i = n * p / kPieces; i < n * (p + 1) / kPieces; ++i)
        to[count[p * kDigits + (from[i] >> shift & (kDigits - 1))]++] = from[i];
    entries.swap(other);
  }
}
}  // namespace

// The width of a pair: values (items, width) and the numbers of rows of w (rows, columns), which meet y (items,
// columns). Throws unless all of them fit.
static long pair_width(const Array& values, const Ints& index, const Array& w, const Array& y, long items,
                       long columns) {
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
  // (rows, order, starts) of row numbers in -1..count - 1, of which -1 stands for none: the rows that occur, sorted;
  // the places of `index` in the order of their rows, and of places for equal ones; where in `order` each row begins,
  // and its end.
  m.def("group_rows", [](const Ints& index_, int count) {
    const int* index = index_.data();
    const long n = index_.size();
    require(n <= INT_MAX, "group_rows: too many places");
    check_padded(index_, count, "row");
    std::vector<std::uint64_t> entries;
    std::vector<int> rows, starts;
    {
      Release _;
      entries.reserve(n);
      for (long i = 0; i < n; ++i)
        if (index[i] >= 0) entries.push_back((std::uint64_t)index[i] << 32 | (std::uint64_t)i);
      sort_entries(entries, count > 1 << 22 ? 3 : count > 1 << 11 ? 2 : 1);
      for (long e = 0; e < (long)entries.size(); ++e) {
        const int row = (int)(entries[e] >> 32);
        if (rows.empty() || rows.back() != row) { rows.push_back(row); starts.push_back((int)e); }
      }
      starts.push_back((int)entries.size());
    }
    Ints order((py::ssize_t)entries.size());
    for (std::size_t e = 0; e < entries.size(); ++e) order.mutable_data()[e] = (int)(entries[e] & 0xFFFFFFFF);
    return py::make_tuple(Ints((py::ssize_t)rows.size(), rows.data()), order,
                          Ints((py::ssize_t)starts.size(), starts.data()));
  }, nc("index"), py::arg("count"));
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
