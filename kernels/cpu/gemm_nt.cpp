// c = a b' + beta c for few rows of a: what InnerProduct computes from a batch. Every value is a dot product of two rows that lie
// in memory one number behind the other, so b, the weights, is read once and as it is. (A general product packs b first: with 32
// rows that took 1.6 to 3.3 times as long, and oneDNN's longer on two threads than on one.)
#include "cpu.h"

namespace BREW_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 8, kCols = 3;         // of a block of sums: 24 of 32 registers
#elif defined(__AVX2__)
constexpr int kLanes = 8, kRows = 4, kCols = 3;          // 12 of 16
#else
constexpr int kLanes = 4, kRows = 4, kCols = 3;
#endif
constexpr long kCache = 1 << 16;                         // floats of a that stay in the second cache
constexpr long kDeepest = 2048;                          // floats of each row at a time: the sums of lanes then cost little
typedef float Vec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

inline const Vec& at(const float* p) { return *reinterpret_cast<const Vec*>(p); }

inline float total(const Vec& v) {
  Four sum = *reinterpret_cast<const Four*>(&v);
  for (int i = 1; i < kLanes / 4; ++i) sum += reinterpret_cast<const Four*>(&v)[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

struct Product {
  const float *a, *b;
  float* c;
  long rows, cols, inner;
  float beta;
};

// Rows of a, steps k to k + depth, in the order in which block() reads them: (blocks of kRows, vectors of the sum, row, lane).
// Read where they are, rows a power of two apart would fall on the same lines of the cache.
void pack(const Product& p, long k, long depth, float* to) {
  for (long r = 0; r < p.rows; r += kRows) {
    const long rows = std::min((long)kRows, p.rows - r);
    for (long i = 0; i + kLanes <= depth; i += kLanes)
      for (long x = 0; x < rows; ++x, to += kLanes) std::memcpy(to, p.a + (r + x) * p.inner + k + i, kLanes * sizeof(float));
  }
}

// R rows of c and C columns, from r and o on: depth steps of the inner sum, from k on. `packed` has these rows.
template <int R, int C, bool First>
inline void block(const Product& p, const float* packed, long r, long o, long k, long depth) {
  const float *a = p.a + r * p.inner + k, *b = p.b + o * p.inner + k;
  Vec sums[R][C] = {};
  long i = 0;
  for (; i + kLanes <= depth; i += kLanes, packed += R * kLanes) {
    Vec w[C];
#pragma GCC unroll 3
    for (int y = 0; y < C; ++y) {
      w[y] = at(b + y * p.inner + i);
      if (First) __builtin_prefetch(b + (C + y) * p.inner + i);      // the columns that come next
    }
#pragma GCC unroll 8
    for (int x = 0; x < R; ++x) {
      const Vec v = at(packed + x * kLanes);
#pragma GCC unroll 3
      for (int y = 0; y < C; ++y) sums[x][y] += v * w[y];
    }
  }
#pragma GCC unroll 8
  for (int x = 0; x < R; ++x)
#pragma GCC unroll 3
    for (int y = 0; y < C; ++y) {
      float sum = total(sums[x][y]);
      for (long j = i; j < depth; ++j) sum += a[x * p.inner + j] * b[y * p.inner + j];
      float& out = p.c[(r + x) * p.cols + o + y];
      out = k ? out + sum : p.beta == 0 ? sum : p.beta * out + sum;
    }
}

template <int C, int R = kRows>
inline void rest(const Product& p, const float* packed, long r, long o, long k, long depth) {
  if constexpr (R > 0) {
    if (p.rows - r == R) r ? block<R, C, false>(p, packed, r, o, k, depth) : block<R, C, true>(p, packed, r, o, k, depth);
    else rest<C, R - 1>(p, packed, r, o, k, depth);
  }
}

template <int C>
inline void columns(const Product& p, const float* packed, long o, long k, long depth) {
  long r = 0;
  const long size = depth / kLanes * kLanes * kRows;
  for (; r + kRows <= p.rows; r += kRows, packed += size) r ? block<kRows, C, false>(p, packed, r, o, k, depth) : block<kRows, C, true>(p, packed, r, o, k, depth);
  rest<C>(p, packed, r, o, k, depth);
}

void gemm_nt(const Product& p) {
  const long depth = std::min(std::max(std::min(kCache / std::max(p.rows, 1L), kDeepest) / kLanes, 8L) * kLanes, p.inner);
  const long units = (p.cols + kCols - 1) / kCols;
  const bool parallel = p.rows * p.cols * p.inner > 16 * kGrain;
  const long each = (p.rows * depth + 15) / 16 * 16;
  static thread_local Buffer buffer;                     // for all threads of the region, in which nothing may be allocated
  float* const scratch = buffer.get(volume({each, parallel ? omp_get_max_threads() : 1}));
#pragma omp parallel if (parallel)
  {
    float* packed = scratch + each * omp_get_thread_num();
    const long threads = omp_get_num_threads(), t = omp_get_thread_num();
    const long begin = units * t / threads * kCols, end = std::min(units * (t + 1) / threads * kCols, p.cols);
    for (long k = 0; k < p.inner; k += depth) {
      const long d = std::min(depth, p.inner - k);
      pack(p, k, d, packed);
      long o = begin;
      for (; o + kCols <= end; o += kCols) columns<kCols>(p, packed, o, k, d);
      for (; o < end; ++o) columns<1>(p, packed, o, k, d);
    }
  }
}

}  // namespace

void bind_gemm_nt(py::module_& m) {
  m.def("gemm_nt", [](long rows, long cols, long inner, const Array& a, const Array& b, Array& c, float beta) {
    sized(volume({rows, inner}), a);
    sized(volume({cols, inner}), b);
    sized(volume({rows, cols}), c);
    const Product p{a.data(), b.data(), c.mutable_data(), rows, cols, inner, beta};
    Release _;
    gemm_nt(p);
  }, py::arg("rows"), py::arg("cols"), py::arg("inner"), py::arg("a").noconvert(), py::arg("b").noconvert(), py::arg("c").noconvert(), py::arg("beta"));
}

}  // namespace BREW_ISA
