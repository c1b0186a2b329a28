// Products of items with the few rows of a large matrix that each of them chose, row by row: a row is read once for all
// items that chose it, and may be updated while it is there.
#include <string>

#include "cpu.h"
#include "update_steps.h"

namespace BREW_ISA {

namespace {
constexpr long kPieces = 16;       // of the work, with own sums: always as many, so that bits do not depend on threads
constexpr long kAhead = 6;         // rows that are fetched ahead

inline void fetch(const float* row, long n) {
  for (long i = 0; i < n; i += 16) __builtin_prefetch(row + i, 0, 2);
}

// Which rows of w (.., columns) which items of x (items, columns) chose: order has places of (items, width).
struct Chosen {
  const int *rows, *order, *starts;
  long count, entries, items, width, columns;
};
Chosen chosen(const Ints& rows, const Ints& order, const Ints& starts, long items, long width, long columns,
              const Array& w) {
  require(columns > 0 && w.size() % columns == 0, "the matrix has a part of a row");
  require(width >= 0 && starts.size() == rows.size() + 1, "each row needs a start, and the last an end");
  const long places = volume({items, width});
  require(places <= INT_MAX, "there are too many places");
  check_indices(rows, w.size() / columns, "row");
  check_indices(order, places, "place");
  check_starts(starts, order.size());
  return {rows.data(), order.data(), starts.data(), (long)rows.size(), (long)order.size(), items, width, columns};
}

// The first row of piece p: pieces have equal numbers of entries, as far as rows allow it.
long first_row(const Chosen& c, long p) {
  if (p >= kPieces) return c.count;
  return std::lower_bound(c.starts, c.starts + c.count, c.entries * p / kPieces) - c.starts;
}

struct NoUpdate { void operator()(float*, float*, float*, float*, long) const {} };

// What backward writes. With an update: the rows themselves, with their histories, and dbias on the way; else their
// gradients.
struct Target { float *w, *h, *h2, *bias, *bias_h, *bias_h2, *dw, *dbias, *partial; };

// Update the biases of rows first..end - 1, as many at a time as a vector has: a single one would be rounded otherwise.
template <class Update>
void update_bias(const Chosen& c, long first, long end, const Target& t, Update step) {
  constexpr long kStep = 16;
  for (; first < end; first += kStep) {
    float w[kStep] = {}, g[kStep] = {}, h[kStep] = {}, h2[kStep] = {};
    const long n = std::min(kStep, end - first);
    for (long i = 0; i < n; ++i) {
      const int row = c.rows[first + i];
      w[i] = t.bias[row], g[i] = t.dbias[first + i];
      if (t.bias_h) h[i] = t.bias_h[row];
      if (t.bias_h2) h2[i] = t.bias_h2[row];
    }
#pragma omp simd
    for (long i = 0; i < kStep; ++i) step(w, g, h, h2, i);
    for (long i = 0; i < n; ++i) {
      const int row = c.rows[first + i];
      t.bias[row] = w[i];
      if (t.bias_h) t.bias_h[row] = h[i];
      if (t.bias_h2) t.bias_h2[row] = h2[i];
    }
  }
}

template <bool updates, class Update>
void backward(const Chosen& c, const float* x, const float* dy, const Target& t, float* scratch, long scratch_each,
              Update update, Update bias_update) {
  const long n = c.columns;
#pragma omp parallel for schedule(dynamic) if (c.entries * n > kGrain)
  for (long p = 0; p < kPieces; ++p) {
    const long end = first_row(c, p + 1);
    float* const dx = t.partial ? t.partial + p * c.items * n : nullptr;
    if (dx) std::fill(dx, dx + c.items * n, 0.0f);
    float* const own = scratch + p * scratch_each;
    // copies: of shared ones the constants would be read again and again
    const Update step = update, bias_step = bias_update;
    for (long r = first_row(c, p); r < end; ++r) {
      if (r + kAhead < end) {
        const long next = (long)c.rows[r + kAhead] * n;
        fetch(t.w + next, n);
        if (updates) {
          if (t.h) fetch(t.h + next, n);
          if (t.h2) fetch(t.h2 + next, n);
        }
      }
      const long row = c.rows[r];
      float *const w = t.w + row * n, *const g = updates ? own : t.dw ? t.dw + r * n : own;
      std::fill(g, g + n, 0.0f);
      float sum = 0;
      for (long e = c.starts[r]; e < c.starts[r + 1]; ++e) {
        const long place = c.order[e], item = (unsigned)place / (unsigned)c.width;
        const float d = dy[place];
        const float* const from = x + item * n;
        sum += d;
#pragma omp simd
        for (long i = 0; i < n; ++i) g[i] += d * from[i];
        if (dx) {
          float* const to = dx + item * n;
#pragma omp simd
          for (long i = 0; i < n; ++i) to[i] += d * w[i];
        }
      }
      if (updates) {
        float *const h = t.h ? t.h + row * n : nullptr, *const h2 = t.h2 ? t.h2 + row * n : nullptr;
#pragma omp simd
        for (long i = 0; i < n; ++i) step(w, g, h, h2, i);
      }
      if (t.dbias) t.dbias[r] = sum;
    }
    if (updates && t.bias) update_bias(c, first_row(c, p), end, t, bias_step);
  }
}

// dx = the pieces' sums, in their order.
void join(const float* partial, float* dx, long n) {
  each(n, [=](long i) {
    float sum = 0;
    for (long p = 0; p < kPieces; ++p) sum += partial[p * n + i];
    dx[i] = sum;
  });
}

// f(what makes the solver's update of its constants, how many these are, whether all its histories are there).
template <class F>
void by_solver(const std::string& solver, bool one, bool two, F f) {
  const auto c = [](const py::tuple& k, std::size_t i) { return py::cast<float>(k[i]); };
  if (solver == "adam_update")
    f([=](const py::tuple& k) {
      return AdamUpdate{c(k, 0), c(k, 1), py::cast<bool>(k[2]), c(k, 3), c(k, 4), c(k, 5), c(k, 6)};
    }, 7, two);
  else if (solver == "sgd_update")
    f([=](const py::tuple& k) { return SgdUpdate{c(k, 0), c(k, 1), py::cast<bool>(k[2]), c(k, 3), c(k, 4)}; }, 5, one);
  else if (solver == "adagrad_update")
    f([=](const py::tuple& k) {
      return AdagradUpdate{c(k, 0), c(k, 1), py::cast<bool>(k[2]), c(k, 3), c(k, 4)};
    }, 5, one);
  else
    throw std::invalid_argument("no update of rows by " + solver);
}
}  // namespace

void bind_unit_products(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  // y[n, s] = x[n] . w[row] + bias[row] for the row that item n chose at place s; other places stay. squares: each
  // row's squared norm.
  m.def("units_forward", [](const Array& x_, const Array& w_, const Optional& bias_, const Ints& rows_,
                            const Ints& order_, const Ints& starts_, Array& y_, Optional& squares_, long items,
                            long width, long columns) {
    const Chosen c = chosen(rows_, order_, starts_, items, width, columns, w_);
    sized(volume({items, columns}), x_);
    sized(volume({items, width}), y_);
    sized(w_.size() / columns, bias_);
    sized(c.count, squares_);
    const float *x = x_.data(), *w = w_.data(), *bias = pointer(bias_);
    float *y = y_.mutable_data(), *squares = mutable_pointer(squares_);
    Release _;
#pragma omp parallel for schedule(dynamic) if (c.entries * columns > kGrain)
    for (long p = 0; p < kPieces; ++p)
      for (long r = first_row(c, p), end = first_row(c, p + 1); r < end; ++r) {
        if (r + kAhead < end) fetch(w + (long)c.rows[r + kAhead] * columns, columns);
        const float* const row = w + (long)c.rows[r] * columns;
        const float shift = bias ? bias[c.rows[r]] : 0.0f;
        for (long e = c.starts[r]; e < c.starts[r + 1]; ++e) {
          const float* const from = x + (long)((unsigned)c.order[e] / (unsigned)width) * columns;
          float sum = 0;
#pragma omp simd reduction(+ : sum)
          for (long i = 0; i < columns; ++i) sum += from[i] * row[i];
          y[c.order[e]] = sum + shift;
        }
        if (squares) {
          float sum = 0;
#pragma omp simd reduction(+ : sum)
          for (long i = 0; i < columns; ++i) sum += row[i] * row[i];
          squares[r] = sum;
        }
      }
  }, nc("x"), nc("w"), nc("bias"), nc("rows"), nc("order"), nc("starts"), nc("y"), nc("squares"), py::arg("items"),
     py::arg("width"), py::arg("columns"));
  // The gradients of units_forward: dx (items, columns), those of the rows dw (rows, columns), and dbias (rows).
  m.def("units_backward", [](const Array& x_, const Array& w_, const Array& dy_, const Ints& rows_, const Ints& order_,
                             const Ints& starts_, Optional& dw_, Optional& dbias_, Optional& dx_, long items,
                             long width, long columns) {
    const Chosen c = chosen(rows_, order_, starts_, items, width, columns, w_);
    sized(volume({items, columns}), x_, dx_);
    sized(volume({items, width}), dy_);
    sized(volume({c.count, columns}), dw_);
    sized(c.count, dbias_);
    const std::unique_ptr<float[]> partial(dx_ ? new float[volume({kPieces, items, columns})] : nullptr);
    const long each = (columns + 31) / 16 * 16;
    const std::unique_ptr<float[]> scratch(new float[kPieces * each]);
    const Target t{const_cast<float*>(w_.data()), nullptr, nullptr, nullptr, nullptr, nullptr, mutable_pointer(dw_),
                   mutable_pointer(dbias_), partial.get()};
    const float *x = x_.data(), *dy = dy_.data();
    float* dx = mutable_pointer(dx_);
    Release _;
    backward<false>(c, x, dy, t, scratch.get(), each, NoUpdate(), NoUpdate());
    if (dx) join(partial.get(), dx, items * columns);
  }, nc("x"), nc("w"), nc("dy"), nc("rows"), nc("order"), nc("starts"), nc("dw"), nc("dbias"), nc("dx"),
     py::arg("items"), py::arg("width"), py::arg("columns"));
  // units_backward, and at once the solver's update of the rows of w and bias by the gradients, which are not kept.
  // `solver` is one of FUSED_UPDATES, a kernel that updates spans, with its last arguments for w and for bias; h and
  // h2 are histories.
  m.def("units_update", [](const Array& x_, Array& w_, Optional& h_, Optional& h2_, Optional& bias_, Optional& bias_h_,
                           Optional& bias_h2_, const Array& dy_, const Ints& rows_, const Ints& order_,
                           const Ints& starts_, Optional& dx_, long items, long width, long columns,
                           const std::string& solver, const py::tuple& constants, const py::tuple& bias_constants) {
    const Chosen c = chosen(rows_, order_, starts_, items, width, columns, w_);
    sized(volume({items, columns}), x_, dx_);
    sized(volume({items, width}), dy_);
    sized(w_.size(), h_, h2_);
    sized(w_.size() / columns, bias_, bias_h_, bias_h2_);
    const std::unique_ptr<float[]> partial(dx_ ? new float[volume({kPieces, items, columns})] : nullptr);
    const long each = (columns + 31) / 16 * 16;
    const std::unique_ptr<float[]> scratch(new float[kPieces * each]);
    const std::unique_ptr<float[]> dbias(bias_ ? new float[c.count] : nullptr);
    const Target t{w_.mutable_data(), mutable_pointer(h_), mutable_pointer(h2_), mutable_pointer(bias_),
                   mutable_pointer(bias_h_), mutable_pointer(bias_h2_), nullptr, dbias.get(), partial.get()};
    const float *x = x_.data(), *dy = dy_.data();
    float* dx = mutable_pointer(dx_);
    const bool one = h_ && (!bias_ || bias_h_), two = one && h2_ && (!bias_ || bias_h2_);
    const auto run = [&](auto make, std::size_t count, bool complete) {
      require(complete && constants.size() == count && (!bias_ || bias_constants.size() == count),
              "units_update: the solver needs histories for weights and bias, and its constants");
      const auto update = make(constants), bias_update = make(bias_ ? bias_constants : constants);
      Release _;
      backward<true>(c, x, dy, t, scratch.get(), each, update, bias_update);
      if (dx) join(partial.get(), dx, items * columns);
    };
    by_solver(solver, one, two, run);
  }, nc("x"), nc("w"), nc("h"), nc("h2"), nc("bias"), nc("bias_h"), nc("bias_h2"), nc("dy"), nc("rows"), nc("order"),
     nc("starts"), nc("dx"), py::arg("items"), py::arg("width"), py::arg("columns"), py::arg("solver"),
     py::arg("constants"), py::arg("bias_constants"));
  // The solver's update of these rows of w (.., columns), each once, by their gradients g (rows, columns), which
  // become the steps.
  m.def("update_rows", [](Array& w_, Optional& h_, Optional& h2_, const Ints& rows_, Array& g_, long columns,
                          const std::string& solver, const py::tuple& constants) {
    require(columns > 0 && w_.size() % columns == 0, "the matrix has a part of a row");
    sized(w_.size(), h_, h2_);
    sized(volume({rows_.size(), columns}), g_);
    check_indices(rows_, w_.size() / columns, "row");
    for (long r = 1; r < rows_.size(); ++r)
      require(rows_.data()[r] > rows_.data()[r - 1], "update_rows: rows must rise");
    const int* rows = rows_.data();
    const long count = rows_.size();
    float *w = w_.mutable_data(), *h = mutable_pointer(h_), *h2 = mutable_pointer(h2_), *g = g_.mutable_data();
    by_solver(solver, h != nullptr, h && h2, [&](auto make, std::size_t expected, bool complete) {
      require(complete && constants.size() == expected, "update_rows: the solver needs its histories and constants");
      const auto update = make(constants);
      Release _;
#pragma omp parallel for if (count * columns > kGrain)
      for (long r = 0; r < count; ++r) {
        const auto step = update;
        if (r + kAhead < count) {
          const long next = rows[r + kAhead] * columns;
          fetch(w + next, columns);
          fetch(h + next, columns);
          if (h2) fetch(h2 + next, columns);
        }
        const long at = rows[r] * columns;
        float *const own = w + at, *const from = g + r * columns;
        float *const first = h + at, *const second = h2 ? h2 + at : nullptr;
#pragma omp simd
        for (long i = 0; i < columns; ++i) step(own, from, first, second, i);
      }
    });
  }, nc("w"), nc("h"), nc("h2"), nc("rows"), nc("g"), py::arg("columns"), py::arg("solver"), py::arg("constants"));
  m.attr("FUSED_UPDATES") = py::make_tuple("adam_update", "sgd_update", "adagrad_update");
  // Let best (items, k) and unit (items, k) be the k best of them and of scores (items, n), of units first, first +
  // 1, ...: the highest first, of equal ones the lower unit. Places that were never taken have the unit -1.
  m.def("merge_best", [](const Array& scores_, Array& best_, Ints& unit_, long items, long first) {
    require(items >= 0 && (items ? scores_.size() % items == 0 && best_.size() % items == 0
                                 : scores_.size() + best_.size() == 0), "merge_best: a part of an item");
    sized(best_.size(), unit_);
    const long n = items ? scores_.size() / items : 0, k = items ? best_.size() / items : 0;
    require(first >= 0 && first + n <= INT_MAX, "merge_best: a unit has at most 31 bits");
    const float* scores = scores_.data();
    float* best = best_.mutable_data();
    int* unit = unit_.mutable_data();
    Release _;
#pragma omp parallel for if (items * n > kGrain)
    for (long item = 0; item < items; ++item) {
      const float* const at = scores + item * n;
      float* const b = best + item * k;
      int* const u = unit + item * k;
      constexpr long kStep = 64;
      for (long block = 0; k && block < n; block += kStep) {
        const long end = std::min(n, block + kStep);
        const bool room = u[k - 1] < 0;
        const float least = b[k - 1];
        int more = room;
#pragma omp simd reduction(| : more)
        for (long i = block; i < end; ++i) more |= at[i] > least;
        if (!more) continue;
        for (long i = block; i < end; ++i) {
          if (u[k - 1] >= 0 && !(at[i] > b[k - 1])) continue;
          long place = k - 1;
          for (; place > 0 && (u[place - 1] < 0 || at[i] > b[place - 1]); --place) {
            b[place] = b[place - 1];
            u[place] = u[place - 1];
          }
          b[place] = at[i];
          u[place] = (int)(first + i);
        }
      }
    }
  }, nc("scores"), nc("best"), nc("unit"), py::arg("items"), py::arg("first"));
}
}  // namespace BREW_ISA
